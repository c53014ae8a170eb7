//! Publishing: QoS 0, 1 and 2 towards the server, the send quota, and what becomes of messages in
//! flight when a connection is replaced.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::exchanges::{Delivery, Exchange, Kind, Phase};
use super::inbound::violation;
use super::journal::Record;
use super::transmit::{Transmit, UNSENT_QOS0_MAX};
use super::{CloseReason, Event, OnSessionLost, Outgoing, ServerLimits, Session, Stage, Written};
use crate::mqtt::{
    Acknowledgement, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Version,
};

/// What is said of a message that a later connection does not take.
const SENT_BEFORE: &str = "it was sent on an earlier connection, and the server may have it; this connection does not take it";

/// Why a message was set aside.
const SET_ASIDE: &str = "the server closed the connection at this message without a word, again and again, also when nothing \
                         else could be the reason: it probably does not allow it";

impl Session {
    /// How many QoS 1 and 2 publishes may be in flight in this connection `[MQTT-3.3.4-7]`.
    #[must_use]
    pub fn window(&self) -> usize {
        self.config
            .inflight_max
            .min(self.limits.receive_maximum)
            .max(1)
            .into()
    }

    /// How many of them may be now: one, while that is to show at which message the server closes connections.
    #[inline]
    pub(super) fn quota(&self) -> usize {
        match &self.caution {
            Some(caution) if caution.is_probing() => 1,
            _ => self.window(),
        }
    }

    /// The transport is gone: the message that is behind it, if that is known.
    pub(super) fn find_poison(&mut self, now: Instant) -> Option<PacketId> {
        if !self.stage.is_connected() {
            return None;
        }
        let caution = self.caution.as_deref_mut()?;
        let (id, publish) = self.exchanges.oldest_sent()?;
        let is_alone = self.on_wire == 1
            && publish.qos == QoS::AtLeastOnce
            && !self.exchanges.has_requests()
            && !self.subscriptions.is_queued;
        let is_written = !self
            .transmit
            .iter()
            .any(|waiting| matches!(waiting, Transmit::Exchange { id: other, .. } if *other == id));
        caution
            .end_silently(now, is_alone && is_written)
            .then_some(id)
    }

    #[inline]
    pub(super) fn note_qos0(&mut self) {
        if let Some(caution) = &mut self.caution {
            caution.note_qos0();
        }
    }

    /// A message at which the server closes connections ends here.
    pub(super) fn set_aside(&mut self, id: PacketId) {
        if let Some(exchange) = self.exchanges.remove(id)
            && let Kind::Publish(delivery) = exchange.kind
        {
            self.publishes -= 1;
            self.on_wire -= usize::from(delivery.on_wire);
            self.events.push_back(Event::Rejected {
                token: delivery.token,
                code: ReasonCode::NOT_AUTHORIZED,
                reason_string: Some(SET_ASIDE.into()),
            });
        }
    }

    fn note_answer(&mut self) {
        if let Some(caution) = &mut self.caution {
            caution.note_answer();
        }
    }

    pub(super) fn accept(&mut self, now: Instant, message: Outgoing) -> Result<(), Outgoing> {
        if self.stage != Stage::Online {
            return Err(message);
        }
        if let Some(event) = self.refusal(now, &message) {
            self.events.push_back(event);
            return Ok(());
        }
        if message.qos == QoS::AtMostOnce {
            if self.unsent_qos0 >= UNSENT_QOS0_MAX {
                return Err(message);
            }
            self.unsent_qos0 += 1;
            self.transmit.push_back(Transmit::Once {
                token: message.token,
                expires_at: message.expires_at,
                publish: publish_packet(message, self.config.version, None),
            });
            return Ok(());
        }
        if self.publish_credit() == 0 {
            return Err(message);
        }
        // Credit implies that an identifier is free.
        let Some(vacancy) = self.exchanges.find_vacancy() else {
            return Err(message);
        };
        let id = vacancy.id;
        let delivery = Kind::Publish(Delivery {
            token: message.token,
            expires_at: message.expires_at,
            publish: publish_packet(message, self.config.version, Some(id)),
            phase: Phase::Unsent,
            session_lost: false,
            on_wire: true,
        });
        let order = self.exchanges.fill(vacancy, delivery);
        self.publishes += 1;
        self.on_wire += 1;
        self.transmit.push_back(Transmit::Exchange { id, order });
        Ok(())
    }

