//! The turns of a link: how many requests about documents may be without an answer, over all of its documents.
//!
//! AWS IoT counts them per connection. They are given in the order in which they were asked for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All turns of a link.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    max: u32,
}

/// One turn, or all of them. It is given back with its drop.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Turns {
    pub(crate) fn new(max: usize) -> Self {
        let max = u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(max as usize)),
            max,
        }
    }

    /// A turn that is free now. It is never taken from those who wait.
    pub(super) fn try_take(&self, is_alone: bool) -> Option<Turn> {
        let free = Arc::clone(&self.free);
        let permit = free.try_acquire_many_owned(self.count(is_alone)).ok()?;
        Some(Turn(permit))
    }

    /// Waits for a turn, or for all of them.
    pub(super) async fn take(self: Arc<Self>, is_alone: bool) -> Option<Turn> {
        let free = Arc::clone(&self.free);
        let permit = free.acquire_many_owned(self.count(is_alone)).await.ok()?;
        Some(Turn(permit))
    }

    fn count(&self, is_alone: bool) -> u32 {
        if is_alone { self.max } else { 1 }
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
}
