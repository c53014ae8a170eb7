//! Filters, options and shared subscriptions.

use paquebot_emulator::mqtt::{
    Packet, QoS, ReasonCode, Subscribe, Subscription, Unsubscribe, Version,
};

use crate::support::*;

#[tokio::test]
async fn messages_go_where_the_filters_match() {
    let broker = broker().await;
    for (text, yes, no) in [
        ("a/b", vec!["a/b"], vec!["a", "a/b/c", "A/b"]),
        ("a/+", vec!["a/b", "a/"], vec!["a", "a/b/c"]),
        ("+/+", vec!["a/b", "/b"], vec!["a", "a/b/c"]),
        ("a/#", vec!["a", "a/b", "a/b/c", "a/"], vec!["b", "ab"]),
        ("#", vec!["a", "/"], vec!["$SYS/a"]),
        ("+/a", vec!["b/a"], vec!["$SYS/a"]),
        ("$SYS/+", vec!["$SYS/a"], vec!["a"]),
        ("+", vec!["a"], vec!["/a", "$SYS"]),
        ("a//b", vec!["a//b"], vec!["a/b"]),
    ] {
        let mut client = Client::connect(&broker, "a", Version::V311).await;
        client.subscribe(text, QoS::AtMostOnce).await;
        for name in no {
            assert_eq!(
                broker.publish(topic(name), "", QoS::AtMostOnce, false),
                0,
                "{text} {name}"
            );
        }
        for name in yes {
            broker.publish(topic(name), "", QoS::AtMostOnce, false);
            assert_eq!(
                client.receive_publish().await.topic,
                Some(topic(name)),
                "{text}"
            );
        }
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn overlapping_subscriptions_make_one_delivery() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let wide = Subscription::new(filter("t/#"), QoS::AtMostOnce);
    let exact = Subscription::new(filter("t/x"), QoS::AtLeastOnce);
    client.subscribe_with(wide, Some(7)).await;
    client.subscribe_with(exact, Some(268_435_455)).await;
    broker.publish(topic("t/x"), "x", QoS::ExactlyOnce, false);
    let message = client.receive_publish().await;
    assert_eq!(message.qos, QoS::AtLeastOnce);
    let mut identifiers = message.properties.subscription_identifiers.clone();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 268_435_455]);
    client.expect_nothing().await;
}

#[tokio::test]
async fn subscribing_again_replaces_the_subscription() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    broker.publish(topic("t"), "x", QoS::AtLeastOnce, false);
    assert_eq!(client.receive_publish().await.qos, QoS::AtMostOnce);
    client.expect_nothing().await;
    assert_eq!(broker.stats().subscriptions, 1);
}

#[tokio::test]
async fn unsubscribing_ends_it_and_says_whether_there_was_one() {
    let broker = broker().await;
    for version in BOTH {
        let mut client = Client::connect(&broker, "a", version).await;
        client.subscribe("t/+", QoS::AtMostOnce).await;
        client
            .send(Packet::Unsubscribe(Unsubscribe {
                packet_id: id(9),
                filters: vec![filter("t/+"), filter("u")],
                properties: Default::default(),
            }))
            .await;
        let Packet::UnsubAck(unsuback) = client.receive().await else {
            panic!("no UNSUBACK");
        };
        assert_eq!(unsuback.packet_id, id(9));
        match version {
            Version::V311 => assert!(unsuback.reason_codes.is_empty()),
            Version::V5 => assert_eq!(
                unsuback.reason_codes,
                [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED]
            ),
        }
        assert_eq!(broker.publish(topic("t/x"), "x", QoS::AtMostOnce, false), 0);
    }
}

