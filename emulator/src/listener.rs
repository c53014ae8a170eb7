//! Accepting connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connection::{Accepted, serve};
use crate::policy::Peer;
use crate::shared::Shared;
use crate::tls::certificate_digest;

/// Pause after a failed accept: most often the process is out of file descriptors.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What speaks with a client behind its TLS handshake, where that is not MQTT from the first byte on.
pub(crate) trait Front: Send + Sync + 'static {
    /// Serves one connection to its end.
    fn serve(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        peer: Peer,
        accepted: Accepted,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What is between a socket and the server.
#[derive(Clone)]
pub(crate) enum Door {
    Plain,
    Tls(TlsAcceptor),
    Front(TlsAcceptor, Arc<dyn Front>),
}

/// Accepts until the server stops.
pub(crate) async fn listen(
    listener: TcpListener,
    door: Door,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut accepting = shared.accepting();
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            accepted = accept(&listener, &mut accepting) => accepted,
        };
        match accepted {
            Ok((stream, address)) => admit(stream, address, door.clone(), &shared),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    accepting: &mut watch::Receiver<bool>,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    loop {
        // The sender lives in what this task shares, so this waits for as long as it has to.
        let _ = accepting.wait_for(|accepting| *accepting).await;
        tokio::select! {
            biased;
            _ = accepting.changed() => {}
            accepted = listener.accept() => return accepted,
        }
    }
}

fn admit(stream: TcpStream, address: SocketAddr, door: Door, shared: &Arc<Shared>) {
    let Some(mut accepted) = Accepted::now(shared) else {
        return;
    };
    // Packets are written in batches already, so waiting for more only costs time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let mut peer = Peer {
        address: Some(address),
        ..Peer::default()
    };
    let (acceptor, front) = match door {
        Door::Plain => {
            tokio::spawn(serve(stream, Arc::new(peer), accepted));
            return;
        }
        Door::Tls(acceptor) => (acceptor, None),
        Door::Front(acceptor, front) => (acceptor, Some(front)),
    };
    tokio::spawn(async move {
        let deadline = accepted.deadline;
        let handshake = Box::pin(async {
            tokio::select! {
                _ = accepted.stopping.wait_for(|stopping| *stopping) => None,
                result = tokio::time::timeout_at(deadline, acceptor.accept(stream)) => Some(result),
            }
        });
        let stream = match handshake.await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Some(Err(_)) => {
                tracing::debug!("TLS handshake took too long");
                return;
            }
            None => return,
        };
        peer.principal = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|certificate| certificate_digest(certificate).into());
        match front {
            Some(front) => front.serve(stream, peer, accepted).await,
            None => serve(Box::new(stream), Arc::new(peer), accepted).await,
        }
    });
}
