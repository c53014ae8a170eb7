//! The broker dies for a while, and everybody wants back at once.

use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot::{BackoffConfig, Fleet, Link};

use crate::arguments::Arguments;
use crate::course::{Findings, group, publish_next};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, start_in};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Persistence;

/// Everybody is back within this time of the broker: the longest delay by default, and a moment to connect.
const BACK_WITHIN: Duration = Duration::from_secs(125);

/// No second brings more links than this many times the mean of the seconds that bring [`MOST`] of them. The last ones,
/// who drew the longest delays, come one by one for a minute: a mean over that says nothing of a herd.
const PEAK_MAX: f64 = 3.0;

/// The share of the links that the mean is of.
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
    let connects_before = fleet.totals().connects;
    server = off_the_runtime(move || {
        server.restart();
        server
    })
    .await;
    let (up, mut buckets, mut last) = (Instant::now(), Vec::new(), connects_before);
    let back = loop {
        // A bucket is a second by the clock, whatever a look takes.
        let next = up + Duration::from_secs(buckets.len() as u64 + 1);
        tokio::time::sleep_until(next.into()).await;
        let totals = fleet.totals();
        buckets.push(totals.connects - last);
        last = totals.connects;
        if totals.online >= wanted {
            break Some(up.elapsed());
        }
        if up.elapsed() > BACK_WITHIN {
            break None;
        }
    };
    let peak = buckets.iter().copied().max().unwrap_or(0);
    let most = MOST * count as f64;
    let mut so_far = 0.0;
    let seconds = buckets.iter().take_while(|bucket| {
        let is_before = so_far < most;
        so_far += **bucket as f64;
        is_before
    });
    let seconds = seconds.count().max(1);
    let mean = most / seconds as f64;
    findings.figure("seconds_for_most", seconds);
    findings.figure("connects_in_each_second", buckets);
    findings.figure("peak_to_mean", peak as f64 / mean);
    findings.figure("back_after_seconds", back.map(|back| back.as_secs_f64()));
    findings.expect(
        back.is_some(),
        format!("all are back within {BACK_WITHIN:?}"),
    );
    findings.expect(
        peak as f64 <= PEAK_MAX * mean,
        format!("{peak} in one second are more than {PEAK_MAX} times {mean}"),
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

/// User and system time of this process.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
