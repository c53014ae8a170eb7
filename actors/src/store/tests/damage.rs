//! Files of any content, and disks that are full or fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fastrand::Rng;

use super::super::aside::FILES_MAX;
use super::super::disk::Disk;
use super::super::format::{HEADER_BYTES, Header, VERSION};
use super::super::log::{Commit, Log};
use super::super::scan::{Found, scan};
use super::super::shared::{Shared, segment_name};
use super::super::{Durability, Key, Operation, QueueId, Space, StoreError, StoreOptions};
use super::simulated::{SimulatedDisk, Step};

const COMMITS: u64 = 20;

fn try_open(disk: &SimulatedDisk, options: StoreOptions) -> Result<Log, StoreError> {
    let shared = Shared::new(PathBuf::from("simulated"), Box::new(disk.clone()));
    Log::open(Arc::new(shared), options)
}

fn open(disk: &SimulatedDisk, options: StoreOptions) -> Log {
    try_open(disk, options).expect("files of any content open")
}

fn key(id: u64) -> Key {
    let space = Space::Message;
    Key { space, id }
}

fn put(queue: QueueId, id: u64, bytes: usize) -> Operation {
    let value = Bytes::from(vec![b'a' + id as u8 % 26; bytes]);
    let key = key(id);
    Operation::Put { queue, key, value }
}

fn remove(queue: QueueId, id: u64) -> Operation {
    let key = key(id);
    Operation::Remove { queue, key }
}

fn commit(log: &mut Log, operations: Vec<Operation>) -> Result<(), StoreError> {
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    log.commit(vec![Commit {
        durability: Durability::Disk,
        operations,
        done: Box::new(move |result| *tell.lock().unwrap() = Some(result)),
    }]);
    told.lock().unwrap().take().unwrap()
}

fn entries(log: &Log) -> BTreeMap<u64, Bytes> {
    let (queue, _) = log.shared.index().open("queue");
    let places = log.shared.index().entries(queue);
    let entries = log.shared.read(&places).unwrap().unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key.id, entry.value))
        .collect()
}

fn small() -> StoreOptions {
    StoreOptions::default()
        .segment_bytes(4 << 10)
        .reserve_bytes(1 << 10)
}

/// A log with one segment of so many commits, each a put, and where each of them ends.
fn written() -> (SimulatedDisk, Vec<usize>) {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk, small());
    let (queue, _) = log.shared.index().open("queue");
    for id in 0..COMMITS {
        commit(&mut log, vec![put(queue, id, 30)]).unwrap();
    }
    log.finish();
    let mut ends = vec![HEADER_BYTES];
    disk.change(&segment_name(1), |bytes| {
        let found = |found| match found {
            Found::Commit(body) => ends.push(body.end),
            Found::Damage(damage) => panic!("{damage:?}"),
        };
        scan(1, bytes, found);
    });
    (disk, ends)
}

/// Opens what was damaged, and asserts that it works on and that the rest is there.
fn lost(disk: &SimulatedDisk) -> (Vec<u64>, u64, u64) {
    let mut log = open(disk, small());
    let found = entries(&log);
    for (id, value) in &found {
        assert_eq!(*value, vec![b'a' + *id as u8 % 26; 30]);
    }
    let statistics = log.shared.index().statistics();
    let (queue, _) = log.shared.index().open("queue");
    commit(&mut log, vec![put(queue, 1000, 30)]).unwrap();
    log.finish();
    let again = entries(&open(disk, small()));
    assert_eq!(again.len(), found.len() + 1);
    assert!(again.contains_key(&1000));
    let lost = (0..COMMITS).filter(|id| !found.contains_key(id)).collect();
    (lost, statistics.damaged, statistics.torn_bytes)
}

