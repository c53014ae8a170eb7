//! Whom to tell how a message ended.

use std::cell::RefCell;
use std::rc::Rc;

use crate::receipt::{BatchPart, BatchSender, Outcome, ReceiptSender};

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
    open: usize,
    part: BatchPart,
    sender: Option<BatchSender>,
}

impl BatchEnd {
    pub(super) fn new(sender: BatchSender, messages: usize) -> Rc<Self> {
        Rc::new(Self(RefCell::new(BatchState {
            open: messages,
            part: BatchPart::default(),
            sender: Some(sender),
        })))
    }

    /// `true` when the last was among them.
    #[inline]
    fn end_delivered(&self, count: usize) -> bool {
        let mut state = self.0.borrow_mut();
        state.open -= count;
        state.part.delivered += count;
        state.open == 0
    }

    /// `true` when it was the last.
    fn end(&self, index: usize, outcome: Outcome) -> bool {
        let mut state = self.0.borrow_mut();
        state.open -= 1;
        if outcome.is_delivered() {
            state.part.delivered += 1;
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
            End::Of(batch, _) => {
                if batch.end_delivered(count) {
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
