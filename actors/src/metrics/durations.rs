//! A histogram of durations that counts many equal observations at once.
//!
//! The acknowledgements of one read mostly took equally long, and the library's histogram has no call for
//! that: observing them one by one costs several atomic additions for each message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// One histogram for each combination of label values.
#[derive(Debug, Clone)]
pub(super) struct DurationFamily(Arc<Family>);

#[derive(Debug)]
struct Family {
    desc: Desc,
    /// Upper bounds in seconds, ascending.
    bounds: &'static [f64],
    children: Mutex<Vec<Arc<DurationHistogram>>>,
}

/// The durations with one combination of label values.
#[derive(Debug)]
pub(super) struct DurationHistogram {
    bounds: &'static [f64],
    labels: Vec<String>,
    /// One for each bound, and one for what is above all of them.
    counts: Vec<AtomicU64>,
    sum_ns: AtomicU64,
}

impl DurationFamily {
    pub(super) fn new(
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &'static [f64],
    ) -> Result<Self, prometheus::Error> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())?;
        Ok(Self(Arc::new(Family {
            desc,
            bounds,
            children: Mutex::default(),
        })))
    }

    pub(super) fn with_label_values(&self, labels: &[&str]) -> Arc<DurationHistogram> {
        let mut children = self
            .0
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = children.iter().find(|child| child.labels == labels) {
            return Arc::clone(child);
        }
        let bounds = self.0.bounds;
        let child = Arc::new(DurationHistogram {
            bounds,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        });
        children.push(Arc::clone(&child));
        child
    }
}

impl DurationHistogram {
    /// Counts `count` observations of `duration`.
    pub(super) fn observe(&self, duration: Duration, count: u64) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(count, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns
            .fetch_add(nanoseconds.saturating_mul(count), Ordering::Relaxed);
    }

    fn metric(&self, desc: &Desc) -> Metric {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (bound, counted) in self.bounds.iter().zip(&self.counts) {
            count += counted.load(Ordering::Relaxed);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        if let Some(above) = self.counts.last() {
            count += above.load(Ordering::Relaxed);
        }
        let sum = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed));
        let mut histogram = Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum.as_secs_f64());
        histogram.set_bucket(buckets);
        let names = desc.variable_labels.iter();
        let labels = names.zip(&self.labels).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name(name.clone());
            label.set_value(value.clone());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for DurationFamily {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let desc = &self.0.desc;
        let children = self
            .0
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut family = MetricFamily::default();
        family.set_name(desc.fq_name.clone());
        family.set_help(desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(children.iter().map(|child| child.metric(desc)).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_counts_below_it_and_buckets_add_up() {
        let family =
            DurationFamily::new("d_seconds", "Durations.", &["kind"], &[0.5, 1.0]).unwrap();
        let child = family.with_label_values(&["a"]);
        child.observe(Duration::from_millis(500), 3);
        child.observe(Duration::from_millis(501), 1);
        child.observe(Duration::from_secs(2), 2);
        assert!(Arc::ptr_eq(&child, &family.with_label_values(&["a"])));
        let collected = family.collect();
        let metric = &collected[0].get_metric()[0];
        let histogram = metric.get_histogram();
        let cumulative: Vec<_> = histogram
            .get_bucket()
            .iter()
            .map(Bucket::cumulative_count)
            .collect();
        assert_eq!(cumulative, [3, 4]);
        assert_eq!(histogram.get_sample_count(), 6);
        assert!((histogram.get_sample_sum() - 6.001).abs() < 1e-9);
        assert_eq!(metric.get_label()[0].value(), "a");
    }
}
