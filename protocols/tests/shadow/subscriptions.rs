//! Which feeds are asked for, renewed and given up, and what a refused one ends.

use std::time::Duration;

use paquebot_protocols::dialect::state::{StateFeed, StateOperation, StateRequest};
use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::shadow::{Action, Event, Failure, Loss};

use crate::course::{Course, DEADLINE, GET, UPDATE, document, failures, missing, update};

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
