//! Subscriptions as desired state: what is wanted, what is in force, and the packets that close the gap.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::BytesMut;

use super::exchanges::Kind;
use super::inbound::violation;
use super::transmit::Transmit;
use super::{CloseReason, Event, ServerLimits, Session, Stage};
use crate::mqtt::{
    Packet, PacketId, Properties, ReasonCode, SubAck, Subscribe, Subscription, TopicFilter,
    Unsubscribe, Version,
};

/// The desired subscriptions of a session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    desired: BTreeMap<TopicFilter, Desired>,
    next_order: u64,
    /// How many desired ones are not in force.
    waiting: usize,
    /// Filters to subscribe in this connection; one that is not [`State::Unsent`] any more is passed over.
    unsent: VecDeque<TopicFilter>,
    /// Filters to unsubscribe; they outlive the connection.
    removals: VecDeque<TopicFilter>,
    /// Requests without an answer and their deadlines, oldest first.
    unanswered: VecDeque<(PacketId, Option<Instant>)>,
    /// [`Transmit::Subscriptions`] is in the transmit queue.
    pub(super) is_queued: bool,
}

#[derive(Debug)]
struct Desired {
    subscription: Subscription,
    order: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    /// Stands in the SUBSCRIBE with this identifier; the last one counts.
    Asked(PacketId),
    InForce,
}

