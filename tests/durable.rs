//! What a durable queue keeps over the end of its process. A kill is a copy of the store's directory, taken while
//! everything runs, on which another fleet goes on; `tests/soak kill` kills real processes.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot::mqtt::{QoS, TopicFilter, Version};
use paquebot::{
    Batch, DropReason, Durability, Fleet, GroupBuilder, GroupError, Link, Outcome, Overflow,
    Publish, QueueError, Receipt, RecordError, SendError, StartError, StoreError, Totals,
};
use paquebot_emulator::{Ack, Broker, Stats, Target, Watch};
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, Gangway, LIMIT, broker, drain, fleet_on, group, killed, metric, numbers, online, soon,
    start, start_in, until,
};

const DURABLE: [Durability; 2] = [Durability::Process, Durability::Disk];

/// A store, and a broker behind a gangway that is shut.
async fn port() -> (TempDir, Broker, Gangway) {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    (tempfile::tempdir().unwrap(), broker, gangway)
}

fn durable(
    gangway: &Gangway,
    fleet: &Fleet,
    version: Version,
    durability: Durability,
) -> GroupBuilder {
    gangway.group(fleet, version).durability(durability)
}

fn message(n: usize, qos: QoS) -> Publish {
    Publish::new("t/x", format!("{n:05}"))
        .unwrap()
        .with_qos(qos)
}

async fn publish(link: &Link, numbers: std::ops::Range<usize>, qos: QoS) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        let accepted = soon("a message is accepted", link.publish(message(n, qos)));
        receipts.push(accepted.await.unwrap());
    }
    receipts
}

fn all(broker: &Broker) -> Watch {
    broker.watch(TopicFilter::new("t/#").unwrap())
}

/// Stops a fleet that cannot reach its broker: nothing is delivered any more.
async fn stop(fleet: &Fleet) -> Totals {
    let totals = soon("the fleet has stopped", fleet.drain(Duration::ZERO)).await;
    assert!(totals.is_balanced(), "{totals:?}");
    assert_eq!(totals.held, 0, "{totals:?}");
    totals
}

