//! The receiving half of a link, and the stations of `bench sub` and `bench rtt` made of it.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use paquebot::Subscription;

use super::driver::{Progress, Station, Turn};
use super::payload::{Clock, Header};
use super::sender::Sender;
use super::sequence::{Arrival, Sequence};
use super::tally::Tally;

/// Messages one link takes in a turn before the others have theirs.
const BURST_MAX: u32 = 256;

/// Publishers that one subscriber tells apart; messages of further ones count as foreign.
const PUBLISHERS_MAX: usize = 100_000;

/// After this long without one coming back, round trips under way are given up and count as lost.
const ROUND_TRIP_DEADLINE: Duration = Duration::from_secs(10);

/// Takes messages and finds out which are late, doubled or missing.
pub(super) struct Receiver {
    messages: Subscription,
    clock: Clock,
    /// Messages of other runs are foreign; `None` takes those of any.
    run: Option<u32>,
    /// What arrives earlier does not count. Matters for messages that others send.
    counted_from: Option<Instant>,
    /// By run and publisher.
    sequences: HashMap<(u32, u32), Sequence>,
}

impl Receiver {
    /// Takes the messages of this run, which say themselves whether they count.
    pub(super) fn of_run(messages: Subscription, clock: Clock, run: u32) -> Self {
        Self {
            messages,
            clock,
            run: Some(run),
            counted_from: None,
            sequences: HashMap::new(),
        }
    }

    /// Takes everything.
    pub(super) fn of_all(messages: Subscription, clock: Clock, counted_from: Instant) -> Self {
        Self {
            messages,
            clock,
            run: None,
            counted_from: Some(counted_from),
            sequences: HashMap::new(),
        }
    }

    /// Takes what is there; how many messages of this run those were, warm-up and all, each counted once.
    /// `None` when nothing will come any more.
    fn collect(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Option<u64> {
        let mut arrived = 0;
        for _ in 0..BURST_MAX {
            match Pin::new(&mut self.messages).poll_next(context) {
                Poll::Pending => return Some(arrived),
                Poll::Ready(None) => return None,
                Poll::Ready(Some(message)) => {
                    let header = Header::read(message.payload());
                    // Dropped here, and acknowledged by it, before it is looked at any further.
                    drop(message);
                    arrived += u64::from(self.note(header, turn));
                }
            }
            turn.now = Instant::now();
        }
        context.waker().wake_by_ref();
        Some(arrived)
    }

    /// Whether the message is one of this run and no duplicate.
    fn note(&mut self, header: Option<Header>, turn: &mut Turn<'_>) -> bool {
        let Turn {
            now, tally, live, ..
        } = turn;
        let is_early = self.counted_from.is_some_and(|from| *now < from);
        if is_early {
            return false;
        }
        live.arrived += 1;
        let header = header.filter(|header| self.run.is_none_or(|run| run == header.run));
        let Some(header) = header else {
            tally.counts.foreign += 1;
            if self.run.is_none() {
                tally.last_arrival = Some(*now);
            }
            return false;
        };
        if !header.counts && self.run.is_some() {
            return true;
        }
        let key = (header.run, header.publisher);
        if self.sequences.len() >= PUBLISHERS_MAX && !self.sequences.contains_key(&key) {
            tally.counts.foreign += 1;
            return false;
        }
        let starts_at = if self.run.is_some() {
            0
        } else {
            header.sequence
        };
        let sequence = self
            .sequences
            .entry(key)
            .or_insert_with(|| Sequence::starting_at(starts_at));
        let arrival = sequence.note(header.sequence);
        tally.counts.received += 1;
        tally.last_arrival = Some(*now);
        match arrival {
            Arrival::Duplicate => {
                tally.counts.duplicates += 1;
                return false;
            }
            Arrival::Reordered => tally.counts.reordered += 1,
            Arrival::InOrder => {}
        }
        live.distinct += 1;
        let age_ns = self.clock.since_1970_ns(*now).saturating_sub(header.due_ns);
        let age = Duration::from_nanos(age_ns);
        tally.arrival.record(age);
        tally
            .arrival_service
            .record(age.saturating_sub(header.late));
        true
    }

    fn missing(&self) -> u64 {
        self.sequences.values().map(Sequence::missing).sum()
    }
}

/// Counts what arrives until it is told to leave.
pub(super) struct Subscriber(Receiver);

impl Subscriber {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self(receiver)
    }
}

impl Station for Subscriber {
    fn turn(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Progress {
        match self.0.collect(turn, context) {
            Some(_) => Progress::Waiting,
            None => Progress::Done,
        }
    }

    fn finish(&mut self, tally: &mut Tally) {
        tally.counts.missing += self.0.missing();
    }
}

/// Sends messages to itself by way of the server.
pub(super) struct RoundTrip {
    sender: Sender,
    receiver: Receiver,
    window: u64,
    /// Messages that came back or were given up, those of the warm-up too.
    ended: u64,
    last_progress: Instant,
}

impl RoundTrip {
    pub(super) fn new(sender: Sender, receiver: Receiver, started: Instant, window: usize) -> Self {
        Self {
            sender,
            receiver,
            window: window as u64,
            ended: 0,
            last_progress: started,
        }
    }

    fn open(&self) -> u64 {
        self.sender.begun().saturating_sub(self.ended)
    }
}

impl Station for RoundTrip {
    fn turn(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Progress {
        let Some(arrived) = self.receiver.collect(turn, context) else {
            return Progress::Done;
        };
        self.ended += arrived;
        if arrived > 0 || self.open() == 0 {
            self.last_progress = turn.now;
        } else if turn.now.saturating_duration_since(self.last_progress) > ROUND_TRIP_DEADLINE {
            self.ended = self.sender.begun();
            self.last_progress = turn.now;
        }
        self.sender.collect(turn, context);
        let (window, ended) = (self.window, self.ended);
        let more = self.sender.send(turn, context, |sender| {
            sender.begun().saturating_sub(ended) < window
        });
        turn.now = Instant::now();
        self.sender.collect(turn, context);
        let is_idle = self.sender.open() == 0 && self.open() == 0;
        match (more, is_idle) {
            (true, _) => Progress::Sending,
            (false, true) => Progress::Done,
            (false, false) => Progress::Waiting,
        }
    }

    fn finish(&mut self, tally: &mut Tally) {
        tally.counts.missing += self.receiver.missing();
    }
}
