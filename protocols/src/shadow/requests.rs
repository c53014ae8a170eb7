//! One request on its way: its turn, its tries, its end.

use std::time::{Duration, Instant};

use super::Failure;
use crate::dialect::state::{Rejection, StateFeed, StateOperation, StateRequest};

/// The longest pause after the first refusal for too many requests; doubled with each further one. What of it is waited
/// is left to chance.
const RETRY_BASE: Duration = Duration::from_millis(500);

/// The longest of these pauses.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The subscriptions to its answer are not in force.
    Waiting,
    /// It waits for one of the connection's turns.
    Queued,
    /// It has a turn.
    Sent {
        /// What was last known of deltas.
        known: Option<u64>,
        /// Which confirmation of its subscriptions it was sent under.
        grant: u32,
    },
    /// The platform had too many requests: it goes out again at this time.
    Resting(Instant),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) request: StateRequest,
    pub(super) deadline: Instant,
    pub(super) stage: Stage,
    /// No other request of the connection is to be under way together with it.
    pub(super) is_alone: bool,
    /// How often it was refused for too many requests.
    pub(super) tries: u32,
    /// An answer to it, or to another one of its kind, could not be read.
    unreadable: Option<String>,
    /// What the platform said last when it had too many.
    throttled: Option<Rejection>,
}

impl Request {
    pub(super) fn new(id: u64, request: StateRequest, deadline: Instant) -> Self {
        Self {
            id,
            request,
            deadline,
            stage: Stage::Waiting,
            is_alone: false,
            tries: 0,
            unreadable: None,
            throttled: None,
        }
    }

    pub(super) fn operation(&self) -> StateOperation {
        self.request.operation()
    }

    pub(super) fn feed(&self) -> StateFeed {
        StateFeed::Replies(self.operation())
    }

    pub(super) fn is_sent(&self) -> bool {
        matches!(self.stage, Stage::Sent { .. })
    }

    /// Which confirmation of its subscriptions it was sent under.
    pub(super) fn grant(&self) -> Option<u32> {
        match self.stage {
            Stage::Sent { grant, .. } => Some(grant),
            _ => None,
        }
    }

    /// What was last known of deltas when it was sent.
    pub(super) fn known(&self) -> Option<u64> {
        match self.stage {
            Stage::Sent { known, .. } => known,
            _ => None,
        }
    }

    /// What its answer carries. Each try has its own, so that an answer to an earlier one ends no later one.
    pub(super) fn token(&self, name: &str) -> String {
        match self.tries {
            0 => format!("{name}-{}", self.id),
            tries => format!("{name}-{}-{tries}", self.id),
        }
    }

    pub(super) fn note_unreadable(&mut self, problem: &str) {
        self.unreadable = Some(problem.to_owned());
    }

    /// The platform had too many requests: whether it goes out again before its deadline. `sample` is random, in [0, 1).
    pub(super) fn rest(&mut self, now: Instant, rejection: &Rejection, sample: f64) -> bool {
        let longest = RETRY_BASE
            .saturating_mul(1 << self.tries.min(8))
            .min(RETRY_MAX);
        let due = now + longest.mul_f64(sample);
        if due >= self.deadline {
            return false;
        }
        self.tries += 1;
        self.throttled = Some(rejection.clone());
        self.stage = Stage::Resting(due);
        true
    }

    /// Its deadline has come.
    pub(super) fn overdue(&mut self) -> Failure {
        match (self.throttled.take(), self.unreadable.take()) {
            // It was refused, and not carried out since.
            (Some(rejection), _) if !self.is_sent() => Failure::Rejected(rejection),
            (_, Some(problem)) => Failure::Unreadable(problem),
            _ => Failure::TimedOut,
        }
    }
}

/// The number of a request and of its try, in a token of one's own.
pub(super) fn read_token(token: &str, name: &str) -> Option<(u64, u32)> {
    let number = token.strip_prefix(name)?.strip_prefix('-')?;
    match number.split_once('-') {
        None => Some((number.parse().ok()?, 0)),
        Some((id, tries)) => {
            let tries = tries.parse().ok().filter(|tries| *tries > 0)?;
            Some((id.parse().ok()?, tries))
        }
    }
}

/// Random numbers of no great quality, which is enough to keep devices from asking at the same time.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: &str) -> Self {
        // FNV-1a.
        let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }

    /// In [0, 1).
    pub(super) fn sample(&mut self) -> f64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}
