//! One session with a clock and a wire under the test's control.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::session::{
    Arrival, ConnectOptions, Event, Incoming, Outgoing, Record, Session, SessionConfig,
};
use paquebot_protocols::mqtt::{
    Acknowledgement, ConnAck, Decoded, Decoder, Next, Packet, PacketId, Properties, PropertySet,
    Publish, QoS, ReasonCode, Sender, SubAck, Subscription, Topic, TopicFilter, Version, encode,
};

pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) version: Version,
    /// Events in front of those that the session has yet.
    earlier: Vec<Event>,
    /// The last packet went to the session as it is.
    as_it_is: bool,
}

impl Link {
    /// Not connected yet.
    pub(crate) fn new(config: SessionConfig) -> Self {
        let config_version = config.version;
        Self {
            version: config_version,
            session: Session::new(config),
            now: Instant::now(),
            earlier: Vec::new(),
            as_it_is: config_version == Version::V5,
        }
    }

    /// Online with a session that the server keeps, nothing left to read.
    pub(crate) fn online(config: SessionConfig) -> Self {
        let mut link = Self::new(config);
        link.reconnect(false);
        assert!(link.session.is_online());
        link.events();
        link
    }

    /// CONNECT and an accepting CONNACK; what follows is left to be read.
    pub(crate) fn reconnect(&mut self, session_present: bool) {
        self.reconnect_with(session_present, PropertySet::default());
    }

    pub(crate) fn reconnect_with(&mut self, session_present: bool, connack: PropertySet) {
        self.connect(options());
        self.receive(accepted(session_present, connack));
    }

    /// CONNECT alone; checks that nothing else is sent.
    pub(crate) fn connect(&mut self, options: ConnectOptions) {
        self.session.connect(self.now, options);
        let sent = self.sent();
        assert!(
            matches!(sent.as_slice(), [Packet::Connect(_)]),
            "not just CONNECT: {sent:?}"
        );
    }

    pub(crate) fn drop_transport(&mut self) {
        self.session.handle_transport_closed(self.now);
    }

    /// A packet from the server, which goes to the session in turn as it is and as a driver gives it that
    /// leaves frequent packets where they are.
    pub(crate) fn receive(&mut self, packet: Packet) {
        self.as_it_is = !self.as_it_is;
        if self.as_it_is {
            return self.session.handle_packet(self.now, packet);
        }
        let mut input = BytesMut::new();
        if encode(&packet, self.version, &mut input).is_err() {
            return self.session.handle_packet(self.now, packet);
        }
        let input = input.freeze();
        let mut decoder = Decoder::new(self.version, Sender::Either, usize::MAX);
        if let Some(span) = decoder.find_publish(&input, &mut 0) {
            let arrival = self.session.handle_publish_span(self.now, &span);
            if let (Arrival::HandOver(id), Packet::Publish(publish)) = (arrival, packet) {
                self.earlier = self.events();
                self.earlier.push(Event::Message(Incoming {
                    topic: publish.topic.unwrap(),
                    payload: publish.payload,
                    qos: publish.qos,
                    retain: publish.retain,
                    dup: publish.dup,
                    properties: publish.properties,
                    id,
                }));
            }
            return;
        }
        match decoder.decode_next(&input, &mut 0) {
            Ok(Next::Acknowledgement(kind, id)) => {
                let mut tokens = Vec::new();
                let ids = decoder.find_pubacks(&input, 0);
                let note = |token| tokens.push(token);
                if self.session.handle_plain_pubacks(self.now, ids, note) == 0 {
                    self.session.handle_acknowledgement(self.now, kind, id);
                    return;
                }
                self.earlier = self.events();
                let delivered = |token| Event::Delivered {
                    token,
                    code: ReasonCode::SUCCESS,
                    session_lost: false,
                };
                self.earlier.extend(tokens.into_iter().map(delivered));
            }
            _ => match packet {
                Packet::Publish(publish) => {
                    if let Some(incoming) = self.session.handle_publish(self.now, publish) {
                        self.earlier = self.events();
                        self.earlier.push(Event::Message(incoming));
                    }
                }
                packet => self.session.handle_packet(self.now, packet),
            },
        }
    }

    /// Everything that is ready, as a server reads it.
    pub(crate) fn sent(&mut self) -> Vec<Packet> {
        let mut output = BytesMut::new();
        let has_written = self.session.poll_transmit(self.now, &mut output);
        while self.session.poll_transmit(self.now, &mut output) {}
        assert_eq!(has_written, !output.is_empty());
        let mut decoder = Decoder::new(self.version, Sender::Client, usize::MAX);
        let mut input = output.freeze();
        let mut packets = Vec::new();
        while !input.is_empty() {
            match decoder.decode(&mut input) {
                Ok(Decoded::Packet(packet)) => packets.push(packet),
                other => panic!("the session wrote what a server cannot read: {other:?}"),
            }
        }
        packets
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.earlier);
        events.extend(std::iter::from_fn(|| self.session.poll_event()));
        events
    }

    /// What is to be recorded before what was sent last leaves.
    pub(crate) fn records(&mut self) -> Vec<Record> {
        std::iter::from_fn(|| self.session.poll_record()).collect()
    }

    /// The messages among the events.
    pub(crate) fn messages(&mut self) -> Vec<Incoming> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Message(message) => Some(message),
                _ => None,
            })
            .collect()
    }

    /// Lets time pass and calls the timeout handler once, as a driver does when the deadline is reached.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
    }

    /// Publishes with the token as payload.
    pub(crate) fn publish(&mut self, token: u64, qos: QoS) {
        self.session
            .publish(self.now, outgoing(token, qos))
            .unwrap();
    }

    pub(crate) fn subscribe(&mut self, filter: &'static str) {
        self.session
            .subscribe(self.now, subscription(filter))
            .unwrap();
    }

    /// Subscribes and lets the server grant it.
    pub(crate) fn subscribe_in_force(&mut self, filter: &'static str) {
        self.subscribe(filter);
        let sent = self.sent();
        let [Packet::Subscribe(subscribe)] = sent.as_slice() else {
            panic!("not one SUBSCRIBE: {sent:?}");
        };
        self.receive(suback(subscribe.packet_id, &[ReasonCode::GRANTED_QOS_1]));
        self.events();
    }
}

