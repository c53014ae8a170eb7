//! A handler on the link's thread: what it is given, when its messages are acknowledged, and what it cannot break.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use paquebot::mqtt::{
    self, ConnAck, Decoded, Decoder, Packet, PacketId, Properties, Publish, QoS, ReasonCode,
    Sender, SubAck, Topic, TopicFilter, Version, encode,
};
use paquebot::{HandlerGuard, Link, LinkState, Message, SubscribeError};
use paquebot_emulator::{Broker, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, LIMIT, broker, drain, fleet, group, metric, online_again, silent, soon, start, until, url,
};

const EACH_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What a handler was given, as text.
struct Seen(Receiver<String>);

impl Seen {
    async fn next(&mut self) -> String {
        let mut found = None;
        until("the handler is called", || {
            found = self.0.try_recv().ok();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Nothing came up to now.
    fn is_empty(&self) -> bool {
        self.0.try_recv().is_err()
    }
}

/// A handler that tells the topic and the payload.
async fn telling(link: &Link, filter: &str) -> (HandlerGuard, Seen) {
    let (tell, seen) = channel();
    let handled = link.subscribe_with(filter, QoS::ExactlyOnce, move |message| {
        let payload = String::from_utf8_lossy(message.payload());
        let _ = tell.send(format!("{} {payload}", message.topic()));
    });
    let guard = handled.await.unwrap();
    soon("it is subscribed", guard.ready()).await.unwrap();
    (guard, Seen(seen))
}

fn publish(broker: &Broker, topic: &str, payload: impl Into<Bytes>, qos: QoS) {
    broker.publish(Topic::new(topic.to_owned()).unwrap(), payload, qos, false);
}

fn unacknowledged(broker: &Broker) -> usize {
    broker.client("d1").unwrap().inflight
}

#[tokio::test]
async fn a_handler_gets_every_message_in_order_and_each_is_acknowledged() {
    const COUNT: usize = 2_000;
    for version in BOTH {
        for qos in EACH_QOS {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let (_guard, mut seen) = telling(&link, "t/+").await;
            for n in 0..COUNT {
                publish(&broker, &format!("t/{n}"), n.to_string(), qos);
            }
            for n in 0..COUNT {
                assert_eq!(seen.next().await, format!("t/{n} {n}"), "{version} {qos:?}");
            }
            until("all are acknowledged", || unacknowledged(&broker) == 0).await;
            assert_eq!(fleet.totals().received, COUNT as u64);
            assert!(seen.is_empty(), "a message came twice");
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_message_is_acknowledged_once_its_handler_returned_and_not_before() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let (entered, is_in) = channel();
            let (open, gate) = channel::<()>();
            let handled = link.subscribe_with("t", QoS::ExactlyOnce, move |_| {
                entered.send(()).unwrap();
                gate.recv_timeout(LIMIT).unwrap();
            });
            let guard = handled.await.unwrap();
            soon("it is subscribed", guard.ready()).await.unwrap();
            publish(&broker, "t", "x", qos);
            until("the handler is called", || is_in.try_recv().is_ok()).await;
            assert_eq!(unacknowledged(&broker), 1, "{version} {qos:?}");
            open.send(()).unwrap();
            until("it is acknowledged", || unacknowledged(&broker) == 0).await;
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_loses_that_message_and_nothing_else() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let (tell, seen) = channel();
        let handled = link.subscribe_with("t", QoS::AtLeastOnce, move |message| {
            assert_ne!(message.payload(), b"bad", "as the test wants it");
            tell.send(String::from_utf8_lossy(message.payload()).into_owned())
                .unwrap();
        });
        let guard = handled.await.unwrap();
        soon("it is subscribed", guard.ready()).await.unwrap();
        for payload in ["one", "bad", "two"] {
            publish(&broker, "t", payload, QoS::AtLeastOnce);
        }
        let mut seen = Seen(seen);
        assert_eq!(seen.next().await, "one");
        assert_eq!(seen.next().await, "two");
        until("all are acknowledged", || unacknowledged(&broker) == 0).await;
        assert_eq!(link.state(), LinkState::Online);
        assert_eq!(broker.stats().connects_accepted, 1);
        let counted = metric(
            &fleet,
            "paquebot_inbound_dropped_total",
            &["handler_panicked"],
        );
        assert_eq!(counted, 1.0);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn dropping_the_guard_unsubscribes_and_ends_the_calls() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let (guard, mut seen) = telling(&link, "t").await;
        let (_other, mut others) = telling(&link, "#").await;
        publish(&broker, "t", "1", QoS::AtLeastOnce);
        assert_eq!(seen.next().await, "t 1");
        drop(guard);
        until("the server has one filter left", || {
            let client = broker.client("d1").unwrap();
            client.subscriptions.len() == 1
        })
        .await;
        // Its closure went with it, and what it held.
        until("the handler is dropped", || {
            matches!(
                seen.0.try_recv(),
                Err(std::sync::mpsc::TryRecvError::Disconnected)
            )
        })
        .await;
        while !others.is_empty() {}
        publish(&broker, "t", "2", QoS::AtLeastOnce);
        assert_eq!(others.next().await, "t 2");
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn what_a_handler_was_not_done_with_comes_again_after_a_break() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let mut events = link.events();
        let (tell, seen) = channel();
        let (open, gate) = channel::<()>();
        let handled = link.subscribe_with("t", QoS::AtLeastOnce, move |message| {
            let payload = String::from_utf8_lossy(message.payload());
            tell.send(format!("{payload} {}", message.dup())).unwrap();
            let _ = gate.recv_timeout(LIMIT);
        });
        let guard = handled.await.unwrap();
        soon("it is subscribed", guard.ready()).await.unwrap();
        publish(&broker, "t", "one", QoS::AtLeastOnce);
        let mut seen = Seen(seen);
        assert_eq!(seen.next().await, "one false");
        // While the handler is at work the connection ends, so its acknowledgement is not sent.
        broker.faults().disconnect(&Target::client("d1"), None);
        until("the server knows", || broker.stats().disconnects > 0).await;
        drop(open);
        online_again(&mut events).await;
        assert_eq!(seen.next().await, "one true");
        until("it is acknowledged", || unacknowledged(&broker) == 0).await;
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn handlers_and_streams_on_one_filter_both_get_a_message_and_the_last_acknowledges_it() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let (_guard, mut seen) = telling(&link, "t").await;
            let mut stream = link.subscribe("t", QoS::ExactlyOnce).await.unwrap();
            let mut second = link.subscribe("t", QoS::ExactlyOnce).await.unwrap();
            soon("it is subscribed", second.ready()).await.unwrap();
            for n in 0..3 {
                publish(&broker, "t", n.to_string(), qos);
            }
            let (mut held, mut also_held) = (Vec::new(), Vec::new());
            for n in 0..3 {
                assert_eq!(seen.next().await, format!("t {n}"));
                held.push(soon("it comes", stream.next()).await.unwrap());
                also_held.push(soon("it comes", second.next()).await.unwrap());
            }
            let payloads: Vec<&[u8]> = held.iter().map(|m| &**m.payload()).collect();
            assert_eq!(payloads, [b"0", b"1", b"2"]);
            drop(held);
            // A round trip: an acknowledgement would have been seen by now.
            let other = link.subscribe("other", QoS::AtMostOnce).await.unwrap();
            soon("it is subscribed", other.ready()).await.unwrap();
            assert_eq!(unacknowledged(&broker), 3);
            drop(also_held);
            until("all are acknowledged", || unacknowledged(&broker) == 0).await;
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_message_made_owned_outlives_its_handler_and_tells_the_server_nothing() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let (tell, seen) = channel::<Message>();
    let handled = link.subscribe_with("t/#", QoS::AtLeastOnce, move |message| {
        assert!(!message.retain() && !message.dup());
        assert_eq!(message.qos(), QoS::AtLeastOnce);
        tell.send(message.to_owned()).unwrap();
    });
    let guard = handled.await.unwrap();
    soon("it is subscribed", guard.ready()).await.unwrap();
    publish(&broker, "t/é", "kept", QoS::AtLeastOnce);
    until("it is acknowledged", || {
        broker.stats().sent_total() > 0 && unacknowledged(&broker) == 0
    })
    .await;
    let message = seen.recv_timeout(LIMIT).unwrap();
    assert_eq!(message.topic().as_str(), "t/é");
    assert_eq!(&**message.payload(), b"kept");
    drain(&fleet).await;
    drop(message);
}

/// A stream as a server sends it: plain messages and, on MQTT 5, one with properties.
fn stream(version: Version) -> (Bytes, Vec<String>) {
    let mut output = BytesMut::new();
    let mut expected = Vec::new();
    for (n, qos) in [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1)] {
        let mut properties = Properties::default();
        if n == 4 && version == Version::V5 {
            properties
                .edit()
                .user_properties
                .push(("a".into(), "b".into()));
        }
        let payload = "x".repeat(usize::from(n) * 40);
        let qos = QoS::from_u8(qos).unwrap();
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(Topic::from_static("t/cut").unwrap()),
            packet_id: PacketId::new(n).filter(|_| qos != QoS::AtMostOnce),
            payload: Bytes::from(payload.clone()),
            properties,
        });
        encode(&packet, version, &mut output).unwrap();
        expected.push(format!("t/cut {payload}"));
    }
    (output.freeze(), expected)
}

/// Answers CONNECT and SUBSCRIBE, then sends `bytes`; gives the acknowledgements that come back.
async fn serve_bytes(mut pipe: DuplexStream, version: Version, bytes: Bytes) -> Vec<String> {
    let mut decoder = Decoder::new(version, Sender::Client, 1024);
    let mut read = BytesMut::new();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 3 {
        assert!(pipe.read_buf(&mut read).await.unwrap() > 0);
        let mut input = read.split().freeze();
        while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
            let mut output = BytesMut::new();
            match packet {
                Packet::Connect(_) => {
                    let accepted = ConnAck {
                        session_present: false,
                        reason_code: ReasonCode::SUCCESS,
                        properties: Properties::default(),
                    };
                    encode(&Packet::ConnAck(accepted), version, &mut output).unwrap();
                }
                Packet::Subscribe(subscribe) => {
                    let granted = SubAck {
                        packet_id: subscribe.packet_id,
                        reason_codes: vec![ReasonCode::GRANTED_QOS_2],
                        properties: Properties::default(),
                    };
                    encode(&Packet::SubAck(granted), version, &mut output).unwrap();
                    output.extend_from_slice(&bytes);
                }
                Packet::PubAck(ack) => acknowledged.push(format!("PUBACK {}", ack.packet_id)),
                Packet::PubRec(ack) => acknowledged.push(format!("PUBREC {}", ack.packet_id)),
                other => panic!("{other:?}"),
            }
            pipe.write_all(&output).await.unwrap();
        }
        read.extend_from_slice(&input);
    }
    acknowledged.sort();
    acknowledged
}

#[tokio::test]
async fn messages_that_reads_cut_at_any_byte_come_whole_and_in_order() {
    for version in BOTH {
        let (bytes, expected) = stream(version);
        // A read brings no more than the pipe holds.
        for room in (1..100).chain([bytes.len() - 1, bytes.len()]) {
            let fleet = fleet();
            let (ours, theirs) = tokio::io::duplex(room);
            let theirs = Mutex::new(Some(theirs));
            let connector = Arc::new(move || theirs.lock().unwrap().take().ok_or(gone()));
            let builder = fleet
                .group("test")
                .pipe(connector)
                .version(version)
                .dialect(silent());
            let link = start(builder, "d1");
            let server = tokio::spawn(serve_bytes(ours, version, bytes.clone()));
            let (_guard, mut seen) = telling(&link, "t/#").await;
            for message in &expected {
                assert_eq!(
                    seen.next().await,
                    *message,
                    "{version}, {room} bytes a read"
                );
            }
            let acknowledged = soon("all are acknowledged", server).await.unwrap();
            assert_eq!(acknowledged, ["PUBACK 2", "PUBACK 5", "PUBREC 3"]);
            assert!(seen.is_empty());
            fleet.drain(Duration::ZERO).await;
        }
    }
}

fn gone() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}

#[tokio::test]
async fn one_handler_takes_several_filters_with_options() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let (tell, seen) = channel();
    let filters = ["a/#", "b/+"];
    let wanted = filters
        .map(|filter| mqtt::Subscription::new(TopicFilter::new(filter).unwrap(), QoS::AtLeastOnce));
    let handled = link.subscribe_all_with(wanted.to_vec(), move |message| {
        tell.send(message.topic().to_owned()).unwrap();
    });
    let guard = handled.await.unwrap();
    assert_eq!(
        soon("it is subscribed", guard.ready()).await,
        Ok(QoS::AtLeastOnce)
    );
    for topic in ["a/1", "b/2", "a"] {
        publish(&broker, topic, "x", QoS::AtMostOnce);
    }
    let mut seen = Seen(seen);
    for topic in ["a/1", "b/2", "a"] {
        assert_eq!(seen.next().await, topic);
    }
    let wrong = link.subscribe_with("a/#/b", QoS::AtMostOnce, |_| {}).await;
    assert!(
        matches!(wrong, Err(SubscribeError::Dialect(_))),
        "{wrong:?}"
    );
    drain(&fleet).await;
}
