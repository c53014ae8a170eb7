//! What a run came to: as text for people, as one line of JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use paquebot::{DropReason, Failure, Totals};
use serde_json::{Map, Value, json};

use super::check::grouped;
use crate::simulation::{JobCounts, Latency};

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its time was over.
    Duration,
    /// Enough messages were sent.
    Limit,
    /// Ctrl-C or SIGTERM.
    Signal,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) fleet: String,
    pub(crate) devices: u64,
    /// The most that were online at one time, looked at ten times a second.
    pub(crate) online_peak: u64,
    /// Online when the end was asked for.
    pub(crate) online_at_end: u64,
    /// After the drain.
    pub(crate) totals: Totals,
    pub(crate) dropped_by_reason: Vec<(DropReason, u64)>,
    pub(crate) telemetry: u64,
    pub(crate) skipped: u64,
    pub(crate) refused: u64,
    /// Reports of state that the links took.
    pub(crate) reports: u64,
    pub(crate) jobs: JobCounts,
    pub(crate) latency: Option<Latency>,
    pub(crate) failures: Failures,
    /// How often the server was restarted on purpose.
    pub(crate) planned_restarts: u64,
    pub(crate) ending: Ending,
    /// From the start to the moment the end was asked for.
    pub(crate) duration: Duration,
    /// From there to the end of the last link.
    pub(crate) drain: Duration,
    /// Not every link ended in time.
    pub(crate) drain_incomplete: bool,
}

/// The kinds of failures that the restart of a server brings.
const LOSSES: [&str; 7] = [
    "connack_timeout",
    "keepalive",
    "peer_closed",
    "pipe",
    "server_disconnect",
    "tcp",
    "timeout",
];

/// Failures of all groups, by kind: how often, and the last one in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failures(BTreeMap<&'static str, (u64, String)>);

impl Failures {
    pub(crate) fn collect(groups: Vec<(String, Vec<Failure>)>) -> Self {
        let mut kinds = BTreeMap::new();
        for failure in groups.into_iter().flat_map(|(_, failures)| failures) {
            let (count, last) = kinds
                .entry(failure.class)
                .or_insert_with(|| (0, String::new()));
            *count += failure.count;
            *last = failure.last.to_string();
        }
        Self(kinds)
    }

    /// One line a kind, the most frequent first: `412 × cannot connect to …`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut kinds: Vec<_> = self.0.values().collect();
        kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        kinds
            .into_iter()
            .map(|(count, last)| format!("{} × {last}", grouped(*count)))
            .collect()
    }

    /// The same in two parts: lost connections of a server that somebody restarts on purpose, which need no advice, and all
    /// else.
    pub(crate) fn told(&self, is_planned: bool) -> (Vec<String>, Vec<String>) {
        let kinds = self.0.clone().into_iter();
        let (planned, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kinds.partition(|(class, _)| is_planned && LOSSES.contains(class));
        let mut planned = Self(planned).lines();
        for line in &mut planned {
            let advice = line.find("; ").or_else(|| line.find(": check"));
            line.truncate(advice.unwrap_or(line.len()));
        }
        (planned, Self(others).lines())
    }

    /// How many there were. A likely cause stands beside the failure that it explains.
    pub(crate) fn count(&self) -> u64 {
        let kinds = self.0.iter();
        let failures = kinds.filter(|(class, _)| !class.starts_with("likely_"));
        failures.map(|(_, (count, _))| count).sum()
    }

    fn as_json(&self) -> Value {
        let entries = self.0.iter().map(|(class, (count, last))| {
            let value = json!({ "count": count, "last": last });
            ((*class).to_owned(), value)
        });
        Value::Object(entries.collect::<Map<_, _>>())
    }
}

impl Summary {
    /// Whether not one device ever came online.
    pub(crate) fn never_online(&self) -> bool {
        self.totals.connects == 0
    }

    /// Whether the run ended as it should.
    pub(crate) fn is_good(&self) -> bool {
        self.totals.is_balanced() && !self.never_online() && !self.drain_incomplete
    }

