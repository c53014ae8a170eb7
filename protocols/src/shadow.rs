//! One document of a device's state and the requests about it, as a pure state machine.
//!
//! The driver (the Shadow actor) tells it what happened (`handle_*`) and takes what follows: what to do on the wire
//! ([`Shadow::poll_action`]), what to tell ([`Shadow::poll_event`]) and when to come again ([`Shadow::poll_timeout`]).
//! How requests and answers look is the business of a [`StateDialect`](crate::dialect::StateDialect).
//!
//! # Rules
//! - A request goes out once the server has confirmed the subscriptions to its answers, never after a fixed wait.
//! - It is never queued: without a connection it is refused, and one whose connection breaks ends as disconnected.
//! - Each accepted request ends exactly once, at its deadline at the latest. Answers are matched by token alone; one for
//!   a request that has ended, or for somebody else's, is ignored and counted.
//! - A delta is news when its version is above those before. Answers have a watermark of their own: a service may answer
//!   an update before it tells the delta of the same version.
//! - After each connect, and when something contradicts the watermark, the document is read: what it says differs is told
//!   if it is news. A version below the watermark in that answer means that the document was deleted and made anew.
//!
//! - One that the platform refuses for too many requests goes out again after a pause left to chance, until its deadline.
//! - Where a server closes connections without a word at what it does not allow, a document's own reading must not bring
//!   the link down for ever: once the server has done so at it, it goes out with no other request beside it, and when the
//!   server does so again, the document is not read by itself any more ([`Event::ReadingGivenUp`]) until somebody asks.
//!
//! # Limits
//! [`REQUESTS_HELD_MAX`] requests at a time. How many are without an answer is for the driver to say, since platforms
//! count them per connection ([`StateRules::requests_max`](crate::dialect::state::StateRules::requests_max)): each needs a turn ([`Action::AskTurn`]), and waits for it
//! within its deadline.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::dialect::state::{
    Rejection, StateChange, StateDelta, StateDocument, StateFeed, StateMessage, StateOperation,
    StateRequest, UnreadableState,
};
use crate::mqtt::ReasonCode;

mod deltas;
mod feeds;
mod requests;

use deltas::Deltas;
use feeds::Feeds;
use requests::{Chance, Request, Stage, read_token};

/// Requests of one document that have not ended.
pub const REQUESTS_HELD_MAX: usize = 100;

/// How long the document's own request for itself may take.
pub const RECONCILE_DEADLINE: Duration = Duration::from_secs(10);

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Subscribe to a feed, then call [`Shadow::handle_subscribed`].
    Subscribe(StateFeed),
    /// Subscribe to a feed once more, which the server may have lost, without giving it up in between; then call
    /// [`Shadow::handle_subscribed`].
    Renew(StateFeed),
    /// Give a feed up.
    Unsubscribe(StateFeed),
    /// A request wants one of the turns of its connection: call [`Shadow::handle_turn`] when there is one.
    AskTurn {
        /// The request's number.
        id: u64,
        /// It wants all turns of the connection.
        is_alone: bool,
    },
    /// Publish a request now; [`Shadow::handle_unsent`] if that cannot be, with the reason.
    Publish {
        /// The request's number.
        id: u64,
        /// The token its answer carries.
        token: String,
        /// It.
        request: StateRequest,
    },
}

/// What the driver is to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request ended.
    Ended {
        /// Its number.
        id: u64,
        /// What kind it was.
        operation: StateOperation,
        /// How.
        result: Result<Box<StateDocument>, Failure>,
    },
    /// The platform had too many requests: this one gives its turn back, and asks for another one after a pause.
    Throttled {
        /// Its number.
        id: u64,
        /// What kind it is.
        operation: StateOperation,
    },
    /// The server closes the connection whenever the document is read: it is not read by itself any more.
    ReadingGivenUp,
    /// A difference that is news.
    Delta(StateDelta),
    /// A change that is news.
    Changed(Box<StateChange>),
    /// The server refused a feed that is wanted.
    FeedRefused {
        /// Which.
        feed: StateFeed,
        /// Why.
        code: ReasonCode,
    },
    /// A message was not used.
    Ignored(Ignored),
}

