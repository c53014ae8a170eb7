//! DISCONNECT and AUTH.

use super::DecodeError;
use super::acknowledge::{check_reason_code, reason_code};
use super::error::protocol;
use super::properties::decode_properties;
use super::reader::Reader;
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{Auth, Disconnect, Properties, ReasonCode, Version};

pub(super) fn decode(mut reader: Reader<'_>) -> Result<Disconnect, DecodeError> {
    if reader.is_empty() {
        return Ok(Disconnect::default());
    }
    if reader.version == Version::V311 {
        reader.finish()?;
    }
    let reason_code = reason_code(&mut reader, Carrier::Disconnect)?;
    // Below two bytes of remaining length there is no property length (§3.14.2.2.1).
    let properties = if reader.is_empty() {
        Properties::EMPTY
    } else {
        decode_properties(&mut reader, Carrier::Disconnect)?
    };
    reader.finish()?;
    Ok(Disconnect {
        reason_code,
        properties,
    })
}

pub(super) fn decode_auth(mut reader: Reader<'_>) -> Result<Auth, DecodeError> {
    if reader.is_empty() {
        // §3.15.2.1 lets a success without properties be empty, though §3.15.2.2.2 asks for the
        // method; what is allowed outright is taken.
        check_reason_code(&reader, Carrier::Auth, ReasonCode::SUCCESS)?;
        return Ok(Auth::default());
    }
    let reason_code = reason_code(&mut reader, Carrier::Auth)?;
    let properties = decode_properties(&mut reader, Carrier::Auth)?;
    reader.finish()?;
    if properties.authentication_method.is_none() {
        return Err(protocol(
            "§3.15.2.2.2",
            "AUTH names no authentication method",
        ));
    }
    Ok(Auth {
        reason_code,
        properties,
    })
}
