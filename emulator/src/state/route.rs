//! From one published message to all its subscribers.

use std::sync::Arc;

use bytestring::ByteString;
use paquebot_protocols::mqtt::QoS;
use tokio::time::Instant;

use super::State;
use crate::message::{Delivery, Message};
use crate::session::Turn;
use crate::subscriptions::Match;

impl State {
    /// Takes a message in: shows it to the watchers, retains it where it asks for that, and hands it to
    /// every session that subscribed. Returns how many those are.
    pub(crate) fn route(
        &mut self,
        message: Message,
        client_id: Option<&ByteString>,
        now: Instant,
    ) -> usize {
        for watcher in &self.watchers {
            self.stats.watch_lost += u64::from(watcher.offer(&message, client_id));
        }
        if message.retain
            && self.limits.retain_available
            && !self.retained.store(&message, &self.limits)
        {
            self.stats.dropped_retained += 1;
        }
        let mut found = std::mem::take(&mut self.matches);
        let sessions = &self.sessions;
        let is_online = |key| {
            sessions
                .get(key)
                .is_some_and(|session| session.link.is_some())
        };
        self.subscriptions
            .find(&message.topic, &is_online, &mut found);
        if let Some(publisher) = message.publisher {
            found.retain(|found| !found.options.no_local || found.session != publisher);
        }
        // Overlapping subscriptions of one session make one delivery [MQTT-3.3.4-2].
        found.sort_unstable_by_key(|found| (found.shared, found.session));
        let message = Arc::new(message);
        let mut kept = None;
        let mut count = 0;
        for group in found.chunk_by(|one, next| !one.shared && one.session == next.session) {
            count += 1;
            self.deliver(&message, group, &mut kept, now);
        }
        found.clear();
        self.matches = found;
        count
    }

    fn deliver(
        &mut self,
        message: &Arc<Message>,
        group: &[Match],
        kept: &mut Option<Arc<Message>>,
        now: Instant,
    ) {
        let Some(session) = group
            .first()
            .and_then(|found| self.sessions.get_mut(found.session))
        else {
            return;
        };
        let granted = group.iter().map(|found| found.options.qos).max();
        let as_published = group.iter().any(|found| found.options.retain_as_published);
        let delivery = Delivery {
            message: Arc::clone(message),
            qos: message.qos.min(granted.unwrap_or(QoS::AtMostOnce)),
            retain: message.retain && as_published,
            subscription_identifiers: group
                .iter()
                .filter_map(|found| found.options.identifier)
                .collect(),
        };
        let mut turn = Turn {
            limits: &self.limits,
            policy: &*self.policy,
            stats: &mut self.stats,
            now,
        };
        session.deliver(delivery, kept, &mut turn);
    }
}
