//! The fleet: worker threads and all links that run on them.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::Receiver;
use paquebot_actors::{
    ConnectPacer, DurableQueues, FleetRoom, LinkEvent, LinkHandle, LinkSpec, LinkState, Metrics,
    QueueError, QueueLimits, QueueStatistics, Totals, Worker, WorkerError,
};

use paquebot_actors::store::{LogStore, Store, StoreError, StoreOptions, StoreStatistics};

use crate::group::GroupBuilder;

/// How many links are in the register before it is searched for stopped ones.
const PRUNE_AT_LEAST: usize = 1024;

/// A worker that has not turned for so long counts as stuck.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(5);

/// All that one process runs: links spread over worker threads, started and drained together.
///
/// Cheap to clone. Several fleets may run in one process. A fleet lives as long as any of its handles, and each
/// [`Group`](crate::Group) and [`GroupBuilder`] has one; links, devices and applications have none. When the last one is dropped
/// without [`Fleet::drain`] its links are cut off: what they hold ends as dropped, or stays in the store.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    metrics: Metrics,
    pacer: ConnectPacer,
    queues: Option<Arc<DurableQueues>>,
    room: Option<Arc<FleetRoom>>,
    next_worker: AtomicUsize,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    workers: Vec<Worker>,
    links: Vec<LinkHandle>,
    prune_at: usize,
}

/// Settings of a [`Fleet`].
#[derive(Debug, Clone)]
pub struct FleetBuilder {
    name: String,
    workers: Option<usize>,
    connect_rate: Option<f64>,
    connects_max: usize,
    store: Option<PathBuf>,
    store_options: StoreOptions,
    queue_limits: QueueLimits,
}

