//! A link's queue in the store: who has it open, and what is recorded of it.
//!
//! A message is recorded in its caller's task, before it is accepted: the store hands it to the intake once it is
//! as durable as the link asks for. When the message ends, its record is removed in the same turn; nobody waits
//! for that, so a process that is killed just then sends the message again.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::{EncodeError, QoS};
use tokio::sync::oneshot;

use super::recovered::{self, Recovered};
use super::room::OwnedRoom;
use super::{Submission, record};
use crate::command_router::RecordedCommand;
use crate::metrics::GroupMetrics;
use crate::receipt::{DropReason, Outcome};
use crate::store::{Completion, Durability, Key, Operation, QueueId, Space, Store, StoreError};

/// A message's name in its queue; ascending in the order of acceptance.
pub(crate) type StoredId = NonZeroU64;

/// The queues that one store keeps for the links of a process, each open once at the most.
#[derive(Debug)]
pub struct DurableQueues {
    store: Arc<dyn Store>,
    open: Mutex<HashSet<Arc<str>>>,
}

/// A link's part of the store.
#[derive(Debug)]
pub(crate) struct Durable {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: QueueId,
    pub(crate) durability: Durability,
    next_id: AtomicU64,
    /// Commands that earlier processes recorded, until the router takes them.
    commands: Mutex<Vec<RecordedCommand>>,
    /// Keeps the name taken until the link has ended.
    name: Mutex<Option<Arc<OpenName>>>,
    /// Reports that were merged in memory and not in the store: the one that is kept, and the one that is gone.
    unmerged: Arc<Mutex<Vec<(StoredId, StoredId)>>>,
}

/// A queue that was opened for a link, with what an earlier process left in it.
#[derive(Debug)]
pub struct DurableQueue {
    pub(crate) durable: Durable,
    pub(crate) recovered: Recovered,
}

/// The name of an open queue; free again when it is dropped.
#[derive(Debug)]
struct OpenName {
    queues: Arc<DurableQueues>,
    name: Arc<str>,
}

impl DurableQueues {
    /// The queues in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            open: Mutex::default(),
        }
    }

    /// The store they are in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Opens the queue of this name, made when it is not there. Reads what an earlier process left in it.
    ///
    /// # Errors
    /// It is open already, or the store cannot be read.
    pub fn open(
        self: &Arc<Self>,
        name: &str,
        durability: Durability,
    ) -> Result<DurableQueue, QueueError> {
        let open = match OpenName::take(self, name) {
            Ok(open) => open,
            // A link that has ended may have messages on their way to the store.
            Err(_) => {
                self.store.flush()?;
                OpenName::take(self, name)?
            }
        };
        let (queue, entries) = self.store.open_queue(name)?;
        let (recovered, last_id) = recovered::read(entries);
        if recovered.unreadable > 0 {
            tracing::warn!(
                queue = name,
                entries = recovered.unreadable,
                "the store holds entries that this version cannot read; they are left alone"
            );
        }
        Ok(DurableQueue {
            durable: Durable {
                store: Arc::clone(&self.store),
                queue,
                durability,
                next_id: AtomicU64::new(last_id.saturating_add(1)),
                commands: Mutex::new(recovered.commands.clone()),
                name: Mutex::new(Some(Arc::new(open))),
                unmerged: Arc::default(),
            },
            recovered,
        })
    }
}

impl OpenName {
    fn take(queues: &Arc<DurableQueues>, name: &str) -> Result<Self, QueueError> {
        let name: Arc<str> = name.into();
        let mut open = queues.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.insert(Arc::clone(&name)) {
            return Err(QueueError::InUse(name.to_string()));
        }
        drop(open);
        Ok(Self {
            queues: Arc::clone(queues),
            name,
        })
    }
}

