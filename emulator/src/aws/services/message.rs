//! What the services say before it becomes bytes.

use bytes::Bytes;
use paquebot_protocols::mqtt::{QoS, Topic};

use super::faults::{Operation, ServiceFault};
use super::json::{Json, Object, object, object_text};
use super::names::Format;
use super::{Audience, Publication, cbor};

/// Whether a message answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Accepted,
    /// With the status that the same refusal has over HTTP.
    Rejected(u16),
    Event,
}

/// A message of a service.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) body: Object,
    pub(crate) operation: Operation,
    pub(crate) role: Role,
    pub(crate) format: Format,
    pub(crate) to: Audience,
}

impl Message {
    /// The answer to a request that arrived on `topic`.
    pub(crate) fn accepted(operation: Operation, topic: &str, body: Object) -> Self {
        Self::new(operation, Role::Accepted, format!("{topic}/accepted"), body)
    }

    /// The refusal of a request that arrived on `topic`.
    pub(crate) fn rejected(operation: Operation, topic: &str, status: u16, body: Object) -> Self {
        let role = Role::Rejected(status);
        Self::new(operation, role, format!("{topic}/rejected"), body)
    }

    /// What a service says unasked.
    pub(crate) fn event(operation: Operation, topic: String, body: Object) -> Self {
        Self::new(operation, Role::Event, topic, body)
    }

    fn new(operation: Operation, role: Role, topic: String, body: Object) -> Self {
        Self {
            topic,
            body,
            operation,
            role,
            format: Format::Json,
            to: Audience::Subscribers,
        }
    }

    pub(crate) fn in_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    pub(crate) fn for_requester(mut self) -> Self {
        self.to = Audience::Requester;
        self
    }

    /// The message's bytes, spoilt as a fault wants.
    pub(crate) fn payload(&self, fault: Option<&ServiceFault>) -> Bytes {
        let mut body = self.body.clone();
        match fault {
            Some(ServiceFault::WrongToken) => {
                let token = "00000000-0000-0000-0000-000000000000";
                body.insert("clientToken".to_owned(), token.into());
            }
            Some(ServiceFault::VersionBackwards { by }) => {
                for field in body.values_mut() {
                    set_back(field, *by);
                }
                if let Some(version) = body.get_mut("version") {
                    set_number_back(version, *by);
                }
            }
            _ => {}
        }
        let mut payload = match self.format {
            Format::Json => object_text(&body).into_bytes(),
            Format::Cbor => cbor::encode(&Json::Object(body)),
        };
        if let Some(ServiceFault::Malformed) = fault {
            // A text without its last byte is neither JSON nor CBOR any more.
            payload.pop();
        }
        payload.into()
    }

    /// The message as it is published, as often as a fault wants.
    pub(crate) fn publish(self, fault: Option<&ServiceFault>, out: &mut Vec<Publication>) {
        let times = match fault {
            Some(ServiceFault::Drop) => 0,
            Some(ServiceFault::Reject { .. }) if self.role == Role::Event => 0,
            Some(ServiceFault::Duplicate) => 2,
            _ => 1,
        };
        let payload = self.payload(fault);
        // A topic that is built of a request's topic or of checked names is one.
        let Ok(topic) = Topic::new(self.topic) else {
            return;
        };
        let publication = Publication {
            topic,
            payload,
            qos: QoS::AtLeastOnce,
            to: self.to,
        };
        out.extend(std::iter::repeat_n(publication, times));
    }
}

/// Sets back the version of a job's execution, which stands one level down.
fn set_back(field: &mut Json, by: u64) {
    if let Json::Object(inner) = field
        && let Some(version) = inner.get_mut("versionNumber")
    {
        set_number_back(version, by);
    }
}

fn set_number_back(version: &mut Json, by: u64) {
    if let Some(number) = version.as_number().and_then(super::json::Number::as_u64) {
        *version = number.saturating_sub(by).into();
    }
}

/// The body of a shadow's and a data plane's refusal.
pub(crate) fn shadow_refusal(
    status: u16,
    message: &str,
    token: Option<String>,
    timestamp: u64,
) -> Object {
    object([
        ("code", Some(u64::from(status).into())),
        ("message", Some(message.into())),
        ("timestamp", Some(timestamp.into())),
        ("clientToken", token.map(Json::String)),
    ])
}