/// Why a fleet or a link did not start. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A worker thread did not start.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The metrics could not be registered.
    #[error("cannot register the metrics: {0}")]
    Metrics(prometheus::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The link's queue in it cannot be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The platform does not take the link's name or client identifier.
    #[error(transparent)]
    Dialect(#[from] paquebot_protocols::dialect::DialectError),
    /// The link cannot get to AWS IoT the way its group says.
    #[error(transparent)]
    Aws(#[from] crate::aws::ConnectionError),
    /// A bound is zero: nothing could ever be sent.
    #[error("{0} is 0, so that nothing could ever be sent; leave it out, or give it room")]
    Zero(&'static str),
    /// The fleet was drained.
    #[error("the fleet is drained and takes no new links")]
    Drained,
}

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FleetBuilder {
    /// A name for threads and logs. Default `paquebot`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many worker threads. Default: as many as the machine has cores. At least 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// At most so many connect attempts a second in the whole fleet, evenly spaced. Default: no limit.
    #[must_use]
    pub fn connect_rate(mut self, per_second: f64) -> Self {
        self.connect_rate = Some(per_second);
        self
    }

    /// At most so many connect attempts under way at once. Default 512.
    #[must_use]
    pub fn connects_max(mut self, attempts: usize) -> Self {
        self.connects_max = attempts;
        self
    }

    /// Keeps durable queues in this directory, which is made if it is not there; see
    /// [`GroupBuilder::durability`](crate::GroupBuilder::durability). One fleet at a time uses a directory. Default:
    /// no store.
    #[must_use]
    pub fn store(mut self, directory: impl Into<PathBuf>) -> Self {
        self.store = Some(directory.into());
        self
    }

    /// Bytes that the durable queues of all links may need in the store together, with what the store adds to each
    /// message. Beyond, messages are refused with [`SendError::Storage`](crate::SendError::Storage) until some have
    /// ended; the files take at most twice as much and 32 MiB. Default: no bound but the disk.
    #[must_use]
    pub fn store_bytes_max(mut self, bytes: u64) -> Self {
        self.store_options = self.store_options.live_bytes_max(bytes);
        self
    }

    /// What the queues of all links may hold together, whether or not they are durable: messages, and bytes of topics
    /// and payloads. Each link's own bounds hold besides; see [`QueueLimits`] for what a full fleet does to a message.
    /// Default: no bound.
    ///
    /// ```
    /// # fn main() -> Result<(), paquebot::StartError> {
    /// use paquebot::{Fleet, QueueLimits};
    ///
    /// let limits = QueueLimits {
    ///     messages_max: Some(100_000),
    ///     bytes_max: Some(64 * 1024 * 1024),
    /// };
    /// let fleet = Fleet::builder().queue_limits(limits).start()?;
    /// assert_eq!(fleet.queue_statistics().map(|held| held.messages), Some(0));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn queue_limits(mut self, limits: QueueLimits) -> Self {
        self.queue_limits = limits;
        self
    }

    /// Opens the store and starts the worker threads. Does not wait for anything but them.
    ///
    /// # Errors
    /// A bound is zero; the store cannot be opened or belongs to another process; the system gives no thread or no event
    /// loop.
    pub fn start(self) -> Result<Fleet, StartError> {
        let limits = self.queue_limits;
        for (name, max) in [
            ("messages_max", limits.messages_max),
            ("bytes_max", limits.bytes_max),
        ] {
            if max == Some(0) {
                return Err(StartError::Zero(name));
            }
        }
        let metrics = Metrics::new().map_err(StartError::Metrics)?;
        let store = match &self.store {
            Some(directory) => Some(LogStore::open(directory, self.store_options)?),
            None => None,
        };
        let queues = store.map(|store| Arc::new(DurableQueues::new(Arc::new(store))));
        if let Some(queues) = &queues {
            let store = Arc::clone(queues.store());
            metrics.watch_store(store).map_err(StartError::Metrics)?;
        }
        let room = FleetRoom::new(limits);
        if let Some(room) = &room {
            let room = Arc::clone(room);
            metrics
                .watch_fleet_room(room)
                .map_err(StartError::Metrics)?;
        }
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (0..self.workers.unwrap_or_else(available))
            .map(|n| Worker::start(format!("{}-{n}", self.name), metrics.worker_lag(n)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Fleet(Arc::new(Inner {
            name: self.name,
            metrics,
            pacer: ConnectPacer::new(self.connect_rate, self.connects_max),
            queues,
            room,
            next_worker: AtomicUsize::new(0),
            running: Mutex::new(Running {
                workers,
                links: Vec::new(),
                prune_at: PRUNE_AT_LEAST,
            }),
        })))
    }
}

/// Closes the store, which waits for the disk, on a thread of its own.
async fn close_store(store: Arc<dyn Store>) {
    let (closed, is_closed) = async_channel::bounded::<()>(1);
    let close = move || {
        store.close();
        drop(closed);
    };
    if std::thread::Builder::new()
        .name("store-close".to_owned())
        .spawn(close)
        .is_ok()
    {
        let _ = is_closed.recv().await;
    }
}

impl Fleet {
    /// Settings for a new fleet.
    #[must_use]
    pub fn builder() -> FleetBuilder {
        FleetBuilder {
            name: "paquebot".to_owned(),
            workers: None,
            connect_rate: None,
            connects_max: 512,
            store: None,
            store_options: StoreOptions::default(),
            queue_limits: QueueLimits::default(),
        }
    }

    /// The fleet's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Settings for links that have their platform and limits in common. `name` is a label in metrics:
    /// use few names, not one per device.
    pub fn group(&self, name: impl Into<String>) -> GroupBuilder {
        GroupBuilder::new(self.clone(), name.into())
    }

    /// The metrics of all links; for a `/metrics` page of your own use
    /// [`Metrics::gather`].
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The sums over all links.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.metrics.totals()
    }

    /// Whether every worker's event loop has turned within the last five seconds.
    #[must_use]
    pub fn is_responsive(&self) -> bool {
        self.running()
            .workers
            .iter()
            .all(|worker| worker.last_pulse() < UNRESPONSIVE_AFTER)
    }

    /// Whether [`Fleet::drain`] was called.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.running().workers.is_empty()
    }

    pub(crate) fn pacer(&self) -> ConnectPacer {
        self.0.pacer.clone()
    }

    /// What the store holds and has done; `None` for a fleet without one.
    #[must_use]
    pub fn store_statistics(&self) -> Option<StoreStatistics> {
        Some(self.queues()?.store().statistics())
    }

    /// What the queues of all links hold together; `None` for a fleet without [`FleetBuilder::queue_limits`].
    #[must_use]
    pub fn queue_statistics(&self) -> Option<QueueStatistics> {
        Some(self.0.room.as_ref()?.statistics())
    }

    pub(crate) fn room(&self) -> Option<Arc<FleetRoom>> {
        self.0.room.clone()
    }

    pub(crate) fn queues(&self) -> Option<&Arc<DurableQueues>> {
        self.0.queues.as_ref()
    }

    pub(crate) fn start_link(&self, spec: LinkSpec) -> Result<LinkHandle, StartError> {
        self.place_link(|worker| worker.start_link(spec), |handle| handle)
    }

    pub(crate) fn start_link_with_events(
        &self,
        spec: LinkSpec,
    ) -> Result<(LinkHandle, Receiver<LinkEvent>), StartError> {
        self.place_link(
            |worker| worker.start_link_with_events(spec),
            |(handle, _)| handle,
        )
    }

    /// Starts a link with `start` on the next worker and enters it in the register.
    fn place_link<T>(
        &self,
        start: impl FnOnce(&Worker) -> T,
        handle_of: impl FnOnce(&T) -> &LinkHandle,
    ) -> Result<T, StartError> {
        let mut running = self.running();
        if running.workers.is_empty() {
            return Err(StartError::Drained);
        }
        // Round robin; a link stays on its worker for life, so a message crosses one thread at the most.
        let next = self.0.next_worker.fetch_add(1, Ordering::Relaxed) % running.workers.len();
        let started = start(&running.workers[next]);
        running.links.push(handle_of(&started).clone());
        if running.links.len() >= running.prune_at {
            running
                .links
                .retain(|link| link.state() != LinkState::Stopped);
            running.prune_at = (running.links.len() * 2).max(PRUNE_AT_LEAST);
        }
        Ok(started)
    }

    /// Ends the fleet: takes nothing new, delivers what is held until `deadline` has passed, drops and counts
    /// the rest or leaves it in the store, disconnects every link, joins every thread and closes the store. Gives the
    /// final sums.
    ///
    /// A second call returns when the first one's work is taken over: it has nothing left to do.
    pub async fn drain(&self, deadline: Duration) -> Totals {
        let Running { workers, links, .. } = std::mem::take(&mut *self.running());
        for link in &links {
            link.drain(deadline);
        }
        for link in &links {
            link.stopped().await;
        }
        let has_ended = !workers.is_empty();
        for worker in workers {
            worker.join().await;
        }
        if let Some(queues) = self.queues().filter(|_| has_ended) {
            close_store(Arc::clone(queues.store())).await;
        }
        self.totals()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
