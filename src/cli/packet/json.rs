//! The JSON shape of a packet: the wire's values, in the order of the table that documents it.
//!
//! A key that a version does not have is `None` there; when read, it is an error to give it.

use bytestring::ByteString;
use paquebot_protocols::mqtt::{
    Acknowledgement, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, Publish,
    QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, Topic, TopicFilter,
    Unsubscribe, Version, Will,
};
use serde::{Deserialize, Serialize};

use properties::PropertiesJson;
use value::{Bit, Hex};

mod properties;
mod value;

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "UPPERCASE")]
pub(super) enum PacketJson {
    #[serde(alias = "connect")]
    Connect(Box<ConnectJson>),
    #[serde(alias = "connack")]
    ConnAck(ConnAckJson),
    #[serde(alias = "publish")]
    Publish(PublishJson),
    #[serde(alias = "puback")]
    PubAck(AckJson),
    #[serde(alias = "pubrec")]
    PubRec(AckJson),
    #[serde(alias = "pubrel")]
    PubRel(AckJson),
    #[serde(alias = "pubcomp")]
    PubComp(AckJson),
    #[serde(alias = "subscribe")]
    Subscribe(SubscribeJson),
    #[serde(alias = "suback")]
    SubAck(SubAckJson),
    #[serde(alias = "unsubscribe")]
    Unsubscribe(UnsubscribeJson),
    #[serde(alias = "unsuback")]
    UnsubAck(SubAckJson),
    #[serde(alias = "pingreq")]
    PingReq(Nothing),
    #[serde(alias = "pingresp")]
    PingResp(Nothing),
    #[serde(alias = "disconnect")]
    Disconnect(ReasonJson),
    #[serde(alias = "auth")]
    Auth(ReasonJson),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectJson {
    #[serde(default = "protocol_name")]
    protocol_name: String,
    protocol_level: Option<u8>,
    #[serde(default = "Bit::one")]
    clean_start: Bit,
    #[serde(default)]
    keep_alive: u16,
    client_id: String,
    will: Option<WillJson>,
    username: Option<String>,
    password: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

fn protocol_name() -> String {
    "MQTT".to_owned()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WillJson {
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: Bit,
    topic: String,
    #[serde(default)]
    payload: Hex,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnAckJson {
    #[serde(default)]
    session_present: Bit,
    #[serde(default)]
    reason_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishJson {
    #[serde(default)]
    dup: Bit,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: Bit,
    /// Empty when a topic alias stands for it.
    #[serde(default)]
    topic: String,
    packet_id: Option<u16>,
    #[serde(default)]
    payload: Hex,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AckJson {
    packet_id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscribeJson {
    packet_id: u16,
    filters: Vec<SubscriptionJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriptionJson {
    filter: String,
    #[serde(default)]
    qos: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_local: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_as_published: Option<Bit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_handling: Option<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubAckJson {
    packet_id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_codes: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnsubscribeJson {
    packet_id: u16,
    filters: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

/// DISCONNECT and AUTH.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasonJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl PacketJson {
    pub(super) fn new(packet: &Packet, version: Version) -> Self {
        match packet {
            Packet::Connect(packet) => Self::Connect(Box::new(ConnectJson::new(packet))),
            Packet::ConnAck(packet) => Self::ConnAck(ConnAckJson {
                session_present: Bit(packet.session_present),
                reason_code: packet.reason_code.0,
                properties: PropertiesJson::new(&packet.properties, version),
            }),
            Packet::Publish(packet) => Self::Publish(PublishJson::new(packet, version)),
            Packet::PubAck(ack) => Self::PubAck(AckJson::new(ack, version)),
            Packet::PubRec(ack) => Self::PubRec(AckJson::new(ack, version)),
            Packet::PubRel(ack) => Self::PubRel(AckJson::new(ack, version)),
            Packet::PubComp(ack) => Self::PubComp(AckJson::new(ack, version)),
            Packet::Subscribe(packet) => Self::Subscribe(SubscribeJson {
                packet_id: packet.packet_id.value(),
                filters: packet
                    .filters
                    .iter()
                    .map(|subscription| SubscriptionJson::new(subscription, version))
                    .collect(),
                properties: PropertiesJson::of_subscribe(&packet.properties, version),
            }),
            Packet::SubAck(ack) => {
                Self::SubAck(SubAckJson::new(ack, Some(&ack.reason_codes), version))
            }
            Packet::Unsubscribe(packet) => Self::Unsubscribe(UnsubscribeJson {
                packet_id: packet.packet_id.value(),
                filters: packet.filters.iter().map(ToString::to_string).collect(),
                properties: PropertiesJson::new(&packet.properties, version),
            }),
            Packet::UnsubAck(ack) => {
                let codes = (version == Version::V5).then_some(&ack.reason_codes[..]);
                Self::UnsubAck(SubAckJson::new(ack, codes, version))
            }
            Packet::PingReq => Self::PingReq(Nothing {}),
            Packet::PingResp => Self::PingResp(Nothing {}),
            Packet::Disconnect(packet) => Self::Disconnect(ReasonJson::new(
                packet.reason_code,
                &packet.properties,
                version,
            )),
            Packet::Auth(packet) => Self::Auth(ReasonJson::new(
                packet.reason_code,
                &packet.properties,
                version,
            )),
        }
    }

    /// The packet, or what is wrong with a key. Rules between the fields are the encoder's.
    pub(super) fn into_packet(self, version: Version) -> Result<Packet, String> {
        Ok(match self {
            Self::Connect(json) => Packet::Connect(Box::new(json.into_connect(version)?)),
            Self::ConnAck(json) => Packet::ConnAck(ConnAck {
                session_present: json.session_present.0,
                reason_code: ReasonCode(json.reason_code),
                properties: PropertiesJson::into_properties(json.properties, version)?,
            }),
            Self::Publish(json) => Packet::Publish(json.into_publish(version)?),
            Self::PubAck(json) => Packet::PubAck(json.into_ack(version)?),
            Self::PubRec(json) => Packet::PubRec(json.into_ack(version)?),
            Self::PubRel(json) => Packet::PubRel(json.into_ack(version)?),
            Self::PubComp(json) => Packet::PubComp(json.into_ack(version)?),
            Self::Subscribe(json) => Packet::Subscribe(Subscribe {
                packet_id: packet_id(json.packet_id)?,
                filters: json
                    .filters
                    .into_iter()
                    .map(|subscription| subscription.into_subscription(version))
                    .collect::<Result<_, _>>()?,
                properties: PropertiesJson::into_properties(json.properties, version)?,
            }),
            Self::SubAck(json) => {
                if json.reason_codes.is_none() {
                    return Err("missing key reason_codes".to_owned());
                }
                Packet::SubAck(json.into_suback(version)?)
            }
            Self::Unsubscribe(json) => Packet::Unsubscribe(Unsubscribe {
                packet_id: packet_id(json.packet_id)?,
                filters: json
                    .filters
                    .into_iter()
                    .map(filter)
                    .collect::<Result<_, _>>()?,
                properties: PropertiesJson::into_properties(json.properties, version)?,
            }),
            Self::UnsubAck(json) => {
                if json.reason_codes.is_some() {
                    only_v5("reason_codes", version)?;
                }
                Packet::UnsubAck(json.into_suback(version)?)
            }
            Self::PingReq(Nothing {}) => Packet::PingReq,
            Self::PingResp(Nothing {}) => Packet::PingResp,
            Self::Disconnect(json) => Packet::Disconnect(Disconnect {
                reason_code: reason_code(json.reason_code, version)?,
                properties: PropertiesJson::into_properties(json.properties, version)?,
            }),
            Self::Auth(json) => Packet::Auth(Auth {
                reason_code: reason_code(json.reason_code, version)?,
                properties: PropertiesJson::into_properties(json.properties, version)?,
            }),
        })
    }
}

impl ConnectJson {
    fn new(connect: &Connect) -> Self {
        let version = connect.version;
        Self {
            protocol_name: protocol_name(),
            protocol_level: Some(version.level()),
            clean_start: Bit(connect.clean_start),
            keep_alive: connect.keep_alive,
            client_id: connect.client_id.to_string(),
            will: connect.will.as_ref().map(|will| WillJson {
                qos: will.qos as u8,
                retain: Bit(will.retain),
                topic: will.topic.to_string(),
                payload: Hex(will.payload.clone()),
                properties: PropertiesJson::new(&will.properties, version),
            }),
            username: connect.username.as_ref().map(ToString::to_string),
            password: connect.password.clone().map(Hex),
            properties: PropertiesJson::new(&connect.properties, version),
        }
    }

    fn into_connect(self, version: Version) -> Result<Connect, String> {
        if self.protocol_name != protocol_name() {
            return Err(format!(
                "protocol_name is {:?}; it has to be MQTT",
                self.protocol_name
            ));
        }
        if let Some(level) = self.protocol_level
            && level != version.level()
        {
            return Err(format!(
                "protocol_level is {level}; that of MQTT {version} is {}",
                version.level()
            ));
        }
        let will = match self.will {
            None => None,
            Some(will) => Some(Will {
                qos: qos(will.qos)?,
                retain: will.retain.0,
                topic: topic(will.topic)?,
                payload: will.payload.0,
                properties: PropertiesJson::into_properties(will.properties, version)?,
            }),
        };
        Ok(Connect {
            version,
            clean_start: self.clean_start.0,
            keep_alive: self.keep_alive,
            client_id: self.client_id.into(),
            will,
            username: self.username.map(ByteString::from),
            password: self.password.map(|Hex(bytes)| bytes),
            properties: PropertiesJson::into_properties(self.properties, version)?,
        })
    }
}

impl PublishJson {
    fn new(publish: &Publish, version: Version) -> Self {
        Self {
            dup: Bit(publish.dup),
            qos: publish.qos as u8,
            retain: Bit(publish.retain),
            topic: publish
                .topic
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            packet_id: publish.packet_id.map(PacketId::value),
            payload: Hex(publish.payload.clone()),
            properties: PropertiesJson::new(&publish.properties, version),
        }
    }

    fn into_publish(self, version: Version) -> Result<Publish, String> {
        let is_by_alias = version == Version::V5 && self.topic.is_empty();
        Ok(Publish {
            dup: self.dup.0,
            qos: qos(self.qos)?,
            retain: self.retain.0,
            topic: if is_by_alias {
                None
            } else {
                Some(topic(self.topic)?)
            },
            packet_id: self.packet_id.map(packet_id).transpose()?,
            payload: self.payload.0,
            properties: PropertiesJson::into_properties(self.properties, version)?,
        })
    }
}

impl AckJson {
    fn new(ack: &Acknowledgement, version: Version) -> Self {
        Self {
            packet_id: ack.packet_id.value(),
            reason_code: (version == Version::V5).then_some(ack.reason_code.0),
            properties: PropertiesJson::new(&ack.properties, version),
        }
    }

    fn into_ack(self, version: Version) -> Result<Acknowledgement, String> {
        Ok(Acknowledgement {
            packet_id: packet_id(self.packet_id)?,
            reason_code: reason_code(self.reason_code, version)?,
            properties: PropertiesJson::into_properties(self.properties, version)?,
        })
    }
}

impl SubscriptionJson {
    fn new(subscription: &Subscription, version: Version) -> Self {
        let is_v5 = version == Version::V5;
        Self {
            filter: subscription.filter.to_string(),
            qos: subscription.qos as u8,
            no_local: is_v5.then_some(Bit(subscription.no_local)),
            retain_as_published: is_v5.then_some(Bit(subscription.retain_as_published)),
            retain_handling: is_v5.then_some(subscription.retain_handling as u8),
        }
    }

    fn into_subscription(self, version: Version) -> Result<Subscription, String> {
        let mut subscription = Subscription::new(filter(self.filter)?, qos(self.qos)?);
        if let Some(Bit(no_local)) = self.no_local {
            only_v5("no_local", version)?;
            subscription.no_local = no_local;
        }
        if let Some(Bit(retain_as_published)) = self.retain_as_published {
            only_v5("retain_as_published", version)?;
            subscription.retain_as_published = retain_as_published;
        }
        if let Some(value) = self.retain_handling {
            only_v5("retain_handling", version)?;
            subscription.retain_handling = match value {
                0 => RetainHandling::OnSubscribe,
                1 => RetainHandling::OnNewSubscription,
                2 => RetainHandling::Never,
                _ => return Err(format!("retain_handling is {value}; it may be 0, 1 or 2")),
            };
        }
        Ok(subscription)
    }
}

impl SubAckJson {
    fn new(ack: &SubAck, codes: Option<&[ReasonCode]>, version: Version) -> Self {
        Self {
            packet_id: ack.packet_id.value(),
            reason_codes: codes.map(|codes| codes.iter().map(|code| code.0).collect()),
            properties: PropertiesJson::new(&ack.properties, version),
        }
    }

    fn into_suback(self, version: Version) -> Result<SubAck, String> {
        let codes = self.reason_codes.unwrap_or_default();
        Ok(SubAck {
            packet_id: packet_id(self.packet_id)?,
            reason_codes: codes.into_iter().map(ReasonCode).collect(),
            properties: PropertiesJson::into_properties(self.properties, version)?,
        })
    }
}

impl ReasonJson {
    fn new(code: ReasonCode, properties: &Properties, version: Version) -> Self {
        Self {
            reason_code: (version == Version::V5).then_some(code.0),
            properties: PropertiesJson::new(properties, version),
        }
    }
}

fn qos(value: u8) -> Result<QoS, String> {
    QoS::from_u8(value).ok_or_else(|| format!("qos is {value}; it may be 0, 1 or 2"))
}

fn packet_id(value: u16) -> Result<PacketId, String> {
    PacketId::new(value).ok_or_else(|| "packet_id is 0; it may be 1 to 65535".to_owned())
}

fn topic(text: String) -> Result<Topic, String> {
    Topic::new(text).map_err(|wrong| format!("topic: {wrong}"))
}

fn filter(text: String) -> Result<TopicFilter, String> {
    TopicFilter::new(text).map_err(|wrong| format!("filter: {wrong}"))
}

fn reason_code(value: Option<u8>, version: Version) -> Result<ReasonCode, String> {
    match value {
        None => Ok(ReasonCode::SUCCESS),
        Some(value) => only_v5("reason_code", version).map(|()| ReasonCode(value)),
    }
}

/// Refuses a key that MQTT 3.1.1 does not have.
fn only_v5(key: &'static str, version: Version) -> Result<(), String> {
    match version {
        Version::V5 => Ok(()),
        Version::V311 => Err(format!("{key}: there is none in MQTT 3.1.1")),
    }
}
