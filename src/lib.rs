//! placeholder
#[cfg(feature = "cli")]
pub mod template;
