//! What is shown while a run goes on: a line that changes on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write as _, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Reading;

/// Shows readings on standard error.
pub(super) struct Progress {
    words: Words,
    bar: Option<ProgressBar>,
    started: Instant,
    before: (Instant, Reading),
}

/// What the columns are called; a column without a name is not shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    pub(super) sent: Option<&'static str>,
    pub(super) ended: Option<&'static str>,
    pub(super) arrived: Option<&'static str>,
}

impl Progress {
    pub(super) fn start(words: Words) -> Self {
        let now = Instant::now();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            words,
            bar,
            started: now,
            before: (now, Reading::default()),
        }
    }

    pub(super) fn show(&mut self, reading: Reading) {
        let now = Instant::now();
        let (before_at, before) = std::mem::replace(&mut self.before, (now, reading));
        let seconds = now.duration_since(before_at).as_secs_f64().max(1e-9);
        let columns = [
            (self.words.sent, reading.sent, before.sent),
            (self.words.ended, reading.ended, before.ended),
            (self.words.arrived, reading.arrived, before.arrived),
        ];
        let columns: Vec<String> = columns
            .into_iter()
            .filter_map(|(name, count, before)| {
                let rate = count.saturating_sub(before) as f64 / seconds;
                Some(format!("{} {count} ({rate:.0}/s)", name?))
            })
            .collect();
        let elapsed = now.duration_since(self.started);
        let line = format!("{:6.1} s  {}", elapsed.as_secs_f64(), columns.join("  "));
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            // A run goes on when nobody reads its progress.
            None => {
                let _ = writeln!(stderr(), "{line}");
            }
        }
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
