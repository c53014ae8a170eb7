//! The jobs service as a device sees it: "Jobs device MQTT and HTTPS API operations and data types" of the
//! AWS IoT Core developer guide.

mod execution;
mod request;

use std::collections::BTreeMap;
use std::time::SystemTime;

use execution::Execution;
pub use execution::{JobExecution, JobStatus};
use request::{Fields, Refusal};

use super::faults::Operation;
use super::json::{Json, Object, object};
use super::message::Message;
use super::names::{JobOperation, is_job_id, is_thing_name};
use super::settings::JobSettings;
use super::{RejectFault, seconds};

/// In the place of a job's identifier: the execution that is to be done next.
const NEXT: &str = "$next";

/// Why a job cannot be made or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The identifier is none.
    #[error("{0:?} is no identifier of a job; use 1 to 64 letters, digits, - and _")]
    BadJobId(String),
    /// The name of a thing is none.
    #[error("{0:?} is no name of a thing; use 1 to 128 letters, digits, :, - and _")]
    BadThingName(String),
    /// There is no such thing, where things must exist.
    #[error("there is no thing {0:?}")]
    UnknownThing(String),
    /// There is such a job already.
    #[error("job {0:?} exists; choose another identifier")]
    Exists(String),
    /// There is no such job.
    #[error("there is no job {0:?}")]
    Unknown(String),
}

/// Every execution of every thing.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    /// A thing's executions in the order of their creation, the finished ones among them.
    executions: BTreeMap<String, Vec<Execution>>,
    /// The things with a step that must end in time, and when the first of theirs must.
    timers: BTreeMap<String, SystemTime>,
}

/// What of a thing's pending executions is told when it changes.
#[derive(Debug, PartialEq)]
struct Pending {
    members: Vec<(String, u64)>,
    head: Option<(String, u64)>,
}

/// A request of a thing.
#[derive(Debug)]
pub(crate) struct JobRequest<'a> {
    pub(crate) thing: &'a str,
    pub(crate) operation: JobOperation<'a>,
    /// The topic it came on.
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

impl Jobs {
    /// Carries a request out. Exactly one of the messages is its answer.
    pub(crate) fn handle(
        &mut self,
        request: &JobRequest<'_>,
        reject: Option<RejectFault>,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        let JobRequest {
            thing,
            topic,
            operation,
            ..
        } = *request;
        let before = self.pending(thing);
        let fields = Fields::parse(request.payload);
        let token = fields.as_ref().map_or(Ok(None), Fields::client_token);
        let outcome = match reject {
            Some(reject) => Err(Refusal {
                status: reject.status,
                ..Refusal::new(&reject.code, reject.message)
            }),
            None => fields
                .and_then(|fields| token.clone().map(|_| fields))
                .and_then(|fields| self.carry_out(thing, operation, &fields, now)),
        };
        let kind = operation_of(operation);
        let token = token.unwrap_or(None).map(Json::String);
        let answer = match outcome {
            Ok(mut body) => {
                if let Some(token) = token {
                    body.insert("clientToken".to_owned(), token);
                }
                body.insert("timestamp".to_owned(), seconds(now).into());
                Message::accepted(kind, topic, body)
            }
            Err(refusal) => {
                let body = object([
                    ("code", Some(refusal.code.into())),
                    ("message", Some(refusal.message.into())),
                    ("executionState", refusal.state),
                    ("clientToken", token),
                    ("timestamp", Some(seconds(now).into())),
                ]);
                Message::rejected(kind, topic, refusal.status, body)
            }
        };
        let mut messages = vec![answer.for_requester()];
        messages.extend(self.changes(thing, &before, settings, now));
        messages
    }

    fn carry_out(
        &mut self,
        thing: &str,
        operation: JobOperation<'_>,
        fields: &Fields,
        now: SystemTime,
    ) -> Result<Object, Refusal> {
        if !is_thing_name(thing) {
            return Err(Refusal::new(
                "InvalidRequest",
                "The name of the thing is not valid",
            ));
        }
        match operation {
            JobOperation::GetPending => Ok(self.get_pending(thing)),
            JobOperation::StartNext => self.start_next(thing, fields, now),
            JobOperation::Describe { job_id } => self.describe(thing, job_id, fields),
            JobOperation::Update { job_id } if job_id != NEXT => {
                self.update(thing, job_id, fields, now)
            }
            JobOperation::Update { .. } | JobOperation::Unknown => Err(Refusal::new(
                "InvalidTopic",
                "The topic does not map to an operation of the jobs service",
            )),
        }
    }

    fn get_pending(&self, thing: &str) -> Object {
        let with = |status| {
            let executions = self.in_order(thing).into_iter();
            let executions = executions.filter(|execution| execution.status == status);
            Json::Array(executions.map(Execution::summary).collect())
        };
        object([
            ("inProgressJobs", Some(with(JobStatus::InProgress))),
            ("queuedJobs", Some(with(JobStatus::Queued))),
        ])
    }

