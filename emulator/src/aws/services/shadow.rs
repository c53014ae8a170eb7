//! The shadow service, classic and named: "Device Shadow service documents" and "Device Shadow MQTT topics"
//! of the AWS IoT Core developer guide; where they are silent, what Amazon's local shadow service does.

mod delta;
mod document;
mod list;
mod rate;
mod request;

use std::collections::BTreeMap;
use std::time::SystemTime;

use document::{Document, stamp};
pub(crate) use list::page;
use rate::RequestRates;
use request::{Refusal, Update, client_token_of};

use super::faults::Operation;
use super::json::{Json, Object, object};
use super::message::{Message, shadow_refusal};
use super::names::{ShadowOperation, is_shadow_name, is_thing_name};
use super::settings::{ShadowSettings, UpdateMessage};
use super::{RejectFault, seconds};

/// Which shadow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShadowKey {
    thing: String,
    /// `None` for the classic shadow.
    shadow: Option<String>,
}

impl ShadowKey {
    pub(crate) fn new(thing: &str, shadow: Option<&str>) -> Self {
        Self {
            thing: thing.to_owned(),
            shadow: shadow.map(str::to_owned),
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        if !is_thing_name(&self.thing) {
            return Err(Refusal::new(400, "Invalid thing name"));
        }
        let mut shadow = self.shadow.iter();
        if !shadow.all(|shadow| is_shadow_name(shadow)) {
            return Err(Refusal::new(400, "Invalid shadow name"));
        }
        Ok(())
    }

    /// The topic below which all of a shadow's topics are, with the operation's own segment.
    fn topic(&self, suffix: &str) -> String {
        let thing = &self.thing;
        match &self.shadow {
            None => format!("$aws/things/{thing}/shadow/{suffix}"),
            Some(shadow) => format!("$aws/things/{thing}/shadow/name/{shadow}/{suffix}"),
        }
    }

    fn missing(&self) -> Refusal {
        let thing = &self.thing;
        let name = match &self.shadow {
            None => thing.clone(),
            Some(shadow) => format!("{thing}~{shadow}"),
        };
        Refusal::new(404, format!("No shadow exists with name: '{name}'"))
    }
}

/// A request of a device, or of an application by HTTP.
#[derive(Debug)]
pub(crate) struct ShadowRequest<'a> {
    pub(crate) key: ShadowKey,
    pub(crate) operation: ShadowOperation,
    pub(crate) payload: &'a [u8],
    /// Other requests of the same connection that wait for their answer; `None` for a request that counts
    /// towards no limit.
    pub(crate) in_flight: Option<usize>,
    /// Whether the registry has the thing.
    pub(crate) thing_is_known: bool,
}

#[derive(Debug)]
enum Entry {
    Live(Document),
    /// What a deleted shadow leaves: the version it would have had next, and when.
    Tombstone {
        version: u64,
        since: SystemTime,
    },
}

/// Every shadow of every thing.
#[derive(Debug, Default)]
pub(crate) struct Shadows {
    entries: BTreeMap<ShadowKey, Entry>,
    rates: RequestRates,
}

/// What a carried-out request answers, and what else it causes.
struct Outcome {
    accepted: Object,
    delta: Option<Object>,
    documents: Option<Object>,
}

impl Shadows {
    /// Carries a request out. Exactly one of the messages is its answer.
    pub(crate) fn handle(
        &mut self,
        request: &ShadowRequest<'_>,
        reject: Option<RejectFault>,
        settings: &ShadowSettings,
        now: SystemTime,
    ) -> Vec<Message> {
        let key = &request.key;
        let (operation, suffix) = match request.operation {
            ShadowOperation::Get => (Operation::ShadowGet, "get"),
            ShadowOperation::Update => (Operation::ShadowUpdate, "update"),
            ShadowOperation::Delete => (Operation::ShadowDelete, "delete"),
        };
        let topic = key.topic(suffix);
        let token = client_token_of(request.payload);
        let outcome = match reject {
            Some(reject) => Err(Refusal::new(reject.status, reject.message)),
            None => self.carry_out(request, settings, now),
        };
        let token = token.unwrap_or(None);
        match outcome {
            Ok(outcome) => {
                let mut messages = Vec::new();
                for message in order(request.operation, settings) {
                    let body = match message {
                        UpdateMessage::Delta => outcome.delta.clone(),
                        UpdateMessage::Documents => outcome.documents.clone(),
                        UpdateMessage::Accepted => Some(outcome.accepted.clone()),
                    };
                    let Some(mut body) = body else { continue };
                    if let Some(token) = &token {
                        body.insert("clientToken".to_owned(), token.as_str().into());
                    }
                    body.insert("timestamp".to_owned(), seconds(now).into());
                    messages.push(match message {
                        UpdateMessage::Delta => {
                            Message::event(Operation::ShadowDelta, format!("{topic}/delta"), body)
                        }
                        UpdateMessage::Documents => {
                            let topic = format!("{topic}/documents");
                            Message::event(Operation::ShadowDocuments, topic, body)
                        }
                        UpdateMessage::Accepted => Message::accepted(operation, &topic, body),
                    });
                }
                messages
            }
            Err(refusal) => {
                let Refusal { status, message } = refusal;
                let body = shadow_refusal(status, &message, token, seconds(now));
                vec![Message::rejected(operation, &topic, status, body)]
            }
        }
    }

