//! What is taken into the queue, and what makes room for it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Drain;

use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::QoS;

use super::lists::{keep_batch_storage, keep_submission_list};
use super::{
    BatchEnd, Claim, End, Inflight, OfflineLimit, OfflineQueue, Overflow, StoredId, Submission,
    Tally, UNWRITTEN_BYTES_MAX, UNWRITTEN_MESSAGES_MAX, Waiting, size_of,
};
use crate::link::{Context, Rung, time_of_turn};
use crate::metrics::GroupMetrics;
use crate::receipt::{BatchSender, DropReason, Outcome};

/// Messages that one link takes from its callers in a turn of the event loop, besides the rest of a batch, so that
/// a caller who never pauses holds up no other link of the thread.
const TURN_MESSAGES: usize = 512;

/// What does not change while messages are admitted, read once for all of them.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    messages_max: usize,
    bytes_max: usize,
    /// Links share a room.
    pub(super) has_fleet: bool,
    /// The room that a message has when it comes: what its caller took and did not give back.
    pub(super) callers_claim: Claim,
}

impl Gate {
    /// Whether a message of `size` bytes fits beside so many; one always does where there is nothing else.
    #[inline]
    const fn has_room(self, messages: usize, bytes: usize, size: usize) -> bool {
        messages == 0
            || (messages < self.messages_max && bytes.saturating_add(size) <= self.bytes_max)
    }
}

/// What is to be admitted yet of a batch, and is left only by a queue that panics: its messages were accepted.
struct Unadmitted<'a> {
    messages: Drain<'a, Rendered>,
    metrics: Arc<GroupMetrics>,
}

impl Drop for Unadmitted<'_> {
    fn drop(&mut self) {
        let left = self.messages.len();
        if left > 0 {
            let mut tally = Tally::default();
            tally.accepted += left as u64;
            for _ in 0..left {
                tally.ended(&Outcome::Dropped(DropReason::Stopped));
            }
            self.metrics.record(&mut tally);
        }
    }
}

impl OfflineQueue {
    /// Takes what callers handed over, as much as one turn may have; `true` when more is there.
    pub(super) fn take_submissions(&mut self, ctx: &mut Context<Self>) -> bool {
        let is_first_look = self.arrived.is_empty();
        if is_first_look {
            self.arrived = self.link.intake.take();
            if self.arrived.is_empty() {
                // What a drain waited for may have been given up.
                if self.draining.is_some() {
                    self.pump(ctx);
                }
                return false;
            }
        }
        let first_expiry = self.admit_arrived(TURN_MESSAGES);
        if self.arrived.is_empty() {
            keep_submission_list(std::mem::take(&mut self.arrived));
        }
        self.pump(ctx);
        if !self.waiting.is_empty() {
            self.schedule_expiry_check(first_expiry, ctx);
        }
        // What came since rings, but not those who rang while the others had their turn.
        let intake = &self.link.intake;
        !self.arrived.is_empty()
            || (is_first_look && intake.bell.has_rung(Rung::INTAKE))
            || (!is_first_look && !intake.is_empty())
    }

    /// Admits what has arrived until `enough` messages are admitted: from here on each ends in exactly one outcome.
    /// Tells when the first of them expires.
    pub(super) fn admit_arrived(&mut self, enough: usize) -> Option<Instant> {
        let now = time_of_turn();
        let gate = self.gate();
        let mut admitted = 0;
        let mut shortest_life: Option<Duration> = None;
        let mut note_life = |message: &Rendered| {
            if let Some(life) = message.time_to_live {
                shortest_life = Some(shortest_life.map_or(life, |shortest| shortest.min(life)));
            }
        };
        while admitted < enough
            && let Some(submission) = self.arrived.pop_front()
        {
            admitted += submission.len();
            match submission {
                Submission::One(message, receipt) => {
                    note_life(&message);
                    let end = receipt.map_or(End::Untold, End::One);
                    self.admit(gate, message, end, None, now);
                }
                Submission::Batch(messages, sender) => {
                    messages.iter().for_each(&mut note_life);
                    self.admit_batch(gate, messages, sender, None, now);
                }
                Submission::Recorded(submission, first) => {
                    submission.messages().iter().for_each(&mut note_life);
                    self.admit_recorded(gate, *submission, first, now);
                }
            }
        }
        shortest_life.and_then(|life| now.checked_add(life))
    }

