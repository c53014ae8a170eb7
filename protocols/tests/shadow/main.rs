//! One document of state and the requests about it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

mod any_course;
mod course;
mod deltas;
mod requests;
mod silent_closes;
mod subscriptions;
mod turns;
