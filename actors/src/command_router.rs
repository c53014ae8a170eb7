//! The CommandRouter actor: classifies what came in, hands it to its consumers, keeps commands' deadlines.
//!
//! A QoS 1 or 2 message that no consumer has room for stays here, unacknowledged; past a byte limit the
//! link stops reading, so the server keeps the rest. A QoS 0 message without room is dropped and counted,
//! unless the link holds those too.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt as _, Addr, AsyncContext, Context, Handler, SpawnHandle,
    WrapFuture as _,
};
use async_channel::{Sender, TrySendError};
use bytes::Bytes;
use bytestring::ByteString;
use paquebot_protocols::dialect::Inbound;
use paquebot_protocols::model::{Command, CommandReply, CommandStatus, DeviceId};
use paquebot_protocols::mqtt::session::Incoming;
use paquebot_protocols::mqtt::{QoS, ReasonCode, TopicFilter};

use crate::codec::Codec;
use crate::inbound::{AcknowledgeOnDrop, Delivery, Grants, OpenCommand};
use crate::link::{FailureGuard, LinkContext};
use crate::message::{
    AddConsumer, Deliver, DropFilters, FilterAnswered, ReadingPaused, Shutdown, SubscribeError,
    Unsubscribe,
};

/// Messages without a consumer that are kept for one to come.
const UNCLAIMED_MAX: usize = 64;

/// Bytes that may wait for slow consumers before the link stops reading.
const PARKED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a waiting delivery counts beside its payload, so that a flood of empty ones is bounded too.
const PARKED_OVERHEAD: usize = 256;

/// How long they are kept. A server acknowledges in order, so each holds up the acknowledgements of all
/// that came after it.
const UNCLAIMED_FOR: Duration = Duration::from_secs(5);

/// Bytes of them, topics and payloads.
const UNCLAIMED_BYTES_MAX: usize = 256 * 1024;

/// The latest deadline of a command.
const FAR_AWAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Commands handed out and not yet answered.
const OPEN_COMMANDS_MAX: usize = 1_000;

/// Request ids remembered, to recognise a redelivered command.
const RECENT_REQUESTS_MAX: usize = 1_024;

/// Someone who takes deliveries.
pub(crate) struct Consumer {
    pub(crate) id: u64,
    pub(crate) takes: Takes,
    pub(crate) sender: Sender<Delivery>,
    pub(crate) grants: Grants,
}

/// Which deliveries a consumer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Every message on its filters.
    Raw,
    /// Commands for one device.
    Commands(DeviceId),
    /// Desired state of one device.
    DesiredState(DeviceId),
    /// Telemetry of all devices.
    Telemetry,
    /// Answers to commands.
    Replies,
}

struct Outlet {
    consumer: Consumer,
    filters: Vec<TopicFilter>,
    /// Deliveries that found the channel full, in order. While there are any, a future sends the first.
    parked: VecDeque<Delivery>,
    sending: bool,
}

impl Outlet {
    fn wants(&self, incoming: &Incoming, inbound: &Inbound) -> bool {
        match (&self.consumer.takes, inbound) {
            (Takes::Raw, _) => self.filters.iter().any(|f| f.matches(&incoming.topic)),
            (Takes::Commands(device), Inbound::Command(command)) => command.device == *device,
            (Takes::DesiredState(wanted), Inbound::DesiredState { device, .. }) => wanted == device,
            (Takes::Telemetry, Inbound::Telemetry { .. }) => true,
            (Takes::Replies, Inbound::Reply { .. }) => true,
            _ => false,
        }
    }
}

/// The actor.
pub(crate) struct CommandRouter {
    link: Arc<LinkContext>,
    codec: Addr<Codec>,
    outlets: Vec<Outlet>,
    answers: HashMap<TopicFilter, Result<QoS, ReasonCode>>,
    unclaimed: VecDeque<(Instant, Incoming)>,
    unclaimed_bytes: usize,
    unclaimed_timer: Option<SpawnHandle>,
    parked_bytes: usize,
    reading_paused: bool,
    open: BTreeMap<(Instant, u64), OpenCommand>,
    opened: u64,
    deadline_timer: Option<(Instant, SpawnHandle)>,
    recent: RecentRequests,
    _guard: FailureGuard,
}

