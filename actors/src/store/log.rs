//! The log as its one writer sees it: appends groups of commits, syncs, begins segments, outlives a failing disk.
//!
//! What was written since the last sync is also kept in memory (at most [`UNSYNCED_BYTES_MAX`], then a sync is due).
//! If a write or a sync fails, the segment is trusted up to its last sync only and never written to again: the next
//! one says so in its header, and begins with what was kept.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::compaction::Cursor;
use super::disk::DiskFile;
use super::format::{self, FRAME_BYTES, HEADER_BYTES, Header, Records, VERSION, operation_bytes};
use super::index::{Index, NumberHash};
use super::recovery::{recover, replay};
use super::room::{Lack, Room};
use super::shared::{Shared, segment_name};
use super::{Completion, Durability, Key, Operation, QueueId, StoreError, StoreOptions};

/// Bytes that are written and not synced, at most.
const UNSYNCED_BYTES_MAX: usize = 4 << 20;

/// Bytes of the buffers that are kept for the next group.
const KEPT_BYTES: usize = 512 << 10;

/// Bytes of zeros that are written ahead of the end: a sync of bytes that the file has already is cheaper.
static AHEAD: [u8; 256 << 10] = [0; 256 << 10];

/// The file that is given up when the disk is full.
pub(super) const RESERVE: &str = "reserve";

/// Removals that could not be recorded are recorded so many at once.
const REMOVALS_AT_ONCE: usize = 4096;

/// A commit that waits for the writer.
pub(super) struct Commit {
    pub(super) durability: Durability,
    pub(super) operations: Vec<Operation>,
    pub(super) done: Completion,
}

impl Commit {
    fn only_removes(&self) -> bool {
        let is_removal = |operation| matches!(operation, &Operation::Remove { .. });
        self.operations.iter().all(is_removal)
    }

    /// Bytes that it needs in the log, about.
    pub(super) fn bytes(&self) -> usize {
        self.operations.iter().map(operation_bytes).sum()
    }
}

/// The log, to be written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) options: StoreOptions,
    pub(super) active: Option<Active>,
    /// The largest number of a segment so far.
    number: u32,
    /// Where the last segment that is not trusted to its end ends.
    previous_end: u32,
    /// Frames that are acknowledged and not synced.
    pub(super) unsynced: Vec<u8>,
    /// Frames that are to be written next.
    buffer: Vec<u8>,
    /// Queues whose names are in these and in no earlier frame of the segment.
    defined: Vec<QueueId>,
    /// Removals in force that could not be recorded yet.
    removals: BTreeSet<(QueueId, Key)>,
    has_reserve: bool,
    pub(super) cursor: Option<Cursor>,
    /// Whether what is done between commits failed last time.
    pub(super) is_stuck: bool,
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u32,
    file: Arc<dyn DiskFile>,
    pub(super) end: u32,
    synced: u32,
    /// Bytes of the file.
    bytes: u32,
    /// Queues whose names are in it.
    defined: HashSet<QueueId, NumberHash>,
}

impl Log {
    pub(super) fn open(shared: Arc<Shared>, options: StoreOptions) -> Result<Self, StoreError> {
        let (tail, number) = recover(&shared)?;
        let found = shared.index().statistics();
        tracing::info!(
            directory = %shared.directory.display(),
            queues = found.queues,
            entries = found.entries,
            bytes = found.bytes,
            "opened the store"
        );
        let mut log = Self {
            shared,
            options: StoreOptions {
                segment_bytes: options.segment_bytes.clamp(4 << 10, 256 << 20),
                ..options
            },
            active: None,
            number,
            previous_end: u32::MAX,
            unsynced: Vec::new(),
            buffer: Vec::new(),
            defined: Vec::new(),
            removals: BTreeSet::new(),
            has_reserve: false,
            cursor: None,
            is_stuck: false,
        };
        if let Some(tail) = tail {
            log.active = Some(Active {
                number: tail.number,
                file: tail.file,
                end: tail.end,
                synced: tail.end,
                bytes: tail.bytes,
                defined: HashSet::default(),
            });
        }
        log.take_reserve();
        Ok(log)
    }

