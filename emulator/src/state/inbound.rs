//! What connected clients send.

use std::borrow::Cow;

use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling, Sender, SubAck,
    Subscribe, Subscription, Topic, TopicFilter, Unsubscribe, Version,
};
use tokio::time::Instant;

use super::{State, Timer};
use crate::link::{Link, LinkId};
use crate::message::{Delivery, Message, detached_topic};
use crate::policy::{Client, Decision, Verdict};
use crate::remarks::{Explanation, Quoted};
use crate::service::EventKind;
use crate::session::{Session, Turn, Violation};
use crate::subscriptions::SubscriptionOptions;

impl State {
    /// Takes the packets of one read, in order. What follows the end of the connection is dropped.
    pub(crate) fn handle_packets(&mut self, link: LinkId, packets: &mut Vec<Packet>, now: Instant) {
        for packet in packets.drain(..) {
            if self.recorder.is_some() {
                self.note(link, &packet);
            }
            if let Err(violation) = self.handle_packet(link, packet, now) {
                self.handle_violation(link, violation, now);
                break;
            }
        }
        self.settle(link, now);
        self.hold_to_pace(link, now);
    }

    /// Stops reading from a client that publishes too fast.
    fn hold_to_pace(&mut self, link: LinkId, now: Instant) {
        let Some((session, _)) = self.parts(link, now) else {
            return;
        };
        let Some(connected) = &mut session.link else {
            return;
        };
        let debt = connected.pace.as_ref().and_then(|pace| pace.debt());
        if let Some(debt) = debt
            && !connected.is_paced
        {
            connected.is_paced = true;
            connected.outbox.stall_reading(true);
            let text = format!(
                "it publishes more than {} messages or {} bytes a second",
                shown(self.limits.publishes_per_second_max),
                shown(self.limits.publish_bytes_per_second_max)
            );
            let why = Explanation::new(
                "limit: what a connection publishes in a second (AWS quota: 100 messages, 512 KiB)",
                text,
            );
            let what = format!("it is not read from for {} ms", debt.as_millis());
            self.remark(link.session, what, &why);
            self.schedule(now + debt, Timer::EndPause(link));
        }
    }

    pub(super) fn end_pause(&mut self, link: LinkId, now: Instant) {
        let Some((session, _)) = self.parts(link, now) else {
            return;
        };
        let client_id = session.client_id.clone();
        if let Some(connected) = &mut session.link {
            connected.is_paced = false;
        }
        // A fault may stall it all the same.
        let stalled = self.faults.orders_for(&client_id).reading_stalled;
        if let Some((session, _)) = self.parts(link, now)
            && let Some(connected) = &session.link
        {
            connected.outbox.stall_reading(stalled);
        }
    }

    /// Puts a packet of a client that is still connected on record.
    fn note(&self, link: LinkId, packet: &Packet) {
        if let Some(session) = self.sessions.get(link.session)
            && let Some(connected) = &session.link
            && connected.serial == link.serial
        {
            connected.note(Sender::Client, packet);
        }
    }

    fn handle_packet(
        &mut self,
        link: LinkId,
        packet: Packet,
        now: Instant,
    ) -> Result<(), Violation> {
        if let Packet::Publish(publish) = packet {
            return self.handle_publish(link, publish, now);
        }
        let Some((session, mut turn)) = self.parts(link, now) else {
            return Ok(());
        };
        match packet {
            Packet::PubAck(ack) => {
                session.acknowledge(&ack)?;
                session.pump(&mut turn);
            }
            Packet::PubRec(ack) => {
                session.receive(&ack, now)?;
                session.pump(&mut turn);
            }
            Packet::PubComp(ack) => {
                session.complete(&ack)?;
                session.pump(&mut turn);
            }
            Packet::PubRel(ack) => handle_release(session, &ack, now),
            Packet::PingReq => return answer_ping(session, &turn),
            Packet::Subscribe(subscribe) => self.handle_subscribe(link, &subscribe, now)?,
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(link, &unsubscribe, now),
            Packet::Disconnect(disconnect) => self.handle_disconnect(link, &disconnect, now)?,
            Packet::Connect(_) => {
                return Err(Violation::new(
                    ReasonCode::PROTOCOL_ERROR,
                    "a connection takes one CONNECT only",
                ));
            }
            other => {
                tracing::debug!(packet = other.name(), "a packet that clients do not send");
                return Err(Violation::new(
                    ReasonCode::PROTOCOL_ERROR,
                    "a client does not send this packet here",
                ));
            }
        }
        Ok(())
    }

