//! `--assert 'ack_p99<250ms'`: what a run has to reach.

use std::fmt;
use std::str::FromStr;

use super::latency::Percentiles;
use super::summary::Summary;

/// One condition on the figures of a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assertion {
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// Seconds, a share from 0 to 1, or a rate.
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Latency(Kind, Statistic),
    Loss,
    Rate,
}

/// Which latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    ConnectService,
    Ack,
    AckService,
    EndToEnd,
    EndToEndService,
    RoundTrip,
    RoundTripService,
    Late,
}

const KINDS: [(&str, Kind); 9] = [
    ("connect", Kind::Connect),
    ("connect_service", Kind::ConnectService),
    ("ack", Kind::Ack),
    ("ack_service", Kind::AckService),
    ("e2e", Kind::EndToEnd),
    ("e2e_service", Kind::EndToEndService),
    ("rtt", Kind::RoundTrip),
    ("rtt_service", Kind::RoundTripService),
    ("late", Kind::Late),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statistic {
    P50,
    P90,
    P99,
    P999,
    Max,
    Mean,
}

const STATISTICS: [(&str, Statistic); 7] = [
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p99", Statistic::P99),
    ("p999", Statistic::P999),
    ("p99.9", Statistic::P999),
    ("max", Statistic::Max),
    ("mean", Statistic::Mean),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What an assertion came to.
#[derive(Debug, serde::Serialize)]
pub(super) struct Verdict {
    assertion: String,
    /// In the unit of the figure: seconds, a share, or a rate a second.
    found: Option<f64>,
    pub(super) holds: bool,
}

impl Assertion {
    /// Says which figure of the command is asked for that it does not have.
    pub(super) fn check_available(&self, kinds: &[Kind]) -> Result<(), String> {
        match self.metric {
            Metric::Latency(kind, _) if !kinds.contains(&kind) => Err(format!(
                "--assert {:?}: this run has no such figure; it has {}, loss and rate",
                self.text,
                names(kinds)
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn judge(&self, summary: &Summary) -> Verdict {
        let found = match self.metric {
            Metric::Loss => Some(summary.loss()),
            Metric::Rate => Some(summary.rate_per_s()),
            Metric::Latency(kind, statistic) => summary
                .latency(kind)
                .map(|percentiles| statistic.of(&percentiles)),
        };
        let holds = found.is_some_and(|found| match self.comparison {
            Comparison::Less => found < self.bound,
            Comparison::LessOrEqual => found <= self.bound,
            Comparison::Greater => found > self.bound,
            Comparison::GreaterOrEqual => found >= self.bound,
        });
        Verdict {
            assertion: self.text.clone(),
            found,
            holds,
        }
    }

    fn show(&self, found: f64) -> String {
        match self.metric {
            Metric::Latency(..) => format!("{:.3} ms", found * 1e3),
            Metric::Loss => format!("{:.4} %", found * 1e2),
            Metric::Rate => format!("{found:.1}/s"),
        }
    }

    /// One line for a verdict that does not hold.
    pub(super) fn failure(&self, verdict: &Verdict) -> String {
        match verdict.found {
            Some(found) => format!("assertion failed: {self}: it was {}", self.show(found)),
            None => format!("assertion failed: {self}: nothing was measured"),
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Statistic {
    fn of(self, percentiles: &Percentiles) -> f64 {
        match self {
            Self::P50 => percentiles.p50_s,
            Self::P90 => percentiles.p90_s,
            Self::P99 => percentiles.p99_s,
            Self::P999 => percentiles.p999_s,
            Self::Max => percentiles.max_s,
            Self::Mean => percentiles.mean_s,
        }
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let position = text.find(['<', '>']).ok_or_else(|| {
            format!("{text:?} compares nothing; write KEY<VALUE, as in ack_p99<250ms")
        })?;
        let (key, rest) = text.split_at(position);
        let (comparison, value) = if let Some(value) = rest.strip_prefix("<=") {
            (Comparison::LessOrEqual, value)
        } else if let Some(value) = rest.strip_prefix(">=") {
            (Comparison::GreaterOrEqual, value)
        } else if let Some(value) = rest.strip_prefix('<') {
            (Comparison::Less, value)
        } else {
            (Comparison::Greater, rest.strip_prefix('>').unwrap_or(rest))
        };
        let metric = parse_metric(key.trim())?;
        let value = value.trim();
        let bound = match metric {
            Metric::Latency(..) => parse_seconds(value)
                .ok_or_else(|| format!("{value:?} is no time; write 250ms, 80us or 1.5s"))?,
            Metric::Loss => parse_share(value)
                .ok_or_else(|| format!("{value:?} is no share; write 0.001 or 0.1%"))?,
            Metric::Rate => parse_number(value.strip_suffix("/s").unwrap_or(value))
                .ok_or_else(|| format!("{value:?} is no rate; write 1000 or 1000/s"))?,
        };
        Ok(Self {
            text: text.to_owned(),
            metric,
            comparison,
            bound,
        })
    }
}

fn parse_metric(key: &str) -> Result<Metric, String> {
    match key {
        "loss" => return Ok(Metric::Loss),
        "rate" => return Ok(Metric::Rate),
        _ => {}
    }
    let latency = key.rsplit_once('_').and_then(|(kind, statistic)| {
        let (_, kind) = KINDS.iter().find(|(name, _)| *name == kind)?;
        let (_, statistic) = STATISTICS.iter().find(|(name, _)| *name == statistic)?;
        Some(Metric::Latency(*kind, *statistic))
    });
    latency.ok_or_else(|| {
        format!(
            "{key:?} is no figure; there are loss, rate, and {} followed by _p50, _p90, _p99, _p99.9, _max or \
             _mean",
            names(&KINDS.map(|(_, kind)| kind))
        )
    })
}

fn names(kinds: &[Kind]) -> String {
    let names: Vec<&str> = KINDS
        .iter()
        .filter(|(_, kind)| kinds.contains(kind))
        .map(|(name, _)| *name)
        .collect();
    names.join(", ")
}

fn parse_number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
}

fn parse_seconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit.trim() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Some(parse_number(number)? * seconds)
}

fn parse_share(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => Some(parse_number(percent)? / 100.0),
        None => parse_number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Metric, Comparison, f64) {
        let assertion: Assertion = text.parse().unwrap();
        (assertion.metric, assertion.comparison, assertion.bound)
    }

    #[test]
    fn figures_comparisons_and_units_are_understood() {
        use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
        let latency = Metric::Latency;
        for (text, wanted) in [
            (
                "ack_p99<250ms",
                (latency(Kind::Ack, Statistic::P99), Less, 0.25),
            ),
            (
                "rtt_p99.9 <= 80us",
                (
                    latency(Kind::RoundTrip, Statistic::P999),
                    LessOrEqual,
                    80e-6,
                ),
            ),
            (
                "ack_service_max<1.5s",
                (latency(Kind::AckService, Statistic::Max), Less, 1.5),
            ),
            ("loss<=0", (Metric::Loss, LessOrEqual, 0.0)),
            ("loss<0.1%", (Metric::Loss, Less, 0.001)),
            ("rate>1000/s", (Metric::Rate, Greater, 1000.0)),
            ("rate>=1e6", (Metric::Rate, GreaterOrEqual, 1e6)),
        ] {
            let (metric, comparison, bound) = parsed(text);
            assert_eq!((metric, comparison), (wanted.0, wanted.1), "{text}");
            assert!((bound - wanted.2).abs() < 1e-12, "{text}: {bound}");
        }
    }

    #[test]
    fn what_is_no_assertion_is_explained() {
        for (text, part) in [
            ("ack_p99", "compares nothing"),
            ("ack_p98<1s", "is no figure"),
            ("speed<1s", "is no figure"),
            ("ack_p99<250", "is no time"),
            ("ack_p99<1d", "is no time"),
            ("ack_p99<", "is no time"),
            ("loss<-1", "is no share"),
            ("rate>NaN", "is no rate"),
            ("rate>=inf", "is no rate"),
        ] {
            let error = text.parse::<Assertion>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
