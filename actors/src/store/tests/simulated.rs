//! A disk in memory that forgets what was not synced, tears writes, fills up and fails, as a seed says.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use super::super::disk::{Disk, DiskFile};

/// What is written or lost as one.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Rng,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since they were synced.
    renamings: Vec<(String, Option<usize>)>,
    files: Vec<Content>,
    operations: u64,
    crash_at: u64,
    faults: Option<(Range<u64>, io::ErrorKind)>,
    capacity: usize,
    unreadable: Option<(String, Step)>,
    has_forgotten: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// What one does with a file before one knows what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Open,
    Size,
    Read,
    Sync,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl SimulatedDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Rng::with_seed(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamings: Vec::new(),
            files: Vec::new(),
            operations: 0,
            crash_at: u64::MAX,
            faults: None,
            capacity: usize::MAX,
            unreadable: None,
            has_forgotten: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the operation of this number on, nothing works any more.
    pub(super) fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = state.operations + operations;
    }

    pub(super) fn has_crashed(&self) -> bool {
        let state = self.state();
        state.operations >= state.crash_at
    }

    /// The operations that are so many away fail.
    pub(super) fn fail(&self, operations: Range<u64>, kind: io::ErrorKind) {
        let mut state = self.state();
        let now = state.operations;
        state.faults = Some((now + operations.start..now + operations.end, kind));
    }

    /// This step fails for the file of this name until it is told otherwise.
    pub(super) fn refuse(&self, refused: Option<(&str, Step)>) {
        self.state().unreadable = refused.map(|(name, step)| (name.to_owned(), step));
    }

    pub(super) fn set_capacity(&self, bytes: usize) {
        self.state().capacity = bytes;
    }

    /// Whether a sync that failed threw away what was written, since this was set to false.
    pub(super) fn has_forgotten(&self) -> bool {
        self.state().has_forgotten
    }

    pub(super) fn forgive(&self) {
        self.state().has_forgotten = false;
    }

    pub(super) fn used(&self) -> usize {
        self.state().used()
    }

    /// The files as another process finds them when this one was killed, or after the power was lost.
    pub(super) fn survivors(&self, is_power_lost: bool) -> Self {
        let mut state = self.state();
        let seed = state.random.u64(..);
        let next = Self::new(seed);
        let mut found = next.state();
        if is_power_lost {
            found.names = state.durable_names.clone();
            for (name, file) in state.renamings.clone() {
                if state.random.bool() {
                    match file {
                        Some(file) => drop(found.names.insert(name, file)),
                        None => drop(found.names.remove(&name)),
                    }
                }
            }
            for content in state.files.clone() {
                let current = content.after_power_loss(&mut state.random);
                found.files.push(Content {
                    durable: current.clone(),
                    current,
                    unsynced: Vec::new(),
                });
            }
            found.durable_names = found.names.clone();
        } else {
            found.names = state.names.clone();
            found.durable_names = state.durable_names.clone();
            found.renamings = state.renamings.clone();
            found.files = state.files.clone();
        }
        drop(found);
        next
    }

    /// The bytes of a file, to be damaged.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.names[name];
        change(&mut state.files[file].current);
        state.files[file].durable = state.files[file].current.clone();
    }
}

impl Content {
    fn after_power_loss(self, random: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable;
        for change in self.unsynced {
            match change {
                Change::Truncate(length) if random.bool() => bytes.resize(length, 0),
                Change::Truncate(_) => {}
                Change::Write(offset, written) => {
                    let fate = random.u8(0..3);
                    let mut at = 0;
                    while at < written.len() {
                        let end = written
                            .len()
                            .min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
                        if fate == 1 || (fate == 2 && random.bool()) {
                            put(&mut bytes, offset + at, &written[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

impl State {
    fn used(&self) -> usize {
        self.names
            .values()
            .map(|file| self.files[*file].current.len())
            .sum()
    }

    /// Counts an operation. Fails if it is to.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.operations >= self.crash_at {
            return Err(io::Error::other("crashed"));
        }
        match &self.faults {
            Some((when, kind)) if when.contains(&self.operations) => Err((*kind).into()),
            _ => Ok(()),
        }
    }

    /// Fails if this step is refused for this file.
    fn ask(&self, file: usize, step: Step) -> io::Result<()> {
        match &self.unreadable {
            Some((name, refused)) if *refused == step && self.names.get(name) == Some(&file) => {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            _ => Ok(()),
        }
    }

    fn name(&mut self, name: &str, file: Option<usize>) {
        match file {
            Some(file) => drop(self.names.insert(name.to_owned(), file)),
            None => drop(self.names.remove(name)),
        }
        self.renamings.push((name.to_owned(), file));
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.name(name, Some(file));
        let disk = self.clone();
        Ok(Arc::new(SimulatedFile { disk, file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.ask(file, Step::Open)?;
        let disk = self.clone();
        Ok(Arc::new(SimulatedFile { disk, file }))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(name, None);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.name(from, None);
        state.name(to, Some(file));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable_names = state.names.clone();
        state.renamings.clear();
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.ask(self.file, Step::Size)?;
        Ok(state.files[self.file].current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.ask(self.file, Step::Read)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = state.files[self.file]
            .current
            .get(offset..)
            .unwrap_or_default();
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut result = state.step();
        let mut written = bytes.len();
        if result.is_err() {
            written = state.random.usize(0..=bytes.len());
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let grows = (offset + written).saturating_sub(state.files[self.file].current.len());
        let room = state.capacity.saturating_sub(state.used());
        if grows > room {
            written = written.saturating_sub(grows - room);
            result = result.and(Err(io::ErrorKind::StorageFull.into()));
        }
        let content = &mut state.files[self.file];
        if written > 0 {
            put(&mut content.current, offset, &bytes[..written]);
            let change = Change::Write(offset, bytes[..written].to_vec());
            content.unsynced.push(change);
        }
        result
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let content = &mut state.files[self.file];
        content.current.resize(length, 0);
        content.unsynced.push(Change::Truncate(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.ask(self.file, Step::Sync)?;
        if let Err(error) = state.step() {
            // What could not be written may be gone from the cache too, and the next sync says that all is well.
            let is_forgotten = state.random.bool() && state.operations < state.crash_at;
            let content = &mut state.files[self.file];
            if is_forgotten {
                content.current = content.durable.clone();
                content.unsynced.clear();
                state.has_forgotten = true;
            }
            return Err(error);
        }
        let content = &mut state.files[self.file];
        for change in std::mem::take(&mut content.unsynced) {
            match change {
                Change::Write(offset, written) => put(&mut content.durable, offset, &written),
                Change::Truncate(length) => content.durable.resize(length, 0),
            }
        }
        Ok(())
    }
}