#[test]
fn a_flipped_bit_costs_the_commit_it_is_in_and_is_counted() {
    let (disk, ends) = written();
    for at in 0..ends[ends.len() - 1] {
        let damaged = disk.survivors(false);
        damaged.change(&segment_name(1), |bytes| bytes[at] ^= 1 << (at % 8));
        let (lost, count, torn) = lost(&damaged);
        let hit = ends.iter().position(|end| at < *end).unwrap();
        let expected: Vec<_> = hit
            .checked_sub(1)
            .map(|commit| commit as u64)
            .into_iter()
            .collect();
        assert_eq!(lost, expected, "byte {at}");
        // The last one looks like one that was being written.
        assert_eq!(
            (count, torn > 0),
            if hit == ends.len() - 1 {
                (0, true)
            } else {
                (1, false)
            },
            "byte {at}"
        );
        let names = damaged.list().unwrap();
        assert!(
            names.iter().any(|name| name.contains(".damaged-")),
            "{names:?}"
        );
    }
}

#[test]
fn zeros_over_any_commit_cost_that_commit() {
    let (disk, ends) = written();
    for hit in 1..ends.len() - 1 {
        let damaged = disk.survivors(false);
        damaged.change(&segment_name(1), |bytes| {
            bytes[ends[hit - 1]..ends[hit]].fill(0)
        });
        assert_eq!(lost(&damaged), (vec![hit as u64 - 1], 1, 0));
    }
}

#[test]
fn a_file_cut_anywhere_keeps_what_is_before_the_cut() {
    let (disk, ends) = written();
    for at in 0..ends[ends.len() - 1] {
        let damaged = disk.survivors(false);
        damaged.change(&segment_name(1), |bytes| bytes.truncate(at));
        let whole = ends
            .iter()
            .filter(|end| **end <= at)
            .count()
            .saturating_sub(1) as u64;
        let (lost, count, _) = lost(&damaged);
        assert_eq!(
            (lost, count),
            ((whole..COMMITS).collect(), 0),
            "cut at {at}"
        );
    }
}

#[test]
fn zeroed_foreign_and_future_files_are_set_aside_and_counted() {
    let everything: Vec<_> = (0..COMMITS).collect();
    let (disk, _) = written();
    disk.change(&segment_name(1), |bytes| bytes.fill(0));
    assert_eq!(lost(&disk), (everything.clone(), 1, 0));

    let (disk, _) = written();
    disk.change(&segment_name(1), |bytes| {
        *bytes = b"%PDF-1.7 and so on and so on, for some time".repeat(9)
    });
    assert_eq!(lost(&disk), (everything.clone(), 1, 0));
    assert!(
        disk.list()
            .unwrap()
            .contains(&"0000000001.segment.foreign-0".to_owned())
    );

    let future = format!("version-{}", VERSION + 1);
    for (version, number, why) in [(VERSION + 1, 1, &*future), (VERSION, 7, "foreign")] {
        let (disk, _) = written();
        let header = Header {
            version,
            number,
            previous_end: u32::MAX,
        };
        disk.change(&segment_name(1), |bytes| {
            bytes[..HEADER_BYTES].copy_from_slice(&header.encode())
        });
        assert_eq!(lost(&disk), (everything.clone(), 1, 0));
        assert!(
            disk.list()
                .unwrap()
                .contains(&format!("0000000001.segment.{why}-0"))
        );
    }
}

#[test]
fn of_what_is_set_aside_the_oldest_goes_and_a_segment_of_another_version_never() {
    let (disk, _) = written();
    let file = |name: &str| disk.create(name).unwrap().write_at(b"!", 0).unwrap();
    for offset in 0..2 * FILES_MAX {
        file(&format!("0000000001.segment.damaged-{offset}"));
    }
    let others = [
        "0000000001.segment.version-2-0",
        "0000000001.segment.mine",
        "0000000001.segment.damaged-0.copy",
    ];
    others.into_iter().for_each(file);
    let asides = || {
        let names = disk.list().unwrap();
        let is_ours = |name: &String| name.contains("damaged-") && !name.ends_with("copy");
        names.into_iter().filter(is_ours).collect::<Vec<_>>()
    };
    let log = open(&disk, small());
    let kept = asides();
    assert_eq!(kept.len(), FILES_MAX, "{kept:?}");
    let oldest = format!("0000000001.segment.damaged-{FILES_MAX}");
    assert!(kept.contains(&oldest), "{kept:?}");
    let removed = log.shared.index().statistics().asides_removed;
    assert_eq!(removed, FILES_MAX as u64);
    assert_eq!(entries(&log).len() as u64, COMMITS);
    drop(log);
    file("0000000002.segment.lost-0");
    for removed in [1, 0] {
        let log = open(&disk, small());
        assert_eq!(log.shared.index().statistics().asides_removed, removed);
    }
    assert!(!asides().contains(&oldest));
    let names = disk.list().unwrap();
    assert!(
        others
            .iter()
            .all(|name| names.contains(&(*name).to_owned()))
    );
}

