//! Certificate and key of a client: a pair in two files, which cannot change at once.
//!
//! Whoever replaces both puts the new certificate beside the old one first, under the name of [`pending_certificate`], then
//! the key in its place, then the certificate. Should it be stopped in between, whoever reads the pair next finds that it
//! does not fit while the waiting certificate does, and puts that in its place: there is the old pair or the new one.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::Error as RustlsError;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{ClientCertificate, TlsError, pem_error, read, read_certificates};

/// Where a certificate waits for its key to be in its place: beside it, with `.next` behind its name.
#[must_use]
pub fn pending_certificate(certificate: &Path) -> PathBuf {
    let mut name = certificate.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

/// Whether a certificate and a private key, both in PEM form, belong together.
///
/// # Errors
/// What is wrong with them. Nothing of the key is in it.
pub fn check_identity(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "it is no certificate in PEM form".to_owned())?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key is no private key in PEM form".to_owned())?;
    let identity = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    identity.map(drop).map_err(|error| error.to_string())
}

/// Whether a client certificate and its key can be used together, as a link would find. A switch of both files that was
/// stopped half-way is finished.
///
/// # Errors
/// The file that cannot be used and why, or both and why they do not fit.
pub fn check_client_certificate(files: &ClientCertificate) -> Result<(), TlsError> {
    read_identity(files).map(drop)
}

/// The same without touching a file; whether a switch of both was stopped half-way, which the next link that reads them
/// finishes.
///
/// # Errors
/// As [`check_client_certificate`].
pub fn look_at_client_certificate(files: &ClientCertificate) -> Result<bool, TlsError> {
    choose(files).map(|(_, is_pending)| is_pending)
}

pub(super) fn read_identity(files: &ClientCertificate) -> Result<CertifiedKey, TlsError> {
    let (identity, is_pending) = choose(files)?;
    if is_pending {
        let next = pending_certificate(&files.certificate);
        // Where it cannot be written it is read this way each time.
        if let Err(error) = std::fs::rename(&next, &files.certificate) {
            tracing::warn!(certificate = %next.display(), %error, "cannot put a waiting certificate in its place");
        }
    }
    Ok(identity)
}

/// The pair that fits, and whether its certificate still waits to be put in its place.
fn choose(files: &ClientCertificate) -> Result<(CertifiedKey, bool), TlsError> {
    let error = match read_pair(files) {
        Ok(identity) => return Ok((identity, false)),
        Err(error) => error,
    };
    let next = ClientCertificate {
        certificate: pending_certificate(&files.certificate),
        key: files.key.clone(),
    };
    match read_pair(&next) {
        Ok(identity) => Ok((identity, true)),
        Err(_) => Err(error),
    }
}

fn read_pair(files: &ClientCertificate) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(&files.certificate)?;
    let key = read_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| key_mismatch(files, &error))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| pem_error(path, "private key", &error))
}

fn key_mismatch(files: &ClientCertificate, error: &RustlsError) -> TlsError {
    TlsError::KeyMismatch {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        problem: error.to_string(),
    }
}
