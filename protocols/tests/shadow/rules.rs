//! Each rule on its own.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use paquebot_protocols::dialect::state::{
    Rejection, StateChange, StateDelta, StateDocument, StateFeed, StateMessage, StateOperation,
    StateRequest, StateRules, StateUpdate, UnreadableState,
};
use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::shadow::{
    Action, Event, Failure, Ignored, Loss, REQUESTS_HELD_MAX, Refusal, Shadow, Unsent,
};
use serde_json::{Value, json};

const GET: StateFeed = StateFeed::Replies(StateOperation::Get);
const UPDATE: StateFeed = StateFeed::Replies(StateOperation::Update);
const DEADLINE: Duration = Duration::from_secs(5);

struct Course {
    shadow: Shadow,
    now: Instant,
    told: VecDeque<Event>,
    /// Requests that wait for a turn, and those that have one.
    queued: VecDeque<(u64, bool)>,
    turns: HashSet<u64>,
}

impl Course {
    fn online() -> Self {
        Self {
            shadow: Shadow::new("me".into(), true),
            now: Instant::now(),
            told: VecDeque::new(),
            queued: VecDeque::new(),
            turns: HashSet::new(),
        }
    }

    /// Online, with deltas wanted and the document read: it has this version and no difference.
    fn in_step(version: u64) -> Self {
        let mut course = Self::online();
        course.shadow.handle_wanted(course.now, StateFeed::Deltas);
        course.grant(StateFeed::Deltas);
        course.grant(GET);
        let token = course.published();
        course.reply(StateOperation::Get, &token, Ok(document(version, None)));
        course.events();
        course
    }

    fn request(&mut self, request: StateRequest) -> Result<u64, Refusal> {
        let deadline = self.now + DEADLINE;
        self.shadow
            .handle_request(self.now, request, deadline, true)
    }

    /// What is to be done but for turns, which are given as they come back.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            self.listen();
            while let Some(action) = self.shadow.poll_action() {
                match action {
                    Action::AskTurn { id, is_alone } => self.queued.push_back((id, is_alone)),
                    action => actions.push(action),
                }
            }
            let Some((id, is_alone)) = self.queued.front().copied() else {
                return actions;
            };
            let most = if is_alone {
                1
            } else {
                StateRules::default().requests_max
            };
            if self.turns.len() >= most {
                return actions;
            }
            self.queued.pop_front();
            if self.shadow.handle_turn(self.now, id) {
                self.turns.insert(id);
            }
        }
    }

    fn listen(&mut self) {
        while let Some(event) = self.shadow.poll_event() {
            if let Event::Ended { id, .. } | Event::Throttled { id, .. } = event {
                self.turns.remove(&id);
            }
            self.told.push_back(event);
        }
    }

    fn events(&mut self) -> Vec<Event> {
        self.listen();
        self.told.drain(..).collect()
    }

    fn lose(&mut self, loss: Loss) {
        self.shadow.handle_offline(self.now, loss);
    }

    fn unwant(&mut self, feed: StateFeed) {
        self.shadow.handle_unwanted(self.now, feed);
    }

    fn deltas(&mut self) -> Vec<Option<u64>> {
        let told = self.events().into_iter().filter_map(|event| match event {
            Event::Delta(delta) => Some(delta.version),
            _ => None,
        });
        told.collect()
    }

    /// The server is asked for a feed, and grants it.
    fn grant(&mut self, feed: StateFeed) {
        let actions = self.actions();
        assert!(actions.contains(&Action::Subscribe(feed)), "{actions:?}");
        self.shadow.handle_subscribed(self.now, feed, Ok(()));
    }

    /// The token of the one request that goes out.
    #[track_caller]
    fn published(&mut self) -> String {
        let actions = self.actions();
        let [Action::Publish { token, .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        token.clone()
    }

    fn reply(
        &mut self,
        operation: StateOperation,
        token: &str,
        result: Result<StateDocument, Rejection>,
    ) {
        let message = StateMessage::Reply {
            operation,
            token: Some(token.into()),
            result: result.map(Box::new),
        };
        self.shadow.handle_message(self.now, message);
    }

    fn delta(&mut self, version: u64) {
        let delta = StateDelta {
            state: json!({"v": version}),
            version: Some(version),
            ..StateDelta::default()
        };
        self.shadow
            .handle_message(self.now, StateMessage::Delta(delta));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.shadow.handle_timeout(self.now);
    }
}

fn document(version: u64, delta: Option<Value>) -> StateDocument {
    StateDocument {
        version: Some(version),
        delta,
        ..StateDocument::default()
    }
}

fn update() -> StateRequest {
    StateRequest::Update(StateUpdate::default())
}

fn missing() -> Rejection {
    Rejection {
        code: 404,
        message: "No shadow exists".into(),
    }
}

fn failures(events: &[Event]) -> Vec<&Failure> {
    let failed = events.iter().filter_map(|event| match event {
        Event::Ended { result, .. } => result.as_ref().err(),
        _ => None,
    });
    failed.collect()
}

#[test]
fn a_request_goes_out_when_its_subscriptions_are_in_force_and_not_before() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    assert_eq!(course.actions(), [Action::Subscribe(GET)]);
    course.pass(Duration::from_secs(2));
    assert_eq!(course.actions(), []);
    course.shadow.handle_subscribed(course.now, GET, Ok(()));
    let token = course.published();
    course.reply(StateOperation::Get, &token, Ok(document(3, None)));
    let events = course.events();
    assert!(
        matches!(&events[..], [Event::Ended { result: Ok(read), .. }] if read.version == Some(3))
    );
    // The subscriptions are there for the next one.
    course.request(StateRequest::Get).unwrap();
    course.published();
}