#[tokio::test]
async fn what_a_stopped_fleet_held_goes_on_in_the_next_one_in_order() {
    for durability in DURABLE {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let (store, broker, gangway) = port().await;
            let mut watch = all(&broker);

            let fleet = fleet_on(store.path());
            let builder = durable(&gangway, &fleet, Version::V5, durability);
            let receipts = publish(&start(builder, "d1"), 0..20, qos).await;
            let totals = stop(&fleet).await;
            assert_eq!((totals.accepted, totals.kept), (20, 20));
            for receipt in receipts {
                assert_eq!(soon("it ended", receipt).await, Outcome::Kept);
            }

            gangway.open();
            let fleet = fleet_on(store.path());
            let builder = durable(&gangway, &fleet, Version::V5, durability);
            let link = start(builder, "d1");
            let receipts = publish(&link, 20..25, qos).await;
            assert_eq!(numbers(&mut watch, 25).await, Vec::from_iter(0..25));
            for receipt in receipts {
                assert!(soon("it ended", receipt).await.is_delivered());
            }
            let totals = drain(&fleet).await;
            assert_eq!(
                (totals.recovered, totals.accepted, totals.delivered),
                (20, 5, 25)
            );

            let fleet = fleet_on(store.path());
            let builder = durable(&gangway, &fleet, Version::V5, durability);
            drop(start(builder, "d1"));
            assert_eq!(drain(&fleet).await.recovered, 0);
        }
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_accepted() {
    for durability in DURABLE {
        let (store, broker, gangway) = port().await;
        let mut watch = all(&broker);
        let fleet = fleet_on(store.path());
        let builder = durable(&gangway, &fleet, Version::V5, durability);
        let link = start(builder, "d1");
        drop(publish(&link, 0..5, QoS::AtLeastOnce).await);
        let batch = Batch::from_iter((5..10).map(|n| message(n, QoS::ExactlyOnce)));
        drop(
            soon("a batch is accepted", link.publish_batch(batch))
                .await
                .unwrap(),
        );
        let left = killed(store.path()).unwrap();

        gangway.open();
        let next = fleet_on(left.path());
        let builder = Gangway::new(&broker);
        builder.open();
        let builder = builder.group(&next, Version::V5).durability(durability);
        gangway.shut();
        let link = start(builder, "d1");
        assert_eq!(numbers(&mut watch, 10).await, Vec::from_iter(0..10));
        drop(link);
        assert_eq!(drain(&next).await.delivered, 10);
        stop(&fleet).await;
    }
}

#[tokio::test]
async fn a_qos_2_message_is_not_doubled_wherever_in_its_exchange_the_process_is_killed() {
    for version in BOTH {
        for withheld in [&[Ack::PubRec][..], &[Ack::PubComp], &[]] {
            let (store, broker, gangway) = port().await;
            let mut watch = all(&broker);
            gangway.open();
            let fault = broker.faults().withhold(Target::client("d1"), withheld);
            let fleet = fleet_on(store.path());
            let builder = durable(&gangway, &fleet, version, Durability::Process);
            let link = start(builder, "d1");
            let receipts = publish(&link, 0..10, QoS::ExactlyOnce).await;
            if withheld.is_empty() {
                for receipt in receipts {
                    assert!(soon("it ended", receipt).await.is_delivered());
                }
            } else {
                // The server has all of them, and this end does not know.
                let has_all = |stats: &Stats| stats.received[2] >= 10;
                broker.wait_for(has_all, LIMIT).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let left = killed(store.path()).unwrap();
            gangway.shut();
            broker.faults().disconnect(&Target::client("d1"), None);
            fault.lift();

            let next = fleet_on(left.path());
            let again = Gangway::new(&broker);
            again.open();
            let builder = again.group(&next, version).durability(Durability::Process);
            let link = start(builder, "d1");
            drop(publish(&link, 10..12, QoS::ExactlyOnce).await);
            let totals = drain(&next).await;
            assert_eq!(totals.dropped + totals.kept, 0, "{totals:?}");
            assert_eq!(numbers(&mut watch, 12).await, Vec::from_iter(0..12));
            assert!(watch.try_recv().is_none(), "a message came twice");
            stop(&fleet).await;
        }
    }
}

#[tokio::test]
async fn what_expires_while_no_process_runs_is_not_sent() {
    let (store, broker, gangway) = port().await;
    let mut watch = all(&broker);
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    let link = start(builder, "d1");
    let short = message(1, QoS::AtLeastOnce).with_time_to_live(Duration::from_millis(300));
    drop(link.publish(short).await.unwrap());
    drop(link.publish(message(2, QoS::AtLeastOnce)).await.unwrap());
    assert_eq!(stop(&fleet).await.kept, 2);

    tokio::time::sleep(Duration::from_millis(310)).await;
    gangway.open();
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    drop(start(builder, "d1"));
    let totals = drain(&fleet).await;
    assert_eq!(
        (totals.recovered, totals.expired, totals.delivered),
        (2, 1, 1)
    );
    assert_eq!(numbers(&mut watch, 1).await, [2]);
}

#[tokio::test]
async fn a_message_of_qos_0_is_not_kept() {
    let (store, _broker, gangway) = port().await;
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V311, Durability::Disk);
    let link = start(builder, "d1");
    let batch = Batch::from_iter([message(0, QoS::AtMostOnce), message(1, QoS::AtLeastOnce)]);
    let receipt = soon("a batch is accepted", link.publish_batch(batch))
        .await
        .unwrap();
    let totals = stop(&fleet).await;
    assert_eq!((totals.dropped, totals.kept), (1, 1));
    let outcome = soon("the batch ended", receipt).await;
    assert_eq!(
        outcome.undelivered,
        [
            (0, Outcome::Dropped(DropReason::Stopped)),
            (1, Outcome::Kept)
        ]
    );
}

#[tokio::test]
async fn what_was_dropped_for_room_does_not_come_back() {
    let (store, broker, gangway) = port().await;
    let mut watch = all(&broker);
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Process);
    let builder = builder.queue_messages_max(3).overflow(Overflow::DropOldest);
    drop(publish(&start(builder, "d1"), 0..10, QoS::AtLeastOnce).await);
    let totals = stop(&fleet).await;
    assert_eq!((totals.dropped, totals.kept), (7, 3));
    gangway.open();
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Process);
    drop(start(builder, "d1"));
    assert_eq!(drain(&fleet).await.recovered, 3);
    assert_eq!(numbers(&mut watch, 3).await, [7, 8, 9]);
}

#[tokio::test]
async fn a_caller_who_does_not_wait_is_accepted_as_well() {
    let (store, _broker, gangway) = port().await;
    gangway.open();
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    let link = start(builder, "d1");
    let receipt = link.try_publish(message(1, QoS::ExactlyOnce)).unwrap();
    assert!(soon("it ended", receipt).await.is_delivered());
    let totals = drain(&fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (1, 1));
}

#[tokio::test]
async fn a_drain_waits_for_what_is_being_recorded() {
    for _ in 0..20 {
        let (store, _broker, gangway) = port().await;
        gangway.open();
        let fleet = fleet_on(store.path());
        let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
        let link = start(builder, "d1");
        online(&link).await;
        for n in 0..5 {
            drop(link.try_publish(message(n, QoS::AtLeastOnce)).unwrap());
        }
        let totals = drain(&fleet).await;
        assert_eq!((totals.delivered, totals.kept), (5, 0), "{totals:?}");
    }
}

