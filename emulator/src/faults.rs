//! Scripted faults: what a broker, a network or an operator does to clients, on demand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paquebot_protocols::mqtt::ReasonCode;

use crate::holds::{Ack, HoldRules};
use crate::outbox::Direction;
use crate::shared::Shared;

/// Which clients a fault is for.
#[derive(Clone)]
#[non_exhaustive]
pub enum Target {
    /// Every client.
    All,
    /// The client with exactly this client identifier.
    Client(String),
    /// Clients whose identifier begins so.
    Prefix(String),
    /// Clients whose identifier the function says yes to. It is called under the server's lock.
    Matching(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl Target {
    /// The client with exactly this client identifier.
    pub fn client(client_id: impl Into<String>) -> Self {
        Self::Client(client_id.into())
    }

    /// Clients whose identifier begins so.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self::Prefix(prefix.into())
    }

    /// Clients whose identifier `chooses` says yes to.
    pub fn matching(chooses: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self::Matching(Arc::new(chooses))
    }

    pub(crate) fn includes(&self, client_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Client(wanted) => wanted == client_id,
            Self::Prefix(prefix) => client_id.starts_with(prefix.as_str()),
            Self::Matching(chooses) => chooses(client_id),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("All"),
            Self::Client(client_id) => f.debug_tuple("Client").field(client_id).finish(),
            Self::Prefix(prefix) => f.debug_tuple("Prefix").field(prefix).finish(),
            Self::Matching(_) => f.write_str("Matching(..)"),
        }
    }
}

/// The verbs. Each acts before it returns and never blocks: what a client sends after it meets the fault.
///
/// A verb that returns a [`Fault`] stays in force, for clients that connect later too, until it is lifted.
#[derive(Clone, Debug)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
}

impl Faults {
    /// Refuses the CONNECTs of the target with a reason code of MQTT 5; MQTT 3.1.1 clients get the return
    /// code that comes nearest, and a code of 1 to 5 as it is.
    pub fn refuse_connects(&self, target: Target, code: ReasonCode) -> Fault {
        let left = None;
        self.add(target, Effect::Refuse { code, left })
    }

    /// Refuses the next `count` CONNECTs of the target.
    pub fn refuse_next_connects(&self, target: Target, count: u32, code: ReasonCode) -> Fault {
        let left = Some(count);
        self.add(target, Effect::Refuse { code, left })
    }

    /// Keeps acknowledgements back; lifting the fault sends them, in order.
    pub fn withhold(&self, target: Target, kinds: &[Ack]) -> Fault {
        self.add(target, Effect::Withhold(kinds.to_vec()))
    }

    /// Sends acknowledgements `delay` late; lifting the fault sends those that wait.
    pub fn delay(&self, target: Target, kinds: &[Ack], delay: Duration) -> Fault {
        self.add(target, Effect::Delay(kinds.to_vec(), delay))
    }

    /// Stops reading from the target, and with it the check of its keep alive. What was read before is
    /// still worked off.
    pub fn stall_reading(&self, target: Target) -> Fault {
        self.add(target, Effect::StallReading)
    }

    /// Cuts connections once `bytes` more have been read from them, without DISCONNECT. The clients
    /// connected now are cut; where none is, the next of the target to connect, counted from the end of
    /// its CONNECT. Returns how many are connected now.
    pub fn cut_after_read(&self, target: Target, bytes: u64) -> usize {
        self.shared
            .turn(|state, _| state.cut(target, Direction::Read, bytes))
    }

    /// The same, once `bytes` more have been written; for one that connects later CONNACK counts.
    pub fn cut_after_written(&self, target: Target, bytes: u64) -> usize {
        self.shared
            .turn(|state, _| state.cut(target, Direction::Written, bytes))
    }

    /// Closes connections; with a reason code an MQTT 5 client is sent a DISCONNECT first, without one the
    /// socket is dropped. Wills are published. Returns how many clients that were.
    pub fn disconnect(&self, target: &Target, reason_code: Option<ReasonCode>) -> usize {
        self.shared
            .turn(|state, now| state.disconnect(target, reason_code, now))
    }

    /// Writes bytes to the target as they are, behind what already waits for it: no rule of the protocol
    /// is kept. Returns how many clients that were.
    pub fn send_raw(&self, target: &Target, bytes: impl Into<Bytes>) -> usize {
        let bytes = bytes.into();
        self.shared.turn(|state, _| state.send_raw(target, &bytes))
    }

