//! Room that the queues of all links of a fleet share.
//!
//! What is held is two atomic counters, so that links on several threads meet nowhere else while there is room. Links
//! whose callers wait stand in a line, each once, whoever waits within it: one link with a thousand callers does not
//! keep the others from their turn. The first of the line gets what it wants before anybody else gets anything.
//!
//! Lost wake-ups: whoever gives room back looks at the line afterwards, and whoever joined the line looks at the room
//! afterwards; so does who took a part and gave it back because the other part was not to be had. The lock of the line
//! is the innermost: a link's lock may be held when it is taken, and never the other way round.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Intake, QueueLimits};

/// Room that links share, as large as [`QueueLimits`] say.
#[derive(Debug)]
pub struct FleetRoom {
    limits: QueueLimits,
    /// What is held. More than the limits only where an earlier process left more in the store.
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Length of the line.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    /// Messages refused or dropped for want of this room.
    refused: AtomicU64,
}

/// Links whose callers wait, in the order of asking.
#[derive(Debug, Default)]
struct Line {
    links: BTreeMap<u64, Applicant>,
    next: u64,
}

/// A link in the line and what its first caller wants.
#[derive(Debug)]
struct Applicant {
    intake: Weak<Intake>,
    messages: u32,
    bytes: u32,
}

/// What the queues of a fleet hold together, against their [`QueueLimits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStatistics {
    /// The bounds.
    pub limits: QueueLimits,
    /// Messages held: handed over, waiting, being recorded or in flight.
    pub messages: u64,
    /// Bytes of their topics and payloads. One larger than the bound counts as much as the bound.
    pub bytes: u64,
    /// Links whose callers wait because the fleet's queues are full.
    pub waiting_links: usize,
    /// Messages that were refused, or accepted and dropped at once, because the fleet's queues were full.
    pub refused: u64,
}

impl FleetRoom {
    /// All of it; `None` when nothing is bounded. A bound of 0 counts as 1.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Option<Arc<Self>> {
        if limits == QueueLimits::default() {
            return None;
        }
        Some(Arc::new(Self {
            limits,
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            refused: AtomicU64::new(0),
        }))
    }

    /// What is held now, and what was refused so far.
    #[must_use]
    pub fn statistics(&self) -> QueueStatistics {
        QueueStatistics {
            limits: self.limits,
            messages: self.messages.load(SeqCst),
            bytes: self.bytes.load(SeqCst),
            waiting_links: self.waiting.load(SeqCst),
            refused: self.refused.load(SeqCst),
        }
    }

    pub(super) fn messages_max(&self) -> usize {
        self.limits.messages_max.unwrap_or(usize::MAX).max(1)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.limits.bytes_max.unwrap_or(usize::MAX).max(1)
    }

    pub(crate) fn count_refused(&self, messages: u64) {
        self.refused.fetch_add(messages, SeqCst);
    }

    /// Takes room that is there and that nobody waits for. Who gets none looks after the line, with
    /// [`FleetRoom::serve`], once it holds no lock of a link.
    pub(super) fn try_take(&self, messages: u32, bytes: u32) -> bool {
        self.waiting.load(SeqCst) == 0 && self.take(messages, bytes)
    }

    /// Whether there is room now that nobody waits for.
    pub(super) fn has_room(&self, messages: u32, bytes: u32) -> bool {
        let fits = |held: &AtomicU64, more: u32, max: usize| {
            held.load(SeqCst).saturating_add(u64::from(more)) <= max as u64
        };
        self.waiting.load(SeqCst) == 0
            && fits(&self.messages, messages, self.messages_max())
            && fits(&self.bytes, bytes, self.bytes_max())
    }

    fn take(&self, messages: u32, bytes: u32) -> bool {
        if !add_within(&self.messages, messages, self.messages_max()) {
            return false;
        }
        let has_bytes = add_within(&self.bytes, bytes, self.bytes_max());
        if !has_bytes {
            self.messages.fetch_sub(u64::from(messages), SeqCst);
        }
        has_bytes
    }

    /// Counts what is there whatever the limits say.
    pub(super) fn occupy(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, SeqCst);
        self.bytes.fetch_add(bytes, SeqCst);
    }

    /// Gives room back; [`FleetRoom::serve`] comes after it.
    pub(super) fn free(&self, messages: u64, bytes: u64) {
        self.messages.fetch_sub(messages, SeqCst);
        self.bytes.fetch_sub(bytes, SeqCst);
    }

    /// Gives those in the line what is there, as far as it goes. To be called without the lock of a link.
    pub(super) fn serve(&self) {
        while self.waiting.load(SeqCst) > 0
            && let Some(first) = self.take_for_first()
        {
            let Applicant {
                intake,
                messages,
                bytes,
            } = first;
            let unused = match intake.upgrade() {
                Some(intake) => intake.take_granted(messages, bytes),
                None => (messages, bytes),
            };
            self.free(u64::from(unused.0), u64::from(unused.1));
        }
    }

    /// The first of the line, if there is room for it; it leaves the line.
    fn take_for_first(&self) -> Option<Applicant> {
        let mut line = self.lock();
        let first = line.links.first_entry()?;
        let wanted = first.get();
        if !self.take(wanted.messages, wanted.bytes) {
            return None;
        }
        let first = first.remove();
        self.waiting.store(line.links.len(), SeqCst);
        Some(first)
    }

    /// Puts a link at the end of the line; gives its place. [`FleetRoom::serve`] comes after it.
    pub(super) fn join(&self, intake: Weak<Intake>, messages: u32, bytes: u32) -> u64 {
        let mut line = self.lock();
        let place = line.next;
        line.next += 1;
        line.links.insert(
            place,
            Applicant {
                intake,
                messages,
                bytes,
            },
        );
        self.waiting.store(line.links.len(), SeqCst);
        place
    }

    /// The link at `place`, if it is still there, wants something else.
    pub(super) fn change(&self, place: u64, messages: u32, bytes: u32) {
        if let Some(applicant) = self.lock().links.get_mut(&place) {
            applicant.messages = messages;
            applicant.bytes = bytes;
        }
    }

    /// The link at `place` wants nothing any more. [`FleetRoom::serve`] comes after it.
    pub(super) fn withdraw(&self, place: u64) {
        let mut line = self.lock();
        line.links.remove(&place);
        self.waiting.store(line.links.len(), SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds unless the sum would be beyond `max`.
fn add_within(held: &AtomicU64, more: u32, max: usize) -> bool {
    let sum = |held: u64| {
        let sum = held.checked_add(u64::from(more))?;
        (sum <= max as u64).then_some(sum)
    };
    held.fetch_update(SeqCst, SeqCst, sum).is_ok()
}

#[cfg(test)]
mod tests;
