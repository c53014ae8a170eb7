//! Every message from one actor to another: the wiring of a link on one page.
//!
//! ```text
//! handle ══ Submission ══► OfflineQueue ── PublishBatch ──► Codec ── Transmit ──► Connection ► socket
//!                              ▲  ▲  ▲                      │ ▲ ▲                 │
//!                              │  │  └─ Outcomes, Returned ─┘ │ └── Received, ────┘
//!                              │  │     RoomFreed,            │     TransportOpened, Written, TransportLost
//!                              │  └─ LinkOnline, LinkOffline ─┘
//!                              │                              │
//!                              └─ Submission (answers) ── CommandRouter ◄─ Deliver ─ Codec
//!                                                             └─ Settled, ReadingPaused ─► Codec
//! handle ── AskState, WatchDeltas, WatchChanges ─► Shadow ── Subscribe, PublishRequest ─► Codec
//! handle ── PublishRequest ─► Codec
//! CommandRouter ── StateArrived ─► Shadow ◄─ ShadowOnline, ShadowOffline ── Codec ◄─ OpenShadow ── handle
//! consumer ── AcknowledgeGathered ─► Codec
//! store ── Recorded ─► Codec
//! ```
//!
//! `══` is the intake, where callers wait for room; everything else is a typed message on one arbiter, and
//! one message carries a batch. What the actors of one task tell each other goes through `link/lanes.rs`, the rest
//! through mailboxes. What circulates is bounded by the in-flight window and by the bytes written
//! and not yet flushed, both kept by the queue.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Message;
use bytes::{Bytes, BytesMut};
use paquebot_protocols::backoff::FailureClass;
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::dialect::state::{DocumentId, StateChange, StateDelta, StateRequest};
use paquebot_protocols::model::{Command, CommandReply, DeviceId};
use paquebot_protocols::mqtt::session::{Incoming, Outgoing};
use paquebot_protocols::mqtt::{QoS, ReasonCode, Subscription, Topic, TopicFilter};

use crate::command_router::{CommandId, CommandRecord, Consumer};
use crate::inbound::{AckDesk, Block};
use crate::link::RequestUnsent;
use crate::offline_queue::StoredId;
use crate::receipt::Outcome;
use crate::shadow::{Answer, Lease, ShadowError, ShadowOptions, Watcher};
use crate::store::StoreError;
use crate::transport::ConnectError;
use tokio::sync::oneshot;

// To the OfflineQueue.

/// The link is online; at most `window` QoS 1 and 2 messages may be in flight, and at most `qos2_window` of them
/// with QoS 2.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LinkOnline {
    pub(crate) window: usize,
    pub(crate) qos2_window: usize,
    /// Goes before everything that waits.
    pub(crate) announcement: Option<Box<Rendered>>,
}

/// The link is not online any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LinkOffline;

/// Messages ended.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub(crate) struct Outcomes {
    /// Tokens of those that were delivered and about which there is no more to say.
    pub(crate) delivered: Tokens,
    pub(crate) others: Vec<(u64, Outcome)>,
}

/// Ranges of tokens. Messages mostly end in the order of their tokens, so mostly there is one.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    first: Range<u64>,
    more: Vec<Range<u64>>,
}

impl Tokens {
    pub(crate) const fn is_empty(&self) -> bool {
        self.first.start >= self.first.end
    }

    fn add(&mut self, tokens: Range<u64>) {
        if self.is_empty() {
            self.first = tokens;
            return;
        }
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if last.end == tokens.start {
            last.end = tokens.end;
        } else {
            self.more.push(tokens);
        }
    }
}

impl IntoIterator for Tokens {
    type Item = Range<u64>;
    type IntoIter = std::iter::Chain<std::iter::Once<Range<u64>>, std::vec::IntoIter<Range<u64>>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.more)
    }
}

impl Outcomes {
    pub(crate) fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.others.is_empty()
    }

    pub(crate) fn note_delivered(&mut self, tokens: Range<u64>) {
        self.delivered.add(tokens);
    }
}

