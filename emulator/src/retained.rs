//! Retained messages, ordered by topic: a filter is looked up from its literal prefix on.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use paquebot_protocols::mqtt::{Topic, TopicFilter};
use tokio::time::Instant;

use crate::limits::Limits;
use crate::message::Message;

#[derive(Debug, Default)]
pub(crate) struct RetainedMessages {
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    bytes: usize,
}

impl RetainedMessages {
    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Keeps the message, or with an empty payload forgets its topic `[MQTT-3.3.1-6]`. Returns whether it
    /// found room; what the topic had before is gone either way.
    pub(crate) fn store(&mut self, message: &Message, limits: &Limits) -> bool {
        let topic = message.topic.as_str();
        if let Some(old) = self.by_topic.remove(topic) {
            self.bytes -= old.weight();
        }
        if message.payload.is_empty() {
            return true;
        }
        if self.by_topic.len() >= limits.retained_messages_max
            || self.bytes + message.weight() > limits.retained_bytes_max
        {
            return false;
        }
        self.bytes += message.weight();
        self.by_topic
            .insert(topic.into(), Arc::new(message.detached()));
        true
    }

    /// The messages whose topics match, in the order of their topics; expired ones are forgotten.
    pub(crate) fn find(&mut self, filter: &TopicFilter, now: Instant) -> Vec<Arc<Message>> {
        let text = filter.as_str();
        let wildcard = text.find(['+', '#']);
        let prefix = match wildcard {
            // `a/#` matches `a` as well, so the separator is no part of the prefix.
            Some(at) => text[..at].trim_end_matches('/'),
            None => text,
        };
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut found = Vec::new();
        let mut expired = Vec::new();
        for (topic, message) in self.by_topic.range::<str, _>(from) {
            if !topic.starts_with(prefix) {
                break;
            }
            if wildcard.is_none() && **topic != *text {
                break;
            }
            if !filter.matches(&message.topic) {
                continue;
            }
            if message.is_expired(now) {
                expired.push(message.topic.clone());
            } else {
                found.push(Arc::clone(message));
            }
        }
        for topic in expired {
            self.forget(&topic);
        }
        found
    }

    fn forget(&mut self, topic: &Topic) {
        if let Some(old) = self.by_topic.remove(topic.as_str()) {
            self.bytes -= old.weight();
        }
    }
}
