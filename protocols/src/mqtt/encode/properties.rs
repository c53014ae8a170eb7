//! Properties: measured and checked, then written, over one listing of them.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::{EncodeError, put_variable, variable_len};
use crate::mqtt::properties::SUBSCRIPTION_IDENTIFIER_MAX;
use crate::mqtt::properties::table::{self, Carrier, id};
use crate::mqtt::{Properties, PropertySet, QoS, Topic};

/// A property's value by its type on the wire.
#[derive(Clone, Copy)]
enum Value<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(&'a ByteString),
    Binary(&'a Bytes),
    Pair(&'a ByteString, &'a ByteString),
}

/// The bytes of the properties without the property length, if this packet may carry them.
#[inline]
pub(super) fn measure(properties: &Properties, carrier: Carrier) -> Result<usize, EncodeError> {
    match properties.as_set() {
        None => Ok(0),
        Some(set) => measure_set(set, carrier),
    }
}

fn measure_set(set: &PropertySet, carrier: Carrier) -> Result<usize, EncodeError> {
    let mut length = 0;
    for_each(set, |property, value| {
        check(property, value, carrier)?;
        length += 1 + value.len();
        Ok(())
    })?;
    if carrier == Carrier::Subscribe && set.subscription_identifiers.len() > 1 {
        return Err(EncodeError::Forbidden {
            clause: "§3.8.2.1.2",
            what: "SUBSCRIBE carries one subscription identifier at the most",
        });
    }
    if matches!(carrier, Carrier::Connect | Carrier::ConnAck)
        && set.authentication_data.is_some()
        && set.authentication_method.is_none()
    {
        return Err(EncodeError::Forbidden {
            clause: "§3.1.2.11.10",
            what: "authentication data needs an authentication method",
        });
    }
    Ok(length)
}

/// Appends the properties without the property length.
pub(super) fn write(properties: &Properties, output: &mut BytesMut) {
    let Some(set) = properties.as_set() else {
        return;
    };
    let Ok(()) = for_each::<Infallible>(set, |property, value| {
        output.put_u8(property);
        value.write(output);
        Ok(())
    });
}

/// Refuses a text that its length prefix cannot hold, or that MQTT does not allow.
pub(super) fn check_text(field: &'static str, text: &str) -> Result<(), EncodeError> {
    check_len(field, text.len())?;
    if text.as_bytes().contains(&0) {
        return Err(EncodeError::NulCharacter { field });
    }
    Ok(())
}

/// Refuses a field that its length prefix cannot hold.
pub(super) fn check_len(field: &'static str, length: usize) -> Result<(), EncodeError> {
    if length > usize::from(u16::MAX) {
        return Err(EncodeError::FieldTooLong { field, length });
    }
    Ok(())
}

/// Appends a field with its length in front; the length was checked.
pub(super) fn put_field(output: &mut BytesMut, field: &[u8]) {
    output.put_u16(field.len() as u16);
    output.put_slice(field);
}

fn check(property: u8, value: Value<'_>, carrier: Carrier) -> Result<(), EncodeError> {
    let name = table::name(property).unwrap_or("property");
    if carrier.section(property).is_none() {
        return Err(EncodeError::PropertyNotAllowed {
            packet: carrier.name(),
            property: name,
        });
    }
    let is_in_range = match (property, value) {
        (id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS, Value::Two(value)) => value != 0,
        (id::MAXIMUM_PACKET_SIZE, Value::Four(value)) => value != 0,
        (id::SUBSCRIPTION_IDENTIFIER, Value::Variable(value)) => {
            (1..=SUBSCRIPTION_IDENTIFIER_MAX).contains(&value)
        }
        (id::MAXIMUM_QOS, Value::Byte(value)) => value <= 1,
        (id::RESPONSE_TOPIC, Value::Text(text)) => Topic::new(text.clone()).is_ok(),
        _ => true,
    };
    if !is_in_range {
        return Err(EncodeError::PropertyValue { property: name });
    }
    match value {
        Value::Text(text) => check_text(name, text),
        Value::Binary(bytes) => check_len(name, bytes.len()),
        Value::Pair(key, value) => {
            check_text("the name of a user property", key)?;
            check_text("the value of a user property", value)
        }
        _ => Ok(()),
    }
}

impl Value<'_> {
    fn len(self) -> usize {
        match self {
            Self::Byte(_) => 1,
            Self::Two(_) => 2,
            Self::Four(_) => 4,
            Self::Variable(value) => variable_len(value as usize),
            Self::Text(text) => 2 + text.len(),
            Self::Binary(bytes) => 2 + bytes.len(),
            Self::Pair(key, value) => 4 + key.len() + value.len(),
        }
    }

    fn write(self, output: &mut BytesMut) {
        match self {
            Self::Byte(value) => output.put_u8(value),
            Self::Two(value) => output.put_u16(value),
            Self::Four(value) => output.put_u32(value),
            Self::Variable(value) => put_variable(output, value as usize),
            Self::Text(text) => put_field(output, text.as_bytes()),
            Self::Binary(bytes) => put_field(output, bytes),
            Self::Pair(key, value) => {
                put_field(output, key.as_bytes());
                put_field(output, value.as_bytes());
            }
        }
    }
}

