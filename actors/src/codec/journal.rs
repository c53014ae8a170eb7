//! QoS 2 on a durable link: what the session says must be recorded is, before the bytes that depend on it leave.
//!
//! Output that was made after a record waits until the store has it, in order. Nobody else waits: the session goes on,
//! and what is published meanwhile is recorded with the next commit. What could not be recorded is owed: the
//! connection ends, and on the next one even CONNECT waits until it is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Handler;
use bytes::Bytes;
use paquebot_protocols::mqtt::session::{Progress, Record, Restored, Session};
use paquebot_protocols::mqtt::{PacketId, QoS};

use super::Codec;
use crate::link::LinkContext;
use crate::message::{AfterClose, CloseTransport, Recorded, Returned, Transmit};
use crate::offline_queue::{RestoredSession, StoredId, encode_progress};
use crate::store::{Key, Operation, QueueId, Space};

#[cfg(test)]
mod tests;

/// How long output waits for the store before its connection is given up: a server waits one and a half keep alives
/// for the PINGREQ that may be in it.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for a connection that this end is closing, as long as its last bytes have to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What was recorded, what is being recorded, and the output that waits for it.
#[derive(Debug)]
pub(super) struct Journal {
    queue: QueueId,
    /// The QoS 2 messages in the session that the store has, by token.
    stored: HashMap<u64, StoredId>,
    /// Commits that ended, in the order in which they began.
    ended: u64,
    /// Those that have not, oldest first.
    under_way: VecDeque<Vec<Operation>>,
    /// What has to be recorded anew, because it failed or because something before it did.
    owed: Vec<Operation>,
    held: VecDeque<Held>,
}

/// Output that waits until so many commits have ended.
#[derive(Debug)]
struct Held {
    commits: u64,
    deadline: Instant,
    output: Output,
}

#[derive(Debug)]
pub(super) enum Output {
    Bytes(Transmit),
    /// The end of the connection, after what was written before.
    Close(AfterClose),
}

impl Journal {
    fn new(queue: QueueId) -> Self {
        Self {
            queue,
            stored: HashMap::new(),
            ended: 0,
            under_way: VecDeque::new(),
            owed: Vec::new(),
            held: VecDeque::new(),
        }
    }

    /// What a record means for the store; `None` for a message that is not in it.
    fn operation(&self, record: Record) -> Option<Operation> {
        let (token, progress) = match record {
            Record::Published { token, packet_id } => (token, Progress::Published(packet_id)),
            Record::Released { token, packet_id } => (token, Progress::Released(packet_id)),
            Record::Withdrawn { token } => (token, Progress::Withdrawn),
            Record::InboundReceived { packet_id } => {
                return Some(Operation::Put {
                    queue: self.queue,
                    key: inbound(packet_id),
                    value: Bytes::new(),
                });
            }
            Record::InboundReleased { packet_id } => {
                return Some(Operation::Remove {
                    queue: self.queue,
                    key: inbound(packet_id),
                });
            }
        };
        let id = self.stored.get(&token)?.get();
        Some(Operation::Put {
            queue: self.queue,
            key: Key {
                space: Space::Outbound,
                id,
            },
            value: encode_progress(progress),
        })
    }

    /// These are going to be recorded.
    fn begin(&mut self, operations: &[Operation]) {
        self.under_way.push_back(operations.to_vec());
    }

    /// The oldest commit has ended, well or not.
    fn end(&mut self, is_recorded: bool) {
        let operations = self.under_way.pop_front().unwrap_or_default();
        self.ended += 1;
        // What is recorded after something that failed is recorded again after that one.
        if !is_recorded || !self.owed.is_empty() {
            self.owed.extend(operations);
        }
    }

    /// All that is owed, to be recorded in its order. What is still under way is part of it if something before it
    /// failed.
    fn take_owed(&mut self) -> Vec<Operation> {
        let mut owed = std::mem::take(&mut self.owed);
        if !owed.is_empty() {
            owed.extend(self.under_way.iter().flatten().cloned());
            // The records of a message that has ended meanwhile are gone for good.
            let live: HashSet<u64> = self.stored.values().map(|id| id.get()).collect();
            owed.retain(|operation| match operation {
                Operation::Put { key, .. } if key.space == Space::Outbound => {
                    live.contains(&key.id)
                }
                _ => true,
            });
        }
        owed
    }

    /// Gives back output that nothing keeps waiting.
    fn hold(&mut self, now: Instant, output: Output) -> Option<Output> {
        if self.under_way.is_empty() && self.owed.is_empty() {
            return Some(output);
        }
        let timeout = match output {
            Output::Bytes(_) => RECORD_TIMEOUT,
            Output::Close(_) => CLOSE_TIMEOUT,
        };
        self.held.push_back(Held {
            commits: self.ended + self.under_way.len() as u64,
            deadline: now + timeout,
            output,
        });
        None
    }

    /// Output that waits no more.
    fn next_released(&mut self) -> Option<Output> {
        if !self.owed.is_empty() {
            return None;
        }
        let ended = self.ended;
        let held = self.held.pop_front_if(|held| held.commits <= ended)?;
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
        Some(held.output)
    }

