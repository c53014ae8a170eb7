//! The same behaviours on nats-server's MQTT listener, so that none of them is Mosquitto's alone. It speaks
//! MQTT 3.1.1 and this release of it QoS 0 and 1.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{HashMap, HashSet};

use paquebot::mqtt::session::CloseReason;
use paquebot::mqtt::{QoS, ReasonCode, Version};
use paquebot::{CommandReply, Credentials, Fleet, Link, Telemetry};

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::client::{Received, Referee, off_the_runtime, publish_soon};
use support::fleet::{
    connect_failed, disconnected, drain, fleet, group, online, online_again, soon, start_in, until,
};
use support::mosquitto::Persistence;
use support::nats::{Nats, Setup};

const DEVICES: usize = 30;

async fn nats(setup: Setup) -> Option<Nats> {
    off_the_runtime(|| setup.start()).await
}

/// So many links to the server; they are online.
async fn links(fleet: &Fleet, server: &Nats, count: usize) -> Vec<Link> {
    let url = format!("mqtt://{}", server.mqtt_address());
    let group = group(fleet, &url, Version::V311).build().unwrap();
    let links: Vec<Link> = (0..count)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    for link in &links {
        online(link).await;
    }
    links
}

/// Numbered telemetry of every device, all at QoS 1.
async fn send(links: &[Link], numbers: std::ops::Range<usize>) -> Vec<paquebot::Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        for link in links {
            let telemetry = Telemetry::new(n.to_string());
            receipts.push(
                soon("it is taken", link.device().send(&telemetry))
                    .await
                    .unwrap(),
            );
        }
    }
    receipts
}

/// Each device's numbers are complete, and the first of each in order.
fn judge(received: &[Received], count: usize) {
    let series = firsts(received);
    assert_eq!(series.len(), DEVICES);
    for (topic, firsts) in series {
        assert_eq!(firsts, (0..count).collect::<Vec<_>>(), "{topic}");
    }
}

/// The numbers that came on each topic, each where it came first.
fn firsts(received: &[Received]) -> HashMap<&str, Vec<usize>> {
    let mut series: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut seen = HashSet::new();
    for message in received {
        if seen.insert((&*message.topic, message.text())) {
            let numbers = series.entry(&message.topic).or_default();
            numbers.push(message.text().parse().unwrap());
        }
    }
    series
}

#[tokio::test]
async fn telemetry_is_delivered_over_tcp_and_tls() {
    const COUNT: usize = 10;
    let authority = Authority::new("paquebot test CA");
    for tls in [false, true] {
        let setup = if tls {
            Nats::setup().tls(&authority.server())
        } else {
            Nats::setup()
        };
        let Some(server) = nats(setup).await else {
            return;
        };
        let fleet = fleet();
        let scheme = if tls { "mqtts" } else { "mqtt" };
        let mut builder = group(
            &fleet,
            &format!("{scheme}://127.0.0.1:{}", server.mqtt_port()),
            Version::V311,
        );
        let mut endpoint = server.mqtt();
        if tls {
            builder = builder.ca_file(authority.certificate());
            endpoint = endpoint.trusting(&authority);
        }
        let group = builder.build().unwrap();
        let links: Vec<Link> = (0..DEVICES)
            .map(|n| start_in(&group, &format!("d{n}")))
            .collect();
        let referee = Referee::start(&endpoint, &["-t", "devices/+/telemetry", "-q", "1"]).await;
        for link in &links {
            online(link).await;
        }
        let collected = tokio::spawn(referee.collect(|all| all.len() >= DEVICES * COUNT));
        for receipt in send(&links, 0..COUNT).await {
            assert!(soon("it is delivered", receipt).await.is_delivered());
        }
        let received = collected.await.unwrap();
        // Nothing went wrong, so nothing comes twice.
        assert_eq!(received.len(), DEVICES * COUNT);
        judge(&received, COUNT);
        let totals = drain(&fleet).await;
        assert_eq!(totals.disconnects, 0, "{totals:?}");
    }
}

