//! The property section of an MQTT 5 packet (§2.2.2).

use super::error::{ill_formed_topic, malformed, protocol, protocol_as};
use super::reader::Reader;
use super::{DecodeError, Sender};
use crate::mqtt::properties::table::{self, Carrier, id};
use crate::mqtt::{Properties, PropertySet, QoS, ReasonCode, Topic, TopicError, Version};

/// Reads the property length and the properties, and checks what concerns them alone. In MQTT 3.1.1
/// there are none.
pub(super) fn decode_properties(
    reader: &mut Reader<'_>,
    carrier: Carrier,
) -> Result<Properties, DecodeError> {
    if reader.version == Version::V311 {
        return Ok(Properties::EMPTY);
    }
    let length = reader.variable("the property length")? as usize;
    if length == 0 {
        return Ok(Properties::EMPTY);
    }
    let section = reader.part(length, "the property section")?;
    decode_section(section, carrier).map(Properties::from)
}

fn decode_section(mut section: Reader<'_>, carrier: Carrier) -> Result<PropertySet, DecodeError> {
    let mut set = PropertySet::default();
    let mut seen = 0_u64;
    while !section.is_empty() {
        let identifier = section.variable("a property identifier")?;
        let Some((property, clause)) = u8::try_from(identifier)
            .ok()
            .and_then(|property| Some((property, carrier.section(property)?)))
        else {
            return Err(not_allowed(identifier, carrier));
        };
        let bit = 1 << property;
        if seen & bit != 0 && !may_repeat(property, carrier) {
            return Err(protocol(
                clause,
                format!("{} is there twice", name(property)),
            ));
        }
        seen |= bit;
        decode_property(&mut section, property, clause, &mut set)?;
    }
    check_direction(&section, carrier, &set)?;
    check_authentication(carrier, &set)?;
    Ok(set)
}

fn decode_property(
    section: &mut Reader<'_>,
    property: u8,
    clause: &'static str,
    set: &mut PropertySet,
) -> Result<(), DecodeError> {
    let what = name(property);
    match property {
        id::PAYLOAD_FORMAT_INDICATOR => {
            set.payload_format_indicator = Some(flag(section, what, clause)?);
        }
        id::MESSAGE_EXPIRY_INTERVAL => set.message_expiry_interval = Some(section.u32(what)?),
        id::CONTENT_TYPE => set.content_type = Some(section.text(what)?),
        id::RESPONSE_TOPIC => {
            let text = section.text(what)?;
            if let Err(wrong) = Topic::new(text.clone()) {
                return Err(response_topic(section, wrong));
            }
            set.response_topic = Some(text);
        }
        id::CORRELATION_DATA => set.correlation_data = Some(section.binary(what)?),
        id::SUBSCRIPTION_IDENTIFIER => {
            let value = section.variable(what)?;
            if value == 0 {
                return Err(zero(what, clause));
            }
            set.subscription_identifiers.push(value);
        }
        id::SESSION_EXPIRY_INTERVAL => set.session_expiry_interval = Some(section.u32(what)?),
        id::ASSIGNED_CLIENT_IDENTIFIER => {
            set.assigned_client_identifier = Some(section.text(what)?);
        }
        id::SERVER_KEEP_ALIVE => set.server_keep_alive = Some(section.u16(what)?),
        id::AUTHENTICATION_METHOD => set.authentication_method = Some(section.text(what)?),
        id::AUTHENTICATION_DATA => set.authentication_data = Some(section.binary(what)?),
        id::REQUEST_PROBLEM_INFORMATION => {
            set.request_problem_information = Some(flag(section, what, clause)?);
        }
        id::WILL_DELAY_INTERVAL => set.will_delay_interval = Some(section.u32(what)?),
        id::REQUEST_RESPONSE_INFORMATION => {
            set.request_response_information = Some(flag(section, what, clause)?);
        }
        id::RESPONSE_INFORMATION => set.response_information = Some(section.text(what)?),
        id::SERVER_REFERENCE => set.server_reference = Some(section.text(what)?),
        id::REASON_STRING => set.reason_string = Some(section.text(what)?),
        id::RECEIVE_MAXIMUM => {
            let value = section.u16(what)?;
            if value == 0 {
                return Err(zero(what, clause));
            }
            set.receive_maximum = Some(value);
        }
        id::TOPIC_ALIAS_MAXIMUM => set.topic_alias_maximum = Some(section.u16(what)?),
        id::TOPIC_ALIAS => {
            let value = section.u16(what)?;
            if value == 0 {
                // §3.3.4 names the code for it.
                return Err(protocol_as(
                    ReasonCode::TOPIC_ALIAS_INVALID,
                    "MQTT-3.3.2-8",
                    "the topic alias is 0",
                ));
            }
            set.topic_alias = Some(value);
        }
        id::MAXIMUM_QOS => {
            set.maximum_qos = Some(if flag(section, what, clause)? {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            });
        }
        id::RETAIN_AVAILABLE => set.retain_available = Some(flag(section, what, clause)?),
        id::USER_PROPERTY => {
            let key = section.text("the name of a user property")?;
            let value = section.text("the value of a user property")?;
            set.user_properties.push((key, value));
        }
        id::MAXIMUM_PACKET_SIZE => {
            let value = section.u32(what)?;
            if value == 0 {
                return Err(zero(what, clause));
            }
            set.maximum_packet_size = Some(value);
        }
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
            set.wildcard_subscription_available = Some(flag(section, what, clause)?);
        }
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => {
            set.subscription_identifier_available = Some(flag(section, what, clause)?);
        }
        // The carrier's table knows the identifier, so it is the one that is left.
        _ => set.shared_subscription_available = Some(flag(section, what, clause)?),
    }
    Ok(())
}

