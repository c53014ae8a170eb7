//! Which commands came before, so that one the server delivers again is not started again.
//!
//! On a link with a durable queue the memory outlives the process: a command is recorded before it is started and
//! again when it is answered. One that was started and not answered when the process ended is answered as
//! interrupted by the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use paquebot_protocols::model::{Command, CommandReply, CommandStatus};

use super::answers::{Answers, to_remember};
use super::record::{CommandId, CommandRecord, RecordedCommand, put_text};
use crate::link::{LinkContext, SendError};
use crate::offline_queue::Durable;
use crate::store::{Key, Operation, Space, StoreError};

/// Commands remembered by a link whose queue is in memory.
const REMEMBERED_MAX: usize = 1_024;

/// How long one of these makes a repetition of what comes without DUP: its sender may count its requests anew.
const REPEATED_FOR: Duration = Duration::from_secs(600);

/// Commands remembered by a link with a durable queue.
const RECORDED_MAX: usize = 100_000;

/// How long these are remembered.
const RECORDED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Bytes of all names that a link remembers. The last command is remembered whatever its size.
const NAMES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Ids in the store from here on are none that this program has counted to.
const ID_LIMIT: CommandId = 1 << 63;

/// Between two looks for room in a queue that makes nobody wait for it.
pub(super) const ROOM_RETRY: Duration = Duration::from_millis(100);

/// Names a command: its device, its request id and its correlation data, and the digest of what it asks for.
/// A copy, so that it does not keep alive the buffer that the command was read into.
type RequestKey = Arc<[u8]>;

/// Commands that came in.
#[derive(Default)]
pub(super) struct CommandMemory {
    known: HashMap<RequestKey, Known>,
    order: VecDeque<(RequestKey, Known)>,
    /// What the names in `order` take.
    bytes: usize,
    last_id: CommandId,
    answers: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    id: CommandId,
    /// When this process met it or found it in the store, by the clock that nobody sets.
    since: Instant,
    /// How old it was then.
    age: Duration,
}

impl Known {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since) + self.age
    }
}

/// What is known of a command that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Familiar {
    /// It came before. With the answer if its sender is to have that again: one that the server delivers again was asked
    /// for once, and its answer is on its way or there.
    Repeated(Option<CommandReply>),
    /// It is new, and remembered under this from now on.
    New(CommandRecord),
    /// Its sender gave it no name: one that is delivered again cannot be told from a new one.
    Nameless,
}

