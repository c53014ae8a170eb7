//! Packets to bytes.
//!
//! Each packet is checked and measured first, then written: what cannot be legal on the wire is
//! refused before a byte is appended.

use bytes::{BufMut, BytesMut};

use super::properties::table::Carrier;
use super::{Packet, PacketId, Properties, QoS, ReasonCode, Topic, Version};

mod measure;
mod properties;
mod publish;
mod write;

/// The most bytes that can follow the fixed header (MQTT 5 §1.5.5).
pub const REMAINING_LENGTH_MAX: usize = 268_435_455;

/// Why a packet cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The packet would exceed the 268,435,455 bytes that a remaining length can say.
    #[error("the packet's remaining length would be {length} bytes; the limit is 268,435,455")]
    TooLong {
        /// The remaining length it would have.
        length: usize,
    },
    /// A text or binary field has more bytes than its length prefix can say.
    #[error("{field} has {length} bytes; the limit is 65,535")]
    FieldTooLong {
        /// Which field.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A text holds U+0000 `[MQTT-1.5.4-2]`.
    #[error("{field} holds the character U+0000")]
    NulCharacter {
        /// Which field.
        field: &'static str,
    },
    /// The version of the connection has no place for it: AUTH, properties, reason codes or MQTT 5's
    /// subscription options on MQTT 3.1.1, or a CONNECT of the other version.
    #[error("MQTT {version} has no {what}")]
    NotInVersion {
        /// What the version does not have.
        what: &'static str,
        /// The version of the connection.
        version: Version,
    },
    /// A PUBLISH of QoS 1 or 2 without a packet identifier `[MQTT-2.2.1-3]`.
    #[error("a PUBLISH of QoS 1 or 2 needs a packet identifier")]
    PacketIdMissing,
    /// A PUBLISH of QoS 0 with a packet identifier `[MQTT-2.2.1-2]`.
    #[error("a PUBLISH of QoS 0 has no packet identifier")]
    PacketIdUnexpected,
    /// The packet has no such reason code.
    #[error("{packet} may not carry the reason code {code}")]
    ReasonCode {
        /// Name of the packet.
        packet: &'static str,
        /// The code.
        code: ReasonCode,
    },
    /// The packet may not carry the property (MQTT 5, Table 2-4).
    #[error("{packet} may not carry the property {property}")]
    PropertyNotAllowed {
        /// Name of the packet.
        packet: &'static str,
        /// Name of the property.
        property: &'static str,
    },
    /// The property's value is outside of what the specification allows.
    #[error("the value of the property {property} is not allowed")]
    PropertyValue {
        /// Name of the property.
        property: &'static str,
    },
    /// Another rule is broken.
    #[error("{what} ({clause})")]
    Forbidden {
        /// The normative statement or section.
        clause: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

/// Appends `packet` in its shortest legal form. On an error `output` is as it was.
///
/// Whatever is written, [`Decoder`](super::Decoder) reads back as an equal packet.
///
/// # Errors
/// A packet that the version has not (AUTH in MQTT 3.1.1), or whose fields cannot be written.
pub fn encode(packet: &Packet, version: Version, output: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        return encode_publish(&PublishRef::from(publish), version, output);
    }
    if let Some(bytes) = write::plain_acknowledgement(packet) {
        output.put_slice(&bytes);
        return Ok(());
    }
    let length = remaining_length(packet, version)?;
    output.reserve(1 + variable_len(length) + length);
    output.put_u8(write::first_byte(packet));
    put_variable(output, length);
    let start = output.len();
    write::body(packet, version, output);
    debug_assert_eq!(output.len() - start, length, "{packet:?}");
    Ok(())
}

/// How many bytes [`encode`] would append.
///
/// # Errors
/// Those of [`encode`].
pub fn encoded_len(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    let length = remaining_length(packet, version)?;
    Ok(1 + variable_len(length) + length)
}

/// A PUBLISH in borrowed parts, so that a sender need not build a [`Packet`] for each message.
#[derive(Debug, Clone, Copy)]
pub struct PublishRef<'a> {
    /// Set on a redelivery; never at QoS 0 `[MQTT-3.3.1-2]`.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// The topic name; `None` on MQTT 5 when a topic alias stands for it.
    pub topic: Option<&'a Topic>,
    /// Present exactly when the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// The application message.
    pub payload: &'a [u8],
    /// MQTT 5 properties.
    pub properties: &'a Properties,
}

impl<'a> From<&'a super::Publish> for PublishRef<'a> {
    fn from(publish: &'a super::Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.as_ref(),
            packet_id: publish.packet_id,
            payload: &publish.payload,
            properties: &publish.properties,
        }
    }
}

/// Appends a PUBLISH. On an error `output` is as it was.
///
/// # Errors
/// Those of [`encode`].
#[inline(always)]
pub fn encode_publish(
    publish: &PublishRef<'_>,
    version: Version,
    output: &mut BytesMut,
) -> Result<(), EncodeError> {
    if publish::frequent(publish, version, output) {
        return Ok(());
    }
    publish::any(publish, version, output)
}

/// Appends a PUBLISH but for its payload, which is to follow it from where it lies. On an error `output` is as it was.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_publish_head(
    publish: &PublishRef<'_>,
    version: Version,
    output: &mut BytesMut,
) -> Result<(), EncodeError> {
    publish::head(publish, version, output)
}

fn remaining_length(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    let length = match packet {
        Packet::Publish(publish) => measure::publish(&PublishRef::from(publish), version)?.0,
        packet => measure::body(packet, version)?,
    };
    if length > REMAINING_LENGTH_MAX {
        return Err(EncodeError::TooLong { length });
    }
    Ok(length)
}

/// How many bytes a variable byte integer takes.
const fn variable_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

fn put_variable(output: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        output.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    output.put_u8(value as u8);
}

/// The carrier of the packets that acknowledge.
const fn carrier_of(packet: &Packet) -> Carrier {
    match packet {
        Packet::Connect(_) => Carrier::Connect,
        Packet::ConnAck(_) => Carrier::ConnAck,
        Packet::Publish(_) => Carrier::Publish,
        Packet::PubAck(_) => Carrier::PubAck,
        Packet::PubRec(_) => Carrier::PubRec,
        Packet::PubRel(_) => Carrier::PubRel,
        Packet::PubComp(_) => Carrier::PubComp,
        Packet::Subscribe(_) => Carrier::Subscribe,
        Packet::SubAck(_) => Carrier::SubAck,
        Packet::Unsubscribe(_) => Carrier::Unsubscribe,
        Packet::UnsubAck(_) => Carrier::UnsubAck,
        Packet::Auth(_) => Carrier::Auth,
        Packet::Disconnect(_) | Packet::PingReq | Packet::PingResp => Carrier::Disconnect,
    }
}
