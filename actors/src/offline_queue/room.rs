//! Room that a caller took and the queue does not have yet.

use std::sync::Arc;

use super::Submission;
use super::intake::Intake;
use crate::link::Rung;

/// Given back on drop: that of the link, and where callers take of the fleet's as well, as much of it.
pub(crate) struct Room<'a> {
    intake: &'a Intake,
    pub(super) messages: u32,
    pub(super) bytes: u32,
}

/// The same for a submission that outlives its caller: the store has it.
pub(crate) struct OwnedRoom {
    intake: Arc<Intake>,
    messages: u32,
    bytes: u32,
}

impl<'a> Room<'a> {
    pub(super) const fn new(intake: &'a Intake, messages: u32, bytes: u32) -> Self {
        Self {
            intake,
            messages,
            bytes,
        }
    }

    /// The room for as long as `intake`, which it is of, is there.
    pub(crate) fn into_owned(mut self, intake: &Arc<Intake>) -> OwnedRoom {
        intake.lock().recording += 1;
        OwnedRoom {
            intake: Arc::clone(intake),
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    /// How many messages it is for.
    pub(crate) const fn messages(&self) -> usize {
        self.messages as usize
    }

    /// For room that nobody has yet, or that somebody else gives back.
    pub(super) fn forget(self) {
        std::mem::forget(self);
    }

    /// Its caller waits no more: it was granted and is given back, or those behind get their chance.
    pub(super) fn give_up(self, number: u64) {
        let granted = {
            let mut state = self.intake.lock();
            if !state.leave(number) {
                state.give_back_unused(self.messages, self.bytes);
            }
            state.grant()
        };
        let intake = self.intake;
        self.forget();
        intake.tell(granted);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.messages == 0 {
            return;
        }
        let granted = {
            let mut state = self.intake.lock();
            state.give_back_unused(self.messages, self.bytes);
            state.grant()
        };
        self.intake.tell(granted);
    }
}

impl OwnedRoom {
    /// Hands the submission over for which the room was taken, also when callers bring nothing new any more.
    pub(super) fn push(mut self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.intake.lock();
        if state.is_over {
            return Err(submission);
        }
        state.push(submission, self.messages, self.bytes);
        drop(state);
        self.messages = 0;
        self.bytes = 0;
        Ok(())
    }
}

impl Drop for OwnedRoom {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.intake.lock();
            state.recording -= 1;
            state.give_back_unused(self.messages, self.bytes);
            state.grant()
        };
        self.intake.tell(granted);
        // Whether it was pushed or given up: a queue that drains waits for it.
        self.intake.bell.ring(Rung::INTAKE);
    }
}
