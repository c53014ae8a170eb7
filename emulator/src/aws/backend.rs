//! What is behind the message broker: lifecycle events.

use std::time::SystemTime;

use bytes::Bytes;
use paquebot_protocols::mqtt::Topic;
use tokio::time::Instant;

use super::lifecycle::Lifecycle;
use crate::policy::Client;
use crate::service::{Event, Reply, Service};

#[derive(Debug, Default)]
pub(crate) struct Backend {
    lifecycle: Lifecycle,
}

impl Service for Backend {
    fn handle_publish(
        &mut self,
        _from: &Client<'_>,
        _topic: &Topic,
        _payload: &Bytes,
    ) -> Vec<Reply> {
        Vec::new()
    }

    fn handle_event(&mut self, event: &Event<'_>) -> Vec<Reply> {
        self.lifecycle
            .message(event, SystemTime::now())
            .into_iter()
            .collect()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _now: Instant) -> Vec<Reply> {
        Vec::new()
    }
}