#[test]
fn without_a_connection_requests_are_refused() {
    let mut course = Course::online();
    course.lose(Loss::Plain);
    assert_eq!(course.request(StateRequest::Get), Err(Refusal::Offline));
    assert_eq!(course.actions(), []);
    course.shadow.handle_online(course.now);
    assert!(course.request(StateRequest::Get).is_ok());
}

#[test]
fn a_connection_that_breaks_ends_what_waits_and_says_what_had_left() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    course.published();
    course.request(update()).unwrap();
    course.lose(Loss::Plain);
    let events = course.events();
    assert_eq!(
        failures(&events),
        [
            &Failure::Disconnected { was_sent: true },
            &Failure::Disconnected { was_sent: false }
        ]
    );
    course.shadow.handle_online(course.now);
    let is_publish = |action: &Action| matches!(action, Action::Publish { .. });
    assert!(!course.actions().iter().any(is_publish));
}

#[test]
fn a_request_that_does_not_leave_says_why() {
    let too_large = ReasonCode::PACKET_TOO_LARGE;
    for (why, failure) in [
        (
            Unsent::Disconnected,
            Failure::Disconnected { was_sent: false },
        ),
        (Unsent::Congested, Failure::Congested),
        (Unsent::Refused(too_large), Failure::Refused(too_large)),
    ] {
        let mut course = Course::online();
        let id = course.request(update()).unwrap();
        course.grant(UPDATE);
        course.published();
        course.shadow.handle_unsent(course.now, id, why);
        assert_eq!(failures(&course.events()), [&failure]);
    }
}

#[test]
fn a_subscription_to_answers_that_ends_the_connection_is_not_asked_for_on_the_next() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.actions();
    course.lose(Loss::Plain);
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
    course.shadow.handle_online(course.now);
    assert_eq!(course.actions(), []);
}

