//! What the writer and those who ask share.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::index::{Index, Location};
use super::{Entry, Key, StoreError};

/// Bytes that are read at once, unless one value has more.
const READ_BYTES: u32 = 256 << 10;

/// Bytes between two values that are read along.
const GAP_BYTES: u32 = 256;

/// A store's files and what is live in them.
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

    /// What to say of a file of this name that failed.
    pub(super) fn error(&self, action: &'static str, name: &str, error: io::Error) -> StoreError {
        StoreError::io(action, &self.directory.join(name), error)
    }

    /// Reads entries whose places are known. None if a segment went away meanwhile.
    pub(super) fn read(
        &self,
        places: &[(Key, Location)],
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let mut entries = Vec::with_capacity(places.len());
        let mut open: Option<(u32, Arc<dyn DiskFile>)> = None;
        let mut buffer = Vec::new();
        let mut rest = places;
        while let Some((_, first)) = rest.first() {
            let name = || segment_name(first.segment);
            let error = |error| StoreError::io("read", &self.directory.join(name()), error);
            let file = match &open {
                Some((number, file)) if *number == first.segment => file,
                _ => match self.disk.open_to_read(&name()) {
                    Ok(file) => &open.insert((first.segment, file)).1,
                    Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(other) => return Err(error(other)),
                },
            };
            let (neighbours, end) = neighbours(rest);
            buffer.resize((end - first.offset) as usize, 0);
            let read = file.read_at(&mut buffer, u64::from(first.offset));
            if read.map_err(error)? < buffer.len() {
                return Err(error(io::ErrorKind::UnexpectedEof.into()));
            }
            for (key, place) in &rest[..neighbours] {
                let start = (place.offset - first.offset) as usize;
                entries.push(Entry {
                    key: *key,
                    value: Bytes::copy_from_slice(&buffer[start..start + place.bytes as usize]),
                });
            }
            rest = &rest[neighbours..];
        }
        Ok(Some(entries))
    }
}

/// How many of the first places are so near each other that they are read at once, and where the last of them ends.
fn neighbours(places: &[(Key, Location)]) -> (usize, u32) {
    let first = places[0].1;
    let mut end = first.offset + first.bytes;
    for (count, (_, place)) in places.iter().enumerate().skip(1) {
        let is_near = place.segment == first.segment
            && (end..end.saturating_add(GAP_BYTES)).contains(&place.offset)
            && place.offset + place.bytes - first.offset <= READ_BYTES;
        if !is_near {
            return (count, end);
        }
        end = place.offset + place.bytes;
    }
    (places.len(), end)
}

pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.segment")
}

/// The number of the segment that has this name.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}
