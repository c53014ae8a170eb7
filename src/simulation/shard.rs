//! One thread's share of the devices: a timer heap, the commands of all, the answers under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::stream::{FuturesUnordered, SelectAll, Stream, StreamExt as _};
use paquebot::fleet_file::{GroupPlan, OnDesired, TelemetryPlan};
use paquebot::mqtt::QoS;
use paquebot::template::{DeviceState, Random, Request, Subject};
use paquebot::{
    CommandReply, CommandRequest, CommandStatus, Commands, Device, LinkBuilder, Outcome, Receipt,
    SendError, StatePatch, Telemetry,
};
use tokio::sync::watch;

use super::jobs::{self, Doings, Serving, UnderWay};
use super::states::States;
use super::tally::Tally;
use super::{Phase, is_drained};

/// Devices that are started before the others have their turn again.
const START_BATCH: usize = 256;

/// Messages that are sent before commands and receipts have their turn again.
const SEND_BATCH: usize = 512;

/// Answers under way; more commands wait in their links' inboxes.
const ANSWERS_MAX: usize = 10_000;

/// Receipts that are waited for to measure the latency; while so many are open no other message is
/// measured.
const SAMPLES_MAX: usize = 1_024;

/// At most one message in so much time is measured: enough for percentiles, next to nothing to pay.
const SAMPLE_EVERY: Duration = Duration::from_millis(1);

/// What a device that fails on purpose says.
const FAILURE: &[u8] = br#"{"error":"simulated failure"}"#;

/// A device to be started.
pub(super) struct Starting {
    pub(super) link: LinkBuilder,
    pub(super) plan: Arc<GroupPlan>,
    pub(super) index: u64,
    pub(super) reported: Option<StatePatch>,
}

/// A running device.
struct Actor {
    device: Device,
    plan: Arc<GroupPlan>,
    index: u64,
    telemetry: Option<DeviceState>,
    schedule: Random,
}

pub(super) struct Shard {
    phase: watch::Receiver<Phase>,
    tally: Arc<Tally>,
    actors: Vec<Actor>,
    /// When which actor sends next.
    due: BinaryHeap<Reverse<(Instant, u32)>>,
    commands: SelectAll<ActorCommands>,
    states: States,
    jobs: FuturesUnordered<Serving>,
    jobs_under_way: Arc<UnderWay>,
    answers: FuturesUnordered<Answer>,
    /// Of the actors that ever answered, by actor and number of the command in its model.
    reply_states: HashMap<(u32, usize), DeviceState>,
    samples: FuturesUnordered<Sample>,
    sampled_at: Option<Instant>,
    scratch: Vec<u8>,
}

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The commands of one actor, each with the actor's number.
struct ActorCommands {
    actor: u32,
    commands: Commands,
}

impl Stream for ActorCommands {
    type Item = (u32, CommandRequest);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let actor = self.actor;
        let next = Pin::new(&mut self.commands).poll_next(cx);
        next.map(|request| request.map(|request| (actor, request)))
    }
}

/// Resolves to the latency of a message if it was delivered.
struct Sample {
    receipt: Receipt,
    sent_at: Instant,
}

impl Future for Sample {
    type Output = Option<Duration>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent_at = self.sent_at;
        Pin::new(&mut self.receipt)
            .poll(cx)
            .map(|outcome: Outcome| outcome.is_delivered().then(|| sent_at.elapsed()))
    }
}

impl Shard {
    pub(super) fn new(phase: watch::Receiver<Phase>, tally: Arc<Tally>) -> Self {
        Self {
            phase,
            tally,
            actors: Vec::new(),
            due: BinaryHeap::new(),
            commands: SelectAll::new(),
            states: States::default(),
            jobs: FuturesUnordered::new(),
            jobs_under_way: Arc::default(),
            answers: FuturesUnordered::new(),
            reply_states: HashMap::new(),
            samples: FuturesUnordered::new(),
            sampled_at: None,
            scratch: Vec::new(),
        }
    }

