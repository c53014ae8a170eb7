//! QoS 0, 1 and 2, both ways.

use paquebot_emulator::mqtt::{Acknowledgement, Packet, QoS, ReasonCode, Version};

use crate::support::*;

#[tokio::test]
async fn a_message_arrives_with_the_lower_of_its_and_the_subscriptions_qos() {
    let broker = broker().await;
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for version in BOTH {
        for granted in qos {
            for published in qos {
                let mut client = Client::connect(&broker, "a", version).await;
                let code = client.subscribe("t", granted).await;
                assert_eq!(code, ReasonCode(granted as u8));
                broker.publish(topic("t"), "x", published, false);
                let message = client.receive_publish().await;
                assert_eq!(message.qos, granted.min(published));
                assert_eq!(message.packet_id.is_some(), message.qos > QoS::AtMostOnce);
                assert!(!message.dup && !message.retain);
            }
        }
    }
}

#[tokio::test]
async fn qos_1_is_acknowledged_and_tells_whether_anyone_listens() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let message = publish("t", "x", QoS::AtLeastOnce, 1);
    let code = client.publish_acknowledged(message.clone()).await;
    assert_eq!(code, ReasonCode::NO_MATCHING_SUBSCRIBERS);
    let mut other = Client::connect(&broker, "b", Version::V311).await;
    other.subscribe("t", QoS::AtMostOnce).await;
    let code = client.publish_acknowledged(message).await;
    assert_eq!(code, ReasonCode::SUCCESS);
}

#[tokio::test]
async fn qos_2_is_handed_on_once_however_often_it_is_sent() {
    for version in BOTH {
        let broker = broker().await;
        let mut listener = Client::connect(&broker, "listener", version).await;
        listener.subscribe("t", QoS::AtMostOnce).await;
        let (mut client, _) = Client::accepted(&broker, lasting("a", version)).await;
        let mut message = publish("t", "once", QoS::ExactlyOnce, 5);
        client.send(Packet::Publish(message.clone())).await;
        assert!(matches!(client.receive().await, Packet::PubRec(ack) if ack.packet_id == id(5)));
        drop(client);
        let (mut client, connack) = Client::accepted(&broker, lasting("a", version)).await;
        assert!(connack.session_present);
        message.dup = true;
        client.send(Packet::Publish(message.clone())).await;
        assert!(matches!(client.receive().await, Packet::PubRec(_)));
        client
            .send(Packet::PubRel(Acknowledgement::success(id(5))))
            .await;
        assert!(matches!(client.receive().await, Packet::PubComp(_)));
        assert_eq!(listener.receive_text().await, "once");
        listener.expect_nothing().await;
        // The identifier is free again.
        message.dup = false;
        client.send(Packet::Publish(message)).await;
        assert_eq!(listener.receive_text().await, "once");
    }
}

