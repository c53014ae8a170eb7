//! What may be written, and how long it is.

use super::properties::{check_len, check_text, measure};
use super::{EncodeError, PublishRef, REMAINING_LENGTH_MAX, carrier_of, variable_len};
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{
    Acknowledgement, Auth, ConnAck, Connect, Disconnect, Packet, Properties, QoS, ReasonCode,
    RetainHandling, SubAck, Subscribe, Subscription, TopicFilter, Unsubscribe, Version, Will,
};

/// Remaining length and property bytes of a PUBLISH.
#[inline]
pub(super) fn publish(
    publish: &PublishRef<'_>,
    version: Version,
) -> Result<(usize, usize), EncodeError> {
    let packet_id_len = match (publish.qos, publish.packet_id) {
        (QoS::AtMostOnce, None) if publish.dup => {
            return Err(forbidden("MQTT-3.3.1-2", "PUBLISH has DUP set at QoS 0"));
        }
        (QoS::AtMostOnce, None) => 0,
        (QoS::AtMostOnce, Some(_)) => return Err(EncodeError::PacketIdUnexpected),
        (_, Some(_)) => 2,
        (_, None) => return Err(EncodeError::PacketIdMissing),
    };
    let topic_len = match publish.topic {
        Some(topic) => topic.as_str().len(),
        None if version == Version::V5 && publish.properties.topic_alias.is_some() => 0,
        None => {
            return Err(forbidden(
                "§3.3.2.1",
                "PUBLISH has neither a topic name nor a topic alias",
            ));
        }
    };
    let mut length = 2 + topic_len + packet_id_len + publish.payload.len();
    let mut properties_len = 0;
    match version {
        Version::V311 => no_properties(publish.properties)?,
        Version::V5 => {
            properties_len = measure(publish.properties, Carrier::Publish)?;
            length += variable_len(properties_len) + properties_len;
        }
    }
    if length > REMAINING_LENGTH_MAX {
        return Err(EncodeError::TooLong { length });
    }
    Ok((length, properties_len))
}

/// Remaining length of all packets but PUBLISH.
pub(super) fn body(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    match packet {
        Packet::Connect(packet) => connect(packet, version),
        Packet::ConnAck(packet) => connack(packet, version),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            acknowledgement(ack, carrier_of(packet), version)
        }
        Packet::Subscribe(packet) => subscribe(packet, version),
        Packet::SubAck(packet) => suback(packet, version),
        Packet::Unsubscribe(packet) => unsubscribe(packet, version),
        Packet::UnsubAck(packet) => unsuback(packet, version),
        Packet::Disconnect(packet) => disconnect(packet, version),
        Packet::Auth(packet) => auth(packet, version),
        Packet::Publish(packet) => publish(&PublishRef::from(packet), version).map(|(len, _)| len),
        Packet::PingReq | Packet::PingResp => Ok(0),
    }
}

fn connect(connect: &Connect, version: Version) -> Result<usize, EncodeError> {
    if connect.version != version {
        return Err(EncodeError::NotInVersion {
            what: "CONNECT of another protocol level",
            version,
        });
    }
    if version == Version::V311 {
        if connect.password.is_some() && connect.username.is_none() {
            return Err(forbidden("MQTT-3.1.2-22", "a password needs a user name"));
        }
        if connect.client_id.is_empty() && !connect.clean_start {
            return Err(forbidden(
                "MQTT-3.1.3-7",
                "an empty client identifier needs Clean Session",
            ));
        }
    }
    check_text("the client identifier", &connect.client_id)?;
    // Protocol name with its length, level, flags and keep alive take ten bytes.
    let mut length = 10 + section(&connect.properties, Carrier::Connect, version)?;
    length += 2 + connect.client_id.len();
    if let Some(will) = &connect.will {
        length += will_len(will, version)?;
    }
    if let Some(username) = &connect.username {
        check_text("the user name", username)?;
        length += 2 + username.len();
    }
    if let Some(password) = &connect.password {
        check_len("the password", password.len())?;
        length += 2 + password.len();
    }
    Ok(length)
}

