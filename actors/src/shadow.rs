//! The Shadow actor: one document of a device's state and the requests about it.
//!
//! It starts when a document is first used and ends with its last handle; a link has as many as documents are in use.
//! The rules are in [`paquebot_protocols::shadow`]; here are the subscriptions, the clock and those who wait. Requests go
//! past the queue, straight to the codec, which takes them while it is online.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use actix::{
    Actor, ActorContext, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle,
    WrapFuture as _,
};
use paquebot_protocols::dialect::state::{
    DocumentId, StateChange, StateDelta, StateDocument, StateFeed, StateRequest,
};
use paquebot_protocols::mqtt::{QoS, ReasonCode, Topic};
use paquebot_protocols::shadow::{self, Action, Event, Failure, Loss, Refusal, Unsent};
use tokio::sync::oneshot;

use crate::event::LinkEvent;
use crate::inbound::HandlerGuard;
use crate::link::{FailureGuard, LinkContext, LinkHandle, RequestInFlight, RequestUnsent};
use crate::message::{
    AskState, ShadowAbandoned, ShadowOffline, ShadowOnline, Shutdown, StateArrived, SubscribeError,
    WatchChanges, WatchDeltas,
};

mod handle;
mod turns;

use turns::Turn;
pub(crate) use turns::Turns;

pub(crate) use handle::{Answer, Lease, Watcher};
pub use handle::{ShadowError, ShadowHandle, ShadowOptions, Watch};

/// Deltas and changes that wait for one consumer; past them the oldest is dropped, and counted.
pub(crate) const WATCH_MAX: usize = 64;

/// Documents of one link that are in use.
pub(crate) const SHADOWS_MAX: usize = 1_000;

/// What an operation that nobody waits for is called in metrics: the actor's own.
const RECONCILE: &str = "reconcile";

/// A subscription to a feed.
struct Subscribed {
    /// Tells it from an earlier one.
    number: u64,
    guard: Option<HandlerGuard>,
    /// That of the subscription which this one renews: it stays until this one is there too.
    renewed: Option<HandlerGuard>,
    granted: Option<QoS>,
}

/// The actor.
pub(crate) struct Shadow {
    link: Arc<LinkContext>,
    document: DocumentId,
    machine: shadow::Shadow,
    subscribed: HashMap<StateFeed, Subscribed>,
    subscriptions: u64,
    /// Who waits for which request, and since when.
    callers: HashMap<u64, (Instant, oneshot::Sender<Answer>)>,
    /// Those of all documents of the link, and those that requests of this one have.
    turns: Arc<Turns>,
    taken: HashMap<u64, Turn>,
    /// The requests that wait for their turn.
    waiting: HashMap<u64, SpawnHandle>,
    /// Where the document is asked for; `None` before that was done.
    read_topic: Option<Topic>,
    /// The requests that were sent and have no answer yet.
    in_flight: HashMap<u64, RequestInFlight>,
    deltas: Vec<Watcher<StateDelta>>,
    changes: Vec<Watcher<StateChange>>,
    timer: Option<(Instant, SpawnHandle)>,
    /// Nobody has a handle any more: it ends once nobody waits for anything.
    is_abandoned: bool,
    _guard: FailureGuard,
}

impl Shadow {
    pub(crate) fn new(
        link: Arc<LinkContext>,
        document: DocumentId,
        turns: Arc<Turns>,
        is_online: bool,
    ) -> Self {
        // Answers to other devices' requests come as well: 64 bits tell them apart.
        let name = format!("{:016x}", fastrand::u64(..));
        Self {
            machine: shadow::Shadow::new(name, is_online),
            _guard: link.guard(),
            link,
            document,
            subscribed: HashMap::new(),
            subscriptions: 0,
            callers: HashMap::new(),
            turns,
            taken: HashMap::new(),
            waiting: HashMap::new(),
            read_topic: None,
            in_flight: HashMap::new(),
            deltas: Vec::new(),
            changes: Vec::new(),
            timer: None,
            is_abandoned: false,
        }
    }

