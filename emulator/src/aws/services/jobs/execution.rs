//! One thing's part of a job.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::aws::services::json::{Json, Object, object};
use crate::aws::services::seconds;

/// Where a job's execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobStatus {
    /// It waits for the thing.
    Queued,
    /// The thing works on it.
    InProgress,
    /// The thing has done it.
    Succeeded,
    /// The thing could not do it.
    Failed,
    /// The thing does not want to do it.
    Rejected,
    /// The thing did not say in time that it goes on.
    TimedOut,
    /// The thing or the job is no more.
    Removed,
    /// The job was cancelled.
    Canceled,
}

impl JobStatus {
    /// The status as AWS writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
            Self::TimedOut => "TIMED_OUT",
            Self::Removed => "REMOVED",
            Self::Canceled => "CANCELED",
        }
    }

    /// Whether nothing can happen to the execution any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress)
    }

    /// Of those that a thing may set itself.
    pub(crate) fn of_a_thing(text: &str) -> Option<Self> {
        match text {
            "IN_PROGRESS" => Some(Self::InProgress),
            "SUCCEEDED" => Some(Self::Succeeded),
            "FAILED" => Some(Self::Failed),
            "REJECTED" => Some(Self::Rejected),
            _ => None,
        }
    }
}

/// A job's execution as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobExecution {
    /// Whose execution it is.
    pub thing: String,
    /// Of which job.
    pub job_id: String,
    /// Where it stands.
    pub status: JobStatus,
    /// What the thing said last.
    pub status_details: BTreeMap<String, String>,
    /// Rises by one with each change.
    pub version_number: u64,
    /// Which try it is.
    pub execution_number: u64,
    /// When it was queued, in whole seconds since 1970.
    pub queued_at: u64,
    /// When the thing began, likewise.
    pub started_at: Option<u64>,
    /// When it changed last, likewise.
    pub last_updated_at: u64,
}

/// Minutes that a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepTimeout {
    Minutes(u64),
    /// The running timer is stopped.
    Stop,
}

#[derive(Debug, Clone)]
pub(crate) struct Execution {
    pub(crate) job_id: String,
    pub(crate) document: Json,
    pub(crate) status: JobStatus,
    pub(crate) details: BTreeMap<String, String>,
    pub(crate) queued_at: u64,
    pub(crate) started_at: Option<u64>,
    pub(crate) last_updated_at: u64,
    pub(crate) version: u64,
    pub(crate) number: u64,
    /// When the thing must have said something.
    pub(crate) step_ends: Option<SystemTime>,
}

impl Execution {
    pub(crate) fn new(job_id: &str, document: Json, now: SystemTime) -> Self {
        Self {
            job_id: job_id.to_owned(),
            document,
            status: JobStatus::Queued,
            details: BTreeMap::new(),
            queued_at: seconds(now),
            started_at: None,
            last_updated_at: seconds(now),
            version: 1,
            number: 1,
            step_ends: None,
        }
    }

    pub(crate) fn change(&mut self, status: JobStatus, now: SystemTime) {
        if status == JobStatus::InProgress && self.started_at.is_none() {
            self.started_at = Some(seconds(now));
        }
        if status.is_terminal() {
            self.step_ends = None;
        }
        self.status = status;
        self.last_updated_at = seconds(now);
        self.version += 1;
    }

    pub(crate) fn set_step_timeout(&mut self, timeout: Option<StepTimeout>, now: SystemTime) {
        match timeout {
            _ if self.status != JobStatus::InProgress => {}
            None => {}
            Some(StepTimeout::Stop) => self.step_ends = None,
            Some(StepTimeout::Minutes(minutes)) => {
                self.step_ends = now.checked_add(Duration::from_mins(minutes));
            }
        }
    }

    fn details_json(&self) -> Option<Json> {
        let details = |(key, value): (&String, &String)| (key.clone(), Json::from(value.as_str()));
        let details: Object = self.details.iter().map(details).collect();
        (!details.is_empty()).then_some(Json::Object(details))
    }

    /// A line of a list of executions.
    pub(crate) fn summary(&self) -> Json {
        Json::Object(object([
            ("jobId", Some(self.job_id.as_str().into())),
            ("queuedAt", Some(self.queued_at.into())),
            ("startedAt", self.started_at.map(Json::from)),
            ("lastUpdatedAt", Some(self.last_updated_at.into())),
            ("versionNumber", Some(self.version.into())),
            ("executionNumber", Some(self.number.into())),
        ]))
    }

    /// All of it.
    pub(crate) fn full(&self, thing: &str, with_document: bool) -> Json {
        Json::Object(object([
            ("jobId", Some(self.job_id.as_str().into())),
            ("thingName", Some(thing.into())),
            ("jobDocument", with_document.then(|| self.document.clone())),
            ("status", Some(self.status.as_str().into())),
            ("statusDetails", self.details_json()),
            ("queuedAt", Some(self.queued_at.into())),
            ("startedAt", self.started_at.map(Json::from)),
            ("lastUpdatedAt", Some(self.last_updated_at.into())),
            ("versionNumber", Some(self.version.into())),
            ("executionNumber", Some(self.number.into())),
        ]))
    }

    /// What an answer to an update shows of it.
    pub(crate) fn state(&self) -> Json {
        Json::Object(object([
            ("status", Some(self.status.as_str().into())),
            ("statusDetails", self.details_json()),
            ("versionNumber", Some(self.version.into())),
        ]))
    }

    pub(crate) fn view(&self, thing: &str) -> JobExecution {
        JobExecution {
            thing: thing.to_owned(),
            job_id: self.job_id.clone(),
            status: self.status,
            status_details: self.details.clone(),
            version_number: self.version,
            execution_number: self.number,
            queued_at: self.queued_at,
            started_at: self.started_at,
            last_updated_at: self.last_updated_at,
        }
    }
}
