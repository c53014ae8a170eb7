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

/// What the queues of all links of a fleet may hold together, in memory and durable alike. Each link's own bounds
/// hold besides.
///
/// What a full fleet does to a message is up to the [`Overflow`] of its link. A caller who waits gets room in the order of
/// asking: links take turns, and so do the callers of each. Who rejects gets
/// [`SendError::FleetFull`](crate::SendError::FleetFull). A link that drops its oldest drops its own, never that of
/// another; with nothing to drop, and where the newest is dropped, the new message is accepted and ends at once as
/// dropped. Such links take room when they look at what was handed over, at their next turn; until then it comes on top:
/// in a full fleet some 64 messages or 64 KiB a link, after which callers wait for that look.
///
/// A message has room from when it is handed over until it has ended. What an earlier process left in the store counts
/// from the start, also where that is more than the bounds allow. A link's own announcements do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLimits {
    /// Most messages, waiting and in flight together. Default: no bound.
    pub messages_max: Option<usize>,
    /// Most bytes of topics and payloads; what a message needs besides, some 300 bytes, is for `messages_max` to bound.
    /// One message always fits into a fleet that holds none. Default: no bound.
    pub bytes_max: Option<usize>,
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
