//! Where a test keeps the records of a session: a log whose end a crash loses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use paquebot_protocols::mqtt::PacketId;
use paquebot_protocols::mqtt::session::{Progress, Record};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry {
    Session(Record),
    /// The owner of the messages knows the end of one, and nothing waits for that.
    Ended(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What a crash leaves of the messages in flight.
    pub(crate) outbound: BTreeMap<u64, Progress>,
    /// What it leaves of the server's identifiers.
    pub(crate) inbound: BTreeSet<PacketId>,
    /// Messages that are done with.
    pub(crate) ended: BTreeSet<u64>,
    pending: VecDeque<Entry>,
    written: usize,
    durable: usize,
}

impl Disk {
    pub(crate) fn write(&mut self, entry: Entry) {
        self.pending.push_back(entry);
        self.written += 1;
    }

    /// How many entries were written, and how many of them are durable.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    pub(crate) fn durable(&self) -> usize {
        self.durable
    }

    /// The next so many entries become durable.
    pub(crate) fn sync(&mut self, count: usize) {
        let count = count.min(self.pending.len());
        self.durable += count;
        let entries: Vec<_> = self.pending.drain(..count).collect();
        for entry in entries {
            self.apply(entry);
        }
    }

    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.written = self.durable;
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Ended(token) => {
                self.outbound.remove(&token);
                self.ended.insert(token);
            }
            Entry::Session(Record::Published { token, packet_id }) => {
                self.outbound.insert(token, Progress::Published(packet_id));
            }
            Entry::Session(Record::Released { token, packet_id }) => {
                self.outbound.insert(token, Progress::Released(packet_id));
            }
            Entry::Session(Record::Withdrawn { token }) => {
                self.outbound.insert(token, Progress::Withdrawn);
            }
            Entry::Session(Record::InboundReceived { packet_id }) => {
                assert!(self.inbound.insert(packet_id), "{packet_id} recorded twice");
            }
            Entry::Session(Record::InboundReleased { packet_id }) => {
                assert!(self.inbound.remove(&packet_id), "{packet_id} not recorded");
            }
        }
    }
}
