//! What the queues of all links of a fleet may hold together: each policy at a full fleet, who gets room when there is
//! some, and that every end of a message gives it back.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, TopicFilter, Version};
use paquebot::{
    Batch, BatchError, DropReason, Durability, Fleet, Link, Outcome, Overflow, Publish,
    QueueLimits, Receipt, SendError, StartError, StatePatch,
};
use paquebot_emulator::{Broker, Watch};
use serde_json::json;

#[path = "support/support.rs"]
mod support;

use support::fleet::{Gangway, broker, drain, fleet_on, metric, soon, start, until};

/// Topic and payload of each numbered message have this many bytes together.
const SIZE: usize = 10;

fn numbered(n: usize) -> Publish {
    let message = Publish::new("t/x", format!("{n:07}")).unwrap();
    message.with_qos(QoS::AtLeastOnce)
}

fn messages(max: usize) -> QueueLimits {
    QueueLimits {
        messages_max: Some(max),
        bytes_max: None,
    }
}

fn bytes(max: usize) -> QueueLimits {
    QueueLimits {
        messages_max: None,
        bytes_max: Some(max),
    }
}

fn limited(limits: QueueLimits) -> Fleet {
    let builder = Fleet::builder().workers(1).queue_limits(limits);
    builder.start().unwrap()
}

/// A broker behind a gangway that is shut, and a fleet with these limits.
async fn port(limits: QueueLimits) -> (Broker, Gangway, Fleet) {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    (broker, gangway, limited(limits))
}

fn link(gangway: &Gangway, fleet: &Fleet, name: &str, overflow: Overflow) -> Link {
    start(gangway.group(fleet, Version::V5).overflow(overflow), name)
}

async fn publish(link: &Link, numbers: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        let accepted = soon("a message is taken", link.publish(numbered(n)));
        receipts.push(accepted.await.unwrap());
    }
    receipts
}

async fn ended(receipt: Receipt) -> Outcome {
    soon("a message ended", receipt).await
}

fn held(fleet: &Fleet) -> (u64, u64) {
    let statistics = fleet.queue_statistics().unwrap();
    (statistics.messages, statistics.bytes)
}

async fn waiting(fleet: &Fleet, links: usize) {
    until("links wait for room", || {
        fleet.queue_statistics().unwrap().waiting_links == links
    })
    .await;
}

async fn seen(watch: &mut Watch, count: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = soon("the broker has it", watch.recv()).await.unwrap();
        let payload = std::str::from_utf8(&message.payload).unwrap();
        seen.push(payload.parse().unwrap());
    }
    seen
}

fn all(broker: &Broker) -> Watch {
    broker.watch(TopicFilter::new("#").unwrap())
}

