//! Commands over the end of a process: started at most once, always answered.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, Topic, TopicFilter, Version};
use paquebot::{CommandReply, Commands, Durability, Fleet, Link, Overflow, Publish};
use paquebot_emulator::{Broker, Target, Watch};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, Gangway, broker, connect_failed, drain, fleet_on, killed, metric, online, soon, start,
    until,
};

fn link_on(fleet: &Fleet, gangway: &Gangway, version: Version) -> Link {
    gangway.open();
    let builder = gangway.group(fleet, version);
    start(builder.durability(Durability::Process), "d1")
}

fn ask(broker: &Broker, request: &str) {
    let topic = Topic::new(format!("devices/d1/commands/reboot/{request}")).unwrap();
    broker.publish(topic, "now", QoS::AtLeastOnce, false);
}

/// What the server gets of the device's answers.
fn answers(broker: &Broker) -> Watch {
    broker.watch(TopicFilter::new("devices/d1/replies/#").unwrap())
}

/// The link's commands, once the server sends them.
async fn listen(link: &Link) -> Commands {
    let commands = link.device().commands().await.unwrap();
    soon("it listens", commands.ready()).await.unwrap();
    commands
}

/// The network goes away.
fn cut_off(broker: &Broker, gangway: &Gangway) {
    gangway.shut();
    broker.faults().disconnect(&Target::client("d1"), None);
}

async fn answer(watch: &mut Watch) -> String {
    let answer = soon("an answer comes", watch.recv()).await.unwrap();
    answer.topic.as_str().to_owned()
}

/// Nothing but a new command comes, and it is answered.
async fn the_next_one_comes(
    broker: &Broker,
    commands: &mut Commands,
    answers: &mut Watch,
    request: &str,
) {
    ask(broker, request);
    let command = soon("the new command comes", commands.next())
        .await
        .unwrap();
    assert_eq!(&*command.command().reply_to.request, request);
    drop(command.reply(CommandReply::ok("")).await.unwrap());
    let expected = format!("devices/d1/replies/reboot/ok/{request}");
    assert_eq!(answer(answers).await, expected);
}

#[tokio::test]
async fn a_command_that_a_killed_process_had_started_is_answered_as_interrupted_and_not_started_again()
 {
    for version in BOTH {
        let store = tempfile::tempdir().unwrap();
        let broker = broker().await;
        let mut answers = answers(&broker);
        let fleet = fleet_on(store.path());
        let gangway = Gangway::new(&broker);
        let link = link_on(&fleet, &gangway, version);
        let mut commands = listen(&link).await;
        ask(&broker, "r1");
        let started = soon("a command comes", commands.next()).await.unwrap();
        let left = killed(store.path()).unwrap();
        cut_off(&broker, &gangway);

        let next = fleet_on(left.path());
        let link = link_on(&next, &Gangway::new(&broker), version);
        let mut again = link.device().commands().await.unwrap();
        online(&link).await;
        assert_eq!(
            answer(&mut answers).await,
            "devices/d1/replies/reboot/interrupted/r1"
        );
        // The server delivers r1 again, marked as a redelivery, and then something new.
        the_next_one_comes(&broker, &mut again, &mut answers, "r2").await;
        drain(&next).await;
        assert!(answers.try_recv().is_none());
        drop(started);
        soon("the first fleet stops", fleet.drain(Duration::ZERO)).await;
    }
}

#[tokio::test]
async fn a_command_that_was_answered_before_the_process_was_killed_is_not_started_again() {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let mut answers = answers(&broker);
    let fleet = fleet_on(store.path());
    let gangway = Gangway::new(&broker);
    let link = link_on(&fleet, &gangway, Version::V5);
    let mut commands = listen(&link).await;
    // The server does not hear that the command arrived, and delivers it again.
    broker.faults().stall_reading(Target::client("d1"));
    ask(&broker, "r1");
    let command = soon("a command comes", commands.next()).await.unwrap();
    drop(command.reply(CommandReply::ok("")).await.unwrap());
    until("the answer is recorded", || fleet.totals().accepted == 1).await;
    let left = killed(store.path()).unwrap();
    cut_off(&broker, &gangway);
    broker.faults().clear();

    let next = fleet_on(left.path());
    let link = link_on(&next, &Gangway::new(&broker), Version::V5);
    let mut again = link.device().commands().await.unwrap();
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/ok/r1"
    );
    the_next_one_comes(&broker, &mut again, &mut answers, "r2").await;
    drain(&next).await;
    assert!(answers.try_recv().is_none());
    soon("the first fleet stops", fleet.drain(Duration::ZERO)).await;
}

