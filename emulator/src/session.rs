//! One client's session: what outlives its connections, and the delivery of messages to it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;
use paquebot_protocols::mqtt::{
    Acknowledgement, DecodeError, Packet, PacketId, QoS, ReasonCode, TopicFilter, Version, Will,
};
use tokio::time::Instant;

use crate::limits::Limits;
use crate::link::{Link, Replay};
use crate::message::{Delivery, Message};
use crate::policy::{Client, Peer, Policy};
use crate::remarks::Explanation;
use crate::state::TimerKey;
use crate::stats::Stats;
use crate::subscriptions::SubscriptionOptions;

/// Identifiers that one session has: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

/// What every step of a session may look at.
pub(crate) struct Turn<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) policy: &'a dyn Policy,
    pub(crate) stats: &'a mut Stats,
    pub(crate) now: Instant,
}

/// A client broke the protocol; its connection ends with this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason_code: ReasonCode,
    pub(crate) text: Cow<'static, str>,
    /// What the log says in place of the text.
    pub(crate) explanation: Option<Box<Explanation>>,
}

impl Violation {
    pub(crate) const fn new(reason_code: ReasonCode, text: &'static str) -> Self {
        Self {
            reason_code,
            text: Cow::Borrowed(text),
            explanation: None,
        }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Self {
            reason_code: error.reason_code,
            text: error.message,
            explanation: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: ByteString,
    pub(crate) version: Version,
    pub(crate) link: Option<Link>,
    /// Serial of its last connection; a timer of an earlier one is void.
    pub(crate) serial: u64,
    pub(crate) keep_alive: u16,
    /// What the listener of its last connection knew, and the name it was let in by.
    pub(crate) peer: Arc<Peer>,
    pub(crate) principal: Option<Arc<str>>,
    /// Seconds; `u32::MAX` is for ever.
    pub(crate) expiry_interval: u32,
    pub(crate) will: Option<Box<Will>>,
    /// Timers of its absence.
    pub(crate) timers: Vec<TimerKey>,
    pub(crate) subscriptions: HashMap<TopicFilter, SubscriptionOptions>,
    /// QoS 2 messages taken in whose PUBREL has not come.
    pub(crate) unreleased: HashSet<PacketId>,
    inflight: VecDeque<InFlight>,
    queue: VecDeque<Delivery>,
    queued_bytes: usize,
    /// Counts the identifiers given out.
    sequence: u64,
}

#[derive(Debug)]
struct InFlight {
    packet_id: PacketId,
    sequence: u64,
    /// Sent on the present connection.
    sent: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBLISH sent: awaits PUBACK or PUBREC.
    Published(Delivery),
    /// PUBREL sent: awaits PUBCOMP.
    Released,
}

impl Session {
    pub(crate) fn new(client_id: ByteString) -> Self {
        Self {
            client_id,
            version: Version::default(),
            link: None,
            serial: 0,
            keep_alive: 0,
            peer: Arc::default(),
            principal: None,
            expiry_interval: 0,
            will: None,
            timers: Vec::new(),
            subscriptions: HashMap::new(),
            unreleased: HashSet::new(),
            inflight: VecDeque::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sequence: 0,
        }
    }

    pub(crate) fn client(&self) -> Client<'_> {
        Client {
            client_id: &self.client_id,
            principal: self.principal.as_deref(),
            version: self.version,
        }
    }

    pub(crate) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }

    pub(crate) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Sends a message or queues it. `kept` is the message with bytes of its own, made when first needed.
    pub(crate) fn deliver(
        &mut self,
        mut delivery: Delivery,
        kept: &mut Option<Arc<Message>>,
        turn: &mut Turn<'_>,
    ) {
        if delivery.qos == QoS::AtMostOnce {
            self.deliver_at_most_once(&delivery, turn);
        } else if self.queue.is_empty() && self.may_send() {
            self.send_first(delivery, turn);
        } else if self.queue.len() >= turn.limits.queued_messages_max
            || self.queued_bytes + delivery.message.weight() > turn.limits.queued_bytes_max
        {
            turn.stats.dropped_queue_full += 1;
        } else {
            let message = &delivery.message;
            delivery.message = Arc::clone(kept.get_or_insert_with(|| Arc::new(message.detached())));
            self.queued_bytes += delivery.message.weight();
            self.queue.push_back(delivery);
        }
    }

