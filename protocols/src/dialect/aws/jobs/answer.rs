//! What the service says about jobs. Read leniently: numbers may be texts, fields may be missing or new.

use std::fmt;

use bytestring::ByteString;
use serde_json::{Map, Value};

use super::{JobDetails, JobsOperation};

/// How a job on a thing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobStatus {
    /// It waits.
    Queued,
    /// The thing is at it.
    InProgress,
    /// The thing did it.
    Succeeded,
    /// The thing could not do it.
    Failed,
    /// The thing does not do it.
    Rejected,
    /// The thing took too long.
    TimedOut,
    /// The thing is no target any more.
    Removed,
    /// An operator took it back.
    Canceled,
    /// One that this version does not know.
    Other(String),
}

impl JobStatus {
    /// As the service writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
            Self::TimedOut => "TIMED_OUT",
            Self::Removed => "REMOVED",
            Self::Canceled => "CANCELED",
            Self::Other(text) => text,
        }
    }

    /// Whether a thing may say it.
    #[must_use]
    pub const fn is_for_things(&self) -> bool {
        matches!(
            self,
            Self::InProgress | Self::Succeeded | Self::Failed | Self::Rejected
        )
    }

    /// Whether nothing follows it. A status that this version does not know counts as one that something follows.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress | Self::Other(_))
    }
}

impl From<&str> for JobStatus {
    fn from(text: &str) -> Self {
        match text {
            "QUEUED" => Self::Queued,
            "IN_PROGRESS" => Self::InProgress,
            "SUCCEEDED" => Self::Succeeded,
            "FAILED" => Self::Failed,
            "REJECTED" => Self::Rejected,
            "TIMED_OUT" => Self::TimedOut,
            "REMOVED" => Self::Removed,
            "CANCELED" => Self::Canceled,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job on a thing. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JobExecution {
    /// The job's identifier.
    pub job_id: ByteString,
    /// The thing's name.
    pub thing_name: Option<String>,
    /// What is to be done, in the operator's own words; absent when it was not asked for.
    pub document: Option<Value>,
    /// How it stands.
    pub status: JobStatus,
    /// What was said about how it goes.
    pub details: JobDetails,
    /// When it was queued.
    pub queued_at: Option<u64>,
    /// When it was started.
    pub started_at: Option<u64>,
    /// When it was last changed.
    pub last_updated_at: Option<u64>,
    /// Rises with each change.
    pub version: Option<u64>,
    /// Which execution of the job on this thing it is.
    pub execution_number: Option<u64>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobSummary {
    /// The job's identifier.
    pub job_id: ByteString,
    /// When it was queued, in seconds since 1970.
    pub queued_at: Option<u64>,
    /// When it was started, in seconds since 1970.
    pub started_at: Option<u64>,
    /// When it was last changed, in seconds since 1970.
    pub last_updated_at: Option<u64>,
    /// Rises with each change.
    pub version: Option<u64>,
    /// Which execution of the job on this thing it is.
    pub execution_number: Option<u64>,
}

/// The jobs that have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PendingJobs {
    /// Those the thing is at.
    pub in_progress: Vec<JobSummary>,
    /// Those that wait, in order.
    pub queued: Vec<JobSummary>,
}

/// A job on a thing, in an answer to its change or in a refusal of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobExecutionState {
    /// How it stands.
    pub status: JobStatus,
    /// What was said about how it goes.
    pub details: JobDetails,
    /// Its version.
    pub version: Option<u64>,
}

/// The answer to a change.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct JobUpdated {
    /// How it stands, if that was asked for.
    pub state: Option<JobExecutionState>,
    /// What is to be done, if that was asked for.
    pub document: Option<Value>,
}

/// Why the service refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobsErrorCode {
    /// The topic has no operation.
    InvalidTopic,
    /// The request is no JSON.
    InvalidJson,
    /// A field of the request.
    InvalidRequest,
    /// The job cannot become what the change says: it has ended.
    InvalidStateTransition,
    /// There is no such job on this thing.
    ResourceNotFound,
    /// The job has another version.
    VersionMismatch,
    /// The service itself failed.
    InternalError,
    /// Too many requests.
    RequestThrottled,
    /// The job has ended.
    TerminalStateReached,
    /// One that this version does not know, or none.
    Other(String),
}

