//! The counts of all groups together.

/// The counts of all groups together, for summaries and live views.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Links not yet started.
    pub idle: i64,
    /// Links opening a connection.
    pub connecting: i64,
    /// Links online.
    pub online: i64,
    /// Links waiting before the next attempt.
    pub backoff: i64,
    /// Links that failed for good.
    pub failed: i64,
    /// Messages accepted from callers.
    pub accepted: u64,
    /// Messages that an earlier process accepted, found in the store.
    pub recovered: u64,
    /// Of these: delivered.
    pub delivered: u64,
    /// Of these: rejected.
    pub rejected: u64,
    /// Of these: expired.
    pub expired: u64,
    /// Of these: dropped.
    pub dropped: u64,
    /// Of these: left in the store by links that were stopped.
    pub kept: u64,
    /// Of these: reports of state whose values a later one took along.
    pub merged: u64,
    /// Of these: still held.
    pub held: i64,
    /// Application messages received.
    pub received: u64,
    /// Commands answered, whatever the answer.
    pub commands_answered: u64,
    /// Connections that ended, whoever ended them.
    pub disconnects: u64,
    /// Connections that came online.
    pub connects: u64,
    /// Of these: links that had been online before.
    pub reconnects: u64,
}

impl Totals {
    /// Whether accepted + recovered = delivered + rejected + expired + dropped + merged + kept + held.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let begun = self.accepted + self.recovered;
        let ended = self.delivered + self.rejected + self.expired + self.dropped;
        let ended = ended + self.merged + self.kept;
        i128::from(begun) == i128::from(ended) + i128::from(self.held)
    }
}
