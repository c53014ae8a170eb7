//! `bench pub`: publishes and waits for outcomes.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;

use super::assertion::Kind;
use super::progress::Words;
use super::rig::{Rig, load_settings};
use super::schedule::Schedule;
use super::sender::{Load, Publisher, Sender};
use super::server::TargetArgs;
use super::summary::{Pace, Sending, Summary, reaches};
use super::tally::Tally;
use super::{LoadArgs, RunArgs, SIZE_MAX};
use crate::cli::CommandError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct PubArgs {
    /// Links that publish.
    #[arg(long, value_name = "LINKS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// A file whose contents are every message, as they are. Without it messages are numbers, times and filler of --size.
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    server: TargetArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

impl PubArgs {
    pub(super) async fn run(&self) -> Result<Summary, CommandError> {
        self.run
            .check(self.count, &[Kind::Ack, Kind::AckService, Kind::Late])?;
        let own = self.payload.as_deref().map(read_payload).transpose()?;
        let payload_bytes = own.as_ref().map_or(self.load.size, Bytes::len);
        let inflight = self.load.inflight(100);
        let mut rig = Rig::mount(&self.server, &self.run, self.count, 512)?;
        rig.server.check_qos(self.load.qos)?;
        let group = self.server.group(&rig.server, &rig.fleet, "pub")?;
        let group = load_settings(group, &self.load, inflight)
            .build()
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let topics = (0..self.count)
            .map(|index| rig.topic(&self.load.topic, index, payload_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let links = rig.open(&group, 0..self.count).await?;
        let schedule = rig.schedule(&self.load, self.count);
        let load = self.load.of_run(&rig, schedule, inflight);
        let publishers = (0..)
            .zip(links.into_iter().zip(topics))
            .map(|(index, (link, topic))| {
                let sender = Sender::new(link, topic, index, load);
                Publisher::new(sender.with_payload(own.clone()))
            })
            .collect();
        let drivers = rig.drive("bench-pub", publishers, schedule)?;
        let mut progress = rig.progress(Words {
            sent: Some("sent"),
            ended: Some("answered"),
            arrived: None,
        });
        let control = &drivers.control;
        let stopped_at = rig
            .await_senders(&drivers, &mut progress, || control.reading())
            .await;
        let tally = drivers.join()?;
        if let Some(progress) = progress {
            progress.end();
        }
        let span = Span::of(&schedule, &tally, rig.interrupted.then_some(stopped_at));
        let mut summary = self
            .load
            .summary("pub", &rig, &self.server, self.count, span, &tally);
        let mut sending = self.load.sending(inflight, span, &tally);
        sending.size_bytes = payload_bytes;
        summary.sending = Some(sending);
        summary.reconnects = rig.dismount().await.saturating_sub(self.count.into());
        Ok(summary)
    }
}

fn read_payload(file: &Path) -> Result<Bytes, CommandError> {
    let refuse = |problem: &dyn Display| {
        CommandError::Usage(format!("--payload {}: {problem}", file.display()))
    };
    let opened = File::open(file).map_err(|error| refuse(&error))?;
    let mut payload = Vec::new();
    // What is no plain file does not say its length, and may have no end.
    opened
        .take(SIZE_MAX as u64 + 1)
        .read_to_end(&mut payload)
        .map_err(|error| refuse(&error))?;
    if payload.len() > SIZE_MAX {
        return Err(refuse(&"a message has 128 MiB at the most"));
    }
    Ok(payload.into())
}

/// How long a run lasted, warm-up aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The time in which messages were sent.
    sending: Duration,
    /// The same, up to the last outcome if that was later.
    answering: Duration,
    /// The same, up to the last arrival.
    pub(super) arriving: Duration,
}

impl Span {
    pub(super) fn of(schedule: &Schedule, tally: &Tally, interrupted_at: Option<Instant>) -> Self {
        let from = schedule.counted_from;
        let since = |at: Option<Instant>| {
            at.map_or(Duration::ZERO, |at| at.saturating_duration_since(from))
        };
        let is_full = schedule
            .limit
            .is_some_and(|limit| tally.counts.sent >= limit);
        let sending = match (interrupted_at, schedule.end, schedule.rate) {
            (Some(at), ..) => since(Some(at)),
            (None, Some(end), _) if !is_full => since(Some(end)),
            // At a rate the last message's own turn is part of the time.
            (None, _, Some(rate)) => {
                let nominal = Duration::try_from_secs_f64(tally.counts.sent as f64 / rate);
                nominal.unwrap_or_default().max(since(tally.last_sent))
            }
            (None, _, None) => since(tally.last_outcome.max(tally.last_sent)),
        };
        Self {
            sending,
            answering: sending.max(since(tally.last_outcome)),
            arriving: sending.max(since(tally.last_arrival)),
        }
    }
}

impl LoadArgs {
    pub(super) fn of_run(&self, rig: &Rig, schedule: Schedule, inflight: u16) -> Load {
        Load {
            schedule,
            clock: rig.clock,
            run: rig.run,
            qos: self.qos,
            size: self.size,
            window: inflight.into(),
        }
    }

    /// A summary with everything that all commands that send have.
    pub(super) fn summary(
        &self,
        command: &'static str,
        rig: &Rig,
        server: &TargetArgs,
        links: u32,
        span: Span,
        tally: &Tally,
    ) -> Summary {
        let achieved = per_second(tally.counts.sent, span.sending);
        Summary {
            command,
            server: rig.server.name(),
            links,
            protocol_version: server.version().to_string(),
            pace: if self.rate.is_some() {
                Pace::Open
            } else {
                Pace::Closed
            },
            target_rate_per_s: self.rate,
            achieved_rate_per_s: achieved,
            target_reached: self.rate.map(|rate| reaches(achieved, rate)),
            elapsed_s: span.sending.as_secs_f64(),
            warmup_s: self.warmup.as_secs_f64(),
            interrupted: rig.interrupted,
            reconnects: 0,
            opening: None,
            sending: None,
            arriving: None,
            assertions: Vec::new(),
        }
    }

    pub(super) fn sending(&self, inflight: u16, span: Span, tally: &Tally) -> Sending {
        let counts = &tally.counts;
        let ended = counts.delivered + counts.rejected + counts.expired + counts.dropped;
        Sending {
            qos: self.qos as u8,
            size_bytes: self.size,
            inflight,
            sent: counts.sent,
            delivered: counts.delivered,
            rejected: counts.rejected,
            expired: counts.expired,
            dropped: counts.dropped,
            unanswered: counts.sent.saturating_sub(ended),
            unsent: counts.unsent,
            delivered_rate_per_s: per_second(counts.delivered, span.answering),
            late: self.rate.and_then(|_| tally.late.percentiles()),
            ack: tally.latency.percentiles(),
            ack_service: tally.service.percentiles(),
        }
    }
}

pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    count as f64 / time.as_secs_f64()
}
