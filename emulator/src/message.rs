//! An application message inside the server.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use paquebot_protocols::mqtt::{PacketId, Properties, Publish, QoS, Topic};
use tokio::time::Instant;

use crate::sessions::SessionKey;

/// A message on its way from a publisher to subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Those that travel to the subscribers: no topic alias, no subscription identifier.
    pub(crate) properties: Properties,
    /// Whose it is, for subscriptions with No Local; `None` for the server's own.
    pub(crate) publisher: Option<SessionKey>,
    /// When it was taken in: its expiry interval counts from here.
    pub(crate) taken: Instant,
}

impl Message {
    /// Bytes it is accounted with where messages wait.
    pub(crate) fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len()
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.remaining_expiry(now) == Some(0)
    }

    /// Seconds of its expiry interval that are left `[MQTT-3.3.2-6]`; `None` without an interval.
    fn remaining_expiry(&self, now: Instant) -> Option<u32> {
        let interval = self.properties.message_expiry_interval?;
        let waited = now.saturating_duration_since(self.taken).as_secs();
        Some(interval.saturating_sub(u32::try_from(waited).unwrap_or(u32::MAX)))
    }

    /// A copy that owns its bytes. A received message is a slice of all that was read with it, and a
    /// message that is kept would keep all of that.
    pub(crate) fn detached(&self) -> Self {
        Self {
            topic: detached_topic(&self.topic),
            payload: Bytes::copy_from_slice(&self.payload),
            ..self.clone()
        }
    }
}

/// A copy of a topic that owns its bytes.
pub(crate) fn detached_topic(topic: &Topic) -> Topic {
    Topic::new(ByteString::from(topic.as_str())).unwrap_or_else(|_| topic.clone())
}

/// One message for one session, as its subscriptions ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_identifiers: Vec<u32>,
}

impl Delivery {
    pub(crate) fn packet(&self, packet_id: Option<PacketId>, dup: bool, now: Instant) -> Publish {
        let mut properties = self.message.properties.clone();
        if let Some(remaining) = self.message.remaining_expiry(now) {
            properties.edit().message_expiry_interval = Some(remaining);
        }
        if !self.subscription_identifiers.is_empty() {
            properties
                .edit()
                .subscription_identifiers
                .clone_from(&self.subscription_identifiers);
        }
        Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: Some(self.message.topic.clone()),
            packet_id,
            payload: self.message.payload.clone(),
            properties,
        }
    }
}
