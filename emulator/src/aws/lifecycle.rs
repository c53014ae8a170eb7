//! Lifecycle events: what the message broker publishes when clients come, go and subscribe.
//!
//! Source: "Lifecycle events" in the AWS IoT Core Developer Guide.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use paquebot_protocols::mqtt::{QoS, ReasonCode, Topic};
use serde_json::{Value, json};

use crate::service::{Departure, Event, EventKind, Recipient, Reply};

/// Clients whose version number is remembered. Beyond it all are forgotten, and they count from 0 again.
const CLIENTS_MAX: usize = 100_000;

/// Of each client identifier what its events go on from.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    clients: HashMap<String, History>,
}

#[derive(Debug, Default)]
struct History {
    /// The same in the events of one connection.
    session_identifier: String,
    /// Grows with each connection.
    version_number: u64,
}

impl Lifecycle {
    /// The event's message; `None` where its topic cannot be written because of the client identifier.
    pub(crate) fn message(&mut self, event: &Event<'_>, now: SystemTime) -> Option<Reply> {
        let client_id = event.client.client_id;
        let (group, event_type) = match &event.kind {
            EventKind::Connected => ("presence", "connected"),
            EventKind::Disconnected(_) => ("presence", "disconnected"),
            EventKind::Subscribed(_) => ("subscriptions", "subscribed"),
            EventKind::Unsubscribed(_) => ("subscriptions", "unsubscribed"),
        };
        let topic = Topic::new(format!("$aws/events/{group}/{event_type}/{client_id}")).ok()?;
        let history = self.history(client_id, matches!(event.kind, EventKind::Connected));
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut body = json!({
            "clientId": client_id,
            "timestamp": u64::try_from(timestamp.as_millis()).unwrap_or(u64::MAX),
            "eventType": event_type,
            "sessionIdentifier": history.session_identifier,
            "principalIdentifier": event.client.principal,
        });
        match &event.kind {
            EventKind::Connected => {
                body["versionNumber"] = history.version_number.into();
                body["ipAddress"] = event.peer.address.map(|from| from.ip().to_string()).into();
            }
            EventKind::Disconnected(why) => {
                body["versionNumber"] = history.version_number.into();
                body["clientInitiatedDisconnect"] = (*why == Departure::Disconnected).into();
                body["disconnectReason"] = reason(*why).into();
            }
            EventKind::Subscribed(filters) => {
                body["topics"] = filters.iter().map(|filter| filter.as_str()).collect();
            }
            EventKind::Unsubscribed(filters) => {
                body["topics"] = filters.iter().map(|filter| filter.as_str()).collect();
            }
        }
        Some(Reply {
            topic,
            payload: Value::to_string(&body).into(),
            qos: QoS::AtLeastOnce,
            to: Recipient::Subscribers,
        })
    }

    fn history(&mut self, client_id: &str, begins: bool) -> &History {
        if !self.clients.contains_key(client_id) && self.clients.len() >= CLIENTS_MAX {
            self.clients.clear();
        }
        let history = self.clients.entry(client_id.to_owned()).or_default();
        if begins {
            if !history.session_identifier.is_empty() {
                history.version_number += 1;
            }
            history.session_identifier = random_identifier();
        }
        history
    }
}

fn random_identifier() -> String {
    let text = format!("{:032x}", fastrand::u128(..));
    let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let parts: Vec<&str> = cuts.into_iter().map(|cut| &text[cut]).collect();
    parts.join("-")
}

fn reason(why: Departure) -> &'static str {
    match why {
        Departure::Disconnected => "CLIENT_INITIATED_DISCONNECT",
        Departure::Lost => "CONNECTION_LOST",
        Departure::TakenOver => "DUPLICATE_CLIENTID",
        Departure::KeepAliveTimeout => "MQTT_KEEP_ALIVE_TIMEOUT",
        Departure::LifetimeOver => "WEBSOCKET_TTL_EXPIRATION",
        Departure::Violation(ReasonCode::NOT_AUTHORIZED) => "AUTH_ERROR",
        Departure::Violation(_) => "CLIENT_ERROR",
        Departure::Dismissed => "SERVER_INITIATED_DISCONNECT",
    }
}
