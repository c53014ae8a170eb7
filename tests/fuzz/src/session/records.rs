//! What has to hold of the records of a session: each tells something new about what the earlier ones said.

use std::collections::{BTreeMap, BTreeSet};

use paquebot_protocols::mqtt::PacketId;
use paquebot_protocols::mqtt::session::{Progress, Record};

/// What a store would hold that forgets nothing of messages that have ended.
#[derive(Debug, Default)]
pub(super) struct Records {
    outbound: BTreeMap<u64, Progress>,
    inbound: BTreeSet<PacketId>,
}

impl Records {
    pub(super) fn note(&mut self, record: Record) {
        match record {
            Record::Published { token, packet_id } => {
                let before = self.outbound.insert(token, Progress::Published(packet_id));
                assert!(
                    matches!(before, None | Some(Progress::Withdrawn)),
                    "{record:?} after {before:?}"
                );
            }
            Record::Released { token, packet_id } => {
                let before = self.outbound.insert(token, Progress::Released(packet_id));
                assert_eq!(before, Some(Progress::Published(packet_id)), "{record:?}");
            }
            Record::Withdrawn { token } => {
                let before = self.outbound.insert(token, Progress::Withdrawn);
                assert!(
                    matches!(before, Some(Progress::Published(_) | Progress::Released(_))),
                    "{record:?} after {before:?}"
                );
            }
            Record::InboundReceived { packet_id } => {
                assert!(self.inbound.insert(packet_id), "{record:?} twice");
            }
            Record::InboundReleased { packet_id } => {
                assert!(self.inbound.remove(&packet_id), "{record:?} of nothing");
            }
        }
    }
}