#[tokio::test]
async fn a_command_that_its_sender_repeats_is_started_once_and_answered_again_with_and_without_a_store()
 {
    for (version, durability) in BOTH.into_iter().flat_map(|version| {
        [Durability::Memory, Durability::Process].map(|durability| (version, durability))
    }) {
        let store = tempfile::tempdir().unwrap();
        let broker = broker().await;
        let mut answers = answers(&broker);
        let fleet = fleet_on(store.path());
        let gangway = Gangway::new(&broker);
        gangway.open();
        let link = start(gangway.group(&fleet, version).durability(durability), "d1");
        let mut commands = listen(&link).await;
        // Once while it is open, and once when it was answered; no server marks either.
        ask(&broker, "r1");
        ask(&broker, "r1");
        let command = soon("a command comes", commands.next()).await.unwrap();
        drop(command.reply(CommandReply::ok("done")).await.unwrap());
        ask(&broker, "r1");
        let topic = Topic::new("devices/d1/commands/reboot/r1").unwrap();
        broker.publish(topic, "later", QoS::AtLeastOnce, false);
        let other = soon("another command comes", commands.next())
            .await
            .unwrap();
        assert_eq!(&other.command().payload[..], b"later");
        drop(other.reply(CommandReply::failed("")).await.unwrap());
        for (status, payload) in [("ok", "done"), ("ok", "done"), ("failed", "")] {
            let answer = soon("an answer comes", answers.recv()).await.unwrap();
            let expected = format!("devices/d1/replies/reboot/{status}/r1");
            assert_eq!(answer.topic.as_str(), expected);
            assert_eq!(&answer.payload[..], payload.as_bytes());
        }
        drain(&fleet).await;
        assert!(answers.try_recv().is_none());
        // What was answered is counted once.
        let name = "paquebot_commands_total";
        assert_eq!(metric(&fleet, name, &["ok"]), 1.0);
        assert_eq!(metric(&fleet, name, &["duplicate"]), 2.0);
    }
}

#[tokio::test]
async fn a_command_that_an_earlier_process_answered_is_answered_the_same_to_a_sender_that_repeats_it()
 {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    for process in 0..3 {
        let mut answers = answers(&broker);
        let fleet = fleet_on(store.path());
        let link = link_on(&fleet, &gangway, Version::V5);
        let mut commands = listen(&link).await;
        ask(&broker, "r1");
        if process == 0 {
            let command = soon("a command comes", commands.next()).await.unwrap();
            drop(command.reply(CommandReply::ok("done")).await.unwrap());
        }
        let answer = soon("an answer comes", answers.recv()).await.unwrap();
        assert_eq!(answer.topic.as_str(), "devices/d1/replies/reboot/ok/r1");
        assert_eq!(&answer.payload[..], b"done");
        the_next_one_comes(&broker, &mut commands, &mut answers, &format!("n{process}")).await;
        drain(&fleet).await;
        assert!(answers.try_recv().is_none());
    }
}

#[tokio::test]
async fn a_reply_that_is_given_up_while_the_store_has_it_is_the_only_answer() {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let mut answers = answers(&broker);
    let fleet = fleet_on(store.path());
    let gangway = Gangway::new(&broker);
    gangway.open();
    let builder = gangway.group(&fleet, Version::V5);
    let link = start(builder.durability(Durability::Disk), "d1");
    let mut commands = listen(&link).await;
    for request in 0..20 {
        ask(&broker, &request.to_string());
        let command = soon("a command comes", commands.next()).await.unwrap();
        // Polled once and dropped, as by a handler that is aborted.
        drop(command.reply(CommandReply::ok("")).now_or_never());
        let expected = format!("devices/d1/replies/reboot/ok/{request}");
        assert_eq!(answer(&mut answers).await, expected);
    }
    drain(&fleet).await;
    assert!(answers.try_recv().is_none());
}

#[tokio::test]
async fn a_command_is_answered_when_the_store_is_full_and_not_again_by_the_next_process() {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let mut answers = answers(&broker);
    let builder = Fleet::builder().workers(1).store(store.path());
    let fleet = builder.store_bytes_max(1).start().unwrap();
    let gangway = Gangway::new(&broker);
    let link = link_on(&fleet, &gangway, Version::V5);
    let mut commands = listen(&link).await;
    ask(&broker, "r1");
    ask(&broker, "r2");
    let command = soon("a command comes", commands.next()).await.unwrap();
    let reply = command.reply(CommandReply::ok(""));
    drop(soon("the answer goes", reply).await.unwrap());
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/ok/r1"
    );
    drop(soon("a command comes", commands.next()).await.unwrap());
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/failed/r2"
    );
    let totals = drain(&fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (2, 2));

    let next = fleet_on(store.path());
    let link = link_on(&next, &gangway, Version::V5);
    online(&link).await;
    drain(&next).await;
    assert!(answers.try_recv().is_none());
}

#[tokio::test]
async fn an_interrupted_command_is_answered_though_what_was_left_fills_a_queue_that_makes_nobody_wait()
 {
    let store = tempfile::tempdir().unwrap();
    let broker = broker().await;
    let mut answers = answers(&broker);
    let fleet = fleet_on(store.path());
    let gangway = Gangway::new(&broker);
    let link = link_on(&fleet, &gangway, Version::V5);
    let mut commands = listen(&link).await;
    ask(&broker, "r1");
    let started = soon("a command comes", commands.next()).await.unwrap();
    cut_off(&broker, &gangway);
    let left_behind = Publish::new("left/behind", "").unwrap();
    drop(link.publish(left_behind).await.unwrap());
    let left = killed(store.path()).unwrap();

    let next = fleet_on(left.path());
    let gangway = Gangway::new(&broker);
    let builder = gangway.group(&next, Version::V5);
    let builder = builder.queue_messages_max(1).overflow(Overflow::Reject);
    let link = start(builder.durability(Durability::Process), "d1");
    connect_failed(&mut link.events()).await;
    gangway.open();
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/interrupted/r1"
    );
    drain(&next).await;
    assert!(answers.try_recv().is_none());
    drop(started);
    soon("the first fleet stops", fleet.drain(Duration::ZERO)).await;
}
