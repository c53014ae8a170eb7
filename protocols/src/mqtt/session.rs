//! The client session: MQTT's rules for one client, both versions, as a pure state machine.
//!
//! The driver (the Codec actor) owns the clock, the socket and the decoder. It tells the session
//! what happened (`connect`, `handle_packet`, `handle_timeout`, …), then takes what follows: bytes
//! to send ([`Session::poll_transmit`]), events ([`Session::poll_event`]) and the time of the next
//! [`Session::handle_timeout`] ([`Session::poll_timeout`]). It takes all three after each batch of
//! calls: what is queued for it is bounded by what it did in between.
//!
//! The session outlives connections: what is in flight, what is subscribed and what was received stays
//! until the server says that it lost its half. With [`SessionConfig::journal`] it outlives the process too: the driver
//! records what [`Session::poll_record`] says, and the next process gives it to [`Session::restore`].
//!
//! Limits: [`SessionConfig`] names those that can be set. Fixed are 65,536 QoS 0 publishes between
//! two calls of [`Session::poll_transmit`], and 262,144 packets waiting for it, past which a server
//! that causes yet more is left.

mod caution;
mod config;
mod connection;
mod event;
mod exchanges;
mod inbound;
mod journal;
mod keep_alive;
mod outbound;
mod subscribing;
mod subscriptions;
mod transmit;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use self::caution::Caution;
use self::connection::Attempt;
use self::exchanges::{Exchanges, Kind};
pub use self::inbound::Arrival;
use self::inbound::{Inbound, InboundLimits, violation};
use self::journal::{Journal, answer};
pub use self::journal::{Progress, Record, Restored};
use self::keep_alive::{Due, KeepAlive};
use self::subscriptions::Subscriptions;
pub use self::transmit::UNSENT_QOS0_MAX;
use self::transmit::{TRANSMIT_QUEUE_MAX, Transmit, Writer};
use super::{
    AckKind, DecodeError, Disconnect, Packet, PacketId, Publish, PublishSpan, QoS, ReasonCode,
    Subscription, Topic, TopicFilter, Version,
};

pub use self::config::{ConnectOptions, OnSessionLost, ServerLimits, SessionConfig};
pub use self::event::{CloseReason, Event, InboundId, Incoming, Outgoing};

/// The client session. In the order written here: what every message needs lies together, so that a session whose turn
/// comes seldom brings few of the processor's cache lines in.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    transmit: VecDeque<Transmit>,
    events: VecDeque<Event>,
    config: Arc<SessionConfig>,
    limits: ServerLimits,
    writer: Writer,
    /// `None` unless the configuration asks for it.
    caution: Option<Box<Caution>>,
    /// `None` unless the configuration asks for it.
    journal: Option<Box<Journal>>,
    stage: Stage,
    /// The last connection left a session behind at the server.
    server_has_session: bool,
    /// A CONNECT since the last CONNACK got no answer. The server may have made a new session for
    /// it, and then "session present" in the next CONNACK speaks of that one and not of the one
    /// whose state is held here.
    in_doubt: bool,
    /// The server's session began before this one, with somebody whose exchanges this end has not: it may answer
    /// under identifiers that mean something else here.
    is_inherited: bool,
    keep_alive: Option<KeepAlive>,

    exchanges: Exchanges,
    /// How many of the exchanges are publishes.
    publishes: usize,
    /// How many of those take part in the send quota of this connection.
    on_wire: usize,
    unsent_qos0: usize,
    /// `None` until the server publishes something.
    inbound: Option<Box<Inbound>>,

    /// Publishes to be sent again that wait for the quota, with the order that tells them from a
    /// successor.
    resend: VecDeque<(PacketId, u64)>,
    subscriptions: Subscriptions,
    /// What the present connection was asked for; `None` without one.
    attempt: Option<Box<Attempt>>,
    /// Boxed, since hardly any server assigns one.
    assigned_client_id: Option<Box<ByteString>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No connection; one that was left may have bytes to send yet.
    Closed,
    /// CONNECT is queued or sent.
    Connecting,
    /// CONNACK came; subscriptions are being restored.
    Restoring,
    Online,
}

