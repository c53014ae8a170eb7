//! The turns of a link: how many requests about documents may be without an answer, over all of its documents.
//!
//! AWS IoT counts them per connection. They are given in the order in which they were asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paquebot_protocols::mqtt::Topic;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All turns of a link.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    max: u32,
    sent: Mutex<Sent>,
}

/// The requests without an answer, in the order in which they were sent.
#[derive(Debug, Default)]
struct Sent {
    next: u64,
    topics: Vec<(u64, Topic)>,
}

/// One turn, or all of them. It is given back with its drop.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(max: usize) -> Self {
        let max = u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(max as usize)),
            max,
            sent: Mutex::default(),
        }
    }

    /// A turn that is free now. It is never taken from those who wait.
    pub(super) fn try_take(self: &Arc<Self>, is_alone: bool) -> Option<Turn> {
        let free = Arc::clone(&self.free);
        let permit = free.try_acquire_many_owned(self.count(is_alone)).ok()?;
        Some(self.turn(permit))
    }

    /// Waits for a turn, or for all of them.
    pub(super) async fn take(self: Arc<Self>, is_alone: bool) -> Option<Turn> {
        let free = Arc::clone(&self.free);
        let permit = free.acquire_many_owned(self.count(is_alone)).await.ok()?;
        Some(self.turn(permit))
    }

    fn count(&self, is_alone: bool) -> u32 {
        if is_alone { self.max } else { 1 }
    }

    fn turn(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Turn {
        Turn {
            turns: Arc::clone(self),
            number: None,
            _permit: permit,
        }
    }

    /// How many requests were sent and not answered, and the topic of the first of them.
    pub(crate) fn unanswered(&self) -> (usize, Option<Topic>) {
        let sent = self.sent();
        let first = sent.topics.first().map(|(_, topic)| topic.clone());
        (sent.topics.len(), first)
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Its request was published there.
    pub(super) fn note_sent(&mut self, topic: Topic) {
        let mut sent = self.turns.sent();
        let number = sent.next;
        sent.next += 1;
        sent.topics.push((number, topic));
        drop(sent);
        self.number = Some(number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut sent = self.turns.sent();
            sent.topics.retain(|(sent, _)| *sent != number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn turns_are_given_in_order_and_one_that_is_alone_has_them_all() {
        let turns = Arc::new(Turns::new(2));
        let first = turns.try_take(false).unwrap();
        let second = turns.try_take(false).unwrap();
        let mut alone = Box::pin(Arc::clone(&turns).take(true));
        assert!((&mut alone).now_or_never().is_none());
        let mut behind = Box::pin(Arc::clone(&turns).take(false));
        assert!((&mut behind).now_or_never().is_none());
        drop(first);
        assert!((&mut alone).now_or_never().is_none());
        assert!((&mut behind).now_or_never().is_none());
        assert!(turns.try_take(false).is_none());
        drop(second);
        let alone = alone.now_or_never().unwrap();
        assert!(alone.is_some() && (&mut behind).now_or_never().is_none());
        drop(alone);
        assert!(behind.now_or_never().unwrap().is_some());
    }

    #[test]
    fn what_was_sent_is_known_until_its_turn_is_given_back() {
        let turns = Arc::new(Turns::new(3));
        assert_eq!(turns.unanswered(), (0, None));
        let mut first = turns.try_take(false).unwrap();
        let mut second = turns.try_take(false).unwrap();
        let topic = |name| Topic::new(name).unwrap();
        first.note_sent(topic("a"));
        second.note_sent(topic("b"));
        assert_eq!(turns.unanswered(), (2, Some(topic("a"))));
        drop(first);
        assert_eq!(turns.unanswered(), (1, Some(topic("b"))));
    }
}