/// FNV-1a of a command's name and payload, the same in each process. It tells what a sender asks for next from what
/// it asked for before; it does not have to withstand a sender who wants its own command to be ignored.
fn digest(command: &Command) -> u64 {
    let name = command.name.as_bytes();
    let length = name.len().to_le_bytes();
    let parts = length.iter().chain(name).chain(&*command.payload);
    parts.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn key_of(command: &Command, digest: u64) -> Option<RequestKey> {
    let reply_to = &command.reply_to;
    if reply_to.request.is_empty() && reply_to.correlation.is_none() {
        return None;
    }
    let mut key = BytesMut::with_capacity(64);
    key.put_u64(digest);
    put_text(&mut key, Some(command.device.as_str().as_bytes()));
    put_text(&mut key, Some(reply_to.request.as_bytes()));
    put_text(&mut key, reply_to.correlation.as_deref());
    Some(key[..].into())
}

impl CommandMemory {
    /// With what earlier processes recorded.
    pub(super) fn of(link: &LinkContext) -> Self {
        let recorded = link.durable.as_deref().map(Durable::take_commands);
        Self::with(recorded.unwrap_or_default(), Instant::now())
    }

    fn with(recorded: Vec<RecordedCommand>, now: Instant) -> Self {
        let mut memory = Self::default();
        for recorded in recorded {
            let CommandRecord { id, digest } = recorded.record;
            if id < ID_LIMIT {
                memory.last_id = memory.last_id.max(id);
            }
            if let Some(key) = key_of(&recorded.command, digest) {
                // One from the future is new: the clock was set back meanwhile.
                let age = recorded.started_at.elapsed().unwrap_or_default();
                let since = now;
                memory.remember(key, Known { id, since, age });
                let answer = match recorded.answer {
                    Some(answer) => to_remember(&answer),
                    None if recorded.is_answered => None,
                    None => Some(INTERRUPTED),
                };
                if let Some(answer) = answer {
                    memory.answers.remember(id, answer);
                }
            }
        }
        memory
    }

    /// Remembers a command that comes in. `dup`: the server may have delivered it before.
    pub(super) fn meet(&mut self, command: &Command, dup: bool, link: &LinkContext) -> Familiar {
        let mut forgotten = Vec::new();
        let durable = link.durable.as_deref();
        let now = Instant::now();
        let familiar = self.meet_at(now, command, dup, durable.is_some(), &mut forgotten);
        if let Some(durable) = durable.filter(|_| !forgotten.is_empty()) {
            let forgotten = forgotten.into_iter().map(|id| Operation::Remove {
                queue: durable.queue,
                key: record_key(id),
            });
            durable.commit(forgotten.collect(), Box::new(log_failure));
        }
        familiar
    }

    fn meet_at(
        &mut self,
        now: Instant,
        command: &Command,
        dup: bool,
        is_durable: bool,
        forgotten: &mut Vec<CommandId>,
    ) -> Familiar {
        let digest = digest(command);
        let Some(key) = key_of(command, digest) else {
            return Familiar::Nameless;
        };
        if is_durable {
            let is_old = |known: &Known| known.age(now) > RECORDED_FOR;
            while self.order.front().is_some_and(|(_, known)| is_old(known)) {
                forgotten.extend(self.forget_oldest());
            }
        }
        let repeated_for = if is_durable {
            RECORDED_FOR
        } else {
            REPEATED_FOR
        };
        let is_repeated = |known: &Known| dup || known.age(now) <= repeated_for;
        if let Some(known) = self.known.get(&key).filter(|known| is_repeated(known)) {
            let answer = self.answers.of(known.id).filter(|_| !dup);
            return Familiar::Repeated(answer.cloned());
        }
        self.last_id = self.last_id.saturating_add(1);
        let id = self.last_id;
        let (since, age) = (now, Duration::ZERO);
        self.remember(key, Known { id, since, age });
        let max = if is_durable {
            RECORDED_MAX
        } else {
            REMEMBERED_MAX
        };
        while self.order.len() > max || (self.bytes > NAMES_BYTES_MAX && self.order.len() > 1) {
            forgotten.extend(self.forget_oldest());
        }
        Familiar::New(CommandRecord { id, digest })
    }

    /// A command that was not started: whoever asks for it again may have it.
    pub(super) fn forget(&mut self, command: &Command) {
        if let Some(key) = key_of(command, digest(command))
            && let Some(known) = self.known.remove(&key)
        {
            self.answers.forget(known.id);
        }
    }

    /// A command was answered: whoever asks for it again gets that.
    pub(super) fn answered(
        &mut self,
        command: &Command,
        record: CommandRecord,
        reply: &CommandReply,
    ) {
        // Forgotten meanwhile, or asked for anew since.
        let is_this = |known: &Known| known.id == record.id;
        if let Some(key) = key_of(command, record.digest)
            && self.known.get(&key).is_some_and(is_this)
            && let Some(reply) = to_remember(reply)
        {
            self.answers.remember(record.id, reply);
        }
    }

    fn remember(&mut self, key: RequestKey, known: Known) {
        self.bytes += key.len();
        self.known.insert(Arc::clone(&key), known);
        self.order.push_back((key, known));
    }

    fn forget_oldest(&mut self) -> Option<CommandId> {
        let (key, oldest) = self.order.pop_front()?;
        self.bytes -= key.len();
        // A later command may have the same name.
        if self
            .known
            .get(&key)
            .is_some_and(|known| known.id == oldest.id)
        {
            self.known.remove(&key);
        }
        self.answers.forget(oldest.id);
        Some(oldest.id)
    }
}

/// How a command is answered that an earlier process had started and not answered.
const INTERRUPTED: CommandReply = CommandReply {
    status: CommandStatus::Interrupted,
    payload: Bytes::new(),
};

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
    /// What records that a command is started, or how it was answered.
    pub(crate) fn command_record(
        &self,
        record: CommandRecord,
        command: &Command,
        answer: Option<&CommandReply>,
    ) -> Operation {
        let recorded = RecordedCommand {
            record,
            started_at: SystemTime::now(),
            is_answered: answer.is_some(),
            answer: answer.and_then(to_remember),
            command: command.clone(),
        };
        Operation::Put {
            queue: self.queue,
            key: record_key(record.id),
            value: recorded.encode(),
        }
    }

    /// Records that a command is started; `done` is told on the store's thread.
    pub(super) fn record_start(
        &self,
        record: CommandRecord,
        command: &Command,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let started = self.command_record(record, command, None);
        self.commit(vec![started], Box::new(done));
    }
}

