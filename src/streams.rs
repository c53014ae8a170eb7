//! What a link hands out, as typed streams.
//!
//! Each stream ends once its link is stopped, or once the server has refused all of its filters, which it may do on a later
//! connection too; `ready` tells the two apart. Dropping a stream unsubscribes.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use futures_util::stream::{Stream, StreamExt};
use paquebot_actors::{
    CommandRequest, Delivery, Inbox, LinkEvent, SubscribeError, Unsubscribed, Watch,
};
use paquebot_protocols::dialect::Inbound;
use paquebot_protocols::dialect::state::StateDelta;
use paquebot_protocols::model::{
    Command, CommandReply, DeviceId, ReplyAddress, StatePatch, Telemetry,
};
use paquebot_protocols::mqtt::session::Incoming;
use paquebot_protocols::mqtt::{PacketId, Properties, QoS, Topic};

/// A received message. Dropping it tells the server that it arrived (QoS 1 and 2), so keep it until you are
/// done with it. One that a handler made with [`MessageRef::to_owned`](crate::MessageRef::to_owned) tells nothing.
///
/// It shares the bytes that were read with it, up to 16 KiB: copy the payload of a small message that you keep for
/// long.
#[derive(Debug)]
pub struct Message(Delivery);

impl Message {
    pub(crate) fn detached(incoming: Incoming) -> Self {
        Self(Delivery::detached(incoming))
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.incoming().topic
    }

    /// The payload; cloning it copies nothing.
    #[must_use]
    pub fn payload(&self) -> &bytes::Bytes {
        &self.incoming().payload
    }

    /// The quality of service it was delivered with.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.incoming().qos
    }

    /// Whether the server kept it from before the subscription.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.incoming().retain
    }

    /// Whether the server has sent it before.
    #[must_use]
    pub fn dup(&self) -> bool {
        self.incoming().dup
    }

    /// The packet identifier it came with; `None` at QoS 0. It names the message on one connection only.
    #[must_use]
    pub fn packet_id(&self) -> Option<PacketId> {
        self.incoming().id.map(|id| id.packet_id)
    }

    /// MQTT 5 properties.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.incoming().properties
    }

    fn incoming(&self) -> &Incoming {
        self.0.incoming()
    }
}

/// Messages of one [`Link::subscribe`](crate::Link::subscribe).
#[derive(Debug)]
pub struct Subscription(Inbox);

impl Subscription {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self(inbox)
    }

    /// Waits until the server has answered for every filter; the lowest QoS it granted. After the end of the stream it
    /// says why that came.
    ///
    /// # Errors
    /// The server refused a filter, at first or on a later connection, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        self.0.ready().await
    }

    /// Unsubscribes and waits for the server's answers, one for each filter: as long as the link tries to connect, so put
    /// a timeout around it. Filters that another consumer of the link has stay subscribed
    /// ([`UnsubscribeAnswer::InUse`](crate::UnsubscribeAnswer::InUse)). Messages that wait in the stream are dropped, as
    /// when it is dropped; a future that is dropped takes nothing back.
    ///
    /// # Errors
    /// The link is stopped ([`SubscribeError::Stopped`]).
    pub async fn unsubscribe(self) -> Result<Vec<Unsubscribed>, SubscribeError> {
        self.0.unsubscribe().await
    }

    /// The next message; `None` once the link is stopped or the server has refused all filters.
    pub async fn next(&mut self) -> Option<Message> {
        StreamExt::next(self).await
    }

    /// Gives every message to `handler`, at most `concurrency` at once, until the link is stopped. A
    /// message is acknowledged when its handler is done with it. A handler that panics loses its message and
    /// nothing else.
    pub async fn serve<F, R>(self, concurrency: usize, handler: F)
    where
        F: Fn(Message) -> R,
        R: Future<Output = ()>,
    {
        serve(self, concurrency, handler).await;
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        Pin::new(&mut self.0)
            .poll_next(cx)
            .map(|delivery| delivery.map(Message))
    }
}

/// Commands for one device.
#[derive(Debug)]
pub struct Commands(Inbox);

impl Commands {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self(inbox)
    }

    /// Waits until the server sends commands.
    ///
    /// # Errors
    /// The server refused the subscription, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        self.0.ready().await
    }

    /// The next command; `None` once the link is stopped or the server has refused the subscription.
    pub async fn next(&mut self) -> Option<CommandRequest> {
        StreamExt::next(self).await
    }

    /// Answers every command with what `handler` returns, at most `concurrency` at once, until the link is
    /// stopped. A handler that panics is answered as failed and harms nothing else.
    pub async fn serve<F, R>(self, concurrency: usize, handler: F)
    where
        F: Fn(Command) -> R,
        R: Future<Output = CommandReply>,
    {
        serve(self, concurrency, |request: CommandRequest| {
            let answer = handler(request.command().clone());
            async move {
                let reply = answer.await;
                if let Err(error) = request.reply(reply).await {
                    tracing::debug!(%error, "an answer was not sent");
                }
            }
        })
        .await;
    }
}

