//! What a link tells about itself: its state now, and events as they happen.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytestring::ByteString;
use paquebot_protocols::dialect::LikelyCause;
use paquebot_protocols::dialect::state::DocumentId;
use paquebot_protocols::mqtt::session::{CloseReason, ServerLimits};
use paquebot_protocols::mqtt::{QoS, ReasonCode, Topic, TopicFilter};

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
    /// No byte stream came about, or there is no CONNECT to send on it.
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
    /// What is likely behind the end of the connection that was told just before, where the server did not say and the
    /// platform is known to be silent about such things. A guess.
    LikelyCause {
        /// The guess, with what to do.
        cause: LikelyCause,
        /// The topic of the message at which the server closes, where that is known.
        topic: Option<Topic>,
    },
    /// The server closed two connections in a row when the link read a document of state, as it does after each connect
    /// for a stream of deltas: it probably does not allow that. The document is not read by itself any more until somebody
    /// asks for it or opens another stream; deltas that the platform tells go on.
    ReadingGivenUp {
        /// Which document.
        document: DocumentId,
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

/// For people: a line without a time and without the name of the link. What it says may change.
impl fmt::Display for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { attempt: 1 } => f.write_str("connecting"),
            Self::Connecting { attempt } => write!(f, "connecting (attempt {attempt})"),
            Self::ConnectFailed { error } => error.fmt(f),
            Self::Connected {
                session_present,
                session_lost,
                assigned_client_id,
                ..
            } => {
                f.write_str(match (session_present, session_lost) {
                    (true, _) => "connected, the session goes on",
                    (false, true) => "connected, the server has lost the session",
                    (false, false) => "connected, with a new session",
                })?;
                match assigned_client_id {
                    Some(id) => write!(f, "; the server calls this client {id}"),
                    None => Ok(()),
                }
            }
            Self::Online => f.write_str("online"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
            Self::LikelyCause { cause, topic: None } => cause.fmt(f),
            Self::LikelyCause {
                cause,
                topic: Some(topic),
            } => write!(f, "{cause} ({topic})"),
            Self::ReadingGivenUp { document } => write!(
                f,
                "the server closes the connection when the state of {document} is read: it is not read by itself any more"
            ),
            Self::Retrying { delay } if *delay < Duration::from_secs(1) => {
                write!(f, "next attempt in {} ms", delay.as_millis())
            }
            Self::Retrying { delay } => write!(f, "next attempt in {:.1} s", delay.as_secs_f64()),
            Self::Subscribed { filter, qos } => {
                write!(f, "subscribed to {filter} with QoS {}", *qos as u8)
            }
            Self::SubscriptionRefused { filter, code } => {
                write!(f, "the server refused the subscription to {filter}: {code}")
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Lagged => f.write_str("some events were missed"),
        }
    }
}

/// How many events wait for one slow consumer before the oldest are dropped.
pub const EVENTS_HELD_MAX: usize = 64;

struct Listener {
    sender: Sender<LinkEvent>,
    /// Events were dropped and the listener was told; it is told again only after it has caught up.
    lagged: bool,
}

/// Shared by a link's handles and actors. Events are rare (none per message), so a lock around the lists
/// is no bottleneck; a link that nobody watches has none.
pub(crate) struct EventHub {
    state: AtomicU8,
    /// The link was online before: being online again is a reconnect.
    was_online: AtomicBool,
    watchers: Mutex<Option<Box<Watchers>>>,
    /// Names waits apart for as long as the link lives.
    next_wait: AtomicU64,
    metrics: Arc<GroupMetrics>,
}

/// Who wants to know what happens to a link.
#[derive(Default)]
struct Watchers {
    listeners: Vec<Listener>,
    /// Tasks that wait for the link to be somewhere else.
    waits: Vec<(u64, Waker)>,
}

impl EventHub {
    pub(crate) fn new(metrics: Arc<GroupMetrics>) -> Self {
        metrics.links(LinkState::Idle).inc();
        Self {
            state: AtomicU8::new(LinkState::Idle as u8),
            was_online: AtomicBool::new(false),
            watchers: Mutex::new(None),
            next_wait: AtomicU64::new(0),
            metrics,
        }
    }

