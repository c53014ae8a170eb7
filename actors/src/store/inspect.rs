//! Looks into a store that no process has open, without changing it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use super::disk::{Directory, LOCK, is_no_file};
use super::format::{HEADER_BYTES, Header, Records, VERSION};
use super::recovery::{is_begun, read_segment, replay, segment_numbers, trusted_end};
use super::scan::{Found, scan};
use super::shared::{Shared, segment_name};
use super::writer::holder;
use super::{Entry, Space, StoreError};

/// Entries that are in memory at once.
const ENTRIES_AT_ONCE: usize = 64;

/// A store that is read offline, as it was when it was opened to be read.
///
/// As long as this lives, no process can open the store to write.
#[derive(Debug)]
pub struct StoreReader {
    shared: Shared,
    segments: Vec<SegmentReport>,
    _lock: Option<File>,
}

/// What to do if another process has the store open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InUse {
    /// Refuse.
    #[default]
    Refuse,
    /// Read what is there. It may change meanwhile: what is read may be old, and what is being written counts as torn.
    Read,
}

/// A queue in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueReport {
    /// Its name.
    pub name: String,
    /// Its entries in each space, in the order of [`Space::ALL`].
    pub entries: [u64; Space::ALL.len()],
    /// Bytes of their values.
    pub bytes: u64,
}

/// A file of a store's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Its name in the directory.
    pub file: String,
    /// Its bytes, zeros at its end included.
    pub bytes: u64,
    /// What kind of file it is.
    pub state: SegmentState,
    /// Whole commits in it.
    pub commits: u64,
    /// Damaged places in it.
    pub damaged: u64,
    /// Bytes of these.
    pub damaged_bytes: u64,
    /// Bytes of an unfinished write at its end.
    pub torn_bytes: u64,
}

/// What kind of file has the name of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// A segment of the version that this program writes.
    Sound,
    /// A segment whose header is damaged, or of which nothing but zeros is left.
    HeaderDamaged,
    /// A segment of another version.
    Version(u32),
    /// Something else.
    Foreign,
}

impl SegmentReport {
    /// Whether nothing in it is damaged or foreign.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.state == SegmentState::Sound && self.damaged == 0
    }
}

impl StoreReader {
    /// Reads all of the store in this directory.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process has the store open, unless told to read nevertheless;
    /// [`StoreError::NoStore`] if there is none; [`StoreError::Io`] if the directory or a segment cannot be read.
    pub fn open(directory: impl Into<PathBuf>, in_use: InUse) -> Result<Self, StoreError> {
        let path = directory.into();
        let disk = Directory::existing(path.clone())?;
        let lock = lock(&disk, &path, in_use)?;
        let shared = Shared::new(path, Box::new(disk));
        let numbers = segment_numbers(&shared)?;
        let mut segments = Vec::new();
        for (place, number) in numbers.iter().enumerate() {
            let end = trusted_end(&shared, &numbers, *number)?;
            let is_last = place + 1 == numbers.len();
            segments.push(look_at(&shared, *number, end, is_last)?);
        }
        Ok(Self {
            shared,
            segments,
            _lock: lock,
        })
    }

