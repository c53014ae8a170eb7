//! Commands over the end of a process: started at most once, always answered.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot::mqtt::{QoS, Topic, TopicFilter, Version};
use paquebot::{CommandReply, Durability, Fleet, Link};
use paquebot_emulator::{Broker, Target, Watch};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, Gangway, broker, drain, fleet_on, killed, online, soon, start, until};

fn link_on(fleet: &Fleet, gangway: &Gangway, version: Version) -> Link {
    gangway.open();
    let builder = gangway.group(fleet, version);
    start(builder.durability(Durability::Process), "d1")
}

fn ask(broker: &Broker, request: &str) {
    let topic = Topic::new(format!("devices/d1/commands/reboot/{request}")).unwrap();
    broker.publish(topic, "now", QoS::AtLeastOnce, false);
}

async fn answer(watch: &mut Watch) -> String {
    let answer = soon("an answer comes", watch.recv()).await.unwrap();
    answer.topic.as_str().to_owned()
}

#[tokio::test]
async fn a_command_that_a_killed_process_had_started_is_answered_as_interrupted_and_not_started_again()
 {
    for version in BOTH {
        let store = tempfile::tempdir().unwrap();
        let broker = broker().await;
        let mut answers = broker.watch(TopicFilter::new("devices/d1/replies/#").unwrap());
        let fleet = fleet_on(store.path());
        let gangway = Gangway::new(&broker);
        let link = link_on(&fleet, &gangway, version);
        let mut commands = link.device().commands().await.unwrap();
        soon("it listens", commands.ready()).await.unwrap();
        ask(&broker, "r1");
        let started = soon("a command comes", commands.next()).await.unwrap();
        let left = killed(store.path()).unwrap();
        gangway.shut();
        broker.faults().disconnect(&Target::client("d1"), None);

        let next = fleet_on(left.path());
        let link = link_on(&next, &Gangway::new(&broker), version);
        let mut again = link.device().commands().await.unwrap();
        online(&link).await;
        assert_eq!(
            answer(&mut answers).await,
            "devices/d1/replies/reboot/interrupted/r1"
        );
        // The server delivers r1 again, marked as a redelivery, and then something new.
        ask(&broker, "r2");
        let command = soon("the new command comes", again.next()).await.unwrap();
        assert_eq!(&*command.command().reply_to.request, "r2");
        drop(command.reply(CommandReply::ok("")).await.unwrap());
        assert_eq!(
            answer(&mut answers).await,
            "devices/d1/replies/reboot/ok/r2"
        );
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
    let mut answers = broker.watch(TopicFilter::new("devices/d1/replies/#").unwrap());
    let fleet = fleet_on(store.path());
    let gangway = Gangway::new(&broker);
    let link = link_on(&fleet, &gangway, Version::V5);
    let mut commands = link.device().commands().await.unwrap();
    soon("it listens", commands.ready()).await.unwrap();
    // The server does not hear that the command arrived, and delivers it again.
    broker.faults().stall_reading(Target::client("d1"));
    ask(&broker, "r1");
    let command = soon("a command comes", commands.next()).await.unwrap();
    drop(command.reply(CommandReply::ok("")).await.unwrap());
    until("the answer is recorded", || fleet.totals().accepted == 1).await;
    let left = killed(store.path()).unwrap();
    gangway.shut();
    broker.faults().disconnect(&Target::client("d1"), None);
    broker.faults().clear();

    let next = fleet_on(left.path());
    let link = link_on(&next, &Gangway::new(&broker), Version::V5);
    let mut again = link.device().commands().await.unwrap();
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/ok/r1"
    );
    ask(&broker, "r2");
    let command = soon("the new command comes", again.next()).await.unwrap();
    assert_eq!(&*command.command().reply_to.request, "r2");
    drop(command.reply(CommandReply::ok("")).await.unwrap());
    assert_eq!(
        answer(&mut answers).await,
        "devices/d1/replies/reboot/ok/r2"
    );
    drain(&next).await;
    assert!(answers.try_recv().is_none());
    soon("the first fleet stops", fleet.drain(Duration::ZERO)).await;
}