/// What became of a message that [`Session::publish_into`] took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was appended to the output.
    Now,
    /// [`Session::poll_transmit`] gives it, or an event says why not.
    Later,
}

impl Stage {
    fn is_connected(self) -> bool {
        matches!(self, Self::Restoring | Self::Online)
    }
}

impl Session {
    /// A session that never was connected. Sessions with the same settings may share them.
    #[must_use]
    pub fn new(config: impl Into<Arc<SessionConfig>>) -> Self {
        let config = config.into();
        Self {
            stage: Stage::Closed,
            attempt: None,
            limits: ServerLimits::defaults(std::time::Duration::ZERO, None),
            keep_alive: None,
            assigned_client_id: None,
            server_has_session: false,
            in_doubt: false,
            is_inherited: false,
            exchanges: Exchanges::default(),
            publishes: 0,
            on_wire: 0,
            resend: VecDeque::new(),
            inbound: None,
            caution: config.sets_aside.then(Box::default),
            subscriptions: Subscriptions::default(),
            journal: config.journal.then(Box::default),
            writer: Writer::new(config.version),
            transmit: VecDeque::new(),
            unsent_qos0: 0,
            events: VecDeque::new(),
            config,
        }
    }

    /// The transport is open: CONNECT is queued for sending. Whatever an earlier connection left
    /// unsent is dropped.
    ///
    /// With a clean start everything in flight counts as lost by the server and is published anew.
    pub fn connect(&mut self, now: Instant, options: ConnectOptions) {
        self.start(now, options);
    }

    /// The transport is gone; queues [`Event::Closed`] unless the session had closed it already.
    pub fn handle_transport_closed(&mut self, now: Instant) {
        let reason = if self.stage == Stage::Connecting {
            CloseReason::Unanswered
        } else {
            CloseReason::TransportClosed
        };
        let poison = self.find_poison(now);
        self.close(reason, None);
        self.drop_unsent();
        if let Some(id) = poison {
            self.set_aside(id);
        }
    }