    /// The queues that hold anything, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueReport> {
        let index = self.shared.index();
        let mut reports = Vec::new();
        for (id, name) in index.queues() {
            let mut report = QueueReport {
                name: name.to_string(),
                entries: [0; Space::ALL.len()],
                bytes: 0,
            };
            for (key, place) in index.entries(id) {
                report.entries[key.space as usize - 1] += 1;
                report.bytes += u64::from(place.bytes);
            }
            if report.entries.iter().any(|entries| *entries > 0) {
                reports.push(report);
            }
        }
        reports.sort_by(|one, other| one.name.cmp(&other.name));
        reports
    }

    /// The files of the log, the oldest first.
    #[must_use]
    pub fn segments(&self) -> &[SegmentReport] {
        &self.segments
    }

    /// Names of files beside the log that hold what was set aside earlier.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the directory cannot be read.
    pub fn set_aside(&self) -> Result<Vec<String>, StoreError> {
        let names = self.shared.disk.list();
        let names = names.map_err(|error| StoreError::io("read", &self.shared.directory, error))?;
        let is_aside = |name: &String| name.contains(".segment.");
        Ok(names.into_iter().filter(is_aside).collect())
    }

    /// The entries of a queue, in order of their keys, read as they are asked for. None if there is no queue of this name.
    #[must_use]
    pub fn entries(&self, queue: &str) -> Option<impl Iterator<Item = Result<Entry, StoreError>>> {
        let index = self.shared.index();
        let places = index.entries(index.find(queue)?);
        drop(index);
        let mut places = places.into_iter().peekable();
        let pieces = std::iter::from_fn(move || {
            places.peek()?;
            let piece: Vec<_> = places.by_ref().take(ENTRIES_AT_ONCE).collect();
            let (entries, error) = match self.shared.read(&piece) {
                Ok(entries) => (entries.unwrap_or_default(), None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            Some(entries.into_iter().map(Ok).chain(error))
        });
        Some(pieces.flatten())
    }
}

fn lock(
    disk: &Directory,
    path: &std::path::Path,
    in_use: InUse,
) -> Result<Option<File>, StoreError> {
    // A store in a place that takes no writes may have no such file; then nobody writes there.
    let Ok(mut file) = disk.file(LOCK, OpenOptions::new().read(true)) else {
        return Ok(None);
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) if in_use == InUse::Read => Ok(None),
        Err(TryLockError::WouldBlock) => Err(holder(&mut file, path)),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path.join(LOCK), error)),
    }
}

/// Takes a segment into the index and says what it is like.
fn look_at(
    shared: &Shared,
    number: u32,
    end: Option<usize>,
    is_last: bool,
) -> Result<SegmentReport, StoreError> {
    let mut report = SegmentReport {
        file: segment_name(number),
        bytes: 0,
        state: SegmentState::Foreign,
        commits: 0,
        damaged: 0,
        damaged_bytes: 0,
        torn_bytes: 0,
    };
    let error = |error| shared.error("read", &segment_name(number), error);
    let file = match shared.disk.open_to_read(&report.file) {
        Err(other) if is_no_file(&other) => return Ok(report),
        file => file.map_err(error)?,
    };
    let Some(bytes) = read_segment(&*file).map_err(error)? else {
        report.bytes = file.bytes().map_err(error)?;
        return Ok(report);
    };
    let mut index = shared.index();
    let index = &mut *index;
    report.bytes = bytes.len() as u64;
    let trusted = &bytes[..end.unwrap_or(usize::MAX).min(bytes.len())];
    let header = Header::decode(trusted);
    match header {
        Some(header) if header.version != VERSION => {
            report.state = SegmentState::Version(header.version);
            return Ok(report);
        }
        Some(header) if header.number != number => return Ok(report),
        _ => {}
    }
    let end = scan(number, trusted, |found| match found {
        Found::Commit(body) => {
            for record in Records::new(trusted, body) {
                replay(index, number, 0, record);
            }
        }
        Found::Damage(range) => {
            report.damaged += 1;
            report.damaged_bytes += range.len() as u64;
        }
    });
    report.commits = end.commits as u64;
    report.torn_bytes = end.torn as u64;
    report.state = match header {
        Some(_) => SegmentState::Sound,
        None if end.commits > 0 => SegmentState::HeaderDamaged,
        None if is_last && is_begun(&bytes, number) => SegmentState::Sound,
        None if bytes.iter().all(|byte| *byte == 0) => SegmentState::HeaderDamaged,
        None => SegmentState::Foreign,
    };
    if report.state == SegmentState::HeaderDamaged {
        report.damaged += 1;
        report.damaged_bytes += HEADER_BYTES.min(bytes.len()) as u64;
    }
    Ok(report)
}