impl Stream for Commands {
    type Item = CommandRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<CommandRequest>> {
        next_matching(&mut self.0, cx, Delivery::into_command)
    }
}

/// Runs `handler` on every item, at most `concurrency` at once. A panic ends its own item.
async fn serve<S, F, R>(stream: S, concurrency: usize, handler: F)
where
    S: Stream,
    F: Fn(S::Item) -> R,
    R: Future<Output = ()>,
{
    stream
        .for_each_concurrent(concurrency.max(1), |item| {
            // What a handler does before its first await is guarded as well.
            let handled = AssertUnwindSafe(async { handler(item).await }).catch_unwind();
            handled.map(|result| {
                if result.is_err() {
                    tracing::error!("a handler panicked; its item is given up");
                }
            })
        })
        .await;
}

/// Passes over deliveries of another kind, which a dialect may mix in.
fn next_matching<T>(
    inbox: &mut Inbox,
    cx: &mut Context<'_>,
    read: impl Fn(Delivery) -> Option<T>,
) -> Poll<Option<T>> {
    loop {
        match ready!(Pin::new(&mut *inbox).poll_next(cx)) {
            None => return Poll::Ready(None),
            Some(delivery) => {
                if let Some(item) = read(delivery) {
                    return Poll::Ready(Some(item));
                }
            }
        }
    }
}

macro_rules! typed_stream {
    ($(#[$doc:meta])* $name:ident, $item:ty, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Inbox);

        impl $name {
            pub(crate) fn new(inbox: Inbox) -> Self {
                Self(inbox)
            }

            /// Waits until the server has taken the subscription.
            ///
            /// # Errors
            /// The server refused it, or the link stopped first.
            pub async fn ready(&self) -> Result<QoS, SubscribeError> {
                self.0.ready().await
            }

            /// The next item; `None` once the link is stopped or the server has refused the subscription.
            pub async fn next(&mut self) -> Option<$item> {
                StreamExt::next(self).await
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<$item>> {
                next_matching(&mut self.0, cx, |delivery| {
                    let read: fn(&Inbound) -> Option<$item> = $read;
                    read(delivery.inbound())
                })
            }
        }
    };
}

/// Changes of a device's desired state. A change is acknowledged when it is handed out.
#[derive(Debug)]
pub struct DesiredStates(Changes);

#[derive(Debug)]
enum Changes {
    Inbox(Inbox),
    Shadow(Watch<StateDelta>),
}

impl DesiredStates {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self(Changes::Inbox(inbox))
    }

    pub(crate) fn of_shadow(deltas: Watch<StateDelta>) -> Self {
        Self(Changes::Shadow(deltas))
    }

    /// Waits until the server has taken the subscription.
    ///
    /// # Errors
    /// The server refused it, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        match &self.0 {
            Changes::Inbox(inbox) => inbox.ready().await,
            Changes::Shadow(deltas) => deltas.ready().await,
        }
    }

    /// The next item; `None` once the link is stopped or the server has refused the subscription.
    pub async fn next(&mut self) -> Option<StatePatch> {
        StreamExt::next(self).await
    }
}

impl Stream for DesiredStates {
    type Item = StatePatch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StatePatch>> {
        match &mut self.0 {
            Changes::Inbox(inbox) => {
                next_matching(inbox, cx, |delivery| match delivery.inbound() {
                    Inbound::DesiredState { patch, .. } => Some(patch.clone()),
                    _ => None,
                })
            }
            Changes::Shadow(deltas) => Pin::new(deltas).poll_next(cx).map(|delta| {
                delta.map(|delta| StatePatch {
                    document: delta.state.to_string().into(),
                    version: delta.version,
                })
            }),
        }
    }
}

typed_stream!(
    /// Telemetry of all devices, seen by an application. A message is acknowledged when it is handed out.
    TelemetryFeed,
    (DeviceId, Telemetry),
    |inbound| match inbound {
        Inbound::Telemetry { device, telemetry } => Some((device.clone(), telemetry.clone())),
        _ => None,
    }
);

typed_stream!(
    /// Answers to an application's commands: who, to what, and the answer.
    Replies,
    (DeviceId, ReplyAddress, CommandReply),
    |inbound| match inbound {
        Inbound::Reply { device, reply_to, reply } => {
            Some((device.clone(), reply_to.clone(), reply.clone()))
        }
        _ => None,
    }
);

/// Events of a link.
#[derive(Debug)]
pub struct Events(Pin<Box<async_channel::Receiver<LinkEvent>>>);

impl Events {
    pub(crate) fn new(receiver: async_channel::Receiver<LinkEvent>) -> Self {
        Self(Box::pin(receiver))
    }

    /// The next event; `None` once the link is stopped.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        StreamExt::next(self).await
    }
}

impl Stream for Events {
    type Item = LinkEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LinkEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}
