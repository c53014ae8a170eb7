//! Bytes to packets.

use std::borrow::Cow;

use bytes::{Buf, Bytes};

use super::properties::table::Carrier;
use super::{Packet, PacketId, ReasonCode, Version};
use error::{malformed, protocol, too_large};
use reader::Reader;

mod acknowledge;
mod connect;
mod disconnect;
mod error;
mod frequent;
mod properties;
mod publish;
mod reader;
mod subscribe;

pub use frequent::{AckKind, PublishSpan};

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

impl Sender {
    /// Whether what only `who` sends may come from this side.
    pub(crate) const fn may_send(self, who: Self) -> bool {
        !matches!(
            (self, who),
            (Self::Client, Self::Server) | (Self::Server, Self::Client)
        )
    }
}

impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Either => "client or server",
        })
    }
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

/// What one call of [`Decoder::decode_next`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An acknowledgement of success and nothing else.
    Acknowledgement(AckKind, PacketId),
    /// Any other whole packet. Its text and payload share the input.
    Packet(Packet),
    /// The rest of the input is a prefix of a packet, or empty.
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
    /// What can be refused early is: a wrong first byte at once, a packet above the limit as soon as
    /// its length is there. `input` is left alone unless a packet is returned.
    ///
    /// # Errors
    /// What the specifications forbid. A frame that is all there is never answered `Incomplete`.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, DecodeError> {
        if let Some(version) = self.version
            && let Some(packet) = frequent::take(input, version, self.packet_size_max)
        {
            return Ok(Decoded::Packet(packet));
        }
        self.decode_any(input)
    }

    /// Finds the PUBLISH at `input[*at..]` and moves `at` past it, without an allocation or a share of `input`. `None`,
    /// and `at` stays, for all that is not plainly a whole and legal PUBLISH without properties: what it is
    /// [`Decoder::decode_next`] tells.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use paquebot_protocols::mqtt::{Decoder, Next, Sender, Version};
    /// let input = Bytes::from_static(b"\x30\x06\0\x01tbye\xd0\0\x30");
    /// let mut decoder = Decoder::new(Version::V311, Sender::Server, 1024);
    /// let mut at = 0;
    /// let Some(publish) = decoder.find_publish(&input, &mut at) else { panic!() };
    /// assert_eq!((publish.topic(&input), publish.payload(&input)), ("t", &b"bye"[..]));
    /// assert_eq!(decoder.find_publish(&input, &mut at), None);
    /// assert!(matches!(decoder.decode_next(&input, &mut at), Ok(Next::Packet(_))));
    /// let incomplete = decoder.decode_next(&input, &mut at);
    /// assert_eq!(incomplete, Ok(Next::Incomplete { missing: None }));
    /// assert_eq!(&input[at..], b"\x30");
    /// ```
    // By itself: in one enum with all other packets what is found would be written to memory and read back.
    #[inline]
    #[must_use]
    pub fn find_publish(&self, input: &[u8], at: &mut usize) -> Option<PublishSpan> {
        let (span, end) = frequent::find_publish(input, *at, self.version?, self.packet_size_max)?;
        *at = end;
        Some(span)
    }

    /// The PUBACKs of success that follow one another from `input[at..]` on, by their identifiers: what a server sends that is
    /// published to. Each takes [`Decoder::PUBACK_LEN`] bytes.
    #[inline]
    pub fn find_pubacks(&self, input: &[u8], at: usize) -> impl Iterator<Item = PacketId> {
        // Before CONNECT nothing is known of what comes.
        let packet_size_max = self.version.map_or(0, |_| self.packet_size_max);
        frequent::find_pubacks(input, at, packet_size_max)
    }

    /// Bytes of a PUBACK of success.
    pub const PUBACK_LEN: usize = frequent::ACKNOWLEDGEMENT;

    /// Takes the packet at `input[*at..]` and moves `at` past it; the rules are those of [`Decoder::decode`]. An
    /// acknowledgement costs neither an allocation nor a share of `input`, and for a PUBLISH that
    /// [`Decoder::find_publish`] finds it is the long way.
    ///
    /// # Errors
    /// As [`Decoder::decode`]; `at` then stays where it was.
    #[inline]
    pub fn decode_next(&mut self, input: &Bytes, at: &mut usize) -> Result<Next, DecodeError> {
        if self.version.is_some()
            && let Some((kind, id)) =
                frequent::find_acknowledgement(input, *at, self.packet_size_max)
        {
            *at += frequent::ACKNOWLEDGEMENT;
            return Ok(Next::Acknowledgement(kind, id));
        }
        self.decode_any_next(input, at)
    }

    #[inline(never)]
    fn decode_any_next(&mut self, input: &Bytes, at: &mut usize) -> Result<Next, DecodeError> {
        let mut rest = input.slice((*at).min(input.len())..);
        let before = rest.len();
        Ok(match self.decode(&mut rest)? {
            Decoded::Packet(packet) => {
                *at += before - rest.len();
                Next::Packet(packet)
            }
            Decoded::Incomplete { missing } => Next::Incomplete { missing },
        })
    }

    /// Decodes what [`frequent`] leaves: all other packets, prefixes and errors.
    fn decode_any(&mut self, input: &mut Bytes) -> Result<Decoded, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(Decoded::Incomplete { missing: None });
        };
        let Some(version) = self.version else {
            return self.decode_first(input);
        };
        self.check_first_byte(first, version)?;
        let Some(length) = remaining_length(rest)? else {
            return Ok(Decoded::Incomplete { missing: None });
        };
        if length.is_padded && version == Version::V5 {
            return Err(padded_length());
        }
        let end = self.check_size(length, version)?;
        if input.len() < end {
            return Ok(Decoded::Incomplete {
                missing: Some(end - input.len()),
            });
        }
        let reader = Reader::new(input, 1 + length.bytes, end, version, self.sender);
        let packet = decode_body(reader, first)?;
        input.advance(end);
        Ok(Decoded::Packet(packet))
    }

    /// The first packet of a connection has to be CONNECT, and says which version the rest is in.
    fn decode_first(&mut self, input: &mut Bytes) -> Result<Decoded, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(Decoded::Incomplete { missing: None });
        };
        if first >> 4 != 1 {
            return Err(protocol(
                "MQTT-3.1.0-1",
                "the first packet of a connection is not CONNECT",
            ));
        }
        // Until the level is read, MQTT 5's words are used: its CONNACK can carry them.
        self.check_first_byte(first, Version::V5)?;
        let Some(length) = remaining_length(rest)? else {
            return Ok(Decoded::Incomplete { missing: None });
        };
        let end = self.check_size(length, Version::V5)?;
        if input.len() < end {
            return Ok(Decoded::Incomplete {
                missing: Some(end - input.len()),
            });
        }
        let reader = Reader::new(input, 1 + length.bytes, end, Version::V5, self.sender);
        let connect = connect::decode(reader, None)?;
        if length.is_padded && connect.version == Version::V5 {
            return Err(padded_length());
        }
        self.version = Some(connect.version);
        input.advance(end);
        Ok(Decoded::Packet(Packet::Connect(Box::new(connect))))
    }

    /// What the packet type and the flags alone tell to be wrong.
    fn check_first_byte(&self, first: u8, version: Version) -> Result<(), DecodeError> {
        let (packet_type, flags) = (first >> 4, first & 0x0f);
        let Some((name, sender)) = packet_type_of(packet_type, version) else {
            return Err(malformed(
                if version == Version::V5 {
                    "§2.1.2"
                } else {
                    "§2.2.1"
                },
                format!("packet type {packet_type} is reserved in MQTT {version}"),
            ));
        };
        if packet_type == 3 {
            return check_publish_flags(flags);
        }
        let flags_expected = if matches!(packet_type, 6 | 8 | 10) {
            2
        } else {
            0
        };
        if flags != flags_expected {
            return Err(malformed(
                flags_clause(packet_type, version),
                format!("the flags of {name} are {flags}; they have to be {flags_expected}"),
            ));
        }
        if !self.sender.may_send(sender) {
            return Err(protocol(
                if version == Version::V5 {
                    "§2.1.2"
                } else {
                    "§2.2.1"
                },
                match self.sender {
                    Sender::Client => format!("a client never sends {name}"),
                    _ => format!("a server never sends {name}"),
                },
            ));
        }
        Ok(())
    }

    /// Where the packet ends, if that is within the limit.
    fn check_size(&self, length: RemainingLength, version: Version) -> Result<usize, DecodeError> {
        let size = 1 + length.bytes + length.value;
        if size > self.packet_size_max {
            let clause = match (version, self.sender) {
                (Version::V311, _) => "§2.2.3",
                (Version::V5, Sender::Client) => "MQTT-3.2.2-15",
                (Version::V5, _) => "MQTT-3.1.2-24",
            };
            return Err(too_large(
                clause,
                format!(
                    "the packet has {size} bytes; the limit is {}",
                    self.packet_size_max
                ),
            ));
        }
        Ok(size)
    }
}

