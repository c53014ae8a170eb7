//! Where callers hand messages to a link: credit first, then a list that the queue takes whole.
//!
//! A bounded channel would allocate its places for every idle link and wake the queue for each message.
//! Here the room is counted, the list grows on demand, and what came while the queue was busy is taken in
//! one turn.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use actix::Context;
use actix::fut::ActorFuture;
use paquebot_protocols::dialect::Rendered;
use tokio::sync::{Semaphore, TryAcquireError};

use super::ending::{BatchEnd, End, Endings};
use super::{OfflineQueue, OutboxConfig, StoredId, Tally};
use crate::metrics::GroupMetrics;
use crate::pause::Pause;
use crate::receipt::{BatchSender, Outcome, ReceiptSender};

/// What one call of a caller brought.
#[derive(Debug)]
pub(crate) enum Submission {
    /// One message.
    One(Rendered, Option<ReceiptSender>),
    /// Several, in order.
    Batch(Vec<Rendered>, Option<BatchSender>),
    /// One of the others, of which the store has those above QoS 0, under ids from this one on.
    Recorded(Box<Self>, StoredId),
}

impl Submission {
    pub(super) fn len(&self) -> usize {
        self.messages().len()
    }

    pub(super) fn messages(&self) -> &[Rendered] {
        match self {
            Self::One(message, _) => std::slice::from_ref(message),
            Self::Batch(messages, _) => messages,
            Self::Recorded(submission, _) => submission.messages(),
        }
    }

    /// What was to be recorded.
    pub(super) fn unrecorded(self) -> Self {
        match self {
            Self::Recorded(submission, _) => submission.unrecorded(),
            other => other,
        }
    }

    /// Ends messages that no queue takes: accepted, and ended as `outcome` says.
    pub(super) fn end_untaken(
        self,
        metrics: &GroupMetrics,
        outcome: impl Fn(&Rendered) -> Outcome,
    ) {
        let mut tally = Tally::default();
        let mut endings = Endings::default();
        let mut end = |message: &Rendered, end| {
            let outcome = outcome(message);
            tally.accepted += 1;
            tally.ended(&outcome);
            endings.note(end, outcome);
        };
        match self.unrecorded() {
            Self::One(message, receipt) => {
                end(&message, receipt.map_or(End::Untold, End::One));
            }
            Self::Batch(messages, sender) => {
                let batch = sender.map(|sender| BatchEnd::new(sender, messages.len()));
                for (index, message) in (0..).zip(&messages) {
                    end(
                        message,
                        batch.clone().map_or(End::Untold, |b| End::Of(b, index)),
                    );
                }
            }
            Self::Recorded(..) => {}
        }
        metrics.record(&mut tally);
        endings.tell();
    }
}

/// What a message counts against the byte limits: topic and payload.
pub(crate) fn size_of(message: &Rendered) -> usize {
    message.topic.as_str().len() + message.payload.len()
}

/// Why a submission was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is no room now.
    Full,
    /// The link takes nothing any more.
    Stopped,
}

/// The callers' side of a link's queue.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Room for messages and for their bytes. A caller takes it, the queue gives it back.
    messages: Semaphore,
    bytes: Semaphore,
    /// What one message counts at the most, so that a larger one fits when nothing else is held.
    bytes_max: u32,
    state: Mutex<State>,
    /// Milliseconds from the process's first question to the acceptance of the oldest message that
    /// waits, plus one; 0 while none waits.
    oldest: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    submissions: Vec<Submission>,
    /// The queue, when it found nothing.
    waker: Option<Waker>,
    /// Submissions that the store has and will put in here, or give up.
    recording: usize,
    /// Callers bring nothing new.
    is_closed: bool,
    /// Nobody takes anything any more.
    is_over: bool,
}

/// Room that a caller took and the queue does not have yet; given back on drop.
pub(crate) struct Room<'a> {
    intake: &'a Intake,
    messages: u32,
    bytes: u32,
}

/// The same for a submission that outlives its caller: the store has it.
pub(crate) struct OwnedRoom {
    intake: Arc<Intake>,
    messages: u32,
    bytes: u32,
}

impl OwnedRoom {
    /// Hands the submission over for which the room was taken, also when callers bring nothing new any more.
    pub(super) fn push(mut self, submission: Submission) -> Result<(), Submission> {
        let intake = Arc::clone(&self.intake);
        let mut state = intake.lock();
        if state.is_over {
            return Err(submission);
        }
        self.messages = 0;
        self.bytes = 0;
        state.submissions.push(submission);
        Ok(())
    }
}

