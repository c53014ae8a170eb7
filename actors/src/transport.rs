//! Byte streams to a server: TCP, TLS, WebSocket over either, and the in-memory pipe, each opened within a deadline.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use paquebot_protocols::backoff::FailureClass;
use paquebot_protocols::dialect::DialectError;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

mod addresses;
mod endpoint;
mod proxy;
mod tls;
mod websocket;

pub use endpoint::{Endpoint, EndpointError, Scheme, WEBSOCKET_PATH};
pub use proxy::{HttpProxy, ProxyError};
pub(crate) use tls::reloads;
pub use tls::{
    ClientCertificate, TlsConfig, TlsError, TrustAnchors, check_client_certificate, check_identity,
    look_at_client_certificate, pending_certificate,
};
use websocket::WebSocket;
pub use websocket::{
    Upgrade, UpgradeError, UpgradeProvider, UpgradeRequest, WebSocketError, WebSocketTarget,
};

/// How long each stage of a connect attempt may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectTimeouts {
    /// Name resolution. Default 5 s.
    pub dns: Duration,
    /// One TCP connect, and as long again for a tunnel through a proxy; each address of the name gets it. The next address is tried 250 ms later while those before it go
    /// on, eight at once. Default 10 s.
    pub tcp: Duration,
    /// TLS handshake. Default 10 s.
    pub tls: Duration,
    /// Making the request that opens a WebSocket, and again its answer. Default 10 s.
    pub websocket: Duration,
    /// All stages before CONNECT together. Default 30 s.
    pub total: Duration,
}

impl Default for ConnectTimeouts {
    fn default() -> Self {
        Self {
            dns: Duration::from_secs(5),
            tcp: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            websocket: Duration::from_secs(10),
            total: Duration::from_secs(30),
        }
    }
}

/// A stage of a connect attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Name resolution.
    Dns,
    /// TCP connect.
    Tcp,
    /// TLS handshake.
    Tls,
    /// The request that opens a WebSocket, to its answer.
    WebSocket,
    /// CONNECT to CONNACK.
    Mqtt,
}

impl Stage {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::Mqtt => "mqtt",
        }
    }
}

/// Why no byte stream came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {source}; check the host name and the resolver")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        r#source: io::Error,
    },
    /// No address took the connection; this is how the last one to end did.
    #[error("cannot connect to {address}: {source}; check that a server listens there")]
    Tcp {
        /// That address.
        address: SocketAddr,
        /// What the system said.
        r#source: io::Error,
    },
    /// The HTTP proxy opened no tunnel to the server.
    #[error("no way through the HTTP proxy {proxy}: {source}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Why.
        r#source: ProxyError,
    },
    /// The server's certificate was refused.
    #[error("the certificate of {host} was refused: {problem}")]
    ServerCertificate {
        /// The name it was checked against.
        host: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The server refused the handshake.
    #[error("the server {host} refused the TLS handshake: {problem}")]
    TlsRefused {
        /// The server.
        host: String,
        /// What it said and what to do.
        problem: String,
    },
    /// The handshake failed otherwise.
    #[error("the TLS handshake with {host} failed: {source}{}", tls::advice(.source))]
    Tls {
        /// The server.
        host: String,
        /// What happened.
        r#source: io::Error,
    },
    /// There is no request to open the WebSocket with, such as for want of credentials.
    #[error("cannot open a WebSocket to {host}: {source}")]
    Upgrade {
        /// The server.
        host: String,
        /// Why.
        r#source: UpgradeError,
    },
    /// The server answered the request for a WebSocket with something else.
    #[error("the server {host} refused the WebSocket: HTTP {status} {message}{}", advice(*.status))]
    HttpRefused {
        /// The server.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The server's words: those of the status line and the first line of the body.
        message: String,
    },
    /// The WebSocket did not come about, or the server closed it before it answered CONNECT.
    #[error("no WebSocket with {host}: {source}")]
    WebSocket {
        /// The server.
        host: String,
        /// What happened.
        r#source: WebSocketError,
    },
    /// The platform's dialect made no CONNECT, such as for want of credentials.
    #[error("cannot make a CONNECT: {0}")]
    Dialect(DialectError),
    /// A stage took longer than its deadline.
    #[error("no answer from {host} within {limit:?} (stage {})", stage.name())]
    Timeout {
        /// The server.
        host: String,
        /// The stage.
        stage: Stage,
        /// Its deadline.
        limit: Duration,
    },
    /// The in-memory pipe's server is gone.
    #[error("the in-memory server does not accept connections: {0}")]
    Pipe(io::Error),
}

