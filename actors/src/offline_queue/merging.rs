//! Reports of state that wait: only the latest value of each key is worth sending.

use bytes::Bytes;
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::document::merge_patches;

use super::{Claim, End, OfflineQueue, StoredId, Waiting, size_of};
use crate::receipt::Outcome;

/// Longest payload that reports are put together to: servers and clouds that take less say so.
const MERGED_BYTES_MAX: usize = 64 * 1024;

impl OfflineQueue {
    /// Puts a report together with one that waits: that one ends as merged, and this one takes its place with the
    /// values of both. Gives it back when there is none that it can be put together with.
    pub(super) fn merge(
        &mut self,
        message: Rendered,
        end: End,
        claim: Claim,
        stored: Option<StoredId>,
    ) -> Result<(), (Rendered, End)> {
        if !message.merges {
            return Err((message, end));
        }
        let is_alike = |waiting: &Waiting| waiting.can_take(&message, stored.is_some());
        let Some(place) = self.waiting.iter().rposition(is_alike) else {
            return Err((message, end));
        };
        let older = &mut self.waiting[place];
        let Some(payload) = merge_patches(&older.message.payload, &message.payload) else {
            return Err((message, end));
        };
        let capabilities = self.link.profile.dialect.capabilities();
        let payload_max = capabilities.payload_max.unwrap_or(usize::MAX);
        if payload.len() > payload_max.min(MERGED_BYTES_MAX) {
            return Err((message, end));
        }
        let size_before = older.size();
        older.message.payload = Bytes::from(payload);
        let older_end = std::mem::replace(&mut older.end, end);
        let (size, kept_id) = (older.size(), older.stored);
        let claims = [older.claim, claim];
        self.note_taken(size_before);
        self.note_waiting(size);
        self.free_room_of_merged([size_before, size_of(&message)], size, claims);
        if let (Some(kept), Some(gone), Some(durable)) =
            (kept_id, stored, self.link.durable.as_deref())
        {
            durable.merge(kept, gone, &self.waiting[place].message);
        }
        let turn = self.turn.get();
        turn.tally.ended(&Outcome::Merged);
        turn.endings.note(older_end, Outcome::Merged);
        Ok(())
    }

    /// Where both had room, one message is left; the older one may have had none, and is left without.
    fn free_room_of_merged(&mut self, before: [usize; 2], after: usize, claims: [Claim; 2]) {
        let cost = |size| self.link.intake.cost(size) as usize;
        let [older, newer] = before.map(cost);
        let after = cost(after);
        // What is left is larger than what was there where only the older one had room.
        let rest = |claims: [bool; 2]| match claims {
            [true, true] => (1, (older + newer).saturating_sub(after), 0),
            [true, false] => (0, older.saturating_sub(after), after.saturating_sub(older)),
            [false, true] => (1, newer, 0),
            [false, false] => (0, 0, 0),
        };
        let (link_messages, link_bytes, _) = rest(claims.map(|claim| claim.link));
        let (messages, bytes, missing) = rest(claims.map(|claim| claim.fleet));
        if missing > 0 {
            self.link.intake.occupy_fleet(0, missing);
        }
        let turn = self.turn.get();
        turn.freed_messages += link_messages;
        turn.freed_bytes += link_bytes;
        turn.freed_fleet_messages += messages;
        turn.freed_fleet_bytes += bytes;
    }

    /// The oldest message that waits, for a younger one; reports of state go last, since each is the latest.
    pub(super) fn take_oldest(&mut self) -> Option<Waiting> {
        let is_spared = |waiting: &Waiting| waiting.message.merges;
        let place = self.waiting.iter().position(|waiting| !is_spared(waiting));
        let oldest = self.waiting.remove(place.unwrap_or(0))?;
        self.note_taken(oldest.size());
        Some(oldest)
    }
}

impl Waiting {
    /// Whether `message` may be put together with this one.
    fn can_take(&self, message: &Rendered, is_stored: bool) -> bool {
        let older = &self.message;
        older.merges
            && older.topic == message.topic
            && (older.qos, older.retain) == (message.qos, message.retain)
            && older.properties == message.properties
            && self.expires_at.is_none()
            && message.time_to_live.is_none()
            && self.stored.is_some() == is_stored
    }
}