    /// What waits goes first, and what is not plain takes the long way.
    #[inline]
    fn is_plain(&self, now: Instant, message: &Outgoing) -> bool {
        self.transmit.is_empty()
            && self.stage == Stage::Online
            && message.expires_at.is_none()
            && self.writer.is_plain(&message.properties)
            && self.refusal(now, message).is_none()
    }

    #[inline]
    pub(super) fn write_qos0(
        &mut self,
        now: Instant,
        message: &Outgoing,
        output: &mut BytesMut,
    ) -> bool {
        let is_written = message.qos == QoS::AtMostOnce
            && self.is_plain(now, message)
            && self.writer.write_outgoing(message, None, output).is_ok();
        if is_written {
            self.note_sent(now);
            self.note_qos0();
        }
        is_written
    }

    pub(super) fn write_head(
        &mut self,
        now: Instant,
        message: &Outgoing,
        output: &mut BytesMut,
    ) -> bool {
        let is_written = message.qos == QoS::AtMostOnce
            && self.is_plain(now, message)
            && self.writer.write_head(message, output).is_ok();
        if is_written {
            self.note_sent(now);
            self.note_qos0();
        }
        is_written
    }

    // Into its caller's loop: as a call it would move each message to a place of its own first, and wait for that.
    #[inline]
    pub(super) fn accept_into(
        &mut self,
        now: Instant,
        message: Outgoing,
        output: &mut BytesMut,
    ) -> Result<Written, Outgoing> {
        if message.qos == QoS::AtMostOnce && self.write_qos0(now, &message, output) {
            return Ok(Written::Now);
        }
        // A message of QoS 0 that cannot be written has an event of that.
        if message.qos == QoS::AtMostOnce || !self.is_plain(now, &message) {
            return self.accept(now, message).map(|()| Written::Later);
        }
        if self.publish_credit() == 0 {
            return Err(message);
        }
        let Some(vacancy) = self.exchanges.find_vacancy() else {
            return Err(message);
        };
        let id = vacancy.id;
        let is_written = self
            .writer
            .write_outgoing(&message, Some(id), output)
            .is_ok();
        let delivery = Kind::Publish(Delivery {
            token: message.token,
            expires_at: None,
            publish: publish_packet(message, self.config.version, Some(id)),
            phase: if is_written {
                Phase::Sent
            } else {
                Phase::Unsent
            },
            session_lost: false,
            on_wire: true,
        });
        let order = self.exchanges.fill(vacancy, delivery);
        self.publishes += 1;
        self.on_wire += 1;
        if !is_written {
            self.transmit.push_back(Transmit::Exchange { id, order });
            return Ok(Written::Later);
        }
        if self.journal.is_some() {
            self.note_published(id);
        }
        self.note_sent(now);
        Ok(Written::Now)
    }