impl ConnectError {
    /// What kind of failure it is: certificates do not mend themselves.
    pub(crate) const fn failure(&self) -> FailureClass {
        match self {
            Self::Upgrade {
                source: UpgradeError::Failed(_),
                ..
            } => FailureClass::Transient,
            Self::ServerCertificate { .. }
            | Self::TlsRefused { .. }
            | Self::Upgrade { .. }
            | Self::Dialect(_)
            | Self::Proxy {
                source:
                    ProxyError::Refused {
                        status: 403 | 407, ..
                    },
                ..
            }
            | Self::HttpRefused {
                status: 401 | 403, ..
            } => FailureClass::RefusedCredentials,
            _ => FailureClass::Transient,
        }
    }

    /// The class of the failure in metrics: a closed set of names.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Tcp { .. } => "tcp",
            Self::ServerCertificate { .. } | Self::TlsRefused { .. } => "certificate",
            Self::Tls { .. } => "tls",
            Self::Proxy { .. } => "proxy",
            Self::Upgrade { .. } | Self::Dialect(_) => "no_credentials",
            Self::HttpRefused {
                status: 401 | 403, ..
            } => "not_authorized",
            Self::HttpRefused { .. } | Self::WebSocket { .. } => "websocket",
            Self::Timeout { .. } => "timeout",
            Self::Pipe(_) => "pipe",
        }
    }
}

/// What whoever was refused can do about it.
const fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "; check the credentials, what they allow, and this machine's clock",
        404 => "; check the path",
        300..=399 => "; connect to the address it names instead",
        _ => "",
    }
}

/// Opens an in-memory connection to a server in the same process.
pub type PipeConnector = Arc<dyn Fn() -> io::Result<DuplexStream> + Send + Sync>;

/// Where a link connects to, ready to use: names parsed, certificates loaded.
#[derive(Clone)]
pub enum Target {
    /// Plain TCP.
    Tcp(Endpoint),
    /// TLS over TCP.
    Tls(Endpoint, TlsConfig),
    /// WebSocket over TCP or TLS.
    WebSocket(Box<WebSocketTarget>),
    /// A server in the same process.
    Pipe(PipeConnector),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(endpoint) => write!(f, "mqtt://{endpoint}"),
            Self::Tls(endpoint, _) => write!(f, "mqtts://{endpoint}"),
            // Without the path, which may go with a token.
            Self::WebSocket(target) if target.tls.is_some() => {
                write!(f, "wss://{}", target.endpoint)
            }
            Self::WebSocket(target) => write!(f, "ws://{}", target.endpoint),
            Self::Pipe(_) => f.write_str("pipe"),
        }
    }
}

impl Target {
    /// What an error of an open stream says when it is the server's refusal of the client's certificate.
    pub(crate) fn refusal(&self, error: &io::Error) -> Option<ConnectError> {
        match self {
            Self::Tls(endpoint, tls) => tls::refusal(endpoint, Some(tls), error),
            Self::WebSocket(target) => websocket::refusal(&target.endpoint, error)
                .or_else(|| tls::refusal(&target.endpoint, target.tls.as_ref(), error)),
            Self::Tcp(_) | Self::Pipe(_) => None,
        }
    }
}

