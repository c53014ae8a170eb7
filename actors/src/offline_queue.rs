//! The OfflineQueue actor: admits, bounds, orders and drains what a link sends.
//!
//! A message waits here from the moment it is accepted, leaves for the codec when the link is online and
//! the in-flight window has room, and is accounted for here when it ends. First deliveries keep their order:
//! the queue is first in, first out, and what is accepted during a drain goes behind what waited.
//!
//! What can be done once for many messages is: clocks are read, counters moved, room given back and receipts
//! resolved at the end of a turn, in this order, so that whoever awaits a receipt finds it counted.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Addr, Handler, SpawnHandle};
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::QoS;
use paquebot_protocols::mqtt::session::{Outgoing, UNSENT_QOS0_MAX};

use crate::link::{Context, LinkContext, Resident, time_of_turn};
use crate::message::{
    LinkOffline, LinkOnline, Outcomes, PublishBatch, Returned, ReturnedSeen, RoomFreed,
};
use crate::pause::Pause;
use crate::receipt::Outcome;

mod admission;
mod bounds;
mod contents;
mod drain;
mod durable;
mod ending;
mod fleet_room;
mod inflight;
mod intake;
mod lists;
mod merging;
mod record;
mod recovered;
mod room;
mod runs;
mod schedule;
mod share;
mod tally;
mod together;
mod turn;
mod waiters;

pub use bounds::{OfflineLimit, OutboxConfig, Overflow, QueueLimits};
pub use contents::QueueEntry;
use drain::DrainState;
pub(crate) use durable::{Durable, Recording, StoredId, Unrecorded};
pub use durable::{DurableQueue, DurableQueues, QueueError, RecordError};
use ending::{BatchEnd, End};
pub use fleet_room::{FleetRoom, QueueStatistics};
use inflight::{Inflight, InflightRing};
pub(crate) use intake::{Intake, Refused, Single, Submission, size_of};
pub use lists::batch_storage;
pub(crate) use lists::keep_publish_list;
pub(crate) use record::encode_progress;
pub(crate) use recovered::{Recovered, RestoredSession};
pub(crate) use room::Room;
use runs::Ended;
use schedule::Pacing;
pub(crate) use tally::Tally;
use together::Together;
use turn::{CurrentTurn, Turn};

/// Most messages in one [`PublishBatch`].
const BATCH_MAX: usize = 512;

/// Most bytes of topics and payloads in one [`PublishBatch`]; one message always may be.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of QoS 0 messages handed on and not yet in the socket.
const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;

/// Most QoS 0 messages handed on and not yet in the socket: as many as the session takes.
const UNWRITTEN_MESSAGES_MAX: usize = UNSENT_QOS0_MAX;

/// Most bytes of QoS 1 and 2 messages in flight; one message always may be.
const INFLIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most places that an empty queue keeps, so that an outage leaves no memory behind.
const WAITING_KEPT: RangeInclusive<usize> = 5..=16;

/// The actor. In the order written here: what every message needs lies together.
#[repr(C)]
pub(crate) struct OfflineQueue {
    link: Arc<LinkContext>,
    /// What callers handed over and no turn has admitted yet.
    arrived: VecDeque<Submission>,
    turn: CurrentTurn,
    /// `Some` while online: the in-flight window.
    window: Option<usize>,
    next_order: u64,
    /// Bytes of QoS 0 messages handed on and not yet in the socket.
    unwritten_bytes: usize,
    inflight: InflightRing,
    /// In ascending `order`.
    waiting: VecDeque<Waiting>,
    /// Behind those.
    together: VecDeque<Together>,
    waiting_bytes: usize,
    /// QoS 1 and 2 messages in flight and their bytes.
    acknowledged_count: usize,
    acknowledged_bytes: usize,
    /// Those of QoS 2.
    qos2_count: usize,
    /// The part of the window for QoS 2.
    qos2_window: usize,
    /// The session gave messages back and has not said yet that it has room again.
    awaits_room: bool,
    /// While a backlog drains at a limited rate.
    pacing: Option<Box<Pacing>>,
    /// On a link that always sends at a limited rate.
    send_pacing: Option<Box<Pacing>>,
    draining: Option<Box<DrainState>>,
    /// While more is in the intake and the others have their turn.
    pause: Pause,
    expiry_check: Option<(Instant, SpawnHandle)>,
    pace_timer: Option<SpawnHandle>,
}

