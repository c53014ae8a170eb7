//! The OfflineQueue actor: admits, bounds, orders and drains what a link sends.
//!
//! A message waits here from the moment it is accepted, leaves for the codec when the link is online and
//! the in-flight window has room, and is accounted for here when it ends. First deliveries keep their order:
//! the queue is first in, first out, and what is accepted during a drain goes behind what waited.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, AsyncContext, Context, Handler, SpawnHandle, StreamHandler};
use async_channel::Receiver;
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::session::Outgoing;
use paquebot_protocols::mqtt::{QoS, ReasonCode};

use crate::codec::Codec;
use crate::message::{
    Drain, Leave, LinkOffline, LinkOnline, Outcomes, PublishBatch, Returned, Submission,
};
use crate::metrics::GroupMetrics;
use crate::receipt::{DropReason, Outcome};

mod bounds;
mod inflight;
mod intake;

pub(crate) use bounds::{Occupancy, Reservation};
pub use bounds::{OutboxConfig, Overflow};
use inflight::{Inflight, InflightRing};
use intake::{Gate, Intake};

/// Most messages in one [`PublishBatch`].
const BATCH_MAX: usize = 256;

/// Most bytes of QoS 0 messages handed on and not yet in the socket.
const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;

/// Most bytes of QoS 1 and 2 messages in flight; one message always may be.
const INFLIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most places that an empty queue keeps, so that an outage leaves no memory behind.
const WAITING_KEPT: usize = 256;

/// Shortest time between two searches for expired messages.
const EXPIRY_CHECK: Duration = Duration::from_millis(500);

/// The actor.
pub(crate) struct OfflineQueue {
    config: Arc<OutboxConfig>,
    occupancy: Arc<Occupancy>,
    metrics: Arc<GroupMetrics>,
    codec: Addr<Codec>,
    /// Boxed, since a receiver is not `Unpin` and an actor has to be.
    intake: Option<Box<Receiver<Submission>>>,
    gate: Gate,
    /// In ascending `order`.
    waiting: VecDeque<Submission>,
    next_order: u64,
    waiting_bytes: usize,
    inflight: InflightRing,
    /// QoS 1 and 2 messages in flight and their bytes.
    acknowledged_count: usize,
    acknowledged_bytes: usize,
    /// Those of QoS 2.
    qos2_count: usize,
    /// Bytes of QoS 0 messages handed on and not yet in the socket.
    unwritten_bytes: usize,
    /// `Some` while online: the in-flight window.
    window: Option<usize>,
    /// The part of it for QoS 2.
    qos2_window: usize,
    /// While a backlog drains at a limited rate: how many messages may go now, and since when it counts.
    pacing: Option<Pacing>,
    expiry_check: Option<(Instant, SpawnHandle)>,
    draining: Option<DrainState>,
}

struct Pacing {
    allowance: f64,
    refilled_at: Instant,
}

struct DrainState {
    farewell: Option<Rendered>,
    farewell_sent: bool,
    /// A link that announced itself and could not say goodbye leaves that to its will.
    needs_will: bool,
}

impl OfflineQueue {
    pub(crate) fn new(
        config: Arc<OutboxConfig>,
        occupancy: Arc<Occupancy>,
        metrics: Arc<GroupMetrics>,
        codec: Addr<Codec>,
        intake: Receiver<Submission>,
    ) -> Self {
        Self {
            config,
            occupancy,
            metrics,
            codec,
            intake: Some(Box::new(intake)),
            gate: Gate::closed(),
            waiting: VecDeque::new(),
            next_order: 1,
            waiting_bytes: 0,
            inflight: InflightRing::default(),
            acknowledged_count: 0,
            qos2_count: 0,
            acknowledged_bytes: 0,
            unwritten_bytes: 0,
            window: None,
            qos2_window: 0,
            pacing: None,
            expiry_check: None,
            draining: None,
        }
    }

    fn held(&self) -> usize {
        self.waiting.len() + self.inflight.len
    }

