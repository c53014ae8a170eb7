//! What one turn of the queue changes in the metrics.

use std::time::Duration;

use paquebot_protocols::mqtt::QoS;

use crate::receipt::{DropReason, Outcome};

/// Counts of one turn, brought to the metrics in one go: an atomic addition for each message would cost more
/// than the message.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) rejected: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: [u64; DropReason::ALL.len()],
    pub(crate) queue_messages: i64,
    pub(crate) queue_bytes: i64,
    pub(crate) inflight: i64,
    /// By QoS.
    pub(crate) sent: [u64; 3],
    pub(crate) sent_bytes: u64,
    /// Acknowledged messages: those of one batch took equally long mostly, so neighbours are put together.
    pub(crate) acknowledged: Vec<(QoS, Duration, u64)>,
}

impl Tally {
    pub(super) fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.delivered += 1,
            Outcome::Rejected { .. } => self.rejected += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Dropped(reason) => self.dropped[*reason as usize] += 1,
        }
    }

    pub(super) fn delivered(&mut self, qos: QoS, size: usize, took: Duration) {
        self.sent[qos as usize] += 1;
        self.sent_bytes += size as u64;
        if qos == QoS::AtMostOnce {
            return;
        }
        match self.acknowledged.last_mut() {
            Some((last_qos, last_took, count)) if *last_qos == qos && *last_took == took => {
                *count += 1;
            }
            _ => self.acknowledged.push((qos, took, 1)),
        }
    }
}
