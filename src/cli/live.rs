//! What a run shows while it runs, on standard error: a view that stays in place on a terminal, a plain
//! line every few seconds elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use paquebot::{Fleet, Totals};

use super::check::grouped;
use super::summary::{Failures, ms};
use crate::simulation::{Latency, Tally};

/// Between two looks at the terminal's view.
const VIEW_EVERY: Duration = Duration::from_millis(500);

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// Kinds of failure that are shown at once.
const FAILURES_SHOWN: usize = 3;

/// The display.
pub(crate) struct Live {
    view: Option<ProgressBar>,
    devices: u64,
    started: Instant,
    shown_at: Instant,
    shown: Totals,
    failures_shown: u64,
    activity: &'static str,
    /// How often the server was restarted on purpose.
    restarts: Arc<AtomicU64>,
}

impl Live {
    pub(crate) fn new(devices: u64) -> Self {
        let view = io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(4);
            let style = ProgressStyle::default_spinner();
            // The template is a constant; the default style would only look different.
            let style = style
                .template("{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        let now = Instant::now();
        Self {
            view,
            devices,
            started: now,
            shown_at: now,
            shown: Totals::default(),
            failures_shown: 0,
            activity: "running",
            restarts: Arc::default(),
        }
    }

    /// The same where somebody restarts the server on purpose, and counts it: what the devices see of it is told as
    /// planned.
    pub(crate) fn with_restarts(mut self, restarts: &Arc<AtomicU64>) -> Self {
        self.restarts = Arc::clone(restarts);
        self
    }

    /// Shows where the run stands, if it is time for it.
    pub(crate) fn tick(&mut self, fleet: &Fleet, tally: &Tally) {
        let every = if self.view.is_some() {
            VIEW_EVERY
        } else {
            LINE_EVERY
        };
        let now = Instant::now();
        let elapsed = now.duration_since(self.shown_at);
        if elapsed < every {
            return;
        }
        let totals = fleet.totals();
        let failures = Failures::collect(fleet.metrics().failures());
        let status = Status {
            totals,
            out_per_s: rate(totals.delivered, self.shown.delivered, elapsed),
            in_per_s: rate(totals.received, self.shown.received, elapsed),
            latency: tally.take_recent_latency(),
        };
        match &self.view {
            Some(view) => {
                view.set_message(self.view_text(&status, &failures));
            }
            None => self.print_line(&status, &failures),
        }
        self.shown_at = now;
        self.shown = totals;
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        self.teller().say(line);
    }

    /// For others who have something to say meanwhile.
    pub(crate) fn teller(&self) -> Teller {
        Teller(self.view.clone())
    }

    /// What the run is doing now.
    pub(crate) fn set_activity(&mut self, activity: &'static str) {
        self.activity = activity;
    }

    /// Takes the view away, to make room for the summary.
    pub(crate) fn finish(self) {
        if let Some(view) = self.view {
            view.finish_and_clear();
        }
    }

    fn is_planned(&self) -> bool {
        self.restarts.load(Ordering::Relaxed) > 0
    }

    fn view_text(&self, status: &Status, failures: &Failures) -> String {
        let totals = &status.totals;
        let mut text = format!(
            "{} for {:.0} s\n\
             devices    {} online, {} connecting, {} waiting, {} failed, of {}\n\
             messages   {:.0}/s out, {:.0}/s in; {} delivered, {} held, {} dropped, {} rejected, {} expired\n\
             latency    {}\n\
             commands   {} answered; {} reconnects",
            self.activity,
            self.started.elapsed().as_secs_f64(),
            grouped_i(totals.online),
            grouped_i(totals.connecting),
            grouped_i(totals.backoff + totals.idle),
            grouped_i(totals.failed),
            grouped(self.devices),
            status.out_per_s,
            status.in_per_s,
            grouped(totals.delivered),
            grouped_i(totals.held),
            grouped(totals.dropped),
            grouped(totals.rejected),
            grouped(totals.expired),
            latency_text(status.latency),
            grouped(totals.commands_answered),
            grouped(totals.reconnects),
        );
        let is_planned = self.is_planned();
        for (title, line) in shown(failures, is_planned) {
            let _ = write!(text, "\n{title:<10} {line}");
        }
        text
    }

    fn print_line(&mut self, status: &Status, failures: &Failures) {
        let totals = &status.totals;
        print_line(&format!(
            "{:>5.0} s  {}: {} of {} online; {:.0}/s out, {:.0}/s in; latency {}; {} commands answered; {} reconnects; {} held",
            self.started.elapsed().as_secs_f64(),
            self.activity,
            grouped_i(totals.online),
            grouped(self.devices),
            status.out_per_s,
            status.in_per_s,
            latency_text(status.latency),
            grouped(totals.commands_answered),
            grouped(totals.reconnects),
            grouped_i(totals.held),
        ));
        // Old failures are not told again.
        if failures.count() > self.failures_shown {
            self.failures_shown = failures.count();
            let is_planned = self.is_planned();
            for (title, line) in shown(failures, is_planned) {
                print_line(&format!("         {title}: {line}"));
            }
        }
    }
}

/// Failures, with what they are.
fn shown(
    failures: &Failures,
    is_planned: bool,
) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let (planned, failures) = failures.told(is_planned);
    let planned = planned.into_iter().map(|line| ("planned", line));
    let failures = failures.into_iter().map(|line| ("failures", line));
    planned.chain(failures).take(FAILURES_SHOWN)
}

/// Says lines beside the display of a run.
pub(crate) struct Teller(Option<ProgressBar>);

impl Teller {
    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        match &self.0 {
            Some(view) => view.println(line),
            None => print_line(line),
        }
    }
}

/// What changes from one look to the next.
struct Status {
    totals: Totals,
    out_per_s: f64,
    in_per_s: f64,
    latency: Option<Latency>,
}

fn rate(now: u64, before: u64, elapsed: Duration) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown without decimals"
    )]
    let messages = now.saturating_sub(before) as f64;
    messages / elapsed.as_secs_f64().max(1e-3)
}

fn latency_text(latency: Option<Latency>) -> String {
    latency.map_or_else(
        || "not measured".to_owned(),
        |latency| format!("p50 {} ms, p99 {} ms", ms(latency.p50), ms(latency.p99)),
    )
}

/// Gauges are signed and never below zero.
fn grouped_i(count: i64) -> String {
    grouped(count.unsigned_abs())
}

/// A reader of standard error that went away is no reason to end a run.
fn print_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
