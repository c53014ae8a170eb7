use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::super::{OutboxConfig, Overflow, Refused, Room, Submission};
use super::*;

type Wait<'a> = Pin<Box<dyn Future<Output = Result<Room<'a>, Refused>> + 'a>>;

fn room(messages_max: usize, bytes_max: usize) -> Arc<FleetRoom> {
    FleetRoom::new(QueueLimits {
        messages_max: Some(messages_max),
        bytes_max: Some(bytes_max),
    })
    .unwrap()
}

fn link(room: &Arc<FleetRoom>, messages_max: usize, overflow: Overflow) -> Arc<Intake> {
    let config = OutboxConfig {
        messages_max,
        overflow,
        ..OutboxConfig::default()
    };
    Intake::new(&config, Some(room))
}

fn links<const N: usize>(room: &Arc<FleetRoom>) -> [Arc<Intake>; N] {
    std::array::from_fn(|_| link(room, 10, Overflow::Wait))
}

fn wait(intake: &Intake, messages: u32, bytes: u32) -> Wait<'_> {
    let mut wait: Wait<'_> = Box::pin(intake.take_room(messages, bytes));
    assert!(poll(&mut wait).is_none());
    wait
}

fn poll<'a>(wait: &mut Wait<'a>) -> Option<Result<Room<'a>, Refused>> {
    match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn held(room: &FleetRoom) -> (u64, u64) {
    let statistics = room.statistics();
    (statistics.messages, statistics.bytes)
}

