//! Every Prometheus series of the runtime, declared once.
//!
//! No series has a label per device, topic, client identifier or error text: labels are platform, group
//! and closed sets of names. Handles are looked up once per group and then cost one atomic addition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use paquebot_protocols::model::{CommandStatus, Platform};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::event::LinkState;
use crate::failures::{Failure, FailureLog};
use crate::offline_queue::{Intake, Tally};
use crate::receipt::DropReason;
use crate::store::Store;
use crate::transport::Stage;

mod certificates;
mod durations;
mod fleet_room;
mod ledger;
mod shadows;
mod storage;
mod totals;

use certificates::CertificateSeries;
use durations::{DurationFamily, DurationHistogram};
use ledger::Ledger;
use shadows::{ShadowFamilies, ShadowSeries};
use storage::StoreSeries;
pub use totals::Totals;

/// Groups that get series of their own; links of further groups are counted under `other`.
pub const GROUPS_MAX: usize = 64;

/// Seconds: 0.5 ms to 30 s.
const DURATION_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Seconds: 5 ms to 60 s.
const CONNECT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Seconds: 0.1 ms to 1 s.
const LAG_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// The series of one fleet, in a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    groups: Mutex<HashMap<(Platform, String), Arc<GroupMetrics>>>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Families {
    devices: IntGaugeVec,
    connect_attempts: IntCounterVec,
    connect_duration: HistogramVec,
    disconnects: IntCounterVec,
    reconnects: IntCounterVec,
    accepted: IntCounterVec,
    recovered: IntCounterVec,
    outcomes: IntCounterVec,
    held: IntGaugeVec,
    dropped: IntCounterVec,
    messages: IntCounterVec,
    message_bytes: IntCounterVec,
    ack_duration: DurationFamily,
    inflight: IntGaugeVec,
    queue_messages: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    queue_oldest: GaugeVec,
    inbound_dropped: IntCounterVec,
    commands: IntCounterVec,
    command_duration: HistogramVec,
    worker_lag: HistogramVec,
    labels_dropped: IntCounterVec,
    shadows: ShadowFamilies,
    requests: IntGaugeVec,
}

/// The handles of one group of links.
#[derive(Debug)]
pub struct GroupMetrics {
    states: [IntGauge; LinkState::ALL.len()],
    connect_attempts: IntCounterVec,
    disconnects: IntCounterVec,
    connect_duration: HistogramVec,
    /// By stage, from its first time on: a stage that never happened is not exported.
    stages: [OnceLock<Histogram>; 5],
    /// The attempts that succeeded, likewise.
    connected: OnceLock<IntCounter>,
    labels: (Platform, String),
    /// The group's queues, for the age of the oldest message.
    queues: Mutex<QueueRegister>,
    queue_oldest: Gauge,
    pub(crate) failures: FailureLog,
    pub(crate) reconnects: IntCounter,
    accepted: IntCounter,
    recovered: IntCounter,
    held: IntGauge,
    ledger: Ledger,
    inflight: IntGauge,
    queue_messages: IntGauge,
    queue_bytes: IntGauge,
    delivered: IntCounter,
    rejected: IntCounter,
    expired: IntCounter,
    dropped: IntCounter,
    kept: IntCounter,
    merged: IntCounter,
    dropped_by_reason: [IntCounter; DropReason::ALL.len()],
    sent: [IntCounter; 3],
    received: [IntCounter; 3],
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    ack_duration: [Arc<DurationHistogram>; 2],
    pub(crate) inbound_dropped_slow: IntCounter,
    pub(crate) inbound_dropped_unclaimed: IntCounter,
    pub(crate) inbound_dropped_panicked: IntCounter,
    pub(crate) commands_duplicate: IntCounter,
    pub(crate) commands_refused: IntCounter,
    commands: IntCounterVec,
    pub(crate) command_duration: Histogram,
    pub(crate) shadows: ShadowSeries,
    pub(crate) requests_in_flight: IntGauge,
}

