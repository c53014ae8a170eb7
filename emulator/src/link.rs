//! The connected half of a session: what one connection negotiated, and the way out to it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use paquebot_protocols::mqtt::encode::encoded_len;
use paquebot_protocols::mqtt::{
    Acknowledgement, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, ReasonCode,
    Sender, Topic, Version,
};
use tokio::time::Instant;

use crate::holds::{Ack, Holds};
use crate::limits::Limits;
use crate::message::{Delivery, detached_topic};
use crate::outbox::{Closing, Outbox, Outgoing};
use crate::pace::Pace;
use crate::record::LinkRecorder;
use crate::sessions::SessionKey;

/// Names one connection of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) session: SessionKey,
    /// Counts the accepted connections of the server.
    pub(crate) serial: u64,
}

/// How much of a session's backlog may be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replay {
    /// Messages that are still to be sent.
    pub(crate) backlog: usize,
    /// Those of them that may be sent in this second.
    pub(crate) allowed: u32,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) serial: u64,
    pub(crate) version: Version,
    pub(crate) outbox: Arc<Outbox>,
    /// Messages that may be in flight towards the client.
    pub(crate) window: usize,
    /// Session messages in flight that this connection was not sent yet.
    pub(crate) unsent: usize,
    /// Topics behind the client's aliases.
    pub(crate) aliases: HashMap<u16, Topic>,
    pub(crate) holds: Option<Box<Holds>>,
    /// When [`Holds::take_due`] is scheduled.
    pub(crate) release_at: Option<Instant>,
    pub(crate) pace: Option<Box<Pace>>,
    /// What a resumed session had stored, as long as it is sent by and by.
    pub(crate) replay: Option<Replay>,
    /// It has published too fast and is not read from.
    pub(crate) is_paced: bool,
    pub(crate) recorder: Option<Box<LinkRecorder>>,
    /// Messages of a lower number may have had their time to be acknowledged.
    pub(crate) redelivered_below: u64,
    packet_bytes_max: Option<u32>,
    problem_information: bool,
    outbound_aliases: HashMap<Topic, u16>,
    outbound_aliases_max: usize,
}

impl Link {
    pub(crate) fn new(
        serial: u64,
        connect: &Connect,
        outbox: Arc<Outbox>,
        limits: &Limits,
    ) -> Self {
        let properties = &connect.properties;
        let receive_maximum = properties.receive_maximum.unwrap_or(u16::MAX);
        let aliases_max = properties.topic_alias_maximum.unwrap_or(0);
        Self {
            serial,
            version: connect.version,
            outbox,
            window: usize::from(receive_maximum.min(limits.inflight_max).max(1)),
            unsent: 0,
            aliases: HashMap::new(),
            holds: None,
            release_at: None,
            pace: None,
            replay: None,
            is_paced: false,
            recorder: None,
            redelivered_below: 0,
            packet_bytes_max: properties.maximum_packet_size,
            problem_information: properties.request_problem_information.unwrap_or(true),
            outbound_aliases: HashMap::new(),
            outbound_aliases_max: usize::from(aliases_max.min(limits.outbound_topic_aliases_max)),
        }
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.version == Version::V5
    }

    pub(crate) fn may_replay(&self) -> bool {
        self.replay.is_none_or(|replay| replay.allowed > 0)
    }

    /// A message of the backlog is done with.
    pub(crate) fn count_replayed(&mut self) {
        if let Some(replay) = &mut self.replay {
            replay.allowed = replay.allowed.saturating_sub(1);
            replay.backlog = replay.backlog.saturating_sub(1);
            if replay.backlog == 0 {
                self.replay = None;
            }
        }
    }

    /// Hands a packet to the connection, or to the faults that hold it.
    pub(crate) fn send(&mut self, packet: Packet, now: Instant) {
        let packet = match &mut self.holds {
            None => packet,
            Some(holds) => match holds.admit(packet, now) {
                Some(packet) => packet,
                None => return,
            },
        };
        self.write(packet);
    }

    fn write(&self, packet: Packet) {
        self.note(Sender::Server, &packet);
        self.outbox.push(Outgoing::Packet(packet));
    }

    /// Puts a packet of this connection on record, if there is one.
    pub(crate) fn note(&self, sender: Sender, packet: &Packet) {
        if let Some(LinkRecorder {
            recorder,
            client_id,
        }) = self.recorder.as_deref()
        {
            recorder.note(client_id, sender, packet);
        }
    }

