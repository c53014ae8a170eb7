//! Where callers hand messages to a link: credit first, then a list that the queue takes whole.
//!
//! A bounded channel would allocate its places for every idle link and wake the queue for each message.
//! Here the room is counted under the lock of the list, the list grows on demand, and what came while the queue was busy is taken in
//! one turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Context as TaskContext;
use std::time::{Duration, Instant};

use paquebot_protocols::dialect::Rendered;

use super::ending::{BatchEnd, End, Endings};
use super::lists::submission_list;
use super::room::Room;
use super::share::Share;
use super::waiters::{Waiter, Waiters, Waiting};
use super::{FleetRoom, OfflineQueue, OutboxConfig, StoredId, Tally};
use crate::link::{Bell, Context, Rung};
use crate::metrics::GroupMetrics;
use crate::receipt::{BatchSender, Outcome, ReceiptSender};

/// A message by itself and who is told how it ends.
pub(crate) type Single = (Rendered, Option<ReceiptSender>);

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
    /// The link has no room now.
    Full,
    /// The fleet has no room now, and the link has.
    FleetFull,
    /// The link takes nothing any more.
    Stopped,
}

/// The callers' side of a link's queue.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    /// Wakes the link's task.
    pub(crate) bell: Bell,
    /// The link's bounds, or the fleet's where those are narrower.
    messages_max: u32,
    /// What one message counts at the most too, so that a larger one fits when nothing else is held.
    bytes_max: u32,
    /// The room that all links of the fleet share.
    fleet: Option<Arc<FleetRoom>>,
    /// Milliseconds from the process's first question to the acceptance of the oldest message that
    /// waits, plus one; 0 while none waits.
    oldest: AtomicU64,
}

#[derive(Debug)]
pub(super) struct State {
    submissions: Vec<Submission>,
    /// Room for messages and for their bytes. A caller takes it, the queue gives it back.
    free_messages: u32,
    free_bytes: u32,
    /// Callers who wait for room, in the order of asking.
    waiters: Option<Box<Waiters>>,
    /// The link's part in the fleet's room.
    share: Option<Box<Share>>,
    /// Submissions that the store has and will put in here, or give up.
    pub(super) recording: usize,
    /// Callers take of the fleet's room what they take of the link's; else the queue does when it admits.
    callers_take_share: bool,
    /// Callers bring nothing new.
    is_closed: bool,
    /// Nobody takes anything any more.
    pub(super) is_over: bool,
}

impl Intake {
    /// `room` is that of the fleet, of which this link takes its part too.
    pub(crate) fn new(config: &OutboxConfig, room: Option<&Arc<FleetRoom>>) -> Arc<Self> {
        let limit = |own: usize, of_fleet: fn(&FleetRoom) -> usize| {
            let max = room.map_or(own, |room| own.min(of_fleet(room)));
            u32::try_from(max.max(1)).unwrap_or(u32::MAX)
        };
        let messages_max = limit(config.messages_max, FleetRoom::messages_max);
        let bytes_max = limit(config.bytes_max, FleetRoom::bytes_max);
        let max = (messages_max, bytes_max);
        Arc::new_cyclic(|intake| Self {
            state: Mutex::new(State {
                submissions: Vec::new(),
                free_messages: messages_max,
                free_bytes: bytes_max,
                waiters: None,
                share: room
                    .map(|room| Box::new(Share::new(Arc::clone(room), Weak::clone(intake), max))),
                callers_take_share: config.overflow.holds_room(),
                recording: 0,
                is_closed: false,
                is_over: false,
            }),
            bell: Bell::default(),
            messages_max,
            bytes_max,
            fleet: room.map(Arc::clone),
            oldest: AtomicU64::new(0),
        })
    }

    /// What a message of `size` bytes takes of the room.
    pub(crate) fn cost(&self, size: usize) -> u32 {
        u32::try_from(size).map_or(self.bytes_max, |size| size.min(self.bytes_max))
    }

    /// The most bytes that can be taken at once.
    pub(crate) const fn cost_max(&self) -> u32 {
        self.bytes_max
    }