#[derive(Debug, Default)]
struct QueueRegister {
    queues: Vec<Weak<Intake>>,
    prune_at: usize,
}

/// How many queues are in a group's register before it is searched for those of stopped links.
const QUEUES_PRUNED_FROM: usize = 1024;

impl Metrics {
    /// All families, registered in a fresh registry.
    ///
    /// # Errors
    /// Never in practice: names and labels are constants that the tests register.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        let build = Opts::new(
            "paquebot_build_info",
            "Always 1; the labels say which build runs.",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(CertificateSeries::new()?))?;
        Ok(Self {
            registry,
            families,
            groups: Mutex::new(HashMap::new()),
            ledger: Ledger::default(),
        })
    }

    /// The registry, to add series of your own. To read it, use [`Metrics::gather`]; a collector of your own
    /// must not ask for totals while it is read.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds the series of a store.
    ///
    /// # Errors
    /// There is one already.
    pub fn watch_store(&self, store: Arc<dyn Store>) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(StoreSeries::new(store)?))
    }

    /// All series as they are now.
    #[must_use]
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        let now = Instant::now();
        for group in self.lock().values() {
            group.update_oldest(now);
        }
        let _balance = self.ledger.balance();
        self.registry.gather()
    }

    /// The handles of a group, made at the first call. Past [`GROUPS_MAX`] groups they are those of
    /// `other`, and `paquebot_metric_labels_dropped_total` counts it.
    #[must_use]
    pub fn group(&self, platform: Platform, group: &str) -> Arc<GroupMetrics> {
        let mut groups = self.lock();
        let key = (platform, group.to_owned());
        if let Some(found) = groups.get(&key) {
            return Arc::clone(found);
        }
        let key = if groups.len() < GROUPS_MAX {
            key
        } else {
            self.families
                .labels_dropped
                .with_label_values(&["group"])
                .inc();
            (platform, "other".to_owned())
        };
        Arc::clone(groups.entry(key).or_insert_with_key(|key| {
            let ledger = self.ledger.clone();
            Arc::new(GroupMetrics::new(&self.families, ledger, key.clone()))
        }))
    }

    /// The histogram that a worker's timer delay goes into.
    #[must_use]
    pub fn worker_lag(&self, worker: usize) -> Histogram {
        self.families
            .worker_lag
            .with_label_values(&[&worker.to_string()])
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Platform, String), Arc<GroupMetrics>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums over all groups.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let groups = self.lock();
        let _balance = self.ledger.balance();
        let mut totals = Totals::default();
        for group in groups.values() {
            group.add_to(&mut totals);
        }
        totals
    }

    /// What went wrong with connections, by kind: the name of the group and the failures in it.
    #[must_use]
    pub fn failures(&self) -> Vec<(String, Vec<Failure>)> {
        let groups = self.lock();
        groups
            .values()
            .map(|group| (group.labels.1.clone(), group.failures.snapshot()))
            .collect()
    }

    /// How many accepted messages were given up for each reason, over all groups.
    #[must_use]
    pub fn dropped_by_reason(&self) -> Vec<(DropReason, u64)> {
        let groups = self.lock();
        let count = |reason: DropReason| {
            groups
                .values()
                .map(|group| group.dropped_by_reason[reason as usize].get())
                .sum()
        };
        DropReason::ALL.map(|reason| (reason, count(reason))).into()
    }
}

