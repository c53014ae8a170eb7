//! The handle of a running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paquebot_protocols::mqtt::{Properties, QoS, Topic, TopicFilter};
use tokio::io::DuplexStream;

use crate::builder::Builder;
use crate::connection::{Accepted, serve};
use crate::faults::Faults;
use crate::message::Message;
use crate::record::{Recorder, Recording};
use crate::shared::Shared;
use crate::state::State;
use crate::stats::{ClientInfo, Stats};
use crate::watch::{Watch, Watcher};

/// Bytes that a pipe holds each way before its writer waits; an idle pipe holds none.
pub const PIPE_BYTES_MAX: usize = 64 * 1024;

/// What was waited for did not come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the condition did not hold within {waited:?}; the server was at {stats:?}")]
#[non_exhaustive]
pub struct WaitTimeout {
    /// How long that was.
    pub waited: Duration,
    /// The counters at its end.
    pub stats: Box<Stats>,
}

/// A running server. Clones are handles of the same server; it stops with [`Broker::stop`] or when the last
/// handle is dropped.
///
/// No call blocks for longer than the server's lock is held, so each can be made from async code and from
/// threads alike.
#[derive(Debug, Clone)]
pub struct Broker {
    shared: Arc<Shared>,
    /// Each with whether it speaks TLS.
    addresses: Arc<[(SocketAddr, bool)]>,
    _last: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.begin_stop();
    }
}

impl Broker {
    /// A server without listeners, with default limits, that lets everybody in.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(shared: Arc<Shared>, addresses: Vec<(SocketAddr, bool)>) -> Self {
        Self {
            _last: Arc::new(StopOnDrop(Arc::clone(&shared))),
            shared,
            addresses: addresses.into(),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The address of the first TCP listener, with its real port.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses(false).next()
    }

    /// The address of the first TLS listener, with its real port.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.addresses(true).next()
    }

    /// The addresses of all TCP listeners, or of all TLS listeners, in the order they were asked for.
    pub fn addresses(&self, tls: bool) -> impl Iterator<Item = SocketAddr> {
        self.addresses
            .iter()
            .filter(move |(_, is_tls)| *is_tls == tls)
            .map(|(address, _)| *address)
    }

    /// Connects a client in this process: the returned end reads and writes what its socket would. It is
    /// closed at once where a socket would be refused: after a stop, or in a scripted down time.
    #[must_use]
    pub fn connect_pipe(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE_BYTES_MAX);
        if let Some(accepted) = Accepted::now(&self.shared) {
            let serving = serve(server, Arc::default(), accepted);
            self.shared.runtime.spawn(serving);
        }
        client
    }

    /// Publishes a message of the server's own, as if a client without a name had. Returns how many
    /// sessions it goes to.
    pub fn publish(
        &self,
        topic: Topic,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> usize {
        let payload = payload.into();
        self.shared.turn(|state, now| {
            let message = Message {
                topic,
                payload,
                qos,
                retain,
                properties: Properties::EMPTY,
                publisher: None,
                taken: now,
            };
            state.route(message, None, now)
        })
    }

    /// Watches what is published from now on.
    #[must_use]
    pub fn watch(&self, filter: TopicFilter) -> Watch {
        let (watcher, watch) = Watcher::new(filter);
        self.shared.turn(|state, _| state.add_watcher(watcher));
        watch
    }

    /// Puts every packet on record that is read and taken, or handed to be written, from now on. A second
    /// call ends the record of the first.
    #[must_use]
    pub fn record(&self) -> Recording {
        let (recorder, recording) = Recorder::new();
        self.shared.turn(|state, _| state.record(recorder));
        recording
    }

    /// The scripted faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults {
            shared: self.shared(),
        }
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// All sessions, connected or not, in no order.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.shared.look(State::clients)
    }

    /// One session.
    #[must_use]
    pub fn client(&self, client_id: &str) -> Option<ClientInfo> {
        self.shared.look(|state| state.client(client_id))
    }

    /// Waits until the counters are as `condition` wants them. They are looked at after each step of the
    /// server; bytes are counted between steps and wake nobody by themselves. Needs a tokio runtime with a
    /// time driver.
    ///
    /// # Errors
    /// Not within `timeout`; the error carries the counters as they were.
    pub async fn wait_for(
        &self,
        condition: impl Fn(&Stats) -> bool,
        timeout: Duration,
    ) -> Result<Stats, WaitTimeout> {
        let outcome = self.shared.wait_for(condition, timeout).await;
        outcome.map_err(|stats| WaitTimeout {
            waited: timeout,
            stats,
        })
    }

    /// The same for a caller without tokio: blocks its thread.
    ///
    /// # Errors
    /// Not within `timeout`.
    pub fn wait_for_blocking(
        &self,
        condition: impl Fn(&Stats) -> bool,
        timeout: Duration,
    ) -> Result<Stats, WaitTimeout> {
        let outcome = self.shared.wait_for_blocking(condition, timeout);
        outcome.map_err(|stats| WaitTimeout {
            waited: timeout,
            stats,
        })
    }

    /// Stops the server: clients are sent a DISCONNECT where their version has one, no will is published,
    /// and when this returns every socket and listener is closed.
    pub async fn stop(&self) {
        self.begin_stop();
        self.shared.stopped().await;
    }

    pub(crate) fn begin_stop(&self) {
        self.shared.begin_stop();
    }
}
