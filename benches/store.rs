//! Question: what does it cost to record a message durably, and would a database do as well as the log?
//!
//! Command: `cargo bench --bench store` (`-- --records 200000` for a smaller run)
//!
//! Comparison: the log of `paquebot_actors::store` and redb behind the same trait and the same group commit by one thread,
//! each row in a process of its own, in turn, three rounds; values of 200 bytes in one queue. "sync 1, 100, 1000": commits of so
//! many puts (or removes), each waited for. "100 callers": single puts, 100 of them under way, which is what the group
//! commit is for. Memory is what the process holds more than before it opened the store, once with all records recorded and
//! once just recovered. Quote the ratios: how long a sync takes differs most between machines.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose records are not recorded measures nothing"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use paquebot_actors::store::{
    Completion, Durability, Entry, Key, LogStore, Operation, QueueId, Space, Store, StoreError,
    StoreOptions, StoreStatistics,
};
use redb::{Database, ReadableDatabase, TableDefinition};

const VALUE_BYTES: usize = 200;
const ROUNDS: usize = 3;
const ENGINES: [&str; 3] = ["log", "log, process", "redb"];
const COLUMNS: [&str; 11] = [
    "put, sync 1",
    "put, sync 100",
    "put, sync 1000",
    "put, 100 callers",
    "remove, sync 1000",
    "fill, sync 1000",
    "MiB held",
    "MiB on disk",
    "recovery, s",
    "MiB recovered",
    "KiB on disk, drained",
];

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--row") {
        let row = row(&arguments[at + 1], arguments[at + 2].parse().unwrap());
        let row: Vec<_> = row.iter().map(ToString::to_string).collect();
        return println!("{}", row.join(" "));
    }
    let records = arguments
        .iter()
        .position(|argument| argument == "--records");
    let records = records.map_or("1000000", |at| &arguments[at + 1]);
    let mut rounds: Vec<Vec<Vec<f64>>> = vec![Vec::new(); ENGINES.len()];
    for _ in 0..ROUNDS {
        for (engine, rows) in ENGINES.iter().zip(&mut rounds) {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--row", engine, records])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let text = String::from_utf8(output.stdout).unwrap();
            rows.push(
                text.split_whitespace()
                    .map(|figure| figure.parse().unwrap())
                    .collect(),
            );
        }
    }
    println!(
        "| {records} records of {VALUE_BYTES} bytes | {} |",
        ENGINES.join(" | ")
    );
    println!("|---|{}", "---|".repeat(ENGINES.len()));
    for (place, column) in COLUMNS.iter().enumerate() {
        let cells = rounds.iter().map(|rows| {
            let mut figures: Vec<_> = rows.iter().map(|row| row[place]).collect();
            figures.sort_by(f64::total_cmp);
            let [least, median, most] = [
                figures[0],
                figures[figures.len() / 2],
                figures[figures.len() - 1],
            ];
            format!("{} [{}..{}]", show(median), show(least), show(most))
        });
        println!("| {column} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn show(figure: f64) -> String {
    match figure {
        ..10.0 => format!("{figure:.2}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// All figures of an engine, in the order of the columns.
fn row(engine: &str, records: u64) -> Vec<f64> {
    let directory = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let durability = if engine == "log, process" {
        Durability::Process
    } else {
        Durability::Disk
    };
    let open = || -> Box<dyn Store> {
        match engine {
            "redb" => Box::new(RedbStore::open(&directory.path().join("store.redb"))),
            _ => Box::new(LogStore::open(directory.path(), StoreOptions::default()).unwrap()),
        }
    };
    let mut bench = Bench {
        durability,
        store: open(),
        queue: QueueId::new(0),
        next: 0,
        first: 0,
    };
    bench.queue = bench.store.open_queue("devices/dev-000123").unwrap().0;
    let short = Duration::from_millis(700);
    let mut figures = Vec::new();
    for batch in [1, 100, 1000] {
        figures.push(bench.rate(short, batch, Bench::put));
    }
    figures.push(bench.callers(short, 100));
    figures.push(bench.rate(short, 1000, Bench::remove));
    bench.empty();
    drop(bench.store);
    let before = resident();
    bench.store = open();
    bench.queue = bench.store.open_queue("devices/dev-000123").unwrap().0;
    let start = Instant::now();
    for _ in 0..records / 1000 {
        bench.put(1000);
    }
    figures.push(records as f64 / start.elapsed().as_secs_f64());
    figures.push((resident() - before) / 1024.0);
    bench.store.flush().unwrap();
    figures.push(on_disk(directory.path()) / 1024.0);
    drop(bench.store);
    let before = resident();
    let start = Instant::now();
    bench.store = open();
    let (queue, entries) = bench.store.open_queue("devices/dev-000123").unwrap();
    figures.push(start.elapsed().as_secs_f64());
    assert_eq!(entries.len() as u64, records / 1000 * 1000);
    drop(entries);
    bench.queue = queue;
    figures.push((resident() - before) / 1024.0);
    bench.empty();
    bench.store.flush().unwrap();
    // An idle store gives its space back.
    std::thread::sleep(Duration::from_secs(1));
    figures.push(on_disk(directory.path()));
    figures
}

struct Bench {
    durability: Durability,
    store: Box<dyn Store>,
    queue: QueueId,
    /// The identifiers that are recorded.
    first: u64,
    next: u64,
}

impl Bench {
    fn put_operation(&mut self) -> Operation {
        self.next += 1;
        Operation::Put {
            queue: self.queue,
            key: key(self.next - 1),
            value: Bytes::from(vec![self.next as u8; VALUE_BYTES]),
        }
    }

    fn put(&mut self, count: u64) -> bool {
        let operations = (0..count).map(|_| self.put_operation()).collect();
        self.commit(operations);
        true
    }

    fn remove(&mut self, count: u64) -> bool {
        let end = self.next.min(self.first + count);
        let remove = |id| Operation::Remove {
            queue: self.queue,
            key: key(id),
        };
        let operations: Vec<_> = (self.first..end).map(remove).collect();
        self.first = end;
        let is_more = operations.len() as u64 == count;
        self.commit(operations);
        is_more
    }

    fn empty(&mut self) {
        while self.remove(1000) {}
    }

    fn commit(&self, operations: Vec<Operation>) {
        let (tell, told) = channel();
        let done = move |result| tell.send(result).unwrap();
        self.store
            .commit(self.durability, operations, Box::new(done));
        told.recv().unwrap().unwrap();
    }

    /// Records a second in commits of so many.
    fn rate(&mut self, time: Duration, batch: u64, step: fn(&mut Self, u64) -> bool) -> f64 {
        let start = Instant::now();
        let mut records = 0;
        while start.elapsed() < time {
            records += batch;
            if !step(self, batch) {
                break;
            }
        }
        records as f64 / start.elapsed().as_secs_f64()
    }

    /// Records a second in commits of one, so many of them under way.
    fn callers(&mut self, time: Duration, count: usize) -> f64 {
        let (tell, told): (Sender<()>, Receiver<()>) = channel();
        let mut under_way = 0;
        let mut records = 0;
        let start = Instant::now();
        while start.elapsed() < time {
            while under_way < count {
                let operations = vec![self.put_operation()];
                let tell = tell.clone();
                let done = move |result: Result<(), StoreError>| {
                    result.unwrap();
                    tell.send(()).unwrap();
                };
                self.store
                    .commit(self.durability, operations, Box::new(done));
                under_way += 1;
            }
            told.recv().unwrap();
            let ended = 1 + told.try_iter().count();
            under_way -= ended;
            records += ended;
        }
        let rate = records as f64 / start.elapsed().as_secs_f64();
        told.iter().take(under_way).for_each(drop);
        rate
    }
}

fn key(id: u64) -> Key {
    Key {
        space: Space::Message,
        id,
    }
}

/// KiB of memory that this process has.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure
        .and_then(|figure| figure.parse().ok())
        .unwrap_or(f64::NAN)
}

/// KiB of files in a directory, the log's reserve left out.
fn on_disk(directory: &Path) -> f64 {
    let files = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.file_name() != "reserve");
    files
        .map(|file| file.metadata().unwrap().len() as f64 / 1024.0)
        .sum()
}

type Waiting = (Vec<Operation>, Completion);

const TABLE: TableDefinition<'_, (u32, u8, u64), &[u8]> = TableDefinition::new("entries");

/// The same promises from redb: one thread commits what has gathered in one transaction.
#[derive(Debug)]
struct RedbStore {
    database: Arc<Database>,
    inbox: Mutex<Option<Sender<Waiting>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RedbStore {
    fn open(path: &Path) -> Self {
        // As much cache as the log has: little.
        let database = Database::builder()
            .set_cache_size(16 << 20)
            .create(path)
            .unwrap();
        let database = Arc::new(database);
        let (inbox, waiting) = channel::<Waiting>();
        let thread = {
            let database = Arc::clone(&database);
            std::thread::spawn(move || Self::run(&database, &waiting))
        };
        Self {
            database,
            inbox: Mutex::new(Some(inbox)),
            thread: Some(thread),
        }
    }

    fn run(database: &Database, waiting: &Receiver<Waiting>) {
        while let Ok(first) = waiting.recv() {
            let mut group = VecDeque::from([first]);
            group.extend(waiting.try_iter().take(10_000));
            let transaction = database.begin_write().unwrap();
            let mut table = transaction.open_table(TABLE).unwrap();
            for operation in group.iter().flat_map(|(operations, _)| operations) {
                match operation {
                    Operation::Put { queue, key, value } => {
                        table
                            .insert((queue.get(), key.space as u8, key.id), &**value)
                            .unwrap();
                    }
                    Operation::Remove { queue, key } => {
                        table
                            .remove((queue.get(), key.space as u8, key.id))
                            .unwrap();
                    }
                }
            }
            drop(table);
            transaction.commit().unwrap();
            for (_, done) in group {
                done(Ok(()));
            }
        }
    }
}

impl Store for RedbStore {
    fn open_queue(&self, _name: &str) -> Result<(QueueId, Vec<Entry>), StoreError> {
        let queue = QueueId::new(1);
        let transaction = self.database.begin_read().unwrap();
        let Ok(table) = transaction.open_table(TABLE) else {
            return Ok((queue, Vec::new()));
        };
        let range = table.range((1, 0, 0)..(2, 0, 0)).unwrap();
        let entries = range.map(|entry| {
            let (entry_key, value) = entry.unwrap();
            Entry {
                key: key(entry_key.value().2),
                value: Bytes::copy_from_slice(value.value()),
            }
        });
        Ok((queue, entries.collect()))
    }

    fn commit(&self, _durability: Durability, operations: Vec<Operation>, done: Completion) {
        let inbox = self.inbox.lock().unwrap();
        inbox.as_ref().unwrap().send((operations, done)).unwrap();
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    fn statistics(&self) -> StoreStatistics {
        StoreStatistics::default()
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.inbox.lock().unwrap().take();
        self.thread.take().unwrap().join().unwrap();
    }
}
