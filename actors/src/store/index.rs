//! What is live in the log and where it is.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::format::{DEFINITION_BYTES, entry_bytes};
use super::{Key, QueueId, StoreStatistics};

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// The live entries of all queues.
#[derive(Debug, Default)]
pub(super) struct Index {
    queues: HashMap<QueueId, Queue, NumberHash>,
    names: HashMap<Arc<str>, QueueId>,
    /// By their numbers.
    segments: BTreeMap<u32, Segment>,
    pub(super) statistics: StoreStatistics,
}

#[derive(Debug)]
struct Queue {
    name: Arc<str>,
    /// Whether all records of its name were damaged.
    is_nameless: bool,
    /// Whether somebody opened it since the store was opened.
    is_open: bool,
    entries: BTreeMap<Key, Location>,
}

/// A file of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its bytes, those that were only made ready included.
    pub(super) bytes: u64,
    /// The part of them that live entries need, about.
    pub(super) live_bytes: u64,
}

impl Queue {
    /// What an entry needs in its segment at most: that names the queue too, perhaps for this entry alone. Were less
    /// counted, long names could make compaction move for ever what cannot become smaller.
    fn cost(&self, location: Location) -> u64 {
        (entry_bytes(location.bytes as usize) + DEFINITION_BYTES + self.name.len()) as u64
    }
}

