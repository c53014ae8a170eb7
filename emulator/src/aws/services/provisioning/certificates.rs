//! Who signs the certificates of new things.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::tls::{CertificateAuthority, TlsError, certificate_digest};

/// A new certificate of a device.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeviceCertificate {
    /// The SHA-256 of the certificate in hexadecimal, as AWS has it.
    pub certificate_id: String,
    /// The certificate, in PEM.
    pub certificate_pem: String,
    /// The private key in PEM, where it was made here and not by the device.
    pub private_key_pem: Option<String>,
}

impl DeviceCertificate {
    /// Of a certificate in PEM, which gives the identifier.
    ///
    /// # Errors
    /// A text that is not the PEM of a certificate.
    pub fn new(certificate_pem: String, private_key_pem: Option<String>) -> Result<Self, TlsError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|source| {
            TlsError::BadPem {
                what: "the new certificate",
                source,
            }
        })?;
        Ok(Self {
            certificate_id: certificate_digest(&der),
            certificate_pem,
            private_key_pem,
        })
    }
}

impl std::fmt::Debug for DeviceCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.private_key_pem.as_ref().map(|_| "(redacted)");
        f.debug_struct("DeviceCertificate")
            .field("certificate_id", &self.certificate_id)
            .field("certificate_pem", &self.certificate_pem)
            .field("private_key_pem", &key)
            .finish()
    }
}

/// Signs certificates for devices. Whoever listens for devices trusts the same authority.
pub trait CertificateIssuer: std::fmt::Debug + Send {
    /// A new key pair and its certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    fn issue(&mut self) -> Result<DeviceCertificate, TlsError>;

    /// A certificate for a key that the device keeps.
    ///
    /// # Errors
    /// A request that cannot be read, or whose signature is not of its key.
    fn sign(&mut self, request_pem: &str) -> Result<DeviceCertificate, TlsError>;
}

impl CertificateIssuer for CertificateAuthority {
    fn issue(&mut self) -> Result<DeviceCertificate, TlsError> {
        issue(self)
    }

    fn sign(&mut self, request_pem: &str) -> Result<DeviceCertificate, TlsError> {
        sign(self, request_pem)
    }
}

/// For an authority that signs for the servers too.
impl CertificateIssuer for Arc<CertificateAuthority> {
    fn issue(&mut self) -> Result<DeviceCertificate, TlsError> {
        issue(self)
    }

    fn sign(&mut self, request_pem: &str) -> Result<DeviceCertificate, TlsError> {
        sign(self, request_pem)
    }
}

fn issue(authority: &CertificateAuthority) -> Result<DeviceCertificate, TlsError> {
    let identity = authority.client("AWS IoT Certificate")?;
    DeviceCertificate::new(identity.certificate_pem, Some(identity.private_key_pem))
}

fn sign(
    authority: &CertificateAuthority,
    request_pem: &str,
) -> Result<DeviceCertificate, TlsError> {
    DeviceCertificate::new(authority.sign_request(request_pem)?, None)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_for_a_devices_own_key_has_that_key_and_the_authoritys_signature() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(Vec::new()).unwrap();
        let request = request.serialize_request(&key).unwrap().pem().unwrap();
        let mut authority = Arc::new(CertificateAuthority::generate().unwrap());
        let certificate = authority.sign(&request).unwrap();
        assert!(certificate.private_key_pem.is_none());
        assert_eq!(certificate.certificate_id.len(), 64);
        // The TLS library refuses a key that does not belong to the certificate.
        crate::ServerTls::from_pem(&certificate.certificate_pem, &key.serialize_pem()).unwrap();
    }

    #[test]
    fn what_is_no_signing_request_is_refused() {
        let mut authority = CertificateAuthority::generate().unwrap();
        let not_one = authority.pem().to_owned();
        for request in ["", "x", not_one.as_str()] {
            assert!(authority.sign(request).is_err(), "{request}");
        }
    }

    #[test]
    fn the_debug_output_of_a_certificate_hides_its_key() {
        let mut authority = CertificateAuthority::generate().unwrap();
        let certificate = authority.issue().unwrap();
        assert!(!format!("{certificate:?}").contains("PRIVATE KEY"));
    }
}
