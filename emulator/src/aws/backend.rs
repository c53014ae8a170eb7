//! What is behind the message broker: the services below `$aws/`, and lifecycle events.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use paquebot_protocols::mqtt::Topic;
use tokio::time::Instant;

use super::lifecycle::Lifecycle;
use super::services::{Audience, HttpRequest, HttpResponse, Publication, Requester, Services};
use crate::policy::Client;
use crate::service::{Event, EventKind, Recipient, Reply, Service};
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
    /// Answers that are not given yet, by when they are, in the order in which they were asked for.
    held: BTreeMap<(Instant, u64), Held>,
    next_held: u64,
}

#[derive(Debug)]
struct Held {
    /// Who waits for them; `None` once that connection is gone.
    client_id: Option<String>,
    replies: Vec<Reply>,
}

impl Backend {
    pub(crate) fn new(services: SharedServices) -> Self {
        Self {
            services,
            lifecycle: Lifecycle::default(),
            deadline: Cell::new(None),
            held: BTreeMap::new(),
            next_held: 0,
        }
    }

    fn requests_in_flight(&self, client_id: &str) -> usize {
        let held = self.held.values();
        held.filter(|held| held.client_id.as_deref() == Some(client_id))
            .count()
    }

    /// When the services have something to do by themselves.
    fn due(&self) -> Option<Instant> {
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
}

impl Service for Backend {
    fn handle_publish(&mut self, from: &Client<'_>, topic: &Topic, payload: &Bytes) -> Vec<Reply> {
        if !topic.as_str().starts_with("$aws/") {
            return Vec::new();
        }
        let requests_in_flight = self.requests_in_flight(from.client_id);
        let requester = Requester {
            client_id: from.client_id.to_owned(),
            principal: from.principal.map(str::to_owned),
            requests_in_flight,
        };
        let now = SystemTime::now();
        let mut services = self.services.lock();
        let publications = services.handle_publish(&requester, topic.as_str(), payload, now);
        let delay = services.answer_delay(topic.as_str(), requests_in_flight);
        drop(services);
        let replies = replies(publications.unwrap_or_default());
        if delay.is_zero() {
            return replies;
        }
        let held = Held {
            client_id: Some(requester.client_id),
            replies,
        };
        self.held
            .insert((Instant::now() + delay, self.next_held), held);
        self.next_held += 1;
        Vec::new()
    }

    fn handle_event(&mut self, event: &Event<'_>) -> Vec<Reply> {
        if matches!(event.kind, EventKind::Disconnected(_)) {
            for held in self.held.values_mut() {
                held.client_id
                    .take_if(|waiting| waiting == event.client.client_id);
            }
        }
        let message = self.lifecycle.message(event, SystemTime::now());
        message.into_iter().collect()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let held = self.held.first_key_value().map(|((at, _), _)| *at);
        [held, self.due()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Vec<Reply> {
        let mut given = Vec::new();
        while let Some(held) = self.held.first_entry()
            && held.key().0 <= now
        {
            given.extend(held.remove().replies);
        }
        if self.due().is_some_and(|due| due <= now) {
            let mut services = self.services.lock();
            // The clocks may differ by a little, and what is due has to be done.
            let due = services.deadline().unwrap_or(SystemTime::UNIX_EPOCH);
            given.extend(replies(
                services.handle_deadline(due.max(SystemTime::now())),
            ));
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use paquebot_protocols::mqtt::Version;

    use super::*;
    use crate::aws::services::ServiceSettings;

    fn topics(replies: &[Reply]) -> Vec<&str> {
        replies.iter().map(|reply| reply.topic.as_str()).collect()
    }

    #[test]
    fn a_connection_that_waits_for_ten_answers_is_refused_the_next_one() {
        let mut settings = ServiceSettings::default();
        settings.shadow.answer_delay = Duration::from_secs(3600);
        settings.shadow.requests_per_second_max = None;
        let services = SharedServices::new(Services::new(settings));
        let mut backend = Backend::new(services);
        let mut ask = |client_id, thing: &str| {
            let from = Client {
                client_id,
                principal: None,
                version: Version::V311,
            };
            let topic = Topic::new(format!("$aws/things/{thing}/shadow/get")).unwrap();
            let payload = Bytes::from_static(b"{}");
            backend.handle_publish(&from, &topic, &payload)
        };
        for n in 0..10 {
            assert!(ask("one", &format!("thing-{n}")).is_empty());
        }
        let refused = ask("one", "thing-10");
        assert_eq!(
            topics(&refused),
            ["$aws/things/thing-10/shadow/get/rejected"]
        );
        assert!(refused[0].payload.windows(3).any(|code| code == b"429"));
        // It is counted for each connection.
        assert!(ask("two", "thing-10").is_empty());
        let due = backend.poll_timeout().unwrap();
        let answers = backend.handle_timeout(due + Duration::from_secs(60));
        assert_eq!(answers.len(), 11);
        assert_eq!(backend.requests_in_flight("one"), 0);
    }
}