    /// The most messages that room can be taken for at once.
    pub(crate) const fn count_max(&self) -> u32 {
        self.messages_max
    }

    /// The room that all links of the fleet share.
    pub(crate) fn fleet(&self) -> Option<&FleetRoom> {
        self.fleet.as_deref()
    }

    /// Waits for room, in the order of asking.
    pub(crate) async fn take_room(&self, messages: u32, bytes: u32) -> Result<Room<'_>, Refused> {
        let room = Room::new(self, messages, bytes);
        let (waiting, granted) = {
            let mut state = self.lock();
            match state.take_room(messages, bytes) {
                Ok(()) => return Ok(room),
                Err(Refused::Full | Refused::FleetFull) => {
                    let waiting = state.wait(room);
                    (Ok(waiting), state.grant())
                }
                Err(Refused::Stopped) => (Err(room), Vec::new()),
            }
        };
        self.tell(granted);
        match waiting {
            Ok(waiting) => waiting.granted().await,
            Err(room) => {
                room.forget();
                Err(Refused::Stopped)
            }
        }
    }

    pub(crate) fn try_take_room(&self, messages: u32, bytes: u32) -> Result<Room<'_>, Refused> {
        let taken = self.lock().take_room(messages, bytes);
        match taken {
            Ok(()) => Ok(Room::new(self, messages, bytes)),
            Err(refused) => Err(self.refused(refused)),
        }
    }

    /// Hands a submission over for which `room` was taken.
    pub(crate) fn push(&self, submission: Submission, room: Room<'_>) -> Result<(), Submission> {
        let state = self.lock();
        if state.is_closed {
            return Err(submission);
        }
        let (messages, bytes) = (room.messages, room.bytes);
        room.forget();
        self.push_locked(state, submission, messages, bytes);
        Ok(())
    }

    /// Takes room for one message and hands it over in one step, if there is room now; else it stays where it is.
    #[inline]
    pub(crate) fn try_push(&self, single: &mut Option<Single>) -> Result<(), Refused> {
        let Some((message, _)) = single else {
            return Ok(());
        };
        let bytes = self.cost(size_of(message));
        let mut state = self.lock();
        if let Err(refused) = state.take_room(1, bytes) {
            drop(state);
            return Err(self.refused(refused));
        }
        if let Some((message, receipt)) = single.take() {
            self.push_locked(state, Submission::One(message, receipt), 1, bytes);
        }
        Ok(())
    }

    // A call would move the message to a place of its own first.
    #[inline(always)]
    fn push_locked(
        &self,
        mut state: MutexGuard<'_, State>,
        submission: Submission,
        messages: u32,
        bytes: u32,
    ) {
        let is_first = state.push(submission, messages, bytes);
        drop(state);
        // For those behind it the queue was told, and has not looked yet.
        if is_first {
            self.bell.ring(Rung::INTAKE);
        }
    }

    /// Who was refused may have had a part of the fleet's room for a moment, which others missed.
    #[cold]
    fn refused(&self, refused: Refused) -> Refused {
        if let (Refused::FleetFull, Some(room)) = (&refused, &self.fleet) {
            room.serve();
        }
        refused
    }

    /// Takes room for what was recovered; `false` when there is not enough of it left.
    pub(super) fn occupy(&self, size: usize) -> bool {
        let mut state = self.lock();
        let fits = state.fits(1, self.cost(size));
        if fits {
            state.free_messages -= 1;
            state.free_bytes -= self.cost(size);
        }
        fits
    }

    /// Counts what the queue has against the fleet's room, whatever its limits say.
    pub(super) fn occupy_fleet(&self, messages: usize, bytes: usize) {
        if let Some(share) = &mut self.lock().share {
            share.room().occupy(messages as u64, bytes as u64);
            share.hold(messages as u64, bytes as u64);
        }
    }

    /// Takes the fleet's room for a message that the queue admits, where callers do not.
    pub(super) fn try_take_fleet(&self, bytes: u32) -> bool {
        let Some(room) = &self.fleet else {
            return true;
        };
        let is_taken = room.try_take(1, bytes);
        if is_taken {
            if let Some(share) = &mut self.lock().share {
                share.hold(1, u64::from(bytes));
            }
        } else {
            room.serve();
        }
        is_taken
    }

    /// Gives room back.
    pub(crate) fn give_back(&self, messages: usize, bytes: usize) {
        if messages == 0 && bytes == 0 {
            return;
        }
        let granted = {
            let mut state = self.lock();
            state.give_back(messages, bytes);
            state.grant()
        };
        self.tell(granted);
    }

    /// Gives the fleet's room back that the queue has for messages that have ended.
    pub(super) fn give_back_fleet(&self, messages: usize, bytes: usize) {
        self.release(|share| share.release(messages as u64, bytes as u64));
    }

    /// Gives back what is left of the fleet's room, whatever became of the messages: the link is over.
    pub(crate) fn leave_fleet(&self) {
        self.release(Share::release_all);
    }

    fn release(&self, release: impl FnOnce(&mut Share) -> (u64, u64)) {
        let Some(room) = &self.fleet else {
            return;
        };
        let released = self.lock().share.as_deref_mut().map(release);
        let (messages, bytes) = released.unwrap_or_default();
        room.free(messages, bytes);
        room.serve();
    }

    /// The link's turn has come in the fleet's line; gives back what none of its callers wants.
    pub(super) fn take_granted(&self, messages: u32, bytes: u32) -> (u32, u32) {
        let (granted, unused) = {
            let mut state = self.lock();
            let (first, unused) = match state.grant_first(messages, bytes) {
                Some(first) => {
                    let unused = (messages - first.messages, bytes - first.bytes);
                    (Some(first), unused)
                }
                None => (None, (messages, bytes)),
            };
            let others = state.grant();
            (first.into_iter().chain(others).collect::<Vec<_>>(), unused)
        };
        // The rest of the line is for the one who calls this.
        for waiter in granted {
            waiter.tell();
        }
        unused
    }

    /// Tells who was granted room. Not while the lock is held: who is woken may want it.
    pub(super) fn tell(&self, granted: Vec<Waiter>) {
        for waiter in granted {
            waiter.tell();
        }
        if let Some(room) = &self.fleet {
            room.serve();
        }
    }

    /// Takes nothing more; who waits for room hears that the link is stopped.
    pub(crate) fn close(&self) {
        let dismissed = {
            let mut state = self.lock();
            state.is_closed = true;
            if let Some(share) = &mut state.share {
                share.leave_line();
            }
            state.waiters.as_mut().map(|waiters| waiters.dismiss())
        };
        drop(dismissed);
        self.tell(Vec::new());
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

    /// Takes what has come; the next submission rings.
    pub(super) fn take(&self) -> VecDeque<Submission> {
        std::mem::take(&mut self.lock().submissions).into()
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// `true` when nothing was there.
    #[inline(always)]
    pub(super) fn push(&mut self, submission: Submission, messages: u32, bytes: u32) -> bool {
        let is_first = self.submissions.is_empty();
        if self.submissions.capacity() == 0 {
            self.submissions = submission_list();
        }
        self.submissions.push(submission);
        if let Some(share) = self.callers_share() {
            share.hold(u64::from(messages), u64::from(bytes));
        }
        is_first
    }

    /// The link's part in the fleet's room, where callers take of it.
    fn callers_share(&mut self) -> Option<&mut Share> {
        let callers_take = self.callers_take_share;
        self.share.as_deref_mut().filter(|_| callers_take)
    }

    /// Takes room that is there and that nobody waits for: the link's, then the fleet's.
    #[inline]
    fn take_room(&mut self, messages: u32, bytes: u32) -> Result<(), Refused> {
        if self.is_closed {
            return Err(Refused::Stopped);
        }
        if self.waiters.is_some() || !self.fits(messages, bytes) || self.is_held_up(messages, bytes)
        {
            let waits_for_fleet = self.share.as_ref().is_some_and(|share| share.is_waiting());
            return Err(if waits_for_fleet {
                Refused::FleetFull
            } else {
                Refused::Full
            });
        }
        if let Some(share) = self.callers_share()
            && !share.room().try_take(messages, bytes)
        {
            return Err(Refused::FleetFull);
        }
        self.free_messages -= messages;
        self.free_bytes -= bytes;
        Ok(())
    }

    const fn fits(&self, messages: u32, bytes: u32) -> bool {
        self.free_messages >= messages && self.free_bytes >= bytes
    }

    /// Whether the queue has to look first at what was handed over. Room that is not free is just that, where the queue
    /// takes the fleet's.
    fn is_held_up(&self, messages: u32, bytes: u32) -> bool {
        let free = (self.free_messages, self.free_bytes);
        let share = self.share.as_deref();
        !self.callers_take_share
            && share.is_some_and(|share| share.holds_up(free, (messages, bytes)))
    }

    fn give_back(&mut self, messages: usize, bytes: usize) {
        let add =
            |free: u32, more: usize| free.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.free_messages = add(self.free_messages, messages);
        self.free_bytes = add(self.free_bytes, bytes);
    }

    /// Gives back what a caller took and the queue never had.
    pub(super) fn give_back_unused(&mut self, messages: u32, bytes: u32) {
        self.give_back(messages as usize, bytes as usize);
        if let Some(share) = self.callers_share() {
            share.room().free(u64::from(messages), u64::from(bytes));
        }
    }

    fn wait<'a>(&mut self, room: Room<'a>) -> Waiting<'a> {
        let waiters = self.waiters.get_or_insert_default();
        waiters.join(room)
    }

    /// A caller waits no more; `false` if it was granted room before.
    pub(super) fn leave(&mut self, number: u64) -> bool {
        let waiters = self.waiters.as_mut();
        waiters.is_some_and(|waiters| waiters.remove(number))
    }

    /// Takes room for those who waited longest, as far as it goes. Who comes first waits in the fleet's line if it is
    /// the fleet's room that is missing.
    pub(super) fn grant(&mut self) -> Vec<Waiter> {
        let mut granted = Vec::new();
        if self.waiters.is_none() {
            return granted;
        }
        let mut waits_for_fleet = false;
        while let Some((messages, bytes)) = self.first_wanted() {
            if !self.fits(messages, bytes) || self.is_held_up(messages, bytes) {
                break;
            }
            let is_taken = match self.callers_share() {
                Some(share) => share.take_or_wait(messages, bytes),
                None => true,
            };
            if !is_taken {
                waits_for_fleet = true;
                break;
            }
            granted.extend(self.pop_waiter());
        }
        if !waits_for_fleet && let Some(share) = &mut self.share {
            share.leave_line();
        }
        if self
            .waiters
            .as_ref()
            .is_some_and(|waiters| waiters.is_over())
        {
            self.waiters = None;
        }
        granted
    }

    /// Grants the first caller what the fleet's line took for it, if it wants no more than that.
    fn grant_first(&mut self, messages: u32, bytes: u32) -> Option<Waiter> {
        if let Some(share) = &mut self.share {
            share.note_granted();
        }
        let (wanted_messages, wanted_bytes) = self.first_wanted()?;
        let is_enough = wanted_messages <= messages && wanted_bytes <= bytes;
        if !is_enough || !self.fits(wanted_messages, wanted_bytes) {
            return None;
        }
        self.pop_waiter()
    }

    fn first_wanted(&self) -> Option<(u32, u32)> {
        self.waiters.as_ref()?.first_wanted()
    }

    fn pop_waiter(&mut self) -> Option<Waiter> {
        let waiter = self.waiters.as_mut()?.pop()?;
        self.free_messages -= waiter.messages;
        self.free_bytes -= waiter.bytes;
        Some(waiter)
    }
}

