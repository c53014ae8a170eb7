//! TLS for listeners, and certificates made on the spot.

pub(crate) mod handshake;

use std::sync::Arc;

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A text is no PEM of the kind that is needed.
    #[error("{what} is not readable: {source}; give it in PEM, as `-----BEGIN …-----` blocks")]
    BadPem {
        /// Which of the given texts.
        what: &'static str,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// A PEM text has no certificate.
    #[error("{what} holds no certificate; give at least one `-----BEGIN CERTIFICATE-----` block")]
    NoCertificate {
        /// Which of the given texts.
        what: &'static str,
    },
    /// The certificate and key are well-formed, and cannot be used together or at all.
    #[error(
        "the TLS library refuses these certificates: {0}; check that the key belongs to the certificate"
    )]
    Unusable(#[from] rustls::Error),
    /// The authority for client certificates cannot be used.
    #[error(
        "the authority for client certificates cannot be used: {0}; give the PEM of a CA certificate"
    )]
    BadAuthority(#[from] rustls::server::VerifierBuilderError),
    /// A certificate could not be made.
    #[error("making a certificate failed: {0}; check the names it is for")]
    NotMade(#[from] rcgen::Error),
}

/// The TLS side of a listener: TLS 1.2 and 1.3.
#[derive(Debug, Clone)]
pub struct ServerTls {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// From a certificate chain, the server's own first, and its private key, both in PEM.
    ///
    /// # Errors
    /// A text that is not PEM, or a key of another certificate.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let chain = certificates("the certificate chain", chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| {
            TlsError::BadPem {
                what: "the private key",
                source,
            }
        })?;
        let key = Arc::new(key);
        let config = config(&chain, &key, WebPkiClientVerifier::no_client_auth())?;
        Ok(Self { chain, key, config })
    }

    /// From an identity that a [`CertificateAuthority`] made.
    ///
    /// # Errors
    /// As [`ServerTls::from_pem`].
    pub fn from_identity(identity: &Identity) -> Result<Self, TlsError> {
        Self::from_pem(&identity.certificate_pem, &identity.private_key_pem)
    }

    /// Asks clients for a certificate that one of these authorities signed, and refuses the others.
    ///
    /// # Errors
    /// A text that is not PEM or holds no CA certificate.
    pub fn require_client_certificate(self, authorities_pem: &str) -> Result<Self, TlsError> {
        self.ask_for_certificate(authorities_pem, false)
    }

    /// Asks clients for a certificate, and lets those in that have none; one of another authority is refused.
    ///
    /// # Errors
    /// As [`ServerTls::require_client_certificate`].
    pub fn request_client_certificate(self, authorities_pem: &str) -> Result<Self, TlsError> {
        self.ask_for_certificate(authorities_pem, true)
    }

    /// Sets the application protocols that the listener speaks, the preferred first. A client that names
    /// only others is refused, one that names none is served.
    #[must_use]
    pub fn application_protocols(self, protocols: &[&str]) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Self {
            config: Arc::new(config),
            ..self
        }
    }

    fn ask_for_certificate(
        self,
        authorities_pem: &str,
        is_optional: bool,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the authority for client certificates", authorities_pem)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if is_optional {
            verifier = verifier.allow_unauthenticated();
        }
        let config = config(&self.chain, &self.key, verifier.build()?)?;
        Ok(Self { config, ..self })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

/// The SHA-256 of a certificate in lower-case hexadecimal digits.
pub(crate) fn certificate_digest(certificate: &CertificateDer<'_>) -> String {
    hexadecimal(digest::digest(&digest::SHA256, certificate).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::BadPem { what, source })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { what });
    }
    Ok(certificates)
}

fn config(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    Ok(Arc::new(config))
}

/// What the certificate of a key's authority says. Its name holds a part of the key's digest: a client that
/// trusts another authority of the same name would take it for the issuer, and complain about a bad
/// signature in place of an unknown issuer.
fn authority(key: &KeyPair) -> Result<CertificateParams, TlsError> {
    const DIGEST_BYTES: usize = 4;
    let mut params = CertificateParams::new(Vec::new())?;
    let digest = digest::digest(&digest::SHA256, key.public_key_raw());
    let name = format!(
        "paquebot emulator CA {}",
        hexadecimal(&digest.as_ref()[..DIGEST_BYTES])
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// A certificate and its private key, in PEM.
#[derive(Clone)]
#[non_exhaustive]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub private_key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .field("private_key_pem", &"(redacted)")
            .finish()
    }
}

/// A certificate authority for tests and demos: trust [`pem`](Self::pem) where a client asks for a CA file.
/// Its key is never written anywhere, unless it is asked for.
#[derive(Debug)]
pub struct CertificateAuthority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// A new authority with a fresh key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let params = authority(&key)?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { pem, issuer })
    }

    /// An authority that [`generate`](Self::generate) made earlier, from its certificate and its key.
    ///
    /// # Errors
    /// A key that is not readable, or one of another certificate.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(key_pem)?;
        let identity = Identity {
            certificate_pem: certificate_pem.to_owned(),
            private_key_pem: key_pem.to_owned(),
        };
        // Building a server's configuration compares the two.
        ServerTls::from_identity(&identity)?;
        Ok(Self {
            pem: certificate_pem.to_owned(),
            issuer: Issuer::from_ca_cert_pem(certificate_pem, key)?,
        })
    }

    /// The authority's private key in PEM, for [`from_pem`](Self::from_pem). It is a secret.
    #[must_use]
    pub fn private_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for host names and IP addresses.
    ///
    /// # Errors
    /// A name that is neither.
    pub fn server<I>(&self, names: I) -> Result<Identity, TlsError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        self.issue(names, common_name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate with a common name.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn client(&self, common_name: impl Into<String>) -> Result<Identity, TlsError> {
        self.issue(
            Vec::new(),
            common_name.into(),
            ExtendedKeyUsagePurpose::ClientAuth,
        )
    }

    /// A client certificate for the key of a signing request in PEM, in PEM. The certificate has the name
    /// of the request and nothing else that it asks for.
    ///
    /// # Errors
    /// A text that is no signing request, or one whose signature is not of its own key.
    pub fn sign_request(&self, request_pem: &str) -> Result<String, TlsError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = request.params.distinguished_name;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    fn issue(
        &self,
        names: Vec<String>,
        common_name: String,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, TlsError> {
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            private_key_pem: key.serialize_pem(),
        })
    }
}
