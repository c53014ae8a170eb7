//! The bounds of a link's queue, and how full it is.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What happens to a message when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The caller waits until there is room. Nothing is lost; a producer that must not stop for an outage
    /// wants another policy.
    #[default]
    Wait,
    /// The caller gets an error and the message back.
    Reject,
    /// The new message is accepted and ends at once as dropped.
    DropNewest,
    /// The new message is accepted and the oldest that waits ends as dropped.
    DropOldest,
}

/// Bounds of one link's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxConfig {
    /// Most messages held, waiting and in flight together. Default 10,000.
    pub messages_max: usize,
    /// Most bytes of topics and payloads held. Default 16 MiB. One message always fits.
    pub bytes_max: usize,
    /// What happens beyond. Default: the caller waits.
    pub overflow: Overflow,
    /// After a reconnect, at most so many waiting messages a second are sent; `None`: as fast as the window
    /// allows. Default `None`.
    pub drain_rate: Option<f64>,
    /// Messages between callers and the queue before callers wait. Default 32.
    pub intake_max: usize,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            messages_max: 10_000,
            bytes_max: 16 * 1024 * 1024,
            overflow: Overflow::default(),
            drain_rate: None,
            intake_max: 32,
        }
    }
}

/// How full the queue is, readable by the callers' side.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    pub(crate) messages: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
}

impl Occupancy {
    /// Whether a message of `size` bytes has room; an empty queue takes any.
    pub(crate) fn has_room(&self, size: usize, config: &OutboxConfig) -> bool {
        let messages = self.messages.load(Ordering::Relaxed);
        messages == 0
            || (messages < config.messages_max
                && self.bytes.load(Ordering::Relaxed).saturating_add(size) <= config.bytes_max)
    }

    pub(crate) fn add(&self, size: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, size: usize) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }
}
