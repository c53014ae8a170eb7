//! AWS IoT Core: how links get there, as whom, and what is customary there.
//!
//! [`Connection`] says which way a group's links take; [`GroupBuilder::aws`](crate::GroupBuilder::aws) takes it and
//! sets what is customary on this platform. What devices say there is [`dialect::Aws`](crate::dialect::Aws)'s matter.
//!
//! | way | port | TLS | who it is |
//! |---|---|---|---|
//! | [`Connection::mutual_tls`] | 8883 | client certificate | the certificate |
//! | [`Connection::mutual_tls_alpn`] | 443 | client certificate, ALPN `x-amzn-mqtt-ca` | the certificate |
//! | [`Connection::custom_authorizer`] | 443 | ALPN `mqtt` | user name and password, see [`Authorizer`] |
//! | [`Connection::websocket`] | 443 | | an access key: the URL is signed anew at every attempt |
//! | [`Connection::websocket_custom_authorizer`] | 443 | | headers, see [`Authorizer`] |
//!
//! Source: "Device communication protocols" and "Custom authentication" of the AWS IoT developer guide.
//!
//! And what AWS IoT offers things beside messages and state:
//!
//! | service | here |
//! |---|---|
//! | jobs | [`Jobs`]; [`Jobs::serve`] has a handler do them |
//! | fleet provisioning | [`Provisioning`] |
//! | Greengrass discovery | `Discovery`, with the feature `aws-discovery` |
//! | Device Defender's metrics | [`Defender`] |
//!
//! ```no_run
//! use paquebot::{Fleet, aws};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fleet = Fleet::builder().start()?;
//! let things = fleet
//!     .group("things")
//!     .aws(aws::Connection::mutual_tls("abc123-ats.iot.eu-central-1.amazonaws.com"))
//!     .client_certificate("certificate.pem", "private.key")
//!     .build()?;
//! let link = things.device("pump-1")?.start()?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use paquebot_actors::{Credentials, OfflineLimit, Upgrade, UpgradeError, UpgradeRequest};
use paquebot_protocols::backoff::BackoffConfig;
use paquebot_protocols::dialect::aws::signature::{self, Presign};

mod access_keys;
mod authorizer;
mod defender;
#[cfg(feature = "aws-discovery")]
mod discovery;
mod jobs;
mod provisioning;
mod requests;

pub use access_keys::{AccessKeyError, AccessKeys};
pub use authorizer::{Authorizer, AuthorizerToken};
pub use defender::{
    CustomMetric, Defender, DefenderError, DefenderRejection, DefenderReport, ListeningPort,
    NetworkStats, TcpConnection,
};
#[cfg(feature = "aws-discovery")]
pub use discovery::{
    Discovery, DiscoveryError, GreengrassConnectivity, GreengrassCore, GreengrassGroup,
};
pub use jobs::{
    Job, JobDetails, JobExecution, JobExecutionState, JobName, JobOutcome, JobSettlement,
    JobStatus, JobSummary, JobUpdate, JobUpdated, Jobs, JobsError, JobsErrorCode, JobsRejection,
    NextStream, PendingJobs, PendingStream, StepTimeout,
};
pub use paquebot_protocols::dialect::aws::signature::{AccessKey, region_of};
pub use provisioning::{
    IdentityError, IdentityFiles, PayloadFormat, Provisioned, Provisioning, ProvisioningError,
    ProvisioningRejection,
};
pub use requests::{REQUEST_DEADLINE, REQUESTS_MAX, RequestError};

/// The shortest and the longest keep alive that AWS IoT takes ("AWS IoT Core quotas"): what is longer, or off, it
/// counts as the longest, and what is shorter as the shortest, so that its clock and the link's would differ.
pub const KEEP_ALIVE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(1200);

/// QoS 1 messages that AWS IoT lets a connection have unacknowledged, in each direction.
pub const INFLIGHT_MAX: u16 = 100;

/// Subscriptions that AWS IoT lets a connection have ("AWS IoT Core quotas"). A shadow in use takes two for each kind of
/// request, and one each for its deltas and its documents.
pub const SUBSCRIPTIONS_MAX: usize = 50;

/// Messages a second that AWS IoT takes from a connection; more it delays.
pub const PUBLISHES_PER_SECOND: f64 = 100.0;

/// After an outage, waiting messages sent a second by each link: the default of Amazon's first SDK.
pub const DRAIN_RATE: f64 = 2.0;

