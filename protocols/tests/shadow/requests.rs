//! Each request ends once: with its answer, its deadline or its connection.

use std::time::Duration;

use paquebot_protocols::dialect::state::{StateOperation, StateRequest, UnreadableState};
use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::shadow::{Action, Event, Failure, Ignored, Loss, Refusal, Unsent};

use crate::course::{Course, DEADLINE, GET, UPDATE, document, failures, missing, update};

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
fn the_end_of_the_link_ends_all() {
    let mut course = Course::online();
    course.request(StateRequest::Get).unwrap();
    course.request(update()).unwrap();
    course.shadow.handle_stopped();
    let events = course.events();
    assert_eq!(failures(&events), [&Failure::Stopped, &Failure::Stopped]);
    assert_eq!(course.request(update()), Err(Refusal::Offline));
}
