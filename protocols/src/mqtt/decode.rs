//! Bytes to packets.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Packet, ReasonCode, Version};

/// Whose packets a decoder reads; a packet that this side never sends is a protocol error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sender {
    /// The bytes come from a client: this end is a server.
    Client,
    /// The bytes come from a server: this end is a client.
    Server,
    /// Either; nothing is refused for its direction.
    #[default]
    Either,
}

/// What class of rule a refused packet broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes do not parse as the specification lays packets out.
    Malformed,
    /// They parse, and say something the specification forbids.
    Protocol,
    /// A protocol version or feature this end does not speak.
    Unsupported,
    /// Larger than the limit this end set.
    TooLarge,
}

/// Why bytes were refused. The connection they came from cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({clause})")]
pub struct DecodeError {
    /// Class of the rule that was broken.
    pub kind: ErrorKind,
    /// The normative statement (`MQTT-3.3.1-4`) or section (`§2.1.3`) that was broken.
    pub clause: &'static str,
    /// What a DISCONNECT or CONNACK of MQTT 5 says for it.
    pub reason_code: ReasonCode,
    /// What was wrong, with the offending value where it is short.
    pub message: Cow<'static, str>,
}

/// What one call of [`Decoder::decode`] found at the front of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A whole packet, removed from the input.
    Packet(Packet),
    /// The input is a prefix of a packet and was left alone.
    Incomplete {
        /// How many bytes are missing at the least; `None` while the length itself is not all there.
        missing: Option<usize>,
    },
}

/// An incremental decoder: it holds what it must know of the connection, never bytes.
#[derive(Debug, Clone)]
pub struct Decoder {
    version: Option<Version>,
    sender: Sender,
    packet_size_max: usize,
}

impl Decoder {
    /// A decoder for a connection whose version is known. `packet_size_max` is in bytes and counts the
    /// whole packet with its fixed header; it is checked before anything is allocated.
    #[must_use]
    pub const fn new(version: Version, sender: Sender, packet_size_max: usize) -> Self {
        Self {
            version: Some(version),
            sender,
            packet_size_max,
        }
    }

    /// A server's decoder before CONNECT: takes the version from the CONNECT it reads, refuses
    /// any other packet.
    #[must_use]
    pub const fn awaiting_connect(packet_size_max: usize) -> Self {
        Self {
            version: None,
            sender: Sender::Client,
            packet_size_max,
        }
    }

    /// The version in force; `None` before CONNECT.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes one packet off the front of `input`. The packet's text and payload are slices of `input`;
    /// nothing is copied.
    ///
    /// # Errors
    /// What the specifications forbid. A frame that is all there is never answered `Incomplete`.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, DecodeError> {
        let _ = (input, self.sender, self.packet_size_max);
        Ok(Decoded::Incomplete { missing: None })
    }
}
