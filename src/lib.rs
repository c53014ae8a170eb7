//! paquebot: one server process that is a fleet of MQTT devices.
//!
//! Three nouns: a [`Fleet`] runs links on worker threads of its own; a [`Link`] is one MQTT session that
//! comes back by itself; a [`Device`] sends telemetry, reports state and answers commands over it. The same
//! calls work on every platform; what a platform has not is an error before anything is sent.
//!
//! The crate needs no runtime of its own in your program: start a fleet from a plain `main`, from
//! `#[tokio::main]` or from `#[actix::main]`. Handles are `Clone + Send + Sync`; their futures and streams run
//! on any executor.
//!
//! ```
//! # use paquebot_emulator::Broker;
//! use paquebot::{Fleet, Telemetry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
//! # let url = format!("mqtt://{}", broker.tcp_address().ok_or("no listener")?);
//! let fleet = Fleet::builder().start()?;
//! let meters = fleet.group("meters").endpoint(&url).build()?;
//! let link = meters.device("meter-000001")?.start()?;
//!
//! let receipt = link.device().send(&Telemetry::json(&[230.1, 229.8])?).await?;
//! assert!(receipt.await.is_delivered());
//!
//! let totals = fleet.drain(std::time::Duration::from_secs(5)).await;
//! assert!(totals.is_balanced());
//! # broker.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to read
//! [`Link`] for what is promised to a message, [`GroupBuilder`] for settings and their defaults,
//! [`dialect::Dialect`] to teach paquebot a platform of your own.

mod application;
mod device;
mod fleet;
mod group;
mod handler;
mod link;
mod publish;
mod shadow;
mod streams;

#[cfg(feature = "admin")]
pub mod admin;
pub mod aws;
#[cfg(feature = "cli")]
pub mod fleet_file;
#[cfg(feature = "cli")]
pub mod template;

pub use application::Application;
pub use device::Device;
pub use fleet::{Fleet, FleetBuilder, StartError};
pub use group::{Group, GroupBuilder, GroupError, LinkBuilder};
pub use handler::MessageRef;
pub use link::{Link, LinkDown};
pub use paquebot_actors::store::{self, Durability, StoreError};
pub use paquebot_actors::{
    BatchError, BatchOutcome, BatchReceipt, ClientCertificate, CommandRequest, ConnectError,
    ConnectTimeouts, Credentials, DropReason, Endpoint, EndpointError, Failure, FailureCause,
    HandlerGuard, HttpProxy, LinkEvent, LinkState, Metrics, OfflineLimit, Outcome, Overflow,
    PipeConnector, ProxyError, QueueEntry, QueueError, QueueLimits, QueueStatistics, Receipt,
    RecordError, ReplyError, SendError, ShadowError, SubscribeError, TlsError, Totals,
    TrustAnchors, UnsubscribeAnswer, Unsubscribed, Upgrade, UpgradeError, UpgradeProvider,
    UpgradeRequest, WebSocketError,
};
pub use paquebot_protocols::backoff::{BackoffConfig, Jitter};
pub use paquebot_protocols::dialect::state::{
    Rejection, StateChange, StateDelta, StateDocument, StateUpdate,
};
pub use paquebot_protocols::model::{
    Command, CommandReply, CommandStatus, DeviceId, DeviceIdError, Platform, ReplyAddress, Role,
    StatePatch, Telemetry,
};
pub use paquebot_protocols::{dialect, mqtt};
pub use publish::{Batch, PreparedTopic, Publish};
pub use shadow::{Deltas, Documents, MODIFY_ATTEMPTS_MAX, Shadow};
pub use streams::{Commands, DesiredStates, Events, Message, Replies, Subscription, TelemetryFeed};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
