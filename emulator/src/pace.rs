//! How fast one client may publish.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;
use crate::remarks::Explanation;

/// Counts what a client publishes against what its limits allow. It may use the allowance of one second at
/// once; what is beyond it is a debt, and the client is not read from until time has paid it.
#[derive(Debug)]
pub(crate) struct Pace {
    messages: Bucket,
    bytes: Bucket,
}

impl Pace {
    /// `None` without limits.
    pub(crate) fn new(limits: &Limits, now: Instant) -> Option<Self> {
        let messages = limits.publishes_per_second_max;
        let bytes = limits.publish_bytes_per_second_max;
        if messages.is_none() && bytes.is_none() {
            return None;
        }
        Some(Self {
            messages: Bucket::new(messages, now),
            bytes: Bucket::new(bytes, now),
        })
    }

    pub(crate) fn count(&mut self, bytes: usize, now: Instant) {
        self.messages.take(1.0, now);
        // An f64 holds every length of a packet.
        self.bytes.take(bytes as f64, now);
    }

    /// How long the client has to wait.
    pub(crate) fn debt(&self) -> Option<Duration> {
        let debt = self.messages.debt().max(self.bytes.debt());
        (!debt.is_zero()).then_some(debt)
    }
}

/// Client identifiers beyond which those that may come again are forgotten.
const CONNECTS_KEPT: usize = 4096;

/// Holds each client identifier to a time between two CONNECTs.
#[derive(Debug)]
pub(crate) struct ConnectPace {
    interval: Option<Duration>,
    last: HashMap<String, Instant>,
    /// How many there may be before it is cleaned up next.
    kept_max: usize,
}

impl ConnectPace {
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            last: HashMap::new(),
            kept_max: CONNECTS_KEPT,
        }
    }

    /// Counts a CONNECT.
    ///
    /// # Errors
    /// It comes too soon, and is not counted.
    pub(crate) fn admit(&mut self, client_id: &str, now: Instant) -> Result<(), Explanation> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let since = |last: &Instant| now.saturating_duration_since(*last);
        if let Some(passed) = self.last.get(client_id).map(since)
            && passed < interval
        {
            return Err(Explanation::new(
                "time between CONNECTs of a client identifier (AWS quota: 1 a second)",
                format!(
                    "its last one came {} ms ago, of at least {} ms",
                    passed.as_millis(),
                    interval.as_millis()
                ),
            ));
        }
        if self.last.len() >= self.kept_max {
            self.last.retain(|_, last| since(last) < interval);
            self.kept_max = CONNECTS_KEPT.max(self.last.len() * 2);
        }
        self.last.insert(client_id.to_owned(), now);
        Ok(())
    }
}

#[derive(Debug)]
struct Bucket {
    per_second: Option<f64>,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: Option<u32>, now: Instant) -> Self {
        // A rate of 0 would never be paid.
        let per_second = per_second.map(|rate| f64::from(rate.max(1)));
        Self {
            per_second,
            left: per_second.unwrap_or(0.0),
            at: now,
        }
    }

    fn take(&mut self, amount: f64, now: Instant) {
        if let Some(rate) = self.per_second {
            let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
            self.left = (self.left + gained).min(rate) - amount;
            self.at = now;
        }
    }

    fn debt(&self) -> Duration {
        match self.per_second {
            Some(rate) if self.left < 0.0 => Duration::from_secs_f64(-self.left / rate),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(messages: Option<u32>, bytes: Option<u32>, now: Instant) -> Option<Pace> {
        let limits = Limits {
            publishes_per_second_max: messages,
            publish_bytes_per_second_max: bytes,
            ..Limits::default()
        };
        Pace::new(&limits, now)
    }

    #[test]
    fn a_second_may_be_used_at_once_and_the_rest_is_waited_for() {
        let start = Instant::now();
        let mut pace = pace(Some(10), None, start).unwrap();
        for _ in 0..10 {
            pace.count(1_000_000, start);
        }
        assert_eq!(pace.debt(), None);
        pace.count(0, start);
        assert_eq!(pace.debt(), Some(Duration::from_millis(100)));
        let later = start + Duration::from_millis(200);
        pace.count(0, later);
        assert_eq!(pace.debt(), None);
        let much_later = start + Duration::from_secs(100);
        for _ in 0..11 {
            pace.count(0, much_later);
        }
        assert_eq!(pace.debt(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_client_identifier_may_come_again_after_the_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut pace = ConnectPace::new(Some(second));
        assert!(pace.admit("a", start).is_ok());
        assert!(pace.admit("b", start).is_ok());
        let early = start + Duration::from_millis(999);
        assert!(pace.admit("a", early).is_err());
        // What was refused does not count.
        assert!(pace.admit("a", start + second).is_ok());
        assert!(pace.admit("a", start + second).is_err());
        assert!(ConnectPace::new(None).admit("a", start).is_ok());
        let later = start + 3 * second;
        for number in 0..2 * CONNECTS_KEPT {
            let now = later + second * u32::try_from(number).unwrap();
            assert!(pace.admit(&number.to_string(), now).is_ok());
        }
        assert!(pace.last.len() <= CONNECTS_KEPT, "{}", pace.last.len());
    }

    #[test]
    fn bytes_count_on_their_own() {
        let start = Instant::now();
        assert!(pace(None, None, start).is_none());
        let mut pace = pace(None, Some(1000), start).unwrap();
        pace.count(1500, start);
        assert_eq!(pace.debt(), Some(Duration::from_millis(500)));
    }
}
