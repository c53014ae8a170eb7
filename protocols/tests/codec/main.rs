//! The codec from outside: what it writes it reads, at any cut, and what the specifications forbid it
//! refuses; two independent codecs agree.

#![expect(
    clippy::expect_used,
    reason = "a test that cannot go on fails by panicking"
)]

mod arbitrary;
mod cut_anywhere;
mod round_trip;
