//! `bench rtt`: each link sends messages to itself.

use clap::Args;

use super::assertion::Kind;
use super::progress::Words;
use super::publish::{Span, per_second};
use super::receiver::{Receiver, RoundTrip};
use super::rig::{Rig, failed, load_settings};
use super::sender::Sender;
use super::server::TargetArgs;
use super::summary::{ArrivalLatencies, Arriving, Summary, share};
use super::{LoadArgs, RunArgs};
use crate::cli::CommandError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct RttArgs {
    /// Links that send messages to themselves.
    #[arg(long, value_name = "LINKS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    server: TargetArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

const KINDS: [Kind; 5] = [
    Kind::RoundTrip,
    Kind::RoundTripService,
    Kind::Ack,
    Kind::AckService,
    Kind::Late,
];

impl RttArgs {
    pub(super) async fn run(&self) -> Result<Summary, CommandError> {
        self.run.check(self.count, &KINDS)?;
        if self.count > 1 && !self.load.topic.differs_by_link() {
            return Err(CommandError::Usage(
                "--topic gives all links the same topic; put %i or %c in it".to_owned(),
            ));
        }
        let inflight = self.load.inflight(1);
        let mut rig = Rig::mount(&self.server, &self.run, self.count, 512)?;
        rig.server.check_qos(self.load.qos)?;
        let group = self.server.group(&rig.server, &rig.fleet, "rtt")?;
        let group = load_settings(group, &self.load, inflight)
            .inbox_max(inflight.clamp(16, 1024).into())
            .build()
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let topics = (0..self.count)
            .map(|index| rig.topic(&self.load.topic, index, self.load.size))
            .collect::<Result<Vec<_>, _>>()?;
        let links = rig.open(&group, 0..self.count).await?;
        let subscribing = async {
            let mut subscriptions = Vec::with_capacity(links.len());
            for (link, topic) in links.iter().zip(&topics) {
                let subscription = link.subscribe(topic.as_str(), self.load.qos).await;
                subscriptions.push(subscription.map_err(failed)?);
            }
            for subscription in &subscriptions {
                subscription.ready().await.map_err(failed)?;
            }
            Ok(subscriptions)
        };
        let subscriptions = rig.prepare(subscribing).await?;
        let schedule = rig.schedule(&self.load, self.count);
        let load = self.load.of_run(&rig, schedule, inflight);
        let stations = (0..)
            .zip(links.into_iter().zip(topics).zip(subscriptions))
            .map(|(index, ((link, topic), subscription))| {
                RoundTrip::new(
                    Sender::new(link, topic, index, load),
                    Receiver::of_run(subscription, rig.clock, rig.run),
                    schedule.start,
                    inflight.into(),
                )
            })
            .collect();
        let drivers = rig.drive("bench-rtt", stations, schedule)?;
        let mut progress = rig.progress(Words {
            sent: Some("sent"),
            ended: None,
            arrived: Some("returned"),
        });
        let control = &drivers.control;
        let stopped_at = rig
            .await_senders(&drivers, &mut progress, || control.reading())
            .await;
        let tally = drivers.join()?;
        if let Some(progress) = progress {
            progress.end();
        }
        let span = Span::of(&schedule, &tally, rig.interrupted.then_some(stopped_at));
        let mut summary = self
            .load
            .summary("rtt", &rig, &self.server, self.count, span, &tally);
        let counts = &tally.counts;
        let lost = counts.sent.saturating_sub(counts.distinct());
        summary.arriving = Some(Arriving {
            receivers: self.count,
            expected: counts.sent,
            received: counts.received,
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            lost,
            loss: share(lost, counts.sent),
            foreign: counts.foreign,
            received_rate_per_s: per_second(counts.distinct(), span.arriving),
            latencies: ArrivalLatencies::RoundTrip {
                rtt: tally.arrival.percentiles(),
                rtt_service: tally.arrival_service.percentiles(),
            },
        });
        summary.sending = Some(self.load.sending(inflight, span, &tally));
        summary.reconnects = rig.dismount().await.saturating_sub(self.count.into());
        Ok(summary)
    }
}
