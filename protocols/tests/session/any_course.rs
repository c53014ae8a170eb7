//! Any course of publishing, acknowledging, breaking and reconnecting, against a small server of the test's own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{CloseReason, Event, InboundId, SessionConfig};
use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, PacketId, PropertySet, Publish, QoS, ReasonCode, SubAck, Version,
};
use proptest::prelude::*;

use crate::link::{Link, accepted, ack, config, inbound, options, token_of};

#[derive(Debug, Clone)]
enum Action {
    Publish(QoS),
    Subscribe(u8),
    /// The session's bytes go on the wire.
    Write,
    /// The server reads so many packets.
    ServerReads(usize),
    /// The server sends the n-th of the answers it owes: acknowledgements come in any order.
    ServerAnswers(usize),
    ServerPublishes(QoS),
    /// The session reads so many packets.
    ClientReads(usize),
    /// The application is done with the n-th message it was ever given, which may be long stale.
    Acknowledge(usize),
    /// What is on the wire is lost, in both directions. The server may lose the session.
    Break {
        session_kept: bool,
        receive_maximum: u16,
    },
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        1 => Just(QoS::AtMostOnce),
        3 => Just(QoS::AtLeastOnce),
        3 => Just(QoS::ExactlyOnce),
    ]
}

fn action(session_kept: BoxedStrategy<bool>) -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => qos().prop_map(Action::Publish),
        1 => (0..6_u8).prop_map(Action::Subscribe),
        6 => Just(Action::Write),
        4 => (1..6_usize).prop_map(Action::ServerReads),
        6 => (0..8_usize).prop_map(Action::ServerAnswers),
        3 => qos().prop_map(Action::ServerPublishes),
        4 => (1..6_usize).prop_map(Action::ClientReads),
        4 => (0..40_usize).prop_map(Action::Acknowledge),
        2 => (session_kept, 1..8_u16).prop_map(|(session_kept, receive_maximum)| Action::Break {
            session_kept,
            receive_maximum,
        }),
    ]
}

/// A server with one client: what it must remember of the session, and what it saw.
#[derive(Default)]
struct Server {
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    received: BTreeSet<PacketId>,
    /// Each arrival of a message, doubles of QoS 2 left out: what subscribers would get.
    passed_on: Vec<u64>,
    /// Answers it has not sent yet.
    owed: Vec<Packet>,
    /// Identifiers of PUBLISH packets of this connection without a final answer.
    unanswered: BTreeSet<PacketId>,
    receive_maximum: usize,
    /// Its own messages that the client has not acknowledged for good.
    sending: BTreeMap<PacketId, Sending>,
    next_id: u16,
    /// The order in which acknowledgements of this connection have to come.
    expected_puback: VecDeque<PacketId>,
    expected_pubrec: VecDeque<PacketId>,
}

struct Sending {
    serial: u64,
    qos: QoS,
    is_released: bool,
}

struct World {
    link: Link,
    server: Server,
    to_server: VecDeque<Packet>,
    to_client: VecDeque<Packet>,
    /// What each accepted message came to.
    outcomes: HashMap<u64, Vec<Event>>,
    published: Vec<(u64, QoS)>,
    /// Identifiers the client has in use, as seen on the wire, and the message of each.
    in_use: HashMap<PacketId, Option<u64>>,
    handed_over: Vec<InboundId>,
    /// How often each message of the server was handed over.
    received: HashMap<u64, (QoS, usize)>,
    server_published: Vec<(u64, QoS)>,
    sessions_lost: usize,
}

