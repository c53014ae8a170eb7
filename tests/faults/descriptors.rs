//! A process that may open no more files: links wait for their turn, nothing panics or spins, and those that can
//! come online do when files are free again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{Fleet, Link, LinkState, Publish};

use crate::course::group;
use crate::mosquitto;
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, soon, start_in, until};
use crate::support::mosquitto::Persistence;

/// Where the process with the limit finds its server.
const PORT: &str = "PAQUEBOT_TEST_PORT";

/// Files that the process with the limit may open.
const FILES: u32 = 64;

/// More links than that.
const LINKS: usize = 100;

/// Links that fit.
const FITTING: usize = 30;

/// How long the processor time is looked at.
const WATCHED: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_process_without_files_left_neither_panics_nor_spins_and_recovers() {
    let Some(server) = mosquitto(Persistence::Off).await else {
        return;
    };
    let port = server.plain_port().to_string();
    off_the_runtime(move || watch_the_process_with_the_limit(&port)).await;
}

fn watch_the_process_with_the_limit(port: &str) {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {FILES}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("descriptors::the_process_with_the_limit")
        .env(PORT, port)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = |wanted: &str| {
        lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains(wanted))
            .unwrap_or_else(|| panic!("the process ended before it was {wanted}"))
    };
    line("exhausted");
    let before = processor_time(child.id());
    std::thread::sleep(WATCHED);
    let used = processor_time(child.id()) - before;
    assert!(used < WATCHED / 5, "{used:?} of {WATCHED:?} without work");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"free some\n").unwrap();
    line("recovered");
    assert!(child.wait().unwrap().success());
}

/// User and system time of a process.
fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name, in parentheses, may hold spaces; user time is the twelfth field behind it, in hundredths of a second.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
#[ignore = "a_process_without_files_left_neither_panics_nor_spins_and_recovers starts it under a limit"]
async fn the_process_with_the_limit() {
    let Ok(port) = std::env::var(PORT) else {
        return;
    };
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let backoff = paquebot::BackoffConfig {
        base: Duration::from_millis(100),
        max: Duration::from_millis(500),
        ..paquebot::BackoffConfig::default()
    };
    let group = group(&fleet, port.parse().unwrap(), Version::V5).backoff(backoff);
    let group = group.build().unwrap();
    let mut links: Vec<Link> = (0..LINKS)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    until("no more files can be opened", || {
        let totals = fleet.totals();
        totals.online >= FITTING as i64 && totals.backoff > 0
    })
    .await;
    println!("exhausted");
    off_the_runtime(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    })
    .await;
    let began = Instant::now();
    // Those that are online go first, so that others get their files.
    links.sort_by_key(|link| link.state() != LinkState::Online);
    let kept = links.split_off(LINKS - FITTING);
    for link in &links {
        link.stop().await;
    }
    for link in &kept {
        soon("it is online", link.online()).await.unwrap();
        let message = Publish::new("free", "x").unwrap();
        let receipt = link.publish(message.with_qos(QoS::AtLeastOnce)).await;
        let outcome = soon("it is delivered", receipt.unwrap()).await;
        assert!(outcome.is_delivered(), "{outcome:?}");
    }
    drain(&fleet).await;
    println!("recovered in {:?}", began.elapsed());
}
