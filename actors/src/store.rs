//! One durable, ordered map for all links of a process: what has to survive the process, behind a small trait.
//!
//! A store knows queues by name, and in each queue entries by [`Key`]. It knows no MQTT, no link and no actor. What
//! an entry means is its [`Space`]; the value is opaque bytes.
//!
//! [`LogStore`] is the engine: an append-only log in one directory, written by one thread that commits what has
//! gathered as a group. `docs/store-format.md` describes its files.

mod aside;
mod compaction;
mod disk;
mod format;
mod index;
mod inspect;
mod log;
mod maintenance;
mod recovery;
mod room;
mod scan;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use inspect::{InUse, QueueReport, SegmentReport, SegmentState, StoreReader};
pub use writer::LogStore;

/// How much a message has to survive before its publish is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing is recorded: the message survives lost connections, not the process. The default, since it costs
    /// nothing.
    #[default]
    Memory,
    /// Handed to the operating system first: survives `kill -9`, not a power loss.
    Process,
    /// On the disk first (`fdatasync`): survives a power loss. Commits that wait together pay for one sync.
    Disk,
}

/// As a fleet file writes it.
impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Disk => "disk",
        })
    }
}

/// A queue of an open store. Good for the life of the store it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u32);

impl QueueId {
    /// The queue of this number. Numbers come from a store; only one that implements [`Store`] has to make them.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What the identifier of an entry means. The numbers are part of the format and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// A message that was accepted and has not ended.
    Message = 1,
    /// A QoS 2 message under way: its packet identifier and phase.
    Outbound = 2,
    /// The packet identifier of an inbound QoS 2 message.
    Inbound = 3,
    /// A command that was started.
    Command = 4,
}

impl Space {
    /// All spaces, in order.
    pub const ALL: [Self; 4] = [Self::Message, Self::Outbound, Self::Inbound, Self::Command];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| *space as u8 == number)
    }
}

/// Names an entry within its queue. Keys are ordered by space, then by identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What the identifier means.
    pub space: Space,
    /// The identifier.
    pub id: u64,
}

/// What is recorded under a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, which may hold what is secret and is not shown.
    pub value: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Entry")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// A change to a queue.
#[derive(Clone, PartialEq, Eq)]
pub enum Operation {
    /// Records a value; replaces what was recorded under the key.
    Put {
        /// The queue.
        queue: QueueId,
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
    },
    /// Forgets the key. Nothing happens if it is not there.
    Remove {
        /// The queue.
        queue: QueueId,
        /// The key.
        key: Key,
    },
}

impl Operation {
    fn queue(&self) -> QueueId {
        match self {
            Self::Put { queue, .. } | Self::Remove { queue, .. } => *queue,
        }
    }

    fn key(&self) -> Key {
        match self {
            Self::Put { key, .. } | Self::Remove { key, .. } => *key,
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { queue, key, value } => formatter
                .debug_struct("Put")
                .field("queue", queue)
                .field("key", key)
                .field("bytes", &value.len())
                .finish_non_exhaustive(),
            Self::Remove { queue, key } => formatter
                .debug_struct("Remove")
                .field("queue", queue)
                .field("key", key)
                .finish(),
        }
    }
}

/// Is told how a commit ended. It is called on the store's thread and must neither block nor take long.
pub type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A durable ordered map with group commit.
pub trait Store: Send + Sync + fmt::Debug {
    /// The queue of this name, made if it is not there, and its entries in ascending order of their keys.
    ///
    /// Blocks while it reads the entries. What this process has committed to the queue before is part of the answer.
    ///
    /// # Errors
    ///
    /// [`StoreError::QueueName`] for a name that is empty or longer than [`QUEUE_NAME_BYTES_MAX`];
    /// [`StoreError::Io`] if entries cannot be read; [`StoreError::Closed`].
    fn open_queue(&self, name: &str) -> Result<(QueueId, Vec<Entry>), StoreError>;

    /// Records all of `operations` or none.
    ///
    /// `done` is called once, on a thread of the store, in the order of the calls, when they are as durable as asked
    /// ([`Durability::Memory`] counts as `Process` here). Never waits for the disk. No operations with
    /// [`Durability::Disk`] is a barrier: all earlier commits are on the disk when it is done.
    ///
    /// `done` is told [`StoreError::Full`] if more entries of [`Space::Message`] would be there than before while the
    /// disk is full: at once, and until there is space again. Other commits use reserved space then, and so does one
    /// that replaces messages or removes as many as it puts. It is told [`StoreError::Io`] or
    /// [`StoreError::ReadOnly`] if the disk fails; [`StoreError::TooLarge`] for more than [`COMMIT_BYTES_MAX`];
    /// [`StoreError::UnknownQueue`]; and [`StoreError::Closed`], on the caller's thread, after [`close`](Self::close).
    ///
    /// A commit that only removes is in force even if it fails: the store records it when it can again.
    fn commit(&self, durability: Durability, operations: Vec<Operation>, done: Completion);

    /// Waits until everything committed before is on the disk.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit) tells.
    fn flush(&self) -> Result<(), StoreError>;

    /// Commits what has gathered, syncs, and lets go of the directory. Commits from now on fail with
    /// [`StoreError::Closed`]. Closing twice is harmless.
    fn close(&self);

