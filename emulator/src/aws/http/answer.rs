//! What a request is answered with.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::remarks::Explanation;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn json_answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// For the log, of one that its client may wonder about.
    pub(super) why: Option<Explanation>,
    /// The access key that it is about.
    pub(super) key_id: Option<String>,
}

impl Refusal {
    pub(super) const FORBIDDEN: Self = Self {
        status: StatusCode::FORBIDDEN,
        message: String::new(),
        why: None,
        key_id: None,
    };
    pub(super) const UNAVAILABLE: Self = Self {
        status: StatusCode::SERVICE_UNAVAILABLE,
        message: String::new(),
        why: None,
        key_id: None,
    };

    pub(crate) fn new(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            message: message.to_owned(),
            why: None,
            key_id: None,
        }
    }

    pub(crate) fn because(self, why: Explanation) -> Self {
        Self {
            why: Some(why),
            ..self
        }
    }

    pub(super) fn answer(self) -> Answer {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let message = match self.message.as_str() {
            "" => reason,
            message => message,
        };
        let trace = format!("{:032x}", fastrand::u128(..));
        json_answer(self.status, &json!({"message": message, "traceId": trace}))
    }
}
