//! Delays between connection attempts.
//!
//! [`Backoff`] counts failures and says how long to wait; the clock and the random sample are arguments.
//! What went wrong decides the course: a network that is down heals by itself, a refused password seldom does,
//! and a session that another client took over must not be fought for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::mqtt::ReasonCode;
use crate::mqtt::session::CloseReason;

/// How long to wait between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Delay after the first failure; doubles with each further one. Default 1 s.
    pub base: Duration,
    /// The longest delay. Default 120 s, so that a fleet is back two minutes after its server at the latest.
    pub max: Duration,
    /// Delay after the first refusal of the credentials; doubles with each further one. Default 15 s: eight
    /// attempts in ten minutes at the most, since accounts are locked and logs are flooded by more.
    pub refused_base: Duration,
    /// The longest delay while the credentials are refused. Default 300 s.
    pub refused_max: Duration,
    /// The least delay after another client took the session over; the ordinary delay comes on top. Default
    /// 5 s.
    pub taken_over_min: Duration,
    /// How long a connection must have been online to be called stable, which forgets earlier failures. Default 60 s:
    /// a server that accepts and drops a client at once keeps being asked less and less often.
    pub stable_after: Duration,
    /// How much of a delay is left to chance. Default [`Jitter::Full`].
    pub jitter: Jitter,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(120),
            refused_base: Duration::from_secs(15),
            refused_max: Duration::from_secs(300),
            taken_over_min: Duration::from_secs(5),
            stable_after: Duration::from_secs(60),
            jitter: Jitter::default(),
        }
    }
}

/// How much of a delay is left to chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// Nothing: the delays are exact, and a fleet that failed at once comes back at once.
    None,
    /// All of it: the delay is the sample's share of the full one, which spreads a fleet evenly. Refused
    /// credentials keep at least half of their delay.
    #[default]
    Full,
}

/// What kind of failure ended an attempt or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// The network, the server's load, a timeout, a broken protocol: it may work again at any moment.
    Transient,
    /// The server does not accept who this is; it will not before someone acts.
    RefusedCredentials,
    /// Another client with the same identifier took the session.
    TakenOver,
    /// The server sends its clients to another one. A driver that follows the reference has no need to wait; one
    /// that cannot waits as for a transient failure.
    ServerMoved,
}

impl FailureClass {
    /// The class of what ended a connection.
    ///
    /// MQTT 3.1.1 has no word for a take-over: the connection is just lost. That is no duel either, because only a
    /// stable connection resets the delay.
    #[must_use]
    pub const fn of(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Refused { code, .. } | CloseReason::ServerDisconnect { code, .. } => {
                Self::of_code(*code)
            }
            // The same options fail the same way.
            CloseReason::Unwritable(_) => Self::RefusedCredentials,
            _ => Self::Transient,
        }
    }

    const fn of_code(code: ReasonCode) -> Self {
        match code {
            ReasonCode::SESSION_TAKEN_OVER => Self::TakenOver,
            ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED => Self::ServerMoved,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            | ReasonCode::BAD_USER_NAME_OR_PASSWORD
            | ReasonCode::NOT_AUTHORIZED
            | ReasonCode::BANNED
            | ReasonCode::BAD_AUTHENTICATION_METHOD => Self::RefusedCredentials,
            _ => Self::Transient,
        }
    }
}

/// The delays of one link.
#[derive(Debug, Clone)]
pub struct Backoff {
    /// Shared: a hundred thousand links have few different ones.
    config: Arc<BackoffConfig>,
    /// Failures in a row, of any class.
    failures: u32,
    /// Refusals in a row.
    refusals: u32,
    online_since: Option<Instant>,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub fn new(config: impl Into<Arc<BackoffConfig>>) -> Self {
        Self {
            config: config.into(),
            failures: 0,
            refusals: 0,
            online_since: None,
        }
    }

