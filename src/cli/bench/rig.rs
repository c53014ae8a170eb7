//! What a run is mounted on: the fleet, its driver threads, the progress line and Ctrl-C.

use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use paquebot::mqtt::Topic;
use paquebot::{Events, Fleet, Group, GroupBuilder, Link, LinkBuilder, LinkEvent};

use super::driver::{self, Control, Station};
use super::payload::Clock;
use super::preflight::{self, Needs};
use super::progress::{Progress, Words};
use super::schedule::Schedule;
use super::server::{Server, TargetArgs};
use super::tally::{Reading, Tally};
use super::template::{Template, Values};
use super::{LoadArgs, RunArgs};
use crate::cli::{CommandError, client};

/// How often the main thread looks at what the drivers are at.
const LOOK: Duration = Duration::from_millis(20);

/// Outcomes are waited for until none has come for this long.
const ANSWER_QUIET: Duration = Duration::from_secs(5);

/// Time between the last link coming online and the first message, so that all drivers begin together.
const HEAD_START: Duration = Duration::from_millis(20);

/// How long the links may take to say goodbye.
const DRAIN: Duration = Duration::from_secs(1);

/// A running fleet under a bench.
pub(super) struct Rig {
    pub(super) fleet: Fleet,
    pub(super) server: Server,
    pub(super) clock: Clock,
    pub(super) run: u32,
    id: Template,
    drivers: usize,
    interrupt: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) interrupted: bool,
    interval: Duration,
}

/// The drivers of some stations.
pub(super) struct Drivers {
    pub(super) control: Arc<Control>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Rig {
    /// Checks that the machine allows `links` links, finds or starts the server, starts the fleet. From here on a signal
    /// ends what the run is at; the third one ends the process at once.
    pub(super) fn mount(
        server: &TargetArgs,
        run: &RunArgs,
        links: u32,
        connects_max: usize,
    ) -> Result<Self, CommandError> {
        let interrupt = asked_to_end();
        client::leave_at_signal(3);
        preflight::check(Needs {
            links,
            sockets_per_link: server.sockets_per_link(),
            takes_ports: server.takes_ports(),
        })?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = run.workers.map_or_else(cores, usize::from);
        let server = server.start()?;
        let fleet = Fleet::builder()
            .name("bench")
            .workers(workers)
            .connects_max(connects_max)
            .start()
            .map_err(failed)?;
        Ok(Self {
            fleet,
            server,
            clock: Clock::start(),
            run: fastrand::u32(..),
            id: run.id.clone(),
            // A link costs its worker several times what it costs its driver.
            drivers: workers.div_ceil(2),
            interrupt,
            interrupted: false,
            interval: run.interval,
        })
    }

    fn values<'a>(&self, index: u32, client: &'a str) -> Values<'a> {
        Values {
            index,
            client,
            run: self.run,
        }
    }

    pub(super) fn client_id(&self, index: u32) -> String {
        self.id.render(self.values(index, ""))
    }

    /// The topic of a link, on which the server takes payloads of this size.
    pub(super) fn topic(
        &self,
        template: &Template,
        index: u32,
        payload_bytes: usize,
    ) -> Result<Topic, CommandError> {
        let text = template.render(self.values(index, &self.client_id(index)));
        self.server.check_message(&text, payload_bytes)?;
        Topic::new(text.clone())
            .map_err(|error| CommandError::Usage(format!("the topic {text:?} is none: {error}")))
    }

    /// One link of `group`; it is not started yet.
    pub(super) fn link(&self, group: &Group, index: u32) -> Result<LinkBuilder, CommandError> {
        let client_id = self.client_id(index);
        self.server.check_client_id(&client_id)?;
        let builder = group
            .device(client_id.clone())
            .map_err(|error| CommandError::Usage(format!("--id: {client_id:?}: {error}")))?;
        Ok(builder.client_id(client_id))
    }

    /// Starts links with the numbers in `indices` and waits until all are online.
    pub(super) async fn open(
        &mut self,
        group: &Group,
        indices: std::ops::Range<u32>,
    ) -> Result<Vec<Link>, CommandError> {
        let (links, events): (Vec<_>, Vec<_>) = indices
            .map(|index| self.link(group, index)?.start_with_events().map_err(failed))
            .collect::<Result<_, _>>()?;
        let opening = async {
            let mut online: FuturesUnordered<_> = events.into_iter().map(until_online).collect();
            while let Some(result) = online.next().await {
                result?;
            }
            Ok(())
        };
        tokio::select! {
            result = opening => result.map_err(|reason: String| {
                CommandError::Failed(format!("cannot connect to {}: {reason}", self.server.name()))
            })?,
            () = &mut self.interrupt => {
                return Err(CommandError::Failed("interrupted before all links were online".to_owned()));
            }
        }
        Ok(links)
    }

    /// Waits for something without which the run cannot begin.
    pub(super) async fn prepare<T>(
        &mut self,
        what: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            result = what => result,
            () = &mut self.interrupt => Err(CommandError::Failed(
                "interrupted before the server had answered every subscription".to_owned(),
            )),
        }
    }

    pub(super) fn schedule(&self, load: &LoadArgs, links: u32) -> Schedule {
        let start = Instant::now() + HEAD_START;
        let counted_from = start + load.warmup;
        Schedule {
            start,
            counted_from,
            end: load.duration().map(|duration| counted_from + duration),
            rate: load.rate,
            links,
            limit: load.limit,
        }
    }

    /// Spreads stations over driver threads and starts those.
    pub(super) fn drive<S: Station + 'static>(
        &self,
        name: &str,
        stations: Vec<S>,
        schedule: Schedule,
    ) -> Result<Drivers, CommandError> {
        let control = Arc::new(Control::default());
        let count = self.drivers.min(stations.len()).max(1);
        let mut shares: Vec<driver::Stations<S>> = (0..count).map(|_| Vec::new()).collect();
        for ((index, station), share) in (0..).zip(stations).zip((0..count).cycle()) {
            shares[share].push((index, station));
        }
        let mut threads = Vec::with_capacity(count);
        for share in shares {
            let tally = Tally::new()
                .map_err(|error| CommandError::Failed(format!("cannot measure: {error}")))?;
            threads.push(driver::start(name, share, schedule, tally, &control).map_err(failed)?);
        }
        Ok(Drivers { control, threads })
    }

    pub(super) fn progress(&self, words: Words) -> Option<Progress> {
        (!self.interval.is_zero()).then(|| Progress::start(words))
    }

    /// Waits until `is_over`, and shows progress meanwhile. `false`: it was interrupted first.
    pub(super) async fn watch(
        &mut self,
        progress: &mut Option<Progress>,
        read: impl Fn() -> Reading,
        mut is_over: impl FnMut(Reading) -> bool,
    ) -> bool {
        let mut shown_at = Instant::now();
        loop {
            let reading = read();
            if is_over(reading) {
                return true;
            }
            if let Some(progress) = progress
                && shown_at.elapsed() >= self.interval
            {
                shown_at = Instant::now();
                progress.show(reading);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = &mut self.interrupt => {
                    self.interrupted = true;
                    self.interrupt = asked_to_end();
                    return false;
                }
            }
        }
    }

    /// Waits until the senders have sent what they are to, then for what is still to come back: until
    /// all is there or nothing has come for a while. Ctrl-C ends the first, a second one the other.
    pub(super) async fn await_senders(
        &mut self,
        senders: &Drivers,
        progress: &mut Option<Progress>,
        read: impl Fn() -> Reading,
    ) -> Instant {
        let all_sent = |_| senders.is_finished() || senders.control.reading().sending == 0;
        if !self.watch(progress, &read, all_sent).await {
            senders.control.close();
        }
        let stopped_at = Instant::now();
        let mut quiet = Quiet::new(ANSWER_QUIET);
        let all_answered = |_| {
            let reading = senders.control.reading();
            senders.is_finished() || quiet.is_over((reading.ended, reading.arrived))
        };
        self.watch(progress, &read, all_answered).await;
        senders.control.leave();
        stopped_at
    }

    /// Stops the links; how often connections were made.
    pub(super) async fn dismount(self) -> u64 {
        self.fleet.drain(DRAIN).await.connects
    }
}

