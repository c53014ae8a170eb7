//! The station of `bench conn`: opens one link and watches it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::{FutureExt as _, Stream};
use paquebot::{Events, Link, LinkBuilder, LinkEvent};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::driver::{Progress, Station, Turn};
use super::schedule::Schedule;

/// Opens a link when it is its turn. A link that fails is not tried again, so that each counts once.
pub(super) struct Opener {
    index: u32,
    schedule: Schedule,
    /// Closed loop: lets so many links open at once.
    turnstile: Option<Turnstile>,
    /// Held while the link opens.
    permit: Option<OwnedSemaphorePermit>,
    state: State,
}

type Turnstile = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

enum State {
    Due(Box<LinkBuilder>),
    Opening {
        watched: Watched,
        due: Instant,
        begun: Instant,
    },
    Open(Watched),
    Over,
}

struct Watched {
    link: Link,
    events: Events,
}

impl Opener {
    pub(super) fn new(
        index: u32,
        schedule: Schedule,
        under_way: Option<&Arc<Semaphore>>,
        builder: LinkBuilder,
    ) -> Self {
        let turnstile = |under_way: &Arc<Semaphore>| -> Turnstile {
            Box::pin(Arc::clone(under_way).acquire_owned())
        };
        Self {
            index,
            schedule,
            turnstile: under_way.map(turnstile),
            permit: None,
            state: State::Due(Box::new(builder)),
        }
    }

    fn may_open(&mut self, context: &mut Context<'_>) -> bool {
        let Some(turnstile) = &mut self.turnstile else {
            return true;
        };
        match turnstile.as_mut().poll(context) {
            Poll::Pending => false,
            Poll::Ready(permit) => {
                self.turnstile = None;
                // The semaphore is never closed, so there is a permit.
                self.permit = permit.ok();
                true
            }
        }
    }

    fn open(builder: LinkBuilder, due: Instant, turn: &mut Turn<'_>) -> State {
        let begun = Instant::now();
        turn.tally.late.record(begun.saturating_duration_since(due));
        turn.tally.counts.sent += 1;
        turn.tally.last_sent = Some(begun);
        turn.live.sent += 1;
        match builder.start_with_events() {
            Ok((link, events)) => State::Opening {
                watched: Watched { link, events },
                due,
                begun,
            },
            Err(error) => {
                turn.live.settled += 1;
                turn.tally.counts.count_failure(error.to_string());
                State::Over
            }
        }
    }

    /// What becomes of an opening link in this turn.
    fn advance(
        mut watched: Watched,
        due: Instant,
        begun: Instant,
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
    ) -> State {
        loop {
            let Poll::Ready(event) = Pin::new(&mut watched.events).poll_next(context) else {
                return State::Opening {
                    watched,
                    due,
                    begun,
                };
            };
            match event {
                Some(LinkEvent::Connected { .. }) => {
                    return Self::opened(watched, due, begun, turn);
                }
                Some(LinkEvent::ConnectFailed { error }) => {
                    return Self::failed(&watched, error.to_string(), turn);
                }
                Some(LinkEvent::Disconnected { reason }) => {
                    return Self::failed(&watched, reason.to_string(), turn);
                }
                None => return Self::failed(&watched, "the link stopped".to_owned(), turn),
                Some(_) => {}
            }
        }
    }

    fn opened(watched: Watched, due: Instant, begun: Instant, turn: &mut Turn<'_>) -> State {
        turn.live.settled += 1;
        turn.live.ended += 1;
        let tally = &mut *turn.tally;
        tally.counts.connected += 1;
        tally
            .latency
            .record(turn.now.saturating_duration_since(due));
        tally
            .service
            .record(turn.now.saturating_duration_since(begun));
        tally.last_outcome = Some(turn.now);
        State::Open(watched)
    }

    fn failed(watched: &Watched, reason: String, turn: &mut Turn<'_>) -> State {
        turn.live.settled += 1;
        turn.tally.counts.count_failure(reason);
        turn.tally.last_outcome = Some(turn.now);
        // The order to stop is given when the future is first polled; nobody waits for its end.
        let _ = watched.link.stop().now_or_never();
        State::Over
    }
}

impl Station for Opener {
    fn turn(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Progress {
        if let State::Due(_) = &self.state {
            if turn.is_closing {
                turn.tally.counts.unsent += 1;
                return Progress::Done;
            }
            let due = self.schedule.due(self.index, 0).unwrap_or(turn.now);
            if due > turn.now || !self.may_open(context) {
                return Progress::Sending;
            }
            if let State::Due(builder) = std::mem::replace(&mut self.state, State::Over) {
                self.state = Self::open(*builder, due, turn);
            }
        }
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Opening {
                watched,
                due,
                begun,
            } => Self::advance(watched, due, begun, turn, context),
            other => other,
        };
        if !matches!(self.state, State::Opening { .. }) {
            self.permit = None;
        }
        if let State::Open(watched) = &mut self.state {
            while let Poll::Ready(event) = Pin::new(&mut watched.events).poll_next(context) {
                match event {
                    Some(LinkEvent::Disconnected { .. }) => {
                        turn.tally.counts.lost += 1;
                        let _ = watched.link.stop().now_or_never();
                        return Progress::Done;
                    }
                    Some(_) => {}
                    None => return Progress::Done,
                }
            }
        }
        match self.state {
            State::Over => Progress::Done,
            _ => Progress::Waiting,
        }
    }
}
