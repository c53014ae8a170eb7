//! What the server counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use paquebot_protocols::mqtt::{QoS, Version};

/// A snapshot of the server's counters. Gauges say what is there now; the others only grow and survive
/// a scripted restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Clients connected now.
    pub connections: usize,
    /// Sessions kept now, with the connected ones.
    pub sessions: usize,
    /// Subscriptions of all sessions now.
    pub subscriptions: usize,
    /// Retained messages now.
    pub retained: usize,
    /// CONNECTs accepted.
    pub connects_accepted: u64,
    /// CONNECTs refused with a CONNACK.
    pub connects_refused: u64,
    /// Accepted connections that have ended.
    pub disconnects: u64,
    /// Connections closed because the client broke the protocol or a limit.
    pub violations: u64,
    /// PUBLISH packets received, by QoS; repeated ones count.
    pub received: [u64; 3],
    /// PUBLISH packets handed to connections to be written, by QoS; repeated ones count.
    pub sent: [u64; 3],
    /// QoS 0 messages dropped because a reader was too slow.
    pub dropped_slow_reader: u64,
    /// QoS 1 and 2 messages dropped because a session's queue was full.
    pub dropped_queue_full: u64,
    /// Messages dropped because they exceed a client's maximum packet size.
    pub dropped_too_large: u64,
    /// Messages not retained because the store of retained messages was full.
    pub dropped_retained: u64,
    /// Messages that reached their expiry interval while they waited.
    pub expired: u64,
    /// Publishes that the policy refused.
    pub denied: u64,
    /// Received messages lost to watchers that did not keep up.
    pub watch_lost: u64,
    /// Bytes read from clients.
    pub bytes_received: u64,
    /// Bytes written to clients.
    pub bytes_sent: u64,
}

impl Stats {
    /// PUBLISH packets received, of every QoS.
    #[must_use]
    pub fn received_total(&self) -> u64 {
        self.received.iter().sum()
    }

    /// PUBLISH packets sent, of every QoS.
    #[must_use]
    pub fn sent_total(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(crate) const fn count_received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    pub(crate) const fn count_sent(&mut self, qos: QoS) {
        self.sent[qos as usize] += 1;
    }
}

/// Counted by the connections without the server's lock.
#[derive(Debug, Default)]
pub(crate) struct ByteCounters {
    received: AtomicU64,
    sent: AtomicU64,
}

impl ByteCounters {
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn fill(&self, stats: &mut Stats) {
        stats.bytes_received = self.received.load(Ordering::Relaxed);
        stats.bytes_sent = self.sent.load(Ordering::Relaxed);
    }
}

/// One session as [`Broker::clients`](crate::Broker::clients) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The client identifier.
    pub client_id: ByteString,
    /// Whether it is connected now.
    pub connected: bool,
    /// By what name it was let in last; `None` where nobody was authenticated.
    pub principal: Option<Arc<str>>,
    /// The version of its last connection.
    pub version: Version,
    /// The keep alive in force, in seconds; 0 for none.
    pub keep_alive: u16,
    /// Seconds that the session outlives its connection; `u32::MAX` is for ever.
    pub session_expiry_interval: u32,
    /// Its topic filters with the granted QoS, in no order.
    pub subscriptions: Vec<(String, QoS)>,
    /// Messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait behind them.
    pub queued: usize,
}
