//! The rules of the message broker of AWS IoT Core, where they are not those of MQTT.
//!
//! Source: "AWS IoT Core message broker and protocol limits and quotas" and "MQTT" in the AWS IoT Core
//! Developer Guide. What the documents leave open is a setting, and its default says what was chosen.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::{Publish, QoS, ReasonCode, Subscribe, Subscription, Topic, Version};

use super::identities::Identities;
use super::permissions::{Action, PermissionTable};
use crate::limits::Limits;
use crate::policy::{Client, Grant, Login, Policy, Verdict};

/// CONNACK return code of a client of MQTT 3.1.1 that may not connect; it is none of the specification's.
const UNAUTHORIZED_CONNECT: ReasonCode = ReasonCode(7);

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
            maximum_qos: QoS::AtLeastOnce,
            retained_on_wildcards: false,
            multi_level_matches_parent: false,
            session_expiry_max: u32::try_from(self.session_lifetime.as_secs()).unwrap_or(u32::MAX),
            ..Limits::default()
        }
    }

    fn fits(&self, topic: &str) -> bool {
        let counted = without_rule(topic);
        counted.len() <= self.topic_bytes_max && counted.split('/').count() <= self.topic_levels_max
    }
}

/// The part of a topic that its limits count: Basic Ingest names a rule in front of it.
fn without_rule(topic: &str) -> &str {
    topic
        .strip_prefix("$aws/rules/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, counted)| counted)
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
}

impl Policy for Rules {
    fn admit(&self, login: &Login<'_>) -> Result<Grant, ReasonCode> {
        let unauthorized = match login.version {
            Version::V311 => UNAUTHORIZED_CONNECT,
            Version::V5 => ReasonCode::NOT_AUTHORIZED,
        };
        let client_id = login.client_id;
        if client_id.len() > self.settings.client_id_bytes_max || client_id.starts_with('$') {
            return Err(if self.settings.rejects_client_id {
                ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            } else {
                unauthorized
            });
        }
        let principal = match &login.peer.principal {
            Some(principal) => Arc::clone(principal),
            None => self
                .identities
                .authorize_connect(login.username, login.password)
                .ok_or(unauthorized)?
                .into(),
        };
        let may_connect = self
            .permissions
            .allows(Some(&principal), client_id, Action::Connect);
        if !may_connect {
            return Err(unauthorized);
        }
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
        let settings = &self.settings;
        if publish.qos == QoS::ExactlyOnce && client.version == Version::V311 {
            return Verdict::Ignore;
        }
        let text = topic.as_str();
        if publish.payload.len() > settings.payload_bytes_max || !settings.fits(text) {
            return settings.on_excessive_publish;
        }
        let action = Action::Publish(text);
        if !self
            .permissions
            .allows(client.principal, client.client_id, action)
        {
            return settings.on_unauthorized_publish;
        }
        if text.starts_with("$aws/") && !is_known_reserved(text) {
            return settings.on_unknown_reserved_topic;
        }
        Verdict::Allow
    }

    fn judge_subscribe(&self, _client: &Client<'_>, subscribe: &Subscribe) -> Verdict {
        let settings = &self.settings;
        let fits = subscribe.filters.len() <= settings.filters_per_subscribe_max
            && subscribe.filters.iter().all(|wanted| {
                let shared = wanted.filter.shared();
                settings.fits(shared.map_or(wanted.filter.as_str(), |shared| shared.filter))
            });
        if fits {
            Verdict::Allow
        } else {
            settings.on_excessive_subscribe
        }
    }

    fn judge_filter(&self, client: &Client<'_>, wanted: &Subscription, present: usize) -> Verdict {
        let settings = &self.settings;
        let action = Action::Subscribe(wanted.filter.as_str());
        if !self
            .permissions
            .allows(client.principal, client.client_id, action)
        {
            return settings.on_unauthorized_subscribe;
        }
        match settings.on_excessive_subscription {
            close @ Verdict::Close(_) if present >= settings.subscriptions_max => close,
            // The server's own limit refuses it, with the code that says why.
            _ => Verdict::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_fit_up_to_the_limit() {
        let settings = AwsSettings::default();
        let bytes = |count| "t".repeat(count);
        assert!(settings.fits(&bytes(256)));
        assert!(!settings.fits(&bytes(257)));
        assert!(settings.fits("1/2/3/4/5/6/7/8"));
        assert!(!settings.fits("1/2/3/4/5/6/7/8/9"));
        assert!(settings.fits("$aws/rules/some_rule/1/2/3/4/5/6/7/8"));
        assert!(!settings.fits("$aws/rules/some_rule/1/2/3/4/5/6/7/8/9"));
        assert!(settings.fits(&format!("$aws/rules/some_rule/{}", bytes(256))));
    }

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