impl Families {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let family = HistogramVec::new(options, labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let group = ["platform", "group"];
        let queue_oldest = GaugeVec::new(
            Opts::new(
                "paquebot_queue_oldest_seconds",
                "How long the oldest waiting message of the group has waited.",
            ),
            &group,
        )?;
        registry.register(Box::new(queue_oldest.clone()))?;
        let ack_duration = DurationFamily::new(
            "paquebot_publish_ack_duration_seconds",
            "From sending a message to its PUBACK or PUBCOMP.",
            &["platform", "qos"],
            DURATION_BUCKETS,
        )?;
        registry.register(Box::new(ack_duration.clone()))?;
        Ok(Self {
            devices: gauge(
                "paquebot_devices",
                "Links by state.",
                &["platform", "group", "state"],
            )?,
            connect_attempts: counter(
                "paquebot_connect_attempts_total",
                "Connect attempts by result.",
                &["platform", "group", "result"],
            )?,
            connect_duration: histogram(
                "paquebot_connect_duration_seconds",
                "Duration of each stage of a connect attempt.",
                &["platform", "stage"],
                CONNECT_BUCKETS,
            )?,
            disconnects: counter(
                "paquebot_disconnects_total",
                "Ended connections by reason.",
                &["platform", "group", "reason"],
            )?,
            reconnects: counter(
                "paquebot_reconnects_total",
                "Links that came online again.",
                &group,
            )?,
            accepted: counter(
                "paquebot_messages_accepted_total",
                "Messages accepted from callers.",
                &group,
            )?,
            recovered: counter(
                "paquebot_messages_recovered_total",
                "Messages that an earlier process accepted, found in the store.",
                &group,
            )?,
            outcomes: counter(
                "paquebot_message_outcomes_total",
                "Accepted messages that ended, by outcome.",
                &["platform", "group", "outcome"],
            )?,
            held: gauge(
                "paquebot_messages_held",
                "Accepted messages that have not ended: queued or in flight.",
                &group,
            )?,
            dropped: counter(
                "paquebot_messages_dropped_total",
                "Accepted messages given up, by reason.",
                &["platform", "group", "reason"],
            )?,
            messages: counter(
                "paquebot_messages_total",
                "Application messages sent to and received from the server.",
                &["platform", "group", "direction", "qos"],
            )?,
            message_bytes: counter(
                "paquebot_message_bytes_total",
                "Payload bytes of application messages.",
                &["platform", "group", "direction"],
            )?,
            ack_duration,
            inflight: gauge(
                "paquebot_inflight_messages",
                "Messages sent and not yet ended.",
                &group,
            )?,
            queue_messages: gauge(
                "paquebot_queue_messages",
                "Messages waiting to be sent.",
                &group,
            )?,
            queue_bytes: gauge(
                "paquebot_queue_bytes",
                "Payload and topic bytes waiting to be sent.",
                &group,
            )?,
            queue_oldest,
            inbound_dropped: counter(
                "paquebot_inbound_dropped_total",
                "Received messages that no consumer took or dealt with, by reason.",
                &["platform", "group", "reason"],
            )?,
            commands: counter(
                "paquebot_commands_total",
                "Commands received, by result.",
                &["platform", "group", "result"],
            )?,
            command_duration: histogram(
                "paquebot_command_duration_seconds",
                "From the arrival of a command to its answer.",
                &["platform"],
                DURATION_BUCKETS,
            )?,
            worker_lag: histogram(
                "paquebot_worker_lag_seconds",
                "How late a worker's timer fires.",
                &["worker"],
                LAG_BUCKETS,
            )?,
            labels_dropped: counter(
                "paquebot_metric_labels_dropped_total",
                "Label values folded into another to bound the number of series.",
                &["label"],
            )?,
            shadows: ShadowFamilies::register(registry)?,
            requests: gauge(
                "paquebot_requests_in_flight",
                "Requests to the platform's services that wait for their answers.",
                &group,
            )?,
        })
    }
}

