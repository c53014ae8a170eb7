//! The common device model.
