//! A link's part in the room of its fleet.

use std::sync::{Arc, Weak};

use super::{FleetRoom, Intake};

/// Most messages that the callers of a link hand over before its queue has looked at them, where the queue takes the room
/// for them and there is none.
const UNSEEN_MESSAGES_MAX: u32 = 64;

/// The same for bytes of topics and payloads; one message always may be.
const UNSEEN_BYTES_MAX: u32 = 64 * 1024;

/// Under the lock of the link's intake.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<FleetRoom>,
    intake: Weak<Intake>,
    /// The link's own room, messages and bytes.
    own_max: (u32, u32),
    /// What was handed over with room in it, and what the queue took: given back when the link ends, whatever
    /// became of the messages.
    messages: u64,
    bytes: u64,
    /// The link's place in the line, while its first caller waits for this room and not for the link's own.
    place: Option<u64>,
}

impl Share {
    pub(super) fn new(room: Arc<FleetRoom>, intake: Weak<Intake>, own_max: (u32, u32)) -> Self {
        Self {
            room,
            intake,
            own_max,
            messages: 0,
            bytes: 0,
            place: None,
        }
    }

    pub(super) fn room(&self) -> &FleetRoom {
        &self.room
    }

    /// Whether a caller has to wait until the queue has looked at what was handed over, because it may have to drop
    /// that: `free` is the link's own room, and both are messages and bytes.
    pub(super) fn holds_up(&self, free: (u32, u32), wanted: (u32, u32)) -> bool {
        let unseen = (
            self.own_max.0.saturating_sub(free.0),
            self.own_max.1.saturating_sub(free.1),
        );
        (unseen.0 >= UNSEEN_MESSAGES_MAX || unseen.1 >= UNSEEN_BYTES_MAX)
            && !self.room.has_room(wanted.0, wanted.1)
    }

    /// Whether callers of the link wait for the fleet's room.
    pub(super) const fn is_waiting(&self) -> bool {
        self.place.is_some()
    }

    /// Room that was taken is the queue's from here on.
    pub(super) fn hold(&mut self, messages: u64, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
    }

    /// What the queue gives back of it, never more than it has.
    pub(super) fn release(&mut self, messages: u64, bytes: u64) -> (u64, u64) {
        let (messages, bytes) = (messages.min(self.messages), bytes.min(self.bytes));
        self.messages -= messages;
        self.bytes -= bytes;
        (messages, bytes)
    }

    /// Everything that the queue has.
    pub(super) fn release_all(&mut self) -> (u64, u64) {
        self.release(self.messages, self.bytes)
    }

    /// Takes room for the first of the link's callers, or has the link wait for it in the line.
    pub(super) fn take_or_wait(&mut self, messages: u32, bytes: u32) -> bool {
        if let Some(place) = self.place {
            self.room.change(place, messages, bytes);
            return false;
        }
        if self.room.try_take(messages, bytes) {
            return true;
        }
        let intake = Weak::clone(&self.intake);
        self.place = Some(self.room.join(intake, messages, bytes));
        false
    }

    /// The link left the line because its turn had come.
    pub(super) fn note_granted(&mut self) {
        self.place = None;
    }

    /// None of the link's callers waits for this room.
    pub(super) fn leave_line(&mut self) {
        if let Some(place) = self.place.take() {
            self.room.withdraw(place);
        }
    }
}
