//! What of a session must outlive the process: QoS 2 is exactly once only if both ends remember.

use std::collections::{BTreeSet, VecDeque};

use super::exchanges::{Delivery, Kind, Phase};
use super::outbound::publish_packet;
use super::transmit::Transmit;
use super::{Event, OnSessionLost, Outgoing, Session};
use crate::mqtt::{Packet, PacketId, QoS, ReasonCode};

/// A fact to be recorded durably before the bytes that depend on it leave; see [`Session::poll_record`].
///
/// Messages are of QoS 2: QoS 1 needs no record, since a message that is published again after a restart may be
/// doubled. Later facts about a message or an identifier replace earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The PUBLISH of a message leaves under this identifier.
    Published {
        /// The message.
        token: u64,
        /// Its packet identifier.
        packet_id: PacketId,
    },
    /// PUBREC came for a message: it is the server's, and PUBREL leaves.
    Released {
        /// The message.
        token: u64,
        /// Its packet identifier, the same as before.
        packet_id: PacketId,
    },
    /// The server has lost the session, and with it what was recorded of this message. It is published as a new one,
    /// which has records of its own, or ends as rejected.
    Withdrawn {
        /// The message.
        token: u64,
    },
    /// The application is done with a received message, and PUBREC leaves: its identifier means this message until
    /// [`Record::InboundReleased`].
    InboundReceived {
        /// The server's packet identifier.
        packet_id: PacketId,
    },
    /// PUBREL came and PUBCOMP leaves, or the server has lost the session: the identifier means nothing any more.
    InboundReleased {
        /// The server's packet identifier.
        packet_id: PacketId,
    },
}

/// A message that an earlier process accepted and whose end it did not record.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The message, with a token of this process.
    pub message: Outgoing,
    /// What was recorded of it.
    pub progress: Progress,
}

/// The last record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// None. It is published as a new message, in its place among the others.
    Unrecorded,
    /// [`Record::Published`].
    Published(PacketId),
    /// [`Record::Released`].
    Released(PacketId),
    /// [`Record::Withdrawn`].
    Withdrawn,
}

/// Records to be taken, and what is needed to make each once.
#[derive(Debug, Default)]
pub(super) struct Journal {
    records: VecDeque<Record>,
    /// The server's identifiers that are recorded.
    inbound: BTreeSet<PacketId>,
}

impl Journal {
    pub(super) fn push(&mut self, record: Record) {
        self.records.push_back(record);
    }

    /// A packet that answers the server is going to leave.
    fn note_answer(&mut self, packet: &Packet) {
        match packet {
            Packet::PubRec(ack) if self.inbound.insert(ack.packet_id) => {
                self.push(Record::InboundReceived {
                    packet_id: ack.packet_id,
                });
            }
            Packet::PubComp(ack) => self.forget_inbound(ack.packet_id),
            _ => {}
        }
    }

    /// The identifier does not mean the message any more that it is recorded for.
    pub(super) fn forget_inbound(&mut self, packet_id: PacketId) {
        if self.inbound.remove(&packet_id) {
            self.push(Record::InboundReleased { packet_id });
        }
    }

    /// The server has lost the session.
    pub(super) fn forget_all_inbound(&mut self) {
        let released = std::mem::take(&mut self.inbound).into_iter();
        self.records
            .extend(released.map(|packet_id| Record::InboundReleased { packet_id }));
    }
}

/// Queues an answer to the server.
pub(super) fn answer(
    transmit: &mut VecDeque<Transmit>,
    journal: &mut Option<Box<Journal>>,
    packet: Packet,
) {
    if let Some(journal) = journal {
        journal.note_answer(&packet);
    }
    transmit.push_back(Transmit::Packet(packet));
}

impl Session {
    /// The next fact to record. There are none unless [`SessionConfig::journal`](super::SessionConfig::journal) is
    /// set.
    ///
    /// A driver takes all of them whenever it has taken bytes, before it gives those bytes away. The bytes, and all
    /// that it takes later, leave once the records are durable: records first, bytes in their order. A record that
    /// could not be made durable is still owed: nothing leaves before it, in this connection or a later one.
    pub fn poll_record(&mut self) -> Option<Record> {
        let journal = self.journal.as_mut()?;
        let record = journal.records.pop_front();
        if record.is_none() {
            super::release_small(&mut journal.records);
        }
        record
    }

