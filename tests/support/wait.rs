//! Waiting for a condition: polled, with a deadline and a message that says what did not happen.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at: short enough to add nothing to a test, long enough to leave the
/// processor to what is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not within `limit`; `what` completes the sentence "waited 5s in vain until …".
///
/// It blocks the thread: an asynchronous test calls it through `tokio::task::spawn_blocking`.
#[track_caller]
pub(crate) fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, limit, || condition().then_some(()));
}

/// Waits until `probe` gives a value, and returns it. Like [`until`] otherwise.
#[track_caller]
pub(crate) fn until_some<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        if Instant::now() >= deadline {
            panic!("waited {limit:?} in vain until {what}");
        }
        thread::sleep(POLL_INTERVAL);
    }
}
