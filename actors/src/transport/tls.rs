//! TLS settings: rustls with aws-lc-rs, TLS 1.2 and 1.3, the host name always checked.
//!
//! This is the one place that knows the TLS library. There is no switch that turns verification off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Endpoint;

mod explanation;
mod identity;
mod rotation;
mod sessions;

pub(super) use explanation::{advice, handshake_error, refusal};
use identity::read_identity;
pub use identity::{
    check_client_certificate, check_identity, look_at_client_certificate, pending_certificate,
};
use rotation::Rotating;
pub(crate) use rotation::reloads;
use sessions::Sessions;

/// Tickets of one server that links with the same identity keep: as many as there may be handshakes that end in one turn.
const SHARED_TICKETS: usize = 64;

/// The same for a link with a certificate of its own.
const OWN_TICKETS: usize = 2;

/// Which authorities may have signed the server's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TrustAnchors {
    /// Those of the system.
    #[default]
    System,
    /// Those in a PEM file, and no others.
    File(PathBuf),
}

/// Files of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file with the certificate and, after it, its intermediates.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Loaded TLS settings; cheap to clone and shared by all links that use them. Files that change are loaded before the
/// next handshake; changed files that cannot be used leave those before in force.
#[derive(Clone)]
pub struct TlsConfig {
    client: Arc<Rotating>,
    server_name: Option<ServerName<'static>>,
    /// Both for errors to name.
    anchors: Arc<TrustAnchors>,
    identity: Option<Arc<ClientCertificate>>,
}

/// Why TLS settings could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        r#source: io::Error,
    },
    /// A file is not the PEM it should be.
    #[error("{path} holds no {expected} in PEM form: {problem}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate in the CA file cannot be used.
    #[error("{path} holds a certificate that cannot be used: {problem}", path = path.display())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not belong together, or the key is of an unknown kind.
    #[error(
        "the certificate {certificate} and the key {key} cannot be used together: {problem}",
        certificate = certificate.display(), key = key.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system's trust store cannot be used.
    #[error("cannot use the system's trusted certificates: {0}; name a CA file instead")]
    SystemTrust(String),
    /// The name to check the certificate against is none.
    #[error("{0:?} is no host name or IP address to check a certificate against")]
    ServerName(String),
}

impl TlsConfig {
    /// Loads the files.
    ///
    /// `alpn` are the application protocols offered, in order; empty offers none. `server_name` is the name
    /// that is sent and that the certificate is checked against; the endpoint's host when `None`.
    ///
    /// # Errors
    /// The file that cannot be used and why.
    pub fn load(
        anchors: &TrustAnchors,
        client: Option<&ClientCertificate>,
        alpn: &[&str],
        server_name: Option<&str>,
    ) -> Result<Self, TlsError> {
        let server_name = server_name
            .map(|name| {
                ServerName::try_from(name.to_owned())
                    .map_err(|_| TlsError::ServerName(name.to_owned()))
            })
            .transpose()?;
        let files = match anchors {
            TrustAnchors::System => None,
            TrustAnchors::File(path) => Some(path.clone()),
        };
        let files = files
            .into_iter()
            .chain(client.into_iter().flat_map(files_of));
        let (anchors, identity) = (Arc::new(anchors.clone()), client.cloned().map(Arc::new));
        let (trusted, client) = (Arc::clone(&anchors), identity.clone());
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let load = move || load_config(&trusted, client.as_deref(), alpn.clone());
        Ok(Self {
            client: Arc::new(Rotating::new(files.collect(), None, Box::new(load))?),
            server_name,
            anchors,
            identity,
        })
    }

    /// The same settings with another client certificate. The trusted authorities are shared, so that
    /// thousands of devices with certificates of their own hold them once; sessions that could be resumed
    /// are not, since a session stands for the identity that began it.
    ///
    /// # Errors
    /// The file that cannot be used and why.
    pub fn with_client_certificate(&self, files: &ClientCertificate) -> Result<Self, TlsError> {
        let identity = Arc::new(files.clone());
        let (base, own) = (Arc::clone(&self.client), Arc::clone(&identity));
        let load = move || load_identity(&base.config(), &own);
        let (base, paths) = (Some(Arc::clone(&self.client)), files_of(files).into());
        Ok(Self {
            client: Arc::new(Rotating::new(paths, base, Box::new(load))?),
            server_name: self.server_name.clone(),
            anchors: Arc::clone(&self.anchors),
            identity: Some(identity),
        })
    }

    pub(super) fn client_config(&self) -> Arc<ClientConfig> {
        self.client.config()
    }

    pub(super) fn server_name_for(&self, endpoint: &Endpoint) -> ServerName<'static> {
        if let Some(name) = &self.server_name {
            return name.clone();
        }
        // An endpoint's host is a name or an address by construction; one that is too odd for a
        // certificate matches none, and the handshake says so.
        ServerName::try_from(endpoint.host().to_owned()).unwrap_or(ServerName::IpAddress(
            std::net::Ipv4Addr::UNSPECIFIED.into(),
        ))
    }
}

fn files_of(client: &ClientCertificate) -> [PathBuf; 2] {
    [client.certificate.clone(), client.key.clone()]
}

fn load_config(
    anchors: &TrustAnchors,
    client: Option<&ClientCertificate>,
    alpn: Vec<Vec<u8>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::SystemTrust(error.to_string()))?;
    let builder = match anchors {
        TrustAnchors::System => builder
            .with_platform_verifier()
            .map_err(|error| TlsError::SystemTrust(error.to_string()))?,
        TrustAnchors::File(path) => builder.with_root_certificates(read_anchors(path)?),
    };
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let identity = read_identity(files)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    };
    config.alpn_protocols = alpn;
    config.resumption = Resumption::store(Arc::new(Sessions::new(SHARED_TICKETS)));
    Ok(Arc::new(config))
}

fn load_identity(
    base: &ClientConfig,
    files: &ClientCertificate,
) -> Result<Arc<ClientConfig>, TlsError> {
    let identity = read_identity(files)?;
    let mut config = base.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity));
    config.resumption = Resumption::store(Arc::new(Sessions::new(OWN_TICKETS)));
    Ok(Arc::new(config))
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfig")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn pem_error(path: &Path, expected: &'static str, error: &pem::Error) -> TlsError {
    let problem = match error {
        pem::Error::NoItemsFound => "there is none in the file".to_owned(),
        other => other.to_string(),
    };
    TlsError::Pem {
        path: path.to_owned(),
        expected,
        problem,
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem_error(path, "certificate", &error))?;
    if certificates.is_empty() {
        return Err(pem_error(path, "certificate", &pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read_anchors(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        store.add(certificate).map_err(|error| TlsError::Anchor {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    }
    Ok(store)
}
