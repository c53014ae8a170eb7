//! HTTP proxies: a tunnel to the server by CONNECT (RFC 9110, section 9.3.6), for networks that let nothing else out.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroize as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{ConnectError, Endpoint, EndpointError, printable};

/// Most bytes of a proxy's answer.
const HEAD_MAX: usize = 16 * 1024;

/// Most headers in it.
const HEADERS_MAX: usize = 64;

/// An HTTP proxy. Its password is never printed.
#[derive(Debug, Clone)]
pub struct HttpProxy {
    endpoint: Endpoint,
    /// What `Proxy-Authorization` says.
    authorization: Option<SecretString>,
}

/// Why a proxy opened no tunnel.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The connection ended or failed before the proxy answered.
    #[error("the connection was lost before it answered: {0}")]
    Lost(Arc<io::Error>),
    /// What answered speaks no HTTP, or says too much.
    #[error("it does not speak HTTP; check its address")]
    NotHttp,
    /// It does not open the tunnel.
    #[error("it answered HTTP {status} {message}{}", advice(*.status))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The words of the status line.
        message: String,
    },
}

const fn advice(status: u16) -> &'static str {
    match status {
        407 => "; check the proxy's user name and password",
        403 => "; it does not allow this server or port",
        _ => "",
    }
}

impl HttpProxy {
    /// The proxy at `http://host[:port]`; the port defaults to 8080. A user name and a password are not part of it.
    ///
    /// # Errors
    /// What makes it no address.
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        let Some(rest) = url.strip_prefix("http://") else {
            // What precedes an @ may be a password, so nothing of it is repeated.
            let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
            return Err(EndpointError::Scheme(shown.to_owned()));
        };
        let endpoint = Endpoint::parse_authority(rest.strip_suffix('/').unwrap_or(rest), 8080)?;
        Ok(Self {
            endpoint,
            authorization: None,
        })
    }

    /// A user name without a colon, and a password, told by the scheme *Basic*: in clear text, as all that goes to the
    /// proxy itself.
    #[must_use]
    pub fn login(mut self, user: &str, password: &SecretString) -> Self {
        let mut login = format!("{user}:{}", password.expose_secret());
        let mut encoded = STANDARD.encode(&login);
        self.authorization = Some(format!("Basic {encoded}").into());
        login.zeroize();
        encoded.zeroize();
        self
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Has the proxy connect `stream` through to `server`.
    pub(super) async fn tunnel(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        server: &Endpoint,
    ) -> Result<(), ConnectError> {
        let opened = self.ask(stream, server).await;
        opened.map_err(|source| ConnectError::Proxy {
            proxy: self.endpoint.to_string(),
            source,
        })
    }

    async fn ask(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        server: &Endpoint,
    ) -> Result<(), ProxyError> {
        let lost = |error| ProxyError::Lost(Arc::new(error));
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n");
        if let Some(authorization) = &self.authorization {
            for part in [
                "Proxy-Authorization: ",
                authorization.expose_secret(),
                "\r\n",
            ] {
                request.push_str(part);
            }
        }
        request.push_str("\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        request.zeroize();
        sent.map_err(lost)?;

        // Byte by byte: what follows the answer is the server's already.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == HEAD_MAX {
                return Err(ProxyError::NotHttp);
            }
            head.push(stream.read_u8().await.map_err(lost)?);
            if head.len() == 5 && head != b"HTTP/" {
                return Err(ProxyError::NotHttp);
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head);
        let (Ok(_), Some(status)) = (parsed, response.code) else {
            return Err(ProxyError::NotHttp);
        };
        if (200..300).contains(&status) {
            return Ok(());
        }
        let message = printable(response.reason.unwrap_or_default().as_bytes());
        Err(ProxyError::Refused { status, message })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_nothing_of_a_password_is_repeated() {
        let parsed = |url: &str| HttpProxy::new(url).map(|proxy| proxy.endpoint.to_string());
        assert_eq!(parsed("http://proxy"), Ok("proxy:8080".into()));
        assert_eq!(parsed("http://[::1]:3128/"), Ok("[::1]:3128".into()));
        for url in [
            "proxy:1",
            "https://u:canary@proxy",
            "http://u:canary@proxy",
            "http://p/canary?x",
        ] {
            let error = parsed(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(":canary"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_left_to_the_server() {
        for (answer, outcome) in [
            (
                "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n",
                None,
            ),
            ("HTTP/1.0 200 OK\r\n\r\n", None),
            (
                "HTTP/1.1 407 Who\r\n\r\n",
                Some("HTTP 407 Who; check the proxy's user name"),
            ),
            (
                "HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\n",
                Some("does not allow this server"),
            ),
            ("SSH-2.0-x\r\n\r\n", Some("does not speak HTTP")),
            ("HTTP/1.1 20", Some("lost before it answered")),
        ] {
            let (mut ours, mut theirs) = duplex(4096);
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.write_all(b"server").await.unwrap();
            if outcome == Some("lost before it answered") {
                theirs.shutdown().await.unwrap();
            }
            let proxy = HttpProxy::new("http://proxy")
                .unwrap()
                .login("u", &"canary".into());
            let server = Endpoint::new("server", 8883).unwrap();
            let opened = proxy.tunnel(&mut ours, &server).await;
            match (opened, outcome) {
                (Ok(()), None) => {
                    let mut rest = [0; 6];
                    ours.read_exact(&mut rest).await.unwrap();
                    assert_eq!(&rest, b"server");
                }
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
                (opened, _) => unreachable!("{answer}: {opened:?}"),
            }
            drop(ours);
            let mut request = String::new();
            theirs.read_to_string(&mut request).await.unwrap();
            assert_eq!(
                request,
                "CONNECT server:8883 HTTP/1.1\r\nHost: server:8883\r\nProxy-Authorization: Basic dTpjYW5hcnk=\r\n\r\n"
            );
            assert!(!format!("{proxy:?}").contains("canary"));
        }
    }
}
