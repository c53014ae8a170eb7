//! Any course of publishing, acknowledging, breaking, reconnecting and, with a disk, crashing, against a small server of
//! the test's own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{
    CloseReason, Event, InboundId, Progress, Restored, SessionConfig,
};
use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, PacketId, PropertySet, Publish, QoS, ReasonCode, SubAck, Version,
};
use proptest::prelude::*;

use crate::disk::{Disk, Entry};
use crate::link::{Link, accepted, ack, config, inbound, options, outgoing, token_of};

#[derive(Debug, Clone)]
enum Action {
    Publish(QoS),
    Subscribe(u8),
    /// The session's bytes go on the wire, or wait for the disk.
    Write,
    /// The next so many records become durable.
    Record(usize),
    /// Everything that is ready goes to the server, and all of its answers come back.
    RoundTrip,
    /// The process ends at once, and another one starts: what is not on the disk is gone.
    Crash {
        session_kept: bool,
    },
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
        2 => (session_kept.clone(), 1..8_u16).prop_map(|(session_kept, receive_maximum)| Action::Break {
            session_kept,
            receive_maximum,
        }),
    ]
}

fn action_on_disk(session_kept: BoxedStrategy<bool>) -> impl Strategy<Value = Action> {
    prop_oneof![
        36 => action(session_kept.clone()),
        8 => (1..6_usize).prop_map(Action::Record),
        8 => Just(Action::RoundTrip),
        3 => session_kept.prop_map(|session_kept| Action::Crash { session_kept }),
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
    /// `None`: nothing is recorded and nothing crashes.
    disk: Option<Disk>,
    /// Packets that were written, each with how many entries must be durable before it leaves.
    held: VecDeque<(usize, Packet)>,
    /// Accepted messages that are not in the session yet, after a crash.
    waiting: VecDeque<u64>,
    /// QoS 0 messages that a crash took away.
    lost: BTreeSet<u64>,
    /// Messages of the server at QoS 2: those that this process was given, the one that each identifier means, and
    /// those that are on the disk.
    given: BTreeSet<u64>,
    meaning: HashMap<PacketId, u64>,
    given_for_good: BTreeSet<u64>,
}

impl World {
    fn new(version: Version, disk: Option<Disk>) -> Self {
        let link = Self::new_link(version, disk.is_some());
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
            disk,
            held: VecDeque::new(),
            waiting: VecDeque::new(),
            lost: BTreeSet::new(),
            given: BTreeSet::new(),
            meaning: HashMap::new(),
            given_for_good: BTreeSet::new(),
        };
        world.connect(false, 5);
        world
    }

    fn new_link(version: Version, journal: bool) -> Link {
        let mut link = Link::new(SessionConfig {
            inflight_max: 5,
            receive_maximum: 8,
            sets_aside: true,
            journal,
            ..config(version)
        });
        link.subscribe("always");
        link
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
            Action::Record(count) => self.sync(count),
            Action::RoundTrip => self.round_trip(),
            Action::Crash { session_kept } => self.crash(session_kept),
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
        self.held.clear();
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

    fn crash(&mut self, session_kept: bool) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        disk.crash();
        self.link = Self::new_link(self.link.version, true);
        self.handed_over.clear();
        self.given.clear();
        self.meaning.clear();
        for (token, qos) in &self.published {
            if *qos == QoS::AtMostOnce {
                if !self.outcomes.contains_key(token) {
                    self.lost.insert(*token);
                }
            } else if !disk.ended.contains(token) {
                self.outcomes.remove(token);
            }
        }
        let unended = self
            .published
            .iter()
            .filter(|(token, qos)| *qos > QoS::AtMostOnce && !disk.ended.contains(token));
        let last_recorded = disk.outbound.last_key_value().map(|(token, _)| *token);
        let mut restored = Vec::new();
        self.waiting.clear();
        for (token, qos) in unended {
            if Some(*token) > last_recorded {
                self.waiting.push_back(*token);
                continue;
            }
            let progress = disk.outbound.get(token);
            restored.push(Restored {
                message: outgoing(*token, *qos),
                progress: progress.copied().unwrap_or(Progress::Unrecorded),
            });
        }
        let inbound = disk.inbound.iter().copied();
        let refused = self.link.session.restore(restored, inbound);
        assert!(refused.is_empty(), "{refused:?}");
        // What left the old process at QoS 2 and was not answered for good, the new one knows of.
        self.in_use.retain(|id, token| {
            let Some(token) = *token else {
                return false;
            };
            if self.published[token as usize].1 == QoS::AtLeastOnce {
                return false;
            }
            let progress = disk.outbound.get(&token);
            assert!(
                matches!(progress, Some(Progress::Published(known) | Progress::Released(known)) if known == id)
                    || matches!(progress, Some(Progress::Withdrawn)) && !session_kept,
                "{id} of message {token} left and is recorded as {progress:?}"
            );
            true
        });
        self.connect(session_kept, 5);
    }

    /// Messages that a crash left unsent go before new ones.
    fn publish_waiting(&mut self) {
        while let Some(token) = self.waiting.front().copied()
            && self.link.session.publish_credit() > 0
        {
            self.waiting.pop_front();
            self.link.publish(token, self.published[token as usize].1);
        }
    }

    fn publish(&mut self, qos: QoS) {
        self.publish_waiting();
        if !self.waiting.is_empty()
            || !self.link.session.is_online()
            || qos > QoS::AtMostOnce && self.link.session.publish_credit() == 0
        {
            return;
        }
        let token = self.published.len() as u64;
        self.link.publish(token, qos);
        self.published.push((token, qos));
    }

    fn write(&mut self) {
        let sent = self.link.sent();
        self.take_records();
        let needed = self.disk.as_ref().map_or(0, Disk::written);
        self.held
            .extend(sent.into_iter().map(|packet| (needed, packet)));
        self.release();
    }

    fn take_records(&mut self) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        for record in self.link.records() {
            disk.write(Entry::Session(record));
        }
    }

    fn sync(&mut self, count: usize) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        disk.sync(count);
        self.release();
    }

    fn release(&mut self) {
        let durable = self.disk.as_ref().map_or(0, Disk::durable);
        while let Some((_, packet)) = self.held.pop_front_if(|(needed, _)| *needed <= durable) {
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
                Packet::PubRec(done) => {
                    self.given_for_good
                        .extend(self.meaning.get(&done.packet_id));
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
            self.server.next_id = self.server.next_id % 8 + 1;
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
        // What is known of a message is written before its end.
        self.take_records();
        for event in self.link.events() {
            match &event {
                Event::Transmitted { token }
                | Event::Unsent { token }
                | Event::Delivered { token, .. }
                | Event::Rejected { token, .. }
                | Event::Expired { token } => {
                    if let Some(disk) = &mut self.disk {
                        disk.write(Entry::Ended(*token));
                    }
                    self.outcomes.entry(*token).or_default().push(event);
                }
                Event::Message(message) => {
                    let serial = u64::from_be_bytes(message.payload.as_ref().try_into().unwrap());
                    if let Some(id) = message.id {
                        self.handed_over.push(id);
                        self.received.entry(serial).or_insert((message.qos, 0)).1 += 1;
                        if message.qos == QoS::ExactlyOnce {
                            assert!(
                                self.given.insert(serial) && !self.given_for_good.contains(&serial),
                                "message {serial} was handed over again"
                            );
                            self.meaning.insert(id.packet_id, serial);
                        }
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

    fn round_trip(&mut self) {
        self.write();
        self.sync(usize::MAX);
        while !self.to_server.is_empty() {
            self.server_reads();
        }
        while !self.server.owed.is_empty() {
            self.server_answers(0);
        }
        while !self.to_client.is_empty() {
            self.client_reads();
        }
    }

    /// Lets everybody do everything until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.publish_waiting();
            self.round_trip();
            self.take_events();
            for id in &self.handed_over {
                self.link.session.acknowledge(self.link.now, *id);
            }
            self.write();
            self.sync(usize::MAX);
            if self.to_server.is_empty() && self.waiting.is_empty() && self.link.session.is_online()
            {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self) {
        assert_eq!(self.link.session.inflight_len(), 0);
        assert!(self.server.sending.is_empty());
        for (token, qos) in &self.published {
            if self.lost.contains(token) {
                continue;
            }
            let outcome = self.outcomes.get(token).map_or(&[][..], Vec::as_slice);
            assert_eq!(outcome.len(), 1, "message {token} ended in {outcome:?}");
            let passed_on = self.server.passed_on.iter().filter(|t| *t == token).count();
            match (qos, &outcome[0]) {
                (QoS::AtMostOnce, Event::Transmitted { .. }) => assert!(passed_on <= 1),
                (QoS::AtMostOnce, Event::Unsent { .. }) => assert_eq!(passed_on, 0),
                (QoS::AtLeastOnce, Event::Delivered { .. }) => assert!(passed_on >= 1),
                // This server is not behind the ends of its connections, but it looks so now and then.
                (QoS::AtLeastOnce, Event::Rejected { code, .. }) => {
                    assert_eq!(*code, ReasonCode::NOT_AUTHORIZED);
                }
                (QoS::ExactlyOnce, Event::Delivered { session_lost, .. }) => {
                    let may_double = *session_lost && self.sessions_lost > 1;
                    assert!(passed_on == 1 || passed_on > 1 && may_double);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.outcomes.len() + self.lost.len(), self.published.len());
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
            if *qos == QoS::ExactlyOnce && self.disk.is_none() {
                assert!(count <= 1, "message {serial} was handed over {count} times");
            }
            if self.sessions_lost == 1 {
                assert!(count >= 1, "message {serial} was lost");
            }
        }
    }
}

fn run(version: Version, disk: Option<Disk>, actions: &[Action]) {
    let mut world = World::new(version, disk);
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
        run(version, None, &actions);
    }

    #[test]
    fn every_message_ends_once_and_in_order_when_sessions_are_lost(
        version in version(),
        actions in prop::collection::vec(action(any::<bool>().boxed()), 0..200),
    ) {
        run(version, None, &actions);
    }

    #[test]
    fn every_message_ends_once_and_in_order_when_the_process_crashes(
        version in version(),
        actions in prop::collection::vec(action_on_disk(Just(true).boxed()), 0..200),
    ) {
        run(version, Some(Disk::default()), &actions);
    }

    #[test]
    fn every_message_ends_and_in_order_when_the_process_crashes_and_sessions_are_lost(
        version in version(),
        actions in prop::collection::vec(action_on_disk(any::<bool>().boxed()), 0..200),
    ) {
        run(version, Some(Disk::default()), &actions);
    }
}
