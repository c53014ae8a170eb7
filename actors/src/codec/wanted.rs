//! What the consumers of a link asked for, added up to what the server is asked for.

use paquebot_protocols::model::DeviceId;
use paquebot_protocols::mqtt::{ReasonCode, Subscription, TopicFilter};

use super::leaving::Leaving;
use super::requests::Requests;
use super::shadows::Shadows;
use crate::inbound::Granted;
use crate::message::SubscribeError;
use crate::small_map::SmallMap;

/// The filters of all consumers.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    filters: SmallMap<TopicFilter, Vec<Wish>>,
    /// Who takes the commands for a device.
    commands: SmallMap<DeviceId, u64>,
    /// Who waits for the answers to filters that were given up.
    pub(super) leaving: Leaving,
    /// `None` on a link without documents of state.
    pub(super) shadows: Option<Box<Shadows>>,
    /// `None` on a link that made no request.
    pub(super) requests: Option<Box<Requests>>,
}

/// What one consumer asked for on a filter.
#[derive(Debug)]
struct Wish {
    consumer: u64,
    subscription: Subscription,
    granted: Granted,
}

impl Wanted {
    /// The subscription that serves this one and those of the other consumers of its filter: the highest QoS,
    /// and no message that one of them wants kept back. Retained messages are asked for as the newcomer wants.
    pub(super) fn merged(&self, newcomer: &Subscription) -> Subscription {
        let mut merged = newcomer.clone();
        for wish in self.filters.get(&newcomer.filter).into_iter().flatten() {
            let other = &wish.subscription;
            merged.qos = merged.qos.max(other.qos);
            merged.no_local &= other.no_local;
            merged.retain_as_published |= other.retain_as_published;
        }
        merged
    }

    pub(super) fn add(&mut self, consumer: u64, subscription: Subscription, granted: Granted) {
        let filter = subscription.filter.clone();
        let wish = Wish {
            consumer,
            subscription,
            granted,
        };
        match self.filters.get_mut(&filter) {
            Some(wishes) => wishes.push(wish),
            None => {
                self.filters.insert(filter, vec![wish]);
            }
        }
    }

    /// Whether a consumer has the filter.
    pub(super) fn has(&self, filter: &TopicFilter) -> bool {
        self.filters.get(filter).is_some()
    }

    /// The server refused a filter. Its consumers learn it here, before the link is online: whoever asks them then whether
    /// they are ready is not told of an earlier connection.
    pub(super) fn refuse(&self, filter: &TopicFilter, code: ReasonCode) {
        for wish in self.filters.get(filter).into_iter().flatten() {
            wish.granted.refuse(SubscribeError::Refused {
                filter: filter.clone(),
                code,
            });
        }
    }

    /// A consumer leaves a filter; whether it was the last one. What the others get does not change before that:
    /// asking the server for less would have it send retained messages again.
    pub(super) fn remove(&mut self, consumer: u64, filter: &TopicFilter) -> bool {
        let Some(wishes) = self.filters.get_mut(filter) else {
            return false;
        };
        if let Some(index) = wishes.iter().position(|wish| wish.consumer == consumer) {
            wishes.remove(index);
        }
        if !wishes.is_empty() {
            return false;
        }
        self.filters.remove(filter);
        true
    }

    /// Whether nobody else takes the commands for the device.
    pub(super) fn claim_commands(&mut self, consumer: u64, device: &DeviceId) -> bool {
        if self.commands.get(device).is_some() {
            return false;
        }
        self.commands.insert(device.clone(), consumer);
        true
    }

    pub(super) fn release_commands(&mut self, consumer: u64) {
        self.commands.retain(|holder| *holder != consumer);
    }
}

#[cfg(test)]
mod tests {
    use paquebot_protocols::mqtt::QoS;

    use super::*;

    fn asks(filter: &str, qos: QoS) -> Subscription {
        Subscription::new(TopicFilter::new(filter).unwrap(), qos)
    }

    #[test]
    fn the_server_is_asked_for_the_most_that_any_consumer_wants() {
        let mut wanted = Wanted::default();
        let first = Subscription {
            no_local: true,
            ..asks("t", QoS::ExactlyOnce)
        };
        assert_eq!(wanted.merged(&first), first);
        wanted.add(1, first, Granted::default());
        let second = Subscription {
            retain_as_published: true,
            ..asks("t", QoS::AtMostOnce)
        };
        let merged = wanted.merged(&second);
        assert_eq!(merged.qos, QoS::ExactlyOnce);
        assert!(!merged.no_local && merged.retain_as_published);
        assert_eq!(
            wanted.merged(&asks("u", QoS::AtMostOnce)).qos,
            QoS::AtMostOnce
        );
        wanted.add(2, second, Granted::default());
        assert!(!wanted.remove(1, &asks("t", QoS::AtMostOnce).filter));
        assert!(wanted.remove(2, &asks("t", QoS::AtMostOnce).filter));
    }

    #[test]
    fn a_consumer_that_names_a_filter_twice_leaves_it_with_the_second() {
        let mut wanted = Wanted::default();
        let subscription = asks("t", QoS::AtLeastOnce);
        wanted.add(1, subscription.clone(), Granted::default());
        wanted.add(1, subscription.clone(), Granted::default());
        assert!(!wanted.remove(1, &subscription.filter));
        assert!(wanted.remove(1, &subscription.filter));
    }
}
