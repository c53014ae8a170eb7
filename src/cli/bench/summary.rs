//! What a run came to, for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::assertion::{Kind, Verdict};
use super::latency::Percentiles;

/// From this share of the target on, a rate counts as reached.
const REACHED: f64 = 0.99;

/// The result of a run. Times are in seconds, rates a second; what a run does not have is left out, what
/// it has and did not measure is null. The warm-up is in none of the figures.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) command: &'static str,
    /// Whom it loaded.
    pub(super) server: String,
    /// Links that did the work.
    pub(super) links: u32,
    pub(super) protocol_version: String,
    #[serde(rename = "loop")]
    pub(super) pace: Pace,
    pub(super) target_rate_per_s: Option<f64>,
    pub(super) achieved_rate_per_s: f64,
    /// `null` without a target.
    pub(super) target_reached: Option<bool>,
    pub(super) elapsed_s: f64,
    pub(super) warmup_s: f64,
    pub(super) interrupted: bool,
    /// Connections that broke and came back during the run.
    pub(super) reconnects: u64,
    #[serde(flatten)]
    pub(super) opening: Option<Opening>,
    #[serde(flatten)]
    pub(super) sending: Option<Sending>,
    #[serde(flatten)]
    pub(super) arriving: Option<Arriving>,
    pub(super) assertions: Vec<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pace {
    Open,
    Closed,
    /// Others send.
    None,
    /// No link waits for another.
    AtOnce,
}

#[derive(Debug, Serialize)]
pub(super) struct Opening {
    /// Links whose connect was begun = connected + failed + those that were still at it.
    pub(super) attempted: u64,
    pub(super) connected: u64,
    pub(super) failed: u64,
    /// How often each reason was given.
    pub(super) failures: BTreeMap<String, u64>,
    /// Connections that broke while they were held.
    pub(super) lost_while_held: u64,
    pub(super) held_s: f64,
    pub(super) connects_per_s: f64,
    /// How much later than scheduled connects began; open loop only.
    pub(super) late: Option<Percentiles>,
    /// From the scheduled time to CONNACK.
    pub(super) connect: Option<Percentiles>,
    /// From the beginning to CONNACK.
    pub(super) connect_service: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sending {
    pub(super) qos: u8,
    pub(super) size_bytes: usize,
    pub(super) inflight: u16,
    /// Handed to the links = delivered + rejected + expired + dropped + unanswered.
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    /// Had no outcome when the run gave up waiting.
    pub(super) unanswered: u64,
    /// Due and never sent, because the links took no more. No latency has them in it.
    pub(super) unsent: u64,
    pub(super) delivered_rate_per_s: f64,
    /// How much later than scheduled messages were sent; open loop only.
    pub(super) late: Option<Percentiles>,
    /// From the scheduled time to the outcome: written at QoS 0, acknowledged at QoS 1 and 2.
    pub(super) ack: Option<Percentiles>,
    /// From sending to the outcome.
    pub(super) ack_service: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
pub(super) struct Arriving {
    pub(super) receivers: u32,
    /// Messages that were to arrive = received − duplicates + lost.
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    pub(super) lost: u64,
    /// `lost` as a share of `expected`, from 0 to 1.
    pub(super) loss: f64,
    /// Messages of others.
    pub(super) foreign: u64,
    pub(super) received_rate_per_s: f64,
    #[serde(flatten)]
    pub(super) latencies: ArrivalLatencies,
}

/// From the scheduled time to the arrival, and from sending to it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum ArrivalLatencies {
    EndToEnd {
        e2e: Option<Percentiles>,
        e2e_service: Option<Percentiles>,
    },
    RoundTrip {
        rtt: Option<Percentiles>,
        rtt_service: Option<Percentiles>,
    },
}

/// Whether `achieved` comes up to `target`.
pub(super) fn reaches(achieved: f64, target: f64) -> bool {
    achieved >= target * REACHED
}

impl Summary {
    /// The share of what was to come through and did not.
    pub(super) fn loss(&self) -> f64 {
        if let Some(arriving) = &self.arriving {
            return arriving.loss;
        }
        let (whole, good) = match (&self.sending, &self.opening) {
            (Some(sending), _) => (sending.sent, sending.delivered),
            (None, Some(opening)) => (opening.attempted, opening.connected),
            (None, None) => (0, 0),
        };
        share(whole.saturating_sub(good), whole)
    }

