//! When which message is due.

use std::time::{Duration, Instant};

/// The times of one run, the same for all its links.
///
/// In an open loop message `k` of the run is due `k / rate` after the start, and link `k % links` sends
/// it, whatever became of the messages before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    /// What is due, or in a closed loop sent, from here on counts.
    pub(super) counted_from: Instant,
    /// Nothing is due from here on.
    pub(super) end: Option<Instant>,
    /// Messages a second of all links together; `None` is a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) links: u32,
    /// Most messages that count, of all links together.
    pub(super) limit: Option<u64>,
}

impl Schedule {
    /// When the message `number`, from 0, of link `index` is due; `None` in a closed loop.
    pub(super) fn due(&self, index: u32, number: u64) -> Option<Instant> {
        let rate = self.rate?;
        let place = number
            .saturating_mul(self.links.into())
            .saturating_add(index.into());
        // A time too far away to be shown is past the end of any run.
        let after = Duration::try_from_secs_f64(place as f64 / rate).unwrap_or(Duration::MAX);
        let due = self.start.checked_add(after);
        Some(due.unwrap_or_else(|| self.start + Duration::from_secs(u32::MAX.into())))
    }

    /// How many messages of link `index` are due before `at`; 0 in a closed loop.
    pub(super) fn due_before(&self, index: u32, at: Instant) -> u64 {
        let Some(rate) = self.rate else {
            return 0;
        };
        let passed = at.saturating_duration_since(self.start).as_secs_f64();
        let mut number = (passed * rate / f64::from(self.links.max(1))) as u64;
        // The division may be off by one round of the links.
        while self.due(index, number).is_some_and(|due| due < at) {
            number += 1;
        }
        while number > 0 && self.due(index, number - 1).is_some_and(|due| due >= at) {
            number -= 1;
        }
        number
    }

    /// How many of the messages that count link `index` may send.
    pub(super) fn share(&self, index: u32) -> u64 {
        let Some(limit) = self.limit else {
            return u64::MAX;
        };
        let links = u64::from(self.links.max(1));
        limit / links + u64::from(u64::from(index) < limit % links)
    }

    pub(super) fn counts(&self, at: Instant) -> bool {
        at >= self.counted_from
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: Option<f64>, links: u32, limit: Option<u64>) -> Schedule {
        let start = Instant::now();
        Schedule {
            start,
            counted_from: start,
            end: None,
            rate,
            links,
            limit,
        }
    }

    #[test]
    fn links_take_turns_at_the_rate_of_all() {
        let schedule = schedule(Some(10.0), 2, None);
        let after = |index, number| {
            let due = schedule.due(index, number).unwrap();
            (due - schedule.start).as_millis()
        };
        assert_eq!(
            [after(0, 0), after(1, 0), after(0, 1), after(1, 1)],
            [0, 100, 200, 300]
        );
        assert_eq!(self::schedule(None, 2, None).due(0, 0), None);
    }

    #[test]
    fn what_is_due_before_a_time_is_counted_exactly() {
        for (rate, links) in [(3.0, 1), (1000.0, 7), (0.1, 2), (1e6, 3)] {
            let schedule = schedule(Some(rate), links, None);
            for index in [0, links - 1] {
                for number in [0, 1, 2, 1000] {
                    let due = schedule.due(index, number).unwrap();
                    assert_eq!(schedule.due_before(index, due), number, "{rate} {links}");
                    let after = due + Duration::from_nanos(1);
                    assert_eq!(
                        schedule.due_before(index, after),
                        number + 1,
                        "{rate} {links}"
                    );
                }
            }
        }
    }

    #[test]
    fn shares_add_up_to_the_limit() {
        for limit in [0, 1, 6, 7, 8, 1_000_003] {
            let schedule = schedule(None, 7, Some(limit));
            assert_eq!((0..7).map(|n| schedule.share(n)).sum::<u64>(), limit);
        }
    }

    #[test]
    fn a_time_beyond_the_clock_is_far_away_and_no_failure() {
        let schedule = schedule(Some(f64::MIN_POSITIVE), 1, None);
        assert!(schedule.due(0, u64::MAX).unwrap() > schedule.start + Duration::from_secs(1 << 30));
    }
}
