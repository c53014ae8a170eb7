//! Which commands came before, so that one the server delivers again is not started again.
//!
//! On a link with a durable queue the memory outlives the process: a command is recorded before it is started and
//! again when it is answered. One that was started and not answered when the process ended is answered as
//! interrupted by the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;
use paquebot_protocols::model::{Command, CommandReply, CommandStatus, DeviceId, ReplyAddress};

use crate::link::LinkContext;
use crate::offline_queue::Durable;
use crate::store::{Key, Operation, Space, StoreError};

/// Commands remembered by a link whose queue is in memory.
const REMEMBERED_MAX: usize = 1_024;

/// Commands remembered by a link with a durable queue.
const RECORDED_MAX: usize = 100_000;

/// How long these are remembered.
const RECORDED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Format of the records in this version.
const FORMAT: u8 = 1;

/// Names a command: its device, its request id and its correlation data.
type RequestKey = (DeviceId, ByteString, Option<Bytes>);

/// The name of a command's record.
pub(crate) type CommandId = u64;

/// Commands that came in.
#[derive(Default)]
pub(super) struct CommandMemory {
    known: HashMap<RequestKey, CommandId>,
    order: VecDeque<Remembered>,
    last_id: CommandId,
}

struct Remembered {
    key: RequestKey,
    id: CommandId,
    at: SystemTime,
}

/// What is known of a command that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Familiar {
    /// It came before.
    Repeated,
    /// It is new, and remembered under this id from now on.
    New(CommandId),
    /// Its sender gave it no name: one that is delivered again cannot be told from a new one.
    Nameless,
}

/// A command that an earlier process recorded.
#[derive(Debug, Clone)]
pub(crate) struct RecordedCommand {
    pub(crate) id: CommandId,
    pub(crate) started_at: SystemTime,
    pub(crate) is_answered: bool,
    /// Without its payload, which no answer needs.
    pub(crate) command: Command,
}

fn key_of(command: &Command) -> Option<RequestKey> {
    let reply_to = &command.reply_to;
    let is_named = !reply_to.request.is_empty() || reply_to.correlation.is_some();
    is_named.then(|| {
        (
            command.device.clone(),
            reply_to.request.clone(),
            reply_to.correlation.clone(),
        )
    })
}

impl CommandMemory {
    /// With what earlier processes recorded.
    pub(super) fn of(link: &LinkContext) -> Self {
        let mut memory = Self::default();
        let recorded = link.durable.as_deref().map(Durable::take_commands);
        for recorded in recorded.unwrap_or_default() {
            memory.last_id = memory.last_id.max(recorded.id);
            if let Some(key) = key_of(&recorded.command) {
                memory.remember(key, recorded.id, recorded.started_at);
            }
        }
        memory
    }

    /// Remembers a command that comes in. `dup`: the server may have delivered it before.
    pub(super) fn meet(&mut self, command: &Command, dup: bool, link: &LinkContext) -> Familiar {
        let Some(key) = key_of(command) else {
            return Familiar::Nameless;
        };
        // Without DUP it is a new command of a sender that uses the id again.
        if dup && self.known.contains_key(&key) {
            return Familiar::Repeated;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.remember(key, id, SystemTime::now());
        self.forget_old(link.durable.as_deref());
        Familiar::New(id)
    }

    fn remember(&mut self, key: RequestKey, id: CommandId, at: SystemTime) {
        self.known.insert(key.clone(), id);
        self.order.push_back(Remembered { key, id, at });
    }

    fn forget_old(&mut self, durable: Option<&Durable>) {
        let max = if durable.is_some() {
            RECORDED_MAX
        } else {
            REMEMBERED_MAX
        };
        let is_old = |entry: &Remembered| {
            durable.is_some() && entry.at.elapsed().is_ok_and(|age| age > RECORDED_FOR)
        };
        let mut forgotten = Vec::new();
        while self.order.len() > max || self.order.front().is_some_and(is_old) {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            // A later command may have the same name.
            if self.known.get(&oldest.key) == Some(&oldest.id) {
                self.known.remove(&oldest.key);
            }
            forgotten.push(oldest.id);
        }
        if let Some(durable) = durable.filter(|_| !forgotten.is_empty()) {
            let forgotten = forgotten.into_iter().map(|id| Operation::Remove {
                queue: durable.queue,
                key: record_key(id),
            });
            durable.commit(forgotten.collect(), Box::new(log_failure));
        }
    }
}

fn log_failure(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot record what became of a command");
    }
}

const fn record_key(id: CommandId) -> Key {
    Key {
        space: Space::Command,
        id,
    }
}