/// Answers what an earlier process of the link started and did not answer. Waits for room in the queue, also where
/// callers do not: what the process left may fill it.
pub(crate) async fn answer_interrupted(link: Arc<LinkContext>, commands: Vec<RecordedCommand>) {
    let reply = INTERRUPTED;
    for recorded in commands {
        let RecordedCommand {
            record, command, ..
        } = &recorded;
        loop {
            match link.answer(command, &reply, Some(*record), || {}).await {
                Ok(answer) => {
                    drop(answer);
                    link.metrics.count_command(reply.status);
                }
                Err(SendError::Full(_) | SendError::FleetFull(_)) => {
                    actix::clock::sleep(ROOM_RETRY).await;
                    continue;
                }
                // The next process finds them in the store.
                Err(SendError::Stopped(_)) => return,
                Err(error) => {
                    tracing::warn!(link = %link.identity.id, %error, "cannot answer an interrupted command");
                }
            }
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::recorded;
    use super::*;

    fn command(request: &str, payload: &str) -> Command {
        let mut command = recorded().command;
        command.reply_to.request = request.into();
        command.payload = Bytes::copy_from_slice(payload.as_bytes());
        command
    }

    /// `None` when it is a repetition.
    fn met(
        memory: &mut CommandMemory,
        at: Instant,
        command: &Command,
        dup: bool,
        is_durable: bool,
    ) -> Option<CommandId> {
        match memory.meet_at(at, command, dup, is_durable, &mut Vec::new()) {
            Familiar::New(record) => Some(record.id),
            _ => None,
        }
    }

    #[test]
    fn the_same_request_is_a_repetition_and_another_one_of_this_id_is_not() {
        for is_durable in [false, true] {
            let mut memory = CommandMemory::default();
            let now = Instant::now();
            let mut meet =
                |command: &Command, dup| met(&mut memory, now, command, dup, is_durable).is_some();
            assert!(meet(&command("1", "on"), false));
            assert!(!meet(&command("1", "on"), false));
            assert!(meet(&command("1", "off"), false));
            let mut other = command("1", "on");
            other.name = "start".into();
            assert!(meet(&other, true));
            assert!(!meet(&command("1", "on"), true));
            assert!(meet(&command("2", "on"), true));
            memory.forget(&other);
            assert!(met(&mut memory, now, &other, true, is_durable).is_some());
        }
    }

    #[test]
    fn in_memory_an_old_request_comes_again_unless_the_server_says_that_it_repeats_it() {
        let mut memory = CommandMemory::default();
        let (start, asked) = (Instant::now(), command("1", "on"));
        assert!(met(&mut memory, start, &asked, false, false).is_some());
        let last = start + REPEATED_FOR;
        assert!(met(&mut memory, last, &asked, false, false).is_none());
        let later = last + Duration::from_millis(1);
        assert!(met(&mut memory, later, &asked, true, false).is_none());
        assert!(met(&mut memory, later, &asked, false, false).is_some());
        assert!(met(&mut memory, later, &asked, false, false).is_none());
    }

    #[test]
    fn a_recorded_request_is_remembered_for_a_day_that_its_own_process_measures() {
        let now = Instant::now();
        let aged = |id, age| {
            let mut recorded = recorded();
            recorded.record = CommandRecord {
                id,
                digest: digest(&command("1", "on")),
            };
            recorded.command.reply_to.request = format!("{id}").into();
            recorded.started_at = SystemTime::now() - age;
            recorded
        };
        let minute = Duration::from_secs(60);
        let held = vec![
            aged(1, RECORDED_FOR + minute),
            aged(2, RECORDED_FOR - minute),
        ];
        let mut memory = CommandMemory::with(held, now);
        assert!(met(&mut memory, now, &command("1", "on"), true, true).is_some());
        assert!(met(&mut memory, now, &command("2", "on"), false, true).is_none());
        let (new, later) = (command("3", "on"), now + 2 * minute);
        assert!(met(&mut memory, now, &new, false, true).is_some());
        assert!(met(&mut memory, later, &command("2", "on"), true, true).is_some());
        assert!(met(&mut memory, now + RECORDED_FOR, &new, true, true).is_none());
    }

    #[test]
    fn ids_in_the_store_that_nobody_counted_to_do_no_harm() {
        let held = |id| {
            let mut recorded = recorded();
            recorded.record.id = id;
            recorded
        };
        let now = Instant::now();
        for (found, next) in [(u64::MAX, 1), (ID_LIMIT, 1), (ID_LIMIT - 1, ID_LIMIT)] {
            let mut memory = CommandMemory::with(vec![held(found)], now);
            let id = met(&mut memory, now, &command("1", "on"), false, true);
            assert_eq!(id, Some(next));
        }
    }

    #[test]
    fn names_are_remembered_up_to_a_number_and_a_number_of_bytes() {
        let now = Instant::now();
        let mut memory = CommandMemory::default();
        for id in 0..=REMEMBERED_MAX {
            assert!(
                met(
                    &mut memory,
                    now,
                    &command(&id.to_string(), ""),
                    false,
                    false
                )
                .is_some()
            );
        }
        assert_eq!(
            (memory.order.len(), memory.known.len()),
            (REMEMBERED_MAX, REMEMBERED_MAX)
        );

        let mut memory = CommandMemory::default();
        let mut large = command("large", "");
        for filling in 0..10_u8 {
            large.reply_to.correlation = Some(vec![filling; NAMES_BYTES_MAX / 4].into());
            assert!(met(&mut memory, now, &large, false, true).is_some());
            assert!(memory.bytes <= NAMES_BYTES_MAX);
        }
        assert_eq!((memory.order.len(), memory.known.len()), (3, 3));
        large.reply_to.correlation = Some(vec![0; NAMES_BYTES_MAX].into());
        assert!(met(&mut memory, now, &large, false, true).is_some());
        assert!(met(&mut memory, now, &large, false, true).is_none());
        assert_eq!(memory.order.len(), 1);
    }

    #[test]
    fn who_asks_again_gets_the_answer_and_the_server_does_not() {
        let now = Instant::now();
        let mut memory = CommandMemory::default();
        let asked = command("1", "on");
        let meet = |memory: &mut CommandMemory, dup| {
            memory.meet_at(now, &asked, dup, true, &mut Vec::new())
        };
        let Familiar::New(record) = meet(&mut memory, false) else {
            panic!("it is new");
        };
        assert_eq!(meet(&mut memory, false), Familiar::Repeated(None));
        let reply = CommandReply::ok("done");
        memory.answered(&asked, record, &reply);
        assert_eq!(
            meet(&mut memory, false),
            Familiar::Repeated(Some(reply.clone()))
        );
        assert_eq!(meet(&mut memory, true), Familiar::Repeated(None));
        // An answer that comes late is none to the next one of this name.
        memory.forget(&asked);
        memory.answered(&asked, record, &reply);
        assert!(matches!(meet(&mut memory, false), Familiar::New(_)));
        memory.answered(&asked, record, &reply);
        assert_eq!(meet(&mut memory, false), Familiar::Repeated(None));
    }

    #[test]
    fn what_earlier_processes_answered_or_were_interrupted_in_is_answered_so_again() {
        let now = Instant::now();
        for (is_answered, answer, expected) in [
            (
                true,
                Some(CommandReply::ok("done")),
                Some(CommandReply::ok("done")),
            ),
            (true, None, None),
            (false, None, Some(INTERRUPTED)),
        ] {
            let mut recorded = recorded();
            let asked = command("1", "on");
            recorded.command = asked.clone();
            recorded.started_at = SystemTime::now();
            recorded.record.digest = digest(&asked);
            (recorded.is_answered, recorded.answer) = (is_answered, answer);
            let mut memory = CommandMemory::with(vec![recorded], now);
            let familiar = memory.meet_at(now, &asked, false, true, &mut Vec::new());
            assert_eq!(familiar, Familiar::Repeated(expected));
        }
    }
}
