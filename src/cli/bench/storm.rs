//! `bench storm`: all links lose their connections at once and come back at once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use paquebot::mqtt::session::CloseReason;
use paquebot::{Events, Link, LinkEvent};

use super::assertion::Kind;
use super::latency::Latencies;
use super::progress::Words;
use super::rig::Rig;
use super::server::TargetArgs;
use super::summary::{Opening, Pace, Summary};
use super::tally::Reading;
use super::{RunArgs, read_duration};
use crate::cli::CommandError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct StormArgs {
    /// Links that come back.
    #[arg(long, value_name = "LINKS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// What has not come back after this time has failed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = read_duration)]
    duration: Duration,
    #[command(flatten)]
    server: TargetArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// What became of one link.
struct Return {
    /// From the cut to CONNACK; `None`: the link stopped.
    connected: Option<Duration>,
    online: Instant,
}

impl StormArgs {
    pub(super) async fn run(&self) -> Result<Summary, CommandError> {
        self.run.check(self.count, &[Kind::Connect])?;
        if self.duration.is_zero() {
            return Err(CommandError::Usage(
                "--duration is the time that links have to come back; use more than 0s".to_owned(),
            ));
        }
        // No wait in the fleet is part of a latency.
        let mut rig = Rig::mount(&self.server, &self.run, self.count, self.count as usize)?;
        let group = self
            .server
            .group(&rig.server, &rig.fleet, "storm")?
            .build()
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let links = rig.open(&group, 0..self.count).await?;
        let events: Vec<_> = links.iter().map(Link::events).collect();
        let mut progress = rig.progress(Words {
            sent: None,
            ended: Some("back"),
            arrived: None,
        });

        let cut_at = Instant::now();
        for link in &links {
            link.reconnect();
        }
        let (count, back) = (u64::from(self.count), Cell::new(0_u64));
        let (mut returns, failures) = (Vec::new(), FailureCounts::default());
        {
            let coming = events
                .into_iter()
                .map(|events| come_back(events, cut_at, &failures));
            let mut coming: FuturesUnordered<_> = coming.collect();
            let collect = async {
                while let Some(one) = coming.next().await {
                    back.set(back.get() + 1);
                    returns.push(one);
                }
                std::future::pending().await
            };
            let read = || Reading {
                ended: back.get(),
                ..Reading::default()
            };
            let is_over =
                |reading: Reading| reading.ended >= count || cut_at.elapsed() >= self.duration;
            tokio::select! {
                () = collect => {}
                _ = rig.watch(&mut progress, read, is_over) => {}
            }
        }
        if let Some(progress) = progress {
            progress.end();
        }

        // What came after it, while somebody looked, has failed as well.
        let limit = cut_at + self.duration;
        returns.retain(|one| one.online <= limit);
        let mut connect = Latencies::new()
            .map_err(|error| CommandError::Failed(format!("cannot measure: {error}")))?;
        for latency in returns.iter().filter_map(|one| one.connected) {
            connect.record(latency);
        }
        let connected = returns.iter().filter(|one| one.connected.is_some());
        let connected = connected.count() as u64;
        let last = returns.iter().map(|one| one.online).max();
        let elapsed_s = last.map_or(0.0, |at| at.duration_since(cut_at).as_secs_f64());
        let achieved = connected as f64 / elapsed_s.max(1e-9);
        let (server, interrupted) = (rig.server.name(), rig.interrupted);
        rig.dismount().await;
        Ok(Summary {
            command: "storm",
            server,
            links: self.count,
            protocol_version: self.server.version().to_string(),
            pace: Pace::AtOnce,
            target_rate_per_s: None,
            achieved_rate_per_s: achieved,
            target_reached: None,
            elapsed_s,
            warmup_s: 0.0,
            interrupted,
            reconnects: connected,
            opening: Some(Opening {
                attempted: count,
                connected,
                failed: count - connected,
                failures: failures.0.into_inner(),
                lost_while_held: 0,
                held_s: 0.0,
                connects_per_s: achieved,
                late: None,
                connect: connect.percentiles(),
                connect_service: None,
            }),
            sending: None,
            arriving: None,
            assertions: Vec::new(),
        })
    }
}

/// Attempts that failed before a link was back, by reason.
#[derive(Default)]
struct FailureCounts(std::cell::RefCell<BTreeMap<String, u64>>);

impl FailureCounts {
    /// Different reasons that are told apart.
    const REASONS_MAX: usize = 32;

    fn note(&self, reason: &impl ToString) {
        let mut counts = self.0.borrow_mut();
        let mut reason = reason.to_string();
        if counts.len() >= Self::REASONS_MAX && !counts.contains_key(&reason) {
            "other".clone_into(&mut reason);
        }
        *counts.entry(reason).or_default() += 1;
    }
}

async fn come_back(mut events: Events, cut_at: Instant, failures: &FailureCounts) -> Return {
    let mut connected = None;
    loop {
        match events.next().await {
            Some(LinkEvent::Connected { .. }) => connected = Some(cut_at.elapsed()),
            Some(LinkEvent::ConnectFailed { error }) => failures.note(&error),
            Some(LinkEvent::Disconnected { reason }) if reason != CloseReason::Local => {
                failures.note(&reason);
            }
            Some(LinkEvent::Online) => break,
            Some(_) => {}
            None => {
                connected = None;
                break;
            }
        }
    }
    let online = Instant::now();
    Return { connected, online }
}