    fn held_bytes(&self) -> usize {
        self.waiting_bytes + self.acknowledged_bytes + self.unwritten_bytes
    }

    /// Counts a message as accepted: from here on it ends in exactly one outcome.
    fn accept(&self, submission: &Submission) {
        self.metrics.count_accepted();
        if self.config.overflow != Overflow::Reject {
            // With `Reject` the callers' side took the room before it sent the message.
            self.occupancy.add(submission.size());
        }
    }

    fn admit(&mut self, submission: Submission) {
        self.accept(&submission);
        match self.config.overflow {
            // `Wait` closes the gate instead, `Reject` was decided on the callers' side.
            Overflow::Wait | Overflow::Reject => {}
            Overflow::DropNewest => {
                if !self.fits(&submission) {
                    return self.end_waiting(submission, Outcome::Dropped(DropReason::Newest));
                }
            }
            Overflow::DropOldest => {
                if !self.fits_beside_inflight(&submission) {
                    return self.end_waiting(submission, Outcome::Dropped(DropReason::Oldest));
                }
                while !self.fits(&submission) {
                    let Some(oldest) = self.take_front() else {
                        break;
                    };
                    self.end_waiting(oldest, Outcome::Dropped(DropReason::Oldest));
                }
            }
        }
        self.push(submission, false);
    }

    /// Accepts a message of the link's own, whatever the limits say: there is one of a kind.
    fn admit_own(&mut self, message: Rendered, front: bool) {
        let submission = Submission {
            message,
            accepted_at: Instant::now(),
            order: 0,
            expires_at: None,
            receipt: None,
        };
        if self.config.overflow == Overflow::Reject {
            self.occupancy.add(submission.size());
        }
        self.accept(&submission);
        self.push(submission, front);
    }

    /// Whether an announcement of the link waits, or is in flight and will be published again: only announcements
    /// go to the front, and only what goes to the front has no place in the order.
    fn is_announcing(&self) -> bool {
        let is_resent = |message: &Inflight| message.order == 0 && message.qos == QoS::AtLeastOnce;
        self.waiting.front().is_some_and(|front| front.order == 0)
            || self.inflight.iter().any(is_resent)
    }

    fn fits(&self, submission: &Submission) -> bool {
        self.has_room(self.held(), self.held_bytes(), submission)
    }

    /// Whether it would fit if nothing waited.
    fn fits_beside_inflight(&self, submission: &Submission) -> bool {
        let bytes = self.acknowledged_bytes + self.unwritten_bytes;
        self.has_room(self.inflight.len, bytes, submission)
    }

    fn has_room(&self, messages: usize, bytes: usize, submission: &Submission) -> bool {
        messages == 0
            || (messages < self.config.messages_max
                && bytes.saturating_add(submission.size()) <= self.config.bytes_max)
    }

    fn push(&mut self, mut submission: Submission, front: bool) {
        self.note_waiting(submission.size());
        if front {
            self.waiting.push_front(submission);
        } else {
            submission.order = self.next_order;
            self.next_order += 1;
            self.waiting.push_back(submission);
        }
    }

    /// Puts a message that was handed on back in its place: several batches may come back, oldest first.
    fn put_back(&mut self, submission: Submission) {
        self.note_waiting(submission.size());
        let place = self
            .waiting
            .partition_point(|waiting| waiting.order < submission.order);
        self.waiting.insert(place, submission);
    }

    fn note_waiting(&mut self, size: usize) {
        self.waiting_bytes += size;
        self.metrics.queue_messages.inc();
        self.metrics
            .queue_bytes
            .add(size.try_into().unwrap_or(i64::MAX));
    }

    fn take_front(&mut self) -> Option<Submission> {
        let submission = self.waiting.pop_front()?;
        self.note_taken(submission.size());
        Some(submission)
    }

    fn note_taken(&mut self, size: usize) {
        self.waiting_bytes -= size;
        self.metrics.queue_messages.dec();
        self.metrics
            .queue_bytes
            .sub(size.try_into().unwrap_or(i64::MAX));
    }

