//! Setting a server up and starting it.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::broker::Broker;
use crate::limits::Limits;
use crate::listener::{Door, Front, listen};
use crate::policy::{AllowAll, Policy};
use crate::remarks::{Loudness, Remarks};
use crate::service::Service;
use crate::shared::Shared;
use crate::state::State;
use crate::thread::BrokerThread;
use crate::tls::ServerTls;

/// Why a server did not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can be reached from other machines.
    #[error(
        "{address} is not a loopback address; listen on 127.0.0.1 or [::1], or say `allow_remote(true)` \
         to let other machines in"
    )]
    NotLoopback {
        /// The address that was refused.
        address: SocketAddr,
    },
    /// Something listens there already.
    #[error(
        "{address} is in use by another program; stop it, take another port, or port 0 for a free one"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error(
        "cannot listen on {address}: {source}; check that this machine has the address and you may use the port"
    )]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// [`Builder::start`] was called outside a tokio runtime.
    #[error("there is no tokio runtime here; call `start` from one, or use `start_on_thread`")]
    NoRuntime,
    /// The server's own thread or its runtime could not be made.
    #[error("cannot start the server's thread: {0}; check the limits on threads and open files")]
    Thread(std::io::Error),
}

/// How a server is to be; made by [`Broker::builder`].
#[must_use = "a builder does nothing until `start` or `start_on_thread`"]
pub struct Builder {
    listeners: Vec<(SocketAddr, Door)>,
    allow_remote: bool,
    limits: Limits,
    policy: Box<dyn Policy>,
    service: Option<Box<dyn Service>>,
    loudness: Loudness,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            allow_remote: false,
            limits: Limits::default(),
            policy: Box::new(AllowAll),
            service: None,
            loudness: Loudness::default(),
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("listeners", &self.listeners.len())
            .field("allow_remote", &self.allow_remote)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Adds a plain TCP listener. Port 0 takes a free port; [`Broker::tcp_address`] says which. Without any
    /// listener the server is reached through [`Broker::connect_pipe`] alone.
    pub fn tcp(mut self, address: impl Into<SocketAddr>) -> Self {
        self.listeners.push((address.into(), Door::Plain));
        self
    }

    /// Adds a TLS listener.
    pub fn tls(mut self, address: impl Into<SocketAddr>, tls: ServerTls) -> Self {
        self.listeners
            .push((address.into(), Door::Tls(tls.acceptor())));
        self
    }

    /// Adds a TLS listener whose connections `front` serves.
    pub(crate) fn front(
        mut self,
        address: SocketAddr,
        tls: &ServerTls,
        front: Arc<dyn Front>,
    ) -> Self {
        self.listeners
            .push((address, Door::Front(tls.acceptor(), front)));
        self
    }

    /// Sets the services behind the server.
    pub(crate) fn service(mut self, service: impl Service + 'static) -> Self {
        self.service = Some(Box::new(service));
        self
    }

    /// Sets how loudly it speaks of those it turns away.
    pub(crate) const fn loudness(mut self, loudness: Loudness) -> Self {
        self.loudness = loudness;
        self
    }

    /// Lets listeners bind addresses that other machines reach. Default false.
    pub const fn allow_remote(mut self, allow: bool) -> Self {
        self.allow_remote = allow;
        self
    }

    /// Sets the limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets who may do what. Default [`AllowAll`].
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// Starts the server on the caller's tokio runtime, which needs its network and time drivers.
    ///
    /// # Errors
    /// A listener that cannot or must not be bound, or no runtime.
    pub async fn start(self) -> Result<Broker, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let mut bound = Vec::with_capacity(self.listeners.len());
        for (address, door) in self.listeners {
            let listener = bind(address, self.allow_remote).await?;
            let local = listener
                .local_addr()
                .map_err(|source| StartError::Bind { address, source })?;
            bound.push((listener, local, door));
        }
        let remarks = Arc::new(Remarks::new(self.loudness));
        let state = State::new(
            self.limits.clone(),
            self.policy,
            self.service,
            Arc::clone(&remarks),
        );
        let shared = Arc::new(Shared::new(self.limits, state, remarks, runtime));
        let stopping = shared.stopping();
        let timers = Arc::clone(&shared);
        tokio::spawn(async move { timers.run_timers(stopping).await });
        let mut addresses = Vec::with_capacity(bound.len());
        for (listener, local, door) in bound {
            addresses.push((local, !matches!(door, Door::Plain)));
            let stopping = shared.stopping();
            tokio::spawn(listen(listener, door, Arc::clone(&shared), stopping));
        }
        tracing::info!(?addresses, "the server is up");
        Ok(Broker::new(shared, addresses))
    }

    /// Starts the server on a thread of its own, for callers without tokio.
    ///
    /// # Errors
    /// A listener that cannot or must not be bound, or no thread.
    pub fn start_on_thread(self) -> Result<BrokerThread, StartError> {
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("paquebot-emulator".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(StartError::Thread(error)));
                        return;
                    }
                };
                runtime.block_on(async {
                    let result = self.start().await;
                    let shared = result.as_ref().ok().map(Broker::shared);
                    // The caller waits for this, so it cannot be gone.
                    let _ = started.send(result);
                    if let Some(shared) = shared {
                        shared.stopped().await;
                    }
                });
            })
            .map_err(StartError::Thread)?;
        match outcome.recv() {
            Ok(Ok(broker)) => Ok(BrokerThread::new(broker, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Thread(std::io::Error::other(
                "the server's thread ended while it started",
            ))),
        }
    }
}

async fn bind(address: SocketAddr, allow_remote: bool) -> Result<TcpListener, StartError> {
    if !allow_remote && !address.ip().is_loopback() {
        return Err(StartError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            StartError::AddressInUse { address }
        } else {
            StartError::Bind { address, source }
        }
    })
}
