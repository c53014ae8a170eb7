//! A link: starts, wires, supervises and stops its actors.
//!
//! # Guarantees
//! 1. Every accepted message ends in exactly one [`Outcome`](crate::Outcome), also when the link is stopped.
//! 2. QoS 1 and 2 messages survive broken connections, broker restarts and lost broker sessions; first
//!    deliveries keep their order.
//! 3. Subscriptions are restored before the link says *online*.
//! 4. An inbound QoS 1 or 2 message is acknowledged after its consumer is done with it.
//! 5. Every attempt, exchange and wait has a deadline; every queue has a bound.
//!
//! All actors of a link live on one arbiter. If one of them fails, which is a bug, the others are stopped, all
//! receipts resolve and the link's state is [`LinkState::Failed`]; other links go on.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Addr, ArbiterHandle};
use async_channel::Receiver;
use bytestring::ByteString;
use futures_util::FutureExt as _;
use paquebot_protocols::backoff::BackoffConfig;
use paquebot_protocols::dialect::{
    Dialect, DialectError, Interest, LinkIdentity, Outbound, Rendered,
};
use paquebot_protocols::model::DeviceId;
use paquebot_protocols::mqtt::session::SessionConfig;
use paquebot_protocols::mqtt::{ReasonCode, Subscription, TopicFilter, Will};
use tokio::sync::oneshot;

use crate::codec::Codec;
use crate::command_router::{Consumer, Sink, Takes};
use crate::connection::Connection;
use crate::credentials::Credentials;
use crate::event::{EventHub, LinkEvent, LinkState};
use crate::inbound::{Granted, Grants, HandlerGuard, Inbox, MessageHandler, bounded};
use crate::message::{Drain, GiveUp, Leave, Reconnect, Subscribe, SubscribeError, Unsubscribed};
use crate::metrics::GroupMetrics;
use crate::offline_queue::{
    Durable, DurableQueue, FleetRoom, Intake, OfflineQueue, OutboxConfig, Recovered,
};
use crate::pacer::ConnectPacer;
use crate::transport::{ConnectTimeouts, HttpProxy, Target};

mod bell;
mod context;
mod hand_over;
mod lanes;
mod requests;
mod sending;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use bell::{Bell, Rung};
pub(crate) use context::{Context, Resident};
pub(crate) use lanes::time_of_turn;

pub(crate) use requests::RequestCount;
pub use requests::{RequestInFlight, RequestUnsent};
pub use sending::{BatchError, SendError};
pub(crate) use task::FailureGuard;
use task::{EndOnDrop, Ending, LinkTask};

/// Room of an actor's mailbox for messages that are waited for.
const MAILBOX: usize = 16;

/// What the links of one group have in common; shared, so that a hundred thousand links hold it once.
#[derive(Debug)]
pub struct LinkProfile {
    /// The platform's language.
    pub dialect: Arc<dyn Dialect>,
    /// MQTT session settings.
    pub session: Arc<SessionConfig>,
    /// Clean Session (3.1.1) or Clean Start (5).
    pub clean_start: bool,
    /// Keep alive; zero switches it off.
    pub keep_alive: Duration,
    /// MQTT 5: how long the server keeps the session.
    pub session_expiry: Option<Duration>,
    /// Deadlines of a connect attempt.
    pub timeouts: ConnectTimeouts,
    /// The HTTP proxy that connections go through.
    pub proxy: Option<Box<HttpProxy>>,
    /// Delays between attempts.
    pub backoff: Arc<BackoffConfig>,
    /// Bounds of the queue.
    pub outbox: Arc<OutboxConfig>,
    /// Deliveries that wait for one consumer.
    pub inbox_max: usize,
    /// Whether QoS 0 messages too wait for a slow consumer.
    pub holds_qos0: bool,
    /// How long a command may stay unanswered.
    pub command_timeout: Duration,
    /// Spreads the group's connect attempts.
    pub pacer: ConnectPacer,
}

