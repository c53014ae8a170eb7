//! The actors of a link.
