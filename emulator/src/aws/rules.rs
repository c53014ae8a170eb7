//! The rules of the message broker of AWS IoT Core, where they are not those of MQTT.
//!
//! Source: "AWS IoT Core message broker and protocol limits and quotas" and "MQTT" in the AWS IoT Core
//! Developer Guide. What the documents leave open is a setting, and its default says what was chosen.

mod breach;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::{Publish, QoS, ReasonCode, Subscribe, Subscription, Topic, Version};

use super::certificates::CertificateNames;
use super::identities::Identities;
use super::permissions::{Action, PermissionTable};
use crate::limits::Limits;
use crate::policy::{Client, Decision, Grant, Login, Policy, Verdict};
use crate::remarks::Explanation;

/// CONNACK return code of a client of MQTT 3.1.1 that may not connect; it is none of the specification's.
const UNAUTHORIZED_CONNECT: ReasonCode = ReasonCode(7);

/// Whose rule it is that a client has to show who it is.
const LOGIN: &str = "AWS: a certificate, a signed WebSocket or a custom authorizer lets in";

/// What a packet may be larger than a payload: room for a topic, a rule's name and the properties of MQTT 5.
const HEADER_BYTES_MAX: usize = 18 * 1024;

/// The limits of the message broker, and what it does about those who exceed them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AwsSettings {
    /// Bytes of a payload. Default 128 KiB.
    pub payload_bytes_max: usize,
    /// Bytes of a topic or a topic filter, without `$aws/rules/<rule>/`. Default 256.
    pub topic_bytes_max: usize,
    /// Levels of a topic or a topic filter, without `$aws/rules/<rule>/`. Default 8, that is 7 slashes.
    pub topic_levels_max: usize,
    /// Filters of one SUBSCRIBE. Default 8.
    pub filters_per_subscribe_max: usize,
    /// Subscriptions of one connection. Default 50.
    pub subscriptions_max: usize,
    /// Bytes of a client identifier. Default 128; a leading `$` is reserved and refused as well.
    pub client_id_bytes_max: usize,
    /// QoS 1 messages without acknowledgement, each way. Default 100.
    pub inflight_max: u16,
    /// Messages that a connection may publish in a second; a faster one is not read from for a while.
    /// Default 100.
    pub publishes_per_second_max: Option<u32>,
    /// Bytes that a connection may publish in a second, with the same effect. Default 512 KiB.
    pub publish_bytes_per_second_max: Option<u32>,
    /// The keep alive in seconds: a shorter one is raised, a longer one or none is lowered to this range.
    /// Default 30 to 1,200.
    pub keep_alive: RangeInclusive<u16>,
    /// How long a session outlives its connection. Default 1 h.
    pub session_lifetime: Duration,
    /// Stored messages of a resumed session that are sent in a second. Default 10.
    pub replayed_per_second_max: Option<u32>,
    /// Time between two CONNECTs of one client identifier. AWS's quota is one a second, and its documents do
    /// not say what becomes of the others; with this set, they are refused with CONNACK 3 (0x97 on MQTT 5).
    /// Default none.
    pub connect_interval_min: Option<Duration>,
    /// After how long a QoS 1 message that is not acknowledged goes out again on the same connection, to a
    /// client of MQTT 3.1.1. AWS does that for up to an hour, and its documents do not say how often. Default
    /// none: it goes out again on the next connection.
    pub redelivery_interval: Option<Duration>,
    /// How long a WebSocket lasts. Default 24 h.
    pub websocket_lifetime: Duration,
    /// What becomes of a PUBLISH beyond a limit. Default: the connection is closed.
    pub on_excessive_publish: Verdict,
    /// What becomes of a SUBSCRIBE beyond a limit. Default: the connection is closed.
    pub on_excessive_subscribe: Verdict,
    /// What becomes of a subscription beyond [`subscriptions_max`](Self::subscriptions_max). Default: SUBACK
    /// says 0x80 (0x97 on MQTT 5).
    pub on_excessive_subscription: Verdict,
    /// What becomes of a PUBLISH that the permissions refuse. Default: the connection is closed without a
    /// word (with a DISCONNECT on MQTT 5).
    pub on_unauthorized_publish: Verdict,
    /// What becomes of a subscription that the permissions refuse. Default: SUBACK says 0x80 (0x87 on
    /// MQTT 5).
    pub on_unauthorized_subscribe: Verdict,
    /// What becomes of a PUBLISH to a topic under `$aws/` that no service knows. Default: the connection is
    /// closed.
    pub on_unknown_reserved_topic: Verdict,
    /// Whether a client identifier beyond the rules is answered with CONNACK 2 (0x85 on MQTT 5). Default
    /// true; otherwise the CONNECT is refused as unauthorized.
    pub rejects_client_id: bool,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self {
            payload_bytes_max: 128 * 1024,
            topic_bytes_max: 256,
            topic_levels_max: 8,
            filters_per_subscribe_max: 8,
            subscriptions_max: 50,
            client_id_bytes_max: 128,
            inflight_max: 100,
            publishes_per_second_max: Some(100),
            publish_bytes_per_second_max: Some(512 * 1024),
            keep_alive: 30..=1200,
            session_lifetime: Duration::from_secs(3600),
            replayed_per_second_max: Some(10),
            connect_interval_min: None,
            redelivery_interval: None,
            websocket_lifetime: Duration::from_secs(24 * 3600),
            on_excessive_publish: Verdict::Close(ReasonCode::PACKET_TOO_LARGE),
            on_excessive_subscribe: Verdict::Close(ReasonCode::TOPIC_FILTER_INVALID),
            on_excessive_subscription: Verdict::Refuse,
            on_unauthorized_publish: Verdict::Close(ReasonCode::NOT_AUTHORIZED),
            on_unauthorized_subscribe: Verdict::Refuse,
            on_unknown_reserved_topic: Verdict::Close(ReasonCode::TOPIC_NAME_INVALID),
            rejects_client_id: true,
        }
    }
}

