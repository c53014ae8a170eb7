//! What a session owes: an end to each message it took, and to the server the rules of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use paquebot_protocols::mqtt::session::{Event, Outgoing, ServerLimits, SessionConfig};
use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, PacketId, Properties, Publish, QoS, ReasonCode, SubAck, Topic, Version,
};

pub(super) struct Ledger {
    version: Version,
    filters_max: usize,
    /// Every message that was taken; its place is its token.
    messages: Vec<Message>,
    unended: usize,
    /// Packet identifiers that the server has seen and this end not given back.
    in_use: BTreeMap<PacketId, Use>,
    connection: Connection,
    /// QoS 0 messages that the present bytes hold, and those that were said to be among them.
    written: BTreeSet<u64>,
    transmitted: BTreeSet<u64>,
    /// How often each kind of event came.
    pub(super) seen: BTreeMap<&'static str, usize>,
}

struct Message {
    topic: Topic,
    qos: QoS,
    retain: bool,
    id: Option<PacketId>,
    is_ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Message {
        token: u64,
        /// PUBREL was seen.
        is_released: bool,
        /// The server said that it does not know it, after which it may be published anew.
        is_in_doubt: bool,
    },
    Subscribe {
        filters: usize,
    },
    Unsubscribe {
        filters: usize,
    },
}