#[test]
fn no_more_requests_are_held_or_sent_than_may_be() {
    let mut course = Course::online();
    for _ in 0..REQUESTS_HELD_MAX {
        course.request(StateRequest::Get).unwrap();
    }
    assert_eq!(course.request(update()), Err(Refusal::Busy));
    course.grant(GET);
    let sent = course.actions();
    assert_eq!(sent.len(), StateRules::default().requests_max);
    let Action::Publish { token, .. } = &sent[3] else {
        panic!("{sent:?}");
    };
    course.reply(StateOperation::Get, token, Ok(document(1, None)));
    course.published();
    assert!(course.request(update()).is_ok());
}

#[test]
fn only_the_token_matches_an_answer() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    let token = course.published();
    for wrong in ["", "me-1", "me-", "you-0", "me0", "me--0"] {
        course.reply(StateOperation::Get, wrong, Ok(document(1, None)));
    }
    course.reply(StateOperation::Update, &token, Ok(document(1, None)));
    assert!(
        course
            .events()
            .iter()
            .all(|event| matches!(event, Event::Ignored(_)))
    );
    course.reply(StateOperation::Get, &token, Err(missing()));
    assert_eq!(failures(&course.events()), [&Failure::Rejected(missing())]);
    course.reply(StateOperation::Get, &token, Ok(document(1, None)));
    assert_eq!(course.events(), [Event::Ignored(Ignored::Late)]);
    course.reply(StateOperation::Get, "you-0", Ok(document(1, None)));
    assert_eq!(course.events(), [Event::Ignored(Ignored::Foreign)]);
}

#[test]
fn a_request_ends_at_its_deadline_and_the_next_asks_for_the_subscriptions_anew() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    course.published();
    assert_eq!(course.shadow.poll_timeout(), Some(course.now + DEADLINE));
    course.pass(DEADLINE - Duration::from_nanos(1));
    assert_eq!(course.events(), []);
    course.pass(Duration::from_nanos(1));
    assert_eq!(failures(&course.events()), [&Failure::TimedOut]);
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
    assert_eq!(course.shadow.poll_timeout(), None);
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    course.published();
}

#[test]
fn an_answer_that_cannot_be_read_is_said_when_no_better_comes() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    course.published();
    let unreadable = UnreadableState {
        feed: GET,
        problem: "it is no JSON".into(),
    };
    course.shadow.handle_unreadable(course.now, &unreadable);
    assert_eq!(course.events(), [Event::Ignored(Ignored::Unreadable)]);
    course.pass(DEADLINE);
    let problem = "it is no JSON".into();
    assert_eq!(failures(&course.events()), [&Failure::Unreadable(problem)]);
}

#[test]
fn subscriptions_per_call_go_with_the_last_answer() {
    let mut course = Course::online();
    let deadline = course.now + DEADLINE;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (now, get) = (course.now, StateRequest::Get);
        let asked = course.shadow.handle_request(now, get, deadline, false);
        asked.unwrap();
        if tokens.is_empty() {
            course.grant(GET);
        }
        tokens.push(course.published());
    }
    course.reply(StateOperation::Get, &tokens[0], Err(missing()));
    assert_eq!(course.actions(), []);
    course.reply(StateOperation::Get, &tokens[1], Err(missing()));
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
}

#[test]
fn what_only_the_deltas_needed_is_given_up_with_them() {
    let mut course = Course::in_step(3);
    course.unwant(StateFeed::Deltas);
    assert_eq!(
        course.actions(),
        [
            Action::Unsubscribe(StateFeed::Deltas),
            Action::Unsubscribe(GET)
        ]
    );
}