impl World {
    fn new(version: Version) -> Self {
        let mut link = Link::new(SessionConfig {
            inflight_max: 5,
            receive_maximum: 8,
            ..config(version)
        });
        link.subscribe("always");
        let mut world = Self {
            link,
            server: Server::default(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            outcomes: HashMap::new(),
            published: Vec::new(),
            in_use: HashMap::new(),
            handed_over: Vec::new(),
            received: HashMap::new(),
            server_published: Vec::new(),
            sessions_lost: 0,
        };
        world.connect(false, 5);
        world
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Publish(qos) => self.publish(qos),
            Action::Subscribe(number) => {
                let filter = format!("filter/{number}");
                let subscription = crate::link::subscription(&filter);
                self.link
                    .session
                    .subscribe(self.link.now, subscription)
                    .unwrap();
            }
            Action::Write => self.write(),
            Action::ServerReads(count) => {
                for _ in 0..count {
                    self.server_reads();
                }
            }
            Action::ServerAnswers(which) => self.server_answers(which),
            Action::ServerPublishes(qos) => self.server_publishes(qos),
            Action::ClientReads(count) => {
                for _ in 0..count {
                    self.client_reads();
                }
            }
            Action::Acknowledge(which) => {
                if let Some(id) = self.handed_over.get(which % self.handed_over.len().max(1)) {
                    self.link.session.acknowledge(self.link.now, *id);
                }
            }
            Action::Break {
                session_kept,
                receive_maximum,
            } => {
                self.link.drop_transport();
                self.take_events();
                self.connect(session_kept, receive_maximum);
            }
        }
        self.take_events();
    }

    fn connect(&mut self, session_kept: bool, receive_maximum: u16) {
        self.to_server.clear();
        self.to_client.clear();
        self.link.connect(options());
        if !session_kept {
            self.sessions_lost += 1;
            self.in_use.clear();
            let (passed_on, next_id) = (
                std::mem::take(&mut self.server.passed_on),
                self.server.next_id,
            );
            self.server = Server {
                passed_on,
                next_id,
                ..Server::default()
            };
        }
        // Requests are not part of the session; their identifiers are free.
        self.in_use.retain(|_, token| token.is_some());
        self.server.owed.clear();
        self.server.unanswered.clear();
        self.server.expected_puback.clear();
        self.server.expected_pubrec.clear();
        let is_5 = self.link.version == Version::V5;
        self.server.receive_maximum = if is_5 { receive_maximum.into() } else { 65_535 };
        self.to_client.push_back(accepted(
            session_kept,
            PropertySet {
                receive_maximum: is_5.then_some(receive_maximum),
                ..PropertySet::default()
            },
        ));
        let mut again: Vec<_> = self.server.sending.iter().collect();
        again.sort_by_key(|(_, sending)| sending.serial);
        let again: Vec<_> = again
            .into_iter()
            .map(|(id, sending)| (*id, sending.serial, sending.qos, sending.is_released))
            .collect();
        for (id, serial, qos, is_released) in again {
            if is_released {
                self.to_client.push_back(Packet::PubRel(ack(id)));
            } else {
                self.send(id, serial, qos, true);
            }
        }
    }

    fn publish(&mut self, qos: QoS) {
        if !self.link.session.is_online()
            || qos > QoS::AtMostOnce && self.link.session.publish_credit() == 0
        {
            return;
        }
        let token = self.published.len() as u64;
        self.link.publish(token, qos);
        self.published.push((token, qos));
    }

    fn write(&mut self) {
        for packet in self.link.sent() {
            match &packet {
                Packet::Publish(publish) if publish.qos > QoS::AtMostOnce => {
                    let token = token_of(publish);
                    let id = publish.packet_id.unwrap();
                    let before = self.in_use.insert(id, Some(token));
                    match before {
                        None => {}
                        Some(before) => {
                            assert_eq!(before, Some(token), "{id} was reused in flight");
                            assert!(publish.dup, "{id} was sent again without DUP");
                        }
                    }
                }
                Packet::Subscribe(subscribe) => {
                    let before = self.in_use.insert(subscribe.packet_id, None);
                    assert_eq!(before, None, "{} was reused", subscribe.packet_id);
                }
                _ => {}
            }
            self.to_server.push_back(packet);
        }
    }