    fn admit_batch(
        &mut self,
        gate: Gate,
        mut messages: Vec<Rendered>,
        sender: Option<BatchSender>,
        mut id: Option<StoredId>,
        now: Instant,
    ) {
        let batch = sender.map(|sender| BatchEnd::new(sender, messages.len()));
        if id.is_none() {
            if let Some(bytes) = self.may_go_together(gate, &messages) {
                return self.hand_on_together(gate, messages, bytes, batch, now);
            }
            if self.may_wait_together(gate, &messages) {
                return self.wait_together(gate, messages, batch, now);
            }
        }
        let mut rest = Unadmitted {
            messages: messages.drain(..),
            metrics: Arc::clone(&self.link.metrics),
        };
        for (index, message) in (0..).zip(rest.messages.by_ref()) {
            let end = batch.clone().map_or(End::Untold, |b| End::Of(b, index));
            // Each message of a submission has an id of its own, and those of QoS 0 do not use theirs.
            let stored = id.filter(|_| message.qos != QoS::AtMostOnce);
            id = id.and_then(|id| id.checked_add(1));
            self.admit(gate, message, end, stored, now);
        }
        drop(rest);
        keep_batch_storage(messages);
    }

    /// Whether nothing is in the way of any of these messages and nobody is owed anything but its end; gives their bytes.
    fn may_go_together(&self, gate: Gate, messages: &[Rendered]) -> Option<usize> {
        let has_room_taken = gate.callers_claim.link && gate.callers_claim.fleet == gate.has_fleet;
        let is_in_order = self.is_nothing_waiting() && self.send_pacing.is_none();
        if messages.is_empty() || !has_room_taken || !is_in_order {
            return None;
        }
        let mut bytes = 0;
        for message in messages {
            if message.qos != QoS::AtMostOnce || message.time_to_live.is_some() {
                return None;
            }
            bytes += size_of(message);
        }
        let fits = self.window.is_some()
            && self.unwritten_bytes + bytes <= UNWRITTEN_BYTES_MAX
            && self.unwritten_count() + messages.len() <= UNWRITTEN_MESSAGES_MAX
            && self.held() + messages.len() <= gate.messages_max
            && self.held_bytes().saturating_add(bytes) <= gate.bytes_max;
        fits.then_some(bytes)
    }

    /// As admitting one by one, for a batch that [may go together](Self::may_go_together).
    fn hand_on_together(
        &mut self,
        gate: Gate,
        mut messages: Vec<Rendered>,
        bytes: usize,
        batch: Option<Rc<BatchEnd>>,
        now: Instant,
    ) {
        let count = messages.len();
        let tally = &mut self.turn.get().tally;
        tally.accepted += count as u64;
        tally.inflight += count as i64;
        self.unwritten_bytes += bytes;
        let order = self.next_order;
        self.next_order += count as u64;
        // All of them are within a bound that this can tell.
        let sizes = messages.iter().map(|message| size_of(message) as u32);
        let end = batch.map_or(End::Untold, |batch| End::Of(batch, 0));
        let runs = &mut self.inflight.unwritten;
        let first = runs.push_all(sizes, end, order, gate.callers_claim, now);
        for (token, message) in (first..).zip(messages.drain(..)) {
            let size = size_of(&message);
            self.hand_on_as(token, message, size, None);
        }
        keep_batch_storage(messages);
    }

    /// `first` is the id of its first message in the store.
    fn admit_recorded(
        &mut self,
        gate: Gate,
        submission: Submission,
        first: StoredId,
        now: Instant,
    ) {
        match submission {
            Submission::One(message, receipt) => {
                let stored = Some(first).filter(|_| message.qos != QoS::AtMostOnce);
                let end = receipt.map_or(End::Untold, End::One);
                self.admit(gate, message, end, stored, now);
            }
            Submission::Batch(messages, sender) => {
                self.admit_batch(gate, messages, sender, Some(first), now);
            }
            Submission::Recorded(..) => {}
        }
    }

