//! Opens a log, whatever is in its directory.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{HEADER_BYTES, Header, Record, Records, VERSION};
use super::index::{Index, Location};
use super::scan::{Found, scan};
use super::shared::{segment_name, segment_number};

/// Bytes of the largest file that is taken for a segment.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Bytes that are given up at once where a file cannot be read.
const UNREADABLE_BYTES: usize = 4096;

/// The last segment as it was found, to be continued.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) end: u32,
    /// Bytes of the file.
    pub(super) bytes: u32,
}

/// Takes all segments of the directory into the index; sets aside what is damaged. The second part is the largest number
/// that any segment has.
pub(super) fn recover(disk: &dyn Disk, index: &mut Index) -> io::Result<(Option<Tail>, u32)> {
    let names = disk.list()?;
    let mut numbers: Vec<_> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    let mut tail = None;
    for (place, number) in numbers.iter().enumerate() {
        let end = trusted_end(disk, &numbers, *number);
        let is_last = place + 1 == numbers.len();
        tail = Segment::open(disk, *number)
            .and_then(|segment| segment.replay(index, end, is_last))
            .unwrap_or_else(|| {
                set_aside(disk, *number);
                index.statistics.damaged += 1;
                None
            });
    }
    Ok((tail, numbers.last().copied().unwrap_or(0)))
}

/// What the segment after this one, if there is one, says about how far this one can be trusted.
pub(super) fn trusted_end(disk: &dyn Disk, numbers: &[u32], number: u32) -> Option<usize> {
    let next = number
        .checked_add(1)
        .filter(|next| numbers.contains(next))?;
    let mut bytes = [0; HEADER_BYTES];
    let file = disk.open_to_read(&segment_name(next)).ok()?;
    file.read_at(&mut bytes, 0).ok()?;
    let header = Header::decode(&bytes)?;
    let is_ours = header.version == VERSION && header.number == next;
    usize::try_from(header.previous_end)
        .ok()
        .filter(|_| is_ours)
}

/// Gives a file that is no segment a name under which it is in nobody's way.
fn set_aside(disk: &dyn Disk, number: u32) {
    let name = segment_name(number);
    for attempt in 0..1000 {
        let aside = format!("{name}.foreign-{attempt}");
        if disk.list().is_ok_and(|names| names.contains(&aside)) {
            continue;
        }
        // Nothing else can be done about it; a new segment takes the next number.
        drop(disk.rename(&name, &aside));
        return;
    }
}

/// The bytes of a file; zeros where it cannot be read.
pub(super) fn read_segment(file: &dyn DiskFile) -> Option<Vec<u8>> {
    let length = file
        .bytes()
        .ok()
        .filter(|bytes| *bytes <= SEGMENT_BYTES_MAX)?;
    let mut bytes = Vec::new();
    let length = usize::try_from(length).ok()?;
    bytes.try_reserve_exact(length).ok()?;
    bytes.resize(length, 0);
    match file.read_at(&mut bytes, 0) {
        Ok(read) => bytes.truncate(read),
        Err(_) => {
            for (place, part) in bytes.chunks_mut(UNREADABLE_BYTES).enumerate() {
                if file
                    .read_at(part, (place * UNREADABLE_BYTES) as u64)
                    .is_err()
                {
                    part.fill(0);
                }
            }
        }
    }
    Some(bytes)
}

struct Segment<'a> {
    disk: &'a dyn Disk,
    number: u32,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
}

impl<'a> Segment<'a> {
    /// None if there is nothing that could be a segment.
    fn open(disk: &'a dyn Disk, number: u32) -> Option<Self> {
        let file = disk.open(&segment_name(number)).ok()?;
        Some(Self {
            disk,
            number,
            bytes: read_segment(&*file)?,
            file,
        })
    }

    /// Takes its commits into the index. None if it has to be set aside; a tail if it is the last and can be
    /// continued.
    fn replay(self, index: &mut Index, end: Option<usize>, is_last: bool) -> Option<Option<Tail>> {
        let trusted = &self.bytes[..end.unwrap_or(usize::MAX).min(self.bytes.len())];
        let header = Header::decode(trusted);
        if header.is_some_and(|header| header.version != VERSION || header.number != self.number) {
            index.statistics.damaged_bytes += self.bytes.len() as u64;
            return None;
        }
        if end.is_none() && !trusted.is_empty() {
            // Nothing says that an earlier process brought this to the disk. If that fails, it is as safe as before.
            drop(self.file.sync());
        }
        let end = scan(self.number, trusted, |found| match found {
            Found::Commit(body) => {
                for record in Records::new(trusted, body) {
                    replay(index, self.number, 0, record);
                }
            }
            Found::Damage(range) => self.set_aside(index, range.start, range.end),
        });
        let is_begun = is_last && self.bytes.len() <= HEADER_BYTES;
        if header.is_none() && (is_begun || self.bytes.iter().all(|byte| *byte == 0)) {
            // One whose header was not written, or one that became zeros. Nothing in it is worth keeping.
            if is_begun {
                index.statistics.torn_bytes += self.bytes.len() as u64;
            } else {
                index.statistics.damaged += 1;
                index.statistics.damaged_bytes += self.bytes.len() as u64;
            }
            drop(self.disk.remove(&segment_name(self.number)));
            return Some(None);
        }
        if header.is_none() && end.commits == 0 {
            index.statistics.damaged_bytes += self.bytes.len() as u64;
            return None;
        }
        if header.is_none() {
            self.set_aside(index, 0, HEADER_BYTES);
        }
        index.set_segment_bytes(self.number, self.bytes.len() as u64);
        if end.torn > 0 && !is_last {
            self.set_aside(index, end.at, end.at + end.torn);
        }
        if !is_last || header.is_none() {
            return Some(None);
        }
        let mut bytes = self.bytes.len();
        if end.torn > 0 {
            self.keep(end.at, end.at + end.torn);
            index.statistics.torn_bytes += end.torn as u64;
            if self.file.truncate(end.at as u64).is_err() {
                return Some(None);
            }
            bytes = end.at;
            index.set_segment_bytes(self.number, bytes as u64);
        }
        Some(Some(Tail {
            number: self.number,
            end: u32::try_from(end.at).ok()?,
            bytes: u32::try_from(bytes).ok()?,
            file: self.file,
        }))
    }

    fn set_aside(&self, index: &mut Index, start: usize, end: usize) {
        index.statistics.damaged += 1;
        index.statistics.damaged_bytes += (end - start) as u64;
        self.keep(start, end);
    }

    /// Copies bytes into a file of their own, unless an earlier start did.
    fn keep(&self, start: usize, end: usize) {
        let name = format!("{}.damaged-{start}", segment_name(self.number));
        if let Ok(file) = self.disk.create(&name)
            && file.write_at(&self.bytes[start..end], 0).is_err()
        {
            // No space: then rather none of it.
            drop(self.disk.remove(&name));
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