impl GroupMetrics {
    fn new(families: &Families, ledger: Ledger, labels: (Platform, String)) -> Self {
        let (platform, group) = (labels.0.name(), labels.1.as_str());
        let outcome = |name: &str| {
            families
                .outcomes
                .with_label_values(&[platform, group, name])
        };
        let messages = |direction: &str| {
            ["0", "1", "2"].map(|qos| {
                families
                    .messages
                    .with_label_values(&[platform, group, direction, qos])
            })
        };
        let bytes = |direction: &str| {
            families
                .message_bytes
                .with_label_values(&[platform, group, direction])
        };
        let inbound = |reason: &str| {
            families
                .inbound_dropped
                .with_label_values(&[platform, group, reason])
        };
        let command = |result: &str| {
            families
                .commands
                .with_label_values(&[platform, group, result])
        };
        Self {
            states: LinkState::ALL.map(|state| {
                families
                    .devices
                    .with_label_values(&[platform, group, state.name()])
            }),
            connect_attempts: families.connect_attempts.clone(),
            disconnects: families.disconnects.clone(),
            connect_duration: families.connect_duration.clone(),
            stages: std::array::from_fn(|_| OnceLock::new()),
            connected: OnceLock::new(),
            failures: FailureLog::default(),
            reconnects: families.reconnects.with_label_values(&[platform, group]),
            accepted: families.accepted.with_label_values(&[platform, group]),
            recovered: families.recovered.with_label_values(&[platform, group]),
            held: families.held.with_label_values(&[platform, group]),
            inflight: families.inflight.with_label_values(&[platform, group]),
            queue_messages: families
                .queue_messages
                .with_label_values(&[platform, group]),
            queue_bytes: families.queue_bytes.with_label_values(&[platform, group]),
            delivered: outcome("delivered"),
            rejected: outcome("rejected"),
            expired: outcome("expired"),
            dropped: outcome("dropped"),
            kept: outcome("kept"),
            merged: outcome("merged"),
            dropped_by_reason: DropReason::ALL.map(|reason| {
                families
                    .dropped
                    .with_label_values(&[platform, group, reason.name()])
            }),
            sent: messages("out"),
            received: messages("in"),
            sent_bytes: bytes("out"),
            received_bytes: bytes("in"),
            ledger,
            ack_duration: ["1", "2"]
                .map(|qos| families.ack_duration.with_label_values(&[platform, qos])),
            inbound_dropped_slow: inbound("slow_consumer"),
            inbound_dropped_unclaimed: inbound("no_consumer"),
            inbound_dropped_panicked: inbound("handler_panicked"),
            commands_duplicate: command("duplicate"),
            commands_refused: command("refused"),
            commands: families.commands.clone(),
            command_duration: families.command_duration.with_label_values(&[platform]),
            queues: Mutex::default(),
            queue_oldest: families.queue_oldest.with_label_values(&[platform, group]),
            shadows: families.shadows.group(&labels),
            requests_in_flight: families.requests.with_label_values(&[platform, group]),
            labels,
        }
    }

    /// Includes a link's queue in the age of the oldest message, for as long as the link lives.
    pub(crate) fn watch_queue(&self, queue: &Arc<Intake>) {
        let mut register = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        register.queues.push(Arc::downgrade(queue));
        if register.queues.len() >= register.prune_at {
            register.queues.retain(|queue| queue.strong_count() > 0);
            register.prune_at = (register.queues.len() * 2).max(QUEUES_PRUNED_FROM);
        }
    }

    fn update_oldest(&self, now: Instant) {
        let register = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let ages = register
            .queues
            .iter()
            .filter_map(|queue| queue.upgrade()?.oldest_age(now));
        self.queue_oldest
            .set(ages.max().unwrap_or_default().as_secs_f64());
    }

    pub(crate) fn links(&self, state: LinkState) -> &IntGauge {
        &self.states[state as usize]
    }