pub(crate) fn config(version: Version) -> SessionConfig {
    SessionConfig {
        version,
        ..SessionConfig::default()
    }
}

/// A session that outlives the connection, keep alive 60 s.
pub(crate) fn options() -> ConnectOptions {
    ConnectOptions {
        client_id: "boat".into(),
        clean_start: false,
        keep_alive: Duration::from_secs(60),
        session_expiry: Some(Duration::from_secs(3600)),
        username: None,
        password: None,
        will: None,
        authentication: None,
        user_properties: Vec::new(),
    }
}

pub(crate) fn accepted(session_present: bool, properties: PropertySet) -> Packet {
    Packet::ConnAck(ConnAck {
        session_present,
        reason_code: ReasonCode::SUCCESS,
        properties: properties.into(),
    })
}

pub(crate) fn outgoing(token: u64, qos: QoS) -> Outgoing {
    Outgoing {
        token,
        topic: Topic::new("harbour/out").unwrap(),
        payload: Bytes::copy_from_slice(&token.to_be_bytes()),
        qos,
        retain: false,
        properties: Properties::EMPTY,
        expires_at: None,
    }
}

pub(crate) fn subscription(filter: &str) -> Subscription {
    Subscription::new(
        TopicFilter::new(filter.to_owned()).unwrap(),
        QoS::AtLeastOnce,
    )
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// A PUBLISH from the server.
pub(crate) fn inbound(qos: QoS, packet_id: u16, payload: &'static str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(Topic::new("harbour/in").unwrap()),
        packet_id: PacketId::new(packet_id),
        payload: Bytes::from_static(payload.as_bytes()),
        properties: Properties::EMPTY,
    }
}

pub(crate) fn ack(packet_id: PacketId) -> Acknowledgement {
    Acknowledgement::success(packet_id)
}

pub(crate) fn suback(packet_id: PacketId, codes: &[ReasonCode]) -> Packet {
    Packet::SubAck(SubAck {
        packet_id,
        reason_codes: codes.to_vec(),
        properties: Properties::EMPTY,
    })
}

pub(crate) fn unsuback(packet_id: PacketId, codes: &[ReasonCode]) -> Packet {
    Packet::UnsubAck(SubAck {
        packet_id,
        reason_codes: codes.to_vec(),
        properties: Properties::EMPTY,
    })
}

/// The token that [`Link::publish`] put into the payload.
pub(crate) fn token_of(publish: &Publish) -> u64 {
    u64::from_be_bytes(publish.payload.as_ref().try_into().unwrap())
}

/// Packets in short: `CONNECT`, `PUBLISH 7 id 3 dup`, `PUBREL 3`, `SUBSCRIBE a,b` …
pub(crate) fn brief(packets: &[Packet]) -> Vec<String> {
    packets
        .iter()
        .map(|packet| {
            let name = packet.name();
            match packet {
                Packet::Publish(publish) => {
                    let id = publish
                        .packet_id
                        .map_or(String::new(), |id| format!(" id {id}"));
                    let dup = if publish.dup { " dup" } else { "" };
                    format!("{name} {}{id}{dup}", token_of(publish))
                }
                Packet::PubAck(ack)
                | Packet::PubRec(ack)
                | Packet::PubRel(ack)
                | Packet::PubComp(ack) => format!("{name} {}", ack.packet_id),
                Packet::Subscribe(subscribe) => {
                    let filters: Vec<_> = subscribe
                        .filters
                        .iter()
                        .map(|s| s.filter.as_str())
                        .collect();
                    format!("{name} {}", filters.join(","))
                }
                Packet::Unsubscribe(unsubscribe) => {
                    let filters: Vec<_> = unsubscribe.filters.iter().map(|f| f.as_str()).collect();
                    format!("{name} {}", filters.join(","))
                }
                _ => name.to_owned(),
            }
        })
        .collect()
}

/// The code of the DISCONNECT that a violation is left with: sent on MQTT 5, nothing on MQTT 3.1.1.
#[track_caller]
pub(crate) fn assert_left_with(link: &mut Link, expected: ReasonCode) {
    use paquebot_protocols::mqtt::session::CloseReason;
    let events = link.events();
    let Some(Event::Closed(CloseReason::ProtocolViolation { code, clause, .. })) = events.last()
    else {
        panic!("not closed for a violation: {events:?}");
    };
    assert_eq!(*code, expected, "{clause}");
    let sent = link.sent();
    match (link.version, sent.as_slice()) {
        (Version::V311, []) => {}
        (Version::V5, [Packet::Disconnect(disconnect)]) => {
            assert_eq!(disconnect.reason_code, expected);
        }
        _ => panic!("left with {sent:?}"),
    }
    link.receive(Packet::PingResp);
    assert_eq!(link.events(), [], "a closed session is deaf");
}
