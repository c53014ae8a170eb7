//! The sending half of a link, and the station of `bench pub` made of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use paquebot::mqtt::{QoS, Topic};
use paquebot::{Link, Outcome, Publish, Receipt, SendError};

use super::driver::{Progress, Station, Turn};
use super::payload::{Clock, Header, Payloads};
use super::schedule::Schedule;

/// Messages one link sends in a turn before the others have theirs.
const BURST_MAX: u32 = 256;

/// What the senders of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) schedule: Schedule,
    pub(super) clock: Clock,
    pub(super) run: u32,
    pub(super) qos: QoS,
    pub(super) size: usize,
    /// Closed loop: messages of a link under way at once.
    pub(super) window: usize,
}

/// Sends numbered messages on one topic and waits for their outcomes.
pub(super) struct Sender {
    link: Link,
    topic: Topic,
    index: u32,
    load: Load,
    payloads: Payloads,
    /// Every message's payload, if it is the user's own.
    own: Option<Bytes>,
    /// Messages begun, those of the warm-up too: places in the schedule.
    begun: u64,
    /// Messages begun that count.
    counted: u64,
    share: u64,
    /// Accepted messages in the order they were sent, which is the order servers acknowledge in: so only
    /// the first is waited for, and what is ready behind it is taken with it.
    under_way: VecDeque<UnderWay<Receipt>>,
    /// The message that waits for room in the link's queue.
    blocked: Option<UnderWay<Publishing>>,
    is_broken: bool,
}

type Publishing = Pin<Box<dyn Future<Output = Result<Receipt, SendError>> + Send>>;

struct UnderWay<T> {
    future: T,
    due: Instant,
    sent: Instant,
    counts: bool,
}

impl Sender {
    pub(super) fn new(link: Link, topic: Topic, index: u32, load: Load) -> Self {
        Self {
            link,
            topic,
            index,
            load,
            payloads: Payloads::new(load.size),
            own: None,
            begun: 0,
            counted: 0,
            share: load.schedule.share(index),
            under_way: VecDeque::new(),
            blocked: None,
            is_broken: false,
        }
    }

    /// Sends this and nothing else, for a receiver that knows nothing of a bench.
    pub(super) fn with_payload(mut self, own: Option<Bytes>) -> Self {
        self.own = own;
        self
    }

    /// Accepted messages whose outcome is open, and the one that waits.
    pub(super) fn open(&self) -> usize {
        self.under_way.len() + usize::from(self.blocked.is_some())
    }