#[test]
fn a_segment_that_cannot_be_read_ends_the_start_and_is_whole_at_the_next() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk, small());
    let (queue, _) = log.shared.index().open("queue");
    for id in 0..300 {
        commit(&mut log, vec![put(queue, id, 30)]).unwrap();
    }
    log.finish();
    let names = disk.list().unwrap();
    let segments: Vec<_> = names.iter().filter(|name| name.ends_with("t")).collect();
    assert!(segments.len() > 2, "{names:?}");
    for name in &segments {
        for step in [Step::Open, Step::Size, Step::Read, Step::Sync] {
            if step == Step::Sync && *name != segments[segments.len() - 1] {
                continue;
            }
            disk.refuse(Some((name, step)));
            match try_open(&disk, small()) {
                Err(StoreError::Io { path, .. }) => assert!(path.ends_with(name), "{path:?}"),
                other => panic!("{name}, {step:?}: {other:?}"),
            }
        }
    }
    disk.refuse(None);
    assert_eq!(disk.list().unwrap(), names);
    let log = open(&disk, small());
    assert_eq!(entries(&log).len(), 300);
    assert_eq!(log.shared.index().statistics().damaged, 0);
}

#[test]
fn a_short_file_that_is_no_beginning_of_a_segment_is_set_aside() {
    for text in [&b"notes\n"[..], b"n", b"paqueLOG and then not a header"] {
        let disk = SimulatedDisk::new(1);
        disk.create(&segment_name(1)).unwrap();
        disk.change(&segment_name(1), |bytes| *bytes = text.to_vec());
        let log = open(&disk, small());
        assert_eq!(log.shared.index().statistics().damaged, 1, "{text:?}");
        disk.change("0000000001.segment.foreign-0", |bytes| {
            assert_eq!(bytes, text);
        });
    }
}

#[test]
fn no_number_is_too_large() {
    let last = segment_name(u32::MAX);
    let header = |number| Header {
        version: VERSION,
        number,
        previous_end: u32::MAX,
    };
    // One that is foreign costs no number.
    for content in [b"notes".to_vec(), vec![0; 100], header(7).encode().to_vec()] {
        let disk = SimulatedDisk::new(1);
        disk.create(&last).unwrap();
        disk.change(&last, |bytes| *bytes = content);
        let mut log = open(&disk, small());
        let (queue, _) = log.shared.index().open("queue");
        for id in [0, u64::MAX, u64::MAX - 1] {
            commit(&mut log, vec![put(queue, id, 30)]).unwrap();
        }
        log.finish();
        let found = entries(&open(&disk, small()));
        assert_eq!(
            found.into_keys().collect::<Vec<_>>(),
            [0, u64::MAX - 1, u64::MAX]
        );
    }
    // After one that is sound there is no other: an error, not a log out of order.
    let disk = SimulatedDisk::new(1);
    disk.create(&last).unwrap();
    disk.change(&last, |bytes| *bytes = header(u32::MAX).encode().to_vec());
    let mut log = open(&disk, small());
    let (queue, _) = log.shared.index().open("queue");
    let error = (0..1000).find_map(|id| commit(&mut log, vec![put(queue, id, 30)]).err());
    let error = error.expect("numbers end");
    assert!(error.to_string().contains("used up"), "{error}");
}

/// A log whose oldest segment is next to be given back, with something live in it.
fn to_be_compacted() -> (SimulatedDisk, Log) {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk, small());
    let (queue, _) = log.shared.index().open("queue");
    for id in 0..400 {
        commit(&mut log, vec![put(queue, id, 30)]).unwrap();
    }
    for id in (0..400).filter(|id| id % 40 != 0) {
        commit(&mut log, vec![remove(queue, id)]).unwrap();
    }
    assert!(log.has_surplus());
    (disk, log)
}

