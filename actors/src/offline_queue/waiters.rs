//! Callers who wait for room in a link's intake.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::intake::Refused;
use super::room::Room;

/// In the order of asking.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    list: VecDeque<Waiter>,
    /// The link takes nothing more: those from this number on were told to go.
    dismissed_from: Option<u64>,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    pub(super) messages: u32,
    pub(super) bytes: u32,
    granted: oneshot::Sender<()>,
}

/// Numbers are never used again: who was granted room may leave when others wait in its place.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Waiters {
    /// Takes place behind the others; `room` is what is wanted, and nobody has it yet.
    pub(super) fn join<'a>(&mut self, room: Room<'a>) -> Waiting<'a> {
        let (granted, hears) = oneshot::channel();
        let number = next_number();
        self.list.push_back(Waiter {
            number,
            messages: room.messages,
            bytes: room.bytes,
            granted,
        });
        Waiting {
            room: Some(room),
            number,
            hears,
        }
    }

    /// Messages and bytes that the first wants: nobody overtakes it.
    pub(super) fn first_wanted(&self) -> Option<(u32, u32)> {
        let first = self.list.front()?;
        Some((first.messages, first.bytes))
    }

    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.list.pop_front()
    }

    /// `true` if it was still there, or has been told to go.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let place = self.list.iter().position(|waiter| waiter.number == number);
        place.and_then(|place| self.list.remove(place)).is_some()
            || self.dismissed_from.is_some_and(|from| number >= from)
    }

    /// Those who still wait, to be told to go by dropping them.
    pub(super) fn dismiss(&mut self) -> VecDeque<Waiter> {
        if let Some(first) = self.list.front() {
            self.dismissed_from = Some(first.number);
        }
        std::mem::take(&mut self.list)
    }

    /// Nobody waits, and nobody was told to go.
    pub(super) fn is_over(&self) -> bool {
        self.list.is_empty() && self.dismissed_from.is_none()
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
