//! `kill -9` of a process that publishes, again and again.

use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot_emulator::{Conditions, Proxy, Toward};

use crate::arguments::Arguments;
use crate::child::durability;
use crate::course::Findings;
use crate::publisher::{Publisher, Start, judged};
use crate::support::client::off_the_runtime;
use crate::support::judge::Judge;
use crate::support::mosquitto::Persistence;

/// Between the numbers of one process and of the next: more than it can have published without telling.
const GAP: u64 = 1_000;

/// How long a process may take until its link runs, with all that the store held.
const START_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn course(
    all: &mut Findings,
    arguments: &Arguments,
    versions: &[Version],
) -> Result<(), String> {
    let runs = arguments.number("runs", 500)?;
    let rate = arguments.number("rate", 2_000)?;
    let durabilities = match arguments.text("durability") {
        None => vec!["process", "disk"],
        Some(name) => vec![name],
    };
    let mut rng = fastrand::Rng::with_seed(all.seed);
    for name in durabilities {
        durability(name)?;
        for version in versions {
            let findings = one(*version, name, runs, rate, &mut rng).await;
            all.merge(findings);
        }
    }
    Ok(())
}

async fn one(
    version: Version,
    name: &str,
    runs: u64,
    rate: u64,
    rng: &mut fastrand::Rng,
) -> Findings {
    let mut findings = Findings::new("kill", 0);
    findings.figure("version", version.to_string());
    findings.figure("durability", name);
    let server = crate::mosquitto(Persistence::Off).await.unwrap();
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    // A way that takes its time, so that something is on it whenever the process dies.
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    for toward in [Toward::Server, Toward::Client] {
        let latency = Duration::from_millis(5);
        proxy.set(
            toward,
            Conditions {
                latency,
                ..Conditions::default()
            },
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let mut accepted = [Vec::new(), Vec::new()];
    let (mut first, mut slowest) = (0, Duration::ZERO);
    let mut totals = None;
    for run in 0..=runs {
        let how = Start {
            port: proxy.port(),
            version,
            durability: name,
            folder: folder.path(),
            first,
            rate,
            keep_alive_seconds: 60,
            environment: Vec::new(),
        };
        let began = Instant::now();
        let publisher = Publisher::start(&how);
        let life = Duration::from_millis(rng.u64(5..=500));
        let is_last = run == runs;
        let (told, started) = off_the_runtime(move || {
            publisher.wait_for_start(Duration::from_secs(30));
            let started = began.elapsed();
            publisher.wait_for_another(Duration::from_secs(30));
            std::thread::sleep(life);
            let told = if is_last {
                publisher.finish()
            } else {
                publisher.kill()
            };
            (told, started)
        })
        .await;
        slowest = slowest.max(started);
        for (all, new) in accepted.iter_mut().zip(&told.accepted) {
            all.extend_from_slice(new);
        }
        let highest = accepted
            .iter()
            .filter_map(|numbers| numbers.iter().max())
            .max();
        // Even numbers go out at QoS 1.
        first = (highest.copied().unwrap_or(0) + GAP) & !1;
        findings.faults += u64::from(!is_last);
        totals = told.totals;
    }
    findings.figure("started_within_seconds", slowest.as_secs_f64());
    findings.expect(slowest <= START_WITHIN, format!("a start took {slowest:?}"));
    let limit = if name == "memory" { 2 } else { 30 };
    let mut verdicts = judged(&judge, &accepted, Duration::from_secs(limit)).await;
    if name == "memory" {
        // What a process holds in memory dies with it: that is what it promises.
        for (qos, name) in [(1, "lost_qos1_of_killed"), (2, "lost_qos2_of_killed")] {
            findings.figure(name, verdicts[qos].lost);
            verdicts[qos].lost = 0;
        }
    }
    findings.judge(totals.unwrap_or_default(), verdicts);
    findings
}
