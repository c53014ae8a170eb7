//! Spreads connect attempts over time and bounds how many are under way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest space between two attempts, however low the rate.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A limit on the connect attempts of many links, shared by cloning.
///
/// Attempts get evenly spaced places in line: after an outage, links come back at this rate whatever
/// their back-off says.
#[derive(Debug, Clone)]
pub struct ConnectPacer {
    interval: Option<Duration>,
    next: Arc<Mutex<Option<Instant>>>,
    permits: Arc<Semaphore>,
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
        Self {
            interval,
            next: Arc::new(Mutex::new(None)),
            permits: Arc::new(Semaphore::new(concurrent_max.max(1))),
        }
    }

    /// Waits for a place; the attempt counts as under way until the permit is dropped.
    pub(crate) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.take_place(Instant::now()) {
            tokio::time::sleep_until(place.into()).await;
        }
        // The semaphore is never closed, so there always is a permit in the end.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn take_place(&self, now: Instant) -> Option<Instant> {
        let interval = self.interval?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let place = next.map_or(now, |place| place.max(now));
        *next = Some(place + interval);
        Some(place)
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
    use super::*;

    #[test]
    fn places_are_spaced_by_the_rate_and_unused_time_is_not_saved_up() {
        let pacer = ConnectPacer::new(Some(10.0), 1);
        let now = Instant::now();
        assert_eq!(pacer.take_place(now), Some(now));
        assert_eq!(
            pacer.take_place(now),
            Some(now + Duration::from_millis(100))
        );
        let later = now + Duration::from_secs(5);
        assert_eq!(pacer.take_place(later), Some(later));
        assert_eq!(
            pacer.take_place(later),
            Some(later + Duration::from_millis(100))
        );
        assert_eq!(ConnectPacer::new(Some(0.0), 1).take_place(now), None);
    }
}
