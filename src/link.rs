//! A link: one MQTT session.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use paquebot_actors::{LinkHandle, LinkState, Receipt, SendError, SubscribeError};
use paquebot_protocols::dialect::{Capabilities, Rendered};
use paquebot_protocols::model::{DeviceId, Role};
use paquebot_protocols::mqtt::{self, Properties, QoS, Topic, TopicError, TopicFilter, Version};

use crate::application::Application;
use crate::device::Device;
use crate::streams::{Events, Subscription};

/// One MQTT session that keeps itself connected. Cheap to clone; usable from any thread and any executor.
///
/// # What is promised
/// - An accepted message ends in exactly one [`Outcome`](crate::Outcome), told by its [`Receipt`] and counted
///   in the metrics: delivered, rejected, expired or dropped.
/// - QoS 1 and 2 messages outlive broken connections, restarts of the broker and sessions the broker lost.
///   QoS 2 messages are not doubled while both sessions live. The process's memory holds them: they do not
///   outlive the process.
/// - First deliveries keep their order; what is resent goes before what is new.
/// - Subscriptions are restored before the link counts as online again.
/// - An inbound QoS 1 or 2 message is acknowledged once the consumer has dropped it.
#[derive(Debug, Clone)]
pub struct Link(LinkHandle);

/// Why a link is not online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link has stopped")]
pub struct LinkDown;

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
        Self(Rendered {
            topic,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            time_to_live: None,
        })
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

impl Link {
    pub(crate) fn new(handle: LinkHandle) -> Self {
        Self(handle)
    }

    /// The name of the link: its device's, gateway's or application's.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.0.identity().id
    }

    /// Which side of the platform it stands on.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.identity().role
    }

    /// The protocol version it speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.identity().version
    }

    /// What the platform can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.0.profile().dialect.capabilities()
    }

    /// The device the link belongs to; on a gateway link the gateway itself.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::new(self.0.clone(), self.id().clone())
    }

    /// Another device that this gateway or application link speaks for.
    #[must_use]
    pub fn child(&self, device: DeviceId) -> Device {
        Device::new(self.0.clone(), device)
    }

    /// What an application link sees and says.
    #[must_use]
    pub fn as_application(&self) -> Application {
        Application::new(self.0.clone())
    }

    /// Where the link stands.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.0.state()
    }

    /// Waits until the link is online. It waits as long as the link tries: put a timeout around it, and look
    /// at [`Link::events`] for why it takes long.
    ///
    /// # Errors
    /// The link was stopped or failed.
    pub async fn online(&self) -> Result<(), LinkDown> {
        let is_settled = |state| {
            matches!(
                state,
                LinkState::Online | LinkState::Stopped | LinkState::Failed
            )
        };
        match self.0.wait_for(is_settled).await {
            LinkState::Online => Ok(()),
            _ => Err(LinkDown),
        }
    }

    /// Events from now on. A consumer that leaves more than 64 unread misses the oldest and is told so.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.0.events())
    }

    /// Publishes a message; resolves once the link has accepted it.
    ///
    /// # Errors
    /// The queue is full (under [`Overflow::Reject`](crate::Overflow::Reject)), or the link is stopped; the
    /// message comes back.
    pub async fn publish(&self, message: Publish) -> Result<Receipt, SendError> {
        self.0.publish(message.0).await
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`Link::publish`]; [`SendError::Full`] also when a caller would have to wait.
    pub fn try_publish(&self, message: Publish) -> Result<Receipt, SendError> {
        self.0.try_publish(message.0)
    }

    /// Subscribes to a filter. Resolves once the link knows of it, online or not; the filter stays
    /// subscribed across connections until the stream is dropped. [`Subscription::ready`] waits for the server's
    /// answer.
    ///
    /// # Errors
    /// The filter is none, the link holds too many, or it is stopped.
    pub async fn subscribe(&self, filter: &str, qos: QoS) -> Result<Subscription, SubscribeError> {
        let filter = TopicFilter::new(filter).map_err(|error| invalid_filter(&error))?;
        self.subscribe_all(vec![mqtt::Subscription::new(filter, qos)], None)
            .await
    }

    /// Subscribes to several filters with all options as one stream. `inbox_max` messages may wait for it
    /// (default: the group's setting).
    ///
    /// # Errors
    /// As [`Link::subscribe`].
    pub async fn subscribe_all(
        &self,
        subscriptions: Vec<mqtt::Subscription>,
        inbox_max: Option<usize>,
    ) -> Result<Subscription, SubscribeError> {
        self.0
            .subscribe(subscriptions, inbox_max)
            .await
            .map(Subscription::new)
    }

    /// Runs device logic on the link's own thread: what it sends crosses no thread, so a message costs less and no
    /// other core is woken. `logic` gets the link; the future that it makes need not be [`Send`].
    ///
    /// It shares the thread with many links: it must not block, and what it computes between two `.await`s delays all of
    /// them. A panic in it is logged and ends it alone. It ends with its future; when the fleet is drained or dropped, with
    /// the thread, so it need not watch for the end of the link.
    ///
    /// ```
    /// # use paquebot_emulator::Broker;
    /// use paquebot::{Fleet, Telemetry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
    /// # let url = format!("mqtt://{}", broker.tcp_address().ok_or("no listener")?);
    /// # let (sender, done) = tokio::sync::oneshot::channel();
    /// let fleet = Fleet::builder().start()?;
    /// let link = fleet.group("meters").endpoint(&url).build()?.device("meter-1")?.start()?;
    /// link.spawn(async |link| {
    ///     let meter = link.device();
    ///     for reading in [230.1, 229.8] {
    ///         let telemetry = Telemetry::new(format!("{reading}"));
    ///         if meter.send(&telemetry).await.is_err() {
    ///             return;
    ///         }
    ///     }
    /// #   let _ = sender.send(());
    /// })?;
    /// # done.await?;
    /// # fleet.drain(std::time::Duration::from_secs(5)).await;
    /// # broker.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The fleet is drained or dropped: nothing is run.
    pub fn spawn<F, T>(&self, logic: F) -> Result<(), LinkDown>
    where
        F: FnOnce(Self) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let link = self.clone();
        if self.0.spawn(move || logic(link)) {
            Ok(())
        } else {
            Err(LinkDown)
        }
    }

    /// Disconnects, if the link is connected, and connects anew at once with fresh credentials. What is held is
    /// kept.
    pub fn reconnect(&self) {
        self.0.reconnect();
    }

    /// Takes nothing new, delivers what is held until `deadline` has passed, disconnects and stops.
    pub async fn drain(&self, deadline: Duration) {
        self.0.drain(deadline);
        self.0.stopped().await;
    }

    /// Disconnects and stops at once; what is held ends as dropped. Where the platform announces links as
    /// online, nothing takes that back but the last will: the server publishes it.
    pub async fn stop(&self) {
        self.0.stop();
        self.0.stopped().await;
    }
}

fn invalid_filter(error: &TopicError) -> SubscribeError {
    SubscribeError::Dialect(paquebot_protocols::dialect::DialectError::Invalid {
        what: "topic filter",
        problem: error.to_string(),
    })
}
