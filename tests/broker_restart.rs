//! Restarts of a real Mosquitto under load, in order and by kill -9, with its memory and without.
//!
//! What may be asserted depends on what the broker itself promises. Stopped in order with persistence it
//! forgets nothing, so a persistent subscriber has to see everything. Whether a QoS 2 message of ours was
//! taken once shows to a subscriber at QoS 0: Mosquitto 2.0 sends again to its subscribers what they had
//! confirmed before the restart, but it hands a message on at QoS 0 each time it takes it, and only then.
//! Killed, or without persistence, it takes messages with it that it had acknowledged and not passed on: those are its loss. What
//! it had *not* acknowledged is ours: the next broker must get it. All messages of those tests are retained
//! on topics of their own, and what the next broker retains is compared with what was unacknowledged when the
//! connections to the dead one were gone.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use paquebot::mqtt::{QoS, Version};
use paquebot::{CommandReply, Events, Fleet, Link, Outcome, Publish, Receipt, Totals};

#[path = "support/support.rs"]
mod support;

use support::client::{Received, Referee, off_the_runtime, publish_soon};
use support::fleet::{
    BOTH, disconnected, drain, fleet, group, online, online_again, silent, soon, start_in, until,
};
use support::mosquitto::{Mosquitto, Persistence};

const DEVICES: usize = 20;

async fn mosquitto(persistence: Persistence) -> Option<Mosquitto> {
    let setup = Mosquitto::setup()
        .plain()
        .persistence(persistence)
        .line("queue_qos0_messages true")
        .line("max_inflight_messages 0")
        .line("max_queued_messages 0");
    off_the_runtime(|| setup.start()).await
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    InOrder,
    Killed,
}

async fn end(mut broker: Mosquitto, how: End) -> Mosquitto {
    off_the_runtime(move || {
        match how {
            End::InOrder => broker.stop(),
            End::Killed => broker.kill(),
        }
        broker
    })
    .await
}

async fn start_again(mut broker: Mosquitto) -> Mosquitto {
    off_the_runtime(move || {
        broker.restart();
        broker
    })
    .await
}

async fn links(fleet: &Fleet, broker: &Mosquitto, version: Version) -> Vec<Link> {
    let url = format!("mqtt://{}", broker.plain_address());
    let group = group(fleet, &url, version)
        .dialect(silent())
        .build()
        .unwrap();
    let links: Vec<Link> = (0..DEVICES)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    for link in &links {
        online(link).await;
    }
    links
}

/// Looks at the sums all the time, from a thread of its own.
struct Auditor {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Option<Totals>)>,
}

impl Auditor {
    fn start(fleet: &Fleet) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (fleet, stopped) = (fleet.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut looks, mut wrong) = (0, None);
            while !stopped.load(Ordering::Relaxed) {
                let totals = fleet.totals();
                looks += 1;
                if !totals.is_balanced() {
                    wrong = Some(totals);
                }
            }
            (looks, wrong)
        });
        Self { stop, thread }
    }

    async fn be_content(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, wrong) = off_the_runtime(move || self.thread.join().unwrap()).await;
        assert!(looks > 100, "looked {looks} times only");
        assert_eq!(wrong, None, "in {looks} looks");
    }
}

const QOS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Numbered series of both acknowledged qualities, one after the other.
async fn send_series(links: &[Link], numbers: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        for (device, link) in links.iter().enumerate() {
            for qos in QOS {
                let topic = format!("load/{device}/{}", qos as u8);
                let message = Publish::new(topic, n.to_string()).unwrap().with_qos(qos);
                receipts.push(soon("it is taken", link.publish(message)).await.unwrap());
            }
        }
    }
    receipts
}

fn series(received: &[Received]) -> HashMap<&str, Vec<usize>> {
    let mut series: HashMap<&str, Vec<usize>> = HashMap::new();
    for message in received {
        let n = message.text().parse().unwrap();
        series.entry(&message.topic).or_default().push(n);
    }
    series
}

/// Everything is there, and the first of each message in order.
fn judge_presence(received: &[Received], count: usize) {
    let mut series = series(received);
    for device in 0..DEVICES {
        for qos in [1, 2] {
            let numbers = series
                .remove(&*format!("load/{device}/{qos}"))
                .unwrap_or_default();
            let mut seen = HashSet::new();
            let firsts: Vec<usize> = numbers.into_iter().filter(|n| seen.insert(*n)).collect();
            assert!(
                firsts.is_sorted(),
                "QoS {qos} of device {device}: {firsts:?}"
            );
            assert_eq!(
                firsts.len(),
                count,
                "QoS {qos} of device {device}: {firsts:?}"
            );
        }
    }
}

