//! CONNECT and CONNACK.

use bytes::Bytes;
use paquebot_emulator::mqtt::{Packet, QoS, ReasonCode, Version};
use paquebot_emulator::{AccessTable, Broker};

use crate::support::*;

#[tokio::test]
async fn both_versions_are_served_side_by_side() {
    let broker = broker().await;
    for version in BOTH {
        let mut client = Client::connect(&broker, version.to_string().as_str(), version).await;
        client.expect_nothing().await;
        client.disconnect().await;
    }
    assert_eq!(broker.stats().connects_accepted, 2);
}

#[tokio::test]
async fn a_client_without_an_identifier_is_given_one() {
    let broker = broker().await;
    let (_first, connack) = Client::accepted(&broker, connect_packet("", Version::V5)).await;
    let first = connack
        .properties
        .assigned_client_identifier
        .clone()
        .unwrap();
    let (_second, connack) = Client::accepted(&broker, connect_packet("", Version::V5)).await;
    let second = connack
        .properties
        .assigned_client_identifier
        .clone()
        .unwrap();
    assert_ne!(first, second);
    let (_third, connack) = Client::accepted(&broker, connect_packet("", Version::V311)).await;
    assert!(connack.properties.is_empty());
    assert!(broker.client(&first).unwrap().connected);
    assert_eq!(broker.stats().connections, 3);
}

#[tokio::test]
async fn a_lasting_session_without_an_identifier_is_refused_on_311() {
    let broker = broker().await;
    let mut client = Client::new(broker.connect_pipe(), Version::V311);
    // Clean Session 0 and an empty identifier: our encoder refuses to write it.
    client
        .send_bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 0])
        .await;
    let Packet::ConnAck(connack) = client.receive().await else {
        panic!("no CONNACK");
    };
    assert_eq!(connack.reason_code, ReasonCode(2));
    client.expect_closed().await;
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let broker = broker().await;
    for version in BOTH {
        let mut old = Client::connect(&broker, "twin", version).await;
        let mut new = Client::connect(&broker, "twin", version).await;
        old.expect_dismissed(ReasonCode::SESSION_TAKEN_OVER).await;
        new.expect_nothing().await;
        assert_eq!(broker.stats().connections, 1);
        new.disconnect().await;
    }
}

#[tokio::test]
async fn an_unknown_protocol_level_is_answered_with_return_code_1() {
    let broker = broker().await;
    let mut client = Client::new(broker.connect_pipe(), Version::V311);
    client
        .send_bytes(&[
            0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 1, b'a',
        ])
        .await;
    let Packet::ConnAck(connack) = client.receive().await else {
        panic!("no CONNACK");
    };
    assert_eq!(connack.reason_code, ReasonCode(1));
    client.expect_closed().await;
}

