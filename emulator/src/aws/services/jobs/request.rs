//! What a thing asks of the jobs service, field by field. Amazon's first Python SDK sends its numbers as
//! texts, and the service takes them.

use std::collections::BTreeMap;

use super::execution::{JobStatus, StepTimeout};
use crate::aws::services::json::{Json, Number, Object};

/// Seven days: the longest time that a step may take.
const STEP_MINUTES_MAX: i128 = 7 * 24 * 60;

/// Why the jobs service says no: "ErrorResponse" of the Jobs device MQTT API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) message: String,
    /// The execution as it stands, where the refusal is about that.
    pub(crate) state: Option<Json>,
    /// The status over HTTP.
    pub(crate) status: u16,
}

impl Refusal {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        let status = match code {
            "ResourceNotFound" => 404,
            "VersionMismatch" | "InvalidStateTransition" => 409,
            "TerminalStateReached" => 410,
            "RequestThrottled" => 429,
            "InternalError" => 500,
            _ => 400,
        };
        Self {
            code: code.to_owned(),
            message: message.into(),
            state: None,
            status,
        }
    }

    pub(crate) fn with_state(mut self, state: Json) -> Self {
        self.state = Some(state);
        self
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new("InvalidRequest", message)
}

/// The fields of a request; a payload of no bytes asks for nothing in particular.
pub(crate) struct Fields(Object);

impl Fields {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        if payload.is_empty() {
            return Ok(Self(Object::new()));
        }
        match Json::parse(payload) {
            Ok(Json::Object(fields)) => Ok(Self(fields)),
            _ => Err(Refusal::new(
                "InvalidJson",
                "The request is not a JSON object",
            )),
        }
    }

    fn field(&self, key: &str) -> Option<&Json> {
        self.0.get(key).filter(|value| **value != Json::Null)
    }

    /// The token to be echoed. Amazon's first Python SDK takes its client identifier for it, which may be
    /// longer than the 64 bytes that the shadow service allows.
    ///
    /// # Errors
    /// A token that is no text.
    pub(crate) fn client_token(&self) -> Result<Option<String>, Refusal> {
        match self.field("clientToken") {
            None => Ok(None),
            Some(Json::String(token)) => Ok(Some(token.clone())),
            Some(_) => Err(invalid("clientToken must be a string")),
        }
    }

    pub(crate) fn status(&self) -> Result<JobStatus, Refusal> {
        let status = self.field("status").and_then(Json::as_str);
        let status = status.ok_or_else(|| invalid("status is required"))?;
        JobStatus::of_a_thing(status).ok_or_else(|| {
            invalid("status must be one of IN_PROGRESS, SUCCEEDED, FAILED, REJECTED")
        })
    }

    pub(crate) fn details(&self) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let Some(details) = self.field("statusDetails") else {
            return Ok(None);
        };
        let details = details.as_object();
        let details: Option<BTreeMap<_, _>> = details.and_then(|details| {
            let details = details.iter();
            let text =
                |(key, value): (&String, &Json)| Some((key.clone(), value.as_str()?.to_owned()));
            details.map(text).collect()
        });
        match details {
            Some(details) => Ok(Some(details)),
            None => Err(invalid("statusDetails must be an object of strings")),
        }
    }

    pub(crate) fn whole(&self, key: &str) -> Result<Option<i128>, Refusal> {
        let number = match self.field(key) {
            None => return Ok(None),
            Some(Json::Number(number)) => number.as_i128(),
            Some(Json::String(text)) => Number::from_text(text).and_then(|text| text.as_i128()),
            Some(_) => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(format!("{key} must be a whole number"))),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, Refusal> {
        match self.field(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| invalid(format!("{key} must be true or false"))),
        }
    }

    pub(crate) fn step_timeout(&self) -> Result<Option<StepTimeout>, Refusal> {
        let range = || invalid("stepTimeoutInMinutes must be from 1 to 10080, or -1");
        match self.whole("stepTimeoutInMinutes")? {
            None => Ok(None),
            Some(-1) => Ok(Some(StepTimeout::Stop)),
            Some(minutes @ 1..=STEP_MINUTES_MAX) => {
                let minutes = u64::try_from(minutes).map_err(|_| range())?;
                Ok(Some(StepTimeout::Minutes(minutes)))
            }
            Some(_) => Err(range()),
        }
    }
}