impl Use {
    fn is_message(self) -> bool {
        matches!(self, Self::Message { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Closed,
    Connecting,
    Connected,
}

#[derive(Default)]
struct Connection {
    /// Between `connect` and `Closed`.
    is_open: bool,
    is_online: bool,
    has_connect: bool,
    has_disconnect: bool,
    /// As CONNACK told them.
    limits: Option<ServerLimits>,
    aliases: BTreeMap<u16, Topic>,
    /// PUBREC came for these, which nothing waits for, and is to be answered all the same.
    strays: Vec<PacketId>,
    /// Messages above QoS 0 that went out in this connection and did not end.
    unanswered: BTreeSet<u64>,
}

impl Connection {
    fn take_stray(&mut self, id: PacketId) -> bool {
        let place = self.strays.iter().position(|stray| *stray == id);
        place.map(|place| self.strays.swap_remove(place)).is_some()
    }
}

impl Ledger {
    pub(super) fn new(config: &SessionConfig) -> Self {
        Self {
            version: config.version,
            filters_max: config.filters_per_subscribe_max.max(1),
            messages: Vec::new(),
            unended: 0,
            in_use: BTreeMap::new(),
            connection: Connection::default(),
            written: BTreeSet::new(),
            transmitted: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn stage(&self) -> Stage {
        match &self.connection {
            connection if !connection.is_open => Stage::Closed,
            Connection { limits: None, .. } => Stage::Connecting,
            _ => Stage::Connected,
        }
    }

    pub(super) fn is_online(&self) -> bool {
        self.connection.is_online
    }

    /// How many messages were taken and did not end.
    pub(super) fn unended(&self) -> usize {
        self.unended
    }

    pub(super) fn in_use(&self) -> &BTreeMap<PacketId, Use> {
        &self.in_use
    }

    pub(super) fn next_token(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(super) fn accept(&mut self, message: &Outgoing) {
        self.unended += 1;
        self.messages.push(Message {
            topic: message.topic.clone(),
            qos: message.qos,
            retain: message.retain,
            id: None,
            is_ended: false,
        });
    }

    pub(super) fn begin_connection(&mut self) {
        assert!(!self.connection.is_open, "the former one was not closed");
        self.connection = Connection {
            is_open: true,
            ..Connection::default()
        };
    }

    pub(super) fn event(&mut self, event: &Event) {
        let name = match event {
            Event::Connected {
                session_present,
                limits,
                ..
            } => {
                assert!(self.connection.is_open && self.connection.limits.is_none());
                self.connection.limits = Some(limits.clone());
                if !session_present {
                    self.in_use.clear();
                }
                "Connected"
            }
            Event::Online => {
                assert!(self.connection.limits.is_some() && !self.connection.is_online);
                self.connection.is_online = true;
                "Online"
            }
            Event::Closed(_) => {
                assert!(self.connection.is_open, "closed twice");
                self.connection.is_open = false;
                self.connection.is_online = false;
                self.forget_requests();
                "Closed"
            }
            Event::Transmitted { token } => {
                assert_eq!(self.end(*token), QoS::AtMostOnce);
                self.transmitted.insert(*token);
                "Transmitted"
            }
            Event::Unsent { token } => {
                assert_eq!(self.end(*token), QoS::AtMostOnce);
                "Unsent"
            }
            Event::Delivered { token, code, .. } => {
                assert!(self.end(*token) > QoS::AtMostOnce && !code.is_error());
                "Delivered"
            }
            Event::Rejected { token, code, .. } => {
                self.end(*token);
                assert!(code.is_error());
                "Rejected"
            }
            Event::Expired { token } => {
                self.end(*token);
                "Expired"
            }
            Event::Message(_) => "Message",
            Event::Subscribed { .. } => "Subscribed",
            Event::Unsubscribed { .. } => "Unsubscribed",
            Event::AuthChallenge { .. } => "AuthChallenge",
            Event::AuthenticationData(_) => "AuthenticationData",
            Event::Reauthenticated => "Reauthenticated",
            _ => "another",
        };
        *self.seen.entry(name).or_default() += 1;
    }

    pub(super) fn drain(&mut self, tokens: &[u64]) {
        for token in tokens {
            self.end(*token);
        }
        assert_eq!(self.unended, 0, "messages were lost");
        // The life of the session is over, and with it that of its identifiers.
        self.in_use.clear();
    }

    fn end(&mut self, token: u64) -> QoS {
        let message = usize::try_from(token)
            .ok()
            .and_then(|place| self.messages.get_mut(place))
            .unwrap_or_else(|| panic!("message {token} was never taken"));
        assert!(!message.is_ended, "message {token} ended twice");
        message.is_ended = true;
        self.unended -= 1;
        self.connection.unanswered.remove(&token);
        if let Some(id) = message.id
            && matches!(self.in_use.get(&id), Some(Use::Message { token: t, .. }) if *t == token)
        {
            self.in_use.remove(&id);
        }
        message.qos
    }

    fn names_exactly_once(&self, id: PacketId) -> bool {
        let Some(Use::Message { token, .. }) = self.in_use.get(&id) else {
            return false;
        };
        let message = usize::try_from(*token).ok();
        let message = message.and_then(|place| self.messages.get(place));
        message.is_some_and(|message| message.qos == QoS::ExactlyOnce)
    }

    /// A packet from the server, before the session gets it.
    pub(super) fn receive(&mut self, packet: &Packet) {
        match packet {
            Packet::SubAck(SubAck { packet_id, .. }) | Packet::UnsubAck(SubAck { packet_id, .. })
                // A request that is answered wrongly ends with the connection.
                if self.in_use.get(packet_id).is_some_and(|u| !u.is_message()) =>
            {
                self.in_use.remove(packet_id);
            }
            Packet::PubComp(ack) if ack.reason_code == ReasonCode::PACKET_IDENTIFIER_NOT_FOUND => {
                if let Some(Use::Message { is_in_doubt, .. }) = self.in_use.get_mut(&ack.packet_id)
                {
                    *is_in_doubt = true;
                }
            }
            // For a message of a process before, whatever the identifier means now, or a violation.
            Packet::PubRec(ack) if !self.names_exactly_once(ack.packet_id) => {
                self.connection.strays.push(ack.packet_id);
            }
            _ => {}
        }
    }

    pub(super) fn begin_transmit(&mut self) {
        self.written.clear();
        self.transmitted.clear();
    }

    /// A packet of the session, after the events that came with it.
    pub(super) fn send(&mut self, packet: &Packet, size: usize, window: usize) {
        let connection = &mut self.connection;
        assert!(!connection.has_disconnect, "{packet:?} after DISCONNECT");
        if !connection.has_connect {
            assert!(
                matches!(packet, Packet::Connect(_)),
                "{packet:?} before CONNECT"
            );
            connection.has_connect = true;
            return;
        }
        match &connection.limits {
            None => assert!(
                matches!(packet, Packet::Auth(_) | Packet::Disconnect(_)),
                "{packet:?} before CONNACK"
            ),
            Some(limits) => {
                let maximum = limits.maximum_packet_size.unwrap_or(u32::MAX);
                assert!(
                    size as u64 <= u64::from(maximum),
                    "{size} bytes, not {maximum}"
                );
            }
        }
        match packet {
            Packet::Publish(publish) => self.send_publish(publish, window),
            // The identifier may have been given to something else since that PUBREC came.
            Packet::PubRel(release) if self.connection.take_stray(release.packet_id) => {}
            Packet::PubRel(release) => match self.in_use.get_mut(&release.packet_id) {
                Some(Use::Message { is_released, .. }) => *is_released = true,
                other => panic!("PUBREL for {other:?}"),
            },
            Packet::Subscribe(subscribe) => {
                let filters = subscribe.filters.len();
                self.send_request(subscribe.packet_id, Use::Subscribe { filters }, filters);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let filters = unsubscribe.filters.len();
                self.send_request(unsubscribe.packet_id, Use::Unsubscribe { filters }, filters);
            }
            Packet::Disconnect(_) => self.connection.has_disconnect = true,
            Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubComp(_)
            | Packet::PingReq
            | Packet::Auth(_) => {}
            other => panic!("{other:?} from a client"),
        }
    }

    pub(super) fn end_transmit(&mut self) {
        assert_eq!(self.written, self.transmitted, "written, and told to be");
        // A connection that was given up while writing has no requests any more.
        if !self.connection.is_open {
            self.forget_requests();
        }
    }

    fn forget_requests(&mut self) {
        self.in_use.retain(|_, usage| usage.is_message());
    }

    fn send_publish(&mut self, publish: &Publish, window: usize) {
        let connection = &mut self.connection;
        let limits = connection.limits.as_ref().expect("checked before");
        let token = publish
            .payload
            .first_chunk()
            .map(|bytes| u64::from_be_bytes(*bytes));
        let token = token.expect("each payload begins with the token");
        let message = &mut self.messages[usize::try_from(token).expect("a place")];
        assert_eq!((publish.qos, publish.retain), (message.qos, message.retain));
        let alias = publish.properties.topic_alias;
        assert!(alias.is_none_or(|alias| (1..=limits.topic_alias_maximum).contains(&alias)));
        match (&publish.topic, alias) {
            (Some(topic), alias) => {
                assert_eq!(*topic, message.topic);
                if let Some(alias) = alias {
                    connection.aliases.insert(alias, topic.clone());
                }
            }
            (None, Some(alias)) => {
                assert_eq!(connection.aliases.get(&alias), Some(&message.topic));
            }
            (None, None) => panic!("a PUBLISH without a topic"),
        }
        let Some(id) = publish.packet_id else {
            assert!(self.written.insert(token), "QoS 0 was written twice");
            return;
        };
        assert!(!message.is_ended, "message {token} goes out past its end");
        message.id = Some(id);
        connection.unanswered.insert(token);
        assert!(
            connection.unanswered.len() <= window,
            "{} publishes in a window of {window}",
            connection.unanswered.len()
        );
        let usage = Use::Message {
            token,
            is_released: false,
            is_in_doubt: false,
        };
        match self.in_use.insert(id, usage) {
            None => assert!(!publish.dup, "DUP on message {token}, which is new"),
            Some(Use::Message {
                is_in_doubt: true, ..
            }) => {}
            Some(Use::Message {
                token: before,
                is_released,
                ..
            }) => {
                assert_eq!(before, token, "{id} was given twice");
                assert!(publish.dup, "message {token} was sent again without DUP");
                assert!(!is_released, "message {token} was sent again past PUBREL");
            }
            Some(other) => panic!("{id} is in use for {other:?}"),
        }
    }

    fn send_request(&mut self, id: PacketId, usage: Use, filters: usize) {
        assert!((1..=self.filters_max).contains(&filters));
        let before = self.in_use.insert(id, usage);
        let is_free = matches!(
            before,
            None | Some(Use::Message {
                is_in_doubt: true,
                ..
            })
        );
        assert!(is_free, "{id} is in use for {before:?}");
    }

    /// The answer of a server that takes everything.
    pub(super) fn fitting_answer(&self, id: PacketId, usage: &Use) -> Packet {
        let ack = Acknowledgement::success(id);
        let granted = |count: usize| SubAck {
            packet_id: id,
            reason_codes: vec![ReasonCode::SUCCESS; count],
            properties: Properties::EMPTY,
        };
        match usage {
            Use::Message {
                token, is_released, ..
            } => {
                let place = usize::try_from(*token).expect("a place");
                match self.messages[place].qos {
                    QoS::ExactlyOnce if *is_released => Packet::PubComp(ack),
                    QoS::ExactlyOnce => Packet::PubRec(ack),
                    _ => Packet::PubAck(ack),
                }
            }
            Use::Subscribe { filters } => Packet::SubAck(granted(*filters)),
            Use::Unsubscribe { .. } if self.version == Version::V311 => {
                Packet::UnsubAck(granted(0))
            }
            Use::Unsubscribe { filters } => Packet::UnsubAck(granted(*filters)),
        }
    }

    /// The answer to a message that is on its way.
    pub(super) fn answer_of(&self, token: u64) -> Option<Packet> {
        let place = usize::try_from(token).ok()?;
        let message = self.messages.get(place).filter(|m| !m.is_ended)?;
        let id = message.id?;
        Some(self.fitting_answer(id, self.in_use.get(&id)?))
    }

    /// The answer to whatever comes first; what the session may have given up comes last, and once.
    pub(super) fn next_answer(&mut self) -> Option<Packet> {
        let is_doubtful = |usage: &Use| {
            matches!(
                usage,
                Use::Message {
                    is_in_doubt: true,
                    ..
                }
            )
        };
        if let Some((id, usage)) = self.in_use.iter().find(|(_, usage)| !is_doubtful(usage)) {
            return Some(self.fitting_answer(*id, usage));
        }
        let (id, usage) = self.in_use.pop_first()?;
        Some(self.fitting_answer(id, &usage))
    }
}