#[tokio::test]
async fn a_link_that_is_stopped_while_callers_publish_and_started_again_loses_nothing() {
    let (store, broker, gangway) = port().await;
    let mut watch = all(&broker);
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Process);
    let group = builder.build().unwrap();
    let mut accepted = Vec::new();
    for round in 0..20 {
        let link = start_in(&group, "d1");
        for n in round * 20..(round + 1) * 20 {
            if link.try_publish(message(n, QoS::AtLeastOnce)).is_ok() {
                accepted.push(n);
            }
        }
        link.stop().await;
    }
    gangway.open();
    drop(start_in(&group, "d1"));
    let mut seen = numbers(&mut watch, accepted.len()).await;
    seen.sort_unstable();
    assert_eq!(seen, accepted);
    drain(&fleet).await;
    assert!(watch.try_recv().is_none());
}

#[tokio::test]
async fn two_drains_at_once_end_together_and_leave_the_store_in_order() {
    let (store, _broker, gangway) = port().await;
    gangway.open();
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    let link = start(builder, "d1");
    drop(publish(&link, 0..50, QoS::ExactlyOnce).await);
    let (first, _) = tokio::join!(fleet.drain(LIMIT), fleet.drain(LIMIT));
    assert_eq!((first.delivered, first.kept), (50, 0));
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    drop(start(builder, "d1"));
    assert_eq!(drain(&fleet).await.recovered, 0);
}

#[tokio::test]
async fn each_queue_belongs_to_one_link_and_each_store_to_one_fleet() {
    let (store, _broker, gangway) = port().await;
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Process);
    let group = builder.build().unwrap();
    let link = group.device("d1").unwrap().start().unwrap();
    let twin = group.device("d1").unwrap().start();
    assert!(
        matches!(&twin, Err(StartError::Queue(QueueError::InUse(name))) if name == "test/d1"),
        "{twin:?}"
    );
    drop(publish(&link, 0..2, QoS::AtLeastOnce).await);
    link.stop().await;
    let again = group.device("d1").unwrap().start().unwrap();
    until("it has recovered", || fleet.totals().recovered == 2).await;
    drop(again);
    let second = Fleet::builder().store(store.path()).start();
    assert!(
        matches!(second, Err(StartError::Store(StoreError::Locked { .. }))),
        "{second:?}"
    );
    stop(&fleet).await;
    drop(fleet_on(store.path()));
}

#[tokio::test]
async fn a_durable_group_needs_a_store() {
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let built = group(&fleet, "mqtt://127.0.0.1:1", Version::V5)
        .durability(Durability::Disk)
        .build();
    assert!(matches!(built, Err(GroupError::NoStore)), "{built:?}");
}

#[tokio::test]
async fn the_metrics_tell_what_the_store_holds() {
    let (store, _broker, gangway) = port().await;
    let fleet = fleet_on(store.path());
    let builder = durable(&gangway, &fleet, Version::V5, Durability::Disk);
    drop(publish(&start(builder, "d1"), 0..3, QoS::AtLeastOnce).await);
    assert_eq!(metric(&fleet, "paquebot_store_queues", &[]), 1.0);
    assert_eq!(metric(&fleet, "paquebot_store_entries", &[]), 3.0);
    assert!(metric(&fleet, "paquebot_store_syncs_total", &[]) >= 1.0);
    stop(&fleet).await;
}

#[tokio::test]
async fn all_queues_together_hold_no_more_than_the_store_may_and_go_on_when_there_is_room() {
    let (store, _broker, gangway) = port().await;
    let builder = Fleet::builder().workers(1).store(store.path());
    let fleet = builder.store_bytes_max(64 * 1024).start().unwrap();
    let group = gangway.group(&fleet, Version::V5);
    let group = group.durability(Durability::Disk).build().unwrap();
    let links: Vec<Link> = (0..4).map(|n| start_in(&group, &format!("d{n}"))).collect();
    let mut accepted = 0;
    let refused = 'full: loop {
        for link in &links {
            let message = message(1, QoS::AtLeastOnce).with_payload(vec![0; 1_000]);
            match soon("it is taken or refused", link.publish(message)).await {
                Ok(receipt) => drop(receipt),
                Err(error) => break 'full error,
            }
            accepted += 1;
        }
    };
    assert!(
        matches!(
            &refused,
            SendError::Storage {
                error: RecordError::Store(StoreError::Full { .. }),
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        (40..64).contains(&accepted),
        "{accepted} of 1,000 bytes in 64 KiB"
    );
    gangway.open();
    until("all were sent", || fleet.totals().delivered == accepted).await;
    let again = message(2, QoS::AtLeastOnce);
    drop(
        soon("there is room", links[0].publish(again))
            .await
            .unwrap(),
    );
    assert_eq!(drain(&fleet).await.delivered, accepted + 1);
}