    /// Takes what the machine has to say.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        loop {
            while let Some(event) = self.machine.poll_event() {
                self.handle_event(event, ctx);
            }
            let Some(action) = self.machine.poll_action() else {
                break;
            };
            self.act(action, ctx);
        }
        if self.is_abandoned && !self.machine.is_busy() {
            return ctx.stop();
        }
        self.arm_timer(ctx);
    }

    fn act(&mut self, action: Action, ctx: &mut Context<Self>) {
        match action {
            Action::Subscribe(feed) => self.subscribe(feed, false, ctx),
            Action::Renew(feed) => self.subscribe(feed, true, ctx),
            Action::AskTurn { id, is_alone } => match self.turns.try_take(is_alone) {
                Some(turn) => self.handle_turn(id, turn),
                None => {
                    let taking = Arc::clone(&self.turns).take(is_alone);
                    let waiting =
                        ctx.spawn(taking.into_actor(self).map(move |turn, shadow, ctx| {
                            shadow.waiting.remove(&id);
                            if let Some(turn) = turn {
                                shadow.handle_turn(id, turn);
                                shadow.advance(ctx);
                            }
                        }));
                    self.waiting.insert(id, waiting);
                }
            },
            // Dropping the guard unsubscribes.
            Action::Unsubscribe(feed) => drop(self.subscribed.remove(&feed)),
            Action::Publish { id, token, request } => {
                let link = &self.link;
                let dialect = link.profile.dialect.state();
                let rendered = dialect.map(|dialect| {
                    dialect.request(&link.identity, &self.document, &request, &token)
                });
                let Some(Ok(message)) = rendered else {
                    // It was rendered in the caller's task, so it can be.
                    return self
                        .machine
                        .handle_unsent(Instant::now(), id, Unsent::Disconnected);
                };
                if request == StateRequest::Get && self.read_topic.is_none() {
                    self.read_topic = Some(message.topic.clone());
                }
                let place = RequestInFlight::of(link, message.topic.clone());
                let sending = link.publish_request(message, &place, None);
                self.in_flight.insert(id, place);
                ctx.spawn(sending.into_actor(self).map(move |sent, shadow, ctx| {
                    if let Err(why) = sent {
                        let why = unsent(&why);
                        shadow.machine.handle_unsent(Instant::now(), id, why);
                        shadow.advance(ctx);
                    }
                }));
            }
        }
    }

    /// A turn that the request does not use any more is given back at once.
    fn handle_turn(&mut self, id: u64, turn: Turn) {
        if self.machine.handle_turn(Instant::now(), id) {
            self.taken.insert(id, turn);
        }
    }

    fn subscribe(&mut self, feed: StateFeed, is_renewal: bool, ctx: &mut Context<Self>) {
        let link = &self.link;
        self.subscriptions += 1;
        let number = self.subscriptions;
        let renewed = self
            .subscribed
            .remove(&feed)
            .and_then(|before| before.guard.or(before.renewed));
        let subscribed = Subscribed {
            number,
            guard: None,
            renewed,
            granted: None,
        };
        self.subscribed.insert(feed, subscribed);
        let filters = link
            .profile
            .dialect
            .state()
            .map(|dialect| dialect.feed(&link.identity, &self.document, feed));
        let handle = LinkHandle::of(Arc::clone(link));
        let shadow = ctx.address();
        let subscribing = async move {
            let Some(Ok(filters)) = filters else {
                return Err(SubscribeError::Stopped);
            };
            let arrived = Box::new(move |received: &crate::inbound::ReceivedRef<'_>| {
                shadow.do_send(StateArrived(received.to_incoming()));
            });
            if is_renewal {
                handle.subscribe_anew_with(filters, arrived).await
            } else {
                handle.subscribe_with(filters, arrived).await
            }
        };
        ctx.spawn(
            subscribing
                .into_actor(self)
                .map(move |result, shadow, ctx| match result {
                    Ok(guard) => shadow.await_grant(feed, number, guard, ctx),
                    Err(error) => shadow.handle_grant(feed, number, Err(error), ctx),
                }),
        );
    }

    fn await_grant(
        &mut self,
        feed: StateFeed,
        number: u64,
        guard: HandlerGuard,
        ctx: &mut Context<Self>,
    ) {
        let (granted, refused) = (guard.granted(), guard.refused());
        match self.subscribed.get_mut(&feed) {
            Some(subscribed) if subscribed.number == number => {
                subscribed.guard = Some(guard);
                // It has the same filters, so the server is not told that it goes.
                subscribed.renewed = None;
            }
            // It was given up meanwhile: the guard goes, and with it the subscription.
            _ => return,
        }
        ctx.spawn(granted.into_actor(self).map(move |result, shadow, ctx| {
            shadow.handle_grant(feed, number, result, ctx);
        }));
        // A later connection may find it refused.
        ctx.spawn(refused.into_actor(self).map(move |error, shadow, ctx| {
            if let Some(error) = error {
                shadow.handle_grant(feed, number, Err(error), ctx);
            }
        }));
    }

    fn handle_grant(
        &mut self,
        feed: StateFeed,
        number: u64,
        result: Result<QoS, SubscribeError>,
        ctx: &mut Context<Self>,
    ) {
        let is_latest = |subscribed: &&mut Subscribed| subscribed.number == number;
        let Some(subscribed) = self.subscribed.get_mut(&feed).filter(is_latest) else {
            return;
        };
        subscribed.granted = result.as_ref().ok().copied();
        match feed {
            StateFeed::Deltas => tell_grant(&self.deltas, &result),
            StateFeed::Documents => tell_grant(&self.changes, &result),
            StateFeed::Replies(_) => {}
        }
        let result = result.map(drop).map_err(|error| code_of(&error));
        self.machine.handle_subscribed(Instant::now(), feed, result);
        self.advance(ctx);
    }

    fn granted(&self, feed: StateFeed) -> Option<QoS> {
        self.subscribed.get(&feed)?.granted
    }

    fn handle_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        let metrics = &self.link.metrics.shadows;
        match event {
            Event::Ended {
                id,
                operation,
                result,
            } => {
                self.taken.remove(&id);
                // It would keep its place among those who wait, ahead of requests that are alive.
                if let Some(waiting) = self.waiting.remove(&id) {
                    ctx.cancel_future(waiting);
                }
                if let Some(place) = self.in_flight.remove(&id)
                    && matches!(result, Ok(_) | Err(Failure::Rejected(_)))
                {
                    place.answered();
                }
                let outcome = outcome_of(&result);
                let Some((since, caller)) = self.callers.remove(&id) else {
                    if let Err(failure) = &result {
                        tracing::debug!(link = %self.link.identity.id, document = %self.document, ?failure, "a document was not read");
                    }
                    return metrics.count(RECONCILE, outcome);
                };
                metrics.count(operation.name(), outcome);
                metrics.observe(operation.name(), since.elapsed());
                let _ = caller.send(result.map_err(ShadowError::from));
            }
            Event::Delta(delta) => {
                let dropped = tell_all(&self.deltas, &delta);
                self.link.metrics.inbound_dropped_slow.inc_by(dropped);
            }
            Event::Changed(change) => {
                let dropped = tell_all(&self.changes, &change);
                self.link.metrics.inbound_dropped_slow.inc_by(dropped);
            }
            Event::FeedRefused { feed, code } => {
                tracing::warn!(link = %self.link.identity.id, document = %self.document, ?feed, %code, "the server refused a subscription; check its access rules");
                match feed {
                    StateFeed::Documents => self.changes.clear(),
                    _ => self.deltas.clear(),
                }
            }
            Event::Throttled { id, operation } => {
                self.taken.remove(&id);
                if let Some(place) = self.in_flight.remove(&id) {
                    place.answered();
                }
                let is_asked = self.callers.contains_key(&id);
                let operation = if is_asked {
                    operation.name()
                } else {
                    RECONCILE
                };
                metrics.count(operation, "throttled");
            }
            Event::ReadingGivenUp => {
                let document = self.document.clone();
                tracing::warn!(link = %self.link.identity.id, %document, "the server closes the connection when the document is read; check its access rules");
                self.link
                    .events
                    .emit(&LinkEvent::ReadingGivenUp { document });
            }
            Event::Ignored(why) => metrics.count_ignored(why),
        }
    }

    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(deadline) = self.machine.poll_timeout() else {
            return;
        };
        match self.timer {
            Some((armed, _)) if armed <= deadline => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = deadline.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |shadow, ctx| {
            shadow.timer = None;
            let now = Instant::now();
            shadow.forget_closed(now);
            shadow.machine.handle_timeout(now);
            shadow.advance(ctx);
        });
        self.timer = Some((deadline, handle));
    }

    /// Consumers that were dropped want nothing any more.
    fn forget_closed(&mut self, now: Instant) {
        let (had_deltas, had_changes) = (!self.deltas.is_empty(), !self.changes.is_empty());
        self.deltas.retain(|watcher| !watcher.items.is_closed());
        self.changes.retain(|watcher| !watcher.items.is_closed());
        if had_deltas && self.deltas.is_empty() {
            self.machine.handle_unwanted(now, StateFeed::Deltas);
        }
        if had_changes && self.changes.is_empty() {
            self.machine.handle_unwanted(now, StateFeed::Documents);
        }
    }
}

