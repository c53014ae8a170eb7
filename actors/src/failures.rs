//! What goes wrong with connections, added up by kind: a summary says "412 × connection refused" and
//! not 412 lines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use paquebot_protocols::dialect::LikelyCause;
use paquebot_protocols::dialect::state::DocumentId;
use paquebot_protocols::mqtt::Topic;
use paquebot_protocols::mqtt::session::CloseReason;

use crate::codec::{reason_name, refusal_name};
use crate::event::LinkEvent;
use crate::transport::ConnectError;

/// Failures of one kind in one group of links.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The kind: a value of the `result` label of `paquebot_connect_attempts_total`, of the `reason` label of
    /// `paquebot_disconnects_total`, `subscription_refused`, `reading_given_up`, or `likely_` with the name of a likely cause.
    pub class: &'static str,
    /// How often it happened.
    pub count: u64,
    /// The last one, in words.
    pub last: FailureCause,
}

/// One failure; its text says what to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FailureCause {
    /// No byte stream came about.
    Connect(Arc<ConnectError>),
    /// The server refused CONNECT, or the connection ended.
    Closed(CloseReason),
    /// The server refused a subscription.
    Subscription(String),
    /// What is likely behind connections that the server ended without a word, and the topic of the message at which it
    /// does, where that is known.
    Likely(LikelyCause, Option<Topic>),
    /// The server ends the connection when this document of state is read.
    Reading(DocumentId),
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Closed(reason) => reason.fmt(f),
            Self::Subscription(text) => f.write_str(text),
            Self::Likely(cause, None) => cause.fmt(f),
            Self::Likely(cause, Some(topic)) => write!(f, "{cause} ({topic})"),
            Self::Reading(document) => write!(
                f,
                "the server closes the connection when the state of {document} is read, so it is not read by itself any \
                 more: check that the link may publish what asks for it"
            ),
        }
    }
}

/// The failures of one group. Touched once a failure, never for a message, so a lock is no bottleneck; it
/// holds one entry a kind, and the kinds are a closed set.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<BTreeMap<&'static str, (u64, FailureCause)>>);

impl FailureLog {
    /// Counts an event that is a failure; `was_online` tells an ended connection from a refused one.
    pub(crate) fn note(&self, event: &LinkEvent, was_online: bool) {
        let (class, cause) = match event {
            LinkEvent::ConnectFailed { error } => {
                (error.class(), FailureCause::Connect(Arc::clone(error)))
            }
            LinkEvent::Disconnected {
                reason: CloseReason::Local,
            } => return,
            LinkEvent::Disconnected { reason } if was_online => {
                (reason_name(reason), FailureCause::Closed(reason.clone()))
            }
            LinkEvent::Disconnected { reason } => {
                (refusal_name(reason), FailureCause::Closed(reason.clone()))
            }
            LinkEvent::SubscriptionRefused { filter, code } => (
                "subscription_refused",
                FailureCause::Subscription(format!(
                    "the server refused the subscription to {filter}: {code}; check its access rules"
                )),
            ),
            // Each beside the failure that it explains. An age that ends connections is no failure.
            LinkEvent::LikelyCause { cause, topic } => {
                let class = match cause {
                    LikelyCause::ConnectNotAllowed => "likely_connect_not_allowed",
                    LikelyCause::SubscribeNotAllowed => "likely_subscribe_not_allowed",
                    LikelyCause::PublishNotAllowed => "likely_publish_not_allowed",
                    LikelyCause::TakenOver => "likely_taken_over",
                    _ => return,
                };
                (class, FailureCause::Likely(*cause, topic.clone()))
            }
            LinkEvent::ReadingGivenUp { document } => {
                ("reading_given_up", FailureCause::Reading(document.clone()))
            }
            _ => return,
        };
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(class) {
            Some((count, last)) => {
                *count += 1;
                *last = cause;
            }
            None => {
                kinds.insert(class, (1, cause));
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<Failure> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds
            .iter()
            .map(|(class, (count, last))| Failure {
                class,
                count: *count,
                last: last.clone(),
            })
            .collect()
    }
}
