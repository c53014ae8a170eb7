//! `paquebot pub`: publishes messages and waits until each has ended.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use async_channel::Receiver;
use bytes::Bytes;
use clap::{ArgAction, Args};
use paquebot::{DropReason, Link, Outcome, Publish, Receipt, SendError};
use paquebot_protocols::mqtt::{QoS, Topic};
use tokio::time::timeout;

use super::CommandError;
use super::client::{self, ClientArgs, Purpose, Sizes, usage};

/// The largest payload: what MQTT's largest packet leaves beside the longest topic and properties.
const PAYLOAD_BYTES_MAX: u64 = 268_435_455 - 2 * 65_536;

/// Lines read ahead of the link.
const LINES_AHEAD: usize = 64;

/// Messages accepted and not yet accounted for.
const UNSETTLED_MAX: usize = 65_536;

/// Publishes messages, with the flags of mosquitto_pub.
///
/// Ends when every message has been delivered: at QoS 1 and 2 the server has acknowledged it, at QoS 0 it
/// was written to the connection. A connection that breaks is restored and what was not acknowledged is sent
/// again.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, args_override_self = true)]
#[command(
    after_help = "Exit status: 0 all messages were delivered; 1 some were not, or there was no connection, also one that \
the server refused (mosquitto_pub gives the code of the CONNACK then, of which 1 and 2 mean something else here); \
2 the command line or a file is wrong, or the platform is known not to take such a message, topic or client \
identifier, and nothing was sent; 27 the time (-W) was up."
)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
struct MessageArgs {
    /// Topic to publish to
    #[arg(short, long)]
    topic: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Have the server keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,
    /// Publish the message so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "stdin_line")]
    repeat: u64,
    /// Seconds from the delivery of one repetition to the next [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = client::seconds)]
    repeat_delay: Option<Duration>,
    /// QoS 1 and 2 messages in flight at once [default: 1000; QoS 2 on MQTT 3.1.1: 20]
    #[arg(short = 'M', long = "max-inflight", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    inflight_max: Option<u16>,
    /// Give up after so many seconds
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = client::seconds)]
    timeout: Option<Duration>,
}

/// Where the payload comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<OsString>,
    /// A file whose contents are the message
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A message for each line of standard input
    #[arg(short = 'l', long)]
    stdin_line: bool,
    /// All of standard input as one message
    #[arg(short, long)]
    stdin_file: bool,
    /// An empty message
    #[arg(short, long)]
    null_message: bool,
}

enum Source {
    One(Bytes),
    Lines,
}

/// Runs the command.
pub(crate) fn run(arguments: &PublishArgs) -> Result<ExitCode, CommandError> {
    let options = &arguments.message;
    let sizes = Sizes {
        inflight_max: options.inflight_max,
        inbox_max: None,
    };
    let client = arguments.client.prepare(Purpose::Publish, sizes)?;
    let topic = options
        .topic
        .as_ref()
        .or(client.topic.as_ref())
        .ok_or_else(|| usage("name the topic to publish to (-t)"))?;
    let topic =
        Topic::new(topic.as_str()).map_err(|error| usage(format!("-t {topic:?}: {error}")))?;
    let source = options.source.read()?;
    let payload = match &source {
        Source::One(payload) => Some(payload),
        Source::Lines => None,
    };
    client.check(&topic, payload)?;
    let template = Publish::on(topic, Bytes::new())
        .with_qos(arguments.client.qos)
        .with_retain(options.retain);
    let template = match client.publish_properties.message_expiry_interval {
        Some(seconds) => template.with_time_to_live(Duration::from_secs(seconds.into())),
        None => template,
    };
    let template = template.with_properties(client.publish_properties.clone());

    client::block_on(async {
        let asked_to_end = client::asked_to_end();
        client::leave_at_signal(2);
        let (fleet, link, mut watch) = client.start()?;
        let mut tally = Tally::new(arguments);
        let end = tokio::select! {
            result = send(&link, &template, source, options, &mut tally) => match result {
                Ok(()) => End::Complete,
                Err(error) => End::Failed(error),
            },
            error = watch.failure() => End::Failed(error),
            () = client::timed_out(options.timeout) => End::TimedOut,
            result = asked_to_end => match result {
                Ok(()) => End::Interrupted,
                Err(error) => End::Failed(CommandError::Failed(error.to_string())),
            },
        };
        if matches!(end, End::TimedOut) {
            // What the user gave no more time for is not waited for either.
            link.stop().await;
        }
        client::leave(&fleet).await;
        tally.settle_all().await;
        for (reason, count) in &tally.failures {
            watch.note(&match count {
                1 => format!("a message was {reason}"),
                _ => format!("{count} messages were {reason}"),
            });
        }
        let sent = tally.delivered;
        match end {
            End::Complete if tally.failures.is_empty() => Ok(ExitCode::SUCCESS),
            End::Complete => Ok(ExitCode::FAILURE),
            End::TimedOut => {
                watch.note(&format!("timed out; messages delivered: {sent}"));
                Ok(ExitCode::from(client::TIMED_OUT))
            }
            End::Interrupted => {
                watch.note(&format!("interrupted; messages delivered: {sent}"));
                Ok(ExitCode::FAILURE)
            }
            End::Failed(error) => watch.fail(error),
        }
    })
}

