//! From what is ready to be sent to bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::exchanges::{Kind, Phase};
use super::inbound::PUBACK_BYTES;
use super::{Event, Outgoing, Session};
use crate::mqtt::encode::{PublishRef, encode_publish};
use crate::mqtt::{
    Acknowledgement, EncodeError, Packet, PacketId, Properties, Publish, ReasonCode, Topic,
    Version, encode,
};

/// How many QoS 0 publishes may wait for [`Session::poll_transmit`]; for a further one there is no room.
pub const UNSENT_QOS0_MAX: usize = 65_536;
/// How many packets may wait for [`Session::poll_transmit`] when the server causes yet another one.
pub(super) const TRANSMIT_QUEUE_MAX: usize = 262_144;

/// After so many bytes a call of [`Session::poll_transmit`] writes no further packet.
const TRANSMIT_BYTES: usize = 64 * 1024;

/// One thing that is ready to be sent.
#[derive(Debug)]
pub(super) enum Transmit {
    /// A QoS 0 publish.
    Once {
        token: u64,
        expires_at: Option<Instant>,
        publish: Publish,
    },
    /// What the exchange of this identifier owes: PUBLISH, or PUBREL once it was released. Void when the
    /// identifier has come to mean another exchange.
    Exchange { id: PacketId, order: u64 },
    /// Any other packet.
    Packet(Packet),
    /// The SUBSCRIBE and UNSUBSCRIBE packets that the desired subscriptions call for.
    Subscriptions,
}

/// Encodes within the server's limits; holds the topic aliases of a connection.
#[derive(Debug)]
pub(super) struct Writer {
    version: Version,
    maximum_packet_size: Option<u32>,
    /// How many aliases may be used in this connection.
    alias_maximum: u16,
    /// The first topics get the aliases: a device has few, and they come back.
    aliases: BTreeMap<Topic, u16>,
    /// Holds what the session itself puts into a PUBLISH without properties.
    scratch: Properties,
}

/// Why a packet was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    TooLarge,
    Invalid(EncodeError),
}

impl Unwritten {
    /// The code a publish is rejected with.
    fn code(&self) -> ReasonCode {
        let is_too_large = match self {
            Self::TooLarge => true,
            Self::Invalid(error) => matches!(error, EncodeError::TooLong { .. }),
        };
        if is_too_large {
            ReasonCode::PACKET_TOO_LARGE
        } else {
            ReasonCode::TOPIC_NAME_INVALID
        }
    }
}