impl JobsErrorCode {
    /// As the service writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidTopic => "InvalidTopic",
            Self::InvalidJson => "InvalidJson",
            Self::InvalidRequest => "InvalidRequest",
            Self::InvalidStateTransition => "InvalidStateTransition",
            Self::ResourceNotFound => "ResourceNotFound",
            Self::VersionMismatch => "VersionMismatch",
            Self::InternalError => "InternalError",
            Self::RequestThrottled => "RequestThrottled",
            Self::TerminalStateReached => "TerminalStateReached",
            Self::Other(text) => text,
        }
    }
}

impl From<&str> for JobsErrorCode {
    fn from(text: &str) -> Self {
        match text {
            "InvalidTopic" => Self::InvalidTopic,
            "InvalidJson" => Self::InvalidJson,
            "InvalidRequest" => Self::InvalidRequest,
            "InvalidStateTransition" => Self::InvalidStateTransition,
            "ResourceNotFound" => Self::ResourceNotFound,
            "VersionMismatch" => Self::VersionMismatch,
            "InternalError" => Self::InternalError,
            "RequestThrottled" => Self::RequestThrottled,
            "TerminalStateReached" => Self::TerminalStateReached,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for JobsErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal of the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the jobs service answered {code}: {message}")]
#[non_exhaustive]
pub struct JobsRejection {
    /// The kind.
    pub code: JobsErrorCode,
    /// The service's words.
    pub message: String,
    /// The job as it stands, when the refusal is about that.
    pub state: Option<JobExecutionState>,
}

impl JobsRejection {
    /// Whether the same request may be taken later: the service was busy or failed itself.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self.code,
            JobsErrorCode::InternalError
                | JobsErrorCode::RequestThrottled
                | JobsErrorCode::Other(_)
        )
    }

    /// Whether it says that the job has ended or is none of this thing's any more.
    #[must_use]
    pub fn says_ended(&self) -> bool {
        let has_ended = self
            .state
            .as_ref()
            .is_some_and(|state| state.status.is_terminal());
        has_ended
            || matches!(
                self.code,
                JobsErrorCode::ResourceNotFound
                    | JobsErrorCode::TerminalStateReached
                    | JobsErrorCode::InvalidStateTransition
            )
    }
}

/// What a request got.
#[derive(Debug, Clone, PartialEq)]
pub enum JobsAnswer {
    /// To [`JobsRequest::Pending`](super::JobsRequest::Pending).
    Pending(PendingJobs),
    /// To [`JobsRequest::StartNext`](super::JobsRequest::StartNext) and
    /// [`JobsRequest::Describe`](super::JobsRequest::Describe); `None` when there is none.
    Execution(Option<Box<JobExecution>>),
    /// To [`JobsRequest::Update`](super::JobsRequest::Update).
    Updated(JobUpdated),
    /// A refusal.
    Rejected(JobsRejection),
    /// It makes no sense.
    Unreadable(String),
}

/// An answer and the request it is to.
#[derive(Debug, Clone, PartialEq)]
pub struct JobsReply {
    /// The request's token; answers to others' requests come by as well.
    pub token: Option<String>,
    /// What it got.
    pub answer: JobsAnswer,
}

/// What the service tells by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum JobsEvent {
    /// Which jobs have not ended; at most ten of a kind.
    Pending(PendingJobs),
    /// Which job is next; `None` when there is none.
    Next(Option<Box<JobExecution>>),
}

