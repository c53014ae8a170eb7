//! What a link does with more than it can send: bounds, policies, time to live, rate, order.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, Topic, TopicFilter, Version};
use paquebot::{DropReason, Fleet, Link, Outcome, Overflow, Publish, Receipt, SendError};
use paquebot_emulator::{Ack, Broker, Target, Watch};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, Gangway, broker, disconnected, drain, event, fleet, group, numbers, online, online_again,
    silent, soon, start, until, url,
};

/// Topic and payload of each numbered message have this many bytes together.
const SIZE: usize = 10;

fn numbered(n: usize) -> Publish {
    Publish::new("t/x", format!("{n:07}")).unwrap()
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

async fn submit(link: &Link, numbers: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        receipts.push(
            soon("a message is taken", link.publish(numbered(n)))
                .await
                .unwrap(),
        );
    }
    receipts
}

async fn outcomes(receipts: Vec<Receipt>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(soon("a message ended", receipt).await);
    }
    outcomes
}

fn all(broker: &Broker) -> Watch {
    broker.watch(TopicFilter::new("#").unwrap())
}

async fn accepted(fleet: &Fleet, count: usize) {
    until("the queue has looked at all", || {
        fleet.totals().accepted == count as u64
    })
    .await;
}

#[tokio::test]
async fn at_each_bound_the_oldest_makes_room_for_the_newest() {
    for max in [1, 2, 5] {
        for count in [max - 1, max, max + 1, max + 3] {
            let broker = broker().await;
            let mut watch = all(&broker);
            let gangway = Gangway::new(&broker);
            let fleet = fleet();
            let builder = gangway.group(&fleet, Version::V311);
            let builder = builder
                .queue_messages_max(max)
                .overflow(Overflow::DropOldest);
            let link = start(builder, "d1");
            let mut receipts = submit(&link, 0..count).await;
            accepted(&fleet, count).await;
            let kept = receipts.split_off(count.saturating_sub(max));
            for outcome in outcomes(receipts).await {
                assert_eq!(outcome, Outcome::Dropped(DropReason::Oldest));
            }
            assert_eq!(fleet.totals().held, kept.len() as i64);
            gangway.open();
            let expected: Vec<usize> = (count.saturating_sub(max)..count).collect();
            assert_eq!(numbers(&mut watch, kept.len()).await, expected);
            assert!(outcomes(kept).await.iter().all(Outcome::is_delivered));
            let totals = drain(&fleet).await;
            assert_eq!(totals.dropped, count.saturating_sub(max) as u64);
        }
    }
}

