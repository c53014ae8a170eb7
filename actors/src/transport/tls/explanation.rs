//! What a failed handshake means to the one who has to mend it, and which file to look at.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError};

use super::super::{ConnectError, Endpoint};
use super::{ClientCertificate, TlsConfig, TrustAnchors};

/// The error of a handshake that failed on this side, or that the server ended.
pub(in super::super) fn handshake_error(
    endpoint: &Endpoint,
    tls: &TlsConfig,
    error: io::Error,
) -> ConnectError {
    let host = endpoint.host().to_owned();
    match cause(&error) {
        Some(RustlsError::InvalidCertificate(problem)) => ConnectError::ServerCertificate {
            host,
            problem: format!("{problem}; {}", explain_certificate(problem, &tls.anchors)),
        },
        Some(RustlsError::AlertReceived(alert)) => refused_with(host, *alert, Some(tls)),
        _ => ConnectError::Tls {
            host,
            source: error,
        },
    }
}

/// What a server said on an open stream instead of speaking MQTT: with TLS 1.3 it looks at the client's certificate
/// only after the client has ended the handshake.
pub(in super::super) fn refusal(
    endpoint: &Endpoint,
    tls: Option<&TlsConfig>,
    error: &io::Error,
) -> Option<ConnectError> {
    match cause(error)? {
        RustlsError::AlertReceived(alert) => {
            Some(refused_with(endpoint.host().to_owned(), *alert, tls))
        }
        _ => None,
    }
}

/// What to do about a handshake that failed in another way than by a refusal.
pub(in super::super) fn advice(error: &io::Error) -> &'static str {
    match cause(error) {
        Some(RustlsError::PeerIncompatible(_)) => {
            "; the server and this side have no version of TLS (1.2 or 1.3), cipher or signature in common: bring the \
             server's TLS up to date"
        }
        Some(RustlsError::NoApplicationProtocol) => {
            "; the server speaks none of the application protocols offered (ALPN): check them, and the port"
        }
        Some(RustlsError::DecryptError) => {
            "; what came cannot be decrypted: something on the way changes it, or the server's TLS is broken"
        }
        Some(RustlsError::PeerMisbehaved(_)) => {
            "; the server breaks the rules of TLS: check what is on the way to it, such as a proxy"
        }
        _ => "; check that the port speaks TLS",
    }
}

fn cause(error: &io::Error) -> Option<&RustlsError> {
    error.get_ref()?.downcast_ref::<RustlsError>()
}

/// What is wrong with the server's certificate, and what to do.
fn explain_certificate(problem: &CertificateError, anchors: &TrustAnchors) -> Cow<'static, str> {
    let trusted = match anchors {
        TrustAnchors::System => None,
        TrustAnchors::File(path) => Some(path.display()),
    };
    let text = match (problem, trusted) {
        (CertificateError::UnknownIssuer, Some(file)) => {
            return format!(
                "it is signed by an authority that is not trusted here, where only those of {file} are: name the \
                 right CA file"
            )
            .into();
        }
        (CertificateError::UnknownIssuer, None) => {
            "it is signed by an authority that is not trusted here, where those of the system are: name the right CA \
             file"
        }
        // An authority that was made anew under its old name.
        (CertificateError::BadSignature, Some(file)) => {
            return format!(
                "{file} holds an authority of the name that signed it, with another key: the CA file is probably of an \
                 earlier authority, so take the server's present one"
            )
            .into();
        }
        (CertificateError::BadSignature, None) => {
            "an authority of the name that signed it is trusted here, with another key: name the CA file of the \
             server's present authority"
        }
        (
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            _,
        ) => "connect by the name that the certificate has",
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
            "the server needs a new certificate (or this machine's clock is wrong)"
        }
        (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, _) => {
            "check this machine's clock, or give the server a certificate that holds now"
        }
        (CertificateError::Revoked, _) => {
            "its authority took it back: the server needs another one"
        }
        (CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }, _) => {
            "it is not one for servers: the server needs one with the extended key usage serverAuth"
        }
        _ => {
            "the server needs a certificate of its own for its name, not that of an authority, signed by one that is \
             trusted here"
        }
    };
    text.into()
}

/// A server's alert, and what it probably means.
fn refused_with(host: String, alert: AlertDescription, tls: Option<&TlsConfig>) -> ConnectError {
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let problem = match explain_alert(alert, identity) {
        Some(advice) => format!("{alert:?}; {advice}"),
        None => format!("{alert:?}"),
    };
    ConnectError::TlsRefused { host, problem }
}

