//! The packet model: one type for each of MQTT's 15 packet types, for both protocol versions.
//!
//! A field that only MQTT 5 has is empty (or its MQTT 3.1.1 meaning) when the version is 3.1.1.
//! Text and payloads are slices of the buffer they were received in: cloning a packet copies no payload.

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

use super::{Properties, ReasonCode, Topic, TopicFilter, Version};

/// Quality of service of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: PUBACK.
    AtLeastOnce = 1,
    /// QoS 2: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of a wire value; `None` for 3 and above.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier: 1 to 65,535, never 0 `[MQTT-2.2.1-3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The identifier of a wire value; `None` for 0.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The wire value.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0.get()
    }
}

impl std::fmt::Display for PacketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One MQTT control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A client asks to connect.
    Connect(Box<Connect>),
    /// The server's answer to CONNECT.
    ConnAck(ConnAck),
    /// An application message.
    Publish(Publish),
    /// Acknowledges a QoS 1 PUBLISH.
    PubAck(Acknowledgement),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Acknowledgement),
    /// Answer to PUBREC.
    PubRel(Acknowledgement),
    /// Ends a QoS 2 exchange.
    PubComp(Acknowledgement),
    /// A client subscribes.
    Subscribe(Subscribe),
    /// The server's answer to SUBSCRIBE.
    SubAck(SubAck),
    /// A client unsubscribes.
    Unsubscribe(Unsubscribe),
    /// The server's answer to UNSUBSCRIBE.
    UnsubAck(SubAck),
    /// Keep-alive request.
    PingReq,
    /// Keep-alive answer.
    PingResp,
    /// Ends a connection on purpose.
    Disconnect(Disconnect),
    /// Enhanced authentication, MQTT 5 only.
    Auth(Auth),
}

impl Packet {
    /// The packet's name as the specifications write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "CONNECT",
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::PubAck(_) => "PUBACK",
            Self::PubRec(_) => "PUBREC",
            Self::PubRel(_) => "PUBREL",
            Self::PubComp(_) => "PUBCOMP",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::SubAck(_) => "SUBACK",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::UnsubAck(_) => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect(_) => "DISCONNECT",
            Self::Auth(_) => "AUTH",
        }
    }
}

/// CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol the client speaks; the name is always `MQTT`.
    pub version: Version,
    /// Clean Session in MQTT 3.1.1, Clean Start in MQTT 5.
    pub clean_start: bool,
    /// Keep alive in seconds; 0 switches it off.
    pub keep_alive: u16,
    /// The client identifier; empty asks the server to choose one.
    pub client_id: ByteString,
    /// Published by the server when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password. In MQTT 3.1.1 only together with a user name `[MQTT-3.1.2-22]`.
    pub password: Option<Bytes>,
    /// MQTT 5 properties.
    pub properties: Properties,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // User names carry tokens on some platforms, so neither is printed.
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username.as_ref().map(|_| "(redacted)"))
            .field("password", &self.password.as_ref().map(|_| "(redacted)"))
            .field("properties", &self.properties)
            .finish()
    }
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// QoS the will is published with.
    pub qos: QoS,
    /// Whether the will is retained.
    pub retain: bool,
    /// Topic of the will.
    pub topic: Topic,
    /// Payload of the will.
    pub payload: Bytes,
    /// MQTT 5 will properties.
    pub properties: Properties,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server resumed a stored session.
    pub session_present: bool,
    /// The wire value: a return code 0 to 5 in MQTT 3.1.1, a reason code in MQTT 5.
    pub reason_code: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Set on a redelivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// The topic name; `None` on MQTT 5 when a topic alias stands for it.
    pub topic: Option<Topic>,
    /// Present exactly when the QoS is above 0 `[MQTT-2.2.1-2]`.
    pub packet_id: Option<PacketId>,
    /// The application message.
    pub payload: Bytes,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP: they share one layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The exchange it belongs to.
    pub packet_id: PacketId,
    /// Success in MQTT 3.1.1.
    pub reason_code: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Properties,
}

impl Acknowledgement {
    /// A successful acknowledgement without properties.
    #[must_use]
    pub fn success(packet_id: PacketId) -> Self {
        Self::with_reason(packet_id, ReasonCode::SUCCESS)
    }

    /// An acknowledgement with a reason code and without properties.
    #[must_use]
    pub fn with_reason(packet_id: PacketId, reason_code: ReasonCode) -> Self {
        Self {
            packet_id,
            reason_code,
            properties: Properties::default(),
        }
    }
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Identifies the exchange.
    pub packet_id: PacketId,
    /// At least one filter `[MQTT-3.8.3-3]`.
    pub filters: Vec<Subscription>,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic filter.
    pub filter: TopicFilter,
    /// The highest QoS the client wants.
    pub qos: QoS,
    /// MQTT 5: do not send back what this client published.
    pub no_local: bool,
    /// MQTT 5: keep the RETAIN flag of forwarded messages.
    pub retain_as_published: bool,
    /// MQTT 5: when retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl Subscription {
    /// A filter with a maximum QoS and the default options.
    #[must_use]
    pub fn new(filter: TopicFilter, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        }
    }
}

/// When a server sends retained messages for a new subscription (MQTT 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At each SUBSCRIBE; the only way of MQTT 3.1.1.
    #[default]
    OnSubscribe = 0,
    /// Only when the subscription did not exist.
    OnNewSubscription = 1,
    /// Never.
    Never = 2,
}

/// SUBACK and UNSUBACK: they share one layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// The exchange it answers.
    pub packet_id: PacketId,
    /// One for each filter, in order. Empty for an UNSUBACK of MQTT 3.1.1.
    pub reason_codes: Vec<ReasonCode>,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Identifies the exchange.
    pub packet_id: PacketId,
    /// At least one filter `[MQTT-3.10.3-2]`.
    pub filters: Vec<TopicFilter>,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disconnect {
    /// Why; normal disconnection in MQTT 3.1.1.
    pub reason_code: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// AUTH.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// Success, continue authentication or re-authenticate.
    pub reason_code: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Properties,
}