impl CommandRouter {
    pub(crate) fn new(link: Arc<LinkContext>, codec: Addr<Codec>, guard: FailureGuard) -> Self {
        Self {
            link,
            codec,
            outlets: Vec::new(),
            answers: HashMap::new(),
            unclaimed: VecDeque::new(),
            unclaimed_bytes: 0,
            unclaimed_timer: None,
            parked_bytes: 0,
            reading_paused: false,
            open: BTreeMap::new(),
            opened: 0,
            deadline_timer: None,
            recent: RecentRequests::default(),
            _guard: guard,
        }
    }

    fn route(&mut self, incoming: Incoming, ctx: &mut Context<Self>) {
        let link = &self.link;
        let inbound = link.profile.dialect.classify(&link.identity, &incoming).unwrap_or_else(
            |error| {
                tracing::warn!(link = %link.identity.id, topic = %incoming.topic, %error, "unreadable message");
                Inbound::Raw
            },
        );
        let wanted: Vec<usize> = (0..self.outlets.len())
            .filter(|index| self.outlets[*index].wants(&incoming, &inbound))
            .collect();
        if wanted.is_empty() {
            return self.keep_unclaimed(incoming, ctx);
        }
        let acknowledgement = incoming.id.map(|id| {
            Arc::new(AcknowledgeOnDrop {
                id,
                codec: self.codec.clone(),
            })
        });
        let takes_command = |outlet: &Outlet| matches!(outlet.consumer.takes, Takes::Commands(_));
        // A consumer of raw messages looks on: only one that takes commands owes an answer.
        let command = match &inbound {
            Inbound::Command(command)
                if wanted
                    .iter()
                    .any(|index| takes_command(&self.outlets[*index])) =>
            {
                self.open_command(command, incoming.dup, acknowledgement.clone(), ctx)
            }
            _ => None,
        };
        for index in wanted {
            let takes_command = takes_command(&self.outlets[index]);
            if takes_command && command.is_none() {
                continue;
            }
            let delivery = Delivery {
                incoming: incoming.clone(),
                inbound: inbound.clone(),
                // A command keeps its own, so that its deadline can let go of it.
                _acknowledgement: acknowledgement.clone().filter(|_| !takes_command),
                command: command.clone().filter(|_| takes_command),
            };
            self.hand_over(index, delivery, ctx);
        }
    }

    /// `None` when the command is not to be started: it is a redelivery, or too many are open.
    fn open_command(
        &mut self,
        command: &Command,
        dup: bool,
        acknowledgement: Option<Arc<AcknowledgeOnDrop>>,
        ctx: &mut Context<Self>,
    ) -> Option<OpenCommand> {
        if self.recent.is_repeated(command, dup) {
            self.link.metrics.commands_duplicate.inc();
            return None;
        }
        let now = Instant::now();
        let link = Arc::clone(&self.link);
        let open = OpenCommand::new(command.clone(), now, link, acknowledgement);
        self.open.retain(|_, command| command.is_open());
        if self.open.len() >= OPEN_COMMANDS_MAX {
            self.link.metrics.commands_refused.inc();
            open.try_answer(&CommandReply::failed(&b"too many open commands"[..]));
            return None;
        }
        let timeout = command
            .time_to_answer
            .unwrap_or(self.link.profile.command_timeout);
        self.opened += 1;
        // A deadline past the end of time is a century away.
        let deadline = now.checked_add(timeout).unwrap_or(now + FAR_AWAY);
        self.open.insert((deadline, self.opened), open.clone());
        self.arm_deadline(ctx);
        Some(open)
    }

    fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        let Some((&(deadline, _), _)) = self.open.first_key_value() else {
            return;
        };
        match self.deadline_timer {
            Some((armed, _)) if armed <= deadline => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = deadline.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |router, ctx| {
            router.deadline_timer = None;
            router.expire_commands();
            router.arm_deadline(ctx);
        });
        self.deadline_timer = Some((deadline, handle));
    }

    fn expire_commands(&mut self) {
        let now = Instant::now();
        let expired = CommandReply::with_status(CommandStatus::Expired);
        let mut retry = Vec::new();
        while let Some(entry) = self.open.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (_, sequence) = *entry.key();
            let command = entry.remove();
            if command.try_answer(&expired) {
                command.release_message();
            } else {
                retry.push((sequence, command));
            }
        }
        // The queue had no room for these answers: try again soon.
        for (sequence, command) in retry {
            self.open
                .insert((now + Duration::from_millis(100), sequence), command);
        }
    }

    fn hand_over(&mut self, index: usize, delivery: Delivery, ctx: &mut Context<Self>) {
        let outlet = &mut self.outlets[index];
        let rejected = if outlet.parked.is_empty() && !outlet.sending {
            match outlet.consumer.sender.try_send(delivery) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(delivery)) => delivery,
            }
        } else {
            delivery
        };
        if rejected.incoming.id.is_none() && !self.link.profile.holds_qos0 {
            self.link.metrics.inbound_dropped_slow.inc();
            return;
        }
        self.parked_bytes += parked_size(&rejected);
        outlet.parked.push_back(rejected);
        let id = outlet.consumer.id;
        self.send_parked(id, ctx);
        self.update_reading();
    }

    /// Sends the first parked delivery of a consumer as soon as its channel has room.
    fn send_parked(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(outlet) = self.outlets.iter_mut().find(|o| o.consumer.id == id) else {
            return;
        };
        if outlet.sending {
            return;
        }
        let Some(delivery) = outlet.parked.pop_front() else {
            return;
        };
        outlet.sending = true;
        let size = parked_size(&delivery);
        let sender = outlet.consumer.sender.clone();
        let sending = Box::pin(async move { sender.send(delivery).await.is_ok() });
        ctx.spawn(sending.into_actor(self).map(move |_, router, ctx| {
            router.parked_bytes -= size;
            if let Some(outlet) = router.outlets.iter_mut().find(|o| o.consumer.id == id) {
                outlet.sending = false;
            }
            router.send_parked(id, ctx);
            router.update_reading();
        }));
    }

    fn update_reading(&mut self) {
        let pause = if self.reading_paused {
            self.parked_bytes > PARKED_BYTES_MAX / 2
        } else {
            self.parked_bytes > PARKED_BYTES_MAX
        };
        if pause != self.reading_paused {
            self.reading_paused = pause;
            self.codec.do_send(ReadingPaused(pause));
        }
    }

    /// A server that kept the session sends what it stored before the program has asked for it.
    fn keep_unclaimed(&mut self, incoming: Incoming, ctx: &mut Context<Self>) {
        self.unclaimed_bytes += unclaimed_size(&incoming);
        self.unclaimed.push_back((Instant::now(), incoming));
        while self.unclaimed.len() > UNCLAIMED_MAX || self.unclaimed_bytes > UNCLAIMED_BYTES_MAX {
            self.give_up_unclaimed();
        }
        self.arm_unclaimed(ctx);
    }

    fn arm_unclaimed(&mut self, ctx: &mut Context<Self>) {
        let Some((since, _)) = self.unclaimed.front() else {
            return;
        };
        if self.unclaimed_timer.is_some() {
            return;
        }
        let delay = UNCLAIMED_FOR.saturating_sub(since.elapsed());
        self.unclaimed_timer = Some(ctx.run_later(delay, |router, ctx| {
            router.unclaimed_timer = None;
            let is_old = |(since, _): &(Instant, Incoming)| since.elapsed() >= UNCLAIMED_FOR;
            while router.unclaimed.front().is_some_and(is_old) {
                router.give_up_unclaimed();
            }
            router.arm_unclaimed(ctx);
        }));
    }

    /// Drops and acknowledges the oldest message that nobody asked for.
    fn give_up_unclaimed(&mut self) {
        let Some((_, oldest)) = self.unclaimed.pop_front() else {
            return;
        };
        self.unclaimed_bytes -= unclaimed_size(&oldest);
        self.link.metrics.inbound_dropped_unclaimed.inc();
        if let Some(id) = oldest.id {
            drop(AcknowledgeOnDrop {
                id,
                codec: self.codec.clone(),
            });
        }
    }
}

