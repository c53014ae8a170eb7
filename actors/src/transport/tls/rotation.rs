//! Certificates and keys that change on disk: files are looked at before a handshake, and what changed is loaded.
//!
//! A file that cannot be used keeps what was loaded before in force; that is logged once, counted, and tried again when
//! the file changes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls::ClientConfig;

use super::TlsError;

/// Between two looks at the files of one configuration.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Loads a configuration from its files anew.
type Load = Box<dyn Fn() -> Result<Arc<ClientConfig>, TlsError> + Send + Sync>;

/// A configuration and the files it was loaded from.
pub(super) struct Rotating {
    files: Vec<PathBuf>,
    load: Load,
    /// What this one was derived from, which may change as well.
    base: Option<Arc<Rotating>>,
    state: Mutex<State>,
}

struct State {
    config: Arc<ClientConfig>,
    /// The files when it was loaded, or when they last could not be used.
    stamps: Vec<Stamp>,
    base: Option<Arc<ClientConfig>>,
    looked_at: Instant,
}

/// What tells one content of a file from the next.
type Stamp = Option<(SystemTime, u64)>;

/// How often changed files were loaded in this process, and how often they could not be used.
static RELOADS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Changed certificate files that were loaded, and those that could not be used, since the process started.
pub(crate) fn reloads() -> [u64; 2] {
    RELOADS
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed))
}

impl Rotating {
    pub(super) fn new(
        files: Vec<PathBuf>,
        base: Option<Arc<Self>>,
        load: Load,
    ) -> Result<Self, TlsError> {
        // Before loading: a change in between is seen at the next look.
        let stamps = stamps(&files);
        let config = load()?;
        let state = State {
            config,
            stamps,
            base: base.as_ref().map(|base| base.config()),
            looked_at: Instant::now(),
        };
        Ok(Self {
            files,
            load,
            base,
            state: Mutex::new(state),
        })
    }

    /// The configuration for a handshake now.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files.is_empty() || state.looked_at.elapsed() < LOOK_EVERY {
            return Arc::clone(&state.config);
        }
        state.looked_at = Instant::now();
        let base = self.base.as_ref().map(|base| base.config());
        let stamps = stamps(&self.files);
        let is_same = |one: &Arc<ClientConfig>, other: &Arc<ClientConfig>| Arc::ptr_eq(one, other);
        let has_same_base = match (&state.base, &base) {
            (Some(before), Some(now)) => is_same(before, now),
            _ => true,
        };
        if stamps == state.stamps && has_same_base {
            return Arc::clone(&state.config);
        }
        match (self.load)() {
            Ok(config) => {
                RELOADS[0].fetch_add(1, Ordering::Relaxed);
                tracing::info!(files = ?self.files, "certificate files changed and were loaded");
                state.config = config;
            }
            Err(error) => {
                RELOADS[1].fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "changed certificate files cannot be used; those before stay in force");
            }
        }
        state.stamps = stamps;
        state.base = base;
        Arc::clone(&state.config)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}