    // Into the loops over messages: each call would move the message to a place of its own first.
    #[inline]
    fn admit(
        &mut self,
        gate: Gate,
        message: Rendered,
        end: End,
        stored: Option<StoredId>,
        now: Instant,
    ) {
        if !self.together.is_empty() {
            self.take_apart();
        }
        self.turn.get().tally.accepted += 1;
        let size = size_of(&message);
        if !gate.callers_claim.link {
            self.free_room(size);
        }
        let mut claim = gate.callers_claim;
        let may_go = self.waiting.is_empty() && self.may_send(size, message.qos);
        if may_go
            && message.time_to_live.is_none()
            && gate.has_room(self.held(), self.held_bytes(), size)
            && (claim.fleet == gate.has_fleet || self.claim_fleet_room(size, &mut claim))
            && (self.send_pacing.is_none() || self.take_allowance(self.next_order, now))
        {
            let inflight = Inflight {
                end,
                size,
                qos: message.qos,
                sent_at: now,
                order: self.take_order(),
                claim,
                stored,
            };
            return self.hand_on(message, inflight, None);
        }
        self.admit_behind(message, end, stored, claim, now);
    }

    /// For a message that cannot go at once: what waits, or the bounds, are before it.
    #[inline(never)]
    fn admit_behind(
        &mut self,
        message: Rendered,
        end: End,
        stored: Option<StoredId>,
        claim: Claim,
        now: Instant,
    ) {
        let size = size_of(&message);
        let (message, end) = match self.merge(message, end, claim, stored) {
            Ok(()) => return,
            Err(unmerged) => unmerged,
        };
        let waiting = Waiting {
            expires_at: message.time_to_live.and_then(|life| now.checked_add(life)),
            message,
            end,
            accepted_at: now,
            order: 0,
            claim,
            stored,
        };
        let Some(mut waiting) = self.admit_offline(waiting) else {
            return;
        };
        match self.link.profile.outbox.overflow {
            // The callers took the room before they handed the message over.
            Overflow::Wait | Overflow::Reject => {}
            Overflow::DropNewest => {
                if !self.fits(size) {
                    return self.end_waiting(waiting, Outcome::Dropped(DropReason::Newest));
                }
                if !self.claim_fleet_room(size, &mut waiting.claim) {
                    self.note_fleet_full();
                    return self.end_waiting(waiting, Outcome::Dropped(DropReason::Newest));
                }
            }
            Overflow::DropOldest => {
                if !self.fits_beside_inflight(size) {
                    return self.end_waiting(waiting, Outcome::Dropped(DropReason::Oldest));
                }
                while !self.fits(size) {
                    let Some(oldest) = self.take_oldest() else {
                        break;
                    };
                    self.end_waiting(oldest, Outcome::Dropped(DropReason::Oldest));
                }
                if !self.claim_fleet_room(size, &mut waiting.claim) {
                    self.note_fleet_full();
                    if !self.take_over_fleet_room(size, &mut waiting) {
                        return self.end_waiting(waiting, Outcome::Dropped(DropReason::Oldest));
                    }
                }
            }
        }
        self.push(waiting, false);
    }

    /// Makes room within the limit of what waits offline; the message comes back unless it ended itself.
    fn admit_offline(&mut self, waiting: Waiting) -> Option<Waiting> {
        let limit = self.link.profile.outbox.offline;
        if limit == OfflineLimit::None || !self.is_held_back() {
            return Some(waiting);
        }
        match limit {
            OfflineLimit::DropNewest(max) if self.waiting.len() >= max => {
                self.end_waiting(waiting, Outcome::Dropped(DropReason::Newest));
                return None;
            }
            OfflineLimit::DropOldest(0) => {
                self.end_waiting(waiting, Outcome::Dropped(DropReason::Oldest));
                return None;
            }
            OfflineLimit::DropOldest(max) => {
                while self.waiting.len() >= max
                    && let Some(oldest) = self.take_oldest()
                {
                    self.end_waiting(oldest, Outcome::Dropped(DropReason::Oldest));
                }
            }
            OfflineLimit::None | OfflineLimit::DropNewest(_) => {}
        }
        Some(waiting)
    }

    /// Accepts a message of the link's own, whatever the limits say: there is one of a kind.
    pub(super) fn admit_own(&mut self, message: Rendered, front: bool) {
        self.turn.get().tally.accepted += 1;
        let waiting = Waiting {
            message,
            end: End::Untold,
            accepted_at: Instant::now(),
            order: 0,
            expires_at: None,
            claim: Claim::default(),
            stored: None,
        };
        self.push(waiting, front);
    }