#[test]
fn links_fill_the_room_that_they_share_and_are_told_which_room_was_missing() {
    let shared = room(3, 100);
    let [first, second] = links(&shared);
    let one = first.try_take_room(2, 60).ok();
    assert!(matches!(
        second.try_take_room(1, 41),
        Err(Refused::FleetFull)
    ));
    let other = second.try_take_room(1, 40).ok();
    assert_eq!(held(&shared), (3, 100));
    assert!(matches!(first.try_take_room(1, 0), Err(Refused::FleetFull)));
    assert!(matches!(first.try_take_room(9, 0), Err(Refused::Full)));
    drop((one, other));
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn one_message_always_fits_into_a_fleet_that_holds_none() {
    let shared = room(1, 10);
    let [first, second] = links(&shared);
    let large = first.cost(1_000);
    let taken = first.try_take_room(1, large).ok();
    assert!(taken.is_some());
    assert!(second.try_take_room(1, 0).is_err());
    drop(taken);
    assert!(second.try_take_room(1, second.cost(11)).is_ok());
}

#[test]
fn links_get_room_in_the_order_of_asking_and_nobody_overtakes() {
    let shared = room(10, 100);
    let [hog, large, small, late] = links(&shared);
    let all = hog.try_take_room(1, 100).ok();
    let mut large = wait(&large, 1, 80);
    let mut small = wait(&small, 1, 10);
    assert_eq!(shared.statistics().waiting_links, 2);
    shared.free(0, 50);
    shared.serve();
    assert!(poll(&mut large).is_none());
    assert!(poll(&mut small).is_none(), "it overtook");
    assert!(late.try_take_room(1, 1).is_err(), "it overtook");
    shared.occupy(0, 50);
    drop(all);
    let taken = [poll(&mut large), poll(&mut small)].map(|room| room.unwrap().ok().unwrap());
    assert_eq!(held(&shared), (2, 90));
    assert!(late.try_take_room(1, 10).is_ok());
    drop(taken);
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn links_take_turns_however_many_callers_wait_at_each() {
    let shared = room(1, 100);
    let [hog, many, one] = links(&shared);
    let all = hog.try_take_room(1, 1).ok();
    let mut of_many: Vec<_> = (0..3).map(|_| wait(&many, 1, 1)).collect();
    let mut of_one = wait(&one, 1, 1);
    drop(all);
    let first = poll(&mut of_many[0]).unwrap().ok();
    drop(first);
    let turn = poll(&mut of_one).unwrap().ok();
    assert!(poll(&mut of_many[1]).is_none(), "it had its turn");
    drop(turn);
    for waiting in &mut of_many[1..] {
        drop(poll(waiting).unwrap().ok().unwrap());
    }
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn who_gives_up_at_the_head_of_the_line_leaves_it_to_those_behind() {
    let shared = room(10, 100);
    let [hog, first, second] = links(&shared);
    let all = hog.try_take_room(1, 60).ok();
    let large = wait(&first, 1, 90);
    let mut next = wait(&first, 1, 30);
    let mut small = wait(&second, 1, 10);
    drop(large);
    let next = poll(&mut next).unwrap().ok();
    assert!(next.is_some(), "it stands where its link stood");
    assert!(poll(&mut small).unwrap().is_ok());
    drop((all, next));
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn a_link_that_is_closed_leaves_the_line_and_takes_nothing_along() {
    let shared = room(1, 100);
    let [hog, closed, open] = links(&shared);
    let all = hog.try_take_room(1, 1).ok();
    let mut told = wait(&closed, 1, 1);
    let dropped = wait(&closed, 1, 1);
    let mut granted = wait(&open, 1, 1);
    closed.close();
    assert_eq!(shared.statistics().waiting_links, 1);
    assert!(matches!(poll(&mut told), Some(Err(Refused::Stopped))));
    // Nobody looked whether it was told to go.
    drop(dropped);
    assert_eq!(held(&shared), (1, 1));
    drop(all);
    assert!(poll(&mut granted).unwrap().is_ok());
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn a_granted_caller_who_never_looks_gives_its_room_to_the_next() {
    let shared = room(1, 100);
    let [hog, gone, next] = links(&shared);
    let all = hog.try_take_room(1, 1).ok();
    let granted = wait(&gone, 1, 1);
    let mut waits = wait(&next, 1, 1);
    drop(all);
    drop(granted);
    assert!(poll(&mut waits).unwrap().is_ok());
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn what_a_link_holds_when_it_ends_is_given_back_whatever_became_of_it() {
    let shared = room(10, 100);
    let [failed, other] = links(&shared);
    let room = failed.try_take_room(2, 100).ok().unwrap();
    let submission = Submission::Batch(Vec::new(), None);
    assert!(failed.push(submission, room).is_ok());
    failed.occupy_fleet(5, 500);
    let mut waits = wait(&other, 1, 1);
    assert_eq!(held(&shared), (7, 600));
    // The queue that would have given it back panicked.
    failed.end();
    failed.leave_fleet();
    failed.give_back_fleet(1, 1);
    assert!(poll(&mut waits).unwrap().is_ok());
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn where_the_queue_takes_the_room_callers_need_none() {
    let shared = room(1, 100);
    let hog = link(&shared, 10, Overflow::Reject);
    let drops = link(&shared, 10, Overflow::DropOldest);
    let all = hog.try_take_room(1, 1).ok();
    assert!(drops.try_take_room(1, 5).is_ok());
    assert!(!drops.try_take_fleet(1));
    drop(all);
    assert!(drops.try_take_fleet(1));
    assert_eq!(held(&shared), (1, 1));
    drops.leave_fleet();
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn where_the_queue_takes_the_room_callers_of_a_full_fleet_wait_until_it_has_looked() {
    let shared = room(100, 1_000);
    let hog = link(&shared, 100, Overflow::Reject);
    let drops = link(&shared, 100, Overflow::DropNewest);
    let mut rooms: Vec<_> = (0..70).map(|_| drops.try_take_room(1, 1).ok()).collect();
    assert!(rooms.iter().all(Option::is_some), "the fleet is not full");
    rooms.truncate(64);
    let all = hog.try_take_room(1, 1_000).ok();
    assert!(matches!(drops.try_take_room(1, 1), Err(Refused::Full)));
    let mut waits = wait(&drops, 1, 1);
    rooms.pop();
    let one = poll(&mut waits).unwrap().ok();
    assert!(one.is_some(), "the queue has looked at one");
    drop((all, one, rooms));
    assert_eq!(held(&shared), (0, 0));
}

const LINKS: usize = 3;

/// What may happen to a link's intake.
#[derive(Debug, Clone)]
enum Step {
    Try(usize, u32, u32),
    Wait(usize, u32, u32),
    /// A caller that waits gives up.
    GiveUp(usize),
    /// The oldest caller that was granted room hands something over.
    HandOver(usize),
    /// The same through the store, which gives it up.
    Unrecorded(usize),
    /// The oldest message that the queue has ends.
    End(usize),
    Close(usize),
    /// The link ends, with all that it has.
    Fail(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let link = 0..LINKS;
    let room = (link.clone(), 1..3_u32, 0..40_u32);
    prop_oneof![
        4 => room.clone().prop_map(|(l, m, b)| Step::Try(l, m, b)),
        6 => room.prop_map(|(l, m, b)| Step::Wait(l, m, b)),
        2 => link.clone().prop_map(Step::GiveUp),
        6 => link.clone().prop_map(Step::HandOver),
        1 => link.clone().prop_map(Step::Unrecorded),
        6 => link.clone().prop_map(Step::End),
        1 => link.clone().prop_map(Step::Close),
        1 => link.prop_map(Step::Fail),
    ]
}

/// A link of the model: who waits, who has room in hand, and what the queue has.
#[derive(Default)]
struct Modelled<'a> {
    waiting: VecDeque<(Wait<'a>, u32, u32)>,
    in_hand: VecDeque<(Room<'a>, u32, u32)>,
    queued: VecDeque<(u32, u32)>,
    is_closed: bool,
}

impl Modelled<'_> {
    fn taken(&self) -> (u64, u64) {
        let in_hand = self
            .in_hand
            .iter()
            .map(|(_, messages, bytes)| (messages, bytes));
        let queued = self
            .queued
            .iter()
            .map(|(messages, bytes)| (messages, bytes));
        in_hand
            .chain(queued)
            .fold((0, 0), |sum, (messages, bytes)| {
                (sum.0 + u64::from(*messages), sum.1 + u64::from(*bytes))
            })
    }

    /// Looks whether those who wait were granted room: each link's in the order of asking.
    fn look(&mut self) {
        let mut before = VecDeque::new();
        while let Some((mut wait, messages, bytes)) = self.waiting.pop_front() {
            match poll(&mut wait) {
                Some(Ok(room)) => {
                    assert!(before.is_empty(), "it overtook one of the same link");
                    self.in_hand.push_back((room, messages, bytes));
                }
                Some(Err(refused)) => {
                    assert!(self.is_closed && matches!(refused, Refused::Stopped));
                }
                None => before.push_back((wait, messages, bytes)),
            }
        }
        assert!(!self.is_closed || before.is_empty(), "it waits for ever");
        self.waiting = before;
    }
}

const MESSAGES_MAX: usize = 5;
const BYTES_MAX: usize = 60;
const OWN_MESSAGES_MAX: usize = 4;

fn follow<'a>(steps: Vec<Step>, shared: &FleetRoom, intakes: &'a [Arc<Intake>]) {
    let mut model: Vec<Modelled<'a>> = (0..LINKS).map(|_| Modelled::default()).collect();
    for step in steps {
        match step {
            Step::Try(l, messages, bytes) => {
                if let Ok(room) = intakes[l].try_take_room(messages, bytes) {
                    assert!(model[l].waiting.is_empty(), "it overtook");
                    model[l].in_hand.push_back((room, messages, bytes));
                }
            }
            Step::Wait(l, messages, bytes) => {
                let wait: Wait<'a> = Box::pin(intakes[l].take_room(messages, bytes));
                model[l].waiting.push_back((wait, messages, bytes));
            }
            Step::GiveUp(l) => drop(model[l].waiting.pop_back()),
            Step::HandOver(l) => {
                if let Some((room, messages, bytes)) = model[l].in_hand.pop_front() {
                    let submission = Submission::Batch(Vec::new(), None);
                    let is_taken = intakes[l].push(submission, room).is_ok();
                    assert_eq!(is_taken, !model[l].is_closed);
                    if is_taken {
                        model[l].queued.push_back((messages, bytes));
                    }
                }
            }
            Step::Unrecorded(l) => {
                if let Some((room, ..)) = model[l].in_hand.pop_front() {
                    drop(room.into_owned(&intakes[l]));
                }
            }
            Step::End(l) => {
                if let Some((messages, bytes)) = model[l].queued.pop_front() {
                    let (messages, bytes) = (messages as usize, bytes as usize);
                    intakes[l].give_back_fleet(messages, bytes);
                    intakes[l].give_back(messages, bytes);
                }
            }
            Step::Close(l) => {
                intakes[l].close();
                model[l].is_closed = true;
            }
            Step::Fail(l) => {
                intakes[l].end();
                intakes[l].leave_fleet();
                model[l].is_closed = true;
                model[l].queued.clear();
            }
        }
        for link in &mut model {
            link.look();
        }
        let taken: Vec<_> = model.iter().map(Modelled::taken).collect();
        let sum = taken
            .iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(held(shared), sum);
        assert!(sum.0 <= MESSAGES_MAX as u64 && sum.1 <= BYTES_MAX as u64);
        // Nobody waits in vain: of the links whose own room would do, one has its turn, and there is too little for it.
        let first_wants = |link: &Modelled<'_>, taken: &(u64, u64)| {
            let (_, messages, bytes) = link.waiting.front()?;
            let (messages, bytes) = (u64::from(*messages), u64::from(*bytes));
            // A link's bytes are bounded by what the fleet may hold, if by nothing narrower.
            let has_own = taken.0 + messages <= OWN_MESSAGES_MAX as u64
                && taken.1 + bytes <= BYTES_MAX as u64;
            has_own.then_some((messages, bytes))
        };
        let wanted: Vec<_> = model
            .iter()
            .zip(&taken)
            .filter_map(|(link, taken)| first_wants(link, taken))
            .collect();
        assert_eq!(shared.statistics().waiting_links, wanted.len());
        let fits = |(messages, bytes): &(u64, u64)| {
            sum.0 + messages <= MESSAGES_MAX as u64 && sum.1 + bytes <= BYTES_MAX as u64
        };
        assert!(
            wanted.is_empty() || !wanted.iter().all(fits),
            "room is left"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_any_course_what_is_held_is_what_was_taken_and_nobody_waits_in_vain(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let shared = room(MESSAGES_MAX, BYTES_MAX);
        let intakes: [_; LINKS] =
            std::array::from_fn(|_| link(&shared, OWN_MESSAGES_MAX, Overflow::Wait));
        follow(steps, &shared, &intakes);
        for intake in &intakes {
            intake.end();
            intake.leave_fleet();
        }
        prop_assert_eq!(held(&shared), (0, 0));
        prop_assert_eq!(shared.statistics().waiting_links, 0);
    }
}

#[test]
fn threads_that_take_and_give_back_leave_nothing_behind_and_nobody_waiting() {
    let shared = room(3, 50);
    let intakes: [_; 4] = links(&shared);
    std::thread::scope(|scope| {
        for (seed, intake) in (0..).zip(&intakes) {
            let shared = &shared;
            for part in 0..2 {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed * 2 + part);
                    for _ in 0..2_000 {
                        let (messages, bytes) = (rng.u32(1..=2), rng.u32(0..=50));
                        let mut wait = Box::pin(intake.take_room(messages, bytes));
                        let is_impatient = rng.u32(0..10) == 0;
                        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                        let mut cx = Context::from_waker(&waker);
                        while wait.as_mut().poll(&mut cx).is_pending() && !is_impatient {
                            std::thread::park();
                        }
                        let held = held(shared);
                        assert!(held.0 <= 3 && held.1 <= 50, "{held:?}");
                    }
                });
            }
        }
    });
    assert_eq!(held(&shared), (0, 0));
    assert_eq!(shared.statistics().waiting_links, 0);
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
