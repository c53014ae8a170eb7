//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use super::DecodeError;
use super::acknowledge::check_reason_code;
use super::error::{malformed, protocol};
use super::properties::decode_properties;
use super::reader::Reader;
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{
    Properties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, TopicFilter,
    Unsubscribe, Version,
};

pub(super) fn decode(mut reader: Reader<'_>) -> Result<Subscribe, DecodeError> {
    let packet_id = reader.packet_id("MQTT-2.3.1-1", "MQTT-2.2.1-3")?;
    let properties = decode_properties(&mut reader, Carrier::Subscribe)?;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.filter("a topic filter")?;
        let options = reader.u8("the subscription options")?;
        filters.push(match reader.version {
            Version::V311 => subscription_v311(filter, options)?,
            Version::V5 => subscription_v5(filter, options)?,
        });
    }
    if filters.is_empty() {
        return Err(protocol(
            reader.clause("MQTT-3.8.3-3", "MQTT-3.8.3-2"),
            "SUBSCRIBE has no topic filter",
        ));
    }
    Ok(Subscribe {
        packet_id,
        filters,
        properties,
    })
}

pub(super) fn decode_unsubscribe(mut reader: Reader<'_>) -> Result<Unsubscribe, DecodeError> {
    let packet_id = reader.packet_id("MQTT-2.3.1-1", "MQTT-2.2.1-3")?;
    let properties = decode_properties(&mut reader, Carrier::Unsubscribe)?;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.filter("a topic filter")?);
    }
    if filters.is_empty() {
        return Err(protocol("MQTT-3.10.3-2", "UNSUBSCRIBE has no topic filter"));
    }
    Ok(Unsubscribe {
        packet_id,
        filters,
        properties,
    })
}

pub(super) fn decode_suback(mut reader: Reader<'_>) -> Result<SubAck, DecodeError> {
    let packet_id = reader.packet_id("MQTT-2.3.1-7", "MQTT-2.2.1-6")?;
    let properties = decode_properties(&mut reader, Carrier::SubAck)?;
    let reason_codes = reason_codes(&mut reader, Carrier::SubAck)?;
    if reason_codes.is_empty() {
        return Err(protocol("MQTT-3.9.3-1", "SUBACK has no reason code"));
    }
    Ok(SubAck {
        packet_id,
        reason_codes,
        properties,
    })
}

pub(super) fn decode_unsuback(mut reader: Reader<'_>) -> Result<SubAck, DecodeError> {
    let packet_id = reader.packet_id("MQTT-2.3.1-7", "MQTT-2.2.1-6")?;
    if reader.version == Version::V311 {
        reader.finish()?;
        return Ok(SubAck {
            packet_id,
            reason_codes: Vec::new(),
            properties: Properties::EMPTY,
        });
    }
    let properties = decode_properties(&mut reader, Carrier::UnsubAck)?;
    let reason_codes = reason_codes(&mut reader, Carrier::UnsubAck)?;
    if reason_codes.is_empty() {
        return Err(protocol("MQTT-3.11.3-1", "UNSUBACK has no reason code"));
    }
    Ok(SubAck {
        packet_id,
        reason_codes,
        properties,
    })
}

fn subscription_v311(filter: TopicFilter, options: u8) -> Result<Subscription, DecodeError> {
    match QoS::from_u8(options) {
        Some(qos) => Ok(Subscription::new(filter, qos)),
        None => Err(malformed(
            "MQTT-3.8.3-4",
            format!("the requested QoS byte is 0x{options:02x}; it may be 0, 1 or 2"),
        )),
    }
}

fn subscription_v5(filter: TopicFilter, options: u8) -> Result<Subscription, DecodeError> {
    if options & 0xc0 != 0 {
        return Err(malformed(
            "MQTT-3.8.3-5",
            "a reserved bit of the subscription options is set",
        ));
    }
    let qos = QoS::from_u8(options & 0x03)
        .ok_or_else(|| protocol("§3.8.3.1", "the maximum QoS of a subscription is 3"))?;
    let retain_handling = match (options >> 4) & 0x03 {
        0 => RetainHandling::OnSubscribe,
        1 => RetainHandling::OnNewSubscription,
        2 => RetainHandling::Never,
        _ => {
            return Err(protocol(
                "§3.8.3.1",
                "the retain handling of a subscription is 3",
            ));
        }
    };
    let no_local = options & 0x04 != 0;
    if no_local && filter.shared().is_some() {
        return Err(protocol(
            "MQTT-3.8.3-4",
            "No Local is set on a shared subscription",
        ));
    }
    Ok(Subscription {
        filter,
        qos,
        no_local,
        retain_as_published: options & 0x08 != 0,
        retain_handling,
    })
}

fn reason_codes(reader: &mut Reader<'_>, carrier: Carrier) -> Result<Vec<ReasonCode>, DecodeError> {
    let codes: Vec<ReasonCode> = reader.rest().iter().copied().map(ReasonCode).collect();
    for &code in &codes {
        match reader.version {
            Version::V5 => check_reason_code(reader, carrier, code)?,
            Version::V311 if matches!(code.0, 0..=2 | 0x80) => {}
            Version::V311 => {
                return Err(protocol(
                    "MQTT-3.9.3-2",
                    format!("the return code 0x{:02x} of SUBACK is reserved", code.0),
                ));
            }
        }
    }
    Ok(codes)
}