    fn handle_publish(
        &mut self,
        link: LinkId,
        publish: Publish,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some((session, turn)) = self.parts(link, now) else {
            return Ok(());
        };
        turn.stats.count_received(publish.qos);
        let Some(connected) = &mut session.link else {
            return Ok(());
        };
        let topic = resolve_alias(connected, &publish, turn.limits.topic_alias_maximum)?;
        if let Some(pace) = &mut connected.pace {
            pace.count(topic.as_str().len() + publish.payload.len(), now);
        }
        let client = Client {
            client_id: &session.client_id,
            principal: session.principal.as_deref(),
            version: connected.version,
        };
        let verdict = turn.policy.judge_publish(&client, &topic, &publish);
        let mut refused_for = None;
        if verdict != Verdict::Allow {
            let asked = Decision::Publish(&client, &topic, &publish);
            let why = turn.policy.explain(&asked).unwrap_or(POLICY);
            match verdict {
                Verdict::Close(code) => return Err(against_the_rules(code, why)),
                Verdict::Ignore => {
                    self.remark(link.session, "a message is left unanswered", &why);
                    return Ok(());
                }
                _ => refused_for = Some(why),
            }
        }
        check_publish(&publish, turn.limits)?;
        if let Some(packet_id) = publish.packet_id {
            if session.unreleased.contains(&packet_id) {
                // Taken in before: acknowledged again, not handed on again [MQTT-4.3.3-10].
                let ack = connected.acknowledgement(packet_id, ReasonCode::SUCCESS);
                connected.send(Packet::PubRec(ack), now);
                return Ok(());
            }
            let outstanding = session.unreleased.len() + connected.withheld_pubacks();
            if connected.is_v5() && outstanding >= usize::from(turn.limits.receive_maximum) {
                return Err(Violation::new(
                    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                    "more QoS 1 and 2 messages unacknowledged than CONNACK allowed",
                ));
            }
            check_holds(connected, turn.limits.outbound_packets_max)?;
        }
        let client_id = session.client_id.clone();
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        let mut offered = None;
        let code = if let Some(why) = refused_for {
            self.remark(link.session, "a message is refused", &why);
            self.stats.denied += 1;
            ReasonCode::NOT_AUTHORIZED
        } else {
            offered = self
                .service
                .is_some()
                .then(|| (topic.clone(), publish.payload.clone()));
            let message = accept(publish, topic, link, now);
            match self.route(message, Some(&client_id), now) {
                0 => ReasonCode::NO_MATCHING_SUBSCRIBERS,
                _ => ReasonCode::SUCCESS,
            }
        };
        if let Some(packet_id) = packet_id
            && let Some((session, _)) = self.parts(link, now)
        {
            acknowledge(session, qos, packet_id, code, now);
        }
        if let Some((topic, payload)) = offered {
            self.offer(link.session, &topic, &payload, now);
        }
        Ok(())
    }

