//! A certificate authority that lives as long as a test, and the good and the bad certificates that
//! it signs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// The names of a server on the loopback interface.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate authority. Its files, and those of all it signs, go away with it.
///
/// Two authorities know nothing of each other: a second one is the *wrong CA* of a test.
pub(crate) struct Authority {
    folder: TempDir,
    certificate: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its private key, as PEM files and as text.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The certificate's file.
    pub(crate) certificate: PathBuf,
    /// The private key's file (PKCS #8), readable by its owner only.
    pub(crate) key: PathBuf,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Identity {
    /// Copies both as `name.pem` and `name.key.pem` into the folder of a server, which can restart with them whatever
    /// becomes of the authority's.
    pub(crate) fn write_into(&self, folder: &Path, name: &str) {
        let at = |ending: &str| folder.join(format!("{name}.{ending}"));
        write_file(&at("pem"), &self.certificate_pem, 0o644);
        write_file(&at("key.pem"), &self.key_pem, 0o600);
    }
}

/// When a certificate holds, in years.
#[derive(Debug, Clone, Copy)]
enum Validity {
    Now,
    Past,
    Future,
}

/// Which end of a connection a certificate is for.
#[derive(Debug, Clone, Copy)]
enum Usage {
    Server,
    Client,
}

impl Authority {
    /// A new authority of the given common name.
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| {
            panic!("making a temporary folder for certificates failed: {error}")
        });
        let mut params = parameters(name, &[], Validity::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key())
            .unwrap_or_else(|error| panic!("signing the test CA failed: {error}"));
        let certificate = folder.path().join("ca.pem");
        write_file(&certificate, &issuer.pem(), 0o644);
        Self {
            folder,
            certificate,
            issuer,
        }
    }

    /// The authority's own certificate: what the other side is given to trust.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The same as PEM text.
    pub(crate) fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for `localhost`, 127.0.0.1 and ::1.
    pub(crate) fn server(&self) -> Identity {
        self.sign(
            "server",
            "localhost",
            &LOCAL_NAMES,
            Validity::Now,
            Usage::Server,
        )
    }

    /// A server's certificate that is valid, but for another host than the one it serves.
    pub(crate) fn server_for_wrong_host(&self) -> Identity {
        let host = "elsewhere.example";
        self.sign("wrong-host", host, &[host], Validity::Now, Usage::Server)
    }

    /// A server's certificate that ended years ago.
    pub(crate) fn expired_server(&self) -> Identity {
        self.sign(
            "expired",
            "localhost",
            &LOCAL_NAMES,
            Validity::Past,
            Usage::Server,
        )
    }

    /// A server's certificate that begins decades from now.
    pub(crate) fn not_yet_valid_server(&self) -> Identity {
        self.sign(
            "not-yet-valid",
            "localhost",
            &LOCAL_NAMES,
            Validity::Future,
            Usage::Server,
        )
    }

    /// A client's certificate. Brokers take its common name, `name`, as the user name.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.sign(
            &format!("client-{name}"),
            name,
            &[],
            Validity::Now,
            Usage::Client,
        )
    }

    /// A client's certificate that ended years ago.
    pub(crate) fn expired_client(&self, name: &str) -> Identity {
        self.sign(
            &format!("expired-{name}"),
            name,
            &[],
            Validity::Past,
            Usage::Client,
        )
    }

    fn sign(
        &self,
        file_stem: &str,
        common_name: &str,
        subject_names: &[&str],
        validity: Validity,
        usage: Usage,
    ) -> Identity {
        let mut params = parameters(common_name, subject_names, validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = new_key();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .unwrap_or_else(|error| panic!("signing {file_stem} failed: {error}"));
        let identity = Identity {
            certificate: self.folder.path().join(format!("{file_stem}.pem")),
            key: self.folder.path().join(format!("{file_stem}.key.pem")),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        };
        write_file(&identity.certificate, &identity.certificate_pem, 0o644);
        write_file(&identity.key, &identity.key_pem, 0o600);
        identity
    }
}

fn parameters(common_name: &str, subject_names: &[&str], validity: Validity) -> CertificateParams {
    let names: Vec<String> = subject_names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)
        .unwrap_or_else(|error| panic!("{subject_names:?} are not subject names: {error}"));
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let (from, to) = match validity {
        Validity::Now => (2020, 2100),
        Validity::Past => (2020, 2021),
        Validity::Future => (2090, 2100),
    };
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|error| panic!("making a key failed: {error}"))
}

/// Writes a file with its permissions from the start: a key is at no moment readable by others.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .unwrap_or_else(|error| panic!("writing {} failed: {error}", path.display()));
}