    fn note_sent(&mut self, now: Instant) {
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.sent(now);
        }
    }

    /// The event that ends a message which the server would not take, or not any more.
    fn refusal(&self, now: Instant, message: &Outgoing) -> Option<Event> {
        let token = message.token;
        if message.expires_at.is_some_and(|at| at <= now) {
            return Some(Event::Expired { token });
        }
        let code = if let Some(code) = self.limits.unsupported(message.qos, message.retain) {
            code
        } else if self.limits.maximum_packet_size.is_some_and(|maximum| {
            // The exact size shows when it is encoded; what cannot fit is not worth holding until then.
            message.payload.len() > usize::try_from(maximum).unwrap_or(usize::MAX)
        }) {
            ReasonCode::PACKET_TOO_LARGE
        } else {
            return None;
        };
        Some(Event::Rejected {
            token,
            code,
            reason_string: None,
        })
    }

    /// Gives a message a new packet identifier.
    pub(super) fn insert(&mut self, mut delivery: Delivery) -> Option<(PacketId, u64)> {
        let vacancy = self.exchanges.find_vacancy()?;
        let id = vacancy.id;
        delivery.publish.packet_id = Some(id);
        let order = self.exchanges.fill(vacancy, Kind::Publish(delivery));
        self.publishes += 1;
        Some((id, order))
    }

    /// PUBACKs that say no more than success, as most do. Gives the tokens of the messages that they end to `ended`; there
    /// are no events about them. It stops before the first that is no such ordinary end, about which nothing is done: its
    /// packet goes to [`Session::handle_packet`]. Tells how many it took.
    #[inline]
    pub fn handle_plain_pubacks(
        &mut self,
        now: Instant,
        ids: impl IntoIterator<Item = PacketId>,
        mut ended: impl FnMut(u64),
    ) -> usize {
        if !self.stage.is_connected() {
            return 0;
        }
        let mut count = 0;
        for id in ids {
            let Some((token, on_wire)) = self.exchanges.end_acknowledged(id) else {
                break;
            };
            count += 1;
            self.on_wire -= usize::from(on_wire);
            ended(token);
        }
        if count > 0 {
            self.publishes -= count;
            self.note_acknowledged(now);
        }
        count
    }

    /// The server answers, and what waited for that may go.
    fn note_acknowledged(&mut self, now: Instant) {
        self.exchanges.release_small();
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.heard_back(now);
        }
        self.note_answer();
        if !self.resend.is_empty() || self.subscriptions.has_unsent() {
            self.pump();
        }
    }

    /// Ends a publish exchange with its event and lets what waits behind it go.
    pub(super) fn finish(&mut self, id: PacketId, event: Event) {
        if let Some(exchange) = self.exchanges.remove(id)
            && let Kind::Publish(delivery) = exchange.kind
        {
            self.publishes -= 1;
            self.on_wire -= usize::from(delivery.on_wire);
            self.events.push_back(event);
        }
        self.pump();
    }

    /// Lets resent messages go as far as the send quota allows, and subscriptions that waited for
    /// an identifier.
    fn pump(&mut self) {
        while self.on_wire < self.quota()
            && let Some((id, order)) = self.resend.pop_front()
        {
            // One that ended before its turn came has left the table.
            let Some(exchange) = self.exchanges.get_mut(id).filter(|e| e.order == order) else {
                continue;
            };
            if let Kind::Publish(delivery) = &mut exchange.kind
                && !delivery.on_wire
            {
                delivery.on_wire = true;
                self.on_wire += 1;
                self.transmit.push_back(Transmit::Exchange { id, order });
            }
        }
        if self.subscriptions.has_unsent() {
            self.queue_subscriptions();
        }
    }

    /// PUBACK ends a QoS 1 exchange.
    ///
    /// One that nothing waits for is ignored, as are stray PUBCOMP and SUBACK packets: there is
    /// nothing left to lose, and servers that acknowledge twice exist. One that contradicts the
    /// exchange it names is a violation: taking it would lose or double a message.
    pub(super) fn handle_puback(&mut self, ack: Acknowledgement) -> Result<(), CloseReason> {
        let Some((delivery, qos)) = self.delivery(ack.packet_id)? else {
            return Ok(());
        };
        if qos != QoS::AtLeastOnce {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-4.3.3-4",
                "PUBACK for a QoS 2 publish",
            ));
        }
        let event = delivery.outcome(ack.reason_code, &ack.properties);
        self.note_answer();
        self.finish(ack.packet_id, event);
        Ok(())
    }

    /// PUBREC is answered with PUBREL, or ends the exchange with an error code `[MQTT-4.3.3-4]`.
    ///
    /// In a session that somebody before began, one for a QoS 1 message is about a QoS 2 message of theirs, which PUBREL
    /// completes; closing would only meet the same PUBREC after each reconnect.
    pub(super) fn handle_pubrec(&mut self, ack: Acknowledgement) -> Result<(), CloseReason> {
        let id = ack.packet_id;
        let forget_payload = self.config.on_session_lost == OnSessionLost::Fail;
        let is_inherited = self.is_inherited;
        let known = self.delivery(id)?;
        let Some((delivery, qos)) =
            known.filter(|(_, qos)| !is_inherited || *qos == QoS::ExactlyOnce)
        else {
            if ack.reason_code.is_error() {
                return Ok(());
            }
            // The server holds an exchange that this end has not: PUBREL lets it forget it.
            let code = match self.config.version {
                Version::V311 => ReasonCode::SUCCESS,
                Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            };
            let release = Packet::PubRel(Acknowledgement::with_reason(id, code));
            self.transmit.push_back(Transmit::Packet(release));
            return Ok(());
        };
        if qos != QoS::ExactlyOnce {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-4.3.2-4",
                "PUBREC for a QoS 1 publish",
            ));
        }
        if ack.reason_code.is_error() {
            let event = delivery.outcome(ack.reason_code, &ack.properties);
            self.note_answer();
            self.finish(id, event);
            return Ok(());
        }
        let token = delivery.token;
        let is_first = delivery.phase == Phase::Sent;
        delivery.phase = Phase::Released(ack.reason_code);
        // The message is kept until PUBCOMP: a server that loses the session in between may not
        // have passed it on.
        if forget_payload {
            delivery.forget_content();
        }
        let newly_on_wire = !std::mem::replace(&mut delivery.on_wire, true);
        self.on_wire += usize::from(newly_on_wire);
        self.note_answer();
        if let Some(journal) = &mut self.journal
            && is_first
        {
            let packet_id = id;
            journal.push(Record::Released { token, packet_id });
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            let order = exchange.order;
            self.transmit.push_back(Transmit::Exchange { id, order });
        }
        // The answer may have ended the caution that let one message go at a time: what waits to be sent again goes before
        // anything new.
        self.pump();
        Ok(())
    }

    /// PUBCOMP ends a QoS 2 exchange.
    pub(super) fn handle_pubcomp(&mut self, ack: &Acknowledgement) -> Result<(), CloseReason> {
        let is_inherited = self.is_inherited;
        let Some((delivery, qos)) = self.delivery(ack.packet_id)? else {
            return Ok(());
        };
        let Phase::Released(code) = delivery.phase else {
            if is_inherited && qos == QoS::AtLeastOnce {
                return Ok(());
            }
            let clause = if qos == QoS::ExactlyOnce {
                "MQTT-4.3.3-4"
            } else {
                "MQTT-4.3.2-4"
            };
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                clause,
                "PUBCOMP without PUBREL",
            ));
        };
        // 0x92 says that the server had ended the exchange before, or, if an unanswered CONNECT left in doubt
        // whose session it is, that it never had it. Either way PUBREC gave the message to the server
        // (§4.3.3); to publish it again would double it in the first case, which is the common one.
        let event = Event::Delivered {
            token: delivery.token,
            code,
            session_lost: delivery.session_lost,
        };
        self.note_answer();
        self.finish(ack.packet_id, event);
        Ok(())
    }

    /// The publish an acknowledgement is for; `None` when the identifier names nothing that was sent.
    fn delivery(&mut self, id: PacketId) -> Result<Option<(&mut Delivery, QoS)>, CloseReason> {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return Ok(None);
        };
        let Kind::Publish(delivery) = &mut exchange.kind else {
            if self.is_inherited {
                return Ok(None);
            }
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-2.2.1-5",
                format!(
                    "acknowledgement of a publish for packet identifier {id} of a SUBSCRIBE or UNSUBSCRIBE"
                ),
            ));
        };
        if delivery.phase == Phase::Unsent {
            return Ok(None);
        }
        let qos = delivery.publish.qos;
        Ok(Some((delivery, qos)))
    }

    /// The server has its half of the session: everything unacknowledged is sent again under its
    /// identifier, PUBREL for what is past PUBREC `[MQTT-4.4.0-1]`.
    ///
    /// PUBREL goes first and outside of the quota: it is no PUBLISH. It still counts, since servers
    /// differ on whether an exchange past PUBREC takes part in Receive Maximum.
    ///
    /// `in_doubt`: the session that is present may be a new one. Sending again is right for either, and the
    /// messages are flagged. One past PUBREC is the server's, whatever it answers to PUBREL.
    pub(super) fn resume_deliveries(&mut self, in_doubt: bool) {
        self.refuse_unsupported();
        let mut released = Vec::new();
        let mut unacknowledged = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            let Kind::Publish(delivery) = &mut exchange.kind else {
                continue;
            };
            let place = (exchange.order, exchange.id);
            delivery.on_wire = false;
            delivery.session_lost |= in_doubt && delivery.phase != Phase::Unsent;
            match delivery.phase {
                Phase::Released(_) => {
                    delivery.on_wire = true;
                    released.push(place);
                }
                Phase::Sent => {
                    // [MQTT-3.3.1-1]
                    delivery.publish.dup = true;
                    unacknowledged.push(place);
                }
                Phase::Unsent => unacknowledged.push(place),
            }
        }
        released.sort_unstable();
        // In the order in which they were sent first [MQTT-4.6.0-1].
        unacknowledged.sort_unstable();
        self.on_wire = released.len();
        for (order, id) in released {
            self.transmit.push_back(Transmit::Exchange { id, order });
        }
        self.resend = unacknowledged
            .into_iter()
            .map(|(order, id)| (id, order))
            .collect();
        self.pump();
    }

    /// A server may take less than it did on the connection before: at what is above its Maximum QoS, or retained when it
    /// retains nothing, it would close this one, and each after it. PUBREL is no PUBLISH, and goes to any.
    fn refuse_unsupported(&mut self) {
        let limits = &self.limits;
        if limits.maximum_qos == QoS::ExactlyOnce && limits.retain_available {
            return;
        }
        let refusal_of = |exchange: &mut Exchange| match &exchange.kind {
            Kind::Publish(delivery) if !matches!(delivery.phase, Phase::Released(_)) => Some((
                exchange.order,
                exchange.id,
                unsupported_now(limits, delivery)?,
            )),
            _ => None,
        };
        let mut refused: Vec<(u64, PacketId, Event)> =
            self.exchanges.iter_mut().filter_map(refusal_of).collect();
        // What was sent first is told first.
        refused.sort_unstable_by_key(|(order, id, _)| (*order, *id));
        for (_, id, event) in refused {
            if let Some(exchange) = self.exchanges.remove(id)
                && let Kind::Publish(delivery) = exchange.kind
            {
                self.publishes -= 1;
                self.on_wire -= usize::from(delivery.on_wire);
                if let Some(journal) = &mut self.journal
                    && delivery.phase == Phase::Sent
                    && delivery.publish.qos == QoS::ExactlyOnce
                {
                    let token = delivery.token;
                    journal.push(Record::Withdrawn { token });
                }
                self.events.push_back(event);
            }
        }
    }

    /// The server has nothing of the session: what was in flight is published anew, in the same order.
    pub(super) fn republish_deliveries(&mut self, now: Instant) {
        self.on_wire = 0;
        self.publishes = 0;
        self.resend.clear();
        for exchange in self.exchanges.drain() {
            let Kind::Publish(mut delivery) = exchange.kind else {
                continue;
            };
            let token = delivery.token;
            let was_sent = delivery.phase != Phase::Unsent;
            if let Some(journal) = &mut self.journal
                && was_sent
                && delivery.publish.qos == QoS::ExactlyOnce
            {
                journal.push(Record::Withdrawn { token });
            }
            if was_sent
                && delivery.publish.qos == QoS::ExactlyOnce
                && self.config.on_session_lost == OnSessionLost::Fail
            {
                self.events.push_back(Event::Rejected {
                    token,
                    code: ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                    reason_string: None,
                });
                continue;
            }
            if let Some(refused) = unsupported_now(&self.limits, &delivery) {
                self.events.push_back(refused);
                continue;
            }
            // A new message, so its life counts again.
            if delivery.expires_at.is_some_and(|at| at <= now) {
                self.events.push_back(Event::Expired { token });
                continue;
            }
            delivery.session_lost |= was_sent;
            delivery.begin_anew();
            if let Some(place) = self.insert(delivery) {
                self.resend.push_back(place);
            }
        }
        self.pump();
    }
}

