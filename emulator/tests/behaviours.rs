//! The server's behaviours, a file each.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails the test"
)]

mod aws_entrances;
mod aws_hostile_input;
mod aws_jobs;
mod aws_lifecycle;
mod aws_remarks;
mod aws_rules;
mod aws_shadow;
mod concurrency;
mod connecting;
mod faults;
mod foreign_client;
mod hostile_input;
mod keep_alive;
mod listening;
mod observation;
mod packet_limits;
mod proxy;
mod quality_of_service;
mod retained_messages;
mod sessions;
mod subscriptions;
mod support;
mod wills;
