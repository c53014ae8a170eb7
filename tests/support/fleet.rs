//! Fleets and embedded brokers as the behaviour tests want them: quick to come back, with a limit on
//! every wait.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use paquebot::dialect::plain::{Plain, Topics};
use paquebot::mqtt::Version;
use paquebot::mqtt::session::CloseReason;
use paquebot::{
    BackoffConfig, ConnectError, Events, Fleet, GroupBuilder, Jitter, Link, LinkEvent,
    PipeConnector,
};
use paquebot_emulator::{AllowAll, Broker, Policy, Watch};

/// Far beyond what anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// Both protocol versions.
pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// Delays that do not hold a test up; exact, so that they can be compared.
pub(crate) fn quick() -> BackoffConfig {
    BackoffConfig {
        base: Duration::from_millis(20),
        max: Duration::from_millis(200),
        jitter: Jitter::None,
        ..BackoffConfig::default()
    }
}

/// The plain dialect without the online/offline status: only what the test sends is counted.
pub(crate) fn silent() -> Plain {
    let topics = Topics {
        status: None,
        ..Topics::default()
    };
    match Plain::new(&topics) {
        Ok(dialect) => dialect,
        Err((name, error)) => panic!("the {name} template is wrong: {error}"),
    }
}

/// A fleet of one worker: what one link does to another shows.
pub(crate) fn fleet() -> Fleet {
    named_fleet("paquebot")
}

pub(crate) fn named_fleet(name: &str) -> Fleet {
    match Fleet::builder().name(name).workers(1).start() {
        Ok(fleet) => fleet,
        Err(error) => panic!("the fleet did not start: {error}"),
    }
}

/// An embedded broker on a free port, on the caller's runtime.
pub(crate) async fn broker() -> Broker {
    broker_with(AllowAll).await
}

/// One that lets in and allows what this says.
pub(crate) async fn broker_with(policy: impl Policy) -> Broker {
    let builder = Broker::builder().tcp(([127, 0, 0, 1], 0)).policy(policy);
    match builder.start().await {
        Ok(broker) => broker,
        Err(error) => panic!("the embedded broker did not start: {error}"),
    }
}

/// The address of an embedded broker.
pub(crate) fn url(broker: &Broker) -> String {
    match broker.tcp_address() {
        Some(address) => format!("mqtt://{address}"),
        None => panic!("the embedded broker has no TCP listener"),
    }
}

/// A group with quick delays.
pub(crate) fn group(fleet: &Fleet, url: &str, version: Version) -> GroupBuilder {
    fleet
        .group("test")
        .endpoint(url)
        .version(version)
        .backoff(quick())
}

/// Starts a link of a group that is right but for nothing.
#[track_caller]
pub(crate) fn start(builder: GroupBuilder, device: &str) -> Link {
    match builder.build() {
        Ok(group) => start_in(&group, device),
        Err(error) => panic!("the group is refused: {error}"),
    }
}

#[track_caller]
pub(crate) fn start_in(group: &paquebot::Group, device: &str) -> Link {
    let builder = match group.device(device) {
        Ok(builder) => builder,
        Err(error) => panic!("{device:?} is refused: {error}"),
    };
    match builder.start() {
        Ok(link) => link,
        Err(error) => panic!("the link did not start: {error}"),
    }
}

/// Waits for a future, at most [`LIMIT`].
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(LIMIT, future).await {
            Ok(value) => value,
            Err(_) => panic!("waited {LIMIT:?} in vain until {what} ({caller})"),
        }
    }
}

/// The next messages that a broker has, each of which is a number.
pub(crate) async fn numbers(watch: &mut Watch, count: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let Some(message) = soon("the broker has it", watch.recv()).await else {
            panic!("the broker is gone");
        };
        let number = std::str::from_utf8(&message.payload).map(str::parse);
        match number {
            Ok(Ok(number)) => numbers.push(number),
            _ => panic!("{:?} is no number", message.payload),
        }
    }
    numbers
}

/// Waits until a condition that wakes nobody holds; it is looked at every few milliseconds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + LIMIT;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "waited {LIMIT:?} in vain until {what} ({caller})"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) async fn online(link: &Link) {
    if let Err(error) = soon("the link is online", link.online()).await {
        panic!("{error}");
    }
}

