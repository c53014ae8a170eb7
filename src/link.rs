//! A link: one MQTT session.

use std::fmt;
use std::time::{Duration, Instant};

use paquebot_actors::{
    BatchError, BatchReceipt, HandlerGuard, LinkHandle, LinkState, Receipt, ReceivedRef,
    RequestInFlight, RequestUnsent, SendError, SubscribeError, UnsubscribeAnswer, Unsubscribed,
};
use paquebot_protocols::dialect::{Capabilities, Rendered};
use paquebot_protocols::model::{DeviceId, Role};
use paquebot_protocols::mqtt::{self, QoS, TopicError, TopicFilter, Version};

use crate::application::Application;
use crate::device::Device;
use crate::handler::MessageRef;
use crate::publish::{Batch, Publish};
use crate::streams::{Events, Subscription};

/// One MQTT session that keeps itself connected. Cheap to clone; usable from any thread and any executor.
///
/// # What is promised
/// - An accepted message ends in exactly one [`Outcome`](crate::Outcome), told by its [`Receipt`] and counted
///   in the metrics: delivered, rejected, expired or dropped; a report of state may end as merged, and what a stopped
///   link with a durable queue still holds as kept.
/// - QoS 1 and 2 messages outlive broken connections, restarts of the broker and sessions the broker lost.
///   QoS 2 messages are not doubled while both sessions live. In a durable queue they outlive the process too
///   ([`GroupBuilder::durability`](crate::GroupBuilder::durability)).
/// - First deliveries keep their order; what is resent goes before what is new.
/// - Subscriptions are restored before the link counts as online again.
/// - An inbound QoS 1 or 2 message is acknowledged once the consumer has dropped it, or its handler has returned.
#[derive(Debug, Clone)]
pub struct Link(LinkHandle);