fn tell_grant<T>(watchers: &[Watcher<T>], result: &Result<QoS, SubscribeError>) {
    for watcher in watchers {
        match result {
            Ok(_) => watcher.granted.tell(result.clone()),
            Err(error) => watcher.granted.refuse(error.clone()),
        }
    }
}

/// Gives a copy to each; how many lost an older one for it.
fn tell_all<T: Clone>(watchers: &[Watcher<T>], item: &T) -> u64 {
    let mut dropped = 0;
    for watcher in watchers {
        dropped += u64::from(matches!(
            watcher.items.force_send(Box::new(item.clone())),
            Ok(Some(_))
        ));
    }
    dropped
}

fn code_of(error: &SubscribeError) -> ReasonCode {
    match error {
        SubscribeError::Refused { code, .. } => *code,
        SubscribeError::TooMany => ReasonCode::QUOTA_EXCEEDED,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}

fn unsent(why: &RequestUnsent) -> Unsent {
    match why {
        RequestUnsent::Congested => Unsent::Congested,
        RequestUnsent::Refused(code) => Unsent::Refused(*code),
        // A link that stops ends its documents' requests itself; the rest has lost its connection.
        _ => Unsent::Disconnected,
    }
}

fn outcome_of(result: &Result<Box<StateDocument>, Failure>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(Failure::Rejected(_)) => "rejected",
        Err(Failure::TimedOut) => "timed_out",
        Err(Failure::Unreadable(_)) => "unreadable",
        Err(Failure::Disconnected { .. }) => "disconnected",
        Err(Failure::SubscriptionRefused(_)) => "subscription_refused",
        Err(Failure::Congested) => "congested",
        Err(Failure::Refused(_)) => "refused",
        Err(Failure::Stopped) => "stopped",
    }
}

