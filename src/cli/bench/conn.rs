//! `bench conn`: opens links, holds them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Semaphore;

use super::assertion::Kind;
use super::opener::Opener;
use super::progress::Words;
use super::rig::Rig;
use super::schedule::Schedule;
use super::server::TargetArgs;
use super::summary::{Opening, Pace, Summary, reaches};
use super::{RunArgs, read_duration, read_rate};
use crate::cli::CommandError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct ConnArgs {
    /// Links to open.
    #[arg(long, value_name = "LINKS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Open loop: connects a second. Without it the next link opens when one before it is done.
    #[arg(long, value_name = "PER_SECOND", value_parser = read_rate)]
    rate: Option<f64>,
    /// Without --rate: links that open at once.
    #[arg(long, value_name = "LINKS", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    inflight: u16,
    /// How long to hold the links once all are open.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = read_duration)]
    duration: Duration,
    #[command(flatten)]
    server: TargetArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

impl ConnArgs {
    pub(super) async fn run(&self) -> Result<Summary, CommandError> {
        self.run.check(
            self.count,
            &[Kind::Connect, Kind::ConnectService, Kind::Late],
        )?;
        // The openers limit themselves, so that no wait in the fleet is part of a latency.
        let connects_max = self.count as usize;
        let mut rig = Rig::mount(&self.server, &self.run, self.count, connects_max)?;
        let group = self
            .server
            .group(&rig.server, &rig.fleet, "conn")?
            .build()
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let schedule = self.schedule();
        let closed_loop = Arc::new(Semaphore::new(self.inflight.into()));
        let under_way = self.rate.is_none().then_some(&closed_loop);
        let openers = (0..self.count)
            .map(|index| {
                Ok(Opener::new(
                    index,
                    schedule,
                    under_way,
                    rig.link(&group, index)?,
                ))
            })
            .collect::<Result<Vec<_>, CommandError>>()?;
        let drivers = rig.drive("bench-conn", openers, schedule)?;
        let control = Arc::clone(&drivers.control);
        let mut progress = rig.progress(Words {
            sent: Some("begun"),
            ended: Some("connected"),
            arrived: None,
        });
        let read = || control.reading();
        let count = u64::from(self.count);
        let is_open = |_| drivers.is_finished() || control.reading().settled >= count;
        let all_open = rig.watch(&mut progress, read, is_open).await;
        let held_from = Instant::now();
        if all_open {
            let is_held = |_| drivers.is_finished() || held_from.elapsed() >= self.duration;
            rig.watch(&mut progress, read, is_held).await;
        } else {
            control.close();
        }
        let held = held_from.elapsed();
        control.leave();
        let tally = drivers.join()?;
        if let Some(progress) = progress {
            progress.end();
        }
        let (server, interrupted) = (rig.server.name(), rig.interrupted);
        rig.dismount().await;
        let passed = |at: Option<Instant>| {
            at.map_or(0.0, |at| {
                at.saturating_duration_since(schedule.start).as_secs_f64()
            })
        };
        let counts = tally.counts;
        // At a rate the last link's own turn is part of the time.
        let nominal = self.rate.map_or(0.0, |rate| counts.sent as f64 / rate);
        let per_second = |count: u64, seconds: f64| count as f64 / seconds.max(1e-9);
        let achieved = match self.rate {
            Some(_) => per_second(counts.sent, nominal.max(passed(tally.last_sent))),
            None => per_second(counts.sent, passed(tally.last_outcome)),
        };
        let elapsed_s = nominal.max(passed(tally.last_outcome));
        Ok(Summary {
            command: "conn",
            server,
            links: self.count,
            protocol_version: self.server.version().to_string(),
            pace: if self.rate.is_some() {
                Pace::Open
            } else {
                Pace::Closed
            },
            target_rate_per_s: self.rate,
            achieved_rate_per_s: achieved,
            target_reached: self.rate.map(|rate| reaches(achieved, rate)),
            elapsed_s,
            warmup_s: 0.0,
            interrupted,
            reconnects: 0,
            opening: Some(Opening {
                attempted: counts.sent,
                connected: counts.connected,
                failed: counts.failed(),
                failures: counts.failures,
                lost_while_held: counts.lost,
                held_s: held.as_secs_f64(),
                connects_per_s: per_second(counts.connected, elapsed_s),
                late: self.rate.and_then(|_| tally.late.percentiles()),
                connect: tally.latency.percentiles(),
                connect_service: tally.service.percentiles(),
            }),
            sending: None,
            arriving: None,
            assertions: Vec::new(),
        })
    }

    fn schedule(&self) -> Schedule {
        let start = Instant::now();
        Schedule {
            start,
            counted_from: start,
            end: None,
            rate: self.rate,
            links: self.count,
            limit: None,
        }
    }
}
