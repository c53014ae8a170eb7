//! What a contestant is asked to do, as the parent tells it to its child process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Client;

/// The topic of all messages: 28 bytes, what a fleet's topics are like.
pub(crate) const TOPIC: &str = "devices/dev-000123/telemetry";

/// How long a measurement takes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) span: Duration,
}

/// One measurement of one contestant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) client: Client,
    pub(crate) task: Task,
    pub(crate) timing: Timing,
    /// Where the peer listens; none when it lives in the child.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The authority of the peer's certificate, as PEM; set: TLS.
    pub(crate) ca_file: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Encode and decode without any socket.
    Codec(Codec),
    /// Publish on one link, as fast as it goes, until killed.
    Publish(Publish),
    /// Subscribe on one link and count in the user's handler, until killed.
    Receive { qos: u8 },
    /// Connect links, report, and then stay as they are until killed.
    Idle { links: usize },
    /// Connect links, then send one message on each in turn, until killed.
    Turns { links: usize, outstanding: usize },
    /// The same over in-memory pipes, with the peer in the child; report.
    Pipes { links: usize, outstanding: usize },
}

/// Which packets a codec works on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Codec {
    pub(crate) qos: u8,
    pub(crate) payload_len: usize,
}

/// How one link publishes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Publish {
    pub(crate) qos: u8,
    pub(crate) payload_len: usize,
    /// QoS 1: messages unacknowledged at the most.
    pub(crate) window: u16,
}

/// A PUBLISH as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// Where its packet identifier is, above QoS 0.
    pub(crate) id_at: usize,
}

/// A PUBLISH of MQTT 3.1.1 on [`TOPIC`] with packet identifier 1.
pub(crate) fn publish_frame(qos: u8, payload_len: usize) -> Frame {
    frame(qos, &[], payload_len)
}

/// The same in MQTT 5, without properties.
pub(crate) fn publish_frame_v5(qos: u8, payload_len: usize) -> Frame {
    frame(qos, &[0], payload_len)
}

fn frame(qos: u8, properties: &[u8], payload_len: usize) -> Frame {
    let id_len = if qos == 0 { 0 } else { 2 };
    let mut bytes = vec![0x30 | (qos << 1)];
    let mut remaining = 2 + TOPIC.len() + id_len + properties.len() + payload_len;
    loop {
        let more = if remaining > 0x7F { 0x80 } else { 0 };
        bytes.push((remaining & 0x7F) as u8 | more);
        remaining >>= 7;
        if remaining == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&(TOPIC.len() as u16).to_be_bytes());
    bytes.extend_from_slice(TOPIC.as_bytes());
    let id_at = bytes.len();
    if id_len > 0 {
        bytes.extend_from_slice(&1_u16.to_be_bytes());
    }
    bytes.extend_from_slice(properties);
    bytes.resize(bytes.len() + payload_len, b'x');
    Frame { bytes, id_at }
}