    /// Counts a turn of a queue, and empties the tally.
    pub(crate) fn record(&self, tally: &mut Tally) {
        let dropped: u64 = tally.dropped.iter().sum();
        let begun = tally.accepted + tally.recovered;
        let ended = tally.delivered + tally.rejected + tally.expired + dropped;
        let ended = ended + tally.merged + tally.kept;
        if begun + ended > 0 {
            let _entry = self.ledger.entry();
            add(&self.accepted, tally.accepted);
            add(&self.recovered, tally.recovered);
            add(&self.kept, tally.kept);
            add(&self.merged, tally.merged);
            add_signed(&self.held, begun as i64 - ended as i64);
            add(&self.delivered, tally.delivered);
            add(&self.rejected, tally.rejected);
            add(&self.expired, tally.expired);
            if dropped > 0 {
                self.dropped.inc_by(dropped);
                for (counter, count) in self.dropped_by_reason.iter().zip(tally.dropped) {
                    add(counter, count);
                }
            }
        }
        add_signed(&self.queue_messages, tally.queue_messages);
        add_signed(&self.queue_bytes, tally.queue_bytes);
        add_signed(&self.inflight, tally.inflight);
        for (counter, count) in self.sent.iter().zip(tally.sent) {
            add(counter, count);
        }
        add(&self.sent_bytes, tally.sent_bytes);
        for (qos, took, count) in tally.acknowledged.drain(..) {
            // QoS 0 has no acknowledgement.
            if let Some(place) = (qos as usize).checked_sub(1) {
                self.ack_duration[place].observe(took, count);
            }
        }
        tally.clear();
    }

    /// Counts messages that came in together: how many of each QoS, and the bytes of all payloads.
    pub(crate) fn count_received(&self, counts: [u64; 3], payload_bytes: u64) {
        for (counter, count) in self.received.iter().zip(counts) {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        self.received_bytes.inc_by(payload_bytes);
    }

    pub(crate) fn count_connect(&self, result: &str) {
        self.connect_attempts(result).inc();
    }

    pub(crate) fn count_connected(&self) {
        self.connected
            .get_or_init(|| self.connect_attempts("ok"))
            .inc();
    }

    fn connect_attempts(&self, result: &str) -> IntCounter {
        self.connect_attempts
            .with_label_values(&[self.labels.0.name(), &self.labels.1, result])
    }

    pub(crate) fn count_disconnect(&self, reason: &str) {
        self.disconnects
            .with_label_values(&[self.labels.0.name(), &self.labels.1, reason])
            .inc();
    }

    pub(crate) fn observe_stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize]
            .get_or_init(|| {
                self.connect_duration
                    .with_label_values(&[self.labels.0.name(), stage.name()])
            })
            .observe(duration.as_secs_f64());
    }

    pub(crate) fn count_command(&self, status: CommandStatus) {
        self.commands
            .with_label_values(&[self.labels.0.name(), &self.labels.1, status.name()])
            .inc();
    }

    fn add_to(&self, totals: &mut Totals) {
        totals.idle += self.links(LinkState::Idle).get();
        totals.connecting += self.links(LinkState::Connecting).get();
        totals.online += self.links(LinkState::Online).get();
        totals.backoff += self.links(LinkState::Backoff).get();
        totals.failed += self.links(LinkState::Failed).get();
        totals.reconnects += self.reconnects.get();
        totals.accepted += self.accepted.get();
        totals.recovered += self.recovered.get();
        totals.kept += self.kept.get();
        totals.merged += self.merged.get();
        totals.delivered += self.delivered.get();
        totals.rejected += self.rejected.get();
        totals.expired += self.expired.get();
        totals.dropped += self.dropped.get();
        totals.held += self.held.get();
        totals.received += self.received.iter().map(IntCounter::get).sum::<u64>();
        let labelled = |family: &IntCounterVec, value: &str| {
            family
                .with_label_values(&[self.labels.0.name(), &self.labels.1, value])
                .get()
        };
        for status in CommandStatus::ALL {
            totals.commands_answered += labelled(&self.commands, status.name());
        }
        totals.connects += labelled(&self.connect_attempts, "ok");
        let by_others = crate::codec::DISCONNECT_REASONS
            .into_iter()
            .filter(|reason| *reason != "local");
        for reason in by_others {
            totals.disconnects += labelled(&self.disconnects, reason);
        }
    }
}

/// Atomic additions are dear enough to leave out those of nothing.
fn add(counter: &IntCounter, count: u64) {
    if count > 0 {
        counter.inc_by(count);
    }
}

fn add_signed(gauge: &IntGauge, change: i64) {
    if change != 0 {
        gauge.add(change);
    }
}
