//! What the server published: topic aliases, the state of QoS 1 and 2 exchanges, and
//! acknowledgements in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use super::{CloseReason, InboundId, Incoming};
use crate::mqtt::{Acknowledgement, Packet, PacketId, Publish, QoS, ReasonCode, Topic, Version};

/// The receiving half of a session.
///
/// A QoS 1 exchange dies with its connection: the server delivers again what was not acknowledged.
/// A QoS 2 exchange lives as long as the session: its identifier is what keeps a message from being
/// handed over twice.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// QoS 1 messages handed over and not yet acknowledged on the wire, in order of arrival.
    at_least_once: VecDeque<AtLeastOnce>,
    /// The serial number of the first of them; they are consecutive.
    first_serial: u32,
    /// QoS 2 exchanges of the session that PUBREL has not ended.
    exactly_once: BTreeMap<PacketId, ExactlyOnce>,
    /// Those that owe a PUBREC in this connection, in order of arrival.
    owed: VecDeque<PacketId>,
    next_serial: u32,
    /// QoS 2 exchanges whose PUBLISH came in this connection: they count for Receive Maximum.
    counted: usize,
    /// How many PUBLISH and PUBREL packets of earlier connections the server sent again in this one.
    resent: u16,
    /// Topic of each alias, from alias 1 on.
    aliases: Vec<Option<Topic>>,
    /// PUBACKs to be written. They need no order but their own, so they go before whatever else is ready.
    due: Vec<PacketId>,
}

#[derive(Debug)]
struct AtLeastOnce {
    id: PacketId,
    acknowledged: bool,
}

#[derive(Debug)]
struct ExactlyOnce {
    generation: u32,
    acknowledged: bool,
    /// It stands in `owed`.
    is_owed: bool,
    /// It takes part in `counted`.
    is_counted: bool,
    /// The server's session may not be the one it belongs to.
    in_doubt: bool,
}

/// The limits that a server must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct InboundLimits {
    pub(super) version: Version,
    pub(super) receive_maximum: u16,
    pub(super) topic_alias_maximum: u16,
}

/// What becomes of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is to be handed over; one with an identifier is to be given to
    /// [`Session::acknowledge`](super::Session::acknowledge) then.
    HandOver(Option<InboundId>),
    /// Nothing: it was handed over before, or the connection has ended.
    Nothing,
}

/// Length of a PUBACK that says success.
pub(super) const PUBACK_BYTES: usize = 4;

impl Inbound {
    /// A connection ends: nothing is owed to the server until it delivers again, and aliases do not
    /// outlive it `[MQTT-3.3.2-7]`.
    pub(super) fn end_connection(&mut self) {
        self.first_serial = serial(self.first_serial, self.at_least_once.len());
        self.at_least_once = VecDeque::new();
        self.owed.clear();
        self.counted = 0;
        self.resent = 0;
        self.aliases = Vec::new();
        for exchange in self.exactly_once.values_mut() {
            exchange.is_owed = false;
            exchange.is_counted = false;
        }
    }

    /// The server has no state of an earlier connection, so its identifiers mean new messages.
    pub(super) fn begin_session(&mut self) {
        self.exactly_once.clear();
    }

    /// An earlier process was done with the message of this identifier.
    pub(super) fn restore_exactly_once(&mut self, id: PacketId) {
        let generation = join(self.next_serial, QoS::ExactlyOnce);
        self.next_serial = serial(self.next_serial, 1);
        self.exactly_once.insert(
            id,
            ExactlyOnce {
                generation,
                acknowledged: true,
                is_owed: false,
                is_counted: false,
                in_doubt: false,
            },
        );
    }

    /// The server has a session; `in_doubt`: it may be another one than before.
    pub(super) fn resume(&mut self, in_doubt: bool) {
        for exchange in self.exactly_once.values_mut() {
            exchange.in_doubt |= in_doubt;
        }
    }

    /// A PUBLISH. Gives the message to hand over, `None` for one that was handed over before;
    /// acknowledgements that are due go to `reply`.
    pub(super) fn publish(
        &mut self,
        publish: Publish,
        limits: InboundLimits,
        reply: &mut impl FnMut(Packet),
    ) -> Result<Option<Incoming>, CloseReason> {
        let topic = self.resolve(&publish, limits)?;
        let arrival = self.admit(publish.qos, publish.packet_id, publish.dup, limits, reply)?;
        let Arrival::HandOver(id) = arrival else {
            return Ok(None);
        };
        let mut properties = publish.properties;
        if properties.topic_alias.is_some() {
            properties.edit().topic_alias = None;
        }
        Ok(Some(Incoming {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            properties,
            id,
        }))
    }