#[tokio::test]
async fn a_malformed_connect_of_mqtt_5_is_told_so() {
    let broker = broker().await;
    let mut client = Client::new(broker.connect_pipe(), Version::V5);
    // The reserved connect flag is set [MQTT-3.1.2-3].
    client
        .send_bytes(&[
            0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 3, 0, 0, 0, 0, 1, b'a',
        ])
        .await;
    let Packet::ConnAck(connack) = client.receive().await else {
        panic!("no CONNACK");
    };
    assert_eq!(connack.reason_code, ReasonCode::MALFORMED_PACKET);
    client.expect_closed().await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_with_connect_is_closed() {
    let broker = broker().await;
    let mut client = Client::new(broker.connect_pipe(), Version::V5);
    client.send(Packet::PingReq).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn a_second_connect_is_a_protocol_error() {
    let broker = broker().await;
    for version in BOTH {
        let mut client = Client::connect(&broker, "a", version).await;
        let again = connect_packet("a", version);
        client.send(Packet::Connect(Box::new(again))).await;
        client.expect_dismissed(ReasonCode::PROTOCOL_ERROR).await;
    }
    assert_eq!(broker.stats().violations, 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_connect_is_closed_in_time() {
    let broker = broker().await;
    let mut client = Client::new(broker.connect_pipe(), Version::V5);
    let started = tokio::time::Instant::now();
    client.expect_closed().await;
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn enhanced_authentication_is_refused() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V5);
    connect.properties.edit().authentication_method = Some("SCRAM".into());
    let (mut client, connack) = Client::answered(&broker, connect).await;
    assert_eq!(connack.reason_code, ReasonCode::BAD_AUTHENTICATION_METHOD);
    client.expect_closed().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_a_take_over_is_not() {
    let broker = broker_with(|limits| limits.connections_max = 1).await;
    let _first = Client::connect(&broker, "first", Version::V5).await;
    for (version, code) in [
        (Version::V5, ReasonCode::QUOTA_EXCEEDED),
        (Version::V311, ReasonCode(3)),
    ] {
        let (mut client, connack) = Client::answered(&broker, connect_packet("b", version)).await;
        assert_eq!(connack.reason_code, code);
        client.expect_closed().await;
    }
    let _again = Client::connect(&broker, "first", Version::V5).await;
    assert_eq!(broker.stats().connects_refused, 2);
}

#[tokio::test]
async fn passwords_are_checked_and_denied_topics_are_refused() {
    let access = AccessTable::new()
        .user("user", "secret")
        .deny_publish(filter("admin/#"))
        .deny_subscribe(filter("admin/#"));
    let broker = Broker::builder().policy(access).start().await.unwrap();
    for (version, anonymous, wrong) in [
        (
            Version::V5,
            ReasonCode::NOT_AUTHORIZED,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        ),
        (Version::V311, ReasonCode(5), ReasonCode(4)),
    ] {
        let mut connect = connect_packet("a", version);
        let (_, connack) = Client::answered(&broker, connect.clone()).await;
        assert_eq!(connack.reason_code, anonymous);
        connect.username = Some("user".into());
        connect.password = Some(Bytes::from_static(b"guess"));
        let (_, connack) = Client::answered(&broker, connect.clone()).await;
        assert_eq!(connack.reason_code, wrong);
        connect.password = Some(Bytes::from_static(b"secret"));
        let (mut client, _) = Client::accepted(&broker, connect).await;

        let refused = client.subscribe("admin/log", QoS::AtMostOnce).await;
        let allowed = client.subscribe("open", QoS::AtMostOnce).await;
        let denied = publish("admin/log", "x", QoS::AtLeastOnce, 7);
        let acknowledged = client.publish_acknowledged(denied).await;
        assert_eq!(allowed, ReasonCode::SUCCESS);
        match version {
            Version::V5 => {
                assert_eq!(refused, ReasonCode::NOT_AUTHORIZED);
                assert_eq!(acknowledged, ReasonCode::NOT_AUTHORIZED);
            }
            Version::V311 => {
                assert_eq!(refused, ReasonCode::UNSPECIFIED_ERROR);
                assert_eq!(acknowledged, ReasonCode::SUCCESS);
            }
        }
        client.disconnect().await;
    }
    assert_eq!(broker.stats().denied, 2);
}

#[tokio::test]
async fn the_limits_of_the_server_are_announced() {
    let broker = broker_with(|limits| {
        limits.maximum_qos = QoS::AtLeastOnce;
        limits.retain_available = false;
        limits.receive_maximum = 9;
        limits.packet_bytes_max = 4096;
        limits.topic_alias_maximum = 3;
        limits.keep_alive_max = Some(30);
        limits.session_expiry_max = 60;
        limits.wildcard_subscriptions = false;
        limits.shared_subscriptions = false;
        limits.subscription_identifiers = false;
    })
    .await;
    let (mut client, connack) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    let said = connack.properties;
    assert_eq!(said.maximum_qos, Some(QoS::AtLeastOnce));
    assert_eq!(said.retain_available, Some(false));
    assert_eq!(said.receive_maximum, Some(9));
    assert_eq!(said.maximum_packet_size, Some(4096));
    assert_eq!(said.topic_alias_maximum, Some(3));
    assert_eq!(said.server_keep_alive, Some(30));
    assert_eq!(said.session_expiry_interval, Some(60));
    assert_eq!(said.wildcard_subscription_available, Some(false));
    assert_eq!(said.shared_subscription_available, Some(false));
    assert_eq!(said.subscription_identifier_available, Some(false));
    assert_eq!(
        client.subscribe("a", QoS::ExactlyOnce).await,
        ReasonCode::GRANTED_QOS_1
    );
    for (text, code) in [
        ("a/#", ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED),
        ("$share/g/a", ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
    ] {
        assert_eq!(client.subscribe(text, QoS::AtMostOnce).await, code);
    }
    client.send(Packet::Publish(retained("a", "x"))).await;
    client
        .expect_dismissed(ReasonCode::RETAIN_NOT_SUPPORTED)
        .await;
}
