//! The packets that a busy link is made of, on a short way: PUBLISH without properties, and
//! acknowledgements that say no more than success.
//!
//! Whatever is not plainly legal and whole is left to the decoder proper, which finds the error or
//! tells what is missing; so nothing here makes an error, and no result is larger than it has to be.

use bytes::{Buf, Bytes};

use crate::mqtt::{
    Acknowledgement, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Topic, Version,
};

/// Takes the packet at the front of `input`; `None`, and nothing is taken, for all but the plainest.
#[inline]
pub(super) fn decode(
    input: &mut Bytes,
    version: Version,
    packet_size_max: usize,
) -> Option<Packet> {
    let first = *input.first()?;
    if first >> 4 == 3 {
        publish(input, first, version, packet_size_max)
    } else {
        acknowledgement(input, packet_size_max)
    }
}

#[inline]
fn publish(
    input: &mut Bytes,
    first: u8,
    version: Version,
    packet_size_max: usize,
) -> Option<Packet> {
    let dup = first & 0b1000 != 0;
    let qos = match (first >> 1) & 3 {
        0 if !dup => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return None,
    };
    let (start, end) = body(input)?;
    if end > packet_size_max {
        return None;
    }
    let (length, rest) = input.get(start..end)?.split_first_chunk::<2>()?;
    let topic_len = usize::from(u16::from_be_bytes(*length));
    let mut rest = rest.get(topic_len..)?;
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
    let payload_start = end - rest.len();
    let topic = Topic::from_wire(input.slice(start + 2..start + 2 + topic_len))?;
    let mut payload = input.split_to(end);
    payload.advance(payload_start);
    Some(Packet::Publish(Publish {
        dup,
        qos,
        retain: first & 1 != 0,
        topic: Some(topic),
        packet_id,
        payload,
        properties: Properties::EMPTY,
    }))
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

fn acknowledgement(input: &mut Bytes, packet_size_max: usize) -> Option<Packet> {
    let [first, 2, high, low, ..] = **input else {
        return None;
    };
    if packet_size_max < 4 {
        return None;
    }
    let acknowledgement = Acknowledgement {
        packet_id: PacketId::new(u16::from_be_bytes([high, low]))?,
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    };
    let packet = match first {
        0x40 => Packet::PubAck(acknowledgement),
        0x50 => Packet::PubRec(acknowledgement),
        0x62 => Packet::PubRel(acknowledgement),
        0x70 => Packet::PubComp(acknowledgement),
        _ => return None,
    };
    input.advance(4);
    Some(packet)
}