/// An accepted message that was not handed on.
struct Waiting {
    message: Rendered,
    end: End,
    accepted_at: Instant,
    /// Its place among those that the queue holds.
    order: u64,
    expires_at: Option<Instant>,
    claim: Claim,
    /// Under which the store has it.
    stored: Option<StoredId>,
}

/// The room that a message gives back when it ends. The link's own messages have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Claim {
    /// Of the link's.
    link: bool,
    /// Of that which all links of the fleet share.
    fleet: bool,
}

impl Waiting {
    fn size(&self) -> usize {
        size_of(&self.message)
    }
}

impl OfflineQueue {
    pub(crate) fn new(link: Arc<LinkContext>) -> Self {
        Self {
            link,
            arrived: VecDeque::new(),
            waiting: VecDeque::new(),
            together: VecDeque::new(),
            next_order: 1,
            waiting_bytes: 0,
            inflight: InflightRing::new(),
            acknowledged_count: 0,
            qos2_count: 0,
            acknowledged_bytes: 0,
            unwritten_bytes: 0,
            window: None,
            qos2_window: 0,
            awaits_room: false,
            pacing: None,
            send_pacing: None,
            pace_timer: None,
            expiry_check: None,
            draining: None,
            turn: CurrentTurn::default(),
            pause: Pause::default(),
        }
    }

    /// Reads a little of each part that a message needs, for nothing but to have it in the processor's caches: see
    /// `Actors::call_up`.
    #[inline]
    pub(crate) fn call_up(&self) -> usize {
        self.arrived.len()
            ^ self.unwritten_bytes
            ^ self.inflight.len()
            ^ self.waiting.len()
            ^ self.acknowledged_bytes
            ^ usize::from(self.draining.is_some())
    }

    fn held(&self) -> usize {
        self.waiting_len() + self.inflight.len()
    }

    fn held_bytes(&self) -> usize {
        self.waiting_bytes + self.acknowledged_bytes + self.unwritten_bytes
    }

    /// Whether an announcement of the link waits, or is in flight and will be published again: only announcements
    /// go to the front, and only what goes to the front has no place in the order.
    fn is_announcing(&self) -> bool {
        let is_resent = |message: &Inflight| message.order == 0 && message.qos == QoS::AtLeastOnce;
        self.waiting.front().is_some_and(|front| front.order == 0)
            || self.inflight.iter().any(is_resent)
    }

    /// Puts a message that was handed on back in its place: several batches may come back, oldest first.
    fn put_back(&mut self, message: Waiting) {
        self.note_waiting(message.size());
        let place = self
            .waiting
            .partition_point(|waiting| waiting.order < message.order);
        self.waiting.insert(place, message);
    }

    #[inline]
    fn note_waiting(&mut self, size: usize) {
        self.waiting_bytes += size;
        self.turn.get().tally.queue_messages += 1;
        self.turn.get().tally.queue_bytes += size as i64;
    }

    #[inline]
    fn take_front(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.note_taken(waiting.size());
        Some(waiting)
    }

    #[inline]
    fn note_taken(&mut self, size: usize) {
        self.waiting_bytes -= size;
        self.turn.get().tally.queue_messages -= 1;
        self.turn.get().tally.queue_bytes -= size as i64;
    }

    fn end_waiting(&mut self, waiting: Waiting, outcome: Outcome) {
        let size = waiting.size();
        self.note_removed(waiting.stored, waiting.message.qos, &outcome);
        self.finish(size, waiting.claim, waiting.end, outcome);
    }

    /// Ends messages whose tokens follow one another.
    fn end_delivered(&mut self, mut tokens: Range<u64>, now: Instant) {
        let cost_max = self.link.intake.cost_max();
        while let Some(ended) = self.inflight.pop_run(&mut tokens, cost_max) {
            self.end_run(ended, now);
        }
        for token in tokens {
            let message = match self.inflight.pop(token) {
                Some(message) => Some(message),
                None => self.inflight.remove(token),
            };
            if let Some(message) = message {
                self.end_one_delivered(message, now);
            }
        }
        self.inflight.give_memory_back();
    }

