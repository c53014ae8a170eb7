//! Any course of calls on a session, driven as the Codec actor drives it: bytes in through the
//! decoder, bytes and events out, time going forward. What has to hold is in [`ledger`].

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::session::{
    ConnectOptions, Event, InboundId, OnSessionLost, Outgoing, Session, SessionConfig,
};
use paquebot_protocols::mqtt::{
    Decoded, Decoder, Packet, Properties, PropertySet, QoS, ReasonCode, RetainHandling, Sender,
    Subscription, Topic, TopicFilter, Version, Will, encode,
};

use self::ledger::{Ledger, Stage};
use self::records::Records;
use crate::input::Input;

mod ledger;
mod records;
mod server;

/// Longer loops than these are endless ones.
const EVENTS_MAX: usize = 20_000;
const TRANSMITS_MAX: usize = 4;
const TIMEOUTS_MAX: usize = 4;
/// Enough to hand out every packet identifier once and some again.
const LAP: usize = 65_600;

const TOPICS: [&str; 6] = ["a", "a/b", "harbour/out", "$SYS/x", "é", "/"];
const FILTERS: [&str; 8] = ["a", "b", "#", "+/b", "$share/g/a", "$share/g", "a/b/c", "/"];

/// A course of a session, read from the input until it ends; then every message has to end.
pub fn session(version: Version, input: &[u8]) {
    run(version, input);
}

fn run(version: Version, input: &[u8]) -> Ledger {
    let mut input = Input::new(input);
    let mut course = Course::new(version, &mut input);
    let end = input.pick(&[End::Abrupt, End::Resumed, End::SessionLost]);
    while !input.is_empty() {
        course.act(&mut input);
        course.take_events();
    }
    if end != End::Abrupt {
        course.settle(end == End::Resumed);
    }
    course.end();
    course.ledger
}

/// How a course ends, before the messages that are left are drained.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Abrupt,
    /// A connection to a server that kept the session and answers everything.
    Resumed,
    /// The same with one that lost it.
    SessionLost,
}

struct Course {
    session: Session,
    version: Version,
    now: Instant,
    decoder: Decoder,
    ledger: Ledger,
    records: Records,
    handed_over: Vec<InboundId>,
    /// The present CONNECT named an authentication method.
    has_method: bool,
    /// A lap through all packet identifiers is due; few inputs afford one.
    is_lap_due: bool,
}

impl Course {
    fn new(version: Version, input: &mut Input) -> Self {
        let seconds = Duration::from_secs;
        let config = SessionConfig {
            version,
            inflight_max: input.pick(&[5, 1, 2, 300, 0, u16::MAX]),
            receive_maximum: input.pick(&[8, 1, 1_000, 0, u16::MAX]),
            packet_size_max: input.pick(&[1 << 20, 40, 0, u32::MAX]),
            topic_alias_maximum: input.pick(&[2, 0, u16::MAX]),
            topic_alias_send_max: input.pick(&[0, 1, 3, u16::MAX]),
            ping_timeout: input.pick(&[
                None,
                Some(seconds(0)),
                Some(seconds(3)),
                Some(Duration::MAX),
            ]),
            connack_timeout: input.pick(&[
                seconds(10),
                seconds(10),
                seconds(10),
                seconds(0),
                Duration::MAX,
            ]),
            subscribe_timeout: input.pick(&[
                seconds(10),
                seconds(10),
                seconds(10),
                seconds(0),
                Duration::MAX,
            ]),
            filters_per_subscribe_max: input.pick(&[100, 2, 1, 0]),
            subscriptions_max: input.pick(&[10_000, 3, 0]),
            on_session_lost: input.pick(&[OnSessionLost::Republish, OnSessionLost::Fail]),
            sets_aside: true,
            journal: true,
        };
        Self {
            ledger: Ledger::new(&config),
            records: Records::default(),
            session: Session::new(config),
            version,
            now: Instant::now(),
            decoder: Decoder::new(version, Sender::Server, usize::MAX),
            handed_over: Vec::new(),
            has_method: false,
            // Coverage would lead to nothing but laps, which are slow.
            is_lap_due: input.byte() == u8::MAX && !cfg!(fuzzing),
        }
    }

