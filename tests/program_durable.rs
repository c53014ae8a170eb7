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

use bytes::Bytes;
use paquebot::Durability;
use paquebot::store::{Key, LogStore, Operation, Space, Store as _, StoreOptions};
use serde_json::Value;
use tempfile::TempDir;

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

/// The numbers that the referee received, by topic and run.
type Heard = BTreeMap<(String, String), Vec<u64>>;

/// Adds the numbers that the referee receives: at most so many, and as long as some come.
fn listen(referee: &mut Subscriber, max: usize, quiet: Duration, heard: &mut Heard) {
    for _ in 0..max {
        let Some(message) = referee.receive_within(quiet) else {
            return;
        };
        let text = String::from_utf8(message.payload).unwrap();
        let (number, run) = text.split_once(' ').unwrap();
        let numbers = heard.entry((message.topic, run.to_owned())).or_default();
        numbers.push(number.parse().unwrap());
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
    let mut heard = Heard::new();

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
    assert_eq!(heard.len(), 2 * 10);
    // What the first process accepted, and then the second one's, which count anew.
    for ((topic, _), numbers) in heard {
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

/// A store with one message, whatever it says, in each of these queues.
fn store_with(queues: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), StoreOptions::default()).unwrap();
    for name in queues {
        let (queue, _) = store.open_queue(name).unwrap();
        let key = Key {
            space: Space::Message,
            id: 1,
        };
        let value = Bytes::from_static(b"?");
        let put = Operation::Put { queue, key, value };
        store.commit(Durability::Process, vec![put], Box::new(Result::unwrap));
    }
    store.close();
    folder
}

#[test]
fn a_queue_that_is_not_there_is_not_exported_and_names_near_it_are_told() {
    let store = store_with(&["lab/boiler", "lab/pump"]);
    let store = store.path().to_str().unwrap();
    let slip = queue(&["export", store, "--queue", "lab/bioler"]);
    assert_eq!((slip.code(), &*slip.output), (2, ""), "{slip:?}");
    assert!(
        slip.errors.contains("did you mean \"lab/boiler\"?"),
        "{slip:?}"
    );
    let there = queue(&["export", store, "--queue", "lab/boiler"]);
    assert_eq!((there.code(), there.output.lines().count()), (0, 1));
    let empty = store_with(&[]);
    let empty = empty.path().to_str().unwrap();
    let none = queue(&["export", empty, "--queue", "lab/boiler"]);
    assert_eq!((none.code(), &*none.output), (2, ""), "{none:?}");
    let all = queue(&["export", empty]);
    assert_eq!((all.code(), &*all.output), (0, ""), "{all:?}");
    assert_eq!(queue(&["verify", empty]).code(), 0);
}

#[test]
fn a_queue_without_a_device_is_marked_and_removed_once_that_is_confirmed() {
    let store = store_with(&["lab/d0", "lab/d9", "lab/d77", "attic/d0"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    let text = "[platforms.broker]\nkind = \"mqtt\"\nendpoint = \"mqtt://localhost\"\n\
                [models.meter]\ninterval = \"1s\"\npayload = 'x'\n\
                [[groups]]\nname = \"lab\"\nplatform = \"broker\"\nmodel = \"meter\"\n\
                count = 10\nid = \"d{{index}}\"\n";
    write_file(&file, text, 0o644);
    let (file, store) = (file.to_str().unwrap(), store.path().to_str().unwrap());
    let marked = |sets: &[&str]| {
        let arguments = ["ls", store, "--json", "-f", file];
        let ended = queue(&[&arguments, sets].concat());
        assert_eq!(ended.code(), 0, "{ended:?}");
        let lines = ended.output.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (
                line["queue"].to_string(),
                line["has_device"].as_bool().unwrap(),
            )
        });
        let without = lines.filter(|(_, has_device)| !has_device);
        without.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(marked(&[]), r#""attic/d0" "lab/d77""#);
    assert_eq!(marked(&["--set", "groups.lab.count=100"]), r#""attic/d0""#);
    let text = queue(&["ls", store, "-f", file]).output;
    assert!(text.contains("lab/d77  (no device has it)\n"), "{text}");
    assert!(text.contains("lab/d9\n"), "{text}");
    assert!(text.contains("2 queues without a device"), "{text}");

    let asked = queue(&["rm", store, "lab/d77"]);
    assert_eq!(asked.code(), 2, "{asked:?}");
    assert!(asked.errors.contains("holds 1 message"), "{asked:?}");
    assert!(asked.errors.contains("--yes"), "{asked:?}");
    let slip = queue(&["rm", store, "lab/d78", "--yes"]);
    assert_eq!(slip.code(), 2, "{slip:?}");
    assert!(slip.errors.contains("\"lab/d77\""), "{slip:?}");
    {
        let _open = LogStore::open(store, StoreOptions::default()).unwrap();
        let locked = queue(&["rm", store, "lab/d77", "--yes"]);
        assert_eq!(locked.code(), 2, "{locked:?}");
        assert!(
            locked.errors.contains("in use by another process"),
            "{locked:?}"
        );
    }
    assert_eq!(marked(&[]), r#""attic/d0" "lab/d77""#);

    let removed = queue(&["rm", store, "lab/d77", "--yes"]);
    assert_eq!(removed.code(), 0, "{removed:?}");
    assert!(removed.output.contains("removed 1 message"), "{removed:?}");
    assert_eq!(marked(&[]), r#""attic/d0""#);
    let left = queue(&["ls", store]).output;
    assert_eq!(left.lines().count(), 1 + 3, "{left}");
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let store = store_with(&["lab/d0"]);
    let store = store.path().to_str().unwrap();
    let arguments = ["queue", "rm", store, "lab/d0", "--yes"];
    let ended = Program::start_with(&[("PAQUEBOT_LOG", "debug")], arguments).finish(LIMIT);
    assert!(ended.errors.contains("opened the store"), "{ended:?}");
    assert!(!ended.errors.contains('\u{1b}'), "{ended:?}");
}
