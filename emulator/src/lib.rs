//! An embedded MQTT 3.1.1 and 5 server for tests and demos, with faults on demand.
//!
//! It listens on TCP, TLS and in-memory pipes, speaks both versions on each, and does what a server has to:
//! sessions, QoS 0 to 2, retained messages, wills, wildcards, shared subscriptions, flow control. On top of
//! that a test can make it misbehave ([`Faults`]) and look inside ([`Broker::stats`], [`Broker::watch`]).
//!
//! Before any other server, [`Proxy`] does what a bad network does: it cuts, stalls, slows down and garbles.
//!
//! [`aws`] makes AWS IoT Core of it, with its rules, ports and services.
//!
//! It is not a server for production: it keeps everything in memory and binds loopback addresses only,
//! unless told otherwise.
//!
//! ```
//! use std::time::Duration;
//! use paquebot_emulator::Broker;
//! use paquebot_emulator::mqtt::{QoS, Topic};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
//! println!("listening on {:?}", broker.tcp_address());
//! broker.publish(Topic::new("news")?, "hello", QoS::AtLeastOnce, true);
//! assert_eq!(broker.stats().retained, 1);
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! To read the code, begin with `state.rs`: it is the server, without input and output. `connection.rs`
//! runs one client's socket, `faults.rs` has the verbs.

pub mod aws;
mod broker;
mod builder;
mod connection;
mod faults;
mod first_bytes;
mod holds;
mod limits;
mod link;
mod listener;
mod message;
mod outbox;
mod pace;
mod policy;
mod proxy;
mod record;
mod remarks;
mod retained;
mod service;
mod session;
mod sessions;
mod shared;
mod state;
mod stats;
mod subscriptions;
mod thread;
mod tls;
mod watch;
mod websocket;

pub use broker::{Broker, PIPE_BYTES_MAX, WaitTimeout};
pub use builder::{Builder, StartError};
pub use faults::{Fault, Faults, Target};
pub use holds::Ack;
pub use limits::Limits;
pub use paquebot_protocols::mqtt;
pub use policy::{AccessTable, AllowAll, Client, Decision, Grant, Login, Peer, Policy, Verdict};
pub use proxy::{Admission, Conditions, Ending, Plan, Proxy, ProxyCounts, Toward};
pub use record::{RECORDING_BACKLOG_MAX, RecordedPacket, Recording};
pub use remarks::Explanation;
pub use stats::{ClientInfo, Stats};
pub use thread::BrokerThread;
pub use tls::{CertificateAuthority, Identity, ServerTls, TlsError};
pub use watch::{WATCH_BACKLOG_MAX, Watch, WatchedMessage};
