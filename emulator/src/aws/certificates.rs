//! The authority and the certificates of one emulator: made on first start and kept in a directory.

mod names;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub(crate) use names::CertificateNames;

use crate::tls::{CertificateAuthority, Identity, ServerTls, TlsError, certificate_digest};

/// The application protocols of the port that carries everything.
const PROTOCOLS: [&str; 4] = ["x-amzn-mqtt-ca", "mqtt", "x-amzn-http-ca", "http/1.1"];

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file could not be read or written.
    #[error("{}: {source}; check the directory and its permissions", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// What is in a file cannot be used.
    #[error("{}: {source}; remove the directory to have everything made anew", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: TlsError,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    NotMade(#[from] TlsError),
    /// The name is no file name.
    #[error("{0:?} is no name for a certificate; use letters, digits, `.`, `_`, `:` and `-`")]
    BadName(String),
}

/// A client certificate that the emulator accepts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The certificate and its key in PEM.
    pub identity: Identity,
    /// The certificate's identifier: the SHA-256 of it, as AWS names certificates. It is the principal in
    /// permissions and lifecycle events.
    pub certificate_id: String,
    /// Where the two lie, when the emulator has a directory.
    pub paths: Option<CertificatePaths>,
}

/// The files of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificatePaths {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key; only its owner may read it.
    pub private_key: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Certificates {
    authority: CertificateAuthority,
    server: Identity,
    directory: Option<PathBuf>,
    names: Arc<CertificateNames>,
}

impl Certificates {
    /// Reads what the directory has and makes the rest; without a directory everything is new.
    pub(crate) fn open(
        directory: Option<PathBuf>,
        names: &[String],
    ) -> Result<Self, CertificateError> {
        let Some(directory) = directory else {
            let authority = CertificateAuthority::generate()?;
            let server = authority.server(names)?;
            return Ok(Self {
                authority,
                server,
                directory: None,
                names: Arc::default(),
            });
        };
        create(&directory)?;
        let authority = authority(&directory)?;
        // Made at each start: the names may be others, and it is trusted for its authority.
        let server = authority.server(names)?;
        write(
            &directory.join("server.pem"),
            &server.certificate_pem,
            false,
        )?;
        write(&directory.join("server.key"), &server.private_key_pem, true)?;
        let certificates = Self {
            authority,
            server,
            directory: Some(directory),
            names: Arc::default(),
        };
        certificates.learn_names();
        Ok(certificates)
    }

    /// Whose the certificates are.
    pub(crate) fn names(&self) -> Arc<CertificateNames> {
        Arc::clone(&self.names)
    }

    /// Learns the names of certificates that were made in earlier runs. What cannot be read is used by
    /// nobody yet, and complained about when it is.
    fn learn_names(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        let entries = fs::read_dir(directory.join("clients"));
        for path in entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            let name = path.file_stem().and_then(|name| name.to_str());
            if path.extension().is_some_and(|extension| extension == "pem")
                && let Some(name) = name
                && let Ok(certificate) = CertificateDer::from_pem_file(&path)
            {
                self.names.add(&certificate_digest(&certificate), name);
            }
        }
    }

    pub(crate) fn authority_pem(&self) -> &str {
        self.authority.pem()
    }

    /// The same authority once more, to sign certificates of devices.
    pub(crate) fn issuer(&self) -> Result<CertificateAuthority, TlsError> {
        CertificateAuthority::from_pem(self.authority.pem(), &self.authority.private_key_pem())
    }

    /// Where the authority's certificate lies.
    pub(crate) fn authority_path(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("ca.pem"))
    }

    /// For the port that takes MQTT with a client certificate.
    pub(crate) fn mqtt_tls(&self) -> Result<ServerTls, TlsError> {
        ServerTls::from_identity(&self.server)?.require_client_certificate(self.authority.pem())
    }

    /// For the port that tells by the application protocol what comes.
    pub(crate) fn shared_tls(&self) -> Result<ServerTls, TlsError> {
        let tls = ServerTls::from_identity(&self.server)?
            .request_client_certificate(self.authority.pem())?;
        Ok(tls.application_protocols(&PROTOCOLS))
    }

    /// For the port that takes HTTP only.
    pub(crate) fn http_tls(&self) -> Result<ServerTls, TlsError> {
        let tls = ServerTls::from_identity(&self.server)?
            .request_client_certificate(self.authority.pem())?;
        Ok(tls.application_protocols(&["x-amzn-http-ca", "http/1.1"]))
    }

    /// The certificate of this name; made when first asked for.
    pub(crate) fn client(&self, name: &str) -> Result<ClientCertificate, CertificateError> {
        let certificate = self.find_client(name)?;
        self.names.add(&certificate.certificate_id, name);
        Ok(certificate)
    }

    fn find_client(&self, name: &str) -> Result<ClientCertificate, CertificateError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
            return Err(CertificateError::BadName(name.to_owned()));
        }
        let Some(directory) = &self.directory else {
            return described(self.authority.client(name)?, None);
        };
        let directory = directory.join("clients");
        create(&directory)?;
        let paths = CertificatePaths {
            certificate: directory.join(format!("{name}.pem")),
            private_key: directory.join(format!("{name}.key")),
        };
        if paths.certificate.exists() && paths.private_key.exists() {
            let identity = Identity {
                certificate_pem: read(&paths.certificate)?,
                private_key_pem: read(&paths.private_key)?,
            };
            return described(identity, Some(paths));
        }
        let identity = self.authority.client(name)?;
        write(&paths.private_key, &identity.private_key_pem, true)?;
        write(&paths.certificate, &identity.certificate_pem, false)?;
        described(identity, Some(paths))
    }
}

fn described(
    identity: Identity,
    paths: Option<CertificatePaths>,
) -> Result<ClientCertificate, CertificateError> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
    let certificate = certificate.map_err(|source| TlsError::BadPem {
        what: "the client certificate",
        source,
    })?;
    Ok(ClientCertificate {
        certificate_id: certificate_digest(&certificate),
        identity,
        paths,
    })
}

fn authority(directory: &Path) -> Result<CertificateAuthority, CertificateError> {
    let path = directory.join("ca.pem");
    let key_path = directory.join("ca.key");
    if path.exists() && key_path.exists() {
        return CertificateAuthority::from_pem(&read(&path)?, &read(&key_path)?)
            .map_err(|source| CertificateError::Unusable { path, source });
    }
    let authority = CertificateAuthority::generate()?;
    write(&key_path, &authority.private_key_pem(), true)?;
    write(&path, authority.pem(), false)?;
    Ok(authority)
}

fn create(directory: &Path) -> Result<(), CertificateError> {
    fs::create_dir_all(directory).map_err(|source| CertificateError::File {
        path: directory.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all: a half-written key would be reused at the next start.
fn write(path: &Path, text: &str, is_secret: bool) -> Result<(), CertificateError> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(if is_secret { 0o600 } else { 0o644 });
        }
        let mut file = options.open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| CertificateError::File {
        path: path.to_owned(),
        source,
    })
}
