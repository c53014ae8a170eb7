//! The client session: MQTT's rules for one client, both versions, as a pure state machine.
//!
//! The driver (the Codec actor) owns the clock, the socket and the decoder. It tells the session what
//! happened (`connect`, `handle_packet`, `handle_timeout`, …), then takes what follows: bytes to send
//! ([`Session::poll_transmit`]), events ([`Session::poll_event`]) and the time of the next
//! [`Session::handle_timeout`] ([`Session::poll_timeout`]).
//!
//! The session outlives connections: what is in flight, what is subscribed and what was received stays
//! until the server says that it lost its half.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::{
    DecodeError, Packet, PacketId, Properties, QoS, ReasonCode, Subscription, Topic, TopicFilter,
    Version, Will,
};

/// What does not change between the connections of one session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Protocol version.
    pub version: Version,
    /// How many QoS 1 and 2 publishes may be unacknowledged at once, whatever the server allows: 1 to
    /// 65,535. Default 1,000. A lower Receive Maximum of the server wins.
    pub inflight_max: u16,
    /// Receive Maximum told to the server (MQTT 5), and how many inbound QoS 1 and 2 messages may wait
    /// for [`Session::acknowledge`]: 1 to 65,535. Default 1,000.
    pub receive_maximum: u16,
    /// Largest packet accepted, in bytes, told to the server on MQTT 5. Default 1 MiB.
    pub packet_size_max: u32,
    /// Topic aliases accepted from the server (MQTT 5). Default 16.
    pub topic_alias_maximum: u16,
    /// Topic aliases used towards the server, at most what it allows (MQTT 5). Default 0: off.
    pub topic_alias_send_max: u16,
    /// How long after PINGREQ the server may be silent. Default: half the keep alive, so that a dead peer is
    /// found within 1.5 keep alives.
    pub ping_timeout: Option<Duration>,
    /// Deadline of CONNACK after CONNECT. Default 10 s.
    pub connack_timeout: Duration,
    /// Deadline of SUBACK and UNSUBACK; past it the connection is given up. Default 10 s.
    pub subscribe_timeout: Duration,
    /// How many filters one SUBSCRIBE carries at the most. Default 100.
    pub filters_per_subscribe_max: usize,
    /// How many desired subscriptions the session holds at the most. Default 10,000.
    pub subscriptions_max: usize,
    /// What becomes of QoS 2 messages in flight when the server lost the session. QoS 1 is always
    /// published again.
    pub on_session_lost: OnSessionLost,
}

/// What becomes of QoS 2 messages in flight when the server lost the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnSessionLost {
    /// Publish them again as new messages: at least once instead of exactly once.
    #[default]
    Republish,
    /// End them as rejected: at most once instead of exactly once.
    Fail,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            version: Version::V311,
            inflight_max: 1_000,
            receive_maximum: 1_000,
            packet_size_max: 1024 * 1024,
            topic_alias_maximum: 16,
            topic_alias_send_max: 0,
            ping_timeout: None,
            connack_timeout: Duration::from_secs(10),
            subscribe_timeout: Duration::from_secs(10),
            filters_per_subscribe_max: 100,
            subscriptions_max: 10_000,
            on_session_lost: OnSessionLost::default(),
        }
    }
}

/// What one CONNECT says; asked anew for each connection, since credentials change.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Client identifier; empty lets the server choose (MQTT 5 keeps the assigned one for later connections).
    pub client_id: ByteString,
    /// Drop what the server holds of this session.
    pub clean_start: bool,
    /// 0 switches keep alive off. Whole seconds, at most 65,535.
    pub keep_alive: Duration,
    /// How long the server keeps the session after the connection (MQTT 5); `None`: not at all.
    pub session_expiry: Option<Duration>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Bytes>,
    /// Will.
    pub will: Option<Will>,
    /// Enhanced authentication (MQTT 5): method and first data.
    pub authentication: Option<(ByteString, Option<Bytes>)>,
    /// User properties of CONNECT (MQTT 5).
    pub user_properties: Vec<(ByteString, ByteString)>,
}

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
    /// MQTT 5 properties; dropped on 3.1.1. The session sets `message_expiry_interval` and `topic_alias` itself.
    pub properties: Properties,
    /// When the message loses its worth: not sent after it; on MQTT 5 the rest of its life goes with it.
    pub expires_at: Option<Instant>,
}

/// What the server said about itself in CONNACK, with the specification's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// Unacknowledged QoS 1 and 2 publishes it takes.
    pub receive_maximum: u16,
    /// Highest QoS it takes.
    pub maximum_qos: QoS,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Largest packet it takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// Topic aliases it takes.
    pub topic_alias_maximum: u16,
    /// The keep alive in force.
    pub keep_alive: Duration,
    /// The session expiry in force.
    pub session_expiry: Option<Duration>,
    /// Whether it takes wildcard filters.
    pub wildcard_subscriptions: bool,
    /// Whether it takes subscription identifiers.
    pub subscription_identifiers: bool,
    /// Whether it takes shared subscriptions.
    pub shared_subscriptions: bool,
}

