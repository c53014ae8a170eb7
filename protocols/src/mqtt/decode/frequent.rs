//! The packets that a busy link is made of, on a short way: PUBLISH without properties, and
//! acknowledgements that say no more than success.
//!
//! Whatever is not plainly legal and whole is left to the decoder proper, which finds the error or
//! tells what is missing; so nothing here makes an error, and no result is larger than it has to be.

use bytes::{Buf, Bytes};

use crate::mqtt::topic::{is_wire_topic, wire_text};
use crate::mqtt::{
    Acknowledgement, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Topic, Version,
};

/// Where the parts of a PUBLISH without properties are in the bytes it was read from: small, `Copy`, and no
/// share of them.
///
/// It says nothing by itself: each method takes the same bytes again. Of other bytes it gives wrong or empty
/// parts, never a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishSpan {
    topic_start: u32,
    payload_start: u32,
    payload_end: u32,
    topic_len: u16,
    packet_id: Option<PacketId>,
    qos: QoS,
    dup: bool,
    retain: bool,
}

impl PublishSpan {
    /// Quality of service.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.qos
    }

    /// Duplicate flag.
    #[must_use]
    pub const fn dup(&self) -> bool {
        self.dup
    }

    /// Retain flag.
    #[must_use]
    pub const fn retain(&self) -> bool {
        self.retain
    }

    /// Present on QoS 1 and 2.
    #[must_use]
    pub const fn packet_id(&self) -> Option<PacketId> {
        self.packet_id
    }

    /// How many bytes the payload has.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        (self.payload_end - self.payload_start) as usize
    }

    /// The topic name's bytes, which are UTF-8.
    #[must_use]
    #[inline]
    pub fn topic_bytes<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        let start = self.topic_start as usize;
        input
            .get(start..start + usize::from(self.topic_len))
            .unwrap_or_default()
    }

    /// The topic name. It is checked for UTF-8 once more, which is cheap: keep what it gives.
    #[must_use]
    #[inline]
    pub fn topic<'a>(&self, input: &'a [u8]) -> &'a str {
        wire_text(self.topic_bytes(input)).unwrap_or_default()
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn payload<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        input
            .get(self.payload_start as usize..self.payload_end as usize)
            .unwrap_or_default()
    }

    /// The packet with parts that share `input`; `None` when `input` is not what the span was found in.
    #[must_use]
    pub fn to_publish(&self, input: &Bytes) -> Option<Publish> {
        let start = self.topic_start as usize;
        let topic = start..start + usize::from(self.topic_len);
        let payload = self.payload_start as usize..self.payload_end as usize;
        if payload.end > input.len() {
            return None;
        }
        Some(Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: Some(Topic::from_wire(input.slice(topic))?),
            packet_id: self.packet_id,
            payload: input.slice(payload),
            properties: Properties::EMPTY,
        })
    }
}

/// Which of the four acknowledgements of a PUBLISH a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
}

impl AckKind {
    /// The packet that says success and nothing else.
    #[must_use]
    pub const fn into_packet(self, packet_id: PacketId) -> Packet {
        let acknowledgement = Acknowledgement {
            packet_id,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties::EMPTY,
        };
        match self {
            Self::PubAck => Packet::PubAck(acknowledgement),
            Self::PubRec => Packet::PubRec(acknowledgement),
            Self::PubRel => Packet::PubRel(acknowledgement),
            Self::PubComp => Packet::PubComp(acknowledgement),
        }
    }
}

/// Takes the packet at the front of `input`; `None`, and nothing is taken, for all but the plainest.
#[inline]
pub(super) fn take(input: &mut Bytes, version: Version, packet_size_max: usize) -> Option<Packet> {
    if input.first()? >> 4 == 3 {
        let (span, end) = locate_publish(input, 0, version, packet_size_max)?;
        // Looks at the topic.
        let publish = span.to_publish(input)?;
        input.advance(end);
        Some(Packet::Publish(publish))
    } else {
        let (kind, id) = find_acknowledgement(input, 0, packet_size_max)?;
        input.advance(ACKNOWLEDGEMENT);
        Some(kind.into_packet(id))
    }
}

