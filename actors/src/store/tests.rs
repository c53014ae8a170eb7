//! What the store promises, on the real file system.

mod crashes;
mod damage;
mod simulated;

use std::fs;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::*;

fn key(id: u64) -> Key {
    Key {
        space: Space::Message,
        id,
    }
}

fn put(queue: QueueId, id: u64, value: &'static str) -> Operation {
    Operation::Put {
        queue,
        key: key(id),
        value: Bytes::from_static(value.as_bytes()),
    }
}

fn remove(queue: QueueId, id: u64) -> Operation {
    Operation::Remove {
        queue,
        key: key(id),
    }
}

/// Commits and waits.
fn commit(store: &LogStore, operations: Vec<Operation>) -> Result<(), StoreError> {
    let (tell, told) = channel();
    let done = move |result| tell.send(result).unwrap();
    store.commit(Durability::Disk, operations, Box::new(done));
    told.recv().unwrap()
}

fn values(entries: &[Entry]) -> Vec<(u64, String)> {
    let show = |entry: &Entry| {
        let value = String::from_utf8(entry.value.to_vec()).unwrap();
        (entry.key.id, value)
    };
    entries.iter().map(show).collect()
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_what_was_removed_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let open = || LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let store = open();
    let (queue, entries) = store.open_queue("a").unwrap();
    assert!(entries.is_empty());
    commit(
        &store,
        vec![
            put(queue, 2, "two"),
            put(queue, 1, "one"),
            put(queue, 3, "three"),
        ],
    )
    .unwrap();
    commit(&store, vec![remove(queue, 1), put(queue, 3, "drei")]).unwrap();
    drop(store);

    let store = open();
    let (other, entries) = store.open_queue("b").unwrap();
    assert!(entries.is_empty());
    let (queue, entries) = store.open_queue("a").unwrap();
    assert_ne!(queue, other);
    assert_eq!(
        values(&entries),
        [(2, "two".to_owned()), (3, "drei".to_owned())]
    );
}

#[test]
fn completions_come_in_the_order_of_the_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    let order = Arc::<Mutex<Vec<u64>>>::default();
    for id in 0..1000 {
        let order = Arc::clone(&order);
        let durability =
            [Durability::Memory, Durability::Process, Durability::Disk][id as usize % 3];
        let done = move |result: Result<(), _>| {
            result.unwrap();
            order.lock().unwrap().push(id);
        };
        store.commit(durability, vec![put(queue, id, "value")], Box::new(done));
    }
    store.flush().unwrap();
    assert_eq!(*order.lock().unwrap(), (0..1000).collect::<Vec<_>>());
    let statistics = store.statistics();
    assert_eq!((statistics.entries, statistics.commits), (1000, 1001));
    assert!(statistics.groups <= statistics.commits);
}

#[test]
fn a_queue_that_is_opened_again_shows_what_still_waited_to_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    for id in 0..100 {
        let put = vec![put(queue, id, "value")];
        store.commit(Durability::Process, put, Box::new(|_| {}));
    }
    let (again, entries) = store.open_queue("a").unwrap();
    assert_eq!((again, entries.len()), (queue, 100));
}

#[test]
fn a_second_opener_is_told_who_has_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let error = LogStore::open(directory.path(), StoreOptions::default()).unwrap_err();
    let StoreError::Locked {
        directory: named,
        pid,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(named, directory.path());
    assert_eq!(*pid, Some(std::process::id()));
    assert!(
        error
            .to_string()
            .contains(&directory.path().display().to_string()),
        "{error}"
    );
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    assert!(error.to_string().contains("this process itself"), "{error}");
    store.close();
    LogStore::open(directory.path(), StoreOptions::default()).unwrap();
}

#[test]
fn a_closed_store_refuses_and_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    store.close();
    store.close();
    let result = commit(&store, vec![put(queue, 1, "one")]);
    assert!(matches!(result, Err(StoreError::Closed)), "{result:?}");
    assert!(matches!(store.open_queue("b"), Err(StoreError::Closed)));
}

