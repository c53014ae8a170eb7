//! A job as its handler sees it.

use std::sync::Arc;

use paquebot_protocols::dialect::aws::jobs::{
    JobDetails, JobExecution, JobStatus, JobUpdate, JobsErrorCode,
};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::{Jobs, JobsError};

/// How a handler ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// It did the job.
    Succeeded(JobDetails),
    /// It could not do it.
    Failed(JobDetails),
    /// It does not do it.
    Rejected(JobDetails),
}

impl JobOutcome {
    /// What becomes of the job, and what is said about it; details that were told before stay when there are no others.
    pub(super) fn update(&self) -> JobUpdate {
        let (status, details) = match self {
            Self::Succeeded(details) => (JobStatus::Succeeded, details),
            Self::Failed(details) => (JobStatus::Failed, details),
            Self::Rejected(details) => (JobStatus::Rejected, details),
        };
        let details = (!details.is_empty()).then(|| details.clone());
        JobUpdate {
            details,
            ..JobUpdate::new(status)
        }
    }
}

/// What became of a job and of the outcome that its handler gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobSettlement {
    /// The service has taken the outcome.
    Taken,
    /// The job was taken back or timed out, as the service says: there is no outcome to take.
    Ended,
    /// Nobody tells the service any more: the link was stopped, or [`Jobs::serve`] has ended. What the service knows then
    /// is not known here; a job that is in progress for it comes again to whoever serves next.
    Stopped,
}

/// Settled once; what is said after that is passed over.
type Course = watch::Sender<Option<JobSettlement>>;

fn settle(course: &Course, settlement: JobSettlement) {
    course.send_if_modified(|settled| {
        let is_news = settled.is_none();
        settled.get_or_insert(settlement);
        is_news
    });
}

/// The serving side of a job: with the last of it goes whoever could tell the service.
#[derive(Debug)]
pub(super) struct Served(Course);

impl Served {
    pub(super) fn settle(&self, settlement: JobSettlement) {
        settle(&self.0, settlement);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.settle(JobSettlement::Stopped);
    }
}

/// A job in the hands of a handler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Job {
    jobs: Jobs,
    execution: Arc<JobExecution>,
    /// The version it has by what we know; held while an update is under way, since each makes another.
    version: Arc<Mutex<Option<u64>>>,
    course: Course,
}

impl Job {
    pub(super) fn new(jobs: Jobs, execution: JobExecution) -> Self {
        Self {
            jobs,
            version: Arc::new(Mutex::new(execution.version)),
            execution: Arc::new(execution),
            course: Course::new(None),
        }
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.execution.job_id
    }

    /// What is to be done, in the operator's own words.
    #[must_use]
    pub fn document(&self) -> Option<&Value> {
        self.execution.document.as_ref()
    }

    /// It as it was when the handler was given it; after the end of the process before, with what that said about it.
    #[must_use]
    pub fn execution(&self) -> &JobExecution {
        &self.execution
    }

    /// Says how it goes; the details replace those before.
    ///
    /// # Errors
    /// See [`JobsError`]; [`JobsError::Ended`] when the job was taken back or timed out. While the link is offline
    /// nothing is sent: the handler may go on.
    pub async fn progress(&self, details: impl Into<JobDetails>) -> Result<(), JobsError> {
        let update = JobUpdate::new(JobStatus::InProgress).with_details(details);
        self.update(update).await
    }

    /// Whether the job was taken back or timed out, as far as the service has said.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.course.borrow() == Some(JobSettlement::Ended)
    }

    /// Waits until there is nothing left to do for the job: it was taken back or timed out ([`Job::has_ended`]), or the link
    /// was stopped. To be waited for beside the work.
    pub async fn ended(&self) {
        self.settled().await;
    }

    /// Waits until the service has taken the outcome that the handler gave, or there is none to take any more. Not to be
    /// waited for by the handler, whose outcome it waits for.
    pub async fn settled(&self) -> JobSettlement {
        let mut course = self.course.subscribe();
        let settled = course.wait_for(Option::is_some).await;
        // The sender lives as long as this job does.
        settled
            .ok()
            .and_then(|settled| *settled)
            .unwrap_or(JobSettlement::Stopped)
    }

    /// For who serves the job, and may be given its execution once more in another one.
    pub(super) fn served(&self) -> Served {
        Served(self.course.clone())
    }

    pub(super) fn end(&self) {
        settle(&self.course, JobSettlement::Ended);
    }

    /// Changes the job if it has the version we know of; when it has not, once more with the version it has.
    pub(super) async fn update(&self, update: JobUpdate) -> Result<(), JobsError> {
        if self.has_ended() {
            return Err(JobsError::Ended);
        }
        let mut version = self.version.lock().await;
        let mut is_retry = false;
        loop {
            let attempt = JobUpdate {
                expected_version: *version,
                execution_number: self.execution.execution_number,
                ..update.clone()
            };
            let rejection = match self
                .jobs
                .update(self.execution.job_id.clone(), attempt)
                .await
            {
                Ok(updated) => {
                    let told = updated.state.and_then(|state| state.version);
                    *version = told.or_else(|| version.map(|version| version + 1));
                    return Ok(());
                }
                Err(JobsError::Rejected(rejection)) => rejection,
                Err(error) => return Err(error),
            };
            if rejection.says_ended() {
                // It was taken, and the answer was lost: things alone end jobs as their handlers do.
                let state = rejection.state.as_ref();
                if update.status.is_terminal()
                    && state.is_some_and(|state| state.status == update.status)
                {
                    return Ok(());
                }
                self.end();
                return Err(JobsError::Ended);
            }
            if rejection.code != JobsErrorCode::VersionMismatch || is_retry {
                return Err(rejection.into());
            }
            is_retry = true;
            // Without a version in the refusal the job is changed whatever version it has.
            *version = rejection.state.and_then(|state| state.version);
        }
    }

    /// Asks the service whether the job has ended.
    pub(super) async fn look(&self) -> Result<(), JobsError> {
        let name = super::JobName::Id(self.execution.job_id.clone());
        let number = self.execution.execution_number;
        match self.jobs.describe_execution(name, number, false).await {
            Ok(Some(execution)) if execution.status.is_terminal() => self.end(),
            Ok(_) => {}
            Err(JobsError::Rejected(rejection)) if rejection.says_ended() => self.end(),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
