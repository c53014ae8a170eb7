//! What is left when a fleet is gone: no thread, and no handle that hangs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, Version};
use paquebot::{
    DropReason, LinkState, Outcome, Publish, SendError, StartError, SubscribeError, Telemetry,
};

#[path = "support/support.rs"]
mod support;

use support::fleet::{LIMIT, drain, fleet, group, named_fleet, online, soon, start, start_in, url};
use support::threads::no_thread_named;

/// Every call on the handles of a link that is over gives an error, ends a stream or returns; none waits.
async fn nothing_hangs(link: paquebot::Link) {
    let message = || Publish::new("t", "come back").unwrap();
    match soon("publish returns", link.publish(message())).await {
        Err(SendError::Stopped(message)) => assert_eq!(&*message.payload, b"come back"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        link.try_publish(message()),
        Err(SendError::Stopped(_))
    ));
    let sent = soon("send returns", link.device().send(&Telemetry::new("x"))).await;
    assert!(matches!(sent, Err(SendError::Stopped(_))), "{sent:?}");
    let subscribed = soon("subscribe returns", link.subscribe("t", QoS::AtLeastOnce)).await;
    assert!(
        matches!(subscribed, Err(SubscribeError::Stopped)),
        "{subscribed:?}"
    );
    let commands = soon("commands returns", link.device().commands()).await;
    assert!(
        matches!(commands, Err(SubscribeError::Stopped)),
        "{commands:?}"
    );
    assert!(soon("online returns", link.online()).await.is_err());
    assert!(matches!(
        link.state(),
        LinkState::Stopped | LinkState::Failed
    ));
    let mut events = link.events();
    assert!(soon("events end", async { events.next().await.is_none() }).await);
    link.reconnect();
    soon("drain returns", link.drain(LIMIT)).await;
    soon("stop returns", link.stop()).await;
}

#[tokio::test]
async fn handles_used_after_the_drain_give_errors_and_never_hang() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    let mut events = link.events();
    let mut subscription = link.subscribe("t/#", QoS::AtLeastOnce).await.unwrap();
    let mut commands = link.device().commands().await.unwrap();
    online(&link).await;
    drain(&fleet).await;
    assert!(soon("the stream ends", subscription.next()).await.is_none());
    let _ = soon("ready returns", subscription.ready()).await;
    assert!(soon("the stream ends", commands.next()).await.is_none());
    let end = async { while events.next().await.is_some() {} };
    soon("the events end", end).await;
    nothing_hangs(link).await;
    let late = group.device("d2").unwrap().start();
    assert!(matches!(late, Err(StartError::Drained)), "{late:?}");
    let again = soon("a second drain returns", fleet.drain(LIMIT)).await;
    assert!(again.is_balanced());
}

#[tokio::test]
async fn a_fleet_dropped_without_a_drain_leaves_no_thread_and_no_handle_that_hangs() {
    let broker = support::fleet::broker().await;
    broker.faults().withhold(
        paquebot_emulator::Target::All,
        &[paquebot_emulator::Ack::PubAck],
    );
    let fleet = named_fleet("emb-drop");
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    let connecting = start(
        support::fleet::group(&fleet, "mqtt://127.0.0.1:9", Version::V5),
        "d2",
    );
    let mut events = link.events();
    let mut subscription = link.subscribe("t/#", QoS::AtLeastOnce).await.unwrap();
    online(&link).await;
    let inflight = link.publish(Publish::new("t", "x").unwrap()).await.unwrap();
    let waiting = connecting
        .publish(Publish::new("t", "x").unwrap())
        .await
        .unwrap();
    let mut never_online = Box::pin(connecting.online());
    assert!((&mut never_online).now_or_never().is_none());
    let draining = link.clone();
    drop((fleet, group));
    for receipt in [inflight, waiting] {
        assert_eq!(
            soon("it ends", receipt).await,
            Outcome::Dropped(DropReason::Stopped)
        );
    }
    assert!(soon("online returns", never_online).await.is_err());
    assert!(soon("the stream ends", subscription.next()).await.is_none());
    let end = async { while events.next().await.is_some() {} };
    soon("the events end", end).await;
    nothing_hangs(draining).await;
    nothing_hangs(connecting.clone()).await;
    tokio::task::spawn_blocking(|| no_thread_named("emb-drop"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_link_that_is_started_while_its_fleet_is_dropped_does_not_hang() {
    for _ in 0..20 {
        let fleet = named_fleet("emb-race");
        let link = start(group(&fleet, "mqtt://127.0.0.1:9", Version::V5), "d1");
        drop(fleet);
        assert!(soon("online returns", link.online()).await.is_err());
        nothing_hangs(link).await;
    }
    tokio::task::spawn_blocking(|| no_thread_named("emb-race"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_fleet_lives_as_long_as_its_groups_and_ends_with_the_last_handle() {
    let broker = support::fleet::broker().await;
    let fleet = named_fleet("emb-group");
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    online(&link).await;
    drop(fleet);
    let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    let late = start_in(&group, "d2");
    online(&late).await;
    drop(group);
    tokio::task::spawn_blocking(|| no_thread_named("emb-group"))
        .await
        .unwrap();
    nothing_hangs(link).await;
    nothing_hangs(late).await;
}
