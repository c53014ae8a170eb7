//! The codec from outside: what it writes it reads, at any cut, and what the specifications forbid it
//! refuses and never writes; two independent codecs agree.

#![expect(
    clippy::expect_used,
    reason = "a test that cannot go on fails by panicking"
)]

mod against_mqtt_protocol_core;
mod against_mqttrs;
mod arbitrary;
mod both_forms;
mod cut_anywhere;
// Tables with one rule a line.
#[rustfmt::skip]
mod malformed;
mod never_written;
mod round_trip;