fn explain_alert(
    alert: AlertDescription,
    identity: Option<&Arc<ClientCertificate>>,
) -> Option<Cow<'static, str>> {
    let files = identity.map(|files| (files.certificate.display(), files.key.display()));
    let text = match (alert, files) {
        (AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure, None) => {
            "it may want a client certificate, and none was set"
        }
        (
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
            Some((certificate, _)),
        ) => {
            return Some(
                format!(
                    "it may not take the kind of key or signature that the client certificate {certificate} has"
                )
                .into(),
            );
        }
        (AlertDescription::DecryptError, Some((certificate, key))) => {
            return Some(
                format!(
                    "it cannot verify what was signed with the key {key}: that is probably not the key of the client \
                     certificate {certificate}"
                )
                .into(),
            );
        }
        (AlertDescription::UnknownCA, Some((certificate, _))) => {
            return Some(
                format!(
                    "it does not accept the client certificate {certificate}: it does not trust the authority that signed \
                     it. Register that authority with the server, and have its intermediates in the file"
                )
                .into(),
            );
        }
        (AlertDescription::CertificateExpired, Some((certificate, _))) => {
            return Some(
                format!(
                    "it does not accept the client certificate {certificate}, which has expired by the server's clock"
                )
                .into(),
            );
        }
        (
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied,
            Some((certificate, _)),
        ) => {
            return Some(
                format!(
                    "it does not accept the client certificate {certificate}: check that the server knows it, that it \
                     is active there, and that it is meant for clients"
                )
                .into(),
            );
        }
        (
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
            None,
        ) => "it may want a client certificate, and none was set",
        (AlertDescription::ProtocolVersion, _) => {
            "it takes neither TLS 1.2 nor TLS 1.3: bring the server's TLS up to date"
        }
        (AlertDescription::NoApplicationProtocol, _) => {
            "it speaks none of the application protocols offered (ALPN): check them, and the port"
        }
        (AlertDescription::UnrecognisedName, _) => {
            "it has no certificate for the name that was asked for: connect by a name of its own"
        }
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: RustlsError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, cause)
    }

    #[test]
    fn an_alert_about_the_client_certificate_names_its_files() {
        let identity = Arc::new(ClientCertificate {
            certificate: "d1.pem".into(),
            key: "d1.key".into(),
        });
        for (alert, words) in [
            (
                AlertDescription::DecryptError,
                &["d1.key", "not the key of the client certificate d1.pem"][..],
            ),
            (
                AlertDescription::UnknownCA,
                &["d1.pem", "Register that authority"],
            ),
            (AlertDescription::CertificateUnknown, &["d1.pem", "active"]),
            (AlertDescription::BadCertificate, &["d1.pem", "active"]),
            (AlertDescription::CertificateExpired, &["d1.pem", "expired"]),
            (AlertDescription::HandshakeFailure, &["d1.pem"]),
            (AlertDescription::NoApplicationProtocol, &["ALPN"]),
            (AlertDescription::UnrecognisedName, &["connect by a name"]),
        ] {
            let text = explain_alert(alert, Some(&identity)).unwrap();
            for word in words {
                assert!(text.contains(word), "{alert:?}: {text}");
            }
        }
        for alert in [
            AlertDescription::CertificateRequired,
            AlertDescription::BadCertificate,
        ] {
            let text = explain_alert(alert, None).unwrap();
            assert!(
                text.contains("client certificate, and none was set"),
                "{text}"
            );
        }
        let endpoint = Endpoint::new("h", 8883).unwrap();
        let alert = failed(RustlsError::AlertReceived(AlertDescription::InternalError));
        let text = refusal(&endpoint, None, &alert).unwrap().to_string();
        assert!(
            text.ends_with("refused the TLS handshake: InternalError"),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_that_is_not_trusted_names_the_ca_file() {
        let file = TrustAnchors::File("ca.pem".into());
        for problem in [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
        ] {
            let text = explain_certificate(&problem, &file);
            assert!(
                text.contains("ca.pem") && text.contains("CA file"),
                "{text}"
            );
            let text = explain_certificate(&problem, &TrustAnchors::System);
            assert!(text.contains("CA file"), "{text}");
        }
    }

    #[test]
    fn other_failures_say_what_to_check() {
        for (cause, words) in [
            (RustlsError::DecryptError, "cannot be decrypted"),
            (RustlsError::NoApplicationProtocol, "ALPN"),
        ] {
            let error = ConnectError::Tls {
                host: "h".into(),
                source: failed(cause),
            };
            assert!(error.to_string().contains(words), "{error}");
        }
        let lost = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(advice(&lost), "; check that the port speaks TLS");
    }
}
