//! Whom to tell how a message ended.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::receipt::{BatchPart, BatchSender, DropReason, Outcome, ReceiptSender};

/// Whom one message's outcome goes to.
pub(super) enum End {
    /// Nobody asked.
    Untold,
    /// The receipt of the message.
    One(ReceiptSender),
    /// The receipt of a batch, in which it has this place.
    Of(Rc<BatchEnd>, usize),
}

impl End {
    /// Of the message that comes so many behind it in its batch. A receipt of one message has none behind it.
    pub(super) fn after(&self, places: usize) -> Self {
        match self {
            Self::Of(batch, index) => Self::Of(Rc::clone(batch), index + places),
            Self::Untold | Self::One(_) => Self::Untold,
        }
    }
}

/// What is known of a batch whose messages have not all ended.
pub(super) struct BatchEnd(RefCell<BatchState>);

struct BatchState {
    messages: usize,
    open: usize,
    /// All places before this one were delivered.
    delivered_until: usize,
    /// And these, which came before their turn.
    delivered_apart: Vec<Range<usize>>,
    part: BatchPart,
    sender: Option<BatchSender>,
}

impl BatchEnd {
    pub(super) fn new(sender: BatchSender, messages: usize) -> Rc<Self> {
        Rc::new(Self(RefCell::new(BatchState {
            messages,
            open: messages,
            delivered_until: 0,
            delivered_apart: Vec::new(),
            part: BatchPart::default(),
            sender: Some(sender),
        })))
    }

    /// So many from `index` on; `true` when the last was among them.
    #[inline]
    fn end_delivered(&self, index: usize, count: usize) -> bool {
        let mut state = self.0.borrow_mut();
        state.open -= count;
        state.part.delivered += count;
        state.note_places(index, count);
        state.open == 0
    }

    /// `true` when it was the last.
    fn end(&self, index: usize, outcome: Outcome) -> bool {
        let mut state = self.0.borrow_mut();
        state.open -= 1;
        if outcome.is_delivered() {
            state.part.delivered += 1;
            state.note_places(index, 1);
        } else {
            state.part.undelivered.push((index, outcome));
        }
        state.open == 0
    }

    fn tell(&self) {
        let mut state = self.0.borrow_mut();
        if let Some(sender) = state.sender.take() {
            let _ = sender.send(std::mem::take(&mut state.part));
        }
    }
}

impl BatchState {
    #[inline]
    fn note_places(&mut self, index: usize, count: usize) {
        if index == self.delivered_until {
            self.delivered_until += count;
        } else {
            self.note_apart(index..index + count);
        }
    }

    #[cold]
    fn note_apart(&mut self, places: Range<usize>) {
        match self.delivered_apart.last_mut() {
            Some(last) if last.end == places.start => last.end = places.end,
            _ => self.delivered_apart.push(places),
        }
    }

    /// The places of those of which nobody told how they ended.
    fn lost(&self) -> Vec<usize> {
        let mut is_told = vec![false; self.messages];
        let delivered = std::iter::once(0..self.delivered_until)
            .chain(self.delivered_apart.iter().cloned())
            .flatten();
        let others = self.part.undelivered.iter().map(|(place, _)| *place);
        for place in delivered.chain(others) {
            if let Some(is_told) = is_told.get_mut(place) {
                *is_told = true;
            }
        }
        let places = is_told.iter().enumerate();
        places
            .filter_map(|(place, is_told)| (!is_told).then_some(place))
            .collect()
    }
}

impl Drop for BatchEnd {
    /// A queue that panicked may have lost some of them on the way. How the others ended is known.
    fn drop(&mut self) {
        let state = self.0.get_mut();
        if state.sender.is_some() && state.open > 0 {
            let stopped = Outcome::Dropped(DropReason::Stopped);
            let lost = state.lost().into_iter();
            let lost = lost.map(|place| (place, stopped.clone()));
            state.part.undelivered.extend(lost);
        }
        self.tell();
    }
}

/// Outcomes of a turn that wait to be told until they are counted.
#[derive(Default)]
pub(super) struct Endings {
    ones: Vec<(ReceiptSender, Outcome)>,
    batches: Vec<Rc<BatchEnd>>,
}

impl Endings {
    pub(super) fn note(&mut self, end: End, outcome: Outcome) {
        match end {
            End::Untold => {}
            End::One(sender) => self.ones.push((sender, outcome)),
            End::Of(batch, index) => {
                if batch.end(index, outcome) {
                    self.batches.push(batch);
                }
            }
        }
    }

    /// `count` messages, and more than one only of a batch or of those that nobody asked for.
    #[inline]
    pub(super) fn note_delivered(&mut self, end: End, count: usize) {
        match end {
            End::Untold => {}
            End::One(sender) => self.ones.push((sender, Outcome::DELIVERED)),
            End::Of(batch, index) => {
                if batch.end_delivered(index, count) {
                    self.batches.push(batch);
                }
            }
        }
    }

    pub(super) fn tell(&mut self) {
        if !self.ones.is_empty() {
            for (sender, outcome) in self.ones.drain(..) {
                // Whoever dropped the receipt does not want to know.
                let _ = sender.send(outcome);
            }
        }
        if !self.batches.is_empty() {
            for batch in self.batches.drain(..) {
                batch.tell();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{BatchOutcome, BatchReceipt};

    const STOPPED: Outcome = Outcome::Dropped(DropReason::Stopped);

    async fn outcome_of(messages: usize, ends: impl FnOnce(&Rc<BatchEnd>)) -> BatchOutcome {
        let mut receipt = BatchReceipt::default();
        let batch = BatchEnd::new(receipt.expect(messages), messages);
        ends(&batch);
        drop(batch);
        receipt.await
    }

    #[actix::test]
    async fn a_batch_of_which_some_are_lost_names_those_and_no_others() {
        let outcome = outcome_of(8, |batch| {
            assert!(!batch.end_delivered(0, 2));
            assert!(!batch.end_delivered(4, 1));
            assert!(!batch.end_delivered(5, 1));
            assert!(!batch.end(2, Outcome::Expired));
            assert!(!batch.end(7, Outcome::DELIVERED));
        })
        .await;
        assert_eq!(outcome.delivered, 5);
        let lost = [(2, Outcome::Expired), (3, STOPPED), (6, STOPPED)];
        assert_eq!(outcome.undelivered, lost);
        let none = outcome_of(2, |_| {}).await;
        assert_eq!((none.delivered, none.undelivered.len()), (0, 2));
    }

    #[actix::test]
    async fn a_batch_whose_messages_ended_in_any_order_loses_none() {
        let outcome = outcome_of(3, |batch| {
            assert!(!batch.end_delivered(2, 1));
            assert!(!batch.end_delivered(0, 1));
            assert!(batch.end_delivered(1, 1));
        })
        .await;
        assert!(outcome.is_delivered());
    }
}