/// Calls `each` for every property that is set: those that are there once, then those that repeat.
fn for_each<E>(
    set: &PropertySet,
    mut each: impl FnMut(u8, Value<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let flag = |value: &Option<bool>| value.map(|value| Value::Byte(value.into()));
    let two = |value: &Option<u16>| value.map(Value::Two);
    let four = |value: &Option<u32>| value.map(Value::Four);
    let single = [
        (
            id::PAYLOAD_FORMAT_INDICATOR,
            flag(&set.payload_format_indicator),
        ),
        (
            id::MESSAGE_EXPIRY_INTERVAL,
            four(&set.message_expiry_interval),
        ),
        (id::CONTENT_TYPE, set.content_type.as_ref().map(Value::Text)),
        (
            id::RESPONSE_TOPIC,
            set.response_topic.as_ref().map(Value::Text),
        ),
        (
            id::CORRELATION_DATA,
            set.correlation_data.as_ref().map(Value::Binary),
        ),
        (
            id::SESSION_EXPIRY_INTERVAL,
            four(&set.session_expiry_interval),
        ),
        (
            id::ASSIGNED_CLIENT_IDENTIFIER,
            set.assigned_client_identifier.as_ref().map(Value::Text),
        ),
        (id::SERVER_KEEP_ALIVE, two(&set.server_keep_alive)),
        (
            id::AUTHENTICATION_METHOD,
            set.authentication_method.as_ref().map(Value::Text),
        ),
        (
            id::AUTHENTICATION_DATA,
            set.authentication_data.as_ref().map(Value::Binary),
        ),
        (
            id::REQUEST_PROBLEM_INFORMATION,
            flag(&set.request_problem_information),
        ),
        (id::WILL_DELAY_INTERVAL, four(&set.will_delay_interval)),
        (
            id::REQUEST_RESPONSE_INFORMATION,
            flag(&set.request_response_information),
        ),
        (
            id::RESPONSE_INFORMATION,
            set.response_information.as_ref().map(Value::Text),
        ),
        (
            id::SERVER_REFERENCE,
            set.server_reference.as_ref().map(Value::Text),
        ),
        (
            id::REASON_STRING,
            set.reason_string.as_ref().map(Value::Text),
        ),
        (id::RECEIVE_MAXIMUM, two(&set.receive_maximum)),
        (id::TOPIC_ALIAS_MAXIMUM, two(&set.topic_alias_maximum)),
        (id::TOPIC_ALIAS, two(&set.topic_alias)),
        (
            id::MAXIMUM_QOS,
            set.maximum_qos.map(|qos: QoS| Value::Byte(qos as u8)),
        ),
        (id::RETAIN_AVAILABLE, flag(&set.retain_available)),
        (id::MAXIMUM_PACKET_SIZE, four(&set.maximum_packet_size)),
        (
            id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            flag(&set.wildcard_subscription_available),
        ),
        (
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            flag(&set.subscription_identifier_available),
        ),
        (
            id::SHARED_SUBSCRIPTION_AVAILABLE,
            flag(&set.shared_subscription_available),
        ),
    ];
    for (property, value) in single {
        if let Some(value) = value {
            each(property, value)?;
        }
    }
    for &identifier in &set.subscription_identifiers {
        each(id::SUBSCRIPTION_IDENTIFIER, Value::Variable(identifier))?;
    }
    for (key, value) in &set.user_properties {
        each(id::USER_PROPERTY, Value::Pair(key, value))?;
    }
    Ok(())
}