    /// Messages that were begun, those of the warm-up too.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// Takes the outcomes that are there.
    pub(super) fn collect(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) {
        while let Some(first) = self.under_way.front_mut() {
            let outcome = match first.future.try_outcome() {
                Some(outcome) => outcome,
                None => match Pin::new(&mut first.future).poll(context) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => return,
                },
            };
            let (due, sent, counts) = (first.due, first.sent, first.counts);
            self.under_way.pop_front();
            turn.live.ended += 1;
            if counts {
                note_outcome(&outcome, due, sent, turn);
            }
        }
    }

    /// Sends what is due, or in a closed loop until `is_open` says no. Tells whether there will be more.
    pub(super) fn send(
        &mut self,
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
        is_open: impl Fn(&Self) -> bool,
    ) -> bool {
        if !self.unblock(turn, context) {
            return self.has_more_after_block(turn);
        }
        for _ in 0..BURST_MAX {
            if self.is_finished(turn) {
                return false;
            }
            let due = self.load.schedule.due(self.index, self.begun);
            let may_send = match due {
                Some(due) => due <= turn.now,
                None => is_open(self),
            };
            if !may_send {
                return true;
            }
            if !self.begin(due, turn, context) {
                return self.has_more_after_block(turn);
            }
        }
        context.waker().wake_by_ref();
        true
    }

    /// What was due before the end is sent even if this turn comes after it, as long as the link takes it.
    fn is_finished(&self, turn: &Turn<'_>) -> bool {
        let schedule = &self.load.schedule;
        self.is_broken
            || turn.is_closing
            || self.counted >= self.share
            || match (schedule.due(self.index, self.begun), schedule.end) {
                (Some(due), Some(end)) => due >= end,
                (None, _) => schedule.is_over(turn.now),
                (Some(_), None) => false,
            }
    }

    /// The link takes nothing now. At the end what waits is given up: it never was sent.
    fn has_more_after_block(&mut self, turn: &mut Turn<'_>) -> bool {
        let schedule = &self.load.schedule;
        if !(self.is_broken || turn.is_closing || schedule.is_over(turn.now)) {
            return true;
        }
        if let Some(blocked) = self.blocked.take() {
            // In a closed loop it was not due: it would have been sent when there was room.
            let was_due = blocked.counts && schedule.rate.is_some();
            turn.tally.counts.unsent += u64::from(was_due);
        }
        turn.tally.counts.unsent += self.arrears(turn.now);
        self.share = self.counted;
        false
    }

    /// Messages that were due and not even begun; those of a closed loop are due when they are begun.
    fn arrears(&self, now: Instant) -> u64 {
        let schedule = &self.load.schedule;
        let until = schedule.end.map_or(now, |end| end.min(now));
        let warm_up = schedule.due_before(self.index, schedule.counted_from);
        let due = schedule.due_before(self.index, until);
        due.saturating_sub(self.begun.max(warm_up))
            .min(self.share - self.counted)
    }

    /// Hands one message to the link; `false` when it has to wait.
    fn begin(
        &mut self,
        due: Option<Instant>,
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let sent = Instant::now();
        let due = due.unwrap_or(sent);
        let counts = self.load.schedule.counts(due);
        let message = self.message(due, sent, counts);
        match self.link.try_publish(message) {
            Ok(receipt) => self.accepted(receipt, due, sent, counts, turn),
            Err(SendError::Full(_) | SendError::FleetFull(_)) => {
                let message = self.message(due, sent, counts);
                let link = self.link.clone();
                self.blocked = Some(UnderWay {
                    future: Box::pin(async move { link.publish(message).await }),
                    due,
                    sent,
                    counts,
                });
            }
            Err(_) => {
                turn.tally.counts.unsent += u64::from(counts);
                self.is_broken = true;
            }
        }
        self.begun += 1;
        self.counted += u64::from(counts);
        self.unblock(turn, context) && !self.is_broken
    }

    fn message(&mut self, due: Instant, sent: Instant, counts: bool) -> Publish {
        if let Some(own) = &self.own {
            return Publish::on(self.topic.clone(), own.clone()).with_qos(self.load.qos);
        }
        let payload = self.payloads.make(&Header {
            counts,
            run: self.load.run,
            publisher: self.index,
            late: sent.saturating_duration_since(due),
            sequence: self.counted,
            due_ns: self.load.clock.since_1970_ns(due),
        });
        Publish::on(self.topic.clone(), payload).with_qos(self.load.qos)
    }

    /// `true` when no message waits for room.
    fn unblock(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> bool {
        let Some(mut blocked) = self.blocked.take() else {
            return true;
        };
        let (due, sent, counts) = (blocked.due, blocked.sent, blocked.counts);
        match blocked.future.as_mut().poll(context) {
            Poll::Pending => {
                self.blocked = Some(blocked);
                false
            }
            Poll::Ready(Ok(receipt)) => {
                self.accepted(receipt, due, sent, counts, turn);
                true
            }
            Poll::Ready(Err(_)) => {
                turn.tally.counts.unsent += u64::from(counts);
                self.is_broken = true;
                false
            }
        }
    }

    fn accepted(
        &mut self,
        receipt: Receipt,
        due: Instant,
        sent: Instant,
        counts: bool,
        turn: &mut Turn<'_>,
    ) {
        turn.live.sent += 1;
        if counts {
            turn.tally.counts.sent += 1;
            turn.tally.last_sent = turn.tally.last_sent.max(Some(sent));
            turn.tally.late.record(sent.saturating_duration_since(due));
        }
        self.under_way.push_back(UnderWay {
            future: receipt,
            due,
            sent,
            counts,
        });
    }
}

fn note_outcome(outcome: &Outcome, due: Instant, sent: Instant, turn: &mut Turn<'_>) {
    let tally = &mut *turn.tally;
    match outcome {
        Outcome::Delivered { .. } => {
            tally.counts.delivered += 1;
            tally
                .latency
                .record(turn.now.saturating_duration_since(due));
            tally
                .service
                .record(turn.now.saturating_duration_since(sent));
        }
        Outcome::Expired => tally.counts.expired += 1,
        Outcome::Dropped(_) => tally.counts.dropped += 1,
        // What a later version adds is no delivery either.
        _ => tally.counts.rejected += 1,
    }
    tally.last_outcome = tally.last_outcome.max(Some(turn.now));
}

/// Publishes and waits for outcomes.
pub(super) struct Publisher(Sender);

impl Publisher {
    pub(super) fn new(sender: Sender) -> Self {
        Self(sender)
    }
}

impl Station for Publisher {
    fn turn(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Progress {
        let Self(sender) = self;
        sender.collect(turn, context);
        let window = sender.load.window;
        let more = sender.send(turn, context, |sender| sender.open() < window);
        // The message that is now the first in line has to wake this station.
        let open = sender.open();
        turn.now = Instant::now();
        sender.collect(turn, context);
        if sender.open() < open {
            context.waker().wake_by_ref();
        }
        match (more, sender.open()) {
            (true, _) => Progress::Sending,
            (false, 0) => Progress::Done,
            (false, _) => Progress::Waiting,
        }
    }
}