    /// Sends a message. Returns false, and sends nothing, when it is larger than the client takes; it then
    /// counts as delivered `[MQTT-3.1.2-25]`.
    pub(crate) fn send_message(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Instant,
    ) -> bool {
        let mut publish = delivery.packet(packet_id, dup, now);
        if !self.is_v5() {
            publish.properties = Properties::EMPTY;
        }
        let mut new_alias = None;
        if self.outbound_aliases_max > 0 {
            let topic = &delivery.message.topic;
            if let Some(alias) = self.outbound_aliases.get(topic) {
                publish.properties.edit().topic_alias = Some(*alias);
                publish.topic = None;
            } else if self.outbound_aliases.len() < self.outbound_aliases_max {
                let alias = u16::try_from(self.outbound_aliases.len() + 1).ok();
                publish.properties.edit().topic_alias = alias;
                new_alias = alias;
            }
        }
        let packet = Packet::Publish(publish);
        if !self.fits(&packet) {
            return false;
        }
        if let Some(alias) = new_alias {
            self.outbound_aliases
                .insert(detached_topic(&delivery.message.topic), alias);
        }
        self.send(packet, now);
        true
    }

    fn fits(&self, packet: &Packet) -> bool {
        let Some(limit) = self.packet_bytes_max else {
            return true;
        };
        encoded_len(packet, self.version).is_ok_and(|length| length <= limit as usize)
    }

    /// Sends what may go out of the held packets, and says when to look again.
    pub(crate) fn release_due(&mut self, now: Instant) -> Option<Instant> {
        let holds = self.holds.as_mut()?;
        let due = holds.take_due(now);
        let next = holds.next_due();
        if holds.is_idle() {
            self.holds = None;
        }
        for packet in due {
            self.write(packet);
        }
        next
    }

    /// QoS 1 messages of the client that a fault keeps unacknowledged.
    pub(crate) fn withheld_pubacks(&self) -> usize {
        self.holds
            .as_ref()
            .map_or(0, |holds| holds.count(Ack::PubAck))
    }

    /// An acknowledgement in the words of the connection's version: MQTT 3.1.1 has no reason in it. A
    /// failure is explained where the client asked for that.
    pub(crate) fn acknowledgement(
        &self,
        packet_id: PacketId,
        reason_code: ReasonCode,
    ) -> Acknowledgement {
        if !self.is_v5() {
            return Acknowledgement::success(packet_id);
        }
        let mut ack = Acknowledgement::with_reason(packet_id, reason_code);
        if reason_code.is_error() && self.problem_information {
            let text = match reason_code {
                ReasonCode::NOT_AUTHORIZED => "the server's policy refuses this topic",
                _ => "no exchange with this packet identifier is open",
            };
            ack.properties.edit().reason_string = Some(text.into());
            if !self.fits(&Packet::PubRec(ack.clone())) {
                ack.properties = Properties::EMPTY;
            }
        }
        ack
    }

    /// Ends the connection from the server's side: with a DISCONNECT on MQTT 5, where the version has one.
    pub(crate) fn close(&mut self, reason_code: ReasonCode, text: Option<&str>, now: Instant) {
        if self.is_v5() {
            let mut disconnect = Disconnect {
                reason_code,
                properties: text.map_or(Properties::EMPTY, reason_string),
            };
            if !self.fits(&Packet::Disconnect(disconnect.clone())) {
                disconnect.properties = Properties::EMPTY;
            }
            self.send(Packet::Disconnect(disconnect), now);
        }
        self.outbox.close(Closing::AfterWriting);
    }
}

fn reason_string(text: &str) -> Properties {
    let mut properties = Properties::EMPTY;
    properties.edit().reason_string = Some(text.into());
    properties
}

/// A CONNACK that refuses. MQTT 3.1.1 has five codes: the nearest one stands for the rest, and a code below
/// 0x80 for itself, for there are clouds with codes of their own.
pub(crate) fn refusal(version: Version, code: ReasonCode) -> Outgoing {
    let reason_code = match version {
        Version::V5 if (1..=5).contains(&code.0) => ReasonCode::from_connect_return_code(code.0),
        Version::V5 => code,
        Version::V311 => ReasonCode(match code {
            // The encoder knows the specification's alone.
            ReasonCode(6..=0x7f) => {
                return Outgoing::Raw(Bytes::copy_from_slice(&[0x20, 0x02, 0x00, code.0]));
            }
            ReasonCode(1..=5) => code.0,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => 1,
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => 2,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => 4,
            ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => 5,
            _ => 3,
        }),
    };
    Outgoing::Packet(Packet::ConnAck(ConnAck {
        session_present: false,
        reason_code,
        properties: Properties::EMPTY,
    }))
}
