//! A caller faster than the wire: it waits, what is held stays bounded, and it goes on when the server reads on.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, Topic};
use paquebot::{Fleet, Link, Publish, Receipt, SendError};
use paquebot_emulator::{Broker, Target};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, drain, fleet, group, metric, online, silent, soon, start, until, url,
};

const SIZE: usize = 64 * 1024;
const QOS: [QoS; 2] = [QoS::AtMostOnce, QoS::AtLeastOnce];

/// A bound of a link's queue, and the most that it holds under it.
struct Bound {
    messages_max: usize,
    bytes_max: usize,
    held_max: i64,
}

const BOUNDS: [Bound; 2] = [
    Bound {
        messages_max: 40,
        bytes_max: usize::MAX,
        held_max: 40,
    },
    // One message may exceed the bytes.
    Bound {
        messages_max: 10_000,
        bytes_max: 20 * SIZE,
        held_max: 21,
    },
];

fn message(payload: &Bytes, qos: QoS) -> Publish {
    Publish::on(Topic::from_static("t").unwrap(), payload.clone()).with_qos(qos)
}

/// Publishes without waiting until nothing is taken any more, however often it is tried. The receipts of what was.
async fn fill(fleet: &Fleet, link: &Link, qos: QoS, held_max: i64) -> Vec<Receipt> {
    let payload = Bytes::from(vec![b'x'; SIZE]);
    let mut receipts = Vec::new();
    let mut refused_in_a_row = 0;
    until("the link takes no more", || {
        match link.try_publish(message(&payload, qos)) {
            Ok(receipt) => {
                receipts.push(receipt);
                refused_in_a_row = 0;
            }
            Err(SendError::Full(back)) => {
                assert_eq!(back.payload.len(), SIZE);
                refused_in_a_row += 1;
            }
            Err(error) => panic!("{error}"),
        }
        let totals = fleet.totals();
        assert!(totals.held <= held_max, "{totals:?}");
        refused_in_a_row > 25
    })
    .await;
    receipts
}

/// A link whose server has stopped to read.
async fn stalled(version: paquebot::mqtt::Version, bound: &Bound) -> (Broker, Fleet, Link) {
    let broker = broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), version)
        .dialect(silent())
        .keep_alive(Duration::ZERO)
        .queue_messages_max(bound.messages_max)
        .queue_bytes_max(bound.bytes_max);
    let link = start(builder, "d1");
    online(&link).await;
    (broker, fleet, link)
}

#[tokio::test]
async fn a_caller_waits_while_the_server_does_not_read_and_goes_on_when_it_does() {
    for version in BOTH {
        for (qos, bound) in QOS
            .into_iter()
            .flat_map(|qos| BOUNDS.iter().map(move |b| (qos, b)))
        {
            let (broker, fleet, link) = stalled(version, bound).await;
            let stall = broker.faults().stall_reading(Target::All);
            let mut receipts = fill(&fleet, &link, qos, bound.held_max).await;

            let payload = Bytes::from(vec![b'x'; SIZE]);
            let mut waiting = Box::pin(link.publish(message(&payload, qos)));
            while let Some(taken) = (&mut waiting).now_or_never() {
                // The machine was slow: the link had not come to what it still had room for.
                receipts.push(taken.unwrap());
                receipts.extend(fill(&fleet, &link, qos, bound.held_max).await);
                waiting = Box::pin(link.publish(message(&payload, qos)));
            }
            let held = metric(&fleet, "paquebot_queue_bytes", &[]);
            assert!(held <= bound.bytes_max as f64, "{held}");

            stall.lift();
            receipts.push(soon("the caller goes on", waiting).await.unwrap());
            for receipt in receipts {
                let outcome = soon("it ended", receipt).await;
                assert!(outcome.is_delivered(), "{outcome:?}");
            }
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn what_a_link_took_is_all_written_before_it_closes_the_connection() {
    const MESSAGES: u64 = 64;
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(
            group(&fleet, &url(&broker), version).dialect(silent()),
            "d1",
        );
        online(&link).await;
        let payload = Bytes::from(vec![b'x'; SIZE]);
        let mut receipts = Vec::new();
        for _ in 0..MESSAGES {
            let taken = link.publish(message(&payload, QoS::AtMostOnce)).await;
            receipts.push(taken.unwrap());
        }
        drain(&fleet).await;
        for receipt in receipts {
            let outcome = soon("it ended", receipt).await;
            assert!(outcome.is_delivered(), "{outcome:?}");
        }
        until("all of it has arrived", || {
            broker.stats().received_total() == MESSAGES
        })
        .await;
    }
}