#[tokio::test]
async fn a_release_of_an_unknown_message_is_answered() {
    let broker = broker().await;
    for (version, code) in [
        (Version::V311, ReasonCode::SUCCESS),
        (Version::V5, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND),
    ] {
        let mut client = Client::connect(&broker, "a", version).await;
        client
            .send(Packet::PubRel(Acknowledgement::success(id(9))))
            .await;
        match client.receive().await {
            Packet::PubComp(ack) => assert_eq!(ack.reason_code, code),
            other => panic!("{other:?} instead of PUBCOMP"),
        }
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_first_with_dup() {
    let broker = broker().await;
    for version in BOTH {
        let (mut client, _) = Client::accepted(&broker, lasting("a", version)).await;
        client.subscribe("t", QoS::ExactlyOnce).await;
        for (payload, qos) in [
            ("1", QoS::AtLeastOnce),
            ("2", QoS::ExactlyOnce),
            ("3", QoS::ExactlyOnce),
        ] {
            broker.publish(topic("t"), payload, qos, false);
        }
        let first = client.receive_publish().await;
        let second = client.receive_publish().await;
        let third = client.receive_publish().await;
        client
            .send(Packet::PubRec(Acknowledgement::success(
                second.packet_id.unwrap(),
            )))
            .await;
        assert!(matches!(client.receive().await, Packet::PubRel(_)));
        drop(client);
        connected(&broker, 0).await;
        broker.publish(topic("t"), "4", QoS::AtLeastOnce, false);

        let (mut client, _) = Client::accepted(&broker, lasting("a", version)).await;
        let again = client.receive_publish().await;
        assert!(again.dup && again.packet_id == first.packet_id && again.payload == "1");
        match client.receive().await {
            Packet::PubRel(ack) => assert_eq!(Some(ack.packet_id), second.packet_id),
            other => panic!("{other:?} instead of PUBREL"),
        }
        let again = client.receive_publish().await;
        assert!(again.dup && again.packet_id == third.packet_id && again.payload == "3");
        let new = client.receive_publish().await;
        assert!(!new.dup && new.payload == "4");
        for message in [first, new] {
            client.acknowledge(message.packet_id).await;
        }
        for message in [second, third] {
            let ack = Acknowledgement::success(message.packet_id.unwrap());
            if message.payload == "3" {
                client.send(Packet::PubRec(ack.clone())).await;
                assert!(matches!(client.receive().await, Packet::PubRel(_)));
            }
            client.send(Packet::PubComp(ack)).await;
        }
        client.expect_nothing().await;
        assert_eq!(broker.client("a").unwrap().inflight, 0);
        client.disconnect().await;
        Client::connect(&broker, "a", version)
            .await
            .disconnect()
            .await;
    }
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V5);
    connect.properties.edit().receive_maximum = Some(2);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    for payload in ["1", "2", "3", "4"] {
        broker.publish(topic("t"), payload, QoS::AtLeastOnce, false);
    }
    let first = client.receive_publish().await;
    assert_eq!(client.receive_text().await, "2");
    client.expect_nothing().await;
    // QoS 0 is not part of the quota.
    broker.publish(topic("t"), "free", QoS::AtMostOnce, false);
    assert_eq!(client.receive_text().await, "free");
    client.acknowledge(first.packet_id).await;
    assert_eq!(client.receive_text().await, "3");
    client.expect_nothing().await;
    let info = broker.client("a").unwrap();
    assert_eq!((info.inflight, info.queued), (2, 1));
}

#[tokio::test]
async fn a_smaller_window_after_a_reconnect_is_kept() {
    let broker = broker().await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    for payload in ["1", "2", "3"] {
        broker.publish(topic("t"), payload, QoS::AtLeastOnce, false);
        assert_eq!(client.receive_text().await, payload);
    }
    drop(client);
    let mut connect = lasting("a", Version::V5);
    connect.properties.edit().receive_maximum = Some(1);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    for payload in ["1", "2", "3"] {
        let message = client.receive_publish().await;
        assert!(message.dup && message.payload == payload);
        client.expect_nothing().await;
        client.acknowledge(message.packet_id).await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_client_that_exceeds_the_receive_maximum_is_dismissed() {
    let broker = broker_with(|limits| limits.receive_maximum = 2).await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    for packet_id in 1..=2 {
        let message = publish("t", "x", QoS::ExactlyOnce, packet_id);
        client.send(Packet::Publish(message)).await;
        assert!(matches!(client.receive().await, Packet::PubRec(_)));
    }
    let message = publish("t", "x", QoS::AtLeastOnce, 3);
    client.send(Packet::Publish(message)).await;
    client
        .expect_dismissed(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED)
        .await;
}

#[tokio::test]
async fn a_refused_message_leaves_the_window() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V5);
    connect.properties.edit().receive_maximum = Some(1);
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.subscribe("t", QoS::ExactlyOnce).await;
    broker.publish(topic("t"), "1", QoS::ExactlyOnce, false);
    broker.publish(topic("t"), "2", QoS::ExactlyOnce, false);
    let packet_id = client.receive_publish().await.packet_id.unwrap();
    let refusal = Acknowledgement::with_reason(packet_id, ReasonCode::QUOTA_EXCEEDED);
    client.send(Packet::PubRec(refusal)).await;
    assert_eq!(client.receive_text().await, "2");
}

#[tokio::test]
async fn the_wrong_acknowledgement_is_a_protocol_error() {
    let broker = broker().await;
    for version in BOTH {
        let mut client = Client::connect(&broker, "a", version).await;
        client.subscribe("t", QoS::ExactlyOnce).await;
        broker.publish(topic("t"), "x", QoS::ExactlyOnce, false);
        let packet_id = client.receive_publish().await.packet_id;
        client.acknowledge(packet_id).await;
        client.expect_dismissed(ReasonCode::PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn packet_identifiers_go_around_without_a_clash() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    broker.publish(topic("t"), "kept", QoS::AtLeastOnce, false);
    let kept = client.receive_publish().await.packet_id;
    for _ in 0..66_000 {
        broker.publish(topic("t"), "x", QoS::AtLeastOnce, false);
        let packet_id = client.receive_publish().await.packet_id;
        assert_ne!(packet_id, kept);
        client.acknowledge(packet_id).await;
    }
}