/// An open byte stream.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocket>),
    Pipe(DuplexStream),
}

/// An open stream and how long each stage took that there was.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    pub(crate) durations: [Option<(Stage, Duration)>; 4],
}

/// Opens a stream to `target`. The name is resolved anew at each call and every address is tried.
pub(crate) async fn open(
    target: &Target,
    proxy: Option<&HttpProxy>,
    timeouts: ConnectTimeouts,
) -> Result<Opened, ConnectError> {
    let (endpoint, tls) = match target {
        Target::Pipe(connect) => {
            let stream = Stream::Pipe(connect().map_err(ConnectError::Pipe)?);
            return Ok(Opened {
                stream,
                durations: [None; 4],
            });
        }
        Target::Tcp(endpoint) => (endpoint, None),
        Target::Tls(endpoint, tls) => (endpoint, Some(tls)),
        Target::WebSocket(target) => {
            let attempt = Box::pin(open_websocket(target, proxy, timeouts));
            return timeout(timeouts.total, attempt).await.unwrap_or_else(|_| {
                Err(ConnectError::Timeout {
                    host: target.endpoint.to_string(),
                    stage: Stage::WebSocket,
                    limit: timeouts.total,
                })
            });
        }
    };
    if let (Some(address), None, None) = (endpoint.socket_address(), tls, proxy)
        && timeouts.tcp <= timeouts.total
    {
        return open_address(endpoint, address, timeouts.tcp).await;
    }
    // Boxed, since it is ten times as large as what a plain address needs.
    let attempt = Box::pin(open_network(endpoint, tls, proxy, timeouts));
    // One address has no more than its stages' own deadlines: another timer would tell nothing.
    let stages = timeouts.tcp.saturating_add(timeouts.tls);
    if proxy.is_none() && endpoint.socket_address().is_some() && stages <= timeouts.total {
        return attempt.await;
    }
    timeout(timeouts.total, attempt).await.unwrap_or_else(|_| {
        let stage = if tls.is_some() {
            Stage::Tls
        } else {
            Stage::Tcp
        };
        Err(ConnectError::Timeout {
            host: endpoint.to_string(),
            stage,
            limit: timeouts.total,
        })
    })
}