    fn end_waiting(&self, submission: Submission, outcome: Outcome) {
        self.occupancy.remove(submission.size());
        self.metrics.count_outcome(&outcome);
        if let Some(receipt) = submission.receipt {
            let _ = receipt.send(outcome);
        }
    }

    fn end_inflight(&mut self, token: u64, outcome: Outcome, now: Instant) {
        let Some(message) = self.inflight.remove(token) else {
            return;
        };
        self.leave_inflight(&message);
        if outcome.is_delivered() {
            self.metrics.sent(message.qos).inc();
            self.metrics.sent_bytes.inc_by(message.size as u64);
            self.metrics
                .observe_ack(message.qos, now.saturating_duration_since(message.sent_at));
        }
        self.finish(message, outcome);
    }

    fn leave_inflight(&mut self, message: &Inflight) {
        self.metrics.inflight.dec();
        if message.qos == QoS::AtMostOnce {
            self.unwritten_bytes -= message.size;
        } else {
            self.acknowledged_count -= 1;
            self.qos2_count -= usize::from(message.qos == QoS::ExactlyOnce);
            self.acknowledged_bytes -= message.size;
        }
    }

    fn finish(&self, message: Inflight, outcome: Outcome) {
        self.occupancy.remove(message.size);
        self.metrics.count_outcome(&outcome);
        if let Some(receipt) = message.receipt {
            let _ = receipt.send(outcome);
        }
    }

