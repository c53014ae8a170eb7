//! Counters, clients, watches and the server's own publishes.

use std::time::Duration;

use paquebot_emulator::mqtt::{Packet, QoS, Version};

use crate::support::*;

#[tokio::test]
async fn counters_say_what_happened() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.publish("t", "x").await;
    client.receive_publish().await;
    client
        .publish_acknowledged(publish("other", "x", QoS::AtLeastOnce, 2))
        .await;
    client.send(Packet::Publish(retained("r", "x"))).await;
    client.expect_nothing().await;
    let stats = broker.stats();
    assert_eq!(
        (stats.connections, stats.sessions, stats.subscriptions),
        (1, 1, 1)
    );
    assert_eq!(stats.received, [2, 1, 0]);
    assert_eq!(stats.received_total(), 3);
    assert_eq!(stats.sent, [1, 0, 0]);
    assert_eq!(stats.sent_total(), 1);
    assert_eq!(stats.retained, 1);
    // CONNECT 15, SUBSCRIBE 8, PUBLISH 6, 11 and 6, PINGREQ 2.
    assert_eq!(stats.bytes_received, 15 + 8 + 6 + 12 + 6 + 2);
    // CONNACK 4, SUBACK 5, PUBLISH 6, PUBACK 4, PINGRESP 2.
    assert_eq!(stats.bytes_sent, 4 + 5 + 6 + 4 + 2);
    client.disconnect().await;
    let stats = broker.stats();
    assert_eq!(
        (stats.connections, stats.sessions, stats.disconnects),
        (0, 0, 1)
    );
}

#[tokio::test]
async fn clients_are_described() {
    let broker = broker().await;
    let mut connect = lasting("a", Version::V5);
    connect.keep_alive = 30;
    connect.properties.edit().session_expiry_interval = Some(99);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.subscribe("t/#", QoS::AtLeastOnce).await;
    client.disconnect().await;
    broker.publish(topic("t/x"), "x", QoS::AtLeastOnce, false);
    let clients = broker.clients();
    assert_eq!(clients.len(), 1);
    assert_eq!(broker.client("a").as_ref(), clients.first());
    let info = &clients[0];
    assert_eq!(info.client_id, "a");
    assert!(!info.connected);
    assert_eq!(info.version, Version::V5);
    assert_eq!((info.keep_alive, info.session_expiry_interval), (30, 99));
    assert_eq!(info.subscriptions, [("t/#".to_owned(), QoS::AtLeastOnce)]);
    assert_eq!((info.inflight, info.queued), (0, 1));
}

#[tokio::test]
async fn a_watch_sees_what_is_published() {
    let broker = broker().await;
    let mut watch = broker.watch(filter("t/+"));
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let mut message = publish("t/x", "payload", QoS::ExactlyOnce, 1);
    message.retain = true;
    let properties = message.properties.edit();
    properties.topic_alias = Some(1);
    properties.content_type = Some("text".into());
    client.send(Packet::Publish(message)).await;
    client.publish("other", "x").await;
    let seen = watch.recv().await.unwrap();
    assert_eq!(seen.client_id.as_deref(), Some("a"));
    assert_eq!(seen.topic, topic("t/x"));
    assert_eq!(seen.payload, "payload");
    assert_eq!((seen.qos, seen.retain), (QoS::ExactlyOnce, true));
    assert_eq!(seen.properties.content_type.as_deref(), Some("text"));
    assert_eq!(seen.properties.topic_alias, None);
    broker.publish(topic("t/y"), "", QoS::AtMostOnce, false);
    let seen = watch.recv().await.unwrap();
    assert_eq!(seen.client_id, None);
    assert_eq!(watch.try_recv(), None);
    broker.stop().await;
    assert_eq!(watch.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_condition_or_the_time() {
    let broker = broker().await;
    let error = broker
        .wait_for(|stats| stats.connections > 0, Duration::from_secs(3))
        .await
        .unwrap_err();
    assert_eq!(error.stats.connections, 0);
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move {
            broker
                .wait_for(|stats| stats.connections > 0, Duration::from_secs(3))
                .await
        }
    });
    tokio::task::yield_now().await;
    let _client = Client::connect(&broker, "a", Version::V5).await;
    assert_eq!(waiting.await.unwrap().unwrap().connections, 1);
}

#[tokio::test]
async fn packets_are_on_record_in_both_directions() {
    let broker = broker().await;
    let mut early = Client::connect(&broker, "early", Version::V5).await;
    let mut recording = broker.record();
    early.expect_nothing().await;
    let late = Client::connect(&broker, "late", Version::V311).await;
    late.disconnect().await;
    let mut lines = Vec::new();
    while let Some(recorded) = recording.try_recv() {
        let sender = recorded.sender;
        lines.push(format!(
            "{} {sender:?} {}",
            recorded.client_id,
            recorded.packet.name()
        ));
    }
    assert_eq!(
        lines,
        [
            "early Client PINGREQ",
            "early Server PINGRESP",
            "late Client CONNECT",
            "late Server CONNACK",
            "late Client DISCONNECT",
        ]
    );
    assert_eq!(recording.lost(), 0);
    let _another = broker.record();
    early.expect_nothing().await;
    assert_eq!(recording.try_recv(), None);
}