impl AwsSettings {
    /// What the server's own limits have to be for this.
    pub(crate) fn limits(&self) -> Limits {
        let packet_bytes = self.payload_bytes_max.saturating_add(HEADER_BYTES_MAX);
        Limits {
            packet_bytes_max: u32::try_from(packet_bytes).unwrap_or(u32::MAX),
            receive_maximum: self.inflight_max,
            inflight_max: self.inflight_max,
            subscriptions_max: self.subscriptions_max,
            topic_alias_maximum: 8,
            replayed_per_second_max: self.replayed_per_second_max,
            publishes_per_second_max: self.publishes_per_second_max,
            publish_bytes_per_second_max: self.publish_bytes_per_second_max,
            connect_interval_min: self.connect_interval_min,
            redelivery_interval: self.redelivery_interval,
            maximum_qos: QoS::AtLeastOnce,
            retained_on_wildcards: false,
            multi_level_matches_parent: false,
            session_expiry_max: u32::try_from(self.session_lifetime.as_secs()).unwrap_or(u32::MAX),
            ..Limits::default()
        }
    }
}

/// Whether one of the services under `$aws/` takes messages on a topic.
fn is_known_reserved(topic: &str) -> bool {
    let mut levels = topic.split('/').skip(1);
    match levels.next() {
        Some("things") => {
            let _thing = levels.next();
            matches!(
                levels.next(),
                Some("shadow" | "jobs" | "jobs-data" | "defender" | "streams" | "tunnels")
            )
        }
        Some(
            "rules" | "certificates" | "provisioning-templates" | "device_location" | "commands",
        ) => true,
        _ => false,
    }
}

/// The rules in force.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) settings: AwsSettings,
    pub(crate) identities: Arc<Identities>,
    pub(crate) permissions: Arc<PermissionTable>,
    pub(crate) names: Arc<CertificateNames>,
    /// Where the emulator is, as signatures and ARNs say it.
    pub(crate) region: String,
}

impl Rules {
    /// Why a client may not connect, or who it is.
    fn login(&self, login: &Login<'_>) -> Result<Arc<str>, (ReasonCode, Explanation)> {
        let unauthorized = match login.version {
            Version::V311 => UNAUTHORIZED_CONNECT,
            Version::V5 => ReasonCode::NOT_AUTHORIZED,
        };
        let client_id = login.client_id;
        if let Some(why) = breach::client_id(client_id, &self.settings) {
            let code = if self.settings.rejects_client_id {
                ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            } else {
                unauthorized
            };
            return Err((code, why));
        }
        if let Some(will) = login.will {
            let excess = breach::payload(will.topic.as_str(), will.payload.len(), &self.settings)
                .or_else(|| breach::topic(will.topic.as_str(), &self.settings));
            if let Some(why) = excess {
                return Err((ReasonCode::PACKET_TOO_LARGE, why));
            }
        }
        let principal = match &login.peer.principal {
            Some(principal) => Arc::clone(principal),
            None => self
                .identities
                .authorize_connect(login.username, login.password)
                .map_err(|why| (unauthorized, Explanation::new(LOGIN, why)))?
                .into(),
        };
        let action = Action::Connect;
        if self.permissions.allows(Some(&principal), client_id, action) {
            Ok(principal)
        } else {
            let why = self.denial(Some(&principal), client_id, action);
            Err((unauthorized, why))
        }
    }

