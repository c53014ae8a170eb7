//! AWS IoT Core on this machine: its endpoints, its message broker's rules and its services, so that
//! Amazon's own SDKs connect to it.
//!
//! It listens on three ports:
//!
//! | port | AWS's | carries |
//! |---|---|---|
//! | [`Aws::mqtt_address`] | 8883 | MQTT with a client certificate |
//! | [`Aws::shared_address`] | 443 | by application protocol: MQTT with a certificate (`x-amzn-mqtt-ca`) or a custom authorizer (`mqtt`); HTTPS and MQTT over WebSocket (`x-amzn-http-ca`, `http/1.1`, none) |
//! | [`Aws::https_address`] | 8443 | HTTPS: publishing, shadows, jobs, discovery; making a thing (`POST /things/<thing>`) or a job (`PUT /jobs/<jobId>`) and looking at what there is (`GET /things`, `/certificates`, `/jobs`, `/jobs/<jobId>`, `/jobs/<jobId>/things`) |
//!
//! A certificate of the emulator's authority lets in as itself, an access key that was added signs a WebSocket or
//! a request, an [`Authorizer`] that was added looks at tokens and passwords. What a principal may do is
//! [`Permissions`]; without any it may do everything.
//!
//! ```no_run
//! use paquebot_emulator::aws::Aws;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let aws = Aws::builder().directory("paquebot-aws").start().await?;
//! let thing = aws.client_certificate("pump")?;
//! println!("connect to {} with {:?}", aws.mqtt_address(), thing.paths);
//! aws.tell(|services, now| services.set_desired("pump", None, &json!({"led": "on"}), now))?;
//! # Ok(())
//! # }
//! ```
//!
//! Whom it turns away it tells in the log at the level `warn`, a line for each cause: the client, what was wrong,
//! and whose rule that is. A client that tries again and again is told of once in ten seconds.
//!
//! What it does not do: MQTT 3.1 (`MQIsdp`), which is refused with CONNACK 1 as AWS IoT takes 3.1.1 and 5 only;
//! policies with conditions or variables but those for the client identifier, and permissions for what is received and for shadows by HTTPS. The limit of
//! one CONNECT a second for a client identifier, and a second delivery on a connection that stays, are off unless
//! they are asked for.
//!
//! A client need not send a server name. Where AWS's documents leave something open it is a setting:
//! [`AwsSettings`].

mod authorizer;
mod backend;
mod certificates;
mod control;
mod front;
mod http;
mod identities;
mod lifecycle;
mod permissions;
mod rules;
pub mod services;
mod signature;
mod upgrade;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use backend::{Backend, SharedServices};
use certificates::Certificates;
use front::{HttpPort, SharedPort};
use http::HttpFront;
use identities::Identities;
use permissions::PermissionTable;
use rules::Rules;
use services::{Publication, ServiceSettings, Services};
use signature::AccessKey;

pub use authorizer::{Authorizer, PublicKeyError};
pub use certificates::{CertificateError, CertificatePaths, ClientCertificate};
pub use permissions::{Permissions, PolicyError};
pub use rules::AwsSettings;

use crate::broker::Broker;
use crate::builder::StartError;
use crate::remarks::Loudness;
use crate::tls::TlsError;

/// Host names that the server certificate is for, besides those asked for and the endpoints of every account
/// in the region.
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The region that examples use.
const REGION: &str = "us-east-1";

/// Why an emulator did not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AwsError {
    /// A listener.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// TLS cannot be set up with them.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How an emulator is to be; made by [`Aws::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct AwsBuilder {
    directory: Option<PathBuf>,
    names: Vec<String>,
    ports: [SocketAddr; 3],
    allow_remote: bool,
    settings: AwsSettings,
    services: ServiceSettings,
    identities: Identities,
    region: String,
    permissions: Option<Permissions>,
}

