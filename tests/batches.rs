//! Sending many messages at once, and messages whose outcome nobody asks for.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

#[path = "support/support.rs"]
mod support;

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, ReasonCode, TopicFilter, Version};
use paquebot::{Batch, BatchError, Outcome, Overflow, PreparedTopic, Publish, Telemetry};
use paquebot_emulator::{AccessTable, Ack, Target};
use support::fleet::{
    BOTH, Gangway, broker, broker_with, drain, fleet, group, online, silent, soon, start, until,
    url,
};

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn numbered(topic: &str, qos: QoS, numbers: std::ops::Range<usize>) -> Batch {
    let topic = PreparedTopic::new(topic.to_owned(), qos).unwrap();
    numbers.map(|n| topic.message(n.to_string())).collect()
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_batch_arrives_whole_and_in_order_at_each_quality_of_service() {
    for version in BOTH {
        for qos in ALL {
            let broker = broker().await;
            let mut watch = broker.watch(TopicFilter::new("t/#").unwrap());
            let fleet = fleet();
            let builder = group(&fleet, &url(&broker), version).dialect(silent());
            let link = start(builder, "d1");
            online(&link).await;
            // More than one part, more than one window.
            let receipt = link.publish_batch(numbered("t/x", qos, 0..3_000)).await;
            let receipt = receipt.unwrap();
            assert_eq!(receipt.accepted(), 3_000);
            let outcome = soon("the batch ends", receipt).await;
            assert!(outcome.is_delivered(), "{outcome:?}");
            assert_eq!(outcome.delivered, 3_000);
            for n in 0..3_000 {
                let message = soon("the broker has it", watch.recv()).await.unwrap();
                assert_eq!(number(&message.payload), n);
            }
            let totals = drain(&fleet).await;
            assert_eq!((totals.accepted, totals.delivered), (3_000, 3_000));
        }
    }
}

#[tokio::test]
async fn the_receipt_of_a_batch_names_the_messages_that_did_not_arrive() {
    let table = AccessTable::new()
        .allow_anonymous()
        .deny_publish(TopicFilter::new("closed").unwrap());
    let broker = broker_with(table).await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).dialect(silent());
    let link = start(builder, "d1");
    online(&link).await;
    let topics = ["open", "closed", "open", "open", "closed"];
    let batch: Batch = topics
        .iter()
        .map(|topic| Publish::new(*topic, "x").unwrap())
        .collect();
    let receipt = link.publish_batch(batch).await.unwrap();
    let outcome = soon("the batch ends", receipt).await;
    assert_eq!(outcome.delivered, 3);
    let places: Vec<_> = outcome
        .undelivered
        .iter()
        .map(|(place, _)| *place)
        .collect();
    assert_eq!(places, [1, 4]);
    for (_, outcome) in &outcome.undelivered {
        let Outcome::Rejected { code, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(*code, ReasonCode::NOT_AUTHORIZED);
    }
    let totals = drain(&fleet).await;
    assert_eq!((totals.delivered, totals.rejected), (3, 2));
}

#[tokio::test]
async fn a_batch_larger_than_the_queue_waits_for_room_and_goes_in_parts() {
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("t/#").unwrap());
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V311).queue_messages_max(10);
    let link = start(builder, "d1");
    let sending = link.publish_batch(numbered("t/x", QoS::AtLeastOnce, 0..35));
    let mut sending = Box::pin(sending);
    assert!((&mut sending).now_or_never().is_none());
    until("the first part is held", || fleet.totals().held == 10).await;
    gangway.open();
    let receipt = soon("all is accepted", sending).await.unwrap();
    let outcome = soon("the batch ends", receipt).await;
    assert_eq!(outcome.delivered, 35);
    for n in 0..35 {
        let message = soon("the broker has it", watch.recv()).await.unwrap();
        assert_eq!(number(&message.payload), n);
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn what_a_full_queue_refuses_of_a_batch_comes_back_and_can_be_sent_again() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let builder = gangway.group(&fleet, Version::V5).queue_messages_max(4);
    let link = start(builder.overflow(Overflow::Reject), "d1");
    let refused = link
        .publish_batch(numbered("t/x", QoS::AtLeastOnce, 0..10))
        .await;
    let Err(BatchError::Full { unsent, accepted }) = refused else {
        panic!("{refused:?}");
    };
    let numbers: Vec<_> = unsent
        .iter()
        .map(|message| number(&message.payload))
        .collect();
    assert_eq!(numbers, (4..10).collect::<Vec<_>>());
    assert_eq!(accepted.accepted(), 4);
    gangway.open();
    assert_eq!(soon("the first part ends", accepted).await.delivered, 4);
    let mut rest: Batch = unsent.into();
    while !rest.is_empty() {
        rest = match link.publish_batch(rest).await {
            Ok(receipt) => {
                assert!(soon("the rest ends", receipt).await.is_delivered());
                Batch::new()
            }
            Err(BatchError::Full { unsent, accepted }) => {
                assert!(soon("a part ends", accepted).await.is_delivered());
                unsent.into()
            }
            Err(error) => panic!("{error}"),
        };
    }
    let totals = drain(&fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (10, 10));
}