fn will_len(will: &Will, version: Version) -> Result<usize, EncodeError> {
    check_len("the will payload", will.payload.len())?;
    let properties_len = section(&will.properties, Carrier::Will, version)?;
    Ok(properties_len + 2 + will.topic.as_str().len() + 2 + will.payload.len())
}

fn connack(connack: &ConnAck, version: Version) -> Result<usize, EncodeError> {
    let code = connack.reason_code;
    match version {
        Version::V311 if !matches!(code.0, 0..=5 | 7) => {
            return Err(wrong_code(Carrier::ConnAck, code));
        }
        Version::V311 => {}
        Version::V5 => check_code(Carrier::ConnAck, code)?,
    }
    if connack.session_present && code != ReasonCode::SUCCESS {
        return Err(forbidden(
            "MQTT-3.2.2-6",
            "CONNACK cannot refuse the connection and say that a session is present",
        ));
    }
    Ok(2 + section(&connack.properties, Carrier::ConnAck, version)?)
}

fn acknowledgement(
    ack: &Acknowledgement,
    carrier: Carrier,
    version: Version,
) -> Result<usize, EncodeError> {
    Ok(2 + reason_and_properties(carrier, ack.reason_code, &ack.properties, version)?)
}

fn disconnect(disconnect: &Disconnect, version: Version) -> Result<usize, EncodeError> {
    reason_and_properties(
        Carrier::Disconnect,
        disconnect.reason_code,
        &disconnect.properties,
        version,
    )
}

/// The end that PUBACK and its kin share with DISCONNECT: nothing for a success without properties, a
/// code alone without properties, or both.
fn reason_and_properties(
    carrier: Carrier,
    code: ReasonCode,
    properties: &Properties,
    version: Version,
) -> Result<usize, EncodeError> {
    if version == Version::V311 {
        no_properties(properties)?;
        if code != ReasonCode::SUCCESS {
            return Err(EncodeError::NotInVersion {
                what: "reason codes in this packet",
                version,
            });
        }
        return Ok(0);
    }
    check_code(carrier, code)?;
    Ok(match measure(properties, carrier)? {
        0 if code == ReasonCode::SUCCESS => 0,
        0 => 1,
        length => 1 + variable_len(length) + length,
    })
}

fn auth(auth: &Auth, version: Version) -> Result<usize, EncodeError> {
    if version == Version::V311 {
        return Err(EncodeError::NotInVersion {
            what: "AUTH",
            version,
        });
    }
    check_code(Carrier::Auth, auth.reason_code)?;
    let length = measure(&auth.properties, Carrier::Auth)?;
    if length == 0 && auth.reason_code == ReasonCode::SUCCESS {
        return Ok(0);
    }
    if auth.properties.authentication_method.is_none() {
        return Err(forbidden(
            "§3.15.2.2.2",
            "AUTH needs an authentication method",
        ));
    }
    Ok(1 + variable_len(length) + length)
}

fn subscribe(subscribe: &Subscribe, version: Version) -> Result<usize, EncodeError> {
    if subscribe.filters.is_empty() {
        return Err(forbidden("MQTT-3.8.3-2", "SUBSCRIBE needs a topic filter"));
    }
    let mut length = 2 + section(&subscribe.properties, Carrier::Subscribe, version)?;
    for subscription in &subscribe.filters {
        check_options(subscription, version)?;
        length += 2 + subscription.filter.as_str().len() + 1;
    }
    Ok(length)
}

fn check_options(subscription: &Subscription, version: Version) -> Result<(), EncodeError> {
    check_filter(&subscription.filter, version)?;
    match version {
        Version::V311
            if subscription.no_local
                || subscription.retain_as_published
                || subscription.retain_handling != RetainHandling::OnSubscribe =>
        {
            Err(EncodeError::NotInVersion {
                what: "subscription options but the QoS",
                version,
            })
        }
        Version::V5 if subscription.no_local && subscription.filter.shared().is_some() => Err(
            forbidden("MQTT-3.8.3-4", "No Local is set on a shared subscription"),
        ),
        _ => Ok(()),
    }
}