    fn act(&mut self, input: &mut Input) {
        // What is due is likely, or courses would hardly ever get anywhere.
        let is_due = !input.one_in(4);
        match self.ledger.stage() {
            Stage::Closed if is_due => return self.connect(input),
            Stage::Connecting if is_due => {
                self.transmit();
                if self.has_method && input.one_in(2) {
                    return self.authenticate(input);
                }
                let connack = server::connack(input, self.version);
                return self.receive(&connack, input);
            }
            _ => {}
        }
        match input.byte() {
            0..=49 => self.publish(input),
            50..=53 => self.lap(),
            54..=65 => self.subscribe(input),
            66..=73 => {
                let filter = filter(input);
                self.session.unsubscribe(self.now, &filter, 0);
            }
            74..=99 => self.acknowledge(input),
            100..=139 => self.transmit(),
            140..=189 => {
                if let Some(answer) = server::answer(input, &self.ledger) {
                    self.receive(&answer, input);
                }
            }
            190..=219 => {
                let publish = server::publish(input, self.version);
                self.receive(&publish, input);
            }
            220..=225 => {
                let packet = server::any(input, self.version);
                self.receive(&packet, input);
            }
            226 => {
                let length = input.byte().into();
                self.read(Bytes::copy_from_slice(input.take(length)));
            }
            227..=237 => self.wait(input),
            238..=241 => self.session.set_reading_paused(self.now, input.one_in(2)),
            242..=247 => self.authenticate(input),
            248..=250 => self.leave(input),
            251..=252 => self.session.handle_transport_closed(self.now),
            253 => self.connect(input),
            254 => {
                let connack = server::connack(input, self.version);
                self.receive(&connack, input);
            }
            _ => self.session.handle_timeout(self.now),
        }
    }

    fn connect(&mut self, input: &mut Input) {
        let options = connect_options(input);
        self.has_method = self.version == Version::V5 && options.authentication.is_some();
        self.begin(options);
        // A driver expects packets of a server; the session refuses the others by itself as well.
        let sender = input.pick(&[
            Sender::Server,
            Sender::Server,
            Sender::Server,
            Sender::Either,
        ]);
        self.decoder = Decoder::new(self.version, sender, usize::MAX);
    }

    fn begin(&mut self, options: ConnectOptions) {
        self.session.connect(self.now, options);
        // Those of the connection that was left.
        self.take_events();
        self.ledger.begin_connection();
    }

