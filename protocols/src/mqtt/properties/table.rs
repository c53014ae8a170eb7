//! Which packet may carry which property (MQTT 5, Table 2-4), and where the specification says so.

/// Property identifiers (MQTT 5 §2.2.2.2). Each is one byte long on the wire.
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1c;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2a;
}

/// What carries properties: a packet type, or the will inside CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Connect,
    Will,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    Disconnect,
    Auth,
}

impl Carrier {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Will => "the will",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The section that defines the property in this packet; `None` if it may not carry it.
    pub(crate) const fn section(self, property: u8) -> Option<&'static str> {
        match self {
            Self::Connect => connect(property),
            Self::Will => will(property),
            Self::ConnAck => connack(property),
            Self::Publish => publish(property),
            Self::PubAck => acknowledgement(property, "§3.4.2.2.2", "§3.4.2.2.3"),
            Self::PubRec => acknowledgement(property, "§3.5.2.2.2", "§3.5.2.2.3"),
            Self::PubRel => acknowledgement(property, "§3.6.2.2.2", "§3.6.2.2.3"),
            Self::PubComp => acknowledgement(property, "§3.7.2.2.2", "§3.7.2.2.3"),
            Self::Subscribe => match property {
                id::SUBSCRIPTION_IDENTIFIER => Some("§3.8.2.1.2"),
                id::USER_PROPERTY => Some("§3.8.2.1.3"),
                _ => None,
            },
            Self::SubAck => acknowledgement(property, "§3.9.2.1.2", "§3.9.2.1.3"),
            Self::Unsubscribe => match property {
                id::USER_PROPERTY => Some("§3.10.2.1.2"),
                _ => None,
            },
            Self::UnsubAck => acknowledgement(property, "§3.11.2.1.2", "§3.11.2.1.3"),
            Self::Disconnect => match property {
                id::SESSION_EXPIRY_INTERVAL => Some("§3.14.2.2.2"),
                id::REASON_STRING => Some("§3.14.2.2.3"),
                id::USER_PROPERTY => Some("§3.14.2.2.4"),
                id::SERVER_REFERENCE => Some("§3.14.2.2.5"),
                _ => None,
            },
            Self::Auth => match property {
                id::AUTHENTICATION_METHOD => Some("§3.15.2.2.2"),
                id::AUTHENTICATION_DATA => Some("§3.15.2.2.3"),
                id::REASON_STRING => Some("§3.15.2.2.4"),
                id::USER_PROPERTY => Some("§3.15.2.2.5"),
                _ => None,
            },
        }
    }
}

const fn connect(property: u8) -> Option<&'static str> {
    Some(match property {
        id::SESSION_EXPIRY_INTERVAL => "§3.1.2.11.2",
        id::RECEIVE_MAXIMUM => "§3.1.2.11.3",
        id::MAXIMUM_PACKET_SIZE => "§3.1.2.11.4",
        id::TOPIC_ALIAS_MAXIMUM => "§3.1.2.11.5",
        id::REQUEST_RESPONSE_INFORMATION => "§3.1.2.11.6",
        id::REQUEST_PROBLEM_INFORMATION => "§3.1.2.11.7",
        id::USER_PROPERTY => "§3.1.2.11.8",
        id::AUTHENTICATION_METHOD => "§3.1.2.11.9",
        id::AUTHENTICATION_DATA => "§3.1.2.11.10",
        _ => return None,
    })
}

const fn will(property: u8) -> Option<&'static str> {
    Some(match property {
        id::WILL_DELAY_INTERVAL => "§3.1.3.2.2",
        id::PAYLOAD_FORMAT_INDICATOR => "§3.1.3.2.3",
        id::MESSAGE_EXPIRY_INTERVAL => "§3.1.3.2.4",
        id::CONTENT_TYPE => "§3.1.3.2.5",
        id::RESPONSE_TOPIC => "§3.1.3.2.6",
        id::CORRELATION_DATA => "§3.1.3.2.7",
        id::USER_PROPERTY => "§3.1.3.2.8",
        _ => return None,
    })
}