/// Opens a stream of TLS without a proxy, for what is asked of a platform beside MQTT. Needs a tokio runtime.
///
/// # Errors
/// The stage that failed and why.
pub async fn open_tls(
    endpoint: Endpoint,
    tls: TlsConfig,
    timeouts: ConnectTimeouts,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, ConnectError> {
    let opened = open(&Target::Tls(endpoint, tls), None, timeouts).await?;
    Ok(opened.stream)
}

/// The request is made first: without one nobody needs to be connected to.
async fn open_websocket(
    target: &WebSocketTarget,
    proxy: Option<&HttpProxy>,
    timeouts: ConnectTimeouts,
) -> Result<Opened, ConnectError> {
    let request = target.request(timeouts.websocket).await?;
    let opened = open_network(&target.endpoint, target.tls.as_ref(), proxy, timeouts).await?;
    target.upgrade(opened, &request, timeouts).await
}

/// An address without TLS and proxy: nothing is looked up and nothing follows.
async fn open_address(
    endpoint: &Endpoint,
    address: SocketAddr,
    limit: Duration,
) -> Result<Opened, ConnectError> {
    let started = Instant::now();
    let tcp = addresses::connect_one(endpoint, address, limit).await?;
    Ok(Opened {
        stream: Stream::Tcp(tcp),
        durations: [
            Some((Stage::Dns, Duration::ZERO)),
            Some((Stage::Tcp, started.elapsed())),
            None,
            None,
        ],
    })
}

async fn open_network(
    endpoint: &Endpoint,
    tls: Option<&TlsConfig>,
    proxy: Option<&HttpProxy>,
    timeouts: ConnectTimeouts,
) -> Result<Opened, ConnectError> {
    let started = Instant::now();
    let mut resolved = started;
    // A proxy looks the server's name up by itself.
    let next = proxy.map_or(endpoint, HttpProxy::endpoint);
    let mut tcp = if let Some(address) = next.socket_address() {
        addresses::connect(next, vec![address], timeouts.tcp).await?
    } else {
        let addresses = resolve(next, timeouts.dns).await?;
        resolved = Instant::now();
        addresses::connect(next, addresses, timeouts.tcp).await?
    };
    if let Some(proxy) = proxy {
        let tunnel = timeout(timeouts.tcp, proxy.tunnel(&mut tcp, endpoint)).await;
        tunnel.unwrap_or_else(|_| {
            Err(ConnectError::Timeout {
                host: endpoint.to_string(),
                stage: Stage::Tcp,
                limit: timeouts.tcp,
            })
        })?;
    }
    let connected = Instant::now();
    let mut durations = [
        Some((Stage::Dns, resolved - started)),
        Some((Stage::Tcp, connected - resolved)),
        None,
        None,
    ];

    let Some(tls) = tls else {
        return Ok(Opened {
            stream: Stream::Tcp(tcp),
            durations,
        });
    };
    let name = tls.server_name_for(endpoint);
    let handshake = TlsConnector::from(tls.client_config()).connect(name, tcp);
    let stream = match timeout(timeouts.tls, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(tls::handshake_error(endpoint, tls, error)),
        Err(_) => {
            return Err(ConnectError::Timeout {
                host: endpoint.to_string(),
                stage: Stage::Tls,
                limit: timeouts.tls,
            });
        }
    };
    durations[2] = Some((Stage::Tls, connected.elapsed()));
    Ok(Opened {
        stream: Stream::Tls(Box::new(stream)),
        durations,
    })
}

/// Foreign words as one line that a terminal can show, 200 characters of it at the most.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(200)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

async fn resolve(endpoint: &Endpoint, limit: Duration) -> Result<Vec<SocketAddr>, ConnectError> {
    let lookup = tokio::net::lookup_host((endpoint.host(), endpoint.port()));
    let addresses: Vec<_> = match timeout(limit, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(source)) => {
            return Err(ConnectError::Dns {
                host: endpoint.host().to_owned(),
                source,
            });
        }
        Err(_) => {
            let host = endpoint.host().to_owned();
            return Err(ConnectError::Timeout {
                host,
                stage: Stage::Dns,
                limit,
            });
        }
    };
    if addresses.is_empty() {
        let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(ConnectError::Dns {
            host: endpoint.host().to_owned(),
            source,
        });
    }
    Ok(addresses)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    /// TLS and WebSocket change every byte, so that they gain nothing by several pieces.
    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Pipe(_))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Pipe(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            stream => {
                let first = bufs.iter().find(|bytes| !bytes.is_empty());
                let first: &[u8] = first.map_or(&[], |bytes| bytes);
                Pin::new(stream).poll_write(cx, first)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_flush(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn what_ended_an_attempt_stands_in_the_sentence_and_is_no_cause_beside_it() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let host = || "example.com".to_owned();
        let errors = [
            ConnectError::Dns {
                host: host(),
                source: refused(),
            },
            ConnectError::Tcp {
                address: SocketAddr::from(([127, 0, 0, 1], 1883)),
                source: refused(),
            },
            ConnectError::Tls {
                host: host(),
                source: refused(),
            },
            ConnectError::Pipe(refused()),
        ];
        let reason = refused().to_string();
        for error in errors {
            let sentence = error.to_string();
            assert!(sentence.contains(&reason), "{sentence}");
            assert!(error.source().is_none(), "{sentence}");
        }
        let invalid = DialectError::Invalid {
            what: "the password",
            problem: "there is none".into(),
        };
        let reason = invalid.to_string();
        let error = ConnectError::Dialect(invalid);
        assert!(error.to_string().contains(&reason) && error.source().is_none());
    }
}
