//! Packet sizes, topic aliases, slow readers.

use paquebot_emulator::mqtt::{Packet, QoS, ReasonCode, Version};

use crate::support::*;

#[tokio::test]
async fn a_packet_at_the_limit_is_taken_and_one_beyond_is_not() {
    let broker = broker_with(|limits| limits.packet_bytes_max = 1000).await;
    for version in BOTH {
        let mut client = Client::connect(&broker, "a", version).await;
        client.subscribe("t", QoS::AtMostOnce).await;
        // Fixed header 3, topic 3, and on MQTT 5 one for the properties.
        let room = 1000 - 3 - 3 - usize::from(version == Version::V5);
        let message = |size| Packet::Publish(publish("t", vec![b'x'; size], QoS::AtMostOnce, 0));
        client.send(message(room)).await;
        assert_eq!(client.receive_publish().await.payload.len(), room);
        client.send(message(room + 1)).await;
        client.expect_dismissed(ReasonCode::PACKET_TOO_LARGE).await;
    }
}

#[tokio::test]
async fn a_message_larger_than_the_client_takes_is_dropped_as_if_delivered() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V5);
    connect.properties.edit().maximum_packet_size = Some(100);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        broker.publish(topic("t"), vec![0; 100], qos, false);
        broker.publish(topic("t"), "fits", qos, false);
        assert_eq!(client.receive_text().await, "fits");
    }
    assert_eq!(broker.stats().dropped_too_large, 2);
    assert_eq!(broker.client("a").unwrap().inflight, 1);
}

#[tokio::test]
async fn packets_cut_at_every_byte_are_put_together() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    let mut bytes = bytes::BytesMut::new();
    for payload in ["one", "two"] {
        let packet = Packet::Publish(publish("t", payload, QoS::AtMostOnce, 0));
        paquebot_emulator::mqtt::encode(&packet, Version::V5, &mut bytes).unwrap();
    }
    for cut in 1..bytes.len() {
        for part in [&bytes[..cut], &bytes[cut..]] {
            client.send_bytes(part).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.receive_text().await, "one");
        assert_eq!(client.receive_text().await, "two");
    }
}

#[tokio::test]
async fn a_clients_topic_alias_stands_for_its_topic() {
    let broker = broker_with(|limits| limits.topic_alias_maximum = 2).await;
    let mut listener = Client::connect(&broker, "listener", Version::V311).await;
    listener.subscribe("#", QoS::AtMostOnce).await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let aliased = |name: Option<&str>, alias| {
        let mut message = publish("unused", "x", QoS::AtMostOnce, 0);
        message.topic = name.map(topic);
        message.properties.edit().topic_alias = Some(alias);
        Packet::Publish(message)
    };
    for (name, alias, expected) in [
        (Some("one"), 1, "one"),
        (None, 1, "one"),
        (Some("two"), 2, "two"),
        (None, 1, "one"),
        (Some("three"), 1, "three"),
        (None, 1, "three"),
    ] {
        client.send(aliased(name, alias)).await;
        assert_eq!(
            listener.receive_publish().await.topic,
            Some(topic(expected))
        );
    }
    client.send(aliased(Some("four"), 3)).await;
    client
        .expect_dismissed(ReasonCode::TOPIC_ALIAS_INVALID)
        .await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.send(aliased(None, 1)).await;
    client.expect_dismissed(ReasonCode::PROTOCOL_ERROR).await;
}

#[tokio::test]
async fn the_server_uses_aliases_as_far_as_the_client_takes_them() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V5);
    connect.properties.edit().topic_alias_maximum = Some(2);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.subscribe("#", QoS::AtMostOnce).await;
    for (name, expected_topic, expected_alias) in [
        ("one", Some("one"), Some(1)),
        ("one", None, Some(1)),
        ("two", Some("two"), Some(2)),
        ("three", Some("three"), None),
        ("two", None, Some(2)),
    ] {
        broker.publish(topic(name), "x", QoS::AtMostOnce, false);
        let message = client.receive_publish().await;
        assert_eq!(message.topic, expected_topic.map(topic));
        assert_eq!(message.properties.topic_alias, expected_alias);
    }
}

#[tokio::test]
async fn a_slow_reader_loses_qos_0_and_keeps_the_rest() {
    let broker = broker_with(|limits| {
        limits.outbound_packets_max = 10;
        limits.outbound_bytes_max = 1024 * 1024;
    })
    .await;
    let mut slow = Client::connect(&broker, "slow", Version::V311).await;
    slow.subscribe("t", QoS::AtLeastOnce).await;
    // More than the pipe holds, so that the outbox fills.
    let big = bytes::Bytes::from(vec![b'x'; 20_000]);
    for _ in 0..40 {
        broker.publish(topic("t"), big.clone(), QoS::AtMostOnce, false);
        tokio::task::yield_now().await;
    }
    let dropped = broker.stats().dropped_slow_reader;
    assert!(dropped > 0);
    for number in 0..40_u8 {
        broker.publish(topic("t"), vec![number], QoS::AtLeastOnce, false);
    }
    let kept = 40 - dropped;
    for _ in 0..kept {
        assert_eq!(slow.receive_publish().await.qos, QoS::AtMostOnce);
    }
    for number in 0..40_u8 {
        let message = slow.receive_publish().await;
        assert_eq!(message.payload, [number].as_slice());
        slow.acknowledge(message.packet_id).await;
    }
    slow.expect_nothing().await;
    assert_eq!(broker.stats().dropped_queue_full, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read_either() {
    let broker = broker_with(|limits| limits.outbound_packets_max = 16).await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    let pings = [0xc0, 0x00].repeat(1024);
    let mut sent = 0_usize;
    // Without back-pressure this would go on for ever.
    loop {
        let write = client.send_bytes(&pings);
        match tokio::time::timeout(std::time::Duration::from_millis(200), write).await {
            Ok(()) => sent += 1024,
            Err(_) => break,
        }
        assert!(sent < 1_000_000, "the server reads on and on");
    }
    for _ in 0..sent {
        assert_eq!(client.receive().await, Packet::PingResp);
    }
}