    /// Hands on what the window, the byte bounds and the drain rate allow.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let mut batch = Vec::new();
        while let Some(next) = self.waiting.front() {
            if next.expires_at.is_some_and(|at| at <= now) {
                if let Some(expired) = self.take_front() {
                    self.end_waiting(expired, Outcome::Expired);
                }
                continue;
            }
            let (size, qos) = (next.size(), next.message.qos);
            if batch.len() == BATCH_MAX {
                self.codec.do_send(PublishBatch(std::mem::take(&mut batch)));
            }
            if !self.may_send(size, qos) || !self.take_allowance(now) {
                break;
            }
            let Some(submission) = self.take_front() else {
                break;
            };
            batch.push(self.hand_on(submission, now));
        }
        if !batch.is_empty() {
            self.codec.do_send(PublishBatch(batch));
        }
        if self.waiting.is_empty() {
            if self.waiting.capacity() > WAITING_KEPT {
                self.waiting = VecDeque::new();
            }
            self.pacing = None;
        }
        let oldest = self
            .waiting
            .front()
            .map(|submission| submission.accepted_at);
        self.occupancy.set_oldest(oldest);
        self.update_gate();
        self.advance_drain(ctx);
    }

    fn may_send(&self, size: usize, qos: QoS) -> bool {
        let Some(window) = self.window else {
            return false;
        };
        if qos == QoS::AtMostOnce {
            self.unwritten_bytes == 0 || self.unwritten_bytes + size <= UNWRITTEN_BYTES_MAX
        } else {
            self.acknowledged_count < window
                && (qos != QoS::ExactlyOnce || self.qos2_count < self.qos2_window)
                && (self.acknowledged_count == 0
                    || self.acknowledged_bytes + size <= INFLIGHT_BYTES_MAX)
        }
    }

    fn take_allowance(&mut self, now: Instant) -> bool {
        let (Some(pacing), Some(rate)) = (&mut self.pacing, self.config.drain_rate) else {
            return true;
        };
        let elapsed = now
            .saturating_duration_since(pacing.refilled_at)
            .as_secs_f64();
        pacing.allowance = (pacing.allowance + elapsed * rate).min(rate.max(1.0));
        pacing.refilled_at = now;
        if pacing.allowance < 1.0 {
            return false;
        }
        pacing.allowance -= 1.0;
        true
    }

    fn hand_on(&mut self, submission: Submission, now: Instant) -> Outgoing {
        let (size, qos) = (submission.size(), submission.message.qos);
        if qos == QoS::AtMostOnce {
            self.unwritten_bytes += size;
        } else {
            self.acknowledged_count += 1;
            self.qos2_count += usize::from(qos == QoS::ExactlyOnce);
            self.acknowledged_bytes += size;
        }
        self.metrics.inflight.inc();
        let token = self.inflight.push(Inflight {
            receipt: submission.receipt,
            size,
            qos,
            sent_at: now,
            order: submission.order,
        });
        let message = submission.message;
        Outgoing {
            token,
            topic: message.topic,
            payload: message.payload,
            qos,
            retain: message.retain,
            properties: message.properties,
            expires_at: submission.expires_at,
        }
    }

    /// Under [`Overflow::Wait`] a full queue stops taking from the channel, so that callers wait.
    fn update_gate(&mut self) {
        let room = match self.config.overflow {
            Overflow::Wait if self.held() == 0 => self.config.messages_max.max(1),
            Overflow::Wait if self.held_bytes() >= self.config.bytes_max => 0,
            Overflow::Wait => self.config.messages_max.saturating_sub(self.held()),
            Overflow::Reject | Overflow::DropNewest | Overflow::DropOldest => BATCH_MAX,
        };
        let room_bytes = match self.config.overflow {
            Overflow::Wait => self.config.bytes_max.saturating_sub(self.held_bytes()),
            Overflow::Reject | Overflow::DropNewest | Overflow::DropOldest => usize::MAX,
        };
        self.gate.set_room(room, room_bytes);
    }

    /// Makes sure that what expires at `first` is found soon after.
    fn schedule_expiry_check(&mut self, first: Option<Instant>, ctx: &mut Context<Self>) {
        let Some(first) = first else {
            return;
        };
        let due = first.max(Instant::now() + EXPIRY_CHECK);
        match self.expiry_check {
            Some((planned, _)) if planned <= due => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = due.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |queue, ctx| {
            queue.expiry_check = None;
            queue.expire_waiting();
            let first = queue.waiting.iter().filter_map(|s| s.expires_at).min();
            queue.schedule_expiry_check(first, ctx);
            queue.pump(ctx);
        });
        self.expiry_check = Some((due, handle));
    }

    fn expire_waiting(&mut self) {
        let now = Instant::now();
        let is_expired = |s: &Submission| s.expires_at.is_some_and(|at| at <= now);
        if !self.waiting.iter().any(is_expired) {
            return;
        }
        let (expired, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(is_expired);
        self.waiting = kept;
        for submission in expired {
            self.note_taken(submission.size());
            self.end_waiting(submission, Outcome::Expired);
        }
    }

    fn advance_drain(&mut self, ctx: &mut Context<Self>) {
        let idle = self.waiting.is_empty() && self.inflight.len == 0;
        let intake_done = self.intake.as_ref().is_none_or(|intake| intake.is_empty());
        let Some(drain) = &mut self.draining else {
            return;
        };
        if !idle || !intake_done {
            return;
        }
        match drain.farewell.take() {
            Some(farewell) if self.window.is_some() && !drain.farewell_sent => {
                drain.farewell_sent = true;
                self.admit_own(farewell, false);
                self.pump(ctx);
            }
            _ => {
                drain.needs_will &= !drain.farewell_sent;
                self.end_drain();
            }
        }
    }

    fn end_drain(&mut self) {
        let drain = self.draining.take();
        let code = if drain.is_some_and(|drain| drain.needs_will) {
            ReasonCode::DISCONNECT_WITH_WILL
        } else {
            ReasonCode::SUCCESS
        };
        self.codec.do_send(Leave(code));
    }

    /// Ends everything that is left: the link is over.
    fn drop_all(&mut self) {
        if let Some(intake) = self.intake.take() {
            intake.close();
            while let Ok(submission) = intake.try_recv() {
                self.accept(&submission);
                self.push(submission, false);
            }
        }
        while let Some(submission) = self.take_front() {
            self.end_waiting(submission, Outcome::Dropped(DropReason::Stopped));
        }
        for message in self.inflight.take_all() {
            self.leave_inflight(&message);
            self.finish(message, Outcome::Dropped(DropReason::Stopped));
        }
    }
}

