//! Requests about documents of state.

use std::time::Duration;

use paquebot_protocols::model::Platform;
use paquebot_protocols::shadow::Ignored;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::DURATION_BUCKETS;

#[derive(Debug, Clone)]
pub(super) struct ShadowFamilies {
    operations: IntCounterVec,
    duration: HistogramVec,
    ignored: IntCounterVec,
}

impl ShadowFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let operations = Opts::new(
            "paquebot_shadow_operations_total",
            "Requests about documents of state, by kind and outcome.",
        );
        let duration = HistogramOpts::new(
            "paquebot_shadow_operation_duration_seconds",
            "From the call to the end of a request about a document of state.",
        )
        .buckets(DURATION_BUCKETS.to_vec());
        let ignored = Opts::new(
            "paquebot_shadow_messages_ignored_total",
            "Messages about documents of state that were not used, by reason.",
        );
        let families = Self {
            operations: IntCounterVec::new(
                operations,
                &["platform", "group", "operation", "outcome"],
            )?,
            duration: HistogramVec::new(duration, &["platform", "operation"])?,
            ignored: IntCounterVec::new(ignored, &["platform", "group", "reason"])?,
        };
        registry.register(Box::new(families.operations.clone()))?;
        registry.register(Box::new(families.duration.clone()))?;
        registry.register(Box::new(families.ignored.clone()))?;
        Ok(families)
    }

    pub(super) fn group(&self, labels: &(Platform, String)) -> ShadowSeries {
        ShadowSeries {
            families: self.clone(),
            labels: labels.clone(),
        }
    }
}

/// The series of one group. Looked up at each use: requests are rare beside messages.
#[derive(Debug)]
pub(crate) struct ShadowSeries {
    families: ShadowFamilies,
    labels: (Platform, String),
}

impl ShadowSeries {
    pub(crate) fn count(&self, operation: &str, outcome: &str) {
        self.families
            .operations
            .with_label_values(&[self.labels.0.name(), &self.labels.1, operation, outcome])
            .inc();
    }

    pub(crate) fn observe(&self, operation: &str, took: Duration) {
        self.families
            .duration
            .with_label_values(&[self.labels.0.name(), operation])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn count_ignored(&self, why: Ignored) {
        self.families
            .ignored
            .with_label_values(&[self.labels.0.name(), &self.labels.1, why.name()])
            .inc();
    }
}
