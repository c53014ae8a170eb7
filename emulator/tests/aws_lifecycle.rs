//! Lifecycle events of AWS's message broker.

use paquebot_emulator::aws::{Authorizer, Aws};
use paquebot_emulator::mqtt::{Packet, Properties, QoS, Unsubscribe, Version};
use paquebot_emulator::{Target, Watch};
use serde_json::{Value, json};

use crate::support::*;

async fn aws() -> (Aws, Watch) {
    let aws = Aws::builder()
        .authorizer(Authorizer::new("everybody"))
        .start()
        .await
        .unwrap();
    let watch = aws.broker().watch(filter("$aws/events/#"));
    (aws, watch)
}

async fn next(watch: &mut Watch) -> (String, Value) {
    let message = tokio::time::timeout(PATIENCE, watch.recv())
        .await
        .unwrap()
        .unwrap();
    let body = serde_json::from_slice(&message.payload).unwrap();
    (message.topic.as_str().to_owned(), body)
}

#[tokio::test]
async fn coming_and_going_is_published() {
    let (aws, mut watch) = aws().await;
    let mut session = Value::Null;
    for version_number in 0..2 {
        let client = Client::connect(aws.broker(), "a", Version::V311).await;
        let (topic, body) = next(&mut watch).await;
        assert_eq!(topic, "$aws/events/presence/connected/a");
        assert_eq!(body["clientId"], "a");
        assert_eq!(body["eventType"], "connected");
        assert_eq!(body["principalIdentifier"], "everybody");
        assert_eq!(body["versionNumber"], version_number);
        assert!(body["timestamp"].as_u64().unwrap() > 1_700_000_000_000);
        assert_ne!(body["sessionIdentifier"], session);
        session = body["sessionIdentifier"].clone();
        client.disconnect().await;
        let (topic, body) = next(&mut watch).await;
        assert_eq!(topic, "$aws/events/presence/disconnected/a");
        assert_eq!(body["eventType"], "disconnected");
        assert_eq!(body["clientInitiatedDisconnect"], true);
        assert_eq!(body["disconnectReason"], "CLIENT_INITIATED_DISCONNECT");
        assert_eq!(body["sessionIdentifier"], session);
        assert_eq!(body["versionNumber"], version_number);
    }
}

#[tokio::test]
async fn an_end_that_the_client_did_not_want_has_its_reason() {
    let (aws, mut watch) = aws().await;
    let first = Client::connect(aws.broker(), "a", Version::V311).await;
    next(&mut watch).await;
    let second = Client::connect(aws.broker(), "a", Version::V311).await;
    let (topic, body) = next(&mut watch).await;
    assert_eq!(topic, "$aws/events/presence/disconnected/a");
    assert_eq!(body["disconnectReason"], "DUPLICATE_CLIENTID");
    assert_eq!(body["clientInitiatedDisconnect"], false);
    assert_eq!(next(&mut watch).await.0, "$aws/events/presence/connected/a");
    drop((first, second));
    assert_eq!(
        next(&mut watch).await.1["disconnectReason"],
        "CONNECTION_LOST"
    );
    let _third = Client::connect(aws.broker(), "a", Version::V311).await;
    next(&mut watch).await;
    aws.broker().faults().disconnect(&Target::All, None);
    let body = next(&mut watch).await.1;
    assert_eq!(body["disconnectReason"], "SERVER_INITIATED_DISCONNECT");
}

#[tokio::test]
async fn subscriptions_are_published_with_their_filters() {
    let (aws, mut watch) = aws().await;
    let mut client = Client::connect(aws.broker(), "a", Version::V5).await;
    next(&mut watch).await;
    client.subscribe("x/+", QoS::AtLeastOnce).await;
    let (topic, body) = next(&mut watch).await;
    assert_eq!(topic, "$aws/events/subscriptions/subscribed/a");
    assert_eq!(body["topics"], json!(["x/+"]));
    let packet_id = client.next_id();
    client
        .send(Packet::Unsubscribe(Unsubscribe {
            packet_id,
            filters: vec![filter("x/+")],
            properties: Properties::EMPTY,
        }))
        .await;
    let (topic, body) = next(&mut watch).await;
    assert_eq!(topic, "$aws/events/subscriptions/unsubscribed/a");
    assert_eq!(body["topics"], json!(["x/+"]));
    assert_eq!(body["eventType"], "unsubscribed");
}

#[tokio::test]
async fn another_client_may_listen_to_the_events() {
    let (aws, _) = aws().await;
    let mut listener = Client::connect(aws.broker(), "listener", Version::V311).await;
    listener
        .subscribe("$aws/events/presence/connected/+", QoS::AtMostOnce)
        .await;
    let _other = Client::connect(aws.broker(), "other", Version::V311).await;
    let publish = listener.receive_publish().await;
    assert_eq!(
        publish.topic.unwrap().as_str(),
        "$aws/events/presence/connected/other"
    );
}
