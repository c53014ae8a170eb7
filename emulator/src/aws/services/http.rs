//! The services by HTTPS: shadows, jobs and Greengrass discovery.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use super::faults::Operation;
use super::jobs::JobRequest;
use super::json::{Json, Object, object, object_text};
use super::message::{Message, Role, shadow_refusal};
use super::names::{JobOperation, ShadowOperation};
use super::{Publication, Requester, Services, discovery, seconds, shadow};

/// A request to AWS IoT's data plane.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path as it was sent, percent-encoded: `/things/Bot/shadow`.
    pub path: String,
    /// What follows the question mark, as it was sent; empty without one.
    pub query: String,
    /// The body.
    pub body: Bytes,
    /// Who asks: a certificate's identifier or a user; `None` when nobody checked.
    pub principal: Option<String>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The value of the header `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// What the request makes the services say over MQTT.
    pub publications: Vec<Publication>,
}

impl HttpResponse {
    fn json(status: u16, body: &Object) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: object_text(body).into(),
            publications: Vec::new(),
        }
    }

    fn refused(status: u16, message: &str, now: SystemTime) -> Self {
        Self::json(status, &shadow_refusal(status, message, None, seconds(now)))
    }
}

impl Services {
    /// A request by HTTPS:
    ///
    /// | method | path | what |
    /// |---|---|---|
    /// | GET, POST, DELETE | `/things/<thing>/shadow?name=<shadow>` | a shadow |
    /// | GET | `/api/things/shadow/ListNamedShadowsForThing/<thing>?nextToken&pageSize` | their names |
    /// | GET | `/things/<thing>/jobs` | the pending jobs |
    /// | PUT | `/things/<thing>/jobs/$next` | the next job, started |
    /// | GET, POST | `/things/<thing>/jobs/<jobId>` | a job's execution |
    /// | GET | `/greengrass/discover/thing/<thing>` | Greengrass discovery |
    ///
    /// Any other path is answered with 404. Who may ask is for the caller to decide.
    pub fn handle_http(&mut self, request: &HttpRequest, now: SystemTime) -> HttpResponse {
        let segments: Vec<String> = request.path.split('/').map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let query = parameters(&request.query);
        match (request.method.as_str(), segments.as_slice()) {
            (method, ["", "things", thing, "shadow"]) => {
                let operation = match method {
                    "GET" => ShadowOperation::Get,
                    "POST" => ShadowOperation::Update,
                    "DELETE" => ShadowOperation::Delete,
                    _ => return HttpResponse::refused(405, "Method not allowed", now),
                };
                let shadow = query.get("name").filter(|name| !name.is_empty());
                let shadow = shadow.map(String::as_str);
                self.shadow_by_http(thing, shadow, operation, &request.body, now)
            }
            (
                "GET",
                [
                    "",
                    "api",
                    "things",
                    "shadow",
                    "ListNamedShadowsForThing",
                    thing,
                ],
            ) => self.list_by_http(thing, &query, now),
            ("GET", ["", "things", thing, "jobs"]) => {
                self.job_by_http(thing, JobOperation::GetPending, &[], now)
            }
            ("PUT", ["", "things", thing, "jobs", "$next"]) => {
                self.job_by_http(thing, JobOperation::StartNext, &request.body, now)
            }
            ("GET", ["", "things", thing, "jobs", job_id]) => {
                let body = describe_body(&query);
                let operation = JobOperation::Describe { job_id };
                self.job_by_http(thing, operation, &body, now)
            }
            ("POST", ["", "things", thing, "jobs", job_id]) => {
                let operation = JobOperation::Update { job_id };
                self.job_by_http(thing, operation, &request.body, now)
            }
            ("GET", ["", "greengrass", "discover", "thing", thing]) => {
                self.discover_by_http(thing, now)
            }
            _ => HttpResponse::refused(404, "Not found", now),
        }
    }

    fn shadow_by_http(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        operation: ShadowOperation,
        body: &[u8],
        now: SystemTime,
    ) -> HttpResponse {
        let from = Requester::default();
        let fault = self.faults.take(shadow_fault(operation));
        let messages =
            self.request_shadow(&from, thing, shadow, operation, body, fault.as_ref(), now);
        let is_announced =
            operation != ShadowOperation::Get && self.settings.shadow.http_accepted_is_published;
        let mut response = HttpResponse::json(200, &Object::new());
        for message in messages {
            match message.role {
                Role::Event => {
                    let fault = self.faults.take(message.operation);
                    message.publish(fault.as_ref(), &mut response.publications);
                }
                Role::Accepted => {
                    response.body = message.payload(fault.as_ref());
                    if is_announced {
                        message.publish(None, &mut response.publications);
                    }
                }
                Role::Rejected(status) => {
                    response.status = status;
                    response.body = message.payload(fault.as_ref());
                }
            }
        }
        response
    }

    fn list_by_http(
        &mut self,
        thing: &str,
        query: &BTreeMap<String, String>,
        now: SystemTime,
    ) -> HttpResponse {
        if let Some(reject) = self.take_reject(Operation::ShadowList) {
            return HttpResponse::refused(reject.status, &reject.message, now);
        }
        if !self.is_known(thing) {
            return HttpResponse::refused(404, "Thing not found", now);
        }
        match shadow::page(self.shadows.named(thing), query, now) {
            Ok(body) => HttpResponse::json(200, &body),
            Err(refusal) => HttpResponse::refused(refusal.status, &refusal.message, now),
        }
    }

    fn job_by_http(
        &mut self,
        thing: &str,
        operation: JobOperation<'_>,
        body: &[u8],
        now: SystemTime,
    ) -> HttpResponse {
        let request = JobRequest {
            thing,
            operation,
            topic: "",
            payload: body,
        };
        let (messages, fault) = self.request_job(&request, now);
        let (answers, events): (Vec<Message>, Vec<Message>) = messages
            .into_iter()
            .partition(|message| message.role != Role::Event);
        let mut response = HttpResponse::json(200, &Object::new());
        for answer in answers {
            if let Role::Rejected(status) = answer.role {
                response.status = status;
            }
            response.body = answer.payload(fault.as_ref());
        }
        response.publications = self.publish(events, None);
        response
    }

    fn discover_by_http(&mut self, thing: &str, now: SystemTime) -> HttpResponse {
        if let Some(reject) = self.take_reject(Operation::Discovery) {
            return HttpResponse::refused(reject.status, &reject.message, now);
        }
        match self.discovery.get(thing) {
            Some(groups) => HttpResponse::json(200, &discovery::answer(groups)),
            None => HttpResponse::refused(404, "The thing is in no Greengrass group", now),
        }
    }
}

pub(crate) fn shadow_fault(operation: ShadowOperation) -> Operation {
    match operation {
        ShadowOperation::Get => Operation::ShadowGet,
        ShadowOperation::Update => Operation::ShadowUpdate,
        ShadowOperation::Delete => Operation::ShadowDelete,
    }
}

/// What a description asks for in its query, as the body that it has over MQTT.
fn describe_body(query: &BTreeMap<String, String>) -> Vec<u8> {
    let text = |key: &str| query.get(key).map(|text| Json::from(text.as_str()));
    let with_document = query.get("includeJobDocument");
    let body = object([
        ("executionNumber", text("executionNumber")),
        (
            "includeJobDocument",
            with_document.map(|text| match text.as_str() {
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                other => other.into(),
            }),
        ),
    ]);
    object_text(&body).into_bytes()
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

/// A text without its percent signs; one that stands for nothing stays, and no name has it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |index: usize| char::from(*after.get(index)?).to_digit(16);
        let value = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