/// The session did not take these: it went offline before, or has no room for more. They go back to the front of the
/// queue, which waits for [`RoomFreed`] or [`LinkOnline`] before it tries again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Returned(pub(crate) Vec<Outgoing>);

/// The queue has what was [`Returned`]: what it hands on from now on knows of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ReturnedSeen;

/// The session has room again for what it did not take.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RoomFreed;

/// Takes nothing new, delivers what it holds until `deadline`, drops the rest, then ends the link. `farewell` is
/// published last.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub(crate) deadline: Duration,
    pub(crate) farewell: Option<Rendered>,
}

// To the Codec.

/// Messages to send, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PublishBatch {
    pub(crate) messages: Vec<Outgoing>,
    /// Their topics and payloads.
    pub(crate) bytes: usize,
    /// Those of QoS 2 that the store has: their tokens and the ids of their records.
    pub(crate) stored: Vec<(u64, StoredId)>,
}

/// The time that was asked for has come.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TimeCame;

/// The oldest commit of the codec that was under way has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Recorded(pub(crate) Result<(), StoreError>);

/// A byte stream is open.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TransportOpened;

/// Bytes from the server.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Received(pub(crate) Bytes);

/// So many bytes of this connection went into the socket in all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Written(pub(crate) u64);

/// The byte stream is gone; with what the server said if it refused the client's certificate.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TransportLost(pub(crate) Option<ConnectError>);

/// A block that was routed: the messages in it that still have an identifier are done with.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Settled(pub(crate) Block);

/// Consumers are done with messages. Sent for the first that gathers; those behind it are taken along.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AcknowledgeGathered(pub(crate) Arc<AckDesk>);

/// A command that is to be started was recorded, or could not be. To the CommandRouter, from the store.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CommandRecorded {
    pub(crate) id: CommandId,
    pub(crate) result: Result<(), StoreError>,
}

/// A command was answered, to be remembered for a sender that asks again. To the CommandRouter, from whoever answers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CommandAnswered {
    pub(crate) command: Command,
    pub(crate) record: CommandRecord,
    pub(crate) reply: CommandReply,
}

/// Adds subscriptions to the desired ones and a consumer for what they bring.
#[derive(Message)]
#[rtype(result = "Result<(), SubscribeError>")]
pub(crate) struct Subscribe {
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) consumer: Consumer,
}

/// Takes a consumer away, and filters that no other consumer needs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Unsubscribe {
    pub(crate) consumer: u64,
    pub(crate) told: Option<UnsubscribeAnswers>,
}

/// The filters of a consumer that left.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DropFilters {
    pub(crate) consumer: u64,
    pub(crate) filters: Vec<TopicFilter>,
    pub(crate) told: Option<UnsubscribeAnswers>,
}

/// Takes filters out of the session that no consumer of this link has.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct GiveUp {
    pub(crate) filters: Vec<TopicFilter>,
    pub(crate) told: UnsubscribeAnswers,
}

/// Told once every filter has its answer; dropped when the link ends before.
pub(crate) type UnsubscribeAnswers = oneshot::Sender<Vec<Unsubscribed>>;

/// What became of a filter that was to be unsubscribed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The filter.
    pub filter: TopicFilter,
    /// What became of it.
    pub answer: UnsubscribeAnswer,
}

/// The answer to one filter that was to be unsubscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnsubscribeAnswer {
    /// The server, or for a packet that it would not take this end, has answered: 0x00 unsubscribed, on MQTT 5 0x11 for a
    /// filter that the session did not have, or why not (0x80 and above). MQTT 3.1.1 knows success alone. A session that
    /// the server has lost has lost the filter with it, which is success too.
    Answered(ReasonCode),
    /// Another consumer of the link has the filter: the server was not asked.
    InUse,
}

impl UnsubscribeAnswer {
    /// Whether the server sends nothing for this filter any more.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Answered(code) if !code.is_error())
    }
}

