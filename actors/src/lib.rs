//! The actors of a paquebot link, its transports and its metrics.
//!
//! A link is one MQTT session: a Connection, a Codec and an OfflineQueue that start with it, and a
//! CommandRouter that starts when something is to be received. They exchange typed messages over mailboxes
//! on one arbiter. Protocol rules are not here but in `paquebot-protocols`; an actor owns one resource and does
//! what needs a socket, a clock or a mailbox.
//!
//! Read [`link`](LinkHandle) for the guarantees, then the crate's `message.rs` for the wiring.

mod buffers;
mod codec;
mod command_router;
mod connection;
mod credentials;
mod event;
mod failures;
mod inbound;
mod link;
mod message;
mod metrics;
mod offline_queue;
mod pacer;
mod pause;
mod receipt;
mod shadow;
mod small_map;
pub mod store;
mod timers;
mod transport;
mod worker;

pub use credentials::Credentials;
pub use event::{EVENTS_HELD_MAX, LinkEvent, LinkState};
pub use failures::{Failure, FailureCause};
pub use inbound::{
    CommandRequest, Delivery, HandlerGuard, Inbox, MessageHandler, ReceivedRef, ReplyError,
};
pub use link::{
    BatchError, LinkHandle, LinkProfile, LinkSpec, RequestInFlight, RequestUnsent, SendError,
};
pub use message::{SubscribeError, UnsubscribeAnswer, Unsubscribed};
pub use metrics::{GROUPS_MAX, GroupMetrics, Metrics, Totals};
pub use offline_queue::{
    DurableQueue, DurableQueues, FleetRoom, OfflineLimit, OutboxConfig, Overflow, QueueEntry,
    QueueError, QueueLimits, QueueStatistics, RecordError, batch_storage,
};
pub use pacer::ConnectPacer;
pub use receipt::{BatchOutcome, BatchReceipt, DropReason, Outcome, Receipt};
pub use shadow::{ShadowError, ShadowHandle, ShadowOptions, Watch};
pub use transport::{
    ClientCertificate, ConnectError, ConnectTimeouts, Endpoint, EndpointError, HttpProxy,
    PipeConnector, ProxyError, Scheme, Stage, Target, TlsConfig, TlsError, TrustAnchors, Upgrade,
    UpgradeError, UpgradeProvider, UpgradeRequest, WEBSOCKET_PATH, WebSocketError, WebSocketTarget,
    check_client_certificate, check_identity, look_at_client_certificate, open_tls,
    pending_certificate,
};
pub use worker::{Worker, WorkerError};
