//! Jobs: what an operator has things do, one after the other.
//!
//! Under `$aws/things/{thing}/jobs/`; each request's answer is on its topic with `/accepted` or `/rejected` behind it,
//! and names the request by its `clientToken`:
//!
//! | what | topic | fields of the request |
//! |---|---|---|
//! | [`JobsRequest::Pending`] | `get` | |
//! | [`JobsRequest::StartNext`] | `start-next` | `statusDetails`, `stepTimeoutInMinutes` |
//! | [`JobsRequest::Describe`] | `{job}/get`, `$next/get` | `executionNumber`, `includeJobDocument` |
//! | [`JobsRequest::Update`] | `{job}/update` | `status`, `statusDetails`, `expectedVersion`, `executionNumber`, … |
//! | [`JobsEvent::Pending`] | `notify` | |
//! | [`JobsEvent::Next`] | `notify-next` | |
//!
//! Source: AWS IoT Developer Guide, *Jobs device MQTT and HTTPS APIs*.

use std::collections::BTreeMap;

use bytestring::ByteString;
use serde_json::{Map, Value};

use super::THING_NAME_BYTES_MAX;
use super::shadow::{check_name, invalid, rendered};
use crate::dialect::{DialectError, Rendered};
use crate::mqtt::{QoS, Subscription, TopicFilter};

mod answer;

pub use answer::{
    JobExecution, JobExecutionState, JobStatus, JobSummary, JobUpdated, JobsAnswer, JobsErrorCode,
    JobsEvent, JobsRejection, JobsReply, PendingJobs, read_event, read_reply,
};

/// Longest identifier of a job, in bytes.
pub const JOB_ID_BYTES_MAX: usize = 64;

/// Longest value of a detail, in bytes ("AWS IoT Device Management quotas").
pub const DETAIL_BYTES_MAX: usize = 1024;

/// Longest time that a step may take, in minutes: seven days.
pub const STEP_TIMEOUT_MINUTES_MAX: u32 = 7 * 24 * 60;

/// What is said about how a job goes: names and texts. The service keeps those of the last update that had any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobDetails(pub BTreeMap<String, String>);

impl JobDetails {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// What a name says.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for JobDetails {
    fn from(details: [(K, V); N]) -> Self {
        Self(details.map(|(k, v)| (k.into(), v.into())).into())
    }
}

/// Which job a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobName {
    /// The one that is in progress, else the first that waits.
    Next,
    /// The one with this identifier.
    Id(ByteString),
}

/// How long a step of a job may take before the service gives the job up as timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepTimeout {
    /// 1 to [`STEP_TIMEOUT_MINUTES_MAX`].
    Minutes(u32),
    /// The timer that runs is stopped.
    Stop,
}

/// A change of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUpdate {
    /// What becomes of it: a thing may say [`JobStatus::InProgress`], [`JobStatus::Succeeded`], [`JobStatus::Failed`] and
    /// [`JobStatus::Rejected`].
    pub status: JobStatus,
    /// How it goes; `None` leaves what was said before.
    pub details: Option<JobDetails>,
    /// The version that it has to have.
    pub expected_version: Option<u64>,
    /// Which of the job's executions on this thing; the newest when `None`.
    pub execution_number: Option<u64>,
    /// Whether the answer has the execution's state.
    pub include_state: bool,
    /// Whether the answer has the job's document.
    pub include_document: bool,
    /// How long the next step may take.
    pub step_timeout: Option<StepTimeout>,
}

impl JobUpdate {
    /// A change of the status and of nothing else; the answer has the execution's state.
    #[must_use]
    pub const fn new(status: JobStatus) -> Self {
        Self {
            status,
            details: None,
            expected_version: None,
            execution_number: None,
            include_state: true,
            include_document: false,
            step_timeout: None,
        }
    }

    /// Says how it goes.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<JobDetails>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// Only if it has this version.
    #[must_use]
    pub const fn with_expected_version(mut self, version: u64) -> Self {
        self.expected_version = Some(version);
        self
    }
}

