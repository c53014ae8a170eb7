//! A durable outbox through the program: `run` that is killed and started again, and `queue`, which looks into what
//! is left. The referee is a Mosquitto with an independent subscriber.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use paquebot::store::{LogStore, StoreOptions};
use serde_json::Value;

#[path = "support/support.rs"]
mod support;

use support::certs::write_file;
use support::client::Subscriber;
use support::mosquitto::{Mosquitto, Persistence};
use support::program::{Ended, Program, assert_accounted_for};

const LIMIT: Duration = Duration::from_secs(60);

fn fleet_file(folder: &Path, broker: &Mosquitto, qos: u8) -> String {
    let path = folder.join("fleet.toml");
    let text = format!(
        r#"
outbox = "disk"
[fleet]
drain_timeout = "20s"
[platforms.broker]
kind = "mqtt"
endpoint = "mqtt://{}"
reconnect = {{ base = "50ms", max = "200ms" }}
[models.meter]
interval = "20ms"
qos = {qos}
payload = '{{{{seq}}}} first'
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = 10
id = "d{{{{index}}}}"
"#,
        broker.plain_address()
    );
    write_file(&path, &text, 0o644);
    path.to_str().unwrap().to_owned()
}

fn queue(arguments: &[&str]) -> Ended {
    let program = Program::start(["queue"].iter().chain(arguments));
    program.finish(LIMIT)
}

/// Adds the numbers of the first run that the referee receives: at most so many, and as long as some come.
fn listen(
    referee: &mut Subscriber,
    max: usize,
    quiet: Duration,
    heard: &mut BTreeMap<String, Vec<u64>>,
) {
    for _ in 0..max {
        let Some(message) = referee.receive_within(quiet) else {
            return;
        };
        let text = String::from_utf8(message.payload).unwrap();
        if let Some(number) = text.strip_suffix(" first") {
            let numbers = heard.entry(message.topic).or_default();
            numbers.push(number.parse().unwrap());
        }
    }
}

fn a_fleet_that_was_killed_goes_on_where_it_was(qos: u8) {
    let setup = Mosquitto::setup().plain().persistence(Persistence::On);
    let Some(mut broker) = setup.line("max_queued_messages 0").start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = fleet_file(folder.path(), &broker, qos);
    let store = folder.path().join("outbox");
    let store = store.to_str().unwrap();
    let level = qos.to_string();
    let topic = "devices/+/telemetry";
    let arguments = ["-c", "-i", "referee", "-t", topic, "-q", &level];
    let mut referee = Subscriber::start(&broker.plain(), &arguments);
    let mut heard = BTreeMap::new();

    let first = Program::start(["run", "-f", &file, "--no-admin"]);
    let started = Instant::now();
    while heard.values().map(Vec::len).sum::<usize>() < 100 {
        assert!(started.elapsed() < LIMIT, "{}", first.errors());
        listen(&mut referee, 50, Duration::from_millis(100), &mut heard);
    }
    let locked = queue(&["ls", store]);
    assert_eq!(locked.code(), 2, "{locked:?}");
    assert!(
        locked.errors.contains("in use by another process"),
        "{locked:?}"
    );
    broker.stop();
    thread::sleep(Duration::from_millis(500));
    first.signal("KILL");
    let _ = first.finish(LIMIT);

    let sound = queue(&["verify", store]);
    assert_eq!(sound.code(), 0, "{sound:?}");
    assert!(queue(&["ls", store]).output.contains("lab/d3\n"));
    let export = queue(&["export", store]).output;
    let messages: Vec<Value> = export
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &Value| entry["kind"] == "message")
        .collect();
    assert!(messages.len() > 10, "{export}");

    broker.restart();
    let second = [
        "run",
        "-f",
        &file,
        "--no-admin",
        "--json",
        "--duration",
        "2s",
    ];
    let other = ["--set", "models.meter.payload={{seq}} second"];
    let summary = Program::start(second.iter().chain(&other))
        .finish(LIMIT)
        .summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["recovered"], messages.len(), "{summary}");
    assert_eq!(summary["kept"], 0, "{summary}");
    assert_eq!(summary["dropped"], 0, "{summary}");
    listen(&mut referee, usize::MAX, Duration::from_secs(2), &mut heard);
    assert_eq!(heard.len(), 10);
    for (topic, numbers) in heard {
        let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
        let (first, last) = (distinct.first().unwrap(), distinct.last().unwrap());
        assert_eq!(
            distinct.len() as u64,
            last - first + 1,
            "{topic}: {numbers:?}"
        );
        assert!(*first <= 1, "{topic}: {numbers:?}");
        if qos == 2 {
            assert_eq!(numbers.len(), distinct.len(), "{topic}: {numbers:?}");
        }
    }
    assert_eq!(queue(&["ls", store]).output.lines().count(), 1);
}

#[test]
fn a_fleet_that_was_killed_goes_on_where_it_was_at_qos_1() {
    a_fleet_that_was_killed_goes_on_where_it_was(1);
}

#[test]
fn a_fleet_that_was_killed_goes_on_where_it_was_at_qos_2_without_doubles() {
    a_fleet_that_was_killed_goes_on_where_it_was(2);
}

#[test]
fn queue_says_what_is_wrong_with_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none");
    let ended = queue(&["ls", nowhere.to_str().unwrap()]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("none"), "{ended:?}");
    for command in ["ls", "verify", "export"] {
        let empty = queue(&[command, folder.path().to_str().unwrap()]);
        assert_eq!((empty.code(), &*empty.output), (2, ""));
        assert!(empty.errors.contains("no store here"), "{empty:?}");
    }
}

#[test]
fn a_queue_that_holds_nothing_is_exported_as_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), StoreOptions::default()).unwrap();
    drop(store);
    let folder = folder.path().to_str().unwrap();
    let empty = queue(&["export", folder, "--queue", "lab/d1"]);
    assert_eq!((empty.code(), &*empty.output), (0, ""), "{empty:?}");
    assert!(
        empty.errors.contains("\"lab/d1\" holds nothing"),
        "{empty:?}"
    );
    assert_eq!(queue(&["verify", folder]).code(), 0);
}