    /// What the store holds and has done.
    fn statistics(&self) -> StoreStatistics;
}

/// What a store holds and has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatistics {
    /// Queues that are known.
    pub queues: u64,
    /// Entries that are recorded.
    pub entries: u64,
    /// Bytes these entries need in the files at most, the names of their queues with each of them.
    pub live_bytes: u64,
    /// Bytes of the log's files.
    pub bytes: u64,
    /// Files of the log.
    pub segments: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// Commits that failed.
    pub commits_failed: u64,
    /// Groups of commits written.
    pub groups: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Bytes moved to the head of the log to give old files back.
    pub moved_bytes: u64,
    /// Damaged places found in the files, and files that are not of this format. What they held is set aside.
    pub damaged: u64,
    /// Bytes of these.
    pub damaged_bytes: u64,
    /// Files set aside earlier that were removed, the oldest first: at most 128 and 256 MiB of them are kept.
    pub asides_removed: u64,
    /// Bytes of unfinished writes cut off when the store was opened.
    pub torn_bytes: u64,
    /// Whether the disk is full.
    pub is_full: bool,
    /// Whether the last write failed for another reason.
    pub is_failing: bool,
}

/// How a store is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Bytes of a segment of the log; 16 MiB, at least 4 KiB. A larger commit makes a larger segment.
    segment_bytes: u32,
    /// Bytes set aside so that removes are recorded on a full disk; 1 MiB. 0 reserves nothing.
    reserve_bytes: u32,
    /// Live bytes from which on messages are refused as if the disk were full; no bound by default. The files take
    /// at most twice as much and two segments.
    pub live_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl StoreOptions {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        segment_bytes: 16 << 20,
        reserve_bytes: 1 << 20,
        live_bytes_max: u64::MAX,
    };

    /// Sets the bytes of a segment. Not part of the API: tests reach the end of a small one sooner.
    #[doc(hidden)]
    #[must_use]
    pub const fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Sets the reserved bytes. Not part of the API: tests do without them.
    #[doc(hidden)]
    #[must_use]
    pub const fn reserve_bytes(mut self, bytes: u32) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Sets the bound of live bytes.
    #[must_use]
    pub const fn live_bytes_max(mut self, bytes: u64) -> Self {
        self.live_bytes_max = bytes;
        self
    }
}

/// Bytes of the longest name of a queue.
pub const QUEUE_NAME_BYTES_MAX: usize = 4096;

/// Bytes of the largest commit, keys and names included: two MQTT packets of the greatest size.
pub const COMMIT_BYTES_MAX: usize = 512 << 20;

/// Why a store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A process has the store open, this one perhaps.
    #[error("the store in {} is in use by {}", .directory.display(), holder(*.pid))]
    Locked {
        /// The store's directory.
        directory: PathBuf,
        /// The process that has it, if it said so.
        pid: Option<u32>,
    },
    /// A directory that is to become a store holds other files.
    #[error("the directory {} holds other files and no store; give the store one of its own, empty or not there yet",
        .directory.display())]
    OtherFiles {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory that is to be looked into holds no store.
    #[error("there is no store in {}", .directory.display())]
    NoStore {
        /// The directory.
        directory: PathBuf,
    },
    /// No room for messages. The store notices by itself when there is room again.
    #[error("no space left for messages in the store in {}: {}", .directory.display(), lack(*.live_bytes_max))]
    Full {
        /// The store's directory.
        directory: PathBuf,
        /// The bound of live bytes if that is the reason; none if it is the disk.
        live_bytes_max: Option<u64>,
    },
    /// The file system takes no writes.
    #[error("the store in {} is on a file system that takes no writes", .directory.display())]
    ReadOnly {
        /// The store's directory.
        directory: PathBuf,
    },
    /// The disk failed. The store keeps trying.
    #[error("the store cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// How it failed.
        r#source: Arc<io::Error>,
    },
    /// A commit is larger than [`COMMIT_BYTES_MAX`].
    #[error("a commit of {bytes} bytes is larger than {COMMIT_BYTES_MAX}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// A name of a queue is empty or longer than [`QUEUE_NAME_BYTES_MAX`].
    #[error("the name of a queue has 1 to {QUEUE_NAME_BYTES_MAX} bytes, not {bytes}")]
    QueueName {
        /// Its bytes.
        bytes: usize,
    },
    /// A commit names a queue that this store has not opened.
    #[error("queue {} is not open in this store", .0.get())]
    UnknownQueue(QueueId),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Who has a store open, and what to do about it.
fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => {
            format!("this process itself (pid {pid}); share that one, or open another directory")
        }
        Some(pid) => format!(
            "another process (pid {pid}); stop that one, or give this one a directory of its own"
        ),
        None => {
            "another process; stop that one, or give this one a directory of its own".to_owned()
        }
    }
}

/// What there is no room for messages in, and what to do about it.
fn lack(live_bytes_max: Option<u64>) -> String {
    match live_bytes_max {
        Some(bytes) => format!("it may hold {bytes} bytes; raise that, or let messages end"),
        None => "the disk is full; free some, the store notices".to_owned(),
    }
}

impl StoreError {
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(error),
        }
    }
}
