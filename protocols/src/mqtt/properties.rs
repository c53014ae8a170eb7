//! MQTT 5 properties (§2.2.2).

use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

use super::QoS;

pub(crate) mod table;

/// The greatest subscription identifier: what a variable byte integer can say (MQTT 5 §1.5.5).
pub const SUBSCRIPTION_IDENTIFIER_MAX: u32 = 268_435_455;

/// The properties of one packet. Empty properties take one pointer and no allocation.
///
/// Read fields through the pointer (`properties.topic_alias`), write them through [`Properties::edit`].
#[derive(Clone, Default)]
pub struct Properties(Option<Box<PropertySet>>);

impl Properties {
    /// No properties.
    pub const EMPTY: Self = Self(None);

    /// The fields, for writing.
    pub fn edit(&mut self) -> &mut PropertySet {
        self.0.get_or_insert_default()
    }

    /// The fields if any was ever set: tells the common empty case by one pointer.
    pub(crate) fn as_set(&self) -> Option<&PropertySet> {
        self.0.as_deref()
    }

    /// Whether no property is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_deref().is_none_or(|set| *set == EMPTY_SET)
    }
}

impl Deref for Properties {
    type Target = PropertySet;

    fn deref(&self) -> &PropertySet {
        self.0.as_deref().unwrap_or(&EMPTY_SET)
    }
}

impl From<PropertySet> for Properties {
    fn from(set: PropertySet) -> Self {
        if set == EMPTY_SET {
            Self(None)
        } else {
            Self(Some(Box::new(set)))
        }
    }
}

impl PartialEq for Properties {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Properties {}

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(set) => set.fmt(f),
            None => f.write_str("{}"),
        }
    }
}

/// Every property that MQTT 5 defines. Which packet may carry which is checked by the codec.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PropertySet {
    /// 0x01: the payload is UTF-8 text.
    pub payload_format_indicator: Option<bool>,
    /// 0x02: lifetime of the message in seconds.
    pub message_expiry_interval: Option<u32>,
    /// 0x03: MIME type of the payload.
    pub content_type: Option<ByteString>,
    /// 0x08: topic name for a response.
    pub response_topic: Option<ByteString>,
    /// 0x09: identifies the request a response belongs to.
    pub correlation_data: Option<Bytes>,
    /// 0x0b: identifiers of the subscriptions that matched (PUBLISH), or the one to set (SUBSCRIBE).
    /// 1 to 268,435,455 each.
    pub subscription_identifiers: Vec<u32>,
    /// 0x11: lifetime of the session in seconds after the connection ends.
    pub session_expiry_interval: Option<u32>,
    /// 0x12: the client identifier that the server chose.
    pub assigned_client_identifier: Option<ByteString>,
    /// 0x13: the keep alive in seconds that the server demands.
    pub server_keep_alive: Option<u16>,
    /// 0x15: name of the enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// 0x16: data of the enhanced authentication.
    pub authentication_data: Option<Bytes>,
    /// 0x17: whether reason strings and user properties are welcome.
    pub request_problem_information: Option<bool>,
    /// 0x18: delay before the will is published, in seconds.
    pub will_delay_interval: Option<u32>,
    /// 0x19: asks for response information.
    pub request_response_information: Option<bool>,
    /// 0x1a: basis for response topics.
    pub response_information: Option<ByteString>,
    /// 0x1c: another server to use.
    pub server_reference: Option<ByteString>,
    /// 0x1f: human-readable diagnosis.
    pub reason_string: Option<ByteString>,
    /// 0x21: how many QoS 1 and 2 messages may be unacknowledged; never 0.
    pub receive_maximum: Option<u16>,
    /// 0x22: highest topic alias accepted.
    pub topic_alias_maximum: Option<u16>,
    /// 0x23: stands for a topic name; never 0.
    pub topic_alias: Option<u16>,
    /// 0x24: highest QoS the server takes; 0 or 1 when present.
    pub maximum_qos: Option<QoS>,
    /// 0x25: whether the server keeps retained messages.
    pub retain_available: Option<bool>,
    /// 0x26: user properties in wire order.
    pub user_properties: Vec<(ByteString, ByteString)>,
    /// 0x27: largest packet accepted, in bytes; never 0.
    pub maximum_packet_size: Option<u32>,
    /// 0x28: whether wildcard filters are accepted.
    pub wildcard_subscription_available: Option<bool>,
    /// 0x29: whether subscription identifiers are accepted.
    pub subscription_identifier_available: Option<bool>,
    /// 0x2a: whether shared subscriptions are accepted.
    pub shared_subscription_available: Option<bool>,
}

static EMPTY_SET: PropertySet = PropertySet {
    payload_format_indicator: None,
    message_expiry_interval: None,
    content_type: None,
    response_topic: None,
    correlation_data: None,
    subscription_identifiers: Vec::new(),
    session_expiry_interval: None,
    assigned_client_identifier: None,
    server_keep_alive: None,
    authentication_method: None,
    authentication_data: None,
    request_problem_information: None,
    will_delay_interval: None,
    request_response_information: None,
    response_information: None,
    server_reference: None,
    reason_string: None,
    receive_maximum: None,
    topic_alias_maximum: None,
    topic_alias: None,
    maximum_qos: None,
    retain_available: None,
    user_properties: Vec::new(),
    maximum_packet_size: None,
    wildcard_subscription_available: None,
    subscription_identifier_available: None,
    shared_subscription_available: None,
};

impl std::fmt::Debug for PropertySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        macro_rules! entry {
            ($($field:ident),*) => {$(
                if let Some(value) = &self.$field {
                    map.entry(&stringify!($field), value);
                }
            )*};
        }
        entry!(
            payload_format_indicator,
            message_expiry_interval,
            content_type,
            response_topic
        );
        entry!(
            correlation_data,
            session_expiry_interval,
            assigned_client_identifier
        );
        entry!(
            server_keep_alive,
            authentication_method,
            request_problem_information
        );
        entry!(
            will_delay_interval,
            request_response_information,
            response_information
        );
        entry!(
            server_reference,
            reason_string,
            receive_maximum,
            topic_alias_maximum,
            topic_alias
        );
        entry!(maximum_qos, retain_available, maximum_packet_size);
        entry!(
            wildcard_subscription_available,
            subscription_identifier_available
        );
        entry!(shared_subscription_available);
        if self.authentication_data.is_some() {
            map.entry(&"authentication_data", &"(redacted)");
        }
        if !self.subscription_identifiers.is_empty() {
            map.entry(&"subscription_identifiers", &self.subscription_identifiers);
        }
        if !self.user_properties.is_empty() {
            map.entry(&"user_properties", &self.user_properties);
        }
        map.finish()
    }
}
