//! How many requests are held and under way, and what becomes of those the platform has too many of.

use std::collections::HashSet;

use paquebot_protocols::dialect::state::{Rejection, StateOperation, StateRequest, StateRules};
use paquebot_protocols::shadow::{
    Action, Event, Failure, Ignored, REQUESTS_HELD_MAX, Refusal, Shadow,
};

use crate::course::{Course, DEADLINE, GET, UPDATE, document, failures, update};

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
