//! Lists of messages that a thread uses again.
//!
//! A list of a few hundred messages is a large block of memory, and asking the allocator for one makes it tidy
//! up all small ones that were freed: payloads, for one. Where batches come and go by the thousand that costs more
//! than the batches.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::thread::LocalKey;

use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::session::Outgoing;

use super::inflight::Inflight;
use super::intake::Submission;
use super::runs::Run;

/// Lists of each kind that a thread keeps.
const KEPT_MAX: usize = 8;

/// Places of the longest list that is kept.
const PLACES_MAX: usize = 1_024;

type Spare<T> = RefCell<Vec<Vec<T>>>;

thread_local! {
    static HANDED_OVER: Spare<Rendered> = const { RefCell::new(Vec::new()) };
    static HANDED_ON: Spare<Outgoing> = const { RefCell::new(Vec::new()) };
    static SUBMITTED: Spare<Submission> = const { RefCell::new(Vec::new()) };
    static INFLIGHT: Spare<Option<Inflight>> = const { RefCell::new(Vec::new()) };
    static RUNS: Spare<Run> = const { RefCell::new(Vec::new()) };
    static SIZES: Spare<u32> = const { RefCell::new(Vec::new()) };
}

/// An empty list with room for `messages`: one that a link of this thread has emptied, or a new one.
#[must_use]
pub fn batch_storage(messages: usize) -> Vec<Rendered> {
    let mut list = take(&HANDED_OVER);
    list.reserve(messages);
    list
}

pub(super) fn keep_batch_storage(list: Vec<Rendered>) {
    keep(&HANDED_OVER, list);
}

/// An empty list for a [`PublishBatch`](crate::message::PublishBatch).
pub(super) fn publish_list() -> Vec<Outgoing> {
    take(&HANDED_ON)
}

/// Takes the list of a [`PublishBatch`](crate::message::PublishBatch) back.
pub(crate) fn keep_publish_list(list: Vec<Outgoing>) {
    keep(&HANDED_ON, list);
}

/// An empty list for what callers hand over. On a thread that links live on, one that they have emptied.
pub(super) fn submission_list() -> Vec<Submission> {
    take(&SUBMITTED)
}

pub(super) fn keep_submission_list(list: VecDeque<Submission>) {
    keep(&SUBMITTED, list.into());
}

/// An empty list for messages in flight.
pub(super) fn inflight_list() -> VecDeque<Option<Inflight>> {
    take(&INFLIGHT).into()
}

pub(super) fn keep_inflight_list(list: VecDeque<Option<Inflight>>) {
    keep(&INFLIGHT, list.into());
}

/// An empty list for runs of messages in flight.
pub(super) fn run_list() -> VecDeque<Run> {
    take(&RUNS).into()
}

pub(super) fn keep_run_list(list: VecDeque<Run>) {
    keep(&RUNS, list.into());
}

/// An empty list for their sizes.
pub(super) fn size_list() -> VecDeque<u32> {
    take(&SIZES).into()
}

pub(super) fn keep_size_list(list: VecDeque<u32>) {
    keep(&SIZES, list.into());
}

fn take<T>(spare: &'static LocalKey<Spare<T>>) -> Vec<T> {
    // While a thread ends it has no spare ones any more.
    spare
        .try_with(|spare| spare.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn keep<T>(spare: &'static LocalKey<Spare<T>>, mut list: Vec<T>) {
    list.clear();
    if (1..=PLACES_MAX).contains(&list.capacity()) {
        let _ = spare.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT_MAX {
                spare.push(list);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_emptied_is_used_again_and_a_very_long_one_is_not_kept() {
        let list = batch_storage(100);
        let place = list.as_ptr();
        keep_batch_storage(list);
        let again = batch_storage(50);
        assert_eq!(again.as_ptr(), place);
        assert!(again.capacity() >= 100);
        keep_batch_storage(Vec::with_capacity(PLACES_MAX + 1));
        keep_batch_storage(Vec::new());
        assert_eq!(HANDED_OVER.with_borrow(Vec::len), 0);
    }
}