/// Request ids of commands that came in, so that one the server delivers again is not started again.
#[derive(Default)]
struct RecentRequests {
    known: HashSet<RequestKey>,
    order: VecDeque<RequestKey>,
}

type RequestKey = (DeviceId, ByteString, Option<Bytes>);

impl RecentRequests {
    fn is_repeated(&mut self, command: &Command, dup: bool) -> bool {
        let reply_to = &command.reply_to;
        if reply_to.request.is_empty() && reply_to.correlation.is_none() {
            return false;
        }
        let key = (
            command.device.clone(),
            reply_to.request.clone(),
            reply_to.correlation.clone(),
        );
        if self.known.contains(&key) {
            // Without DUP it is a new command of a sender that uses the id again.
            return dup;
        }
        self.known.insert(key.clone());
        self.order.push_back(key);
        if self.order.len() > RECENT_REQUESTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

fn unclaimed_size(incoming: &Incoming) -> usize {
    incoming.topic.as_str().len() + incoming.payload.len()
}

fn parked_size(delivery: &Delivery) -> usize {
    delivery.incoming.payload.len() + PARKED_OVERHEAD
}

fn refused(filter: &TopicFilter, result: Result<QoS, ReasonCode>) -> Result<QoS, SubscribeError> {
    result.map_err(|code| SubscribeError::Refused {
        filter: filter.clone(),
        code,
    })
}

impl Actor for CommandRouter {
    type Context = Context<Self>;
}

impl Handler<Deliver> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        for incoming in message.0 {
            self.route(incoming, ctx);
        }
    }
}

impl Handler<AddConsumer> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: AddConsumer, ctx: &mut Self::Context) {
        let AddConsumer(mut consumer, filters) = message;
        consumer.grants.expect(&filters);
        for filter in &filters {
            if let Some(result) = self.answers.get(filter) {
                consumer.grants.answer(filter, refused(filter, *result));
            }
        }
        self.outlets.push(Outlet {
            consumer,
            filters,
            parked: VecDeque::new(),
            sending: false,
        });
        self.unclaimed_bytes = 0;
        for (_, incoming) in std::mem::take(&mut self.unclaimed) {
            self.route(incoming, ctx);
        }
    }
}

impl Handler<FilterAnswered> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: FilterAnswered, _: &mut Self::Context) {
        let FilterAnswered { filter, result } = message;
        for outlet in &mut self.outlets {
            outlet
                .consumer
                .grants
                .answer(&filter, refused(&filter, result));
        }
        match result {
            Ok(_) => self.answers.insert(filter, result),
            // A refused filter is not desired any more; who asks again gets a fresh answer.
            Err(_) => self.answers.remove(&filter),
        };
    }
}

impl Handler<Unsubscribe> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Self::Context) {
        let Some(index) = self
            .outlets
            .iter()
            .position(|o| o.consumer.id == message.consumer)
        else {
            return;
        };
        let removed = self.outlets.swap_remove(index);
        for delivery in &removed.parked {
            self.parked_bytes -= parked_size(delivery);
        }
        for filter in &removed.filters {
            if !self.outlets.iter().any(|o| o.filters.contains(filter)) {
                self.answers.remove(filter);
            }
        }
        // The codec knows which of them someone else has asked for.
        self.codec.do_send(DropFilters(removed.filters));
        self.update_reading();
    }
}

impl Handler<Shutdown> for CommandRouter {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.outlets.clear();
        ctx.stop();
    }
}
