//! Messages in flight that nobody asks for one by one: what they have in common is noted once.
//!
//! Hundreds of them go in one turn and end in later ones, mostly in order. What each would take in the ring is more than
//! the message itself. One that ends out of its turn leaves its place marked until those before it have ended.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use paquebot_protocols::mqtt::QoS;

use super::inflight::{GAPS_MAX, Inflight};
use super::{Claim, End, lists};

/// In place of the size of a message that has ended.
const ENDED: u32 = u32::MAX;

/// Neighbours that went together: each has the next token, the next place in the queue and in its batch.
pub(super) struct Run {
    first: u64,
    /// With those that have ended out of their turn.
    count: usize,
    /// Of the first of them.
    end: End,
    order: u64,
    claim: Claim,
    sent_at: Instant,
}

/// What has ended together.
pub(super) struct Ended {
    pub(super) qos: QoS,
    pub(super) sent_at: Instant,
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// Of the room: what is larger than all of it counts as all of it.
    pub(super) cost: usize,
    pub(super) claim: Claim,
    /// The batch, if it is one.
    pub(super) end: End,
}

/// Messages of one quality of service, in the order of their tokens.
pub(super) struct Runs {
    qos: QoS,
    runs: VecDeque<Run>,
    /// Of each message of the runs. The first is of one that has not ended.
    sizes: VecDeque<u32>,
    /// The token after the last one given.
    next: u64,
    /// How many of `sizes` are of messages that have not ended.
    open: usize,
    /// What nobody acknowledges while others come and go.
    aside: BTreeMap<u64, Inflight>,
}

impl Run {
    fn tokens(&self) -> Range<u64> {
        self.first..self.first + self.count as u64
    }

    #[inline]
    fn is_followed_by(&self, next: &Self) -> bool {
        let place = self.count;
        let has_next_end = match (&self.end, &next.end) {
            (End::Untold, End::Untold) => true,
            (End::Of(batch, first), End::Of(next, index)) => {
                Rc::ptr_eq(batch, next) && *index == first + place
            }
            _ => false,
        };
        has_next_end
            // One that was given back at once leaves a hole behind the run.
            && self.first + place as u64 == next.first
            && self.order + place as u64 == next.order
            && self.claim == next.claim
            && self.sent_at == next.sent_at
    }

    /// The message behind the first `place`.
    fn at(&self, place: usize, size: u32, qos: QoS) -> Inflight {
        Inflight {
            end: self.end.after(place),
            size: size as usize,
            qos,
            sent_at: self.sent_at,
            order: self.order + place as u64,
            claim: self.claim,
            stored: None,
        }
    }

    /// Takes the first `count` off.
    #[inline]
    fn skip(&mut self, count: usize) {
        self.first += count as u64;
        self.count -= count;
        self.order += count as u64;
        if let End::Of(_, index) = &mut self.end {
            *index += count;
        }
    }
}

impl Runs {
    /// For messages of `qos`, which is 0 or 1. Their tokens count from a place of their own, those of messages that are
    /// no run's from 0.
    pub(super) const fn new(qos: QoS) -> Self {
        Self {
            qos,
            runs: VecDeque::new(),
            sizes: VecDeque::new(),
            next: Self::first_token(qos),
            open: 0,
            aside: BTreeMap::new(),
        }
    }

    const fn first_token(qos: QoS) -> u64 {
        match qos {
            QoS::AtMostOnce => 1 << 62,
            _ => 1 << 61,
        }
    }