/// What a thing asks of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobsRequest {
    /// Which jobs have not ended.
    Pending,
    /// The next job, and that it is in progress from now on.
    StartNext {
        /// How it goes; of a job that is in progress already the service keeps what it has.
        details: Option<JobDetails>,
        /// How long its first step may take.
        step_timeout: Option<StepTimeout>,
    },
    /// A job as it stands.
    Describe {
        /// Which.
        job: JobName,
        /// Which of its executions on this thing; the newest when `None`.
        execution_number: Option<u64>,
        /// Whether the answer has the job's document.
        include_document: bool,
    },
    /// A change of a job.
    Update {
        /// Its identifier.
        job: ByteString,
        /// The change.
        update: JobUpdate,
    },
}

/// A kind of request: each has topics of its own for its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobsOperation {
    /// [`JobsRequest::Pending`].
    Pending,
    /// [`JobsRequest::StartNext`].
    StartNext,
    /// [`JobsRequest::Describe`].
    Describe,
    /// [`JobsRequest::Update`].
    Update,
}

impl JobsRequest {
    /// Its kind.
    #[must_use]
    pub const fn operation(&self) -> JobsOperation {
        match self {
            Self::Pending => JobsOperation::Pending,
            Self::StartNext { .. } => JobsOperation::StartNext,
            Self::Describe { .. } => JobsOperation::Describe,
            Self::Update { .. } => JobsOperation::Update,
        }
    }
}

/// The topics that the answers to a kind of request come on. At QoS 0: for an answer that the service kept for a later
/// connection nobody would wait.
///
/// # Errors
/// The name is none of a thing.
pub fn reply_filters(
    thing: &str,
    operation: JobsOperation,
) -> Result<Vec<Subscription>, DialectError> {
    let request = match operation {
        JobsOperation::Pending => "get",
        JobsOperation::StartNext => "start-next",
        JobsOperation::Describe => "+/get",
        JobsOperation::Update => "+/update",
    };
    let ends = [format!("{request}/accepted"), format!("{request}/rejected")];
    let filters = ends.iter();
    let filters = filters.map(|end| filter(thing, end, QoS::AtMostOnce));
    filters.collect()
}

/// Where the service tells which jobs have not ended. At QoS 1, so that a persistent session brings what was missed.
///
/// # Errors
/// The name is none of a thing.
pub fn pending_filter(thing: &str) -> Result<Subscription, DialectError> {
    filter(thing, "notify", QoS::AtLeastOnce)
}

/// Where the service tells which job is next.
///
/// # Errors
/// The name is none of a thing.
pub fn next_filter(thing: &str) -> Result<Subscription, DialectError> {
    filter(thing, "notify-next", QoS::AtLeastOnce)
}

/// Topic and payload of a request. At QoS 0: one that is lost with its connection is not sent again behind its caller's
/// back. `token` names it in the answer.
///
/// # Errors
/// A name, a number or a status that the service does not take.
pub fn request(thing: &str, request: &JobsRequest, token: &str) -> Result<Rendered, DialectError> {
    check_thing(thing)?;
    let mut body = Map::new();
    let end = match request {
        JobsRequest::Pending => "get".to_owned(),
        JobsRequest::StartNext {
            details,
            step_timeout,
        } => {
            put_details(&mut body, details.as_ref())?;
            put_step_timeout(&mut body, *step_timeout)?;
            "start-next".to_owned()
        }
        JobsRequest::Describe {
            job,
            execution_number,
            include_document,
        } => {
            put_number(&mut body, "executionNumber", *execution_number);
            body.insert("includeJobDocument".into(), (*include_document).into());
            match job {
                JobName::Next => "$next/get".to_owned(),
                JobName::Id(id) => format!("{}/get", checked_job(id)?),
            }
        }
        JobsRequest::Update { job, update } => {
            put_update(&mut body, update)?;
            format!("{}/update", checked_job(job)?)
        }
    };
    body.insert("clientToken".into(), token.into());
    let topic = format!("$aws/things/{thing}/jobs/{end}");
    rendered(topic, Value::Object(body).to_string(), QoS::AtMostOnce)
}

