//! SUBSCRIBE and UNSUBSCRIBE: the packets that close the gap between the desired subscriptions and
//! those in force, and their answers.

use std::time::Instant;

use bytes::BytesMut;

use super::exchanges::Kind;
use super::inbound::violation;
use super::subscriptions::Removal;
use super::transmit::Transmit;
use super::{CloseReason, Event, Session, Stage};
use crate::mqtt::{
    Packet, PacketId, Properties, ReasonCode, SubAck, Subscribe, Subscription, TopicFilter,
    Unsubscribe, Version,
};

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

    pub(super) fn unwant(&mut self, filter: &TopicFilter, token: u64) {
        let maximum = self.config.subscriptions_max;
        let filter = filter.clone();
        if let Err(removal) = self
            .subscriptions
            .unwant(Removal { filter, token }, maximum)
        {
            self.events
                .push_back(removal.answered(ReasonCode::QUOTA_EXCEEDED));
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
            for removal in self.subscriptions.take_removals() {
                self.events.push_back(removal.answered(ReasonCode::SUCCESS));
            }
        }
        if self.subscriptions.has_unsent() {
            self.queue_subscriptions();
        }
    }

    /// The connection is gone: its requests will not be answered.
    pub(super) fn abandon_requests(&mut self) {
        let mut removals = Vec::new();
        for id in self.subscriptions.end_connection() {
            if let Some(exchange) = self.exchanges.remove(id)
                && let Kind::Unsubscribe(unanswered) = exchange.kind
            {
                removals.extend(unanswered);
            }
        }
        self.subscriptions.repeat_removals(removals);
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
            let removals = self.subscriptions.next_removals(
                &self.limits,
                version,
                filters_max,
                &mut self.events,
            );
            if removals.is_empty() {
                break;
            }
            self.write_unsubscribe(now, removals, output);
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
        let kind = Kind::Subscribe(filters.clone());
        let Some((id, _)) = self.exchanges.insert(kind) else {
            return;
        };
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

    fn write_unsubscribe(&mut self, now: Instant, removals: Vec<Removal>, output: &mut BytesMut) {
        let filters = removals.iter().map(|removal| removal.filter.clone());
        let filters = filters.collect();
        let kind = Kind::Unsubscribe(removals.clone());
        let Some((id, _)) = self.exchanges.insert(kind) else {
            return;
        };
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: id,
            filters,
            properties: Properties::EMPTY,
        });
        if self.writer.write(&packet, output).is_ok() {
            let deadline = now.checked_add(self.config.subscribe_timeout);
            self.subscriptions.asked(id, deadline, &[]);
            return;
        }
        self.exchanges.remove(id);
        for removal in removals {
            let code = ReasonCode::TOPIC_FILTER_INVALID;
            self.events.push_back(removal.answered(code));
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
        let removals = match self.exchanges.get_mut(id).map(|e| &mut e.kind) {
            None => return Ok(()),
            Some(Kind::Unsubscribe(removals)) => std::mem::take(removals),
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
        if !ack.reason_codes.is_empty() && ack.reason_codes.len() != removals.len()
            || ack.reason_codes.is_empty() && self.config.version == Version::V5
        {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-3.11.3-1",
                format!(
                    "UNSUBACK with {} codes for {} filters",
                    ack.reason_codes.len(),
                    removals.len()
                ),
            ));
        }
        let codes = ack.reason_codes.iter().copied();
        for (removal, code) in removals
            .into_iter()
            .zip(codes.chain(std::iter::repeat(ReasonCode::SUCCESS)))
        {
            self.events.push_back(removal.answered(code));
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
