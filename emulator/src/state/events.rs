//! The service behind the server: what it is shown, and what becomes of its answers.

use bytes::Bytes;
use paquebot_protocols::mqtt::{Properties, Publish, Topic, Version};
use tokio::time::Instant;

use super::State;
use crate::message::{Delivery, Message};
use crate::policy::Client;
use crate::service::{Event, EventKind, Recipient, Reply};
use crate::session::Turn;
use crate::sessions::SessionKey;

impl State {
    /// Shows the service what a client published.
    pub(super) fn offer(&mut self, key: SessionKey, topic: &Topic, payload: &Bytes, now: Instant) {
        let Some(service) = &mut self.service else {
            return;
        };
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let replies = service.handle_publish(&session.client(), topic, payload);
        self.answer(replies, Some(key), now);
    }

    /// Tells the service what happened to the connection of a session.
    pub(super) fn tell(&mut self, key: SessionKey, kind: EventKind<'_>, now: Instant) {
        let Some(service) = &mut self.service else {
            return;
        };
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let replies = service.handle_event(&Event {
            client: session.client(),
            peer: &session.peer,
            kind,
        });
        self.answer(replies, None, now);
    }

    pub(super) fn handle_service_timeout(&mut self, now: Instant) {
        let Some(service) = &mut self.service else {
            return;
        };
        if service.poll_timeout().is_some_and(|at| at <= now) {
            let replies = service.handle_timeout(now);
            self.answer(replies, None, now);
        }
    }

    /// Publishes for somebody who is not connected, and shows the service the message.
    pub(crate) fn publish_for(
        &mut self,
        principal: &str,
        topic: &Topic,
        publish: &Publish,
        now: Instant,
    ) {
        let message = Message {
            topic: topic.clone(),
            payload: publish.payload.clone(),
            qos: publish.qos,
            retain: publish.retain,
            properties: Properties::EMPTY,
            publisher: None,
            taken: now,
        };
        self.route(message, None, now);
        let Some(service) = &mut self.service else {
            return;
        };
        let client = Client {
            client_id: "",
            principal: Some(principal),
            version: Version::V5,
        };
        let replies = service.handle_publish(&client, topic, &publish.payload);
        self.answer(replies, None, now);
    }

    /// Sends what a service says.
    pub(crate) fn answer(
        &mut self,
        replies: Vec<Reply>,
        requester: Option<SessionKey>,
        now: Instant,
    ) {
        for reply in replies {
            let message = Message {
                topic: reply.topic,
                payload: reply.payload,
                qos: reply.qos,
                retain: false,
                properties: Properties::EMPTY,
                publisher: None,
                taken: now,
            };
            match (reply.to, requester) {
                (Recipient::Subscribers, _) => {
                    self.route(message, None, now);
                }
                (Recipient::Requester, Some(key)) => self.hand_over(message, key, now),
                (Recipient::Requester, None) => {}
            }
        }
    }

    /// Hands a message to one session, whatever it subscribed to.
    fn hand_over(&mut self, message: Message, key: SessionKey, now: Instant) {
        for watcher in &self.watchers {
            self.stats.watch_lost += u64::from(watcher.offer(&message, None));
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let delivery = Delivery {
            qos: message.qos,
            retain: false,
            subscription_identifiers: Vec::new(),
            message: message.into(),
        };
        let mut turn = Turn {
            limits: &self.limits,
            policy: &*self.policy,
            stats: &mut self.stats,
            now,
        };
        session.deliver(delivery, &mut None, &mut turn);
    }
}