/// What was published at QoS 2 was taken once.
fn judge_uniqueness(received: &[Received], count: usize) {
    for (topic, numbers) in series(received) {
        let mut seen = HashSet::new();
        let doubles: Vec<_> = numbers.iter().filter(|n| !seen.insert(**n)).collect();
        assert!(doubles.is_empty(), "{topic}: {doubles:?} of {count}");
    }
}

#[tokio::test]
async fn a_restart_in_order_with_persistence_loses_nothing_and_doubles_no_qos_2() {
    const COUNT: usize = 150;
    for version in BOTH {
        let Some(mut broker) = mosquitto(Persistence::On).await else {
            return;
        };
        let at_qos = async |qos, filter, name| {
            let arguments = ["-t", filter, "-q", qos, "-c", "-i", name];
            Referee::start(&broker.plain(), &arguments).await
        };
        let witness = at_qos("1", "load/#", "witness").await;
        let counter = at_qos("0", "load/+/2", "counter").await;
        let fleet = fleet();
        let links = links(&fleet, &broker, version).await;
        let auditor = Auditor::start(&fleet);
        let all = DEVICES * COUNT * 2;
        let mut seen = HashSet::new();
        let witnessed = tokio::spawn(witness.collect(move |received| {
            seen.extend(
                received
                    .last()
                    .map(|m| (m.topic.clone(), m.payload.clone())),
            );
            seen.len() >= all
        }));
        let ends: HashSet<String> = (0..DEVICES).map(|n| format!("load/{n}/2")).collect();
        let last = (COUNT - 1).to_string();
        let mut ended = HashSet::new();
        let counted = tokio::spawn(counter.collect(move |received| {
            let end = received.last().filter(|m| m.text() == last);
            ended.extend(end.map(|m| m.topic.clone()));
            ended.is_superset(&ends)
        }));
        let mut receipts = send_series(&links, 0..COUNT / 2).await;
        until("a part is delivered", || {
            fleet.totals().delivered > all as u64 / 8
        })
        .await;
        broker = end(broker, End::InOrder).await;
        receipts.extend(send_series(&links, COUNT / 2..COUNT).await);
        let broker = start_again(broker).await;
        for receipt in receipts {
            match soon("it is delivered", receipt).await {
                Outcome::Delivered {
                    session_lost: false,
                    ..
                } => {}
                other => panic!("{version}: {other:?}"),
            }
        }
        judge_presence(&witnessed.await.unwrap(), COUNT);
        judge_uniqueness(&counted.await.unwrap(), COUNT);
        auditor.be_content().await;
        let totals = drain(&fleet).await;
        assert_eq!(
            (totals.accepted, totals.delivered),
            (all as u64, all as u64)
        );
        assert!(totals.disconnects >= DEVICES as u64, "{totals:?}");
        drop(broker);
    }
}

/// Retained messages on topics of their own: the broker's memory is the referee.
async fn send_retained(links: &[Link], numbers: std::ops::Range<usize>) -> Vec<(String, Receipt)> {
    let mut sent = Vec::new();
    for n in numbers {
        for (device, link) in links.iter().enumerate() {
            for qos in QOS {
                let topic = format!("kept/{device}/{}/{n}", qos as u8);
                let message = Publish::new(topic.clone(), "x").unwrap();
                let message = message.with_qos(qos).with_retain(true);
                let receipt = soon("it is taken", link.publish(message)).await.unwrap();
                sent.push((topic, receipt));
            }
        }
    }
    sent
}

