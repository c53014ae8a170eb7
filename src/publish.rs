//! Messages on topics of the caller's choice, one by one and in batches.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use paquebot_actors::batch_storage;
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::{Properties, QoS, Topic, TopicError};

/// A message on a topic of the caller's choice.
#[derive(Debug, Clone)]
pub struct Publish(Rendered);

impl Publish {
    /// A message with QoS 1, not retained.
    ///
    /// # Errors
    /// The topic is none.
    pub fn new(
        topic: impl Into<ByteString>,
        payload: impl Into<Bytes>,
    ) -> Result<Self, TopicError> {
        Ok(Self::on(Topic::new(topic)?, payload))
    }

    /// The same on a topic that was checked before.
    #[must_use]
    pub fn on(topic: Topic, payload: impl Into<Bytes>) -> Self {
        Self(Rendered::new(topic, payload, QoS::AtLeastOnce))
    }

    /// The same message with another payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.0.payload = payload.into();
        self
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn with_qos(mut self, qos: QoS) -> Self {
        self.0.qos = qos;
        self
    }

    /// Asks the server to keep the message for later subscribers.
    #[must_use]
    pub fn with_retain(mut self, retain: bool) -> Self {
        self.0.retain = retain;
        self
    }

    /// MQTT 5 properties; on 3.1.1 they are not sent. Message expiry follows the time to live, topic aliases are
    /// the link's own.
    #[must_use]
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.0.properties = properties;
        self
    }

    /// How long the message is worth sending.
    #[must_use]
    pub fn with_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.0.time_to_live = Some(time_to_live);
        self
    }
}

impl From<Publish> for Rendered {
    fn from(message: Publish) -> Self {
        message.0
    }
}

/// A topic with its options, made once for many messages: what is left to do for each is to take a payload.
///
/// [`PreparedTopic::new`] prepares any topic; [`Device::prepare`](crate::Device::prepare) asks the platform where
/// a device's telemetry goes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreparedTopic(Rendered);

impl PreparedTopic {
    /// A topic for messages with this quality of service, not retained.
    ///
    /// # Errors
    /// The topic is none.
    pub fn new(topic: impl Into<ByteString>, qos: QoS) -> Result<Self, TopicError> {
        let like = Publish::new(topic, Bytes::new())?.with_qos(qos);
        Ok(Self::like(like))
    }

    /// The topic, quality of service, retain flag, properties and time to live of a message.
    #[must_use]
    pub fn like(message: Publish) -> Self {
        Self(message.with_payload(Bytes::new()).into())
    }

    pub(crate) fn rendered(message: Rendered) -> Self {
        Self::like(Publish(message))
    }

    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// A message with this payload.
    #[must_use]
    pub fn message(&self, payload: impl Into<Bytes>) -> Publish {
        let like = &self.0;
        Publish(Rendered {
            topic: like.topic.clone(),
            payload: payload.into(),
            qos: like.qos,
            retain: like.retain,
            properties: like.properties.clone(),
            time_to_live: like.time_to_live,
            merges: false,
        })
    }
}

/// Messages that are published together by [`Link::publish_batch`](crate::Link::publish_batch): they share
/// one way through the link and one receipt. A few hundred make a good batch.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<Rendered>);

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty batch with room for so many messages.
    #[must_use]
    pub fn with_capacity(messages: usize) -> Self {
        Self(batch_storage(messages))
    }

    /// Adds a message behind the others.
    pub fn push(&mut self, message: Publish) {
        self.0.push(message.0);
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Batch> for Vec<Rendered> {
    fn from(batch: Batch) -> Self {
        batch.0
    }
}

impl Extend<Publish> for Batch {
    fn extend<T: IntoIterator<Item = Publish>>(&mut self, messages: T) {
        self.0.extend(messages.into_iter().map(Rendered::from));
    }
}

impl FromIterator<Publish> for Batch {
    fn from_iter<T: IntoIterator<Item = Publish>>(messages: T) -> Self {
        let mut batch = Self::with_capacity(0);
        batch.extend(messages);
        batch
    }
}

/// What a [`BatchError`](crate::BatchError) gives back can be sent again.
impl From<Vec<Rendered>> for Batch {
    fn from(messages: Vec<Rendered>) -> Self {
        Self(messages)
    }
}