/// Settings that all links of a run with this load have.
pub(super) fn load_settings(group: GroupBuilder, load: &LoadArgs, inflight: u16) -> GroupBuilder {
    // Room for topic, header and properties.
    let packet_bytes = load.size.saturating_add(128 * 1024).max(1024 * 1024);
    group
        .inflight_max(inflight)
        .queue_messages_max(inflight.into())
        .packet_size_max(u32::try_from(packet_bytes).unwrap_or(u32::MAX))
        // What is lost is then lost by the server or on the way, not by a link that was read too slowly.
        .hold_qos0(true)
}

impl Drivers {
    pub(super) fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// The sums over the drivers, which have to be about to end.
    pub(super) fn join(self) -> Result<Tally, CommandError> {
        let mut sum: Option<Tally> = None;
        for thread in self.threads {
            let tally = thread.join().map_err(|_| {
                CommandError::Failed("a driver thread panicked; please report this bug".to_owned())
            })?;
            match &mut sum {
                Some(sum) => sum.merge(tally),
                None => sum = Some(tally),
            }
        }
        sum.ok_or_else(|| CommandError::Failed("nothing was measured".to_owned()))
    }
}

/// Finds out when something has not changed for a while.
pub(super) struct Quiet<T> {
    longest: Duration,
    last: Option<(T, Instant)>,
}

impl<T: PartialEq> Quiet<T> {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            last: None,
        }
    }

    pub(super) fn is_over(&mut self, now: T) -> bool {
        match &self.last {
            Some((last, since)) if *last == now => since.elapsed() >= self.longest,
            _ => {
                self.last = Some((now, Instant::now()));
                false
            }
        }
    }
}

/// Resolves once the process is asked to end; never when the system does not let us know.
fn asked_to_end() -> Pin<Box<dyn Future<Output = ()>>> {
    let asked = client::asked_to_end();
    Box::pin(async {
        if asked.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Waits for a link; what its first attempt fails with is the error.
async fn until_online(mut events: Events) -> Result<(), String> {
    loop {
        match events.next().await {
            Some(LinkEvent::Online) => return Ok(()),
            Some(LinkEvent::ConnectFailed { error }) => return Err(error.to_string()),
            Some(LinkEvent::Disconnected { reason }) => return Err(reason.to_string()),
            Some(_) => {}
            None => return Err("the link stopped".to_owned()),
        }
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