/// The remaining length of a fixed header.
#[derive(Clone, Copy)]
struct RemainingLength {
    value: usize,
    /// How many bytes it is written in.
    bytes: usize,
    /// Fewer would have done: forbidden in MQTT 5 `[MQTT-1.5.5-1]`; MQTT 3.1.1 has no such rule.
    is_padded: bool,
}

/// Reads the remaining length at the front of `bytes`; `None` if it is not all there.
fn remaining_length(bytes: &[u8]) -> Result<Option<RemainingLength>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(Some(RemainingLength {
                value,
                bytes: index + 1,
                is_padded: byte == 0 && index > 0,
            }));
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(long_length())
    }
}

fn decode_body(reader: Reader<'_>, first: u8) -> Result<Packet, DecodeError> {
    Ok(match first >> 4 {
        1 => {
            let version = reader.version;
            Packet::Connect(Box::new(connect::decode(reader, Some(version))?))
        }
        2 => Packet::ConnAck(connect::decode_connack(reader)?),
        3 => Packet::Publish(publish::decode(reader, first)?),
        4 => Packet::PubAck(acknowledge::decode(reader, Carrier::PubAck)?),
        5 => Packet::PubRec(acknowledge::decode(reader, Carrier::PubRec)?),
        6 => Packet::PubRel(acknowledge::decode(reader, Carrier::PubRel)?),
        7 => Packet::PubComp(acknowledge::decode(reader, Carrier::PubComp)?),
        8 => Packet::Subscribe(subscribe::decode(reader)?),
        9 => Packet::SubAck(subscribe::decode_suback(reader)?),
        10 => Packet::Unsubscribe(subscribe::decode_unsubscribe(reader)?),
        11 => Packet::UnsubAck(subscribe::decode_unsuback(reader)?),
        12 => {
            reader.finish()?;
            Packet::PingReq
        }
        13 => {
            reader.finish()?;
            Packet::PingResp
        }
        14 => Packet::Disconnect(disconnect::decode(reader)?),
        // The type was checked: nothing but AUTH is left.
        _ => Packet::Auth(disconnect::decode_auth(reader)?),
    })
}