/// Why a message was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The answer to a request that has ended.
    Late,
    /// The answer to somebody else's request.
    Foreign,
    /// Its version is not above those before.
    Stale,
    /// It cannot be read.
    Unreadable,
}

impl Ignored {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Late, Self::Foreign, Self::Stale, Self::Unreadable];

    /// The name used in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Foreign => "foreign",
            Self::Stale => "stale",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Why a request was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no connection.
    Offline,
    /// [`REQUESTS_HELD_MAX`] requests have not ended.
    Busy,
}

/// How an accepted request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The platform refused it.
    Rejected(Rejection),
    /// No answer came in time.
    TimedOut,
    /// No answer came in time that could be read.
    Unreadable(String),
    /// The connection broke.
    Disconnected {
        /// It may have been carried out.
        was_sent: bool,
    },
    /// The server refused the subscriptions to the answers.
    SubscriptionRefused(ReasonCode),
    /// The server reads too slowly: the request has not left.
    Congested,
    /// The server does not take such a message: the request has not left.
    Refused(ReasonCode),
    /// The link ended.
    Stopped,
}

/// Why a request was not published, and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is no connection.
    Disconnected,
    /// As much waits for the connection as may.
    Congested,
    /// The server does not take such a message.
    Refused(ReasonCode),
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Disconnected => Self::Disconnected { was_sent: false },
            Unsent::Congested => Self::Congested,
            Unsent::Refused(code) => Self::Refused(code),
        }
    }
}

/// How a connection ended, as far as that says something about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Plain,
    /// The server closed it without a word, as it does at what it does not allow.
    Silent {
        /// What was published last was a reading of this document.
        was_reading: bool,
    },
}

/// The state machine.
#[derive(Debug)]
pub struct Shadow {
    /// What its tokens start with.
    name: String,
    is_online: bool,
    next_id: u64,
    /// In the order in which they came.
    requests: Vec<Request>,
    feeds: Feeds,
    deltas: Deltas,
    /// The highest version that answers told.
    answered: Option<u64>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    chance: Chance,
}