    fn server_reads(&mut self) {
        let Some(packet) = self.to_server.pop_front() else {
            return;
        };
        let server = &mut self.server;
        match packet {
            Packet::Publish(publish) => {
                let token = token_of(&publish);
                let Some(id) = publish.packet_id else {
                    server.passed_on.push(token);
                    return;
                };
                server.unanswered.insert(id);
                assert!(
                    server.unanswered.len() <= server.receive_maximum,
                    "receive maximum {} exceeded",
                    server.receive_maximum
                );
                if publish.qos == QoS::AtLeastOnce {
                    server.passed_on.push(token);
                    server.owed.push(Packet::PubAck(ack(id)));
                } else {
                    if server.received.insert(id) {
                        server.passed_on.push(token);
                    }
                    server.owed.push(Packet::PubRec(ack(id)));
                }
            }
            Packet::PubRel(release) => {
                let is_known = server.received.remove(&release.packet_id);
                let code = if is_known || self.link.version == Version::V311 {
                    ReasonCode::SUCCESS
                } else {
                    ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
                };
                server
                    .owed
                    .push(Packet::PubComp(Acknowledgement::with_reason(
                        release.packet_id,
                        code,
                    )));
            }
            Packet::Subscribe(subscribe) => {
                server.owed.push(Packet::SubAck(SubAck {
                    packet_id: subscribe.packet_id,
                    reason_codes: vec![ReasonCode::GRANTED_QOS_1; subscribe.filters.len()],
                    properties: PropertySet::default().into(),
                }));
            }
            Packet::PubAck(done) => {
                assert_eq!(
                    server.expected_puback.pop_front(),
                    Some(done.packet_id),
                    "PUBACK out of order"
                );
                server.sending.remove(&done.packet_id);
            }
            Packet::PubRec(done) => {
                assert_eq!(
                    server.expected_pubrec.pop_front(),
                    Some(done.packet_id),
                    "PUBREC out of order"
                );
                server.sending.get_mut(&done.packet_id).unwrap().is_released = true;
                self.to_client
                    .push_back(Packet::PubRel(ack(done.packet_id)));
            }
            Packet::PubComp(done) => {
                server.sending.remove(&done.packet_id);
            }
            other => panic!("{other:?}"),
        }
    }

    fn server_answers(&mut self, which: usize) {
        if self.server.owed.is_empty() {
            return;
        }
        let packet = self.server.owed.remove(which % self.server.owed.len());
        if let Packet::PubAck(done) | Packet::PubComp(done) = &packet {
            self.server.unanswered.remove(&done.packet_id);
        }
        self.to_client.push_back(packet);
    }

    fn server_publishes(&mut self, qos: QoS) {
        // One less than Receive Maximum leaves room for exchanges that PUBREL has not reached yet.
        if self.server.sending.len() >= 7 {
            return;
        }
        let serial = self.server_published.len() as u64;
        if qos == QoS::AtMostOnce {
            self.to_client.push_back(Packet::Publish(Publish {
                payload: Bytes::copy_from_slice(&serial.to_be_bytes()),
                ..inbound(qos, 0, "")
            }));
            return;
        }
        // A small circle, so that identifiers come back soon.
        let id = loop {
            self.server.next_id = self.server.next_id % 9 + 1;
            let id = PacketId::new(self.server.next_id).unwrap();
            if !self.server.sending.contains_key(&id) {
                break id;
            }
        };
        self.server_published.push((serial, qos));
        self.server.sending.insert(
            id,
            Sending {
                serial,
                qos,
                is_released: false,
            },
        );
        self.send(id, serial, qos, false);
    }

    fn send(&mut self, id: PacketId, serial: u64, qos: QoS, dup: bool) {
        match qos {
            QoS::AtLeastOnce => self.server.expected_puback.push_back(id),
            _ => self.server.expected_pubrec.push_back(id),
        }
        self.to_client.push_back(Packet::Publish(Publish {
            dup,
            payload: Bytes::copy_from_slice(&serial.to_be_bytes()),
            ..inbound(qos, id.value(), "")
        }));
    }