#[tokio::test]
async fn qos_0_goes_out_and_retained_messages_wait() {
    let Some(server) = nats(Nats::setup()).await else {
        return;
    };
    let fleet = fleet();
    let link = &links(&fleet, &server, 1).await[0];
    let mut live = Referee::start(&server.mqtt(), &["-t", "devices/d0/telemetry"]).await;
    let telemetry = Telemetry::new("3 bar").with_qos(QoS::AtMostOnce);
    let receipt = link.device().send(&telemetry).await.unwrap();
    assert!(soon("it is written", receipt).await.is_delivered());
    assert_eq!(live.receive().await.text(), "3 bar");
    let telemetry = Telemetry::new("4 bar").with_retain(true);
    let receipt = link.device().send(&telemetry).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    let late = Referee::start(&server.mqtt(), &["-t", "devices/d0/+", "-q", "1"]).await;
    let kept = late.collect(|all| all.len() >= 2).await;
    let kept: HashMap<_, _> = kept.iter().map(|m| (m.topic.as_str(), m.text())).collect();
    assert_eq!(kept["devices/d0/telemetry"], "4 bar");
    assert_eq!(kept["devices/d0/status"], "online");
    drain(&fleet).await;
}

#[tokio::test]
async fn commands_are_answered() {
    let Some(server) = nats(Nats::setup()).await else {
        return;
    };
    let fleet = fleet();
    let link = &links(&fleet, &server, 1).await[0];
    let commands = link.device().commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    tokio::spawn(commands.serve(2, async |command| CommandReply::ok(command.payload)));
    let mut referee =
        Referee::start(&server.mqtt(), &["-t", "devices/d0/replies/#", "-q", "1"]).await;
    for qos in ["0", "1"] {
        let topic = format!("devices/d0/commands/echo/r{qos}");
        publish_soon(&server.mqtt(), &["-t", &topic, "-m", "hello", "-q", qos]).await;
        let reply = referee.receive().await;
        assert_eq!(reply.topic, format!("devices/d0/replies/echo/ok/r{qos}"));
        assert_eq!(reply.text(), "hello");
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_its_code() {
    let Some(server) = nats(Nats::setup().user("pilot", "chart")).await else {
        return;
    };
    let fleet = fleet();
    let url = format!("mqtt://{}", server.mqtt_address());
    let group = |password: &str| {
        let builder = group(&fleet, &url, Version::V311);
        builder
            .credentials(Credentials::password("pilot", password))
            .build()
            .unwrap()
    };
    let (_bad, mut events) = group("rum")
        .device("bad")
        .unwrap()
        .start_with_events()
        .unwrap();
    let reason = disconnected(&mut events).await;
    assert!(
        matches!(
            reason,
            CloseReason::Refused {
                code: ReasonCode::NOT_AUTHORIZED,
                ..
            }
        ),
        "{reason:?}"
    );
    online(&start_in(&group("chart"), "good")).await;
    soon(
        "the fleet is drained",
        fleet.drain(std::time::Duration::ZERO),
    )
    .await;
}

/// It writes what it takes before it acknowledges, so nothing may be missing.
/// nats-server acknowledges a message before it is on its way to the disk, so that its kill may lose what it
/// acknowledged: that is its own. All else has to come.
#[tokio::test]
async fn a_kill_under_load_loses_nothing_that_was_not_acknowledged() {
    const COUNT: usize = 40;
    let Some(mut server) = nats(Nats::setup().persistence(Persistence::On)).await else {
        return;
    };
    let arguments = [
        "-t",
        "devices/+/telemetry",
        "-q",
        "1",
        "-c",
        "-i",
        "referee",
    ];
    let referee = Referee::start(&server.mqtt(), &arguments).await;
    let fleet = fleet();
    let links = links(&fleet, &server, DEVICES).await;
    let mut watched: Vec<_> = links.iter().map(Link::events).collect();
    let receipts = send(&links, 0..COUNT / 2).await;
    let part = (DEVICES * 5) as u64;
    until("a part is delivered", || fleet.totals().delivered > part).await;
    server = off_the_runtime(move || {
        server.kill();
        server
    })
    .await;
    for events in &mut watched {
        disconnected(events).await;
    }
    // By the next attempt a link has told of every acknowledgement that it read before.
    for events in &mut watched {
        connect_failed(events).await;
    }
    let mut awaited = HashSet::new();
    let mut open = Vec::new();
    for (place, mut receipt) in receipts.into_iter().enumerate() {
        match receipt.try_outcome() {
            Some(outcome) => assert!(outcome.is_delivered()),
            None => {
                awaited.insert((place % DEVICES, place / DEVICES));
                open.push(receipt);
            }
        }
    }
    open.extend(send(&links, COUNT / 2..COUNT).await);
    awaited.extend((COUNT / 2..COUNT).flat_map(|n| (0..DEVICES).map(move |d| (d, n))));

    let mut missing: HashSet<_> = awaited
        .iter()
        .map(|(device, n)| (format!("devices/d{device}/telemetry"), n.to_string()))
        .collect();
    let collected = tokio::spawn(referee.collect(move |all| {
        for message in all {
            missing.remove(&(message.topic.clone(), message.text().to_owned()));
        }
        missing.is_empty()
    }));
    server = restarted(server).await;
    for events in &mut watched {
        online_again(events).await;
    }
    for receipt in open {
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    for (topic, firsts) in firsts(&collected.await.unwrap()) {
        assert!(firsts.is_sorted(), "{topic}: {firsts:?}");
    }
    let totals = drain(&fleet).await;
    assert_eq!(totals.accepted, totals.delivered);
    assert!(totals.reconnects >= DEVICES as u64, "{totals:?}");
    drop(server);
}

/// While this release stops in order it acknowledges what it no longer stores for subscribers that are away,
/// so the judge is the next server: what was published while none was there is retained on topics of its own.
#[tokio::test]
async fn what_is_published_while_the_server_restarts_in_order_reaches_it_afterwards() {
    const COUNT: usize = 15;
    let Some(mut server) = nats(Nats::setup().persistence(Persistence::On)).await else {
        return;
    };
    let fleet = fleet();
    let links = links(&fleet, &server, DEVICES).await;
    let mut watched: Vec<_> = links.iter().map(Link::events).collect();
    let mut receipts = send(&links, 0..COUNT).await;
    server = off_the_runtime(move || {
        server.stop();
        server
    })
    .await;
    for events in &mut watched {
        disconnected(events).await;
    }
    for n in 0..COUNT {
        for link in &links {
            let telemetry = Telemetry::new("x")
                .with_channel(n.to_string())
                .with_retain(true);
            receipts.push(
                soon("it is taken", link.device().send(&telemetry))
                    .await
                    .unwrap(),
            );
        }
    }
    server = restarted(server).await;
    for receipt in receipts {
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    let arguments = ["-t", "devices/+/telemetry/+", "-q", "1"];
    let referee = Referee::start(&server.mqtt(), &arguments).await;
    let kept = referee.collect(|all| all.len() >= DEVICES * COUNT).await;
    let kept: HashSet<String> = kept.into_iter().map(|message| message.topic).collect();
    assert_eq!(kept.len(), DEVICES * COUNT);
    let totals = drain(&fleet).await;
    assert_eq!(totals.accepted, totals.delivered);
}

async fn restarted(mut server: Nats) -> Nats {
    off_the_runtime(move || {
        server.restart();
        server
    })
    .await
}

#[tokio::test]
async fn a_server_that_forgot_everything_gets_the_subscriptions_again() {
    let Some(mut server) = nats(Nats::setup()).await else {
        return;
    };
    let fleet = fleet();
    let link = &links(&fleet, &server, 1).await[0];
    let mut subscription = link.subscribe("news/#", QoS::AtLeastOnce).await.unwrap();
    soon("it is subscribed", subscription.ready())
        .await
        .unwrap();
    let mut events = link.events();
    server = restarted(server).await;
    online_again(&mut events).await;
    publish_soon(
        &server.mqtt(),
        &["-t", "news/today", "-m", "back", "-q", "1"],
    )
    .await;
    let message = soon("it comes", subscription.next()).await.unwrap();
    assert_eq!(&**message.payload(), b"back");
    drop(message);
    drain(&fleet).await;
}
