//! Batches that wait as they came: as long as nothing has to be known of one message, nothing is noted of each.
//!
//! A caller who keeps the in-flight window full has nearly every message wait for a moment. Here they wait in the list
//! that the caller made, and move once: from there to the codec.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::QoS;

use super::admission::Gate;
use super::lists::keep_batch_storage;
use super::{
    BatchEnd, Claim, End, INFLIGHT_BYTES_MAX, OfflineLimit, OfflineQueue, Waiting, size_of,
};

/// Fewer messages than this are taken apart at once.
const TOGETHER_MIN: usize = 8;

/// QoS 1 messages of one batch that wait, behind all that wait one by one.
pub(super) struct Together {
    /// Not empty.
    messages: VecDeque<Rendered>,
    batch: Option<Rc<BatchEnd>>,
    /// In its batch, of the first of them.
    index: usize,
    /// Of the first of them.
    order: u64,
    accepted_at: Instant,
    claim: Claim,
}

impl Together {
    fn end(&self, place: usize) -> End {
        match &self.batch {
            Some(batch) => End::Of(Rc::clone(batch), self.index + place),
            None => End::Untold,
        }
    }
}

impl OfflineQueue {
    #[inline]
    pub(super) fn is_nothing_waiting(&self) -> bool {
        self.waiting.is_empty() && self.together.is_empty()
    }

    pub(super) fn waiting_len(&self) -> usize {
        let together = self.together.iter().map(|batch| batch.messages.len());
        self.waiting.len() + together.sum::<usize>()
    }

    /// Since when the oldest has waited.
    pub(super) fn oldest_accepted_at(&self) -> Option<Instant> {
        let single = self.waiting.front().map(|waiting| waiting.accepted_at);
        single.or_else(|| self.together.front().map(|batch| batch.accepted_at))
    }

    /// Whether these may wait together: nobody is owed anything but their end, and no limit could have one of them
    /// dropped.
    pub(super) fn may_wait_together(&self, gate: Gate, messages: &Vec<Rendered>) -> bool {
        let has_room_taken = gate.callers_claim.link && gate.callers_claim.fleet == gate.has_fleet;
        let outbox = &self.link.profile.outbox;
        let is_unlimited = outbox.offline == OfflineLimit::None
            && outbox.drain_rate.is_none()
            && outbox.send_rate.is_none();
        // A long list for few messages is not to be held while they wait.
        let is_filled = messages.len() >= TOGETHER_MIN.max(messages.capacity() / 4);
        let is_plain = |message: &Rendered| {
            message.qos == QoS::AtLeastOnce && message.time_to_live.is_none() && !message.merges
        };
        has_room_taken && is_unlimited && is_filled && messages.iter().all(is_plain)
    }

    /// Accepts a batch that [may wait together](Self::may_wait_together).
    pub(super) fn wait_together(
        &mut self,
        gate: Gate,
        messages: Vec<Rendered>,
        batch: Option<Rc<BatchEnd>>,
        now: Instant,
    ) {
        let count = messages.len();
        let bytes: usize = messages.iter().map(size_of).sum();
        let tally = &mut self.turn.get().tally;
        tally.accepted += count as u64;
        tally.queue_messages += count as i64;
        tally.queue_bytes += bytes as i64;
        self.waiting_bytes += bytes;
        let order = self.next_order;
        self.next_order += count as u64;
        self.together.push_back(Together {
            messages: messages.into(),
            batch,
            index: 0,
            order,
            accepted_at: now,
            claim: gate.callers_claim,
        });
    }

    /// Has each message wait by itself, as one has to that goes behind them.
    pub(super) fn take_apart(&mut self) {
        for mut batch in std::mem::take(&mut self.together) {
            self.waiting.reserve(batch.messages.len());
            let mut messages = std::mem::take(&mut batch.messages);
            for (place, message) in messages.drain(..).enumerate() {
                self.waiting.push_back(Waiting {
                    end: batch.end(place),
                    message,
                    accepted_at: batch.accepted_at,
                    order: batch.order + place as u64,
                    expires_at: None,
                    claim: batch.claim,
                    stored: None,
                });
            }
            keep_batch_storage(messages.into());
        }
    }

    /// Hands on what the window and the byte bound allow of the batches, when nothing waits before them.
    pub(super) fn pump_together(&mut self, now: Instant) {
        while let Some(mut batch) = self.together.pop_front() {
            let (count, bytes) = self.passing(&batch.messages);
            if count == 0 {
                return self.together.push_front(batch);
            }
            self.waiting_bytes -= bytes;
            self.acknowledged_bytes += bytes;
            self.acknowledged_count += count;
            let tally = &mut self.turn.get().tally;
            tally.queue_messages -= count as i64;
            tally.queue_bytes -= bytes as i64;
            tally.inflight += count as i64;
            // All of them are within a bound that this can tell, but for one that goes alone.
            let size = |message| u32::try_from(size_of(message)).unwrap_or(u32::MAX - 1);
            let sizes = batch.messages.iter().take(count).map(size);
            let (end, order) = (batch.end(0), batch.order);
            let runs = &mut self.inflight.unacknowledged;
            let first = runs.push_all(sizes, end, order, batch.claim, now);
            for (token, message) in (first..).zip(batch.messages.drain(..count)) {
                let size = size_of(&message);
                self.hand_on_as(token, message, size, None);
            }
            batch.index += count;
            batch.order += count as u64;
            if !batch.messages.is_empty() {
                return self.together.push_front(batch);
            }
            keep_batch_storage(batch.messages.into());
        }
        if self.together.capacity() > 0 {
            self.together = VecDeque::new();
        }
    }

    /// How many of the first of these may go, and their bytes.
    fn passing(&self, messages: &VecDeque<Rendered>) -> (usize, usize) {
        let room = self.window.unwrap_or(0);
        let room = room.saturating_sub(self.acknowledged_count);
        let (mut count, mut bytes) = (0, 0);
        for message in messages.iter().take(room) {
            let size = size_of(message);
            let is_alone = self.acknowledged_count + count == 0;
            if !is_alone && self.acknowledged_bytes + bytes + size > INFLIGHT_BYTES_MAX {
                break;
            }
            count += 1;
            bytes += size;
        }
        (count, bytes)
    }
}