/// What waits while a link is not connected: 20 messages, further ones are dropped, as in Amazon's first SDK.
pub const OFFLINE: OfflineLimit = OfflineLimit::DropNewest(20);

/// What the user name says about who connects, unless it is told not to.
const METRICS: &str = concat!("SDK=paquebot&Version=", env!("CARGO_PKG_VERSION"));

/// Delays between connect attempts on this platform: 1 s doubling to 32 s, stable after 20 s. The defaults of Amazon's
/// first SDK; the jitter, which that has not, is this runtime's.
#[must_use]
pub fn backoff() -> BackoffConfig {
    BackoffConfig {
        base: Duration::from_secs(1),
        max: Duration::from_secs(32),
        stable_after: Duration::from_secs(20),
        ..BackoffConfig::default()
    }
}

/// A way to AWS IoT.
#[derive(Debug, Clone)]
#[must_use = "it does nothing by itself; give it to `GroupBuilder::aws`"]
pub struct Connection {
    host: String,
    port: Option<u16>,
    way: Way,
    tells_metrics: bool,
}

#[derive(Debug, Clone)]
enum Way {
    MutualTls,
    MutualTlsAlpn,
    CustomAuthorizer(Authorizer),
    WebSocket {
        keys: AccessKeys,
        region: Option<String>,
    },
    WebSocketCustomAuthorizer(Authorizer),
}

/// Why a [`Connection`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The region is not in the endpoint's name.
    #[error(
        "the endpoint {0:?} does not say which region it is in, which a signature needs; set the region"
    )]
    Region(String),
    /// The region is none.
    #[error("{0:?} is no region; write one such as eu-central-1")]
    BadRegion(String),
    /// The host is a URL or has a port.
    #[error(
        "{0:?} is no host name; write the endpoint's name alone, without scheme, port and path"
    )]
    Host(String),
    /// The keep alive is not one that AWS IoT takes.
    #[error("the keep alive is {0:?}; AWS IoT takes 30 to 1,200 s")]
    KeepAlive(Duration),
    /// The WebSocket's headers cannot be made.
    #[error("the custom authorizer: {0}")]
    Authorizer(String),
    /// Without a client certificate nobody is let in this way.
    #[error(
        "this way to AWS IoT needs a client certificate; set one for the group or for each link, or take another \
         way"
    )]
    Certificate,
}

impl Connection {
    /// MQTT with a client certificate, port 8883. `host` is the account's endpoint, such as
    /// `abc123-ats.iot.eu-central-1.amazonaws.com` (`aws iot describe-endpoint --endpoint-type iot:Data-ATS`).
    pub fn mutual_tls(host: impl Into<String>) -> Self {
        Self::new(host, Way::MutualTls)
    }

    /// The same over port 443, for networks that let nothing else out.
    pub fn mutual_tls_alpn(host: impl Into<String>) -> Self {
        Self::new(host, Way::MutualTlsAlpn)
    }

    /// MQTT over port 443, let in by a custom authorizer.
    pub fn custom_authorizer(host: impl Into<String>, authorizer: Authorizer) -> Self {
        Self::new(host, Way::CustomAuthorizer(authorizer))
    }

    /// MQTT over WebSocket, signed with an access key. The region is read from the endpoint's name.
    pub fn websocket(host: impl Into<String>, keys: AccessKeys) -> Self {
        let way = Way::WebSocket { keys, region: None };
        Self::new(host, way)
    }

    /// MQTT over WebSocket, let in by a custom authorizer.
    pub fn websocket_custom_authorizer(host: impl Into<String>, authorizer: Authorizer) -> Self {
        Self::new(host, Way::WebSocketCustomAuthorizer(authorizer))
    }

    fn new(host: impl Into<String>, way: Way) -> Self {
        Self {
            host: host.into(),
            port: None,
            way,
            tells_metrics: true,
        }
    }

    /// Another port than the way's own, for an emulator or a proxy.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The region that [`Connection::websocket`] signs for; a domain of one's own does not name it.
    pub fn region(mut self, name: impl Into<String>) -> Self {
        if let Way::WebSocket { region, .. } = &mut self.way {
            *region = Some(name.into());
        }
        self
    }

    /// Whether the user name tells AWS which SDK connects: `?SDK=paquebot&Version=…`, behind a user name of one's own
    /// if there is one. Default: it does, as those of Amazon's SDKs do.
    pub fn metrics(mut self, tells: bool) -> Self {
        self.tells_metrics = tells;
        self
    }