/// The consumers hold as much as they may: read no more from the server, or read on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ReadingPaused(pub(crate) bool);

/// Leaves the server and ends the link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Leave(pub(crate) ReasonCode);

/// Leaves the server and connects anew at once, with fresh credentials.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Reconnect;

/// Makes sure that the Shadow of a document runs.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Lease>, ShadowError>")]
pub(crate) struct OpenShadow(pub(crate) DocumentId);

/// Publishes a request at QoS 0 now, ahead of what is queued, or never.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PublishRequest {
    pub(crate) message: Rendered,
    /// Its place among the link's requests.
    pub(crate) number: u64,
    /// It does not leave from then on.
    pub(crate) expires_at: Option<Instant>,
    /// Told when it is on its way, or why it never will be.
    pub(crate) sent: oneshot::Sender<Result<(), RequestUnsent>>,
}

/// Why a subscription was not taken or not granted. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The link ended.
    #[error("the link is stopped")]
    Stopped,
    /// The link holds as many filters as it may.
    #[error(
        "the link holds as many subscriptions as it may; unsubscribe first or raise `subscriptions_max`"
    )]
    TooMany,
    /// Somebody takes the commands for this device already: each command has one to answer it.
    #[error("the commands for {device} have a consumer already; drop it first")]
    CommandsTaken {
        /// The device.
        device: DeviceId,
    },
    /// The server refused the filter.
    #[error("the server refused the subscription to {filter}: {code}; check its access rules")]
    Refused {
        /// The filter.
        filter: TopicFilter,
        /// Why (0x80 on MQTT 3.1.1).
        code: ReasonCode,
    },
    /// The platform or this role on it has no such thing.
    #[error(transparent)]
    Dialect(#[from] paquebot_protocols::dialect::DialectError),
}

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// To the Connection.

/// Bytes for the server.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Transmit {
    pub(crate) bytes: BytesMut,
    /// Follows them: a payload that is written from where it lies. Empty, mostly.
    pub(crate) payload: Bytes,
    /// Tell the codec as these bytes get into the socket.
    pub(crate) wants_report: bool,
}

/// Every subscription is in force: the connection counts as good once it has lasted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SessionOnline;

/// Write what is left, close the stream, then do what follows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CloseTransport(pub(crate) AfterClose);

/// What follows a closed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterClose {
    /// Another attempt, when the back-off allows it.
    Retry(FailureClass),
    /// Another attempt at once: nothing failed.
    Reconnect,
    /// Nothing: the link ends.
    Stop,
}

// To the CommandRouter.

/// Messages to hand over, in order of arrival.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Deliver(pub(crate) Block);

/// A new consumer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AddConsumer(pub(crate) Consumer, pub(crate) Vec<TopicFilter>);

/// The server answered for a filter.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct FilterAnswered {
    pub(crate) filter: TopicFilter,
    pub(crate) result: Result<QoS, ReasonCode>,
}

// To a Shadow.

/// Asks for something about the document.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AskState {
    pub(crate) request: StateRequest,
    pub(crate) options: ShadowOptions,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Somebody wants deltas.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WatchDeltas(pub(crate) Watcher<StateDelta>);

/// Somebody wants changes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WatchChanges(pub(crate) Watcher<StateChange>);

/// A message on one of the document's feeds.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StateArrived(pub(crate) Incoming);

/// The link is online.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ShadowOnline;

/// The link is not online any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ShadowOffline {
    /// The server closed the connection without a word while nothing but requests was under way.
    pub(crate) is_blamed: bool,
    /// Where the link published last, if that was a request.
    pub(crate) last_request: Option<Topic>,
}

/// Somebody dropped a stream of the document or, with `is_last`, the last that used it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ShadowAbandoned {
    pub(crate) is_last: bool,
}

// To the CommandRouter, to a Shadow and, when one of them failed, to the Connection.

/// The link ends now.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown;