    /// Starts the devices and runs them until the simulation is over. `quiet` is dropped once nothing is
    /// sent any more.
    pub(super) async fn run(mut self, starting: Vec<Starting>, quiet: async_channel::Sender<()>) {
        self.actors.reserve_exact(starting.len());
        self.due.reserve(starting.len());
        let mut starting = starting.into_iter().peekable();
        while self.phase() == Phase::Live && starting.peek().is_some() {
            let batch: Vec<_> = starting.by_ref().take(START_BATCH).collect();
            self.start(batch).await;
            self.send_due();
            // Between two batches what is ready has its turn, without waiting for more.
            tokio::select! {
                biased;
                () = self.turn() => {}
                () = std::future::ready(()) => {}
            }
        }
        drop(starting);
        while self.phase() == Phase::Live {
            self.turn().await;
        }
        while self.phase() != Phase::Over && !self.is_quiet() {
            let told_by = self.jobs_under_way.told_by();
            let jobs_are_told = async {
                match told_by {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.phase.changed() => {}
                Some(()) = self.answers.next() => {}
                Some(()) = self.jobs.next() => {}
                () = self.jobs_under_way.ended() => {}
                () = jobs_are_told, if self.answers.is_empty() => {}
            }
        }
        drop(quiet);
        // Commands that still come stay unacknowledged in the inboxes: the broker keeps them for the next run.
        while self.phase() != Phase::Over {
            tokio::select! {
                _ = self.phase.changed() => {}
                Some(latency) = self.samples.next() => self.note(latency),
            }
        }
    }

    /// Whether nothing is left to be answered.
    fn is_quiet(&self) -> bool {
        let jobs_are_told = || {
            let told_by = self.jobs_under_way.told_by();
            told_by.is_some_and(|at| at <= Instant::now())
        };
        self.answers.is_empty() && (self.jobs.is_empty() || jobs_are_told())
    }

    /// Also over when nobody is left to say so.
    fn phase(&self) -> Phase {
        if self.phase.has_changed().is_err() {
            return Phase::Over;
        }
        *self.phase.borrow()
    }

    /// Waits for the next thing to do, and does it.
    async fn turn(&mut self) {
        let next_due = self.due.peek().map(|Reverse((at, _))| *at);
        let timer = async {
            match next_due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.phase.changed() => {}
            () = timer => self.send_due(),
            Some((actor, request)) = self.commands.next(), if self.answers.len() < ANSWERS_MAX => {
                self.take_command(actor, request);
            }
            Some((actor, patch)) = self.states.next(), if self.answers.len() < ANSWERS_MAX => {
                self.take_desired(actor, &patch);
            }
            Some(()) = self.answers.next() => {}
            Some(()) = self.jobs.next() => {}
            Some(latency) = self.samples.next() => self.note(latency),
        }
    }

    fn note(&self, latency: Option<Duration>) {
        if let Some(latency) = latency {
            self.tally.record_latency(latency);
        }
    }

    async fn start(&mut self, batch: Vec<Starting>) {
        let mut subscribing = FuturesUnordered::new();
        let mut asking = FuturesUnordered::new();
        for starting in batch {
            let Starting {
                link,
                plan,
                index,
                reported,
            } = starting;
            let device = match link.start() {
                Ok(link) => link.device(),
                Err(error) if is_drained(&error) => return,
                Err(error) => {
                    tracing::error!(%error, "a device did not start");
                    continue;
                }
            };
            // Ids are counted before, so there are never more than the fleet file allows: a million.
            let actor = u32::try_from(self.actors.len()).unwrap_or(u32::MAX);
            if let Some(state) = reported {
                report(&device, &state, &self.tally);
            }
            if !plan.model.commands.is_empty() {
                let device = device.clone();
                subscribing.push(async move { (actor, device.commands().await) });
            }
            if plan.model.on_desired == OnDesired::Apply {
                let device = device.clone();
                asking.push(async move { (actor, device.desired_states().await) });
            }
            if let Some(planned) = plan.model.jobs {
                let doing = Doings {
                    phase: self.phase.clone(),
                    tally: Arc::clone(&self.tally),
                    under_way: Arc::clone(&self.jobs_under_way),
                };
                let serving = jobs::serve(device.clone(), &plan, planned, index, doing);
                self.jobs.push(serving);
            }
            let mut schedule = plan.schedule(index);
            if let Some(telemetry) = &plan.model.telemetry {
                let first = Instant::now() + telemetry.interval.first(&mut schedule);
                self.due.push(Reverse((first, actor)));
            }
            self.actors.push(Actor {
                device,
                telemetry: plan.telemetry_state(index),
                plan,
                index,
                schedule,
            });
        }
        while let Some((actor, commands)) = subscribing.next().await {
            match commands {
                Ok(commands) => self.commands.push(ActorCommands { actor, commands }),
                Err(error) => tracing::warn!(%error, "a device takes no commands"),
            }
        }
        while let Some((actor, states)) = asking.next().await {
            match states {
                Ok(states) => self.states.add(actor, states),
                Err(error) => tracing::warn!(%error, "a device hears of no desired state"),
            }
        }
    }

    /// Sends what is due, up to a batch.
    fn send_due(&mut self) {
        let now = Instant::now();
        let now_ms = unix_ms();
        for _ in 0..SEND_BATCH {
            let Some(Reverse((at, number))) = self.due.peek().copied() else {
                return;
            };
            if at > now {
                return;
            }
            self.due.pop();
            if !self.tally.take_turn() {
                // The limit is reached: nobody sends any more.
                self.due.clear();
                return;
            }
            if let Some(next) = self.send(number, at, now, now_ms) {
                self.due.push(Reverse((next, number)));
            }
        }
    }

    /// Sends the next message of an actor; when the one after it is due.
    fn send(&mut self, number: u32, at: Instant, now: Instant, now_ms: u64) -> Option<Instant> {
        let actor = self.actors.get_mut(number as usize)?;
        let plan = Arc::clone(&actor.plan);
        let planned = plan.model.telemetry.as_ref()?;
        let state = actor.telemetry.as_mut()?;
        self.scratch.clear();
        let subject = subject(&plan, actor.index, &actor.device);
        planned
            .payload
            .render(&subject, now_ms, state, &mut self.scratch);
        let message = telemetry(
            planned,
            plan.model.qos,
            Bytes::copy_from_slice(&self.scratch),
        );
        match actor.device.try_send(&message) {
            Ok(receipt) => {
                self.tally.count_telemetry();
                let is_time = self
                    .sampled_at
                    .is_none_or(|last| now >= last + SAMPLE_EVERY);
                // At QoS 0 there is no answer whose time would mean anything.
                if message.qos != QoS::AtMostOnce && is_time && self.samples.len() < SAMPLES_MAX {
                    self.sampled_at = Some(now);
                    self.samples.push(Sample {
                        receipt,
                        sent_at: Instant::now(),
                    });
                }
            }
            Err(SendError::Full(_) | SendError::FleetFull(_)) => {
                self.tally.give_turn_back();
                self.tally.count_skipped(1);
            }
            Err(SendError::Stopped(_)) => {
                self.tally.give_turn_back();
                return None;
            }
            Err(error) => {
                // Such a message never fits; the others of the device may.
                self.tally.give_turn_back();
                self.tally.count_refused();
                tracing::debug!(device = %actor.device.id(), %error, "a message was refused");
            }
        }
        let mut next = at + planned.interval.next(&mut actor.schedule);
        if next < now {
            // The thread is late by more than the interval: what was missed is not caught up in a burst.
            let every = planned.interval.every.max(Duration::from_millis(1));
            let missed = (now - next).as_nanos() / every.as_nanos();
            self.tally
                .count_skipped(u64::try_from(missed).unwrap_or(u64::MAX));
            next = now;
        }
        Some(next)
    }

    fn take_command(&mut self, number: u32, request: CommandRequest) {
        let Some(actor) = self.actors.get_mut(number as usize) else {
            return;
        };
        let command = request.command();
        let model = &actor.plan.model;
        let known = model
            .commands
            .iter()
            .enumerate()
            .find(|(_, known)| known.name == *command.name);
        let Some((place, planned)) = known else {
            let unknown = CommandReply::with_status(CommandStatus::Unknown);
            return self.answer(request, unknown, Duration::ZERO);
        };
        let delay = planned.delay;
        let reply = if actor.schedule.chance(planned.fail) {
            CommandReply::failed(FAILURE)
        } else {
            let state = self
                .reply_states
                .entry((number, place))
                .or_insert_with(|| actor.plan.reply_state(planned, actor.index));
            self.scratch.clear();
            planned.reply.render(
                &subject(&actor.plan, actor.index, &actor.device),
                unix_ms(),
                &Request {
                    command: &command.name,
                    request_id: &command.reply_to.request,
                    payload: &command.payload,
                },
                state,
                &mut self.scratch,
            );
            CommandReply::ok(Bytes::copy_from_slice(&self.scratch))
        };
        self.answer(request, reply, delay);
    }

    fn take_desired(&mut self, number: u32, patch: &StatePatch) {
        let Some(actor) = self.actors.get(number as usize) else {
            return;
        };
        let device = actor.device.clone();
        let tally = Arc::clone(&self.tally);
        match self.states.apply(number, &actor.plan, patch) {
            // Its outcome is counted by the link.
            Ok(state) => self.answers.push(Box::pin(async move {
                match device.report(&state).await {
                    Ok(receipt) => {
                        drop(receipt);
                        tally.count_report();
                    }
                    Err(error) => {
                        tracing::warn!(device = %device.id(), %error, "the state was not reported");
                    }
                }
            })),
            Err(error) => {
                tracing::warn!(device = %device.id(), %error, "what is desired is no JSON object");
            }
        }
    }

    fn answer(&self, request: CommandRequest, reply: CommandReply, delay: Duration) {
        self.answers.push(Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match request.reply(reply).await {
                // Its outcome is counted by the link.
                Ok(receipt) => drop(receipt),
                Err(error) => tracing::debug!(%error, "an answer was not sent"),
            }
        }));
    }
}

fn subject<'a>(plan: &'a GroupPlan, index: u64, device: &'a Device) -> Subject<'a> {
    Subject {
        fleet: &plan.fleet,
        group: &plan.name,
        index,
        id: device.id().as_str(),
    }
}

fn telemetry(planned: &TelemetryPlan, qos: QoS, payload: Bytes) -> Telemetry {
    let text = |text: &Option<String>| text.as_deref().map(ByteString::from);
    let mut telemetry = Telemetry::new(payload)
        .with_qos(qos)
        .with_retain(planned.retain);
    telemetry.channel = text(&planned.channel);
    telemetry.content_type = text(&planned.content_type);
    telemetry.time_to_live = planned.expiry;
    telemetry
}

/// Goes into an empty queue, so there is room; it is sent once the link is online.
fn report(device: &Device, state: &StatePatch, tally: &Tally) {
    match device.try_report(state) {
        Ok(receipt) => {
            drop(receipt);
            tally.count_report();
        }
        Err(error) => tracing::warn!(device = %device.id(), %error, "the state was not reported"),
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_millis()).ok())
        .unwrap_or(0)
}