enum End {
    Complete,
    TimedOut,
    Interrupted,
    Failed(CommandError),
}

/// Publishes everything and waits for its ends.
async fn send(
    link: &Link,
    template: &Publish,
    source: Source,
    options: &MessageArgs,
    tally: &mut Tally<'_>,
) -> Result<(), CommandError> {
    // Input is not read for a server that is not there.
    link.online().await.map_err(stopped)?;
    match source {
        Source::One(payload) => {
            let message = template.clone().with_payload(payload);
            for repetition in 0..options.repeat {
                if let Some(delay) = options.repeat_delay.filter(|_| repetition > 0) {
                    tally.settle_all().await;
                    tokio::time::sleep(delay).await;
                }
                let sent = link.publish(message.clone()).await;
                let receipt = sent.map_err(|error| refused(error, repetition == 0))?;
                tally.add(receipt).await;
            }
        }
        Source::Lines => {
            let lines = lines();
            let mut is_first = true;
            while let Ok(line) = lines.recv().await {
                let line = line.map_err(|error| {
                    CommandError::Failed(format!("cannot read standard input: {error}"))
                })?;
                let message = template.clone().with_payload(line);
                let sent = link.publish(message).await;
                let receipt = sent.map_err(|error| refused(error, is_first))?;
                is_first = false;
                tally.add(receipt).await;
            }
        }
    }
    tally.settle_all().await;
    Ok(())
}

/// What the platform does not take is told before it is sent; if it was the first, nothing was.
fn refused(error: SendError, is_first: bool) -> CommandError {
    match error {
        SendError::Dialect(error) if is_first => usage(error.to_string()),
        error => stopped(error),
    }
}

fn stopped(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}

impl SourceArgs {
    fn read(&self) -> Result<Source, CommandError> {
        if self.stdin_line {
            return Ok(Source::Lines);
        }
        let payload = if let Some(message) = &self.message {
            message.clone().into_encoded_bytes()
        } else if let Some(file) = &self.file {
            std::fs::File::open(file)
                .and_then(read_all)
                .map_err(|error| usage(format!("cannot read {}: {error}", file.display())))?
        } else if self.stdin_file {
            let payload = read_all(io::stdin().lock())
                .map_err(|error| usage(format!("cannot read standard input: {error}")))?;
            if payload.is_empty() {
                return Err(usage(
                    "standard input is empty; say -n if an empty message is meant",
                ));
            }
            payload
        } else {
            Vec::new()
        };
        Ok(Source::One(payload.into()))
    }
}

fn read_all(input: impl Read) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    input
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_to_end(&mut payload)?;
    check_length(payload.len())?;
    Ok(payload)
}

fn check_length(length: usize) -> io::Result<()> {
    if length as u64 > PAYLOAD_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a message has {PAYLOAD_BYTES_MAX} bytes at the most"
        )));
    }
    Ok(())
}