/// All that a link needs to start.
#[derive(Debug)]
pub struct LinkSpec {
    /// Who it is.
    pub identity: LinkIdentity,
    /// What it shares with its group.
    pub profile: Arc<LinkProfile>,
    /// Where it connects to.
    pub target: Arc<Target>,
    /// User name and password, where the dialect does not derive them.
    pub credentials: Credentials,
    /// A client identifier other than the dialect's.
    pub client_id: Option<ByteString>,
    /// A will other than the dialect's.
    pub will: Option<Will>,
    /// Spreads the fleet's connect attempts.
    pub pacer: ConnectPacer,
    /// Where it is counted.
    pub metrics: Arc<GroupMetrics>,
    /// Its queue in the store; `None`: in memory only.
    pub durable: Option<Box<DurableQueue>>,
    /// What the queues of all links of its fleet may hold together; `None`: no bound but each link's own.
    pub fleet_room: Option<Arc<FleetRoom>>,
}

/// What a link's handles and actors share. In the order written here: what every message needs lies together.
#[repr(C)]
pub(crate) struct LinkContext {
    pub(crate) intake: Arc<Intake>,
    pub(crate) profile: Arc<LinkProfile>,
    pub(crate) metrics: Arc<GroupMetrics>,
    pub(crate) durable: Option<Box<Durable>>,
    ending: Ending,
    pub(crate) identity: LinkIdentity,
    pub(crate) target: Arc<Target>,
    pub(crate) credentials: Credentials,
    pub(crate) client_id: Option<ByteString>,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) pacer: ConnectPacer,
    pub(crate) events: EventHub,
    pub(crate) requests: RequestCount,
    /// The one address of each actor: whoever sends a message borrows it from here.
    pub(crate) connection: Addr<Connection>,
    pub(crate) codec: Addr<Codec>,
    pub(crate) queue: Addr<OfflineQueue>,
    arbiter: ArbiterHandle,
    next_consumer: AtomicU64,
}

impl std::fmt::Debug for LinkContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.identity.id)
            .field("target", &self.target)
            .field("state", &self.events.current())
            .finish_non_exhaustive()
    }
}

impl LinkContext {
    /// What the dialect says for the link itself; a dialect that cannot say it says nothing.
    pub(crate) fn render_own(&self, outbound: &Outbound<'_>) -> Option<Rendered> {
        let rendered = self
            .profile
            .dialect
            .render(&self.identity, &self.identity.id, outbound);
        rendered.unwrap_or_else(|error| {
            tracing::warn!(link = %self.identity.id, %error, "cannot announce the link");
            None
        })
    }
}

/// A link that was made and not yet started: to be run on the arbiter it is to live on.
pub(crate) struct PreparedLink {
    end: EndOnDrop,
    codec: AddressReceiver<Codec>,
    queue: AddressReceiver<OfflineQueue>,
    connection: AddressReceiver<Connection>,
    recovered: Option<Box<Recovered>>,
}

impl std::fmt::Debug for PreparedLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.end.link.fmt(f)
    }
}

impl PreparedLink {
    /// Makes a link and the handle to it; `arbiter` is the one it is to live on.
    #[must_use]
    pub(crate) fn new(spec: LinkSpec, arbiter: ArbiterHandle) -> (Self, LinkHandle) {
        let intake = Intake::new(&spec.profile.outbox, spec.fleet_room.as_ref());
        let codec = channel(MAILBOX);
        let queue = channel(MAILBOX);
        let connection = channel(MAILBOX);
        spec.metrics.watch_queue(&intake);
        let (durable, recovered) = match spec.durable {
            Some(queue) => {
                let DurableQueue {
                    durable,
                    mut recovered,
                } = *queue;
                recovered.take_room(&intake, spec.profile.outbox.overflow);
                (Some(Box::new(durable)), Some(Box::new(recovered)))
            }
            None => (None, None),
        };
        let context = Arc::new(LinkContext {
            identity: spec.identity,
            profile: spec.profile,
            target: spec.target,
            credentials: spec.credentials,
            client_id: spec.client_id,
            will: spec.will.map(Box::new),
            pacer: spec.pacer,
            events: EventHub::new(Arc::clone(&spec.metrics)),
            metrics: spec.metrics,
            requests: RequestCount::default(),
            connection: Addr::new(connection.0),
            codec: Addr::new(codec.0),
            queue: Addr::new(queue.0),
            intake,
            durable,
            ending: Ending::default(),
            arbiter,
            next_consumer: AtomicU64::new(0),
        });
        let prepared = Self {
            end: EndOnDrop::new(Arc::clone(&context)),
            codec: codec.1,
            queue: queue.1,
            connection: connection.1,
            recovered,
        };
        (prepared, LinkHandle { context })
    }