    fn publish(&mut self, input: &mut Input) {
        let mut properties = Properties::EMPTY;
        if input.one_in(8) {
            *properties.edit() = PropertySet {
                content_type: Some("text".into()),
                topic_alias: Some(7),
                message_expiry_interval: Some(9),
                subscription_identifiers: input.pick(&[vec![], vec![], vec![0]]),
                response_topic: input.pick(&[None, Some("r".into()), Some("+".into())]),
                ..PropertySet::default()
            };
        }
        let topic = Topic::from_static(input.pick(&TOPICS)).expect("a legal name");
        let qos = input.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]);
        let payload_bytes = input.pick(&[8_usize, 8, 8, 60, 1_000]);
        let life = input.pick(&[None, None, None, Some(0), Some(1), Some(100_000)]);
        self.offer(Outgoing {
            token: 0,
            topic,
            payload: Bytes::from(vec![0; payload_bytes]),
            qos,
            retain: input.one_in(4),
            properties,
            expires_at: life.map(|seconds| self.now + Duration::from_secs(seconds)),
        });
    }

    /// Publishes under the next token, which begins the payload.
    fn offer(&mut self, mut message: Outgoing) {
        let token = self.ledger.next_token();
        let mut payload = BytesMut::from(message.payload);
        payload[..8].copy_from_slice(&token.to_be_bytes());
        message.payload = payload.freeze();
        message.token = token;
        let credit = self.session.publish_credit();
        assert!(credit == 0 || self.session.is_online());
        let offered = message.clone();
        match self.session.publish(self.now, message) {
            Ok(()) => {
                assert!(self.session.is_online(), "a message was taken offline");
                self.ledger.accept(&offered);
            }
            Err(refused) => {
                assert_eq!(refused.token, token);
                assert!(
                    !self.session.is_online() || offered.qos > QoS::AtMostOnce && credit == 0,
                    "a message was refused with credit {credit}"
                );
            }
        }
    }

    /// So many short exchanges that the packet identifiers come round while others are in flight.
    fn lap(&mut self) {
        if !self.is_lap_due || !self.session.is_online() {
            return;
        }
        self.is_lap_due = false;
        for _ in 0..LAP {
            if self.session.publish_credit() == 0 {
                return;
            }
            let token = self.ledger.next_token();
            self.offer(Outgoing {
                token,
                topic: Topic::from_static("lap").expect("a legal name"),
                payload: Bytes::from_static(&[0; 8]),
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: Properties::EMPTY,
                expires_at: None,
            });
            self.take_events();
            self.transmit();
            let Some(answer) = self.ledger.answer_of(token) else {
                return;
            };
            self.session.handle_packet(self.now, answer);
            self.take_events();
        }
    }

    fn subscribe(&mut self, input: &mut Input) {
        let subscription = Subscription {
            filter: filter(input),
            qos: input.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]),
            no_local: input.one_in(4),
            retain_as_published: input.one_in(4),
            retain_handling: input.pick(&[
                RetainHandling::OnSubscribe,
                RetainHandling::OnNewSubscription,
                RetainHandling::Never,
            ]),
        };
        // Err: as many as the session takes are desired already.
        let _ = self.session.subscribe(self.now, subscription);
    }

    /// Mostly a recent message; it may be long stale all the same.
    fn acknowledge(&mut self, input: &mut Input) {
        let back = usize::from(input.byte());
        if let Some(id) = self.handed_over.iter().rev().nth(back) {
            self.session.acknowledge(self.now, *id);
        } else if let Some(id) = self.handed_over.last() {
            self.session.acknowledge(self.now, *id);
        }
    }

    /// A step of an enhanced authentication, mostly of both ends.
    fn authenticate(&mut self, input: &mut Input) {
        let data = input.pick(&[None, Some(Bytes::from_static(b"proof"))]);
        self.session.authenticate(self.now, data);
        if self.has_method && !input.one_in(4) {
            self.transmit();
            let auth = server::auth(input);
            self.receive(&auth, input);
        }
    }

    fn leave(&mut self, input: &mut Input) {
        match input.below(8) {
            0 => self.drain(),
            1 => self
                .session
                .disconnect(self.now, ReasonCode::DISCONNECT_WITH_WILL),
            2 => {
                let code = ReasonCode(input.byte());
                self.session.disconnect(self.now, code);
            }
            _ => self.session.disconnect(self.now, ReasonCode::SUCCESS),
        }
    }

    /// A packet on its way from the server; seldom a byte of it changes.
    fn receive(&mut self, packet: &Packet, input: &mut Input) {
        let mut output = BytesMut::new();
        if encode(packet, self.version, &mut output).is_err() {
            return;
        }
        if input.one_in(64) {
            let place = usize::from(input.byte()) % output.len();
            output[place] = input.byte();
        }
        self.read(output.freeze());
    }

    fn read(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            match self.decoder.decode(&mut bytes) {
                Ok(Decoded::Packet(packet)) => {
                    self.ledger.receive(&packet);
                    self.session.handle_packet(self.now, packet);
                    self.take_events();
                }
                Ok(Decoded::Incomplete { .. }) => return,
                Err(error) => {
                    self.session.handle_decode_error(self.now, &error);
                    return;
                }
            }
        }
    }

    /// Takes the bytes that are ready and reads them as a server does.
    fn transmit(&mut self) {
        self.take_events();
        for _ in 0..TRANSMITS_MAX {
            let mut output = BytesMut::new();
            let has_written = self.session.poll_transmit(self.now, &mut output);
            assert_eq!(has_written, !output.is_empty());
            self.ledger.begin_transmit();
            self.take_events();
            let mut bytes = output.freeze();
            let mut decoder = Decoder::new(self.version, Sender::Client, usize::MAX);
            while !bytes.is_empty() {
                let before = bytes.len();
                match decoder.decode(&mut bytes) {
                    Ok(Decoded::Packet(packet)) => {
                        let size = before - bytes.len();
                        self.ledger.send(&packet, size, self.session.window());
                    }
                    other => panic!("a server cannot read {bytes:02x?}: {other:?}"),
                }
            }
            self.ledger.end_transmit();
            if !has_written {
                return;
            }
        }
        panic!("the session has ever more to send");
    }

    fn wait(&mut self, input: &mut Input) {
        let deadline = self.session.poll_timeout();
        let until = match (input.below(4), deadline) {
            (0, Some(deadline)) => deadline,
            (1, _) => self.now + Duration::from_millis(input.byte().into()),
            (2, _) => self.now + Duration::from_secs(u64::from(input.byte()) * 300),
            _ => self.now + Duration::from_secs(input.byte().into()),
        };
        // A deadline past this is never waited for: some of them are ages away.
        let latest = self.now + Duration::from_secs(100_000);
        self.now = until.clamp(self.now, latest);
        self.session.handle_timeout(self.now);
        let mut calls = 0;
        while self.session.poll_timeout().is_some_and(|at| at <= self.now) {
            self.session.handle_timeout(self.now);
            calls += 1;
            assert!(calls <= TIMEOUTS_MAX, "the deadline does not go away");
        }
    }

    fn take_events(&mut self) {
        while let Some(record) = self.session.poll_record() {
            self.records.note(record);
        }
        let mut count = 0;
        while let Some(event) = self.session.poll_event() {
            self.ledger.event(&event);
            if let Event::Message(message) = &event {
                assert_eq!(message.id.is_some(), message.qos > QoS::AtMostOnce);
                self.handed_over.extend(message.id);
            }
            count += 1;
            assert!(count <= EVENTS_MAX, "the session has ever more to tell");
        }
        assert_eq!(self.session.is_online(), self.ledger.is_online());
        assert!(self.session.inflight_len() <= self.ledger.unended());
    }

    /// A server that answers everything lets every message end.
    fn settle(&mut self, session_present: bool) {
        self.begin(ConnectOptions {
            keep_alive: Duration::ZERO,
            ..plain_options()
        });
        self.decoder = Decoder::new(self.version, Sender::Server, usize::MAX);
        self.transmit();
        let connack = server::accepting(session_present);
        self.session.handle_packet(self.now, connack);
        self.take_events();
        for _ in 0..EVENTS_MAX {
            self.transmit();
            let Some(answer) = self.ledger.next_answer() else {
                assert!(self.session.is_online(), "it does not come online");
                assert_eq!(self.ledger.unended(), 0, "messages hang");
                assert_eq!(self.session.inflight_len(), 0);
                return;
            };
            self.ledger.receive(&answer);
            self.session.handle_packet(self.now, answer);
            self.take_events();
        }
        panic!("it does not come to rest");
    }

    fn drain(&mut self) {
        self.take_events();
        let tokens = self.session.drain();
        self.ledger.drain(&tokens);
        assert_eq!(self.session.inflight_len(), 0);
        assert!(self.session.drain().is_empty(), "drained twice");
    }

    fn end(&mut self) {
        self.drain();
        self.transmit();
        self.session.handle_transport_closed(self.now);
        self.take_events();
        assert_eq!(self.ledger.unended(), 0);
    }
}