#[test]
fn what_requests_need_too_is_kept_when_the_deltas_go() {
    // Somebody wants it kept.
    let mut course = Course::in_step(3);
    course.request(StateRequest::Get).unwrap();
    let token = course.published();
    course.reply(StateOperation::Get, &token, Ok(document(3, None)));
    course.unwant(StateFeed::Deltas);
    assert_eq!(course.actions(), [Action::Unsubscribe(StateFeed::Deltas)]);
    // Somebody waits for an answer.
    let mut course = Course::in_step(3);
    let deadline = course.now + DEADLINE;
    let (now, get) = (course.now, StateRequest::Get);
    let asked = course.shadow.handle_request(now, get, deadline, false);
    asked.unwrap();
    let token = course.published();
    course.unwant(StateFeed::Deltas);
    assert_eq!(course.actions(), [Action::Unsubscribe(StateFeed::Deltas)]);
    course.reply(StateOperation::Get, &token, Ok(document(3, None)));
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
}

#[test]
fn a_refused_subscription_ends_the_requests_that_need_it_and_no_others() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.request(update()).unwrap();
    course.actions();
    let code = ReasonCode::NOT_AUTHORIZED;
    course.shadow.handle_subscribed(course.now, GET, Err(code));
    assert_eq!(
        failures(&course.events()),
        [&Failure::SubscriptionRefused(code)]
    );
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
    course.shadow.handle_subscribed(course.now, UPDATE, Ok(()));
    course.published();
}

#[test]
fn a_delta_is_news_once() {
    let mut course = Course::in_step(4);
    course.delta(4);
    assert_eq!(course.deltas(), []);
    course.delta(6);
    course.delta(6);
    course.delta(5);
    course.delta(7);
    assert_eq!(course.deltas(), [Some(6), Some(7)]);
}

#[test]
fn an_answer_does_not_hide_the_delta_of_its_version() {
    let mut course = Course::in_step(4);
    course.request(update()).unwrap();
    course.grant(UPDATE);
    let token = course.published();
    course.reply(StateOperation::Update, &token, Ok(document(5, None)));
    course.delta(5);
    assert_eq!(course.deltas(), [Some(5)]);
}

#[test]
fn after_each_connect_the_document_is_read_and_news_are_told() {
    let mut course = Course::in_step(4);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    let token = course.published();
    let differs = Some(json!({"a": 1}));
    let read = document(6, differs.clone());
    course.reply(StateOperation::Get, &token, Ok(read));
    assert_eq!(course.deltas(), [Some(6)]);
    // The same once more is no news.
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    let token = course.published();
    course.reply(StateOperation::Get, &token, Ok(document(6, differs)));
    assert_eq!(course.deltas(), []);
}

#[test]
fn a_delta_that_overtakes_the_document_is_not_undone_by_it() {
    let mut course = Course::in_step(4);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    let token = course.published();
    course.delta(7);
    course.delta(8);
    let older = document(6, Some(json!({"old": 1})));
    course.reply(StateOperation::Get, &token, Ok(older));
    assert_eq!(course.deltas(), [Some(7), Some(8)]);
    course.delta(8);
    assert_eq!(course.deltas(), []);
}

#[test]
fn a_delta_that_overtakes_the_first_reading_is_told_once() {
    let mut course = Course::online();
    course.shadow.handle_wanted(course.now, StateFeed::Deltas);
    course.grant(StateFeed::Deltas);
    course.grant(GET);
    let token = course.published();
    course.delta(1);
    let read = document(1, Some(json!({"v": 1})));
    course.reply(StateOperation::Get, &token, Ok(read));
    assert_eq!(course.deltas(), [Some(1)]);
}

#[test]
fn a_version_that_went_back_has_the_document_read_and_followed() {
    let mut course = Course::in_step(9);
    course.pass(Duration::from_secs(60));
    course.delta(1);
    let token = course.published();
    assert_eq!(course.deltas(), []);
    let anew = document(1, Some(json!({"a": 1})));
    course.reply(StateOperation::Get, &token, Ok(anew));
    assert_eq!(course.deltas(), [Some(1)]);
    course.delta(2);
    assert_eq!(course.deltas(), [Some(2)]);
}

