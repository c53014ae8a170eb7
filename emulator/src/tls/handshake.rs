//! Why a TLS handshake came to nothing, in the words of whoever set up the client.

use std::io;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use crate::remarks::Explanation;

/// `None` where the client went away without a word, as one does that only looks whether a port is open.
pub(crate) fn explain(error: &io::Error) -> Option<Explanation> {
    let Some(inner) = error.get_ref() else {
        // A reset or an end: no TLS was refused.
        return None;
    };
    let error = inner.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::NoCertificatesPresented => Explanation::new(
            "this port asks for a client certificate",
            "it showed no client certificate; give it one of the authority's, with its key",
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Explanation::new(
            "this port asks for a client certificate of its authority",
            "another authority signed its certificate; is it from another directory or an earlier authority?",
        ),
        rustls::Error::InvalidCertificate(why) => Explanation::new(
            "this port asks for a client certificate of its authority",
            format!("its certificate cannot be used: {why}"),
        ),
        rustls::Error::AlertReceived(alert) => refused_by_client(*alert),
        rustls::Error::NoApplicationProtocol => Explanation::new(
            "application protocols (ALPN) of this port",
            "it names only application protocols that the port does not speak",
        ),
        other => Explanation::new("TLS 1.2 or 1.3", other.to_string()),
    })
}

/// The client ended the handshake, mostly over the server's certificate.
fn refused_by_client(alert: AlertDescription) -> Explanation {
    const RULE: &str = "the client checks the server's certificate";
    let text = match alert {
        AlertDescription::UnknownCA => {
            "it does not trust the authority of the server's certificate; give it this one's CA file"
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept the server's certificate: its CA file may be of another authority, or the \
             host name that it connects to is not in the certificate"
        }
        AlertDescription::DecryptError => {
            "it found a bad signature: its CA file is of another authority, or its key of another certificate"
        }
        other => return Explanation::new(RULE, format!("it ended the handshake: {other:?}")),
    };
    Explanation::new(RULE, text)
}
