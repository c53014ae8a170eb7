//! CONNECT and CONNACK.

use super::DecodeError;
use super::acknowledge::reason_code;
use super::error::{malformed, protocol, protocol_as, unsupported};
use super::properties::decode_properties;
use super::reader::Reader;
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{ConnAck, Connect, QoS, ReasonCode, Version, Will};

/// The Connect Flags (§3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

/// `expected` is the version of the connection; `None` takes whichever CONNECT names.
pub(super) fn decode(
    mut reader: Reader<'_>,
    expected: Option<Version>,
) -> Result<Connect, DecodeError> {
    let version = protocol_version(&mut reader, expected)?;
    reader.version = version;
    let flags = reader.u8("the connect flags")?;
    let will_qos = check_flags(&reader, flags)?;
    let keep_alive = reader.u16("the keep alive")?;
    let properties = decode_properties(&mut reader, Carrier::Connect)?;
    let client_id = reader.text("the client identifier")?;
    let will = if flags & flag::WILL != 0 {
        Some(Will {
            qos: will_qos,
            retain: flags & flag::WILL_RETAIN != 0,
            properties: decode_properties(&mut reader, Carrier::Will)?,
            topic: reader.topic("the will topic")?,
            payload: reader.binary("the will payload")?,
        })
    } else {
        None
    };
    let username = if flags & flag::USER_NAME != 0 {
        Some(reader.text("the user name")?)
    } else {
        None
    };
    let password = if flags & flag::PASSWORD != 0 {
        Some(reader.binary("the password")?)
    } else {
        None
    };
    reader.finish()?;
    let clean_start = flags & flag::CLEAN_START != 0;
    if version == Version::V311 && client_id.is_empty() && !clean_start {
        // A server answers it with return code 2, which is 0x85 in MQTT 5's words.
        return Err(protocol_as(
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            "MQTT-3.1.3-8",
            "the client identifier is empty and Clean Session is 0",
        ));
    }
    Ok(Connect {
        version,
        clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

pub(super) fn decode_connack(mut reader: Reader<'_>) -> Result<ConnAck, DecodeError> {
    let flags = reader.u8("the connect acknowledge flags")?;
    if flags & 0xfe != 0 {
        return Err(malformed(
            reader.clause("§3.2.2.1", "MQTT-3.2.2-1"),
            "a reserved bit of the connect acknowledge flags is set",
        ));
    }
    let session_present = flags != 0;
    let code = match reader.version {
        Version::V5 => reason_code(&mut reader, Carrier::ConnAck)?,
        Version::V311 => match reader.u8("the return code")? {
            // AWS IoT says 7 to whom it does not let in, where the standard has 5.
            code @ (0..=5 | 7) => ReasonCode(code),
            code => {
                return Err(protocol(
                    "§3.2.2.3",
                    format!("the return code {code} of CONNACK is reserved"),
                ));
            }
        },
    };
    let properties = decode_properties(&mut reader, Carrier::ConnAck)?;
    reader.finish()?;
    if session_present && code != ReasonCode::SUCCESS {
        return Err(protocol(
            reader.clause("MQTT-3.2.2-4", "MQTT-3.2.2-6"),
            "CONNACK refuses the connection and says that a session is present",
        ));
    }
    Ok(ConnAck {
        session_present,
        reason_code: code,
        properties,
    })
}

fn protocol_version(
    reader: &mut Reader<'_>,
    expected: Option<Version>,
) -> Result<Version, DecodeError> {
    let name = reader.text("the protocol name")?;
    if name != "MQTT" {
        return Err(unsupported("MQTT-3.1.2-1", "the protocol name is not MQTT"));
    }
    let version = match reader.u8("the protocol level")? {
        4 => Version::V311,
        5 => Version::V5,
        level => {
            return Err(unsupported(
                "MQTT-3.1.2-2",
                format!("the protocol level {level} is neither 4 (MQTT 3.1.1) nor 5 (MQTT 5)"),
            ));
        }
    };
    match expected {
        Some(expected) if version != expected => Err(unsupported(
            "MQTT-3.1.2-2",
            format!(
                "the protocol level {} is not {}, the one in force",
                version.level(),
                expected.level()
            ),
        )),
        _ => Ok(version),
    }
}

/// Which bits may go with which; gives the will's QoS.
fn check_flags(reader: &Reader<'_>, flags: u8) -> Result<QoS, DecodeError> {
    if flags & flag::RESERVED != 0 {
        return Err(malformed(
            "MQTT-3.1.2-3",
            "the reserved connect flag is set",
        ));
    }
    if flags & flag::WILL == 0 {
        if flags & flag::WILL_QOS != 0 {
            return Err(malformed(
                reader.clause("MQTT-3.1.2-13", "MQTT-3.1.2-11"),
                "the will QoS is not 0 and there is no will",
            ));
        }
        if flags & flag::WILL_RETAIN != 0 {
            return Err(malformed(
                reader.clause("MQTT-3.1.2-15", "MQTT-3.1.2-13"),
                "will retain is set and there is no will",
            ));
        }
    }
    if reader.version == Version::V311
        && flags & flag::PASSWORD != 0
        && flags & flag::USER_NAME == 0
    {
        return Err(malformed(
            "MQTT-3.1.2-22",
            "there is a password and no user name",
        ));
    }
    QoS::from_u8((flags & flag::WILL_QOS) >> 3).ok_or_else(|| {
        malformed(
            reader.clause("MQTT-3.1.2-14", "MQTT-3.1.2-12"),
            "the will QoS is 3",
        )
    })
}