impl Drop for OpenName {
    fn drop(&mut self) {
        let open = &self.queues.open;
        open.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

/// What a caller waits for whose message is being recorded.
pub(crate) type Recording = oneshot::Receiver<Result<(), Unrecorded>>;

/// Messages that could not be recorded, and why.
#[derive(Debug)]
pub(crate) struct Unrecorded {
    pub(crate) submission: Box<Submission>,
    pub(crate) error: RecordError,
}

/// Why a message could not be recorded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The link is stopped.
    #[error("the link is stopped")]
    Stopped,
    /// One of its properties does not fit into MQTT.
    #[error(transparent)]
    Encode(EncodeError),
}

/// Why a durable queue could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A link of this process has it.
    #[error(
        "the durable queue {0:?} belongs to a link that runs; each link needs a name of its own in its group"
    )]
    InUse(String),
    /// The store did not open it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Durable {
    /// Records what is in `submission`, and `also`, and then puts it into the intake that `room` is of; the answer comes once
    /// that has happened. A caller who does not wait for it hears of a failure through the receipt. What comes with
    /// `also`, the answer to a command, is accepted also when the store refuses it, and then held in memory.
    ///
    /// # Errors
    /// One of the messages cannot be recorded at all, or the link has ended.
    pub(crate) fn record(
        &self,
        submission: Submission,
        also: Option<Operation>,
        room: OwnedRoom,
        metrics: &Arc<GroupMetrics>,
        is_awaited: bool,
    ) -> Result<Option<Recording>, Unrecorded> {
        let Some(open) = self.open_name() else {
            return Err(Unrecorded {
                submission: Box::new(submission),
                error: RecordError::Stopped,
            });
        };
        let now = SystemTime::now();
        let messages = submission.messages();
        let count = messages.len() as u64;
        let first = self.next_id.fetch_add(count, Ordering::Relaxed);
        let mut operations = Vec::with_capacity(messages.len() + 1);
        operations.extend(also.clone());
        for (id, message) in (first..).zip(messages) {
            if message.qos == QoS::AtMostOnce {
                continue;
            }
            match record::encode(message, now) {
                Ok(value) => operations.push(Operation::Put {
                    queue: self.queue,
                    key: Key {
                        space: Space::Message,
                        id,
                    },
                    value,
                }),
                Err(error) => {
                    let error = RecordError::Encode(error);
                    let submission = Box::new(submission);
                    return Err(Unrecorded { submission, error });
                }
            }
        }
        let (sender, recording) = oneshot::channel();
        let entry = BeingRecorded {
            // Ids begin at 1.
            submission: Submission::Recorded(
                Box::new(submission),
                StoredId::new(first).unwrap_or(StoredId::MIN),
            ),
            room,
            metrics: Arc::clone(metrics),
            told: is_awaited.then_some(sender),
            also: also.map(|also| (Arc::clone(&self.store), also)),
            _open: open,
        };
        let done = Box::new(move |result| entry.end(result));
        self.store.commit(self.durability, operations, done);
        Ok(is_awaited.then_some(recording))
    }

    /// Removes the records of messages that have ended.
    pub(super) fn remove(&self, ended: &mut Vec<(StoredId, QoS)>) {
        let key = |space, id: StoredId| Operation::Remove {
            queue: self.queue,
            key: Key {
                space,
                id: id.get(),
            },
        };
        let mut operations = Vec::with_capacity(ended.len());
        for (id, qos) in ended.drain(..) {
            operations.push(key(Space::Message, id));
            if qos == QoS::ExactlyOnce {
                operations.push(key(Space::Outbound, id));
            }
            let mut unmerged = lock(&self.unmerged);
            if !unmerged.is_empty() {
                let with_it = unmerged.extract_if(.., |(kept, _)| *kept == id);
                operations.extend(with_it.map(|(_, gone)| key(Space::Message, gone)));
            }
        }
        self.store
            .commit(Durability::Process, operations, Box::new(log_failure));
    }

    /// Records that the message `kept` now says what it and `gone` said.
    pub(super) fn merge(&self, kept: StoredId, gone: StoredId, merged: &Rendered) {
        let key = |id: StoredId| Key {
            space: Space::Message,
            id: id.get(),
        };
        // If the merged one cannot be recorded, both records stay and go together when it ends: until then they
        // say the same.
        let unmerged = Arc::clone(&self.unmerged);
        let keep_both = move || lock(&unmerged).push((kept, gone));
        let Ok(value) = record::encode(merged, SystemTime::now()) else {
            return keep_both();
        };
        let operations = vec![
            Operation::Put {
                queue: self.queue,
                key: key(kept),
                value,
            },
            Operation::Remove {
                queue: self.queue,
                key: key(gone),
            },
        ];
        let done = move |result: Result<(), StoreError>| {
            if result.is_err() {
                keep_both();
            }
        };
        self.commit(operations, Box::new(done));
    }

    /// Records something of the link's; nobody is held up by it.
    pub(crate) fn commit(&self, operations: Vec<Operation>, done: Completion) {
        let Some(open) = self.open_name() else {
            return done(Err(StoreError::Closed));
        };
        let done = Box::new(move |result| {
            done(result);
            drop(open);
        });
        self.store.commit(self.durability, operations, done);
    }

    /// Held by what is on its way to the store; `None` when the link has ended.
    fn open_name(&self) -> Option<Arc<OpenName>> {
        lock(&self.name).clone()
    }

    /// Commands that earlier processes recorded; only once.
    pub(crate) fn take_commands(&self) -> Vec<RecordedCommand> {
        std::mem::take(&mut *lock(&self.commands))
    }

    /// Another link may open the queue.
    pub(crate) fn close(&self) {
        let open = lock(&self.name).take();
        drop(open);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_failure(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot record what became of messages: a restart sends them again");
    }
}

