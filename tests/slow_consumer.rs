//! Consumers that take their time: the link stays, the server keeps what there is no room for, and
//! nothing is acknowledged before it was dealt with.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use paquebot::mqtt::{QoS, Topic, Version};
use paquebot::{Link, LinkState, Subscription};
use paquebot_emulator::Broker;

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, drain, fleet, group, metric, online_again, soon, start, until, url,
};

async fn subscribed(link: &Link, filter: &str) -> Subscription {
    let subscription = link.subscribe(filter, QoS::ExactlyOnce).await.unwrap();
    soon("it is subscribed", subscription.ready())
        .await
        .unwrap();
    subscription
}

fn publish(broker: &Broker, topic: &str, payload: impl Into<Bytes>, qos: QoS) {
    let sessions = broker.publish(Topic::new(topic.to_owned()).unwrap(), payload, qos, false);
    assert_eq!(sessions, 1, "nobody is subscribed to {topic}");
}

fn unacknowledged(broker: &Broker) -> usize {
    broker.client("d1").unwrap().inflight
}

#[tokio::test]
async fn a_handler_that_takes_three_keep_alives_does_not_cost_the_connection() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let keep_alive = Duration::from_secs(1);
        let link = start(
            group(&fleet, &url(&broker), version).keep_alive(keep_alive),
            "d1",
        );
        let subscription = subscribed(&link, "work").await;
        let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
        let serving = tokio::spawn(subscription.serve(1, move |message| {
            let told = told.clone();
            async move {
                tokio::time::sleep(keep_alive * 3).await;
                told.send(message.payload().clone()).unwrap();
            }
        }));
        publish(&broker, "work", "hard", QoS::AtLeastOnce);
        assert_eq!(
            &*soon("the work is done", done.recv()).await.unwrap(),
            b"hard"
        );
        assert_eq!(link.state(), LinkState::Online);
        let stats = broker.stats();
        assert_eq!((stats.connects_accepted, stats.disconnects), (1, 0));
        drain(&fleet).await;
        soon("the stream ends", serving).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_is_acknowledged_once_its_consumer_dropped_it_and_not_before() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let mut subscription = subscribed(&link, "t").await;
            for n in 0..3 {
                publish(&broker, "t", n.to_string(), qos);
            }
            let mut messages = Vec::new();
            for _ in 0..3 {
                messages.push(soon("it comes", subscription.next()).await.unwrap());
            }
            // A round trip to the broker and back: an acknowledgement would have been seen by now.
            let other = subscribed(&link, "other").await;
            assert_eq!(unacknowledged(&broker), 3, "{version} {qos:?}");
            // Acknowledged in the order of arrival, so the last waits for those before it.
            drop(messages.pop());
            drop(other);
            let _other = subscribed(&link, "other").await;
            assert_eq!(unacknowledged(&broker), 3, "{version} {qos:?}");
            drop(messages.remove(0));
            until("the first is acknowledged", || unacknowledged(&broker) == 2).await;
            drop(messages);
            until("all are acknowledged", || unacknowledged(&broker) == 0).await;
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_after_a_break() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let mut subscription = subscribed(&link, "t").await;
        let mut events = link.events();
        for (payload, qos) in [("one", QoS::AtLeastOnce), ("two", QoS::ExactlyOnce)] {
            publish(&broker, "t", payload, qos);
        }
        let first = soon("it comes", subscription.next()).await.unwrap();
        let second = soon("it comes", subscription.next()).await.unwrap();
        assert_eq!(
            (&**first.payload(), &**second.payload()),
            (&b"one"[..], &b"two"[..])
        );
        link.reconnect();
        online_again(&mut events).await;
        // QoS 1 again, QoS 2 not: it was handed over and its exchange goes on.
        let again = soon("it comes", subscription.next()).await.unwrap();
        assert_eq!((&**again.payload(), again.dup()), (&b"one"[..], true));
        drop((first, second));
        drop(again);
        until("all are acknowledged", || unacknowledged(&broker) == 0).await;
        publish(&broker, "t", "three", QoS::ExactlyOnce);
        let third = soon("it comes", subscription.next()).await.unwrap();
        assert_eq!(&**third.payload(), b"three");
        drop(third);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn the_server_keeps_what_is_beyond_the_receive_maximum() {
    let broker = broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).receive_maximum(5);
    let link = start(builder, "d1");
    let mut subscription = subscribed(&link, "t").await;
    for n in 0..20 {
        publish(
            &broker,
            "t",
            n.to_string(),
            [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2],
        );
    }
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(soon("it comes", subscription.next()).await.unwrap());
    }
    let client = broker.client("d1").unwrap();
    assert_eq!((client.inflight, client.queued), (5, 15));
    let mut seen: Vec<String> = Vec::new();
    let text = |message: &paquebot::Message| String::from_utf8(message.payload().to_vec()).unwrap();
    seen.extend(held.iter().map(text));
    drop(held);
    while seen.len() < 20 {
        let message = soon("it comes", subscription.next()).await.unwrap();
        seen.push(text(&message));
    }
    assert_eq!(seen, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(broker.stats().violations, 0);
    drain(&fleet).await;
}