#[test]
fn a_segment_that_cannot_be_read_when_it_is_emptied_is_tried_again() {
    for step in [Step::Open, Step::Size, Step::Read] {
        let (disk, mut log) = to_be_compacted();
        let name = segment_name(1);
        disk.refuse(Some((&name, step)));
        for _ in 0..10 {
            log.maintain(1 << 20, true, true);
            assert!(log.is_stuck && disk.list().unwrap().contains(&name));
        }
        disk.refuse(None);
        log.maintain(1 << 20, true, true);
        assert!(!log.is_stuck && !disk.list().unwrap().contains(&name));
        assert_eq!(entries(&log).len(), 10);
        assert_eq!(log.shared.index().statistics().damaged, 0);
        log.finish();
        assert_eq!(entries(&open(&disk.survivors(true), small())).len(), 10);
    }
}

#[test]
fn a_segment_that_was_damaged_while_the_store_was_open_is_kept_aside() {
    let (disk, mut log) = to_be_compacted();
    disk.change(&segment_name(1), |bytes| bytes[HEADER_BYTES + 20] ^= 1);
    log.maintain(1 << 20, true, true);
    assert!(!log.is_stuck);
    let names = disk.list().unwrap();
    let is_aside = |name: &String| name == "0000000001.segment.lost-0";
    assert!(names.iter().any(is_aside), "{names:?}");
    assert_eq!(log.shared.index().statistics().damaged, 1);
    assert_eq!(entries(&log).len(), 9);
}

#[test]
fn random_damage_never_stops_a_store_from_opening() {
    let (disk, ends) = written();
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let damaged = disk.survivors(false);
        damaged.change(&segment_name(1), |bytes| {
            for _ in 0..random.usize(1..20) {
                let start = random.usize(0..ends[ends.len() - 1]);
                let end = (start + random.usize(1..100)).min(bytes.len());
                match random.u8(0..4) {
                    0 => bytes[start..end].fill(0),
                    1 => bytes[start..end].fill_with(|| random.u8(..)),
                    2 => bytes.copy_within(start..end, HEADER_BYTES),
                    _ => drop(bytes.drain(start..end)),
                }
            }
        });
        lost(&damaged);
    }
}

#[test]
fn on_a_full_disk_messages_are_refused_and_everything_else_is_recorded_until_there_is_space_again()
{
    let disk = SimulatedDisk::new(1);
    let options = StoreOptions::default()
        .segment_bytes(16 << 10)
        .reserve_bytes(8 << 10);
    let mut log = open(&disk, options);
    let (queue, _) = log.shared.index().open("queue");
    disk.set_capacity(100 << 10);
    let full = |result: &Result<(), StoreError>| matches!(result, Err(StoreError::Full { .. }));
    let put_until_full = |log: &mut Log| {
        (0..1000).find(|id| {
            let result = commit(log, vec![put(queue, *id, 300)]);
            log.maintain(300, false, true);
            assert!(result.is_ok() || full(&result), "{result:?}");
            result.is_err()
        })
    };
    let accepted = put_until_full(&mut log).unwrap();
    assert!(log.shared.index().statistics().is_full);
    assert!(accepted > 200, "{accepted}");
    // Phases are recorded, and so is that messages have ended.
    let phase = |id| Key {
        space: Space::Outbound,
        id,
    };
    for id in 0..20 {
        let value = Bytes::from_static(b"phase");
        let key = phase(id);
        commit(&mut log, vec![Operation::Put { queue, key, value }]).unwrap();
        let result = commit(&mut log, vec![put(queue, 5000, 300), remove(queue, 5001)]);
        assert!(full(&result), "{result:?}");
        let key = phase(id);
        commit(
            &mut log,
            vec![remove(queue, id), Operation::Remove { queue, key }],
        )
        .unwrap();
    }
    assert_eq!(entries(&log).len() as u64, accepted - 20);
    // A message that is replaced, and two that become one, are no more than before.
    commit(&mut log, vec![put(queue, 20, 300)]).unwrap();
    commit(&mut log, vec![put(queue, 20, 310), remove(queue, 21)]).unwrap();
    commit(&mut log, vec![put(queue, 21, 300), remove(queue, 22)]).unwrap();
    let result = commit(&mut log, vec![put(queue, 22, 1), put(queue, 23, 1)]);
    assert!(full(&result), "{result:?}");
    commit(&mut log, vec![put(queue, 22, 300), remove(queue, 21)]).unwrap();
    assert_eq!(entries(&log).len() as u64, accepted - 21);
    // All that was recorded is there after a power loss too.
    let survivor = open(&disk.survivors(true), options);
    assert_eq!(entries(&survivor), entries(&log));
    // Others give space back.
    disk.set_capacity(200 << 10);
    log.maintain(0, true, true);
    assert!(!log.shared.index().statistics().is_full);
    commit(&mut log, vec![put(queue, 5000, 300)]).unwrap();
    // Full again; this time the messages themselves end.
    put_until_full(&mut log).unwrap();
    for id in entries(&log).into_keys() {
        drop(commit(&mut log, vec![remove(queue, id)]));
        log.maintain(0, true, true);
    }
    for _ in 0..10 {
        log.maintain(0, true, true);
    }
    assert_eq!(entries(&log).len(), 0);
    assert!(!log.shared.index().statistics().is_full);
    commit(&mut log, vec![put(queue, 1, 300)]).unwrap();
    log.finish();
    let survivor = open(&disk.survivors(true), options);
    assert_eq!(entries(&survivor).len(), 1);
}