    /// Writes a group of commits and tells each how it ended.
    pub(super) fn commit(&mut self, group: Vec<Commit>) {
        let mut refusals = self.refusals(&group);
        let result = loop {
            let Err(error) = self.write_group(&group, &refusals) else {
                break Ok(());
            };
            let is_first = !std::mem::replace(&mut self.shared.index().statistics.is_failing, true);
            if is_full(&error) {
                self.shared.index().statistics.is_full = true;
                let refused = refusals.iter().flatten().count();
                refusals = self.refusals(&group);
                let is_other = refusals.iter().flatten().count() != refused;
                let is_other = self.give_reserve() || is_other;
                if is_other {
                    continue;
                }
            } else if is_first {
                // Once more, with a segment of its own.
                continue;
            }
            break Err(self.error(error));
        };
        let mut index = self.shared.index();
        index.statistics.is_failing = result.is_err();
        let mut results = Vec::with_capacity(group.len());
        for (commit, refusal) in group.iter().zip(refusals) {
            // What a commit that only removes asks for is in force, and recorded when that is possible again.
            if refusal.is_none() && result.is_err() && commit.only_removes() {
                for operation in &commit.operations {
                    let (queue, key) = (operation.queue(), operation.key());
                    if index.remove(queue, key) {
                        self.removals.insert((queue, key));
                    }
                }
            }
            let result = refusal.map_or_else(|| result.clone(), Err);
            match result {
                Ok(()) => index.statistics.commits += 1,
                Err(_) => index.statistics.commits_failed += 1,
            }
            results.push(result);
        }
        drop(index);
        for (commit, result) in group.into_iter().zip(results) {
            // A caller's panic, which has told about itself, is no reason for the others to wait for ever.
            drop(catch_unwind(AssertUnwindSafe(|| (commit.done)(result))));
        }
    }

    /// Why commits are not even tried.
    fn refusals(&self, group: &[Commit]) -> Vec<Option<StoreError>> {
        let index = self.shared.index();
        let coming = group.iter().map(Commit::bytes).sum::<usize>() as u64;
        let mut room = Room::new(&index, self.options.live_bytes_max, coming);
        let refusal = |commit: &Commit| {
            let mut queues = commit.operations.iter().map(Operation::queue);
            if let Some(queue) = queues.find(|queue| !index.is_known(*queue)) {
                return Some(StoreError::UnknownQueue(queue));
            }
            let lack = room.admit(&commit.operations).err()?;
            Some(self.full(lack))
        };
        group.iter().map(refusal).collect()
    }

    fn full(&self, lack: Lack) -> StoreError {
        StoreError::Full {
            directory: self.shared.directory.clone(),
            live_bytes_max: match lack {
                Lack::Disk => None,
                Lack::Bound(bytes) => Some(bytes),
            },
        }
    }

    fn error(&self, error: io::Error) -> StoreError {
        let directory = self.shared.directory.clone();
        match error.kind() {
            _ if is_full(&error) => self.full(Lack::Disk),
            io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { directory },
            _ => StoreError::io("write to", &directory, error),
        }
    }

    fn write_group(&mut self, group: &[Commit], refusals: &[Option<StoreError>]) -> io::Result<()> {
        let accepted = || {
            let pairs = group.iter().zip(refusals);
            pairs.filter_map(|(commit, refusal)| refusal.is_none().then_some(commit))
        };
        let sync = accepted().any(|commit| commit.durability == Durability::Disk);
        let mut commits = accepted()
            .filter(|commit| !commit.operations.is_empty())
            .peekable();
        let is_synced = !sync || self.unsynced.is_empty();
        if commits.peek().is_none() && is_synced {
            return Ok(());
        }
        // A crash must not find what comes now and still what was to be gone before it.
        self.record_removals()?;
        self.make_room()?;
        let shared = Arc::clone(&self.shared);
        let index = shared.index();
        for commit in commits {
            self.append(&index, |log, index| {
                for operation in &commit.operations {
                    log.define(index, operation.queue());
                    match operation {
                        Operation::Put { queue, key, value } => {
                            format::put_entry(&mut log.buffer, *queue, *key, value);
                        }
                        Operation::Remove { queue, key } => {
                            format::put_removal(&mut log.buffer, *queue, *key);
                        }
                    }
                }
            });
        }
        drop(index);
        self.write(sync)
    }

