//! PUBLISH, on two ways: a short one for the messages that a busy link is made of, and one for all of them.

use bytes::{BufMut as _, BytesMut};

use super::properties::{self, put_field};
use super::{EncodeError, PublishRef, measure, put_variable, variable_len};
use crate::mqtt::{PacketId, QoS, Topic, Version};

/// The most that a remaining length of one byte says, and of two (MQTT 5 §1.5.5).
const ONE_BYTE: usize = 0x7f;
const TWO_BYTES: usize = 0x3fff;

/// Appends a plainly legal message with a topic name, without properties and with a remaining length of one or two
/// bytes; `false`, and nothing is appended, for all others.
///
/// Nothing is reserved for the whole: each append looks for room all the same, and a buffer that has none grows to
/// twice its size. Always inlined, since a call and the registers it saves cost a sixth of the whole.
#[inline(always)]
pub(super) fn frequent(publish: &PublishRef<'_>, version: Version, output: &mut BytesMut) -> bool {
    let Some(topic) = publish.topic else {
        return false;
    };
    let topic = topic.as_str().as_bytes();
    let has_id = publish.packet_id.is_some();
    let needs_id = publish.qos != QoS::AtMostOnce;
    let behind_topic = 2 * usize::from(has_id) + usize::from(version == Version::V5);
    let length = 2 + topic.len() + behind_topic + publish.payload.len();
    if has_id != needs_id
        || publish.dup && !needs_id
        || publish.properties.as_set().is_some()
        || length > TWO_BYTES
    {
        return false;
    }
    // Arrays of a fixed length go in as stores, without a call.
    let first = first_byte(publish);
    let [high, low] = (topic.len() as u16).to_be_bytes();
    if length <= ONE_BYTE {
        output.put_slice(&[first, length as u8, high, low]);
    } else {
        let [more, rest] = [length as u8 | 0x80, (length >> 7) as u8];
        output.put_slice(&[first, more, rest, high, low]);
    }
    output.put_slice(topic);
    let [high, low] = publish.packet_id.map_or(0, PacketId::value).to_be_bytes();
    match (has_id, version) {
        (true, Version::V311) => output.put_slice(&[high, low]),
        (true, Version::V5) => output.put_slice(&[high, low, 0]),
        (false, Version::V311) => {}
        (false, Version::V5) => output.put_slice(&[0]),
    }
    output.put_slice(publish.payload);
    true
}

/// Appends any message.
#[inline(never)]
pub(super) fn any(
    publish: &PublishRef<'_>,
    version: Version,
    output: &mut BytesMut,
) -> Result<(), EncodeError> {
    let measured = measure::publish(publish, version)?;
    output.reserve(1 + variable_len(measured.0) + measured.0);
    put_head(publish, version, measured, output);
    output.put_slice(publish.payload);
    Ok(())
}

/// Appends any message but for its payload, which is the last part of it.
pub(super) fn head(
    publish: &PublishRef<'_>,
    version: Version,
    output: &mut BytesMut,
) -> Result<(), EncodeError> {
    let measured = measure::publish(publish, version)?;
    put_head(publish, version, measured, output);
    Ok(())
}

fn put_head(
    publish: &PublishRef<'_>,
    version: Version,
    (length, properties_len): (usize, usize),
    output: &mut BytesMut,
) {
    output.put_u8(first_byte(publish));
    put_variable(output, length);
    put_field(output, publish.topic.map_or("", Topic::as_str).as_bytes());
    if let Some(id) = publish.packet_id {
        output.put_u16(id.value());
    }
    if version == Version::V5 {
        put_variable(output, properties_len);
        properties::write(publish.properties, output);
    }
}

fn first_byte(publish: &PublishRef<'_>) -> u8 {
    0x30 | u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{PacketId, Properties};

    fn publish<'a>(topic: &'a Topic, payload: &'a [u8]) -> PublishRef<'a> {
        PublishRef {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(topic),
            packet_id: None,
            payload,
            properties: &Properties::EMPTY,
        }
    }

    #[test]
    fn both_ways_write_the_same_around_each_length_of_the_remaining_length() {
        let topic = Topic::from_static("a/b").unwrap();
        let long_topic = Topic::new("a".repeat(300)).unwrap();
        let payload = vec![b'x'; TWO_BYTES + 10];
        let around = |length: usize| length.saturating_sub(10)..=length + 10;
        for topic in [&topic, &long_topic] {
            for size in around(0).chain(around(ONE_BYTE)).chain(around(TWO_BYTES)) {
                for (qos, version) in [
                    (QoS::AtMostOnce, Version::V311),
                    (QoS::AtMostOnce, Version::V5),
                    (QoS::AtLeastOnce, Version::V311),
                    (QoS::ExactlyOnce, Version::V5),
                ] {
                    let message = PublishRef {
                        qos,
                        dup: qos != QoS::AtMostOnce,
                        retain: size % 2 == 0,
                        packet_id: PacketId::new(0x1234).filter(|_| qos != QoS::AtMostOnce),
                        ..publish(topic, &payload[..size])
                    };
                    let (mut short, mut long) = (BytesMut::new(), BytesMut::new());
                    any(&message, version, &mut long).unwrap();
                    let mut apart = BytesMut::new();
                    head(&message, version, &mut apart).unwrap();
                    apart.extend_from_slice(message.payload);
                    assert_eq!(apart, long, "{size} {qos:?} {version}");
                    let is_frequent = long.len() <= TWO_BYTES + 3;
                    assert_eq!(
                        frequent(&message, version, &mut short),
                        is_frequent,
                        "{size}"
                    );
                    if is_frequent {
                        assert_eq!(short, long, "{size} {qos:?} {version}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_short_way_leaves_alone_what_may_be_wrong() {
        let topic = Topic::from_static("a/b").unwrap();
        let id = PacketId::new(1);
        let mut set = Properties::default();
        set.edit().topic_alias = Some(1);
        let plain = publish(&topic, b"payload");
        for message in [
            PublishRef { dup: true, ..plain },
            PublishRef {
                packet_id: id,
                ..plain
            },
            PublishRef {
                qos: QoS::AtLeastOnce,
                ..plain
            },
            PublishRef {
                topic: None,
                ..plain
            },
            PublishRef {
                properties: &set,
                ..plain
            },
        ] {
            let mut output = BytesMut::new();
            assert!(!frequent(&message, Version::V5, &mut output), "{message:?}");
            assert!(output.is_empty());
        }
    }
}