    /// The ordinary end of messages that went together.
    fn end_run(&mut self, ended: Ended, now: Instant) {
        if ended.qos == QoS::AtMostOnce {
            self.unwritten_bytes -= ended.bytes;
        } else {
            self.acknowledged_count -= ended.count;
            self.acknowledged_bytes -= ended.bytes;
        }
        let turn = self.turn.get();
        turn.tally.delivered_run(&ended, now);
        if ended.claim.link {
            turn.freed_messages += ended.count;
            turn.freed_bytes += ended.cost;
        }
        if ended.claim.fleet {
            turn.freed_fleet_messages += ended.count;
            turn.freed_fleet_bytes += ended.cost;
        }
        turn.endings.note_delivered(ended.end, ended.count);
    }

    /// As [`OfflineQueue::end_inflight`] for the ordinary end: its outcome is known and goes nowhere until it is told.
    #[inline(always)]
    fn end_one_delivered(&mut self, message: Inflight, now: Instant) {
        self.leave_inflight(&message);
        self.note_removed(message.stored, message.qos, &Outcome::DELIVERED);
        self.free_claim(message.size, message.claim);
        let turn = self.turn.get();
        turn.tally.delivered(&message, now);
        turn.tally.delivered += 1;
        turn.endings.note_delivered(message.end, 1);
    }

    #[inline]
    fn end_inflight(&mut self, message: Inflight, outcome: Outcome, now: Instant) {
        self.leave_inflight(&message);
        if outcome.is_delivered() {
            self.turn.get().tally.delivered(&message, now);
        }
        self.note_removed(message.stored, message.qos, &outcome);
        self.finish(message.size, message.claim, message.end, outcome);
    }

    #[inline]
    fn leave_inflight(&mut self, message: &Inflight) {
        self.turn.get().tally.inflight -= 1;
        if message.qos == QoS::AtMostOnce {
            self.unwritten_bytes -= message.size;
        } else {
            self.acknowledged_count -= 1;
            self.qos2_count -= usize::from(message.qos == QoS::ExactlyOnce);
            self.acknowledged_bytes -= message.size;
        }
    }

    /// The record of a message that has ended is of no more use.
    #[inline]
    fn note_removed(&mut self, stored: Option<StoredId>, qos: QoS, outcome: &Outcome) {
        if let Some(id) = stored
            && *outcome != Outcome::Kept
        {
            self.turn.get().removed.push((id, qos));
        }
    }

    #[inline]
    fn free_claim(&mut self, size: usize, claim: Claim) {
        if claim.link {
            self.free_room(size);
        }
        if claim.fleet {
            self.free_fleet_room(size);
        }
    }

    fn finish(&mut self, size: usize, claim: Claim, end: End, outcome: Outcome) {
        self.free_claim(size, claim);
        self.turn.get().tally.ended(&outcome);
        self.turn.get().endings.note(end, outcome);
    }

    /// The end of a turn of the link: counts, gives room back, then tells.
    pub(crate) fn end_turn(&mut self) {
        let Some(mut turn) = self.turn.take() else {
            return;
        };
        self.link.metrics.record(&mut turn.tally);
        if turn.freed_fleet_messages + turn.freed_fleet_bytes > 0 {
            self.link.intake.give_back_fleet(
                std::mem::take(&mut turn.freed_fleet_messages),
                std::mem::take(&mut turn.freed_fleet_bytes),
            );
        }
        self.link.intake.give_back(
            std::mem::take(&mut turn.freed_messages),
            std::mem::take(&mut turn.freed_bytes),
        );
        if let Some(durable) = self
            .link
            .durable
            .as_deref()
            .filter(|_| !turn.removed.is_empty())
        {
            durable.remove(&mut turn.removed);
        }
        turn.endings.tell();
        turn.end();
    }

