//! Gives old segments back: what is live in the oldest is appended again, then the file goes. A removal so needs to
//! be kept only as long as its segment, for nothing older is left when that is the oldest.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::aside::{set_aside, trim};
use super::format::{Record, Records};
use super::index::{Index, Location};
use super::log::Log;
use super::recovery::read_segment;
use super::scan::{Found, scan};
use super::shared::segment_name;
use super::{Key, QueueId};

/// Bytes that are moved at once, about.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// Bytes of a segment that is kept even if nothing is live in it.
const IDLE_BYTES_MAX: u64 = 64 << 10;

/// The oldest segment while it is being emptied.
#[derive(Debug)]
pub(super) struct Cursor {
    number: u32,
    bytes: Vec<u8>,
    /// What was live in it when it was read, and how far that was looked at.
    live: Vec<(QueueId, Key, Range<usize>)>,
    next: usize,
}

impl Log {
    /// Whether the oldest segment is to be given back.
    pub(super) fn has_surplus(&self) -> bool {
        let index = self.shared.index();
        let Some((number, oldest)) = index.oldest_segment() else {
            return false;
        };
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.number == number)
        {
            return false;
        }
        let statistics = index.statistics;
        if oldest.live_bytes == 0 {
            return true;
        }
        // On a full disk the space for removals is not to be spent on moves.
        let is_possible =
            !statistics.is_full || oldest.live_bytes < u64::from(self.options.reserve_bytes / 2);
        let segments = 2 * u64::from(self.options.segment_bytes);
        is_possible && statistics.bytes > 2 * statistics.live_bytes + segments
    }

    /// Whether another segment is to be begun because the one that is written to is mostly dead and its space wanted.
    pub(super) fn is_to_shed(&self) -> bool {
        let statistics = self.shared.index().statistics;
        let is_dead = statistics.entries == 0
            || (statistics.is_full && statistics.live_bytes * 2 < statistics.bytes);
        let active = self.active.as_ref();
        let is_used = active
            .is_some_and(|active| u64::from(active.end) > statistics.live_bytes + IDLE_BYTES_MAX);
        is_dead && is_used && !self.has_surplus()
    }

    /// Moves some of the oldest segment, or gives it back.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        let Some((number, oldest)) = self.shared.index().oldest_segment() else {
            return Ok(());
        };
        if oldest.live_bytes == 0 {
            return self.give_back(number);
        }
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.number == number => cursor,
            _ => self.read(number)?,
        };
        let result = self.move_some(&mut cursor);
        let is_done = cursor.next == cursor.live.len();
        self.cursor = Some(cursor);
        result?;
        if is_done {
            self.give_back(number)
        } else {
            Ok(())
        }
    }

    fn read(&self, number: u32) -> io::Result<Cursor> {
        let file = self.shared.disk.open_to_read(&segment_name(number))?;
        let bytes = read_segment(&*file)?.ok_or_else(|| io::Error::other("it is no segment"))?;
        let mut live = Vec::new();
        let index = self.shared.index();
        scan(number, &bytes, |found| {
            let Found::Commit(body) = found else { return };
            for record in Records::new(&bytes, body) {
                if let Record::Put { queue, key, value } = record
                    && is_live(&index, number, queue, key, &value)
                {
                    live.push((queue, key, value));
                }
            }
        });
        drop(index);
        Ok(Cursor {
            number,
            bytes,
            live,
            next: 0,
        })
    }

    fn move_some(&mut self, cursor: &mut Cursor) -> io::Result<()> {
        self.make_room()?;
        let shared = Arc::clone(&self.shared);
        let mut next = cursor.next;
        let index = shared.index();
        while let Some((queue, key, value)) = cursor.live.get(next)
            && self.appended() < STEP_BYTES
        {
            if is_live(&index, cursor.number, *queue, *key, value) {
                self.append_entry(&index, *queue, *key, &cursor.bytes[value.clone()]);
            }
            next += 1;
        }
        drop(index);
        let moved = self.appended() as u64;
        self.write(false)?;
        self.shared.index().statistics.moved_bytes += moved;
        cursor.next = next;
        Ok(())
    }

    /// Removes the oldest segment. What was moved out of it is on the disk first, and it is gone for good before the
    /// next one goes: a removal must not be forgotten before what it removed.
    fn give_back(&mut self, number: u32) -> io::Result<()> {
        self.sync()?;
        let oldest = self.shared.index().oldest_segment();
        if oldest.is_some_and(|(_, oldest)| oldest.live_bytes > 0) {
            // It was damaged after it had been read for the first time. The file is kept: it is all that is left of them.
            let aside = match set_aside(&*self.shared.disk, number, "lost") {
                // An earlier attempt ended between the renaming and its sync.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.shared.disk.sync_names()?;
                    String::new()
                }
                aside => aside?,
            };
            self.cursor = None;
            let mut index = self.shared.index();
            let lost = index.forget_entries_in(number);
            index.statistics.damaged += lost;
            index.remove_segment(number);
            trim(&self.shared, &mut index);
            let file = self.shared.directory.join(segment_name(number));
            tracing::warn!(file = %file.display(), renamed = aside, entries = lost, "entries of the store were damaged while it was open: they are gone, and their segment is set aside");
            return Ok(());
        }
        match self.shared.disk.remove(&segment_name(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.shared.disk.sync_names()?,
        }
        self.cursor = None;
        self.shared.index().remove_segment(number);
        Ok(())
    }
}

fn is_live(index: &Index, segment: u32, queue: QueueId, key: Key, value: &Range<usize>) -> bool {
    let is_there = |at: Location| at.segment == segment && at.offset as usize == value.start;
    index.location(queue, key).is_some_and(is_there)
}
