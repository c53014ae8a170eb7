//! One job after the other, whatever becomes of the connection.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::FutureExt as _;
use paquebot_actors::{LinkEvent, SubscribeError};
use paquebot_protocols::dialect::aws::jobs::{DETAIL_BYTES_MAX, JobDetails, JobExecution};

use super::job::Served;
use super::{Job, JobOutcome, JobSettlement, Jobs, JobsError, NextStream};
use crate::aws::requests::{RequestError, pause};
use crate::streams::Events;

/// Executions whose outcomes are remembered, in case one comes again whose end the service did not take.
const REMEMBERED_MAX: usize = 128;

/// Pauses before a request that failed is made again: they double up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What tells one execution from every other of the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExecutionName(ByteString, Option<u64>, Option<u64>);

impl ExecutionName {
    fn of(execution: &JobExecution) -> Self {
        Self(
            execution.job_id.clone(),
            execution.execution_number,
            execution.queued_at,
        )
    }
}

/// A job that the handler has done.
#[derive(Clone)]
struct Done {
    name: ExecutionName,
    outcome: JobOutcome,
    /// That of the job which the handler has; when the execution comes again, it comes in another.
    served: Arc<Served>,
}

/// The link is stopped: nothing more is to be served.
struct Over;

struct Server<'a, F> {
    jobs: &'a Jobs,
    handler: &'a F,
    heads: NextStream,
    events: Events,
    done: VecDeque<Done>,
    pause: Duration,
}