impl Writer {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            maximum_packet_size: None,
            alias_maximum: 0,
            aliases: BTreeMap::new(),
            scratch: Properties::EMPTY,
        }
    }

    /// The limits of a connection. Aliases start anew with each `[MQTT-3.3.2-7]`.
    pub(super) fn begin(&mut self, maximum_packet_size: Option<u32>, alias_maximum: u16) {
        self.maximum_packet_size = maximum_packet_size;
        self.alias_maximum = alias_maximum;
        self.aliases = BTreeMap::new();
    }

    /// Appends a packet, or leaves `output` as it was.
    pub(super) fn write(&self, packet: &Packet, output: &mut BytesMut) -> Result<(), Unwritten> {
        let start = output.len();
        encode(packet, self.version, output).map_err(Unwritten::Invalid)?;
        self.check_size(start, output)
    }

    /// A packet over the server's maximum is never sent `[MQTT-3.2.2-15]`.
    fn check_size(&self, start: usize, output: &mut BytesMut) -> Result<(), Unwritten> {
        if let Some(maximum) = self.maximum_packet_size
            && output.len() - start > usize::try_from(maximum).unwrap_or(usize::MAX)
        {
            output.truncate(start);
            return Err(Unwritten::TooLarge);
        }
        Ok(())
    }

    /// Whether a message with these properties, and without an end of its life, is written as it is.
    pub(super) fn is_plain(&self, properties: &Properties) -> bool {
        self.version == Version::V311 || (self.alias_maximum == 0 && properties.is_empty())
    }

    /// Appends a PUBLISH for a message that [`Writer::is_plain`] holds for.
    pub(super) fn write_outgoing(
        &self,
        message: &Outgoing,
        packet_id: Option<PacketId>,
        output: &mut BytesMut,
    ) -> Result<(), Unwritten> {
        let start = output.len();
        let publish = PublishRef {
            dup: false,
            qos: message.qos,
            retain: message.retain,
            topic: Some(&message.topic),
            packet_id,
            payload: &message.payload,
            properties: &Properties::EMPTY,
        };
        encode_publish(&publish, self.version, output).map_err(Unwritten::Invalid)?;
        self.check_size(start, output)
    }

    /// Appends a PUBLISH with the alias and the rest of its life that the session adds.
    fn write_publish(
        &mut self,
        now: Instant,
        publish: &mut Publish,
        expires_at: Option<Instant>,
        output: &mut BytesMut,
    ) -> Result<(), Unwritten> {
        let start = output.len();
        if self.version == Version::V311 || (expires_at.is_none() && self.alias_maximum == 0) {
            encode_publish(&PublishRef::from(&*publish), self.version, output)
                .map_err(Unwritten::Invalid)?;
            return self.check_size(start, output);
        }
        let alias = self.alias_for(publish);
        let properties = if publish.properties.is_empty() {
            &mut self.scratch
        } else {
            &mut publish.properties
        };
        let set = properties.edit();
        set.topic_alias = alias.map(|(alias, _)| alias);
        set.message_expiry_interval = expires_at.map(|at| remaining_seconds(now, at));
        let is_known = alias.is_some_and(|(_, is_known)| is_known);
        let result = encode_publish(
            &PublishRef {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                topic: publish.topic.as_ref().filter(|_| !is_known),
                packet_id: publish.packet_id,
                payload: &publish.payload,
                properties,
            },
            self.version,
            output,
        )
        .map_err(Unwritten::Invalid)
        .and_then(|()| self.check_size(start, output));
        // A message that is sent again carries its topic and the rest of its life at that time.
        if !publish.properties.is_empty() {
            let set = publish.properties.edit();
            set.topic_alias = None;
            set.message_expiry_interval = None;
        }
        if let (Ok(()), Some((alias, false)), Some(topic)) = (&result, alias, &publish.topic) {
            self.aliases.insert(topic.clone(), alias);
        }
        result
    }

    /// The alias of a topic and whether the server knows it. A resent message carries its topic.
    fn alias_for(&self, publish: &Publish) -> Option<(u16, bool)> {
        if self.alias_maximum == 0 || publish.dup {
            return None;
        }
        let topic = publish.topic.as_ref()?;
        if let Some(alias) = self.aliases.get(topic) {
            return Some((*alias, true));
        }
        let next = u16::try_from(self.aliases.len() + 1).ok()?;
        (next <= self.alias_maximum).then_some((next, false))
    }
}

