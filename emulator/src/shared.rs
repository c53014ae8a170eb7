//! What all tasks and handles of one server share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::limits::Limits;
use crate::remarks::Remarks;
use crate::state::State;
use crate::stats::{ByteCounters, Stats};

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) bytes: ByteCounters,
    pub(crate) runtime: Handle,
    pub(crate) remarks: Arc<Remarks>,
    state: Mutex<State>,
    /// Told after each turn, for those who wait for the counters.
    changed: Notify,
    changed_blocking: Condvar,
    /// Told when the next timer is earlier than before.
    earlier_timer: Notify,
    accepting: watch::Sender<bool>,
    /// Every task holds a receiver for as long as it lives, so a stop can wait for them.
    stopping: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        state: State,
        remarks: Arc<Remarks>,
        runtime: Handle,
    ) -> Self {
        Self {
            limits,
            bytes: ByteCounters::default(),
            runtime,
            remarks,
            state: Mutex::new(state),
            changed: Notify::new(),
            changed_blocking: Condvar::new(),
            earlier_timer: Notify::new(),
            accepting: watch::Sender::new(true),
            stopping: watch::Sender::new(false),
        }
    }

    /// One step of the state.
    pub(crate) fn turn<R>(&self, step: impl FnOnce(&mut State, Instant) -> R) -> R {
        let now = Instant::now();
        let (result, is_earlier) = {
            let mut state = self.lock();
            let before = state.poll_timeout();
            let result = step(&mut state, now);
            let after = state.poll_timeout();
            (
                result,
                after.is_some_and(|after| before.is_none_or(|before| after < before)),
            )
        };
        if is_earlier {
            self.earlier_timer.notify_one();
        }
        self.changed.notify_waiters();
        self.changed_blocking.notify_all();
        result
    }

    /// A look at the state that changes nothing.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock())
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.look(State::stats);
        self.bytes.fill(&mut stats);
        stats
    }

    /// Which restart a connection accepted now belongs to; `None` while none is to be accepted.
    pub(crate) fn admission_epoch(&self) -> Option<u64> {
        if self.is_stopping() {
            return None;
        }
        let now = Instant::now();
        self.look(|state| (!state.is_down(now)).then(|| state.epoch()))
    }

    /// # Errors
    /// The counters as they were when the time was up.
    pub(crate) async fn wait_for(
        &self,
        condition: impl Fn(&Stats) -> bool,
        timeout: Duration,
    ) -> Result<Stats, Box<Stats>> {
        let deadline = Instant::now() + timeout;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change in between is missed.
            changed.as_mut().enable();
            let stats = self.stats();
            if condition(&stats) {
                return Ok(stats);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(Box::new(stats));
            }
        }
    }

    /// The same for a thread.
    pub(crate) fn wait_for_blocking(
        &self,
        condition: impl Fn(&Stats) -> bool,
        timeout: Duration,
    ) -> Result<Stats, Box<Stats>> {
        let started = std::time::Instant::now();
        let mut state = self.lock();
        loop {
            let mut stats = state.stats();
            self.bytes.fill(&mut stats);
            if condition(&stats) {
                return Ok(stats);
            }
            let Some(left) = timeout.checked_sub(started.elapsed()) else {
                return Err(Box::new(stats));
            };
            state = match self.changed_blocking.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    pub(crate) fn set_accepting(&self, accepting: bool) {
        self.accepting.send_replace(accepting);
    }

    pub(crate) fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.subscribe()
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Closes connections and listeners; every task ends on its own after this.
    pub(crate) fn begin_stop(&self) {
        if !self.stopping.send_replace(true) {
            self.turn(State::shut_down);
        }
    }

    /// Waits until every task has ended.
    pub(crate) async fn stopped(&self) {
        self.stopping.closed().await;
    }

    /// Runs the state's timers until the server stops.
    pub(crate) async fn run_timers(&self, mut stopping: watch::Receiver<bool>) {
        while !*stopping.borrow_and_update() {
            let next = self.look(State::poll_timeout);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.turn(State::handle_timeout),
                () = self.earlier_timer.notified() => {}
                _ = stopping.changed() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