pub(super) async fn serve<F, R>(jobs: &Jobs, handler: &F) -> Result<(), JobsError>
where
    F: Fn(Job) -> R,
    R: Future<Output = JobOutcome>,
{
    let events = jobs.link().events();
    let heads = match jobs.notify_next().await {
        Ok(heads) => heads,
        Err(SubscribeError::Stopped) => return Ok(()),
        Err(error) => return Err(not_subscribed(error)),
    };
    // From here on no job that becomes the next is missed.
    match heads.ready().await {
        Ok(_) => {}
        Err(SubscribeError::Stopped) => return Ok(()),
        Err(error) => return Err(not_subscribed(error)),
    }
    let mut server = Server {
        jobs,
        handler,
        heads,
        events,
        done: VecDeque::new(),
        pause: PAUSES.0,
    };
    loop {
        match server.serve_next().await {
            Ok(Ok(())) => {}
            Ok(Err(Over)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl<F, R> Server<'_, F>
where
    F: Fn(Job) -> R,
    R: Future<Output = JobOutcome>,
{
    /// Does the next job, or waits for one.
    async fn serve_next(&mut self) -> Result<Result<(), Over>, JobsError> {
        // What was told before the question its answer knows as well.
        while let Some(Some(_)) = self.heads.next().now_or_never() {}
        while let Some(Some(_)) = self.events.next().now_or_never() {}
        let execution = match self.jobs.start_next(None, None).await {
            Ok(execution) => execution,
            Err(error) => return self.recover(error).await,
        };
        let Some(execution) = execution else {
            self.pause = PAUSES.0;
            if self.wait_for_job().await.is_ok() {
                return Ok(Ok(()));
            }
            // The stream also ends when the server refuses on a later connection what it granted.
            return match self.heads.ready().await {
                Ok(_) | Err(SubscribeError::Stopped) => Ok(Err(Over)),
                Err(error) => Err(not_subscribed(error)),
            };
        };
        let name = ExecutionName::of(&execution);
        let job = Job::new(self.jobs.clone(), execution);
        let known = self.done.iter().find(|done| done.name == name);
        let done = if let Some(done) = known {
            // The service did not take its end, or takes a while.
            let done = done.clone();
            if self.rest().await.is_err() {
                return Ok(Err(Over));
            }
            done
        } else {
            self.pause = PAUSES.0;
            let served = Arc::new(job.served());
            let done = Done {
                name,
                outcome: self.run(&job, &served).await,
                served,
            };
            self.done.push_back(done.clone());
            if self.done.len() > REMEMBERED_MAX {
                self.done.pop_front();
            }
            done
        };
        self.settle(&job, &done).await
    }

    /// Runs the handler and has an eye on whether the job ends under it.
    async fn run(&mut self, job: &Job, served: &Served) -> JobOutcome {
        // What the handler does before its first await is guarded as well.
        let handler = self.handler;
        let work = async { handler(job.clone()).await };
        let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
        let (mut has_heads, mut has_events) = (true, true);
        loop {
            let may_have_ended = tokio::select! {
                biased;
                outcome = &mut work => return outcome.unwrap_or_else(|panic| failed(job, &*panic)),
                head = self.heads.next(), if has_heads => match head {
                    Some(Some(head)) => head.job_id != job.id(),
                    Some(None) => true,
                    None => { has_heads = false; false }
                },
                event = self.events.next(), if has_events => match event {
                    // Whatever was told meanwhile was told to nobody.
                    Some(LinkEvent::Online) => true,
                    Some(_) => false,
                    None => {
                        // The link is stopped: nobody will be told of the outcome.
                        served.settle(JobSettlement::Stopped);
                        has_events = false;
                        false
                    }
                },
            };
            if may_have_ended && !job.has_ended() {
                let look = async {
                    if let Err(error) = job.look().await {
                        tracing::debug!(job = job.id(), %error, "whether the job has ended is not known");
                    }
                };
                tokio::select! {
                    biased;
                    outcome = &mut work => return outcome.unwrap_or_else(|panic| failed(job, &*panic)),
                    () = look => {}
                }
            }
        }
    }

    /// Tells the service how the job ended, as often as it takes.
    async fn settle(&mut self, job: &Job, done: &Done) -> Result<Result<(), Over>, JobsError> {
        let mut update = done.outcome.update();
        loop {
            match job.update(update.clone()).await {
                Ok(()) => {
                    done.served.settle(JobSettlement::Taken);
                    return Ok(Ok(()));
                }
                Err(JobsError::Ended) => {
                    tracing::info!(
                        job = job.id(),
                        "the job had ended before its outcome was told"
                    );
                    done.served.settle(JobSettlement::Ended);
                    return Ok(Ok(()));
                }
                // Details that the service does not take: the outcome counts more.
                Err(JobsError::Request(RequestError::Invalid(error))) => {
                    if update.details.take().is_none() {
                        tracing::warn!(job = job.id(), %error, "the job's outcome cannot be told");
                        return Ok(self.rest().await);
                    }
                    tracing::warn!(job = job.id(), %error, "the details of the outcome are left out");
                }
                Err(JobsError::Rejected(rejection)) if !rejection.may_pass() => {
                    tracing::warn!(job = job.id(), %rejection, "the job's outcome is refused");
                    return Ok(self.rest().await);
                }
                Err(error) => {
                    if let Err(over) = self.recover(error).await? {
                        return Ok(Err(over));
                    }
                }
            }
        }
    }

    /// Waits until what failed may go well.
    async fn recover(&mut self, error: JobsError) -> Result<Result<(), Over>, JobsError> {
        let passes = match &error {
            JobsError::Request(RequestError::Stopped) => return Ok(Err(Over)),
            JobsError::Request(RequestError::Unreadable(_)) => true,
            JobsError::Request(error) => error.may_pass(),
            JobsError::Rejected(rejection) => rejection.may_pass(),
            JobsError::Ended => true,
        };
        if !passes {
            return Err(error);
        }
        tracing::debug!(thing = self.jobs.thing(), %error, "a request about jobs is made again");
        let is_offline = matches!(
            error,
            JobsError::Request(RequestError::Offline | RequestError::Disconnected)
        );
        if !is_offline && self.rest().await.is_err() {
            return Ok(Err(Over));
        }
        Ok(self.jobs.link().online().await.map_err(|_| Over))
    }

    /// Waits until there may be a job: another is next, or the link has come back.
    async fn wait_for_job(&mut self) -> Result<(), Over> {
        loop {
            tokio::select! {
                biased;
                head = self.heads.next() => match head {
                    Some(Some(_)) => return Ok(()),
                    Some(None) => {}
                    None => return Err(Over),
                },
                event = self.events.next() => match event {
                    Some(LinkEvent::Online | LinkEvent::Lagged) => return Ok(()),
                    Some(_) => {}
                    None => return Err(Over),
                },
            }
        }
    }

    async fn rest(&mut self) -> Result<(), Over> {
        let now = self.pause;
        self.pause = (now * 2).min(PAUSES.1);
        if pause(self.jobs.link(), now).await {
            Ok(())
        } else {
            Err(Over)
        }
    }
}

fn not_subscribed(error: SubscribeError) -> JobsError {
    JobsError::Request(RequestError::Subscribe(Arc::new(error)))
}

fn failed(job: &Job, panic: &(dyn std::any::Any + Send)) -> JobOutcome {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(job = job.id(), "the handler of a job panicked");
    let mut reason = match said {
        Some(said) => format!("the handler panicked: {said}"),
        None => "the handler panicked".to_owned(),
    };
    let end = reason.floor_char_boundary(DETAIL_BYTES_MAX);
    reason.truncate(end);
    JobOutcome::Failed(JobDetails::new().with("reason", reason))
}
