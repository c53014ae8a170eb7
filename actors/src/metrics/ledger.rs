//! Changes of several counters as one step for whoever reads all of them.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Keeps the terms of accepted = delivered + rejected + expired + dropped + held together: workers enter a
/// message in several counters side by side, and a reader sees either all of an entry or nothing of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<RwLock<()>>);

impl Ledger {
    /// Held while a few counters change, and for nothing else: entries of other threads go on.
    pub(super) fn entry(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while the counters are read: no entry is half made.
    pub(super) fn balance(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