    /// One JSON object without a line break.
    pub(crate) fn as_json(&self) -> Value {
        let totals = &self.totals;
        let dropped: Map<_, _> = self
            .dropped_by_reason
            .iter()
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect();
        json!({
            "fleet": self.fleet,
            "devices": self.devices,
            "online_peak": self.online_peak,
            "online_at_end": self.online_at_end,
            "accepted": totals.accepted,
            "recovered": totals.recovered,
            "delivered": totals.delivered,
            "rejected": totals.rejected,
            "expired": totals.expired,
            "dropped": totals.dropped,
            "dropped_by_reason": dropped,
            "merged": totals.merged,
            "kept": totals.kept,
            "held": totals.held,
            "balanced": totals.is_balanced(),
            "telemetry": self.telemetry,
            "skipped": self.skipped,
            "refused": self.refused,
            "received": totals.received,
            "commands_answered": totals.commands_answered,
            "reports": self.reports,
            "jobs_succeeded": self.jobs.succeeded,
            "jobs_failed": self.jobs.failed,
            "jobs_rejected": self.jobs.rejected,
            "connects": totals.connects,
            "reconnects": totals.reconnects,
            "latency_ms": self.latency.map(|latency| json!({
                "samples": latency.samples,
                "p50": ms(latency.p50),
                "p90": ms(latency.p90),
                "p99": ms(latency.p99),
                "max": ms(latency.max),
            })),
            "errors": self.failures.as_json(),
            "planned_restarts": self.planned_restarts,
            "ended_by": match self.ending {
                Ending::Duration => "duration",
                Ending::Limit => "limit",
                Ending::Signal => "signal",
            },
            "duration_s": round(self.duration),
            "drain_s": round(self.drain),
        })
    }

