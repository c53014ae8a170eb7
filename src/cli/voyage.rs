//! Runs a prepared simulation to its end: watches it, ends it when told to, drains it, sums it up. Shared by
//! `run` and `demo`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use paquebot::Fleet;

use super::CommandError;
use super::live::Live;
use super::summary::{Ending, Failures, Summary};
use crate::simulation::Simulation;

/// How often the state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much longer than its deadline a drain may take before it counts as stuck: closing a thousand
/// connections takes a moment.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// Exit status of a process that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// What runs.
pub(crate) struct Voyage {
    pub(crate) name: String,
    pub(crate) fleet: Fleet,
    pub(crate) simulation: Simulation,
    pub(crate) devices: usize,
    pub(crate) duration: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    /// How often the server was restarted on purpose, counted by who does it.
    pub(crate) restarts: Arc<AtomicU64>,
}

/// Ctrl-C and SIGTERM, which mean the same.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// The system does not give them.
    pub(crate) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for one of them.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Voyage {
    /// Runs until the time is over, enough was sent or a signal comes, then drains. `None`: a second signal
    /// cut the drain short.
    pub(crate) async fn run(self, signals: &mut Signals, mut live: Live) -> Option<Summary> {
        let started = Instant::now();
        let mut online_peak = 0;
        let ending = self.watch(signals, &mut live, &mut online_peak).await;
        let at_end = self.fleet.totals();
        let duration = started.elapsed();
        let online_peak = online_peak.max(count(at_end.online));

        live.set_activity("draining");
        if ending == Ending::Signal {
            live.say("draining; once more to leave at once");
        }
        let draining = Instant::now();
        // Where nobody ever came online there is nothing to wait for.
        let deadline = if at_end.connects == 0 {
            Duration::ZERO
        } else {
            self.drain_timeout
        };
        let outcome = {
            let drain = async {
                self.simulation.quiesce(deadline).await;
                let left = deadline.saturating_sub(draining.elapsed());
                let drain = self.fleet.drain(left);
                tokio::time::timeout(left + DRAIN_GRACE, drain)
                    .await
                    .is_ok()
            };
            tokio::pin!(drain);
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    complete = &mut drain => break Some(complete),
                    () = signals.next() => break None,
                    _ = look.tick() => live.tick(&self.fleet, self.simulation.tally()),
                }
            }
        };
        live.finish();
        let drain_incomplete = !outcome?;
        let tally = self.simulation.tally();
        let metrics = self.fleet.metrics();
        let summary = Summary {
            fleet: self.name,
            devices: self.devices as u64,
            online_peak,
            online_at_end: count(at_end.online),
            totals: self.fleet.totals(),
            dropped_by_reason: metrics.dropped_by_reason(),
            telemetry: tally.telemetry(),
            skipped: tally.skipped(),
            refused: tally.refused(),
            reports: tally.reports(),
            jobs: tally.jobs(),
            latency: tally.latency(),
            failures: Failures::collect(metrics.failures()),
            planned_restarts: self.restarts.load(Ordering::Relaxed),
            ending,
            duration,
            drain: draining.elapsed(),
            drain_incomplete,
        };
        self.simulation.join();
        Some(summary)
    }

    async fn watch(&self, signals: &mut Signals, live: &mut Live, online_peak: &mut u64) -> Ending {
        let time_is_over = async {
            match self.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let tally = self.simulation.tally();
        let limit_reached = tally.limit_reached();
        tokio::pin!(time_is_over, limit_reached);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = &mut time_is_over => return Ending::Duration,
                () = &mut limit_reached => return Ending::Limit,
                () = signals.next() => return Ending::Signal,
                _ = look.tick() => {
                    *online_peak = (*online_peak).max(count(self.fleet.totals().online));
                    live.tick(&self.fleet, tally);
                }
            }
        }
    }
}

/// Writes the summary of a run and says how the process ends.
///
/// # Errors
/// Writing failed, or the run was no good: the error says why.
pub(crate) fn conclude(
    summary: Option<&Summary>,
    json: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, CommandError> {
    let Some(summary) = summary else {
        let _ = writeln!(io::stderr().lock(), "left at once; nothing is summed up");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if json {
        writeln!(out, "{}", summary.as_json())?;
    } else {
        write!(out, "{}", summary.as_text())?;
    }
    out.flush()?;
    if summary.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    let problem = if summary.never_online() {
        let reasons = summary.failures.lines();
        let reasons = if reasons.is_empty() {
            "there was no time for an attempt".to_owned()
        } else if json {
            reasons.join("; ")
        } else {
            // Once is enough for people.
            "the failures in the summary say why".to_owned()
        };
        format!("not one device came online: {reasons}")
    } else if summary.drain_incomplete {
        "some links did not end in time; this is a bug, please report it".to_owned()
    } else {
        "the messages do not add up; this is a bug, please report it".to_owned()
    };
    Err(CommandError::Failed(problem))
}

/// The runtime that watches; the devices have threads of their own.
///
/// # Errors
/// The system gives no event loop.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(format!("cannot set up the event loop: {error}")))
}

fn count(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}
