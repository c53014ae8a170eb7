//! Device shadows: topics, requests and what the service says.
//!
//! Source: AWS IoT Developer Guide, *Device Shadow MQTT topics*, *Device Shadow service documents* and *Device Shadow
//! error messages*.

use bytestring::ByteString;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{Aws, SHADOW_NAME_BYTES_MAX, THING_NAME_BYTES_MAX};
use crate::dialect::state::{
    DocumentId, Rejection, StateChange, StateDelta, StateDialect, StateDocument, StateFeed,
    StateMessage, StateOperation, StateRequest, StateRules, UnreadableState,
};
use crate::dialect::{DialectError, LinkIdentity, Rendered};
use crate::model::{Platform, StatePatch};
use crate::mqtt::session::Incoming;
use crate::mqtt::{QoS, Subscription, Topic, TopicFilter};

/// A shadow takes ten requests without an answer from one connection; past them it answers 429.
const REQUESTS_MAX: usize = 10;

/// A service that did not say why.
const NO_CODE: u32 = 500;

impl StateDialect for Aws {
    fn rules(&self) -> StateRules {
        StateRules {
            requests_max: REQUESTS_MAX,
            deltas_are_whole: true,
        }
    }

    fn check(&self, _: &LinkIdentity, document: &DocumentId) -> Result<(), DialectError> {
        check_name("thing name", document.device.as_str(), THING_NAME_BYTES_MAX)?;
        match &document.name {
            Some(name) => check_name("shadow name", name, SHADOW_NAME_BYTES_MAX),
            None => Ok(()),
        }
    }

    /// Answers come at QoS 0: one that the service kept for a later connection would have nobody waiting for it. What the
    /// service tells by itself comes at QoS 1, so that a persistent session brings what was missed.
    fn feed(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        feed: StateFeed,
    ) -> Result<Vec<Subscription>, DialectError> {
        self.check(link, document)?;
        let (ends, qos): (&[&str], _) = match feed {
            StateFeed::Replies(StateOperation::Get) => {
                (&["get/accepted", "get/rejected"], QoS::AtMostOnce)
            }
            StateFeed::Replies(StateOperation::Update) => {
                (&["update/accepted", "update/rejected"], QoS::AtMostOnce)
            }
            StateFeed::Replies(StateOperation::Delete) => {
                (&["delete/accepted", "delete/rejected"], QoS::AtMostOnce)
            }
            StateFeed::Deltas => (&["update/delta"], QoS::AtLeastOnce),
            StateFeed::Documents => (&["update/documents"], QoS::AtLeastOnce),
        };
        let subscription = |end: &&str| {
            TopicFilter::new(format!("{}/{end}", prefix(document)))
                .map(|filter| Subscription::new(filter, qos))
                .map_err(|error| invalid("topic filter", error.to_string()))
        };
        ends.iter().map(subscription).collect()
    }

    /// Requests go at QoS 0: one that is lost with its connection ends as disconnected, and is not sent again behind
    /// its caller's back.
    fn request(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        request: &StateRequest,
        token: &str,
    ) -> Result<Rendered, DialectError> {
        self.check(link, document)?;
        let mut body = Map::new();
        if let StateRequest::Update(update) = request {
            let mut state = Map::new();
            for (name, half) in [("desired", &update.desired), ("reported", &update.reported)] {
                match half {
                    None => {}
                    Some(half @ (Value::Object(_) | Value::Null)) => {
                        state.insert(name.into(), half.clone());
                    }
                    Some(_) => {
                        return Err(invalid(name, "it has to be an object, or null".into()));
                    }
                }
            }
            body.insert("state".into(), Value::Object(state));
            if let Some(version) = update.version {
                body.insert("version".into(), version.into());
            }
        }
        body.insert("clientToken".into(), token.into());
        let topic = format!("{}/{}", prefix(document), request.operation().name());
        rendered(topic, Value::Object(body).to_string(), QoS::AtMostOnce)
    }

