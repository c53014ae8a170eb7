//! PUBACK, PUBREC, PUBREL and PUBCOMP, and the reason codes of all packets.

use super::DecodeError;
use super::error::protocol;
use super::properties::decode_properties;
use super::reader::Reader;
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{Acknowledgement, Properties, ReasonCode, Version};

pub(super) fn decode(
    mut reader: Reader<'_>,
    carrier: Carrier,
) -> Result<Acknowledgement, DecodeError> {
    let packet_id = reader.packet_id("MQTT-2.3.1-6", "MQTT-2.2.1-5")?;
    if reader.is_empty() {
        return Ok(Acknowledgement::success(packet_id));
    }
    if reader.version == Version::V311 {
        reader.finish()?;
    }
    let reason_code = reason_code(&mut reader, carrier)?;
    // Below four bytes of remaining length there is no property length (§3.4.2.2.1).
    let properties = if reader.is_empty() {
        Properties::EMPTY
    } else {
        decode_properties(&mut reader, carrier)?
    };
    reader.finish()?;
    Ok(Acknowledgement {
        packet_id,
        reason_code,
        properties,
    })
}

/// A reason code of MQTT 5, one of those that this sender may put into this packet.
pub(super) fn reason_code(
    reader: &mut Reader<'_>,
    carrier: Carrier,
) -> Result<ReasonCode, DecodeError> {
    let code = ReasonCode(reader.u8("the reason code")?);
    check_reason_code(reader, carrier, code)?;
    Ok(code)
}

/// As [`reason_code`], for a code at hand.
pub(super) fn check_reason_code(
    reader: &Reader<'_>,
    carrier: Carrier,
    code: ReasonCode,
) -> Result<(), DecodeError> {
    match code.sender_in(carrier) {
        Some(sender) if reader.sender.may_send(sender) => Ok(()),
        Some(sender) => Err(protocol(
            clause(carrier),
            format!("{} with {code} is only for a {sender}", carrier.name()),
        )),
        None => Err(protocol(
            clause(carrier),
            format!("0x{:02x} is no reason code of {}", code.0, carrier.name()),
        )),
    }
}

/// The statement that fixes the codes of a packet.
const fn clause(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::ConnAck => "MQTT-3.2.2-8",
        Carrier::PubAck => "MQTT-3.4.2-1",
        Carrier::PubRec => "MQTT-3.5.2-1",
        Carrier::PubRel => "MQTT-3.6.2-1",
        Carrier::PubComp => "MQTT-3.7.2-1",
        Carrier::SubAck => "MQTT-3.9.3-2",
        Carrier::UnsubAck => "MQTT-3.11.3-2",
        Carrier::Disconnect => "MQTT-3.14.2-1",
        Carrier::Auth => "MQTT-3.15.2-1",
        Carrier::Connect
        | Carrier::Will
        | Carrier::Publish
        | Carrier::Subscribe
        | Carrier::Unsubscribe => "§2.4",
    }
}
