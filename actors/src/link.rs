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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Addr, Context};
use async_channel::{Receiver, Sender};
use bytestring::ByteString;
use paquebot_protocols::backoff::BackoffConfig;
use paquebot_protocols::dialect::{
    Dialect, DialectError, Interest, LinkIdentity, Outbound, Rendered,
};
use paquebot_protocols::model::DeviceId;
use paquebot_protocols::mqtt::session::SessionConfig;
use paquebot_protocols::mqtt::{ReasonCode, Subscription, Will};
use tokio::sync::watch;

use crate::codec::Codec;
use crate::command_router::{Consumer, Sink, Takes};
use crate::connection::Connection;
use crate::credentials::Credentials;
use crate::event::{EventHub, LinkEvent, LinkState};
use crate::inbound::{Granted, Grants, HandlerGuard, Inbox, MessageHandler};
use crate::message::{Drain, Leave, Reconnect, Shutdown, Subscribe, SubscribeError};
use crate::metrics::GroupMetrics;
use crate::offline_queue::{Intake, OfflineQueue, OutboxConfig};
use crate::pacer::ConnectPacer;
use crate::transport::{ConnectTimeouts, Target};

mod sending;

pub use sending::{BatchError, SendError};

/// Room of an actor's mailbox for messages that are waited for.
const MAILBOX: usize = 16;

/// What the links of one group have in common; shared, so that a hundred thousand links hold it once.
#[derive(Debug)]
pub struct LinkProfile {
    /// The platform's language.
    pub dialect: Arc<dyn Dialect>,
    /// MQTT session settings.
    pub session: SessionConfig,
    /// Clean Session (3.1.1) or Clean Start (5).
    pub clean_start: bool,
    /// Keep alive; zero switches it off.
    pub keep_alive: Duration,
    /// MQTT 5: how long the server keeps the session.
    pub session_expiry: Option<Duration>,
    /// Deadlines of a connect attempt.
    pub timeouts: ConnectTimeouts,
    /// Delays between attempts.
    pub backoff: BackoffConfig,
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
    pub target: Target,
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
}

/// What a link's handles and actors share.
pub(crate) struct LinkContext {
    pub(crate) identity: LinkIdentity,
    pub(crate) profile: Arc<LinkProfile>,
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) client_id: Option<ByteString>,
    pub(crate) will: Option<Will>,
    pub(crate) pacer: ConnectPacer,
    pub(crate) metrics: Arc<GroupMetrics>,
    pub(crate) events: EventHub,
    intake: Arc<Intake>,
    ended: LinkEnded,
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
    pub(crate) fn guard(&self) -> FailureGuard {
        FailureGuard {
            ended: self.ended.clone(),
        }
    }

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

/// Says once that a link is over; whoever is first, its connection or a failing actor.
#[derive(Clone)]
pub(crate) struct LinkEnded(Sender<LinkState>);

impl LinkEnded {
    pub(crate) fn tell(&self) {
        let _ = self.0.try_send(LinkState::Stopped);
    }
}

/// Part of every actor: if the actor panics, the link ends as failed.
pub(crate) struct FailureGuard {
    ended: LinkEnded,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.ended.0.force_send(LinkState::Failed);
        }
    }
}

/// Ends a link for its handles when it is dropped, whatever became of the actors: also when they never ran,
/// or went with their thread.
struct EndOnDrop {
    context: Arc<LinkContext>,
    last: LinkState,
}

impl EndOnDrop {
    fn new(context: Arc<LinkContext>) -> Self {
        Self {
            context,
            last: LinkState::Stopped,
        }
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.context.intake.close();
        self.context.events.end(self.last);
    }
}

/// A link that was made and not yet started: to be run on the arbiter it is to live on.
pub(crate) struct PreparedLink {
    end: EndOnDrop,
    ended: Receiver<LinkState>,
    codec: (Addr<Codec>, AddressReceiver<Codec>),
    queue: (Addr<OfflineQueue>, AddressReceiver<OfflineQueue>),
    connection: (Addr<Connection>, AddressReceiver<Connection>),
}

impl std::fmt::Debug for PreparedLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.end.context.fmt(f)
    }
}

impl PreparedLink {
    /// Makes a link and the handle to it.
    #[must_use]
    pub(crate) fn new(spec: LinkSpec) -> (Self, LinkHandle) {
        let intake = Arc::new(Intake::new(&spec.profile.outbox));
        let (ended_sender, ended) = async_channel::bounded(1);
        let codec = channel(MAILBOX);
        let queue = channel(MAILBOX);
        let connection = channel(MAILBOX);
        spec.metrics.watch_queue(&intake);
        let context = Arc::new(LinkContext {
            identity: spec.identity,
            profile: spec.profile,
            target: spec.target,
            credentials: spec.credentials,
            client_id: spec.client_id,
            will: spec.will,
            pacer: spec.pacer,
            events: EventHub::new(Arc::clone(&spec.metrics)),
            metrics: spec.metrics,
            intake,
            ended: LinkEnded(ended_sender),
            next_consumer: AtomicU64::new(0),
        });
        let codec = (Addr::new(codec.0), codec.1);
        let queue = (Addr::new(queue.0), queue.1);
        let connection = (Addr::new(connection.0), connection.1);
        let handle = LinkHandle {
            context: Arc::clone(&context),
            codec: codec.0.clone(),
            queue: queue.0.clone(),
        };
        (
            Self {
                end: EndOnDrop::new(context),
                ended,
                codec,
                queue,
                connection,
            },
            handle,
        )
    }