/// What waits for the store.
struct BeingRecorded {
    submission: Submission,
    room: OwnedRoom,
    metrics: Arc<GroupMetrics>,
    told: Option<oneshot::Sender<Result<(), Unrecorded>>>,
    /// What is to be recorded with it.
    also: Option<(Arc<dyn Store>, Operation)>,
    /// No other link may open the queue before: it would give its messages the same ids.
    _open: Arc<OpenName>,
}

impl BeingRecorded {
    /// On the store's thread.
    fn end(mut self, result: Result<(), StoreError>) {
        if let (Err(error), Some((store, also))) = (&result, self.also.take()) {
            tracing::warn!(%error, "the answer to a command cannot be recorded; it is sent from memory");
            let submission = self.submission.unrecorded();
            if let Err(submission) = self.room.push(submission) {
                let outcome = Outcome::Dropped(DropReason::Storage);
                submission.end_untaken(&self.metrics, |_| outcome.clone());
            }
            // A full disk has room for it: the next process must not answer again.
            store.commit(Durability::Process, vec![also], Box::new(log_failure));
            if let Some(told) = self.told {
                let _ = told.send(Ok(()));
            }
            return;
        }
        match result {
            Ok(()) => {
                if let Err(submission) = self.room.push(self.submission) {
                    // The link ended meanwhile; the store has the message.
                    submission.end_untaken(&self.metrics, |message| {
                        Outcome::at_the_end(message.qos != QoS::AtMostOnce)
                    });
                }
                if let Some(told) = self.told {
                    let _ = told.send(Ok(()));
                }
            }
            Err(error) => {
                drop(self.room);
                let submission = self.submission.unrecorded();
                match self.told {
                    Some(told) => {
                        let error = error.into();
                        let submission = Box::new(submission);
                        let _ = told.send(Err(Unrecorded { submission, error }));
                    }
                    None => {
                        let outcome = Outcome::Dropped(DropReason::Storage);
                        submission.end_untaken(&self.metrics, |_| outcome.clone());
                    }
                }
            }
        }
    }
}