    fn handle_subscribe(
        &mut self,
        link: LinkId,
        subscribe: &Subscribe,
        now: Instant,
    ) -> Result<(), Violation> {
        let identifier = subscribe
            .properties
            .subscription_identifiers
            .first()
            .copied();
        let Some((session, turn)) = self.parts(link, now) else {
            return Ok(());
        };
        let verdict = turn.policy.judge_subscribe(&session.client(), subscribe);
        if verdict != Verdict::Allow {
            let asked = session.client();
            let why = turn.policy.explain(&Decision::Subscribe(&asked, subscribe));
            let why = why.unwrap_or(POLICY);
            match verdict {
                Verdict::Close(code) => return Err(against_the_rules(code, why)),
                Verdict::Ignore => {
                    self.remark(link.session, "a SUBSCRIBE is left unanswered", &why);
                    return Ok(());
                }
                _ => self.remark(link.session, "a SUBSCRIBE is refused", &why),
            }
        }
        let mut reason_codes = Vec::with_capacity(subscribe.filters.len());
        let mut replays = Vec::new();
        let mut granted = Vec::new();
        for wanted in &subscribe.filters {
            if wanted.no_local && wanted.filter.shared().is_some() {
                return Err(Violation::new(
                    ReasonCode::PROTOCOL_ERROR,
                    "a shared subscription cannot be No Local [MQTT-3.8.3-4]",
                ));
            }
            if verdict == Verdict::Refuse {
                reason_codes.push(ReasonCode::NOT_AUTHORIZED);
                continue;
            }
            match self.subscribe(link, wanted, identifier, now)? {
                Ok((options, is_new)) => {
                    granted.push(&wanted.filter);
                    reason_codes.push(ReasonCode(options.qos as u8));
                    let replay = match wanted.retain_handling {
                        RetainHandling::OnSubscribe => true,
                        RetainHandling::OnNewSubscription => is_new,
                        RetainHandling::Never => false,
                    };
                    if replay && wanted.filter.shared().is_none() {
                        replays.push((wanted, options));
                    }
                }
                Err(code) => reason_codes.push(code),
            }
        }
        let Some((session, _)) = self.parts(link, now) else {
            return Ok(());
        };
        if let Some(connected) = &mut session.link {
            if !connected.is_v5() {
                for code in &mut reason_codes {
                    if code.is_error() {
                        *code = ReasonCode::UNSPECIFIED_ERROR;
                    }
                }
            }
            let suback = SubAck {
                packet_id: subscribe.packet_id,
                reason_codes,
                properties: Default::default(),
            };
            connected.send(Packet::SubAck(suback), now);
        }
        for (wanted, options) in replays {
            if self.limits.retained_on_wildcards || !wanted.filter.has_wildcards() {
                self.replay_retained(link, &wanted.filter, options, now);
            }
        }
        if !granted.is_empty() {
            self.tell(link.session, EventKind::Subscribed(&granted), now);
        }
        Ok(())
    }