/// Finds the PUBLISH at `input[at..]` and where it ends; `None` for all but the plainest.
#[inline]
pub(super) fn find_publish(
    input: &[u8],
    at: usize,
    version: Version,
    packet_size_max: usize,
) -> Option<(PublishSpan, usize)> {
    let found = locate_publish(input, at, version, packet_size_max)?;
    is_wire_topic(found.0.topic_bytes(input)).then_some(found)
}

/// As [`find_publish`], but the topic is yet to be looked at.
#[inline]
fn locate_publish(
    input: &[u8],
    at: usize,
    version: Version,
    packet_size_max: usize,
) -> Option<(PublishSpan, usize)> {
    let bytes = input.get(at..)?;
    let first = *bytes.first()?;
    if first >> 4 != 3 {
        return None;
    }
    let dup = first & 0b1000 != 0;
    let qos = match (first >> 1) & 3 {
        0 if !dup => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return None,
    };
    let (start, end) = body(bytes)?;
    if end > packet_size_max {
        return None;
    }
    let (length, rest) = bytes.get(start..end)?.split_first_chunk::<2>()?;
    let topic_len = u16::from_be_bytes(*length);
    let mut rest = rest.get(usize::from(topic_len)..)?;
    let mut packet_id = None;
    if qos != QoS::AtMostOnce {
        let (id, behind) = rest.split_first_chunk::<2>()?;
        packet_id = Some(PacketId::new(u16::from_be_bytes(*id))?);
        rest = behind;
    }
    if version == Version::V5 {
        let (0, behind) = rest.split_first()? else {
            return None;
        };
        rest = behind;
    }
    // What does not fit has to go the long way, with parts of its own.
    let payload_end = u32::try_from(at + end).ok()?;
    let payload_len = u32::try_from(rest.len()).ok()?;
    let topic_start = u32::try_from(at + start + 2).ok()?;
    let span = PublishSpan {
        topic_start,
        payload_start: payload_end - payload_len,
        payload_end,
        topic_len,
        packet_id,
        qos,
        dup,
        retain: first & 1 != 0,
    };
    Some((span, at + end))
}

/// Where the body starts and ends. A remaining length of more than three bytes, or one that may be
/// padded, is left to the decoder proper.
#[inline]
fn body(input: &[u8]) -> Option<(usize, usize)> {
    match *input {
        [_, length @ ..0x80, ..] => Some((2, 2 + usize::from(length))),
        [_, low, high @ 1..0x80, ..] => {
            Some((3, 3 + (usize::from(low & 0x7f) | usize::from(high) << 7)))
        }
        [_, low, middle @ 0x80..=0xff, high @ 1..0x80, ..] => {
            let low = usize::from(low & 0x7f) | usize::from(middle & 0x7f) << 7;
            Some((4, 4 + (low | usize::from(high) << 14)))
        }
        _ => None,
    }
}

/// How long the acknowledgements are that say no more than success.
pub(super) const ACKNOWLEDGEMENT: usize = 4;

/// Finds the acknowledgement at `input[at..]`, which ends after [`ACKNOWLEDGEMENT`] bytes; `None` for all but the
/// plainest.
#[inline]
pub(super) fn find_acknowledgement(
    input: &[u8],
    at: usize,
    packet_size_max: usize,
) -> Option<(AckKind, PacketId)> {
    let [first, 2, high, low, ..] = *input.get(at..)? else {
        return None;
    };
    if packet_size_max < ACKNOWLEDGEMENT {
        return None;
    }
    let kind = match first {
        0x40 => AckKind::PubAck,
        0x50 => AckKind::PubRec,
        0x62 => AckKind::PubRel,
        0x70 => AckKind::PubComp,
        _ => return None,
    };
    Some((kind, PacketId::new(u16::from_be_bytes([high, low]))?))
}

/// The packets at `input[at..]` that are a PUBACK of success each, up to the first that is not: their identifiers.
#[inline]
pub(super) fn find_pubacks(
    input: &[u8],
    at: usize,
    packet_size_max: usize,
) -> impl Iterator<Item = PacketId> {
    let bytes = input
        .get(at..)
        .filter(|_| packet_size_max >= ACKNOWLEDGEMENT);
    let (packets, _) = bytes.unwrap_or_default().as_chunks::<ACKNOWLEDGEMENT>();
    packets.iter().map_while(|packet| match *packet {
        [0x40, 2, high, low] => PacketId::new(u16::from_be_bytes([high, low])),
        _ => None,
    })
}
