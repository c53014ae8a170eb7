//! Requests to the platform and their answers: past the queue, and counted apart from its messages.
//!
//! What asks and what answers is the caller's matter; here is what all requests of a link have in common. One is never
//! queued: it leaves on the connection there is, or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use paquebot_protocols::dialect::{DialectError, Rendered};
use paquebot_protocols::mqtt::ReasonCode;
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

/// How many requests of a link wait for their answers.
#[derive(Debug, Default)]
pub(crate) struct RequestCount {
    in_flight: AtomicUsize,
    has_answers: AtomicBool,
}

impl RequestCount {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether one was answered since it was asked last.
    pub(crate) fn take_answered(&self) -> bool {
        self.has_answers.swap(false, Ordering::Relaxed)
    }
}

/// A request that waits for its answer, counted until this is dropped.
#[derive(Debug)]
#[must_use = "a request counts as long as this is held"]
pub struct RequestInFlight(Arc<LinkContext>);

impl RequestInFlight {
    pub(crate) fn of(link: &Arc<LinkContext>) -> Self {
        link.requests.in_flight.fetch_add(1, Ordering::Relaxed);
        link.metrics.requests_in_flight.inc();
        Self(Arc::clone(link))
    }

    /// Its answer came.
    pub fn answered(self) {
        self.0.requests.has_answers.store(true, Ordering::Relaxed);
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.requests.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.requests_in_flight.dec();
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
        let place = RequestInFlight::of(&self.context);
        self.context
            .publish_request(message, Some(deadline))
            .await
            .map(|()| place)
    }

    /// How many requests wait for their answers.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.context.requests.in_flight()
    }
}
