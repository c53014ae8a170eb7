//! MQTT over WebSocket (MQTT 5, section 6): the same stream of bytes in binary frames, over TCP or TLS.
//!
//! Where to look: [`handshake`] opens it, [`frames`] wraps and unwraps, [`stream`] is the stream. Extensions are not
//! offered.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::time::timeout;

use super::{ConnectError, ConnectTimeouts, Endpoint, Opened, Stage, Stream, TlsConfig, printable};

mod frames;
mod handshake;
mod stream;

pub(crate) use stream::WebSocket;

/// The request that opens a WebSocket. Path, query and the headers' values are secrets: they may hold signatures and
/// tokens.
#[derive(Debug, Clone)]
pub struct UpgradeRequest {
    path_and_query: SecretString,
    headers: Vec<(String, SecretString)>,
    host: Option<String>,
}

/// What no request can be made of, or why there is none.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// A path that is none.
    #[error(
        "the path of a WebSocket begins with / and holds no spaces, #, control characters or letters beyond \
         ASCII; percent-encode them"
    )]
    Path,
    /// A header name that is none, or one that is not free. It is not repeated: where a colon is amiss, what stands before
    /// it may be half a token.
    #[error(
        "a header for the request that opens the WebSocket has no name that is free: letters, digits and -, and none \
         that the WebSocket or its signature sets itself (Host, Upgrade, Connection, Sec-WebSocket-…)"
    )]
    HeaderName,
    /// A header value that cannot be sent.
    #[error("the value of the header {0} has characters that cannot be sent")]
    HeaderValue(String),
    /// Whoever was asked for the request has none, such as for want of credentials.
    #[error("{0}")]
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
    /// Whoever was asked for the request failed at something that may pass, such as a network of its own.
    #[error("{0}")]
    Failed(Arc<dyn std::error::Error + Send + Sync>),
}

/// Asked for the request at every connect attempt, since signatures and tokens expire. It runs on the link's thread
/// and must not block; what it awaits counts towards the deadline of the WebSocket stage.
pub type UpgradeProvider =
    Arc<dyn Fn() -> BoxFuture<'static, Result<UpgradeRequest, UpgradeError>> + Send + Sync>;

/// Where the request of each connect attempt comes from.
#[derive(Clone)]
pub enum Upgrade {
    /// It is always the same.
    Fixed(Arc<UpgradeRequest>),
    /// It is made anew for each attempt.
    Provider(UpgradeProvider),
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "fixed",
            Self::Provider(_) => "provider",
        })
    }
}

/// A server that speaks MQTT over WebSocket.
#[derive(Debug, Clone)]
pub struct WebSocketTarget {
    /// Where it is.
    pub endpoint: Endpoint,
    /// TLS settings of `wss://`; `None`: `ws://`.
    pub tls: Option<TlsConfig>,
    /// What the request says.
    pub upgrade: Upgrade,
}

/// Why a WebSocket is none, or is over.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// The stream ended or failed before the request was answered.
    #[error("the connection was lost before the request was answered: {0}")]
    Lost(Arc<io::Error>),
    /// The server ended the stream instead of answering.
    #[error("the server closed the connection instead of answering the request")]
    Unanswered,
    /// What answered speaks no HTTP.
    #[error("the server does not speak HTTP; check that the port is one for WebSocket")]
    NotHttp,
    /// It is HTTP, and no WebSocket.
    #[error("the server's answer {0}")]
    Answer(&'static str),
    /// The server speaks another protocol over WebSocket.
    #[error("the server speaks {0:?} and not \"mqtt\" over WebSocket; check the path")]
    Subprotocol(String),
    /// A text frame; MQTT is binary.
    #[error("the server sent text; MQTT over WebSocket is binary")]
    Text,
    /// The server broke the rules of frames.
    #[error("the server sent {0}")]
    Frame(&'static str),
    /// The server closed the WebSocket.
    #[error("the server closed the WebSocket{}{}", Code(*.code), Reason(.reason))]
    Closed {
        /// Its status code.
        code: Option<u16>,
        /// Its words.
        reason: String,
    },
}

impl PartialEq for WebSocketError {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lost(one), Self::Lost(other)) => one.kind() == other.kind(),
            (Self::Answer(one), Self::Answer(other)) | (Self::Frame(one), Self::Frame(other)) => {
                one == other
            }
            (Self::Subprotocol(one), Self::Subprotocol(other)) => one == other,
            (
                Self::Closed { code, reason },
                Self::Closed {
                    code: other_code,
                    reason: other_reason,
                },
            ) => code == other_code && reason == other_reason,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

struct Code(Option<u16>);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |code| write!(f, " with code {code}"))
    }
}

struct Reason<'a>(&'a str);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0)
    }
}

impl WebSocketTarget {
    pub(super) const fn default_port(&self) -> u16 {
        if self.tls.is_some() { 443 } else { 80 }
    }

    /// The request of the next attempt.
    pub(super) async fn request(
        &self,
        limit: Duration,
    ) -> Result<Arc<UpgradeRequest>, ConnectError> {
        let provider = match &self.upgrade {
            Upgrade::Fixed(request) => return Ok(Arc::clone(request)),
            Upgrade::Provider(provider) => provider,
        };
        match timeout(limit, provider()).await {
            Ok(Ok(request)) => Ok(Arc::new(request)),
            Ok(Err(source)) => Err(ConnectError::Upgrade {
                host: self.endpoint.to_string(),
                source,
            }),
            Err(_) => Err(self.timed_out(limit)),
        }
    }

    /// Makes an open stream a WebSocket.
    pub(super) async fn upgrade(
        &self,
        opened: Opened,
        request: &UpgradeRequest,
        timeouts: ConnectTimeouts,
    ) -> Result<Opened, ConnectError> {
        let began = Instant::now();
        let handshake = handshake::open(opened.stream, self, request);
        let websocket = timeout(timeouts.websocket, handshake)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(timeouts.websocket)))?;
        let mut durations = opened.durations;
        durations[3] = Some((Stage::WebSocket, began.elapsed()));
        Ok(Opened {
            stream: Stream::WebSocket(Box::new(websocket)),
            durations,
        })
    }

    fn timed_out(&self, limit: Duration) -> ConnectError {
        ConnectError::Timeout {
            host: self.endpoint.to_string(),
            stage: Stage::WebSocket,
            limit,
        }
    }
}

/// What an error of an open stream says when it is the end of a WebSocket.
pub(super) fn refusal(endpoint: &Endpoint, error: &io::Error) -> Option<ConnectError> {
    let source = error.get_ref()?.downcast_ref::<WebSocketError>()?;
    Some(ConnectError::WebSocket {
        host: endpoint.to_string(),
        source: source.clone(),
    })
}
