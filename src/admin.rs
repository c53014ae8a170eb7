//! The admin listener: `/metrics`, `/livez` and `/readyz`.
//!
//! It runs on a thread of its own, so that a scrape never waits for devices and devices never wait for a
//! scrape. It is read-only, listens on loopback addresses alone and answers only requests whose `Host` names
//! this machine, so that a web page cannot read it through a visitor's browser.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all series, Prometheus text format 0.0.4 |
//! | `/livez` | 200 while every worker's event loop turns, 503 once one is stuck |
//! | `/readyz` | 200 while at least one link is online and the fleet is not drained, 503 otherwise |
//!
//! Limits: 64 connections at once, 8 KiB of request head, 5 s to send it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::fleet::Fleet;

/// Connections served at once.
const CONNECTIONS_MAX: usize = 64;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Time a client has to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the admin listener did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address is reachable from other machines.
    #[error(
        "the admin listener has no access control, so it listens on loopback addresses only and not on \
         {0}; put a proxy in front of it to reach it from elsewhere"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} for the admin page: {source}; choose another address, or port 0 for a free one"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        r#source: std::io::Error,
    },
    /// The system gave no thread or event loop.
    #[error("cannot start the admin thread: {0}")]
    Thread(std::io::Error),
    /// The process's own series could not be registered.
    #[error("cannot register the process metrics: {0}")]
    Metrics(prometheus::Error),
}

/// A running admin listener; it stops when dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on `listen` for questions about `fleet`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not a loopback address or cannot be listened on.
    pub fn start(listen: SocketAddr, fleet: Fleet) -> Result<Self, AdminError> {
        if !listen.ip().is_loopback() {
            return Err(AdminError::NotLoopback(listen));
        }
        register_process(&fleet)?;
        let bind_error = |source| AdminError::Bind {
            address: listen,
            source,
        };
        let listener = std::net::TcpListener::bind(listen).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Thread)?;
        let thread = std::thread::Builder::new()
            .name(format!("{}-admin", fleet.name()))
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = serve(listener, fleet) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(AdminError::Thread)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The address it listens on, with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and ends the thread.
    pub fn stop(self) {}
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// CPU, memory, files and start time of the process.
fn register_process(fleet: &Fleet) -> Result<(), AdminError> {
    #[cfg(target_os = "linux")]
    {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        match fleet.metrics().registry().register(Box::new(collector)) {
            // A second listener for the same fleet finds them registered.
            Ok(()) | Err(prometheus::Error::AlreadyReg) => {}
            Err(error) => return Err(AdminError::Metrics(error)),
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = fleet;
    Ok(())
}

async fn serve(listener: std::net::TcpListener, fleet: Fleet) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        tracing::error!("the admin listener cannot be used");
        return;
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn(check_host))
        .with_state(fleet);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "an admin connection failed");
            }
        });
    }
}

async fn check_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if host.is_some_and(names_this_machine) {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "ask by a loopback address or localhost\n",
        )
            .into_response()
    }
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

async fn metrics(State(fleet): State<Fleet>) -> Response {
    match TextEncoder::new().encode_to_string(&fleet.metrics().gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn livez(State(fleet): State<Fleet>) -> Response {
    if fleet.is_responsive() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "a worker's event loop is stuck\n",
        )
            .into_response()
    }
}

async fn readyz(State(fleet): State<Fleet>) -> Response {
    let totals = fleet.totals();
    let links = totals.idle + totals.connecting + totals.online + totals.backoff + totals.failed;
    let text = format!("{} of {links} links online\n", totals.online);
    if totals.online > 0 && !fleet.is_drained() {
        (StatusCode::OK, text).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:1",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in [
            "example.org",
            "127.0.0.1.example.org",
            "",
            "[::2]:1",
            "10.0.0.1",
        ] {
            assert!(!names_this_machine(host), "{host}");
        }
    }
}
