//! The record of the packets that go over the connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use paquebot_protocols::mqtt::{Packet, Sender};
use tokio::sync::mpsc;

/// Packets that a [`Recording`] may be behind. Beyond it they are lost to it and counted.
pub const RECORDING_BACKLOG_MAX: usize = 65_536;

/// A packet as it was read, or handed to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedPacket {
    /// The client whose connection it is.
    pub client_id: ByteString,
    /// Who sent it.
    pub sender: Sender,
    /// The packet.
    pub packet: Packet,
}

/// The receiving end of [`Broker::record`](crate::Broker::record). Dropping it ends the record.
#[derive(Debug)]
pub struct Recording {
    receiver: mpsc::Receiver<RecordedPacket>,
    lost: Arc<AtomicU64>,
}

impl Recording {
    /// The next packet; `None` once the server is gone or another record has begun. Works on any executor and
    /// is cancel safe.
    pub async fn recv(&mut self) -> Option<RecordedPacket> {
        self.receiver.recv().await
    }

    /// The next packet if one is there.
    pub fn try_recv(&mut self) -> Option<RecordedPacket> {
        self.receiver.try_recv().ok()
    }

    /// Packets that were lost because this was too far behind.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The server's end of a [`Recording`].
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<RecordedPacket>,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    pub(crate) fn new() -> (Self, Recording) {
        let (sender, receiver) = mpsc::channel(RECORDING_BACKLOG_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let recording = Recording {
            receiver,
            lost: Arc::clone(&lost),
        };
        (Self { sender, lost }, recording)
    }

    pub(crate) fn note(&self, client_id: &str, sender: Sender, packet: &Packet) {
        let recorded = RecordedPacket {
            client_id: client_id.into(),
            sender,
            packet: packet.clone(),
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(recorded) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What one connection's packets are noted with.
#[derive(Debug)]
pub(crate) struct LinkRecorder {
    pub(crate) recorder: Recorder,
    pub(crate) client_id: ByteString,
}
