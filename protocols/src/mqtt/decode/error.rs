//! How the decoder says no. All of it is cold: a connection meets it once.

use std::borrow::Cow;

use super::{DecodeError, ErrorKind};
use crate::mqtt::{ReasonCode, TopicError, Version};

#[cold]
#[inline(never)]
pub(super) fn malformed(
    clause: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    error(
        ErrorKind::Malformed,
        clause,
        ReasonCode::MALFORMED_PACKET,
        message,
    )
}

#[cold]
#[inline(never)]
pub(super) fn protocol(clause: &'static str, message: impl Into<Cow<'static, str>>) -> DecodeError {
    error(
        ErrorKind::Protocol,
        clause,
        ReasonCode::PROTOCOL_ERROR,
        message,
    )
}

/// A protocol error for which the specification names a more telling code than 0x82.
#[cold]
#[inline(never)]
pub(super) fn protocol_as(
    reason_code: ReasonCode,
    clause: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    error(ErrorKind::Protocol, clause, reason_code, message)
}

#[cold]
#[inline(never)]
pub(super) fn unsupported(
    clause: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    error(
        ErrorKind::Unsupported,
        clause,
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        message,
    )
}

#[cold]
#[inline(never)]
pub(super) fn too_large(
    clause: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    error(
        ErrorKind::TooLarge,
        clause,
        ReasonCode::PACKET_TOO_LARGE,
        message,
    )
}

/// A topic name or filter whose text breaks §4.7 or §4.8.
///
/// The codes "topic name invalid" and "topic filter invalid" are for texts that are well-formed and
/// not accepted (Tables 3-1, 3-4 and 3-10 say "not malformed, but is not accepted"), so an ill-formed
/// one makes a malformed packet.
#[cold]
#[inline(never)]
pub(super) fn ill_formed_topic(
    what: &'static str,
    wrong: TopicError,
    version: Version,
) -> DecodeError {
    malformed(wrong.clause(version), format!("{what}: {wrong}"))
}

fn error(
    kind: ErrorKind,
    clause: &'static str,
    reason_code: ReasonCode,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    DecodeError {
        kind,
        clause,
        reason_code,
        message: message.into(),
    }
}
