//! What the owner tells the session, and what the server's CONNACK tells it.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::mqtt::{Properties, QoS, ReasonCode, Version, Will};

/// What does not change between the connections of one session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Protocol version.
    pub version: Version,
    /// How many QoS 1 and 2 publishes may be unacknowledged at once, whatever the server allows: 1 to
    /// 65,535. Default 1,000. A lower Receive Maximum of the server wins.
    pub inflight_max: u16,
    /// Receive Maximum told to the server (MQTT 5), and how many inbound QoS 1 and 2 messages may wait
    /// for [`Session::acknowledge`](super::Session::acknowledge): 1 to 65,535. Default 1,000.
    pub receive_maximum: u16,
    /// Largest packet accepted, in bytes, told to the server on MQTT 5. Default 1 MiB.
    pub packet_size_max: u32,
    /// Topic aliases accepted from the server (MQTT 5). Default 16.
    pub topic_alias_maximum: u16,
    /// Topic aliases used towards the server, at most what it allows (MQTT 5). Default 0: off.
    pub topic_alias_send_max: u16,
    /// How long PINGRESP may take. Default: half the keep alive in force, so that a dead peer is found
    /// within 1.5 keep alives of the last thing it said.
    pub ping_timeout: Option<Duration>,
    /// Deadline of CONNACK after CONNECT, whatever AUTH packets pass in between, and of a whole
    /// re-authentication. Default 10 s.
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
    /// The server closes the connection without a word at a message that it does not allow: one at which it does so again
    /// and again is set aside, and ends as [`Event::Rejected`](super::Event::Rejected) with
    /// [`ReasonCode::NOT_AUTHORIZED`](crate::mqtt::ReasonCode::NOT_AUTHORIZED). That is a QoS 1 message which was sent
    /// again on three connections in a row that ended so within 5 s of CONNACK, without any acknowledgement: with all that
    /// was in flight on the first two, and alone on the third. Default off: a network that breaks looks the same.
    pub sets_aside: bool,
    /// Says with [`Session::poll_record`](super::Session::poll_record) what must be durable for QoS 2 to stay exactly
    /// once when the process ends. Default off.
    pub journal: bool,
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
            sets_aside: false,
            journal: false,
        }
    }
}

/// What one CONNECT says; asked anew for each connection, since credentials change.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Client identifier; empty lets the server choose (MQTT 5 keeps the assigned one for later
    /// connections). Another identifier is another session and needs another
    /// [`Session`](super::Session).
    pub client_id: ByteString,
    /// Asks the server to forget its half of the session.
    pub clean_start: bool,
    /// 0 switches keep alive off. Whole seconds, at most 65,535; less than a second counts as one.
    pub keep_alive: Duration,
    /// How long the server keeps the session after the connection (MQTT 5); `None`: not at all. From
    /// 4,294,967,295 s on: for ever.
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

impl ServerLimits {
    /// What a server grants that says nothing: the whole of MQTT 3.1.1, and the defaults of MQTT 5
    /// (§3.2.2.3).
    pub(super) fn defaults(keep_alive: Duration, session_expiry: Option<Duration>) -> Self {
        Self {
            receive_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            keep_alive,
            session_expiry,
            wildcard_subscriptions: true,
            subscription_identifiers: true,
            shared_subscriptions: true,
        }
    }

    /// Why the server would close the connection at a message with these flags, whatever else it says.
    pub(super) fn unsupported(&self, qos: QoS, retain: bool) -> Option<ReasonCode> {
        if qos > self.maximum_qos {
            // [MQTT-3.2.2-11]
            Some(ReasonCode::QOS_NOT_SUPPORTED)
        } else if retain && !self.retain_available {
            // [MQTT-3.2.2-14]
            Some(ReasonCode::RETAIN_NOT_SUPPORTED)
        } else {
            None
        }
    }

    /// The defaults overridden by what a CONNACK says.
    pub(super) fn announced(
        properties: &Properties,
        keep_alive: Duration,
        session_expiry: Option<Duration>,
    ) -> Self {
        let defaults = Self::defaults(keep_alive, session_expiry);
        Self {
            receive_maximum: properties
                .receive_maximum
                .unwrap_or(defaults.receive_maximum),
            maximum_qos: properties.maximum_qos.unwrap_or(defaults.maximum_qos),
            retain_available: properties.retain_available.unwrap_or(true),
            maximum_packet_size: properties.maximum_packet_size,
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            // The client MUST use the server's value [MQTT-3.1.2-21].
            keep_alive: properties
                .server_keep_alive
                .map_or(keep_alive, |seconds| Duration::from_secs(seconds.into())),
            session_expiry: properties
                .session_expiry_interval
                .map(|seconds| Duration::from_secs(seconds.into()))
                .or(session_expiry),
            wildcard_subscriptions: properties.wildcard_subscription_available.unwrap_or(true),
            subscription_identifiers: properties.subscription_identifier_available.unwrap_or(true),
            shared_subscriptions: properties.shared_subscription_available.unwrap_or(true),
        }
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // User names carry tokens on some platforms, so none of the credentials is printed.
        f.debug_struct("ConnectOptions")
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("session_expiry", &self.session_expiry)
            .field("username", &self.username.as_ref().map(|_| "(redacted)"))
            .field("password", &self.password.as_ref().map(|_| "(redacted)"))
            .field("will", &self.will)
            .field(
                "authentication",
                &self.authentication.as_ref().map(|(method, _)| method),
            )
            .field("user_properties", &self.user_properties)
            .finish()
    }
}
