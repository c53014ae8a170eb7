//! Reports of state that a link cannot send yet: the latest value of each key gets there, and nothing stale.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot::mqtt::{TopicFilter, Version};
use paquebot::{Durability, Outcome, Overflow, StatePatch, Telemetry};
use serde_json::{Value, json};

#[path = "support/support.rs"]
mod support;

use support::fleet::{Gangway, broker, drain, fleet, fleet_on, killed, metric, soon, start, until};

fn patch(value: &Value) -> StatePatch {
    StatePatch::json(value).unwrap()
}

#[tokio::test]
async fn reports_that_wait_become_one_with_the_latest_value_of_each_key() {
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("devices/#").unwrap());
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let link = start(gangway.group(&fleet, Version::V5), "d1");
    let device = link.device();
    let mut receipts = Vec::new();
    for value in [
        json!({"a": 1, "b": {"x": 1}}),
        json!({"b": {"y": 2}}),
        json!({"a": null}),
    ] {
        receipts.push(device.report(&patch(&value)).await.unwrap());
    }
    let last = receipts.pop().unwrap();
    for receipt in receipts {
        assert_eq!(soon("it ended", receipt).await, Outcome::Merged);
    }
    assert_eq!(fleet.totals().held, 1);
    gangway.open();
    assert!(soon("it ended", last).await.is_delivered());
    let message = soon("the broker has it", watch.recv()).await.unwrap();
    let document: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(document, json!({"a": null, "b": {"x": 1, "y": 2}}));
    let totals = drain(&fleet).await;
    assert_eq!(
        (totals.accepted, totals.delivered, totals.merged),
        (3, 1, 2)
    );
    assert!(watch.try_recv().is_none());
}

#[tokio::test]
async fn room_that_a_merged_report_had_is_free_again() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V5);
    let builder = builder.queue_messages_max(2).queue_bytes_max(200);
    let link = start(builder, "d1");
    for n in 0..100 {
        let report = link.device();
        let value = json!({"n": n});
        drop(
            soon("there is room", report.report(&patch(&value)))
                .await
                .unwrap(),
        );
        until("it was taken", || fleet.totals().accepted == n + 1).await;
    }
    gangway.open();
    let totals = drain(&fleet).await;
    assert_eq!((totals.merged, totals.delivered), (99, 1));
}

#[tokio::test]
async fn telemetry_makes_no_report_give_way() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V311);
    let builder = builder.queue_messages_max(3).overflow(Overflow::DropOldest);
    let link = start(builder, "d1");
    let receipt = link
        .device()
        .report(&patch(&json!({"fw": 2})))
        .await
        .unwrap();
    for _ in 0..10 {
        drop(link.device().send(&Telemetry::new("21")).await.unwrap());
    }
    until("all were looked at", || fleet.totals().accepted == 11).await;
    gangway.open();
    assert!(soon("it ended", receipt).await.is_delivered());
    let totals = drain(&fleet).await;
    assert_eq!((totals.dropped, totals.delivered), (8, 3));
}

#[tokio::test]
async fn a_killed_process_loses_no_reported_value() {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("devices/#").unwrap());
    let gangway = Gangway::new(&broker);
    let fleet = fleet_on(store.path());
    let builder = gangway.group(&fleet, Version::V5);
    let link = start(builder.durability(Durability::Process), "d1");
    for value in [json!({"a": 1, "b": 1}), json!({"b": 2}), json!({"c": 3})] {
        drop(link.device().report(&patch(&value)).await.unwrap());
    }
    until("one is left", || {
        metric(&fleet, "paquebot_store_entries", &[]) == 1.0
    })
    .await;
    let left = killed(store.path()).unwrap();
    let next = fleet_on(left.path());
    let again = Gangway::new(&broker);
    again.open();
    let builder = again.group(&next, Version::V5);
    drop(start(builder.durability(Durability::Process), "d1"));
    let totals = drain(&next).await;
    assert_eq!((totals.recovered, totals.delivered), (1, 1));
    let message = soon("the broker has it", watch.recv()).await.unwrap();
    let document: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(document, json!({"a": 1, "b": 2, "c": 3}));
    soon("the first fleet stops", fleet.drain(Duration::ZERO)).await;
}