impl Default for AwsBuilder {
    fn default() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            directory: None,
            names: SERVER_NAMES.map(str::to_owned).to_vec(),
            ports: [free; 3],
            allow_remote: false,
            settings: AwsSettings::default(),
            services: ServiceSettings::default(),
            identities: Identities::default(),
            region: REGION.to_owned(),
            permissions: None,
        }
    }
}

impl AwsBuilder {
    /// Keeps the authority and the certificates in a directory, and takes those that are there. Default:
    /// they are made anew and kept in memory.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Adds a host name, with `*` for one label or none, or an IP address to the server certificate. It is
    /// for `localhost`, the loopback addresses and `*.iot.<region>.amazonaws.com` in any case.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Sets the region: the one that signatures have to be made for, and that ARNs and the endpoint's name
    /// have. Default `us-east-1`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Where AWS's port 8883 is. Default a free port of 127.0.0.1, as for the other two.
    pub fn mqtt(mut self, address: impl Into<SocketAddr>) -> Self {
        self.ports[0] = address.into();
        self
    }

    /// Where AWS's port 443 is.
    pub fn shared(mut self, address: impl Into<SocketAddr>) -> Self {
        self.ports[1] = address.into();
        self
    }

    /// Where AWS's port 8443 is.
    pub fn https(mut self, address: impl Into<SocketAddr>) -> Self {
        self.ports[2] = address.into();
        self
    }

    /// Lets the ports be at addresses that other machines reach. Default false.
    pub const fn allow_remote(mut self, allow: bool) -> Self {
        self.allow_remote = allow;
        self
    }

    /// Sets what every principal may do that [`Aws::set_permissions`] gives none of its own. Default: everything.
    pub fn permissions(mut self, permissions: Permissions) -> Self {
        self.permissions = Some(permissions);
        self
    }

    /// Sets the broker's limits and what it does about those who exceed them.
    pub fn settings(mut self, settings: AwsSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets how the services behave.
    pub fn services(mut self, settings: ServiceSettings) -> Self {
        self.services = settings;
        self
    }

    /// Accepts an access key of IAM; a temporary one has a session token.
    pub fn access_key(self, id: &str, secret: &str, token: Option<&str>) -> Self {
        self.identities.add_key(AccessKey {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
        });
        self
    }

    /// Adds a custom authorizer.
    pub fn authorizer(self, authorizer: Authorizer) -> Self {
        self.identities.add_authorizer(authorizer);
        self
    }

    /// Starts the emulator on the caller's tokio runtime, which needs its network and time drivers.
    ///
    /// # Errors
    /// A port that cannot be listened on, or certificates that cannot be read or made.
    pub async fn start(mut self) -> Result<Aws, AwsError> {
        let endpoints = format!("*.iot.{}.amazonaws.com", self.region);
        self.names.push(endpoints);
        let certificates = Arc::new(Certificates::open(self.directory, &self.names)?);
        let identities = Arc::new(self.identities);
        let permissions = Arc::new(PermissionTable::new(self.permissions));
        let limits = self.settings.limits();
        let rules = Arc::new(Rules {
            settings: self.settings,
            identities: Arc::clone(&identities),
            permissions: Arc::clone(&permissions),
            names: certificates.names(),
            region: self.region,
        });
        let mut services = Services::new(self.services);
        services.set_issuer(Box::new(certificates.issuer()?));
        let services = SharedServices::new(services);
        let http = Arc::new(HttpFront {
            services: services.clone(),
            rules: Arc::clone(&rules),
            identities: Arc::clone(&identities),
            websocket_lifetime: rules.settings.websocket_lifetime,
        });
        let [mqtt, shared, https] = self.ports;
        let broker = Broker::builder()
            .tls(mqtt, certificates.mqtt_tls()?)
            .front(
                shared,
                &certificates.shared_tls()?,
                Arc::new(SharedPort(Arc::clone(&http))),
            )
            .front(https, &certificates.http_tls()?, Arc::new(HttpPort(http)))
            .allow_remote(self.allow_remote)
            .limits(limits)
            .policy(rules)
            .loudness(Loudness::Warn)
            .service(Backend::new(services.clone()))
            .start()
            .await?;
        Ok(Aws {
            broker,
            certificates,
            identities,
            permissions,
            services,
        })
    }
}

/// A running emulator of AWS IoT Core. Clones are handles of the same one; it stops with [`Aws::stop`] or
/// when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Aws {
    broker: Broker,
    certificates: Arc<Certificates>,
    identities: Arc<Identities>,
    permissions: Arc<PermissionTable>,
    services: SharedServices,
}

