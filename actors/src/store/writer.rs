//! The store with its one thread.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::disk::{Directory, LOCK};
use super::format::operation_bytes;
use super::log::{Commit, Log};
use super::maintenance::Work;
use super::shared::Shared;
use super::{
    COMMIT_BYTES_MAX, Completion, Durability, Entry, Operation, QUEUE_NAME_BYTES_MAX, QueueId,
    Store, StoreError, StoreOptions, StoreStatistics,
};

/// How long the store waits before it does what can wait, or tries again what failed.
const RETRY: Duration = Duration::from_millis(250);

/// Bytes of commits that are written together, about.
const GROUP_BYTES: usize = 1 << 20;

/// How often the entries of a queue are looked up anew because they moved while they were read.
const READS_MAX: usize = 16;

/// An append-only log in a directory, with one thread that writes it. The directory is for one process at a time.
#[derive(Debug)]
pub struct LogStore {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    commits: Vec<Commit>,
    is_closed: bool,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// All that waits, and whether nothing will come any more. Waits for it as long as the other work allows.
    fn take(&self, work: Work) -> (Vec<Commit>, bool) {
        let mut waiting = self.lock();
        while waiting.commits.is_empty() && !waiting.is_closed {
            let patience = match work {
                Work::Now => break,
                Work::Soon => RETRY,
                Work::None => Duration::MAX,
            };
            let woken = self.arrived.wait_timeout(waiting, patience);
            let (again, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
            waiting = again;
            if timeout.timed_out() {
                break;
            }
        }
        (std::mem::take(&mut waiting.commits), waiting.is_closed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore {
    /// Opens the store in this directory, and recovers what it holds.
    ///
    /// A directory that is not there is made, for its owner only. One that is there has to be empty or a store's; it
    /// keeps its mode, with a warning if others may look into it. The files are for their owner only in any case.
    ///
    /// Whatever is in the files, the store opens: damaged parts are set aside in files of their own beside the log,
    /// counted, and warned of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if a process has it open; [`StoreError::OtherFiles`] if the directory holds something
    /// else; [`StoreError::Io`] if the directory cannot be made,
    /// or a file in it cannot be read, synced or set aside: nothing is given up for that, so it may be tried again.
    pub fn open(directory: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, StoreError> {
        let path = directory.into();
        let disk = Directory::make(path.clone())?;
        let lock = lock(&disk, &path)?;
        let shared = Arc::new(Shared::new(path.clone(), Box::new(disk)));
        let mut log = Log::open(Arc::clone(&shared), options)?;
        let inbox = Arc::<Inbox>::default();
        let thread = {
            let inbox = Arc::clone(&inbox);
            let thread = thread::Builder::new().name("paquebot-store".to_owned());
            thread.spawn(move || {
                let _closing = Closing(&inbox);
                run(&inbox, &mut log);
                // Nobody else opens the store before its last byte is written.
                drop(lock);
            })
        };
        let thread = thread.map_err(|error| StoreError::io("start the thread of", &path, error))?;
        Ok(Self {
            shared,
            inbox,
            thread: Mutex::new(Some(thread)),
        })
    }
}

/// Takes the lock of the store, and leaves the process identifier for whoever comes next.
fn lock(disk: &Directory, path: &Path) -> Result<File, StoreError> {
    let error = |error| StoreError::io("lock", &path.join(LOCK), error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = disk.file(LOCK, &mut options).map_err(error)?;
    match file.try_lock() {
        Ok(()) => {
            // In this order it is never empty, by which a store is known.
            let pid = std::process::id().to_string();
            file.write_all(pid.as_bytes()).map_err(error)?;
            file.set_len(pid.len() as u64).map_err(error)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(holder(&mut file, path)),
        Err(TryLockError::Error(other)) => Err(error(other)),
    }
}

/// Who has the store of this lock file open.
pub(super) fn holder(file: &mut File, path: &Path) -> StoreError {
    let mut pid = String::new();
    let read = file.take(20).read_to_string(&mut pid);
    StoreError::Locked {
        directory: path.to_owned(),
        pid: read.ok().and_then(|_| pid.trim().parse().ok()),
    }
}

/// Sees to it that nobody waits for a thread that has ended.
struct Closing<'a>(&'a Inbox);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.is_closed = true;
        let left = std::mem::take(&mut waiting.commits);
        drop(waiting);
        for commit in left {
            (commit.done)(Err(StoreError::Closed));
        }
    }
}

/// What the store's thread does until the store is closed.
fn run(inbox: &Inbox, log: &mut Log) {
    let mut tried = Instant::now();
    loop {
        let (commits, is_closed) = inbox.take(log.work());
        if commits.is_empty() && is_closed {
            break;
        }
        let is_idle = commits.is_empty();
        let mut bytes = 0;
        for group in groups(commits) {
            bytes += group.iter().map(Commit::bytes).sum::<usize>();
            log.commit(group);
        }
        let is_time = tried.elapsed() >= RETRY;
        if is_time {
            tried = Instant::now();
        }
        log.maintain(bytes, is_idle, is_time);
    }
    log.finish();
}

/// Splits what has gathered so that no group is too large to be waited for.
fn groups(commits: Vec<Commit>) -> impl Iterator<Item = Vec<Commit>> {
    let mut commits = commits.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut group = Vec::new();
        while bytes < GROUP_BYTES
            && let Some(commit) = commits.next()
        {
            bytes += commit.bytes();
            group.push(commit);
        }
        (!group.is_empty()).then_some(group)
    })
}

impl Store for LogStore {
    fn open_queue(&self, name: &str) -> Result<(QueueId, Vec<Entry>), StoreError> {
        if !(1..=QUEUE_NAME_BYTES_MAX).contains(&name.len()) {
            return Err(StoreError::QueueName { bytes: name.len() });
        }
        if self.inbox.lock().is_closed {
            return Err(StoreError::Closed);
        }
        let (id, was_open) = self.shared.index().open(name);
        if was_open {
            // What was committed to it before may still wait.
            self.wait(Durability::Process)?;
        }
        for _ in 0..READS_MAX {
            let places = self.shared.index().entries(id);
            if let Some(entries) = self.shared.read(&places)? {
                return Ok((id, entries));
            }
        }
        let error = std::io::Error::other("entries move faster than they are read");
        Err(StoreError::io("read", &self.shared.directory, error))
    }

    fn commit(&self, durability: Durability, operations: Vec<Operation>, done: Completion) {
        let bytes = operations.iter().map(operation_bytes).sum();
        if bytes > COMMIT_BYTES_MAX {
            return done(Err(StoreError::TooLarge { bytes }));
        }
        let mut waiting = self.inbox.lock();
        if waiting.is_closed {
            drop(waiting);
            return done(Err(StoreError::Closed));
        }
        waiting.commits.push(Commit {
            durability,
            operations,
            done,
        });
        drop(waiting);
        self.inbox.arrived.notify_one();
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.wait(Durability::Disk)
    }

    fn close(&self) {
        self.inbox.lock().is_closed = true;
        self.inbox.arrived.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // If it panicked, nothing is left to be done.
            drop(thread.join());
        }
    }

    fn statistics(&self) -> StoreStatistics {
        self.shared.index().statistics()
    }
}

impl LogStore {
    /// Waits until everything committed before is as durable as this.
    fn wait(&self, durability: Durability) -> Result<(), StoreError> {
        let (tell, told) = sync_channel(1);
        let done = move |result| drop(tell.send(result));
        self.commit(durability, Vec::new(), Box::new(done));
        told.recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.close();
    }
}
