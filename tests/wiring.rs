//! What passes between a link's actors when connections end and consumers come and go: nothing is
//! reordered, nothing reaches the wrong connection, no message is stuck behind another.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use paquebot::mqtt::{Packet, QoS, Subscription, Topic, TopicFilter, Version};
use paquebot::{
    Fleet, GroupBuilder, Outcome, Overflow, PipeConnector, Publish, ReplyError, SendError,
    Telemetry,
};
use paquebot_emulator::{Ack, Target};
use tokio::io::{AsyncWriteExt as _, DuplexStream};

#[path = "support/peer.rs"]
mod peer;
#[path = "support/support.rs"]
mod support;

use peer::Peer;
use support::fleet::{broker, drain, fleet, group, online, quick, silent, soon, start, until, url};

/// CONNACK of MQTT 3.1.1: accepted, no session present.
const CONNACK: [u8; 4] = [0x20, 0x02, 0x00, 0x00];

/// A pipe whose far ends a test plays itself, one for each connect attempt; none left: no connection.
fn scripted(ends: Vec<DuplexStream>) -> PipeConnector {
    let ends = Mutex::new(VecDeque::from(ends));
    Arc::new(move || {
        let next = ends.lock().unwrap().pop_front();
        next.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    })
}

fn scripted_group(fleet: &Fleet, ends: Vec<DuplexStream>) -> GroupBuilder {
    fleet
        .group("test")
        .pipe(scripted(ends))
        .backoff(quick())
        .dialect(silent())
}

/// Writes what fits into a pipe without waiting.
fn write_now(end: &mut DuplexStream, bytes: &[u8]) {
    end.write_all(bytes).now_or_never().unwrap().unwrap();
}