impl Actor for OfflineQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.update_gate();
        if let Some(receiver) = &self.intake {
            let intake = Intake {
                receiver: Box::pin(Receiver::clone(receiver)),
                gate: self.gate.clone(),
            };
            ctx.add_stream(intake);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.drop_all();
    }
}

impl StreamHandler<Vec<Submission>> for OfflineQueue {
    fn handle(&mut self, batch: Vec<Submission>, ctx: &mut Self::Context) {
        let first = batch.iter().filter_map(|s| s.expires_at).min();
        for submission in batch {
            self.admit(submission);
        }
        self.pump(ctx);
        if !self.waiting.is_empty() {
            self.schedule_expiry_check(first, ctx);
        }
    }

    /// The channel is closed: every handle is gone or a drain began. The actor goes on.
    fn finished(&mut self, ctx: &mut Self::Context) {
        self.advance_drain(ctx);
    }
}

impl Handler<LinkOnline> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: LinkOnline, ctx: &mut Self::Context) {
        self.window = Some(message.window);
        self.qos2_window = message.qos2_window;
        if let Some(rate) = self.config.drain_rate.filter(|_| !self.waiting.is_empty()) {
            self.pacing = Some(Pacing {
                allowance: 1.0,
                refilled_at: Instant::now(),
            });
            pace(rate, ctx);
        }
        // One that has not ended yet goes out before everything else as well: with each loss of the connection
        // the same again would only add to it.
        let is_announcing = self.is_announcing();
        if let Some(announcement) = message.announcement.filter(|_| !is_announcing) {
            self.admit_own(announcement, true);
        }
        self.pump(ctx);
    }
}

/// Wakes the pump as often as the drain rate needs, at most every 10 ms, until the backlog is gone.
fn pace(rate: f64, ctx: &mut Context<OfflineQueue>) {
    let period = Duration::try_from_secs_f64(1.0 / rate)
        .unwrap_or(Duration::from_secs(3600))
        .max(Duration::from_millis(10));
    ctx.run_later(period, move |queue, ctx| {
        queue.pump(ctx);
        if queue.pacing.is_some() && queue.window.is_some() {
            pace(rate, ctx);
        }
    });
}

impl Handler<LinkOffline> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, _: LinkOffline, _: &mut Self::Context) {
        self.window = None;
        self.pacing = None;
    }
}

impl Handler<Outcomes> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Outcomes, ctx: &mut Self::Context) {
        let now = Instant::now();
        for (token, outcome) in message.0 {
            self.end_inflight(token, outcome, now);
        }
        self.pump(ctx);
    }
}

impl Handler<Returned> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Returned, ctx: &mut Self::Context) {
        for outgoing in message.0 {
            let Some(inflight) = self.inflight.remove(outgoing.token) else {
                continue;
            };
            self.leave_inflight(&inflight);
            let submission = Submission {
                message: Rendered {
                    topic: outgoing.topic,
                    payload: outgoing.payload,
                    qos: outgoing.qos,
                    retain: outgoing.retain,
                    properties: outgoing.properties,
                    time_to_live: None,
                },
                accepted_at: inflight.sent_at,
                order: inflight.order,
                expires_at: outgoing.expires_at,
                receipt: inflight.receipt,
            };
            self.put_back(submission);
        }
        self.pump(ctx);
    }
}

impl Handler<Drain> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Drain, ctx: &mut Self::Context) {
        if let Some(intake) = &self.intake {
            intake.close();
        }
        if self.draining.is_none() {
            self.draining = Some(DrainState {
                needs_will: message.farewell.is_some(),
                farewell: message.farewell,
                farewell_sent: false,
            });
        }
        // Of two drains the shorter deadline holds.
        ctx.run_later(message.deadline, |queue, _| queue.end_drain());
        self.pump(ctx);
    }
}
