//! Messages as a handler sees them.

use paquebot_actors::ReceivedRef;
use paquebot_protocols::mqtt::{PacketId, Properties, QoS};

use crate::streams::Message;

/// A received message, borrowed from the buffer it was read into: for a handler of
/// [`Link::subscribe_with`](crate::Link::subscribe_with). It costs no allocation and no reference count.
///
/// A QoS 1 or 2 message is acknowledged once its handler has returned.
#[derive(Debug)]
pub struct MessageRef<'a>(ReceivedRef<'a>);

impl<'a> MessageRef<'a> {
    pub(crate) fn new(received: ReceivedRef<'a>) -> Self {
        Self(received)
    }

    /// The topic. Each call checks once more that it is UTF-8: keep what it gives.
    #[must_use]
    #[inline]
    pub fn topic(&self) -> &'a str {
        self.0.topic()
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.0.payload()
    }

    /// The quality of service it was delivered with.
    #[must_use]
    #[inline]
    pub fn qos(&self) -> QoS {
        self.0.qos()
    }

    /// Whether the server kept it from before the subscription.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.0.retain()
    }

    /// Whether the server has sent it before.
    #[must_use]
    pub fn dup(&self) -> bool {
        self.0.dup()
    }

    /// The packet identifier it came with; `None` at QoS 0. It names the message on one connection only.
    #[must_use]
    pub fn packet_id(&self) -> Option<PacketId> {
        self.0.packet_id()
    }

    /// MQTT 5 properties; empty on 3.1.1.
    #[must_use]
    pub fn properties(&self) -> &'a Properties {
        self.0.properties()
    }

    /// The message to keep or to send to another thread. It shares the buffer and copies nothing; it tells the
    /// server nothing when it is dropped, since the handler's return does.
    #[must_use]
    pub fn to_owned(&self) -> Message {
        Message::detached(self.0.to_incoming())
    }
}