fn connect_options(input: &mut Input) -> ConnectOptions {
    let mut options = plain_options();
    options.clean_start = input.one_in(12);
    options.keep_alive = input.pick(&[
        Duration::from_secs(60),
        Duration::ZERO,
        Duration::from_millis(1),
        Duration::MAX,
    ]);
    options.session_expiry = input.pick(&[
        Some(Duration::from_secs(3_600)),
        None,
        Some(Duration::ZERO),
        Some(Duration::MAX),
    ]);
    if input.one_in(4) {
        options.client_id = input.pick(&["", "boat"]).into();
        options.username = input.pick(&[None, Some("user".into())]);
        options.password = input.pick(&[None, Some(Bytes::from_static(b"\0secret"))]);
        options.will = input.one_in(2).then(|| Will {
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: Topic::from_static("will").expect("a legal name"),
            payload: Bytes::from_static(b"gone"),
            properties: PropertySet {
                will_delay_interval: Some(5),
                ..PropertySet::default()
            }
            .into(),
        });
        options.user_properties = vec![("key".into(), "value".into())];
    }
    if input.one_in(5) {
        options.authentication = Some((server::METHOD.into(), None));
    }
    options
}

fn plain_options() -> ConnectOptions {
    ConnectOptions {
        client_id: "boat".into(),
        clean_start: false,
        keep_alive: Duration::from_secs(60),
        session_expiry: Some(Duration::from_secs(3_600)),
        username: None,
        password: None,
        will: None,
        authentication: None,
        user_properties: Vec::new(),
    }
}

fn filter(input: &mut Input) -> TopicFilter {
    TopicFilter::from_static(input.pick(&FILTERS)).expect("a legal filter")
}

#[cfg(test)]
mod tests;