    /// Adds one subscription, or says what SUBACK is to refuse it with.
    ///
    /// # Errors
    /// The policy ends the connection over it.
    fn subscribe(
        &mut self,
        link: LinkId,
        wanted: &Subscription,
        identifier: Option<u32>,
        now: Instant,
    ) -> Result<Result<(SubscriptionOptions, bool), ReasonCode>, Violation> {
        let refused = |code| Ok(Err(code));
        let limits = &self.limits;
        let text = wanted.filter.as_str();
        if wanted.filter.levels().count() > limits.filter_levels_max {
            return refused(ReasonCode::TOPIC_FILTER_INVALID);
        }
        if identifier.is_some() && !limits.subscription_identifiers {
            return refused(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED);
        }
        if !limits.shared_subscriptions && wanted.filter.shared().is_some() {
            return refused(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if !limits.wildcard_subscriptions && wanted.filter.has_wildcards() {
            return refused(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        let granted = wanted.qos.min(limits.maximum_qos);
        let subscriptions_max = limits.subscriptions_max;
        let Some(session) = self.sessions.get_mut(link.session) else {
            return refused(ReasonCode::UNSPECIFIED_ERROR);
        };
        let present = session.subscriptions.contains_key(&wanted.filter);
        let others = session.subscriptions.len() - usize::from(present);
        let client = session.client();
        let verdict = self.policy.judge_filter(&client, wanted, others);
        let is_beyond_limit = !present && session.subscriptions.len() >= subscriptions_max;
        if verdict != Verdict::Allow || is_beyond_limit {
            let why = self
                .policy
                .explain(&Decision::Filter(&client, wanted, others));
            if let Verdict::Close(code) = verdict {
                return Err(against_the_rules(code, why.unwrap_or(POLICY)));
            }
            let (code, otherwise) = match verdict {
                Verdict::Allow => (ReasonCode::QUOTA_EXCEEDED, TOO_MANY_SUBSCRIPTIONS),
                _ => (ReasonCode::NOT_AUTHORIZED, POLICY),
            };
            let what = format!("a subscription to {} is refused", Quoted(text));
            self.remark(link.session, what, &why.unwrap_or(otherwise));
            return refused(code);
        }
        let options = SubscriptionOptions::new(wanted, granted, identifier);
        let filter = detached_filter(&wanted.filter);
        self.subscriptions.insert(&filter, link.session, options);
        session.subscriptions.insert(filter, options);
        tracing::trace!(client_id = %session.client_id, filter = text, ?now, "subscribed");
        Ok(Ok((options, !present)))
    }

    fn replay_retained(
        &mut self,
        link: LinkId,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        now: Instant,
    ) {
        for message in self.retained.find(filter, now) {
            if options.no_local && message.publisher == Some(link.session) {
                continue;
            }
            let Some((session, mut turn)) = self.parts(link, now) else {
                return;
            };
            let mut kept = Some(message.clone());
            let delivery = Delivery {
                qos: message.qos.min(options.qos),
                retain: true,
                subscription_identifiers: options.identifier.into_iter().collect(),
                message,
            };
            session.deliver(delivery, &mut kept, &mut turn);
        }
    }

    fn handle_unsubscribe(&mut self, link: LinkId, unsubscribe: &Unsubscribe, now: Instant) {
        let mut reason_codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let removed = self.subscriptions.remove(filter, link.session);
            if let Some(session) = self.sessions.get_mut(link.session) {
                session.subscriptions.remove(filter);
            }
            reason_codes.push(if removed {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::NO_SUBSCRIPTION_EXISTED
            });
        }
        let Some((session, _)) = self.parts(link, now) else {
            return;
        };
        if let Some(connected) = &mut session.link {
            if !connected.is_v5() {
                reason_codes.clear();
            }
            let unsuback = SubAck {
                packet_id: unsubscribe.packet_id,
                reason_codes,
                properties: Default::default(),
            };
            connected.send(Packet::UnsubAck(unsuback), now);
        }
        let unsubscribed = EventKind::Unsubscribed(&unsubscribe.filters);
        self.tell(link.session, unsubscribed, now);
    }
}

/// What is said of a policy that explains nothing.
const POLICY: Explanation = Explanation {
    rule: "the server's policy",
    text: Cow::Borrowed("it does not allow this"),
};

const TOO_MANY_SUBSCRIPTIONS: Explanation = Explanation {
    rule: "limit: subscriptions of a session",
    text: Cow::Borrowed("it has as many as it may"),
};

/// The client is told less than the log, as by a real server.
fn against_the_rules(code: ReasonCode, why: Explanation) -> Violation {
    let mut violation = Violation::new(code, "the server's rules do not allow this packet");
    violation.explanation = Some(Box::new(why));
    violation
}

/// A limit as a line shows it.
fn shown(limit: Option<u32>) -> String {
    limit.map_or_else(|| "any number of".to_owned(), |limit| limit.to_string())
}

fn check_publish(publish: &Publish, limits: &crate::Limits) -> Result<(), Violation> {
    if publish.qos > limits.maximum_qos {
        return Err(Violation::new(
            ReasonCode::QOS_NOT_SUPPORTED,
            "the QoS is above the server's maximum QoS",
        ));
    }
    if publish.retain && !limits.retain_available {
        return Err(Violation::new(
            ReasonCode::RETAIN_NOT_SUPPORTED,
            "the server keeps no retained messages",
        ));
    }
    if !publish.properties.subscription_identifiers.is_empty() {
        return Err(Violation::new(
            ReasonCode::PROTOCOL_ERROR,
            "a client's PUBLISH carries no subscription identifier [MQTT-3.3.4-6]",
        ));
    }
    Ok(())
}

/// The topic of a PUBLISH, through the connection's aliases where it has none of its own (§3.3.2.3.4).
fn resolve_alias(link: &mut Link, publish: &Publish, maximum: u16) -> Result<Topic, Violation> {
    let Some(alias) = publish.properties.topic_alias else {
        return publish.topic.clone().ok_or(Violation::new(
            ReasonCode::PROTOCOL_ERROR,
            "a PUBLISH has a topic or a topic alias",
        ));
    };
    if alias == 0 || alias > maximum {
        return Err(Violation::new(
            ReasonCode::TOPIC_ALIAS_INVALID,
            "the topic alias is 0 or above the server's topic alias maximum",
        ));
    }
    match &publish.topic {
        Some(topic) => {
            link.aliases.insert(alias, detached_topic(topic));
            Ok(topic.clone())
        }
        None => link.aliases.get(&alias).cloned().ok_or(Violation::new(
            ReasonCode::PROTOCOL_ERROR,
            "the topic alias was not defined on this connection",
        )),
    }
}

fn accept(publish: Publish, topic: Topic, link: LinkId, now: Instant) -> Message {
    let mut properties = publish.properties;
    if properties.topic_alias.is_some() {
        properties.edit().topic_alias = None;
    }
    Message {
        topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties,
        publisher: Some(link.session),
        taken: now,
    }
}

fn acknowledge(
    session: &mut Session,
    qos: QoS,
    packet_id: PacketId,
    code: ReasonCode,
    now: Instant,
) {
    let Some(link) = &mut session.link else {
        return;
    };
    let ack = link.acknowledgement(packet_id, code);
    if qos == QoS::ExactlyOnce {
        // MQTT 3.1.1 has no way to refuse, so its exchange goes on to the end.
        if link.version == Version::V311 || !code.is_error() {
            session.unreleased.insert(packet_id);
        }
        link.send(Packet::PubRec(ack), now);
    } else {
        link.send(Packet::PubAck(ack), now);
    }
}

/// PUBREL: the exchange is over, whether or not it was known `[MQTT-4.3.3-11]`.
fn handle_release(session: &mut Session, ack: &Acknowledgement, now: Instant) {
    let code = if session.unreleased.remove(&ack.packet_id) {
        ReasonCode::SUCCESS
    } else {
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
    };
    if let Some(link) = &mut session.link {
        let ack = link.acknowledgement(ack.packet_id, code);
        link.send(Packet::PubComp(ack), now);
    }
}

fn answer_ping(session: &mut Session, turn: &Turn<'_>) -> Result<(), Violation> {
    if let Some(link) = &mut session.link {
        check_holds(link, turn.limits.outbound_packets_max)?;
        link.send(Packet::PingResp, turn.now);
    }
    Ok(())
}

/// Bounds what a fault makes the server hold for one client.
fn check_holds(link: &Link, held_max: usize) -> Result<(), Violation> {
    if link
        .holds
        .as_ref()
        .is_some_and(|holds| holds.len() >= held_max)
    {
        return Err(Violation::new(
            ReasonCode::QUOTA_EXCEEDED,
            "too many packets wait for a scripted fault to end",
        ));
    }
    Ok(())
}

fn detached_filter(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::new(filter.as_str()).unwrap_or_else(|_| filter.clone())
}
