//! Timers of the links of one worker: a list of links for each tick, and one sleeping task for all.
//!
//! A link is in it about once a keep alive. An entry is a pointer and is never taken out: a link that is woken too
//! early looks at its deadlines and asks again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::link::LinkContext;
use crate::message::TimeCame;

/// A deadline is found at most this late.
const TICK: Duration = Duration::from_millis(10);

/// How long the task sleeps when nothing is planned.
const NOTHING_PLANNED: Duration = Duration::from_secs(3600);

struct Timers {
    started: Instant,
    /// Links to wake, by the number of ticks since the start.
    due: BTreeMap<u64, Vec<Weak<LinkContext>>>,
    /// Tells the sleeping task that something is planned earlier than it knows.
    earlier: Rc<Notify>,
}

thread_local! {
    static TIMERS: RefCell<Timers> = RefCell::new(Timers {
        started: Instant::now(),
        due: BTreeMap::new(),
        earlier: Rc::new(Notify::new()),
    });
}

/// Sends [`TimeCame`] to the link's codec soon after `deadline`. To be called on the link's worker.
pub(crate) fn wake_at(deadline: Instant, link: &Arc<LinkContext>) {
    TIMERS.with_borrow_mut(|timers| {
        let tick = timers.tick_after(deadline);
        let is_first = timers
            .due
            .first_key_value()
            .is_none_or(|(first, _)| tick < *first);
        timers
            .due
            .entry(tick)
            .or_default()
            .push(Arc::downgrade(link));
        if is_first {
            timers.earlier.notify_one();
        }
    });
}

/// Runs the timers of this thread.
pub(crate) async fn run() {
    let earlier = TIMERS.with_borrow(|timers| Rc::clone(&timers.earlier));
    loop {
        let (due, next) = TIMERS.with_borrow_mut(|timers| timers.take_due(Instant::now()));
        for link in due {
            if let Some(link) = link.upgrade() {
                link.codec.do_send(TimeCame);
            }
        }
        let _ = tokio::time::timeout_at(next.into(), earlier.notified()).await;
    }
}

impl Timers {
    /// The first tick that begins at `deadline` or later.
    fn tick_after(&self, deadline: Instant) -> u64 {
        let after = deadline.saturating_duration_since(self.started);
        let ticks = after.as_nanos().div_ceil(TICK.as_nanos());
        ticks.try_into().unwrap_or(u64::MAX)
    }

    /// The links whose time has come, and when to look again.
    fn take_due(&mut self, now: Instant) -> (Vec<Weak<LinkContext>>, Instant) {
        let passed = now.saturating_duration_since(self.started).as_nanos() / TICK.as_nanos();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let mut due = Vec::new();
        while let Some(first) = self
            .due
            .first_entry()
            .filter(|entry| *entry.key() <= passed)
        {
            due.append(&mut first.remove());
        }
        let latest = now + NOTHING_PLANNED;
        let next = self.due.first_key_value().map_or(latest, |(tick, _)| {
            let ticks = u32::try_from(*tick).unwrap_or(u32::MAX);
            self.started
                .checked_add(TICK * ticks)
                .map_or(latest, |next| next.min(latest))
        });
        (due, next)
    }
}
