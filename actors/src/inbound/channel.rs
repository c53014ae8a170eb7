//! The bounded way from a link's router to a consumer on any thread.
//!
//! A bounded `async-channel` has its places from the start, and each of its ends room for those who wait: three quarters of
//! a kilobyte for every link with a consumer, whether anything comes or not. Here are one list that grows on demand
//! and a waker for each end, since each has one that waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Places that an empty list keeps.
const PLACES_KEPT: usize = 16;

/// A channel for `max` items, one at the least.
pub(crate) fn bounded<T>(max: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        max: max.max(1),
        state: Mutex::new(State {
            items: VecDeque::new(),
            receives: None,
            sends: None,
            senders: 1,
            is_closed: false,
        }),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    max: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Who waits for an item.
    receives: Option<Waker>,
    /// Who waits for room.
    sends: Option<Waker>,
    senders: usize,
    /// The receiver is gone.
    is_closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The front item, and who is to hear that it left.
    fn take(state: &mut State<T>) -> Option<(T, Option<Waker>)> {
        let item = state.items.pop_front()?;
        if state.items.is_empty() && state.items.capacity() > PLACES_KEPT {
            state.items = VecDeque::new();
        }
        Some((item, state.sends.take()))
    }
}

/// Why an item was not taken.
#[derive(Debug)]
pub(crate) enum Unsent<T> {
    /// There is no room now.
    Full(T),
    /// The receiver is gone.
    Closed,
}

/// The router's end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends, if there is room.
    pub(crate) fn try_send(&self, item: T) -> Result<(), Unsent<T>> {
        let mut state = self.0.lock();
        if state.is_closed {
            // What it held may be acknowledged by its drop, which is not for under the lock.
            drop(state);
            return Err(Unsent::Closed);
        }
        if state.items.len() >= self.0.max {
            return Err(Unsent::Full(item));
        }
        state.items.push_back(item);
        let receives = state.receives.take();
        drop(state);
        if let Some(waker) = receives {
            waker.wake();
        }
        Ok(())
    }

    /// Waits until there is room, or until the receiver is gone. One at a time does.
    pub(crate) async fn send(&self, item: T) {
        let mut unsent = Some(item);
        std::future::poll_fn(|cx| self.poll_send(&mut unsent, cx)).await;
    }

    fn poll_send(&self, unsent: &mut Option<T>, cx: &Context<'_>) -> Poll<()> {
        let Some(item) = unsent.take() else {
            return Poll::Ready(());
        };
        {
            let mut state = self.0.lock();
            if !state.is_closed && state.items.len() >= self.0.max {
                state.sends = Some(cx.waker().clone());
                *unsent = Some(item);
                return Poll::Pending;
            }
        }
        // Nobody else sends, so that the room is still there.
        match self.try_send(item) {
            Err(Unsent::Full(item)) => {
                *unsent = Some(item);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(()) | Err(Unsent::Closed) => Poll::Ready(()),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receives = {
            let mut state = self.0.lock();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            state.receives.take()
        };
        if let Some(waker) = receives {
            waker.wake();
        }
    }
}

/// The consumer's end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next item, if one is there.
    pub(crate) fn try_receive(&self) -> Option<T> {
        let taken = Shared::take(&mut self.0.lock());
        let (item, sends) = taken?;
        if let Some(waker) = sends {
            waker.wake();
        }
        Some(item)
    }

    /// The next item; `None` once all are taken and no sender is left.
    pub(crate) fn poll_receive(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        let (item, sends) = {
            let mut state = self.0.lock();
            match Shared::take(&mut state) {
                Some(taken) => taken,
                None if state.senders == 0 => return Poll::Ready(None),
                None => {
                    state.receives = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        if let Some(waker) = sends {
            waker.wake();
        }
        Poll::Ready(Some(item))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (items, sends) = {
            let mut state = self.0.lock();
            state.is_closed = true;
            (std::mem::take(&mut state.items), state.sends.take())
        };
        // Dropping one may acknowledge it.
        drop(items);
        if let Some(waker) = sends {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_util::FutureExt as _;

    use super::*;

    fn next<T>(receiver: &mut Receiver<T>) -> Option<Option<T>> {
        std::future::poll_fn(|cx| receiver.poll_receive(cx)).now_or_never()
    }

    #[test]
    fn items_come_in_order_and_no_more_wait_than_there_is_room_for() {
        let (sender, mut receiver) = bounded(2);
        assert!(sender.try_send(1).is_ok());
        assert!(sender.try_send(2).is_ok());
        assert!(matches!(sender.try_send(3), Err(Unsent::Full(3))));
        assert_eq!(receiver.try_receive(), Some(1));
        assert!(sender.try_send(3).is_ok());
        assert_eq!(next(&mut receiver), Some(Some(2)));
        assert_eq!(next(&mut receiver), Some(Some(3)));
        assert_eq!((receiver.try_receive(), next(&mut receiver)), (None, None));
    }

    #[test]
    fn the_last_sender_ends_the_stream_behind_what_it_sent() {
        let (sender, mut receiver) = bounded(1);
        let other = sender.clone();
        assert!(sender.try_send(1).is_ok());
        drop(sender);
        assert_eq!(next(&mut receiver), Some(Some(1)));
        assert_eq!(next(&mut receiver), None);
        drop(other);
        assert_eq!(next(&mut receiver), Some(None));
    }

    #[test]
    fn what_nobody_receives_any_more_is_dropped_with_the_receiver() {
        let (sender, receiver) = bounded(1);
        let item = Rc::new(());
        assert!(sender.try_send(Rc::clone(&item)).is_ok());
        let mut waiting = Box::pin(sender.send(Rc::clone(&item)));
        assert!((&mut waiting).now_or_never().is_none());
        drop(receiver);
        assert!((&mut waiting).now_or_never().is_some());
        drop(waiting);
        assert!(matches!(
            sender.try_send(Rc::clone(&item)),
            Err(Unsent::Closed)
        ));
        assert_eq!(Rc::strong_count(&item), 1);
    }

    #[actix::test]
    async fn each_end_is_woken_when_the_other_moves() {
        let (sender, mut receiver) = bounded(1);
        let sending = actix::spawn(async move {
            for item in 0..1_000 {
                sender.send(item).await;
                if item % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut received = Vec::new();
        while let Some(item) = std::future::poll_fn(|cx| receiver.poll_receive(cx)).await {
            received.push(item);
        }
        assert!(received.into_iter().eq(0..1_000));
        assert!(sending.await.is_ok());
    }
}
