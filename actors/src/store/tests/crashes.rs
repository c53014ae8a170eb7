//! Random operations on a disk that fails, a crash at a random point, and what has to be there afterwards.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fastrand::Rng;

use super::super::log::{Commit, Log};
use super::super::shared::Shared;
use super::super::{Durability, Key, Operation, QueueId, Space, StoreError, StoreOptions};
use super::simulated::SimulatedDisk;

const QUEUES: [&str; 3] = ["one", "two", "three"];

/// Seeds of a usual run; `PAQUEBOT_STORE_SEEDS` asks for more, `PAQUEBOT_STORE_SEED` for one.
const SEEDS: u64 = 200;

/// A commit, what it asked for and how it ended.
type Told = (u64, Durability, Result<(), StoreError>);

type Name = (&'static str, Key);

/// The values that a key was given, the latest last, and what became of that.
type History = Vec<Change>;

#[derive(Clone)]
struct Change {
    commit: u64,
    value: Option<Bytes>,
    is_accepted: bool,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.is_accepted { "" } else { " refused" };
        let value = self.value.as_ref().map(|value| value.slice(..8));
        write!(formatter, "{}{mark}: {value:?}", self.commit)
    }
}

struct Run {
    random: Rng,
    disk: SimulatedDisk,
    log: Log,
    queues: Vec<QueueId>,
    histories: BTreeMap<Name, History>,
    commits: u64,
    /// Everything accepted up to this commit is on the disk.
    durable: u64,
    /// Commits of several puts, by what they put.
    batches: Vec<(u64, Vec<Name>)>,
}

fn open(disk: &SimulatedDisk, options: StoreOptions) -> Log {
    let shared = Shared::new(PathBuf::from("simulated"), Box::new(disk.clone()));
    Log::open(Arc::new(shared), options).expect("a store always opens")
}

fn contents(log: &Log) -> BTreeMap<Name, Bytes> {
    let mut found = BTreeMap::new();
    for name in QUEUES {
        let (queue, _) = log.shared.index().open(name);
        let places = log.shared.index().entries(queue);
        let entries = log.shared.read(&places).unwrap().unwrap();
        assert!(entries.is_sorted_by_key(|entry| entry.key));
        found.extend(
            entries
                .into_iter()
                .map(|entry| ((name, entry.key), entry.value)),
        );
    }
    found
}

impl Run {
    fn new(seed: u64, options: StoreOptions) -> Self {
        let disk = SimulatedDisk::new(seed);
        let log = open(&disk, options);
        Self::with(Rng::with_seed(seed), disk, log, BTreeMap::new())
    }

    fn with(random: Rng, disk: SimulatedDisk, log: Log, found: BTreeMap<Name, Bytes>) -> Self {
        let queues = QUEUES
            .iter()
            .map(|name| log.shared.index().open(name).0)
            .collect();
        let change = |value| Change {
            commit: 0,
            value: Some(value),
            is_accepted: true,
        };
        Self {
            random,
            disk,
            log,
            queues,
            histories: found
                .into_iter()
                .map(|(name, value)| (name, vec![change(value)]))
                .collect(),
            commits: 0,
            durable: 0,
            batches: Vec::new(),
        }
    }

    fn name(&mut self) -> Name {
        let key = Key {
            space: *self.random.choice(&Space::ALL[..3]).unwrap(),
            id: self.random.u64(0..24),
        };
        (QUEUES[self.random.usize(0..3)], key)
    }

    /// One group of commits.
    fn group(&mut self) {
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let mut group = Vec::new();
        let first = self.commits + 1;
        for _ in 0..self.random.usize(1..5) {
            self.commits += 1;
            let commit = self.commits;
            let durability = *self
                .random
                .choice(&[Durability::Process, Durability::Disk])
                .unwrap();
            let operations = self.operations();
            let told = Arc::clone(&told);
            group.push(Commit {
                durability,
                operations,
                done: Box::new(move |result| {
                    told.lock().unwrap().push((commit, durability, result));
                }),
            });
        }
        let bytes = group.iter().map(Commit::bytes).sum();
        self.log.commit(group);
        let told = std::mem::take(&mut *told.lock().unwrap());
        let order: Vec<_> = told.iter().map(|(commit, ..)| *commit).collect();
        assert_eq!(
            order,
            (first..=self.commits).collect::<Vec<_>>(),
            "each once and in order"
        );
        for (commit, durability, result) in &told {
            if result.is_err() {
                let changes = self.histories.values_mut().flatten();
                for change in changes.filter(|change| change.commit == *commit) {
                    change.is_accepted = false;
                }
            } else if *durability == Durability::Disk {
                self.durable = self.commits;
            }
        }
        if told.iter().any(|(.., result)| result.is_ok()) {
            // Whatever was thrown away was written again first.
            self.disk.forgive();
        }
        let (is_idle, is_time) = (self.random.u8(0..8) == 0, self.random.u8(0..4) == 0);
        self.log.maintain(bytes, is_idle, is_time);
    }