    /// Takes over what an earlier process left: the identifiers of received messages that are recorded, and messages in
    /// the order in which they were accepted, up to the last one of which there is a record. To be called before the
    /// first [`Session::connect`].
    ///
    /// An unanswered CONNECT may have been that process's last deed, so what comes of recorded messages is flagged
    /// `session_lost`, also when the server says that it has the session. With nothing recorded the session stays one
    /// that never was connected.
    ///
    /// Gives back the messages that it does not take: those of QoS 0, of QoS 1 with a record, and with an identifier
    /// that is taken. They are to be published as new ones.
    #[must_use = "messages that were not taken are to be published"]
    pub fn restore(
        &mut self,
        outbound: Vec<Restored>,
        inbound: impl IntoIterator<Item = PacketId>,
    ) -> Vec<Outgoing> {
        let mut refused = Vec::new();
        let orders = self.exchanges.reserve_orders(outbound.len());
        let mut unrecorded = Vec::new();
        // Identifiers are given out once those that are taken are known.
        for (order, Restored { message, progress }) in orders.zip(outbound) {
            let (packet_id, phase) = match progress {
                Progress::Unrecorded | Progress::Withdrawn => {
                    unrecorded.push((order, message, progress));
                    continue;
                }
                Progress::Published(id) => (id, Phase::Sent),
                Progress::Released(id) => (id, Phase::Released(ReasonCode::SUCCESS)),
            };
            let is_free = self.exchanges.get_mut(packet_id).is_none();
            if message.qos != QoS::ExactlyOnce || !is_free {
                refused.push(message);
                continue;
            }
            let mut delivery = self.restored(message, Some(packet_id), phase);
            if phase != Phase::Sent && self.config.on_session_lost == OnSessionLost::Fail {
                delivery.forget_content();
            }
            let kind = Kind::Publish(delivery);
            self.exchanges.insert_at(packet_id, order, kind);
            self.publishes += 1;
            self.server_has_session = true;
        }
        for (order, message, progress) in unrecorded {
            refused.extend(self.restore_unrecorded(order, message, progress).err());
        }
        for packet_id in inbound {
            let inbound = self.inbound.get_or_insert_default();
            inbound.restore_exactly_once(packet_id);
            if let Some(journal) = &mut self.journal {
                journal.inbound.insert(packet_id);
            }
            self.server_has_session = true;
        }
        self.in_doubt |= self.server_has_session;
        refused
    }

    /// A PUBLISH has been written for the first time under this identifier.
    #[cold]
    pub(super) fn note_published(&mut self, packet_id: PacketId) {
        if let Some(journal) = &mut self.journal
            && let Some(exchange) = self.exchanges.get_mut(packet_id)
            && let Kind::Publish(delivery) = &exchange.kind
            && delivery.publish.qos == QoS::ExactlyOnce
        {
            let token = delivery.token;
            journal.push(Record::Published { token, packet_id });
        }
    }

    /// A message that has no identifier in the server's session.
    fn restore_unrecorded(
        &mut self,
        order: u64,
        message: Outgoing,
        progress: Progress,
    ) -> Result<(), Outgoing> {
        let is_withdrawn = progress == Progress::Withdrawn;
        if message.qos == QoS::AtMostOnce
            || is_withdrawn && message.qos != QoS::ExactlyOnce
            || self.exchanges.is_full()
        {
            return Err(message);
        }
        if is_withdrawn && self.config.on_session_lost == OnSessionLost::Fail {
            self.events.push_back(Event::Rejected {
                token: message.token,
                code: ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                reason_string: None,
            });
            return Ok(());
        }
        let mut delivery = self.restored(message, None, Phase::Unsent);
        delivery.session_lost = is_withdrawn;
        if let Some((id, _)) = self.insert(delivery)
            && let Some(exchange) = self.exchanges.get_mut(id)
        {
            exchange.order = order;
        }
        Ok(())
    }

    fn restored(&self, message: Outgoing, id: Option<PacketId>, phase: Phase) -> Delivery {
        Delivery {
            token: message.token,
            expires_at: message.expires_at,
            publish: publish_packet(message, self.config.version, id),
            phase,
            session_lost: false,
            on_wire: false,
        }
    }

    /// A message of the server is going to be handed over. If its identifier is recorded, that was for a message of a
    /// session which the server has lost.
    #[inline]
    pub(super) fn note_arrival(&mut self, qos: QoS, packet_id: PacketId) {
        if let Some(journal) = &mut self.journal
            && qos == QoS::ExactlyOnce
        {
            journal.forget_inbound(packet_id);
        }
    }
}