/// The answer in a message; `None` when its topic is none of an answer to this thing.
#[must_use]
pub fn read_reply(thing: &str, topic: &str, payload: &[u8]) -> Option<JobsReply> {
    let (operation, is_accepted) = reply_topic(thing, topic)?;
    let body = match object(payload) {
        Ok(body) => body,
        Err(problem) => {
            let answer = JobsAnswer::Unreadable(problem);
            return Some(JobsReply {
                token: None,
                answer,
            });
        }
    };
    let token = text(&body, "clientToken");
    let answer = if is_accepted {
        accepted(operation, &body).unwrap_or_else(JobsAnswer::Unreadable)
    } else {
        JobsAnswer::Rejected(JobsRejection {
            code: text(&body, "code").unwrap_or_default().as_str().into(),
            message: text(&body, "message").unwrap_or_default(),
            state: body.get("executionState").and_then(state),
        })
    };
    Some(JobsReply { token, answer })
}

/// The event in a message; `None` when its topic is none of an event of this thing.
///
/// # Errors
/// Why it cannot be read.
#[must_use]
pub fn read_event(thing: &str, topic: &str, payload: &[u8]) -> Option<Result<JobsEvent, String>> {
    match jobs_topic(thing, topic)? {
        "notify" => Some(object(payload).and_then(|body| {
            let empty = Map::new();
            let jobs = body.get("jobs").and_then(Value::as_object);
            let jobs = jobs.unwrap_or(&empty);
            Ok(JobsEvent::Pending(PendingJobs {
                in_progress: summaries(jobs.get("IN_PROGRESS"))?,
                queued: summaries(jobs.get("QUEUED"))?,
            }))
        })),
        "notify-next" => Some(object(payload).and_then(|body| Ok(JobsEvent::Next(next(&body)?)))),
        _ => None,
    }
}

fn jobs_topic<'a>(thing: &str, topic: &'a str) -> Option<&'a str> {
    topic
        .strip_prefix("$aws/things/")?
        .strip_prefix(thing)?
        .strip_prefix("/jobs/")
}

fn reply_topic(thing: &str, topic: &str) -> Option<(JobsOperation, bool)> {
    let (request, end) = jobs_topic(thing, topic)?.rsplit_once('/')?;
    let is_accepted = match end {
        "accepted" => true,
        "rejected" => false,
        _ => return None,
    };
    let operation = match request.split_once('/') {
        None if request == "get" => JobsOperation::Pending,
        None if request == "start-next" => JobsOperation::StartNext,
        Some((_, "get")) => JobsOperation::Describe,
        Some((_, "update")) => JobsOperation::Update,
        _ => return None,
    };
    Some((operation, is_accepted))
}

fn accepted(operation: JobsOperation, body: &Map<String, Value>) -> Result<JobsAnswer, String> {
    Ok(match operation {
        JobsOperation::Pending => JobsAnswer::Pending(PendingJobs {
            in_progress: summaries(body.get("inProgressJobs"))?,
            queued: summaries(body.get("queuedJobs"))?,
        }),
        JobsOperation::StartNext | JobsOperation::Describe => JobsAnswer::Execution(next(body)?),
        JobsOperation::Update => JobsAnswer::Updated(JobUpdated {
            state: body.get("executionState").and_then(state),
            document: present(body, "jobDocument").cloned(),
        }),
    })
}

fn object(payload: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(payload) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => Err("it is no JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The execution of a message; an empty object stands for none too.
fn next(body: &Map<String, Value>) -> Result<Option<Box<JobExecution>>, String> {
    match body.get("execution") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(fields)) if fields.is_empty() => Ok(None),
        Some(Value::Object(fields)) => execution(fields).map(|it| Some(Box::new(it))),
        Some(_) => Err("its execution is no object".into()),
    }
}