    fn client_reads(&mut self) {
        let Some(packet) = self.to_client.pop_front() else {
            return;
        };
        match &packet {
            Packet::PubAck(done) | Packet::PubComp(done) => {
                self.in_use.remove(&done.packet_id);
            }
            Packet::SubAck(done) => {
                self.in_use.remove(&done.packet_id);
            }
            _ => {}
        }
        self.link.receive(packet);
    }

    fn take_events(&mut self) {
        for event in self.link.events() {
            match &event {
                Event::Transmitted { token }
                | Event::Unsent { token }
                | Event::Delivered { token, .. }
                | Event::Rejected { token, .. }
                | Event::Expired { token } => {
                    self.outcomes.entry(*token).or_default().push(event);
                }
                Event::Message(message) => {
                    let serial = u64::from_be_bytes(message.payload.as_ref().try_into().unwrap());
                    if let Some(id) = message.id {
                        self.handed_over.push(id);
                        self.received.entry(serial).or_insert((message.qos, 0)).1 += 1;
                    }
                }
                Event::Closed(reason) => assert!(matches!(
                    reason,
                    CloseReason::TransportClosed | CloseReason::Unanswered
                )),
                _ => {}
            }
        }
    }

    /// Lets everybody do everything until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.write();
            while !self.to_server.is_empty() {
                self.server_reads();
            }
            while !self.server.owed.is_empty() {
                self.server_answers(0);
            }
            while !self.to_client.is_empty() {
                self.client_reads();
            }
            self.take_events();
            for id in &self.handed_over {
                self.link.session.acknowledge(self.link.now, *id);
            }
            self.write();
            if self.to_server.is_empty() && self.link.session.is_online() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self) {
        assert_eq!(self.link.session.inflight_len(), 0);
        assert!(self.server.sending.is_empty());
        for (token, qos) in &self.published {
            let outcome = self.outcomes.get(token).map_or(&[][..], Vec::as_slice);
            assert_eq!(outcome.len(), 1, "message {token} ended in {outcome:?}");
            let passed_on = self.server.passed_on.iter().filter(|t| *t == token).count();
            match (qos, &outcome[0]) {
                (QoS::AtMostOnce, Event::Transmitted { .. }) => assert!(passed_on <= 1),
                (QoS::AtMostOnce, Event::Unsent { .. }) => assert_eq!(passed_on, 0),
                (QoS::AtLeastOnce, Event::Delivered { .. }) => assert!(passed_on >= 1),
                (QoS::ExactlyOnce, Event::Delivered { session_lost, .. }) => {
                    assert!(passed_on == 1 || passed_on > 1 && *session_lost);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.outcomes.len(), self.published.len());
        let mut seen = BTreeSet::new();
        let mut latest = None;
        for token in &self.server.passed_on {
            let qos = self.published[*token as usize].1;
            if qos > QoS::AtMostOnce && seen.insert(*token) {
                assert!(latest < Some(*token), "{token} was overtaken by {latest:?}");
                latest = Some(*token);
            }
        }
        for (serial, qos) in &self.server_published {
            let count = self.received.get(serial).map_or(0, |(_, count)| *count);
            if *qos == QoS::ExactlyOnce {
                assert!(count <= 1, "message {serial} was handed over {count} times");
            }
            if self.sessions_lost == 1 {
                assert!(count >= 1, "message {serial} was lost");
            }
        }
    }
}

fn run(version: Version, actions: &[Action]) {
    let mut world = World::new(version);
    for action in actions {
        world.act(action);
    }
    world.settle();
    world.check();
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
}

proptest! {
    #[test]
    fn every_message_ends_once_and_in_order_while_the_session_lives(
        version in version(),
        actions in prop::collection::vec(action(Just(true).boxed()), 0..200),
    ) {
        run(version, &actions);
    }

    #[test]
    fn every_message_ends_once_and_in_order_when_sessions_are_lost(
        version in version(),
        actions in prop::collection::vec(action(any::<bool>().boxed()), 0..200),
    ) {
        run(version, &actions);
    }
}