impl Drop for OwnedRoom {
    fn drop(&mut self) {
        self.intake
            .give_back(self.messages as usize, self.bytes as usize);
        let waker = {
            let mut state = self.intake.lock();
            state.recording -= 1;
            state.waker.take()
        };
        // Whether it was pushed or given up: a queue that drains waits for it.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Room<'_> {
    /// The room for as long as `intake`, which it is of, is there.
    pub(crate) fn into_owned(mut self, intake: &Arc<Intake>) -> OwnedRoom {
        intake.lock().recording += 1;
        OwnedRoom {
            intake: Arc::clone(intake),
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl Intake {
    pub(crate) fn new(config: &OutboxConfig) -> Self {
        let bytes_max = config.bytes_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let messages_max = config.messages_max.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            messages: Semaphore::new(messages_max),
            bytes: Semaphore::new(bytes_max as usize),
            bytes_max,
            state: Mutex::default(),
            oldest: AtomicU64::new(0),
        }
    }

    /// What a message of `size` bytes takes of the room.
    pub(crate) fn cost(&self, size: usize) -> u32 {
        u32::try_from(size).map_or(self.bytes_max, |size| size.min(self.bytes_max))
    }

    /// The most bytes that can be taken at once.
    pub(crate) const fn cost_max(&self) -> u32 {
        self.bytes_max
    }

    /// Waits for room, in the order of asking.
    pub(crate) async fn take_room(&self, messages: u32, bytes: u32) -> Result<Room<'_>, Refused> {
        if let Ok(room) = self.try_take_room(messages, bytes) {
            return Ok(room);
        }
        let mut room = Room {
            intake: self,
            messages: 0,
            bytes: 0,
        };
        let permit = self.messages.acquire_many(messages).await;
        permit.map_err(|_| Refused::Stopped)?.forget();
        room.messages = messages;
        let permit = self.bytes.acquire_many(bytes).await;
        permit.map_err(|_| Refused::Stopped)?.forget();
        room.bytes = bytes;
        Ok(room)
    }

    pub(crate) fn try_take_room(&self, messages: u32, bytes: u32) -> Result<Room<'_>, Refused> {
        let refused = |error| match error {
            TryAcquireError::NoPermits => Refused::Full,
            TryAcquireError::Closed => Refused::Stopped,
        };
        let of_messages = self.messages.try_acquire_many(messages).map_err(refused)?;
        self.bytes
            .try_acquire_many(bytes)
            .map_err(refused)?
            .forget();
        of_messages.forget();
        Ok(Room {
            intake: self,
            messages,
            bytes,
        })
    }

    /// Hands a submission over for which `room` was taken.
    pub(crate) fn push(&self, submission: Submission, room: Room<'_>) -> Result<(), Submission> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(submission);
        }
        std::mem::forget(room);
        state.submissions.push(submission);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes room for what was recovered; `false` when there is not enough of it left.
    pub(super) fn occupy(&self, size: usize) -> bool {
        let room = self.try_take_room(1, self.cost(size));
        room.map(std::mem::forget).is_ok()
    }

    /// Gives room back.
    pub(crate) fn give_back(&self, messages: usize, bytes: usize) {
        if messages > 0 {
            self.messages.add_permits(messages);
        }
        if bytes > 0 {
            self.bytes.add_permits(bytes);
        }
    }

    /// Takes nothing more; who waits for room hears that the link is stopped.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.messages.close();
        self.bytes.close();
    }

    /// Nothing can be brought any more.
    pub(super) fn end(&self) {
        self.close();
        self.lock().is_over = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().submissions.is_empty()
    }

    /// Whether nothing is here and nothing that was accepted is on its way.
    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.submissions.is_empty() && state.recording == 0
    }

    /// Takes what has come; `waker` is kept for the next submission.
    pub(super) fn take(&self, waker: Option<&Waker>) -> VecDeque<Submission> {
        let mut state = self.lock();
        if let Some(waker) = waker {
            match &mut state.waker {
                Some(kept) => kept.clone_from(waker),
                None => state.waker = Some(waker.clone()),
            }
        }
        std::mem::take(&mut state.submissions).into()
    }

    pub(crate) fn set_oldest(&self, accepted_at: Option<Instant>) {
        let oldest = accepted_at.map_or(0, |at| {
            let since = at.saturating_duration_since(epoch()).as_millis();
            u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
        });
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    /// How long the oldest waiting message has waited.
    pub(crate) fn oldest_age(&self, now: Instant) -> Option<Duration> {
        let since = self.oldest.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            now.saturating_duration_since(epoch())
                .saturating_sub(Duration::from_millis(since)),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.intake
            .give_back(self.messages as usize, self.bytes as usize);
    }
}

/// A fixed point in time, so that instants fit an atomic.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Brings what callers hand over to the queue, for as long as the actor lives. Polled after each batch of
/// mailbox messages as well.
#[derive(Default)]
pub(super) struct TakeIntake {
    /// While more is there and the others have their turn.
    pause: Pause,
}

impl ActorFuture<OfflineQueue> for TakeIntake {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        queue: &mut OfflineQueue,
        ctx: &mut Context<OfflineQueue>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if !self.pause.is_on() && queue.take_submissions(cx.waker(), ctx) {
            self.pause.begin(cx.waker());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(messages_max: usize, bytes_max: usize) -> Intake {
        Intake::new(&OutboxConfig {
            messages_max,
            bytes_max,
            ..OutboxConfig::default()
        })
    }

    #[test]
    fn room_is_taken_up_to_the_limits_and_one_message_always_fits() {
        let intake = intake(2, 10);
        let large = intake.cost(11);
        let first = intake.try_take_room(1, large).ok();
        assert!(first.is_some());
        assert!(intake.try_take_room(1, 1).is_err());
        drop(first);
        let four = intake.try_take_room(1, 4).ok();
        assert!(intake.try_take_room(1, 7).is_err());
        let six = intake.try_take_room(1, 6).ok();
        assert!(six.is_some());
        assert!(intake.try_take_room(1, 0).is_err());
        drop((four, six));
        assert!(intake.try_take_room(2, 10).is_ok());
    }

    #[test]
    fn the_age_of_the_oldest_message_grows_until_none_waits() {
        let intake = intake(1, 1);
        let accepted = epoch() + Duration::from_secs(5);
        assert_eq!(intake.oldest_age(accepted), None);
        intake.set_oldest(Some(accepted));
        let later = accepted + Duration::from_secs(2);
        assert_eq!(intake.oldest_age(later), Some(Duration::from_secs(2)));
        intake.set_oldest(None);
        assert_eq!(intake.oldest_age(later), None);
    }
}