#[tokio::test]
async fn at_each_bound_the_newest_is_dropped_and_those_before_it_stay() {
    for max in [1, 2, 5] {
        for count in [max - 1, max, max + 1, max + 3] {
            let broker = broker().await;
            let mut watch = all(&broker);
            let gangway = Gangway::new(&broker);
            let fleet = fleet();
            let builder = gangway.group(&fleet, Version::V5);
            let builder = builder
                .queue_messages_max(max)
                .overflow(Overflow::DropNewest);
            let link = start(builder, "d1");
            let mut kept = submit(&link, 0..count).await;
            accepted(&fleet, count).await;
            let dropped = kept.split_off(count.min(max));
            for outcome in outcomes(dropped).await {
                assert_eq!(outcome, Outcome::Dropped(DropReason::Newest));
            }
            gangway.open();
            let expected: Vec<usize> = (0..count.min(max)).collect();
            assert_eq!(numbers(&mut watch, kept.len()).await, expected);
            assert!(outcomes(kept).await.iter().all(Outcome::is_delivered));
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_message_that_is_rejected_comes_back_and_the_next_is_taken_once_there_is_room() {
    for max in [1, 2, 5] {
        let broker = broker().await;
        let gangway = Gangway::new(&broker);
        let fleet = fleet();
        let builder = gangway.group(&fleet, Version::V311);
        let builder = builder.queue_messages_max(max).overflow(Overflow::Reject);
        let link = start(builder, "d1");
        let kept = submit(&link, 0..max).await;
        let refused = link.publish(numbered(max)).await;
        let Err(SendError::Full(message)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(number(&message.payload), max);
        assert!(matches!(
            link.try_publish(numbered(max)),
            Err(SendError::Full(_))
        ));
        gangway.open();
        assert!(outcomes(kept).await.iter().all(Outcome::is_delivered));
        let again = submit(&link, 0..max).await;
        assert!(outcomes(again).await.iter().all(Outcome::is_delivered));
        let totals = drain(&fleet).await;
        assert_eq!(totals.accepted, 2 * max as u64);
    }
}

#[tokio::test]
async fn under_wait_a_caller_stops_at_the_bound_and_goes_on_when_there_is_room() {
    for max in [1, 2, 40] {
        let broker = broker().await;
        let mut watch = all(&broker);
        let gangway = Gangway::new(&broker);
        let fleet = fleet();
        let link = start(
            gangway.group(&fleet, Version::V5).queue_messages_max(max),
            "d1",
        );
        let mut receipts = Vec::new();
        until("the queue is full", || {
            while let Ok(receipt) = link.try_publish(numbered(receipts.len())) {
                receipts.push(receipt);
            }
            receipts.len() >= max && fleet.totals().held >= max as i64
        })
        .await;
        let count = receipts.len();
        assert_eq!((count, fleet.totals().held), (max, max as i64));
        let mut waiting = Box::pin(link.publish(numbered(count)));
        assert!((&mut waiting).now_or_never().is_none());
        gangway.open();
        receipts.push(soon("the caller goes on", waiting).await.unwrap());
        let expected: Vec<usize> = (0..=count).collect();
        assert_eq!(numbers(&mut watch, count + 1).await, expected);
        assert!(outcomes(receipts).await.iter().all(Outcome::is_delivered));
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn bytes_are_bounded_as_messages_are() {
    for (bytes_max, fitting) in [(1, 1), (3 * SIZE - 1, 2), (3 * SIZE, 3), (3 * SIZE + 1, 3)] {
        for overflow in [Overflow::Reject, Overflow::DropNewest, Overflow::DropOldest] {
            let broker = broker().await;
            let mut watch = all(&broker);
            let gangway = Gangway::new(&broker);
            let fleet = fleet();
            let builder = gangway.group(&fleet, Version::V5);
            let link = start(builder.queue_bytes_max(bytes_max).overflow(overflow), "d1");
            let mut receipts = Vec::new();
            let mut refused = 0;
            for n in 0..5 {
                match link.publish(numbered(n)).await {
                    Ok(receipt) => receipts.push(receipt),
                    Err(_) => refused += 1,
                }
            }
            accepted(&fleet, receipts.len()).await;
            let totals = fleet.totals();
            assert_eq!(totals.held, fitting, "{overflow:?} {bytes_max}: {totals:?}");
            assert_eq!(refused + totals.dropped, 5 - fitting as u64);
            gangway.open();
            let first = if overflow == Overflow::DropOldest {
                5 - fitting as usize
            } else {
                0
            };
            let expected: Vec<usize> = (first..first + fitting as usize).collect();
            assert_eq!(numbers(&mut watch, expected.len()).await, expected);
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn under_wait_the_bytes_held_do_not_exceed_their_bound() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway
        .group(&fleet, Version::V311)
        .queue_bytes_max(3 * SIZE);
    let link = start(builder, "d1");
    let mut count = 0;
    until("the queue is full", || {
        while let Ok(receipt) = link.try_publish(numbered(count)) {
            drop(receipt);
            count += 1;
        }
        count >= 3 && fleet.totals().held >= 3
    })
    .await;
    assert_eq!(count, 3);
    assert_eq!(fleet.totals().held, 3);
    gangway.open();
    let totals = drain(&fleet).await;
    assert_eq!(totals.delivered, count as u64);
}

#[tokio::test]
async fn a_bound_holds_when_everything_is_in_flight() {
    for (overflow, reason) in [
        (Overflow::DropOldest, DropReason::Oldest),
        (Overflow::DropNewest, DropReason::Newest),
    ] {
        let broker = broker().await;
        broker.faults().withhold(Target::All, &[Ack::PubAck]);
        let fleet = fleet();
        let builder = group(&fleet, &url(&broker), Version::V5).dialect(silent());
        let link = start(builder.queue_messages_max(3).overflow(overflow), "d1");
        online(&link).await;
        let mut kept = submit(&link, 0..3).await;
        let stats = broker
            .wait_for(|stats| stats.received[1] == 3, support::fleet::LIMIT)
            .await;
        stats.unwrap();
        let late = submit(&link, 3..10).await;
        accepted(&fleet, 10).await;
        assert_eq!(fleet.totals().held, 3, "{overflow:?}");
        for outcome in outcomes(late).await {
            assert_eq!(outcome, Outcome::Dropped(reason));
        }
        broker.faults().clear();
        assert!(
            outcomes(std::mem::take(&mut kept))
                .await
                .iter()
                .all(Outcome::is_delivered)
        );
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_waiting_takes_no_room_along() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let link = start(
        gangway.group(&fleet, Version::V5).queue_messages_max(3),
        "d1",
    );
    let fill = || {
        let room = std::iter::from_fn(|| link.try_publish(numbered(0)).ok());
        room.collect::<Vec<_>>()
    };
    let receipts = fill();
    assert_eq!(receipts.len(), 3);
    for n in 0..10 {
        let mut waiting = Box::pin(link.publish(numbered(n)));
        assert!((&mut waiting).now_or_never().is_none());
    }
    gangway.open();
    assert!(outcomes(receipts).await.iter().all(Outcome::is_delivered));
    broker.faults().withhold(Target::All, &[Ack::PubAck]);
    let receipts = fill();
    assert_eq!(receipts.len(), 3);
    broker.faults().clear();
    link.reconnect();
    assert!(outcomes(receipts).await.iter().all(Outcome::is_delivered));
    assert_eq!(drain(&fleet).await.accepted, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_at_once_do_not_get_past_the_bound() {
    const MAX: usize = 20;
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V311);
    let link = start(
        builder.queue_messages_max(MAX).overflow(Overflow::Reject),
        "d1",
    );
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let start_line = Arc::new(std::sync::Barrier::new(8));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (link, taken, start_line) = (link.clone(), taken.clone(), start_line.clone());
            std::thread::spawn(move || {
                start_line.wait();
                for n in 0..200 {
                    if link.try_publish(numbered(n)).is_ok() {
                        taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    assert!(taken <= MAX, "{taken} were taken");
    gangway.open();
    drain(&fleet).await;
}

#[tokio::test]
async fn what_is_not_sent_in_its_time_to_live_ends_as_expired() {
    for version in BOTH {
        let broker = broker().await;
        let mut watch = all(&broker);
        let gangway = Gangway::new(&broker);
        let fleet = fleet();
        let link = start(gangway.group(&fleet, version), "d1");
        let with_life = |n, life| numbered(n).with_time_to_live(life);
        let short = link
            .publish(with_life(1, Duration::from_millis(50)))
            .await
            .unwrap();
        let long = link
            .publish(with_life(2, Duration::from_secs(600)))
            .await
            .unwrap();
        let none = link.publish(numbered(3)).await.unwrap();
        // It ends while it waits: nobody has to send anything for that.
        assert_eq!(soon("it expires", short).await, Outcome::Expired);
        gangway.open();
        assert!(soon("it is delivered", long).await.is_delivered());
        assert!(soon("it is delivered", none).await.is_delivered());
        let first = soon("it arrives", watch.recv()).await.unwrap();
        assert_eq!(number(&first.payload), 2);
        let left = first.properties.message_expiry_interval;
        match version {
            Version::V311 => assert_eq!(left, None),
            Version::V5 => assert!(
                left.is_some_and(|left| (500..=600).contains(&left)),
                "{left:?}"
            ),
        }
        let nothing = link.publish(with_life(4, Duration::ZERO)).await.unwrap();
        assert_eq!(soon("it expires", nothing).await, Outcome::Expired);
        let totals = drain(&fleet).await;
        assert_eq!((totals.expired, totals.delivered), (2, 2));
    }
}

#[tokio::test]
async fn a_drain_rate_spreads_the_backlog_and_keeps_its_order() {
    const COUNT: usize = 21;
    let broker = broker().await;
    let mut watch = all(&broker);
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let link = start(gangway.group(&fleet, Version::V5).drain_rate(40.0), "d1");
    let receipts = submit(&link, 0..COUNT).await;
    accepted(&fleet, COUNT).await;
    gangway.open();
    online(&link).await;
    let began = Instant::now();
    // Published during the drain: behind the backlog.
    let late = submit(&link, COUNT..COUNT + 1).await;
    assert_eq!(
        numbers(&mut watch, COUNT + 1).await,
        (0..=COUNT).collect::<Vec<_>>()
    );
    // 20 intervals of 25 ms follow the first message.
    assert!(
        began.elapsed() > Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
    assert!(outcomes(receipts).await.iter().all(Outcome::is_delivered));
    assert!(outcomes(late).await.iter().all(Outcome::is_delivered));
    drain(&fleet).await;
}

#[tokio::test]
async fn first_deliveries_keep_their_order_while_the_connection_comes_and_goes() {
    const COUNT: usize = 3_000;
    for version in BOTH {
        let broker = broker().await;
        let mut watch = all(&broker);
        let fleet = fleet();
        let link = start(
            group(&fleet, &url(&broker), version).dialect(silent()),
            "d1",
        );
        let mut receipts = Vec::new();
        for n in 0..COUNT {
            let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2];
            receipts.push(link.publish(numbered(n).with_qos(qos)).await.unwrap());
            match n {
                500 | 1_000 => link.reconnect(),
                1_500 => broker
                    .faults()
                    .restart_keeping_sessions(Duration::from_millis(50)),
                2_000 => {
                    broker.faults().disconnect(&Target::All, None);
                }
                2_500 => {
                    broker.faults().cut_after_written(Target::All, 777);
                }
                _ => {}
            }
        }
        for outcome in outcomes(receipts).await {
            assert!(outcome.is_delivered(), "{outcome:?}");
        }
        let mut times = vec![0; COUNT];
        // The highest so far of each QoS: order is promised among messages of one topic and QoS.
        let mut highest = [None, None];
        while let Some(message) = watch.try_recv() {
            let n = number(&message.payload);
            times[n] += 1;
            if times[n] == 1 {
                assert!(
                    highest[n % 2] < Some(n),
                    "{version}: {n} after {:?}",
                    highest[n % 2]
                );
                highest[n % 2] = Some(n);
            }
        }
        for (n, times) in times.into_iter().enumerate() {
            // Both sessions lived all the time.
            let expected = if n % 2 == 1 { 1..=1 } else { 1..=usize::MAX };
            assert!(
                expected.contains(&times),
                "{version}: {n} arrived {times} times"
            );
        }
        let totals = drain(&fleet).await;
        assert_eq!(
            (totals.accepted, totals.delivered),
            (COUNT as u64, COUNT as u64)
        );
    }
}

#[tokio::test]
async fn a_qos_0_message_that_was_not_written_before_a_break_is_dropped_or_delivered_never_silent()
{
    for version in BOTH {
        let broker = broker().await;
        let mut watch = all(&broker);
        let gangway = Gangway::new(&broker);
        gangway.open();
        let fleet = fleet();
        let link = start(gangway.group(&fleet, version), "d1");
        online(&link).await;
        let mut events = link.events();
        let stall = broker.faults().stall_reading(Target::All);
        let payload = vec![0; 60_000];
        let mut receipts = Vec::new();
        for _ in 0..20 {
            let message = Publish::on(Topic::new("t/x").unwrap(), payload.clone());
            receipts.push(
                link.publish(message.with_qos(QoS::AtMostOnce))
                    .await
                    .unwrap(),
            );
        }
        accepted(&fleet, 20).await;
        stall.lift();
        let stall = broker.faults().stall_reading(Target::All);
        broker.faults().disconnect(&Target::All, None);
        disconnected(&mut events).await;
        stall.lift();
        online_again(&mut events).await;
        let mut delivered = 0;
        for outcome in outcomes(receipts).await {
            match outcome {
                Outcome::Delivered { .. } => delivered += 1,
                Outcome::Dropped(DropReason::ConnectionLost) => {}
                other => panic!("{other:?}"),
            }
        }
        let totals = drain(&fleet).await;
        assert_eq!(
            (totals.delivered, totals.dropped),
            (delivered, 20 - delivered)
        );
        let mut arrived = 0;
        while watch.try_recv().is_some() {
            arrived += 1;
        }
        // What is in the socket when it breaks is lost at QoS 0, and nothing arrives twice.
        assert!(
            arrived <= delivered,
            "{arrived} arrived, {delivered} were written"
        );
    }
}

#[tokio::test]
async fn a_qos_0_message_stuck_in_a_connection_that_breaks_ends_as_dropped() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    gangway.open();
    let fleet = fleet();
    let link = start(gangway.group(&fleet, Version::V5), "d1");
    online(&link).await;
    let mut events = link.events();
    let _stall = broker.faults().stall_reading(Target::All);
    // More than the pipe holds.
    let message = Publish::on(Topic::new("t/x").unwrap(), vec![0; 200_000]);
    let receipt = link
        .publish(message.with_qos(QoS::AtMostOnce))
        .await
        .unwrap();
    accepted(&fleet, 1).await;
    gangway.shut();
    link.reconnect();
    event(&mut events, "the end of the connection", |event| {
        matches!(event, paquebot::LinkEvent::Disconnected { .. }).then_some(())
    })
    .await;
    assert_eq!(
        soon("it ended", receipt).await,
        Outcome::Dropped(DropReason::ConnectionLost)
    );
    let totals = drain(&fleet).await;
    assert_eq!(totals.dropped, 1);
}

#[tokio::test]
async fn what_is_handed_over_while_the_queue_is_busy_is_accepted_without_another_push() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V5);
    let link = start(builder.queue_messages_max(1_000_000), "d1");
    // Each burst is more than one turn takes, and what follows it comes in the middle of the next.
    let pusher = link.clone();
    let pushing = std::thread::spawn(move || {
        for burst in 0..200 {
            for n in 0..600 {
                pusher.try_publish_detached(numbered(n)).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_micros(burst * 5));
            pusher.try_publish_detached(numbered(0)).unwrap();
        }
    });
    tokio::task::spawn_blocking(move || pushing.join().unwrap())
        .await
        .unwrap();
    accepted(&fleet, 200 * 601).await;
    link.stop().await;
    assert_eq!(drain(&fleet).await.dropped, 200 * 601);
}

#[tokio::test]
async fn a_receipt_resolves_although_its_fleet_is_dropped_before_the_link_ran() {
    for _ in 0..50 {
        let fleet = fleet();
        let builder = group(&fleet, "mqtt://127.0.0.1:9", Version::V5).dialect(silent());
        let link = start(builder, "d1");
        let receipts = submit(&link, 0..3).await;
        drop(fleet);
        for outcome in outcomes(receipts).await {
            assert_eq!(outcome, Outcome::Dropped(DropReason::Stopped));
        }
    }
}