/// Names one inbound QoS 1 or 2 message until it is acknowledged. A stale one is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InboundId {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// Which delivery of this identifier it was.
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
    /// Present on QoS 1 and 2: to be given to [`Session::acknowledge`] once the message was handed over.
    pub id: Option<InboundId>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The server refused CONNECT.
    #[error("the server refused the connection: {code}{}", Detail(.reason_string))]
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
    /// The transport closed or failed.
    #[error("the connection was lost")]
    TransportClosed,
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
    /// The connection ends: send what [`Session::poll_transmit`] still gives, then close the transport.
    Closed(CloseReason),
    /// A QoS 0 publish was written into the transmit buffer; it is delivered when those bytes are.
    Transmitted {
        /// The message.
        token: u64,
    },
    /// PUBACK or PUBCOMP with success.
    Delivered {
        /// The message.
        token: u64,
        /// The code, 0x00 or 0x10 (no matching subscribers).
        code: ReasonCode,
        /// The server lost the session in between: at QoS 2 the message may have been doubled.
        session_lost: bool,
    },
    /// The server (or its announced limits) refused the message.
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
    /// The answer to one filter of [`Session::subscribe`], first or restored. An error code removes
    /// the filter from the desired ones.
    Subscribed {
        /// The filter.
        filter: TopicFilter,
        /// Granted QoS, or why not (0x80 on MQTT 3.1.1).
        code: ReasonCode,
        /// The server's words.
        reason_string: Option<ByteString>,
    },
    /// The answer to one filter of [`Session::unsubscribe`].
    Unsubscribed {
        /// The filter.
        filter: TopicFilter,
        /// Success on MQTT 3.1.1.
        code: ReasonCode,
    },
    /// Enhanced authentication: answer with [`Session::authenticate`].
    AuthChallenge {
        /// Method.
        method: ByteString,
        /// The server's data.
        data: Option<Bytes>,
    },
    /// A re-authentication ended well.
    Reauthenticated,
}

/// The client session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
}

// Signatures the driver uses; the semantics are in each one's documentation.
impl Session {
    /// A session that never was connected.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self { config }
    }

    /// The transport is open: CONNECT is queued for sending. Whatever an earlier connection left unsent is dropped.
    pub fn connect(&mut self, now: Instant, options: ConnectOptions) {
        let _ = (now, options, &self.config);
    }

    /// The transport is gone; queues [`Event::Closed`] unless the session had closed it already.
    pub fn handle_transport_closed(&mut self, now: Instant) {
        let _ = now;
    }

    /// A packet from the server. Violations end the connection through [`Event::Closed`].
    pub fn handle_packet(&mut self, now: Instant, packet: Packet) {
        let _ = (now, packet);
    }

    /// The decoder refused the server's bytes.
    pub fn handle_decode_error(&mut self, now: Instant, error: &DecodeError) {
        let _ = (now, error);
    }

    /// The time of [`Session::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// How many more QoS 1 and 2 publishes the session takes now; 0 unless online.
    #[must_use]
    pub fn publish_credit(&self) -> usize {
        0
    }

    /// Takes a message. QoS 1 and 2 need [`Session::publish_credit`]; each accepted message ends in exactly one of
    /// `Transmitted` (QoS 0), `Delivered`, `Rejected`, `Expired`.
    ///
    /// # Errors
    /// Gives the message back when there is no credit or the session is not online.
    pub fn publish(&mut self, now: Instant, message: Outgoing) -> Result<(), Outgoing> {
        let _ = now;
        Err(message)
    }

    /// Adds a filter to the desired subscriptions (or changes its options); sent now if online, else at the next connection.
    ///
    /// # Errors
    /// The limit of desired subscriptions is reached.
    pub fn subscribe(
        &mut self,
        now: Instant,
        subscription: Subscription,
    ) -> Result<(), Subscription> {
        let _ = now;
        Err(subscription)
    }

    /// Takes a filter out of the desired subscriptions.
    pub fn unsubscribe(&mut self, now: Instant, filter: &TopicFilter) {
        let _ = (now, filter);
    }

    /// The application is done with an inbound message: it is acknowledged, in the order of arrival `[MQTT-4.6.0-2]`.
    pub fn acknowledge(&mut self, now: Instant, id: InboundId) {
        let _ = (now, id);
    }

    /// Continues or restarts enhanced authentication (MQTT 5).
    pub fn authenticate(&mut self, now: Instant, data: Option<Bytes>) {
        let _ = (now, data);
    }

    /// Leaves: queues DISCONNECT and [`Event::Closed`] with [`CloseReason::Local`].
    pub fn disconnect(&mut self, now: Instant, code: ReasonCode) {
        let _ = (now, code);
    }

    /// Appends the bytes that are ready to `output`; `true` if there were any.
    pub fn poll_transmit(&mut self, now: Instant, output: &mut BytesMut) -> bool {
        let _ = (now, output);
        false
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// When [`Session::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// QoS 1 and 2 publishes in flight.
    #[must_use]
    pub fn inflight_len(&self) -> usize {
        0
    }

    /// Ends the session's life: every message in flight, as tokens, so that the owner can account for them.
    pub fn drain(&mut self) -> Vec<u64> {
        Vec::new()
    }
}
