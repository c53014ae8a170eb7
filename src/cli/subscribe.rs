//! `paquebot sub`: subscribes and prints what comes.

use std::collections::HashSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args};
use futures_util::FutureExt as _;
use jiff::Zoned;
use paquebot::{Link, Message, Publish, SubscribeError, Subscription};
use paquebot_protocols::mqtt::{self, QoS, ReasonCode, TopicFilter, Version};

use super::CommandError;
use super::client::{self, Change, Client, ClientArgs, Purpose, Sizes, Watch, usage};
use super::format::{Format, Shown};
use unsubscribing::Unsubscribing;

mod unsubscribing;

/// Messages that wait between the link and the output.
const INBOX_MAX: usize = 1_024;

/// Messages printed before the output is flushed at the latest, and acknowledged after it.
const BATCH_MAX: usize = 256;

/// Prints the messages of topics, with the flags of mosquitto_sub.
///
/// Prints each payload on a line of its own; -v and -F show more. A connection that breaks is restored with
/// its subscriptions. Messages of QoS 1 and 2 are acknowledged once they are printed.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, args_override_self = true)]
#[command(
    after_help = "Formats (-F): %t topic, %p payload, %x %X payload in hexadecimal, %l its length, %q QoS, %r \
retained, %m packet identifier, %j %J the message as JSON (%J with a payload that is JSON), %I time, %U Unix time; \
MQTT 5: %C content type, %D correlation data, %E expiry, %F format indicator, %P user properties, %R response topic, \
%S subscription identifier. Flags, width and precision as in %-10.10t. @X is %X of strftime, @N nanoseconds; \\n \\t \
\\e \\0 … as usual.

Exit status: 0 done (-C, -E, --retained-only) or ended by a signal; 1 no connection, also one that \
the server refused (mosquitto_sub gives the code of the CONNACK then, of which 1 and 2 mean something else here), every \
subscription or a filter of -U refused, or the session was taken over; 2 the command line or a file is wrong, or the platform is known not \
to take such a filter or client identifier, and nothing was asked for; 27 the time (-W) was up."
)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Topic filter to subscribe to; may be repeated
    #[arg(short, long = "topic", value_name = "FILTER")]
    topics: Vec<String>,
    /// Topic filter to take out of a session that the server has kept (-c -i ID); may be repeated. Without -t the
    /// command ends once the server has answered
    #[arg(short = 'U', long = "unsubscribe", value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// Do not show messages on topics that match; may be repeated
    #[arg(short = 'T', long = "filter-out", value_name = "FILTER")]
    filters_out: Vec<String>,
    /// End after so many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End so many seconds after the connection came about, with exit status 27
    #[arg(short = 'W', value_name = "SECONDS", value_parser = time_limit)]
    timeout: Option<Duration>,
    /// End as soon as the server has answered every subscription (and -U)
    #[arg(short = 'E')]
    exit_when_subscribed: bool,
    /// How to show a message, such as '%I %t %p'
    #[arg(short = 'F', value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<Format>,
    /// Show the topic before the payload
    #[arg(short, long)]
    verbose: bool,
    /// No line end after a message
    #[arg(short = 'N')]
    no_line_end: bool,
    /// Do not show retained messages
    #[arg(short = 'R', conflicts_with = "retained_only")]
    no_retained: bool,
    /// Show retained messages only, and end at the first that is not
    #[arg(long)]
    retained_only: bool,
    /// MQTT 5: show the retain flag as it was published
    #[arg(long)]
    retain_as_published: bool,
    /// Have the server forget each retained message that comes and is not filtered out (-T)
    #[arg(long)]
    remove_retained: bool,
}

/// Runs the command.
pub(crate) fn run(
    arguments: &SubscribeArgs,
    output: &mut dyn Write,
) -> Result<ExitCode, CommandError> {
    let show = &arguments.show;
    let sizes = Sizes {
        inflight_max: None,
        inbox_max: Some(INBOX_MAX),
    };
    let client = arguments.client.prepare(Purpose::Subscribe, sizes)?;
    let subscriptions = show.subscriptions(&client, arguments.client.qos)?;
    client.check_subscriptions(&subscriptions)?;
    let unsubscribe = unsubscribing::check(
        filters("-U", &show.unsubscribe)?,
        &subscriptions,
        arguments.client.keeps_session(),
    )?;
    let leaving: Vec<_> = unsubscribe
        .iter()
        .map(|filter| mqtt::Subscription::new(filter.clone(), QoS::AtMostOnce))
        .collect();
    client.check_subscriptions(&leaving)?;
    let mut answers = Answers::new(&subscriptions);
    let mut printer = Printer {
        show,
        filters_out: filters("-T", &show.filters_out)?,
        shown: 0,
        unflushed: Vec::new(),
        output,
    };

    client::block_on(async {
        let asked_to_end = client::asked_to_end();
        client::leave_at_signal(2);
        let (fleet, link, mut watch) = client.start()?;
        answers.leaving = match unsubscribe {
            filters if filters.is_empty() => Unsubscribing::none(),
            filters => Unsubscribing::start(&link, filters),
        };
        let result = match link.subscribe_all(subscriptions, None).await {
            Ok(mut inbox) => {
                let result = printer
                    .print(&mut inbox, &link, &mut watch, &mut answers, asked_to_end)
                    .await;
                // The inbox outlives the link: dropped before, it would unsubscribe from a session that
                // is to be kept.
                client::leave(&fleet).await;
                drop(inbox);
                result
            }
            // Nothing of it left this process.
            Err(SubscribeError::Dialect(error)) => Err(usage(error.to_string())),
            Err(error) => Err(CommandError::Failed(error.to_string())),
        };
        match result {
            Ok(End::Done) if answers.kept > 0 => Ok(ExitCode::FAILURE),
            Ok(End::Done) => Ok(ExitCode::SUCCESS),
            Ok(End::TimedOut) => {
                watch.note("timed out");
                Ok(ExitCode::from(client::TIMED_OUT))
            }
            Err(error) => watch.fail(error),
        }
    })
}

