//! What became of one publisher's numbered messages on their way to one subscriber.

use std::collections::VecDeque;
use std::ops::Range;

/// Gaps that are remembered; of older ones a late message counts as a duplicate.
const GAPS_MAX: usize = 256;

/// How an arrived message stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The first of its number, not overtaken.
    InOrder,
    /// The first of its number, after a later one.
    Reordered,
    /// Its number was here before.
    Duplicate,
}

/// The numbers one subscriber has seen of one publisher.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: u64,
    /// Numbers below `next` that have not come, in ascending order.
    gaps: VecDeque<Range<u64>>,
}

impl Sequence {
    /// Expects the numbers from `first` on.
    pub(super) fn starting_at(first: u64) -> Self {
        Self {
            next: first,
            gaps: VecDeque::new(),
        }
    }

    pub(super) fn note(&mut self, number: u64) -> Arrival {
        if number < self.next {
            return if self.fill(number) {
                Arrival::Reordered
            } else {
                Arrival::Duplicate
            };
        }
        if number > self.next {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.pop_front();
            }
            self.gaps.push_back(self.next..number);
        }
        self.next = number.saturating_add(1);
        Arrival::InOrder
    }

    /// The numbers that are missing between those that came.
    pub(super) fn missing(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.end - gap.start).sum()
    }

    fn fill(&mut self, number: u64) -> bool {
        let Some(position) = self.gaps.iter().position(|gap| gap.contains(&number)) else {
            return false;
        };
        let gap = self.gaps[position].clone();
        let parts = [gap.start..number, number + 1..gap.end];
        self.gaps.remove(position);
        for part in parts.into_iter().rev().filter(|part| !part.is_empty()) {
            self.gaps.insert(position, part);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(numbers: &[u64]) -> (Vec<Arrival>, u64) {
        let mut sequence = Sequence::default();
        let arrivals = numbers.iter().map(|n| sequence.note(*n)).collect();
        (arrivals, sequence.missing())
    }

    #[test]
    fn numbers_in_order_leave_nothing_missing() {
        use Arrival::InOrder;
        assert_eq!(notes(&[0, 1, 2]), (vec![InOrder, InOrder, InOrder], 0));
    }

    #[test]
    fn an_overtaken_message_is_reordered_once_and_then_a_duplicate() {
        use Arrival::{Duplicate, InOrder, Reordered};
        assert_eq!(
            notes(&[0, 4, 2, 2, 1, 3, 3]),
            (
                vec![
                    InOrder, InOrder, Reordered, Duplicate, Reordered, Reordered, Duplicate
                ],
                0
            )
        );
    }

    #[test]
    fn what_does_not_come_is_missing() {
        assert_eq!(notes(&[5, 7]).1, 6);
        let mut sequence = Sequence::starting_at(100);
        sequence.note(100);
        sequence.note(102);
        assert_eq!(sequence.missing(), 1);
    }

    #[test]
    fn a_message_sent_twice_is_a_duplicate() {
        assert_eq!(notes(&[0, 0]).0[1], Arrival::Duplicate);
    }

    #[test]
    fn old_gaps_are_forgotten_so_that_memory_is_bounded() {
        let mut sequence = Sequence::default();
        for number in 0..10_000 {
            sequence.note(number * 2 + 1);
        }
        assert_eq!(sequence.gaps.len(), GAPS_MAX);
        assert_eq!(sequence.note(0), Arrival::Duplicate);
        assert_eq!(sequence.note(19_998), Arrival::Reordered);
    }
}