    /// An attempt or a connection failed: how long to wait before the next attempt. `sample` is random, in
    /// [0, 1); what is outside counts as the nearest bound. For a connection that was online call
    /// [`Backoff::lost`] first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use paquebot_protocols::backoff::{Backoff, BackoffConfig, FailureClass, Jitter};
    ///
    /// let config = BackoffConfig { jitter: Jitter::None, ..BackoffConfig::default() };
    /// let mut backoff = Backoff::new(config);
    /// assert_eq!(backoff.failure(FailureClass::Transient, 0.0), Duration::from_secs(1));
    /// assert_eq!(backoff.failure(FailureClass::Transient, 0.0), Duration::from_secs(2));
    /// assert_eq!(backoff.failure(FailureClass::Transient, 0.0), Duration::from_secs(4));
    /// ```
    pub fn failure(&mut self, class: FailureClass, sample: f64) -> Duration {
        let config = &self.config;
        let delay = match class {
            FailureClass::RefusedCredentials => {
                let full = exponential(config.refused_base, config.refused_max, self.refusals);
                full / 2 + jittered(config.jitter, full - full / 2, sample)
            }
            FailureClass::Transient | FailureClass::ServerMoved | FailureClass::TakenOver => {
                let full = exponential(config.base, config.max, self.failures);
                let least = if class == FailureClass::TakenOver {
                    config.taken_over_min
                } else {
                    Duration::ZERO
                };
                least.saturating_add(jittered(config.jitter, full, sample))
            }
        };
        self.failures = self.failures.saturating_add(1);
        // A network failure in between says nothing about the credentials, so refusals go on where they were.
        if class == FailureClass::RefusedCredentials {
            self.refusals = self.refusals.saturating_add(1);
        }
        delay
    }

    /// The connection came online. The credentials were good.
    pub const fn online(&mut self, now: Instant) {
        self.online_since = Some(now);
        self.refusals = 0;
    }

    /// The connection that was online is gone. Failures are forgotten if it was stable.
    pub fn lost(&mut self, now: Instant) {
        if let Some(since) = self.online_since.take()
            && now.saturating_duration_since(since) >= self.config.stable_after
        {
            self.failures = 0;
        }
    }

    /// Failures in a row since the last stable connection.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// min(2^n · base, max)
fn exponential(base: Duration, max: Duration, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(max)
}

fn jittered(jitter: Jitter, full: Duration, sample: f64) -> Duration {
    match jitter {
        Jitter::None => full,
        // NaN fails the comparison and counts as 0.
        Jitter::Full if sample > 0.0 => {
            Duration::try_from_secs_f64(full.as_secs_f64() * sample.min(1.0))
                .unwrap_or(full)
                .min(full)
        }
        Jitter::Full => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact() -> Backoff {
        Backoff::new(BackoffConfig {
            jitter: Jitter::None,
            ..BackoffConfig::default()
        })
    }

    fn seconds(backoff: &mut Backoff, class: FailureClass, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| backoff.failure(class, 0.5).as_secs())
            .collect()
    }

    #[test]
    fn transient_failures_double_up_to_the_maximum_for_ever() {
        let mut backoff = exact();
        assert_eq!(
            seconds(&mut backoff, FailureClass::Transient, 9),
            [1, 2, 4, 8, 16, 32, 64, 120, 120]
        );
        for _ in 0..100 {
            assert_eq!(
                backoff.failure(FailureClass::Transient, 0.0),
                Duration::from_secs(120)
            );
        }
    }

    #[test]
    fn a_long_base_and_many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(BackoffConfig {
            base: Duration::MAX,
            max: Duration::MAX,
            taken_over_min: Duration::MAX,
            ..BackoffConfig::default()
        });
        for sample in [0.0, 0.999, 1.0, 7.0, -1.0, f64::NAN, f64::INFINITY] {
            for _ in 0..40 {
                backoff.failure(FailureClass::TakenOver, sample);
                backoff.failure(FailureClass::Transient, sample);
            }
        }
        assert_eq!(
            backoff.failure(FailureClass::Transient, f64::NAN),
            Duration::ZERO
        );
    }