/// Name and direction of flow of a packet type (Table 2-1 in MQTT 5, Table 2.1 in MQTT 3.1.1).
const fn packet_type_of(packet_type: u8, version: Version) -> Option<(&'static str, Sender)> {
    Some(match packet_type {
        1 => ("CONNECT", Sender::Client),
        2 => ("CONNACK", Sender::Server),
        3 => ("PUBLISH", Sender::Either),
        4 => ("PUBACK", Sender::Either),
        5 => ("PUBREC", Sender::Either),
        6 => ("PUBREL", Sender::Either),
        7 => ("PUBCOMP", Sender::Either),
        8 => ("SUBSCRIBE", Sender::Client),
        9 => ("SUBACK", Sender::Server),
        10 => ("UNSUBSCRIBE", Sender::Client),
        11 => ("UNSUBACK", Sender::Server),
        12 => ("PINGREQ", Sender::Client),
        13 => ("PINGRESP", Sender::Server),
        14 => match version {
            Version::V311 => ("DISCONNECT", Sender::Client),
            Version::V5 => ("DISCONNECT", Sender::Either),
        },
        15 if matches!(version, Version::V5) => ("AUTH", Sender::Either),
        _ => return None,
    })
}

const fn flags_clause(packet_type: u8, version: Version) -> &'static str {
    match (packet_type, version) {
        (6, _) => "MQTT-3.6.1-1",
        (8, _) => "MQTT-3.8.1-1",
        (10, _) => "MQTT-3.10.1-1",
        (14, _) => "MQTT-3.14.1-1",
        (15, _) => "MQTT-3.15.1-1",
        (_, Version::V311) => "MQTT-2.2.2-2",
        (_, Version::V5) => "MQTT-2.1.3-1",
    }
}

fn check_publish_flags(flags: u8) -> Result<(), DecodeError> {
    if flags & 0b0110 == 0b0110 {
        Err(malformed("MQTT-3.3.1-4", "the QoS of PUBLISH is 3"))
    } else if flags & 0b1110 == 0b1000 {
        Err(malformed("MQTT-3.3.1-2", "PUBLISH has DUP set at QoS 0"))
    } else {
        Ok(())
    }
}

#[cold]
fn padded_length() -> DecodeError {
    malformed(
        "MQTT-1.5.5-1",
        "the remaining length is not written in the fewest bytes",
    )
}

#[cold]
fn long_length() -> DecodeError {
    malformed("§2.1.4", "the remaining length has more than four bytes")
}
