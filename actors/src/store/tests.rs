//! What the store promises, on the real file system.

use std::sync::mpsc::channel;

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
