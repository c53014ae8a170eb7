//! How many requests a thing's shadows take.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

/// The requests of the last second, a thing each.
#[derive(Debug, Default)]
pub(crate) struct RequestRates {
    /// Never more than the limit for a thing; a thing is forgotten when others come and its second is over.
    recent: HashMap<String, VecDeque<SystemTime>>,
}

/// Things whose rate is kept before those that are silent are looked for.
const THINGS_BEFORE_CLEANING: usize = 4096;

impl RequestRates {
    /// Counts a request; `false` when it is one too many, and then it does not count.
    pub(crate) fn admit(&mut self, thing: &str, per_second_max: u32, now: SystemTime) -> bool {
        if self.recent.len() >= THINGS_BEFORE_CLEANING && !self.recent.contains_key(thing) {
            self.recent
                .retain(|_, times| times.back().is_some_and(|time| is_recent(*time, now)));
        }
        let times = self.recent.entry(thing.to_owned()).or_default();
        while times.front().is_some_and(|time| !is_recent(*time, now)) {
            times.pop_front();
        }
        if times.len() >= usize::try_from(per_second_max).unwrap_or(usize::MAX) {
            return false;
        }
        times.push_back(now);
        true
    }
}

fn is_recent(time: SystemTime, now: SystemTime) -> bool {
    // A clock that was set back makes a time lie ahead; that second is over as well.
    now.duration_since(time)
        .is_ok_and(|age| age < Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_too_many_in_a_second_is_refused_and_the_next_second_is_free() {
        let mut rates = RequestRates::default();
        let start = SystemTime::UNIX_EPOCH;
        for index in 0..3 {
            assert!(rates.admit("a", 3, start + Duration::from_millis(index)));
        }
        let soon = start + Duration::from_millis(999);
        assert!(!rates.admit("a", 3, soon));
        assert!(rates.admit("b", 3, soon), "another thing has its own rate");
        assert!(rates.admit("a", 3, start + Duration::from_secs(1)));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_lock_a_thing_out() {
        let mut rates = RequestRates::default();
        let later = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        assert!(rates.admit("a", 1, later));
        assert!(rates.admit("a", 1, SystemTime::UNIX_EPOCH));
    }
}
