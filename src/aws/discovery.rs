//! Greengrass discovery: which cores a thing may connect to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use paquebot_actors::{
    ClientCertificate, ConnectError, ConnectTimeouts, Endpoint, EndpointError, TlsConfig, TlsError,
    TrustAnchors, open_tls,
};
use paquebot_protocols::dialect::DialectError;
use paquebot_protocols::dialect::aws::discovery as wire;
use serde_json::Value;
use tokio::sync::oneshot;

pub use wire::{GreengrassConnectivity, GreengrassCore, GreengrassGroup};

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Most characters of a refusal's words that are kept.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// Why nothing was discovered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The thing's name is none.
    #[error(transparent)]
    Invalid(#[from] DialectError),
    /// The host is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(Arc<TlsError>),
    /// There is no connection.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The connection broke, or what came over it is no HTTP.
    #[error("the exchange with the discovery service broke off: {0}")]
    Http(Arc<hyper::Error>),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is longer than any can be.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// 400: the service does not understand the request.
    #[error("the discovery service answered 400: {0}")]
    InvalidRequest(String),
    /// 401 or 403: the certificate may not ask for this thing.
    #[error(
        "the discovery service answered {status}: {message}; the certificate has to be the thing's, with a policy that allows greengrass:Discover"
    )]
    Unauthorized {
        /// The HTTP status.
        status: u16,
        /// The service's words.
        message: String,
    },
    /// 404: the thing is in no group, or its group has no core yet.
    #[error("the discovery service answered 404: {0}")]
    NotFound(String),
    /// 429: too many requests.
    #[error("the discovery service answered 429: {0}; ask later")]
    Throttled(String),
    /// Another status.
    #[error("the discovery service answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The service's words.
        message: String,
    },
    /// The answer makes no sense.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// No thread could be started for it.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<std::io::Error>),
}

impl DiscoveryError {
    /// Whether the same may go well later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::TimedOut(_) | Self::Throttled(_) => true,
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

/// Asks AWS for the cores that a thing may connect to. Usable from any thread and any executor.
///
/// ```no_run
/// use paquebot::{Fleet, aws};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let discovery = aws::Discovery::new("abc123-ats.iot.eu-central-1.amazonaws.com")
///     .client_certificate("certificate.pem", "private.key");
/// let fleet = Fleet::builder().start()?;
/// for group in discovery.discover("pump-1").await? {
///     std::fs::write("cores.pem", group.authorities_pem())?;
///     for place in group.cores.iter().flat_map(|core| &core.connectivity) {
///         let things = fleet.group("core").endpoint(place.url()).ca_file("cores.pem");
///         // … the first that answers will do.
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `discover`"]
pub struct Discovery {
    host: String,
    port: u16,
    alpn: Option<&'static str>,
    anchors: TrustAnchors,
    certificate: Option<ClientCertificate>,
    deadline: Duration,
}

impl Discovery {
    /// On port 8443 of the account's endpoint.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: wire::PORT,
            alpn: None,
            anchors: TrustAnchors::System,
            certificate: None,
            deadline: Duration::from_secs(30),
        }
    }

    /// On port 443 with the application protocol `x-amzn-http-ca`, for networks that let nothing else out.
    pub const fn over_443(mut self) -> Self {
        self.port = 443;
        self.alpn = Some(wire::ALPN);
        self
    }

    /// Another port, for an emulator or a proxy.
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// PEM files of the thing's certificate and key.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificate = Some(ClientCertificate {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Trusts the authorities in this PEM file and no others. Default: those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.anchors = TrustAnchors::File(path.into());
        self
    }

    /// When it ends without an answer. Default: 30 s.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The groups that the thing is in.
    ///
    /// # Errors
    /// See [`DiscoveryError`].
    pub async fn discover(&self, thing: &str) -> Result<Vec<GreengrassGroup>, DiscoveryError> {
        let path = wire::path(thing)?;
        let (_, endpoint) = Endpoint::parse(&format!("mqtts://{}:{}", self.host, self.port))?;
        let alpn: Vec<&str> = self.alpn.into_iter().collect();
        let tls = TlsConfig::load(&self.anchors, self.certificate.as_ref(), &alpn, None);
        let tls = tls.map_err(|error| DiscoveryError::Tls(Arc::new(error)))?;
        let deadline = self.deadline;
        let host = self.host.clone();
        let (mut done, result) = oneshot::channel();
        // Rare, and the caller need not have a runtime: a thread of its own for as long as it takes.
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = done.send(Err(DiscoveryError::Thread(Arc::new(error))));
                    return;
                }
            };
            runtime.block_on(async move {
                let result = tokio::select! {
                    biased;
                    () = done.closed() => return,
                    result = ask(endpoint, tls, &host, &path) => result,
                    () = tokio::time::sleep(deadline) => Err(DiscoveryError::TimedOut(deadline)),
                };
                let _ = done.send(result);
            });
        };
        std::thread::Builder::new()
            .name("discovery".to_owned())
            .spawn(work)
            .map_err(|error| DiscoveryError::Thread(Arc::new(error)))?;
        let (status, body) = result
            .await
            .unwrap_or_else(|_| Err(DiscoveryError::Unreadable("the thread ended".into())))?;
        if status == StatusCode::OK {
            return wire::read(&body).map_err(DiscoveryError::Unreadable);
        }
        Err(refusal(status, &body))
    }
}

async fn ask(
    endpoint: Endpoint,
    tls: TlsConfig,
    host: &str,
    path: &str,
) -> Result<(StatusCode, Bytes), DiscoveryError> {
    let broken = |error| DiscoveryError::Http(Arc::new(error));
    let stream = open_tls(endpoint, tls, ConnectTimeouts::default()).await;
    let stream = stream.map_err(|error| DiscoveryError::Connect(Arc::new(error)))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let request = Request::get(path)
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("paquebot/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| DiscoveryError::Unreadable(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        match body.collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(DiscoveryError::TooLarge),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(error) => broken(*error),
                Err(other) => DiscoveryError::Unreadable(other.to_string()),
            }),
        }
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // Whatever ended the connection, the exchange knows it too and says it better.
        _ = &mut connection => exchange.await,
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> DiscoveryError {
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
        let words = ["errorMessage", "message", "Message"];
        let words = words.iter().find_map(|key| body.get(key)?.as_str());
        words.map(str::to_owned)
    });
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let printable = said.chars().filter(|c| !c.is_control());
    let message: String = printable.take(MESSAGE_CHARACTERS_MAX).collect();
    let status = status.as_u16();
    match status {
        400 => DiscoveryError::InvalidRequest(message),
        401 | 403 => DiscoveryError::Unauthorized { status, message },
        404 => DiscoveryError::NotFound(message),
        429 => DiscoveryError::Throttled(message),
        _ => DiscoveryError::Refused { status, message },
    }
}