/// The next event that `pick` wants; events before it are passed over.
#[track_caller]
pub(crate) fn event<T>(
    events: &mut Events,
    what: &str,
    mut pick: impl FnMut(&LinkEvent) -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, events.next()).await {
                Ok(Some(event)) => match pick(&event) {
                    Some(picked) => return picked,
                    None => seen.push(event),
                },
                Ok(None) => panic!("the link stopped before {what} ({caller}); seen: {seen:?}"),
                Err(_) => {
                    panic!("waited {LIMIT:?} in vain for {what} ({caller}); seen: {seen:?}")
                }
            }
        }
    }
}

/// Why the connection ended.
#[track_caller]
pub(crate) fn disconnected(events: &mut Events) -> impl Future<Output = CloseReason> {
    event(events, "Disconnected", |event| match event {
        LinkEvent::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    })
}

/// Why no byte stream came about.
#[track_caller]
pub(crate) fn connect_failed(events: &mut Events) -> impl Future<Output = Arc<ConnectError>> {
    event(events, "ConnectFailed", |event| match event {
        LinkEvent::ConnectFailed { error } => Some(Arc::clone(error)),
        _ => None,
    })
}

/// How long the link is going to wait.
#[track_caller]
pub(crate) fn retrying(events: &mut Events) -> impl Future<Output = Duration> {
    event(events, "Retrying", |event| match event {
        LinkEvent::Retrying { delay } => Some(*delay),
        _ => None,
    })
}

#[track_caller]
pub(crate) fn online_again(events: &mut Events) -> impl Future<Output = ()> {
    event(events, "Online", |event| {
        matches!(event, LinkEvent::Online).then_some(())
    })
}

/// Ends a fleet in order: everything was accounted for and nothing is held.
pub(crate) async fn drain(fleet: &Fleet) -> paquebot::Totals {
    let totals = soon("the fleet is drained", fleet.drain(LIMIT)).await;
    assert!(totals.is_balanced(), "{totals:?}");
    assert_eq!(totals.held, 0, "{totals:?}");
    totals
}

/// A pipe to an embedded broker that can be shut: a network that is there or not, at once and without
/// ports.
#[derive(Clone)]
pub(crate) struct Gangway {
    broker: Broker,
    open: Arc<AtomicBool>,
}

impl Gangway {
    /// Shut at first.
    pub(crate) fn new(broker: &Broker) -> Self {
        Self {
            broker: broker.clone(),
            open: Arc::default(),
        }
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Keeps new connections out; those that are there stay.
    pub(crate) fn shut(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    pub(crate) fn connector(&self) -> PipeConnector {
        let gangway = self.clone();
        Arc::new(move || {
            if gangway.open.load(Ordering::Relaxed) {
                Ok(gangway.broker.connect_pipe())
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        })
    }

    /// A group that connects this way.
    pub(crate) fn group(&self, fleet: &Fleet, version: Version) -> GroupBuilder {
        fleet
            .group("test")
            .pipe(self.connector())
            .version(version)
            .backoff(quick())
            .dialect(silent())
    }
}

/// The sum of the series of a name whose labels hold all of these texts.
pub(crate) fn metric(fleet: &Fleet, name: &str, labels: &[&str]) -> f64 {
    fleet
        .metrics()
        .registry()
        .gather()
        .iter()
        .filter(|family| family.name() == name)
        .flat_map(|family| family.get_metric())
        .filter(|series| {
            labels.iter().all(|wanted| {
                series
                    .get_label()
                    .iter()
                    .any(|label| label.value() == *wanted)
            })
        })
        .map(|series| series.get_counter().get_value() + series.get_gauge().get_value())
        .sum()
}

/// A fleet of one worker with a store in `directory`.
pub(crate) fn fleet_on(directory: &std::path::Path) -> Fleet {
    match Fleet::builder().workers(1).store(directory).start() {
        Ok(fleet) => fleet,
        Err(error) => panic!("the fleet did not start: {error}"),
    }
}

/// A store as `kill -9` leaves it: a copy, taken while everything runs.
pub(crate) fn killed(directory: &std::path::Path) -> io::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
    }
    Ok(copy)
}
