//! Wills.

use std::time::Duration;

use paquebot_emulator::mqtt::{Connect, Disconnect, Packet, QoS, ReasonCode, Version};
use tokio::time::{Instant, sleep};

use crate::support::*;

fn with_will(mut connect: Connect) -> Connect {
    connect.will = Some(will("will", "gone", QoS::AtLeastOnce));
    connect
}

fn with_delayed_will(session_seconds: u32, delay_seconds: u32) -> Connect {
    let mut connect = with_will(lasting("a", Version::V5));
    connect.properties.edit().session_expiry_interval = Some(session_seconds);
    if let Some(will) = &mut connect.will {
        will.properties.edit().will_delay_interval = Some(delay_seconds);
    }
    connect
}

#[tokio::test]
async fn a_lost_connection_publishes_the_will_and_a_disconnect_does_not() {
    let broker = broker().await;
    for version in BOTH {
        let mut watcher = Client::connect(&broker, "watcher", version).await;
        watcher.subscribe("will", QoS::AtMostOnce).await;
        let (client, _) = Client::accepted(&broker, with_will(connect_packet("a", version))).await;
        client.disconnect().await;
        connected(&broker, 1).await;
        watcher.expect_nothing().await;
        let (client, _) = Client::accepted(&broker, with_will(connect_packet("a", version))).await;
        drop(client);
        assert_eq!(watcher.receive_text().await, "gone");
    }
}

#[tokio::test]
async fn a_disconnect_can_ask_for_the_will() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V311).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let connect = with_will(connect_packet("a", Version::V5));
    let (mut client, _) = Client::accepted(&broker, connect).await;
    let disconnect = Disconnect {
        reason_code: ReasonCode::DISCONNECT_WITH_WILL,
        ..Disconnect::default()
    };
    client.send(Packet::Disconnect(disconnect)).await;
    assert_eq!(watcher.receive_text().await, "gone");
}

#[tokio::test]
async fn a_violation_publishes_the_will() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V311).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let connect = with_will(connect_packet("a", Version::V311));
    let (mut client, _) = Client::accepted(&broker, connect).await;
    client.send_bytes(&[0x00, 0x00]).await;
    client.expect_closed().await;
    assert_eq!(watcher.receive_text().await, "gone");
}

#[tokio::test]
async fn a_will_can_be_retained() {
    let broker = broker().await;
    let mut connect = with_will(connect_packet("a", Version::V311));
    if let Some(will) = &mut connect.will {
        will.retain = true;
    }
    let (client, _) = Client::accepted(&broker, connect).await;
    drop(client);
    connected(&broker, 0).await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V311).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let message = watcher.receive_publish().await;
    assert!(message.retain && message.payload == "gone");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_waits() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V5).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let (client, _) = Client::accepted(&broker, with_delayed_will(60, 8)).await;
    let started = Instant::now();
    drop(client);
    let message = watcher.receive_publish().await;
    assert_eq!(started.elapsed().as_secs(), 8);
    assert_eq!(message.properties.will_delay_interval, None);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_session_cuts_the_delay_short() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V5).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let (client, _) = Client::accepted(&broker, with_delayed_will(5, 60)).await;
    let started = Instant::now();
    drop(client);
    assert_eq!(watcher.receive_text().await, "gone");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_returns_in_time_takes_its_will_back() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V5).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let (client, _) = Client::accepted(&broker, with_delayed_will(60, 8)).await;
    drop(client);
    sleep(Duration::from_secs(7)).await;
    let (client, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    sleep(Duration::from_secs(30)).await;
    watcher.expect_nothing().await;
    client.disconnect().await;
    watcher.expect_nothing().await;
}

#[tokio::test]
async fn a_take_over_publishes_a_will_without_delay() {
    let broker = broker().await;
    let mut watcher = Client::connect(&broker, "watcher", Version::V5).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let (_old, _) = Client::accepted(&broker, with_will(lasting("a", Version::V5))).await;
    let (_new, _) = Client::accepted(&broker, lasting("a", Version::V5)).await;
    assert_eq!(watcher.receive_text().await, "gone");
    watcher.expect_nothing().await;
}
