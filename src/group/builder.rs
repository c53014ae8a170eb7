//! The settings of a group, and their defaults.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paquebot_actors::store::Durability;
use paquebot_actors::{
    ClientCertificate, ConnectPacer, ConnectTimeouts, Credentials, EndpointError, HttpProxy,
    LinkProfile, OfflineLimit, OutboxConfig, Overflow, PipeConnector, Target, TlsError,
    TrustAnchors, Upgrade, UpgradeError,
};
use paquebot_protocols::backoff::BackoffConfig;
use paquebot_protocols::dialect::{Aws, Dialect, Plain};
use paquebot_protocols::model::DeviceIdError;
use paquebot_protocols::mqtt::Version;
use paquebot_protocols::mqtt::session::{OnSessionLost, SessionConfig};
use secrecy::SecretString;

use super::target::{Place, TargetSettings};
use super::{Group, GroupInner};
use crate::aws;
use crate::fleet::Fleet;

/// Settings of a [`Group`]; every one has a default but the endpoint.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `build`"]
pub struct GroupBuilder {
    fleet: Fleet,
    name: String,
    target: TargetSettings,
    dialect: Arc<dyn Dialect>,
    credentials: Credentials,
    session: SessionConfig,
    clean_start: bool,
    keep_alive: Duration,
    session_expiry: Option<Duration>,
    timeouts: ConnectTimeouts,
    proxy: Option<Box<HttpProxy>>,
    backoff: BackoffConfig,
    outbox: OutboxConfig,
    inbox_max: usize,
    holds_qos0: bool,
    command_timeout: Duration,
    connect_rate: Option<f64>,
    /// `None`: as the platform does.
    sets_aside: Option<bool>,
    aws: Option<aws::Connection>,
}

