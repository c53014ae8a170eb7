//! The publishing process as its parent sees it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use paquebot::Totals;
use paquebot::mqtt::Version;
use serde_json::Value;

use crate::support::judge::{Judge, Verdict};
use crate::support::wait;

/// What it said it was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Its link runs.
    has_started: bool,
    /// Numbers of accepted messages of QoS 1 and QoS 2.
    pub(crate) accepted: [Vec<u64>; 2],
    pub(crate) totals: Option<Totals>,
}

/// How it is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Start<'a> {
    pub(crate) port: u16,
    pub(crate) version: Version,
    pub(crate) durability: &'a str,
    /// What a durable queue is kept in.
    pub(crate) folder: &'a Path,
    pub(crate) first: u64,
    pub(crate) rate: u64,
    pub(crate) keep_alive_seconds: u64,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// A running process. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Publisher {
    child: Child,
    told: Arc<Mutex<Told>>,
    reading: Option<JoinHandle<()>>,
}

impl Publisher {
    pub(crate) fn start(how: &Start<'_>) -> Self {
        let version = match how.version {
            Version::V311 => "3.1.1",
            Version::V5 => "5",
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("child")
            .args(["--port", &how.port.to_string()])
            .args(["--version", version])
            .args(["--durability", how.durability])
            .args(["--folder", &how.folder.display().to_string()])
            .args(["--first", &how.first.to_string()])
            .args(["--rate", &how.rate.to_string()])
            .args(["--keep-alive", &how.keep_alive_seconds.to_string()])
            .envs(how.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = Arc::new(Mutex::new(Told::default()));
        let (book, output) = (Arc::clone(&told), child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                note(&mut book.lock().unwrap(), &line);
            }
        });
        Self {
            child,
            told,
            reading: Some(reading),
        }
    }

    /// How many messages it had accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.told
            .lock()
            .unwrap()
            .accepted
            .iter()
            .map(Vec::len)
            .sum()
    }

    /// Waits until its link runs. A message may have to wait for room behind what the store held.
    #[track_caller]
    pub(crate) fn wait_for_start(&self, limit: Duration) {
        wait::until("the process has started", limit, || {
            self.told.lock().unwrap().has_started
        });
    }

    /// Waits until it has had another message accepted.
    #[track_caller]
    pub(crate) fn wait_for_another(&self, limit: Duration) {
        let before = self.accepted();
        wait::until("another message is accepted", limit, || {
            self.accepted() > before
        });
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "kill -s {name}"
        );
    }

    /// Kills it, and gives all that it was told before.
    pub(crate) fn kill(mut self) -> Told {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.into_told()
    }

    /// Has it drain and end by itself, and gives all that it was told.
    pub(crate) fn finish(mut self) -> Told {
        drop(self.child.stdin.take());
        let limit = Duration::from_secs(90);
        let status = wait::until_some("the process ended", limit, || {
            self.child.try_wait().unwrap()
        });
        assert!(status.success(), "{status}");
        self.into_told()
    }

    fn into_told(mut self) -> Told {
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn note(told: &mut Told, line: &str) {
    let mut words = line.splitn(2, ' ');
    match (words.next(), words.next()) {
        (Some("a"), Some(rest)) => {
            // The last line of a killed process may be cut: a number that is cut is another number.
            if let Some((qos, number)) = rest.split_once(' ')
                && let (Ok(qos @ 1..=2), Ok(number)) = (qos.parse::<usize>(), number.parse())
            {
                told.accepted[qos - 1].push(number);
            }
        }
        (Some("s"), None) => told.has_started = true,
        (Some("t"), Some(json)) => {
            let terms: Value = serde_json::from_str(json).unwrap();
            let term = |name: &str| terms[name].as_u64().unwrap();
            told.totals = Some(Totals {
                accepted: term("accepted"),
                delivered: term("delivered"),
                rejected: term("rejected"),
                expired: term("expired"),
                dropped: term("dropped"),
                held: terms["held"].as_i64().unwrap(),
                recovered: term("recovered"),
                merged: term("merged"),
                kept: term("kept"),
                connects: term("connects"),
                disconnects: term("disconnects"),
                ..Totals::default()
            });
        }
        _ => {}
    }
}

/// Judges numbers with gaps: what was accepted has to be there; what was not told of as accepted may be.
pub(crate) async fn judged(
    judge: &Judge,
    accepted: &[Vec<u64>; 2],
    limit: Duration,
) -> [Verdict; 3] {
    let began = std::time::Instant::now();
    loop {
        let mut verdicts = [Verdict::default(); 3];
        for qos in [1, 2] {
            let heard = judge.numbers(&format!("course/child/{qos}"));
            verdicts[qos].add(&heard, u64::MAX);
            let there: std::collections::HashSet<u64> = heard.into_iter().collect();
            let accepted = &accepted[qos - 1];
            verdicts[qos].sent = accepted.len() as u64;
            let lost = accepted.iter().filter(|number| !there.contains(number));
            verdicts[qos].lost = lost.count() as u64;
        }
        if verdicts[1].lost + verdicts[2].lost == 0 || began.elapsed() > limit {
            return verdicts;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