    /// Where the queue itself makes room, callers need theirs only until it has the message.
    pub(super) fn gives_room_back_at_the_end(&self) -> bool {
        self.link.profile.outbox.overflow.holds_room()
    }

    fn gate(&self) -> Gate {
        let outbox = &self.link.profile.outbox;
        let holds_room = self.gives_room_back_at_the_end();
        let has_fleet = self.link.intake.fleet().is_some();
        Gate {
            messages_max: outbox.messages_max,
            bytes_max: outbox.bytes_max,
            has_fleet,
            callers_claim: Claim {
                link: holds_room,
                fleet: holds_room && has_fleet,
            },
        }
    }

    /// Takes room of the fleet's for a message whose caller took none; `false` when there is none.
    fn claim_fleet_room(&self, size: usize, claim: &mut Claim) -> bool {
        if claim.fleet || self.link.intake.fleet().is_none() {
            return true;
        }
        let cost = self.link.intake.cost(size);
        claim.fleet = self.link.intake.try_take_fleet(cost);
        claim.fleet
    }

    /// Drops the oldest that wait until `newest` can have their room of the fleet's. Reports of state make room for
    /// nothing but another report. `false` when that is not enough.
    fn take_over_fleet_room(&mut self, size: usize, newest: &mut Waiting) -> bool {
        let cost = self.link.intake.cost(size) as usize;
        if self.waiting_bytes < cost {
            return false;
        }
        let (mut messages, mut bytes) = (0, 0);
        while messages == 0 || bytes < cost {
            let first = |is_report: bool| {
                let may_go = |old: &Waiting| old.claim.fleet && old.message.merges == is_report;
                self.waiting.iter().position(may_go)
            };
            let reports = || first(true).filter(|_| newest.message.merges);
            let Some(place) = first(false).or_else(reports) else {
                break;
            };
            if let Some(mut oldest) = self.waiting.remove(place) {
                self.note_taken(oldest.size());
                messages += 1;
                bytes += self.link.intake.cost(oldest.size()) as usize;
                oldest.claim.fleet = false;
                self.end_waiting(oldest, Outcome::Dropped(DropReason::Oldest));
            }
        }
        newest.claim.fleet = messages > 0 && bytes >= cost;
        let turn = self.turn.get();
        turn.freed_fleet_messages += messages;
        turn.freed_fleet_bytes += bytes;
        if newest.claim.fleet {
            turn.freed_fleet_messages -= 1;
            turn.freed_fleet_bytes -= cost;
        }
        newest.claim.fleet
    }

    /// A message is dropped for want of the fleet's room.
    fn note_fleet_full(&self) {
        if let Some(fleet) = self.link.intake.fleet() {
            fleet.count_refused(1);
        }
    }

    pub(super) fn free_fleet_room(&mut self, size: usize) {
        let turn = self.turn.get();
        turn.freed_fleet_messages += 1;
        turn.freed_fleet_bytes += self.link.intake.cost(size) as usize;
    }

    pub(super) fn free_room(&mut self, size: usize) {
        let turn = self.turn.get();
        turn.freed_messages += 1;
        turn.freed_bytes += self.link.intake.cost(size) as usize;
    }

    pub(super) fn fits(&self, size: usize) -> bool {
        self.has_room(self.held(), self.held_bytes(), size)
    }

    /// Whether it would fit if nothing waited.
    pub(super) fn fits_beside_inflight(&self, size: usize) -> bool {
        let bytes = self.acknowledged_bytes + self.unwritten_bytes;
        self.has_room(self.inflight.len(), bytes, size)
    }

    pub(super) fn has_room(&self, messages: usize, bytes: usize, size: usize) -> bool {
        self.gate().has_room(messages, bytes, size)
    }

    #[inline]
    pub(super) fn push(&mut self, mut waiting: Waiting, front: bool) {
        self.note_waiting(waiting.size());
        if front {
            self.waiting.push_front(waiting);
        } else {
            self.take_apart();
            waiting.order = self.take_order();
            self.waiting.push_back(waiting);
        }
    }

    #[inline]
    pub(super) fn take_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order - 1
    }
}
