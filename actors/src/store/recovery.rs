//! Opens a log, whatever is in its files.
//!
//! Only what a file contains can make it damaged or foreign. An error of the file system says nothing about that, so
//! it ends the attempt: the next one may find every message.

use std::io;
use std::sync::Arc;

use super::StoreError;
use super::aside::{set_aside, trim};
use super::disk::{DiskFile, is_no_file};
use super::format::{HEADER_BYTES, Header, Record, Records, VERSION};
use super::index::{Index, Location};
use super::scan::{Found, scan};
use super::shared::{Shared, segment_name, segment_number};

/// Bytes of the largest file that is taken for a segment.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The last segment as it was found, to be continued.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) end: u32,
    /// Bytes of the file.
    pub(super) bytes: u32,
}

/// Numbers up to this one are not used again after the file of this number was set aside. A larger one was not counted up
/// to by any store, and there has to be a number for the next segment.
const NUMBER_MAX: u32 = u32::MAX / 2;

/// Takes all segments of the directory into the index; sets aside what is damaged. The second part is the number after
/// which the next segment is to be.
pub(super) fn recover(shared: &Shared) -> Result<(Option<Tail>, u32), StoreError> {
    let mut index = shared.index();
    let index = &mut *index;
    let numbers = segment_numbers(shared)?;
    let mut tail = None;
    let mut largest = 0;
    for (place, number) in numbers.iter().enumerate() {
        let end = trusted_end(shared, &numbers, *number)?;
        let is_last = place + 1 == numbers.len();
        let replayed = match Segment::open(shared, *number)? {
            Some(segment) => segment.replay(index, end, is_last)?,
            None => Replayed::Foreign { version: None },
        };
        tail = None;
        if *number <= NUMBER_MAX {
            largest = *number;
        }
        match replayed {
            Replayed::Foreign { version } => {
                index.statistics.damaged += 1;
                let name = segment_name(*number);
                let why = version.map_or_else(
                    || "foreign".to_owned(),
                    |version| format!("version-{version}"),
                );
                let aside = set_aside(&*shared.disk, *number, &why)
                    .map_err(|error| shared.error("set aside", &name, error))?;
                let file = shared.directory.join(name);
                tracing::warn!(file = %file.display(), renamed = aside, "a file of the store is no segment of this version: it is set aside");
            }
            Replayed::Gone => {}
            Replayed::Whole(found) => {
                largest = *number;
                tail = found;
            }
        }
    }
    trim(shared, index);
    Ok((tail, largest))
}