/// The event that ends a message which was accepted for an earlier connection and which this one does not take.
fn unsupported_now(limits: &ServerLimits, delivery: &Delivery) -> Option<Event> {
    let publish = &delivery.publish;
    let code = limits.unsupported(publish.qos, publish.retain)?;
    Some(Event::Rejected {
        token: delivery.token,
        code,
        reason_string: (delivery.phase != Phase::Unsent).then(|| SENT_BEFORE.into()),
    })
}

#[inline]
pub(super) fn publish_packet(
    message: Outgoing,
    version: Version,
    packet_id: Option<PacketId>,
) -> Publish {
    let mut properties = match version {
        Version::V311 => Properties::EMPTY,
        Version::V5 => message.properties,
    };
    // Both are the session's to set.
    if properties.topic_alias.is_some() || properties.message_expiry_interval.is_some() {
        let set = properties.edit();
        set.topic_alias = None;
        set.message_expiry_interval = None;
    }
    Publish {
        dup: false,
        qos: message.qos,
        retain: message.retain,
        topic: Some(message.topic),
        packet_id,
        payload: message.payload,
        properties,
    }
}

impl Delivery {
    /// From here on it is a message that was never sent.
    fn begin_anew(&mut self) {
        self.publish.dup = false;
        self.phase = Phase::Unsent;
        self.on_wire = false;
    }

    /// Past PUBREC nobody needs what the message says, if it is not going to be published anew.
    pub(super) fn forget_content(&mut self) {
        self.publish.payload = Bytes::new();
        self.publish.properties = Properties::EMPTY;
    }

    fn outcome(&self, code: ReasonCode, properties: &Properties) -> Event {
        if code.is_error() {
            Event::Rejected {
                token: self.token,
                code,
                reason_string: properties.reason_string.clone(),
            }
        } else {
            Event::Delivered {
                token: self.token,
                code,
                session_lost: self.session_lost,
            }
        }
    }
}
