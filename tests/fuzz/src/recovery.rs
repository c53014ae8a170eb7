//! A store opens and works whatever is in its files.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;

use bytes::Bytes;

use crate::actors::store::{
    Durability, InUse, Key, LogStore, Operation, Space, Store, StoreOptions, StoreReader,
};

const OPTIONS: StoreOptions = StoreOptions::DEFAULT
    .segment_bytes(4 << 10)
    .reserve_bytes(0);

/// Bytes as they may be found in the files of a store: it opens, records, and has that when it is opened again.
pub fn recover(input: &[u8]) {
    // In memory, where there is such a place: a target is to spend its time on the input.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        &std::env::temp_dir()
    };
    let directory = tempfile::tempdir_in(place).expect("a directory");
    for (place, bytes) in segments(input).into_iter().enumerate() {
        let name = format!("{:010}.segment", place + 1);
        fs::write(directory.path().join(name), bytes).expect("a written file");
    }
    let read = || StoreReader::open(directory.path(), InUse::Refuse).expect("nobody has it open");
    let before = read();
    let (queues, segments) = (before.queues(), before.segments().len());
    let entries: usize = queues
        .iter()
        .map(|queue| before.entries(&queue.name).expect("a queue").count())
        .sum();
    drop(before);

    let store = LogStore::open(directory.path(), OPTIONS).expect("a store always opens");
    let statistics = store.statistics();
    assert_eq!(statistics.entries, entries as u64);
    assert!(statistics.segments <= segments as u64 && statistics.damaged <= input.len() as u64 + 2);
    let (queue, _) = store.open_queue("a").expect("entries that can be read");
    let key = Key {
        space: Space::Message,
        id: u64::MAX,
    };
    let value = Bytes::from_static(b"value");
    let put = Operation::Put {
        queue,
        key,
        value: value.clone(),
    };
    let (tell, told) = channel();
    let done = move |result| tell.send(result).expect("somebody waits");
    store.commit(Durability::Disk, vec![put], Box::new(done));
    told.recv().expect("an answer").expect("a commit");
    let (_, recorded) = store.open_queue("a").expect("entries that can be read");
    drop(store);

    let store = LogStore::open(directory.path(), OPTIONS).expect("a store always opens");
    let (_, found) = store.open_queue("a").expect("entries that can be read");
    assert_eq!(found, recorded);
    assert!(
        found
            .iter()
            .any(|entry| entry.key == key && entry.value == value)
    );
}

/// The files: the input as it is, or the input as records of commits whose checks are right, with some damage.
fn segments(input: &[u8]) -> Vec<Vec<u8>> {
    let Some((kind, rest)) = input.split_first() else {
        return vec![Vec::new()];
    };
    match kind % 4 {
        0 => vec![rest.to_vec()],
        1 => {
            let mut segment = header(1, u32::MAX);
            segment.extend_from_slice(rest);
            vec![segment]
        }
        2 => vec![commits(1, u32::MAX, rest)],
        _ => {
            let (one, other) = rest.split_at(rest.len() / 2);
            let mut one = commits(1, u32::MAX, one);
            let end = u32::from(rest.first().copied().unwrap_or_default()) * 4;
            if let [.., at, bits] = rest {
                let at = usize::from(*at) * one.len() / 256;
                one[at] ^= bits;
            }
            vec![one, commits(2, end, other)]
        }
    }
}

fn header(number: u32, previous_end: u32) -> Vec<u8> {
    let mut header = b"paqueLOG".to_vec();
    for word in [1, number, previous_end, 0, 0] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

/// A segment whose commits hold pieces of the input: each starts with its length.
fn commits(number: u32, previous_end: u32, mut input: &[u8]) -> Vec<u8> {
    let mut segment = header(number, previous_end);
    while let Some((length, rest)) = input.split_first() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let words = [body.len() as u32, crc32c::crc32c(body)];
        let mut checked = [number, segment.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        checked.extend(words.map(u32::to_le_bytes).concat());
        segment.extend(words.map(u32::to_le_bytes).concat());
        segment.extend(crc32c::crc32c(&checked).to_le_bytes());
        segment.extend_from_slice(body);
        input = rest;
    }
    segment
}

#[test]
fn the_checks_made_here_are_those_of_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let queue = crc32c::crc32c(b"a").to_le_bytes();
    let records = [
        &[0][..],
        &queue,
        &[1, b'a', 0x11],
        &queue,
        &[7, 2, b'h', b'i'],
    ]
    .concat();
    let input = [&[records.len() as u8], &records[..]].concat();
    fs::write(
        directory.path().join("0000000001.segment"),
        commits(1, u32::MAX, &input),
    )
    .expect("a written file");
    let store = LogStore::open(directory.path(), OPTIONS).expect("a store always opens");
    let (_, entries) = store.open_queue("a").expect("entries that can be read");
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].key.id, &*entries[0].value), (7, &b"hi"[..]));
    assert_eq!(store.statistics().damaged, 0);
}