#[tokio::test]
async fn messages_that_a_lost_connection_gives_back_keep_their_order() {
    const COUNT: usize = 1000;
    let (mut lost, lost_end) = tokio::io::duplex(1024);
    let (served, served_end) = tokio::io::duplex(1 << 16);
    // Accepted and gone at once: the queue hands its batches to a session that is offline again.
    write_now(&mut lost, &CONNACK);
    drop(lost);
    let opened = Arc::new(tokio::sync::Semaphore::new(0));
    let ends = Mutex::new(VecDeque::from([lost_end, served_end]));
    let gate = Arc::clone(&opened);
    let connector: PipeConnector = Arc::new(move || {
        if gate.available_permits() == 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let next = ends.lock().unwrap().pop_front();
        next.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    });
    let fleet = fleet();
    let builder = fleet
        .group("test")
        .pipe(connector)
        .backoff(quick())
        .dialect(silent());
    let link = start(builder, "d1");
    for n in 0..COUNT {
        let message = Publish::on(Topic::new("t").unwrap(), n.to_string());
        drop(link.publish(message).await.unwrap());
    }
    until("the queue holds all", || {
        fleet.totals().accepted == COUNT as u64
    })
    .await;
    opened.add_permits(1);
    let mut peer = Peer::new(served);
    let mut seen = Vec::new();
    while seen.len() < COUNT {
        match peer.next().await {
            Packet::Connect(_) => peer.write(&CONNACK).await,
            Packet::Publish(publish) => {
                let text = std::str::from_utf8(&publish.payload).unwrap();
                seen.push(text.parse::<usize>().unwrap());
                let id = publish.packet_id.unwrap().value().to_be_bytes();
                peer.write(&[0x40, 0x02, id[0], id[1]]).await;
            }
            other => panic!("{other:?}"),
        }
    }
    let first = seen.iter().enumerate().find(|(at, n)| at != *n);
    assert_eq!(first, None, "(place, message)");
    drop(peer);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn bytes_of_a_connection_that_was_left_do_not_reach_the_next_one() {
    let (mut left, left_end) = tokio::io::duplex(1 << 18);
    let (served, served_end) = tokio::io::duplex(1 << 16);
    // The first read ends in something that is no packet, the second in half of one.
    let mut bytes = CONNACK.to_vec();
    bytes.resize(64 * 1024, 0);
    bytes.extend([0x30, 0xc0, 0x9a, 0x0c]); // PUBLISH of 200,000 bytes
    bytes.resize(80 * 1024, b'x');
    write_now(&mut left, &bytes);
    let fleet = fleet();
    let link = start(scripted_group(&fleet, vec![left_end, served_end]), "d1");
    let mut peer = Peer::new(served);
    assert!(matches!(peer.next().await, Packet::Connect(_)));
    peer.write(&CONNACK).await;
    online(&link).await;
    drop(left);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_message_that_nobody_wants_does_not_hold_back_acknowledgements_for_ever() {
    let (served, end) = tokio::io::duplex(1 << 16);
    let fleet = fleet();
    let link = start(scripted_group(&fleet, vec![end]), "d1");
    let mut peer = Peer::new(served);
    assert!(matches!(peer.next().await, Packet::Connect(_)));
    peer.write(&CONNACK).await;
    let mut inbox = link.subscribe("a", QoS::AtLeastOnce).await.unwrap();
    let Packet::Subscribe(subscribe) = peer.next().await else {
        panic!("no SUBSCRIBE");
    };
    let id = subscribe.packet_id.value().to_be_bytes();
    peer.write(&[0x90, 0x03, id[0], id[1], 0x01]).await;
    // QoS 1 on a topic of a session's old life, then on one that is wanted.
    peer.write(&[0x32, 0x06, 0x00, 0x01, b'z', 0x00, 0x01, b'!'])
        .await;
    peer.write(&[0x32, 0x06, 0x00, 0x01, b'a', 0x00, 0x02, b'!'])
        .await;
    let message = soon("the message comes", inbox.next()).await.unwrap();
    assert_eq!(message.topic().as_str(), "a");
    drop(message);
    for expected in 1..=2 {
        let Packet::PubAck(ack) = peer.next().await else {
            panic!("no PUBACK");
        };
        assert_eq!(ack.packet_id.value(), expected);
    }
    drop(peer);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_server_that_sends_and_does_not_read_is_not_heard_without_end() {
    // Each PUBREL of an unknown exchange is answered with a PUBCOMP of the same size.
    const FLOOD: usize = 32 * 1024 * 1024;
    let (mut served, end) = tokio::io::duplex(1 << 18);
    let fleet = fleet();
    let builder = scripted_group(&fleet, vec![end]).keep_alive(Duration::ZERO);
    let link = start(builder, "d1");
    write_now(&mut served, &CONNACK);
    online(&link).await;
    let releases = [0x62, 0x02, 0x00, 0x01].repeat(16 * 1024);
    let mut sent = 0;
    let patience = Duration::from_secs(1);
    while sent < FLOOD
        && tokio::time::timeout(patience, served.write_all(&releases))
            .await
            .is_ok()
    {
        sent += releases.len();
    }
    assert!(sent < FLOOD, "{sent} bytes were read and none written");
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_message_that_expires_early_does_not_wait_for_one_that_expires_late() {
    let fleet = fleet();
    let link = start(scripted_group(&fleet, Vec::new()), "d1");
    let message = || Publish::on(Topic::new("t").unwrap(), "x");
    let late = message().with_time_to_live(Duration::from_secs(3600));
    let _late = link.publish(late).await.unwrap();
    until("the late one is held", || fleet.totals().accepted == 1).await;
    let early = message().with_time_to_live(Duration::from_millis(50));
    let early = link.publish(early).await.unwrap();
    assert_eq!(soon("it expires", early).await, Outcome::Expired);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_filter_that_is_dropped_and_wanted_again_at_once_stays_in_force() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V311), "d1");
    let mut inbox = link.subscribe("t", QoS::AtLeastOnce).await.unwrap();
    for n in 0..100 {
        soon("the server answers", inbox.ready()).await.unwrap();
        broker.publish(
            Topic::new("t").unwrap(),
            n.to_string(),
            QoS::AtLeastOnce,
            false,
        );
        assert!(soon("a message comes", inbox.next()).await.is_some());
        drop(inbox);
        inbox = link.subscribe("t", QoS::AtLeastOnce).await.unwrap();
    }
    drain(&fleet).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_filter_that_is_named_twice_or_not_at_all_is_answered() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let twice = Subscription::new(TopicFilter::new("t").unwrap(), QoS::AtLeastOnce);
    let inbox = link
        .subscribe_all(vec![twice.clone(), twice], None)
        .await
        .unwrap();
    let granted = soon("the server answers", inbox.ready()).await;
    assert_eq!(granted, Ok(QoS::AtLeastOnce));
    let none = link.subscribe_all(Vec::new(), None).await.unwrap();
    assert!(soon("nothing is waited for", none.ready()).await.is_ok());
    drain(&fleet).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_command_that_is_only_looked_at_is_not_answered() {
    let broker = broker().await;
    let fleet = fleet();
    let timeout = Duration::from_millis(100);
    let builder = group(&fleet, &url(&broker), Version::V5).command_timeout(timeout);
    let link = start(builder, "watcher");
    let mut inbox = link.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    soon("the server answers", inbox.ready()).await.unwrap();
    let mut replies = broker.watch(TopicFilter::new("devices/+/replies/#").unwrap());
    let topic = Topic::new("devices/d1/commands/reboot/1").unwrap();
    broker.publish(topic, "", QoS::AtLeastOnce, false);
    while let Some(message) = soon("the command comes", inbox.next()).await {
        if message.topic().as_str().contains("/commands/") {
            break;
        }
    }
    // Longer than the deadline of a command that was handed out.
    tokio::time::sleep(timeout * 5).await;
    assert!(replies.try_recv().is_none());
    assert_eq!(fleet.totals().commands_answered, 0);
    drain(&fleet).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_command_whose_answer_found_no_room_is_answered_by_its_deadline() {
    let broker = broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5)
        .dialect(silent())
        .command_timeout(Duration::from_millis(300))
        .overflow(Overflow::Reject)
        .queue_messages_max(1);
    let link = start(builder, "d1");
    let mut commands = link.device().commands().await.unwrap();
    soon("the server answers", commands.ready()).await.unwrap();
    let mut replies = broker.watch(TopicFilter::new("devices/d1/replies/#").unwrap());
    let fault = broker
        .faults()
        .withhold(Target::client("d1"), &[Ack::PubAck]);
    let held = link.device().send(&Telemetry::new("x")).await.unwrap();
    let topic = Topic::new("devices/d1/commands/reboot/1").unwrap();
    broker.publish(topic, "", QoS::AtLeastOnce, false);
    let command = soon("the command comes", commands.next()).await.unwrap();
    let answered = command.reply(paquebot::CommandReply::ok("")).await;
    assert!(
        matches!(answered, Err(ReplyError::Send(SendError::Full(_)))),
        "{answered:?}"
    );
    fault.lift();
    assert!(soon("there is room", held).await.is_delivered());
    let reply = soon("the command is answered", replies.recv())
        .await
        .unwrap();
    assert!(
        reply
            .topic
            .as_str()
            .starts_with("devices/d1/replies/reboot/")
    );
    drain(&fleet).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_stopped_link_does_not_stay_announced_as_online() {
    for version in support::fleet::BOTH {
        let broker = broker().await;
        let mut status = broker.watch(TopicFilter::new("devices/d1/status").unwrap());
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        online(&link).await;
        let seen = soon("the link says it", status.recv()).await.unwrap();
        assert_eq!(&*seen.payload, b"online");
        soon("the link stops", link.stop()).await;
        let seen = soon("the will is published", status.recv()).await.unwrap();
        assert_eq!(&*seen.payload, b"offline");
        drain(&fleet).await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_connection_that_comes_and_goes_piled_up_announcements_of_the_link() {
    let broker = broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5).backoff(quick());
    let group = group.dialect(paquebot::dialect::Plain::default());
    let (link, mut events) = group
        .build()
        .unwrap()
        .device("d1")
        .unwrap()
        .start_with_events()
        .unwrap();
    let unanswered = broker.faults().withhold(Target::All, &[Ack::PubAck]);
    for _ in 0..5 {
        support::fleet::online_again(&mut events).await;
        until("it is announced", || fleet.totals().held > 0).await;
        assert_eq!(fleet.totals().held, 1);
        broker.faults().disconnect(&Target::All, None);
        support::fleet::disconnected(&mut events).await;
    }
    unanswered.lift();
    until("the announcement is delivered", || fleet.totals().held == 0).await;
    assert_eq!(fleet.totals().accepted, 1);
    drop(link);
    drain(&fleet).await;
}
