//! Which commits there is room for: messages are refused when the disk is full or the bound of live bytes is reached,
//! unless a commit adds none.

use std::collections::HashMap;

use super::format::entry_bytes;
use super::index::Index;
use super::{Key, Operation, QueueId, Space};

/// What there is room for, as one group of commits is looked at.
pub(super) struct Room<'a> {
    index: &'a Index,
    live_bytes: u64,
    live_bytes_max: u64,
    /// Whether anything can be refused at all. If not, nothing is counted.
    is_tight: bool,
    /// Bytes of the entries that those admitted so far leave, or that they are gone.
    planned: HashMap<(QueueId, Key), Option<u64>>,
}

/// What there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Space on the disk.
    Disk,
    /// Live bytes, of which there are to be so many.
    Bound(u64),
}

impl<'a> Room<'a> {
    /// For commits that have so many bytes together.
    pub(super) fn new(index: &'a Index, live_bytes_max: u64, coming: u64) -> Self {
        let live_bytes = index.statistics.live_bytes;
        let is_past = live_bytes.saturating_add(coming) > live_bytes_max;
        Self {
            index,
            live_bytes,
            live_bytes_max,
            is_tight: index.statistics.is_full || is_past,
            planned: HashMap::new(),
        }
    }

    /// Counts a commit in, unless it adds messages for which there is no room. What it replaces and removes makes room.
    pub(super) fn admit(&mut self, operations: &[Operation]) -> Result<(), Lack> {
        if !self.is_tight {
            return Ok(());
        }
        let mut changes = HashMap::new();
        let (mut messages, mut messages_gone) = (0_u64, 0_u64);
        let (mut bytes, mut bytes_gone) = (0_u64, 0_u64);
        for operation in operations {
            let place = (operation.queue(), operation.key());
            let after = match operation {
                Operation::Put { value, .. } => Some(entry_bytes(value.len()) as u64),
                Operation::Remove { .. } => None,
            };
            let before = match changes.insert(place, after) {
                Some(before) => before,
                None => self.there(place),
            };
            bytes += after.unwrap_or(0);
            bytes_gone += before.unwrap_or(0);
            if place.1.space == Space::Message {
                messages += u64::from(after.is_some());
                messages_gone += u64::from(before.is_some());
            }
        }
        let after = self.live_bytes.saturating_add(bytes);
        let after = after.saturating_sub(bytes_gone);
        if messages > messages_gone {
            if self.index.statistics.is_full {
                return Err(Lack::Disk);
            }
            if after > self.live_bytes_max {
                return Err(Lack::Bound(self.live_bytes_max));
            }
        }
        self.live_bytes = after;
        self.planned.extend(changes);
        Ok(())
    }

    /// Bytes of the entry that is there when the next commit comes.
    fn there(&self, place: (QueueId, Key)) -> Option<u64> {
        self.planned.get(&place).copied().unwrap_or_else(|| {
            let location = self.index.location(place.0, place.1)?;
            Some(entry_bytes(location.bytes as usize) as u64)
        })
    }
}
