//! PUBLISH.

use super::error::protocol;
use super::properties::decode_properties;
use super::reader::Reader;
use super::{DecodeError, Sender};
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{Publish, QoS, Version};

/// `first` is the packet's first byte, whose flags were checked.
pub(super) fn decode(mut reader: Reader<'_>, first: u8) -> Result<Publish, DecodeError> {
    let qos = match (first >> 1) & 3 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let topic = if reader.version == Version::V5 && reader.peek_u16() == Some(0) {
        reader.u16("the topic name")?;
        None
    } else {
        Some(reader.topic("the topic name")?)
    };
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        let v5 = if reader.sender == Sender::Server {
            "MQTT-2.2.1-4"
        } else {
            "MQTT-2.2.1-3"
        };
        Some(reader.packet_id("MQTT-2.3.1-1", v5)?)
    };
    let properties = decode_properties(&mut reader, Carrier::Publish)?;
    if topic.is_none() && properties.topic_alias.is_none() {
        return Err(protocol(
            "§3.3.2.1",
            "PUBLISH has neither a topic name nor a topic alias",
        ));
    }
    Ok(Publish {
        dup: first & 0b1000 != 0,
        qos,
        retain: first & 1 != 0,
        topic,
        packet_id,
        payload: reader.rest(),
        properties,
    })
}