    /// What came through a second.
    pub(super) fn rate_per_s(&self) -> f64 {
        match (&self.arriving, &self.sending, &self.opening) {
            (Some(arriving), ..) => arriving.received_rate_per_s,
            (None, Some(sending), _) => sending.delivered_rate_per_s,
            (None, None, Some(opening)) => opening.connects_per_s,
            (None, None, None) => 0.0,
        }
    }

    pub(super) fn latency(&self, kind: Kind) -> Option<Percentiles> {
        let sending = self.sending.as_ref();
        let opening = self.opening.as_ref();
        let arrival = self.arriving.as_ref().map(|arriving| &arriving.latencies);
        match kind {
            Kind::Connect => opening?.connect,
            Kind::ConnectService => opening?.connect_service,
            Kind::Ack => sending?.ack,
            Kind::AckService => sending?.ack_service,
            Kind::Late => match sending {
                Some(sending) => sending.late,
                None => opening?.late,
            },
            Kind::EndToEnd | Kind::RoundTrip => match arrival? {
                ArrivalLatencies::EndToEnd { e2e: whole, .. }
                | ArrivalLatencies::RoundTrip { rtt: whole, .. } => *whole,
            },
            Kind::EndToEndService | Kind::RoundTripService => match arrival? {
                ArrivalLatencies::EndToEnd {
                    e2e_service: service,
                    ..
                }
                | ArrivalLatencies::RoundTrip {
                    rtt_service: service,
                    ..
                } => *service,
            },
        }
    }

    /// The result as a page of text.
    pub(super) fn write_text(&self, output: &mut dyn Write) -> io::Result<()> {
        self.write_head(output)?;
        if let Some(opening) = &self.opening {
            opening.write(output)?;
        }
        if let Some(sending) = &self.sending {
            sending.write(output)?;
        }
        if let Some(arriving) = &self.arriving {
            arriving.write(output)?;
        }
        if self.reconnects > 0 {
            writeln!(output, "  reconnects     {:>12}", self.reconnects)?;
        }
        self.write_latencies(output)
    }

    fn write_head(&self, output: &mut dyn Write) -> io::Result<()> {
        let Self {
            command,
            server,
            links,
            elapsed_s,
            ..
        } = self;
        let pace = match (self.pace, self.target_rate_per_s) {
            (Pace::Open, Some(rate)) => format!("open loop at {rate}/s"),
            (Pace::None, _) => "others publish".to_owned(),
            (Pace::AtOnce, _) => "all at once".to_owned(),
            _ => "closed loop".to_owned(),
        };
        let interrupted = if self.interrupted {
            ", interrupted"
        } else {
            ""
        };
        writeln!(
            output,
            "bench {command}: {links} {} to {server}, MQTT {}, {pace}, {elapsed_s:.3} s{interrupted}",
            plural(*links),
            self.protocol_version
        )?;
        if let (Some(false), Some(target)) = (self.target_reached, self.target_rate_per_s) {
            let unsent = self.sending.as_ref().map_or(0, |sending| sending.unsent);
            writeln!(
                output,
                "\n  THE TARGET RATE WAS NOT REACHED: {:.1}/s of {target}/s.",
                self.achieved_rate_per_s
            )?;
            if unsent > 0 {
                writeln!(
                    output,
                    "  {unsent} messages were due and never sent: no latency below has them in it."
                )?;
            }
            writeln!(output)?;
        }
        Ok(())
    }