    fn deliver_at_most_once(&mut self, delivery: &Delivery, turn: &mut Turn<'_>) {
        // The specification leaves open whether QoS 0 waits for an absent client; here it does not.
        let Some(link) = &mut self.link else { return };
        let held_max = turn.limits.outbound_packets_max;
        let held = link.holds.as_ref().map_or(0, |holds| holds.len());
        if !link.outbox.has_room() || held >= held_max {
            turn.stats.dropped_slow_reader += 1;
        } else if link.send_message(delivery, None, false, turn.now) {
            turn.stats.count_sent(delivery.qos);
        } else {
            turn.stats.dropped_too_large += 1;
        }
    }

    fn may_send(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            link.unsent == 0
                && link.may_replay()
                && self.inflight.len() < link.window
                && link.outbox.has_room_or_notify()
        })
    }

    /// Sends a QoS 1 or 2 message for the first time.
    fn send_first(&mut self, delivery: Delivery, turn: &mut Turn<'_>) {
        if delivery.message.is_expired(turn.now) {
            turn.stats.expired += 1;
            return;
        }
        let Some((packet_id, sequence)) = self.allocate() else {
            return;
        };
        let Some(link) = &mut self.link else { return };
        if !link.send_message(&delivery, Some(packet_id), false, turn.now) {
            turn.stats.dropped_too_large += 1;
            return;
        }
        turn.stats.count_sent(delivery.qos);
        self.inflight.push_back(InFlight {
            packet_id,
            sequence,
            sent: true,
            stage: Stage::Published(delivery),
        });
    }

    /// The next identifier that is not in flight. Those in flight were given out in order, so a clash is
    /// possible only once the count has gone around since the oldest of them.
    fn allocate(&mut self) -> Option<(PacketId, u64)> {
        for _ in 0..PACKET_IDS {
            let sequence = self.sequence;
            self.sequence += 1;
            let packet_id = PacketId::new(u16::try_from(sequence % PACKET_IDS + 1).ok()?)?;
            let gone_around = self
                .inflight
                .front()
                .is_some_and(|oldest| sequence - oldest.sequence >= PACKET_IDS);
            if !gone_around || self.position(packet_id).is_none() {
                return Some((packet_id, sequence));
            }
        }
        None
    }

    /// A new connection resumes the session: everything in flight goes out again first `[MQTT-4.4.0-1]`.
    pub(crate) fn resume(&mut self, turn: &mut Turn<'_>) {
        for entry in &mut self.inflight {
            entry.sent = false;
        }
        if let Some(link) = &mut self.link {
            link.unsent = self.inflight.len();
            let backlog = self.inflight.len() + self.queue.len();
            link.replay = turn
                .limits
                .replayed_per_second_max
                .filter(|_| backlog > 0)
                .map(|allowed| Replay { backlog, allowed });
        }
        self.pump(turn);
    }

    /// A second is over: sends what the next one allows. Returns whether there is to be another.
    pub(crate) fn replay(&mut self, allowed: u32, turn: &mut Turn<'_>) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let Some(replay) = &mut link.replay else {
            return false;
        };
        replay.allowed = allowed;
        if link.unsent == 0 && self.queue.is_empty() {
            link.replay = None;
            return false;
        }
        self.pump(turn);
        self.link.as_ref().is_some_and(|link| link.replay.is_some())
    }

    /// Sends the QoS 1 messages again that were in flight on this connection when this was called last.
    pub(crate) fn redeliver(&mut self, turn: &mut Turn<'_>) {
        let Some(link) = &mut self.link else { return };
        let before = std::mem::replace(&mut link.redelivered_below, self.sequence);
        for entry in &self.inflight {
            if !entry.sent || entry.sequence >= before || !link.outbox.has_room() {
                continue;
            }
            if let Stage::Published(delivery) = &entry.stage
                && delivery.qos == QoS::AtLeastOnce
                && link.send_message(delivery, Some(entry.packet_id), true, turn.now)
            {
                turn.stats.count_sent(delivery.qos);
            }
        }
    }

    /// Sends what the window and the connection have room for.
    pub(crate) fn pump(&mut self, turn: &mut Turn<'_>) {
        self.send_again(turn);
        while !self.queue.is_empty() && self.may_send() {
            let Some(delivery) = self.queue.pop_front() else {
                return;
            };
            self.queued_bytes -= delivery.message.weight();
            self.send_first(delivery, turn);
            if let Some(link) = &mut self.link {
                link.count_replayed();
            }
        }
    }

    fn send_again(&mut self, turn: &mut Turn<'_>) {
        let Some(link) = &mut self.link else { return };
        if link.unsent == 0 {
            return;
        }
        let mut outstanding = self.inflight.len() - link.unsent;
        let mut index = 0;
        while index < self.inflight.len() && link.unsent > 0 {
            let entry = &mut self.inflight[index];
            index += 1;
            if entry.sent {
                continue;
            }
            if outstanding >= link.window || !link.may_replay() || !link.outbox.has_room_or_notify()
            {
                return;
            }
            link.count_replayed();
            entry.sent = true;
            link.unsent -= 1;
            outstanding += 1;
            match &entry.stage {
                Stage::Released => {
                    let release = Acknowledgement::success(entry.packet_id);
                    link.send(Packet::PubRel(release), turn.now);
                }
                Stage::Published(delivery) => {
                    if link.send_message(delivery, Some(entry.packet_id), true, turn.now) {
                        turn.stats.count_sent(delivery.qos);
                    } else {
                        turn.stats.dropped_too_large += 1;
                        outstanding -= 1;
                        index -= 1;
                        self.inflight.remove(index);
                    }
                }
            }
        }
    }

    /// PUBACK.
    pub(crate) fn acknowledge(&mut self, ack: &Acknowledgement) -> Result<(), Violation> {
        let Some(index) = self.position(ack.packet_id) else {
            return Ok(());
        };
        match &self.inflight[index].stage {
            Stage::Published(delivery) if delivery.qos == QoS::AtLeastOnce => {
                self.finish(index);
                Ok(())
            }
            _ => Err(WRONG_ACKNOWLEDGEMENT),
        }
    }

    /// PUBREC.
    pub(crate) fn receive(&mut self, ack: &Acknowledgement, now: Instant) -> Result<(), Violation> {
        let index = self.position(ack.packet_id);
        let reason_code = match index.map(|index| &self.inflight[index].stage) {
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Some(Stage::Published(delivery)) if delivery.qos != QoS::ExactlyOnce => {
                return Err(WRONG_ACKNOWLEDGEMENT);
            }
            Some(_) => ReasonCode::SUCCESS,
        };
        if let Some(index) = index {
            if ack.reason_code.is_error() {
                self.finish(index);
                return Ok(());
            }
            self.inflight[index].stage = Stage::Released;
        }
        if let Some(link) = &mut self.link {
            let release = link.acknowledgement(ack.packet_id, reason_code);
            link.send(Packet::PubRel(release), now);
        }
        Ok(())
    }

    /// PUBCOMP.
    pub(crate) fn complete(&mut self, ack: &Acknowledgement) -> Result<(), Violation> {
        let Some(index) = self.position(ack.packet_id) else {
            return Ok(());
        };
        match self.inflight[index].stage {
            Stage::Released => {
                self.finish(index);
                Ok(())
            }
            Stage::Published(_) => Err(WRONG_ACKNOWLEDGEMENT),
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight
            .iter()
            .position(|entry| entry.packet_id == packet_id)
    }

    fn finish(&mut self, index: usize) {
        let entry = self.inflight.remove(index);
        if entry.is_some_and(|entry| !entry.sent)
            && let Some(link) = &mut self.link
        {
            link.unsent -= 1;
        }
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = VecDeque::new();
        }
    }

    /// The connection is gone: what is in flight waits with bytes of its own.
    pub(crate) fn detach(&mut self) {
        self.link = None;
        for entry in &mut self.inflight {
            if let Stage::Published(delivery) = &mut entry.stage {
                delivery.message = Arc::new(delivery.message.detached());
            }
        }
    }
}

const WRONG_ACKNOWLEDGEMENT: Violation = Violation::new(
    ReasonCode::PROTOCOL_ERROR,
    "the acknowledgement is not the one that the message's QoS and progress call for",
);
