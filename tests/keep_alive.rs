//! Servers that fall silent: found dead in one and a half keep alives, whatever else they do.

use std::time::{Duration, Instant};

use paquebot::mqtt::session::CloseReason;
use paquebot::mqtt::{QoS, Topic, Version};
use paquebot::{LinkState, Publish};
use paquebot_emulator::{Ack, Target};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, disconnected, drain, fleet, group, metric, online, online_again, soon, start, url,
};
use support::mosquitto::Mosquitto;

const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// One and a half keep alives, and what a busy machine adds.
const FOUND_WITHIN: Duration = Duration::from_millis(1_500 + 700);

async fn dies(events: &mut paquebot::Events, since: Instant) {
    let reason = disconnected(events).await;
    assert_eq!(reason, CloseReason::KeepAliveTimeout);
    let elapsed = since.elapsed();
    assert!(elapsed < FOUND_WITHIN, "found after {elapsed:?}");
    assert!(elapsed >= KEEP_ALIVE, "given up after {elapsed:?}");
}

#[tokio::test]
async fn a_server_that_answers_no_ping_is_left_in_one_and_a_half_keep_alives() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(
            group(&fleet, &url(&broker), version).keep_alive(KEEP_ALIVE),
            "d1",
        );
        let withheld = broker.faults().withhold(Target::All, &[Ack::PingResp]);
        let mut events = link.events();
        online(&link).await;
        dies(&mut events, Instant::now()).await;
        withheld.lift();
        online_again(&mut events).await;
        assert!(metric(&fleet, "paquebot_disconnects_total", &["keepalive"]) >= 1.0);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_server_that_only_talks_and_does_not_listen_is_left_too() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(
        group(&fleet, &url(&broker), Version::V5).keep_alive(KEEP_ALIVE),
        "d1",
    );
    let mut talk = link.subscribe("talk", QoS::AtMostOnce).await.unwrap();
    soon("it is subscribed", talk.ready()).await.unwrap();
    online(&link).await;
    let mut events = link.events();
    let stall = broker.faults().stall_reading(Target::All);
    let since = Instant::now();
    let (talker, sender) = (broker.clone(), link.clone());
    let talking = tokio::spawn(async move {
        loop {
            talker.publish(Topic::new("talk").unwrap(), "blah", QoS::AtMostOnce, false);
            // Fits the buffers on the way, so this end sees no write fail.
            let message = Publish::new("t", "x").unwrap().with_qos(QoS::AtMostOnce);
            drop(sender.publish(message).await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let hearing = tokio::spawn(async move {
        let mut heard = 0;
        while talk.next().await.is_some() {
            heard += 1;
        }
        heard
    });
    dies(&mut events, since).await;
    talking.abort();
    stall.lift();
    online_again(&mut events).await;
    drain(&fleet).await;
    assert!(soon("the stream ends", hearing).await.unwrap() > 10);
}

#[tokio::test]
async fn a_stuck_write_does_not_hide_that_the_server_is_dead() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(
            group(&fleet, &url(&broker), version).keep_alive(KEEP_ALIVE),
            "d1",
        );
        online(&link).await;
        let mut events = link.events();
        let stall = broker.faults().stall_reading(Target::All);
        let since = Instant::now();
        // Far more than the buffers of both sockets.
        let payload = vec![0; 900_000];
        let mut receipts = Vec::new();
        for n in 0..16 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][n % 2];
            let message = Publish::new("t/big", payload.clone())
                .unwrap()
                .with_qos(qos);
            receipts.push((qos, link.publish(message).await.unwrap()));
        }
        dies(&mut events, since).await;
        assert!(metric(&fleet, "paquebot_disconnects_total", &["keepalive"]) >= 1.0);
        stall.lift();
        online_again(&mut events).await;
        for (qos, receipt) in receipts {
            let outcome = soon("it ended", receipt).await;
            assert!(
                qos == QoS::AtMostOnce || outcome.is_delivered(),
                "{outcome:?}"
            );
        }
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn an_idle_link_and_a_busy_one_stay_for_many_keep_alives() {
    let broker = broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V311).keep_alive(KEEP_ALIVE);
    let group = group.build().unwrap();
    let idle = support::fleet::start_in(&group, "idle");
    let busy = support::fleet::start_in(&group, "busy");
    online(&idle).await;
    online(&busy).await;
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < KEEP_ALIVE * 3 {
        // One way only: nothing comes back but what the keep alive asks for.
        let message = Publish::new("t", "x").unwrap().with_qos(QoS::AtMostOnce);
        let receipt = busy.publish(message).await.unwrap();
        assert!(soon("it is written", receipt).await.is_delivered());
        sent += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(sent > 10);
    assert_eq!(
        (idle.state(), busy.state()),
        (LinkState::Online, LinkState::Online)
    );
    assert_eq!(
        (broker.stats().disconnects, broker.stats().connects_accepted),
        (0, 2)
    );
    drain(&fleet).await;
}

#[tokio::test]
async fn nothing_is_lost_while_mosquitto_is_frozen() {
    let setup = || Mosquitto::setup().plain().start();
    let Some(mosquitto) = tokio::task::spawn_blocking(setup).await.unwrap() else {
        return;
    };
    let url = format!("mqtt://{}", mosquitto.plain_address());
    let fleet = fleet();
    let link = start(
        group(&fleet, &url, Version::V5).keep_alive(KEEP_ALIVE),
        "d1",
    );
    online(&link).await;
    let mut events = link.events();
    mosquitto.freeze();
    let since = Instant::now();
    let mut receipts = Vec::new();
    for n in 0..200 {
        let message = Publish::new("t", n.to_string()).unwrap();
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2];
        receipts.push(link.publish(message.with_qos(qos)).await.unwrap());
    }
    dies(&mut events, since).await;
    mosquitto.thaw();
    online_again(&mut events).await;
    for receipt in receipts {
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    drain(&fleet).await;
}
