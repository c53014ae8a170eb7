//! What the queue does by the clock: the drain rate and the end of messages' lives.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix::AsyncContext as _;

use super::{OfflineQueue, Waiting};
use crate::link::Context;
use crate::receipt::Outcome;

/// Shortest time between two searches for expired messages.
const EXPIRY_CHECK: Duration = Duration::from_millis(500);

/// How many messages may go now, refilled as time passes.
pub(super) struct Pacing {
    rate: f64,
    /// What gathers at the most.
    burst: f64,
    allowance: f64,
    refilled_at: Instant,
    /// Messages from here on in the order are not paced.
    until: u64,
}

impl Pacing {
    fn refill(&mut self, now: Instant) -> bool {
        let elapsed = now
            .saturating_duration_since(self.refilled_at)
            .as_secs_f64();
        self.allowance = (self.allowance + elapsed * self.rate).min(self.burst);
        self.refilled_at = now;
        self.allowance >= 1.0
    }
}

impl OfflineQueue {
    /// The link is online: what waits until now drains at the drain rate, what comes later is not held back by it once
    /// that is gone. Otherwise a link that is given more than the rate would drop for ever what it could send.
    pub(super) fn begin_pacing(&mut self) {
        let outbox = &self.link.profile.outbox;
        if let Some(rate) = outbox.drain_rate.filter(|_| !self.waiting.is_empty()) {
            self.pacing = Some(Box::new(Pacing {
                rate,
                burst: rate.max(1.0),
                allowance: 1.0,
                refilled_at: Instant::now(),
                until: self.next_order,
            }));
        }
        if let Some(rate) = outbox.send_rate.filter(|_| self.send_pacing.is_none()) {
            // A server counts by the second, so little more than a second's worth may go in one.
            let burst = (rate / 10.0).max(1.0);
            self.send_pacing = Some(Box::new(Pacing {
                rate,
                burst,
                allowance: burst,
                refilled_at: Instant::now(),
                until: u64::MAX,
            }));
        }
    }

    /// Whether the rates let the message with this place in the order go now; it counts as gone then.
    #[inline]
    pub(super) fn take_allowance(&mut self, order: u64, now: Instant) -> bool {
        // Most links have no rates, and are asked for every message.
        (self.pacing.is_none() && self.send_pacing.is_none()) || self.take_paced(order, now)
    }

    fn take_paced(&mut self, order: u64, now: Instant) -> bool {
        if self
            .pacing
            .as_ref()
            .is_some_and(|pacing| order >= pacing.until)
        {
            self.pacing = None;
        }
        let (drain, send) = (&mut self.pacing, &mut self.send_pacing);
        let mut paced = [drain.as_deref_mut(), send.as_deref_mut()];
        let mut both = paced.iter_mut().flatten();
        if !both.all(|pacing| pacing.refill(now)) {
            return false;
        }
        for pacing in paced.into_iter().flatten() {
            pacing.allowance -= 1.0;
        }
        true
    }

    /// Whether what is admitted now counts towards the limit of what waits offline.
    pub(super) const fn is_held_back(&self) -> bool {
        self.window.is_none() || self.pacing.is_some()
    }

    /// Wakes the pump when the next message may go, at most every 10 ms.
    pub(super) fn wake_for_allowance(&mut self, ctx: &mut Context<Self>) {
        if self.pace_timer.is_some() {
            return;
        }
        let paced = [&self.pacing, &self.send_pacing];
        let rates = paced.into_iter().flatten().map(|pacing| pacing.rate);
        let period = Duration::try_from_secs_f64(1.0 / rates.fold(f64::INFINITY, f64::min))
            .unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_millis(10));
        self.pace_timer = Some(ctx.run_later(period, |queue, ctx| {
            queue.pace_timer = None;
            queue.pump(ctx);
        }));
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