impl Aws {
    /// An emulator on free ports of 127.0.0.1 that keeps its certificates in memory.
    pub fn builder() -> AwsBuilder {
        AwsBuilder::default()
    }

    /// The message broker: its counters, its clients, what is published, and the faults of the network.
    #[must_use]
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where AWS's port 8883 is.
    #[must_use]
    pub fn mqtt_address(&self) -> SocketAddr {
        self.port(0)
    }

    /// Where AWS's port 443 is.
    #[must_use]
    pub fn shared_address(&self) -> SocketAddr {
        self.port(1)
    }

    /// Where AWS's port 8443 is.
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        self.port(2)
    }

    fn port(&self, index: usize) -> SocketAddr {
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.broker.addresses(true).nth(index).unwrap_or(unknown)
    }

    /// The certificate of the authority that clients have to trust, in PEM: AWS's root CA.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        self.certificates.authority_pem()
    }

    /// Where it lies, when the emulator has a directory.
    #[must_use]
    pub fn authority_path(&self) -> Option<PathBuf> {
        self.certificates.authority_path()
    }

    /// A client certificate with this common name. With a directory it is made once and read from then on;
    /// without one each call makes another.
    ///
    /// # Errors
    /// A name that is none, or a file that cannot be read or written.
    pub fn client_certificate(&self, name: &str) -> Result<ClientCertificate, CertificateError> {
        self.certificates.client(name)
    }

    /// Has the services do something, as an application or an operator would, and publishes what they say.
    ///
    /// ```
    /// # use paquebot_emulator::aws::Aws;
    /// # use serde_json::json;
    /// # async fn example(aws: Aws) -> Result<(), Box<dyn std::error::Error>> {
    /// aws.tell(|services, now| services.set_desired("pump", None, &json!({"led": "on"}), now))?;
    /// let job = json!({"operation": "reboot"});
    /// aws.tell(|services, now| services.create_job("job-1", &job, &["pump"], now))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `work` says.
    pub fn tell<E>(
        &self,
        work: impl FnOnce(&mut Services, SystemTime) -> Result<Vec<Publication>, E>,
    ) -> Result<(), E> {
        self.services.tell(&self.broker.shared(), work)
    }

    /// Looks at the services, or sets something up in them that devices are not told. `work` must not call
    /// this handle or its broker.
    pub fn services<R>(&self, work: impl FnOnce(&mut Services) -> R) -> R {
        work(&mut self.services.lock())
    }

    /// Accepts an access key of IAM from now on, in place of one with the same identifier; a temporary one
    /// has a session token.
    pub fn add_access_key(&self, id: &str, secret: &str, token: Option<&str>) {
        self.identities.add_key(AccessKey {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
        });
    }

    /// Accepts an access key no longer; connections that it let in stay.
    pub fn remove_access_key(&self, id: &str) {
        self.identities.remove_key(id);
    }

    /// Adds a custom authorizer, in place of one with the same name.
    pub fn add_authorizer(&self, authorizer: Authorizer) {
        self.identities.add_authorizer(authorizer);
    }

    /// Sets what a principal may do from now on: a [certificate's
    /// identifier](ClientCertificate::certificate_id), an access key's or an authorizer's name. `None`, the
    /// default of every principal, lets it do what [`AwsBuilder::permissions`] says, or else everything.
    pub fn set_permissions(&self, principal: impl Into<String>, permissions: Option<Permissions>) {
        self.permissions.set(principal.into(), permissions);
    }

    /// Stops the emulator; when this returns every socket and listener is closed.
    pub async fn stop(&self) {
        self.broker.stop().await;
    }
}
