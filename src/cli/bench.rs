//! `paquebot bench conn | pub | sub | rtt | storm`: how much load a server takes, and how fast it answers.
//!
//! It measures through the library's public interface, so what it costs is what a program that embeds
//! paquebot pays. The load is worked by a few [driver] threads, each with many links.
//!
//! In an open loop messages are due at fixed times. What is sent late keeps its scheduled time as the
//! beginning of its latency, so that a server that stalls cannot hide the wait of the messages it kept from
//! being sent; how late they were is told beside it.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use paquebot::fleet_file::{parse_duration, parse_size};
use paquebot::mqtt::QoS;

use self::assertion::{Assertion, Kind, Verdict};
use self::payload::HEADER_BYTES;
use self::summary::Summary;
use self::template::Template;
use super::CommandError;

mod assertion;
mod conn;
mod driver;
mod latency;
mod opener;
mod payload;
mod preflight;
mod progress;
mod publish;
mod receiver;
mod rig;
mod round_trip;
mod schedule;
mod sender;
mod sequence;
mod server;
mod storm;
mod subscribe;
mod summary;
mod tally;
mod template;

/// How long a run lasts when neither `--duration` nor `--limit` says it.
const DURATION: Duration = Duration::from_secs(10);

/// The largest payload.
const SIZE_MAX: usize = 128 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Opens links, holds them and tells how fast they opened.
    #[command(disable_help_flag = true)]
    Conn(conn::ConnArgs),
    /// Publishes and tells how fast the server acknowledges.
    #[command(disable_help_flag = true)]
    Pub(publish::PubArgs),
    /// Publishes, subscribes and tells what arrives when, what is lost, doubled or out of order.
    #[command(disable_help_flag = true)]
    Sub(subscribe::SubArgs),
    /// Has all links reconnect at once and tells how fast they are back.
    #[command(disable_help_flag = true)]
    Storm(storm::StormArgs),
    /// Sends messages to itself by way of the server and tells how long they take.
    #[command(disable_help_flag = true)]
    Rtt(round_trip::RttArgs),
}

/// What every run has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
struct RunArgs {
    /// The links' client identifiers: %i is the number of the link, %r tells this run from others.
    #[arg(
        short = 'i',
        long,
        value_name = "TEMPLATE",
        default_value = "bench-%r-%i"
    )]
    id: Template,
    /// Threads for the links [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// The last line of standard output is the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// How often progress is shown on standard error; 0 is never.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = read_duration)]
    interval: Duration,
    /// Exit status 1 unless this holds: ack_p99<250ms, e2e_p50<=2ms, rtt_max<1s, loss<=0.1%, rate>=1000.
    #[arg(long = "assert", value_name = "FIGURE<VALUE")]
    assertions: Vec<Assertion>,
    /// Prints this help.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What a run that sends messages has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// Open loop: so many messages a second of all links together. Without it each link sends its next
    /// message when one before it is done.
    #[arg(long, value_name = "PER_SECOND", value_parser = read_rate)]
    rate: Option<f64>,
    /// The payload's size, at least 32B.
    #[arg(long, value_name = "SIZE", default_value = "256B", value_parser = read_payload_size)]
    size: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = read_qos)]
    qos: QoS,
    /// Messages of a link under way at once [default: closed loop 100, with rtt 1; open loop 1000].
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u16).range(1..))]
    inflight: Option<u16>,
    /// The topic: %i is the number of the link, %c its client identifier, %r tells this run from others.
    #[arg(
        short,
        long,
        value_name = "TEMPLATE",
        default_value = "paquebot/bench/%c"
    )]
    topic: Template,
    /// The run ends after so many messages of all links together.
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// The run ends after this time [default: 10s, with --limit none].
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    duration: Option<Duration>,
    /// Load that is not measured, before the run.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = read_duration)]
    warmup: Duration,
}

impl LoadArgs {
    fn inflight(&self, closed_loop: u16) -> u16 {
        let open_loop = 1000;
        let default = if self.rate.is_some() {
            open_loop
        } else {
            closed_loop
        };
        self.inflight.unwrap_or(default)
    }

    fn duration(&self) -> Option<Duration> {
        match (self.duration, self.limit) {
            (None, None) => Some(DURATION),
            (duration, _) => duration,
        }
    }
}

impl RunArgs {
    fn check(&self, links: u32, kinds: &[Kind]) -> Result<(), CommandError> {
        if links > 1 && !self.id.differs_by_link() {
            return Err(CommandError::Usage(
                "--id gives all links the same client identifier; put %i in it".to_owned(),
            ));
        }
        for assertion in &self.assertions {
            assertion
                .check_available(kinds)
                .map_err(CommandError::Usage)?;
        }
        Ok(())
    }
}

/// Runs the command; the result goes to `output`.
pub(crate) fn run(arguments: &BenchArgs, output: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(format!("cannot start: {error}")))?;
    let (common, summary) = match &arguments.command {
        BenchCommand::Conn(arguments) => (&arguments.run, runtime.block_on(arguments.run())?),
        BenchCommand::Pub(arguments) => (&arguments.run, runtime.block_on(arguments.run())?),
        BenchCommand::Sub(arguments) => (&arguments.run, runtime.block_on(arguments.run())?),
        BenchCommand::Storm(arguments) => (&arguments.run, runtime.block_on(arguments.run())?),
        BenchCommand::Rtt(arguments) => (&arguments.run, runtime.block_on(arguments.run())?),
    };
    report(common, summary, output)
}

fn report(
    arguments: &RunArgs,
    mut summary: Summary,
    output: &mut dyn Write,
) -> Result<ExitCode, CommandError> {
    let judge = |assertion: &Assertion| assertion.judge(&summary);
    let verdicts: Vec<Verdict> = arguments.assertions.iter().map(judge).collect();
    let failures: Vec<String> = arguments
        .assertions
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| !verdict.holds)
        .map(|(assertion, verdict)| assertion.failure(verdict))
        .collect();
    summary.assertions = verdicts;
    if arguments.json {
        serde_json::to_writer(&mut *output, &summary).map_err(std::io::Error::from)?;
        writeln!(output)?;
    } else {
        summary.write_text(output)?;
    }
    output.flush()?;
    for failure in &failures {
        eprintln!("paquebot: {failure}");
    }
    let nothing_connected = summary.opening.as_ref().is_some_and(|o| o.connected == 0);
    if nothing_connected {
        eprintln!("paquebot: no link connected");
    }
    let stayed_away = match (&summary.opening, summary.command) {
        (Some(opening), "storm") => opening.failed,
        _ => 0,
    };
    if stayed_away > 0 {
        eprintln!("paquebot: links that did not come back: {stayed_away}");
    }
    Ok(
        if failures.is_empty() && !nothing_connected && stayed_away == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        },
    )
}

fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a time such as 10s, 500ms or 1m30s".to_owned())
}

fn read_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "a rate is a number above 0".to_owned())
}

fn read_payload_size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (HEADER_BYTES..=SIZE_MAX).contains(size))
        .ok_or_else(|| {
            format!(
                "write a size from {HEADER_BYTES}B, which the number and the times of a message take, to \
                 128MiB"
            )
        })
}

fn read_qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("there are 0, 1 and 2".to_owned()),
    }
}
