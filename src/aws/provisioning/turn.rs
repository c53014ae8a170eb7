//! One device at a time over one claim link.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::link::Link;

/// The links over which a device is provisioned at the moment.
static TAKEN: Mutex<Vec<Link>> = Mutex::new(Vec::new());

/// Nobody else is provisioned over its link: answers name no request, so that each of two would take the certificate and
/// the key that came first.
pub(super) struct Turn(Link);

impl Turn {
    /// `None` while another one has it.
    pub(super) fn take(link: &Link) -> Option<Self> {
        let mut taken = taken();
        if taken.iter().any(|other| other.is(link)) {
            return None;
        }
        taken.push(link.clone());
        Some(Self(link.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        taken().retain(|other| !other.is(&self.0));
    }
}

fn taken() -> MutexGuard<'static, Vec<Link>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}
