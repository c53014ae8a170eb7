//! The calls of paquebot that are measured, each in one place.

use paquebot::mqtt::QoS;
use paquebot::{Batch, BatchReceipt, HandlerGuard, Link, PreparedTopic, Publish, Receipt};

use crate::Failure;
use crate::work::TOPIC;

/// The messages of a run: a topic that was prepared once, a payload made for each.
#[derive(Debug)]
pub(crate) struct Messages {
    topic: PreparedTopic,
    payload: Vec<u8>,
}

impl Messages {
    /// With a payload of `payload_len` bytes.
    pub(crate) fn new(qos: u8, payload_len: usize) -> Result<Self, Failure> {
        Ok(Self {
            topic: PreparedTopic::new(TOPIC, level(qos))?,
            payload: vec![b'x'; payload_len],
        })
    }

    /// The next one.
    pub(crate) fn next(&self) -> Publish {
        self.topic.message(self.payload.clone())
    }
}

/// The quality of service of a number.
pub(crate) fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}

/// A single call with a receipt.
pub(crate) async fn publish(link: &Link, message: Publish) -> Result<Receipt, Failure> {
    Ok(link.publish(message).await?)
}

/// A single call without a receipt.
pub(crate) async fn publish_detached(link: &Link, message: Publish) -> Result<(), Failure> {
    Ok(link.publish_detached(message).await?)
}

/// A batch of `count` messages.
pub(crate) async fn publish_batch(
    link: &Link,
    messages: &Messages,
    count: usize,
) -> Result<BatchReceipt, Failure> {
    let mut batch = Batch::with_capacity(count);
    for _ in 0..count {
        batch.push(messages.next());
    }
    Ok(link.publish_batch(batch).await?)
}

/// Waits until every message of a batch has ended, which has to be well.
pub(crate) async fn settled(batch: BatchReceipt) -> Result<(), Failure> {
    match batch.await {
        outcome if outcome.is_delivered() => Ok(()),
        outcome => Err(format!(
            "of a batch {} were not delivered",
            outcome.undelivered.len()
        )
        .into()),
    }
}

/// Waits until a message has ended, which has to be well.
pub(crate) async fn delivered(receipt: Receipt) -> Result<(), Failure> {
    match receipt.await {
        outcome if outcome.is_delivered() => Ok(()),
        outcome => Err(format!("a message was {}", outcome.name()).into()),
    }
}

/// Gives every message that comes to `handler`, on the link's own thread and borrowed from the read buffer.
pub(crate) async fn receive_with(
    link: &Link,
    qos: u8,
    mut handler: impl FnMut(&str, &[u8]) + Send + 'static,
) -> Result<HandlerGuard, Failure> {
    let guard = link.subscribe_with("#", level(qos), move |message| {
        handler(message.topic(), message.payload());
    });
    Ok(guard.await?)
}

/// Gives every message that comes to `handler`, on the caller's thread; returns when the link ends.
pub(crate) async fn receive(
    link: &Link,
    qos: u8,
    mut handler: impl FnMut(&str, &[u8]),
) -> Result<(), Failure> {
    let mut messages = link.subscribe("#", level(qos)).await?;
    while let Some(message) = messages.next().await {
        handler(message.topic().as_ref(), message.payload());
    }
    Ok(())
}