#[test]
fn the_last_handle_may_go_away_in_a_completion() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    let store = Arc::new(store);
    let (tell, told) = channel();
    let last = Arc::clone(&store);
    let done = move |result: Result<(), _>| {
        drop(last);
        tell.send(result).unwrap();
    };
    store.commit(Durability::Disk, vec![put(queue, 1, "one")], Box::new(done));
    drop(store);
    told.recv().unwrap().unwrap();
}

#[test]
fn names_of_queues_and_unknown_queues_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    for bytes in [0, QUEUE_NAME_BYTES_MAX + 1] {
        let result = store.open_queue(&"n".repeat(bytes));
        assert!(matches!(result, Err(StoreError::QueueName { bytes: told }) if told == bytes));
    }
    store.open_queue(&"n".repeat(QUEUE_NAME_BYTES_MAX)).unwrap();
    let result = commit(&store, vec![put(QueueId::new(7), 1, "one")]);
    assert!(
        matches!(result, Err(StoreError::UnknownQueue(_))),
        "{result:?}"
    );
}

#[test]
fn messages_past_the_bound_are_refused_until_others_have_gone() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions::default().live_bytes_max(130);
    let store = LogStore::open(directory.path(), options).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    commit(&store, vec![put(queue, 1, "one")]).unwrap();
    commit(&store, vec![put(queue, 2, "two")]).unwrap();
    commit(&store, vec![put(queue, 3, "three")]).unwrap();
    let result = commit(&store, vec![put(queue, 4, "four")]);
    let Err(error @ StoreError::Full { .. }) = result else {
        panic!("{result:?}");
    };
    assert!(error.to_string().contains("130 bytes"), "{error}");
    // No more than before: one that is replaced, two that become one.
    commit(&store, vec![put(queue, 3, "THREE AND MUCH MORE OF IT")]).unwrap();
    commit(&store, vec![put(queue, 2, "two, one"), remove(queue, 1)]).unwrap();
    commit(&store, vec![put(queue, 3, "three")]).unwrap();
    commit(&store, vec![put(queue, 4, "four")]).unwrap();
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_the_files_and_links_are_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("store");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let store = LogStore::open(&directory, StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    commit(&store, vec![put(queue, 1, "one")]).unwrap();
    drop(store);
    assert_eq!(mode(&directory), 0o700);
    for file in fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    // A link where the next segment is to be: set aside, and what it points to stays as it is.
    let victim = outer.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, directory.join("0000000002.segment")).unwrap();
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    let store = LogStore::open(&directory, StoreOptions::default()).unwrap();
    let (queue, entries) = store.open_queue("a").unwrap();
    assert_eq!(entries.len(), 1);
    commit(&store, vec![put(queue, 2, "two")]).unwrap();
    assert_eq!(store.statistics().damaged, 1);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(mode(&directory), 0o755, "what somebody made is theirs");
}

#[test]
fn a_directory_with_other_files_is_refused_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let open = || LogStore::open(directory.path(), StoreOptions::default());
    for (name, text) in [("notes", "precious"), ("lock", "of another program")] {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, StoreError::OtherFiles { .. }), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let error = StoreReader::open(directory.path(), InUse::Refuse).unwrap_err();
        assert!(matches!(error, StoreError::NoStore { .. }), "{error}");
        fs::remove_file(file).unwrap();
    }
    // The root of a file system, and what a process leaves that was killed while it made a store.
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    drop(open().unwrap());
    // Once it is a store, other files in it are nobody's business.
    fs::write(directory.path().join("notes"), "precious").unwrap();
    drop(open().unwrap());
}

#[test]
fn a_file_where_the_directory_should_be_is_said_to_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    let error = LogStore::open(&file, StoreOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("a file, not a directory"),
        "{error}"
    );
}