/// Why a group or one of its links cannot be made. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// No endpoint was set.
    #[error("the group has no endpoint; set one such as mqtt://127.0.0.1:1883")]
    MissingEndpoint,
    /// The endpoint does not parse.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS settings on an endpoint without TLS.
    #[error(
        "a CA file, client certificate, server name or ALPN needs an mqtts:// or wss:// endpoint"
    )]
    TlsWithoutTls,
    /// WebSocket settings on an endpoint without WebSocket.
    #[error("headers and requests of a WebSocket need a ws:// or wss:// endpoint")]
    WebSocketWithoutWebSocket,
    /// A way to AWS IoT that cannot be gone.
    #[error(transparent)]
    Aws(#[from] aws::ConnectionError),
    /// The request that opens the WebSocket cannot be made.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The keep alive does not fit.
    #[error("the keep alive is {0:?}; it is whole seconds from 0 (off) to 65,535")]
    KeepAlive(Duration),
    /// A limit that cannot be 0.
    #[error("{0} is 0; it has to be at least 1")]
    Zero(&'static str),
    /// A rate that is no number above 0.
    #[error("{0} is {1}; it has to be a number above 0")]
    Rate(&'static str, f64),
    /// The device's name cannot be used.
    #[error(transparent)]
    DeviceId(#[from] DeviceIdError),
    /// A durable queue in a fleet without a store.
    #[error(
        "the group's queues are to be durable and the fleet has no store; set FleetBuilder::store"
    )]
    NoStore,
}

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl GroupBuilder {
    pub(crate) fn new(fleet: Fleet, name: String) -> Self {
        Self {
            fleet,
            name,
            target: TargetSettings::default(),
            dialect: Arc::new(Plain::default()),
            credentials: Credentials::default(),
            session: SessionConfig::default(),
            clean_start: false,
            keep_alive: Duration::from_secs(60),
            session_expiry: Some(Duration::from_secs(3600)),
            timeouts: ConnectTimeouts::default(),
            proxy: None,
            backoff: BackoffConfig::default(),
            outbox: OutboxConfig::default(),
            inbox_max: 16,
            holds_qos0: false,
            command_timeout: Duration::from_secs(30),
            connect_rate: None,
            sets_aside: None,
            aws: None,
        }
    }

    /// AWS IoT Core, and what is customary there: to be called first, since it replaces what was set before. What is
    /// set after it holds.
    ///
    /// | setting | becomes | source |
    /// |---|---|---|
    /// | endpoint, ALPN, request of a WebSocket | what the way asks for | see [`aws::Connection`] |
    /// | dialect | [`dialect::Aws`](crate::dialect::Aws) with its default topics | |
    /// | back-off | [`aws::backoff`] | Amazon's first SDK |
    /// | keep alive | stays 60 s, within the 30 to 1,200 s that AWS takes | this runtime: a dead server is found within 90 s. Amazon's SDKs take 600 s and 1,200 s |
    /// | offline limit | [`aws::OFFLINE`] | Amazon's first SDK |
    /// | drain rate | [`aws::DRAIN_RATE`] | Amazon's first SDK |
    /// | window, receive maximum | [`aws::INFLIGHT_MAX`] | "AWS IoT Core quotas" |
    /// | subscriptions | [`aws::SUBSCRIPTIONS_MAX`]; raise it with [`subscriptions_max`](Self::subscriptions_max) if your quota is higher | "AWS IoT Core quotas" |
    /// | rate of sending | not limited; [`aws::PUBLISHES_PER_SECOND`] is AWS's limit | AWS delays what is beyond |
    pub fn aws(mut self, connection: aws::Connection) -> Self {
        self.target.place = Some(Place::Url(connection.url()));
        self.dialect = Arc::new(Aws::default());
        self.target.alpn = connection.alpn().into_iter().map(Into::into).collect();
        if let Some(credentials) = connection.credentials() {
            self.credentials = credentials;
        }
        self.backoff = aws::backoff();
        self.outbox.offline = aws::OFFLINE;
        self.outbox.drain_rate = Some(aws::DRAIN_RATE);
        self.session.inflight_max = aws::INFLIGHT_MAX;
        self.session.receive_maximum = aws::INFLIGHT_MAX;
        self.session.subscriptions_max = aws::SUBSCRIPTIONS_MAX;
        self.aws = Some(connection);
        self
    }

    /// `mqtt://host[:1883]`, `mqtts://host[:8883]`, or over WebSocket `ws://host[:80][/mqtt]` and
    /// `wss://host[:443][/mqtt]`, where a query may follow the path.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.target.place = Some(Place::Url(url.into()));
        self
    }

    /// A server in the same process, reached over an in-memory pipe.
    pub fn pipe(mut self, connector: PipeConnector) -> Self {
        self.target.place = Some(Place::Pipe(connector));
        self
    }

    /// The platform's language. Default: [`Plain`], any MQTT broker.
    pub fn dialect(mut self, dialect: impl Dialect) -> Self {
        self.dialect = Arc::new(dialect);
        self
    }

    /// The protocol version. Default 3.1.1.
    pub fn version(mut self, version: Version) -> Self {
        self.session.version = version;
        self
    }

    /// Trusts the authorities in this PEM file and no others. Default: those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.target.anchors = TrustAnchors::File(path.into());
        self
    }

    /// PEM files of the client certificate all links show. Default: none.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.target.certificate = Some(ClientCertificate {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Application protocols offered in the TLS handshake. Default: none.
    pub fn alpn<I: IntoIterator<Item = S>, S: Into<String>>(mut self, protocols: I) -> Self {
        self.target.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The name that is sent to the server and checked in its certificate. Default: the endpoint's host.
    /// [`GroupBuilder::build`] refuses it for an endpoint without TLS.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.target.server_name = Some(name.into());
        self
    }

    /// A header of the request that opens the WebSocket; call it again for more. Its value is kept as a secret.
    /// It is added to a request that comes from somewhere else as well ([`GroupBuilder::upgrade`], or one that is signed for
    /// AWS IoT), where `authorization` and `x-amz-…` are not free. Default: none but those that a WebSocket needs.
    pub fn websocket_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<SecretString>,
    ) -> Self {
        self.target
            .websocket_headers
            .push((name.into(), value.into()));
        self
    }

    /// Where the request that opens the WebSocket comes from, anew for each connect attempt if it is to: for URLs that
    /// are signed and tokens that expire. Default: a request for the endpoint's path. The headers that were set are added.
    pub fn upgrade(mut self, upgrade: Upgrade) -> Self {
        self.target.upgrade = Some(upgrade);
        self
    }

    /// User name and password of all links that set none of their own. Default: none.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Asks the server to forget the session at every connect. Default: off, so that what the server holds
    /// for a device survives a lost connection.
    pub fn clean_start(mut self, clean_start: bool) -> Self {
        self.clean_start = clean_start;
        self
    }

    /// Keep alive in whole seconds up to 65,535; zero switches it off. Default 60 s: a dead server, or one that
    /// no longer reads, is found within 90 s. Without it a server that holds the connection open and reads nothing
    /// is not found; what the link holds stays within its bounds.
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// MQTT 5: how long the server keeps the session after a connection; `None`: not at all. Default 1 h.
    pub fn session_expiry(mut self, expiry: Option<Duration>) -> Self {
        self.session_expiry = expiry;
        self
    }

    /// QoS 1 and 2 messages sent and not yet acknowledged, at most what the server allows. Default 1,000.
    pub fn inflight_max(mut self, messages: u16) -> Self {
        self.session.inflight_max = messages;
        self
    }

    /// MQTT 3.1.1: QoS 2 messages sent and not yet complete. Default 20: a server of that version cannot say
    /// how many it takes, and Mosquitto closes the connection for more.
    pub fn untold_qos2_max(mut self, messages: u16) -> Self {
        self.outbox.untold_qos2_max = messages.into();
        self
    }

    /// Received QoS 1 and 2 messages not yet acknowledged; told to the server on MQTT 5. Default 1,000.
    pub fn receive_maximum(mut self, messages: u16) -> Self {
        self.session.receive_maximum = messages;
        self
    }

    /// Largest packet accepted, in bytes. Default 1 MiB.
    pub fn packet_size_max(mut self, bytes: u32) -> Self {
        self.session.packet_size_max = bytes;
        self
    }

    /// MQTT 5: topic aliases used towards the server, at most what it allows. Default 0: off.
    pub fn topic_aliases_max(mut self, aliases: u16) -> Self {
        self.session.topic_alias_send_max = aliases;
        self
    }

    /// What becomes of QoS 2 messages in flight when the server lost the session. Default: published again.
    pub fn on_session_lost(mut self, action: OnSessionLost) -> Self {
        self.session.on_session_lost = action;
        self
    }

    /// Whether a QoS 1 message at which the server closes the connection without a word, again and again, is set aside so
    /// that the rest gets through: it ends as [`Outcome::Rejected`](crate::Outcome::Rejected), with a reason that says so.
    /// That takes three connections in a row on which it was sent again, the last time alone, each ended within 5 s with
    /// nothing acknowledged. Default: on platforms whose servers answer what they do not allow in that way, as AWS IoT
    /// does ([`Dialect::closes_silently`]); off on others.
    pub fn sets_aside(mut self, sets_aside: bool) -> Self {
        self.sets_aside = Some(sets_aside);
        self
    }

    /// Filters a link holds at the most. Default 10,000.
    pub fn subscriptions_max(mut self, filters: usize) -> Self {
        self.session.subscriptions_max = filters;
        self
    }

    /// Messages a link holds at the most, waiting and in flight. Default 10,000.
    pub fn queue_messages_max(mut self, messages: usize) -> Self {
        self.outbox.messages_max = messages;
        self
    }

    /// Bytes of topics and payloads a link holds at the most. Default 16 MiB.
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.outbox.bytes_max = bytes;
        self
    }

    /// What happens to a message when the queue is full. Default: the caller waits.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.outbox.overflow = overflow;
        self
    }

    /// What waits while a link is not online; see [`OfflineLimit`]. Default: as much as the queue's bounds allow.
    pub fn offline_limit(mut self, limit: OfflineLimit) -> Self {
        self.outbox.offline = limit;
        self
    }

    /// After an outage, waiting messages sent a second by each link; `None`: no limit. What is published meanwhile
    /// goes behind them, and at full speed once they are gone. Default: no limit.
    pub fn drain_rate(mut self, per_second: impl Into<Option<f64>>) -> Self {
        self.outbox.drain_rate = per_second.into();
        self
    }

    /// At most so many messages sent a second by each link, always; `None`: no limit. What does not go at once waits.
    /// Default: no limit.
    pub fn send_rate(mut self, per_second: impl Into<Option<f64>>) -> Self {
        self.outbox.send_rate = per_second.into();
        self
    }

    /// How durable a message of QoS 1 or 2 is once it is accepted. Default: in memory.
    ///
    /// Other than [`Durability::Memory`] needs [`FleetBuilder::store`](crate::FleetBuilder::store). A link's queue
    /// in the store is named by its group and its device: whoever opens a link of the same names goes on with it,
    /// also after a restart. For QoS 2 to stay exactly once over a restart, the server has to keep the session: no
    /// [`GroupBuilder::clean_start`], and on MQTT 5 a long enough [`GroupBuilder::session_expiry`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.outbox.durability = durability;
        self
    }

    /// Received messages that wait for one consumer. Default 16.
    pub fn inbox_max(mut self, messages: usize) -> Self {
        self.inbox_max = messages;
        self
    }

    /// Whether QoS 0 messages too wait for a consumer whose inbox is full. Past 4 MiB of waiting messages
    /// the link then stops reading, for all of its consumers, and the server decides what to do with the
    /// rest. Default: off, a QoS 0 message without room is dropped and counted.
    pub fn hold_qos0(mut self, holds: bool) -> Self {
        self.holds_qos0 = holds;
        self
    }

    /// How long a command may stay unanswered before it is answered as expired. Default 30 s.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Delays between connect attempts. Default: 1 s doubling to 2 min, with full jitter.
    pub fn backoff(mut self, backoff: BackoffConfig) -> Self {
        self.backoff = backoff;
        self
    }

    /// Deadlines of a connect attempt. Default: 5 s for the name, 10 s each for TCP, TLS and WebSocket, 30 s in all.
    pub fn connect_timeouts(mut self, timeouts: ConnectTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Goes through an HTTP proxy, for every scheme: it has to allow CONNECT to the server's port. It looks the server's
    /// name up by itself. Default: none; environment variables are not looked at.
    pub fn http_proxy(mut self, proxy: HttpProxy) -> Self {
        self.proxy = Some(Box::new(proxy));
        self
    }

    /// How long the server may take for CONNACK. Default 10 s.
    pub fn connack_timeout(mut self, timeout: Duration) -> Self {
        self.session.connack_timeout = timeout;
        self
    }

    /// At most so many connect attempts a second in this group. Default: no limit.
    pub fn connect_rate(mut self, per_second: f64) -> Self {
        self.connect_rate = Some(per_second);
        self
    }

    /// Checks the settings and loads the files.
    ///
    /// # Errors
    /// The setting or file that cannot be used.
    pub fn build(mut self) -> Result<Group, GroupError> {
        self.check()?;
        let mut username_query = None;
        if let Some(connection) = &self.aws {
            connection.check(self.keep_alive)?;
            username_query = connection.username_query();
            // Whoever set a request of their own knows better.
            if self.target.upgrade.is_none() {
                self.target.upgrade = connection.upgrade()?;
            }
        }
        if self.outbox.durability != Durability::Memory && self.fleet.queues().is_none() {
            return Err(GroupError::NoStore);
        }
        self.session.journal = self.outbox.durability != Durability::Memory;
        self.session.sets_aside = self
            .sets_aside
            .unwrap_or_else(|| self.dialect.closes_silently());
        let capabilities = self.dialect.capabilities();
        self.session.filters_per_subscribe_max = self
            .session
            .filters_per_subscribe_max
            .min(capabilities.filters_per_subscribe_max);
        let target = self.target.load()?;
        let needs_certificate = matches!(target, Target::Tls(..))
            && self.target.certificate.is_none()
            && self
                .aws
                .is_some_and(|connection| connection.needs_certificate());
        let metrics = self
            .fleet
            .metrics()
            .group(self.dialect.platform(), &self.name);
        let concurrent_max = usize::MAX >> 4;
        let profile = Arc::new(LinkProfile {
            dialect: self.dialect,
            session: Arc::new(self.session),
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            session_expiry: self.session_expiry,
            timeouts: self.timeouts,
            proxy: self.proxy,
            backoff: Arc::new(self.backoff),
            outbox: Arc::new(self.outbox),
            inbox_max: self.inbox_max,
            holds_qos0: self.holds_qos0,
            command_timeout: self.command_timeout,
            pacer: ConnectPacer::new(self.connect_rate, concurrent_max),
        });
        Ok(Group(Arc::new(GroupInner {
            name: self.name,
            fleet: self.fleet,
            profile,
            target: Arc::new(target),
            needs_certificate,
            username_query,
            credentials: self.credentials,
            metrics,
        })))
    }

    fn check(&self) -> Result<(), GroupError> {
        let keep_alive = self.keep_alive;
        if keep_alive.subsec_nanos() != 0 || keep_alive.as_secs() > u64::from(u16::MAX) {
            return Err(GroupError::KeepAlive(keep_alive));
        }
        for (name, is_zero) in [
            ("inflight_max", self.session.inflight_max == 0),
            ("receive_maximum", self.session.receive_maximum == 0),
            ("packet_size_max", self.session.packet_size_max == 0),
            ("untold_qos2_max", self.outbox.untold_qos2_max == 0),
            ("queue_messages_max", self.outbox.messages_max == 0),
            ("queue_bytes_max", self.outbox.bytes_max == 0),
            ("inbox_max", self.inbox_max == 0),
        ] {
            if is_zero {
                return Err(GroupError::Zero(name));
            }
        }
        for (name, rate) in [
            ("drain_rate", self.outbox.drain_rate),
            ("send_rate", self.outbox.send_rate),
            ("connect_rate", self.connect_rate),
        ] {
            if let Some(rate) = rate.filter(|rate| !rate.is_finite() || *rate <= 0.0) {
                return Err(GroupError::Rate(name, rate));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupBuilder {
        let fleet = Fleet::builder().workers(1).start().unwrap();
        fleet.group("test").endpoint("mqtt://127.0.0.1:9")
    }

    #[test]
    fn a_queue_of_nothing_is_refused() {
        let group = group();
        for (builder, name) in [
            (group.clone().queue_messages_max(0), "queue_messages_max"),
            (group.clone().queue_bytes_max(0), "queue_bytes_max"),
            (group.clone().inbox_max(0), "inbox_max"),
            (group.clone().inflight_max(0), "inflight_max"),
            (group.clone().receive_maximum(0), "receive_maximum"),
            (group.clone().packet_size_max(0), "packet_size_max"),
            (group.untold_qos2_max(0), "untold_qos2_max"),
        ] {
            let error = builder.build().unwrap_err();
            assert!(
                matches!(error, GroupError::Zero(zero) if zero == name),
                "{error}"
            );
            assert!(error.to_string().contains("at least 1"), "{error}");
        }
    }

    #[test]
    fn rates_are_above_zero() {
        let group = group();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for (builder, name) in [
                (group.clone().drain_rate(rate), "drain_rate"),
                (group.clone().send_rate(rate), "send_rate"),
                (group.clone().connect_rate(rate), "connect_rate"),
            ] {
                let error = builder.build().unwrap_err();
                assert!(matches!(error, GroupError::Rate(rate, _) if rate == name));
            }
        }
        assert!(group.send_rate(None).drain_rate(None).build().is_ok());
    }

    #[test]
    fn the_keep_alive_is_whole_seconds_that_fit() {
        let group = group();
        for (keep_alive, fits) in [
            (Duration::ZERO, true),
            (Duration::from_secs(65_535), true),
            (Duration::from_secs(65_536), false),
            (Duration::from_millis(1_500), false),
        ] {
            let built = group.clone().keep_alive(keep_alive).build();
            assert_eq!(built.is_ok(), fits, "{built:?}");
        }
    }
}