#[tokio::test]
async fn a_batch_that_a_stop_cuts_short_ends_as_dropped() {
    let broker = broker().await;
    broker.faults().withhold(Target::All, &[Ack::PubAck]);
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).dialect(silent());
    let link = start(builder, "d1");
    online(&link).await;
    let receipt = link
        .publish_batch(numbered("t/x", QoS::AtLeastOnce, 0..50))
        .await;
    let receipt = receipt.unwrap();
    until("all are held", || fleet.totals().held == 50).await;
    link.stop().await;
    let outcome = soon("the batch ends", receipt).await;
    assert_eq!((outcome.delivered, outcome.undelivered.len()), (0, 50));
    let refused = link
        .publish_batch(numbered("t/x", QoS::AtLeastOnce, 0..2))
        .await;
    let Err(BatchError::Stopped { unsent, accepted }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((unsent.len(), accepted.accepted()), (2, 0));
    let totals = drain(&fleet).await;
    assert_eq!((totals.accepted, totals.dropped), (50, 50));
}

#[tokio::test]
async fn an_empty_batch_is_delivered_at_once() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let receipt = link.publish_batch(Batch::new()).await.unwrap();
    assert!(soon("nothing ends", receipt).await.is_delivered());
    drain(&fleet).await;
}

#[tokio::test]
async fn messages_without_a_receipt_are_counted_like_all_others() {
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("t/#").unwrap());
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V311).dialect(silent());
    let link = start(builder, "d1");
    for n in 0..100 {
        let message = Publish::new("t/x", n.to_string()).unwrap();
        if n % 2 == 0 {
            link.publish_detached(message).await.unwrap();
        } else {
            link.try_publish_detached(message).unwrap();
        }
    }
    for n in 0..100 {
        let message = soon("the broker has it", watch.recv()).await.unwrap();
        assert_eq!(number(&message.payload), n);
    }
    let totals = drain(&fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (100, 100));
}

#[tokio::test]
async fn a_prepared_topic_and_a_batch_of_telemetry_go_where_telemetry_goes() {
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("devices/#").unwrap());
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let device = link.device();
    let like = Telemetry::new("")
        .with_qos(QoS::AtMostOnce)
        .with_retain(true);
    let prepared = device.prepare(&like).unwrap();
    online(&link).await;
    soon(
        "it goes",
        link.publish(prepared.message("prepared")).await.unwrap(),
    )
    .await;
    let telemetry = [Telemetry::new("first"), Telemetry::new("second")];
    let receipt = device.send_batch(&telemetry).await.unwrap();
    assert_eq!(soon("the batch ends", receipt).await.delivered, 2);
    device.send_detached(&Telemetry::new("last")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let message = soon("the broker has it", watch.recv()).await.unwrap();
        if message.topic == *prepared.topic() {
            seen.push((message.payload, message.qos, message.retain));
        }
    }
    let (payload, qos, retain) = &seen[0];
    assert_eq!(
        (&payload[..], *qos, *retain),
        (&b"prepared"[..], QoS::AtMostOnce, true)
    );
    let payloads: Vec<_> = seen[1..].iter().map(|(payload, ..)| &payload[..]).collect();
    assert_eq!(payloads, [&b"first"[..], b"second", b"last"]);
    drain(&fleet).await;
}