/// Whether a thing can have this name.
///
/// # Errors
/// What is wrong with it.
pub fn check_thing(thing: &str) -> Result<(), DialectError> {
    check_name("thing name", thing, THING_NAME_BYTES_MAX)
}

fn filter(thing: &str, end: &str, qos: QoS) -> Result<Subscription, DialectError> {
    check_thing(thing)?;
    TopicFilter::new(format!("$aws/things/{thing}/jobs/{end}"))
        .map(|filter| Subscription::new(filter, qos))
        .map_err(|error| invalid("topic filter", error.to_string()))
}

fn checked_job(id: &str) -> Result<&str, DialectError> {
    check_name("job id", id, JOB_ID_BYTES_MAX)?;
    if id.contains(':') {
        return Err(invalid("job id", format!("{id:?} has a colon")));
    }
    Ok(id)
}

fn put_number(body: &mut Map<String, Value>, key: &str, number: Option<u64>) {
    if let Some(number) = number {
        body.insert(key.into(), number.into());
    }
}

fn put_update(body: &mut Map<String, Value>, update: &JobUpdate) -> Result<(), DialectError> {
    if !update.status.is_for_things() {
        return Err(invalid(
            "job status",
            format!(
                "{} is the service's to say; a thing says IN_PROGRESS, SUCCEEDED, FAILED or REJECTED",
                update.status
            ),
        ));
    }
    body.insert("status".into(), update.status.as_str().into());
    put_details(body, update.details.as_ref())?;
    put_number(body, "expectedVersion", update.expected_version);
    put_number(body, "executionNumber", update.execution_number);
    for (key, is_set) in [
        ("includeJobExecutionState", update.include_state),
        ("includeJobDocument", update.include_document),
    ] {
        if is_set {
            body.insert(key.into(), true.into());
        }
    }
    put_step_timeout(body, update.step_timeout)
}

fn put_details(
    body: &mut Map<String, Value>,
    details: Option<&JobDetails>,
) -> Result<(), DialectError> {
    let Some(JobDetails(details)) = details else {
        return Ok(());
    };
    let too_long = |(_, value): &(&String, &String)| value.len() > DETAIL_BYTES_MAX;
    if let Some((name, value)) = details.iter().find(too_long) {
        let length = value.len();
        return Err(invalid(
            "job detail",
            format!("{name:?} has {length} bytes; AWS IoT takes {DETAIL_BYTES_MAX}"),
        ));
    }
    let details = details
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    body.insert("statusDetails".into(), Value::Object(details.collect()));
    Ok(())
}

