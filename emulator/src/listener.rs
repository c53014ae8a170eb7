//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connection::{Accepted, serve};
use crate::first_bytes::Spoken;
use crate::policy::Peer;
use crate::remarks::{Explanation, Remarks, Who};
use crate::shared::Shared;
use crate::tls::{certificate_digest, handshake};

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
) -> io::Result<(TcpStream, SocketAddr)> {
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
        let remarks = Arc::clone(&accepted.shared.remarks);
        let handshake = Box::pin(async {
            let opened = async {
                check_first_bytes(&stream, &peer, &remarks).await?;
                acceptor.accept(stream).await
            };
            tokio::select! {
                _ = accepted.stopping.wait_for(|stopping| *stopping) => None,
                result = tokio::time::timeout_at(deadline, opened) => Some(result),
            }
        });
        let stream = match handshake.await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                match handshake::explain(&error) {
                    Some(why) => remarks.tell(&Who::peer(&peer), "its TLS handshake failed", &why),
                    None => tracing::debug!(%error, "TLS handshake failed"),
                }
                return;
            }
            Some(Err(_)) => {
                let why = Explanation::new("time for the TLS handshake", "it took too long");
                remarks.tell(&Who::peer(&peer), CLOSED, &why);
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

/// What the log says of a connection that the server ends.
const CLOSED: &str = "its connection is closed";

/// Looks whether a client speaks TLS at all, and says in the log what it speaks in its place.
///
/// # Errors
/// It does not, or it is gone.
async fn check_first_bytes(stream: &TcpStream, peer: &Peer, remarks: &Remarks) -> io::Result<()> {
    let mut first = [0; 32];
    let count = stream.peek(&mut first).await?;
    let spoken = match Spoken::of(&first[..count]) {
        _ if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
        // The TLS library has words for what is none.
        Spoken::Tls | Spoken::Other => return Ok(()),
        Spoken::Mqtt | Spoken::Mqtt31 => "MQTT",
        Spoken::Http => "HTTP",
    };
    let port = stream.local_addr()?.port();
    let text = format!(
        "it speaks plain {spoken} to the TLS port {port}; give it the CA file, so that it speaks TLS"
    );
    let why = Explanation::new("this port speaks TLS", text);
    remarks.warn(&Who::peer(peer), CLOSED, &why);
    Err(io::ErrorKind::InvalidData.into())
}
