//! Requests to the platform and their answers: past the queue, and counted apart from its messages.
//!
//! What asks and what answers is the caller's matter; here is what all requests of a link have in common. One is never
//! queued: it leaves on the connection there is, or never.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use paquebot_protocols::dialect::{DialectError, Rendered};
use paquebot_protocols::mqtt::{ReasonCode, Topic};
use tokio::sync::oneshot;

use super::{LinkContext, LinkHandle};
use crate::message::PublishRequest;

/// Why a request was not sent, and never will be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestUnsent {
    /// The link is not online.
    #[error("the link is not online")]
    Offline,
    /// The connection broke before the request left.
    #[error("the connection broke before the request left")]
    Disconnected,
    /// Its deadline passed before it could leave.
    #[error("the deadline passed before the request could leave")]
    Expired,
    /// The server reads too slowly: as much as may wait for its connection does.
    #[error("the server does not read; ask again later")]
    Congested,
    /// The server does not take such a message.
    #[error("the server does not take the request: {0}")]
    Refused(ReasonCode),
    /// The platform does not take such a message.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The link is stopped.
    #[error("the link is stopped")]
    Stopped,
}

/// The requests of a link that wait for their answers.
#[derive(Debug, Default)]
pub(crate) struct RequestCount {
    /// `None` before the first one.
    in_flight: Mutex<Option<Box<InFlight>>>,
    has_answers: AtomicBool,
}

/// In the order in which they were made.
#[derive(Debug, Default)]
struct InFlight {
    next: u64,
    topics: Vec<(u64, Topic)>,
}

impl RequestCount {
    /// How many they are, and the topic of the first.
    pub(crate) fn unanswered(&self) -> (usize, Option<Topic>) {
        match &*self.lock() {
            Some(in_flight) => {
                let first = in_flight.topics.first().map(|(_, topic)| topic.clone());
                (in_flight.topics.len(), first)
            }
            None => (0, None),
        }
    }

    fn add(&self, topic: Topic) -> u64 {
        let mut in_flight = self.lock();
        let in_flight = in_flight.get_or_insert_default();
        let number = in_flight.next;
        in_flight.next += 1;
        in_flight.topics.push((number, topic));
        number
    }

    fn remove(&self, number: u64) {
        if let Some(in_flight) = &mut *self.lock() {
            in_flight.topics.retain(|(other, _)| *other != number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<InFlight>>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one was answered since it was asked last.
    pub(crate) fn take_answered(&self) -> bool {
        self.has_answers.swap(false, Ordering::Relaxed)
    }
}

/// A request that waits for its answer, counted until this is dropped.
#[derive(Debug)]
#[must_use = "a request counts as long as this is held"]
pub struct RequestInFlight {
    link: Arc<LinkContext>,
    number: u64,
}

impl RequestInFlight {
    pub(crate) fn of(link: &Arc<LinkContext>, topic: Topic) -> Self {
        let number = link.requests.add(topic);
        link.metrics.requests_in_flight.inc();
        let link = Arc::clone(link);
        Self { link, number }
    }

    /// Its answer came.
    pub fn answered(self) {
        self.link
            .requests
            .has_answers
            .store(true, Ordering::Relaxed);
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.link.requests.remove(self.number);
        self.link.metrics.requests_in_flight.dec();
    }
}

impl LinkContext {
    /// Gives a request to the codec; resolves once it is on its way. Dropping the future takes back what has not been
    /// looked at.
    pub(crate) fn publish_request(
        &self,
        message: Rendered,
        expires_at: Option<Instant>,
    ) -> impl Future<Output = Result<(), RequestUnsent>> + use<> {
        let (sent, told) = oneshot::channel();
        self.codec.do_send(PublishRequest {
            message,
            expires_at,
            sent,
        });
        async move { told.await.unwrap_or(Err(RequestUnsent::Stopped)) }
    }
}

impl LinkHandle {
    /// Sends a request at QoS 0 ahead of everything that is queued, on the connection there is now. Resolves once it is
    /// on its way; what comes back holds its place among [`LinkHandle::requests_in_flight`].
    ///
    /// A request that ends with an error has not left and never leaves. It is no message of the queue: none of its
    /// bounds, rates and metrics know of it.
    ///
    /// # Errors
    /// See [`RequestUnsent`].
    pub async fn request(
        &self,
        message: Rendered,
        deadline: Instant,
    ) -> Result<RequestInFlight, RequestUnsent> {
        self.check(&message)?;
        let place = RequestInFlight::of(&self.context, message.topic.clone());
        self.context
            .publish_request(message, Some(deadline))
            .await
            .map(|()| place)
    }

    /// How many requests wait for their answers.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.context.requests.unanswered().0
    }
}
