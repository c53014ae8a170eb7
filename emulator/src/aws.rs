//! An AWS IoT Core of one's own.

pub mod services;
