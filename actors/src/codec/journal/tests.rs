use std::num::NonZeroU64;

use bytes::BytesMut;

use super::*;

fn journal() -> Journal {
    let mut journal = Journal::new(QueueId::new(7));
    for token in 1..=3 {
        let id = NonZeroU64::new(100 + token).unwrap();
        journal.stored.insert(token, id);
    }
    journal
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn published(journal: &Journal, token: u64, packet_id: u16) -> Operation {
    let packet_id = id(packet_id);
    journal
        .operation(Record::Published { token, packet_id })
        .unwrap()
}

fn released(journal: &Journal, token: u64, packet_id: u16) -> Operation {
    let packet_id = id(packet_id);
    journal
        .operation(Record::Released { token, packet_id })
        .unwrap()
}

fn bytes(text: &str) -> Output {
    Output::Bytes(Transmit {
        bytes: BytesMut::from(text),
        payload: bytes::Bytes::new(),
        wants_report: false,
    })
}

fn name(output: Output) -> String {
    match output {
        Output::Bytes(transmit) => String::from_utf8(transmit.bytes.to_vec()).unwrap(),
        Output::Close(after) => format!("{after:?}"),
    }
}

fn take_released(journal: &mut Journal) -> Vec<String> {
    std::iter::from_fn(|| journal.next_released())
        .map(name)
        .collect()
}

#[test]
fn what_depends_on_no_record_goes_at_once() {
    let mut journal = journal();
    let output = journal.hold(Instant::now(), bytes("a")).unwrap();
    assert_eq!(name(output), "a");
    assert_eq!(journal.deadline(), None);
}

#[test]
fn output_waits_for_the_commits_before_it_and_keeps_its_order() {
    let mut journal = journal();
    let now = Instant::now();
    journal.begin(&[published(&journal, 1, 1)]);
    assert!(journal.hold(now, bytes("a")).is_none());
    assert!(journal.hold(now, bytes("b")).is_none());
    journal.begin(&[published(&journal, 2, 2)]);
    assert!(journal.hold(now, bytes("c")).is_none());
    assert!(take_released(&mut journal).is_empty());
    journal.end(true);
    assert_eq!(take_released(&mut journal), ["a", "b"]);
    let stop = Output::Close(AfterClose::Stop);
    assert!(journal.hold(now, stop).is_none());
    journal.end(true);
    assert_eq!(take_released(&mut journal), ["c", "Stop"]);
    assert!(journal.hold(now, bytes("d")).is_some());
}

#[test]
fn output_waits_no_longer_than_its_deadline_and_a_close_less() {
    let mut journal = journal();
    let now = Instant::now();
    journal.begin(&[published(&journal, 1, 1)]);
    let later = now + Duration::from_secs(1);
    assert!(journal.hold(now, bytes("a")).is_none());
    assert!(journal.hold(later, bytes("b")).is_none());
    assert_eq!(journal.deadline(), Some(now + RECORD_TIMEOUT));
    let retry = Output::Close(AfterClose::Reconnect);
    assert!(journal.hold(later, retry).is_none());
    assert_eq!(journal.deadline(), Some(later + CLOSE_TIMEOUT));
    assert_eq!(journal.drop_held(), Some(AfterClose::Reconnect));
    assert_eq!((journal.deadline(), journal.drop_held()), (None, None));
}

#[test]
fn what_failed_is_recorded_again_with_all_that_came_after_it() {
    let mut journal = journal();
    let now = Instant::now();
    let (first, second, third) = (
        published(&journal, 1, 1),
        released(&journal, 1, 1),
        published(&journal, 2, 2),
    );
    for operation in [&first, &second, &third] {
        journal.begin(std::slice::from_ref(operation));
    }
    assert!(journal.hold(now, bytes("a")).is_none());
    journal.end(false);
    journal.end(true);
    // Nothing leaves while something before it is owed, even if its own record is there.
    assert!(take_released(&mut journal).is_empty());
    assert_eq!(journal.drop_held(), None);
    assert!(journal.hold(now, bytes("CONNECT")).is_none());
    let owed = journal.take_owed();
    assert_eq!(owed, [first, second, third]);
    journal.begin(&owed);
    journal.drop_held();
    assert!(journal.hold(now, bytes("CONNECT")).is_none());
    journal.end(true);
    assert!(take_released(&mut journal).is_empty());
    journal.end(true);
    assert_eq!(take_released(&mut journal), ["CONNECT"]);
    assert!(journal.take_owed().is_empty());
}

#[test]
fn what_fails_twice_is_still_owed() {
    let mut journal = journal();
    let operation = published(&journal, 1, 1);
    journal.begin(std::slice::from_ref(&operation));
    journal.end(false);
    let owed = journal.take_owed();
    journal.begin(&owed);
    journal.end(false);
    assert_eq!(journal.take_owed(), [operation]);
}

#[test]
fn a_message_that_has_ended_is_not_recorded_again() {
    let mut journal = journal();
    let (ended, lives) = (published(&journal, 1, 1), published(&journal, 2, 2));
    let release = Record::InboundReleased { packet_id: id(9) };
    let inbound = journal.operation(release).unwrap();
    journal.begin(&[ended, inbound.clone(), lives.clone()]);
    journal.end(false);
    journal.stored.remove(&1);
    assert_eq!(journal.take_owed(), [inbound, lives]);
}

#[test]
fn a_message_that_the_store_has_not_is_not_recorded() {
    let record = Record::Published {
        token: 99,
        packet_id: id(1),
    };
    assert_eq!(journal().operation(record), None);
}
