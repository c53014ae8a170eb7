//! What a run counts: exactly, per driver thread, and live, for the progress line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::CreationError;

use super::latency::Latencies;

/// Different reasons that are told apart; what fails for yet another one counts as "other".
const REASONS_MAX: usize = 32;

/// Counts of what is part of the measurement: the warm-up is not in it.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    /// Handed to a link.
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    /// Due and never handed to a link, because its queue was full.
    pub(super) unsent: u64,
    /// Arrived, each copy.
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    /// Arrived from another run or another program.
    pub(super) foreign: u64,
    /// Numbers missing between those that came.
    pub(super) missing: u64,
    /// Links that came online, and those among them that were lost later.
    pub(super) connected: u64,
    pub(super) lost: u64,
    /// Links that did not, by reason.
    pub(super) failures: BTreeMap<String, u64>,
}

/// All that one driver measures.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) late: Latencies,
    /// From when it was due to the outcome, the arrival or the open connection …
    pub(super) latency: Latencies,
    /// … and from when it was begun.
    pub(super) service: Latencies,
    /// The same two for arrivals, where a run has outcomes and arrivals.
    pub(super) arrival: Latencies,
    pub(super) arrival_service: Latencies,
    pub(super) last_sent: Option<Instant>,
    pub(super) last_outcome: Option<Instant>,
    pub(super) last_arrival: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            counts: Counts::default(),
            late: Latencies::new()?,
            latency: Latencies::new()?,
            service: Latencies::new()?,
            arrival: Latencies::new()?,
            arrival_service: Latencies::new()?,
            last_sent: None,
            last_outcome: None,
            last_arrival: None,
        })
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.late.merge(&other.late);
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.arrival.merge(&other.arrival);
        self.arrival_service.merge(&other.arrival_service);
        self.last_sent = self.last_sent.max(other.last_sent);
        self.last_outcome = self.last_outcome.max(other.last_outcome);
        self.last_arrival = self.last_arrival.max(other.last_arrival);
    }
}

impl Counts {
    fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.rejected += other.rejected;
        self.expired += other.expired;
        self.dropped += other.dropped;
        self.unsent += other.unsent;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
        self.missing += other.missing;
        self.connected += other.connected;
        self.lost += other.lost;
        for (reason, count) in other.failures {
            self.add_failures(reason, count);
        }
    }

    pub(super) fn count_failure(&mut self, reason: String) {
        self.add_failures(reason, 1);
    }

    fn add_failures(&mut self, reason: String, count: u64) {
        let is_known = self.failures.contains_key(&reason);
        let key = if is_known || self.failures.len() < REASONS_MAX {
            reason
        } else {
            "other".to_owned()
        };
        *self.failures.entry(key).or_default() += count;
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Messages that arrived, each counted once.
    pub(super) fn distinct(&self) -> u64 {
        self.received - self.duplicates
    }
}

/// The counts of one driver as the others see them, warm-up and all: brought up to date once in each of its
/// turns.
#[derive(Debug, Default)]
pub(super) struct Live {
    sent: AtomicU64,
    ended: AtomicU64,
    arrived: AtomicU64,
    distinct: AtomicU64,
    settled: AtomicU64,
    /// Stations that may still send.
    sending: AtomicU64,
}

/// A reading of [`Live`], or the sum of several.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) sent: u64,
    pub(super) ended: u64,
    pub(super) arrived: u64,
    /// Arrived, counted and no duplicate.
    pub(super) distinct: u64,
    /// Links online or failed.
    pub(super) settled: u64,
    pub(super) sending: u64,
}

impl Live {
    pub(super) fn store(&self, reading: Reading) {
        self.sent.store(reading.sent, Ordering::Relaxed);
        self.ended.store(reading.ended, Ordering::Relaxed);
        self.arrived.store(reading.arrived, Ordering::Relaxed);
        self.distinct.store(reading.distinct, Ordering::Relaxed);
        self.settled.store(reading.settled, Ordering::Relaxed);
        self.sending.store(reading.sending, Ordering::Release);
    }

    pub(super) fn read(&self) -> Reading {
        Reading {
            sending: self.sending.load(Ordering::Acquire),
            sent: self.sent.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
            distinct: self.distinct.load(Ordering::Relaxed),
            settled: self.settled.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::Add for Reading {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            ended: self.ended + other.ended,
            arrived: self.arrived + other.arrived,
            distinct: self.distinct + other.distinct,
            settled: self.settled + other.settled,
            sending: self.sending + other.sending,
        }
    }
}