async fn what_was_not_acknowledged_reaches_the_next_broker(
    how: End,
    persistence: Persistence,
    version: Version,
) {
    const COUNT: usize = 60;
    let Some(mut broker) = mosquitto(persistence).await else {
        return;
    };
    let fleet = fleet();
    let links = links(&fleet, &broker, version).await;
    let auditor = Auditor::start(&fleet);
    let mut ours: HashSet<String> = HashSet::new();
    // Twice: the second time the links hold what they had to send again.
    for round in 0..2 {
        let first = round * COUNT * 3;
        let mut events: Vec<Events> = links.iter().map(Link::events).collect();
        let delivered = fleet.totals().delivered;
        let mut sent = send_retained(&links, first..first + COUNT).await;
        let part = (DEVICES * COUNT / 4) as u64;
        until("a part is delivered", || {
            fleet.totals().delivered > delivered + part
        })
        .await;
        if how == End::Killed {
            // What is sent now is on its way for certain when the broker dies.
            broker.freeze();
        }
        sent.extend(send_retained(&links, first + COUNT..first + COUNT * 2).await);
        broker = end(broker, how).await;
        for events in &mut events {
            disconnected(events).await;
        }
        // Once each queue has taken these it knows of every acknowledgement of the dead broker.
        let late = send_retained(&links, first + COUNT * 2..first + COUNT * 3).await;
        let accepted = ((round + 1) * DEVICES * COUNT * 3 * 2) as u64;
        until("all are accepted", || fleet.totals().accepted == accepted).await;
        let mut open = Vec::new();
        for (topic, mut receipt) in sent {
            match receipt.try_outcome() {
                None => open.push((topic, receipt)),
                Some(outcome) => assert!(outcome.is_delivered(), "{topic}: {outcome:?}"),
            }
        }
        if how == End::Killed {
            assert!(open.len() >= DEVICES, "only {} are open", open.len());
        }
        open.extend(late);
        broker = start_again(broker).await;
        // What an earlier broker kept in memory alone is gone with it.
        ours.clear();
        for (topic, receipt) in open {
            let outcome = soon("it is delivered", receipt).await;
            assert!(outcome.is_delivered(), "{topic}: {outcome:?}");
            ours.insert(topic);
        }
    }
    let referee = Referee::start(&broker.plain(), &["-t", "kept/#", "-q", "1"]).await;
    // Retained messages come first, so a live one marks their end.
    publish_soon(&broker.plain(), &["-t", "kept/end", "-m", "end", "-q", "1"]).await;
    let kept = referee
        .collect(|received| received.last().is_some_and(|m| m.topic == "kept/end"))
        .await;
    let kept: HashSet<String> = kept.into_iter().map(|message| message.topic).collect();
    let lost: Vec<&String> = ours.difference(&kept).collect();
    assert!(
        lost.is_empty(),
        "{how:?} {persistence:?} {version}: {lost:?}"
    );
    auditor.be_content().await;
    let totals = drain(&fleet).await;
    let all = (DEVICES * COUNT * 3 * 2 * 2) as u64;
    assert_eq!((totals.accepted, totals.delivered), (all, all));
}

#[tokio::test]
async fn killed_without_persistence_in_mqtt_3() {
    let version = Version::V311;
    what_was_not_acknowledged_reaches_the_next_broker(End::Killed, Persistence::Off, version).await;
}

#[tokio::test]
async fn killed_without_persistence_in_mqtt_5() {
    let version = Version::V5;
    what_was_not_acknowledged_reaches_the_next_broker(End::Killed, Persistence::Off, version).await;
}

#[tokio::test]
async fn killed_with_persistence_in_mqtt_3() {
    let version = Version::V311;
    what_was_not_acknowledged_reaches_the_next_broker(End::Killed, Persistence::On, version).await;
}

#[tokio::test]
async fn killed_with_persistence_in_mqtt_5() {
    let version = Version::V5;
    what_was_not_acknowledged_reaches_the_next_broker(End::Killed, Persistence::On, version).await;
}

#[tokio::test]
async fn stopped_without_persistence_in_mqtt_3() {
    let version = Version::V311;
    what_was_not_acknowledged_reaches_the_next_broker(End::InOrder, Persistence::Off, version)
        .await;
}

#[tokio::test]
async fn stopped_without_persistence_in_mqtt_5() {
    let version = Version::V5;
    what_was_not_acknowledged_reaches_the_next_broker(End::InOrder, Persistence::Off, version)
        .await;
}

#[tokio::test]
async fn subscriptions_are_back_before_a_link_says_online() {
    for version in BOTH {
        let Some(mut broker) = mosquitto(Persistence::Off).await else {
            return;
        };
        let fleet = fleet();
        let links = links(&fleet, &broker, version).await;
        let mut watched = Vec::new();
        for link in &links {
            let commands = link.device().commands().await.unwrap();
            soon("commands come", commands.ready()).await.unwrap();
            tokio::spawn(commands.serve(1, async |command| CommandReply::ok(command.payload)));
            watched.push(link.events());
        }
        broker = end(broker, End::Killed).await;
        for events in &mut watched {
            disconnected(events).await;
        }
        broker = start_again(broker).await;
        let mut referee =
            Referee::start(&broker.plain(), &["-t", "devices/+/replies/#", "-q", "1"]).await;
        for (n, events) in watched.iter_mut().enumerate() {
            online_again(events).await;
            // The new broker knows nobody: without the subscription this command is gone for ever.
            let topic = format!("devices/d{n}/commands/echo/r{n}");
            publish_soon(&broker.plain(), &["-t", &topic, "-m", "back", "-q", "1"]).await;
            let reply = referee.receive().await;
            assert_eq!(reply.topic, format!("devices/d{n}/replies/echo/ok/r{n}"));
        }
        drain(&fleet).await;
    }
}