    fn report(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        patch: &StatePatch,
    ) -> Result<Rendered, DialectError> {
        self.check(link, document)?;
        let reported = std::str::from_utf8(&patch.document)
            .ok()
            .filter(|text| {
                text.trim_ascii_start().starts_with('{')
                    && serde_json::from_str::<IgnoredAny>(text).is_ok()
            })
            .ok_or_else(|| invalid("reported", "it has to be a JSON object".into()))?;
        let payload = match patch.version {
            None => format!(r#"{{"state":{{"reported":{reported}}}}}"#),
            Some(version) => {
                format!(r#"{{"state":{{"reported":{reported}}},"version":{version}}}"#)
            }
        };
        let topic = format!("{}/update", prefix(document));
        Ok(Rendered {
            merges: patch.version.is_none(),
            ..rendered(topic, payload, QoS::AtLeastOnce)?
        })
    }

    fn read(
        &self,
        _: &LinkIdentity,
        document: &DocumentId,
        incoming: &Incoming,
    ) -> Result<Option<StateMessage>, UnreadableState> {
        let prefix = prefix(document);
        let Some(end) = incoming.topic.as_str().strip_prefix(&prefix) else {
            return Ok(None);
        };
        let (feed, accepted) = match end {
            "/get/accepted" => (StateFeed::Replies(StateOperation::Get), true),
            "/get/rejected" => (StateFeed::Replies(StateOperation::Get), false),
            "/update/accepted" => (StateFeed::Replies(StateOperation::Update), true),
            "/update/rejected" => (StateFeed::Replies(StateOperation::Update), false),
            "/delete/accepted" => (StateFeed::Replies(StateOperation::Delete), true),
            "/delete/rejected" => (StateFeed::Replies(StateOperation::Delete), false),
            "/update/delta" => (StateFeed::Deltas, true),
            "/update/documents" => (StateFeed::Documents, true),
            _ => return Ok(None),
        };
        read_message(feed, accepted, &incoming.payload)
            .map(Some)
            .map_err(|problem| UnreadableState { feed, problem })
    }
}

/// The thing whose classic shadow a delta on this topic is about.
pub(super) fn thing_of_delta(topic: &str) -> Option<&str> {
    topic
        .strip_prefix("$aws/things/")?
        .strip_suffix("/shadow/update/delta")
        .filter(|thing| !thing.contains('/'))
}

fn read_message(feed: StateFeed, accepted: bool, payload: &[u8]) -> Result<StateMessage, String> {
    match feed {
        StateFeed::Replies(operation) if accepted => {
            let reply: Document = parse(payload)?;
            let token = token(reply.client_token.as_ref());
            Ok(StateMessage::Reply {
                operation,
                token,
                result: Ok(Box::new(reply.into())),
            })
        }
        StateFeed::Replies(operation) => {
            let rejected: Rejected = parse(payload)?;
            Ok(StateMessage::Reply {
                operation,
                token: token(rejected.client_token.as_ref()),
                result: Err(Rejection {
                    code: rejected.code.as_ref().and_then(code).unwrap_or(NO_CODE),
                    message: rejected.message.into(),
                }),
            })
        }
        StateFeed::Deltas => {
            let delta: Delta = parse(payload)?;
            Ok(StateMessage::Delta(StateDelta {
                state: Value::Object(delta.state),
                metadata: delta.metadata,
                version: Some(delta.version),
                timestamp: delta.timestamp,
            }))
        }
        StateFeed::Documents => {
            let change: Change = parse(payload)?;
            Ok(StateMessage::Changed(Box::new(StateChange {
                previous: change.previous.map(StateDocument::from),
                current: change.current.into(),
                timestamp: change.timestamp,
            })))
        }
    }
}

fn token(token: Option<&Value>) -> Option<ByteString> {
    token.and_then(Value::as_str).map(ByteString::from)
}

/// A number, also one that was written as text.
fn code(code: &Value) -> Option<u32> {
    match code {
        Value::String(text) => text.parse().ok(),
        code => code.as_u64().and_then(|code| code.try_into().ok()),
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    if !payload.trim_ascii_start().starts_with(b"{") {
        // serde would take a list for a struct as well.
        return Err("it is no JSON object".into());
    }
    // What serde says quotes the payload, which is nobody's to log.
    serde_json::from_slice(payload).map_err(|error| {
        let problem = match error.classify() {
            serde_json::error::Category::Data => "a value has another type than it should",
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is no JSON",
        };
        format!(
            "{problem} (line {}, column {})",
            error.line(),
            error.column()
        )
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Halves {
    desired: Option<Value>,
    reported: Option<Value>,
    delta: Option<Value>,
}

/// `get/accepted`, `update/accepted`, `delete/accepted`, and each side of `update/documents`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    state: Option<Halves>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    version: Option<u64>,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(default)]
    client_token: Option<Value>,
}

impl From<Document> for StateDocument {
    fn from(document: Document) -> Self {
        let state = document.state.unwrap_or_default();
        Self {
            desired: state.desired,
            reported: state.reported,
            delta: state.delta,
            metadata: document.metadata,
            version: document.version,
            timestamp: document.timestamp,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rejected {
    #[serde(default)]
    code: Option<Value>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    client_token: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    state: Map<String, Value>,
    #[serde(default)]
    metadata: Option<Value>,
    version: u64,
    #[serde(default)]
    timestamp: Option<u64>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    previous: Option<Document>,
    current: Document,
    #[serde(default)]
    timestamp: Option<u64>,
}

fn prefix(document: &DocumentId) -> String {
    let thing = document.device.as_str();
    match &document.name {
        Some(name) => format!("$aws/things/{thing}/shadow/name/{name}"),
        None => format!("$aws/things/{thing}/shadow"),
    }
}

pub(super) fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), DialectError> {
    if name.is_empty() || name.len() > max {
        let length = name.len();
        return Err(invalid(
            what,
            format!("it has {length} bytes; {} takes 1 to {max}", Platform::Aws),
        ));
    }
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    match name.chars().find(|c| !is_allowed(c)) {
        Some(c) => Err(invalid(
            what,
            format!("{name:?} has the character {c:?}; letters, digits and : _ - are allowed"),
        )),
        None => Ok(()),
    }
}

pub(super) fn rendered(topic: String, payload: String, qos: QoS) -> Result<Rendered, DialectError> {
    let topic = Topic::new(topic).map_err(|error| invalid("topic", error.to_string()))?;
    Ok(Rendered::new(topic, payload, qos))
}

pub(super) fn invalid(what: &'static str, problem: String) -> DialectError {
    DialectError::Invalid { what, problem }
}
