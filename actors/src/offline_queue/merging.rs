//! Reports of state that wait: only the latest value of each key is worth sending.

use bytes::Bytes;
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::document::merge_patches;

use super::{End, OfflineQueue, StoredId, Waiting, size_of};
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
        let (size, is_own, kept_id) = (older.size(), older.is_own, older.stored);
        self.note_taken(size_before);
        self.note_waiting(size);
        if self.gives_room_back_at_the_end() {
            self.free_room_of_merged([size_before, size_of(&message)], size, is_own);
        }
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

    /// Both had room, and one message is left. One that was recovered may have had none.
    fn free_room_of_merged(&mut self, before: [usize; 2], after: usize, is_own: bool) {
        let cost = |size| self.link.intake.cost(size) as usize;
        let [older, newer] = before.map(cost);
        let (after, older) = if is_own { (0, 0) } else { (cost(after), older) };
        let turn = self.turn.get();
        turn.freed_messages += 1;
        turn.freed_bytes += (older + newer).saturating_sub(after);
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