#[test]
fn a_disk_that_fails_for_a_while_is_tried_until_it_works_and_removals_are_made_up_for() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::ReadOnlyFilesystem] {
        let disk = SimulatedDisk::new(1);
        let mut log = open(&disk, small());
        let (queue, _) = log.shared.index().open("queue");
        commit(&mut log, vec![put(queue, 1, 10), put(queue, 2, 10)]).unwrap();
        disk.fail(0..1_000_000, kind);
        let result = commit(&mut log, vec![put(queue, 3, 10)]).unwrap_err();
        match kind {
            io::ErrorKind::ReadOnlyFilesystem => {
                assert!(matches!(result, StoreError::ReadOnly { .. }))
            }
            _ => assert!(matches!(result, StoreError::Io { .. })),
        }
        commit(&mut log, vec![remove(queue, 1)]).unwrap_err();
        assert_eq!(entries(&log).into_keys().collect::<Vec<_>>(), [2]);
        log.maintain(0, true, true);
        assert!(log.shared.index().statistics().is_failing);
        disk.fail(0..0, kind);
        log.maintain(0, true, true);
        commit(&mut log, vec![put(queue, 4, 10)]).unwrap();
        assert!(!log.shared.index().statistics().is_failing);
        log.finish();
        let log = open(&disk.survivors(true), small());
        assert_eq!(entries(&log).into_keys().collect::<Vec<_>>(), [2, 4]);
    }
}

#[test]
fn what_was_to_be_gone_is_gone_before_anything_new_is_there() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk, small());
    let (queue, _) = log.shared.index().open("queue");
    commit(&mut log, vec![put(queue, 1, 10), put(queue, 2, 10)]).unwrap();
    disk.fail(0..1_000_000, io::ErrorKind::Other);
    commit(&mut log, vec![remove(queue, 1)]).unwrap_err();
    commit(&mut log, vec![remove(queue, 2)]).unwrap_err();
    disk.fail(0..0, io::ErrorKind::Other);
    commit(&mut log, vec![put(queue, 2, 20), put(queue, 3, 10)]).unwrap();
    for is_power_lost in [false, true] {
        let found = entries(&open(&disk.survivors(is_power_lost), small()));
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(found[&2].len(), 20);
    }
}

#[test]
fn moving_entries_ends_however_long_the_names_of_their_queues_are() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk, small());
    for number in 0..100 {
        let name = format!("{number:01000}");
        let (queue, _) = log.shared.index().open(&name);
        commit(&mut log, vec![put(queue, 1, 10), put(queue, 2, 10)]).unwrap();
        commit(&mut log, vec![remove(queue, 1)]).unwrap();
    }
    for _ in 0..1000 {
        log.maintain(0, true, true);
    }
    assert!(!log.has_surplus(), "{:?}", log.shared.index().statistics());
    assert_eq!(log.shared.index().statistics().entries, 100);
}