#[test]
fn old_deltas_do_not_have_the_document_read_all_the_time() {
    let mut course = Course::in_step(9);
    course.pass(Duration::from_secs(60));
    course.delta(1);
    let token = course.published();
    course.reply(StateOperation::Get, &token, Ok(document(9, None)));
    for _ in 0..100 {
        course.delta(1);
    }
    assert_eq!(course.actions(), []);
    course.pass(Duration::from_secs(10));
    course.published();
}

#[test]
fn a_document_that_is_gone_may_come_back_with_any_version() {
    let mut course = Course::in_step(9);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    let token = course.published();
    course.reply(StateOperation::Get, &token, Err(missing()));
    assert_eq!(course.deltas(), []);
    course.delta(1);
    assert_eq!(course.deltas(), [Some(1)]);
}

#[test]
fn a_document_that_cannot_be_read_is_asked_for_again_ever_more_slowly() {
    let mut course = Course::in_step(1);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    let busy = Rejection {
        code: 500,
        message: "Internal service failure".into(),
    };
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        let token = course.published();
        course.reply(StateOperation::Get, &token, Err(busy.clone()));
        let due = course.shadow.poll_timeout().unwrap();
        assert_eq!(due - course.now, Duration::from_secs(seconds));
        course.pass(due - course.now);
    }
}

#[test]
fn who_comes_later_hears_what_differs_too() {
    let mut course = Course::in_step(3);
    course.delta(4);
    assert_eq!(course.deltas(), [Some(4)]);
    course.shadow.handle_wanted(course.now, StateFeed::Deltas);
    let token = course.published();
    let same = document(4, Some(json!({"v": 4})));
    course.reply(StateOperation::Get, &token, Ok(same));
    assert_eq!(course.deltas(), [Some(4)]);
}

#[test]
fn changes_are_told_once_and_one_that_makes_the_document_always() {
    let mut course = Course::online();
    course
        .shadow
        .handle_wanted(course.now, StateFeed::Documents);
    course.grant(StateFeed::Documents);
    let mut told = Vec::new();
    for (version, is_made) in [
        (4, false),
        (4, false),
        (5, false),
        (3, false),
        (1, true),
        (2, false),
    ] {
        let change = StateChange {
            previous: (!is_made).then(StateDocument::default),
            current: document(version, None),
            timestamp: None,
        };
        let message = StateMessage::Changed(Box::new(change));
        course.shadow.handle_message(course.now, message);
        for event in course.events() {
            if let Event::Changed(change) = event {
                told.push(change.current.version);
            }
        }
    }
    assert_eq!(told, [Some(4), Some(5), Some(1), Some(2)]);
}

#[test]
fn a_refused_stream_is_told_and_not_asked_for_again() {
    let mut course = Course::online();
    course.shadow.handle_wanted(course.now, StateFeed::Deltas);
    course.actions();
    let code = ReasonCode::NOT_AUTHORIZED;
    let feed = StateFeed::Deltas;
    course.shadow.handle_subscribed(course.now, feed, Err(code));
    assert_eq!(course.events(), [Event::FeedRefused { feed, code }]);
    assert_eq!(course.actions(), [Action::Unsubscribe(feed)]);
    course.pass(Duration::from_secs(60));
    assert_eq!(course.actions(), []);
}

#[test]
fn the_end_of_the_link_ends_all() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.request(update()).unwrap();
    course.shadow.handle_stopped();
    let events = course.events();
    assert_eq!(failures(&events), [&Failure::Stopped, &Failure::Stopped]);
    assert_eq!(course.request(update()), Err(Refusal::Offline));
}

