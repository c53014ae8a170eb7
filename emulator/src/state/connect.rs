//! CONNECT: who gets in, with which session and under which terms.

use std::sync::Arc;

use bytestring::ByteString;
use paquebot_protocols::mqtt::{
    ConnAck, Connect, Packet, Properties, QoS, ReasonCode, Sender, Version, Will,
};
use tokio::time::Instant;

use super::{REPLAY_INTERVAL, State, Timer};
use crate::holds::Holds;
use crate::link::{Link, LinkId, refusal};
use crate::message::detached_topic;
use crate::outbox::{Closing, Outbox, Outgoing};
use crate::pace::Pace;
use crate::policy::{Decision, Grant, Login, Peer};
use crate::record::LinkRecorder;
use crate::remarks::{Explanation, Who};
use crate::service::{Departure, EventKind};
use crate::session::Session;
use crate::sessions::SessionKey;

/// How a CONNECT was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// CONNACK with success is on its way.
    Accepted {
        link: LinkId,
        /// Seconds; 0 for none.
        keep_alive: u16,
    },
    /// The refusing CONNACK is on its way and the connection closes after it.
    Refused,
    /// The connection closes without an answer.
    Dropped,
}

/// A connection before its CONNECT.
pub(crate) struct Arrival {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) peer: Arc<Peer>,
    /// The restart it belongs to.
    pub(crate) epoch: u64,
}

/// What the server settled where the client's wish was another.
#[derive(Debug, Default)]
struct Terms {
    grant: Grant,
    assigned_client_id: Option<ByteString>,
    server_keep_alive: Option<u16>,
    session_expiry_interval: Option<u32>,
    /// Why it is refused, if the policy says so.
    explanation: Option<Explanation>,
}

impl State {
    /// Answers a CONNECT.
    pub(crate) fn handle_connect(
        &mut self,
        mut connect: Connect,
        arrival: &Arrival,
        now: Instant,
    ) -> Admission {
        let outbox = &arrival.outbox;
        if arrival.epoch != self.epoch || self.is_down(now) {
            outbox.close(Closing::AtOnce);
            return Admission::Dropped;
        }
        if let Some(recorder) = &self.recorder {
            let packet = Packet::Connect(Box::new(connect.clone()));
            recorder.note(&connect.client_id, Sender::Client, &packet);
        }
        let mut terms = Terms::default();
        if let Err(code) = self.check(&mut connect, &arrival.peer, &mut terms, now) {
            self.stats.connects_refused += 1;
            self.remark_refusal(&connect, code, &arrival.peer, terms.explanation.take());
            let refusal = refusal(connect.version, code);
            if let Some(recorder) = &self.recorder {
                recorder.note(&connect.client_id, Sender::Server, &as_packet(&refusal));
            }
            outbox.push(refusal);
            outbox.close(Closing::AfterWriting);
            return Admission::Refused;
        }
        self.end_previous(&connect, &arrival.peer, now);
        self.admit(&connect, &mut terms, arrival, now)
    }

