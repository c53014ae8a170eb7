//! A reading at which the server closes the connection does not bring the link down for ever.

use paquebot_protocols::dialect::state::{StateFeed, StateOperation, StateRequest};
use paquebot_protocols::shadow::{Action, Event, Failure, Loss};

use crate::course::{Course, document, failures};

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
