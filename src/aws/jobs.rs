//! Jobs: what an operator has things do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytestring::ByteString;
use futures_util::stream::Stream;
use paquebot_actors::SubscribeError;
use paquebot_protocols::dialect::DialectError;
use paquebot_protocols::dialect::aws::jobs::{
    self, JobsAnswer, JobsEvent, JobsRequest, next_filter, pending_filter, read_event, read_reply,
    reply_filters,
};
use paquebot_protocols::mqtt::{self, QoS};

use super::requests::{Call, REQUEST_DEADLINE, RequestError, Requests, token};
use crate::device::Device;
use crate::link::Link;
use crate::streams::Subscription;

mod job;
mod serving;

pub use job::{Job, JobOutcome, JobSettlement};
pub use jobs::{
    JobDetails, JobExecution, JobExecutionState, JobName, JobStatus, JobSummary, JobUpdate,
    JobUpdated, JobsErrorCode, JobsRejection, PendingJobs, StepTimeout,
};

/// Why a request about jobs has no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// No answer came.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The service refused.
    #[error(transparent)]
    Rejected(#[from] JobsRejection),
    /// The job has ended under its handler: timed out, taken back, or its thing is no target any more.
    #[error("the job has ended already")]
    Ended,
}

impl JobsError {
    /// The service's code, when the service refused.
    #[must_use]
    pub const fn code(&self) -> Option<&JobsErrorCode> {
        match self {
            Self::Rejected(rejection) => Some(&rejection.code),
            _ => None,
        }
    }
}

impl From<DialectError> for JobsError {
    fn from(error: DialectError) -> Self {
        Self::Request(error.into())
    }
}

/// The jobs of a thing. Cheap to clone; usable from any thread and any executor.
///
/// # What is promised
/// - A request is never queued: without a connection it fails at once with [`RequestError::Offline`], and one whose
///   connection breaks before the answer with [`RequestError::Disconnected`].
/// - It goes out once the server has confirmed the subscriptions to its answers, ahead of what waits in the link's queue,
///   and ends within its deadline. One that failed with its connection before it left never leaves.
/// - At most [`REQUESTS_MAX`](super::REQUESTS_MAX) wait for their answers; a further one is refused.
/// - Answers that come late, or are to somebody else, are passed over.
///
/// [`Jobs::serve`] does all that a thing has to do about jobs but the work itself.
///
/// ```no_run
/// use paquebot::aws::{Job, JobOutcome, Jobs, JobsError};
///
/// # async fn example(link: &paquebot::Link) -> Result<(), JobsError> {
/// let jobs = Jobs::of(&link.device())?;
/// jobs.serve(|job: Job| async move {
///     let _ = job.progress([("step", "downloading")]).await;
///     JobOutcome::Succeeded([("version", "1.2")].into())
/// })
/// .await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Jobs {
    thing: Arc<str>,
    requests: Requests<JobsAnswer>,
    deadline: Duration,
}

impl Jobs {
    /// Those of a device; its name is the thing's. Nothing is subscribed to before the first request or stream.
    ///
    /// # Errors
    /// The name is none of a thing.
    pub fn of(device: &Device) -> Result<Self, JobsError> {
        let thing: Arc<str> = device.id().as_str().into();
        jobs::check_thing(&thing)?;
        let asked = Arc::clone(&thing);
        let requests = Requests::new(device.link(), move |topic, payload| {
            let reply = read_reply(&asked, topic, payload)?;
            Some((reply.token?, reply.answer))
        });
        Ok(Self {
            thing,
            requests,
            deadline: REQUEST_DEADLINE,
        })
    }

    /// When a request of this handle without an answer ends. Default: [`REQUEST_DEADLINE`](super::REQUEST_DEADLINE).
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The thing's name.
    #[must_use]
    pub fn thing(&self) -> &str {
        &self.thing
    }

    /// The jobs that have not ended.
    ///
    /// # Errors
    /// See [`JobsError`].
    pub async fn pending(&self) -> Result<PendingJobs, JobsError> {
        match self.ask(JobsRequest::Pending).await? {
            JobsAnswer::Pending(pending) => Ok(pending),
            other => Err(unexpected(other)),
        }
    }

    /// The next job, which is in progress from now on; `None` when there is none. A job that is in progress already
    /// comes again as it stands.
    ///
    /// # Errors
    /// See [`JobsError`].
    pub async fn start_next(
        &self,
        details: Option<JobDetails>,
        step_timeout: Option<StepTimeout>,
    ) -> Result<Option<JobExecution>, JobsError> {
        self.execution(JobsRequest::StartNext {
            details,
            step_timeout,
        })
        .await
    }

    /// A job as it stands; `None` when the next one is asked for and there is none.
    ///
    /// # Errors
    /// See [`JobsError`]; [`JobsErrorCode::ResourceNotFound`] when the thing has no such job, and
    /// [`JobsErrorCode::TerminalStateReached`] when it has ended.
    pub async fn describe(
        &self,
        job: JobName,
        include_document: bool,
    ) -> Result<Option<JobExecution>, JobsError> {
        self.describe_execution(job, None, include_document).await
    }

    /// The same for one execution of the job on this thing.
    ///
    /// # Errors
    /// As [`Jobs::describe`].
    pub async fn describe_execution(
        &self,
        job: JobName,
        execution_number: Option<u64>,
        include_document: bool,
    ) -> Result<Option<JobExecution>, JobsError> {
        self.execution(JobsRequest::Describe {
            job,
            execution_number,
            include_document,
        })
        .await
    }