impl Shadow {
    /// A document that nothing is known of. `name` has to be unlike that of everybody else who asks for the document, as
    /// 16 random digits are: its tokens are the name, a hyphen and a number.
    #[must_use]
    pub fn new(name: String, is_online: bool) -> Self {
        Self {
            chance: Chance::new(&name),
            name,
            is_online,
            next_id: 0,
            requests: Vec::new(),
            feeds: Feeds::default(),
            deltas: Deltas::default(),
            answered: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The link is online, with its subscriptions in force.
    pub fn handle_online(&mut self, now: Instant) {
        self.is_online = true;
        self.deltas.ask_again(now);
        self.advance(now);
    }

    /// The connection is gone. What the server was asked to send stays asked for.
    pub fn handle_offline(&mut self, now: Instant, loss: Loss) {
        self.is_online = false;
        for request in std::mem::take(&mut self.requests) {
            let was_sent = request.is_sent();
            if self.deltas.asked == Some(request.id)
                && was_sent
                && let Loss::Silent { was_reading } = loss
                && self.deltas.suspect(request.is_alone && was_reading)
            {
                self.events.push_back(Event::ReadingGivenUp);
            }
            self.tell_end(&request, Err(Failure::Disconnected { was_sent }));
        }
        self.deltas.asked = None;
        for operation in StateOperation::ALL {
            let feed = StateFeed::Replies(operation);
            // A server may end the connection over a subscription that it does not allow.
            if self.feeds.is_asked(feed) {
                self.drop_feed(feed);
            }
        }
        self.advance(now);
    }

    /// The link is over.
    pub fn handle_stopped(&mut self) {
        self.is_online = false;
        for request in std::mem::take(&mut self.requests) {
            self.tell_end(&request, Err(Failure::Stopped));
        }
    }

    /// Takes a request and gives its number. With `keeps_feed` the subscriptions to its answers stay for the next one of
    /// its kind, otherwise they are given up with the last answer.
    ///
    /// # Errors
    /// There is no connection, or too many requests have not ended.
    pub fn handle_request(
        &mut self,
        now: Instant,
        request: StateRequest,
        deadline: Instant,
        keeps_feed: bool,
    ) -> Result<u64, Refusal> {
        if !self.is_online {
            return Err(Refusal::Offline);
        }
        if self.requests.len() >= REQUESTS_HELD_MAX {
            return Err(Refusal::Busy);
        }
        let id = self.add_request(request, deadline, keeps_feed);
        self.advance(now);
        Ok(id)
    }

    /// Somebody wants deltas or changes. Deltas begin with the one that the document has now: one that others were told
    /// already comes to them once more.
    pub fn handle_wanted(&mut self, now: Instant, feed: StateFeed) {
        self.feeds.keep(feed);
        if feed == StateFeed::Deltas {
            self.deltas.begin(now);
        }
        self.advance(now);
    }

    /// Nobody wants deltas or changes any more.
    pub fn handle_unwanted(&mut self, now: Instant, feed: StateFeed) {
        self.feeds.forget(feed);
        if feed == StateFeed::Deltas {
            self.deltas = Deltas::default();
        }
        self.advance(now);
    }

    /// The server has answered for all filters of a feed, or has refused on a later connection what it granted before.
    pub fn handle_subscribed(
        &mut self,
        now: Instant,
        feed: StateFeed,
        result: Result<(), ReasonCode>,
    ) {
        match result {
            Ok(()) if self.feeds.is_asked(feed) => self.feeds.set_ready(feed),
            Err(code) if self.feeds.is_asked(feed) || self.feeds.is_ready(feed) => {
                self.refuse_feed(now, feed, code);
            }
            _ => return,
        }
        self.advance(now);
    }

    /// There is a turn for this request: whether it uses it. It does until it ends or is [`Event::Throttled`].
    pub fn handle_turn(&mut self, now: Instant, id: u64) -> bool {
        let (known, name) = (self.deltas.latest, &self.name);
        let queued = self
            .requests
            .iter_mut()
            .find(|request| request.id == id && request.stage == Stage::Queued);
        let Some(request) = queued else {
            return false;
        };
        let feed = request.feed();
        let is_ready = self.feeds.is_ready(feed);
        if is_ready {
            let grant = self.feeds.grants(feed);
            request.stage = Stage::Sent { known, grant };
            self.actions.push_back(Action::Publish {
                id,
                token: request.token(name),
                request: request.request.clone(),
            });
        } else {
            request.stage = Stage::Waiting;
        }
        self.advance(now);
        is_ready
    }

    /// A request was not published.
    pub fn handle_unsent(&mut self, now: Instant, id: u64, why: Unsent) {
        if let Some(place) = self.requests.iter().position(|request| request.id == id) {
            self.end(now, place, Err(why.into()));
        }
        self.advance(now);
    }

    /// A message of the document's feeds.
    pub fn handle_message(&mut self, now: Instant, message: StateMessage) {
        match message {
            StateMessage::Reply {
                operation,
                token,
                result,
            } => self.handle_reply(now, operation, token.as_deref(), result),
            StateMessage::Delta(delta) => match self.deltas.admit(now, &delta) {
                true => self.events.push_back(Event::Delta(delta)),
                false => self.ignore(Ignored::Stale),
            },
            StateMessage::Changed(change) => match self.deltas.admit_change(&change) {
                true => self.events.push_back(Event::Changed(change)),
                false => self.ignore(Ignored::Stale),
            },
        }
        self.advance(now);
    }

    /// A message of the document's feeds that cannot be read. Whoever waits for such a one is told when no better comes.
    pub fn handle_unreadable(&mut self, now: Instant, unreadable: &UnreadableState) {
        self.ignore(Ignored::Unreadable);
        match unreadable.feed {
            StateFeed::Replies(operation) => {
                let waiting = self
                    .requests
                    .iter_mut()
                    .filter(|request| request.operation() == operation && request.is_sent());
                for request in waiting {
                    request.note_unreadable(&unreadable.problem);
                }
            }
            StateFeed::Deltas => self.deltas.doubt(now),
            StateFeed::Documents => {}
        }
        self.advance(now);
    }

    /// The time of [`Shadow::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(place) = self
            .requests
            .iter()
            .position(|request| request.deadline <= now)
        {
            let late = &mut self.requests[place];
            let (feed, grant, failure) = (late.feed(), late.grant(), late.overdue());
            self.end(now, place, Err(failure));
            if grant == Some(self.feeds.grants(feed)) {
                self.doubt_feed(feed);
            }
        }
        self.advance(now);
    }

    /// When [`Shadow::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.requests.iter().map(|request| match request.stage {
            Stage::Resting(due) => due.min(request.deadline),
            _ => request.deadline,
        });
        let due = self.deltas.due.filter(|_| self.may_reconcile());
        deadlines.chain(due).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether a request has not ended.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    fn add_request(&mut self, request: StateRequest, deadline: Instant, keeps_feed: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if keeps_feed {
            self.feeds.keep(StateFeed::Replies(request.operation()));
        }
        self.requests.push(Request::new(id, request, deadline));
        id
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        operation: StateOperation,
        token: Option<&str>,
        result: Result<Box<StateDocument>, Rejection>,
    ) {
        let id = token.and_then(|token| read_token(token, &self.name));
        let is_answered = |request: &Request| {
            Some((request.id, request.tries)) == id
                && request.is_sent()
                && request.operation() == operation
        };
        let Some(place) = self.requests.iter().position(is_answered) else {
            if result.is_ok() && operation == StateOperation::Delete {
                // Somebody deleted it: versions may start anew.
                self.deltas.doubt(now);
            }
            let is_own = id.is_some_and(|(id, _)| id < self.next_id);
            self.ignore(if is_own {
                Ignored::Late
            } else {
                Ignored::Foreign
            });
            return;
        };
        if let Err(rejection) = &result
            && rejection.is_throttled()
            && self.requests[place].rest(now, rejection, self.chance.sample())
        {
            let id = self.requests[place].id;
            self.events.push_back(Event::Throttled { id, operation });
            return;
        }
        self.note_version(now, operation, &result);
        if operation == StateOperation::Get {
            self.deltas.note_read();
        }
        self.end(now, place, result.map_err(Failure::Rejected));
    }

    /// Answers have a watermark of their own; one below it may mean that the document is another one.
    fn note_version(
        &mut self,
        now: Instant,
        operation: StateOperation,
        result: &Result<Box<StateDocument>, Rejection>,
    ) {
        let is_gone = match result {
            Ok(_) => operation == StateOperation::Delete,
            Err(rejection) => rejection.is_not_found(),
        };
        let version = result.as_ref().ok().and_then(|document| document.version);
        if is_gone {
            self.answered = None;
        } else if version.is_some() {
            if version < self.answered {
                self.deltas.doubt(now);
            }
            self.answered = version;
        }
    }

    fn end(&mut self, now: Instant, place: usize, result: Result<Box<StateDocument>, Failure>) {
        let request = self.requests.remove(place);
        if self.deltas.asked == Some(request.id) {
            self.deltas.asked = None;
            let known = request.known();
            let news = self.deltas.reconcile(now, known, &result);
            self.events.extend(news.map(Event::Delta));
        }
        self.tell_end(&request, result);
    }

    fn tell_end(&mut self, request: &Request, result: Result<Box<StateDocument>, Failure>) {
        self.events.push_back(Event::Ended {
            id: request.id,
            operation: request.operation(),
            result,
        });
    }

    fn ignore(&mut self, why: Ignored) {
        self.events.push_back(Event::Ignored(why));
    }

    fn is_waiting_for(&self, operation: StateOperation) -> bool {
        self.requests
            .iter()
            .any(|request| request.operation() == operation)
    }

    /// Whether a feed stays when nobody waits for an answer.
    fn is_needed(&self, feed: StateFeed) -> bool {
        // Whoever wants deltas has the document read, after each connect at the least.
        let is_read = feed == StateFeed::Replies(StateOperation::Get)
            && self.feeds.is_kept(StateFeed::Deltas);
        is_read || self.feeds.is_kept(feed)
    }

    fn refuse_feed(&mut self, now: Instant, feed: StateFeed, code: ReasonCode) {
        // What was granted of it is given back.
        self.drop_feed(feed);
        let StateFeed::Replies(operation) = feed else {
            self.events.push_back(Event::FeedRefused { feed, code });
            return self.feeds.forget(feed);
        };
        let failure = Failure::SubscriptionRefused(code);
        while let Some(place) = self
            .requests
            .iter()
            .position(|request| request.operation() == operation)
        {
            self.end(now, place, Err(failure.clone()));
        }
    }

    /// A server may have lost the subscriptions without a word: they are made anew. Whoever still waits for an answer can
    /// hear it all the time.
    fn doubt_feed(&mut self, feed: StateFeed) {
        if !self.feeds.is_ready(feed) {
            return;
        }
        if self.requests.iter().any(|request| request.feed() == feed) {
            self.feeds.ask_again(feed);
            self.actions.push_back(Action::Renew(feed));
        } else {
            // The next request asks.
            self.drop_feed(feed);
        }
    }

    fn drop_feed(&mut self, feed: StateFeed) {
        if self.feeds.set_idle(feed) {
            self.actions.push_back(Action::Unsubscribe(feed));
        }
    }

    fn may_reconcile(&self) -> bool {
        self.is_online
            && self.deltas.may_ask()
            && self.deltas.asked.is_none()
            && self.feeds.is_ready(StateFeed::Deltas)
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Instant) {
        if self.may_reconcile() && self.deltas.due.is_some_and(|due| due <= now) {
            self.deltas.due = None;
            let deadline = now + RECONCILE_DEADLINE;
            let id = self.add_request(StateRequest::Get, deadline, false);
            self.deltas.asked = Some(id);
            if let Some(request) = self.requests.last_mut() {
                request.is_alone = self.deltas.is_suspected;
            }
        }
        for feed in [StateFeed::Deltas, StateFeed::Documents] {
            if self.feeds.is_kept(feed) && self.feeds.ask(feed) {
                self.actions.push_back(Action::Subscribe(feed));
            } else if !self.feeds.is_kept(feed) {
                self.drop_feed(feed);
            }
        }
        for operation in StateOperation::ALL {
            let feed = StateFeed::Replies(operation);
            if !self.is_needed(feed) && !self.is_waiting_for(operation) {
                self.drop_feed(feed);
            }
        }
        self.send(now);
    }

    fn send(&mut self, now: Instant) {
        for request in &mut self.requests {
            match request.stage {
                Stage::Resting(due) if due <= now => request.stage = Stage::Waiting,
                Stage::Waiting => {}
                _ => continue,
            }
            let feed = request.feed();
            if self.feeds.ask(feed) {
                self.actions.push_back(Action::Subscribe(feed));
            }
            if self.feeds.is_ready(feed) {
                request.stage = Stage::Queued;
                self.actions.push_back(Action::AskTurn {
                    id: request.id,
                    is_alone: request.is_alone,
                });
            }
        }
    }
}