    /// Names the client where it left that to the server, then asks every rule that can refuse it.
    fn check(
        &mut self,
        connect: &mut Connect,
        peer: &Peer,
        terms: &mut Terms,
        now: Instant,
    ) -> Result<(), ReasonCode> {
        if connect.client_id.is_empty() {
            // Without a clean start there is nothing to come back to [MQTT-3.1.3-8].
            if connect.version == Version::V311 && !connect.clean_start {
                return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
            }
            connect.client_id = self.choose_client_id();
            terms.assigned_client_id = Some(connect.client_id.clone());
        }
        if let Some(code) = self.faults.refusal_for(&connect.client_id) {
            return Err(code);
        }
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        let login = Login {
            version: connect.version,
            client_id: &connect.client_id,
            username: connect.username.as_deref(),
            password: connect.password.as_deref(),
            keep_alive: connect.keep_alive,
            will: connect.will.as_ref(),
            peer,
        };
        terms.grant = self.policy.admit(&login).inspect_err(|_| {
            terms.explanation = self.policy.explain(&Decision::Connect(&login));
        })?;
        if let Some(will) = &connect.will {
            self.check_will(will)?;
        }
        if let Err(why) = self.connects.admit(&connect.client_id, now) {
            terms.explanation = Some(why);
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        let present = self.sessions.find(&connect.client_id);
        let takes_over = present
            .and_then(|key| self.sessions.get(key))
            .is_some_and(|session| session.link.is_some());
        if (!takes_over && self.stats.connections >= self.limits.connections_max)
            || (present.is_none() && self.sessions.len() >= self.limits.sessions_max)
        {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok(())
    }

    /// Says in the log why a CONNECT is refused.
    fn remark_refusal(
        &self,
        connect: &Connect,
        code: ReasonCode,
        peer: &Peer,
        explanation: Option<Explanation>,
    ) {
        let mut who = Who::peer(peer);
        who.client_id = Some(&connect.client_id);
        who.principal = peer
            .principal
            .as_deref()
            .map(|principal| self.policy.describe(principal));
        let why = explanation.unwrap_or_else(|| Explanation::new("the server", code.to_string()));
        let what = format!(
            "CONNECT is refused with {}",
            answered(connect.version, code)
        );
        self.remarks.tell(&who, what, &why);
    }

    fn check_will(&self, will: &Will) -> Result<(), ReasonCode> {
        if will.qos > self.limits.maximum_qos {
            return Err(ReasonCode::QOS_NOT_SUPPORTED);
        }
        if will.retain && !self.limits.retain_available {
            return Err(ReasonCode::RETAIN_NOT_SUPPORTED);
        }
        Ok(())
    }

    fn choose_client_id(&mut self) -> ByteString {
        loop {
            self.assigned += 1;
            let client_id = format!("auto-{}", self.assigned);
            if self.sessions.find(&client_id).is_none() {
                return client_id.into();
            }
        }
    }

    /// Sends off whoever is connected under this client identifier, and ends the session where the client
    /// starts clean `[MQTT-3.1.4-3]`, `[MQTT-3.1.2-4]`.
    fn end_previous(&mut self, connect: &Connect, peer: &Peer, now: Instant) {
        let Some(key) = self.sessions.find(&connect.client_id) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(link) = &mut session.link
        {
            link.close(ReasonCode::SESSION_TAKEN_OVER, None, now);
            let from = peer.address.map(|address| format!(" from {address}"));
            let from = from.unwrap_or_default();
            let why = Explanation::new(
                "one connection for each client identifier, the newest stays (AWS: DUPLICATE_CLIENTID) [MQTT-3.1.4-2]",
                format!("another connection{from} has its client identifier"),
            );
            self.remark(key, "its connection is closed", &why);
            self.leave(key, Departure::TakenOver, now);
        }
        if connect.clean_start {
            self.end_session(key, now);
        }
    }

    fn admit(
        &mut self,
        connect: &Connect,
        terms: &mut Terms,
        arrival: &Arrival,
        now: Instant,
    ) -> Admission {
        let outbox = &arrival.outbox;
        // The packet is a slice of what was read; the session keeps copies of its own.
        let client_id = ByteString::from(&*connect.client_id);
        let present = self.sessions.find(&client_id);
        let key = present.unwrap_or_else(|| self.sessions.insert(Session::new(client_id)));
        self.serial += 1;
        let link = LinkId {
            session: key,
            serial: self.serial,
        };
        let keep_alive = self.keep_alive(connect, terms);
        let expiry_interval = self.expiry_interval(connect, terms);
        let connack = self.connack(connect.version, present.is_some(), terms);

        let mut connected = Link::new(link.serial, connect, Arc::clone(outbox), &self.limits);
        connected.pace = Pace::new(&self.limits, now).map(Box::new);
        connected.recorder = self.recorder.as_ref().map(|recorder| {
            Box::new(LinkRecorder {
                recorder: recorder.clone(),
                client_id: connect.client_id.clone(),
            })
        });
        let orders = self.faults.orders_for(&connect.client_id);
        if !orders.holds.is_empty() {
            connected.holds = Some(Box::new(Holds::new(orders.holds)));
        }
        outbox.stall_reading(orders.reading_stalled);
        for (direction, bytes) in self.faults.take_cuts(&connect.client_id) {
            outbox.cut_after(direction, bytes);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            for timer in session.timers.drain(..) {
                self.timers.remove(&timer);
            }
            session.version = connect.version;
            session.serial = link.serial;
            session.keep_alive = keep_alive;
            session.peer = Arc::clone(&arrival.peer);
            session.principal = terms.grant.principal.take();
            session.expiry_interval = expiry_interval;
            session.will = connect
                .will
                .as_ref()
                .map(|will| Box::new(detached_will(will)));
            connected.send(connack, now);
            session.link = Some(connected);
        }
        self.stats.connections += 1;
        self.stats.connects_accepted += 1;
        if let Some((session, mut turn)) = self.parts(link, now) {
            session.resume(&mut turn);
        }
        let is_replaying = self
            .parts(link, now)
            .and_then(|(session, _)| session.link.as_ref()?.replay)
            .is_some();
        if is_replaying {
            self.schedule(now + REPLAY_INTERVAL, Timer::Replay(link));
        }
        if connect.version == Version::V311
            && let Some(interval) = self.limits.redelivery_interval
        {
            self.schedule(now + interval, Timer::Redeliver(link));
        }
        self.settle(link, now);
        if let Some(lifetime) = arrival.peer.lifetime {
            self.schedule(now + lifetime, Timer::EndConnection(link));
        }
        self.tell(key, EventKind::Connected, now);
        tracing::debug!(
            client_id = %connect.client_id,
            version = %connect.version,
            session_present = present.is_some(),
            "client connected"
        );
        Admission::Accepted { link, keep_alive }
    }

    fn keep_alive(&self, connect: &Connect, terms: &mut Terms) -> u16 {
        if let Some(granted) = terms.grant.keep_alive {
            terms.server_keep_alive = (granted != connect.keep_alive).then_some(granted);
            return granted;
        }
        match self.limits.keep_alive_max {
            Some(max)
                if connect.version == Version::V5
                    && (connect.keep_alive == 0 || connect.keep_alive > max) =>
            {
                terms.server_keep_alive = Some(max);
                max
            }
            _ => connect.keep_alive,
        }
    }

    fn expiry_interval(&self, connect: &Connect, terms: &mut Terms) -> u32 {
        let wanted = match connect.version {
            Version::V5 => connect.properties.session_expiry_interval.unwrap_or(0),
            // A session of MQTT 3.1.1 is clean or stays (§3.1.2.4).
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let granted = wanted.min(self.limits.session_expiry_max);
        if granted != wanted {
            terms.session_expiry_interval = Some(granted);
        }
        granted
    }

    fn connack(&self, version: Version, session_present: bool, terms: &mut Terms) -> Packet {
        let mut properties = Properties::EMPTY;
        if version == Version::V5 {
            let limits = &self.limits;
            let set = properties.edit();
            set.assigned_client_identifier = terms.assigned_client_id.take();
            set.server_keep_alive = terms.server_keep_alive;
            set.session_expiry_interval = terms.session_expiry_interval;
            set.maximum_packet_size = Some(limits.packet_bytes_max);
            set.receive_maximum =
                (limits.receive_maximum < u16::MAX).then_some(limits.receive_maximum);
            set.topic_alias_maximum =
                (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum);
            set.maximum_qos = (limits.maximum_qos < QoS::ExactlyOnce).then_some(limits.maximum_qos);
            let off = |available: bool| (!available).then_some(false);
            set.retain_available = off(limits.retain_available);
            set.wildcard_subscription_available = off(limits.wildcard_subscriptions);
            set.shared_subscription_available = off(limits.shared_subscriptions);
            set.subscription_identifier_available = off(limits.subscription_identifiers);
        }
        Packet::ConnAck(ConnAck {
            session_present,
            reason_code: ReasonCode::SUCCESS,
            properties,
        })
    }

    /// Ends a connection from the server's side; the client's will counts as after any lost connection.
    pub(super) fn dismiss(
        &mut self,
        key: SessionKey,
        reason_code: ReasonCode,
        text: Option<&str>,
        why: Departure,
        now: Instant,
    ) {
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(link) = &mut session.link
        {
            link.close(reason_code, text, now);
            self.leave(key, why, now);
        }
    }
}

/// What a CONNACK with this code is, as its client reads it.
fn answered(version: Version, code: ReasonCode) -> String {
    match as_packet(&refusal(version, code)) {
        Packet::ConnAck(connack) if version == Version::V311 => {
            format!("CONNACK {}", connack.reason_code.0)
        }
        _ => format!("CONNACK 0x{:02X}", code.0),
    }
}

/// A refusal as a packet, though it may have a code that the encoder does not know.
fn as_packet(refusal: &Outgoing) -> Packet {
    match refusal {
        Outgoing::Packet(packet) => packet.clone(),
        Outgoing::Raw(bytes) => Packet::ConnAck(ConnAck {
            session_present: false,
            reason_code: ReasonCode(bytes.last().copied().unwrap_or_default()),
            properties: Properties::EMPTY,
        }),
    }
}

fn detached_will(will: &Will) -> Will {
    Will {
        topic: detached_topic(&will.topic),
        payload: bytes::Bytes::copy_from_slice(&will.payload),
        ..will.clone()
    }
}