    /// Sees to it that there is a segment to write to.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        match &self.active {
            Some(active) if active.end < self.options.segment_bytes => Ok(()),
            _ => self.begin_segment(),
        }
    }

    /// Adds a frame to what is written next.
    pub(super) fn append(&mut self, index: &Index, records: impl FnOnce(&mut Self, &Index)) {
        let start = format::begin_frame(&mut self.buffer);
        records(self, index);
        if let Some(active) = &self.active {
            format::end_frame(&mut self.buffer, start, active.number, active.end);
        }
    }

    /// Adds the name of a queue to the frame, unless the segment has it. So every segment explains itself.
    fn define(&mut self, index: &Index, queue: QueueId) {
        if let Some(active) = &mut self.active
            && active.defined.insert(queue)
        {
            self.defined.push(queue);
            if let Some(name) = index.name(queue) {
                format::put_definition(&mut self.buffer, queue, name);
            }
        }
    }

    /// Adds an entry in a frame of its own.
    pub(super) fn append_entry(&mut self, index: &Index, queue: QueueId, key: Key, value: &[u8]) {
        self.append(index, |log, index| {
            log.define(index, queue);
            format::put_entry(&mut log.buffer, queue, key, value);
        });
    }

    /// Bytes that wait to be written.
    pub(super) fn appended(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what was added, syncs if asked, and takes it into the index.
    pub(super) fn write(&mut self, sync: bool) -> io::Result<()> {
        let result = self.try_write(sync);
        if result.is_err() {
            if let Some(active) = &mut self.active {
                for queue in &self.defined {
                    active.defined.remove(queue);
                }
            }
            self.defined.clear();
            self.buffer.clear();
        }
        result
    }

    fn try_write(&mut self, sync: bool) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let sync = sync || self.unsynced.len() + self.buffer.len() > UNSYNCED_BYTES_MAX;
        let end = active.end + u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        if let Err(error) = active.file.write_at(&self.buffer, u64::from(active.end)) {
            let is_cut = is_full(&error) && active.file.truncate(u64::from(active.end)).is_ok();
            if is_cut {
                active.bytes = active.end;
            } else {
                self.abandon();
            }
            return Err(error);
        }
        active.bytes = active.bytes.max(end);
        if sync {
            // A large group pays for its size by itself.
            let ahead = AHEAD
                .len()
                .min(self.options.segment_bytes.saturating_sub(end) as usize);
            let is_ahead = end == active.bytes
                && self.buffer.len() < ahead / 4
                && active
                    .file
                    .write_at(&AHEAD[..ahead], u64::from(end))
                    .is_ok();
            if is_ahead {
                active.bytes += ahead as u32;
            }
            if let Err(error) = active.file.sync() {
                self.abandon();
                return Err(error);
            }
            self.unsynced.clear();
            self.unsynced.shrink_to(KEPT_BYTES);
        } else {
            self.unsynced.extend_from_slice(&self.buffer);
        }
        let mut index = self.shared.index();
        index.statistics.groups += 1;
        index.statistics.syncs += u64::from(sync);
        drop(index);
        self.taken();
        Ok(())
    }

    /// Leaves a segment that failed. What is not synced goes to the next one.
    fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            self.previous_end = active.synced;
        }
    }

    /// Begins a segment, with what is not synced in the one before if that failed.
    pub(super) fn begin_segment(&mut self) -> io::Result<()> {
        if !self.unsynced.is_empty() && self.active.is_some() {
            // Only the last segment has anything that is not synced.
            self.write(true)?;
        }
        if let Some(active) = &self.active
            && active.bytes > active.end
            && active.file.truncate(u64::from(active.end)).is_ok()
        {
            let mut index = self.shared.index();
            index.set_segment_bytes(active.number, u64::from(active.end));
        }
        let number = self.number.checked_add(1);
        let number =
            number.ok_or_else(|| io::Error::other("the numbers of segments are used up"))?;
        let name = segment_name(number);
        let file = match self.shared.disk.create(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An earlier attempt left it.
                self.shared.disk.remove(&name)?;
                self.shared.disk.create(&name)?
            }
            other => other?,
        };
        let header = Header {
            version: VERSION,
            number,
            previous_end: if self.active.is_some() {
                u32::MAX
            } else {
                self.previous_end
            },
        };
        let previous_end = self.previous_end;
        let before = self.active.replace(Active {
            number,
            file: Arc::clone(&file),
            end: HEADER_BYTES as u32,
            synced: HEADER_BYTES as u32,
            bytes: HEADER_BYTES as u32,
            defined: HashSet::default(),
        });
        let unsynced = std::mem::take(&mut self.unsynced);
        self.append_again(&unsynced);
        if let Err(error) = self.fill_segment(&*file, header) {
            self.active = before;
            self.previous_end = previous_end;
            self.unsynced = unsynced;
            self.defined.clear();
            self.buffer.clear();
            drop(self.shared.disk.remove(&name));
            return Err(error);
        }
        self.taken();
        self.number = number;
        self.previous_end = u32::MAX;
        Ok(())
    }

    /// Writes the first of a segment. The header comes last: as long as it is not there, the segment before counts.
    fn fill_segment(&self, file: &dyn DiskFile, header: Header) -> io::Result<()> {
        self.shared.disk.sync_names()?;
        if !self.buffer.is_empty() {
            file.write_at(&self.buffer, HEADER_BYTES as u64)?;
            file.sync()?;
        }
        file.write_at(&header.encode(), 0)?;
        file.sync()
    }

    /// Takes what was written into the index.
    fn taken(&mut self) {
        if let Some(active) = &mut self.active {
            let end = active.end + u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
            active.bytes = active.bytes.max(end);
            let mut index = self.shared.index();
            take(&mut index, active.number, active.end, &self.buffer);
            index.set_segment_bytes(active.number, u64::from(active.bytes));
            active.end = end;
            if self.unsynced.is_empty() {
                active.synced = end;
            }
        }
        self.defined.clear();
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
    }

    /// Adds frames of another segment.
    fn append_again(&mut self, frames: &[u8]) {
        let shared = Arc::clone(&self.shared);
        let index = shared.index();
        for body in bodies(frames) {
            self.append(&index, |log, index| {
                for record in Records::new(frames, body.clone()) {
                    log.define(index, record.queue());
                }
                log.buffer.extend_from_slice(&frames[body]);
            });
        }
    }

    /// Brings everything to the disk, so that a crash of the machine loses nothing from now on.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        self.write(true)
    }

    /// Records removals that could not be recorded when they were asked for.
    pub(super) fn record_removals(&mut self) -> io::Result<()> {
        while !self.removals.is_empty() {
            let some: Vec<_> = self
                .removals
                .iter()
                .take(REMOVALS_AT_ONCE)
                .copied()
                .collect();
            self.make_room()?;
            let shared = Arc::clone(&self.shared);
            self.append(&shared.index(), |log, index| {
                for (queue, key) in &some {
                    log.define(index, *queue);
                    format::put_removal(&mut log.buffer, *queue, *key);
                }
            });
            self.write(false)?;
            for removal in &some {
                self.removals.remove(removal);
            }
        }
        Ok(())
    }

    pub(super) fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    /// Makes the reserved space ready, and says whether there is enough room for it. Then the disk is not full.
    pub(super) fn take_reserve(&mut self) -> bool {
        let bytes = self.options.reserve_bytes as usize;
        if !self.has_reserve && bytes > 0 {
            let disk = &self.shared.disk;
            let there = disk.open(RESERVE).and_then(|file| file.bytes());
            self.has_reserve = there.is_ok_and(|there| there == bytes as u64)
                || self
                    .fill_reserve(bytes)
                    .map_err(|_| drop(disk.remove(RESERVE)))
                    .is_ok();
        }
        let is_there = self.has_reserve || bytes == 0;
        self.shared.index().statistics.is_full = !is_there;
        is_there
    }

    fn fill_reserve(&self, bytes: usize) -> io::Result<()> {
        drop(self.shared.disk.remove(RESERVE));
        let file = self.shared.disk.create(RESERVE)?;
        // Room for as much again has to be there, or the next message would find the disk full once more.
        for start in (0..2 * bytes).step_by(AHEAD.len()) {
            file.write_at(&AHEAD[..AHEAD.len().min(2 * bytes - start)], start as u64)?;
        }
        file.truncate(bytes as u64)?;
        file.sync()
    }

    /// Gives the reserved space up, and says whether there was any.
    fn give_reserve(&mut self) -> bool {
        std::mem::take(&mut self.has_reserve) && self.shared.disk.remove(RESERVE).is_ok()
    }
}

/// Takes the records of frames into the index; they are at `base` of the segment.
fn take(index: &mut Index, segment: u32, base: u32, frames: &[u8]) {
    for body in bodies(frames) {
        for record in Records::new(frames, body) {
            replay(index, segment, base, record);
        }
    }
}

/// The records of each of these frames, which this process has made.
fn bodies(frames: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = frames.get(at..at + 4)?.try_into().ok()?;
        let start = at + FRAME_BYTES;
        at = start + u32::from_le_bytes(length) as usize;
        Some(start..at)
    })
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