    /// Restarts like a server with persistence: every connection drops without DISCONNECT or will, sessions
    /// that outlive connections and retained messages stay. For `down_time` new connections are closed as
    /// soon as they are accepted; the listeners keep their ports.
    pub fn restart_keeping_sessions(&self, down_time: Duration) {
        self.shared
            .turn(|state, now| state.restart(true, down_time, now));
    }

    /// Restarts like a server without persistence: sessions and retained messages are gone too.
    pub fn restart_losing_sessions(&self, down_time: Duration) {
        self.shared
            .turn(|state, now| state.restart(false, down_time, now));
    }

    /// Stops accepting connections on the listeners: clients wait in the operating system's backlog.
    pub fn stop_accepting(&self) {
        self.shared.set_accepting(false);
    }

    /// Accepts connections again.
    pub fn resume_accepting(&self) {
        self.shared.set_accepting(true);
    }

    /// Lifts everything: all [`Fault`]s, cuts that wait for a client, a down time and a stopped accept.
    pub fn clear(&self) {
        self.shared.turn(|state, now| state.lift_all_faults(now));
        self.shared.set_accepting(true);
    }

    fn add(&self, target: Target, effect: Effect) -> Fault {
        Fault {
            id: self
                .shared
                .turn(|state, now| state.add_fault(target, effect, now)),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A fault in force. Dropping this leaves it in force; [`Faults::clear`] lifts it as well.
#[derive(Debug)]
pub struct Fault {
    id: u64,
    shared: Arc<Shared>,
}

impl Fault {
    /// Ends the fault.
    pub fn lift(self) {
        self.shared
            .turn(|state, now| state.lift_fault(self.id, now));
    }
}

#[derive(Debug)]
pub(crate) enum Effect {
    /// `left` is how many more; `None` for all.
    Refuse {
        code: ReasonCode,
        left: Option<u32>,
    },
    Withhold(Vec<Ack>),
    Delay(Vec<Ack>, Duration),
    StallReading,
}

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct FaultRules {
    rules: Vec<Rule>,
    cuts: Vec<Cut>,
    ids: u64,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    target: Target,
    effect: Effect,
}

#[derive(Debug)]
struct Cut {
    target: Target,
    direction: Direction,
    bytes: u64,
}

/// What all rules together say for one client.
#[derive(Debug, Default)]
pub(crate) struct FaultOrders {
    pub(crate) holds: HoldRules,
    pub(crate) reading_stalled: bool,
}

impl FaultRules {
    pub(crate) fn add(&mut self, target: Target, effect: Effect) -> u64 {
        self.ids += 1;
        self.rules.push(Rule {
            id: self.ids,
            target,
            effect,
        });
        self.ids
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.rules.retain(|rule| rule.id != id);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
        self.cuts.clear();
    }

    pub(crate) fn add_cut(&mut self, target: Target, direction: Direction, bytes: u64) {
        self.cuts.push(Cut {
            target,
            direction,
            bytes,
        });
    }

    /// Takes out the cuts that waited for this client.
    pub(crate) fn take_cuts(&mut self, client_id: &str) -> Vec<(Direction, u64)> {
        self.cuts
            .extract_if(.., |cut| cut.target.includes(client_id))
            .map(|cut| (cut.direction, cut.bytes))
            .collect()
    }

    /// The code to refuse a CONNECT with, if one of the rules does; it counts as used.
    pub(crate) fn refusal_for(&mut self, client_id: &str) -> Option<ReasonCode> {
        self.rules.iter_mut().find_map(|rule| {
            let Effect::Refuse { code, left } = &mut rule.effect else {
                return None;
            };
            if *left == Some(0) || !rule.target.includes(client_id) {
                return None;
            }
            *left = left.map(|left| left - 1);
            Some(*code)
        })
    }

    pub(crate) fn orders_for(&self, client_id: &str) -> FaultOrders {
        let mut orders = FaultOrders::default();
        for rule in &self.rules {
            if !rule.target.includes(client_id) {
                continue;
            }
            match &rule.effect {
                Effect::Refuse { .. } => {}
                Effect::Withhold(kinds) => orders.holds.withhold(kinds),
                Effect::Delay(kinds, delay) => orders.holds.delay(kinds, *delay),
                Effect::StallReading => orders.reading_stalled = true,
            }
        }
        orders
    }
}