    /// Opens the exchange of a PUBLISH whose topic is known.
    #[inline]
    pub(super) fn admit(
        &mut self,
        qos: QoS,
        packet_id: Option<PacketId>,
        dup: bool,
        limits: InboundLimits,
        reply: &mut impl FnMut(Packet),
    ) -> Result<Arrival, CloseReason> {
        if dup {
            self.resent = self.resent.saturating_add(1);
        }
        match (qos, packet_id) {
            (QoS::AtMostOnce, _) => Ok(Arrival::HandOver(None)),
            (QoS::AtLeastOnce, Some(id)) => {
                self.check_receive_maximum(dup, limits)?;
                Ok(Arrival::HandOver(Some(self.at_least_once(id))))
            }
            (QoS::ExactlyOnce, Some(id)) => match self.exactly_once(id, dup, limits)? {
                Some(id) => Ok(Arrival::HandOver(Some(id))),
                None => {
                    self.flush_exactly_once(reply);
                    Ok(Arrival::Nothing)
                }
            },
            (_, None) => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-2.2.1-3",
                "PUBLISH above QoS 0 without a packet identifier",
            )),
        }
    }

    /// PUBREL: the exchange ends, answered with PUBCOMP.
    ///
    /// One that is still with the application ends as well, although the server had no PUBREC for
    /// it: the message was handed over, and closing would only meet the same PUBREL after each
    /// reconnect.
    pub(super) fn release(
        &mut self,
        id: PacketId,
        version: Version,
        reply: &mut impl FnMut(Packet),
    ) {
        let ended = self.exactly_once.remove(&id);
        if !ended.as_ref().is_some_and(|exchange| exchange.is_counted) {
            self.resent = self.resent.saturating_add(1);
        }
        let code = match ended {
            Some(exchange) => {
                self.counted -= usize::from(exchange.is_counted);
                if exchange.is_owed {
                    self.owed.retain(|owed| *owed != id);
                    self.flush_exactly_once(reply);
                }
                ReasonCode::SUCCESS
            }
            // MQTT 3.1.1 has no words for it and the server waits for its PUBCOMP all the same.
            None if version == Version::V311 => ReasonCode::SUCCESS,
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        reply(Packet::PubComp(Acknowledgement::with_reason(id, code)));
    }

    /// The application is done with a message.
    pub(super) fn acknowledge(&mut self, id: InboundId, reply: &mut impl FnMut(Packet)) {
        let (serial_number, qos) = split(id.generation);
        match qos {
            QoS::ExactlyOnce => {
                if let Some(exchange) = self.exactly_once.get_mut(&id.packet_id)
                    && exchange.generation == id.generation
                {
                    exchange.acknowledged = true;
                    self.flush_exactly_once(reply);
                }
            }
            _ => {
                let offset = serial_number.wrapping_sub(self.first_serial) & SERIAL_MASK;
                if let Some(pending) = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| self.at_least_once.get_mut(offset))
                    && pending.id == id.packet_id
                {
                    pending.acknowledged = true;
                    self.flush_at_least_once();
                }
            }
        }
    }

    /// How many PUBACKs are to be written.
    pub(super) fn due_len(&self) -> usize {
        self.due.len()
    }

    /// They are not going to be written.
    pub(super) fn drop_due(&mut self) {
        self.due = Vec::new();
    }

    /// Appends the PUBACKs that are due, at most so many bytes of them. One that says success has the same four bytes in both versions (MQTT 5
    /// §3.4.2.1).
    pub(super) fn write_due(&mut self, bytes_max: usize, output: &mut BytesMut) {
        let count = self.due.len().min(bytes_max / PUBACK_BYTES);
        output.reserve(count * PUBACK_BYTES);
        for id in self.due.drain(..count) {
            let [high, low] = id.value().to_be_bytes();
            output.extend_from_slice(&[0x40, 2, high, low]);
        }
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink_idle(&mut self) {
        self.at_least_once.shrink_to_fit();
        self.owed.shrink_to_fit();
        self.due.shrink_to_fit();
    }

    fn at_least_once(&mut self, id: PacketId) -> InboundId {
        let serial_number = serial(self.first_serial, self.at_least_once.len());
        self.at_least_once.push_back(AtLeastOnce {
            id,
            acknowledged: false,
        });
        InboundId {
            packet_id: id,
            generation: join(serial_number, QoS::AtLeastOnce),
        }
    }

    /// `None` for a message that was handed over before.
    fn exactly_once(
        &mut self,
        id: PacketId,
        dup: bool,
        limits: InboundLimits,
    ) -> Result<Option<InboundId>, CloseReason> {
        // A server that never sent it before says so; only then is an identifier of the old session
        // known to mean another message in the new one.
        if !dup && self.exactly_once.get(&id).is_some_and(|e| e.in_doubt) {
            self.exactly_once.remove(&id);
        }
        if let Some(exchange) = self.exactly_once.get_mut(&id) {
            exchange.in_doubt = false;
            // PUBREC is owed once more, behind those of earlier arrivals [MQTT-4.6.0-3].
            if !exchange.is_owed {
                exchange.is_owed = true;
                self.owed.push_back(id);
            }
            if !exchange.is_counted {
                exchange.is_counted = true;
                self.counted += 1;
            }
            return Ok(None);
        }
        self.check_receive_maximum(dup, limits)?;
        let generation = join(self.next_serial, QoS::ExactlyOnce);
        self.next_serial = serial(self.next_serial, 1);
        self.exactly_once.insert(
            id,
            ExactlyOnce {
                generation,
                acknowledged: false,
                is_owed: true,
                is_counted: true,
                in_doubt: false,
            },
        );
        self.owed.push_back(id);
        self.counted += 1;
        Ok(Some(InboundId {
            packet_id: id,
            generation,
        }))
    }

    /// On MQTT 3.1.1, where Receive Maximum is not told to the server, the limit is the number of
    /// identifiers.
    ///
    /// So it is once a server sends more again than Receive Maximum. It has to send again all that an earlier
    /// connection left open `[MQTT-4.4.0-1]`, whose Receive Maximum may have been larger, and what it counts from there
    /// on is not to be relied upon (Mosquitto 2.0's quota falls below zero). Each connection that was closed for it
    /// would begin with the same messages.
    fn check_receive_maximum(&self, dup: bool, limits: InboundLimits) -> Result<(), CloseReason> {
        let told = limits.receive_maximum.max(1);
        let maximum = match limits.version {
            Version::V5 if !dup && self.resent <= told => told,
            _ => u16::MAX,
        };
        if self.at_least_once.len() + self.counted < usize::from(maximum) {
            return Ok(());
        }
        Err(violation(
            ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
            "MQTT-3.3.4-9",
            format!("more than {maximum} unacknowledged publishes"),
        ))
    }

    /// PUBACK in the order in which the PUBLISH packets came `[MQTT-4.6.0-2]`.
    #[inline]
    fn flush_at_least_once(&mut self) {
        while let Some(pending) = self.at_least_once.pop_front_if(|p| p.acknowledged) {
            self.first_serial = serial(self.first_serial, 1);
            self.due.push(pending.id);
        }
    }

    /// PUBREC in the order in which the PUBLISH packets came `[MQTT-4.6.0-3]`.
    fn flush_exactly_once(&mut self, reply: &mut impl FnMut(Packet)) {
        while let Some(id) = self.owed.front() {
            if let Some(exchange) = self.exactly_once.get_mut(id) {
                if !exchange.acknowledged {
                    return;
                }
                exchange.is_owed = false;
                reply(Packet::PubRec(Acknowledgement::success(*id)));
            }
            self.owed.pop_front();
        }
    }

    /// The topic, by name or by alias (MQTT 5 §3.3.2.3.4).
    fn resolve(&mut self, publish: &Publish, limits: InboundLimits) -> Result<Topic, CloseReason> {
        let Some(alias) = publish.properties.topic_alias else {
            return publish.topic.clone().ok_or_else(|| {
                violation(
                    ReasonCode::PROTOCOL_ERROR,
                    "§3.3.2.1",
                    "PUBLISH with neither topic nor topic alias",
                )
            });
        };
        if alias == 0 || alias > limits.topic_alias_maximum {
            return Err(violation(
                ReasonCode::TOPIC_ALIAS_INVALID,
                "MQTT-3.3.2-11",
                format!(
                    "topic alias {alias}; 1 to {} are accepted",
                    limits.topic_alias_maximum
                ),
            ));
        }
        let index = usize::from(alias) - 1;
        if let Some(topic) = &publish.topic {
            if self.aliases.len() <= index {
                self.aliases.resize(index + 1, None);
            }
            // A copy: the received topic is a slice that would keep its whole read buffer for as
            // long as the alias.
            self.aliases[index] = Topic::new(topic.as_str().to_owned()).ok();
            return Ok(topic.clone());
        }
        // An alias inside the limit that was never set is a protocol error, not an invalid alias
        // (§3.3.2.3.4).
        self.aliases.get(index).cloned().flatten().ok_or_else(|| {
            violation(
                ReasonCode::PROTOCOL_ERROR,
                "§3.3.2.3.4",
                format!("topic alias {alias} stands for no topic yet"),
            )
        })
    }
}

/// A breach of the protocol by the server.
pub(super) fn violation(
    code: ReasonCode,
    clause: &'static str,
    message: impl Into<String>,
) -> CloseReason {
    CloseReason::ProtocolViolation {
        code,
        clause,
        message: message.into(),
    }
}

// A generation is a serial number of 31 bits and one bit that tells the QoS: acknowledging finds
// its queue and its place without a search.
const SERIAL_MASK: u32 = u32::MAX >> 1;

fn serial(from: u32, steps: usize) -> u32 {
    // At most 65,535 messages wait, so the conversion cannot lose anything.
    from.wrapping_add(u32::try_from(steps).unwrap_or(0)) & SERIAL_MASK
}

fn join(serial_number: u32, qos: QoS) -> u32 {
    serial_number << 1 | u32::from(qos == QoS::ExactlyOnce)
}

fn split(generation: u32) -> (u32, QoS) {
    let qos = if generation & 1 == 0 {
        QoS::AtLeastOnce
    } else {
        QoS::ExactlyOnce
    };
    (generation >> 1, qos)
}