    pub(crate) fn url(&self) -> String {
        let (scheme, port) = match self.way {
            Way::MutualTls => ("mqtts", 8883),
            Way::MutualTlsAlpn | Way::CustomAuthorizer(_) => ("mqtts", 443),
            Way::WebSocket { .. } | Way::WebSocketCustomAuthorizer(_) => ("wss", 443),
        };
        let path = if scheme == "wss" { signature::PATH } else { "" };
        format!(
            "{scheme}://{}:{}{path}",
            self.host,
            self.port.unwrap_or(port)
        )
    }

    pub(crate) const fn alpn(&self) -> Option<&'static str> {
        match self.way {
            Way::MutualTls => None,
            Way::MutualTlsAlpn => Some("x-amzn-mqtt-ca"),
            Way::CustomAuthorizer(_) => Some("mqtt"),
            // As Amazon's second SDK.
            Way::WebSocket { .. } | Way::WebSocketCustomAuthorizer(_) => Some("http/1.1"),
        }
    }

    pub(crate) const fn needs_certificate(&self) -> bool {
        matches!(self.way, Way::MutualTls | Way::MutualTlsAlpn)
    }

    /// The user name and password that the way itself asks for.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        match &self.way {
            Way::CustomAuthorizer(authorizer) => Some(authorizer.credentials()),
            Way::WebSocketCustomAuthorizer(authorizer) => authorizer.user_credentials(),
            _ => None,
        }
    }

    /// What is appended to every user name.
    pub(crate) const fn username_query(&self) -> Option<&'static str> {
        if self.tells_metrics {
            Some(METRICS)
        } else {
            None
        }
    }

    pub(crate) fn check(&self, keep_alive: Duration) -> Result<(), ConnectionError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if self.host.is_empty() || !self.host.bytes().all(is_name) {
            return Err(ConnectionError::Host(self.host.clone()));
        }
        if !KEEP_ALIVE.contains(&keep_alive) {
            return Err(ConnectionError::KeepAlive(keep_alive));
        }
        Ok(())
    }

    /// The request of a WebSocket, for each attempt anew.
    pub(crate) fn upgrade(&self) -> Result<Option<Upgrade>, ConnectionError> {
        match &self.way {
            Way::MutualTls | Way::MutualTlsAlpn | Way::CustomAuthorizer(_) => Ok(None),
            Way::WebSocket { keys, region } => {
                let region = match region {
                    Some(region) => region.clone(),
                    None => region_of(&self.host)
                        .ok_or_else(|| ConnectionError::Region(self.host.clone()))?
                        .to_owned(),
                };
                let is_region =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
                if region.is_empty() || !region.bytes().all(is_region) {
                    return Err(ConnectionError::BadRegion(region));
                }
                let signing = Arc::new(Signing {
                    host: self.host.clone(),
                    region,
                    keys: keys.clone(),
                });
                Ok(Some(Upgrade::Provider(Arc::new(move || {
                    let signing = Arc::clone(&signing);
                    Box::pin(async move { signing.request().await })
                }))))
            }
            Way::WebSocketCustomAuthorizer(authorizer) => {
                let upgrade = authorizer.upgrade();
                let upgrade =
                    upgrade.map_err(|error| ConnectionError::Authorizer(error.to_string()))?;
                Ok(Some(upgrade))
            }
        }
    }
}

/// What it takes to sign the URL of an attempt.
struct Signing {
    host: String,
    region: String,
    keys: AccessKeys,
}

impl Signing {
    async fn request(&self) -> Result<UpgradeRequest, UpgradeError> {
        let key = self.keys.resolve().await;
        let key = key.map_err(|error| match error {
            // What a provider of one's own fails at, such as its network, may pass by itself.
            AccessKeyError::Provider(_) => UpgradeError::Failed(Arc::new(error)),
            error => UpgradeError::Unavailable(Arc::new(error)),
        })?;
        let path_and_query = Presign {
            host: &self.host,
            path: signature::PATH,
            region: &self.region,
            service: signature::SERVICE,
            expires: Some(signature::EXPIRES),
            headers: &[],
            key: &key,
            now: SystemTime::now(),
        }
        .path_and_query();
        // The signature holds for this header to the letter, and never for a port.
        UpgradeRequest::new(path_and_query)?.host(self.host.clone())
    }
}
