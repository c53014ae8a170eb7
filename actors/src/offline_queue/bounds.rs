//! The bounds of a link's queue.

use crate::store::Durability;

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

impl Overflow {
    /// Whether a message has its caller's room until it ends; else the queue itself makes room.
    pub(crate) const fn holds_room(self) -> bool {
        matches!(self, Self::Wait | Self::Reject)
    }
}

/// What waits while a link is not online, and while it drains after that at a limited rate. It holds beside the
/// bounds of the queue, which what is in flight counts towards as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OfflineLimit {
    /// As much as the bounds of the queue allow.
    #[default]
    None,
    /// So many messages; a further one is accepted and ends at once as dropped. With 0 nothing waits.
    DropNewest(usize),
    /// So many messages; for a further one the oldest that waits ends as dropped. With 0 nothing waits.
    DropOldest(usize),
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
    /// What waits while the link is not online. Default: as much as the other bounds allow.
    pub offline: OfflineLimit,
    /// At most so many messages a second are sent, whenever it is; what does not go at once waits. `None`: as fast as
    /// the window allows. Default `None`.
    pub send_rate: Option<f64>,
    /// MQTT 3.1.1: QoS 2 messages in flight at the most. A server of that version cannot say how many it
    /// takes, and some close the connection for one too many: Mosquitto after 20. Default 20.
    pub untold_qos2_max: usize,
    /// How durable an accepted message of QoS 1 or 2 is. Default: in memory.
    pub durability: Durability,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            messages_max: 10_000,
            bytes_max: 16 * 1024 * 1024,
            overflow: Overflow::default(),
            drain_rate: None,
            offline: OfflineLimit::None,
            send_rate: None,
            untold_qos2_max: 20,
            durability: Durability::Memory,
        }
    }
}