impl ShowArgs {
    fn subscriptions(
        &self,
        client: &Client,
        qos: QoS,
    ) -> Result<Vec<mqtt::Subscription>, CommandError> {
        if self.retain_as_published && client.version == Version::V311 {
            return Err(usage("--retain-as-published needs MQTT 5 (-V 5)"));
        }
        let texts: Vec<String> = client.topic.iter().chain(&self.topics).cloned().collect();
        if texts.is_empty() && self.unsubscribe.is_empty() {
            return Err(usage("name a topic to subscribe to (-t)"));
        }
        let mut known = HashSet::new();
        let filters = filters("-t", &texts)?;
        Ok(filters
            .into_iter()
            .filter(|filter| known.insert(filter.clone()))
            .map(|filter| mqtt::Subscription {
                retain_as_published: self.retain_as_published,
                ..mqtt::Subscription::new(filter, qos)
            })
            .collect())
    }
}

fn filters(flag: &str, texts: &[String]) -> Result<Vec<TopicFilter>, CommandError> {
    texts
        .iter()
        .map(|text| {
            TopicFilter::new(text.as_str())
                .map_err(|error| usage(format!("{flag} {text:?}: {error}")))
        })
        .collect()
}

fn time_limit(text: &str) -> Result<Duration, &'static str> {
    client::seconds(text)
        .ok()
        .filter(|limit| !limit.is_zero())
        .ok_or("use a number of seconds above 0")
}

enum End {
    Done,
    TimedOut,
}

/// What the server said to the filters. Every code is looked at.
struct Answers {
    leaving: Unsubscribing,
    /// Filters of `-U` that the server did not take out.
    kept: usize,
    open: HashSet<TopicFilter>,
    granted: HashSet<TopicFilter>,
    refused: Vec<(TopicFilter, ReasonCode)>,
}

impl Answers {
    fn new(subscriptions: &[mqtt::Subscription]) -> Self {
        Self {
            leaving: Unsubscribing::none(),
            kept: 0,
            open: subscriptions.iter().map(|s| s.filter.clone()).collect(),
            granted: HashSet::new(),
            refused: Vec::new(),
        }
    }

    /// Whether an answer is missing.
    fn are_open(&self) -> bool {
        !self.open.is_empty() || self.leaving.is_open()
    }

    fn tell_waiting(&self, watch: &Watch) {
        if self.open.is_empty() {
            watch.note("still waiting for the server to answer the unsubscription (-U)");
            return;
        }
        let mut open: Vec<_> = self.open.iter().map(TopicFilter::to_string).collect();
        open.sort_unstable();
        let open = open.join(", ");
        watch.note(&format!(
            "still waiting for the server to answer the subscription to {open}; a server that has not the quality of \
             service may never do so (-q)"
        ));
    }

    /// Takes an answer; gives whether every filter has one. Filters are answered anew after a reconnect.
    fn take(
        &mut self,
        filter: TopicFilter,
        answer: Result<QoS, ReasonCode>,
        watch: &Watch,
    ) -> Result<bool, CommandError> {
        self.open.remove(&filter);
        match answer {
            Ok(_) => {
                self.granted.insert(filter);
            }
            Err(code) => {
                self.granted.remove(&filter);
                self.refused.push((filter, code));
            }
        }
        if !self.open.is_empty() {
            return Ok(false);
        }
        let refusals = self.refused.drain(..).map(|(filter, code)| {
            format!("the server refused the subscription to {filter}: {code}")
        });
        if self.granted.is_empty() {
            let refusals: Vec<_> = refusals.collect();
            return Err(CommandError::Failed(refusals.join("; ")));
        }
        for refusal in refusals {
            watch.note(&refusal);
        }
        Ok(!self.leaving.is_open())
    }
}

struct Printer<'a> {
    show: &'a ShowArgs,
    filters_out: Vec<TopicFilter>,
    shown: u64,
    /// Messages in the output's buffer: they are acknowledged when the reader has them.
    unflushed: Vec<Message>,
    output: &'a mut dyn Write,
}

