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
    requests: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    topic: Topic,
    /// The server may have seen it.
    is_written: bool,
}

impl RequestCount {
    fn len(&self) -> usize {
        let in_flight = self.lock();
        let in_flight = in_flight.as_deref();
        in_flight.map_or(0, |in_flight| in_flight.requests.len())
    }

    /// How many of them have left, and the topic of the first: the server can have closed the connection at no others.
    pub(crate) fn unanswered(&self) -> (usize, Option<Topic>) {
        let in_flight = self.lock();
        let requests = in_flight.iter().flat_map(|in_flight| &in_flight.requests);
        let mut written = requests.filter(|request| request.is_written);
        let first = written.next().map(|request| request.topic.clone());
        (usize::from(first.is_some()) + written.count(), first)
    }

    /// A request has left, unless it was given up.
    pub(crate) fn note_written(&self, number: u64) {
        if let Some(in_flight) = &mut *self.lock() {
            let mut requests = in_flight.requests.iter_mut();
            if let Some(request) = requests.find(|request| request.number == number) {
                request.is_written = true;
            }
        }
    }

    fn add(&self, topic: Topic) -> u64 {
        let mut in_flight = self.lock();
        let in_flight = in_flight.get_or_insert_default();
        let number = in_flight.next;
        in_flight.next += 1;
        in_flight.requests.push(Waiting {
            number,
            topic,
            is_written: false,
        });
        number
    }

    fn remove(&self, number: u64) {
        if let Some(in_flight) = &mut *self.lock() {
            in_flight.requests.retain(|other| other.number != number);
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
        place: &RequestInFlight,
        expires_at: Option<Instant>,
    ) -> impl Future<Output = Result<(), RequestUnsent>> + use<> {
        let (sent, told) = oneshot::channel();
        self.codec.do_send(PublishRequest {
            message,
            number: place.number,
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
    /// A request that ends with an error has not left and never leaves; one that waits for the server to read ends at
    /// its deadline. It is no message of the queue: none of its
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
            .publish_request(message, &place, Some(deadline))
            .await
            .map(|()| place)
    }

    /// How many requests wait for their answers.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.context.requests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_can_be_upon_no_request_that_has_not_left() {
        let requests = RequestCount::default();
        let topic = |name: &str| Topic::new(name.to_owned()).unwrap();
        let numbers = ["a", "b", "c"].map(|name| requests.add(topic(name)));
        assert_eq!((requests.len(), requests.unanswered()), (3, (0, None)));
        requests.note_written(numbers[2]);
        requests.note_written(numbers[1]);
        assert_eq!(requests.unanswered(), (2, Some(topic("b"))));
        requests.remove(numbers[1]);
        assert_eq!(requests.unanswered(), (1, Some(topic("c"))));
        // Whoever asked has given up meanwhile.
        requests.remove(numbers[0]);
        requests.note_written(numbers[0]);
        assert_eq!((requests.len(), requests.unanswered().0), (1, 1));
    }
}