#[test]
fn a_feed_that_is_refused_on_a_later_connection_ends_what_needs_it() {
    let code = ReasonCode::UNSPECIFIED_ERROR;
    let mut course = Course::in_step(4);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    course.published();
    course.request(StateRequest::Get).unwrap();
    course.published();
    // The session asked for what was granted before, and the server says no this time.
    course.shadow.handle_subscribed(course.now, GET, Err(code));
    let events = course.events();
    let failure = Failure::SubscriptionRefused(code);
    assert_eq!(failures(&events), [&failure, &failure]);
    assert_eq!(course.actions(), [Action::Unsubscribe(GET)]);
    let feed = StateFeed::Deltas;
    course.shadow.handle_subscribed(course.now, feed, Err(code));
    assert_eq!(course.events(), [Event::FeedRefused { feed, code }]);
    // Who asks is given another try.
    course.request(StateRequest::Get).unwrap();
    course.actions();
    course.shadow.handle_subscribed(course.now, GET, Ok(()));
    course.published();
}

#[test]
fn a_request_waits_for_its_turn_within_its_deadline() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.actions();
    course.shadow.handle_subscribed(course.now, GET, Ok(()));
    let id = course.request(StateRequest::Get).unwrap();
    let asked = std::iter::from_fn(|| course.shadow.poll_action());
    let asked: Vec<_> = asked.collect();
    assert!(matches!(
        asked[..],
        [Action::AskTurn { .. }, Action::AskTurn { .. }]
    ));
    course.pass(DEADLINE);
    let events = course.events();
    assert_eq!(failures(&events), [&Failure::TimedOut, &Failure::TimedOut]);
    // Nobody needs the turn any more, and what was not sent says nothing about subscriptions.
    assert!(!course.shadow.handle_turn(course.now, id));
    assert_eq!(course.actions(), []);
}

#[test]
fn lost_subscriptions_are_renewed_while_others_of_the_kind_are_under_way() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.grant(GET);
    course.published();
    let mut tokens = Vec::new();
    // Never without a request under way.
    for _ in 0..4 {
        course.pass(DEADLINE / 5);
        course.request(StateRequest::Get).unwrap();
        tokens.push(course.published());
    }
    course.pass(DEADLINE / 5);
    assert_eq!(failures(&course.events()), [&Failure::TimedOut]);
    assert_eq!(course.actions(), [Action::Renew(GET)]);
    // What comes meanwhile waits for the confirmation; an answer that comes meanwhile is heard.
    course.request(StateRequest::Get).unwrap();
    assert_eq!(course.actions(), []);
    course.reply(StateOperation::Get, &tokens[0], Ok(document(1, None)));
    let events = course.events();
    assert!(matches!(events[..], [Event::Ended { result: Ok(_), .. }]));
    // One renewal is enough for all that were sent before it.
    course.pass(DEADLINE / 5 * 2);
    assert_eq!(course.actions(), []);
    course.shadow.handle_subscribed(course.now, GET, Ok(()));
    course.published();
    course.pass(DEADLINE / 5);
    assert_eq!(course.actions(), []);
    course.request(StateRequest::Get).unwrap();
    course.published();
    // One that was sent after it and has no answer either calls for another one.
    course.pass(DEADLINE / 5 * 4);
    assert_eq!(course.actions(), [Action::Renew(GET)]);
}

fn too_many() -> Rejection {
    Rejection {
        code: 429,
        message: "Too many requests".into(),
    }
}

#[test]
fn too_many_requests_are_made_again_after_a_pause_and_with_a_token_of_their_own() {
    let mut course = Course::online();
    let id = course.request(update()).unwrap();
    course.grant(UPDATE);
    let first = course.published();
    course.reply(StateOperation::Update, &first, Err(too_many()));
    let operation = StateOperation::Update;
    assert_eq!(course.events(), [Event::Throttled { id, operation }]);
    let due = course.shadow.poll_timeout().unwrap();
    assert!(due < course.now + DEADLINE);
    course.pass(due - course.now);
    let second = course.published();
    assert_ne!(first, second);
    // The first try has ended, whatever is said about it now.
    course.reply(StateOperation::Update, &first, Ok(document(1, None)));
    assert_eq!(course.events(), [Event::Ignored(Ignored::Late)]);
    course.reply(StateOperation::Update, &second, Ok(document(2, None)));
    let events = course.events();
    assert!(matches!(&events[..], [Event::Ended { result: Ok(_), .. }]));
}