impl Printer<'_> {
    async fn print(
        &mut self,
        inbox: &mut Subscription,
        link: &Link,
        watch: &mut Watch,
        answers: &mut Answers,
        asked_to_end: impl Future<Output = io::Result<()>>,
    ) -> Result<End, CommandError> {
        let mut asked_to_end = std::pin::pin!(asked_to_end);
        let mut timeout = std::pin::pin!(client::timed_out(self.show.timeout));
        let mut patience = std::pin::pin!(client::timed_out(None));
        let mut was_connected = false;
        loop {
            tokio::select! {
                biased;
                result = &mut asked_to_end => {
                    result.map_err(|error| CommandError::Failed(error.to_string()))?;
                    return Ok(End::Done);
                }
                () = &mut timeout => return Ok(End::TimedOut),
                () = &mut patience, if answers.are_open() => {
                    answers.tell_waiting(watch);
                    patience.set(client::timed_out(None));
                }
                change = watch.next() => match change? {
                    Change::Connected { session_present } => {
                        if !was_connected {
                            was_connected = true;
                            if !session_present && !self.show.unsubscribe.is_empty() {
                                watch.note(
                                    "the server has kept no session of this client; there is nothing to unsubscribe from \
                                     (-U)",
                                );
                            }
                            timeout.set(client::timed_out(self.show.timeout));
                        }
                        patience.set(client::timed_out(Some(client::PATIENCE)));
                    }
                    Change::Online => {}
                    Change::Answered(filter, answer) => {
                        let all = answers.take(filter, answer, watch)?;
                        if all && self.show.exit_when_subscribed {
                            return Ok(End::Done);
                        }
                    }
                },
                result = answers.leaving.answers() => {
                    let is_all = self.show.topics.is_empty() && answers.granted.is_empty() && answers.open.is_empty();
                    answers.kept = unsubscribing::judge(result, is_all, watch)?;
                    if is_all || (self.show.exit_when_subscribed && !answers.are_open()) {
                        return Ok(End::Done);
                    }
                }
                message = inbox.next() => {
                    let Some(message) = message else {
                        return Err(CommandError::Failed("the link has stopped".into()));
                    };
                    if self.take_waiting(message, inbox, link, watch).await? {
                        return Ok(End::Done);
                    }
                }
            }
        }
    }

    /// Prints a message and those that wait behind it, then flushes. Gives whether that was all.
    async fn take_waiting(
        &mut self,
        first: Message,
        inbox: &mut Subscription,
        link: &Link,
        watch: &Watch,
    ) -> Result<bool, CommandError> {
        let mut next = Some(first);
        let mut is_done = false;
        while let Some(message) = next {
            is_done = self.take(&message, link, watch).await?;
            self.unflushed.push(message);
            if is_done || self.unflushed.len() >= BATCH_MAX {
                break;
            }
            next = inbox.next().now_or_never().flatten();
        }
        self.output.flush()?;
        self.unflushed.clear();
        Ok(is_done)
    }

    async fn take(
        &mut self,
        message: &Message,
        link: &Link,
        watch: &Watch,
    ) -> Result<bool, CommandError> {
        let show = self.show;
        if show.retained_only && !message.retain() {
            return Ok(true);
        }
        if self.filters_out.iter().any(|f| f.matches(message.topic())) {
            return Ok(false);
        }
        if show.remove_retained && message.retain() && !message.payload().is_empty() {
            let removal = Publish::on(message.topic().clone(), "").with_retain(true);
            let receipt = link
                .publish(removal)
                .await
                .map_err(|error| CommandError::Failed(error.to_string()))?;
            // Leaving waits for it.
            drop(receipt);
        }
        if show.no_retained && message.retain() {
            return Ok(false);
        }
        self.write(message, watch)?;
        self.shown += 1;
        Ok(show.count == Some(self.shown))
    }

    /// As mosquitto_sub, an empty payload is `(null)` behind its topic and nothing without.
    fn write(&mut self, message: &Message, watch: &Watch) -> io::Result<()> {
        let (topic, payload) = (message.topic().as_str(), message.payload());
        let line_end = if self.show.no_line_end { "" } else { "\n" };
        let output = &mut *self.output;
        if let Some(format) = &self.show.format {
            let shown = Shown {
                topic,
                payload,
                qos: message.qos(),
                retain: message.retain(),
                packet_id: message.packet_id().map_or(0, |id| id.value()),
                properties: message.properties(),
            };
            if !format.write(&shown, &Zoned::now(), output)? {
                watch.note(&format!("the payload on {topic} is not JSON"));
            }
            return output.write_all(line_end.as_bytes());
        }
        if payload.is_empty() {
            if self.show.verbose && !self.show.no_line_end {
                writeln!(output, "{topic} (null)")?;
            }
            return Ok(());
        }
        if self.show.verbose {
            write!(output, "{topic} ")?;
        }
        output.write_all(payload)?;
        output.write_all(line_end.as_bytes())
    }
}
