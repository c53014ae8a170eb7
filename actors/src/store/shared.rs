//! What the writer and those who ask share.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};
use super::index::{Index, Location};
use super::{Entry, Key, StoreError};

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

    /// Reads entries whose places are known. None if a segment went away meanwhile.
    pub(super) fn read(
        &self,
        places: &[(Key, Location)],
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let mut entries = Vec::with_capacity(places.len());
        let mut open: Option<(u32, Arc<dyn DiskFile>)> = None;
        for (key, place) in places {
            let name = || segment_name(place.segment);
            let error = |error| StoreError::io("read", &self.directory.join(name()), error);
            let file = match &open {
                Some((number, file)) if *number == place.segment => file,
                _ => match self.disk.open_to_read(&name()) {
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
