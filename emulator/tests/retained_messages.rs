//! Retained messages.

use std::time::Duration;

use paquebot_emulator::mqtt::{Packet, QoS, ReasonCode, RetainHandling, Subscription, Version};

use crate::support::*;

#[tokio::test]
async fn a_new_subscription_gets_the_last_retained_message() {
    let broker = broker().await;
    for version in BOTH {
        let mut publisher = Client::connect(&broker, "p", version).await;
        for payload in ["old", "new"] {
            publisher
                .send(Packet::Publish(retained("s/1", payload)))
                .await;
        }
        publisher.expect_nothing().await;
        let mut client = Client::connect(&broker, "a", version).await;
        client.subscribe("s/+", QoS::AtLeastOnce).await;
        let message = client.receive_publish().await;
        assert!(message.retain && message.payload == "new");
        // A live message of an ordinary subscription is not marked [MQTT-3.3.1-9].
        publisher
            .send(Packet::Publish(retained("s/1", "live")))
            .await;
        let message = client.receive_publish().await;
        assert!(!message.retain && message.payload == "live");
    }
}

#[tokio::test]
async fn an_empty_payload_forgets_the_topic() {
    let broker = broker().await;
    broker.publish(topic("a"), "x", QoS::AtMostOnce, true);
    broker.publish(topic("b"), "y", QoS::AtMostOnce, true);
    broker.publish(topic("a"), "", QoS::AtMostOnce, true);
    assert_eq!(broker.stats().retained, 1);
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.subscribe("#", QoS::AtMostOnce).await;
    assert_eq!(client.receive_text().await, "y");
    client.expect_nothing().await;
}

#[tokio::test]
async fn retained_messages_are_found_by_every_kind_of_filter() {
    let broker = broker().await;
    for text in ["a", "a/b", "a/b/c", "ab/c", "$SYS/x", "/a", "a/"] {
        broker.publish(topic(text), text.to_owned(), QoS::AtMostOnce, true);
    }
    for (text, expected) in [
        ("a/b", vec!["a/b"]),
        ("a/#", vec!["a", "a/", "a/b", "a/b/c"]),
        ("a/+", vec!["a/", "a/b"]),
        ("+/b", vec!["a/b"]),
        ("+", vec!["a"]),
        ("/+", vec!["/a"]),
        ("$SYS/#", vec!["$SYS/x"]),
        ("#", vec!["/a", "a", "a/", "a/b", "a/b/c", "ab/c"]),
        ("b", vec![]),
    ] {
        let mut client = Client::connect(&broker, "a", Version::V311).await;
        client.subscribe(text, QoS::AtMostOnce).await;
        let mut found = Vec::new();
        for _ in &expected {
            found.push(client.receive_text().await);
        }
        client.expect_nothing().await;
        found.sort();
        assert_eq!(found, expected, "{text}");
    }
}

#[tokio::test]
async fn retain_handling_says_when_they_are_sent() {
    let broker = broker().await;
    broker.publish(topic("t"), "x", QoS::AtMostOnce, true);
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let with = |handling| Subscription {
        retain_handling: handling,
        ..Subscription::new(filter("t"), QoS::AtMostOnce)
    };
    client
        .subscribe_with(with(RetainHandling::Never), None)
        .await;
    client.expect_nothing().await;
    client
        .subscribe_with(with(RetainHandling::OnNewSubscription), None)
        .await;
    client.expect_nothing().await;
    client
        .subscribe_with(with(RetainHandling::OnSubscribe), None)
        .await;
    assert_eq!(client.receive_text().await, "x");
    let mut other = Client::connect(&broker, "b", Version::V5).await;
    other
        .subscribe_with(with(RetainHandling::OnNewSubscription), None)
        .await;
    assert_eq!(other.receive_text().await, "x");
}

#[tokio::test]
async fn retain_as_published_keeps_the_flag() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let mut subscription = Subscription::new(filter("t"), QoS::AtMostOnce);
    subscription.retain_as_published = true;
    client.subscribe_with(subscription, None).await;
    for retain in [true, false] {
        broker.publish(topic("t"), "x", QoS::AtMostOnce, retain);
        assert_eq!(client.receive_publish().await.retain, retain);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_expires() {
    let broker = broker().await;
    let mut publisher = Client::connect(&broker, "p", Version::V5).await;
    let mut message = retained("t", "x");
    message.properties.edit().message_expiry_interval = Some(10);
    publisher.send(Packet::Publish(message)).await;
    publisher.expect_nothing().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    let message = client.receive_publish().await;
    assert_eq!(message.properties.message_expiry_interval, Some(6));
    tokio::time::sleep(Duration::from_secs(6)).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    assert_eq!(broker.stats().retained, 0);
}

#[tokio::test]
async fn the_store_is_bounded() {
    let broker = broker_with(|limits| {
        limits.retained_messages_max = 2;
        limits.retained_bytes_max = 50;
    })
    .await;
    for text in ["a", "b", "c"] {
        broker.publish(topic(text), "x", QoS::AtMostOnce, true);
    }
    assert_eq!(broker.stats().retained, 2);
    broker.publish(topic("a"), vec![0; 60], QoS::AtMostOnce, true);
    assert_eq!(broker.stats().dropped_retained, 2);
    assert_eq!(broker.stats().retained, 1);
}

#[tokio::test]
async fn a_shared_subscription_gets_no_retained_messages() {
    let broker = broker().await;
    broker.publish(topic("t"), "x", QoS::AtMostOnce, true);
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let code = client.subscribe("$share/g/t", QoS::AtMostOnce).await;
    assert_eq!(code, ReasonCode::SUCCESS);
    client.expect_nothing().await;
}
