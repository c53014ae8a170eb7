//! Every limit of the server, by name.

use std::time::Duration;

use paquebot_protocols::mqtt::QoS;

/// What the server allows one client, one session and all of them together.
///
/// A limit that MQTT 5 can announce is announced in CONNACK; the protocol's own default is left out.
/// Start from [`Limits::default`] and change what the test or demo is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Largest packet taken from a client, in bytes with its fixed header. Default 1 MiB; announced.
    pub packet_bytes_max: u32,
    /// QoS 1 and 2 messages that a client may have unacknowledged towards the server. Default 1,024;
    /// announced and, on MQTT 5, enforced with reason code 0x93.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages that the server has unacknowledged towards one client. Default 1,024; a
    /// client's own receive maximum lowers it.
    pub inflight_max: u16,
    /// QoS 1 and 2 messages that wait in one session behind those in flight. Default 65,536; a message
    /// beyond it is dropped and counted.
    pub queued_messages_max: usize,
    /// Payload and topic bytes of the messages that wait in one session. Default 32 MiB.
    pub queued_bytes_max: usize,
    /// Subscriptions of one session. Default 4,096; beyond it SUBACK says 0x97 (0x80 on MQTT 3.1.1).
    pub subscriptions_max: usize,
    /// Levels of a topic filter. Default 128; a deeper one is answered 0x8F (0x80 on MQTT 3.1.1).
    pub filter_levels_max: usize,
    /// Clients connected at the same time. Default 200,000; beyond it CONNACK says 0x97 (3 on 3.1.1).
    pub connections_max: usize,
    /// Sessions kept, connected or not. Default 200,000; beyond it CONNACK says 0x97 (3 on 3.1.1).
    pub sessions_max: usize,
    /// Packets that wait to be written to one client. Default 16,384. A slow reader's QoS 0 messages
    /// beyond it are dropped and counted, its others stay in the session's queue.
    pub outbound_packets_max: usize,
    /// Bytes that wait to be written to one client. Default 4 MiB, with the same effect.
    pub outbound_bytes_max: usize,
    /// Retained messages kept. Default 100,000; a new topic beyond it is not retained and counted as
    /// dropped.
    pub retained_messages_max: usize,
    /// Payload and topic bytes of the retained messages kept. Default 64 MiB, with the same effect.
    pub retained_bytes_max: usize,
    /// Topic aliases that one client may define. Default 64; announced.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the server defines towards one client. Default 16; the client's own topic
    /// alias maximum lowers it, and without one there are none.
    pub outbound_topic_aliases_max: u16,
    /// Highest QoS of a publish; subscriptions are granted no more. Default QoS 2; announced.
    pub maximum_qos: QoS,
    /// Whether messages are retained. Default true; announced.
    pub retain_available: bool,
    /// Whether a subscription with wildcards is sent the retained messages it matches. Default true, as the
    /// specification wants it.
    pub retained_on_wildcards: bool,
    /// Whether `a/#` matches `a` as well. Default true, as the specification wants it.
    pub multi_level_matches_parent: bool,
    /// Whether filters may hold wildcards. Default true; announced.
    pub wildcard_subscriptions: bool,
    /// Whether `$share/` filters are accepted, from clients of MQTT 3.1.1 too, as other servers do.
    /// Default true; announced.
    pub shared_subscriptions: bool,
    /// Whether subscription identifiers are accepted. Default true; announced.
    pub subscription_identifiers: bool,
    /// Messages that one client may publish in a second. A client that exceeds it is not read from until it
    /// is within it again. Default none.
    pub publishes_per_second_max: Option<u32>,
    /// Topic and payload bytes that one client may publish in a second, with the same effect. Default none.
    pub publish_bytes_per_second_max: Option<u32>,
    /// Messages of a resumed session that are sent in a second. Default none: as many as fit the window.
    pub replayed_per_second_max: Option<u32>,
    /// Time between two CONNECTs of one client identifier: one that comes sooner is refused with 0x97 (3 on
    /// 3.1.1), and does not count itself. Default none.
    pub connect_interval_min: Option<Duration>,
    /// After how long a QoS 1 message that a client of MQTT 3.1.1 does not acknowledge is sent to it again on
    /// the same connection: after one to two of these, and once in each from then on. MQTT 5 forbids that
    /// `[MQTT-4.4.0-1]`. Default none: it is sent again on the next connection.
    pub redelivery_interval: Option<Duration>,
    /// The longest keep alive in seconds: an MQTT 5 client that asks for more, or for none, is told this
    /// one; MQTT 3.1.1 has no way to say it. Default none: the client's own value counts.
    pub keep_alive_max: Option<u16>,
    /// The longest a session outlives its connection, in seconds; `u32::MAX` is for ever, which is the
    /// default. Announced where it shortens what a client asked for.
    pub session_expiry_max: u32,
    /// Time from accepting a connection to its whole CONNECT, TLS handshake included. Default 10 s.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024,
            receive_maximum: 1024,
            inflight_max: 1024,
            queued_messages_max: 65_536,
            queued_bytes_max: 32 * 1024 * 1024,
            subscriptions_max: 4096,
            filter_levels_max: 128,
            connections_max: 200_000,
            sessions_max: 200_000,
            outbound_packets_max: 16_384,
            outbound_bytes_max: 4 * 1024 * 1024,
            retained_messages_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            topic_alias_maximum: 64,
            outbound_topic_aliases_max: 16,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            retained_on_wildcards: true,
            multi_level_matches_parent: true,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            subscription_identifiers: true,
            publishes_per_second_max: None,
            publish_bytes_per_second_max: None,
            replayed_per_second_max: None,
            connect_interval_min: None,
            redelivery_interval: None,
            keep_alive_max: None,
            session_expiry_max: u32::MAX,
            connect_timeout: Duration::from_secs(10),
        }
    }
}
