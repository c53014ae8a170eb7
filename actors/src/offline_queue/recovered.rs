//! What an earlier process left in a link's durable queue, and how the link goes on with it.

use std::time::{Instant, SystemTime};

use paquebot_protocols::mqtt::PacketId;
use paquebot_protocols::mqtt::session::{Outgoing, Progress};

use super::record::{self, StoredMessage, decode_progress};
use super::{Claim, End, Inflight, Intake, OfflineQueue, Overflow, StoredId, Waiting};
use crate::command_router::RecordedCommand;
use crate::store::{Entry, Space};

/// What the store held of a link when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// In the order of acceptance.
    pub(crate) messages: Vec<RecoveredMessage>,
    /// Inbound QoS 2 exchanges that the server has not ended.
    pub(crate) inbound: Vec<PacketId>,
    /// Commands that were started, in this order.
    pub(crate) commands: Vec<RecordedCommand>,
    /// Entries that this version cannot read.
    pub(crate) unreadable: u64,
}

#[derive(Debug)]
pub(crate) struct RecoveredMessage {
    pub(crate) id: StoredId,
    pub(crate) stored: StoredMessage,
    /// How far a QoS 2 exchange had come.
    pub(crate) progress: Progress,
    /// The room that it was given. Of the link's none where there was not enough.
    claim: Claim,
}

/// What entries in ascending order of their keys say, and the highest message id among them.
pub(super) fn read(entries: Vec<Entry>) -> (Recovered, u64) {
    let mut recovered = Recovered::default();
    let mut last_id = 0;
    for Entry { key, value } in entries {
        let is_read = match key.space {
            // Nothing could come after the last of all ids.
            Space::Message if key.id == u64::MAX => None,
            Space::Message => {
                last_id = last_id.max(key.id);
                let message = StoredId::new(key.id).zip(record::decode(value));
                message.map(|(id, stored)| {
                    recovered.messages.push(RecoveredMessage {
                        id,
                        stored,
                        progress: Progress::Unrecorded,
                        claim: Claim::default(),
                    });
                })
            }
            Space::Outbound => decode_progress(&value).map(|progress| {
                // An exchange without its message has ended; its removal was cut short.
                let found = recovered
                    .messages
                    .binary_search_by_key(&key.id, |message| message.id.get());
                if let Ok(place) = found {
                    recovered.messages[place].progress = progress;
                }
            }),
            Space::Inbound => u16::try_from(key.id)
                .ok()
                .and_then(PacketId::new)
                .map(|id| recovered.inbound.push(id)),
            Space::Command => RecordedCommand::decode(key.id, value)
                .map(|command| recovered.commands.push(command)),
        };
        recovered.unreadable += u64::from(is_read.is_none());
    }
    (recovered, last_id)
}

impl Recovered {
    /// Takes the room of `intake` before the first caller does, and of the fleet's whatever it has.
    pub(crate) fn take_room(&mut self, intake: &Intake, overflow: Overflow) {
        let mut bytes = 0;
        for recovered in &mut self.messages {
            let size = super::size_of(&recovered.stored.message);
            recovered.claim = Claim {
                link: overflow.holds_room() && intake.occupy(size),
                fleet: intake.fleet().is_some(),
            };
            bytes += intake.cost(size) as usize;
        }
        intake.occupy_fleet(self.messages.len(), bytes);
    }
}

/// What a session goes on with after a restart.
#[derive(Debug, Default)]
pub(crate) struct RestoredSession {
    pub(crate) exchanges: Vec<RestoredExchange>,
    /// Inbound QoS 2 exchanges that the server has not ended.
    pub(crate) inbound: Vec<PacketId>,
}

/// A QoS 2 message that an earlier process began to publish, or a message that goes before one.
#[derive(Debug)]
pub(crate) struct RestoredExchange {
    pub(crate) message: Outgoing,
    pub(crate) stored: StoredId,
    pub(crate) progress: Progress,
}

impl OfflineQueue {
    /// Takes what the store held, before anything else; gives what the session is to go on with.
    ///
    /// The bounds may be narrower than those of the process that accepted the messages: none is dropped for that.
    pub(crate) fn recover(&mut self, recovered: Recovered) -> RestoredSession {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut exchanges = Vec::new();
        let is_recorded = |message: &RecoveredMessage| message.progress != Progress::Unrecorded;
        // What was accepted before a message that was published goes before it again.
        let last_recorded = recovered.messages.iter().rposition(is_recorded);
        for (index, recovered) in recovered.messages.into_iter().enumerate() {
            let RecoveredMessage {
                id,
                stored,
                progress,
                claim,
            } = recovered;
            self.turn.get().tally.recovered += 1;
            let left = stored.left(wall);
            let expires_at = left.and_then(|left| now.checked_add(left));
            let accepted_at = now.checked_sub(stored.age(wall)).unwrap_or(now);
            let message = stored.message;
            let size = super::size_of(&message);
            if Some(index) > last_recorded {
                let waiting = Waiting {
                    message,
                    end: End::Untold,
                    accepted_at,
                    order: 0,
                    expires_at,
                    claim,
                    stored: Some(id),
                };
                self.push(waiting, false);
                continue;
            }
            let order = self.take_order();
            let token = self.note_inflight(Inflight {
                end: End::Untold,
                size,
                qos: message.qos,
                sent_at: now,
                order,
                claim,
                stored: Some(id),
            });
            exchanges.push(RestoredExchange {
                message: Outgoing {
                    token,
                    topic: message.topic,
                    payload: message.payload,
                    qos: message.qos,
                    retain: message.retain,
                    properties: message.properties,
                    expires_at,
                },
                stored: id,
                progress,
            });
        }
        RestoredSession {
            exchanges,
            inbound: recovered.inbound,
        }
    }
}
