//! Which deltas and changes are news.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use crate::dialect::state::{StateChange, StateDelta, StateDocument};

/// How soon the document is read again after it was read, when something contradicts what is known: doubled after
/// each time that it could not be read.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The longest of these delays.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Deltas {
    /// The version of the latest delta.
    pub(super) latest: Option<u64>,
    /// What differed at that version: a document that was made anew may come to the same one.
    difference: Option<Value>,
    /// The version of the latest change.
    changed: Option<u64>,
    /// When the document is to be read.
    pub(super) due: Option<Instant>,
    /// The request that reads it.
    pub(super) asked: Option<u64>,
    asked_at: Option<Instant>,
    /// How often in a row it could not be read.
    failures: u32,
    /// What the document says is to be told even when it is known.
    tells_again: bool,
    /// The server may have closed the connection because the document was read.
    pub(super) is_suspected: bool,
    /// It did so again, and nobody has asked since.
    is_given_up: bool,
}

impl Deltas {
    /// Somebody wants to know what the document says now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.tells_again = true;
        self.is_given_up = false;
        self.ask_again(now);
    }

    /// Whether the document may be read by itself.
    pub(super) fn may_ask(&self) -> bool {
        !self.is_given_up
    }

    /// The server closed the connection without a word while the document was being read; `is_certain` when nothing else
    /// can be behind it. Whether the document is given up now.
    pub(super) fn suspect(&mut self, is_certain: bool) -> bool {
        self.is_given_up = self.is_suspected && is_certain;
        self.is_suspected = true;
        self.is_given_up
    }

    /// The platform has answered a reading.
    pub(super) fn note_read(&mut self) {
        self.is_suspected = false;
        self.is_given_up = false;
    }

    /// The document is to be read at once.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.failures = 0;
        self.due = Some(now);
    }

    /// What came does not fit what is known: the document is to be read, but not all the time.
    pub(super) fn doubt(&mut self, now: Instant) {
        let soonest = self.asked_at.map_or(now, |at| at + ASK_AGAIN).max(now);
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    /// Whether a delta is news.
    pub(super) fn admit(&mut self, now: Instant, delta: &StateDelta) -> bool {
        let Some(version) = delta.version else {
            return true;
        };
        if self.latest.is_none_or(|latest| version > latest) {
            self.latest = Some(version);
            self.difference = Some(delta.state.clone());
            // Whoever waits for what the document says has heard it now.
            self.tells_again = false;
            return true;
        }
        if self.latest > Some(version) || self.difference.as_ref() != Some(&delta.state) {
            // It is late, or it is of a document that was made anew.
            self.doubt(now);
        }
        false
    }

    /// Whether a change is news. The one that makes a document is, whatever its version.
    pub(super) fn admit_change(&mut self, change: &StateChange) -> bool {
        let Some(version) = change.current.version else {
            return true;
        };
        let is_news = match self.changed {
            None => true,
            Some(changed) if change.previous.is_none() => version != changed,
            Some(changed) => version > changed,
        };
        if is_news {
            self.changed = Some(version);
        }
        is_news
    }

    /// The document was read, by a request that was sent when `known` was the latest version. What it says differs, if
    /// that is news.
    pub(super) fn reconcile(
        &mut self,
        now: Instant,
        known: Option<u64>,
        result: &Result<Box<StateDocument>, Failure>,
    ) -> Option<StateDelta> {
        self.asked_at = Some(now);
        let document = match result {
            Ok(document) => document,
            Err(Failure::Rejected(rejection)) if rejection.is_not_found() => {
                if self.latest == known {
                    // The next document may start at any version.
                    self.latest = None;
                    self.difference = None;
                    self.changed = None;
                }
                self.failures = 0;
                return None;
            }
            Err(_) => {
                let delay = ASK_AGAIN.saturating_mul(1 << self.failures.min(8));
                self.failures += 1;
                self.due = Some(now + delay.min(ASK_AGAIN_MAX));
                return None;
            }
        };
        self.failures = 0;
        let tells_again = std::mem::take(&mut self.tells_again);
        let difference = document.delta.clone().filter(|delta| !is_empty(delta));
        if let Some(version) = document.version {
            if self.latest.is_some_and(|latest| version < latest) {
                if self.latest != known {
                    // A delta overtook the answer.
                    if Some(version) < known {
                        self.doubt(now);
                    }
                    return None;
                }
                self.changed = None;
            } else if self.latest == Some(version) && self.difference == difference && !tells_again
            {
                return None;
            }
            self.latest = Some(version);
        }
        self.difference.clone_from(&difference);
        Some(StateDelta {
            state: difference?,
            metadata: None,
            version: document.version,
            timestamp: document.timestamp,
        })
    }
}

fn is_empty(delta: &Value) -> bool {
    match delta {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}