    /// Hands on what the window, the byte bounds and the drain rate allow.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = time_of_turn();
        let mut is_paced = false;
        while let Some(next) = self.waiting.front() {
            if next.expires_at.is_some_and(|at| at <= now) {
                if let Some(expired) = self.take_front() {
                    self.end_waiting(expired, Outcome::Expired);
                }
                continue;
            }
            let (size, qos, order) = (next.size(), next.message.qos, next.order);
            if self.awaits_room || !self.may_send(size, qos) {
                break;
            }
            if !self.take_allowance(order, now) {
                is_paced = true;
                break;
            }
            if let Some(waiting) = self.take_front() {
                let inflight = Inflight {
                    end: waiting.end,
                    size,
                    qos,
                    sent_at: now,
                    order: waiting.order,
                    claim: waiting.claim,
                    stored: waiting.stored,
                };
                self.hand_on(waiting.message, inflight, waiting.expires_at);
            }
        }
        if self.waiting.is_empty() && !self.awaits_room {
            self.pump_together(now);
        }
        self.send_batch();
        if self.waiting.is_empty() {
            if !WAITING_KEPT.contains(&self.waiting.capacity()) {
                self.waiting = VecDeque::new();
            }
            self.pacing = None;
        }
        if is_paced {
            self.wake_for_allowance(ctx);
        }
        self.link.intake.set_oldest(self.oldest_accepted_at());
        self.advance_drain(ctx);
    }

    #[inline]
    fn may_send(&self, size: usize, qos: QoS) -> bool {
        let Some(window) = self.window else {
            return false;
        };
        if qos == QoS::AtMostOnce {
            self.unwritten_bytes == 0
                || (self.unwritten_bytes + size <= UNWRITTEN_BYTES_MAX
                    && self.unwritten_count() < UNWRITTEN_MESSAGES_MAX)
        } else {
            self.acknowledged_count < window
                && (qos != QoS::ExactlyOnce || self.qos2_count < self.qos2_window)
                && (self.acknowledged_count == 0
                    || self.acknowledged_bytes + size <= INFLIGHT_BYTES_MAX)
        }
    }

    /// QoS 0 messages handed on and not yet in the socket.
    #[inline]
    fn unwritten_count(&self) -> usize {
        self.inflight.len() - self.acknowledged_count
    }

    /// Counts a message as in flight; gives its token.
    #[inline]
    fn note_inflight(&mut self, inflight: Inflight) -> u64 {
        let (size, qos) = (inflight.size, inflight.qos);
        if qos == QoS::AtMostOnce {
            self.unwritten_bytes += size;
        } else {
            self.acknowledged_count += 1;
            self.qos2_count += usize::from(qos == QoS::ExactlyOnce);
            self.acknowledged_bytes += size;
        }
        self.turn.get().tally.inflight += 1;
        self.inflight.push(inflight)
    }

    #[inline(always)]
    fn hand_on(&mut self, message: Rendered, inflight: Inflight, expires_at: Option<Instant>) {
        let (size, qos, stored) = (inflight.size, inflight.qos, inflight.stored);
        let token = self.note_inflight(inflight);
        if let Some(id) = stored.filter(|_| qos == QoS::ExactlyOnce) {
            self.room_in_batch().batch_stored.push((token, id));
        }
        self.hand_on_as(token, message, size, expires_at);
    }

    /// To the codec, under its token.
    #[inline(always)]
    fn hand_on_as(
        &mut self,
        token: u64,
        message: Rendered,
        size: usize,
        expires_at: Option<Instant>,
    ) {
        let turn = self.room_in_batch();
        turn.batch_bytes += size;
        turn.batch.push(Outgoing {
            token,
            topic: message.topic,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            properties: message.properties,
            expires_at,
        });
    }

    /// The turn, whose batch has room for another message.
    #[inline(always)]
    fn room_in_batch(&mut self) -> &mut Turn {
        let turn = self.turn.get();
        if turn.batch.len() >= BATCH_MAX || turn.batch_bytes >= BATCH_BYTES_MAX {
            self.send_batch();
        }
        let turn = self.turn.get();
        if turn.batch.capacity() == 0 {
            turn.batch = lists::publish_list();
        }
        turn
    }

    fn send_batch(&mut self) {
        let turn = self.turn.get();
        if !turn.batch.is_empty() {
            let bytes = std::mem::take(&mut turn.batch_bytes);
            let messages = std::mem::take(&mut turn.batch);
            let stored = std::mem::take(&mut turn.batch_stored);
            self.link.tell_codec(PublishBatch {
                messages,
                bytes,
                stored,
            });
        }
    }

    /// Ends everything that is left: the link is over.
    fn drop_all(&mut self) {
        // Nobody is left to hand anything on to.
        self.window = None;
        self.link.intake.end();
        // What arrived before goes first, and both were accepted.
        let late = self.link.intake.take();
        self.arrived.extend(late);
        self.admit_arrived(usize::MAX);
        self.take_apart();
        while let Some(waiting) = self.take_front() {
            let outcome = Outcome::at_the_end(waiting.stored.is_some());
            self.end_waiting(waiting, outcome);
        }
        for message in self.inflight.take_all() {
            self.leave_inflight(&message);
            let outcome = Outcome::at_the_end(message.stored.is_some());
            self.finish(message.size, message.claim, message.end, outcome);
        }
        self.end_turn();
    }
}

