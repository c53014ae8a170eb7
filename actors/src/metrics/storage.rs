//! The series of the store.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};

use crate::store::{Store, StoreStatistics};

/// A series: its name, its help, and its value.
type Series = (&'static str, &'static str, fn(&StoreStatistics) -> u64);

const GAUGES: [Series; 6] = [
    (
        "paquebot_store_queues",
        "Durable queues that the store knows.",
        |store| store.queues,
    ),
    (
        "paquebot_store_entries",
        "Entries in the store: messages, phases, identifiers.",
        |store| store.entries,
    ),
    (
        "paquebot_store_live_bytes",
        "Bytes that the entries of the store need.",
        |store| store.live_bytes,
    ),
    (
        "paquebot_store_bytes",
        "Bytes of the store's files.",
        |store| store.bytes,
    ),
    (
        "paquebot_store_full",
        "Whether the store takes no messages because its disk is full.",
        |store| u64::from(store.is_full),
    ),
    (
        "paquebot_store_failing",
        "Whether the last write to the store failed.",
        |store| u64::from(store.is_failing),
    ),
];

const COUNTERS: [Series; 6] = [
    (
        "paquebot_store_commits_total",
        "Commits to the store that succeeded.",
        |store| store.commits,
    ),
    (
        "paquebot_store_commits_failed_total",
        "Commits to the store that failed.",
        |store| store.commits_failed,
    ),
    (
        "paquebot_store_syncs_total",
        "Times the store waited for its disk.",
        |store| store.syncs,
    ),
    (
        "paquebot_store_damaged_total",
        "Damaged places found in the store's files and set aside.",
        |store| store.damaged,
    ),
    (
        "paquebot_store_damaged_bytes_total",
        "Bytes of these.",
        |store| store.damaged_bytes,
    ),
    (
        "paquebot_store_asides_removed_total",
        "Files that the store had set aside and removed because there were too many.",
        |store| store.asides_removed,
    ),
];

/// Reads what the store counts whenever the series are read: nothing is counted twice.
pub(super) struct StoreSeries {
    store: Arc<dyn Store>,
    descriptions: Vec<Desc>,
}

impl StoreSeries {
    pub(super) fn new(store: Arc<dyn Store>) -> Result<Self, prometheus::Error> {
        let describe = |(name, help, _): &Series| {
            let (name, help) = ((*name).to_owned(), (*help).to_owned());
            Desc::new(name, help, Vec::new(), Default::default())
        };
        let descriptions = GAUGES.iter().chain(&COUNTERS).map(describe);
        Ok(Self {
            store,
            descriptions: descriptions.collect::<Result<_, _>>()?,
        })
    }
}

impl Collector for StoreSeries {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let statistics = self.store.statistics();
        let gauges = GAUGES.iter().filter_map(|(name, help, read)| {
            let gauge = IntGauge::new(*name, *help).ok()?;
            gauge.set(i64::try_from(read(&statistics)).unwrap_or(i64::MAX));
            Some(gauge.collect())
        });
        let counters = COUNTERS.iter().filter_map(|(name, help, read)| {
            let counter = IntCounter::new(*name, *help).ok()?;
            counter.inc_by(read(&statistics));
            Some(counter.collect())
        });
        gauges.chain(counters).flatten().collect()
    }
}