/// Why a link is not online. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link has stopped")]
pub struct LinkDown;

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for LinkDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Link {
    /// Whether both are handles of one link.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }

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

    /// Publishes a message; resolves once the link has accepted it: with a durable queue, once it is recorded. A future
    /// that is dropped before may have been accepted or not.
    ///
    /// # Errors
    /// The queue is full (under [`Overflow::Reject`](crate::Overflow::Reject)), or those of all links of the fleet
    /// together ([`SendError::FleetFull`]); the link is stopped, or its durable
    /// queue cannot record the message ([`SendError::Storage`], at once when the disk is full); the message comes back.
    pub fn publish(
        &self,
        message: Publish,
    ) -> impl Future<Output = Result<Receipt, SendError>> + Send {
        self.0.publish(message.into())
    }

    /// The same without waiting, not even for the store: on a link with a durable queue the message is not safe from
    /// the end of the process when this returns, and one that cannot be recorded ends as dropped
    /// ([`DropReason::Storage`](crate::DropReason::Storage)).
    ///
    /// # Errors
    /// As [`Link::publish`]; [`SendError::Full`] and [`SendError::FleetFull`] also when a caller would have to wait: whatever the policy, when
    /// callers hand over more than the bounds before the link has looked at it.
    pub fn try_publish(&self, message: Publish) -> Result<Receipt, SendError> {
        self.0.try_publish(message.into())
    }

    /// Publishes a message whose outcome nobody asks for: it is accepted, sent and counted like any other, and
    /// costs less.
    ///
    /// # Errors
    /// As [`Link::publish`].
    pub fn publish_detached(
        &self,
        message: Publish,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        self.0.publish_detached(message.into())
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`Link::try_publish`].
    pub fn try_publish_detached(&self, message: Publish) -> Result<(), SendError> {
        self.0.try_publish_detached(message.into())
    }

    /// Publishes messages in order, with one receipt for all of them: the fastest way to send many. Resolves
    /// once the link has accepted all; a batch that is larger than the queue's room is accepted part by part. If
    /// the future is dropped before, the parts that were not accepted are gone with it.
    ///
    /// # Errors
    /// The platform does not take one of the messages (then none is accepted), the queue is full (under
    /// [`Overflow::Reject`](crate::Overflow::Reject)), or the link is stopped; the messages that were not accepted
    /// come back.
    pub async fn publish_batch(&self, batch: Batch) -> Result<BatchReceipt, BatchError> {
        self.0.publish_batch(batch.into()).await
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

    /// Subscribes a handler to a filter: the fast way to receive. Resolves once the link knows of it, online or
    /// not; the filter stays subscribed across connections until the guard is dropped. [`HandlerGuard::ready`]
    /// waits for the server's answer.
    ///
    /// The handler is called for each message in order of arrival, on the thread that the link lives on, with a
    /// message borrowed from the read buffer. A QoS 1 or 2 message is acknowledged when it returns (and, if a
    /// stream of the link got it too, when that has dropped it); the acknowledgements of one read go out in one write. A handler that panics loses that one message:
    /// it is logged, counted in `paquebot_inbound_dropped_total` as `handler_panicked`, acknowledged, and the
    /// handler is called for the next.
    ///
    /// # The handler must not block
    /// While it runs nothing else does on its thread: no other link of it reads, writes or keeps its connection
    /// alive. Nothing is queued for a slow handler and nothing is dropped: the link reads no faster than the
    /// handler returns, and the server feels it. Do a few microseconds of work there; hand anything longer to a
    /// thread or a task of your own, or take a [`Subscription`], whose inbox absorbs bursts. To answer commands
    /// use [`Commands::serve`](crate::Commands::serve).
    ///
    /// ```no_run
    /// # use paquebot::{Link, SubscribeError, mqtt::QoS};
    /// # async fn example(link: &Link) -> Result<(), SubscribeError> {
    /// let (totals, _sums) = std::sync::mpsc::channel();
    /// let guard = link
    ///     .subscribe_with("meters/+/power", QoS::AtLeastOnce, move |message| {
    ///         let _ = totals.send(message.payload().len());
    ///     })
    ///     .await?;
    /// guard.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Link::subscribe`].
    pub async fn subscribe_with<F>(
        &self,
        filter: &str,
        qos: QoS,
        handler: F,
    ) -> Result<HandlerGuard, SubscribeError>
    where
        F: FnMut(&MessageRef<'_>) + Send + 'static,
    {
        let filter = TopicFilter::new(filter).map_err(|error| invalid_filter(&error))?;
        self.subscribe_all_with(vec![mqtt::Subscription::new(filter, qos)], handler)
            .await
    }

    /// Subscribes one handler to several filters with all options. A message that several of them match is
    /// handled once for each time that the server sends it.
    ///
    /// # Errors
    /// As [`Link::subscribe`].
    pub async fn subscribe_all_with<F>(
        &self,
        subscriptions: Vec<mqtt::Subscription>,
        mut handler: F,
    ) -> Result<HandlerGuard, SubscribeError>
    where
        F: FnMut(&MessageRef<'_>) + Send + 'static,
    {
        let handler = Box::new(move |received: &ReceivedRef<'_>| {
            handler(&MessageRef::new(*received));
        });
        self.0.subscribe_with(subscriptions, handler).await
    }

    /// Takes a filter out of the session that no consumer of this link has: one that an earlier process subscribed in a
    /// session that the server has kept. Resolves with what became of it once the server has answered, so as long as the
    /// link tries to connect: put a timeout around it. What a stream or a handler of this link has is left by
    /// [`Subscription::unsubscribe`] and [`HandlerGuard::unsubscribe`], or by dropping it.
    ///
    /// # Errors
    /// The filter is none, or the link is stopped.
    pub async fn unsubscribe(&self, filter: &str) -> Result<UnsubscribeAnswer, SubscribeError> {
        let filter = TopicFilter::new(filter).map_err(|error| invalid_filter(&error))?;
        let answers = self.unsubscribe_all(vec![filter]).await?;
        let answer = answers.first().map(|unsubscribed| unsubscribed.answer);
        answer.ok_or(SubscribeError::Stopped)
    }

    /// The same for several filters, which go in as few packets as they fit into; what became of each, in their order.
    ///
    /// # Errors
    /// The link is stopped.
    pub async fn unsubscribe_all(
        &self,
        filters: Vec<TopicFilter>,
    ) -> Result<Vec<Unsubscribed>, SubscribeError> {
        self.0.unsubscribe(filters).await
    }

    /// How many requests to the platform's services (documents of state, jobs, provisioning …) wait for their answers.
    /// They are no messages: nothing of them is queued or in [`Fleet::totals`](crate::Fleet::totals).
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.0.requests_in_flight()
    }

    /// A request that goes past the queue; see [`LinkHandle::request`].
    pub(crate) async fn request(
        &self,
        message: Rendered,
        deadline: Instant,
    ) -> Result<RequestInFlight, RequestUnsent> {
        self.0.request(message, deadline).await
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

    /// Disconnects and stops at once; what is held ends as dropped, or stays in the link's durable queue. Where the platform announces links as
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

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::{DropReason, GroupError, LinkEvent, Outcome, StartError};

    /// What `fn main() -> Result<(), Box<dyn Error>>` prints behind `Error: `, and what follows from a report of causes.
    #[test]
    fn errors_that_a_main_returns_are_sentences_and_say_each_cause_once() {
        let refused = SubscribeError::Refused {
            filter: TopicFilter::new("a/#").unwrap(),
            code: mqtt::ReasonCode::NOT_AUTHORIZED,
        };
        let errors: [Box<dyn Error>; 4] = [
            Box::new(refused),
            Box::new(LinkDown),
            Box::new(StartError::Drained),
            Box::new(GroupError::NoStore),
        ];
        for error in errors {
            let sentence = error.to_string();
            assert_eq!(format!("{error:?}"), sentence);
            assert!(sentence.contains(' '), "{sentence}");
            let cause = error.source().map(ToString::to_string);
            assert!(
                !cause
                    .as_ref()
                    .is_some_and(|cause| sentence.contains(&**cause)),
                "{sentence}: {cause:?}"
            );
        }
    }

    #[test]
    fn events_and_outcomes_are_lines_for_people() {
        let filter = TopicFilter::new("a/#").unwrap();
        for (event, line) in [
            (LinkEvent::Connecting { attempt: 1 }, "connecting"),
            (
                LinkEvent::Connecting { attempt: 2 },
                "connecting (attempt 2)",
            ),
            (
                LinkEvent::Retrying {
                    delay: Duration::from_millis(1_250),
                },
                "next attempt in 1.2 s",
            ),
            (
                LinkEvent::Subscribed {
                    filter,
                    qos: QoS::AtLeastOnce,
                },
                "subscribed to a/# with QoS 1",
            ),
            (
                LinkEvent::Disconnected {
                    reason: mqtt::session::CloseReason::KeepAliveTimeout,
                },
                "disconnected: the server did not answer the keep alive in time",
            ),
        ] {
            assert_eq!(event.to_string(), line);
        }
        let delivered = |code, session_lost| Outcome::Delivered { code, session_lost };
        for (outcome, line) in [
            (delivered(mqtt::ReasonCode::SUCCESS, false), "delivered"),
            (
                delivered(mqtt::ReasonCode::SUCCESS, true),
                "delivered, perhaps twice: the server lost the session meanwhile",
            ),
            (
                Outcome::Dropped(DropReason::Stopped),
                "dropped: the link was stopped",
            ),
        ] {
            assert_eq!(outcome.to_string(), line);
        }
    }
}
