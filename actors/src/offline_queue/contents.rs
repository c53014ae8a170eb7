//! What the entries of a durable queue say, for whoever looks into a store.

use std::time::SystemTime;

use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::model::Command;
use paquebot_protocols::mqtt::PacketId;
use paquebot_protocols::mqtt::session::Progress;

use super::record::{self, decode_progress};
use crate::command_router::RecordedCommand;
use crate::store::{Entry, Space};

/// An entry of a durable queue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum QueueEntry {
    /// A message that was accepted and has not ended.
    Message {
        /// Its number in the queue; ascending in the order of acceptance.
        id: u64,
        /// It.
        message: Box<Rendered>,
        /// When it was accepted.
        accepted_at: SystemTime,
        /// When it expires.
        expires_at: Option<SystemTime>,
    },
    /// A message of QoS 2 that is under way.
    Exchange {
        /// The message's number.
        id: u64,
        /// The packet identifier under which it was sent; `None` when the server has lost that session.
        packet_id: Option<PacketId>,
        /// The server has said that it has the message.
        is_released: bool,
    },
    /// A message of QoS 2 from the server that was handed over.
    Received {
        /// The server's packet identifier.
        packet_id: PacketId,
    },
    /// A command that was started.
    Command {
        /// Its number in the queue.
        id: u64,
        /// It, without its payload.
        command: Box<Command>,
        /// When it was started.
        started_at: SystemTime,
        /// Whether it was answered.
        is_answered: bool,
    },
}

impl QueueEntry {
    /// What an entry says; `None` for one that this version cannot read.
    #[must_use]
    pub fn read(entry: Entry) -> Option<Self> {
        let Entry { key, value } = entry;
        match key.space {
            Space::Message => {
                let stored = record::decode(value)?;
                Some(Self::Message {
                    id: key.id,
                    accepted_at: stored.accepted_at(),
                    expires_at: stored.expires_at(),
                    message: Box::new(stored.message),
                })
            }
            Space::Outbound => {
                let (packet_id, is_released) = match decode_progress(&value)? {
                    Progress::Published(packet_id) => (Some(packet_id), false),
                    Progress::Released(packet_id) => (Some(packet_id), true),
                    Progress::Withdrawn | Progress::Unrecorded => (None, false),
                };
                Some(Self::Exchange {
                    id: key.id,
                    packet_id,
                    is_released,
                })
            }
            Space::Inbound => Some(Self::Received {
                packet_id: PacketId::new(u16::try_from(key.id).ok()?)?,
            }),
            Space::Command => {
                let recorded = RecordedCommand::decode(key.id, value)?;
                Some(Self::Command {
                    id: key.id,
                    started_at: recorded.started_at,
                    is_answered: recorded.is_answered,
                    command: Box::new(recorded.command),
                })
            }
        }
    }
}
