//! What is behind the message broker: the services below `$aws/`, and lifecycle events.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use paquebot_protocols::mqtt::Topic;
use tokio::time::Instant;

use super::lifecycle::Lifecycle;
use super::services::{Audience, HttpRequest, HttpResponse, Publication, Requester, Services};
use crate::policy::Client;
use crate::service::{Event, Recipient, Reply, Service};
use crate::shared::Shared;

/// The services, for the broker, the HTTP ports and the handle of tests. Whoever takes the server's lock as
/// well takes that one first.
#[derive(Debug, Clone)]
pub(crate) struct SharedServices(Arc<Mutex<Services>>);

impl SharedServices {
    pub(crate) fn new(services: Services) -> Self {
        Self(Arc::new(Mutex::new(services)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Services> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the services do something and publishes what they say, as one step of the server.
    pub(crate) fn tell<E>(
        &self,
        shared: &Shared,
        work: impl FnOnce(&mut Services, SystemTime) -> Result<Vec<Publication>, E>,
    ) -> Result<(), E> {
        shared.turn(|state, now| {
            let publications = work(&mut self.lock(), SystemTime::now())?;
            state.answer(replies(publications), None, now);
            Ok(())
        })
    }

    /// Answers a request by HTTP, and publishes what comes of it.
    pub(crate) fn request(&self, shared: &Shared, request: &HttpRequest) -> HttpResponse {
        shared.turn(|state, now| {
            let mut response = self.lock().handle_http(request, SystemTime::now());
            let publications = std::mem::take(&mut response.publications);
            state.answer(replies(publications), None, now);
            response
        })
    }
}

fn replies(publications: Vec<Publication>) -> Vec<Reply> {
    let reply = |publication: Publication| Reply {
        topic: publication.topic,
        payload: publication.payload,
        qos: publication.qos,
        to: match publication.to {
            Audience::Subscribers => Recipient::Subscribers,
            Audience::Requester => Recipient::Requester,
        },
    };
    publications.into_iter().map(reply).collect()
}

#[derive(Debug)]
pub(crate) struct Backend {
    services: SharedServices,
    lifecycle: Lifecycle,
    /// The services' deadline on both clocks: translated once, so that it does not tremble.
    deadline: Cell<Option<(SystemTime, Instant)>>,
}

impl Backend {
    pub(crate) fn new(services: SharedServices) -> Self {
        Self {
            services,
            lifecycle: Lifecycle::default(),
            deadline: Cell::new(None),
        }
    }
}

impl Service for Backend {
    fn handle_publish(&mut self, from: &Client<'_>, topic: &Topic, payload: &Bytes) -> Vec<Reply> {
        if !topic.as_str().starts_with("$aws/") {
            return Vec::new();
        }
        let requester = Requester {
            client_id: from.client_id.to_owned(),
            principal: from.principal.map(str::to_owned),
            requests_in_flight: 0,
        };
        let now = SystemTime::now();
        let mut services = self.services.lock();
        let publications = services.handle_publish(&requester, topic.as_str(), payload, now);
        replies(publications.unwrap_or_default())
    }

    fn handle_event(&mut self, event: &Event<'_>) -> Vec<Reply> {
        let message = self.lifecycle.message(event, SystemTime::now());
        message.into_iter().collect()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let due = self.services.lock().deadline()?;
        if let Some((known, at)) = self.deadline.get()
            && known == due
        {
            return Some(at);
        }
        let left = due.duration_since(SystemTime::now()).unwrap_or_default();
        let at = Instant::now() + left;
        self.deadline.set(Some((due, at)));
        Some(at)
    }

    fn handle_timeout(&mut self, _now: Instant) -> Vec<Reply> {
        let mut services = self.services.lock();
        // The clocks may differ by a little, and what is due has to be done.
        let due = services.deadline().unwrap_or(SystemTime::UNIX_EPOCH);
        replies(services.handle_deadline(due.max(SystemTime::now())))
    }
}