    /// Of which quality of service the message with this token is, if it is in a run.
    #[inline]
    pub(super) const fn qos_of(token: u64) -> Option<QoS> {
        if token >= Self::first_token(QoS::AtMostOnce) {
            Some(QoS::AtMostOnce)
        } else if token >= Self::first_token(QoS::AtLeastOnce) {
            Some(QoS::AtLeastOnce)
        } else {
            None
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.open + self.aside.len()
    }

    /// The token of the first of `sizes`.
    fn first(&self) -> u64 {
        self.next - self.sizes.len() as u64
    }

    /// Whether a single message belongs here.
    #[inline]
    pub(super) fn takes(message: &Inflight) -> bool {
        message.qos == QoS::AtMostOnce
            && !matches!(message.end, End::One(_))
            && message.stored.is_none()
            && u32::try_from(message.size).is_ok_and(|size| size != ENDED)
    }

    /// Gives the message's token.
    #[inline]
    pub(super) fn push(&mut self, message: Inflight) -> u64 {
        let next = Run {
            first: self.next,
            count: 1,
            end: message.end,
            order: message.order,
            claim: message.claim,
            sent_at: message.sent_at,
        };
        // What does not fit is not taken.
        let size = u32::try_from(message.size).unwrap_or(ENDED - 1);
        self.push_run(next, [size])
    }

    /// Neighbours that go now, by their sizes; gives the token of the first, which the others' follow.
    #[inline]
    pub(super) fn push_all(
        &mut self,
        sizes: impl ExactSizeIterator<Item = u32>,
        end: End,
        order: u64,
        claim: Claim,
        sent_at: Instant,
    ) -> u64 {
        let run = Run {
            first: self.next,
            count: sizes.len(),
            end,
            order,
            claim,
            sent_at,
        };
        self.push_run(run, sizes)
    }

    #[inline]
    fn push_run(&mut self, next: Run, sizes: impl IntoIterator<Item = u32>) -> u64 {
        if self.sizes.capacity() == 0 {
            (self.runs, self.sizes) = (lists::run_list(), lists::size_list());
        }
        let token = next.first;
        self.next += next.count as u64;
        self.open += next.count;
        self.sizes.extend(sizes);
        match self.runs.back_mut() {
            Some(last) if last.is_followed_by(&next) => last.count += next.count,
            _ => self.runs.push_back(next),
        }
        token
    }

    /// Takes as many of `tokens` as are the oldest here and went together, and takes them off `tokens`. `None` when there
    /// are none such.
    pub(super) fn pop(&mut self, tokens: &mut Range<u64>, cost_max: u32) -> Option<Ended> {
        let run = self
            .runs
            .front_mut()
            .filter(|run| run.first == tokens.start && !tokens.is_empty())?;
        let wanted = usize::try_from(tokens.end.saturating_sub(tokens.start)).ok()?;
        let places = run.count.min(wanted);
        let mut ended = Ended {
            qos: self.qos,
            sent_at: run.sent_at,
            count: 0,
            bytes: 0,
            cost: 0,
            claim: run.claim,
            end: run.end.after(0),
        };
        if places == run.count {
            self.runs.pop_front();
        } else {
            run.skip(places);
        }
        tokens.start += places as u64;
        for size in self.sizes.drain(..places).filter(|size| *size != ENDED) {
            ended.count += 1;
            ended.bytes += size as usize;
            ended.cost += size.min(cost_max) as usize;
        }
        self.open -= ended.count;
        self.forget_ended();
        Some(ended)
    }

    /// Takes any message.
    pub(super) fn remove(&mut self, token: u64) -> Option<Inflight> {
        let Some(index) = token.checked_sub(self.first()) else {
            return self.aside.remove(&token);
        };
        let size = self.sizes.get_mut(usize::try_from(index).ok()?)?;
        let size = Some(std::mem::replace(size, ENDED)).filter(|size| *size != ENDED)?;
        let run = self.run_of(token)?;
        let removed = run.at(usize::try_from(token - run.first).ok()?, size, self.qos);
        self.open -= 1;
        self.forget_ended();
        if self.sizes.len() > 2 * self.open + GAPS_MAX {
            self.set_oldest_aside();
        }
        self.give_memory_back();
        Some(removed)
    }

    fn run_of(&self, token: u64) -> Option<&Run> {
        let index = self.runs.partition_point(|run| run.tokens().end <= token);
        self.runs.get(index)
    }

    /// It is open: places of messages that have ended do not stay at the front.
    #[cold]
    fn set_oldest_aside(&mut self) {
        if let (Some(run), Some(size)) = (self.runs.front(), self.sizes.front_mut()) {
            let size = std::mem::replace(size, ENDED);
            self.aside.insert(run.first, run.at(0, size, self.qos));
            self.open -= 1;
            self.forget_ended();
        }
    }

    /// What is at the front has not ended.
    #[inline]
    fn forget_ended(&mut self) {
        while self.sizes.front() == Some(&ENDED) {
            self.sizes.pop_front();
            if let Some(run) = self.runs.front_mut() {
                run.skip(1);
                if run.count == 0 {
                    self.runs.pop_front();
                }
            }
        }
    }

    /// Links without such messages have no places for them.
    #[inline]
    pub(super) fn give_memory_back(&mut self) {
        if self.runs.is_empty() && self.sizes.capacity() > 0 {
            lists::keep_run_list(std::mem::take(&mut self.runs));
            lists::keep_size_list(std::mem::take(&mut self.sizes));
        }
    }

    pub(super) fn take_all(&mut self) -> Vec<Inflight> {
        self.open = 0;
        let mut sizes = std::mem::take(&mut self.sizes).into_iter();
        let runs = std::mem::take(&mut self.runs);
        let each = runs
            .iter()
            .flat_map(|run| (0..run.count).map(move |place| (run, place)));
        let each = each
            .map(|(run, place)| (run, place, sizes.next().unwrap_or(ENDED)))
            .filter(|(.., size)| *size != ENDED)
            .map(|(run, place, size)| run.at(place, size, self.qos));
        let aside = std::mem::take(&mut self.aside).into_values();
        aside.chain(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [5, 7, 7, 9, 1, 2];

    /// Messages at the places 10 and following, those from the fourth on sent later.
    fn six() -> (Runs, Vec<u64>) {
        let mut runs = Runs::new(QoS::AtMostOnce);
        let (sooner, later) = (
            Instant::now(),
            Instant::now() + std::time::Duration::from_secs(1),
        );
        let message = |(place, size)| Inflight {
            end: End::Untold,
            size,
            qos: QoS::AtMostOnce,
            sent_at: if place < 3 { sooner } else { later },
            order: 10 + place as u64,
            claim: Claim::default(),
            stored: None,
        };
        let tokens = SIZES.into_iter().enumerate().map(message);
        let tokens = tokens.map(|message| runs.push(message)).collect();
        (runs, tokens)
    }

    #[test]
    fn what_went_together_ends_together_and_part_of_it_before_the_rest() {
        let (mut runs, tokens) = six();
        assert_eq!(runs.runs.len(), 2);
        let mut wanted = tokens[0]..tokens[1] + 1;
        let ended = runs.pop(&mut wanted, 6).map(|e| (e.count, e.bytes, e.cost));
        assert_eq!((ended, wanted.is_empty()), (Some((2, 12, 11)), true));
        // Of the rest nothing was asked for, though it is the oldest now.
        assert!(runs.pop(&mut wanted, 6).is_none());
        let mut wanted = tokens[2]..tokens[5] + 1;
        let ended = runs.pop(&mut wanted, 100).map(|e| (e.count, e.bytes));
        assert_eq!((ended, wanted.start), (Some((1, 7)), tokens[3]));
        let ended = runs.pop(&mut wanted, 100).map(|e| (e.count, e.bytes));
        assert_eq!((ended, wanted.is_empty()), (Some((3, 12)), true));
        assert!(runs.pop(&mut (tokens[5]..tokens[5] + 1), 1).is_none());
    }

    #[test]
    fn a_message_that_comes_back_and_goes_again_is_known_by_its_new_token() {
        let mut runs = Runs::new(QoS::AtMostOnce);
        let sent_at = Instant::now();
        let message = |order| Inflight {
            end: End::Untold,
            size: 1,
            qos: QoS::AtMostOnce,
            sent_at,
            order,
            claim: Claim::default(),
            stored: None,
        };
        let tokens: Vec<_> = (10..13).map(|order| runs.push(message(order))).collect();
        assert!(runs.remove(tokens[2]).is_some());
        let again = runs.push(message(12));
        assert_eq!(runs.remove(again).map(|m| m.order), Some(12));
        assert_eq!(runs.remove(tokens[1]).map(|m| m.order), Some(11));
    }

    #[test]
    fn each_message_can_be_taken_by_itself_once_and_in_any_order() {
        for first in 0..6 {
            for second in 0..6 {
                let (mut runs, tokens) = six();
                for (index, place) in [first, second].into_iter().enumerate() {
                    let taken = runs.remove(tokens[place]).map(|m| (m.size, m.order));
                    let expected = (index == 0 || first != second)
                        .then_some((SIZES[place], 10 + place as u64));
                    assert_eq!(taken, expected);
                }
                let left = (0..6).filter(|place| *place != first && *place != second);
                let left: Vec<_> = left
                    .map(|place| (SIZES[place], 10 + place as u64))
                    .collect();
                let all = runs.take_all();
                let all: Vec<_> = all.iter().map(|m| (m.size, m.order)).collect();
                assert_eq!(all, left);
            }
        }
    }

    #[test]
    fn what_is_not_the_oldest_is_not_taken_for_it() {
        let (mut runs, tokens) = six();
        let mut wanted = tokens[1]..tokens[3];
        assert!(runs.pop(&mut wanted, 100).is_none());
        assert_eq!(wanted, tokens[1]..tokens[3]);
        assert!(runs.remove(tokens[5] + 1).is_none());
    }

    fn unacknowledged(runs: &mut Runs, count: usize) -> Range<u64> {
        let sizes = std::iter::repeat_n(3, count);
        let order = runs.next;
        let first = runs.push_all(sizes, End::Untold, order, Claim::default(), Instant::now());
        first..first + count as u64
    }

    #[test]
    fn what_ended_out_of_its_turn_is_not_counted_again_when_its_turn_comes() {
        let mut runs = Runs::new(QoS::AtLeastOnce);
        let tokens = unacknowledged(&mut runs, 10);
        for place in [4, 5, 9] {
            assert!(runs.remove(tokens.start + place).is_some());
            assert!(runs.remove(tokens.start + place).is_none());
        }
        assert_eq!(runs.len(), 7);
        let mut first = tokens.start..tokens.start + 4;
        let ended = runs.pop(&mut first, 100).map(|e| (e.count, e.bytes));
        assert_eq!((ended, runs.len()), (Some((4, 12)), 3));
        // Those that had ended before are passed over.
        let mut rest = tokens.start + 6..tokens.start + 9;
        let ended = runs.pop(&mut rest, 2).map(|e| (e.count, e.cost));
        assert_eq!((ended, runs.len()), (Some((3, 6)), 0));
        assert!(runs.sizes.is_empty() && runs.runs.is_empty());
        let more = unacknowledged(&mut runs, 2);
        assert_eq!(more.start, tokens.end);
        assert_eq!(runs.take_all().len(), 2);
        assert_eq!(runs.len(), 0);
    }

    #[test]
    fn a_message_that_never_ends_does_not_make_the_runs_grow() {
        let mut runs = Runs::new(QoS::AtLeastOnce);
        let stuck = unacknowledged(&mut runs, 1).start;
        for _ in 0..10_000 {
            let mut tokens = unacknowledged(&mut runs, 10);
            if runs.pop(&mut tokens, 100).is_none() {
                for token in tokens.rev() {
                    assert!(runs.remove(token).is_some());
                }
            }
        }
        assert!(runs.sizes.len() <= 2 * GAPS_MAX && runs.runs.len() <= 2 * GAPS_MAX);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs.remove(stuck).map(|message| message.size), Some(3));
        assert!(runs.remove(stuck).is_none());
        assert_eq!((runs.len(), runs.take_all().len()), (0, 0));
    }
}
