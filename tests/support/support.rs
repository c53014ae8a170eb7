//! What the tests of this package share: real brokers, their command-line clients, certificates made
//! at test time, free ports and waiting with a deadline.
//!
//! A test file takes it in with
//!
//! ```ignore
//! #[path = "support/support.rs"]
//! mod support;
//! ```
//!
//! Nothing here depends on a fixed port, on a sleep or on a file outside a temporary folder. What a
//! test starts ends with it, whether the test passes or panics; on a panic the servers' logs are shown.
//!
//! A broker that is not installed is named on stderr and its tests pass, unless
//! `PAQUEBOT_REQUIRE_PEERS=1` (which `tests/run` sets) makes that a failure.
#![expect(
    dead_code,
    reason = "each test program compiles its own copy of this module and uses a part of it"
)]
#![expect(
    clippy::panic,
    reason = "a harness that cannot do its work has to fail the test that asked for it"
)]

pub(crate) mod certs;
pub(crate) mod client;
#[cfg(feature = "cli")]
pub(crate) mod cloud;
#[cfg(feature = "cli")]
pub(crate) mod exchange;
pub(crate) mod fleet;
pub(crate) mod judge;
pub(crate) mod mosquitto;
pub(crate) mod nats;
pub(crate) mod network;
pub(crate) mod ports;
#[cfg(feature = "cli")]
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod strace;
pub(crate) mod threads;
pub(crate) mod wait;
