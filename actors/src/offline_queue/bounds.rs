//! The bounds of a link's queue, and how full it is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
    /// The new message is accepted and the oldest that waits ends as dropped. What is in flight cannot make
    /// room: when that alone fills the queue, the oldest that waits is the new message itself.
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
    /// MQTT 3.1.1: QoS 2 messages in flight at the most. A server of that version cannot say how many it
    /// takes, and some close the connection for one too many: Mosquitto after 20. Default 20.
    pub untold_qos2_max: usize,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            messages_max: 10_000,
            bytes_max: 16 * 1024 * 1024,
            overflow: Overflow::default(),
            drain_rate: None,
            intake_max: 32,
            untold_qos2_max: 20,
        }
    }
}

/// How full the queue is and since when its oldest message waits, readable from other threads.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// Milliseconds from the process's first question to the acceptance of the oldest message that
    /// waits, plus one; 0 while none waits.
    oldest: AtomicU64,
}

impl Occupancy {
    /// Takes room for a message of `size` bytes if there is any; an empty queue takes every message.
    pub(crate) fn take(&self, size: usize, config: &OutboxConfig) -> bool {
        let count = |messages| (messages < config.messages_max).then_some(messages + 1);
        let taken = self
            .messages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        match taken {
            Err(_) => return false,
            Ok(0) => {
                self.bytes.fetch_add(size, Ordering::Relaxed);
                return true;
            }
            Ok(_) => {}
        }
        let measure =
            |bytes: usize| Some(bytes.checked_add(size)?).filter(|b| *b <= config.bytes_max);
        let fits = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, measure)
            .is_ok();
        if !fits {
            self.messages.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    pub(crate) fn add(&self, size: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, size: usize) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }

    pub(crate) fn set_oldest(&self, accepted_at: Option<Instant>) {
        let oldest = accepted_at.map_or(0, |at| {
            let since = at.saturating_duration_since(epoch()).as_millis();
            u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
        });
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    /// How long the oldest waiting message has waited.
    pub(crate) fn oldest_age(&self, now: Instant) -> Option<Duration> {
        let since = self.oldest.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            now.saturating_duration_since(epoch())
                .saturating_sub(Duration::from_millis(since)),
        )
    }
}

/// A fixed point in time, so that instants fit an atomic.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Room that a caller took for a message which the queue does not have yet; given back on drop.
pub(crate) struct Reservation<'a> {
    occupancy: &'a Occupancy,
    size: usize,
}

impl<'a> Reservation<'a> {
    /// For room that was taken with [`Occupancy::take`].
    pub(crate) fn new(occupancy: &'a Occupancy, size: usize) -> Self {
        Self { occupancy, size }
    }

    /// The queue has the message: its end gives the room back.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.occupancy.remove(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_up_to_the_limits_and_one_message_always_fits() {
        let config = OutboxConfig {
            messages_max: 2,
            bytes_max: 10,
            ..OutboxConfig::default()
        };
        let occupancy = Occupancy::default();
        assert!(occupancy.take(11, &config));
        assert!(!occupancy.take(1, &config));
        occupancy.remove(11);
        assert!(occupancy.take(4, &config));
        assert!(!occupancy.take(7, &config));
        assert!(occupancy.take(6, &config));
        assert!(!occupancy.take(0, &config));
    }

    #[test]
    fn the_age_of_the_oldest_message_grows_until_none_waits() {
        let occupancy = Occupancy::default();
        let accepted = epoch() + Duration::from_secs(5);
        assert_eq!(occupancy.oldest_age(accepted), None);
        occupancy.set_oldest(Some(accepted));
        let later = accepted + Duration::from_secs(2);
        assert_eq!(occupancy.oldest_age(later), Some(Duration::from_secs(2)));
        occupancy.set_oldest(None);
        assert_eq!(occupancy.oldest_age(later), None);
    }
}
