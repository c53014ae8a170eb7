//! What the queue does by the clock: the drain rate and the end of messages' lives.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix::AsyncContext as _;

use super::{OfflineQueue, Waiting};
use crate::link::Context;
use crate::receipt::Outcome;

/// Shortest time between two searches for expired messages.
const EXPIRY_CHECK: Duration = Duration::from_millis(500);

impl OfflineQueue {
    pub(super) fn take_allowance(&mut self, now: Instant) -> bool {
        let (Some(pacing), Some(rate)) = (&mut self.pacing, self.link.profile.outbox.drain_rate)
        else {
            return true;
        };
        let elapsed = now
            .saturating_duration_since(pacing.refilled_at)
            .as_secs_f64();
        pacing.allowance = (pacing.allowance + elapsed * rate).min(rate.max(1.0));
        pacing.refilled_at = now;
        if pacing.allowance < 1.0 {
            return false;
        }
        pacing.allowance -= 1.0;
        true
    }

    /// Wakes the pump as often as the drain rate needs, at most every 10 ms, until the backlog is gone.
    pub(super) fn pace(&mut self, rate: f64, ctx: &mut Context<Self>) {
        let period = Duration::try_from_secs_f64(1.0 / rate)
            .unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_millis(10));
        let timer = ctx.run_later(period, move |queue, ctx| {
            queue.pace_timer = None;
            queue.pump(ctx);
            if queue.pacing.is_some() && queue.window.is_some() {
                queue.pace(rate, ctx);
            }
        });
        if let Some(previous) = self.pace_timer.replace(timer) {
            ctx.cancel_future(previous);
        }
    }

    /// Makes sure that what expires at `first` is found soon after.
    pub(super) fn schedule_expiry_check(
        &mut self,
        first: Option<Instant>,
        ctx: &mut Context<Self>,
    ) {
        let Some(first) = first else {
            return;
        };
        let due = first.max(Instant::now() + EXPIRY_CHECK);
        match self.expiry_check {
            Some((planned, _)) if planned <= due => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = due.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |queue, ctx| {
            queue.expiry_check = None;
            queue.expire_waiting();
            let first = queue.waiting.iter().filter_map(|s| s.expires_at).min();
            queue.schedule_expiry_check(first, ctx);
            queue.pump(ctx);
        });
        self.expiry_check = Some((due, handle));
    }

    pub(super) fn expire_waiting(&mut self) {
        let now = Instant::now();
        let is_expired = |s: &Waiting| s.expires_at.is_some_and(|at| at <= now);
        if !self.waiting.iter().any(is_expired) {
            return;
        }
        let (expired, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(is_expired);
        self.waiting = kept;
        for submission in expired {
            self.note_taken(submission.size());
            self.end_waiting(submission, Outcome::Expired);
        }
    }
}