/// The rest of a message's life in whole seconds, rounded up and never 0, which some servers take for
/// "does not expire".
fn remaining_seconds(now: Instant, expires_at: Instant) -> u32 {
    let left = expires_at.saturating_duration_since(now);
    let whole = left.as_secs() + u64::from(left > Duration::from_secs(left.as_secs()));
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

impl Session {
    /// Encodes what is ready, in order, up to [`TRANSMIT_BYTES`].
    pub(super) fn write_ready(&mut self, now: Instant, output: &mut BytesMut) {
        let end = output.len() + TRANSMIT_BYTES;
        // Before whatever else is ready, DISCONNECT above all; but a server that sends before it has
        // CONNECT is answered after that.
        let is_connect = |item: &Transmit| matches!(item, Transmit::Packet(Packet::Connect(_)));
        if !self.transmit.front().is_some_and(is_connect) {
            self.write_acknowledgements(output);
        }
        while output.len() < end
            && let Some(item) = self.transmit.pop_front()
        {
            match item {
                Transmit::Once {
                    token,
                    expires_at,
                    publish,
                } => self.write_once(now, token, expires_at, publish, output),
                Transmit::Exchange { id, order } => self.write_exchange(now, id, order, output),
                Transmit::Packet(packet) => {
                    if let Err(why) = self.writer.write(&packet, output) {
                        self.give_up_writing(why);
                    } else if matches!(packet, Packet::Connect(_)) {
                        self.write_acknowledgements(output);
                    }
                }
                Transmit::Subscriptions => self.write_subscriptions(now, output),
            }
        }
    }

    fn write_acknowledgements(&mut self, output: &mut BytesMut) {
        let Some(inbound) = self.inbound.as_deref_mut().filter(|i| i.due_len() > 0) else {
            return;
        };
        let start = output.len();
        inbound.write_due(TRANSMIT_BYTES, output);
        let takes = |maximum| usize::try_from(maximum).unwrap_or(usize::MAX) >= PUBACK_BYTES;
        if !self.writer.maximum_packet_size.is_none_or(takes) {
            output.truncate(start);
            self.give_up_writing(Unwritten::TooLarge);
        }
    }

    /// Drops what is queued and not written. Exchanges stay; a QoS 0 publish has no other life.
    pub(super) fn drop_unsent(&mut self) {
        if let Some(inbound) = &mut self.inbound {
            inbound.drop_due();
        }
        self.subscriptions.is_queued = false;
        for item in std::mem::take(&mut self.transmit) {
            if let Transmit::Once { token, .. } = item {
                self.unsent_qos0 -= 1;
                self.events.push_back(Event::Unsent { token });
            }
        }
    }

    fn write_once(
        &mut self,
        now: Instant,
        token: u64,
        expires_at: Option<Instant>,
        mut publish: Publish,
        output: &mut BytesMut,
    ) {
        self.unsent_qos0 -= 1;
        if expires_at.is_some_and(|at| at <= now) {
            self.events.push_back(Event::Expired { token });
            return;
        }
        let result = self
            .writer
            .write_publish(now, &mut publish, expires_at, output);
        if result.is_ok() {
            self.note_qos0();
        }
        self.events.push_back(match result {
            Ok(()) => Event::Transmitted { token },
            Err(why) => Event::Rejected {
                token,
                code: why.code(),
                reason_string: None,
            },
        });
    }

    fn write_exchange(&mut self, now: Instant, id: PacketId, order: u64, output: &mut BytesMut) {
        let Some(exchange) = self.exchanges.get_mut(id).filter(|e| e.order == order) else {
            return;
        };
        let Kind::Publish(delivery) = &mut exchange.kind else {
            return;
        };
        let token = delivery.token;
        if matches!(delivery.phase, Phase::Released(_)) {
            let release = Packet::PubRel(Acknowledgement::success(id));
            if let Err(why) = self.writer.write(&release, output) {
                self.give_up_writing(why);
            }
            return;
        }
        // Only a message that was never sent may expire here. One that was must be sent again when
        // the session is resumed [MQTT-4.4.0-1]: the server may hold it already, and its exchange
        // has to end for both sides to agree on the identifier. On MQTT 5 the server gets the rest
        // of its life, at the least a second.
        if delivery.phase == Phase::Unsent && delivery.expires_at.is_some_and(|at| at <= now) {
            self.finish(id, Event::Expired { token });
            return;
        }
        let result =
            self.writer
                .write_publish(now, &mut delivery.publish, delivery.expires_at, output);
        match result {
            Ok(()) => {
                let before = std::mem::replace(&mut delivery.phase, Phase::Sent);
                if self.journal.is_some() && before == Phase::Unsent {
                    self.note_published(id);
                }
            }
            Err(why) => {
                let event = Event::Rejected {
                    token,
                    code: why.code(),
                    reason_string: None,
                };
                self.finish(id, event);
            }
        }
    }
}