    #[test]
    fn full_jitter_takes_the_samples_share() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        assert_eq!(
            backoff.failure(FailureClass::Transient, 0.0),
            Duration::ZERO
        );
        assert_eq!(
            backoff.failure(FailureClass::Transient, 0.5),
            Duration::from_secs(1)
        );
        assert_eq!(
            backoff.failure(FailureClass::Transient, 0.25),
            Duration::from_secs(1)
        );
    }

    /// How many of a fleet that lost its server at once come back in each second of the server's return.
    fn comebacks(fleet: usize, away: Duration) -> Vec<usize> {
        let mut state = 1_u64;
        let mut sample = || {
            // SplitMix64: the same fleet in each run.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let config = Arc::new(BackoffConfig::default());
        let mut seconds = vec![0; config.max.as_secs() as usize + 1];
        for _ in 0..fleet {
            let mut backoff = Backoff::new(Arc::clone(&config));
            let mut elapsed = Duration::ZERO;
            while elapsed < away {
                elapsed += backoff.failure(FailureClass::Transient, sample());
            }
            seconds[(elapsed - away).as_secs() as usize] += 1;
        }
        seconds
    }

    #[test]
    fn a_fleet_that_lost_its_server_at_once_comes_back_spread_out_however_long_it_was_away() {
        let fleet = 20_000;
        // Up to the longest delay attempts thin out as the time away grows; from then on they are evenly spread.
        for away in [2_u64, 4, 7, 10, 14, 20, 30, 40, 60, 90, 120, 300] {
            let seconds = comebacks(fleet, Duration::from_secs(away));
            assert_eq!(
                seconds.iter().sum::<usize>(),
                fleet,
                "within the longest delay"
            );
            let peak = *seconds.iter().max().unwrap();
            let share = peak as f64 / fleet as f64;
            let bound = 1.8 / away.min(90) as f64;
            assert!(share <= bound, "{share} in a second after {away} s");
            // The peak beside the mean of the seconds that bring most: an exponential decline would have 3.15.
            let (mut so_far, mut count) = (0, 0);
            while so_far * 100 < fleet * 95 {
                so_far += seconds[count];
                count += 1;
            }
            let ratio = share / (0.95 / count as f64);
            assert!(ratio <= 4.0, "{ratio} times the mean after {away} s");
        }
    }

    #[test]
    fn only_a_stable_connection_resets_the_delay() {
        let start = Instant::now();
        let mut backoff = exact();
        assert_eq!(seconds(&mut backoff, FailureClass::Transient, 3), [1, 2, 4]);
        backoff.online(start);
        backoff.lost(start + Duration::from_secs(59));
        assert_eq!(seconds(&mut backoff, FailureClass::Transient, 1), [8]);
        backoff.online(start);
        backoff.lost(start + Duration::from_secs(60));
        assert_eq!(seconds(&mut backoff, FailureClass::Transient, 1), [1]);
    }

    #[test]
    fn refused_credentials_are_tried_at_most_ten_times_in_ten_minutes_even_with_the_worst_samples()
    {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let mut elapsed = Duration::ZERO;
        let mut attempts = 1;
        loop {
            elapsed += backoff.failure(FailureClass::RefusedCredentials, 0.0);
            if elapsed > Duration::from_secs(600) {
                break;
            }
            attempts += 1;
        }
        assert!(attempts <= 10, "{attempts} attempts");
        assert_eq!(
            backoff.failure(FailureClass::RefusedCredentials, 1.0),
            Duration::from_secs(300)
        );
    }

    #[test]
    fn a_taken_over_session_waits_five_seconds_at_the_least() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..20 {
            assert!(backoff.failure(FailureClass::TakenOver, 0.0) >= Duration::from_secs(5));
        }
        assert!(exact().failure(FailureClass::TakenOver, 0.0) > Duration::from_secs(5));
    }

    #[test]
    fn close_reasons_have_their_class() {
        let refused = |code| CloseReason::Refused {
            code,
            wire_code: code.0,
            reason_string: None,
            server_reference: None,
        };
        let disconnected = |code| CloseReason::ServerDisconnect {
            code,
            reason_string: None,
            server_reference: None,
        };
        for (reason, class) in [
            (
                refused(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
                FailureClass::RefusedCredentials,
            ),
            (
                refused(ReasonCode::NOT_AUTHORIZED),
                FailureClass::RefusedCredentials,
            ),
            (
                refused(ReasonCode::SERVER_UNAVAILABLE),
                FailureClass::Transient,
            ),
            (refused(ReasonCode::SERVER_MOVED), FailureClass::ServerMoved),
            (
                disconnected(ReasonCode::SESSION_TAKEN_OVER),
                FailureClass::TakenOver,
            ),
            (
                disconnected(ReasonCode::USE_ANOTHER_SERVER),
                FailureClass::ServerMoved,
            ),
            (
                disconnected(ReasonCode::SERVER_SHUTTING_DOWN),
                FailureClass::Transient,
            ),
            (CloseReason::TransportClosed, FailureClass::Transient),
            (CloseReason::KeepAliveTimeout, FailureClass::Transient),
        ] {
            assert_eq!(FailureClass::of(&reason), class, "{reason}");
        }
    }
}
