//! Acknowledgements that a scripted fault withholds or delays on one connection.

use std::collections::VecDeque;
use std::time::Duration;

use paquebot_protocols::mqtt::Packet;
use tokio::time::Instant;

/// A kind of packet that a fault can withhold or delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ack {
    /// CONNACK; everything else for the client then waits behind it.
    ConnAck,
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL, the server's answer to a client's PUBREC.
    PubRel,
    /// PUBCOMP.
    PubComp,
    /// SUBACK.
    SubAck,
    /// UNSUBACK.
    UnsubAck,
    /// PINGRESP.
    PingResp,
}

impl Ack {
    /// Every kind.
    pub const ALL: [Self; KINDS] = [
        Self::ConnAck,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::SubAck,
        Self::UnsubAck,
        Self::PingResp,
    ];

    const fn of(packet: &Packet) -> Option<Self> {
        match packet {
            Packet::ConnAck(_) => Some(Self::ConnAck),
            Packet::PubAck(_) => Some(Self::PubAck),
            Packet::PubRec(_) => Some(Self::PubRec),
            Packet::PubRel(_) => Some(Self::PubRel),
            Packet::PubComp(_) => Some(Self::PubComp),
            Packet::SubAck(_) => Some(Self::SubAck),
            Packet::UnsubAck(_) => Some(Self::UnsubAck),
            Packet::PingResp => Some(Self::PingResp),
            _ => None,
        }
    }
}

const KINDS: usize = 8;

/// What is to happen to each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HoldRules {
    withheld: [bool; KINDS],
    delay: [Option<Duration>; KINDS],
}

impl HoldRules {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn withhold(&mut self, kinds: &[Ack]) {
        for kind in kinds {
            self.withheld[*kind as usize] = true;
        }
    }

    /// The longest delay counts where several are asked for.
    pub(crate) fn delay(&mut self, kinds: &[Ack], delay: Duration) {
        for kind in kinds {
            let present = &mut self.delay[*kind as usize];
            *present = (*present).max(Some(delay));
        }
    }
}

#[derive(Debug)]
pub(crate) struct Holds {
    rules: HoldRules,
    held: VecDeque<Held>,
    count: [usize; KINDS],
}

#[derive(Debug)]
struct Held {
    kind: Option<Ack>,
    packet: Packet,
    /// `None` until the fault is lifted.
    due: Option<Instant>,
}

impl Holds {
    pub(crate) fn new(rules: HoldRules) -> Self {
        Self {
            rules,
            held: VecDeque::new(),
            count: [0; KINDS],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) const fn count(&self, kind: Ack) -> usize {
        self.count[kind as usize]
    }

    /// Whether nothing is held and nothing would be.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.rules.is_empty()
    }

    pub(crate) fn is_awaiting_connack(&self) -> bool {
        self.count(Ack::ConnAck) > 0
    }

    /// Keeps the packet, or gives it back when it may go at once.
    pub(crate) fn admit(&mut self, packet: Packet, now: Instant) -> Option<Packet> {
        let kind = Ack::of(&packet);
        // One kind keeps its order [MQTT-4.6.0-2], and nothing goes before CONNACK [MQTT-3.2.0-1].
        let must_wait = self.is_awaiting_connack() || kind.is_some_and(|kind| self.count(kind) > 0);
        let due = match kind {
            Some(kind) if self.rules.withheld[kind as usize] => None,
            Some(kind) if self.rules.delay[kind as usize].is_some() => {
                self.rules.delay[kind as usize].map(|delay| now + delay)
            }
            _ if must_wait => Some(now),
            _ => return Some(packet),
        };
        if let Some(kind) = kind {
            self.count[kind as usize] += 1;
        }
        self.held.push_back(Held { kind, packet, due });
        None
    }

    /// Takes new rules; what they hold no longer is due now.
    pub(crate) fn set_rules(&mut self, rules: HoldRules, now: Instant) {
        self.rules = rules;
        for held in &mut self.held {
            let Some(kind) = held.kind else { continue };
            held.due = if rules.withheld[kind as usize] {
                None
            } else if rules.delay[kind as usize].is_some() {
                held.due.or(Some(now))
            } else {
                Some(now)
            };
        }
    }

    /// Takes out what is due, in order within each kind.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Packet> {
        let mut due = Vec::new();
        let mut kept = VecDeque::new();
        let mut blocked = [false; KINDS];
        let mut connack_kept = false;
        for held in self.held.drain(..) {
            let is_due = held.due.is_some_and(|due| due <= now);
            let in_order = held.kind.is_none_or(|kind| !blocked[kind as usize]);
            if is_due && in_order && !connack_kept {
                if let Some(kind) = held.kind {
                    self.count[kind as usize] -= 1;
                }
                due.push(held.packet);
                continue;
            }
            if let Some(kind) = held.kind {
                blocked[kind as usize] = true;
                connack_kept |= kind == Ack::ConnAck;
            }
            kept.push_back(held);
        }
        self.held = kept;
        due
    }

    /// When [`Holds::take_due`] is worth calling next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let front = self.held.front()?;
        if front.kind == Some(Ack::ConnAck) {
            return front.due;
        }
        self.held.iter().filter_map(|held| held.due).min()
    }
}
