//! What the devices did, counted beside the metrics of their links.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use paquebot::aws::JobOutcome;
use tokio::sync::Notify;

/// Longest latency that is told apart, in microseconds: one hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Shared by the devices' threads and the display.
pub(crate) struct Tally {
    telemetry: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
    reports: AtomicU64,
    /// Succeeded, failed, rejected.
    jobs: [AtomicU64; 3],
    limit: Option<u64>,
    /// How much of the limit nobody has taken yet.
    left: AtomicU64,
    exhausted: Notify,
    /// Touched once a sampled message, not once a message.
    latency: Mutex<Latencies>,
}

struct Latencies {
    all: Histogram<u64>,
    recent: Histogram<u64>,
}

/// Percentiles of the time from sending a message to its acknowledgement, waiting included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    /// How many messages were measured.
    pub(crate) samples: u64,
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

/// How the jobs ended that devices did, as the service has taken it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct JobCounts {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
}

impl Tally {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            telemetry: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            jobs: [const { AtomicU64::new(0) }; 3],
            limit,
            left: AtomicU64::new(limit.unwrap_or(u64::MAX)),
            exhausted: Notify::new(),
            latency: Mutex::new(Latencies {
                all: histogram(),
                recent: histogram(),
            }),
        }
    }

    /// Telemetry messages that the links took.
    pub(crate) fn telemetry(&self) -> u64 {
        self.telemetry.load(Ordering::Relaxed)
    }

    /// Samples that were not sent: the outbox had no room, or the machine came too late for them.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Messages that do not fit the platform.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Reports of state that the links took.
    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    pub(super) fn count_report(&self) {
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// Jobs that devices have done and whose outcomes the service has taken.
    pub(crate) fn jobs(&self) -> JobCounts {
        let [succeeded, failed, rejected] = self
            .jobs
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        JobCounts {
            succeeded,
            failed,
            rejected,
        }
    }

    pub(super) fn count_job(&self, outcome: &JobOutcome) {
        let [succeeded, failed, rejected] = &self.jobs;
        let count = match outcome {
            JobOutcome::Succeeded(_) => succeeded,
            JobOutcome::Failed(_) => failed,
            JobOutcome::Rejected(_) => rejected,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the limit of telemetry messages is reached; for ever without one.
    pub(crate) async fn limit_reached(&self) {
        let Some(limit) = self.limit else {
            return std::future::pending().await;
        };
        // Made before the count is looked at, so that no notice falls in between.
        let notified = self.exhausted.notified();
        if self.telemetry() < limit {
            notified.await;
        }
    }

    /// Percentiles over the whole run; `None` when nothing was measured.
    pub(crate) fn latency(&self) -> Option<Latency> {
        percentiles(&self.latencies().all)
    }

    /// Percentiles since this was asked last.
    pub(crate) fn take_recent_latency(&self) -> Option<Latency> {
        let mut latencies = self.latencies();
        let recent = percentiles(&latencies.recent);
        latencies.recent.reset();
        recent
    }

    /// Takes the right to send one message; `false` at the limit.
    pub(super) fn take_turn(&self) -> bool {
        self.limit.is_none()
            || self
                .left
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }

    /// The message of a turn was taken.
    pub(super) fn count_telemetry(&self) {
        let sent = self.telemetry.fetch_add(1, Ordering::AcqRel) + 1;
        if self.limit == Some(sent) {
            self.exhausted.notify_waiters();
        }
    }

    /// The message of a turn was not taken: another one may go.
    pub(super) fn give_turn_back(&self) {
        if self.limit.is_some() {
            self.left.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn count_skipped(&self, samples: u64) {
        self.skipped.fetch_add(samples, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut latencies = self.latencies();
        latencies.all.saturating_record(micros);
        latencies.recent.saturating_record(micros);
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Latencies> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(
    clippy::expect_used,
    reason = "the bounds are constants that the library accepts, as the test shows"
)]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds")
}

fn percentiles(histogram: &Histogram<u64>) -> Option<Latency> {
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    (!histogram.is_empty()).then(|| Latency {
        samples: histogram.len(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: Duration::from_micros(histogram.max()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded_and_recent_ones_start_anew() {
        let tally = Tally::new(None);
        assert_eq!(tally.latency(), None);
        for ms in 1..=100 {
            tally.record_latency(Duration::from_millis(ms));
        }
        let latency = tally.take_recent_latency().unwrap();
        assert_eq!(latency.samples, 100);
        let near = |measured: Duration, ms: f64| (measured.as_secs_f64() * 1e3 - ms).abs() < 0.2;
        assert!(near(latency.p50, 50.0), "{latency:?}");
        assert!(near(latency.p99, 99.0), "{latency:?}");
        assert_eq!(tally.take_recent_latency(), None);
        assert_eq!(tally.latency().unwrap().samples, 100);
        tally.record_latency(Duration::MAX);
        assert!(tally.latency().unwrap().max >= Duration::from_secs(3_599));
    }

    #[tokio::test]
    async fn the_limit_lets_exactly_so_many_through() {
        let tally = Tally::new(Some(2));
        assert!(tally.take_turn());
        tally.count_telemetry();
        assert!(tally.take_turn());
        tally.give_turn_back();
        assert!(tally.take_turn());
        assert!(!tally.take_turn());
        tally.count_telemetry();
        tally.limit_reached().await;
    }
}
