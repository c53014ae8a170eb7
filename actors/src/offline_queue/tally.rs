//! What one turn of the queue changes in the metrics.

use std::time::{Duration, Instant};

use paquebot_protocols::mqtt::QoS;

use super::inflight::Inflight;
use super::runs::Ended;
use crate::receipt::{DropReason, Outcome};

/// Counts of one turn, brought to the metrics in one go: an atomic addition for each message would cost more
/// than the message.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    /// From an earlier process, by way of the store.
    pub(crate) recovered: u64,
    pub(crate) delivered: u64,
    pub(crate) rejected: u64,
    pub(crate) expired: u64,
    pub(crate) kept: u64,
    pub(crate) merged: u64,
    pub(crate) dropped: [u64; DropReason::ALL.len()],
    pub(crate) queue_messages: i64,
    pub(crate) queue_bytes: i64,
    pub(crate) inflight: i64,
    /// By QoS.
    pub(crate) sent: [u64; 3],
    pub(crate) sent_bytes: u64,
    /// Acknowledged messages and how long it took: those that went together are put together.
    pub(crate) acknowledged: Vec<(QoS, Duration, u64)>,
    /// When the messages of the last entry went.
    last_sent_at: Option<Instant>,
}

impl Tally {
    /// Nothing is left to count; the list keeps its place for the next turn.
    pub(crate) fn clear(&mut self) {
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        acknowledged.clear();
        *self = Self {
            acknowledged,
            ..Self::default()
        };
    }

    pub(super) fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.delivered += 1,
            Outcome::Rejected { .. } => self.rejected += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Dropped(reason) => self.dropped[*reason as usize] += 1,
            Outcome::Kept => self.kept += 1,
            Outcome::Merged => self.merged += 1,
        }
    }

    /// Messages that went together were delivered and are in flight no more.
    pub(super) fn delivered_run(&mut self, run: &Ended, now: Instant) {
        self.inflight -= run.count as i64;
        self.sent[run.qos as usize] += run.count as u64;
        self.sent_bytes += run.bytes as u64;
        self.delivered += run.count as u64;
        self.note_acknowledged(run.qos, run.sent_at, run.count as u64, now);
    }

    pub(super) fn delivered(&mut self, message: &Inflight, now: Instant) {
        self.sent[message.qos as usize] += 1;
        self.sent_bytes += message.size as u64;
        self.note_acknowledged(message.qos, message.sent_at, 1, now);
    }

    #[inline]
    fn note_acknowledged(&mut self, qos: QoS, sent_at: Instant, messages: u64, now: Instant) {
        if qos == QoS::AtMostOnce {
            return;
        }
        match self.acknowledged.last_mut() {
            Some((last_qos, _, count))
                if *last_qos == qos && self.last_sent_at == Some(sent_at) =>
            {
                *count += messages;
            }
            _ => {
                let took = now.saturating_duration_since(sent_at);
                self.acknowledged.push((qos, took, messages));
                self.last_sent_at = Some(sent_at);
            }
        }
    }
}