/// Lines of standard input without their ends, read by a thread that waits for the link. The thread ends
/// with the input, with the receiver, or with the process.
fn lines() -> Receiver<io::Result<Bytes>> {
    let (sender, receiver) = async_channel::bounded(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let line = match read_line(&mut input) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let is_last = line.is_err();
            if sender.send_blocking(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// A last line without an end is a line too, other than in mosquitto_pub, which forgets it.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    // One byte more for the line's end, one to tell a line that is too long.
    let length = input
        .take(PAYLOAD_BYTES_MAX + 2)
        .read_until(b'\n', &mut line)?;
    if length == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    check_length(line.len())?;
    Ok(Some(line.into()))
}

/// Counts how messages ended.
#[derive(Debug)]
struct Tally<'a> {
    arguments: &'a PublishArgs,
    /// It was said that the server is waited for.
    told: bool,
    delivered: u64,
    /// How often each other end came, by its description.
    failures: BTreeMap<String, u64>,
    unsettled: VecDeque<Receipt>,
}

impl<'a> Tally<'a> {
    const fn new(arguments: &'a PublishArgs) -> Self {
        Self {
            arguments,
            told: false,
            delivered: 0,
            failures: BTreeMap::new(),
            unsettled: VecDeque::new(),
        }
    }

    /// Adds a message; waits for the oldest one's end while there are too many.
    async fn add(&mut self, receipt: Receipt) {
        self.unsettled.push_back(receipt);
        while let Some(outcome) = self.unsettled.front_mut().and_then(Receipt::try_outcome) {
            self.unsettled.pop_front();
            self.count(&outcome);
        }
        if self.unsettled.len() > UNSETTLED_MAX {
            self.settle_first().await;
        }
    }

    async fn settle_all(&mut self) {
        while !self.unsettled.is_empty() {
            self.settle_first().await;
        }
    }

    /// The receipt stays in the queue until it has resolved, so that nothing is lost if this future is.
    async fn settle_first(&mut self) {
        let count = self.unsettled.len();
        if let Some(receipt) = self.unsettled.front_mut() {
            if !self.told && timeout(client::PATIENCE, &mut *receipt).await.is_err() {
                self.told = true;
                let client = &self.arguments.client;
                client.tell_waiting(&waiting(client.qos, count, self.arguments.message.timeout));
            }
            let Some(receipt) = self.unsettled.front_mut() else {
                return;
            };
            let outcome = receipt.await;
            self.unsettled.pop_front();
            self.count(&outcome);
        }
    }

    fn count(&mut self, outcome: &Outcome) {
        let end = match outcome {
            Outcome::Delivered { .. } => {
                self.delivered += 1;
                return;
            }
            Outcome::Rejected { code, reason } => {
                let reason = reason.as_ref().map(|text| format!(" ({text})"));
                format!("rejected: {code}{}", reason.unwrap_or_default())
            }
            Outcome::Expired => "not sent before its time to live ended".into(),
            Outcome::Dropped(DropReason::ConnectionLost) => {
                "lost with the connection, as QoS 0 allows".into()
            }
            other => format!("not delivered ({})", other.name()),
        };
        *self.failures.entry(end).or_default() += 1;
    }
}

/// What is said when the end of the oldest message does not come.
fn waiting(qos: QoS, count: usize, limit: Option<Duration>) -> String {
    let messages = if count == 1 { "message" } else { "messages" };
    let until = match limit {
        Some(_) => "until the time (-W) is up",
        None => "without end; -W gives up after a time",
    };
    match qos {
        QoS::AtMostOnce => format!("still waiting to send {count} {messages}, {until}"),
        QoS::AtLeastOnce => {
            format!("still waiting for the server to acknowledge {count} {messages}, {until}")
        }
        QoS::ExactlyOnce => format!(
            "still waiting for the server to acknowledge {count} {messages} at QoS 2, which not every server has \
             (then use -q 1), {until}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        let mut input = &b"one\n\ntwo\r\n\xff\0\nlast"[..];
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [&b"one"[..], b"", b"two\r", b"\xff\0", b"last"]);
    }
}
