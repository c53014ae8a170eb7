//! Callers who wait for room in a link's intake.

use std::collections::VecDeque;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::intake::{Refused, Room};

/// In the order of asking.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    list: VecDeque<Waiter>,
    next: u64,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    pub(super) messages: u32,
    pub(super) bytes: u32,
    granted: oneshot::Sender<()>,
}

impl Waiters {
    /// Takes place behind the others; `room` is what is wanted, and nobody has it yet.
    pub(super) fn join<'a>(&mut self, room: Room<'a>) -> Waiting<'a> {
        let (granted, hears) = oneshot::channel();
        self.list.push_back(Waiter {
            number: self.next,
            messages: room.messages,
            bytes: room.bytes,
            granted,
        });
        self.next += 1;
        Waiting {
            room: Some(room),
            number: self.next - 1,
            hears,
        }
    }

    /// The first, if what it wants `fits`: nobody overtakes it.
    pub(super) fn pop_if(&mut self, fits: impl Fn(u32, u32) -> bool) -> Option<Waiter> {
        self.list
            .pop_front_if(|first| fits(first.messages, first.bytes))
    }

    /// `true` if it was still there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let place = self.list.iter().position(|waiter| waiter.number == number);
        place.and_then(|place| self.list.remove(place)).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Waiter {
    /// The room was taken for it. If it is gone meanwhile, it has seen to that.
    pub(super) fn tell(self) {
        let _ = self.granted.send(());
    }
}

/// A place among those who wait; a caller who gives up leaves it.
pub(super) struct Waiting<'a> {
    /// What is wanted; until it is granted, nobody has it.
    room: Option<Room<'a>>,
    number: u64,
    hears: oneshot::Receiver<()>,
}

impl<'a> Waiting<'a> {
    pub(super) async fn granted(mut self) -> Result<Room<'a>, Refused> {
        let result = Pin::new(&mut self.hears).await;
        match (result, self.room.take()) {
            (Ok(()), Some(room)) => Ok(room),
            (_, room) => {
                // The link is stopped, and took the list along.
                if let Some(room) = room {
                    room.forget();
                }
                Err(Refused::Stopped)
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            room.give_up(self.number);
        }
    }
}