fn execution(fields: &Map<String, Value>) -> Result<JobExecution, String> {
    Ok(JobExecution {
        job_id: job_id(fields)?,
        thing_name: text(fields, "thingName"),
        document: present(fields, "jobDocument").cloned(),
        status: text(fields, "status").unwrap_or_default().as_str().into(),
        details: details(fields.get("statusDetails")),
        queued_at: number(fields, "queuedAt"),
        started_at: number(fields, "startedAt"),
        last_updated_at: number(fields, "lastUpdatedAt"),
        version: number(fields, "versionNumber"),
        execution_number: number(fields, "executionNumber"),
    })
}

fn summaries(list: Option<&Value>) -> Result<Vec<JobSummary>, String> {
    let list = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list) => list.as_array().ok_or("its list of jobs is none")?,
    };
    let summary = |one: &Value| {
        let fields = one.as_object().ok_or("a job in its list is no object")?;
        Ok(JobSummary {
            job_id: job_id(fields)?,
            queued_at: number(fields, "queuedAt"),
            started_at: number(fields, "startedAt"),
            last_updated_at: number(fields, "lastUpdatedAt"),
            version: number(fields, "versionNumber"),
            execution_number: number(fields, "executionNumber"),
        })
    };
    list.iter().map(summary).collect()
}

fn state(value: &Value) -> Option<JobExecutionState> {
    let fields = value.as_object()?;
    Some(JobExecutionState {
        status: text(fields, "status")?.as_str().into(),
        details: details(fields.get("statusDetails")),
        version: number(fields, "versionNumber"),
    })
}

fn job_id(fields: &Map<String, Value>) -> Result<ByteString, String> {
    match fields.get("jobId").and_then(Value::as_str) {
        Some(id) if !id.is_empty() => Ok(id.into()),
        _ => Err("a job in it has no jobId".into()),
    }
}

fn details(value: Option<&Value>) -> JobDetails {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    let as_text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    JobDetails(fields.map(|(k, v)| (k.clone(), as_text(v))).collect())
}

fn present<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn text(fields: &Map<String, Value>, key: &str) -> Option<String> {
    fields.get(key)?.as_str().map(str::to_owned)
}