#[tokio::test]
async fn at_a_full_fleet_a_message_that_is_rejected_comes_back_and_the_error_says_whose_room_it_was()
 {
    let (_broker, gangway, fleet) = port(messages(3)).await;
    let first = link(&gangway, &fleet, "d1", Overflow::Reject);
    let second = link(&gangway, &fleet, "d2", Overflow::Reject);
    let mut kept = publish(&first, 0..2).await;
    kept.extend(publish(&second, 2..3).await);
    let Err(SendError::FleetFull(message)) = second.publish(numbered(3)).await else {
        panic!("the fleet is full");
    };
    assert_eq!(&*message.payload, b"0000003");
    let refused = first.try_publish(numbered(4));
    let text = refused.unwrap_err().to_string();
    assert_eq!(
        text,
        "the fleet's queues are full; wait, or raise its limits"
    );
    let batch = Batch::from_iter((5..8).map(numbered));
    let Err(BatchError::FleetFull { unsent, accepted }) = first.publish_batch(batch).await else {
        panic!("the fleet is full");
    };
    assert_eq!(unsent.len(), 3);
    drop(accepted);
    assert_eq!(held(&fleet), (3, 3 * SIZE as u64));
    assert_eq!(fleet.queue_statistics().unwrap().refused, 5);

    gangway.open();
    for receipt in kept {
        assert!(ended(receipt).await.is_delivered());
    }
    for receipt in publish(&second, 8..11).await {
        assert!(ended(receipt).await.is_delivered());
    }
    assert_eq!(drain(&fleet).await.delivered, 6);
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn a_batch_that_is_rejected_was_accepted_as_far_as_the_fleet_had_room() {
    let (_broker, gangway, fleet) = port(bytes(5 * SIZE)).await;
    let link = link(&gangway, &fleet, "d1", Overflow::Reject);
    let batch = Batch::from_iter((0..8).map(numbered));
    let Err(BatchError::Full { unsent, accepted } | BatchError::FleetFull { unsent, accepted }) =
        link.publish_batch(batch).await
    else {
        panic!("the fleet is full");
    };
    assert_eq!(unsent.len(), 3);
    gangway.open();
    assert_eq!(soon("it ended", accepted).await.delivered, 5);
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn at_a_full_fleet_the_newest_is_dropped_and_counted() {
    let (_broker, gangway, fleet) = port(messages(2)).await;
    let waits = link(&gangway, &fleet, "d1", Overflow::Wait);
    let drops = link(&gangway, &fleet, "d2", Overflow::DropNewest);
    let first = publish(&waits, 0..1).await;
    let mut receipts = publish(&drops, 1..4).await;
    for dropped in receipts.split_off(1) {
        assert_eq!(ended(dropped).await, Outcome::Dropped(DropReason::Newest));
    }
    let name = "paquebot_fleet_queue_refused_total";
    assert_eq!(metric(&fleet, name, &[]), 2.0);
    gangway.open();
    for kept in first.into_iter().chain(receipts) {
        assert!(ended(kept).await.is_delivered());
    }
    assert_eq!(drain(&fleet).await.dropped, 2);
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn at_a_full_fleet_a_link_drops_its_own_oldest_and_never_that_of_another() {
    let (broker, gangway, fleet) = port(messages(3)).await;
    let mut watch = all(&broker);
    let others = link(&gangway, &fleet, "d1", Overflow::Reject);
    let own = link(&gangway, &fleet, "d2", Overflow::DropOldest);
    let mut kept = publish(&others, 0..1).await;
    let mut receipts = publish(&own, 1..5).await;
    kept.extend(receipts.split_off(2));
    for dropped in receipts {
        assert_eq!(ended(dropped).await, Outcome::Dropped(DropReason::Oldest));
    }
    let has_nothing = link(&gangway, &fleet, "d3", Overflow::DropOldest);
    let new = publish(&has_nothing, 5..6).await.remove(0);
    assert_eq!(ended(new).await, Outcome::Dropped(DropReason::Oldest));
    assert_eq!(held(&fleet), (3, 3 * SIZE as u64));
    gangway.open();
    for receipt in kept {
        assert!(ended(receipt).await.is_delivered());
    }
    let mut seen = seen(&mut watch, 3).await;
    seen.sort_unstable();
    assert_eq!(seen, [0, 3, 4]);
    // It has its part when there is room.
    let new = publish(&has_nothing, 6..7).await.remove(0);
    assert!(ended(new).await.is_delivered());
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn several_old_messages_make_room_for_a_large_one_and_none_for_one_that_is_too_large() {
    let (_broker, gangway, fleet) = port(bytes(10 * SIZE)).await;
    let others = link(&gangway, &fleet, "d1", Overflow::Reject);
    let own = link(&gangway, &fleet, "d2", Overflow::DropOldest);
    drop(publish(&others, 0..5).await);
    let mut kept = publish(&own, 5..10).await;
    let sized = |size: usize| numbered(0).with_payload(vec![0; size - 3]);
    let too_large = own.publish(sized(5 * SIZE + 1)).await.unwrap();
    assert_eq!(ended(too_large).await, Outcome::Dropped(DropReason::Oldest));
    assert_eq!(fleet.totals().dropped, 1);
    let large = own.publish(sized(3 * SIZE - 1)).await.unwrap();
    for dropped in kept.drain(..3) {
        assert_eq!(ended(dropped).await, Outcome::Dropped(DropReason::Oldest));
    }
    assert_eq!(held(&fleet), (8, 10 * SIZE as u64 - 1));
    gangway.open();
    assert!(ended(large).await.is_delivered());
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn reports_that_wait_make_no_room_for_telemetry_and_merge_in_a_full_fleet() {
    let (_broker, gangway, fleet) = port(messages(2)).await;
    let others = link(&gangway, &fleet, "d1", Overflow::Reject);
    let own = link(&gangway, &fleet, "d2", Overflow::DropOldest);
    drop(publish(&others, 0..1).await);
    let patch = |value| StatePatch::json(&value).unwrap();
    let device = own.device();
    let first = device.report(&patch(json!({"a": 1}))).await.unwrap();
    let telemetry = publish(&own, 1..2).await.remove(0);
    let dropped = Outcome::Dropped(DropReason::Oldest);
    assert_eq!(ended(telemetry).await, dropped);
    let second = device.report(&patch(json!({"b": 22}))).await.unwrap();
    assert_eq!(ended(first).await, Outcome::Merged);
    assert_eq!(held(&fleet).0, 2);
    gangway.open();
    assert!(ended(second).await.is_delivered());
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn who_waits_for_a_full_fleet_goes_on_in_the_order_of_asking() {
    let (broker, gangway, fleet) = port(messages(1)).await;
    let mut watch = all(&broker);
    let links =
        ["d0", "d1", "d2", "d3", "d4"].map(|name| link(&gangway, &fleet, name, Overflow::Wait));
    drop(publish(&links[0], 0..1).await);
    let mut callers = Vec::new();
    for (n, link) in links.iter().enumerate().skip(1) {
        let link = link.clone();
        callers.push(tokio::spawn(async move { link.publish(numbered(n)).await }));
        waiting(&fleet, n).await;
    }
    assert_eq!(
        metric(&fleet, "paquebot_fleet_queue_waiting_links", &[]),
        4.0
    );
    gangway.open();
    assert_eq!(seen(&mut watch, 5).await, [0, 1, 2, 3, 4]);
    for caller in callers {
        let receipt = caller.await.unwrap().unwrap();
        assert!(ended(receipt).await.is_delivered());
    }
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn a_batch_that_waits_keeps_no_link_from_its_turn() {
    let (_broker, gangway, fleet) = port(messages(10)).await;
    let shut = Gangway::new(&broker().await);
    let away = link(&shut, &fleet, "away", Overflow::Wait);
    drop(publish(&away, 0..8).await);
    gangway.open();
    // Eight tenths are not to be had while one link is away: a batch goes on in what is left, and others beside it.
    let large = link(&gangway, &fleet, "large", Overflow::Wait);
    let batch = tokio::spawn(async move {
        let batch = Batch::from_iter((0..200).map(numbered));
        large.publish_batch(batch).await.unwrap().await
    });
    let small = link(&gangway, &fleet, "small", Overflow::Wait);
    for receipt in publish(&small, 0..20).await {
        assert!(ended(receipt).await.is_delivered());
    }
    let outcome = soon("the batch is delivered", batch).await.unwrap();
    assert_eq!(outcome.delivered, 200);
    let totals = soon("it is drained", fleet.drain(Duration::ZERO)).await;
    assert_eq!((totals.delivered, totals.dropped), (220, 8));
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn one_message_always_fits_into_a_fleet_that_holds_none() {
    for overflow in [
        Overflow::Wait,
        Overflow::Reject,
        Overflow::DropNewest,
        Overflow::DropOldest,
    ] {
        let limits = QueueLimits {
            messages_max: Some(1),
            bytes_max: Some(SIZE),
        };
        let (_broker, gangway, fleet) = port(limits).await;
        let link = link(&gangway, &fleet, "d1", overflow);
        let large = numbered(0).with_payload(vec![0; 100 * SIZE]);
        let receipt = soon("it is taken", link.publish(large)).await.unwrap();
        until("it is held", || held(&fleet) == (1, SIZE as u64)).await;
        gangway.open();
        assert!(ended(receipt).await.is_delivered(), "{overflow:?}");
        drain(&fleet).await;
        assert_eq!(held(&fleet), (0, 0));
    }
}

#[tokio::test]
async fn each_end_of_a_message_gives_its_room_to_who_waits() {
    let (_broker, gangway, fleet) = port(messages(1)).await;
    let waits = link(&gangway, &fleet, "waits", Overflow::Wait);
    let ends = |name| link(&gangway, &fleet, name, Overflow::Wait);
    let next = || {
        let waits = waits.clone();
        tokio::spawn(async move { waits.publish(numbered(1)).await })
    };

    // A caller gives up, before and after its link has joined the line.
    let expires = ends("expires");
    let short = numbered(0).with_time_to_live(Duration::from_millis(50));
    let expired = soon("it is taken", expires.publish(short)).await.unwrap();
    assert!(
        ends("gives up")
            .publish(numbered(0))
            .now_or_never()
            .is_none()
    );
    assert_eq!(fleet.queue_statistics().unwrap().waiting_links, 0);

    // Its message expires.
    let caller = next();
    assert_eq!(ended(expired).await, Outcome::Expired);
    let granted = soon("it has room", caller).await.unwrap().unwrap();

    // Its link stops, and its handle stays.
    let stops = ends("stops");
    let stopped = tokio::spawn({
        let stops = stops.clone();
        async move { stops.publish(numbered(2)).await }
    });
    waiting(&fleet, 1).await;
    waits.stop().await;
    assert_eq!(ended(granted).await, Outcome::Dropped(DropReason::Stopped));
    let held_now = soon("it has room", stopped).await.unwrap().unwrap();
    let last = ends("last");
    let caller = tokio::spawn({
        let last = last.clone();
        async move { last.publish(numbered(3)).await }
    });
    waiting(&fleet, 1).await;
    stops.stop().await;
    drop(held_now);
    let granted = soon("it has room", caller).await.unwrap().unwrap();

    // Its link stops while a caller waits.
    let caller = tokio::spawn({
        let expires = expires.clone();
        async move { expires.publish(numbered(4)).await }
    });
    waiting(&fleet, 1).await;
    expires.stop().await;
    let refused = soon("it is told", caller).await.unwrap();
    assert!(matches!(refused, Err(SendError::Stopped(_))));
    waiting(&fleet, 0).await;

    gangway.open();
    assert!(ended(granted).await.is_delivered());
    drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0));
}

#[tokio::test]
async fn what_the_store_held_counts_from_the_start_also_above_the_bound() {
    for overflow in [Overflow::Wait, Overflow::DropOldest] {
        let store = tempfile::tempdir().unwrap();
        let broker = broker().await;
        let gangway = Gangway::new(&broker);
        let durable = |fleet: &Fleet| {
            let group = gangway.group(fleet, Version::V5).overflow(overflow);
            start(group.durability(Durability::Disk), "d1")
        };
        let before = fleet_on(store.path());
        drop(publish(&durable(&before), 0..5).await);
        soon("it is drained", before.drain(Duration::ZERO)).await;

        let builder = Fleet::builder().workers(1).store(store.path());
        let fleet = builder.queue_limits(messages(2)).start().unwrap();
        let link_of_memory = link(&gangway, &fleet, "d2", Overflow::Reject);
        let link = durable(&fleet);
        assert_eq!(held(&fleet), (5, 5 * SIZE as u64));
        let refused = link_of_memory.publish(numbered(5)).await;
        assert!(matches!(refused, Err(SendError::FleetFull(_))));
        // Left in the store, it is not held any more; opened again, it is.
        link.stop().await;
        assert_eq!(held(&fleet), (0, 0));
        let link = durable(&fleet);
        assert_eq!(held(&fleet).0, 5);

        gangway.open();
        until("it is delivered", || fleet.totals().delivered == 5).await;
        until("there is room", || held(&fleet).0 == 0).await;
        let receipt = link_of_memory.publish(numbered(6)).await.unwrap();
        assert!(ended(receipt).await.is_delivered());
        drop(link);
        drain(&fleet).await;
        assert_eq!(held(&fleet), (0, 0));
    }
}

#[tokio::test]
async fn messages_that_the_store_refuses_hold_no_room() {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let builder = Fleet::builder().workers(1).store(store.path());
    let builder = builder.store_bytes_max(1).queue_limits(messages(2));
    let fleet = builder.start().unwrap();
    let group = gangway.group(&fleet, Version::V5);
    let link = start(group.durability(Durability::Process), "d1");
    for _ in 0..5 {
        let refused = soon("it is answered", link.publish(numbered(0))).await;
        assert!(matches!(refused, Err(SendError::Storage { .. })));
        let batch = Batch::from_iter((0..2).map(numbered));
        let refused = soon("it is answered", link.publish_batch(batch)).await;
        assert!(matches!(refused, Err(BatchError::Storage { .. })));
        // Nobody waits for it, and the receipt tells.
        let receipt = link.try_publish(numbered(0)).unwrap();
        assert_eq!(ended(receipt).await, Outcome::Dropped(DropReason::Storage));
    }
    assert_eq!(held(&fleet), (0, 0));
    drain(&fleet).await;
}

#[tokio::test]
async fn the_metrics_say_what_is_held_and_how_much_may_be() {
    let limits = QueueLimits {
        messages_max: Some(10),
        bytes_max: Some(1_000),
    };
    let (_broker, gangway, fleet) = port(limits).await;
    let link = link(&gangway, &fleet, "d1", Overflow::Wait);
    drop(publish(&link, 0..3).await);
    let value = |name: &str| metric(&fleet, &format!("paquebot_fleet_queue_{name}"), &[]);
    let names = ["messages", "bytes", "messages_max", "bytes_max"];
    assert_eq!(names.map(value), [3.0, 30.0, 10.0, 1_000.0]);
    soon("it is drained", fleet.drain(Duration::ZERO)).await;

    let unlimited = support::fleet::fleet();
    let families = unlimited.metrics().gather();
    let is_ours = |name: &str| name.starts_with("paquebot_fleet_queue");
    assert!(!families.iter().any(|family| is_ours(family.name())));
    assert_eq!(unlimited.queue_statistics(), None);
}

#[test]
fn a_bound_of_zero_is_refused() {
    for (limits, name) in [(messages(0), "messages_max"), (bytes(0), "bytes_max")] {
        let refused = Fleet::builder().queue_limits(limits).start();
        let Err(StartError::Zero(zero)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(zero, name);
    }
}

const MESSAGES_MAX: usize = 12;
const BYTES_MAX: usize = 400;
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// The links of the course are of each policy and durability.
fn member(gangway: &Gangway, fleet: &Fleet, n: usize) -> Link {
    let overflow = [
        Overflow::Wait,
        Overflow::Reject,
        Overflow::DropNewest,
        Overflow::DropOldest,
    ][n % 4];
    let durability = [Durability::Memory, Durability::Disk][n / 4 % 2];
    let group = gangway.group(fleet, Version::V5).overflow(overflow);
    let group = group.durability(durability).queue_messages_max(8);
    start(group, &format!("d{n}"))
}

/// Any course of links that publish, expire, stop and come back, callers that give up, and a server that comes and goes.
async fn course(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let limits = QueueLimits {
        messages_max: Some(MESSAGES_MAX),
        bytes_max: Some(BYTES_MAX),
    };
    let builder = Fleet::builder().workers(2).store(store.path());
    let fleet = builder.queue_limits(limits).start().unwrap();
    let mut members: Vec<Link> = (0..8).map(|n| member(&gangway, &fleet, n)).collect();
    let mut callers = Vec::new();
    for step in 0..150 {
        let place = rng.usize(..members.len());
        let link = members[place].clone();
        // The server of a link that stops in a QoS 2 exchange goes by identifiers that the next link may not know of.
        let is_stopped = (place as u64 + seed).is_multiple_of(2);
        let qos = if is_stopped { &QOS[..2] } else { &QOS };
        let message = |rng: &mut fastrand::Rng| {
            let message = numbered(step).with_payload(vec![b'x'; rng.usize(..60)]);
            let message = message.with_qos(qos[rng.usize(..qos.len())]);
            match rng.usize(..4) {
                0 => message.with_time_to_live(Duration::from_millis(rng.u64(1..20))),
                _ => message,
            }
        };
        match rng.usize(..20) {
            0..7 => {
                let message = message(&mut rng);
                let caller = tokio::spawn(async move { link.publish(message).await.is_ok() });
                callers.push(caller);
            }
            7..10 => drop(link.try_publish(message(&mut rng))),
            10..13 => {
                let count = rng.usize(1..10);
                let batch: Batch = (0..count).map(|_| message(&mut rng)).collect();
                callers.push(tokio::spawn(async move {
                    link.publish_batch(batch).await.is_ok()
                }));
            }
            13..15 if !callers.is_empty() => {
                callers.swap_remove(rng.usize(..callers.len())).abort();
            }
            15 => gangway.open(),
            16 => {
                gangway.shut();
                for member in &members {
                    member.reconnect();
                }
            }
            17 if is_stopped => {
                link.stop().await;
                members[place] = member(&gangway, &fleet, place);
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.u64(..3))).await,
        }
        let (messages, bytes) = held(&fleet);
        let totals = fleet.totals();
        assert!(totals.is_balanced(), "seed {seed}: {totals:?}");
        // What came back from the store may be beyond the bounds.
        assert!(messages <= MESSAGES_MAX as u64 + totals.kept, "seed {seed}");
        assert!(bytes <= BYTES_MAX as u64 + 70 * totals.kept, "seed {seed}");
    }
    gangway.open();
    for caller in callers {
        // All that is parked goes on when others drain.
        drop(soon("a caller is answered", caller).await);
    }
    until("everything has ended", || held(&fleet) == (0, 0)).await;
    let totals = drain(&fleet).await;
    assert_eq!(held(&fleet), (0, 0), "seed {seed}: {totals:?}");
    assert_eq!(fleet.queue_statistics().unwrap().waiting_links, 0);
}

#[tokio::test]
async fn in_any_course_the_bounds_hold_and_everything_is_given_back() {
    for seed in 0..12 {
        course(seed).await;
    }
}
