//! The log as its one writer sees it: appends groups of commits, syncs, begins segments.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, read_all};
use super::format::{self, HEADER_BYTES, Header, Record, Records, VERSION};
use super::index::{Index, Location};
use super::{Completion, Durability, Entry, Key, Operation, QueueId, StoreError, StoreOptions};

/// A commit that waits for the writer.
pub(super) struct Commit {
    pub(super) durability: Durability,
    pub(super) operations: Vec<Operation>,
    pub(super) done: Completion,
}

/// What the writer and those who ask share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) disk: Box<dyn Disk>,
    index: Mutex<Index>,
}

impl Shared {
    pub(super) fn new(directory: PathBuf, disk: Box<dyn Disk>) -> Self {
        Self {
            directory,
            disk,
            index: Mutex::default(),
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads entries whose places are known. None if a segment went away meanwhile.
    pub(super) fn read(
        &self,
        places: &[(Key, Location)],
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let mut entries = Vec::with_capacity(places.len());
        let mut open: Option<(u32, Arc<dyn DiskFile>)> = None;
        for (key, place) in places {
            let name = segment_name(place.segment);
            let error = |error| StoreError::io("read", &self.directory.join(&name), error);
            let file = match &open {
                Some((number, file)) if *number == place.segment => file,
                _ => match self.disk.open(&name) {
                    Ok(file) => &open.insert((place.segment, file)).1,
                    Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(other) => return Err(error(other)),
                },
            };
            let mut value = vec![0; place.bytes as usize];
            let read = file
                .read_at(&mut value, u64::from(place.offset))
                .map_err(error)?;
            if read < value.len() {
                return Err(error(io::ErrorKind::UnexpectedEof.into()));
            }
            entries.push(Entry {
                key: *key,
                value: value.into(),
            });
        }
        Ok(Some(entries))
    }
}

pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.segment")
}

/// The number of the segment that has this name.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// The log, to be written.
#[derive(Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
    options: StoreOptions,
    active: Option<Active>,
    buffer: Vec<u8>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    number: u32,
    file: Arc<dyn DiskFile>,
    end: u32,
    /// Queues whose names are in it.
    defined: HashSet<QueueId>,
}

impl Log {
    pub(super) fn open(shared: Arc<Shared>, options: StoreOptions) -> Result<Self, StoreError> {
        let log = Self {
            shared,
            options,
            active: None,
            buffer: Vec::new(),
        };
        log.recover()
            .map_err(|error| StoreError::io("open the store in", &log.shared.directory, error))?;
        Ok(log)
    }

    fn recover(&self) -> io::Result<()> {
        let names = self.shared.disk.list()?;
        let mut numbers: Vec<_> = names
            .iter()
            .filter_map(|name| segment_number(name))
            .collect();
        numbers.sort_unstable();
        let mut index = self.shared.index();
        for number in numbers {
            let file = self.shared.disk.open(&segment_name(number))?;
            let bytes = read_all(&*file)?;
            index.set_segment_bytes(number, bytes.len() as u64);
            let mut at = HEADER_BYTES;
            while let Some(body) = format::frame(number, &bytes, at) {
                at = body.end;
                for record in Records::new(&bytes, body) {
                    replay(&mut index, number, record);
                }
            }
        }
        Ok(())
    }

    /// Writes a group of commits and tells each how it ended.
    pub(super) fn commit(&mut self, group: Vec<Commit>) {
        let result = self.write(&group).map_err(|error| {
            StoreError::io("write to the store in", &self.shared.directory, error)
        });
        let mut index = self.shared.index();
        let statistics = &mut index.statistics;
        match result {
            Ok(()) => statistics.commits += group.len() as u64,
            Err(_) => statistics.commits_failed += group.len() as u64,
        }
        drop(index);
        for commit in group {
            (commit.done)(result.clone());
        }
    }

    fn write(&mut self, group: &[Commit]) -> io::Result<()> {
        let sync = group
            .iter()
            .any(|commit| commit.durability == Durability::Disk);
        let shared = Arc::clone(&self.shared);
        if self
            .active
            .as_ref()
            .is_none_or(|active| active.end >= self.options.segment_bytes)
        {
            self.begin_segment()?;
        }
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        self.buffer.clear();
        let mut places = Vec::new();
        {
            let index = shared.index();
            for commit in group.iter().filter(|commit| !commit.operations.is_empty()) {
                let start = format::begin_frame(&mut self.buffer);
                for operation in &commit.operations {
                    let queue = operation.queue();
                    if active.defined.insert(queue)
                        && let Some(name) = index.name(queue)
                    {
                        format::put_definition(&mut self.buffer, queue, name);
                    }
                    match operation {
                        Operation::Put { queue, key, value } => {
                            places.push(format::put_entry(&mut self.buffer, *queue, *key, value));
                        }
                        Operation::Remove { queue, key } => {
                            format::put_removal(&mut self.buffer, *queue, *key);
                        }
                    }
                }
                format::end_frame(&mut self.buffer, start, active.number, active.end);
            }
        }
        active.file.write_at(&self.buffer, u64::from(active.end))?;
        if sync {
            active.file.sync()?;
        }
        let mut index = shared.index();
        index.statistics.groups += 1;
        index.statistics.syncs += u64::from(sync);
        let mut places = places.into_iter();
        for operation in group.iter().flat_map(|commit| &commit.operations) {
            match operation {
                Operation::Put { queue, key, value } => {
                    let at = places.next().unwrap_or_default() + active.end as usize;
                    let location = Location {
                        segment: active.number,
                        offset: u32::try_from(at).unwrap_or(u32::MAX),
                        bytes: u32::try_from(value.len()).unwrap_or(u32::MAX),
                    };
                    index.put(*queue, *key, location);
                }
                Operation::Remove { queue, key } => {
                    index.remove(*queue, *key);
                }
            }
        }
        active.end += u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        index.set_segment_bytes(active.number, u64::from(active.end));
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.active = None;
        let number = self.shared.index().newest_segment().unwrap_or(0) + 1;
        let file = self.shared.disk.create(&segment_name(number))?;
        let header = Header {
            version: VERSION,
            number,
            previous_end: u32::MAX,
        };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        self.shared.disk.sync_names()?;
        self.shared
            .index()
            .set_segment_bytes(number, HEADER_BYTES as u64);
        self.active = Some(Active {
            number,
            file,
            end: HEADER_BYTES as u32,
            defined: HashSet::new(),
        });
        Ok(())
    }
}

/// Takes a record of the log into the index.
fn replay(index: &mut Index, segment: u32, record: Record<'_>) {
    match record {
        Record::Define { queue, name } => index.define(queue, name),
        Record::Put { queue, key, value } => {
            let location = Location {
                segment,
                offset: u32::try_from(value.start).unwrap_or(u32::MAX),
                bytes: u32::try_from(value.len()).unwrap_or(u32::MAX),
            };
            index.put(queue, key, location);
        }
        Record::Remove { queue, key } => {
            index.remove(queue, key);
        }
    }
}