impl Actor for Shadow {
    type Context = Context<Self>;

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.machine.handle_stopped();
        while let Some(event) = self.machine.poll_event() {
            self.handle_event(event, ctx);
        }
    }
}

impl Handler<AskState> for Shadow {
    type Result = ();

    fn handle(&mut self, message: AskState, ctx: &mut Self::Context) {
        let now = Instant::now();
        let AskState {
            request,
            options,
            answer,
        } = message;
        let operation = request.operation();
        let deadline = now + options.deadline.min(ShadowOptions::DEADLINE_MAX);
        match self
            .machine
            .handle_request(now, request, deadline, options.keeps_subscriptions)
        {
            Ok(id) => {
                self.callers.insert(id, (now, answer));
            }
            Err(refusal) => {
                let (outcome, error) = match refusal {
                    Refusal::Offline => ("offline", ShadowError::Offline),
                    Refusal::Busy => ("busy", ShadowError::Busy),
                };
                self.link.metrics.shadows.count(operation.name(), outcome);
                let _ = answer.send(Err(error));
            }
        }
        self.advance(ctx);
    }
}

impl Handler<WatchDeltas> for Shadow {
    type Result = ();

    fn handle(&mut self, message: WatchDeltas, ctx: &mut Self::Context) {
        if let Some(qos) = self.granted(StateFeed::Deltas) {
            message.0.granted.tell(Ok(qos));
        }
        self.deltas.push(message.0);
        self.machine
            .handle_wanted(Instant::now(), StateFeed::Deltas);
        self.advance(ctx);
    }
}

impl Handler<WatchChanges> for Shadow {
    type Result = ();

    fn handle(&mut self, message: WatchChanges, ctx: &mut Self::Context) {
        if let Some(qos) = self.granted(StateFeed::Documents) {
            message.0.granted.tell(Ok(qos));
        }
        self.changes.push(message.0);
        self.machine
            .handle_wanted(Instant::now(), StateFeed::Documents);
        self.advance(ctx);
    }
}

impl Handler<StateArrived> for Shadow {
    type Result = ();

    fn handle(&mut self, message: StateArrived, ctx: &mut Self::Context) {
        let link = &self.link;
        let Some(dialect) = link.profile.dialect.state() else {
            return;
        };
        let now = Instant::now();
        match dialect.read(&link.identity, &self.document, &message.0) {
            Ok(Some(read)) => self.machine.handle_message(now, read),
            Ok(None) => {}
            Err(unreadable) => {
                tracing::warn!(link = %link.identity.id, document = %self.document, topic = %message.0.topic, %unreadable, "unreadable message");
                self.machine.handle_unreadable(now, &unreadable);
            }
        }
        self.advance(ctx);
    }
}

impl Handler<ShadowOnline> for Shadow {
    type Result = ();

    fn handle(&mut self, _: ShadowOnline, ctx: &mut Self::Context) {
        self.machine.handle_online(Instant::now());
        self.advance(ctx);
    }
}

impl Handler<ShadowOffline> for Shadow {
    type Result = ();

    fn handle(&mut self, message: ShadowOffline, ctx: &mut Self::Context) {
        let loss = if message.is_blamed {
            let last = message.last_request;
            Loss::Silent {
                was_reading: last.is_some() && last == self.read_topic,
            }
        } else {
            Loss::Plain
        };
        self.machine.handle_offline(Instant::now(), loss);
        self.advance(ctx);
    }
}

impl Handler<ShadowAbandoned> for Shadow {
    type Result = ();

    /// A handle or a consumer is gone.
    fn handle(&mut self, message: ShadowAbandoned, ctx: &mut Self::Context) {
        self.is_abandoned |= message.is_last;
        self.forget_closed(Instant::now());
        self.advance(ctx);
    }
}

impl Handler<Shutdown> for Shadow {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.deltas.clear();
        self.changes.clear();
        ctx.stop();
    }
}