    /// What is against a message, and what becomes of it.
    fn publish_breach(
        &self,
        client: &Client<'_>,
        topic: &Topic,
        publish: &Publish,
    ) -> Option<(Verdict, Explanation)> {
        let settings = &self.settings;
        let text = topic.as_str();
        if publish.qos == QoS::ExactlyOnce && client.version == Version::V311 {
            return Some((Verdict::Ignore, breach::quality_of_service(text)));
        }
        let excess = breach::payload(text, publish.payload.len(), settings)
            .or_else(|| breach::topic(text, settings));
        if let Some(why) = excess {
            return Some((settings.on_excessive_publish, why));
        }
        let action = Action::Publish(text);
        if !self
            .permissions
            .allows(client.principal, client.client_id, action)
        {
            let why = self.denial(client.principal, client.client_id, action);
            return Some((settings.on_unauthorized_publish, why));
        }
        (text.starts_with("$aws/") && !is_known_reserved(text)).then(|| {
            let why = breach::reserved_topic(text);
            (settings.on_unknown_reserved_topic, why)
        })
    }

    /// What is against a SUBSCRIBE as a whole.
    fn subscribe_breach(&self, subscribe: &Subscribe) -> Option<Explanation> {
        let settings = &self.settings;
        breach::filters(subscribe.filters.len(), settings).or_else(|| {
            subscribe.filters.iter().find_map(|wanted| {
                let shared = wanted.filter.shared();
                let text = shared.map_or(wanted.filter.as_str(), |shared| shared.filter);
                breach::topic(text, settings)
            })
        })
    }

    /// What is against one filter.
    fn filter_breach(
        &self,
        client: &Client<'_>,
        wanted: &Subscription,
        present: usize,
    ) -> Option<(Verdict, Explanation)> {
        let settings = &self.settings;
        let action = Action::Subscribe(wanted.filter.as_str());
        if !self
            .permissions
            .allows(client.principal, client.client_id, action)
        {
            let why = self.denial(client.principal, client.client_id, action);
            return Some((settings.on_unauthorized_subscribe, why));
        }
        (present >= settings.subscriptions_max).then(|| {
            let verdict = match settings.on_excessive_subscription {
                close @ Verdict::Close(_) => close,
                // The server's own limit refuses it, with the code that says why.
                _ => Verdict::Allow,
            };
            (verdict, breach::subscriptions(settings))
        })
    }

    /// Why the permissions refuse something.
    pub(crate) fn denial(
        &self,
        principal: Option<&str>,
        client_id: &str,
        action: Action<'_>,
    ) -> Explanation {
        let refusal = self.permissions.refusal(principal, client_id, action);
        breach::permission(action, client_id, &refusal)
    }
}

impl Policy for Rules {
    fn admit(&self, login: &Login<'_>) -> Result<Grant, ReasonCode> {
        let principal = self.login(login).map_err(|(code, _)| code)?;
        let (min, max) = (
            self.settings.keep_alive.start(),
            self.settings.keep_alive.end(),
        );
        Ok(Grant {
            principal: Some(principal),
            keep_alive: Some(match login.keep_alive {
                0 => *max,
                asked => asked.max(*min).min(*max),
            }),
        })
    }

    fn judge_publish(&self, client: &Client<'_>, topic: &Topic, publish: &Publish) -> Verdict {
        let breach = self.publish_breach(client, topic, publish);
        breach.map_or(Verdict::Allow, |(verdict, _)| verdict)
    }

    fn judge_subscribe(&self, _client: &Client<'_>, subscribe: &Subscribe) -> Verdict {
        match self.subscribe_breach(subscribe) {
            None => Verdict::Allow,
            Some(_) => self.settings.on_excessive_subscribe,
        }
    }

    fn judge_filter(&self, client: &Client<'_>, wanted: &Subscription, present: usize) -> Verdict {
        let breach = self.filter_breach(client, wanted, present);
        breach.map_or(Verdict::Allow, |(verdict, _)| verdict)
    }

    fn explain(&self, decision: &Decision<'_>) -> Option<Explanation> {
        match decision {
            Decision::Connect(login) => self.login(login).err().map(|(_, why)| why),
            Decision::Publish(client, topic, publish) => self
                .publish_breach(client, topic, publish)
                .map(|(_, why)| why),
            Decision::Subscribe(_, subscribe) => self.subscribe_breach(subscribe),
            Decision::Filter(client, wanted, present) => self
                .filter_breach(client, wanted, *present)
                .map(|(_, why)| why),
        }
    }

    fn describe<'a>(&self, principal: &'a str) -> Cow<'a, str> {
        self.names.describe(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_topics_without_a_service_are_known_as_such() {
        for known in [
            "$aws/things/a/shadow/update",
            "$aws/things/a/shadow/name/b/get",
            "$aws/things/a/jobs/get",
            "$aws/things/a/defender/metrics/json",
            "$aws/rules/r/t",
            "$aws/certificates/create/json",
            "$aws/provisioning-templates/t/provision/cbor",
        ] {
            assert!(is_known_reserved(known), "{known}");
        }
        for unknown in [
            "$aws/",
            "$aws/things",
            "$aws/things/a",
            "$aws/things/a/other",
            "$aws/events/x",
        ] {
            assert!(!is_known_reserved(unknown), "{unknown}");
        }
    }
}
