//! Jobs of AWS IoT, which devices do as their model says.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use paquebot::Device;
use paquebot::aws::{Job, JobDetails, JobOutcome, JobSettlement, Jobs};
use paquebot::fleet_file::{GroupPlan, JobsPlan, OnJob};
use paquebot::template::Random;
use tokio::sync::{Notify, watch};

use super::Phase;
use super::tally::Tally;

/// How long the outcome of a job may take to the service once nobody begins another: a question and its answer. A job
/// whose outcome did not get there is in progress still, and comes again in the next run.
const TELLING: Duration = Duration::from_secs(1);

/// Ends with its device's link.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The jobs of all devices of a thread that are being done.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    count: AtomicUsize,
    ended_at: Mutex<Option<Instant>>,
    ended: Notify,
}

/// One job that is being done.
struct Doing<'a>(&'a UnderWay);

impl UnderWay {
    fn begin(&self) -> Doing<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Doing(self)
    }

    /// When nothing more is to be waited for; `None` while a job is being done.
    pub(super) fn told_by(&self) -> Option<Instant> {
        if self.count.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let ended_at = *self.ended_at();
        Some(ended_at.map_or_else(Instant::now, |at| at + TELLING))
    }

    /// Waits until one has been done.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    fn ended_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.ended_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        *self.0.ended_at() = Some(Instant::now());
        self.0.ended.notify_one();
    }
}

/// Does the jobs of a device, one after the other.
pub(super) fn serve(
    device: Device,
    plan: &GroupPlan,
    planned: JobsPlan,
    index: u64,
    doing: Doings,
) -> Serving {
    let chances = Arc::new(Mutex::new(plan.job_chances(index)));
    Box::pin(async move {
        let served = match Jobs::of(&device) {
            Ok(jobs) => {
                let (done, outcomes) = async_channel::unbounded();
                let tally = Arc::clone(&doing.tally);
                let handler = move |job: Job| {
                    let (done, chances) = (done.clone(), Arc::clone(&chances));
                    let outcome = do_job(job.clone(), planned, chances, doing.clone());
                    async move {
                        let outcome = outcome.await;
                        // Who counts lives as long as this does.
                        let _ = done.try_send((job, outcome.clone()));
                        outcome
                    }
                };
                // With the handler goes the way to who counts, and nothing that was settled is left uncounted.
                tokio::join!(jobs.serve(handler), count(&outcomes, &tally)).0
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!(device = %device.id(), %error, "a device does no jobs any more");
        }
    })
}

/// Counts the outcomes that the service has taken, until there are no more.
async fn count(outcomes: &Receiver<(Job, JobOutcome)>, tally: &Tally) {
    let mut untold = FuturesUnordered::new();
    loop {
        tokio::select! {
            Ok((job, outcome)) = outcomes.recv() => untold.push(async move {
                (job.settled().await == JobSettlement::Taken).then_some(outcome)
            }),
            Some(outcome) = untold.next() => {
                if let Some(outcome) = outcome {
                    tally.count_job(&outcome);
                }
            }
            else => return,
        }
    }
}

/// What all devices of a thread share.
#[derive(Clone)]
pub(super) struct Doings {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) tally: Arc<Tally>,
    pub(super) under_way: Arc<UnderWay>,
}

async fn do_job(
    job: Job,
    planned: JobsPlan,
    chances: Arc<Mutex<Random>>,
    doing: Doings,
) -> JobOutcome {
    if *doing.phase.borrow() != Phase::Live {
        // It stays in progress and comes again in the next run.
        return std::future::pending().await;
    }
    let under_way = doing.under_way.begin();
    let fails = {
        let mut chances = chances.lock().unwrap_or_else(PoisonError::into_inner);
        chances.chance(planned.fail)
    };
    tokio::select! {
        () = tokio::time::sleep(planned.delay) => {}
        // Timed out or taken back: what is returned is passed over.
        () = job.ended() => return JobOutcome::Failed(JobDetails::new()),
    }
    let because = |reason: &str| JobDetails::new().with("reason", reason);
    let outcome = match planned.on_job {
        OnJob::Succeed if !fails => JobOutcome::Succeeded(JobDetails::new()),
        OnJob::Reject => JobOutcome::Rejected(because("simulated rejection")),
        _ => JobOutcome::Failed(because("simulated failure")),
    };
    drop(under_way);
    outcome
}
