//! Rows as child processes, and what a process can read about itself.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one row measured; several values of a name are several rounds.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.0.entry(name.to_owned()).or_default().push(value);
        self
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (name, values) in other.0 {
            self.0.entry(name).or_default().extend(values);
        }
    }

    pub(crate) fn median(&self, name: &str) -> f64 {
        let mut values = self.0.get(name).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn print(&self) {
        for (name, values) in &self.0 {
            for value in values {
                println!("{name} {value}");
            }
        }
    }
}

/// Runs a row in a process of its own.
pub(crate) fn measure(row: &str, links: usize, addresses: &[String]) -> Figures {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["measure", row, &links.to_string()])
        .args(addresses)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{row} failed");
    let mut figures = Figures::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (name, value) = line.split_once(' ').unwrap();
        figures = figures.with(name, value.parse().unwrap());
    }
    figures
}

/// A point in the life of this process.
pub(crate) struct Reading {
    at: Instant,
    cpu: Duration,
    rss_kib: f64,
}

impl Reading {
    /// Reads all but the CPU time of threads with this name.
    pub(crate) fn without_thread(name: Option<&str>) -> Self {
        Self {
            at: Instant::now(),
            cpu: cpu_time(name),
            rss_kib: rss_kib(),
        }
    }

    pub(crate) fn now() -> Self {
        Self::without_thread(None)
    }

    pub(crate) fn wall_to(&self, later: &Self) -> Duration {
        later.at - self.at
    }

    pub(crate) fn cpu_to(&self, later: &Self) -> Duration {
        later.cpu - self.cpu
    }

    pub(crate) fn kib_to(&self, later: &Self) -> f64 {
        later.rss_kib - self.rss_kib
    }
}

/// The figures of opening so many links: `started` before the first, `online` after the last, `idle` a while
/// later.
pub(crate) fn opening(
    links: usize,
    started: &Reading,
    online: &Reading,
    idle: &Reading,
) -> Figures {
    let links = links as f64;
    Figures::default()
        .with("kib", started.kib_to(idle) / links)
        .with("connects_s", links / started.wall_to(online).as_secs_f64())
        .with(
            "connect_cpu_us",
            started.cpu_to(online).as_secs_f64() * 1e6 / links,
        )
}

/// The figures of so many messages.
pub(crate) fn sending(messages: usize, started: &Reading, ended: &Reading) -> Figures {
    let messages = messages as f64;
    Figures::default()
        .with(
            "cpu_ns",
            started.cpu_to(ended).as_secs_f64() * 1e9 / messages,
        )
        .with(
            "wall_ns",
            started.wall_to(ended).as_secs_f64() * 1e9 / messages,
        )
}

/// Time that the threads of this process ran, those with the name `without` left out.
fn cpu_time(without: Option<&str>) -> Duration {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if without.is_some_and(|without| name.trim() == without) {
            continue;
        }
        let times = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        total += times
            .split_whitespace()
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Duration::from_nanos(total)
}

fn rss_kib() -> f64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:"));
    line.and_then(|line| line.split_whitespace().nth(1))
        .and_then(|value| value.parse().ok())
        .unwrap()
}