    fn write_latencies(&self, output: &mut dyn Write) -> io::Result<()> {
        let is_open = self.pace == Pace::Open;
        let rows = [
            ("sent late by", Kind::Late, is_open),
            ("connect", Kind::Connect, self.opening.is_some()),
            ("connect, service", Kind::ConnectService, is_open),
            ("ack", Kind::Ack, self.sending.is_some()),
            ("ack, service", Kind::AckService, is_open),
            ("end to end", Kind::EndToEnd, self.is_end_to_end()),
            (
                "end to end, service",
                Kind::EndToEndService,
                self.is_end_to_end() && is_open,
            ),
            ("round trip", Kind::RoundTrip, self.is_round_trip()),
            (
                "round trip, service",
                Kind::RoundTripService,
                self.is_round_trip() && is_open,
            ),
        ];
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|(.., shown)| *shown)
            .filter_map(|(name, kind, _)| Some((name, self.latency(kind)?)))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            output,
            "\n  {:<20} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "milliseconds", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, p) in rows {
            write!(output, "  {name:<20}")?;
            for seconds in [p.p50_s, p.p90_s, p.p99_s, p.p999_s, p.max_s] {
                write!(output, " {:>10.3}", seconds * 1e3)?;
            }
            writeln!(output)?;
        }
        if is_open {
            writeln!(
                output,
                "  (from the scheduled time; \"service\": from the moment it was begun)"
            )?;
        }
        Ok(())
    }

    fn is_end_to_end(&self) -> bool {
        let latencies = self.arriving.as_ref().map(|arriving| &arriving.latencies);
        matches!(latencies, Some(ArrivalLatencies::EndToEnd { .. }))
    }

    fn is_round_trip(&self) -> bool {
        let latencies = self.arriving.as_ref().map(|arriving| &arriving.latencies);
        matches!(latencies, Some(ArrivalLatencies::RoundTrip { .. }))
    }
}

impl Opening {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        writeln!(
            output,
            "  connected      {:>12}   {:.1}/s",
            self.connected, self.connects_per_s
        )?;
        let held = format!("lost while held for {:.1} s", self.held_s);
        write_counts(
            output,
            &[("failed", self.failed), (&held, self.lost_while_held)],
        )?;
        for (reason, count) in &self.failures {
            writeln!(output, "    {count} x {reason}")?;
        }
        Ok(())
    }
}

impl Sending {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        writeln!(
            output,
            "  sent           {:>12}   {} bytes at QoS {}, at most {} under way on a link",
            self.sent, self.size_bytes, self.qos, self.inflight
        )?;
        writeln!(
            output,
            "  delivered      {:>12}   {:.1}/s",
            self.delivered, self.delivered_rate_per_s
        )?;
        write_counts(
            output,
            &[
                ("rejected", self.rejected),
                ("expired", self.expired),
                ("dropped", self.dropped),
                ("unanswered", self.unanswered),
                ("due and never sent", self.unsent),
            ],
        )
    }
}

impl Arriving {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        writeln!(
            output,
            "  received       {:>12}   {:.1}/s by {} {}",
            self.received,
            self.received_rate_per_s,
            self.receivers,
            plural(self.receivers)
        )?;
        writeln!(
            output,
            "  lost           {:>12}   {:.4} % of {}",
            self.lost,
            self.loss * 100.0,
            self.expected
        )?;
        write_counts(
            output,
            &[
                ("duplicates", self.duplicates),
                ("reordered", self.reordered),
                ("of others", self.foreign),
            ],
        )
    }
}

/// One line with the counts that are not 0, or none.
fn write_counts(output: &mut dyn Write, counts: &[(&str, u64)]) -> io::Result<()> {
    let shown: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if shown.is_empty() {
        return Ok(());
    }
    writeln!(output, "  {}", shown.join(", "))
}

fn plural(links: u32) -> &'static str {
    if links == 1 { "link" } else { "links" }
}

/// A part of a whole; 0 of nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}
