//! A process that sleeps for many keep alives, and wall clocks that jump.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use paquebot::mqtt::Version;

use crate::arguments::Arguments;
use crate::course::Findings;
use crate::publisher::{Publisher, Start, judged};
use crate::support::client::off_the_runtime;
use crate::support::judge::Judge;
use crate::support::mosquitto::{Mosquitto, Persistence};
use crate::support::wait;

const KEEP_ALIVE_SECONDS: u64 = 2;

/// How long a process may take to be online after it was woken.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// What the wall clock is told, as offsets that libfaketime reads.
const JUMPS: [&str; 5] = ["+1h", "-1h", "+10y", "-10y", "+0"];

pub(crate) async fn course(
    findings: &mut Findings,
    arguments: &Arguments,
    version: Version,
) -> Result<(), String> {
    let runs = arguments.number("runs", 10)?;
    let rate = arguments.number("rate", 400)?;
    let server = crate::mosquitto(Persistence::Off).await.unwrap();
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let faketime = faketime();
    let (offset, store) = (folder.path().join("offset"), folder.path().join("store"));
    set_clock(&offset, "+0");
    let environment = match &faketime {
        None => Vec::new(),
        Some(library) => vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // A jump of the wall clock alone, as when somebody sets it.
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
    };
    findings.figure(
        "wall_clock_jumps",
        if faketime.is_some() { JUMPS.len() } else { 0 },
    );
    if faketime.is_none() {
        eprintln!(
            "left out: jumps of the wall clock; libfaketime is not installed (package faketime)"
        );
    }
    let how = Start {
        port: server.plain_port(),
        version,
        durability: "memory",
        folder: &store,
        first: 0,
        rate,
        keep_alive_seconds: KEEP_ALIVE_SECONDS,
        environment,
    };
    let publisher = Publisher::start(&how);
    let (told, server, slowest, connections) = off_the_runtime(move || {
        publisher.wait_for_another(BACK_WITHIN);
        let mut slowest = Duration::ZERO;
        for _ in 0..runs {
            slowest = slowest.max(sleep_once(&publisher, &server));
        }
        let before = connections_in(&server);
        if faketime.is_some() {
            for jump in JUMPS {
                set_clock(&offset, jump);
                std::thread::sleep(Duration::from_secs(KEEP_ALIVE_SECONDS * 2));
                publisher.wait_for_another(BACK_WITHIN);
            }
        }
        let more = connections_in(&server) - before;
        (publisher.finish(), server, slowest, more)
    })
    .await;
    findings.faults = runs;
    findings.figure("back_within_seconds", slowest.as_secs_f64());
    findings.expect(slowest <= BACK_WITHIN, format!("a return took {slowest:?}"));
    findings.expect(
        connections == 0,
        format!("jumps of the wall clock cost {connections} connections"),
    );
    let verdicts = judged(&judge, &told.accepted, Duration::from_secs(20)).await;
    findings.judge(told.totals.unwrap_or_default(), verdicts);
    drop(server);
    Ok(())
}

/// Puts the process to sleep until the broker has given it up, wakes it, and tells how long it took to come back.
fn sleep_once(publisher: &Publisher, server: &Mosquitto) -> Duration {
    let before = connections_in(server);
    publisher.signal("STOP");
    std::thread::sleep(Duration::from_secs(KEEP_ALIVE_SECONDS * 3));
    publisher.signal("CONT");
    let woken = Instant::now();
    wait::until("it is back", BACK_WITHIN * 2, || {
        connections_in(server) > before
    });
    let took = woken.elapsed();
    publisher.wait_for_another(BACK_WITHIN);
    took
}

/// How often the process came online, by the broker's word.
fn connections_in(server: &Mosquitto) -> usize {
    server.log().matches(" as child (").count()
}

fn set_clock(file: &Path, offset: &str) {
    std::fs::write(file, offset).unwrap();
}

fn faketime() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
        "/usr/local/lib",
    ];
    let libraries = folders.map(|folder| Path::new(folder).join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|library| library.is_file())
}