    fn start_next(
        &mut self,
        thing: &str,
        fields: &Fields,
        now: SystemTime,
    ) -> Result<Object, Refusal> {
        let details = fields.details()?;
        let timeout = fields.step_timeout()?;
        let next = self.head(thing).map(|execution| execution.job_id.clone());
        let next = next.and_then(|job_id| self.execution_mut(thing, &job_id));
        let execution = next.map(|execution| {
            if execution.status == JobStatus::Queued {
                execution.change(JobStatus::InProgress, now);
                execution.details = details.unwrap_or_default();
                execution.set_step_timeout(timeout, now);
            }
            execution.full(thing, true)
        });
        Ok(object([("execution", execution)]))
    }

    fn describe(&self, thing: &str, job_id: &str, fields: &Fields) -> Result<Object, Refusal> {
        let number = fields.whole("executionNumber")?;
        let with_document = fields.flag("includeJobDocument", true)?;
        let execution = if job_id == NEXT {
            self.head(thing)
        } else {
            let found = self.execution(thing, job_id).ok_or_else(not_found)?;
            Some(found)
        };
        let Some(execution) = execution else {
            return Ok(Object::new());
        };
        check_number(execution, number)?;
        if execution.status.is_terminal() {
            let message = format!("The execution is {}", execution.status.as_str());
            return Err(Refusal::new("TerminalStateReached", message));
        }
        let execution = execution.full(thing, with_document);
        Ok(object([("execution", Some(execution))]))
    }

    fn update(
        &mut self,
        thing: &str,
        job_id: &str,
        fields: &Fields,
        now: SystemTime,
    ) -> Result<Object, Refusal> {
        let status = fields.status()?;
        let details = fields.details()?;
        let expected_version = fields.whole("expectedVersion")?;
        let number = fields.whole("executionNumber")?;
        let with_state = fields.flag("includeJobExecutionState", false)?;
        let with_document = fields.flag("includeJobDocument", false)?;
        let timeout = fields.step_timeout()?;
        let execution = self.execution_mut(thing, job_id).ok_or_else(not_found)?;
        check_number(execution, number)?;
        if expected_version.is_some_and(|expected| expected != i128::from(execution.version)) {
            let version = execution.version;
            let message = format!("The version of the execution is {version}");
            let refusal = Refusal::new("VersionMismatch", message);
            return Err(refusal.with_state(execution.state()));
        }
        if execution.status.is_terminal() {
            let (from, to) = (execution.status.as_str(), status.as_str());
            let message = format!("The execution cannot go from {from} to {to}");
            let refusal = Refusal::new("InvalidStateTransition", message);
            return Err(refusal.with_state(execution.state()));
        }
        execution.change(status, now);
        if let Some(details) = details {
            execution.details = details;
        }
        execution.set_step_timeout(timeout, now);
        Ok(object([
            ("executionState", with_state.then(|| execution.state())),
            (
                "jobDocument",
                with_document.then(|| execution.document.clone()),
            ),
        ]))
    }

    /// Queues a job for things.
    pub(crate) fn create(
        &mut self,
        job_id: &str,
        document: &Json,
        things: &[&str],
        settings: &JobSettings,
        now: SystemTime,
    ) -> Result<Vec<Message>, JobError> {
        if !is_job_id(job_id) {
            return Err(JobError::BadJobId(job_id.to_owned()));
        }
        if let Some(thing) = things.iter().find(|thing| !is_thing_name(thing)) {
            return Err(JobError::BadThingName((*thing).to_owned()));
        }
        if self.is_job(job_id) {
            return Err(JobError::Exists(job_id.to_owned()));
        }
        let mut messages = Vec::new();
        for thing in things {
            // A thing that is named twice has one execution.
            if self.execution(thing, job_id).is_some() {
                continue;
            }
            let before = self.pending(thing);
            let execution = Execution::new(job_id, document.clone(), now);
            let executions = self.executions.entry((*thing).to_owned()).or_default();
            executions.push(execution);
            messages.extend(self.changes(thing, &before, settings, now));
        }
        Ok(messages)
    }

