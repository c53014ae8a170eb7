//! Keep alive, in paused time.

use std::time::Duration;

use paquebot_emulator::mqtt::{QoS, ReasonCode, Version};
use tokio::time::{Instant, sleep};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dismissed_after_one_and_a_half_intervals() {
    let broker = broker().await;
    for version in BOTH {
        let mut watcher = Client::connect(&broker, "watcher", version).await;
        watcher.subscribe("gone", QoS::AtMostOnce).await;
        let mut connect = connect_packet("silent", version);
        connect.keep_alive = 4;
        connect.will = Some(will("gone", "silent", QoS::AtMostOnce));
        let (mut client, _) = Client::accepted(&broker, connect).await;
        let started = Instant::now();
        client
            .expect_dismissed(ReasonCode::KEEP_ALIVE_TIMEOUT)
            .await;
        assert_eq!(started.elapsed().as_secs(), 6);
        assert_eq!(watcher.receive_text().await, "silent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_stays() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V311);
    connect.keep_alive = 4;
    let (mut client, _) = Client::accepted(&broker, connect).await;
    for _ in 0..5 {
        sleep(Duration::from_secs(5)).await;
        client.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_keep_alive_means_no_time_limit() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    sleep(Duration::from_secs(200_000)).await;
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn the_servers_keep_alive_counts_when_it_names_one() {
    let broker = broker_with(|limits| limits.keep_alive_max = Some(2)).await;
    let (mut client, connack) = Client::accepted(&broker, connect_packet("a", Version::V5)).await;
    assert_eq!(connack.properties.server_keep_alive, Some(2));
    let started = Instant::now();
    client
        .expect_dismissed(ReasonCode::KEEP_ALIVE_TIMEOUT)
        .await;
    assert_eq!(started.elapsed().as_secs(), 3);
}
