//! QoS 0 messages in flight that nobody asks for one by one: what they have in common is noted once.
//!
//! Hundreds of them go in one turn and end in the next, in order. What each would take in the ring is more than the
//! message itself.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use paquebot_protocols::mqtt::QoS;

use super::inflight::Inflight;
use super::{Claim, End, lists};

/// Tokens of these messages count from here, the others' from 0.
const FIRST_TOKEN: u64 = 1 << 62;

/// Neighbours that went together: each has the next token, the next place in the queue and in its batch.
pub(super) struct Run {
    first: u64,
    pub(super) count: usize,
    /// Of the first of them.
    pub(super) end: End,
    order: u64,
    pub(super) claim: Claim,
    sent_at: Instant,
}

/// What has ended together.
pub(super) struct Ended {
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// Of the room: what is larger than all of it counts as all of it.
    pub(super) cost: usize,
    pub(super) claim: Claim,
    /// The batch, if it is one.
    pub(super) end: End,
}

/// In the order of their tokens.
#[derive(Default)]
pub(super) struct Runs {
    runs: VecDeque<Run>,
    /// Of each message.
    sizes: VecDeque<u32>,
    /// How many tokens were given.
    given: u64,
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
    fn at(&self, place: usize, size: usize) -> Inflight {
        Inflight {
            end: self.end.after(place),
            size,
            qos: QoS::AtMostOnce,
            sent_at: self.sent_at,
            order: self.order + place as u64,
            claim: self.claim,
            stored: None,
        }
    }

    /// Its messages from `place` on.
    fn behind(&self, place: usize) -> Self {
        Self {
            first: self.first + place as u64,
            count: self.count - place,
            end: self.end.after(place),
            order: self.order + place as u64,
            claim: self.claim,
            sent_at: self.sent_at,
        }
    }
}

impl Runs {
    /// Whether a token is of one of these.
    #[inline]
    pub(super) const fn is_theirs(token: u64) -> bool {
        token >= FIRST_TOKEN
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Whether a message belongs here.
    #[inline]
    pub(super) fn takes(message: &Inflight) -> bool {
        message.qos == QoS::AtMostOnce
            && !matches!(message.end, End::One(_))
            && message.stored.is_none()
            && u32::try_from(message.size).is_ok()
    }

    /// Gives the message's token.
    #[inline]
    pub(super) fn push(&mut self, message: Inflight) -> u64 {
        let next = Run {
            first: FIRST_TOKEN + self.given,
            count: 1,
            end: message.end,
            order: message.order,
            claim: message.claim,
            sent_at: message.sent_at,
        };
        // What does not fit is not taken.
        let size = u32::try_from(message.size).unwrap_or(u32::MAX);
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
            first: FIRST_TOKEN + self.given,
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
        self.given += next.count as u64;
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
        let count = run.count.min(wanted);
        let (claim, end) = (run.claim, run.end.after(0));
        if count == run.count {
            self.runs.pop_front();
        } else {
            *run = run.behind(count);
        }
        tokens.start += count as u64;
        let (mut bytes, mut cost) = (0, 0);
        for size in self.sizes.drain(..count) {
            bytes += size as usize;
            cost += size.min(cost_max) as usize;
        }
        Some(Ended {
            count,
            bytes,
            cost,
            claim,
            end,
        })
    }

    /// Takes any message.
    pub(super) fn remove(&mut self, token: u64) -> Option<Inflight> {
        let index = self.runs.partition_point(|run| run.tokens().end <= token);
        let run = self
            .runs
            .get_mut(index)
            .filter(|run| run.tokens().contains(&token))?;
        let place = usize::try_from(token - run.first).ok()?;
        let behind = run.behind(place + 1);
        let found = run.at(place, 0);
        run.count = place;
        let is_first = place == 0;
        let before: usize = self.runs.iter().take(index).map(|run| run.count).sum();
        let size = self.sizes.remove(before + place).unwrap_or_default();
        if behind.count > 0 {
            self.runs.insert(index + 1, behind);
        }
        if is_first {
            self.runs.remove(index);
        }
        self.give_memory_back();
        Some(Inflight {
            size: size as usize,
            ..found
        })
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
        let mut sizes = std::mem::take(&mut self.sizes).into_iter();
        let runs = std::mem::take(&mut self.runs);
        let each = runs
            .iter()
            .flat_map(|run| (0..run.count).map(move |place| (run, place)));
        each.map(|(run, place)| run.at(place, sizes.next().unwrap_or_default() as usize))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [5, 7, 7, 9, 1, 2];

    /// Messages at the places 10 and following, those from the fourth on sent later.
    fn six() -> (Runs, Vec<u64>) {
        let mut runs = Runs::default();
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
        let mut runs = Runs::default();
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
        assert!(runs.remove(FIRST_TOKEN + 6).is_none());
    }
}
