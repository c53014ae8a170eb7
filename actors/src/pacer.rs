//! Spreads connect attempts over time and bounds how many are under way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest space between two attempts, however low the rate.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A limit on the connect attempts of many links, shared by cloning.
///
/// Attempts get evenly spaced places in line: after an outage, links come back at this rate whatever
/// their back-off says.
#[derive(Debug, Clone)]
pub struct ConnectPacer(Arc<Line>);

#[derive(Debug)]
struct Line {
    interval: Option<Duration>,
    places: Mutex<Places>,
    permits: Arc<Semaphore>,
}

/// Who may begin when.
#[derive(Debug, Default)]
struct Places {
    /// The first one that nobody had yet.
    next: Option<Instant>,
    /// Places before it that were given back.
    free: BTreeSet<Instant>,
}

impl ConnectPacer {
    /// At most `rate` attempts a second (`None`: any number), at most `concurrent_max` under way at once.
    #[must_use]
    pub fn new(rate: Option<f64>, concurrent_max: usize) -> Self {
        let interval = rate
            .filter(|rate| rate.is_finite() && *rate > 0.0)
            .map(|rate| {
                Duration::try_from_secs_f64(1.0 / rate)
                    .unwrap_or(INTERVAL_MAX)
                    .min(INTERVAL_MAX)
            });
        Self(Arc::new(Line {
            interval,
            places: Mutex::default(),
            permits: Arc::new(Semaphore::new(concurrent_max.max(1))),
        }))
    }

    /// Waits for a place; the attempt counts as under way until the permit is dropped. Who stops waiting gives
    /// the place back, and the next one to come takes it.
    pub(crate) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.wait_in_line().await;
        // The semaphore is never closed, so there always is a permit in the end.
        Arc::clone(&self.0.permits).acquire_owned().await.ok()
    }

    /// As [`ConnectPacer::wait`] for those whose number under way somebody else bounds.
    pub(crate) async fn wait_in_line(&self) {
        if let Some(place) = self.take_place(Instant::now()) {
            // Boxed: with no rate, as mostly, nobody waits here and everybody would hold the room for it.
            Box::pin(tokio::time::sleep_until(place.at.into())).await;
            place.keep();
        }
    }

    fn take_place(&self, now: Instant) -> Option<Place<'_>> {
        let interval = self.0.interval?;
        let mut places = self.places();
        // Time that has passed is not saved up.
        places.free = places.free.split_off(&now);
        let at = places.free.pop_first().unwrap_or_else(|| {
            let at = places.next.map_or(now, |next| next.max(now));
            places.next = Some(at + interval);
            at
        });
        Some(Place { pacer: self, at })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in line, given back on drop.
#[derive(Debug)]
struct Place<'a> {
    pacer: &'a ConnectPacer,
    at: Instant,
}

impl Place<'_> {
    /// The attempt begins: the place is used.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pacer.places().free.insert(self.at);
    }
}

impl Default for ConnectPacer {
    /// Any rate; 512 attempts under way at once.
    fn default() -> Self {
        Self::new(None, 512)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn places_are_spaced_by_the_rate_and_unused_time_is_not_saved_up() {
        let pacer = ConnectPacer::new(Some(10.0), 1);
        let now = Instant::now();
        let take = |now| {
            let place = pacer.take_place(now)?;
            let at = place.at;
            place.keep();
            Some(at)
        };
        assert_eq!(take(now), Some(now));
        assert_eq!(take(now), Some(now + Duration::from_millis(100)));
        let later = now + Duration::from_secs(5);
        assert_eq!(take(later), Some(later));
        assert_eq!(take(later), Some(later + Duration::from_millis(100)));
        assert!(ConnectPacer::new(Some(0.0), 1).take_place(now).is_none());
    }

    #[test]
    fn an_attempt_that_was_cancelled_while_it_waited_gives_its_place_to_the_next() {
        let pacer = ConnectPacer::new(Some(10.0), 1);
        let now = Instant::now();
        let after = |places: u32| now + Duration::from_millis(100) * places;
        let mut waiting: Vec<_> = (0..4).filter_map(|_| pacer.take_place(now)).collect();
        drop(waiting.remove(1));
        drop(waiting.remove(2));
        let taken: Vec<_> = (0..3).filter_map(|_| pacer.take_place(now)).collect();
        let places: Vec<_> = taken.iter().map(|place| place.at).collect();
        assert_eq!(places, [after(1), after(3), after(4)]);
    }

    #[test]
    fn a_place_that_was_given_back_too_late_is_no_second_one_at_once() {
        let pacer = ConnectPacer::new(Some(10.0), 1);
        let now = Instant::now();
        let waiting = pacer.take_place(now);
        let later = now + Duration::from_secs(1);
        drop(waiting);
        let places: Vec<_> = (0..2).filter_map(|_| pacer.take_place(later)).collect();
        let places: Vec<_> = places.iter().map(|place| place.at).collect();
        assert_eq!(places, [later, later + Duration::from_millis(100)]);
    }

    #[actix::test]
    async fn a_wait_that_is_dropped_gives_its_place_back() {
        let pacer = ConnectPacer::new(Some(0.001), 1);
        drop(pacer.wait().await);
        let mut waiting = Box::pin(pacer.wait());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(pacer.places().free.is_empty());
        drop(waiting);
        assert_eq!(pacer.places().free.len(), 1);
    }
}
