//! The callers' channel as a stream of batches that the queue can hold back.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use async_channel::Receiver;
use futures_util::Stream;

use super::BATCH_MAX;
use crate::message::Submission;

/// How many submissions the stream may take from the channel, and of how many bytes; shared by the actor
/// and its stream. Closed at first.
#[derive(Clone)]
pub(super) struct Gate(Rc<GateState>);

struct GateState {
    room: Cell<usize>,
    room_bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    pub(super) fn closed() -> Self {
        Self(Rc::new(GateState {
            room: Cell::new(0),
            room_bytes: Cell::new(0),
            waker: RefCell::new(None),
        }))
    }

    /// A batch ends with the message that uses up `bytes`.
    pub(super) fn set_room(&self, room: usize, bytes: usize) {
        self.0.room.set(room);
        self.0.room_bytes.set(bytes);
        if room > 0
            && let Some(waker) = self.0.waker.take()
        {
            waker.wake();
        }
    }
}

/// The callers' channel as batches of what is there, at most [`BATCH_MAX`].
pub(super) struct Intake {
    pub(super) receiver: Pin<Box<Receiver<Submission>>>,
    pub(super) gate: Gate,
}

impl Stream for Intake {
    type Item = Vec<Submission>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let room = self.gate.0.room.get().min(BATCH_MAX);
        if room == 0 {
            self.gate.0.waker.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let first = match self.receiver.as_mut().poll_next(cx) {
            Poll::Ready(Some(first)) => first,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let mut room_bytes = self.gate.0.room_bytes.get().saturating_sub(first.size());
        let mut batch = vec![first];
        while batch.len() < room && room_bytes > 0 {
            match self.receiver.try_recv() {
                Ok(next) => {
                    room_bytes = room_bytes.saturating_sub(next.size());
                    batch.push(next);
                }
                Err(_) => break,
            }
        }
        Poll::Ready(Some(batch))
    }
}
