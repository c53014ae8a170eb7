//! The pure part of paquebot: what goes over the wire and what it means.
//!
//! This crate holds the MQTT 3.1.1 and 5 codec ([`mqtt`]), the client session state machine
//! ([`mqtt::session`]), the common device model ([`model`]) and the translators between that model
//! and each platform's topics and payloads ([`dialect`]).
//!
//! It never opens a socket, reads a clock, starts a thread, draws a random number or knows an actor:
//! bytes, commands and the present time go in; bytes, events and the next deadline come out. What is
//! random or timed is an argument.
//!
//! Read [`mqtt::packet`] first, then [`mqtt::session`], then [`dialect`].

pub mod backoff;
pub mod dialect;
pub mod document;
pub mod model;
pub mod mqtt;
pub mod shadow;
