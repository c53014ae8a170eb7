//! An actor that panics in the middle of a batch: a bug, or a payload whose owner panics when it is dropped.

use super::*;
use crate::offline_queue::Overflow;
use crate::receipt::{BatchOutcome, DropReason, Outcome};

const MESSAGES: usize = 10;

/// The message that brings the panic.
const BOMB: usize = 4;

const STOPPED: Outcome = Outcome::Dropped(DropReason::Stopped);

/// Panics where it is dropped first.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"x"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the bomb goes off");
    }
}

fn bomb() -> Bytes {
    Bytes::from_owner(Bomb)
}

fn batch(qos: QoS) -> Vec<Rendered> {
    (0..MESSAGES)
        .map(|number| match number {
            BOMB => message(qos, bomb()),
            _ => message(qos, Bytes::from_static(b"x")),
        })
        .collect()
}

/// The link has ended, each message in one outcome, and nothing of it is left.
async fn assert_is_over(rig: &Rig, outcome: &BatchOutcome, messages: usize) {
    rig.link.stopped().await;
    assert_eq!(rig.link.state(), LinkState::Failed);
    assert_eq!(outcome.delivered + outcome.undelivered.len(), messages);
    let places: Vec<_> = outcome
        .undelivered
        .iter()
        .map(|(place, _)| *place)
        .collect();
    assert!(places.is_sorted_by(|one, other| one < other), "{places:?}");
    let totals = rig.metrics.totals();
    assert_eq!(totals.accepted, messages as u64, "{totals:?}");
    assert_eq!(totals.delivered, outcome.delivered as u64, "{totals:?}");
    assert_eq!(totals.held, 0);
    assert!(totals.is_balanced(), "{totals:?}");
    let statistics = rig.room.statistics();
    assert_eq!((statistics.messages, statistics.bytes), (0, 0));
    let late = rig.link.publish(message(QoS::AtMostOnce, Bytes::new()));
    assert!(late.await.is_err());
}

#[actix::test]
async fn a_codec_that_panics_in_a_batch_leaves_no_message_without_an_end() {
    let rig = Rig::online(OutboxConfig::default(), 4_096).await;
    let receipt = rig.link.publish_batch(batch(QoS::AtMostOnce)).await;
    let outcome = receipt.unwrap().await;
    assert_is_over(&rig, &outcome, MESSAGES).await;
    let all: Vec<_> = (0..MESSAGES).map(|place| (place, STOPPED)).collect();
    assert_eq!(outcome.undelivered, all);
}

#[actix::test]
async fn a_queue_that_panics_while_it_sends_a_batch_ends_each_message_in_its_place() {
    let rig = Rig::online(OutboxConfig::default(), 4_096).await;
    let mut messages = batch(QoS::AtMostOnce);
    // It ends in the queue itself.
    messages[BOMB].time_to_live = Some(Duration::ZERO);
    let outcome = rig.link.publish_batch(messages).await.unwrap().await;
    assert_is_over(&rig, &outcome, MESSAGES).await;
    let mut all: Vec<_> = (0..MESSAGES).map(|place| (place, STOPPED)).collect();
    all[BOMB].1 = Outcome::Expired;
    assert_eq!(outcome.undelivered, all);
}

#[actix::test]
async fn a_queue_that_panics_while_it_takes_a_batch_ends_what_it_has_not_looked_at_too() {
    let outbox = OutboxConfig {
        messages_max: BOMB,
        overflow: Overflow::DropNewest,
        ..OutboxConfig::default()
    };
    // The server acknowledges nothing, so that the queue is full when the one that panics comes.
    let rig = Rig::online(outbox, 4_096).await;
    let before = vec![message(QoS::AtLeastOnce, Bytes::new()); BOMB];
    let before = rig.link.publish_batch(before).await.unwrap();
    rig.settle().await;
    let mut messages = batch(QoS::AtLeastOnce);
    messages.swap(0, BOMB);
    messages.truncate(BOMB);
    let receipt = rig.link.publish_batch(messages).await.unwrap();
    let outcome = receipt.await;
    let before = before.await;
    assert_eq!(before.undelivered.len(), BOMB);
    let mut all: Vec<_> = (0..BOMB).map(|place| (place, STOPPED)).collect();
    all[0].1 = Outcome::Dropped(DropReason::Newest);
    assert_eq!(outcome.undelivered, all);
    let both = BatchOutcome {
        delivered: 0,
        undelivered: (0..2 * BOMB).map(|place| (place, STOPPED)).collect(),
    };
    assert_is_over(&rig, &both, 2 * BOMB).await;
}

#[actix::test]
async fn what_was_delivered_before_the_panic_stays_delivered_and_what_was_not_keeps_its_place() {
    let mut rig = Rig::online(OutboxConfig::default(), 4_096).await;
    let messages = vec![message(QoS::AtLeastOnce, Bytes::new()); MESSAGES];
    let receipt = rig.link.publish_batch(messages).await.unwrap();
    rig.settle().await;
    // The first, the third and the fourth.
    for id in [1, 3, 4] {
        rig.server.write_all(&[0x40, 2, 0, id]).await.unwrap();
    }
    rig.settle().await;
    let mut last = message(QoS::AtMostOnce, bomb());
    last.time_to_live = Some(Duration::ZERO);
    let last = rig.link.publish_batch(vec![last]).await.unwrap().await;
    assert_eq!(last.undelivered, [(0, Outcome::Expired)]);
    let mut outcome = receipt.await;
    let places = [1, 4, 5, 6, 7, 8, 9].map(|place| (place, STOPPED));
    assert_eq!(outcome.undelivered, places);
    outcome.undelivered.push((MESSAGES, Outcome::Expired));
    assert_is_over(&rig, &outcome, MESSAGES + 1).await;
}

#[actix::test]
async fn callers_who_wait_for_room_hear_of_the_end_of_a_link_that_panicked() {
    let outbox = OutboxConfig {
        messages_max: MESSAGES,
        ..OutboxConfig::default()
    };
    let rig = Rig::online(outbox, 4_096).await;
    let mut messages = vec![message(QoS::AtLeastOnce, Bytes::new()); MESSAGES - 1];
    let mut last = message(QoS::AtMostOnce, bomb());
    last.time_to_live = Some(Duration::ZERO);
    messages.push(last);
    let link = rig.link.clone();
    let waits = actix::spawn(async move {
        let messages = vec![message(QoS::AtLeastOnce, Bytes::new()); MESSAGES];
        link.publish_batch(messages).await.is_err()
    });
    let outcome = rig.link.publish_batch(messages).await.unwrap().await;
    assert!(waits.await.unwrap(), "it waits for a link that is over");
    assert_is_over(&rig, &outcome, MESSAGES).await;
}
