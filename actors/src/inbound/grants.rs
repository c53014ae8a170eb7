//! How the answers of a consumer's filters add up.

use paquebot_protocols::mqtt::{QoS, TopicFilter};
use tokio::sync::watch;

use crate::message::SubscribeError;

/// What a consumer was granted: the lowest QoS, once every filter has its answer.
#[derive(Debug)]
pub(crate) struct Grants {
    sender: watch::Sender<Option<Result<QoS, SubscribeError>>>,
    open: Vec<TopicFilter>,
    lowest: QoS,
}

impl Grants {
    pub(crate) fn new(sender: watch::Sender<Option<Result<QoS, SubscribeError>>>) -> Self {
        Self {
            sender,
            open: Vec::new(),
            lowest: QoS::ExactlyOnce,
        }
    }

    pub(crate) fn expect(&mut self, filters: &[TopicFilter]) {
        self.open = filters.to_vec();
        if self.open.is_empty() {
            self.tell(Ok(self.lowest));
        }
    }

    pub(crate) fn answer(&mut self, filter: &TopicFilter, result: Result<QoS, SubscribeError>) {
        if !self.open.contains(filter) {
            return;
        }
        // A filter that was named twice has one answer.
        self.open.retain(|open| open != filter);
        match result {
            Ok(qos) => {
                self.lowest = self.lowest.min(qos);
                if self.open.is_empty() {
                    self.tell(Ok(self.lowest));
                }
            }
            Err(error) => self.tell(Err(error)),
        }
    }

    fn tell(&self, answer: Result<QoS, SubscribeError>) {
        self.sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(answer);
            }
            first
        });
    }
}
