//! The properties of an MQTT 5 packet by the specification's names.

use bytestring::ByteString;
use paquebot_protocols::mqtt::{Properties, PropertySet, QoS, Version};
use serde::{Deserialize, Serialize};

use super::value::{Bit, Hex};
use super::{only_v5, qos};

/// Absent keys are properties that are not sent.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PropertiesJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_identifier: Option<Identifiers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned_client_identifier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_keep_alive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_data: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_problem_information: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    will_delay_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_response_information: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_information: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_string: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_maximum: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_alias_maximum: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_alias: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_available: Option<Bit>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user_property: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_packet_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wildcard_subscription_available: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_identifier_available: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_subscription_available: Option<Bit>,
}

/// A list in PUBLISH, a number in SUBSCRIBE.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Identifiers {
    One(u32),
    Many(Vec<u32>),
}

impl PropertiesJson {
    /// `None` in MQTT 3.1.1.
    pub(super) fn new(properties: &Properties, version: Version) -> Option<Self> {
        let text = |text: &Option<ByteString>| text.as_ref().map(ToString::to_string);
        let identifiers = &properties.subscription_identifiers;
        (version == Version::V5).then(|| Self {
            payload_format_indicator: properties.payload_format_indicator.map(Bit),
            message_expiry_interval: properties.message_expiry_interval,
            content_type: text(&properties.content_type),
            response_topic: text(&properties.response_topic),
            correlation_data: properties.correlation_data.clone().map(Hex),
            subscription_identifier: (!identifiers.is_empty())
                .then(|| Identifiers::Many(identifiers.clone())),
            session_expiry_interval: properties.session_expiry_interval,
            assigned_client_identifier: text(&properties.assigned_client_identifier),
            server_keep_alive: properties.server_keep_alive,
            authentication_method: text(&properties.authentication_method),
            authentication_data: properties.authentication_data.clone().map(Hex),
            request_problem_information: properties.request_problem_information.map(Bit),
            will_delay_interval: properties.will_delay_interval,
            request_response_information: properties.request_response_information.map(Bit),
            response_information: text(&properties.response_information),
            server_reference: text(&properties.server_reference),
            reason_string: text(&properties.reason_string),
            receive_maximum: properties.receive_maximum,
            topic_alias_maximum: properties.topic_alias_maximum,
            topic_alias: properties.topic_alias,
            maximum_qos: properties.maximum_qos.map(|qos: QoS| qos as u8),
            retain_available: properties.retain_available.map(Bit),
            user_property: properties
                .user_properties
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            maximum_packet_size: properties.maximum_packet_size,
            wildcard_subscription_available: properties.wildcard_subscription_available.map(Bit),
            subscription_identifier_available: properties
                .subscription_identifier_available
                .map(Bit),
            shared_subscription_available: properties.shared_subscription_available.map(Bit),
        })
    }

    /// As [`PropertiesJson::new`], with the one identifier that SUBSCRIBE has as a number.
    pub(super) fn of_subscribe(properties: &Properties, version: Version) -> Option<Self> {
        let identifier = properties.subscription_identifiers.first().copied();
        Some(Self {
            subscription_identifier: identifier.map(Identifiers::One),
            ..Self::new(properties, version)?
        })
    }

    pub(super) fn into_properties(
        json: Option<Self>,
        version: Version,
    ) -> Result<Properties, String> {
        let Some(json) = json else {
            return Ok(Properties::EMPTY);
        };
        only_v5("properties", version)?;
        let bit = |bit: Option<Bit>| bit.map(|Bit(value)| value);
        let bytes = |data: Option<Hex>| data.map(|Hex(bytes)| bytes);
        let text = |text: Option<String>| text.map(ByteString::from);
        Ok(Properties::from(PropertySet {
            payload_format_indicator: bit(json.payload_format_indicator),
            message_expiry_interval: json.message_expiry_interval,
            content_type: text(json.content_type),
            response_topic: text(json.response_topic),
            correlation_data: bytes(json.correlation_data),
            subscription_identifiers: match json.subscription_identifier {
                None => Vec::new(),
                Some(Identifiers::One(identifier)) => vec![identifier],
                Some(Identifiers::Many(identifiers)) => identifiers,
            },
            session_expiry_interval: json.session_expiry_interval,
            assigned_client_identifier: text(json.assigned_client_identifier),
            server_keep_alive: json.server_keep_alive,
            authentication_method: text(json.authentication_method),
            authentication_data: bytes(json.authentication_data),
            request_problem_information: bit(json.request_problem_information),
            will_delay_interval: json.will_delay_interval,
            request_response_information: bit(json.request_response_information),
            response_information: text(json.response_information),
            server_reference: text(json.server_reference),
            reason_string: text(json.reason_string),
            receive_maximum: json.receive_maximum,
            topic_alias_maximum: json.topic_alias_maximum,
            topic_alias: json.topic_alias,
            maximum_qos: json.maximum_qos.map(qos).transpose()?,
            retain_available: bit(json.retain_available),
            user_properties: json
                .user_property
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            maximum_packet_size: json.maximum_packet_size,
            wildcard_subscription_available: bit(json.wildcard_subscription_available),
            subscription_identifier_available: bit(json.subscription_identifier_available),
            shared_subscription_available: bit(json.shared_subscription_available),
        }))
    }
}
