//! Messages in flight, by token.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::time::Instant;

use paquebot_protocols::mqtt::QoS;

use super::runs::{Ended, Runs};
use super::{Claim, End, StoredId, lists};

/// A message handed to the codec and not yet ended.
pub(super) struct Inflight {
    pub(super) end: End,
    pub(super) size: usize,
    pub(super) qos: QoS,
    pub(super) sent_at: Instant,
    /// Its place in the queue, should it come back.
    pub(super) order: u64,
    pub(super) claim: Claim,
    /// Under which the store has it.
    pub(super) stored: Option<StoredId>,
}

/// So many empty places more than messages make a list of them set its oldest message aside.
pub(super) const GAPS_MAX: usize = 1_024;

/// Places that are kept when nothing is in flight: none by a link that sends now and then.
const PLACES_KEPT: RangeInclusive<usize> = 5..=8;

/// Messages in flight by token. Tokens count up, so the front is the oldest; ends mostly come in order,
/// and a gap stays as an empty place until those before it have ended. A message that its server never
/// acknowledges is set aside, so that the ring does not grow behind it.
pub(super) struct InflightRing {
    slots: VecDeque<Option<Inflight>>,
    /// Boxed, since few links have any.
    #[expect(clippy::box_collection, reason = "every link has one of these")]
    aside: Option<Box<BTreeMap<u64, Inflight>>>,
    first: u64,
    /// Those of QoS 0 without a receipt of their own.
    pub(super) unwritten: Runs,
    /// Those of QoS 1 that waited and went together.
    pub(super) unacknowledged: Runs,
    /// Without those in runs.
    len: usize,
}

impl InflightRing {
    pub(super) const fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            aside: None,
            first: 0,
            unwritten: Runs::new(QoS::AtMostOnce),
            unacknowledged: Runs::new(QoS::AtLeastOnce),
            len: 0,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len + self.unwritten.len() + self.unacknowledged.len()
    }

    /// The runs that a token belongs to.
    #[inline]
    fn runs_of(&mut self, token: u64) -> Option<&mut Runs> {
        Runs::qos_of(token).map(|qos| match qos {
            QoS::AtMostOnce => &mut self.unwritten,
            QoS::AtLeastOnce | QoS::ExactlyOnce => &mut self.unacknowledged,
        })
    }

    #[inline]
    pub(super) fn push(&mut self, message: Inflight) -> u64 {
        if Runs::takes(&message) {
            return self.unwritten.push(message);
        }
        if self.slots.capacity() == 0 {
            self.slots = lists::inflight_list();
        }
        self.slots.push_back(Some(message));
        self.len += 1;
        self.first + (self.slots.len() as u64) - 1
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Inflight> {
        if let Some(runs) = self.runs_of(token) {
            return runs.remove(token);
        }
        let removed = match token.checked_sub(self.first) {
            Some(index) => self.slots.get_mut(usize::try_from(index).ok()?)?.take()?,
            None => self.aside.as_deref_mut()?.remove(&token)?,
        };
        self.len -= 1;
        self.forget_ended();
        if self.slots.len() > 2 * (self.len - self.aside_len()) + GAPS_MAX
            && let Some(Some(oldest)) = self.slots.pop_front()
        {
            let aside = self.aside.get_or_insert_default();
            aside.insert(self.first, oldest);
            self.first += 1;
            self.forget_ended();
        }
        self.give_memory_back();
        Some(removed)
    }

    /// As [`InflightRing::remove`], for the oldest message only.
    #[inline]
    pub(super) fn pop(&mut self, token: u64) -> Option<Inflight> {
        if token != self.first {
            return None;
        }
        // The front has not ended: an empty place there goes as soon as it is empty.
        let removed = self.slots.pop_front().flatten()?;
        self.first += 1;
        self.len -= 1;
        if let Some(None) = self.slots.front() {
            self.forget_ended();
        }
        Some(removed)
    }

    /// Takes the oldest of `tokens` that ended together and takes them off; `None` if they have to be taken one by one.
    #[inline]
    pub(super) fn pop_run(&mut self, tokens: &mut Range<u64>, cost_max: u32) -> Option<Ended> {
        self.runs_of(tokens.start)?.pop(tokens, cost_max)
    }

    /// A link without messages in flight keeps few places.
    pub(super) fn give_memory_back(&mut self) {
        self.unwritten.give_memory_back();
        self.unacknowledged.give_memory_back();
        if self.slots.is_empty() && !PLACES_KEPT.contains(&self.slots.capacity()) {
            lists::keep_inflight_list(std::mem::take(&mut self.slots));
        }
    }

    fn aside_len(&self) -> usize {
        self.aside.as_deref().map_or(0, BTreeMap::len)
    }

    fn forget_ended(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// All but those in runs.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Inflight> {
        let aside = self.aside.iter().flat_map(|aside| aside.values());
        aside.chain(self.slots.iter().flatten())
    }

    pub(super) fn take_all(&mut self) -> Vec<Inflight> {
        self.first += self.slots.len() as u64;
        self.len = 0;
        let aside = self.aside.take().unwrap_or_default().into_values();
        let slots = std::mem::take(&mut self.slots).into_iter().flatten();
        let unwritten = self.unwritten.take_all();
        let unacknowledged = self.unacknowledged.take_all();
        let runs = unwritten.into_iter().chain(unacknowledged);
        aside.chain(slots).chain(runs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Inflight {
        Inflight {
            end: End::Untold,
            size: 1,
            qos: QoS::AtLeastOnce,
            sent_at: Instant::now(),
            order: 0,
            claim: Claim::default(),
            stored: None,
        }
    }

    #[test]
    fn a_message_that_never_ends_does_not_make_the_ring_grow() {
        let mut ring = InflightRing::new();
        let stuck = ring.push(message());
        for _ in 0..100_000 {
            let token = ring.push(message());
            assert!(ring.remove(token).is_some());
        }
        assert!(ring.slots.capacity() < 4 * GAPS_MAX);
        assert_eq!(ring.len(), 1);
        assert!(ring.remove(stuck).is_some());
        assert!(ring.remove(stuck).is_none());
        assert_eq!((ring.len(), ring.take_all().len()), (0, 0));
    }

    #[test]
    fn the_ring_gives_each_token_back_once_and_forgets_ended_ones_from_the_front() {
        let mut ring = InflightRing::new();
        let tokens: Vec<u64> = (0..4).map(|_| ring.push(message())).collect();
        assert_eq!(tokens, [0, 1, 2, 3]);
        assert!(ring.remove(2).is_some());
        assert!(ring.remove(2).is_none());
        assert_eq!((ring.len(), ring.slots.len()), (3, 4));
        assert!(ring.remove(0).is_some());
        assert!(ring.remove(1).is_some());
        assert_eq!((ring.len(), ring.slots.len(), ring.first), (1, 1, 3));
        assert_eq!(ring.push(message()), 4);
        assert_eq!(ring.take_all().len(), 2);
        assert_eq!(ring.push(message()), 5);
        assert!(ring.remove(4).is_none());
    }
}
