//! The simulation: runs the devices of a fleet plan.
//!
//! A few threads, each with one timer heap, stand for all devices: a device is a few dozen bytes of state
//! beside its link, with no thread and no task of its own. What a device does:
//!
//! - It sends telemetry by its interval and jitter, beginning with its start, whether it is online or not:
//!   what it measures offline waits in its link's outbox, whose policy decides what becomes of it.
//! - A device never waits for its link. When the outbox has no room (`block`, `reject`), the sample is
//!   skipped and counted, the next one comes with the next interval, and no other device is held up.
//! - It reports the state of its model once; the broker retains it.
//! - With `on_desired = "apply"` it takes over what is desired of it, and reports the state that comes of it.
//! - On AWS IoT it does jobs, one after the other, as its model says; one that it has not finished when the run ends
//!   comes again in the next.
//! - It answers each command after the command's delay, at times with failure, as its model says; a command
//!   the model does not have is answered as unknown. A model without commands does not subscribe.
//!
//! Values and times come from each device's own random streams, so that a run with one seed repeats.

mod jobs;
mod shard;
mod states;
mod tally;
mod wiring;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use paquebot::fleet_file::FleetPlan;
use paquebot::{Fleet, StartError};
use tokio::sync::watch;

use shard::{Shard, Starting};
pub(crate) use tally::{JobCounts, Latency, Tally};
pub(crate) use wiring::{PrepareError, start_fleet};

/// One thread for so many devices, at most one for each of the fleet's workers.
const DEVICES_PER_THREAD: usize = 25_000;

/// What the devices of a simulation are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Send, answer.
    Live,
    /// Send nothing new, take no new command, finish the answers under way.
    Quiet,
    /// End.
    Over,
}

/// A simulation whose groups, ids and files were found good. Nothing was started.
pub(crate) struct Prepared {
    starting: Vec<Starting>,
    threads: usize,
    tally: Arc<Tally>,
}

/// Running devices. Dropped without [`Simulation::join`] its threads end by themselves.
pub(crate) struct Simulation {
    phase: watch::Sender<Phase>,
    shards: Vec<RunningShard>,
    tally: Arc<Tally>,
}

struct RunningShard {
    thread: JoinHandle<()>,
    /// Closed once the shard has no answer under way and sends no more.
    quiet: async_channel::Receiver<()>,
}

impl Prepared {
    /// Checks everything that starting needs. `limit` is how many telemetry messages are sent in all.
    ///
    /// # Errors
    /// The first group or device that cannot be made, with its name.
    pub(crate) fn new(
        plan: &FleetPlan,
        fleet: &Fleet,
        limit: Option<u64>,
    ) -> Result<Self, PrepareError> {
        let starting = wiring::prepare(plan, fleet)?;
        let threads = starting
            .len()
            .div_ceil(DEVICES_PER_THREAD)
            .clamp(1, plan.workers.get());
        Ok(Self {
            starting,
            threads,
            tally: Arc::new(Tally::new(limit)),
        })
    }

    /// How many devices there are.
    pub(crate) fn device_count(&self) -> usize {
        self.starting.len()
    }

    /// Starts the threads, which start the links.
    ///
    /// # Errors
    /// The system gives no thread or no event loop.
    pub(crate) fn start(self) -> Result<Simulation, std::io::Error> {
        let (phase, watched) = watch::channel(Phase::Live);
        let per_shard = self.starting.len().div_ceil(self.threads).max(1);
        let mut starting = self.starting.into_iter();
        let mut shards = Vec::with_capacity(self.threads);
        for number in 0..self.threads {
            let devices: Vec<_> = starting.by_ref().take(per_shard).collect();
            let shard = Shard::new(watched.clone(), Arc::clone(&self.tally));
            let (quiet_sender, quiet) = async_channel::bounded(1);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            let thread = std::thread::Builder::new()
                .name(format!("devices-{number}"))
                .spawn(move || runtime.block_on(shard.run(devices, quiet_sender)))?;
            shards.push(RunningShard { thread, quiet });
        }
        Ok(Simulation {
            phase,
            shards,
            tally: self.tally,
        })
    }
}

impl Simulation {
    /// What the devices have done so far.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// No device sends any more; waits for answers under way, at most `deadline`. Subscriptions stay, so that
    /// a broker that keeps sessions keeps commands for the devices.
    pub(crate) async fn quiesce(&self, deadline: Duration) {
        self.phase.send_replace(Phase::Quiet);
        let all_quiet = async {
            for shard in &self.shards {
                let _ = shard.quiet.recv().await;
            }
        };
        let _ = tokio::time::timeout(deadline, all_quiet).await;
    }

    /// Ends the threads; to be called once the fleet is drained.
    pub(crate) fn join(self) {
        self.phase.send_replace(Phase::Over);
        for shard in self.shards {
            // A panic was reported by the panic hook, and the summary counts what the links did.
            let _ = shard.thread.join();
        }
    }
}

/// Why a device's link did not start while others did: the fleet is being drained.
fn is_drained(error: &StartError) -> bool {
    matches!(error, StartError::Drained)
}
