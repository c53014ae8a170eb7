//! What a bad network, a bad server and a bad day do to links, judged by a Mosquitto and a `mosquitto_sub`.
//!
//! Each course of a fault is a function of `course.rs` with its measures as arguments: here they are small, and
//! `tests/soak` runs the same ones for long.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

#[path = "../support/support.rs"]
mod support;

mod breaks;
#[cfg(feature = "cli")]
mod clock;
mod confined;
mod course;
mod cuts;
mod descriptors;
mod disk_full;
mod garbled;
mod handlers;
#[cfg(feature = "cli")]
mod names;
mod partition;
mod pressure;
mod rotation;
#[cfg(feature = "cli")]
mod secrets;
mod silence;
#[cfg(target_os = "linux")]
mod synced;

use support::mosquitto::{Mosquitto, Persistence};

/// A broker that keeps whatever it is given. `None` when there is none to be had: the test is to return.
async fn mosquitto(persistence: Persistence) -> Option<Mosquitto> {
    let setup = course::broker(persistence);
    support::client::off_the_runtime(|| setup.start()).await
}
