//! The one call of AWS IoT's control plane that a demonstration cannot do without: making a job.
//!
//! Source: "CreateJob" in the AWS IoT API Reference.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::services::{JobError, Publication, Services};

/// The answer to a request: a status and a body.
pub(crate) type Answer = (u16, Value);

/// `PUT /jobs/<jobId>` with `{"targets": […], "document": …}`. A target is a thing's ARN or its name, the
/// document a text of JSON, as AWS wants it, or JSON itself.
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
    services
        .create_job(job_id, &document, &things, now)
        .map_err(|error| refusal(&error))
}

/// What a job that was made is answered with.
pub(crate) fn created(job_id: &str) -> Answer {
    let arn = format!("arn:aws:iot:us-east-1:000000000000:job/{job_id}");
    (200, json!({"jobArn": arn, "jobId": job_id}))
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
        JobError::Exists(_) => 409,
        _ => 400,
    };
    (status, json!({"message": error.to_string()}))
}