impl Index {
    /// The queue of this name, and whether it was opened before.
    pub(super) fn open(&mut self, name: &str) -> (QueueId, bool) {
        if let Some(id) = self.names.get(name) {
            let queue = self.queues.get_mut(id);
            let was_open = queue.is_some_and(|queue| std::mem::replace(&mut queue.is_open, true));
            return (*id, was_open);
        }
        // The number follows from the name, so that a queue is found even if all records of its name are damaged.
        let mut number = crc32c::crc32c(name.as_bytes());
        while self
            .queues
            .get(&QueueId::new(number))
            .is_some_and(|queue| !queue.is_nameless)
        {
            number = number.wrapping_add(1);
        }
        let id = QueueId::new(number);
        self.rename(id, name.into(), false);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.is_open = true;
        }
        (id, false)
    }

    /// Takes note of the name that the log gives a queue.
    pub(super) fn define(&mut self, id: QueueId, name: &str) {
        if self
            .queues
            .get(&id)
            .is_some_and(|queue| *queue.name == *name)
        {
            return;
        }
        let name: Arc<str> = name.into();
        if let Some(other) = self.names.insert(Arc::clone(&name), id) {
            // Only damage makes two queues of one name; the later one is it.
            self.rename(other, nameless(other), true);
        }
        self.rename(id, name, false);
    }

    fn rename(&mut self, id: QueueId, name: Arc<str>, is_nameless: bool) {
        let mut queue = self.queues.remove(&id).unwrap_or_else(|| Queue {
            name: Arc::clone(&name),
            is_nameless,
            is_open: false,
            entries: BTreeMap::new(),
        });
        if self.names.get(&queue.name) == Some(&id) {
            self.names.remove(&queue.name);
        }
        // Only what damage left without a name has entries already.
        let costs = |queue: &Queue| -> Vec<_> {
            let places = queue.entries.values();
            places.map(|at| (at.segment, queue.cost(*at))).collect()
        };
        let before = costs(&queue);
        queue.name = Arc::clone(&name);
        queue.is_nameless = is_nameless;
        for (before, after) in before.into_iter().zip(costs(&queue)) {
            self.account(Some(before), Some(after));
        }
        self.queues.insert(id, queue);
        self.names.insert(name, id);
    }

    pub(super) fn find(&self, name: &str) -> Option<QueueId> {
        self.names.get(name).copied()
    }

    pub(super) fn name(&self, id: QueueId) -> Option<&Arc<str>> {
        self.queues.get(&id).map(|queue| &queue.name)
    }

    pub(super) fn is_known(&self, id: QueueId) -> bool {
        self.queues.contains_key(&id)
    }

    pub(super) fn put(&mut self, id: QueueId, key: Key, location: Location) {
        if !self.queues.contains_key(&id) {
            self.rename(id, nameless(id), true);
        }
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let before = queue.entries.insert(key, location);
        let before = before.map(|before| (before.segment, queue.cost(before)));
        let after = (location.segment, queue.cost(location));
        self.account(before, Some(after));
    }

    /// Forgets an entry, and says whether it was there.
    pub(super) fn remove(&mut self, id: QueueId, key: Key) -> bool {
        let removed = self.queues.get_mut(&id).and_then(|queue| {
            let location = queue.entries.remove(&key)?;
            Some((location.segment, queue.cost(location)))
        });
        self.account(removed, None);
        removed.is_some()
    }

    /// Takes an entry off the sums and adds another, each with its segment and what it costs there.
    fn account(&mut self, before: Option<(u32, u64)>, after: Option<(u32, u64)>) {
        if let Some((segment, cost)) = before {
            self.statistics.entries -= 1;
            self.statistics.live_bytes -= cost;
            if let Some(segment) = self.segments.get_mut(&segment) {
                segment.live_bytes -= cost;
            }
        }
        if let Some((segment, cost)) = after {
            self.statistics.entries += 1;
            self.statistics.live_bytes += cost;
            self.segments.entry(segment).or_default().live_bytes += cost;
        }
    }

    pub(super) fn location(&self, id: QueueId, key: Key) -> Option<Location> {
        self.queues.get(&id)?.entries.get(&key).copied()
    }

    /// The entries of a queue, in order.
    pub(super) fn entries(&self, id: QueueId) -> Vec<(Key, Location)> {
        let queue = self.queues.get(&id);
        let entries = queue.into_iter().flat_map(|queue| &queue.entries);
        entries.map(|(key, location)| (*key, *location)).collect()
    }

    /// All queues.
    pub(super) fn queues(&self) -> impl Iterator<Item = (QueueId, &Arc<str>)> {
        self.queues.iter().map(|(id, queue)| (*id, &queue.name))
    }

    pub(super) fn set_segment_bytes(&mut self, number: u32, bytes: u64) {
        let segment = self.segments.entry(number).or_default();
        self.statistics.bytes += bytes;
        self.statistics.bytes -= segment.bytes;
        segment.bytes = bytes;
    }

    /// Forgets a segment. Nothing live is in it.
    pub(super) fn remove_segment(&mut self, number: u32) {
        self.set_segment_bytes(number, 0);
        self.segments.remove(&number);
    }

    /// Forgets entries that are in this segment, and says how many there were. It looks at all entries.
    pub(super) fn forget_entries_in(&mut self, number: u32) -> u64 {
        let mut lost = Vec::new();
        for (id, queue) in &self.queues {
            let there = queue.entries.iter().filter(|(_, at)| at.segment == number);
            lost.extend(there.map(|(key, _)| (*id, *key)));
        }
        for (id, key) in &lost {
            self.remove(*id, *key);
        }
        lost.len() as u64
    }

    pub(super) fn oldest_segment(&self) -> Option<(u32, Segment)> {
        self.segments
            .first_key_value()
            .map(|(number, segment)| (*number, *segment))
    }

    pub(super) fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            queues: self.queues.len() as u64,
            segments: self.segments.len() as u64,
            ..self.statistics
        }
    }
}

/// The name of a queue whose own name was damaged: what it holds is kept where an operator finds it.
fn nameless(id: QueueId) -> Arc<str> {
    format!("nameless-{}", id.get()).into()
}

/// Hashes numbers of queues, which are checks of names and so spread well already.
pub(super) type NumberHash = BuildHasherDefault<NumberHasher>;

#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // A table looks at the highest bits and at the lowest.
        self.0 = (self.0 ^ u64::from(number))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(20);
    }
}