    /// A packet from the server. Violations end the connection through [`Event::Closed`]; packets
    /// that come after it are ignored.
    pub fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if self.stage == Stage::Closed {
            return;
        }
        // A PUBLISH says that the server talks, not that it reads what it is sent.
        if !matches!(packet, Packet::Publish(_))
            && let Some(keep_alive) = &mut self.keep_alive
        {
            keep_alive.heard_back(now);
        }
        if let Err(reason) = self.dispatch(now, packet) {
            self.leave_violator(reason);
        }
    }

    /// A PUBLISH that the decoder left where it was. As [`Session::handle_packet`], but without
    /// [`Event::Message`]: the answer says whether to hand it over. No allocation.
    #[inline]
    pub fn handle_publish_span(&mut self, now: Instant, publish: &PublishSpan) -> Arrival {
        let _ = now;
        if !self.takes_publish() {
            return Arrival::Nothing;
        }
        let limits = self.inbound_limits();
        let (transmit, journal) = (&mut self.transmit, &mut self.journal);
        let mut reply = |packet| answer(transmit, journal, packet);
        let (qos, id) = (publish.qos(), publish.packet_id());
        let admitted =
            self.inbound
                .get_or_insert_default()
                .admit(qos, id, publish.dup(), limits, &mut reply);
        match admitted {
            Ok(arrival) => {
                if let Arrival::HandOver(Some(id)) = arrival {
                    self.note_arrival(qos, id.packet_id);
                }
                arrival
            }
            Err(reason) => {
                self.leave_violator(reason);
                Arrival::Nothing
            }
        }
    }

    /// Any PUBLISH. As [`Session::handle_packet`], but without [`Event::Message`]: gives the message to hand
    /// over, `None` for one that was handed over before.
    pub fn handle_publish(&mut self, now: Instant, publish: Publish) -> Option<Incoming> {
        let _ = now;
        if !self.takes_publish() {
            return None;
        }
        self.receive(publish).unwrap_or_else(|reason| {
            self.leave_violator(reason);
            None
        })
    }

    /// An acknowledgement of success and nothing else. As [`Session::handle_packet`].
    #[inline]
    pub fn handle_acknowledgement(&mut self, now: Instant, kind: AckKind, id: PacketId) {
        self.handle_packet(now, kind.into_packet(id));
    }

    /// What was recorded of the session could not be made durable: ends the connection with
    /// [`CloseReason::Storage`], without a word to the server.
    pub fn handle_storage_failed(&mut self, now: Instant) {
        let _ = now;
        self.close(CloseReason::Storage, None);
    }

    /// The decoder refused the server's bytes.
    pub fn handle_decode_error(&mut self, now: Instant, error: &DecodeError) {
        let _ = now;
        self.leave_violator(violation(
            error.reason_code,
            error.clause,
            error.message.as_ref(),
        ));
    }

    /// The time of [`Session::poll_timeout`] has come. Coming early or late is harmless; what was
    /// received before must be handled first, or a PINGRESP that waits in a buffer is taken for
    /// missing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if is_over(self.attempt.as_deref().and_then(|attempt| attempt.deadline)) {
            self.handle_attempt_timeout();
        } else if is_over(self.subscriptions.poll_timeout()) {
            self.close(
                CloseReason::SubscribeTimeout,
                Some(ReasonCode::UNSPECIFIED_ERROR),
            );
        } else if let Some(keep_alive) = &mut self.keep_alive {
            match keep_alive.handle_timeout(now) {
                Due::Nothing => {}
                Due::Ping => {
                    self.transmit.push_back(Transmit::Packet(Packet::PingReq));
                    self.shrink_idle();
                }
                Due::Dead => self.close(CloseReason::KeepAliveTimeout, None),
            }
        }
    }

    /// How many more QoS 1 and 2 publishes the session takes now; 0 unless online.
    #[inline]
    #[must_use]
    pub fn publish_credit(&self) -> usize {
        if self.stage != Stage::Online || self.exchanges.is_full() {
            return 0;
        }
        self.quota().saturating_sub(self.publishes)
    }

    /// Whether a message of this quality of service would be taken now, and not given back.
    #[must_use]
    pub fn has_room_for(&self, qos: QoS) -> bool {
        if qos == QoS::AtMostOnce {
            self.stage == Stage::Online && self.unsent_qos0 < UNSENT_QOS0_MAX
        } else {
            self.publish_credit() > 0
        }
    }

    /// Takes a message. QoS 1 and 2 need [`Session::publish_credit`]; each accepted message ends in
    /// exactly one of `Transmitted` or `Unsent` (QoS 0), `Delivered` (QoS 1 and 2), `Rejected`,
    /// `Expired`.
    ///
    /// # Errors
    /// Gives the message back when there is no credit or the session is not online.
    pub fn publish(&mut self, now: Instant, message: Outgoing) -> Result<(), Outgoing> {
        self.accept(now, message)
    }

    /// As [`Session::publish`] for a driver that can send at once: a message that nothing keeps waiting is
    /// appended to `output`. One of QoS 0 then has no `Transmitted`: it is delivered when those bytes are.
    ///
    /// # Errors
    /// As [`Session::publish`].
    #[inline]
    pub fn publish_into(
        &mut self,
        now: Instant,
        message: Outgoing,
        output: &mut BytesMut,
    ) -> Result<Written, Outgoing> {
        self.accept_into(now, message, output)
    }

    /// Appends a QoS 0 message that nothing keeps waiting to `output`, where it lies: it is not moved. As by
    /// [`Session::publish_into`] it has no `Transmitted`. `false`: nothing has happened, and it is to be published by one of
    /// the other ways.
    #[inline]
    pub fn write_at_once(
        &mut self,
        now: Instant,
        message: &Outgoing,
        output: &mut BytesMut,
    ) -> bool {
        self.write_qos0(now, message, output)
    }

    /// As [`Session::write_at_once`], but for the payload: the driver is to send it behind `output`, before anything else, from
    /// where it lies.
    pub fn write_head_at_once(
        &mut self,
        now: Instant,
        message: &Outgoing,
        output: &mut BytesMut,
    ) -> bool {
        self.write_head(now, message, output)
    }

    /// Adds a filter to the desired subscriptions (or changes its options); sent now if online,
    /// else at the next connection.
    ///
    /// A filter that is in force already is asked for again, so that there is always an answer.
    /// Packets are built at [`Session::poll_transmit`]: filters of one burst share them.
    ///
    /// # Errors
    /// The limit of desired subscriptions is reached.
    pub fn subscribe(
        &mut self,
        now: Instant,
        subscription: Subscription,
    ) -> Result<(), Subscription> {
        let _ = now;
        self.want(subscription)
    }

    /// Takes a filter out of the desired subscriptions. A [`Session::subscribe`] of it that was not
    /// answered yet gets no answer any more. Without a connection the server is told at the next
    /// one that finds the session alive.
    ///
    /// `token` is the caller's own name for this request: it comes back in the one
    /// [`Event::Unsubscribed`] that answers it, and need not be unlike the others.
    pub fn unsubscribe(&mut self, now: Instant, filter: &TopicFilter, token: u64) {
        let _ = now;
        self.unwant(filter, token);
    }

    /// The application is done with an inbound message: it is acknowledged, in the order of arrival
    /// `[MQTT-4.6.0-2]`.
    pub fn acknowledge(&mut self, now: Instant, id: InboundId) {
        self.acknowledge_all(now, [id]);
    }

    /// The same for many messages, in any order.
    pub fn acknowledge_all(&mut self, now: Instant, ids: impl IntoIterator<Item = InboundId>) {
        let _ = now;
        let inbound = self.inbound.get_or_insert_default();
        let (transmit, journal) = (&mut self.transmit, &mut self.journal);
        let mut reply = |packet| answer(transmit, journal, packet);
        for id in ids {
            inbound.acknowledge(id, &mut reply);
        }
    }

    /// Continues enhanced authentication after [`Event::AuthChallenge`], or restarts it on a
    /// connection whose CONNECT named a method (MQTT 5). Ignored when it is the server's turn.
    pub fn authenticate(&mut self, now: Instant, data: Option<Bytes>) {
        self.send_auth(now, data);
    }

    /// Leaves: queues DISCONNECT and [`Event::Closed`] with [`CloseReason::Local`]. What was
    /// accepted before is sent before. On MQTT 3.1.1 `DISCONNECT_WITH_WILL` closes without
    /// DISCONNECT.
    pub fn disconnect(&mut self, now: Instant, code: ReasonCode) {
        let _ = now;
        self.leave(code);
    }

    /// Appends bytes that are ready to `output`; `true` if there were any. They are whole packets, and after
    /// 64 KiB the rest is left to the next call: call until it is `false`.
    pub fn poll_transmit(&mut self, now: Instant, output: &mut BytesMut) -> bool {
        let start = output.len();
        // Packets that cannot be written leave nothing behind: go on to the next that can.
        while output.len() == start && self.transmit_len() > 0 {
            self.write_ready(now, output);
        }
        let has_written = output.len() > start;
        release_small(&mut self.transmit);
        if has_written && let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.sent(now);
        }
        has_written
    }

    /// How many packets wait for [`Session::poll_transmit`] at the most.
    #[must_use]
    pub fn transmit_len(&self) -> usize {
        self.transmit.len() + self.due_len()
    }

    /// Whether there is neither anything to transmit nor an event.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.transmit_len() == 0 && self.events.is_empty()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            release_small(&mut self.events);
        }
        event
    }

    /// When [`Session::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [
            self.attempt.as_deref().and_then(|attempt| attempt.deadline),
            self.subscriptions.poll_timeout(),
            self.keep_alive.as_ref().and_then(KeepAlive::poll_timeout),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// QoS 1 and 2 publishes in flight.
    #[must_use]
    pub fn inflight_len(&self) -> usize {
        self.publishes
    }

    /// The topic of the QoS 1 or 2 message that was sent first of those without an acknowledgement. It looks at all of
    /// them.
    #[must_use]
    pub fn oldest_unacknowledged(&self) -> Option<&Topic> {
        let (_, publish) = self.exchanges.oldest_sent()?;
        publish.topic.as_ref()
    }

    /// Whether [`Event::Online`] holds: the session takes publishes.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.stage == Stage::Online
    }

    /// The client identifier that the server chose, once it did.
    #[must_use]
    pub fn assigned_client_id(&self) -> Option<&ByteString> {
        self.assigned_client_id.as_deref()
    }

    /// This end reads nothing for now, or reads again. PINGRESP and SUBACK cannot be seen meanwhile, so
    /// their deadlines stand still; PINGREQs go out as always.
    pub fn set_reading_paused(&mut self, now: Instant, paused: bool) {
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.set_paused(now, paused);
        }
        let deadline = now.checked_add(self.config.subscribe_timeout);
        self.subscriptions.set_paused(paused, deadline);
    }

    /// Ends the session's life: every message in flight, as tokens in the order they were accepted
    /// (those of QoS 0 that were not written last), so that the owner can account for them. They
    /// get no event any more.
    pub fn drain(&mut self) -> Vec<u64> {
        let mut tokens = Vec::with_capacity(self.publishes + self.unsent_qos0);
        for exchange in self.exchanges.drain() {
            if let Kind::Publish(delivery) = exchange.kind {
                tokens.push(delivery.token);
            }
        }
        self.publishes = 0;
        self.on_wire = 0;
        self.resend.clear();
        self.transmit.retain(|item| match item {
            Transmit::Once { token, .. } => {
                tokens.push(*token);
                false
            }
            _ => true,
        });
        self.unsent_qos0 = 0;
        tokens
    }

    fn dispatch(&mut self, now: Instant, packet: Packet) -> Result<(), CloseReason> {
        if self.stage == Stage::Connecting
            && !matches!(packet, Packet::ConnAck(_) | Packet::Auth(_))
        {
            return Err(premature(&packet));
        }
        if self.is_flooded() {
            return Err(flood());
        }
        let version = self.config.version;
        let (transmit, journal) = (&mut self.transmit, &mut self.journal);
        let mut reply = |packet| answer(transmit, journal, packet);
        match packet {
            Packet::Publish(publish) => {
                let message = self.receive(publish)?;
                self.events.extend(message.map(Event::Message));
                Ok(())
            }
            Packet::PubAck(ack) => self.handle_puback(ack),
            Packet::PubRec(ack) => self.handle_pubrec(ack),
            Packet::PubRel(ack) => {
                self.inbound
                    .get_or_insert_default()
                    .release(ack.packet_id, version, &mut reply);
                Ok(())
            }
            Packet::PubComp(ack) => self.handle_pubcomp(&ack),
            Packet::SubAck(ack) => self.handle_suback(ack),
            Packet::UnsubAck(ack) => self.handle_unsuback(&ack),
            Packet::PingResp => {
                // One that nobody asked for proves life as well.
                if let Some(keep_alive) = &mut self.keep_alive {
                    keep_alive.answered();
                }
                Ok(())
            }
            Packet::ConnAck(connack) => self.handle_connack(now, connack),
            Packet::Auth(auth) if version == Version::V5 => self.handle_auth(auth),
            Packet::Disconnect(disconnect) if version == Version::V5 => {
                self.handle_disconnect(&disconnect);
                Ok(())
            }
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Auth(_)
            | Packet::Disconnect(_) => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "§2.1.2",
                format!("{} from a server", packet.name()),
            )),
        }
    }

    /// Whether a PUBLISH is to be looked at; if not, all is done. It is no sign of life: it says that the server
    /// talks, not that it reads what it is sent.
    #[inline]
    fn takes_publish(&mut self) -> bool {
        if self.stage == Stage::Closed {
            return false;
        }
        if self.stage != Stage::Connecting && !self.is_flooded() {
            return true;
        }
        self.leave_violator(if self.stage == Stage::Connecting {
            before_connack("PUBLISH")
        } else {
            flood()
        });
        false
    }

    /// The server causes answers and does not read them.
    fn is_flooded(&self) -> bool {
        self.transmit.len() + self.due_len() >= TRANSMIT_QUEUE_MAX
    }

    /// Acknowledgements that wait to be written.
    fn due_len(&self) -> usize {
        self.inbound.as_ref().map_or(0, |inbound| inbound.due_len())
    }

    fn receive(&mut self, publish: Publish) -> Result<Option<Incoming>, CloseReason> {
        let limits = self.inbound_limits();
        let inbound = self.inbound.get_or_insert_default();
        let (transmit, journal) = (&mut self.transmit, &mut self.journal);
        let mut reply = |packet| answer(transmit, journal, packet);
        let message = inbound.publish(publish, limits, &mut reply)?;
        if let Some(Incoming {
            qos, id: Some(id), ..
        }) = &message
        {
            self.note_arrival(*qos, id.packet_id);
        }
        Ok(message)
    }

    fn inbound_limits(&self) -> InboundLimits {
        InboundLimits {
            version: self.config.version,
            receive_maximum: self.config.receive_maximum,
            topic_alias_maximum: self.config.topic_alias_maximum,
        }
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect) {
        self.close(
            CloseReason::ServerDisconnect {
                code: disconnect.reason_code,
                reason_string: disconnect.properties.reason_string.clone(),
                server_reference: disconnect.properties.server_reference.clone(),
            },
            None,
        );
    }

    fn leave_violator(&mut self, reason: CloseReason) {
        let code = match &reason {
            CloseReason::ProtocolViolation { code, .. } => Some(*code),
            _ => None,
        };
        self.close(reason, code);
    }

    /// Gives back what a burst left allocated, when nothing was sent or received for a keep alive.
    fn shrink_idle(&mut self) {
        self.exchanges.shrink_idle();
        if let Some(inbound) = &mut self.inbound {
            inbound.shrink_idle();
        }
        self.resend.shrink_to_fit();
        self.transmit.shrink_to_fit();
        self.events.shrink_to_fit();
    }
}

/// Before CONNACK a server sends nothing, on MQTT 5 nothing but AUTH.
fn premature(packet: &Packet) -> CloseReason {
    match packet {
        Packet::Disconnect(disconnect) => violation(
            ReasonCode::PROTOCOL_ERROR,
            "MQTT-3.14.0-1",
            format!("DISCONNECT ({}) before CONNACK", disconnect.reason_code),
        ),
        _ => before_connack(packet.name()),
    }
}

fn before_connack(name: &str) -> CloseReason {
    violation(
        ReasonCode::PROTOCOL_ERROR,
        "MQTT-3.2.0-1",
        format!("{name} before CONNACK"),
    )
}

#[cold]
fn flood() -> CloseReason {
    violation(
        ReasonCode::QUOTA_EXCEEDED,
        "§4.13.2",
        "packets that call for an answer faster than answers can be sent",
    )
}
/// Places that an emptied queue does not keep. A link that sends now and then holds no memory in between, at the price of
/// an allocation each time; one that is busy has more places and keeps them until it is idle.
const SMALL: usize = 4;

fn release_small<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() <= SMALL {
        *queue = VecDeque::new();
    }
}