fn put_step_timeout(
    body: &mut Map<String, Value>,
    timeout: Option<StepTimeout>,
) -> Result<(), DialectError> {
    let minutes: i64 = match timeout {
        None => return Ok(()),
        Some(StepTimeout::Stop) => -1,
        Some(StepTimeout::Minutes(minutes @ 1..=STEP_TIMEOUT_MINUTES_MAX)) => minutes.into(),
        Some(StepTimeout::Minutes(minutes)) => {
            return Err(invalid(
                "step timeout",
                format!("it is {minutes} minutes; AWS IoT takes 1 to {STEP_TIMEOUT_MINUTES_MAX}"),
            ));
        }
    };
    body.insert("stepTimeoutInMinutes".into(), minutes.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent(what: &JobsRequest) -> (String, Value) {
        let rendered = request("Bot", what, "jobsCli").unwrap();
        assert_eq!(rendered.qos, QoS::AtMostOnce);
        let body = serde_json::from_slice(&rendered.payload).unwrap();
        (rendered.topic.as_str().to_owned(), body)
    }

    #[test]
    fn requests_are_what_amazons_sdk_sends() {
        assert_eq!(
            sent(&JobsRequest::Pending),
            (
                "$aws/things/Bot/jobs/get".into(),
                json!({"clientToken": "jobsCli"})
            )
        );
        let start = JobsRequest::StartNext {
            details: Some([("step", "1")].into()),
            step_timeout: Some(StepTimeout::Minutes(5)),
        };
        let body = json!({
            "clientToken": "jobsCli", "statusDetails": {"step": "1"}, "stepTimeoutInMinutes": 5
        });
        assert_eq!(
            sent(&start),
            ("$aws/things/Bot/jobs/start-next".into(), body)
        );
        let describe = JobsRequest::Describe {
            job: JobName::Next,
            execution_number: None,
            include_document: true,
        };
        let body = json!({"includeJobDocument": true, "clientToken": "jobsCli"});
        assert_eq!(
            sent(&describe),
            ("$aws/things/Bot/jobs/$next/get".into(), body)
        );
        let update = JobUpdate {
            execution_number: Some(1),
            include_state: false,
            ..JobUpdate::new(JobStatus::Succeeded).with_expected_version(2)
        };
        let job = "job1".into();
        let body = json!({
            "status": "SUCCEEDED", "expectedVersion": 2, "executionNumber": 1,
            "clientToken": "jobsCli"
        });
        assert_eq!(
            sent(&JobsRequest::Update { job, update }),
            ("$aws/things/Bot/jobs/job1/update".into(), body)
        );
    }

    #[test]
    fn a_timer_that_runs_can_be_stopped() {
        let start = JobsRequest::StartNext {
            details: None,
            step_timeout: Some(StepTimeout::Stop),
        };
        assert_eq!(sent(&start).1["stepTimeoutInMinutes"], -1);
    }

    #[test]
    fn what_the_service_would_refuse_is_not_sent() {
        let start = |minutes| JobsRequest::StartNext {
            details: None,
            step_timeout: Some(StepTimeout::Minutes(minutes)),
        };
        assert!(request("Bot", &start(1), "t").is_ok());
        assert!(request("Bot", &start(STEP_TIMEOUT_MINUTES_MAX), "t").is_ok());
        for minutes in [0, STEP_TIMEOUT_MINUTES_MAX + 1] {
            assert!(request("Bot", &start(minutes), "t").is_err());
        }
        let update = |job: &str, update| JobsRequest::Update {
            job: job.into(),
            update,
        };
        let fine = JobUpdate::new(JobStatus::Failed);
        for job in ["", "a/b", "a:b", "a+", "$next", &"j".repeat(65)] {
            assert!(
                request("Bot", &update(job, fine.clone()), "t").is_err(),
                "{job}"
            );
        }
        let longest = "j".repeat(64);
        assert!(request("Bot", &update(&longest, fine.clone()), "t").is_ok());
        let queued = JobUpdate::new(JobStatus::Queued);
        assert!(request("Bot", &update("job1", queued), "t").is_err());
        for (bytes, is_taken) in [(1024, true), (1025, false)] {
            let detailed = fine.clone().with_details([("log", "x".repeat(bytes))]);
            let detailed = update("job1", detailed);
            assert_eq!(request("Bot", &detailed, "t").is_ok(), is_taken);
        }
        assert!(request("a thing", &JobsRequest::Pending, "t").is_err());
    }

    #[test]
    fn answers_and_events_have_filters_of_their_own() {
        let filters = |operation| {
            let all = reply_filters("Bot", operation).unwrap().into_iter();
            all.map(|one| one.filter.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            filters(JobsOperation::Update),
            [
                "$aws/things/Bot/jobs/+/update/accepted",
                "$aws/things/Bot/jobs/+/update/rejected"
            ]
        );
        assert_eq!(
            filters(JobsOperation::StartNext)[0],
            "$aws/things/Bot/jobs/start-next/accepted"
        );
        let next = next_filter("Bot").unwrap();
        assert_eq!(next.filter.as_str(), "$aws/things/Bot/jobs/notify-next");
        assert_eq!(next.qos, QoS::AtLeastOnce);
    }
}
