//! `bench sub`: what arrives of what is published, and when.

use std::time::{Duration, Instant};

use clap::Args;
use paquebot::mqtt::{self, Topic, TopicFilter};
use paquebot::{Group, GroupBuilder, Subscription};

use super::assertion::Kind;
use super::progress::{Progress, Words};
use super::publish::{Span, per_second};
use super::receiver::{Receiver, Subscriber};
use super::rig::{Drivers, Quiet, Rig, failed, load_settings};
use super::schedule::Schedule;
use super::sender::{Publisher, Sender};
use super::server::TargetArgs;
use super::summary::{ArrivalLatencies, Arriving, Pace, Summary, share};
use super::tally::Tally;
use super::{LoadArgs, RunArgs};
use crate::cli::CommandError;

/// Messages are waited for until none has come for this long.
const ARRIVAL_QUIET: Duration = Duration::from_secs(2);

/// Received messages that wait for all subscribers together; each has room for 16 to 1,024 of them.
const INBOXES_MAX: usize = 100_000;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct SubArgs {
    /// Links that subscribe.
    #[arg(long, value_name = "LINKS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Links that publish.
    #[arg(long, value_name = "LINKS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// The filter of all subscribers, $share/GROUP/FILTER too [default: all topics of the publishers].
    #[arg(long)]
    filter: Option<String>,
    /// Publishes nothing: counts what arrives from elsewhere. What another bench sends says itself when it
    /// was due: its latencies compare the clocks of two processes.
    #[arg(long, requires = "filter", conflicts_with_all = ["publishers", "rate", "size", "inflight", "topic"])]
    no_publish: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    server: TargetArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

const KINDS: [Kind; 5] = [
    Kind::EndToEnd,
    Kind::EndToEndService,
    Kind::Ack,
    Kind::AckService,
    Kind::Late,
];

const WORDS: Words = Words {
    sent: Some("sent"),
    ended: Some("answered"),
    arrived: Some("received"),
};

impl SubArgs {
    pub(super) async fn run(&self) -> Result<Summary, CommandError> {
        if self.no_publish {
            self.run.check(self.count, &KINDS[..2])?;
            return self.listen().await;
        }
        let links = self.count.saturating_add(self.publishers);
        self.run.check(links, &KINDS)?;
        let mut rig = Rig::mount(&self.server, &self.run, links, 512)?;
        rig.server.check_qos(self.load.qos)?;
        let inflight = self.load.inflight(100);
        let topics = (0..self.publishers)
            .map(|index| rig.topic(&self.load.topic, index, self.load.size))
            .collect::<Result<Vec<_>, _>>()?;
        let filter = self.filter(&rig, &topics)?;
        let group = self.server.group(&rig.server, &rig.fleet, "publishers")?;
        let publishers = build(load_settings(group, &self.load, inflight))?;
        // Publishers come first in the numbers of links, so that %i in the topic is theirs.
        let subscriptions = self
            .subscribe(&mut rig, &filter, self.publishers..links)
            .await?;
        let links = rig.open(&publishers, 0..self.publishers).await?;
        let schedule = rig.schedule(&self.load, self.publishers);
        let receivers = subscriptions
            .into_iter()
            .map(|subscription| Receiver::of_run(subscription, rig.clock, rig.run))
            .map(Subscriber::new)
            .collect();
        let receivers = rig.drive("bench-sub", receivers, schedule)?;
        let load = self.load.of_run(&rig, schedule, inflight);
        let senders = (0..)
            .zip(links.into_iter().zip(topics))
            .map(|(index, (link, topic))| Publisher::new(Sender::new(link, topic, index, load)))
            .collect();
        let senders = rig.drive("bench-pub", senders, schedule)?;
        let mut progress = rig.progress(WORDS);
        let stopped_at = rig
            .await_senders(&senders, &mut progress, || {
                senders.control.reading() + receivers.control.reading()
            })
            .await;
        let mut tally = senders.join()?;
        let copies = if filter.shared().is_some() {
            1
        } else {
            self.count.into()
        };
        let to_come = tally.counts.delivered.saturating_mul(copies);
        await_arrivals(&mut rig, &receivers, &mut progress, to_come).await;
        tally.merge(receivers.join()?);
        if let Some(progress) = progress {
            progress.end();
        }
        let span = Span::of(&schedule, &tally, rig.interrupted.then_some(stopped_at));
        let expected = tally.counts.sent.saturating_mul(copies);
        let lost = expected.saturating_sub(tally.counts.distinct());
        let all = self.count.saturating_add(self.publishers);
        let mut summary = self
            .load
            .summary("sub", &rig, &self.server, all, span, &tally);
        summary.sending = Some(self.load.sending(inflight, span, &tally));
        summary.arriving = Some(self.arriving(expected, lost, span.arriving, &tally));
        summary.reconnects = rig.dismount().await.saturating_sub(all.into());
        Ok(summary)
    }

    /// `--no-publish`.
    async fn listen(&self) -> Result<Summary, CommandError> {
        let mut rig = Rig::mount(&self.server, &self.run, self.count, 512)?;
        rig.server.check_qos(self.load.qos)?;
        let filter = self.filter(&rig, &[])?;
        let subscriptions = self.subscribe(&mut rig, &filter, 0..self.count).await?;
        let schedule = Schedule {
            rate: None,
            ..rig.schedule(&self.load, self.count)
        };
        let receivers = subscriptions
            .into_iter()
            .map(|messages| Receiver::of_all(messages, rig.clock, schedule.counted_from))
            .map(Subscriber::new)
            .collect();
        let receivers = rig.drive("bench-sub", receivers, schedule)?;
        let mut progress = rig.progress(Words {
            sent: None,
            ended: None,
            arrived: Some("received"),
        });
        let control = &receivers.control;
        let is_over = |reading: super::tally::Reading| {
            let is_full = self
                .load
                .limit
                .is_some_and(|limit| reading.arrived >= limit);
            is_full || schedule.is_over(Instant::now()) || receivers.is_finished()
        };
        rig.watch(&mut progress, || control.reading(), is_over)
            .await;
        let elapsed = Instant::now().saturating_duration_since(schedule.counted_from);
        control.leave();
        let tally = receivers.join()?;
        if let Some(progress) = progress {
            progress.end();
        }
        let span = Span::of(&schedule, &tally, Some(schedule.counted_from + elapsed));
        let mut summary = self
            .load
            .summary("sub", &rig, &self.server, self.count, span, &tally);
        summary.pace = Pace::None;
        summary.achieved_rate_per_s =
            per_second(tally.counts.received + tally.counts.foreign, elapsed);
        // Only what is missing between messages that came is known to be lost.
        let lost = tally.counts.missing;
        let expected = tally.counts.distinct() + lost;
        summary.arriving = Some(self.arriving(expected, lost, elapsed, &tally));
        summary.reconnects = rig.dismount().await.saturating_sub(self.count.into());
        Ok(summary)
    }

    fn filter(&self, rig: &Rig, topics: &[Topic]) -> Result<TopicFilter, CommandError> {
        let text = match &self.filter {
            Some(text) => text.clone(),
            None => self.load.topic.filter(rig.run),
        };
        let filter = TopicFilter::new(text.clone())
            .and_then(|filter| filter.check_shared().map(|_| filter.clone()))
            .map_err(|error| {
                CommandError::Usage(format!("the filter {text:?} is none: {error}"))
            })?;
        rig.server.check_filter(&filter, self.load.qos)?;
        let bare = filter
            .shared()
            .map_or(filter.as_str(), |shared| shared.filter);
        let bare = TopicFilter::new(bare.to_owned()).map_err(failed)?;
        match topics.iter().find(|topic| !bare.matches(topic)) {
            Some(topic) => Err(CommandError::Usage(format!(
                "the filter {text:?} does not take the publishers' topic {:?}",
                topic.as_str()
            ))),
            None => Ok(filter),
        }
    }

    /// Opens the subscribing links and waits until the server sends them messages.
    async fn subscribe(
        &self,
        rig: &mut Rig,
        filter: &TopicFilter,
        indices: std::ops::Range<u32>,
    ) -> Result<Vec<Subscription>, CommandError> {
        let group = self.server.group(&rig.server, &rig.fleet, "subscribers")?;
        let group = build(load_settings(group, &self.load, 1000))?;
        let links = rig.open(&group, indices).await?;
        let inbox = (INBOXES_MAX / links.len().max(1)).clamp(16, 1024);
        let subscribing = async {
            let mut subscriptions = Vec::with_capacity(links.len());
            for link in &links {
                let wanted = mqtt::Subscription::new(filter.clone(), self.load.qos);
                let subscription = link.subscribe_all(vec![wanted], Some(inbox)).await;
                subscriptions.push(subscription.map_err(failed)?);
            }
            for subscription in &subscriptions {
                subscription.ready().await.map_err(failed)?;
            }
            Ok(subscriptions)
        };
        rig.prepare(subscribing).await
    }

    fn arriving(&self, expected: u64, lost: u64, time: Duration, tally: &Tally) -> Arriving {
        let counts = &tally.counts;
        Arriving {
            receivers: self.count,
            expected,
            received: counts.received,
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            lost,
            loss: share(lost, expected),
            foreign: counts.foreign,
            received_rate_per_s: per_second(counts.distinct(), time),
            latencies: ArrivalLatencies::EndToEnd {
                e2e: tally.arrival.percentiles(),
                e2e_service: tally.arrival_service.percentiles(),
            },
        }
    }
}

/// Waits until everything has arrived, or nothing more does.
async fn await_arrivals(
    rig: &mut Rig,
    receivers: &Drivers,
    progress: &mut Option<Progress>,
    to_come: u64,
) {
    let control = &receivers.control;
    let mut quiet = Quiet::new(ARRIVAL_QUIET);
    let has_arrived = |reading: super::tally::Reading| {
        receivers.is_finished() || reading.distinct >= to_come || quiet.is_over(reading.arrived)
    };
    rig.watch(progress, || control.reading(), has_arrived).await;
    control.leave();
}

fn build(group: GroupBuilder) -> Result<Group, CommandError> {
    group
        .build()
        .map_err(|error| CommandError::Usage(error.to_string()))
}