impl Subscriptions {
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || !self.removals.is_empty()
    }

    pub(super) fn are_in_force(&self) -> bool {
        self.waiting == 0
    }

    /// The deadline of the oldest request without an answer.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.unanswered.front().and_then(|(_, deadline)| *deadline)
    }

    /// Gives the subscription back when `maximum` are desired already.
    fn want(
        &mut self,
        subscription: Subscription,
        maximum: usize,
        is_connected: bool,
    ) -> Result<(), Subscription> {
        let filter = subscription.filter.clone();
        if let Some(known) = self.desired.get_mut(&filter) {
            known.subscription = subscription;
            if known.state == State::Unsent {
                return Ok(());
            }
            self.waiting += usize::from(known.state == State::InForce);
            known.state = State::Unsent;
        } else {
            if self.desired.len() >= maximum {
                return Err(subscription);
            }
            let order = self.next_order;
            self.next_order += 1;
            let state = State::Unsent;
            self.desired.insert(
                filter.clone(),
                Desired {
                    subscription,
                    order,
                    state,
                },
            );
            self.waiting += 1;
        }
        // Without a connection the next CONNACK collects them.
        if is_connected {
            self.unsent.push_back(filter);
        }
        Ok(())
    }

    fn forget(&mut self, filter: &TopicFilter) {
        if let Some(forgotten) = self.desired.remove(filter) {
            self.waiting -= usize::from(forgotten.state != State::InForce);
        }
    }

    /// A connection begins: everything is to be asked for that the server does not hold for certain.
    fn begin_connection(&mut self, keeps_confirmed: bool) {
        let mut unsent: Vec<_> = self
            .desired
            .values_mut()
            .filter(|desired| !keeps_confirmed || desired.state != State::InForce)
            .map(|desired| {
                desired.state = State::Unsent;
                (desired.order, desired.subscription.filter.clone())
            })
            .collect();
        unsent.sort_unstable_by_key(|(order, _)| *order);
        self.waiting = unsent.len();
        self.unsent = unsent.into_iter().map(|(_, filter)| filter).collect();
    }

    /// The next batch of filters to ask for, and the events of those that the server said it does not take.
    fn next_batch(
        &mut self,
        limits: &ServerLimits,
        version: Version,
        filters_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Vec<Subscription> {
        let mut room = room(limits.maximum_packet_size);
        let mut batch = Vec::new();
        while batch.len() < filters_max.max(1)
            && let Some(filter) = self.unsent.front()
        {
            let Some(desired) = self
                .desired
                .get(filter)
                .filter(|desired| desired.state == State::Unsent)
            else {
                self.unsent.pop_front();
                continue;
            };
            let length = filter.as_str().len() + FILTER_OVERHEAD;
            if length > room && !batch.is_empty() {
                break;
            }
            let subscription = desired.subscription.clone();
            self.unsent.pop_front();
            let refusal = if length > room {
                Some(ReasonCode::PACKET_TOO_LARGE)
            } else {
                refusal(&subscription, limits, version)
            };
            match refusal {
                Some(code) => {
                    self.forget(&subscription.filter);
                    events.push_back(Event::Subscribed {
                        filter: subscription.filter,
                        code,
                        reason_string: None,
                    });
                }
                None => {
                    room -= length;
                    batch.push(subscription);
                }
            }
        }
        batch
    }

    /// The next batch of filters to unsubscribe.
    fn next_removals(
        &mut self,
        limits: &ServerLimits,
        version: Version,
        filters_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Vec<TopicFilter> {
        let mut room = room(limits.maximum_packet_size);
        let mut batch = Vec::new();
        while batch.len() < filters_max.max(1)
            && let Some(filter) = self.removals.front()
        {
            let length = filter.as_str().len() + FILTER_OVERHEAD;
            if length > room && !batch.is_empty() {
                break;
            }
            let Some(filter) = self.removals.pop_front() else {
                break;
            };
            let code = if !is_writable(&filter, version) {
                ReasonCode::TOPIC_FILTER_INVALID
            } else if length > room {
                ReasonCode::PACKET_TOO_LARGE
            } else {
                room -= length;
                batch.push(filter);
                continue;
            };
            events.push_back(Event::Unsubscribed { filter, code });
        }
        batch
    }

    fn asked(&mut self, id: PacketId, deadline: Option<Instant>, filters: &[TopicFilter]) {
        self.unanswered.push_back((id, deadline));
        for filter in filters {
            if let Some(desired) = self.desired.get_mut(filter) {
                desired.state = State::Asked(id);
            }
        }
    }

    fn answered(&mut self, id: PacketId) {
        // Servers answer in order, so it is nearly always the first one.
        if let Some(position) = self.unanswered.iter().position(|(asked, _)| *asked == id) {
            self.unanswered.remove(position);
        }
    }

    /// The answer to one filter; `false` when a later request has taken its place.
    fn settle(&mut self, filter: &TopicFilter, id: PacketId, code: ReasonCode) -> bool {
        let Some(desired) = self
            .desired
            .get_mut(filter)
            .filter(|desired| desired.state == State::Asked(id))
        else {
            return false;
        };
        if code.is_error() {
            self.forget(filter);
        } else {
            desired.state = State::InForce;
            self.waiting -= 1;
        }
        true
    }
}

/// Length prefix and options byte of a filter.
const FILTER_OVERHEAD: usize = 3;
/// Fixed header, packet identifier and empty properties at their longest.
const PACKET_OVERHEAD: usize = 8;

fn room(maximum_packet_size: Option<u32>) -> usize {
    // 268,435,455 bytes are what a packet can have at all (§1.5.5).
    let maximum = maximum_packet_size.map_or(268_435_455, |size| {
        usize::try_from(size).unwrap_or(usize::MAX)
    });
    maximum.saturating_sub(PACKET_OVERHEAD)
}

/// Whether the filter can be written at all: only MQTT 5 has rules for `$share/`.
fn is_writable(filter: &TopicFilter, version: Version) -> bool {
    version == Version::V311 || filter.check_shared().is_ok()
}

/// The code a server would have to answer with, from what it announced. A filter that cannot be written must not
/// take the others of its packet with it.
fn refusal(
    subscription: &Subscription,
    limits: &ServerLimits,
    version: Version,
) -> Option<ReasonCode> {
    let filter = &subscription.filter;
    if !is_writable(filter, version) {
        return Some(ReasonCode::TOPIC_FILTER_INVALID);
    }
    let is_shared = version == Version::V5 && filter.shared().is_some();
    if is_shared && !limits.shared_subscriptions {
        return Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    if is_shared && subscription.no_local {
        // The server would have to close the connection [MQTT-3.8.3-4].
        return Some(ReasonCode::PROTOCOL_ERROR);
    }
    if !limits.wildcard_subscriptions && filter.has_wildcards() {
        return Some(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    None
}

impl Session {
    pub(super) fn want(&mut self, mut subscription: Subscription) -> Result<(), Subscription> {
        if self.config.version == Version::V311 {
            // MQTT 3.1.1 has the QoS and no other option.
            subscription = Subscription::new(subscription.filter, subscription.qos);
        }
        let is_connected = self.stage.is_connected();
        self.subscriptions
            .want(subscription, self.config.subscriptions_max, is_connected)?;
        if is_connected {
            self.queue_subscriptions();
        }
        Ok(())
    }

    pub(super) fn unwant(&mut self, filter: &TopicFilter) {
        self.subscriptions.forget(filter);
        if self.subscriptions.removals.len() >= self.config.subscriptions_max {
            self.events.push_back(Event::Unsubscribed {
                filter: filter.clone(),
                code: ReasonCode::QUOTA_EXCEEDED,
            });
        } else {
            self.subscriptions.removals.push_back(filter.clone());
        }
        if self.stage.is_connected() {
            self.queue_subscriptions();
            self.check_online();
        }
    }

    /// Places the packets to come behind what is queued already.
    pub(super) fn queue_subscriptions(&mut self) {
        if !std::mem::replace(&mut self.subscriptions.is_queued, true) {
            self.transmit.push_back(Transmit::Subscriptions);
        }
    }

    /// CONNACK came: asks for what the server does not hold, or not for certain.
    pub(super) fn restore_subscriptions(&mut self, session_present: bool, in_doubt: bool) {
        self.subscriptions
            .begin_connection(session_present && !in_doubt);
        if !session_present {
            // Gone with the session.
            for filter in std::mem::take(&mut self.subscriptions.removals) {
                let code = ReasonCode::SUCCESS;
                self.events.push_back(Event::Unsubscribed { filter, code });
            }
        }
        if self.subscriptions.has_unsent() {
            self.queue_subscriptions();
        }
    }

    /// The connection is gone: its requests will not be answered.
    pub(super) fn abandon_requests(&mut self) {
        let mut removals = Vec::new();
        for (id, _) in std::mem::take(&mut self.subscriptions.unanswered) {
            if let Some(exchange) = self.exchanges.remove(id)
                && let Kind::Unsubscribe(filters) = exchange.kind
            {
                removals.extend(filters);
            }
        }
        for filter in removals.into_iter().rev() {
            self.subscriptions.removals.push_front(filter);
        }
        self.subscriptions.unsent = VecDeque::new();
    }

    /// Writes all SUBSCRIBE and UNSUBSCRIBE packets that are called for. Removals go first, so
    /// that a filter which was dropped and is wanted again ends up wanted.
    pub(super) fn write_subscriptions(&mut self, now: Instant, output: &mut BytesMut) {
        self.subscriptions.is_queued = false;
        if !self.stage.is_connected() {
            return;
        }
        let version = self.config.version;
        let filters_max = self.config.filters_per_subscribe_max;
        // Without a free identifier the rest waits until one is given back.
        while !self.exchanges.is_full() {
            let filters = self.subscriptions.next_removals(
                &self.limits,
                version,
                filters_max,
                &mut self.events,
            );
            if filters.is_empty() {
                break;
            }
            self.write_unsubscribe(now, filters, output);
        }
        while !self.exchanges.is_full() {
            let batch =
                self.subscriptions
                    .next_batch(&self.limits, version, filters_max, &mut self.events);
            if batch.is_empty() {
                break;
            }
            self.write_subscribe(now, batch, output);
        }
        self.check_online();
    }

    fn write_subscribe(&mut self, now: Instant, batch: Vec<Subscription>, output: &mut BytesMut) {
        let filters: Vec<_> = batch.iter().map(|s| s.filter.clone()).collect();
        let Ok(exchange) = self.exchanges.insert(Kind::Subscribe(filters.clone())) else {
            return;
        };
        let id = exchange.id;
        let packet = Packet::Subscribe(Subscribe {
            packet_id: id,
            filters: batch,
            properties: Properties::EMPTY,
        });
        if self.writer.write(&packet, output).is_ok() {
            let deadline = now.checked_add(self.config.subscribe_timeout);
            self.subscriptions.asked(id, deadline, &filters);
            return;
        }
        self.exchanges.remove(id);
        for filter in filters {
            self.subscriptions.forget(&filter);
            self.events.push_back(Event::Subscribed {
                filter,
                code: ReasonCode::TOPIC_FILTER_INVALID,
                reason_string: None,
            });
        }
    }

    fn write_unsubscribe(
        &mut self,
        now: Instant,
        filters: Vec<TopicFilter>,
        output: &mut BytesMut,
    ) {
        let Ok(exchange) = self.exchanges.insert(Kind::Unsubscribe(filters.clone())) else {
            return;
        };
        let id = exchange.id;
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: id,
            filters: filters.clone(),
            properties: Properties::EMPTY,
        });
        if self.writer.write(&packet, output).is_ok() {
            let deadline = now.checked_add(self.config.subscribe_timeout);
            self.subscriptions.asked(id, deadline, &[]);
            return;
        }
        self.exchanges.remove(id);
        for filter in filters {
            let code = ReasonCode::TOPIC_FILTER_INVALID;
            self.events.push_back(Event::Unsubscribed { filter, code });
        }
    }

    pub(super) fn handle_suback(&mut self, ack: SubAck) -> Result<(), CloseReason> {
        let id = ack.packet_id;
        let filters = match self.exchanges.get_mut(id).map(|e| &mut e.kind) {
            None => return Ok(()),
            Some(Kind::Subscribe(filters)) => std::mem::take(filters),
            Some(_) => {
                return Err(violation(
                    ReasonCode::PROTOCOL_ERROR,
                    "MQTT-3.8.4-2",
                    format!("SUBACK for packet identifier {id}, which is no SUBSCRIBE"),
                ));
            }
        };
        self.end_request(id);
        if ack.reason_codes.len() != filters.len() {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-3.8.4-5",
                format!(
                    "SUBACK with {} codes for {} filters",
                    ack.reason_codes.len(),
                    filters.len()
                ),
            ));
        }
        for (filter, code) in filters.into_iter().zip(ack.reason_codes) {
            if self.subscriptions.settle(&filter, id, code) {
                self.events.push_back(Event::Subscribed {
                    filter,
                    code,
                    reason_string: ack.properties.reason_string.clone(),
                });
            }
        }
        self.check_online();
        Ok(())
    }

    pub(super) fn handle_unsuback(&mut self, ack: &SubAck) -> Result<(), CloseReason> {
        let id = ack.packet_id;
        let filters = match self.exchanges.get_mut(id).map(|e| &mut e.kind) {
            None => return Ok(()),
            Some(Kind::Unsubscribe(filters)) => std::mem::take(filters),
            Some(_) => {
                return Err(violation(
                    ReasonCode::PROTOCOL_ERROR,
                    "MQTT-3.10.4-4",
                    format!("UNSUBACK for packet identifier {id}, which is no UNSUBSCRIBE"),
                ));
            }
        };
        self.end_request(id);
        // On MQTT 3.1.1 it has no codes.
        if !ack.reason_codes.is_empty() && ack.reason_codes.len() != filters.len()
            || ack.reason_codes.is_empty() && self.config.version == Version::V5
        {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-3.11.3-1",
                format!(
                    "UNSUBACK with {} codes for {} filters",
                    ack.reason_codes.len(),
                    filters.len()
                ),
            ));
        }
        let codes = ack.reason_codes.iter().copied();
        for (filter, code) in filters
            .into_iter()
            .zip(codes.chain(std::iter::repeat(ReasonCode::SUCCESS)))
        {
            self.events.push_back(Event::Unsubscribed { filter, code });
        }
        Ok(())
    }

    fn end_request(&mut self, id: PacketId) {
        self.exchanges.remove(id);
        self.subscriptions.answered(id);
        if self.subscriptions.has_unsent() {
            self.queue_subscriptions();
        }
    }

    /// Online once every desired subscription was answered.
    pub(super) fn check_online(&mut self) {
        if self.stage == Stage::Restoring && self.subscriptions.are_in_force() {
            self.stage = Stage::Online;
            self.events.push_back(Event::Online);
        }
    }
}
