//! Which deltas and changes are news, and when the document is read.

use std::time::Duration;

use paquebot_protocols::dialect::state::{
    Rejection, StateChange, StateDocument, StateFeed, StateMessage, StateOperation,
};
use paquebot_protocols::shadow::{Event, Loss};
use serde_json::json;

use crate::course::{Course, GET, UPDATE, document, missing, update};

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