/// The numbers of all files that are named like segments, in order.
pub(super) fn segment_numbers(shared: &Shared) -> Result<Vec<u32>, StoreError> {
    let names = shared.disk.list();
    let names = names.map_err(|error| StoreError::io("read", &shared.directory, error))?;
    let numbers = names.iter().filter_map(|name| segment_number(name));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What the segment after this one, if there is one, says about how far this one can be trusted.
pub(super) fn trusted_end(
    shared: &Shared,
    numbers: &[u32],
    number: u32,
) -> Result<Option<usize>, StoreError> {
    let next = number.checked_add(1);
    let Some(next) = next.filter(|next| numbers.contains(next)) else {
        return Ok(None);
    };
    let name = segment_name(next);
    let error = |error| shared.error("read", &name, error);
    let file = match shared.disk.open_to_read(&name) {
        Err(other) if is_no_file(&other) => return Ok(None),
        file => file.map_err(error)?,
    };
    let mut bytes = [0; HEADER_BYTES];
    file.read_at(&mut bytes, 0).map_err(error)?;
    let header = Header::decode(&bytes);
    let header = header.filter(|header| header.version == VERSION && header.number == next);
    Ok(header.and_then(|header| usize::try_from(header.previous_end).ok()))
}

/// The bytes of a file. None if it is too large to be a segment.
pub(super) fn read_segment(file: &dyn DiskFile) -> io::Result<Option<Vec<u8>>> {
    let length = file.bytes()?;
    if length > SEGMENT_BYTES_MAX {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(length, 0);
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Whether these bytes can be the beginning of a segment of this number whose header was being written.
pub(super) fn is_begun(bytes: &[u8], number: u32) -> bool {
    let header = Header {
        version: VERSION,
        number,
        previous_end: 0,
    };
    let header = header.encode();
    // What comes behind the number is not known.
    let known = bytes.iter().zip(&header[..16]);
    bytes.len() <= HEADER_BYTES
        && known
            .into_iter()
            .all(|(byte, expected)| *byte == 0 || byte == expected)
}

/// What became of a file.
enum Replayed {
    /// It has to be set aside; with the version if it is a segment of another one.
    Foreign { version: Option<u32> },
    /// It held nothing and was removed.
    Gone,
    /// It is part of the log; a tail if it can be continued.
    Whole(Option<Tail>),
}

struct Segment<'a> {
    shared: &'a Shared,
    number: u32,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
}

impl<'a> Segment<'a> {
    /// None if there is nothing that could be a segment.
    fn open(shared: &'a Shared, number: u32) -> Result<Option<Self>, StoreError> {
        let name = segment_name(number);
        let file = match shared.disk.open(&name) {
            Err(other) if is_no_file(&other) => return Ok(None),
            file => file.map_err(|error| shared.error("open", &name, error))?,
        };
        let bytes = read_segment(&*file).map_err(|error| shared.error("read", &name, error))?;
        Ok(bytes.map(|bytes| Self {
            shared,
            number,
            file,
            bytes,
        }))
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        let (shared, name) = (self.shared, segment_name(self.number));
        move |error| shared.error(action, &name, error)
    }

    /// Takes its commits into the index.
    fn replay(
        self,
        index: &mut Index,
        end: Option<usize>,
        is_last: bool,
    ) -> Result<Replayed, StoreError> {
        let trusted = &self.bytes[..end.unwrap_or(usize::MAX).min(self.bytes.len())];
        let header = Header::decode(trusted);
        if let Some(header) = &header
            && (header.version != VERSION || header.number != self.number)
        {
            index.statistics.damaged_bytes += self.bytes.len() as u64;
            let version = Some(header.version).filter(|version| *version != VERSION);
            return Ok(Replayed::Foreign { version });
        }
        if end.is_none() && !trusted.is_empty() {
            // Nothing says that an earlier process brought this to the disk. What is built upon has to be there.
            self.file.sync().map_err(self.error("sync"))?;
        }
        let end = scan(self.number, trusted, |found| match found {
            Found::Commit(body) => {
                for record in Records::new(trusted, body) {
                    replay(index, self.number, 0, record);
                }
            }
            Found::Damage(range) => self.set_aside(index, range.start, range.end),
        });
        let is_begun = is_last && is_begun(&self.bytes, self.number);
        if header.is_none() && (is_begun || self.bytes.iter().all(|byte| *byte == 0)) {
            // One whose header was not written, or one that became zeros. Nothing in it is worth keeping.
            if is_begun {
                index.statistics.torn_bytes += self.bytes.len() as u64;
            } else {
                index.statistics.damaged += 1;
                index.statistics.damaged_bytes += self.bytes.len() as u64;
                tracing::warn!(file = %self.path(), bytes = self.bytes.len(), "a segment of the store lost all it held: nothing but zeros was left, and it is removed");
            }
            let removed = self.shared.disk.remove(&segment_name(self.number));
            removed.map_err(self.error("remove"))?;
            return Ok(Replayed::Gone);
        }
        if header.is_none() && end.commits == 0 {
            index.statistics.damaged_bytes += self.bytes.len() as u64;
            return Ok(Replayed::Foreign { version: None });
        }
        if header.is_none() {
            self.set_aside(index, 0, HEADER_BYTES);
        }
        index.set_segment_bytes(self.number, self.bytes.len() as u64);
        if end.torn > 0 && !is_last {
            self.set_aside(index, end.at, end.at + end.torn);
        }
        if !is_last || header.is_none() {
            return Ok(Replayed::Whole(None));
        }
        let mut bytes = self.bytes.len();
        if end.torn > 0 {
            let kept = self.keep(end.at, end.at + end.torn);
            tracing::warn!(file = %self.path(), offset = end.at, bytes = end.torn, kept, "an unfinished write at the end of the store is cut off");
            index.statistics.torn_bytes += end.torn as u64;
            let cut = self.file.truncate(end.at as u64);
            cut.and_then(|()| self.file.sync())
                .map_err(self.error("cut"))?;
            bytes = end.at;
            index.set_segment_bytes(self.number, bytes as u64);
        }
        Ok(Replayed::Whole(Some(Tail {
            number: self.number,
            // A segment has at most 2^30 bytes.
            end: u32::try_from(end.at).unwrap_or(u32::MAX),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            file: self.file,
        })))
    }

    fn path(&self) -> String {
        let path = self.shared.directory.join(segment_name(self.number));
        path.display().to_string()
    }

    fn set_aside(&self, index: &mut Index, start: usize, end: usize) {
        index.statistics.damaged += 1;
        index.statistics.damaged_bytes += (end - start) as u64;
        let kept = self.keep(start, end);
        tracing::warn!(file = %self.path(), offset = start, bytes = end - start, kept, "a part of the store is damaged and left out");
    }

    /// Copies bytes into a file of their own, unless an earlier start did. Says where they are.
    fn keep(&self, start: usize, end: usize) -> String {
        let name = format!("{}.damaged-{start}", segment_name(self.number));
        let file = match self.shared.disk.create(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return name,
            file => file,
        };
        match file.and_then(|file| file.write_at(&self.bytes[start..end], 0)) {
            Ok(()) => name,
            Err(error) => {
                // No space: then rather none of it.
                drop(self.shared.disk.remove(&name));
                format!("nowhere: {error}")
            }
        }
    }
}

/// Takes a record into the index. Its segment has at `base` what the record was read from.
pub(super) fn replay(index: &mut Index, segment: u32, base: u32, record: Record<'_>) {
    match record {
        Record::Define { queue, name } => index.define(queue, name),
        Record::Put { queue, key, value } => {
            let location = Location {
                segment,
                // A segment has less than 2^30 bytes.
                offset: base.saturating_add(u32::try_from(value.start).unwrap_or(u32::MAX)),
                bytes: u32::try_from(value.len()).unwrap_or(u32::MAX),
            };
            index.put(queue, key, location);
        }
        Record::Remove { queue, key } => {
            index.remove(queue, key);
        }
    }
}
