//! The series of what the queues of all links hold together.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use crate::offline_queue::{FleetRoom, QueueStatistics};

/// A gauge: its name, its help, and its value where there is one.
type Series = (
    &'static str,
    &'static str,
    fn(&QueueStatistics) -> Option<u64>,
);

const GAUGES: [Series; 5] = [
    (
        "paquebot_fleet_queue_messages",
        "Messages that the queues of all links hold, in flight included.",
        |room| Some(room.messages),
    ),
    (
        "paquebot_fleet_queue_bytes",
        "Bytes of their topics and payloads.",
        |room| Some(room.bytes),
    ),
    (
        "paquebot_fleet_queue_messages_max",
        "Most messages that they may hold.",
        |room| room.limits.messages_max.map(|max| max as u64),
    ),
    (
        "paquebot_fleet_queue_bytes_max",
        "Most bytes that they may hold.",
        |room| room.limits.bytes_max.map(|max| max as u64),
    ),
    (
        "paquebot_fleet_queue_waiting_links",
        "Links whose callers wait because the queues of all links are full.",
        |room| Some(room.waiting_links as u64),
    ),
];

const REFUSED: (&str, &str) = (
    "paquebot_fleet_queue_refused_total",
    "Messages refused, or dropped at once, because the queues of all links are full.",
);

/// Reads what the room counts whenever the series are read.
struct FleetRoomSeries {
    room: Arc<FleetRoom>,
    descriptions: Vec<Desc>,
}

impl Metrics {
    /// Adds the series of the room that the queues of all links share.
    ///
    /// # Errors
    /// There is one already.
    pub fn watch_fleet_room(&self, room: Arc<FleetRoom>) -> Result<(), prometheus::Error> {
        let series = FleetRoomSeries::new(room)?;
        self.registry.register(Box::new(series))
    }
}

impl FleetRoomSeries {
    fn new(room: Arc<FleetRoom>) -> Result<Self, prometheus::Error> {
        let names = GAUGES.iter().map(|(name, help, _)| (*name, *help));
        let describe = |(name, help): (&str, &str)| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                Default::default(),
            )
        };
        let descriptions = names.chain([REFUSED]).map(describe);
        Ok(Self {
            room,
            descriptions: descriptions.collect::<Result<_, _>>()?,
        })
    }
}

impl Collector for FleetRoomSeries {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let statistics = self.room.statistics();
        let gauges = GAUGES.iter().filter_map(|(name, help, read)| {
            let value = read(&statistics)?;
            let gauge = IntGauge::new(*name, *help).ok()?;
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            Some(gauge.collect())
        });
        let (name, help) = REFUSED;
        let refused = IntCounter::new(name, help).ok().map(|counter| {
            counter.inc_by(statistics.refused);
            counter.collect()
        });
        gauges.chain(refused).flatten().collect()
    }
}
