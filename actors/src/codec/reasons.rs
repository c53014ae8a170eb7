//! Why connections end, as closed sets of names for metrics.

use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::mqtt::session::CloseReason;

/// Every value of the `reason` label of `paquebot_disconnects_total`.
pub(crate) const DISCONNECT_REASONS: [&str; 11] = [
    "refused",
    "server_disconnect",
    "session_taken_over",
    "quota",
    "protocol_error",
    "keepalive",
    "connack_timeout",
    "subscribe_timeout",
    "peer_closed",
    "storage",
    "local",
];

/// The name of the reason an online connection ended for.
pub(crate) fn reason_name(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Refused { .. } => "refused",
        CloseReason::ServerDisconnect {
            code: ReasonCode::SESSION_TAKEN_OVER,
            ..
        } => "session_taken_over",
        CloseReason::ServerDisconnect {
            code: ReasonCode::QUOTA_EXCEEDED | ReasonCode::MESSAGE_RATE_TOO_HIGH,
            ..
        } => "quota",
        CloseReason::ServerDisconnect { .. } => "server_disconnect",
        CloseReason::ProtocolViolation { .. } => "protocol_error",
        CloseReason::KeepAliveTimeout => "keepalive",
        CloseReason::ConnackTimeout => "connack_timeout",
        CloseReason::SubscribeTimeout => "subscribe_timeout",
        CloseReason::TransportClosed | CloseReason::Unanswered => "peer_closed",
        CloseReason::Storage => "storage",
        _ => "local",
    }
}

/// The result label of a connect attempt that got as far as CONNECT and no further.
pub(crate) fn refusal_name(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Refused { code, .. } => match *code {
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => "bad_credentials",
            ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => "not_authorized",
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => "client_id",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => "version",
            ReasonCode::SERVER_UNAVAILABLE | ReasonCode::SERVER_BUSY => "unavailable",
            _ => "refused",
        },
        other => reason_name(other),
    }
}