const fn connack(property: u8) -> Option<&'static str> {
    Some(match property {
        id::SESSION_EXPIRY_INTERVAL => "§3.2.2.3.2",
        id::RECEIVE_MAXIMUM => "§3.2.2.3.3",
        id::MAXIMUM_QOS => "§3.2.2.3.4",
        id::RETAIN_AVAILABLE => "§3.2.2.3.5",
        id::MAXIMUM_PACKET_SIZE => "§3.2.2.3.6",
        id::ASSIGNED_CLIENT_IDENTIFIER => "§3.2.2.3.7",
        id::TOPIC_ALIAS_MAXIMUM => "§3.2.2.3.8",
        id::REASON_STRING => "§3.2.2.3.9",
        id::USER_PROPERTY => "§3.2.2.3.10",
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => "§3.2.2.3.11",
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => "§3.2.2.3.12",
        id::SHARED_SUBSCRIPTION_AVAILABLE => "§3.2.2.3.13",
        id::SERVER_KEEP_ALIVE => "§3.2.2.3.14",
        id::RESPONSE_INFORMATION => "§3.2.2.3.15",
        id::SERVER_REFERENCE => "§3.2.2.3.16",
        id::AUTHENTICATION_METHOD => "§3.2.2.3.17",
        id::AUTHENTICATION_DATA => "§3.2.2.3.18",
        _ => return None,
    })
}

const fn publish(property: u8) -> Option<&'static str> {
    Some(match property {
        id::PAYLOAD_FORMAT_INDICATOR => "§3.3.2.3.2",
        id::MESSAGE_EXPIRY_INTERVAL => "§3.3.2.3.3",
        id::TOPIC_ALIAS => "§3.3.2.3.4",
        id::RESPONSE_TOPIC => "§3.3.2.3.5",
        id::CORRELATION_DATA => "§3.3.2.3.6",
        id::USER_PROPERTY => "§3.3.2.3.7",
        id::SUBSCRIPTION_IDENTIFIER => "§3.3.2.3.8",
        id::CONTENT_TYPE => "§3.3.2.3.9",
        _ => return None,
    })
}

/// The packets that answer share two properties.
const fn acknowledgement(
    property: u8,
    reason_string: &'static str,
    user_property: &'static str,
) -> Option<&'static str> {
    match property {
        id::REASON_STRING => Some(reason_string),
        id::USER_PROPERTY => Some(user_property),
        _ => None,
    }
}

/// The specification's name of a property; `None` for an identifier it does not define.
pub(crate) const fn name(property: u8) -> Option<&'static str> {
    Some(match property {
        id::PAYLOAD_FORMAT_INDICATOR => "payload format indicator",
        id::MESSAGE_EXPIRY_INTERVAL => "message expiry interval",
        id::CONTENT_TYPE => "content type",
        id::RESPONSE_TOPIC => "response topic",
        id::CORRELATION_DATA => "correlation data",
        id::SUBSCRIPTION_IDENTIFIER => "subscription identifier",
        id::SESSION_EXPIRY_INTERVAL => "session expiry interval",
        id::ASSIGNED_CLIENT_IDENTIFIER => "assigned client identifier",
        id::SERVER_KEEP_ALIVE => "server keep alive",
        id::AUTHENTICATION_METHOD => "authentication method",
        id::AUTHENTICATION_DATA => "authentication data",
        id::REQUEST_PROBLEM_INFORMATION => "request problem information",
        id::WILL_DELAY_INTERVAL => "will delay interval",
        id::REQUEST_RESPONSE_INFORMATION => "request response information",
        id::RESPONSE_INFORMATION => "response information",
        id::SERVER_REFERENCE => "server reference",
        id::REASON_STRING => "reason string",
        id::RECEIVE_MAXIMUM => "receive maximum",
        id::TOPIC_ALIAS_MAXIMUM => "topic alias maximum",
        id::TOPIC_ALIAS => "topic alias",
        id::MAXIMUM_QOS => "maximum QoS",
        id::RETAIN_AVAILABLE => "retain available",
        id::USER_PROPERTY => "user property",
        id::MAXIMUM_PACKET_SIZE => "maximum packet size",
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => "wildcard subscription available",
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => "subscription identifier available",
        id::SHARED_SUBSCRIPTION_AVAILABLE => "shared subscription available",
        _ => return None,
    })
}