    /// Changes a job.
    ///
    /// # Errors
    /// See [`JobsError`]; [`JobsErrorCode::VersionMismatch`] when it has another version than was expected, and
    /// [`JobsErrorCode::InvalidStateTransition`] when it has ended.
    pub async fn update(
        &self,
        job: impl Into<ByteString>,
        update: JobUpdate,
    ) -> Result<JobUpdated, JobsError> {
        let job = job.into();
        match self.ask(JobsRequest::Update { job, update }).await? {
            JobsAnswer::Updated(updated) => Ok(updated),
            other => Err(unexpected(other)),
        }
    }

    /// The jobs that have not ended, told each time one comes, starts being in progress or ends.
    ///
    /// # Errors
    /// The link is stopped or holds too many subscriptions.
    pub async fn notify(&self) -> Result<PendingStream, SubscribeError> {
        Ok(PendingStream(
            self.events(pending_filter(&self.thing)?).await?,
        ))
    }

    /// The next job, told each time another one is next; `None` when there is none any more.
    ///
    /// # Errors
    /// The link is stopped or holds too many subscriptions.
    pub async fn notify_next(&self) -> Result<NextStream, SubscribeError> {
        Ok(NextStream(self.events(next_filter(&self.thing)?).await?))
    }

    /// Has `handler` do every job of the thing, one after the other, until the link is stopped.
    ///
    /// A job is set in progress, given to the handler, and updated with what that returns, if it still has the version
    /// it had; when somebody else has changed it meanwhile, once more with the version it has then. A handler that
    /// panics fails its job, with the reason in its details, and nothing else. A job that ends under its handler, timed
    /// out or taken back, is told to it by [`Job::ended`]; what the handler returns is passed over.
    ///
    /// The handler goes on while the link is offline, and its result is sent when it is back. No execution is given to
    /// the handler twice; after the end of the process, the one that was in progress comes again.
    ///
    /// # Errors
    /// The server refuses a subscription, or the service refuses a request in a way that does not pass.
    pub async fn serve<F, R>(&self, handler: F) -> Result<(), JobsError>
    where
        F: Fn(Job) -> R,
        R: Future<Output = JobOutcome>,
    {
        serving::serve(self, &handler).await
    }

    fn link(&self) -> &Link {
        self.requests.link()
    }

    async fn execution(&self, request: JobsRequest) -> Result<Option<JobExecution>, JobsError> {
        match self.ask(request).await? {
            JobsAnswer::Execution(execution) => Ok(execution.map(|execution| *execution)),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, request: JobsRequest) -> Result<JobsAnswer, JobsError> {
        let key = token();
        let call = Call {
            replies: reply_filters(&self.thing, request.operation())?,
            message: jobs::request(&self.thing, &request, &key)?,
            key,
            deadline: self.deadline,
        };
        Ok(self.requests.ask(call).await?)
    }

    async fn events(&self, filter: mqtt::Subscription) -> Result<EventStream, SubscribeError> {
        let subscription = self.link().subscribe_all(vec![filter], None).await?;
        Ok(EventStream {
            subscription,
            thing: Arc::clone(&self.thing),
        })
    }
}

fn unexpected(answer: JobsAnswer) -> JobsError {
    match answer {
        JobsAnswer::Rejected(rejection) => rejection.into(),
        JobsAnswer::Unreadable(problem) => RequestError::Unreadable(problem).into(),
        _ => RequestError::Unreadable("it is to another kind of request".into()).into(),
    }
}

#[derive(Debug)]
struct EventStream {
    subscription: Subscription,
    thing: Arc<str>,
}

impl EventStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobsEvent>> {
        loop {
            let Some(message) = ready!(Pin::new(&mut self.subscription).poll_next(cx)) else {
                return Poll::Ready(None);
            };
            match read_event(&self.thing, message.topic().as_str(), message.payload()) {
                Some(Ok(event)) => return Poll::Ready(Some(event)),
                Some(Err(problem)) => {
                    tracing::warn!(thing = %self.thing, problem, "what the jobs service told cannot be read");
                }
                None => {}
            }
        }
    }
}

macro_rules! event_stream {
    ($(#[$doc:meta])* $name:ident, $item:ty, $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(EventStream);

        impl $name {
            /// Waits until the server has taken the subscription.
            ///
            /// # Errors
            /// The server refused it, or the link stopped first.
            pub async fn ready(&self) -> Result<QoS, SubscribeError> {
                self.0.subscription.ready().await
            }

            /// The next one; `None` once the link is stopped.
            pub async fn next(&mut self) -> Option<$item> {
                futures_util::StreamExt::next(self).await
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                loop {
                    match ready!(self.0.poll_next(cx)) {
                        Some(JobsEvent::$kind(item)) => return Poll::Ready(Some(item)),
                        Some(_) => {}
                        None => return Poll::Ready(None),
                    }
                }
            }
        }
    };
}

event_stream!(
    /// The jobs that have not ended, of [`Jobs::notify`].
    PendingStream,
    PendingJobs,
    Pending
);

event_stream!(
    /// The job that is next, of [`Jobs::notify_next`].
    NextStream,
    Option<Box<JobExecution>>,
    Next
);