impl Resident for OfflineQueue {
    fn address(link: &LinkContext) -> &Addr<Self> {
        &link.queue
    }
}

impl Actor for OfflineQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.held() > 0 {
            // Recovered: nobody waits for it, but it expires and is counted.
            let first_expiry = self.waiting.iter().filter_map(|m| m.expires_at).min();
            self.schedule_expiry_check(first_expiry, ctx);
            self.pump(ctx);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.drop_all();
    }
}

impl Handler<LinkOnline> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: LinkOnline, ctx: &mut Self::Context) {
        self.window = Some(message.window);
        self.qos2_window = message.qos2_window;
        self.awaits_room = false;
        self.begin_pacing();
        // One that has not ended yet goes out before everything else as well: with each loss of the connection
        // the same again would only add to it.
        let is_announcing = self.is_announcing();
        if let Some(announcement) = message.announcement.filter(|_| !is_announcing) {
            self.admit_own(*announcement, true);
        }
        self.pump(ctx);
    }
}

impl Handler<LinkOffline> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, _: LinkOffline, _: &mut Self::Context) {
        self.window = None;
        self.awaits_room = false;
        self.pacing = None;
    }
}

impl Handler<Outcomes> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Outcomes, ctx: &mut Self::Context) {
        let now = time_of_turn();
        for tokens in message.delivered {
            self.end_delivered(tokens, now);
        }
        for (token, outcome) in message.others {
            if let Some(message) = self.inflight.remove(token) {
                self.end_inflight(message, outcome, now);
            }
        }
        self.pump(ctx);
    }
}

impl Handler<Returned> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Returned, ctx: &mut Self::Context) {
        let first_expiry = message.0.iter().filter_map(|m| m.expires_at).min();
        for outgoing in message.0 {
            let Some(inflight) = self.inflight.remove(outgoing.token) else {
                continue;
            };
            self.leave_inflight(&inflight);
            self.put_back(Waiting {
                message: Rendered {
                    topic: outgoing.topic,
                    payload: outgoing.payload,
                    qos: outgoing.qos,
                    retain: outgoing.retain,
                    properties: outgoing.properties,
                    time_to_live: None,
                    merges: false,
                },
                end: inflight.end,
                accepted_at: inflight.sent_at,
                order: inflight.order,
                expires_at: outgoing.expires_at,
                claim: inflight.claim,
                stored: inflight.stored,
            });
        }
        // What the queue counts is not all that the session has: requests and subscriptions take of its room too. Only
        // the session knows when there is some again, and to try before that would be to try without an end.
        self.awaits_room = self.window.is_some();
        self.link.tell_codec(ReturnedSeen);
        self.pump(ctx);
        self.schedule_expiry_check(first_expiry, ctx);
    }
}

impl Handler<RoomFreed> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, _: RoomFreed, ctx: &mut Self::Context) {
        self.awaits_room = false;
        self.pump(ctx);
    }
}

impl LinkContext {
    /// Ends what no queue will ever take, because the link's actors never ran: accepted, then dropped.
    pub(crate) fn drop_intake(&self) {
        self.intake.end();
        let is_durable = self.durable.is_some();
        for submission in self.intake.take() {
            submission.end_untaken(&self.metrics, |message| {
                Outcome::at_the_end(is_durable && message.qos != QoS::AtMostOnce)
            });
        }
        self.intake.leave_fleet();
        if let Some(durable) = &self.durable {
            durable.close();
        }
    }
}