#[tokio::test]
async fn qos_0_messages_without_room_are_dropped_and_counted() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version).inbox_max(4), "d1");
        let mut subscription = subscribed(&link, "t").await;
        for n in 0..100 {
            publish(&broker, "t", n.to_string(), QoS::AtMostOnce);
        }
        until("all came in", || fleet.totals().received == 100).await;
        let dropped = || metric(&fleet, "paquebot_inbound_dropped_total", &["slow_consumer"]);
        until("the overflow is counted", || dropped() == 96.0).await;
        for n in 0..4 {
            let message = soon("it comes", subscription.next()).await.unwrap();
            assert_eq!(&**message.payload(), n.to_string().as_bytes());
        }
        publish(&broker, "t", "room", QoS::AtMostOnce);
        let message = soon("it comes", subscription.next()).await.unwrap();
        assert_eq!(&**message.payload(), b"room");
        drain(&fleet).await;
    }
}

const COUNT: usize = 80;
const SIZE: usize = 256 * 1024;

/// What may wait before the link stops reading: 4 MiB parked, 16 messages in the inbox, and what the
/// sockets and one turn of reading hold.
const READ_MAX: u64 = (4 + 16 / 4 + 8) * 1024 * 1024;

fn publish_flood(broker: &Broker) {
    for n in 0..COUNT {
        let mut payload = vec![0; SIZE];
        payload[..8].copy_from_slice(&n.to_be_bytes());
        publish(broker, "t", payload, QoS::AtLeastOnce);
    }
}

/// Waits until the broker got rid of nothing for a while.
async fn standstill(broker: &Broker) -> u64 {
    let mut last = (broker.stats().bytes_sent, Instant::now());
    until("the link stops reading", || {
        let sent = broker.stats().bytes_sent;
        if sent != last.0 {
            last = (sent, Instant::now());
        }
        sent > SIZE as u64 && last.1.elapsed() > Duration::from_millis(300)
    })
    .await;
    last.0
}

#[tokio::test]
async fn past_its_bound_of_bytes_a_link_stops_reading_stays_alive_and_resumes() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let builder = group(&fleet, &url(&broker), version).keep_alive(Duration::from_secs(1));
        let link = start(builder, "d1");
        let mut subscription = subscribed(&link, "t").await;
        publish_flood(&broker);
        let sent = standstill(&broker).await;
        assert!(sent < READ_MAX, "{version}: {sent} bytes were read");
        // Reading nothing it sees no PINGRESP; it must not take that for a dead server.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(link.state(), LinkState::Online);
        for n in 0..COUNT {
            let message = soon("it comes", subscription.next()).await.unwrap();
            assert_eq!(message.payload()[..8], n.to_be_bytes());
        }
        until("all are acknowledged", || unacknowledged(&broker) == 0).await;
        assert_eq!(broker.stats().connects_accepted, 1);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_reconnect_does_not_make_a_link_forget_that_its_consumer_has_no_room() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V311), "d1");
    let mut subscription = subscribed(&link, "t").await;
    publish_flood(&broker);
    standstill(&broker).await;
    let mut events = link.events();
    for _ in 0..3 {
        let before = broker.stats().bytes_sent;
        link.reconnect();
        online_again(&mut events).await;
        let sent = standstill(&broker).await - before;
        // What one connection brings before it is paused again; without the pause it is all 20 MiB.
        assert!(sent < READ_MAX, "{sent} bytes were read");
    }
    let mut first = [false; COUNT];
    while first.iter().any(|seen| !seen) {
        let message = soon("it comes", subscription.next()).await.unwrap();
        let n = usize::from_be_bytes(message.payload()[..8].try_into().unwrap());
        first[n] = true;
    }
    drain(&fleet).await;
}