    /// Some lines for people.
    pub(crate) fn as_text(&self) -> String {
        let totals = &self.totals;
        let ended = match self.ending {
            Ending::Duration => "its time was over",
            Ending::Limit => "enough was sent",
            Ending::Signal => "it was told to",
        };
        let mut text = format!(
            "{}: {} devices for {:.1} s, ended because {ended}; {}\n\
             \x20 online     {} at most, {} at the end, {} reconnects\n",
            self.fleet,
            grouped(self.devices),
            self.duration.as_secs_f64(),
            self.drained(),
            grouped(self.online_peak),
            grouped(self.online_at_end),
            grouped(totals.reconnects),
        );
        let _ = write!(
            text,
            "  messages   accepted {}{} = delivered {} + rejected {} + expired {} + dropped {}{}{} + held {}\n             {}\n",
            grouped(totals.accepted),
            term("recovered", totals.recovered),
            grouped(totals.delivered),
            grouped(totals.rejected),
            grouped(totals.expired),
            grouped(totals.dropped),
            term("merged", totals.merged),
            term("kept", totals.kept),
            totals.held,
            if totals.is_balanced() {
                "every message is accounted for"
            } else {
                "THE TWO SIDES DIFFER: this is a bug of paquebot, please report it"
            }
        );
        let reasons: Vec<String> = self
            .dropped_by_reason
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{} {}", grouped(*count), reason.name()))
            .collect();
        if !reasons.is_empty() {
            let _ = writeln!(text, "  dropped    {}", reasons.join(", "));
        }
        self.write_devices(&mut text);
        if self.drain_incomplete {
            text.push_str("  drain      some links did not end in time\n");
        }
        let (planned, failures) = self.failures.told(self.planned_restarts > 0);
        if !planned.is_empty() {
            let times = match self.planned_restarts {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            let _ = writeln!(
                text,
                "  planned    the broker was restarted {times} on purpose; the devices saw"
            );
        }
        for line in planned {
            let _ = writeln!(text, "             {line}");
        }
        for (at, line) in failures.iter().enumerate() {
            let title = if at == 0 { "failures" } else { "" };
            let _ = writeln!(text, "  {title:<10} {line}");
        }
        text
    }

    fn drained(&self) -> String {
        let seconds = self.drain.as_secs_f64();
        let unsent = self.dropped_by_reason.iter();
        let mut unsent = unsent.filter(|(reason, _)| *reason == DropReason::Stopped);
        if self.never_online() {
            "gave up: nobody was online".to_owned()
        } else if self.online_at_end == 0 && unsent.any(|(_, count)| *count > 0) {
            format!("gave up after {seconds:.1} s: nobody was online")
        } else {
            format!("drained in {seconds:.1} s")
        }
    }

    fn write_devices(&self, text: &mut String) {
        let _ = write!(text, "  telemetry  {} sent", grouped(self.telemetry));
        if self.skipped > 0 {
            let skipped = grouped(self.skipped);
            let _ = write!(
                text,
                ", {skipped} skipped: no room in the outbox, or no time"
            );
        }
        if self.refused > 0 {
            let _ = write!(text, ", {} did not fit the platform", grouped(self.refused));
        }
        if let Some(latency) = &self.latency {
            let _ = write!(
                text,
                "\n  latency    p50 {} ms, p90 {} ms, p99 {} ms, at most {} ms (sent to acknowledged, with the wait for a \
                 connection; {} measured)",
                ms(latency.p50),
                ms(latency.p90),
                ms(latency.p99),
                ms(latency.max),
                grouped(latency.samples),
            );
        }
        let _ = writeln!(
            text,
            "\n  commands   {} answered; {} messages received",
            grouped(self.totals.commands_answered),
            grouped(self.totals.received)
        );
        if self.reports > 0 {
            let _ = writeln!(text, "  states     {} reported", grouped(self.reports));
        }
        if self.jobs != JobCounts::default() {
            let _ = writeln!(
                text,
                "  jobs       {} succeeded, {} failed, {} rejected",
                grouped(self.jobs.succeeded),
                grouped(self.jobs.failed),
                grouped(self.jobs.rejected),
            );
        }
    }
}

/// A term of the equation that few fleets have.
fn term(name: &str, count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    format!(" + {name} {}", grouped(count))
}

/// Milliseconds with two decimals.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// Seconds with three decimals.
fn round(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            fleet: "lab".to_owned(),
            devices: 1_000,
            online_peak: 1_000,
            online_at_end: 998,
            totals: Totals {
                accepted: 10,
                delivered: 7,
                dropped: 2,
                held: 1,
                connects: 1_000,
                ..Totals::default()
            },
            dropped_by_reason: vec![(DropReason::Oldest, 0), (DropReason::Stopped, 2)],
            telemetry: 9,
            skipped: 0,
            refused: 0,
            reports: 0,
            jobs: JobCounts::default(),
            latency: None,
            failures: Failures::default(),
            planned_restarts: 0,
            ending: Ending::Duration,
            duration: Duration::from_millis(10_004),
            drain: Duration::from_millis(20),
            drain_incomplete: false,
        }
    }

    #[test]
    fn the_text_says_the_equation_and_whether_it_holds() {
        let mut summary = summary();
        let text = summary.as_text();
        let equation = "accepted 10 = delivered 7 + rejected 0 + expired 0 + dropped 2 + held 1";
        assert!(text.contains(equation), "{text}");
        assert!(text.contains("every message is accounted for"), "{text}");
        assert!(text.contains("dropped    2 stopped\n"), "{text}");
        assert!(summary.is_good());
        summary.totals.delivered = 8;
        assert!(summary.as_text().contains("THE TWO SIDES DIFFER"));
        assert!(!summary.is_good());
        assert_eq!(summary.as_json()["balanced"], false);
    }

    #[test]
    fn what_came_from_the_store_and_what_stays_there_are_terms_of_the_equation() {
        let mut summary = summary();
        summary.totals.recovered = 5;
        summary.totals.kept = 5;
        let equation = "accepted 10 + recovered 5 = delivered 7 + rejected 0 + expired 0 + dropped 2 + kept 5 + held 1";
        let text = summary.as_text();
        assert!(text.contains(equation), "{text}");
        assert!(summary.is_good());
    }

    #[test]
    fn a_restart_on_purpose_is_told_as_planned_and_without_advice() {
        let mut summary = summary();
        let advice = "cannot connect: refused; check that it runs".to_owned();
        summary.failures.0.insert("tcp", (3, advice));
        let text = summary.as_text();
        assert!(
            text.contains("failures   3 × cannot connect: refused; check"),
            "{text}"
        );
        summary.planned_restarts = 1;
        let text = summary.as_text();
        assert!(
            text.contains("planned    the broker was restarted once on purpose"),
            "{text}"
        );
        assert!(text.contains("3 × cannot connect: refused\n"), "{text}");
        assert!(!text.contains("failures"), "{text}");
        let advice = "refused the subscription to a; check its access rules".to_owned();
        summary
            .failures
            .0
            .insert("subscription_refused", (2, advice.clone()));
        let text = summary.as_text();
        assert!(
            text.contains(&format!("failures   2 × {advice}\n")),
            "{text}"
        );
        summary.failures.0.clear();
        assert!(!summary.as_text().contains("planned"));
    }

    #[test]
    fn a_drain_that_nobody_was_online_for_is_not_called_one() {
        let mut summary = summary();
        assert!(summary.as_text().contains("; drained in 0.0 s\n"));
        summary.online_at_end = 0;
        assert!(
            summary
                .as_text()
                .contains("gave up after 0.0 s: nobody was online")
        );
        summary.totals.connects = 0;
        assert!(summary.as_text().contains("; gave up: nobody was online\n"));
    }

    #[test]
    fn a_run_without_one_device_online_is_no_good_run() {
        let mut summary = summary();
        summary.totals.connects = 0;
        assert!(summary.never_online() && !summary.is_good());
    }

    #[test]
    fn json_holds_what_is_promised() {
        let json = summary().as_json();
        for key in [
            "devices",
            "online_peak",
            "online_at_end",
            "accepted",
            "delivered",
            "rejected",
            "expired",
            "dropped",
            "held",
            "received",
            "commands_answered",
            "reconnects",
            "duration_s",
        ] {
            assert!(json[key].is_number(), "{key} in {json}");
        }
        assert!((json["duration_s"].as_f64().unwrap() - 10.004).abs() < 1e-9);
        assert!(!json.to_string().contains('\n'));
    }
}