    /// Drops what waits: its connection is gone. Says what was to follow the end of the connection, if that waited.
    fn drop_held(&mut self) -> Option<AfterClose> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().rev().find_map(|held| match held.output {
            Output::Close(after) => Some(after),
            Output::Bytes(_) => None,
        })
    }

    fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        let ends = [self.held.front(), self.held.back()];
        ends.into_iter().flatten().map(|held| held.deadline).min()
    }
}

fn inbound(packet_id: PacketId) -> Key {
    Key {
        space: Space::Inbound,
        id: packet_id.value().into(),
    }
}

impl Codec {
    /// The journal of a link that has a queue in the store; its session goes on with what an earlier process left.
    pub(super) fn restore(
        link: &LinkContext,
        session: &mut Session,
        restored: RestoredSession,
    ) -> (Option<Box<Journal>>, u16) {
        let Some(durable) = link.durable.as_ref() else {
            return (None, 0);
        };
        let mut journal = Box::new(Journal::new(durable.queue));
        let mut outbound = Vec::with_capacity(restored.exchanges.len());
        for exchange in restored.exchanges {
            if exchange.message.qos == QoS::ExactlyOnce {
                let token = exchange.message.token;
                journal.stored.insert(token, exchange.stored);
            }
            outbound.push(Restored {
                message: exchange.message,
                progress: exchange.progress,
            });
        }
        let refused = session.restore(outbound, restored.inbound);
        for message in &refused {
            journal.stored.remove(&message.token);
        }
        let unseen = u16::from(!refused.is_empty());
        if unseen > 0 {
            link.tell_queue(Returned(refused));
        }
        (Some(journal), unseen)
    }

    /// The session is going to be given QoS 2 messages that the store has.
    pub(super) fn note_stored(&mut self, stored: Vec<(u64, StoredId)>) {
        if let Some(journal) = &mut self.journal {
            journal.stored.extend(stored);
        }
    }

    /// The session is done with a message, or never took it.
    pub(super) fn forget_stored(&mut self, token: u64) {
        if let Some(journal) = &mut self.journal {
            journal.stored.remove(&token);
        }
    }

    /// Gives bytes to the connection, or holds them until what they depend on is recorded.
    pub(super) fn send(&mut self, transmit: Transmit) {
        if self.journal.is_none() {
            return self.link.tell_connection(transmit);
        }
        self.record();
        self.hold(Output::Bytes(transmit));
    }

    /// Closes the connection once what is held has been sent.
    pub(super) fn close_behind_held(&mut self, after: AfterClose) {
        let is_holding = self
            .journal
            .as_ref()
            .is_some_and(|journal| journal.is_holding());
        if is_holding {
            self.hold(Output::Close(after));
        } else {
            self.pass_on(Output::Close(after));
        }
    }

    fn hold(&mut self, output: Output) {
        let output = match &mut self.journal {
            Some(journal) => journal.hold(Instant::now(), output),
            None => Some(output),
        };
        if let Some(output) = output {
            self.pass_on(output);
        }
    }

    fn pass_on(&self, output: Output) {
        match output {
            Output::Bytes(transmit) => self.link.tell_connection(transmit),
            Output::Close(after) => self.link.tell_connection(CloseTransport(after)),
        }
    }

    /// Has the store record what the session says must be.
    pub(super) fn record(&mut self) {
        let Some(journal) = &self.journal else {
            return;
        };
        let mut operations = Vec::new();
        while let Some(record) = self.session.poll_record() {
            operations.extend(journal.operation(record));
        }
        self.commit(operations);
    }

    /// What could not be recorded on an earlier connection goes before everything on this one.
    pub(super) fn record_owed(&mut self) {
        if let Some(journal) = &mut self.journal {
            let owed = journal.take_owed();
            self.commit(owed);
        }
    }

    fn commit(&mut self, operations: Vec<Operation>) {
        let (Some(journal), Some(durable)) = (&mut self.journal, &self.link.durable) else {
            return;
        };
        if operations.is_empty() {
            return;
        }
        journal.begin(&operations);
        let link = Arc::clone(&self.link);
        let done = Box::new(move |result| link.codec.do_send(Recorded(result)));
        durable.store.commit(durable.durability, operations, done);
    }

    /// When output will have waited for too long.
    pub(super) fn recording_deadline(&self) -> Option<Instant> {
        self.journal.as_ref()?.deadline()
    }

    /// The connection that the held output was for is gone. If it was to be closed behind that, what was to follow
    /// follows.
    pub(super) fn drop_held(&mut self) {
        let journal = self.journal.as_mut();
        if let Some(after) = journal.and_then(|journal| journal.drop_held()) {
            self.pass_on(Output::Close(after));
        }
    }

    /// The store has failed or takes too long: no more can be said on this connection.
    pub(super) fn give_up_recording(&mut self, now: Instant) {
        self.drop_held();
        self.session.handle_storage_failed(now);
    }
}

impl Handler<Recorded> for Codec {
    type Result = ();

    fn handle(&mut self, message: Recorded, ctx: &mut Self::Context) {
        let now = Instant::now();
        let Some(journal) = &mut self.journal else {
            return;
        };
        journal.end(message.0.is_ok());
        let released: Vec<_> = std::iter::from_fn(|| journal.next_released()).collect();
        for output in released {
            self.pass_on(output);
        }
        if let Err(error) = message.0 {
            tracing::warn!(
                link = %self.link.identity.id,
                %error,
                "cannot record the state of the session"
            );
            self.give_up_recording(now);
        }
        self.advance(now, ctx);
    }
}
