//! Latencies and their percentiles.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

/// Latencies of one kind, in nanoseconds with three significant digits.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Result<Self, CreationError> {
        // An hour is more than any deadline of a link; what takes longer counts as an hour.
        let longest_ns = 3_600_000_000_000;
        Histogram::new_with_bounds(1, longest_ns, 3).map(Self)
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // Never fails: all have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// `None` when nothing was recorded.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        if self.0.is_empty() {
            return None;
        }
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e9;
        Some(Percentiles {
            count: self.0.len(),
            mean_s: self.0.mean() / 1e9,
            p50_s: at(0.5),
            p90_s: at(0.9),
            p99_s: at(0.99),
            p999_s: at(0.999),
            max_s: self.0.max() as f64 / 1e9,
        })
    }
}

/// Percentiles in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) mean_s: f64,
    pub(super) p50_s: f64,
    pub(super) p90_s: f64,
    pub(super) p99_s: f64,
    pub(super) p999_s: f64,
    pub(super) max_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_seconds_and_merging_adds() {
        let mut low = Latencies::new().unwrap();
        assert_eq!(low.percentiles(), None);
        let mut high = Latencies::new().unwrap();
        for n in 1..=50 {
            low.record(Duration::from_millis(n));
            high.record(Duration::from_millis(50 + n));
        }
        low.merge(&high);
        let percentiles = low.percentiles().unwrap();
        assert_eq!(percentiles.count, 100);
        for (found, wanted) in [
            (percentiles.p50_s, 0.050),
            (percentiles.p90_s, 0.090),
            (percentiles.p99_s, 0.099),
            (percentiles.max_s, 0.100),
        ] {
            assert!((found / wanted - 1.0).abs() < 0.002, "{found} for {wanted}");
        }
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::MAX);
        assert!(latencies.percentiles().unwrap().max_s >= 3600.0);
    }
}
