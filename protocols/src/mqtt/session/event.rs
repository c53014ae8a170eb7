//! What goes through the session: messages in and out, and what happened.

use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;

use super::ServerLimits;
use crate::mqtt::{EncodeError, PacketId, Properties, QoS, ReasonCode, Topic, TopicFilter};

/// One message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The caller's name for the message; comes back in the event that ends it.
    pub token: u64,
    /// Topic.
    pub topic: Topic,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// MQTT 5 properties; dropped on 3.1.1. The session sets `message_expiry_interval` and
    /// `topic_alias` itself.
    pub properties: Properties,
    /// When the message loses its worth: not sent after it; on MQTT 5 the rest of its life goes with it.
    pub expires_at: Option<Instant>,
}

/// Names one inbound QoS 1 or 2 message until it is acknowledged. A stale one is ignored: at QoS 1
/// one of an earlier connection, at QoS 2 one of an earlier exchange (the exchange outlives
/// connections).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InboundId {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// Which delivery it was; opaque.
    pub generation: u32,
}

/// An application message from the server, topic alias resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Topic.
    pub topic: Topic,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service it was delivered with.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Duplicate flag.
    pub dup: bool,
    /// MQTT 5 properties.
    pub properties: Properties,
    /// Present on QoS 1 and 2: to be given to [`Session::acknowledge`](super::Session::acknowledge)
    /// once the message was handed over.
    pub id: Option<InboundId>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The server refused CONNECT.
    #[error("the server refused the connection: {code}{}{}", Detail(.reason_string), advice(*.code))]
    Refused {
        /// MQTT 5 code (return codes of 3.1.1 are translated).
        code: ReasonCode,
        /// The wire value.
        wire_code: u8,
        /// The server's words.
        reason_string: Option<ByteString>,
        /// Another server to use.
        server_reference: Option<ByteString>,
    },
    /// The server sent DISCONNECT (MQTT 5).
    #[error("the server disconnected: {code}{}", Detail(.reason_string))]
    ServerDisconnect {
        /// Its reason code.
        code: ReasonCode,
        /// The server's words.
        reason_string: Option<ByteString>,
        /// Another server to use.
        server_reference: Option<ByteString>,
    },
    /// The server broke the protocol; `code` was sent to it on MQTT 5.
    #[error("the server broke the protocol: {message} ({clause}), left with {code}")]
    ProtocolViolation {
        /// Reason code of our DISCONNECT.
        code: ReasonCode,
        /// Clause that was broken.
        clause: &'static str,
        /// What it did.
        message: String,
    },
    /// No PINGRESP, or nothing at all, in time.
    #[error("the server did not answer the keep alive in time")]
    KeepAliveTimeout,
    /// No CONNACK in time.
    #[error("the server did not answer CONNECT in time")]
    ConnackTimeout,
    /// No SUBACK or UNSUBACK in time.
    #[error("the server did not answer SUBSCRIBE or UNSUBSCRIBE in time")]
    SubscribeTimeout,
    /// A re-authentication did not end in time.
    #[error("the server did not answer the re-authentication in time")]
    AuthenticationTimeout,
    /// The transport closed or failed before CONNACK.
    #[error(
        "the connection was lost before the server answered CONNECT; check that the port speaks MQTT this \
         way (mqtt:// is plain, mqtts:// is TLS) and that the server allows this client"
    )]
    Unanswered,
    /// The transport closed or failed.
    #[error("the connection was lost")]
    TransportClosed,
    /// A packet of this end cannot be written, such as a CONNECT of MQTT 3.1.1 with a password and no
    /// user name. Trying again with the same options fails again.
    #[error("a packet of this end cannot be written: {0}")]
    Unwritable(EncodeError),
    /// What must be durable before this end may go on could not be recorded, or not in time.
    #[error(
        "the state of the session could not be stored in time; check the disk that the queues are on"
    )]
    Storage,
    /// This end asked for it.
    #[error("closed by this end")]
    Local,
}

