//! AWS IoT Core.

pub mod signature;