    fn carry_out(
        &mut self,
        request: &ShadowRequest<'_>,
        settings: &ShadowSettings,
        now: SystemTime,
    ) -> Result<Outcome, Refusal> {
        request.key.check()?;
        self.admit(&request.key.thing, request.in_flight, settings, now)?;
        if !request.thing_is_known {
            return Err(Refusal::new(404, "Thing not found"));
        }
        let only = |accepted| Outcome {
            accepted,
            delta: None,
            documents: None,
        };
        match request.operation {
            ShadowOperation::Update => self.update(&request.key, request.payload, settings, now),
            ShadowOperation::Get => {
                client_token_of(request.payload)?;
                self.get(&request.key).map(only)
            }
            ShadowOperation::Delete => {
                client_token_of(request.payload)?;
                self.delete(&request.key, now).map(only)
            }
        }
    }

    fn admit(
        &mut self,
        thing: &str,
        in_flight: Option<usize>,
        settings: &ShadowSettings,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let Some(in_flight) = in_flight else {
            return Ok(());
        };
        let is_within_rate = settings
            .requests_per_second_max
            .is_none_or(|max| self.rates.admit(thing, max, now));
        if is_within_rate && in_flight < settings.requests_in_flight_max {
            Ok(())
        } else {
            Err(Refusal::new(429, "Too many requests"))
        }
    }

    fn update(
        &mut self,
        key: &ShadowKey,
        payload: &[u8],
        settings: &ShadowSettings,
        now: SystemTime,
    ) -> Result<Outcome, Refusal> {
        let update = Update::parse(payload, settings)?;
        let (previous, next_version) = match self.entries.get(key) {
            Some(Entry::Live(document)) => (Some(document), document.version + 1),
            Some(Entry::Tombstone { version, since }) if is_remembered(*since, settings, now) => {
                (None, version + 1)
            }
            Some(Entry::Tombstone { .. }) => (None, settings.version_after_tombstone),
            None => (None, 1),
        };
        if let Some(version) = update.version.as_ref().map(|version| version.as_u64()) {
            match previous {
                Some(previous) if version != Some(previous.version) => {
                    return Err(Refusal::new(409, "Version conflict"));
                }
                None if settings.version_of_a_missing_shadow.is_some()
                    && version != settings.version_of_a_missing_shadow =>
                {
                    return Err(Refusal::new(400, "Invalid version"));
                }
                _ => {}
            }
        }
        let timestamp = seconds(now);
        let mut document = previous.cloned().unwrap_or_default();
        document.apply(&update.desired, &update.reported, timestamp);
        if document.bytes() > settings.document_bytes_max {
            let message = "The payload exceeds the maximum size allowed";
            return Err(Refusal::new(413, message));
        }
        document.version = next_version;
        let outcome = Outcome {
            accepted: object([
                ("metadata", Some(stamp(&update.state, timestamp))),
                ("state", Some(update.state)),
                ("version", Some(next_version.into())),
            ]),
            delta: document.delta().map(|(state, metadata)| {
                object([
                    ("state", Some(state.into())),
                    ("metadata", Some(metadata.into())),
                    ("version", Some(next_version.into())),
                ])
            }),
            documents: Some(object([
                (
                    "previous",
                    Some(previous.map_or(Json::Null, |previous| previous.plain().into())),
                ),
                ("current", Some(document.plain().into())),
            ])),
        };
        self.entries.insert(key.clone(), Entry::Live(document));
        Ok(outcome)
    }

    fn get(&self, key: &ShadowKey) -> Result<Object, Refusal> {
        let document = self.document(key).ok_or_else(|| key.missing())?;
        Ok(document.with_delta())
    }

    fn delete(&mut self, key: &ShadowKey, now: SystemTime) -> Result<Object, Refusal> {
        let version = self.document(key).ok_or_else(|| key.missing())?.version;
        let tombstone = Entry::Tombstone {
            version: version + 1,
            since: now,
        };
        self.entries.insert(key.clone(), tombstone);
        Ok(object([("version", Some(version.into()))]))
    }

    fn document(&self, key: &ShadowKey) -> Option<&Document> {
        match self.entries.get(key)? {
            Entry::Live(document) => Some(document),
            Entry::Tombstone { .. } => None,
        }
    }

    /// What `get` would answer, without being counted as a request.
    pub(crate) fn shadow(&self, key: &ShadowKey) -> Option<Object> {
        self.document(key).map(Document::with_delta)
    }

    /// The names of a thing's named shadows, in order.
    pub(crate) fn named(&self, thing: &str) -> impl Iterator<Item = &str> {
        let from = ShadowKey::new(thing, None);
        self.entries
            .range(from..)
            .take_while(move |(key, _)| key.thing == thing)
            .filter(|(_, entry)| matches!(entry, Entry::Live(_)))
            .filter_map(|(key, _)| key.shadow.as_deref())
    }
}

fn order(operation: ShadowOperation, settings: &ShadowSettings) -> &[UpdateMessage] {
    match operation {
        ShadowOperation::Update => &settings.update_messages,
        ShadowOperation::Get | ShadowOperation::Delete => &[UpdateMessage::Accepted],
    }
}

fn is_remembered(since: SystemTime, settings: &ShadowSettings, now: SystemTime) -> bool {
    now.duration_since(since)
        .map_or(true, |age| age < settings.tombstone_lifetime)
}

#[cfg(test)]
mod tests;
