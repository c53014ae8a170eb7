//! `paquebot pub` and `paquebot sub` as users and their scripts see them: what is printed, when they end and with which
//! exit status, and what they say.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

#[path = "../support/support.rs"]
mod support;

mod aws;
mod brokers;
mod embedded;
mod messages;
mod peers;
mod unsubscribing;
