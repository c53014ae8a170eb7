//! What a session keeps while its client is away.

use std::time::Duration;

use paquebot_emulator::mqtt::{Disconnect, Packet, QoS, ReasonCode, Version};
use tokio::time::sleep;

use crate::support::*;

#[tokio::test]
async fn messages_wait_for_an_absent_client_in_order() {
    let broker = broker().await;
    for version in BOTH {
        let (mut client, connack) = Client::accepted(&broker, lasting("a", version)).await;
        assert!(!connack.session_present);
        client.subscribe("t/#", QoS::AtLeastOnce).await;
        client.disconnect().await;
        for payload in ["1", "2", "3"] {
            broker.publish(topic("t/x"), payload, QoS::ExactlyOnce, false);
        }
        broker.publish(topic("t/x"), "not kept", QoS::AtMostOnce, false);
        assert_eq!(broker.client("a").unwrap().queued, 3);
        let (mut client, connack) = Client::accepted(&broker, lasting("a", version)).await;
        assert!(connack.session_present);
        for payload in ["1", "2", "3"] {
            let message = client.receive_publish().await;
            assert_eq!(message.payload, payload);
            assert!(!message.dup);
            client.acknowledge(message.packet_id).await;
        }
        client.expect_nothing().await;
        client.disconnect().await;
        Client::connect(&broker, "a", version)
            .await
            .disconnect()
            .await;
        assert_eq!(broker.client("a"), None);
    }
}

#[tokio::test]
async fn a_clean_start_forgets_everything() {
    let broker = broker().await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.disconnect().await;
    broker.publish(topic("t"), "x", QoS::AtLeastOnce, false);
    let (mut client, connack) = Client::accepted(&broker, connect_packet("a", Version::V5)).await;
    assert!(!connack.session_present);
    client.expect_nothing().await;
    broker.publish(topic("t"), "x", QoS::AtLeastOnce, false);
    client.expect_nothing().await;
    assert_eq!(broker.stats().subscriptions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_interval_is_over() {
    let broker = broker().await;
    let mut connect = lasting("a", Version::V5);
    connect.properties.edit().session_expiry_interval = Some(10);
    for (seconds, present) in [(9, true), (11, false)] {
        let (mut client, _) = Client::accepted(&broker, connect.clone()).await;
        client.subscribe("t", QoS::AtLeastOnce).await;
        client.disconnect().await;
        sleep(Duration::from_secs(seconds)).await;
        assert_eq!(broker.stats().sessions, usize::from(present));
        assert_eq!(broker.stats().subscriptions, usize::from(present));
        let (client, connack) = Client::accepted(&broker, connect.clone()).await;
        assert_eq!(connack.session_present, present);
        client.disconnect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_returned_client_stops_the_expiry() {
    let broker = broker().await;
    let mut connect = lasting("a", Version::V5);
    connect.properties.edit().session_expiry_interval = Some(10);
    let (client, _) = Client::accepted(&broker, connect.clone()).await;
    client.disconnect().await;
    sleep(Duration::from_secs(5)).await;
    let (mut client, connack) = Client::accepted(&broker, connect).await;
    assert!(connack.session_present);
    sleep(Duration::from_secs(60)).await;
    client.expect_nothing().await;
    assert_eq!(broker.stats().sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn disconnect_may_change_the_expiry_but_not_introduce_one() {
    let broker = broker().await;
    let mut disconnect = Disconnect::default();
    disconnect.properties.edit().session_expiry_interval = Some(3);
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    client.send(Packet::Disconnect(disconnect.clone())).await;
    client.expect_closed().await;
    assert_eq!(broker.stats().sessions, 1);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(broker.stats().sessions, 0);

    let mut client = Client::connect(&broker, "b", Version::V5).await;
    client.send(Packet::Disconnect(disconnect)).await;
    client.expect_dismissed(ReasonCode::PROTOCOL_ERROR).await;
}

#[tokio::test]
async fn the_queue_of_an_absent_client_is_bounded_by_count_and_bytes() {
    let broker = broker_with(|limits| {
        limits.queued_messages_max = 3;
        limits.queued_bytes_max = 100;
    })
    .await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V311)).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.disconnect().await;
    for _ in 0..4 {
        broker.publish(topic("t"), "small", QoS::AtLeastOnce, false);
    }
    assert_eq!(broker.client("a").unwrap().queued, 3);
    assert_eq!(broker.stats().dropped_queue_full, 1);

    let (mut client, _) = Client::accepted(&broker, lasting("b", Version::V311)).await;
    client.subscribe("u", QoS::AtLeastOnce).await;
    client.disconnect().await;
    broker.publish(topic("u"), vec![0; 99], QoS::AtLeastOnce, false);
    broker.publish(topic("u"), vec![0; 1], QoS::AtLeastOnce, false);
    assert_eq!(broker.client("b").unwrap().queued, 1);
    assert_eq!(broker.stats().dropped_queue_full, 2);
}

#[tokio::test(start_paused = true)]
async fn messages_expire_in_the_queue_and_say_what_is_left() {
    let broker = broker().await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.disconnect().await;
    let mut publisher = Client::connect(&broker, "p", Version::V5).await;
    for (payload, seconds) in [("short", 5), ("long", 60)] {
        let mut message = publish("t", payload, QoS::AtLeastOnce, 1);
        message.properties.edit().message_expiry_interval = Some(seconds);
        publisher.publish_acknowledged(message).await;
    }
    sleep(Duration::from_secs(10)).await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    let message = client.receive_publish().await;
    assert_eq!(message.payload, "long");
    assert_eq!(message.properties.message_expiry_interval, Some(50));
    assert_eq!(broker.stats().expired, 1);
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused() {
    let broker = broker_with(|limits| limits.sessions_max = 1).await;
    let (client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    client.disconnect().await;
    let (_, connack) = Client::answered(&broker, lasting("b", Version::V5)).await;
    assert_eq!(connack.reason_code, ReasonCode::QUOTA_EXCEEDED);
    let (_client, connack) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    assert!(connack.session_present);
}