/// A fixed point in time, so that instants fit an atomic.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl OfflineQueue {
    /// Brings what callers hand over to the queue, unless the others have their turn.
    pub(crate) fn take_intake(&mut self, ctx: &mut Context<Self>, cx: &mut TaskContext<'_>) {
        if !self.pause.is_on() && self.take_submissions(ctx) {
            self.pause.begin(cx.waker());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Poll, Waker};

    use super::*;

    fn intake(messages_max: usize, bytes_max: usize) -> Arc<Intake> {
        let config = OutboxConfig {
            messages_max,
            bytes_max,
            ..OutboxConfig::default()
        };
        Intake::new(&config, None)
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
    fn who_waits_gets_room_in_the_order_of_asking_and_who_gives_up_lets_the_next_have_it() {
        let intake = intake(4, 10);
        let mut cx = TaskContext::from_waker(Waker::noop());
        let all = intake.try_take_room(1, 10).ok();
        let mut large = Box::pin(intake.take_room(1, 8));
        let mut small = Box::pin(intake.take_room(1, 2));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        assert!(small.as_mut().poll(&mut cx).is_pending());
        intake.give_back(0, 4);
        assert!(small.as_mut().poll(&mut cx).is_pending(), "it overtook");
        assert!(intake.try_take_room(1, 1).is_err(), "it overtook");
        drop(large);
        let Poll::Ready(Ok(two)) = small.as_mut().poll(&mut cx) else {
            panic!("the one before gave up");
        };
        assert!(intake.try_take_room(1, 2).is_ok());
        drop((two, small));
        assert!(intake.try_take_room(1, 4).is_ok());
        assert!(intake.try_take_room(1, 5).is_err());

        let mut granted = Box::pin(intake.take_room(1, 10));
        assert!(granted.as_mut().poll(&mut cx).is_pending());
        // The first four bytes were given back before.
        std::mem::forget(all);
        intake.give_back(1, 6);
        drop(granted);
        assert!(
            intake.try_take_room(4, 10).is_ok(),
            "what was granted was lost"
        );

        let mut last = Box::pin(intake.take_room(5, 1));
        assert!(last.as_mut().poll(&mut cx).is_pending());
        intake.close();
        let stopped = last.as_mut().poll(&mut cx);
        assert!(matches!(stopped, Poll::Ready(Err(Refused::Stopped))));
    }

    #[test]
    fn who_was_granted_room_and_leaves_takes_nobody_along_who_waits_since() {
        let intake = intake(1, 10);
        let mut cx = TaskContext::from_waker(Waker::noop());
        let all = intake.try_take_room(1, 10).ok();
        let mut granted = Box::pin(intake.take_room(1, 10));
        assert!(granted.as_mut().poll(&mut cx).is_pending());
        drop(all);
        let mut next = Box::pin(intake.take_room(1, 10));
        assert!(next.as_mut().poll(&mut cx).is_pending());
        drop(granted);
        assert!(matches!(next.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }

    #[test]
    fn a_recording_that_is_given_up_gives_its_room_to_who_waits_and_has_the_queue_look_again() {
        let intake = intake(1, 10);
        let mut cx = TaskContext::from_waker(Waker::noop());
        let room = intake.try_take_room(1, 10).ok().unwrap();
        let recording = room.into_owned(&intake);
        let mut waits = Box::pin(intake.take_room(1, 10));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        assert!(!intake.is_done(), "the store has a message");
        intake.bell.answer(Waker::noop());
        drop(recording);
        assert!(intake.bell.has_rung(Rung::INTAKE));
        assert!(matches!(waits.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
        assert!(intake.is_done());
    }

    #[test]
    fn what_was_recorded_is_taken_after_the_last_call_and_not_after_the_end() {
        let intake = intake(2, 10);
        let rooms = [0; 2].map(|_| intake.try_take_room(1, 5).ok().unwrap());
        let [early, late] = rooms.map(|room| room.into_owned(&intake));
        intake.close();
        let submission = || Submission::Batch(Vec::new(), None);
        assert!(early.push(submission()).is_ok());
        assert!(!intake.is_done());
        assert_eq!(intake.take().len(), 1);
        assert!(!intake.is_done(), "the store has another");
        intake.end();
        assert!(late.push(submission()).is_err());
        assert!(intake.is_done());
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