    fn operations(&mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        let mut names = Vec::new();
        let only_puts = self.random.bool();
        for _ in 0..self.random.usize(1..5) {
            let name = self.name();
            if names.contains(&name) {
                continue;
            }
            let queue = self.queues[QUEUES.iter().position(|queue| *queue == name.0).unwrap()];
            let value = (only_puts || self.random.bool()).then(|| {
                // A number that tells it from all others, and some bytes more.
                let number = self.random.u32(..);
                Bytes::from(format!(
                    "{number:08x}{}",
                    ".".repeat(self.random.usize(0..400))
                ))
            });
            self.histories.entry(name).or_default().push(Change {
                commit: self.commits,
                value: value.clone(),
                is_accepted: true,
            });
            names.push(name);
            operations.push(match value {
                Some(value) => Operation::Put {
                    queue,
                    key: name.1,
                    value,
                },
                None => Operation::Remove { queue, key: name.1 },
            });
        }
        if only_puts {
            self.batches.push((self.commits, names));
        }
        operations
    }

    /// Asserts that what is found is what may be found.
    fn check(&self, found: &BTreeMap<Name, Bytes>, is_power_lost: bool, context: &str) {
        let promised = if is_power_lost {
            self.durable
        } else {
            u64::MAX
        };
        for (name, history) in &self.histories {
            let is_promised = |change: &Change| change.is_accepted && change.commit <= promised;
            let since = history.iter().rposition(is_promised);
            let mut allowed: Vec<_> = history[since.unwrap_or(0)..]
                .iter()
                .map(|change| &change.value)
                .collect();
            if since.is_none() {
                allowed.push(&None);
            }
            let value = found.get(name).cloned();
            assert!(
                allowed.contains(&&value),
                "{context}, power lost {is_power_lost}: {name:?} is {:?}, promised is {promised}, {history:?}",
                value.as_ref().map(|value| value.slice(..8))
            );
        }
        for name in found.keys() {
            assert!(
                self.histories.contains_key(name),
                "{context}: {name:?} was never put"
            );
        }
        for (commit, names) in &self.batches {
            let is_last = |name: &&Name| {
                self.histories[*name]
                    .last()
                    .is_some_and(|last| last.commit == *commit)
            };
            if names.iter().all(|name| is_last(&name)) {
                let is_there = |name: &&Name| {
                    found.get(*name) == self.histories[*name].last().unwrap().value.as_ref()
                };
                let there = names.iter().filter(is_there).count();
                assert!(
                    there == 0 || there == names.len(),
                    "{context}: half of commit {commit}"
                );
            }
        }
    }
}

fn run(seed: u64) {
    let mut random = Rng::with_seed(seed ^ 0x5eed);
    let options = StoreOptions::default()
        .segment_bytes(*random.choice(&[4 << 10, 8 << 10, 32 << 10]).unwrap())
        .reserve_bytes(*random.choice(&[0, 2 << 10, 8 << 10]).unwrap());
    let mut run = Run::new(seed, options);
    let has_faults = random.bool();
    let mut was_power_lost = false;
    for life in 0..4 {
        let context = format!("seed {seed}, life {life}");
        run.disk.crash_after(random.u64(1..600));
        if has_faults {
            let start = random.u64(0..200);
            let kinds = [
                io::ErrorKind::Other,
                io::ErrorKind::ReadOnlyFilesystem,
                io::ErrorKind::StorageFull,
            ];
            run.disk.fail(
                start..start + random.u64(1..20),
                *random.choice(&kinds).unwrap(),
            );
            if random.bool() {
                run.disk
                    .set_capacity(run.disk.used() + random.usize(0..20_000));
            }
        }
        while !run.disk.has_crashed() {
            run.group();
        }
        let is_power_lost = random.bool();
        was_power_lost |= is_power_lost;
        let disk = run.disk.survivors(is_power_lost);
        drop(run.log);
        let log = open(&disk, options);
        let found = contents(&log);
        let rest = Run { log, ..run };
        // What only the failed disk and this process had is gone with both.
        let is_lost = is_power_lost || rest.disk.has_forgotten();
        rest.check(&found, is_lost, &context);
        let statistics = rest.log.shared.index().statistics();
        assert_eq!(statistics.entries, found.len() as u64, "{context}");
        if !has_faults && !was_power_lost {
            assert_eq!(statistics.damaged, 0, "{context}");
        }
        run = Run::with(rest.random, disk, rest.log, found);
    }
    // Without faults everything goes well, and the log stays small.
    for _ in 0..100 {
        run.group();
    }
    let is_refused = |change: &&Change| !change.is_accepted;
    assert_eq!(
        run.histories
            .values()
            .flatten()
            .find(is_refused)
            .map(|change| change.commit),
        None
    );
    while run.log.has_surplus() {
        run.log.maintain(0, false, true);
    }
    let statistics = run.log.shared.index().statistics();
    let bound = 2 * statistics.live_bytes + 2 * u64::from(options.segment_bytes);
    assert!(
        statistics.bytes <= bound + 8 * 1024,
        "seed {seed}: {statistics:?}"
    );
    run.log.finish();
    let disk = run.disk.survivors(true);
    run.log = open(&disk, options);
    let found = contents(&run.log);
    run.durable = u64::MAX;
    run.check(&found, true, &format!("seed {seed}, at the end"));
}

#[test]
fn what_is_committed_survives_every_crash_and_what_is_removed_stays_away() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    if let Some(seed) = number("PAQUEBOT_STORE_SEED") {
        return run(seed);
    }
    for seed in 0..number("PAQUEBOT_STORE_SEEDS").unwrap_or(SEEDS) {
        run(seed);
    }
}