    pub(crate) fn current(&self) -> LinkState {
        LinkState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    pub(crate) async fn wait_for(&self, wanted: impl Fn(LinkState) -> bool) -> LinkState {
        let mut wait = Wait {
            hub: self,
            place: None,
        };
        std::future::poll_fn(|cx| wait.poll(&wanted, cx)).await
    }

    /// Moves the link to a state; `Failed` and `Stopped` are final.
    pub(crate) fn enter(&self, next: LinkState) {
        let mut watchers = self.lock();
        let state = self.current();
        if state == next || matches!(state, LinkState::Failed | LinkState::Stopped) {
            return;
        }
        self.metrics.links(state).dec();
        self.metrics.links(next).inc();
        if next == LinkState::Online && self.was_online.swap(true, Ordering::Relaxed) {
            self.metrics.reconnects.inc();
        }
        self.state.store(next as u8, Ordering::Release);
        let waits = watchers
            .as_mut()
            .map(|watchers| std::mem::take(&mut watchers.waits));
        drop_if_unused(&mut watchers);
        // Not under the lock: a waker may do anything.
        drop(watchers);
        for (_, waker) in waits.unwrap_or_default() {
            waker.wake();
        }
    }

    pub(crate) fn listen(&self) -> Receiver<LinkEvent> {
        let (sender, receiver) = async_channel::bounded(EVENTS_HELD_MAX);
        let mut watchers = self.lock();
        // Looked at under the lock: a link that ends now finds the listener in the list. One that has ended
        // says nothing more, and the stream ends at once.
        if !matches!(self.current(), LinkState::Failed | LinkState::Stopped) {
            watchers.get_or_insert_default().listeners.push(Listener {
                sender,
                lagged: false,
            });
        }
        receiver
    }

    pub(crate) fn emit(&self, event: &LinkEvent) {
        let is_online = self.current() == LinkState::Online;
        self.metrics.failures.note(event, is_online);
        let mut watchers = self.lock();
        let Some(listeners) = watchers.as_mut().map(|watchers| &mut watchers.listeners) else {
            return;
        };
        listeners.retain_mut(|listener| match listener.sender.force_send(event.clone()) {
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
        drop_if_unused(&mut watchers);
    }

    /// The last of it: `last` is the state for good, and every listener's stream ends.
    pub(crate) fn end(&self, last: LinkState) {
        self.enter(last);
        self.emit(&LinkEvent::Stopped);
        // Whoever waited was woken by the last state, whoever listened has had the last event.
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Watchers>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_if_unused(watchers: &mut Option<Box<Watchers>>) {
    watchers.take_if(|watchers| watchers.listeners.is_empty() && watchers.waits.is_empty());
}

/// One task's wait for a state; gives up its place when it is dropped.
struct Wait<'a> {
    hub: &'a EventHub,
    place: Option<u64>,
}

impl Wait<'_> {
    fn poll(
        &mut self,
        wanted: &impl Fn(LinkState) -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<LinkState> {
        let mut watchers = self.hub.lock();
        // Looked at under the lock: a change after it finds the waker in the list.
        let state = self.hub.current();
        if wanted(state) {
            return Poll::Ready(state);
        }
        let watchers = watchers.get_or_insert_default();
        let known = watchers
            .waits
            .iter_mut()
            .find(|(place, _)| Some(*place) == self.place);
        match known {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                let place = self.hub.next_wait.fetch_add(1, Ordering::Relaxed);
                watchers.waits.push((place, cx.waker().clone()));
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let mut watchers = self.hub.lock();
        if let Some(watchers) = watchers.as_mut() {
            watchers
                .waits
                .retain(|(place, _)| Some(*place) != self.place);
        }
        drop_if_unused(&mut watchers);
    }
}

impl Drop for EventHub {
    fn drop(&mut self) {
        self.metrics.links(self.current()).dec();
    }
}
