//! Subscriptions as desired state: what consumers come and go, the server has what they need.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use paquebot::mqtt::{QoS, Subscription, Topic, TopicFilter, Version};
use paquebot::{DeviceId, Link, SubscribeError};
use paquebot_emulator::{AccessTable, Broker};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, broker_with, drain, fleet, group, online, online_again, soon, start, until, url,
};

async fn subscribed(link: &Link, filter: &str) -> paquebot::Subscription {
    let subscription = link.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    soon("it is subscribed", subscription.ready())
        .await
        .unwrap();
    subscription
}

fn filters(broker: &Broker) -> Vec<String> {
    let client = broker.client("d1").unwrap();
    let mut filters: Vec<String> = client.subscriptions.into_iter().map(|(f, _)| f).collect();
    filters.sort();
    filters
}

async fn arrives(broker: &Broker, subscription: &mut paquebot::Subscription, topic: &str) {
    let topic = Topic::new(topic.to_owned()).unwrap();
    broker.publish(topic.clone(), "x", QoS::AtLeastOnce, false);
    let message = soon("it comes", subscription.next()).await.unwrap();
    assert_eq!(*message.topic(), topic);
}

#[tokio::test]
async fn a_filter_that_is_dropped_and_subscribed_again_at_once_stays_subscribed() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        online(&link).await;
        for _ in 0..50 {
            let first = subscribed(&link, "t").await;
            drop(first);
            let mut second = subscribed(&link, "t").await;
            arrives(&broker, &mut second, "t").await;
        }
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_filter_stays_as_long_as_one_consumer_has_it_and_no_longer() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let first = subscribed(&link, "t").await;
    let mut second = subscribed(&link, "t").await;
    drop(first);
    arrives(&broker, &mut second, "t").await;
    drop(second);
    until("the server has none", || filters(&broker).is_empty()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn two_consumers_of_one_filter_get_the_higher_quality_of_service_that_either_asked_for() {
    for version in BOTH {
        for qualities in [
            [QoS::ExactlyOnce, QoS::AtMostOnce],
            [QoS::AtMostOnce, QoS::ExactlyOnce],
        ] {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let [first, second] = qualities;
            let mut first = link.subscribe("t", first).await.unwrap();
            soon("it is subscribed", first.ready()).await.unwrap();
            let mut second = link.subscribe("t", second).await.unwrap();
            soon("it is subscribed", second.ready()).await.unwrap();
            until("the server grants the higher one", || {
                let client = broker.client("d1").unwrap();
                client
                    .subscriptions
                    .iter()
                    .all(|(_, qos)| *qos == QoS::ExactlyOnce)
            })
            .await;
            let topic = Topic::from_static("t").unwrap();
            broker.publish(topic, "x", QoS::ExactlyOnce, false);
            for subscription in [&mut first, &mut second] {
                let message = soon("it comes", subscription.next()).await.unwrap();
                assert_eq!(message.qos(), QoS::ExactlyOnce, "{version}");
            }
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_device_has_one_consumer_of_its_commands_at_a_time() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    for _ in 0..10 {
        let first = link.device().commands().await.unwrap();
        let refused = link.device().commands().await;
        let device = link.id().clone();
        assert_eq!(
            refused.map(|_| ()).unwrap_err(),
            SubscribeError::CommandsTaken { device }
        );
        let child = link.child(DeviceId::new("d2").unwrap());
        drop(child.commands().await.unwrap());
        drop(first);
    }
    // A refusal takes nothing from the one who has them.
    let commands = link.device().commands().await.unwrap();
    assert!(link.device().commands().await.is_err());
    soon("it is subscribed", commands.ready()).await.unwrap();
    drain(&fleet).await;
}

#[tokio::test]
async fn a_subscription_that_is_one_too_many_leaves_those_of_others_alone() {
    let broker = broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).subscriptions_max(2);
    let link = start(builder, "d1");
    let mut first = subscribed(&link, "a").await;
    let wanted = ["a", "b", "c"]
        .map(|filter| Subscription::new(TopicFilter::new(filter).unwrap(), QoS::AtLeastOnce));
    let refused = link.subscribe_all(wanted.to_vec(), None).await;
    assert!(
        matches!(refused, Err(SubscribeError::TooMany)),
        "{refused:?}"
    );
    until("what was taken of it is given back", || {
        filters(&broker) == ["a"]
    })
    .await;
    arrives(&broker, &mut first, "a").await;
    drain(&fleet).await;
}

#[tokio::test]
async fn what_changes_while_the_link_is_away_is_made_good_before_it_is_online() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let kept = subscribed(&link, "kept/#").await;
        let dropped = subscribed(&link, "dropped").await;
        let mut events = link.events();
        let down = std::time::Duration::from_millis(100);
        broker.faults().restart_keeping_sessions(down);
        drop(dropped);
        let added = link.subscribe("added/+", QoS::ExactlyOnce).await.unwrap();
        online_again(&mut events).await;
        // The link says online no sooner than the server has confirmed them.
        assert!(filters(&broker).starts_with(&["added/+".to_owned()]));
        until("the server has what is wanted", || {
            filters(&broker) == ["added/+", "kept/#"]
        })
        .await;
        drop((kept, added));
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_server_that_lost_the_session_has_every_filter_again_before_the_link_is_online() {
    const COUNT: usize = 250;
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let mut subscriptions = Vec::new();
        for n in 0..COUNT {
            let filter = format!("t/{n}");
            subscriptions.push(link.subscribe(&filter, QoS::AtLeastOnce).await.unwrap());
        }
        for subscription in &subscriptions {
            soon("it is subscribed", subscription.ready())
                .await
                .unwrap();
        }
        let mut events = link.events();
        broker
            .faults()
            .restart_losing_sessions(std::time::Duration::ZERO);
        online_again(&mut events).await;
        assert_eq!(filters(&broker).len(), COUNT);
        arrives(
            &broker,
            &mut subscriptions[COUNT - 1],
            &format!("t/{}", COUNT - 1),
        )
        .await;
        drop(subscriptions);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_filter_that_the_server_refuses_is_told_to_its_consumer_and_harms_no_other() {
    for version in BOTH {
        let denied = TopicFilter::new("secret/#").unwrap();
        let table = AccessTable::new().allow_anonymous().deny_subscribe(denied);
        let broker = broker_with(table).await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let mut open = subscribed(&link, "open").await;
        let secret = link.subscribe("secret/x", QoS::AtLeastOnce).await.unwrap();
        let refused = soon("it is answered", secret.ready()).await;
        assert!(
            matches!(&refused, Err(SubscribeError::Refused { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().to_string().contains("access rules"));
        arrives(&broker, &mut open, "open").await;
        drain(&fleet).await;
    }
}