#[test]
fn too_many_requests_until_the_deadline_are_told_as_such() {
    let mut course = Course::online();
    course.request(update()).unwrap();
    course.grant(UPDATE);
    let mut tries = 0;
    loop {
        let token = course.published();
        tries += 1;
        course.reply(StateOperation::Update, &token, Err(too_many()));
        if let [failure] = failures(&course.events())[..] {
            assert_eq!(*failure, Failure::Rejected(too_many()));
            break;
        }
        let due = course.shadow.poll_timeout().unwrap();
        course.pass(due - course.now);
    }
    assert!(tries > 2, "{tries}");
    assert_eq!(course.shadow.poll_timeout(), None);
}

#[test]
fn devices_do_not_ask_again_at_the_same_time() {
    let pauses: HashSet<_> = ["a", "b", "c", "d"]
        .map(|name| {
            let mut course = Course::online();
            course.shadow = Shadow::new(name.into(), true);
            course.request(update()).unwrap();
            course.grant(UPDATE);
            let token = course.published();
            course.reply(StateOperation::Update, &token, Err(too_many()));
            course.shadow.poll_timeout().unwrap() - course.now
        })
        .into();
    assert_eq!(pauses.len(), 4, "{pauses:?}");
}

const SILENT: Loss = Loss::Silent { was_reading: true };

#[test]
fn a_reading_at_which_the_server_closes_twice_is_not_made_by_itself_any_more() {
    let mut course = Course::in_step(4);
    course.lose(Loss::Plain);
    for _ in 0..2 {
        course.shadow.handle_online(course.now);
        course.published();
        course.events();
        course.lose(SILENT);
    }
    let events = course.events();
    assert_eq!(events[0], Event::ReadingGivenUp);
    let disconnected = Failure::Disconnected { was_sent: true };
    assert_eq!(failures(&events), [&disconnected]);
    for _ in 0..3 {
        course.shadow.handle_online(course.now);
        assert_eq!(course.actions(), []);
        assert_eq!(course.shadow.poll_timeout(), None);
        course.lose(Loss::Plain);
    }
    // Somebody asks, and is answered: it is read by itself as before.
    course.shadow.handle_online(course.now);
    course.request(StateRequest::Get).unwrap();
    let token = course.published();
    course.reply(StateOperation::Get, &token, Ok(document(5, None)));
    course.published();
}

#[test]
fn who_wants_deltas_has_a_reading_that_was_given_up_tried_once_more() {
    let mut course = Course::in_step(4);
    for _ in 0..3 {
        course.lose(SILENT);
        course.shadow.handle_online(course.now);
        course.actions();
    }
    assert!(course.events().contains(&Event::ReadingGivenUp));
    course.shadow.handle_wanted(course.now, StateFeed::Deltas);
    course.published();
    course.lose(SILENT);
    assert!(course.events().contains(&Event::ReadingGivenUp));
}

#[test]
fn what_may_have_another_cause_gives_no_reading_up() {
    for loss in [Loss::Plain, Loss::Silent { was_reading: false }] {
        let mut course = Course::in_step(4);
        for _ in 0..5 {
            course.lose(loss);
            course.shadow.handle_online(course.now);
            course.published();
        }
        assert!(!course.events().contains(&Event::ReadingGivenUp));
    }
}

#[test]
fn a_suspected_reading_goes_out_alone() {
    let mut course = Course::in_step(4);
    course.lose(Loss::Plain);
    course.shadow.handle_online(course.now);
    course.published();
    course.lose(SILENT);
    course.shadow.handle_online(course.now);
    let asked = std::iter::from_fn(|| course.shadow.poll_action());
    let alone = asked.filter(|action| matches!(action, Action::AskTurn { is_alone: true, .. }));
    assert_eq!(alone.count(), 1);
}
