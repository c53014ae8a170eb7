//! The client session from outside: packets and times in, decoded bytes and events out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod any_course;
mod authenticating;
mod connecting;
mod disk;
mod expiring;
mod keeping_alive;
mod leaving;
mod link;
mod packet_identifiers;
mod poison;
mod publishing;
mod receiving;
mod restarting;
mod resuming;
mod server_limits;
mod subscribing;
mod topic_aliases;