#[tokio::test]
async fn no_local_keeps_a_client_from_hearing_itself() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let mut other = Client::connect(&broker, "b", Version::V5).await;
    let mut subscription = Subscription::new(filter("t"), QoS::AtMostOnce);
    subscription.no_local = true;
    client.subscribe_with(subscription.clone(), None).await;
    client.publish("t", "mine").await;
    client.expect_nothing().await;
    other.publish("t", "theirs").await;
    assert_eq!(client.receive_text().await, "theirs");

    subscription.filter = filter("$share/g/t");
    let shared = Subscribe {
        packet_id: id(3),
        filters: vec![subscription],
        properties: Default::default(),
    };
    let mut bytes = bytes::BytesMut::new();
    if paquebot_emulator::mqtt::encode(&Packet::Subscribe(shared), Version::V5, &mut bytes).is_ok()
    {
        client.send_bytes(&bytes).await;
    } else {
        // The encoder knows the rule too [MQTT-3.8.3-4], so the bytes are spelt out.
        client
            .send_bytes(b"\x82\x10\0\x03\0\0\x0a$share/g/t\x04")
            .await;
    }
    client.expect_dismissed(ReasonCode::PROTOCOL_ERROR).await;
}

#[tokio::test]
async fn a_shared_subscription_takes_turns() {
    let broker = broker().await;
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        let mut member = Client::connect(&broker, name, Version::V5).await;
        member.subscribe("$share/g/t/#", QoS::AtLeastOnce).await;
        members.push(member);
    }
    let mut outsider = Client::connect(&broker, "outsider", Version::V5).await;
    outsider.subscribe("t/#", QoS::AtMostOnce).await;
    for round in ["1", "2"] {
        for _ in 0..3 {
            assert_eq!(
                broker.publish(topic("t/x"), round, QoS::AtMostOnce, false),
                2
            );
        }
        for member in &mut members {
            assert_eq!(member.receive_text().await, round);
            member.expect_nothing().await;
        }
        for _ in 0..3 {
            assert_eq!(outsider.receive_text().await, round);
        }
    }
}

#[tokio::test]
async fn a_shared_subscription_prefers_members_that_are_there() {
    let broker = broker().await;
    let (mut away, _) = Client::accepted(&broker, lasting("away", Version::V5)).await;
    away.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    away.disconnect().await;
    let (mut here, _) = Client::accepted(&broker, lasting("here", Version::V5)).await;
    here.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    for payload in ["1", "2", "3"] {
        broker.publish(topic("t"), payload, QoS::AtLeastOnce, false);
        assert_eq!(here.receive_text().await, payload);
    }
    assert_eq!(broker.client("away").unwrap().queued, 0);
}

#[tokio::test]
async fn subscriptions_are_limited_in_number_and_depth() {
    let broker = broker_with(|limits| {
        limits.subscriptions_max = 2;
        limits.filter_levels_max = 3;
    })
    .await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    assert_eq!(
        client.subscribe("a", QoS::AtMostOnce).await,
        ReasonCode::SUCCESS
    );
    assert_eq!(
        client.subscribe("1/2/3", QoS::AtMostOnce).await,
        ReasonCode::SUCCESS
    );
    assert_eq!(
        client.subscribe("a", QoS::AtLeastOnce).await,
        ReasonCode::GRANTED_QOS_1
    );
    assert_eq!(
        client.subscribe("b", QoS::AtMostOnce).await,
        ReasonCode::QUOTA_EXCEEDED
    );
    let mut client = Client::connect(&broker, "b", Version::V5).await;
    let code = client.subscribe("1/2/3/4", QoS::AtMostOnce).await;
    assert_eq!(code, ReasonCode::TOPIC_FILTER_INVALID);
}

#[tokio::test]
async fn properties_reach_mqtt_5_subscribers_and_not_others() {
    let broker = broker().await;
    let mut five = Client::connect(&broker, "five", Version::V5).await;
    let mut three = Client::connect(&broker, "three", Version::V311).await;
    five.subscribe("t", QoS::AtMostOnce).await;
    three.subscribe("t", QoS::AtMostOnce).await;
    let mut publisher = Client::connect(&broker, "p", Version::V5).await;
    let mut message = publish("t", "x", QoS::AtMostOnce, 0);
    let properties = message.properties.edit();
    properties.payload_format_indicator = Some(true);
    properties.content_type = Some("text/plain".into());
    properties.response_topic = Some("answers".into());
    properties.correlation_data = Some(bytes::Bytes::from_static(b"\x01"));
    properties.user_properties = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
    publisher.send(Packet::Publish(message.clone())).await;
    assert_eq!(five.receive_publish().await.properties, message.properties);
    assert!(three.receive_publish().await.properties.is_empty());
}
