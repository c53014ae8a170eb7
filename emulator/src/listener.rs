//! Accepting connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::connection::serve;
use crate::shared::Shared;

/// Pause after a failed accept: most often the process is out of file descriptors.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Accepts until the server stops.
pub(crate) async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
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
            Ok(stream) => admit(stream, tls.clone(), &shared),
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
) -> std::io::Result<TcpStream> {
    loop {
        // The sender lives in what this task shares, so this waits for as long as it has to.
        let _ = accepting.wait_for(|accepting| *accepting).await;
        tokio::select! {
            biased;
            _ = accepting.changed() => {}
            accepted = listener.accept() => return accepted.map(|(stream, _)| stream),
        }
    }
}

fn admit(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Arc<Shared>) {
    let Some(epoch) = shared.admission_epoch() else {
        return;
    };
    // Packets are written in batches already, so waiting for more only costs time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let deadline = Instant::now() + shared.limits.connect_timeout;
    let shared = Arc::clone(shared);
    let mut stopping = shared.stopping();
    let Some(tls) = tls else {
        tokio::spawn(serve(stream, shared, epoch, deadline, stopping));
        return;
    };
    tokio::spawn(async move {
        let handshake = Box::pin(async {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => None,
                result = tokio::time::timeout_at(deadline, tls.accept(stream)) => Some(result),
            }
        });
        match handshake.await {
            Some(Ok(Ok(stream))) => {
                serve(Box::new(stream), shared, epoch, deadline, stopping).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%error, "TLS handshake failed"),
            Some(Err(_)) => tracing::debug!("TLS handshake took too long"),
            None => {}
        }
    });
}
