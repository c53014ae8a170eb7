//! The keep alive of one connection (MQTT 5 §3.1.2.10).

use std::time::{Duration, Instant};

/// The timers of a connection whose keep alive is on.
///
/// Two timers lead to a PINGREQ: nothing *sent* for a keep alive, which is what the server demands
/// `[MQTT-3.1.2-20]`, and nothing *heard back* for a keep alive, which a client that only publishes
/// would never notice. Messages of the server's own are not heard back: a server that goes on sending and
/// reads nothing is as dead as a silent one, also while what is sent still fits the buffers on the way. Once
/// PINGREQ is due only PINGRESP counts.
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval: Duration,
    answer_timeout: Duration,
    last_sent: Instant,
    last_heard_back: Instant,
    answer_due: Option<Instant>,
    /// This end does not read, so no answer can be seen.
    paused: bool,
}

/// A longer one, which means "never", could not be added to an [`Instant`]; that an answer is awaited
/// would be forgotten with it. 136 years.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(u32::MAX as u64);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// PINGRESP did not come in time.
    Dead,
}

impl KeepAlive {
    /// `None` for an interval of 0: keep alive is off.
    pub(super) fn new(
        now: Instant,
        interval: Duration,
        answer_timeout: Option<Duration>,
    ) -> Option<Self> {
        (!interval.is_zero()).then(|| Self {
            interval,
            answer_timeout: answer_timeout
                .unwrap_or(interval / 2)
                .min(ANSWER_TIMEOUT_MAX),
            last_sent: now,
            last_heard_back: now,
            answer_due: None,
            paused: false,
        })
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// The server answered something.
    pub(super) fn heard_back(&mut self, now: Instant) {
        self.last_heard_back = now;
    }

    pub(super) fn answered(&mut self) {
        self.answer_due = None;
    }

    pub(super) fn set_paused(&mut self, now: Instant, paused: bool) {
        if self.paused && !paused {
            self.last_heard_back = now;
            if self.answer_due.is_some() {
                self.answer_due = now.checked_add(self.answer_timeout);
            }
        }
        self.paused = paused;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.answer_due.filter(|_| !self.paused) {
            Some(due) => Some(self.ping_due().map_or(due, |ping| ping.min(due))),
            None => self.ping_due(),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Due {
        if !self.paused && self.answer_due.is_some_and(|due| due <= now) {
            return Due::Dead;
        }
        if self.ping_due().is_none_or(|due| due > now) {
            return Due::Nothing;
        }
        // Counted as sent from here on; when it cannot be written the answer's deadline decides.
        self.last_sent = now;
        if self.answer_due.is_none() {
            self.answer_due = now.checked_add(self.answer_timeout);
        }
        Due::Ping
    }

    fn ping_due(&self) -> Option<Instant> {
        let since = if self.answer_due.is_some() {
            self.last_sent
        } else {
            self.last_sent.min(self.last_heard_back)
        };
        since.checked_add(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn an_interval_of_zero_is_off() {
        assert!(KeepAlive::new(Instant::now(), Duration::ZERO, None).is_none());
    }

    #[test]
    fn a_timeout_longer_than_the_interval_still_pings_once_per_interval() {
        let start = Instant::now();
        let mut timers = KeepAlive::new(start, INTERVAL, Some(INTERVAL * 3)).unwrap();
        assert_eq!(timers.handle_timeout(start + INTERVAL), Due::Ping);
        assert_eq!(timers.poll_timeout(), Some(start + INTERVAL * 2));
        assert_eq!(timers.handle_timeout(start + INTERVAL * 2), Due::Ping);
        assert_eq!(timers.handle_timeout(start + INTERVAL * 3), Due::Ping);
        assert_eq!(timers.handle_timeout(start + INTERVAL * 4), Due::Dead);
    }

    #[test]
    fn an_endless_ping_timeout_made_the_session_ping_without_a_pause() {
        let start = Instant::now();
        let mut timers = KeepAlive::new(start, INTERVAL, Some(Duration::MAX)).unwrap();
        for round in 1..=3 {
            let now = start + INTERVAL * round;
            assert_eq!(timers.handle_timeout(now), Due::Ping);
            assert_eq!(timers.handle_timeout(now), Due::Nothing);
            assert_eq!(timers.poll_timeout(), Some(now + INTERVAL));
        }
    }

    #[test]
    fn while_nothing_is_read_no_answer_is_missed() {
        let start = Instant::now();
        let mut timers = KeepAlive::new(start, INTERVAL, None).unwrap();
        assert_eq!(timers.handle_timeout(start + INTERVAL), Due::Ping);
        timers.set_paused(start + INTERVAL, true);
        assert_eq!(timers.handle_timeout(start + INTERVAL * 2), Due::Ping);
        assert_eq!(timers.handle_timeout(start + INTERVAL * 3), Due::Ping);
        timers.set_paused(start + INTERVAL * 3, false);
        assert_eq!(
            timers.poll_timeout(),
            Some(start + INTERVAL * 3 + INTERVAL / 2)
        );
        let due = start + INTERVAL * 3 + INTERVAL / 2;
        assert_eq!(timers.handle_timeout(due), Due::Dead);
    }

    #[test]
    fn waking_up_long_after_the_deadline_of_a_ping_asks_before_it_gives_up() {
        let start = Instant::now();
        let mut timers = KeepAlive::new(start, INTERVAL, None).unwrap();
        assert_eq!(timers.handle_timeout(start + INTERVAL * 60), Due::Ping);
        assert_eq!(
            timers.poll_timeout(),
            Some(start + INTERVAL * 60 + INTERVAL / 2)
        );
    }
}