/// Writes `: text` when there is text.
struct Detail<'a>(&'a Option<ByteString>);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// What whoever was refused can do about it; empty where nobody can say.
const fn advice(code: ReasonCode) -> &'static str {
    match code {
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => "; set the other protocol version, 3.1.1 or 5",
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => {
            "; set a client identifier that the server accepts"
        }
        ReasonCode::BAD_USER_NAME_OR_PASSWORD => "; check the user name and the password",
        ReasonCode::NOT_AUTHORIZED => {
            "; check the credentials, and that the server's access rules allow this client"
        }
        ReasonCode::BANNED => "; ask the server's operator to lift the ban",
        ReasonCode::BAD_AUTHENTICATION_METHOD => "; the server does not know this method",
        ReasonCode::SERVER_UNAVAILABLE | ReasonCode::SERVER_BUSY => {
            "; nothing to do here, the link tries again"
        }
        ReasonCode::QUOTA_EXCEEDED | ReasonCode::CONNECTION_RATE_EXCEEDED => {
            "; connect fewer clients or connect them more slowly"
        }
        _ => "",
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// CONNACK accepted the connection. Publishing is possible; subscriptions are being restored.
    Connected {
        /// Whether the server resumed its half of the session.
        session_present: bool,
        /// The server had a session before and has none now.
        session_lost: bool,
        /// The identifier the server assigned.
        assigned_client_id: Option<ByteString>,
        /// What the server said about itself.
        limits: ServerLimits,
    },
    /// All desired subscriptions are in force (or were refused one by one): the link is online.
    Online,
    /// The connection ends: send what [`Session::poll_transmit`](super::Session::poll_transmit)
    /// still gives, then close the transport.
    Closed(CloseReason),
    /// A QoS 0 publish was written into the transmit buffer; it is delivered when those bytes are.
    Transmitted {
        /// The message.
        token: u64,
    },
    /// A QoS 0 publish that was accepted and never written, because its connection ended first.
    Unsent {
        /// The message.
        token: u64,
    },
    /// PUBACK or PUBCOMP with success.
    Delivered {
        /// The message.
        token: u64,
        /// The code, 0x00 or 0x10 (no matching subscribers).
        code: ReasonCode,
        /// The server lost the session in between, or may have: at QoS 2 the message may have been
        /// doubled, and one that it had taken with PUBREC may be lost with its session.
        session_lost: bool,
    },
    /// The server (or its announced limits) refused the message. Codes this end gives by itself:
    /// `QOS_NOT_SUPPORTED`, `RETAIN_NOT_SUPPORTED` and `PACKET_TOO_LARGE` for the announced limits,
    /// `TOPIC_NAME_INVALID` for what cannot be written as a PUBLISH, and
    /// `PACKET_IDENTIFIER_NOT_FOUND` for a QoS 2 message whose session the server lost under
    /// [`OnSessionLost::Fail`](super::OnSessionLost::Fail).
    Rejected {
        /// The message.
        token: u64,
        /// Why.
        code: ReasonCode,
        /// The server's words.
        reason_string: Option<ByteString>,
    },
    /// The message's life ended before it could be sent.
    Expired {
        /// The message.
        token: u64,
    },
    /// A message to hand over.
    Message(Incoming),
    /// The answer to one filter of [`Session::subscribe`](super::Session::subscribe), first or
    /// restored. An error code removes the filter from the desired ones. What the server said in
    /// CONNACK that it has not is answered by this end with the server's code.
    Subscribed {
        /// The filter.
        filter: TopicFilter,
        /// Granted QoS, or why not (0x80 on MQTT 3.1.1).
        code: ReasonCode,
        /// The server's words.
        reason_string: Option<ByteString>,
    },
    /// The answer to one filter of [`Session::unsubscribe`](super::Session::unsubscribe).
    Unsubscribed {
        /// The filter.
        filter: TopicFilter,
        /// Success on MQTT 3.1.1.
        code: ReasonCode,
        /// As given with the request.
        token: u64,
    },
    /// Enhanced authentication: answer with [`Session::authenticate`](super::Session::authenticate).
    AuthChallenge {
        /// Method.
        method: ByteString,
        /// The server's data.
        data: Option<Bytes>,
    },
    /// The data that came with the server's last, accepting step of an enhanced authentication,
    /// such as a proof of its own identity. Precedes `Connected` or `Reauthenticated`; left out
    /// when there is none.
    AuthenticationData(Bytes),
    /// A re-authentication ended well.
    Reauthenticated,
}