    /// Starts the actors on the current arbiter.
    pub(crate) fn start(self) {
        actix::spawn(LinkTask::new(self));
    }
}

/// A handle to a link: cheap to clone, usable from any thread and any executor.
#[derive(Clone)]
pub struct LinkHandle {
    context: Arc<LinkContext>,
}

impl std::fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.context.fmt(f)
    }
}

impl LinkHandle {
    /// Whether both are handles of one link.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context)
    }

    /// For an actor of the link.
    pub(crate) fn of(context: Arc<LinkContext>) -> Self {
        Self { context }
    }

    pub(crate) fn codec(&self) -> &Addr<Codec> {
        &self.context.codec
    }

    /// Who the link is.
    #[must_use]
    pub fn identity(&self) -> &LinkIdentity {
        &self.context.identity
    }

    /// What the link shares with its group.
    #[must_use]
    pub fn profile(&self) -> &Arc<LinkProfile> {
        &self.context.profile
    }

    /// Where the link stands now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.context.events.current()
    }

    /// Waits until the link stands where `wanted` says, and gives where that is. A link that has ended stays
    /// where it is: a wait that does not want [`LinkState::Stopped`] and [`LinkState::Failed`] may be for ever.
    pub async fn wait_for(&self, wanted: impl Fn(LinkState) -> bool) -> LinkState {
        self.context.events.wait_for(wanted).await
    }

    /// Events from now on, at most [`EVENTS_HELD_MAX`](crate::EVENTS_HELD_MAX) unread.
    #[must_use]
    pub fn events(&self) -> Receiver<LinkEvent> {
        self.context.events.listen()
    }

    /// Subscribes to filters as they are. Resolves once the link knows of it; [`Inbox::ready`] waits for the
    /// server.
    ///
    /// # Errors
    /// The link is stopped or holds too many filters.
    pub async fn subscribe(
        &self,
        subscriptions: Vec<Subscription>,
        inbox_max: Option<usize>,
    ) -> Result<Inbox, SubscribeError> {
        self.consume(Takes::Raw, subscriptions, inbox_max).await
    }

    /// Subscribes a handler to filters as they are. It is called on the link's thread and must not block.
    ///
    /// # Errors
    /// As [`LinkHandle::subscribe`].
    pub async fn subscribe_with(
        &self,
        subscriptions: Vec<Subscription>,
        handler: MessageHandler,
    ) -> Result<HandlerGuard, SubscribeError> {
        self.handle_with(subscriptions, handler, false).await
    }

    /// The same for filters that may be in force already, or lost by the server: ready once it has answered anew.
    pub(crate) async fn subscribe_anew_with(
        &self,
        subscriptions: Vec<Subscription>,
        handler: MessageHandler,
    ) -> Result<HandlerGuard, SubscribeError> {
        self.handle_with(subscriptions, handler, true).await
    }

    async fn handle_with(
        &self,
        subscriptions: Vec<Subscription>,
        handler: MessageHandler,
        doubts: bool,
    ) -> Result<HandlerGuard, SubscribeError> {
        let is_gone = Arc::new(AtomicBool::new(false));
        let sink = Sink::Handler {
            handler,
            is_gone: Arc::clone(&is_gone),
        };
        let (mut consumer, granted) = self.consumer(Takes::Raw, sink);
        consumer.doubts = doubts;
        let guard = HandlerGuard {
            granted,
            id: consumer.id,
            link: Arc::clone(&self.context),
            is_gone,
        };
        self.add_consumer(subscriptions, consumer).await?;
        Ok(guard)
    }

    /// Takes what the platform sends of one kind.
    ///
    /// # Errors
    /// As [`LinkHandle::subscribe`]; also when the platform or this role has no such thing.
    pub async fn listen(
        &self,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Inbox, SubscribeError> {
        let context = &self.context;
        let dialect = &context.profile.dialect;
        let subscriptions = dialect.subscriptions(&context.identity, device, interest)?;
        let takes = match interest {
            Interest::Commands => Takes::Commands(device.clone()),
            Interest::DesiredState => Takes::DesiredState(device.clone()),
            Interest::Telemetry => Takes::Telemetry,
            Interest::Replies => Takes::Replies,
            _ => {
                return Err(SubscribeError::Dialect(DialectError::Unsupported {
                    platform: dialect.platform(),
                    operation: "such an interest",
                }));
            }
        };
        self.consume(takes, subscriptions, None).await
    }

    async fn consume(
        &self,
        takes: Takes,
        subscriptions: Vec<Subscription>,
        inbox_max: Option<usize>,
    ) -> Result<Inbox, SubscribeError> {
        let bound = inbox_max.unwrap_or(self.context.profile.inbox_max).max(1);
        let (sender, receiver) = bounded(bound);
        let (consumer, granted) = self.consumer(takes, Sink::Channel(sender));
        let inbox = Inbox {
            receiver,
            granted,
            id: consumer.id,
            link: Arc::clone(&self.context),
        };
        self.add_consumer(subscriptions, consumer).await?;
        Ok(inbox)
    }

    fn consumer(&self, takes: Takes, sink: Sink) -> (Consumer, Granted) {
        let grants = Grants::new();
        let granted = grants.granted();
        let consumer = Consumer {
            id: self.context.next_consumer.fetch_add(1, Ordering::Relaxed),
            takes,
            sink,
            grants,
            doubts: false,
        };
        (consumer, granted)
    }

    async fn add_consumer(
        &self,
        subscriptions: Vec<Subscription>,
        consumer: Consumer,
    ) -> Result<(), SubscribeError> {
        for subscription in &subscriptions {
            self.context
                .profile
                .dialect
                .check_subscription(subscription)?;
        }
        let subscribe = Subscribe {
            subscriptions,
            consumer,
        };
        match self.context.codec.send(subscribe).await {
            Ok(result) => result,
            Err(_) => Err(SubscribeError::Stopped),
        }
    }

    /// Takes filters out of the session that no consumer of this link has, such as those of an earlier process; resolves
    /// with what became of each, in this order, once the server has answered.
    ///
    /// # Errors
    /// The link is stopped.
    pub fn unsubscribe(
        &self,
        filters: Vec<TopicFilter>,
    ) -> impl Future<Output = Result<Vec<Unsubscribed>, SubscribeError>> + Send + use<> {
        let (told, answers) = oneshot::channel();
        self.context.codec.do_send(GiveUp { filters, told });
        async { answers.await.map_err(|_| SubscribeError::Stopped) }
    }

    /// Runs what `start` makes on the link's own thread, where it must not block; `false` when that thread is gone.
    /// A panic in it is logged and ends it alone. It is dropped when the worker ends.
    pub fn spawn<F, T>(&self, start: F) -> bool
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let link = Arc::clone(&self.context);
        self.context.arbiter.spawn_fn(move || {
            actix::spawn(async move {
                let task = AssertUnwindSafe(async { start().await });
                if task.catch_unwind().await.is_err() {
                    tracing::error!(link = %link.identity.id, "a task beside the link panicked");
                }
            });
        })
    }

    /// Disconnects, if the link is connected, and connects anew at once with fresh credentials.
    pub fn reconnect(&self) {
        self.context.codec.do_send(Reconnect);
    }

    /// Takes nothing new, delivers what is held until `deadline` has passed, says goodbye, stops. Does not
    /// wait: see [`LinkHandle::stopped`].
    pub fn drain(&self, deadline: Duration) {
        let farewell = self.context.render_own(&Outbound::Offline);
        self.context.queue.do_send(Drain { deadline, farewell });
    }

    /// Stops at once; what is held ends as dropped, and on a platform where links announce themselves the
    /// server publishes the last will. Does not wait: see [`LinkHandle::stopped`].
    pub fn stop(&self) {
        // A link that announces itself has no time to say goodbye here: its will does it.
        let code = match self.context.render_own(&Outbound::Offline) {
            Some(_) => ReasonCode::DISCONNECT_WITH_WILL,
            None => ReasonCode::SUCCESS,
        };
        self.context.codec.do_send(Leave(code));
    }

    /// Waits until the link has stopped or failed.
    pub async fn stopped(&self) {
        let is_over = |state| matches!(state, LinkState::Stopped | LinkState::Failed);
        self.wait_for(is_over).await;
    }
}