    /// Starts the actors on the current arbiter.
    pub(crate) fn start(self) {
        let Self {
            end,
            ended,
            codec: (codec, codec_receiver),
            queue: (queue, queue_receiver),
            connection: (connection, connection_receiver),
        } = self;
        let context = Arc::clone(&end.context);
        let guard = || context.guard();
        Context::with_receiver(codec_receiver).run(Codec::new(
            Arc::clone(&context),
            connection.clone(),
            queue.clone(),
            guard(),
        ));
        Context::with_receiver(queue_receiver).run(OfflineQueue::new(
            Arc::clone(&context.profile.outbox),
            Arc::clone(&context.intake),
            Arc::clone(&context.metrics),
            codec.clone(),
            guard(),
        ));
        Context::with_receiver(connection_receiver).run(Connection::new(
            Arc::clone(&context),
            codec.clone(),
            context.ended.clone(),
            guard(),
        ));
        actix::spawn(supervise(end, ended, connection, codec, queue));
    }
}

/// Waits for the end of a link, then stops what is left of it.
async fn supervise(
    mut end: EndOnDrop,
    ended: Receiver<LinkState>,
    connection: Addr<Connection>,
    codec: Addr<Codec>,
    queue: Addr<OfflineQueue>,
) {
    end.last = ended.recv().await.unwrap_or(LinkState::Failed);
    // An actor that is gone already cannot answer, which is as good.
    let _ = queue.send(Shutdown).await;
    let _ = codec.send(Shutdown).await;
    let _ = connection.send(Shutdown).await;
    if end.last == LinkState::Failed {
        tracing::error!(link = %end.context.identity.id, "an actor of the link failed; please report this bug");
    }
}

/// A handle to a link: cheap to clone, usable from any thread and any executor.
#[derive(Clone)]
pub struct LinkHandle {
    context: Arc<LinkContext>,
    codec: Addr<Codec>,
    queue: Addr<OfflineQueue>,
}

impl std::fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.context.fmt(f)
    }
}

impl LinkHandle {
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

    /// Where the link stands, now and later.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.context.events.state()
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
        let is_gone = Arc::new(AtomicBool::new(false));
        let sink = Sink::Handler {
            handler,
            is_gone: Arc::clone(&is_gone),
        };
        let (consumer, granted) = self.consumer(Takes::Raw, sink);
        let guard = HandlerGuard {
            granted,
            id: consumer.id,
            codec: self.codec.clone(),
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
        let (sender, receiver) = async_channel::bounded(bound);
        let (consumer, granted) = self.consumer(takes, Sink::Channel(sender));
        let inbox = Inbox {
            receiver: Box::pin(receiver),
            granted,
            id: consumer.id,
            codec: self.codec.clone(),
        };
        self.add_consumer(subscriptions, consumer).await?;
        Ok(inbox)
    }

    fn consumer(&self, takes: Takes, sink: Sink) -> (Consumer, Granted) {
        let (grants, granted) = watch::channel(None);
        let consumer = Consumer {
            id: self.context.next_consumer.fetch_add(1, Ordering::Relaxed),
            takes,
            sink,
            grants: Grants::new(grants),
        };
        (consumer, granted)
    }

    async fn add_consumer(
        &self,
        subscriptions: Vec<Subscription>,
        consumer: Consumer,
    ) -> Result<(), SubscribeError> {
        let subscribe = Subscribe {
            subscriptions,
            consumer,
        };
        match self.codec.send(subscribe).await {
            Ok(result) => result,
            Err(_) => Err(SubscribeError::Stopped),
        }
    }

    /// Disconnects, if the link is connected, and connects anew at once with fresh credentials.
    pub fn reconnect(&self) {
        self.codec.do_send(Reconnect);
    }

    /// Takes nothing new, delivers what is held until `deadline` has passed, says goodbye, stops. Does not
    /// wait: see [`LinkHandle::stopped`].
    pub fn drain(&self, deadline: Duration) {
        let farewell = self.context.render_own(&Outbound::Offline);
        self.queue.do_send(Drain { deadline, farewell });
    }

    /// Stops at once; what is held ends as dropped, and on a platform where links announce themselves the
    /// server publishes the last will. Does not wait: see [`LinkHandle::stopped`].
    pub fn stop(&self) {
        // A link that announces itself has no time to say goodbye here: its will does it.
        let code = match self.context.render_own(&Outbound::Offline) {
            Some(_) => ReasonCode::DISCONNECT_WITH_WILL,
            None => ReasonCode::SUCCESS,
        };
        self.codec.do_send(Leave(code));
    }

    /// Waits until the link has stopped or failed.
    pub async fn stopped(&self) {
        let mut state = self.state();
        let over = |state: &LinkState| matches!(state, LinkState::Stopped | LinkState::Failed);
        let _ = state.wait_for(over).await;
    }
}