#[test]
fn a_log_from_which_everything_was_removed_gives_its_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions::default().segment_bytes(1 << 20);
    let store = LogStore::open(directory.path(), options).unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    let value = Bytes::from(vec![7; 1000]);
    let puts = (0..10_000).map(|id| Operation::Put {
        queue,
        key: key(id),
        value: value.clone(),
    });
    for put in puts {
        store.commit(
            Durability::Process,
            vec![put],
            Box::new(|result| result.unwrap()),
        );
    }
    store.flush().unwrap();
    assert!(store.statistics().bytes > 10_000_000);
    for id in 0..10_000 {
        let remove = vec![remove(queue, id)];
        store.commit(
            Durability::Process,
            remove,
            Box::new(|result| result.unwrap()),
        );
    }
    store.flush().unwrap();
    let start = std::time::Instant::now();
    while store.statistics().bytes > 64 << 10 {
        assert!(start.elapsed().as_secs() < 60, "{:?}", store.statistics());
        std::thread::yield_now();
    }
    drop(store);
    let (_, entries) = LogStore::open(directory.path(), options)
        .unwrap()
        .open_queue("a")
        .unwrap();
    assert_eq!(entries, []);
}

#[test]
fn a_store_is_looked_into_offline_only_while_nobody_writes_unless_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::open(directory.path(), StoreOptions::default()).unwrap();
    let (queue, _) = store.open_queue("devices/1").unwrap();
    let (other, _) = store.open_queue("devices/2").unwrap();
    commit(
        &store,
        vec![
            put(queue, 1, "one"),
            put(queue, 2, "two"),
            put(other, 1, "eins"),
        ],
    )
    .unwrap();
    commit(&store, vec![remove(queue, 1)]).unwrap();
    let refused = StoreReader::open(directory.path(), InUse::Refuse).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    StoreReader::open(directory.path(), InUse::Read).unwrap();
    drop(store);

    let reader = StoreReader::open(directory.path(), InUse::Refuse).unwrap();
    let queues = reader.queues();
    let names: Vec<_> = queues
        .iter()
        .map(|queue| (&*queue.name, queue.entries[0], queue.bytes))
        .collect();
    assert_eq!(names, [("devices/1", 1, 3), ("devices/2", 1, 4)]);
    let entries: Vec<_> = reader
        .entries("devices/1")
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(values(&entries), [(2, "two".to_owned())]);
    assert!(reader.entries("devices/3").is_none());
    assert!(reader.segments().iter().all(SegmentReport::is_sound));
    assert_eq!(
        reader
            .segments()
            .iter()
            .map(|segment| segment.commits)
            .sum::<u64>(),
        2
    );
    // Nobody writes what is being read.
    LogStore::open(directory.path(), StoreOptions::default()).unwrap_err();
    drop(reader);
    LogStore::open(directory.path(), StoreOptions::default()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_ends_the_start_and_keeps_its_name() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let open = || LogStore::open(directory.path(), StoreOptions::default());
    let store = open().unwrap();
    let (queue, _) = store.open_queue("a").unwrap();
    commit(&store, vec![put(queue, 1, "one")]).unwrap();
    drop(store);
    let segment = directory.path().join("0000000001.segment");
    let allow = |mode| fs::set_permissions(&segment, PermissionsExt::from_mode(mode)).unwrap();
    allow(0);
    if fs::File::open(&segment).is_ok() {
        // Root may read everything; the simulated disk has the same test.
        return;
    }
    let error = open().unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if *path == segment));
    StoreReader::open(directory.path(), InUse::Refuse).unwrap_err();
    allow(0o600);
    let (_, entries) = open().unwrap().open_queue("a").unwrap();
    assert_eq!(entries.len(), 1);
}

#[test]
fn a_segment_that_lost_all_it_held_is_not_sound_unless_it_was_just_begun() {
    let directory = tempfile::tempdir().unwrap();
    let segment = |number: u32| directory.path().join(format!("{number:010}.segment"));
    let are_sound = || -> Vec<_> {
        let reader = StoreReader::open(directory.path(), InUse::Refuse).unwrap();
        let segments = reader.segments().iter();
        segments.map(SegmentReport::is_sound).collect()
    };
    fs::write(segment(1), "").unwrap();
    assert_eq!(are_sound(), [true]);
    fs::write(segment(2), "").unwrap();
    assert_eq!(are_sound(), [false, true]);
    fs::write(segment(2), "notes\n").unwrap();
    assert_eq!(are_sound(), [false, false]);
}
