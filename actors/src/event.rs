//! What a link tells about itself: its state now, and events as they happen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytestring::ByteString;
use paquebot_protocols::mqtt::session::{CloseReason, ServerLimits};
use paquebot_protocols::mqtt::{QoS, ReasonCode, TopicFilter};
use tokio::sync::watch;

use crate::metrics::GroupMetrics;
use crate::transport::ConnectError;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkState {
    /// Not started yet.
    Idle,
    /// Opening a connection, up to CONNACK and the restored subscriptions.
    Connecting,
    /// Online: subscriptions are in force, messages flow.
    Online,
    /// Waiting before the next attempt.
    Backoff,
    /// An actor of the link failed; the link does nothing any more. A bug: please report it.
    Failed,
    /// Stopped on purpose.
    Stopped,
}

impl LinkState {
    pub(crate) const ALL: [Self; 6] = [
        Self::Idle,
        Self::Connecting,
        Self::Online,
        Self::Backoff,
        Self::Failed,
        Self::Stopped,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Online => "connected",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Something that happened to a link.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A connect attempt begins.
    Connecting {
        /// Attempts since the link was last online, from 1.
        attempt: u32,
    },
    /// No byte stream came about.
    ConnectFailed {
        /// Why.
        error: Arc<ConnectError>,
    },
    /// The server accepted CONNECT.
    Connected {
        /// The server resumed its half of the session.
        session_present: bool,
        /// The server had a session before and has none now.
        session_lost: bool,
        /// The client identifier that the server chose.
        assigned_client_id: Option<ByteString>,
        /// What the server said about itself.
        limits: ServerLimits,
    },
    /// Subscriptions are in force; messages flow.
    Online,
    /// The connection ended, or the server refused it.
    Disconnected {
        /// Why.
        reason: CloseReason,
    },
    /// The link waits before the next attempt.
    Retrying {
        /// How long.
        delay: Duration,
    },
    /// The server took a subscription.
    Subscribed {
        /// The filter.
        filter: TopicFilter,
        /// The QoS it granted.
        qos: QoS,
    },
    /// The server refused a subscription; it is not asked again.
    SubscriptionRefused {
        /// The filter.
        filter: TopicFilter,
        /// Why (0x80 on MQTT 3.1.1).
        code: ReasonCode,
    },
    /// The link ended and will not come back.
    Stopped,
    /// This consumer was too slow and missed events.
    Lagged,
}

/// How many events wait for one slow consumer before the oldest are dropped.
pub const EVENTS_HELD_MAX: usize = 64;

struct Listener {
    sender: Sender<LinkEvent>,
    /// Events were dropped and the listener was told; it is told again only after it has caught up.
    lagged: bool,
}

/// Shared by a link's handles and actors. Events are rare (none per message), so a lock around the list
/// of listeners is no bottleneck.
pub(crate) struct EventHub {
    state: watch::Sender<LinkState>,
    listeners: Mutex<Vec<Listener>>,
    metrics: Arc<GroupMetrics>,
    /// The link was online before: being online again is a reconnect.
    was_online: AtomicBool,
}

impl EventHub {
    pub(crate) fn new(metrics: Arc<GroupMetrics>) -> Self {
        metrics.links(LinkState::Idle).inc();
        Self {
            state: watch::Sender::new(LinkState::Idle),
            listeners: Mutex::new(Vec::new()),
            metrics,
            was_online: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub(crate) fn current(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Moves the link to a state; `Failed` and `Stopped` are final.
    pub(crate) fn enter(&self, next: LinkState) {
        self.state.send_if_modified(|state| {
            if *state == next || matches!(state, LinkState::Failed | LinkState::Stopped) {
                return false;
            }
            self.metrics.links(*state).dec();
            self.metrics.links(next).inc();
            if next == LinkState::Online && self.was_online.swap(true, Ordering::Relaxed) {
                self.metrics.reconnects.inc();
            }
            *state = next;
            true
        });
    }

    pub(crate) fn listen(&self) -> Receiver<LinkEvent> {
        let (sender, receiver) = async_channel::bounded(EVENTS_HELD_MAX);
        let mut listeners = self.lock();
        // Looked at under the lock: a link that ends now finds the listener in the list. One that has ended
        // says nothing more, and the stream ends at once.
        if !matches!(self.current(), LinkState::Failed | LinkState::Stopped) {
            listeners.push(Listener {
                sender,
                lagged: false,
            });
        }
        receiver
    }

    pub(crate) fn emit(&self, event: &LinkEvent) {
        let is_online = self.current() == LinkState::Online;
        self.metrics.failures.note(event, is_online);
        self.lock()
            .retain_mut(|listener| match listener.sender.force_send(event.clone()) {
                Ok(None) => {
                    listener.lagged = false;
                    true
                }
                Ok(Some(_)) if listener.lagged => true,
                Ok(Some(_)) => {
                    listener.lagged = true;
                    listener.sender.force_send(LinkEvent::Lagged).is_ok()
                }
                Err(_) => false,
            });
    }

    /// The last of it: `last` is the state for good, and every listener's stream ends.
    pub(crate) fn end(&self, last: LinkState) {
        self.enter(last);
        self.emit(&LinkEvent::Stopped);
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EventHub {
    fn drop(&mut self) {
        self.metrics.links(self.current()).dec();
    }
}