/// User properties repeat everywhere; subscription identifiers in PUBLISH, one for each subscription
/// that matched (§3.3.2.3.8).
fn may_repeat(property: u8, carrier: Carrier) -> bool {
    property == id::USER_PROPERTY
        || property == id::SUBSCRIPTION_IDENTIFIER && carrier == Carrier::Publish
}

fn check_direction(
    section: &Reader<'_>,
    carrier: Carrier,
    set: &PropertySet,
) -> Result<(), DecodeError> {
    match (carrier, section.sender) {
        (Carrier::Publish, Sender::Client) if !set.subscription_identifiers.is_empty() => {
            Err(protocol(
                "MQTT-3.3.4-6",
                "a client's PUBLISH carries a subscription identifier",
            ))
        }
        (Carrier::Disconnect, Sender::Server) if set.session_expiry_interval.is_some() => {
            Err(protocol(
                "MQTT-3.14.2-2",
                "a server's DISCONNECT carries a session expiry interval",
            ))
        }
        _ => Ok(()),
    }
}

fn check_authentication(carrier: Carrier, set: &PropertySet) -> Result<(), DecodeError> {
    if set.authentication_method.is_some() || set.authentication_data.is_none() {
        return Ok(());
    }
    // AUTH cannot be without the method at all, which its own decoder sees to.
    let clause = match carrier {
        Carrier::Connect => "§3.1.2.11.10",
        Carrier::ConnAck => "MQTT-4.12.0-5",
        _ => return Ok(()),
    };
    Err(protocol(
        clause,
        format!(
            "{} carries authentication data without a method",
            carrier.name()
        ),
    ))
}

/// A byte that is 0 or 1.
fn flag(
    section: &mut Reader<'_>,
    what: &'static str,
    clause: &'static str,
) -> Result<bool, DecodeError> {
    match section.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(protocol(
            clause,
            format!("{what} is {value}; it may be 0 or 1"),
        )),
    }
}

fn name(property: u8) -> &'static str {
    table::name(property).unwrap_or("a property")
}

#[cold]
fn zero(what: &'static str, clause: &'static str) -> DecodeError {
    protocol(clause, format!("{what} is 0"))
}

#[cold]
fn response_topic(section: &Reader<'_>, wrong: TopicError) -> DecodeError {
    let mut error = ill_formed_topic("the response topic", wrong, section.version);
    if wrong == TopicError::Wildcard {
        error.clause = "MQTT-3.3.2-14";
    }
    error
}

#[cold]
fn not_allowed(identifier: u32, carrier: Carrier) -> DecodeError {
    let message = match u8::try_from(identifier).ok().and_then(table::name) {
        Some(name) => format!("{} may not carry the property {name}", carrier.name()),
        None => format!("0x{identifier:02x} is no property"),
    };
    malformed("§2.2.2.2", message)
}