impl Durable {
    /// What records that a command is started or was answered.
    pub(crate) fn command_record(
        &self,
        id: CommandId,
        command: &Command,
        is_answered: bool,
    ) -> Operation {
        let record = RecordedCommand {
            id,
            started_at: SystemTime::now(),
            is_answered,
            command: command.clone(),
        };
        Operation::Put {
            queue: self.queue,
            key: record_key(id),
            value: record.encode(),
        }
    }

    /// Records that a command is started; `done` is told on the store's thread.
    pub(super) fn record_start(
        &self,
        id: CommandId,
        command: &Command,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let record = self.command_record(id, command, false);
        self.commit(vec![record], Box::new(done));
    }
}

/// Answers what an earlier process of the link started and did not answer. Waits for room in the queue.
pub(crate) async fn answer_interrupted(link: Arc<LinkContext>, commands: Vec<RecordedCommand>) {
    let reply = CommandReply::with_status(CommandStatus::Interrupted);
    for recorded in commands {
        let answered = link.answer(&recorded.command, &reply, Some(recorded.id));
        match answered.await {
            Ok(receipt) => {
                drop(receipt);
                link.metrics.count_command(reply.status);
            }
            Err(error) => {
                tracing::warn!(link = %link.identity.id, %error, "cannot answer an interrupted command");
            }
        }
    }
}

impl RecordedCommand {
    fn encode(&self) -> Bytes {
        let since = self.started_at.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let reply_to = &self.command.reply_to;
        let mut value = BytesMut::with_capacity(128);
        value.put_u8(FORMAT);
        value.put_u8(u8::from(self.is_answered));
        value.put_u64(millis);
        put_text(&mut value, Some(self.command.device.as_str().as_bytes()));
        put_text(&mut value, Some(self.command.name.as_bytes()));
        put_text(&mut value, Some(reply_to.request.as_bytes()));
        put_text(
            &mut value,
            reply_to
                .topic
                .as_ref()
                .map(|topic| topic.as_bytes().as_ref()),
        );
        put_text(&mut value, reply_to.correlation.as_deref());
        value.freeze()
    }

    /// The record that [`RecordedCommand::encode`] made `value` of; `None` when it is none.
    pub(crate) fn decode(id: CommandId, mut value: Bytes) -> Option<Self> {
        if value.try_get_u8() != Ok(FORMAT) {
            return None;
        }
        let is_answered = match value.try_get_u8() {
            Ok(0) => false,
            Ok(1) => true,
            _ => return None,
        };
        let millis = Duration::from_millis(value.try_get_u64().ok()?);
        let text = |bytes: Bytes| ByteString::try_from(bytes).ok();
        let device = DeviceId::new(text(take_text(&mut value)??)?).ok()?;
        let name = text(take_text(&mut value)??)?;
        let request = text(take_text(&mut value)??)?;
        let topic = match take_text(&mut value)? {
            Some(topic) => Some(text(topic)?),
            None => None,
        };
        let correlation = take_text(&mut value)?;
        value.is_empty().then(|| Self {
            id,
            started_at: SystemTime::UNIX_EPOCH + millis,
            is_answered,
            command: Command {
                device,
                name,
                payload: Bytes::new(),
                reply_to: ReplyAddress {
                    request,
                    topic,
                    correlation,
                },
                time_to_answer: None,
            },
        })
    }
}

/// A length and so many bytes; the largest length says that there is none.
fn put_text(value: &mut BytesMut, text: Option<&[u8]>) {
    let Some(text) = text else {
        return value.put_u32(u32::MAX);
    };
    value.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
    value.put_slice(text);
}

fn take_text(value: &mut Bytes) -> Option<Option<Bytes>> {
    let length = value.try_get_u32().ok()?;
    if length == u32::MAX {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    (length <= value.len()).then(|| Some(value.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> RecordedCommand {
        RecordedCommand {
            id: 7,
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234),
            is_answered: true,
            command: Command {
                device: DeviceId::new("d1").unwrap(),
                name: "reboot".into(),
                payload: Bytes::new(),
                reply_to: ReplyAddress {
                    request: "r/1".into(),
                    topic: Some("answers".into()),
                    correlation: None,
                },
                time_to_answer: None,
            },
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_other_bytes_are_none() {
        let before = recorded();
        let value = before.encode();
        let after = RecordedCommand::decode(7, value.clone()).unwrap();
        assert_eq!(after.command, before.command);
        assert_eq!(
            (after.started_at, after.is_answered),
            (before.started_at, true)
        );
        for length in 0..value.len() {
            assert!(RecordedCommand::decode(7, value.slice(..length)).is_none());
        }
    }
}
