//! The broker dies for a while, and everybody wants back at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot::{BackoffConfig, Fleet, Link};
use paquebot_protocols::backoff::{Backoff, FailureClass};

use crate::arguments::Arguments;
use crate::course::{Findings, group, publish_next};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, start_in};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Persistence;

/// Everybody is back within this time of the broker: the longest delay by default, and a moment to connect.
const BACK_WITHIN: Duration = Duration::from_secs(125);

/// How often the counter of connects is looked at. A second is so many looks, wherever it begins.
const LOOK: Duration = Duration::from_millis(50);

const LOOKS_A_SECOND: usize = 20;

/// The share of the links whose return the mean is of. The last ones, who drew the longest delays, come one by one: a
/// mean over that says nothing of a herd.
const MOST: f64 = 0.95;

pub(crate) async fn course(
    findings: &mut Findings,
    arguments: &Arguments,
    version: Version,
) -> Result<(), String> {
    let count = arguments.number("links", 5_000)?;
    let down = arguments.seconds("down", 30)?;
    findings.figure("links", count);
    let mut server = crate::mosquitto(Persistence::On).await.unwrap();
    let judge = Judge::start(&server.plain(), "judge", "course/#", 1).await;
    let fleet = Fleet::builder().start().unwrap();
    // The defaults of the runtime: they are what is tried here.
    let group = group(&fleet, server.plain_port(), version)
        .backoff(BackoffConfig::default())
        .build()
        .unwrap();
    let links: Vec<Link> = (0..count)
        .map(|n| start_in(&group, &format!("s{n:05}")))
        .collect();
    let wanted = i64::try_from(count).unwrap();
    let deadline = Instant::now() + BACK_WITHIN;
    while fleet.totals().online < wanted {
        if Instant::now() > deadline {
            return Err(format!("only {} came online", fleet.totals().online));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let away_since = Instant::now();
    server = off_the_runtime(move || {
        // In order, so that the judge's session is there when the first link is.
        server.stop();
        server
    })
    .await;
    findings.faults = 1;
    let mut sent = Sent::default();
    for link in &links {
        drop(publish_next(link, &mut sent, paquebot::mqtt::QoS::AtLeastOnce).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (cpu, since) = (processor_seconds(), Instant::now());
    tokio::time::sleep(down.saturating_sub(Duration::from_secs(1))).await;
    let share = (processor_seconds() - cpu) / since.elapsed().as_secs_f64();
    findings.figure("processor_share_while_down", share);
    let restarting = tokio::spawn(off_the_runtime(move || {
        server.restart();
        server
    }));
    let connects_before = fleet.totals().connects;
    let (mut up, mut looks, mut last) = (None, Vec::new(), connects_before);
    let mut ticks = tokio::time::interval(LOOK);
    let back = loop {
        ticks.tick().await;
        let totals = fleet.totals();
        // From the first one on: before it nobody could come.
        if up.is_none() && totals.connects > connects_before {
            up = Some(Instant::now());
        }
        if let Some(up) = up {
            looks.push(totals.connects - last);
            last = totals.connects;
            if totals.online >= wanted {
                break Some(up.elapsed());
            }
        }
        if away_since.elapsed() > down + BACK_WITHIN {
            break None;
        }
    };
    server = restarting.await.unwrap();
    let away = up.unwrap_or(away_since) - away_since;
    let (peak, ratio) = (peak(&looks), ratio(&looks, count));
    let (peak_expected, ratio_expected) = expected(count, away);
    findings.figure("away_seconds", away.as_secs_f64());
    let seconds = looks.chunks(LOOKS_A_SECOND);
    findings.figure(
        "connects_in_each_second",
        seconds
            .map(|looks| looks.iter().sum())
            .collect::<Vec<u64>>(),
    );
    findings.figure("peak", peak);
    findings.figure("peak_expected", peak_expected);
    findings.figure("peak_to_mean", ratio);
    findings.figure("peak_to_mean_expected", ratio_expected);
    findings.figure("back_after_seconds", back.map(|back| back.as_secs_f64()));
    findings.expect(
        back.is_some(),
        format!("all are back within {BACK_WITHIN:?}"),
    );
    // Chance alone makes the busiest second of one run as much busier as this, hardly ever more.
    let bar = 1.2 * peak_expected + 4.0 * peak_expected.sqrt();
    findings.expect(
        peak as f64 <= bar,
        format!("{peak} in one second, when full jitter makes it {peak_expected} and chance at most {bar}"),
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while fleet.totals().held > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(30)).await;
    findings.judge(totals, verdicts);
    drop(server);
    Ok(())
}

/// What full jitter by itself brings: the busiest second, and it beside the mean, of a fleet that lost its server at
/// once and for so long. The arithmetic is the runtime's; nothing of its sockets and threads is in it.
fn expected(count: u64, away: Duration) -> (f64, f64) {
    const ROUNDS: u32 = 20;
    let config = Arc::new(BackoffConfig::default());
    let (mut peaks, mut ratios) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        let mut looks = Vec::new();
        for _ in 0..count {
            let mut backoff = Backoff::new(Arc::clone(&config));
            let mut elapsed = Duration::ZERO;
            while elapsed < away {
                elapsed += backoff.failure(FailureClass::Transient, fastrand::f64());
            }
            let look = (elapsed - away).div_duration_f64(LOOK) as usize;
            if looks.len() <= look {
                looks.resize(look + 1, 0);
            }
            looks[look] += 1;
        }
        peaks += peak(&looks) as f64;
        ratios += ratio(&looks, count);
    }
    (peaks / f64::from(ROUNDS), ratios / f64::from(ROUNDS))
}

/// What came in the busiest second, wherever it begins.
fn peak(looks: &[u64]) -> u64 {
    let seconds = looks.windows(LOOKS_A_SECOND.min(looks.len().max(1)));
    seconds.map(|looks| looks.iter().sum()).max().unwrap_or(0)
}

/// The busiest second beside the mean of the time that brought [`MOST`].
fn ratio(looks: &[u64], count: u64) -> f64 {
    let most = MOST * count as f64;
    let mut so_far = 0.0;
    let time = looks.iter().take_while(|look| {
        let is_before = so_far < most;
        so_far += **look as f64;
        is_before
    });
    let seconds = time.count().max(1) as f64 / LOOKS_A_SECOND as f64;
    peak(looks) as f64 / (most / seconds)
}

/// User and system time of this process.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
