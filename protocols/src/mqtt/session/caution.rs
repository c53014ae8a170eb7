//! A message at which the server closes the connection without a word, as some do at what they do not allow.
//!
//! Sent again on each connection, it would keep the session from ever getting past it. When connections end so in a row,
//! soon after what was in flight was sent again and with nothing of it acknowledged, the next one is a probe: the message
//! that was sent first goes out, and nothing else in flight. If the server closes that connection too, that message is
//! behind it, and it is set aside; unless something else went out that may have been behind it as well: a request that is
//! not answered, or a message of QoS 0.

use std::time::{Duration, Instant};

/// Connections in a row that end so before one is a probe.
const CLOSINGS_MIN: u8 = 2;

/// A connection that lasts longer than this after CONNACK did not end because of what was sent again.
const SOON: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Caution {
    /// Connections in a row that ended so.
    closings: u8,
    /// Since when the server has acknowledged nothing of what was sent again on this connection.
    unanswered_since: Option<Instant>,
    is_probing: bool,
    /// A message that nobody acknowledges went out on this connection.
    has_sent_qos0: bool,
    /// CONNECT was sent and not accepted.
    is_connecting: bool,
}

impl Caution {
    /// CONNECT goes out. A server that did not accept the last one has other troubles.
    pub(super) fn start(&mut self) {
        if std::mem::replace(&mut self.is_connecting, true) {
            self.closings = 0;
        }
    }

    /// CONNACK came; `has_resent` when something was in flight that goes out again.
    pub(super) fn begin(&mut self, now: Instant, has_resent: bool) {
        self.is_connecting = false;
        let ended_otherwise = self.unanswered_since.is_some();
        if ended_otherwise || !has_resent {
            self.closings = 0;
        }
        self.unanswered_since = has_resent.then_some(now);
        self.is_probing = self.closings >= CLOSINGS_MIN;
        self.has_sent_qos0 = false;
    }

    /// Whether only one message may be on the way.
    pub(super) fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// A message of QoS 0 went out: the server may close at that one too.
    #[inline]
    pub(super) fn note_qos0(&mut self) {
        self.has_sent_qos0 = true;
    }

    /// The server acknowledged a message: it gets past them.
    pub(super) fn note_answer(&mut self) {
        *self = Self::default();
    }

    /// The server closed the connection without a word; `is_alone` when one message was sent and not acknowledged, and
    /// nothing else waits for an answer. Whether that is to be set aside.
    pub(super) fn end_silently(&mut self, now: Instant, is_alone: bool) -> bool {
        let Some(since) = self.unanswered_since.take() else {
            return false;
        };
        let was_probing = std::mem::take(&mut self.is_probing);
        if now.saturating_duration_since(since) > SOON {
            self.closings = 0;
            return false;
        }
        self.closings = self.closings.saturating_add(1);
        let is_found = was_probing && is_alone && !self.has_sent_qos0;
        if is_found {
            // The next one has to be found in the same way.
            self.closings = 0;
        }
        is_found
    }
}
