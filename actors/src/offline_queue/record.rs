//! A message as the store keeps it: what it is, when it was accepted, when it expires, and an MQTT 5 PUBLISH.

use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::session::Progress;
use paquebot_protocols::mqtt::{
    Decoded, Decoder, EncodeError, Packet, PacketId, PublishRef, QoS, Sender, Version,
    encode_publish,
};

/// Format of the values in this version.
const FORMAT: u8 = 1;

/// Format, flags, time of acceptance and time of expiry, before the PUBLISH.
const HEADER_BYTES: usize = 1 + 1 + 8 + 8;

/// Flag of a message that may be put together with a later one.
const MERGES: u8 = 1;

/// A message that came back from the store.
#[derive(Debug)]
pub(crate) struct StoredMessage {
    pub(crate) message: Rendered,
    /// Milliseconds since 1970.
    accepted: u64,
    expires: Option<u64>,
}

/// The value under which `message`, accepted now, is kept.
///
/// # Errors
/// MQTT 5 cannot carry one of its parts.
pub(super) fn encode(message: &Rendered, now: SystemTime) -> Result<Bytes, EncodeError> {
    let size = HEADER_BYTES + super::size_of(message) + 64;
    let mut value = BytesMut::with_capacity(size);
    value.put_u8(FORMAT);
    value.put_u8(if message.merges { MERGES } else { 0 });
    value.put_u64(millis(now));
    let expires = message.time_to_live.map_or(u64::MAX, |life| {
        millis(now).saturating_add(whole_millis(life))
    });
    value.put_u64(expires);
    let publish = PublishRef {
        dup: false,
        qos: message.qos,
        retain: message.retain,
        topic: Some(&message.topic),
        // The session chooses the identifier; the format asks for one.
        packet_id: PacketId::new(1).filter(|_| message.qos != QoS::AtMostOnce),
        payload: &message.payload,
        properties: &message.properties,
    };
    encode_publish(&publish, Version::V5, &mut value)?;
    Ok(value.freeze())
}

/// The message that [`encode`] made `value` of; `None` when it is none. Payload and topic share `value`.
pub(crate) fn decode(mut value: Bytes) -> Option<StoredMessage> {
    if value.len() < HEADER_BYTES || value.get_u8() != FORMAT {
        return None;
    }
    let merges = match value.get_u8() {
        0 => false,
        MERGES => true,
        _ => return None,
    };
    let (accepted, expires) = (value.get_u64(), value.get_u64());
    let expires = (expires != u64::MAX).then_some(expires);
    let mut decoder = Decoder::new(Version::V5, Sender::Client, value.len());
    let Ok(Decoded::Packet(Packet::Publish(publish))) = decoder.decode(&mut value) else {
        return None;
    };
    if !value.is_empty() {
        return None;
    }
    let life = expires.map(|expires| expires.saturating_sub(accepted));
    Some(StoredMessage {
        message: Rendered {
            topic: publish.topic?,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            time_to_live: life.map(Duration::from_millis),
            merges,
        },
        accepted,
        expires,
    })
}

impl StoredMessage {
    /// When it was accepted.
    pub(super) fn accepted_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.accepted)
    }

    /// When it expires.
    pub(super) fn expires_at(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.expires?))
    }

    /// How long ago it was accepted. A clock that was set back makes a message young, not immortal.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        Duration::from_millis(millis(now).saturating_sub(self.accepted))
    }

    /// What is left of its life; zero when it is over.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        let life = self.message.time_to_live?;
        Some(life.saturating_sub(self.age(now)))
    }
}

/// The value under which the phase of a QoS 2 message is kept: packet identifier and phase.
pub(crate) fn encode_progress(progress: Progress) -> Bytes {
    let (id, phase) = match progress {
        Progress::Published(id) => (id.value(), 0),
        Progress::Released(id) => (id.value(), 1),
        Progress::Withdrawn | Progress::Unrecorded => (0, 2),
    };
    let [high, low] = id.to_be_bytes();
    Bytes::copy_from_slice(&[high, low, phase])
}

/// What such a value says; `None` for one that is none.
pub(super) fn decode_progress(value: &[u8]) -> Option<Progress> {
    let [high, low, phase] = *value else {
        return None;
    };
    let id = PacketId::new(u16::from_be_bytes([high, low]));
    match (phase, id) {
        (0, Some(id)) => Some(Progress::Published(id)),
        (1, Some(id)) => Some(Progress::Released(id)),
        (2, None) => Some(Progress::Withdrawn),
        _ => None,
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, whole_millis)
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use paquebot_protocols::mqtt::{Properties, Topic};

    use super::*;

    fn message(life: Option<Duration>) -> Rendered {
        let mut properties = Properties::default();
        properties.edit().content_type = Some("text/plain".into());
        Rendered {
            topic: Topic::new("a/b").unwrap(),
            payload: Bytes::from_static(b"payload"),
            qos: QoS::ExactlyOnce,
            retain: true,
            properties,
            time_to_live: life,
            merges: life.is_none(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let before = message(None);
        let value = encode(&before, at(100)).unwrap();
        let after = decode(value).unwrap();
        assert_eq!(after.message, before);
        assert_eq!(after.accepted_at(), at(100));
        assert_eq!(after.age(at(107)), Duration::from_secs(7));
        assert_eq!(after.left(at(107)), None);
    }

    #[test]
    fn what_is_left_of_its_life_goes_by_the_wall_clock_and_never_grows() {
        let value = encode(&message(Some(Duration::from_secs(60))), at(1_000)).unwrap();
        let stored = decode(value).unwrap();
        let left = |now| stored.left(now).unwrap();
        assert_eq!(left(at(1_010)), Duration::from_secs(50));
        assert_eq!(left(at(2_000)), Duration::ZERO);
        assert_eq!(left(at(1)), Duration::from_secs(60));
    }

    #[test]
    fn other_bytes_are_no_message() {
        let value = encode(&message(None), at(1)).unwrap();
        for length in 0..value.len() {
            assert!(decode(value.slice(..length)).is_none(), "{length}");
        }
        let mut longer = BytesMut::from(&value[..]);
        longer.put_u8(0);
        assert!(decode(longer.freeze()).is_none());
        let mut foreign = BytesMut::from(&value[..]);
        foreign[0] = FORMAT + 1;
        assert!(decode(foreign.freeze()).is_none());
    }
}