/// A whole number, also one that was written as text or with a fraction of nothing.
fn number(fields: &Map<String, Value>, key: &str) -> Option<u64> {
    match fields.get(key)? {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(end: &str, body: &Value) -> JobsReply {
        let topic = format!("$aws/things/Bot/jobs/{end}");
        read_reply("Bot", &topic, body.to_string().as_bytes()).unwrap()
    }

    fn event(end: &str, body: &Value) -> Result<JobsEvent, String> {
        let topic = format!("$aws/things/Bot/jobs/{end}");
        read_event("Bot", &topic, body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_execution_is_read_with_all_it_has() {
        let body = json!({
            "clientToken": "t-1",
            "timestamp": 1_700_000_000,
            "execution": {
                "jobId": "022", "thingName": "Bot", "status": "IN_PROGRESS",
                "statusDetails": {"step": "1"}, "queuedAt": 1, "startedAt": 2,
                "lastUpdatedAt": 3, "versionNumber": 2, "executionNumber": 1_234_567_890,
                "jobDocument": {"operation": "reboot"}
            }
        });
        let reply = reply("start-next/accepted", &body);
        assert_eq!(reply.token.as_deref(), Some("t-1"));
        let JobsAnswer::Execution(Some(execution)) = reply.answer else {
            panic!("{reply:?}");
        };
        assert_eq!(execution.job_id, "022");
        assert_eq!(execution.status, JobStatus::InProgress);
        assert_eq!(execution.details.get("step"), Some("1"));
        assert_eq!(
            (execution.version, execution.execution_number),
            (Some(2), Some(1_234_567_890))
        );
        assert_eq!(execution.document, Some(json!({"operation": "reboot"})));
    }

    #[test]
    fn numbers_may_be_texts_and_details_may_be_numbers() {
        let body = json!({"execution": {
            "jobId": "j", "status": "QUEUED", "versionNumber": "2", "executionNumber": "1",
            "queuedAt": "nonsense", "statusDetails": {"percent": 40}
        }});
        let JobsAnswer::Execution(Some(execution)) = reply("$next/get/accepted", &body).answer
        else {
            panic!("there is one");
        };
        assert_eq!(
            (execution.version, execution.execution_number),
            (Some(2), Some(1))
        );
        assert_eq!(execution.queued_at, None);
        assert_eq!(execution.details.get("percent"), Some("40"));
    }

    #[test]
    fn no_execution_is_said_in_three_ways() {
        for body in [
            json!({}),
            json!({"execution": {}}),
            json!({"execution": null}),
        ] {
            assert_eq!(
                reply("start-next/accepted", &body).answer,
                JobsAnswer::Execution(None)
            );
            assert_eq!(event("notify-next", &body), Ok(JobsEvent::Next(None)));
        }
    }

    #[test]
    fn a_refusal_has_its_code_also_one_that_is_not_known() {
        let body = json!({
            "code": "VersionMismatch", "message": "expected 1", "clientToken": "t",
            "executionState": {"status": "CANCELED", "versionNumber": 3}
        });
        let JobsAnswer::Rejected(refusal) = reply("j/update/rejected", &body).answer else {
            panic!("it is one");
        };
        assert_eq!(refusal.code, JobsErrorCode::VersionMismatch);
        assert!(refusal.says_ended());
        assert_eq!(refusal.state.unwrap().version, Some(3));
        let JobsAnswer::Rejected(refusal) = reply("get/rejected", &json!({"code": "New"})).answer
        else {
            panic!("it is one");
        };
        assert_eq!(refusal.code, JobsErrorCode::Other("New".into()));
        assert!(refusal.may_pass() && !refusal.says_ended());
    }

    #[test]
    fn the_list_of_pending_jobs_is_read_from_answers_and_events() {
        let one = json!({"jobId": "a", "queuedAt": 1, "versionNumber": 1});
        let both = json!({"inProgressJobs": [], "queuedJobs": [one]});
        let JobsAnswer::Pending(pending) = reply("get/accepted", &both).answer else {
            panic!("it is one");
        };
        assert_eq!(pending.queued[0].job_id, "a");
        let told = json!({"jobs": {"IN_PROGRESS": [one]}});
        let Ok(JobsEvent::Pending(pending)) = event("notify", &told) else {
            panic!("it is one");
        };
        assert_eq!((pending.in_progress.len(), pending.queued.len()), (1, 0));
        let none = JobsEvent::Pending(PendingJobs::default());
        assert_eq!(event("notify", &json!({"jobs": {}})), Ok(none));
    }

    #[test]
    fn what_makes_no_sense_says_so_and_keeps_its_token() {
        let body = json!({"clientToken": "t", "execution": {"status": "QUEUED"}});
        let reply = reply("start-next/accepted", &body);
        assert_eq!(reply.token.as_deref(), Some("t"));
        assert!(matches!(reply.answer, JobsAnswer::Unreadable(_)));
        assert!(event("notify", &json!({"jobs": {"QUEUED": 4}})).is_err());
        let topic = "$aws/things/Bot/jobs/get/accepted";
        for payload in [&b""[..], b"[]", b"{", b"\xff"] {
            let reply = read_reply("Bot", topic, payload).unwrap();
            assert!(matches!(reply.answer, JobsAnswer::Unreadable(_)));
        }
    }

    #[test]
    fn topics_of_others_are_not_read() {
        for topic in [
            "$aws/things/Bo/jobs/get/accepted",
            "$aws/things/Bot2/jobs/get/accepted",
            "$aws/things/Bot/jobs/get",
            "$aws/things/Bot/jobs/get/maybe",
            "$aws/things/Bot/jobs/a/b/get/accepted",
            "$aws/things/Bot/jobs/notify",
            "$aws/things/Bot/shadow/get/accepted",
        ] {
            assert_eq!(read_reply("Bot", topic, b"{}"), None, "{topic}");
        }
        assert_eq!(read_event("Bot", "$aws/things/Bot/jobs/get", b"{}"), None);
    }
}