fn check_filter(filter: &TopicFilter, version: Version) -> Result<(), EncodeError> {
    if version == Version::V5
        && let Err(wrong) = filter.check_shared()
    {
        return Err(forbidden(
            wrong.clause(version),
            "a shared subscription needs the form $share/{name}/{filter}",
        ));
    }
    Ok(())
}

fn unsubscribe(unsubscribe: &Unsubscribe, version: Version) -> Result<usize, EncodeError> {
    if unsubscribe.filters.is_empty() {
        return Err(forbidden(
            "MQTT-3.10.3-2",
            "UNSUBSCRIBE needs a topic filter",
        ));
    }
    let mut length = 2 + section(&unsubscribe.properties, Carrier::Unsubscribe, version)?;
    for filter in &unsubscribe.filters {
        check_filter(filter, version)?;
        length += 2 + filter.as_str().len();
    }
    Ok(length)
}

fn suback(suback: &SubAck, version: Version) -> Result<usize, EncodeError> {
    if suback.reason_codes.is_empty() {
        return Err(forbidden("MQTT-3.9.3-1", "SUBACK needs a reason code"));
    }
    for &code in &suback.reason_codes {
        match version {
            Version::V311 if matches!(code.0, 0..=2 | 0x80) => {}
            Version::V311 => return Err(wrong_code(Carrier::SubAck, code)),
            Version::V5 => check_code(Carrier::SubAck, code)?,
        }
    }
    let properties_len = section(&suback.properties, Carrier::SubAck, version)?;
    Ok(2 + properties_len + suback.reason_codes.len())
}

fn unsuback(unsuback: &SubAck, version: Version) -> Result<usize, EncodeError> {
    let properties_len = section(&unsuback.properties, Carrier::UnsubAck, version)?;
    match version {
        Version::V311 if !unsuback.reason_codes.is_empty() => Err(EncodeError::NotInVersion {
            what: "reason codes in UNSUBACK",
            version,
        }),
        Version::V311 => Ok(2),
        Version::V5 if unsuback.reason_codes.is_empty() => {
            Err(forbidden("MQTT-3.11.3-1", "UNSUBACK needs a reason code"))
        }
        Version::V5 => {
            for &code in &unsuback.reason_codes {
                check_code(Carrier::UnsubAck, code)?;
            }
            Ok(2 + properties_len + unsuback.reason_codes.len())
        }
    }
}

/// Property length and properties; nothing on MQTT 3.1.1.
fn section(
    properties: &Properties,
    carrier: Carrier,
    version: Version,
) -> Result<usize, EncodeError> {
    match version {
        Version::V311 => no_properties(properties).map(|()| 0),
        Version::V5 => measure(properties, carrier).map(|length| variable_len(length) + length),
    }
}

#[inline]
fn no_properties(properties: &Properties) -> Result<(), EncodeError> {
    if properties.as_set().is_none() || properties.is_empty() {
        Ok(())
    } else {
        Err(EncodeError::NotInVersion {
            what: "properties",
            version: Version::V311,
        })
    }
}

fn check_code(carrier: Carrier, code: ReasonCode) -> Result<(), EncodeError> {
    match code.sender_in(carrier) {
        Some(_) => Ok(()),
        None => Err(wrong_code(carrier, code)),
    }
}

#[cold]
fn wrong_code(carrier: Carrier, code: ReasonCode) -> EncodeError {
    EncodeError::ReasonCode {
        packet: carrier.name(),
        code,
    }
}

#[cold]
fn forbidden(clause: &'static str, what: &'static str) -> EncodeError {
    EncodeError::Forbidden { clause, what }
}
