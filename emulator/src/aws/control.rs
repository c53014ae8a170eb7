//! The calls of AWS IoT's control plane that a demonstration cannot do without: making a thing or a job, and
//! looking at what there is.
//!
//! Source: "CreateThing", "CreateJob", "DescribeJob", "ListJobs", "ListJobExecutionsForJob", "ListThings" and
//! "ListCertificates" in the AWS IoT API Reference. The answers have the fields that the emulator knows, on
//! one page.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::certificates::CertificateNames;
use super::services::{JobError, JobExecution, JobStatus, Publication, Services, is_thing_name};

/// The answer to a request: a status and a body.
pub(crate) type Answer = (u16, Value);

/// `POST /things/<thing>`: the thing is in the registry from then on, also when it was already. What the body says of a type
/// or attributes is not kept.
pub(crate) fn create_thing(services: &mut Services, thing: &str, region: &str) -> Answer {
    if !is_thing_name(thing) {
        return refusal(&JobError::BadThingName(thing.to_owned()));
    }
    services.add_thing(thing);
    let arn = arn(region, "thing", thing);
    (200, json!({"thingName": thing, "thingArn": arn}))
}

/// `PUT /jobs/<jobId>` with `{"targets": […], "document": …}`. A target is a thing's ARN or its name, the
/// document a text of JSON, as AWS wants it, or JSON itself. The things have to be in the registry, whatever the services
/// take from the things themselves.
///
/// # Errors
/// The answer that refuses it.
pub(crate) fn create_job(
    services: &mut Services,
    job_id: &str,
    body: &[u8],
    now: SystemTime,
) -> Result<Vec<Publication>, Answer> {
    let body: Value = serde_json::from_slice(body).map_err(|_| invalid("the body is no JSON"))?;
    let targets = body["targets"].as_array().map(Vec::as_slice);
    let things: Option<Vec<&str>> = targets
        .unwrap_or_default()
        .iter()
        .map(|target| target.as_str().map(thing_of))
        .collect();
    let things = things
        .filter(|things| !things.is_empty())
        .ok_or_else(|| invalid("targets is no list of things"))?;
    let document = match &body["document"] {
        Value::String(text) => {
            serde_json::from_str(text).map_err(|_| invalid("document is no text of JSON"))?
        }
        Value::Null => return Err(invalid("document is missing")),
        document => document.clone(),
    };
    let is_registered = |thing: &&str| services.things().any(|known| known == *thing);
    if let Some(unknown) = things.iter().find(|thing| !is_registered(thing)) {
        return Err(refusal(&JobError::UnknownThing((*unknown).to_owned())));
    }
    services
        .create_job(job_id, &document, &things, now)
        .map_err(|error| refusal(&error))
}

/// What a job that was made is answered with.
pub(crate) fn created(job_id: &str, region: &str) -> Answer {
    let arn = arn(region, "job", job_id);
    (200, json!({"jobArn": arn, "jobId": job_id}))
}

/// Looks at what there is; `None` of a path that is none of these:
///
/// | path | what |
/// |---|---|
/// | `/things` | the things of the registry |
/// | `/certificates` | the certificates that were made, and for whom |
/// | `/jobs` | the jobs |
/// | `/jobs/<jobId>` | a job, with how many things are how far |
/// | `/jobs/<jobId>/things` | each thing's execution of it |
pub(crate) fn look(
    services: &Services,
    names: &CertificateNames,
    region: &str,
    path: &str,
) -> Option<Answer> {
    let segments: Vec<&str> = path.split('/').collect();
    Some(match segments.as_slice() {
        ["", "things"] => things(services, region),
        ["", "certificates"] => certificates(services, names, region),
        ["", "jobs"] => jobs(services, region),
        ["", "jobs", job_id] => job(services, job_id, region),
        ["", "jobs", job_id, "things"] => executions(services, job_id, region),
        _ => return None,
    })
}

fn things(services: &Services, region: &str) -> Answer {
    let list: Vec<Value> = services
        .things()
        .map(|name| json!({"thingName": name, "thingArn": arn(region, "thing", name)}))
        .collect();
    (200, json!({"things": list}))
}