    /// Cancels what of a job is queued, and with `force` what is in progress too.
    pub(crate) fn cancel(
        &mut self,
        job_id: &str,
        force: bool,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Result<Vec<Message>, JobError> {
        if !self.is_job(job_id) {
            return Err(JobError::Unknown(job_id.to_owned()));
        }
        let ends = |execution: &Execution| {
            execution.job_id == job_id
                && (execution.status == JobStatus::Queued
                    || force && execution.status == JobStatus::InProgress)
        };
        Ok(self.end_all(JobStatus::Canceled, ends, settings, now))
    }

    /// Ends all that a thing still had to do.
    pub(crate) fn remove_thing(
        &mut self,
        thing: &str,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        let before = self.pending(thing);
        for execution in self.executions.get_mut(thing).into_iter().flatten() {
            if !execution.status.is_terminal() {
                execution.change(JobStatus::Removed, now);
            }
        }
        self.changes(thing, &before, settings, now)
    }

    /// Ends the steps whose time is over.
    pub(crate) fn handle_deadline(
        &mut self,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        let is_over = |execution: &Execution| execution.step_ends.is_some_and(|end| end <= now);
        self.end_all(JobStatus::TimedOut, is_over, settings, now)
    }

    /// When the next step's time is over.
    pub(crate) fn deadline(&self) -> Option<SystemTime> {
        self.timers.values().min().copied()
    }

    pub(crate) fn of_thing(&self, thing: &str) -> Vec<JobExecution> {
        let executions = self.executions.get(thing).into_iter().flatten();
        executions.map(|execution| execution.view(thing)).collect()
    }

    pub(crate) fn all(&self) -> Vec<JobExecution> {
        let things = self.executions.iter();
        things
            .flat_map(|(thing, executions)| executions.iter().map(|one| one.view(thing)))
            .collect()
    }

    fn end_all(
        &mut self,
        status: JobStatus,
        ends: impl Fn(&Execution) -> bool,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        let has_one = |(_, executions): &(&String, &Vec<Execution>)| executions.iter().any(&ends);
        let things = self.executions.iter().filter(has_one);
        let things: Vec<String> = things.map(|(thing, _)| thing.clone()).collect();
        let mut messages = Vec::new();
        for thing in things {
            let before = self.pending(&thing);
            for execution in self.executions.get_mut(&thing).into_iter().flatten() {
                if ends(execution) {
                    execution.change(status, now);
                }
            }
            messages.extend(self.changes(&thing, &before, settings, now));
        }
        messages
    }

    fn is_job(&self, job_id: &str) -> bool {
        let mut executions = self.executions.values().flatten();
        executions.any(|execution| execution.job_id == job_id)
    }

    fn execution(&self, thing: &str, job_id: &str) -> Option<&Execution> {
        let mut executions = self.executions.get(thing)?.iter();
        executions.find(|execution| execution.job_id == job_id)
    }

    fn execution_mut(&mut self, thing: &str, job_id: &str) -> Option<&mut Execution> {
        let mut executions = self.executions.get_mut(thing)?.iter_mut();
        executions.find(|execution| execution.job_id == job_id)
    }

    /// What a thing has to do: what is in progress first, then by creation.
    fn in_order(&self, thing: &str) -> Vec<&Execution> {
        let with = |status| {
            let executions = self.executions.get(thing).into_iter().flatten();
            executions.filter(move |execution| execution.status == status)
        };
        with(JobStatus::InProgress)
            .chain(with(JobStatus::Queued))
            .collect()
    }

    fn head(&self, thing: &str) -> Option<&Execution> {
        self.in_order(thing).first().copied()
    }

    fn pending(&self, thing: &str) -> Pending {
        let name = |execution: &Execution| (execution.job_id.clone(), execution.number);
        let mut members: Vec<_> = self.in_order(thing).into_iter().map(name).collect();
        let head = members.first().cloned();
        members.sort();
        Pending { members, head }
    }

    /// The events of what changed for a thing. Whatever changes an execution ends here, so that its timer is
    /// known.
    fn changes(
        &mut self,
        thing: &str,
        before: &Pending,
        settings: &JobSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        let executions = self.executions.get(thing).into_iter().flatten();
        match executions.filter_map(|execution| execution.step_ends).min() {
            Some(end) => self.timers.insert(thing.to_owned(), end),
            None => self.timers.remove(thing),
        };
        let after = self.pending(thing);
        let mut messages = Vec::new();
        let timestamp = ("timestamp", Some(Json::from(seconds(now))));
        if before.members != after.members {
            let mut listed = BTreeMap::<String, Vec<Json>>::new();
            for execution in self
                .in_order(thing)
                .into_iter()
                .take(settings.notify_listed_max)
            {
                let status = execution.status.as_str().to_owned();
                listed.entry(status).or_default().push(execution.summary());
            }
            let jobs: Object = listed
                .into_iter()
                .map(|(status, executions)| (status, Json::Array(executions)))
                .collect();
            let body = object([("jobs", Some(jobs.into())), timestamp.clone()]);
            let topic = format!("$aws/things/{thing}/jobs/notify");
            messages.push(Message::event(Operation::JobsNotify, topic, body));
        }
        if before.head != after.head {
            let next = self.head(thing);
            let next = next.map(|execution| execution.full(thing, true));
            let body = object([("execution", next), timestamp]);
            let topic = format!("$aws/things/{thing}/jobs/notify-next");
            messages.push(Message::event(Operation::JobsNotifyNext, topic, body));
        }
        messages
    }
}

fn not_found() -> Refusal {
    Refusal::new(
        "ResourceNotFound",
        "There is no such execution for this thing",
    )
}

fn check_number(execution: &Execution, number: Option<i128>) -> Result<(), Refusal> {
    match number {
        Some(number) if number != i128::from(execution.number) => Err(not_found()),
        _ => Ok(()),
    }
}

/// What a fault would aim at.
pub(crate) fn operation_of(operation: JobOperation<'_>) -> Operation {
    match operation {
        JobOperation::GetPending => Operation::JobsGetPending,
        JobOperation::StartNext => Operation::JobsStartNext,
        JobOperation::Describe { .. } | JobOperation::Unknown => Operation::JobDescribe,
        JobOperation::Update { .. } => Operation::JobUpdate,
    }
}

#[cfg(test)]
mod tests;
