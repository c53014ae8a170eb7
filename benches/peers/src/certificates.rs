//! An authority of one run and the peer's certificate from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::Failure;

/// The peer's certificate names the loopback addresses 127.0.0.1 to this one.
const HOSTS: u8 = 8;

/// What the peer shows and what the clients trust.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The peer's side.
    pub(crate) server: Arc<ServerConfig>,
    /// The authority, as PEM.
    pub(crate) ca_file: PathBuf,
}

impl Certificates {
    /// Makes ECDSA keys on P-256, the default of rcgen, and leaves the authority in `folder`.
    pub(crate) fn make(folder: &Path) -> Result<Self, Failure> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, authority.pem())?;
        let names = (1..=HOSTS).map(|host| format!("127.0.0.{host}"));
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(names.collect::<Vec<_>>())?.signed_by(&key, &authority)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(Self {
            server: Arc::new(server),
            ca_file,
        })
    }
}