fn certificates(services: &Services, names: &CertificateNames, region: &str) -> Answer {
    let made = names
        .all()
        .into_iter()
        .map(|(id, name)| (id, Some(name), true));
    let provisioned = services.provisioned_certificates().iter().map(|one| {
        let id = one.certificate_id.clone();
        (id, one.thing.clone(), one.thing.is_some())
    });
    let list: Vec<Value> = made
        .chain(provisioned)
        .map(|(id, thing, is_active)| {
            json!({
                "certificateId": id,
                "certificateArn": arn(region, "cert", &id),
                "status": if is_active { "ACTIVE" } else { "PENDING_ACTIVATION" },
                "thingName": thing,
            })
        })
        .collect();
    (200, json!({"certificates": list}))
}

fn jobs(services: &Services, region: &str) -> Answer {
    let mut by_job: BTreeMap<String, Vec<JobExecution>> = BTreeMap::new();
    for execution in services.all_job_executions() {
        by_job
            .entry(execution.job_id.clone())
            .or_default()
            .push(execution);
    }
    let list: Vec<Value> = by_job
        .iter()
        .map(|(job_id, executions)| {
            json!({
                "jobId": job_id,
                "jobArn": arn(region, "job", job_id),
                "status": status_of(executions),
            })
        })
        .collect();
    (200, json!({"jobs": list}))
}

fn job(services: &Services, job_id: &str, region: &str) -> Answer {
    let executions = executions_of(services, job_id);
    if executions.is_empty() {
        return unknown_job(job_id);
    }
    let targets: Vec<String> = executions
        .iter()
        .map(|execution| arn(region, "thing", &execution.thing))
        .collect();
    let count = |status| {
        let is_so = |execution: &&JobExecution| execution.status == status;
        executions.iter().filter(is_so).count()
    };
    let job = json!({
        "jobId": job_id,
        "jobArn": arn(region, "job", job_id),
        "status": status_of(&executions),
        "targets": targets,
        "jobProcessDetails": {
            "numberOfQueuedThings": count(JobStatus::Queued),
            "numberOfInProgressThings": count(JobStatus::InProgress),
            "numberOfSucceededThings": count(JobStatus::Succeeded),
            "numberOfFailedThings": count(JobStatus::Failed),
            "numberOfRejectedThings": count(JobStatus::Rejected),
            "numberOfTimedOutThings": count(JobStatus::TimedOut),
            "numberOfRemovedThings": count(JobStatus::Removed),
            "numberOfCanceledThings": count(JobStatus::Canceled),
        },
    });
    (200, json!({"job": job}))
}

fn executions(services: &Services, job_id: &str, region: &str) -> Answer {
    let executions = executions_of(services, job_id);
    if executions.is_empty() {
        return unknown_job(job_id);
    }
    let list: Vec<Value> = executions
        .iter()
        .map(|execution| {
            let mut summary = json!({
                "status": execution.status.as_str(),
                "queuedAt": execution.queued_at,
                "lastUpdatedAt": execution.last_updated_at,
                "executionNumber": execution.execution_number,
            });
            if let Some(started_at) = execution.started_at {
                summary["startedAt"] = started_at.into();
            }
            json!({
                "thingArn": arn(region, "thing", &execution.thing),
                "jobExecutionSummary": summary,
            })
        })
        .collect();
    (200, json!({"executionSummaries": list}))
}

fn executions_of(services: &Services, job_id: &str) -> Vec<JobExecution> {
    let mut all = services.all_job_executions();
    all.retain(|execution| execution.job_id == job_id);
    all
}

/// A job's own status: it is in progress for as long as something is to be done.
fn status_of(executions: &[JobExecution]) -> &'static str {
    if executions.iter().any(|one| !one.status.is_terminal()) {
        "IN_PROGRESS"
    } else if executions
        .iter()
        .all(|one| one.status == JobStatus::Canceled)
    {
        "CANCELED"
    } else {
        "COMPLETED"
    }
}

fn arn(region: &str, kind: &str, name: &str) -> String {
    format!("arn:aws:iot:{region}:000000000000:{kind}/{name}")
}

fn unknown_job(job_id: &str) -> Answer {
    let message = format!("Job {job_id} cannot be found.");
    (404, json!({"message": message}))
}

fn thing_of(target: &str) -> &str {
    target
        .rsplit_once(":thing/")
        .map_or(target, |(_, name)| name)
}

fn invalid(message: &str) -> Answer {
    (400, json!({"message": message}))
}

fn refusal(error: &JobError) -> Answer {
    let status = match error {
        JobError::UnknownThing(_) => 404,
        JobError::Exists(_) => 409,
        _ => 400,
    };
    (status, json!({"message": error.to_string()}))
}
