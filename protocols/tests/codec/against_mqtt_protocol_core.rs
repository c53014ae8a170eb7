//! Both versions against `mqtt-protocol-core`, a second independent codec: it reads what is written
//! here and writes it again to the same bytes, and the two judge damaged packets alike but for the
//! written exceptions.

use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Arc;
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use paquebot_protocols::mqtt::{Decoded, Decoder, Packet, ReasonCode, Sender, Version, encode};
use proptest::prelude::*;

use Version::{V5, V311};

use crate::arbitrary::{damaged, versioned_packet};
use crate::both_forms;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_reads_what_is_written_here_and_writes_the_same((version, packet) in versioned_packet()) {
        prop_assume!(too_strict(version, &packet).is_none());
        let mut output = BytesMut::new();
        encode(&packet, version, &mut output).unwrap();
        prop_assert_eq!(theirs(version, &output), Some(output.to_vec()));
    }

    #[test]
    fn damaged_packets_of_3_1_1_are_judged_alike(frame in damaged(Version::V311)) {
        judged_alike(Version::V311, &frame)?;
    }

    #[test]
    fn damaged_packets_of_5_are_judged_alike(frame in damaged(Version::V5)) {
        judged_alike(Version::V5, &frame)?;
    }
}

fn judged_alike(version: Version, frame: &Bytes) -> Result<(), TestCaseError> {
    let is_taken = theirs(version, frame).is_some();
    match ours(version, frame) {
        Ok(packet) => prop_assert!(
            is_taken || too_strict(version, &packet).is_some(),
            "only taken here: {:?}",
            packet
        ),
        Err(clause) => prop_assert!(
            !is_taken
                || TOO_LENIENT
                    .iter()
                    .any(|known| known.0 == version && known.1 == clause),
            "only taken there: {}, {:02x?}",
            clause,
            frame
        ),
    }
    Ok(())
}

/// Why it refuses what MQTT 5 allows, or AWS IoT says.
fn too_strict(version: Version, packet: &Packet) -> Option<&'static str> {
    match packet {
        Packet::ConnAck(connack) if version == Version::V311 && connack.reason_code.0 == 7 => {
            Some("it does not know the code with which AWS IoT lets nobody in")
        }
        Packet::Connect(connect)
            if version == Version::V5
                && connect.password.is_some()
                && connect.username.is_none() =>
        {
            Some("it asks for a user name with each password, as MQTT 3.1.1 does (§3.1.2.9)")
        }
        Packet::Disconnect(disconnect)
            if disconnect.reason_code == ReasonCode::BAD_AUTHENTICATION_METHOD =>
        {
            Some("it takes the codes of Table 3-10; Table 2-6 gives this one to DISCONNECT too")
        }
        _ => None,
    }
}

/// What it takes though the specification forbids it: the version, the statement that is broken, why it
/// is taken, and a frame that shows it.
#[rustfmt::skip]
const TOO_LENIENT: [(Version, &str, &str, &[u8]); 47] = [
    (V311, "§2.2.3", "a reason code behind an acknowledgement, as in MQTT 5", b"\x62\x03\0\x01\0"),
    (V311, "§3.2.2.1", "reserved connect acknowledge flags", b"\x20\x02\x80\0"),
    (V311, "MQTT-1.5.3-2", "U+0000 in texts", b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01\0"),
    (V311, "MQTT-2.2.2-2", "flags, which are not its parser's", b"\x41\x02\0\x01"),
    (V311, "MQTT-2.3.1-1", "identifier 0 in SUBSCRIBE", b"\x82\x06\0\0\0\x01a\0"),
    (V311, "MQTT-2.3.1-7", "identifier 0 in UNSUBACK", b"\xb0\x02\0\0"),
    (V311, "MQTT-3.1.2-3", "the reserved connect flag", b"\x10\x0d\0\x04MQTT\x04\x03\0\0\0\x01c"),
    (V311, "MQTT-3.1.2-13", "a will QoS without a will", b"\x10\x0d\0\x04MQTT\x04\x0a\0\0\0\x01c"),
    (V311, "MQTT-3.1.2-15", "will retain without a will", b"\x10\x0d\0\x04MQTT\x04\x22\0\0\0\x01c"),
    (V311, "MQTT-3.1.3-8", "an empty identifier, Clean Session 0", b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0"),
    (V311, "MQTT-3.2.2-4", "a refusal with a session", b"\x20\x02\x01\x05"),
    (V311, "MQTT-3.3.1-2", "DUP at QoS 0", b"\x38\x03\0\x01a"),
    (V311, "MQTT-3.3.2-2", "wildcards in topic names", b"\x30\x03\0\x01#"),
    (V311, "MQTT-3.6.1-1", "flags, which are not its parser's", b"\x60\x02\0\x01"),
    (V311, "MQTT-3.8.1-1", "flags, which are not its parser's", b"\x80\x06\0\x01\0\x01a\0"),
    (V311, "MQTT-3.8.3-4", "the options of MQTT 5", b"\x82\x06\0\x01\0\x01a\x04"),
    (V311, "MQTT-3.10.1-1", "flags, which are not its parser's", b"\xa0\x05\0\x01\0\x01a"),
    (V311, "MQTT-3.14.1-1", "flags, which are not its parser's", b"\xe1\0"),
    (V311, "MQTT-4.7.1-2", "# anywhere in a filter", b"\xa2\x06\0\x01\0\x02a#"),
    (V311, "MQTT-4.7.1-3", "+ anywhere in a filter", b"\xa2\x06\0\x01\0\x02a+"),
    (V311, "MQTT-4.7.3-1", "empty topics and filters", b"\x30\x02\0\0"),
    (V311, "MQTT-4.7.3-2", "U+0000 in topics and filters", b"\x30\x03\0\x01\0"),
    (V5, "§2.1.4", "PUBLISH without a property length", b"\x30\x03\0\x01a"),
    (V5, "§3.3.2.1", "neither topic nor alias; it leaves that to its connection", b"\x30\x03\0\0\0"),
    (V5, "MQTT-1.5.4-2", "U+0000 in texts", b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01\0"),
    (V5, "MQTT-1.5.5-1", "a property length in too many bytes", b"\x30\x05\0\x01a\x80\0"),
    (V5, "MQTT-2.1.3-1", "flags, which are not its parser's", b"\x41\x02\0\x01"),
    (V5, "MQTT-2.2.1-3", "identifier 0 in PUBLISH", b"\x32\x06\0\x01a\0\0\0"),
    (V5, "MQTT-2.2.1-6", "identifier 0 in UNSUBACK", b"\xb0\x04\0\0\0\0"),
    (V5, "MQTT-3.1.2-3", "the reserved connect flag", b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01c"),
    (V5, "MQTT-3.2.2-1", "reserved connect acknowledge flags", b"\x20\x03\x80\0\0"),
    (V5, "MQTT-3.2.2-6", "a refusal with a session", b"\x20\x03\x01\x87\0"),
    (V5, "MQTT-3.3.1-2", "DUP at QoS 0", b"\x38\x04\0\x01a\0"),
    (V5, "MQTT-3.3.2-2", "wildcards in topic names", b"\x30\x04\0\x01#\0"),
    (V5, "MQTT-3.3.2-14", "wildcards in response topics", b"\x30\x08\0\x01a\x04\x08\0\x01#"),
    (V5, "MQTT-3.6.1-1", "flags, which are not its parser's", b"\x60\x02\0\x01"),
    (V5, "MQTT-3.8.1-1", "flags, which are not its parser's", b"\x80\x07\0\x01\0\0\x01a\0"),
    (V5, "MQTT-3.10.1-1", "flags, which are not its parser's", b"\xa0\x06\0\x01\0\0\x01a"),
    (V5, "MQTT-3.14.1-1", "flags, which are not its parser's", b"\xe1\0"),
    (V5, "MQTT-3.15.1-1", "flags, which are not its parser's", b"\xf1\0"),
    (V5, "MQTT-4.7.1-1", "# anywhere in a filter", b"\xa2\x07\0\x01\0\0\x02a#"),
    (V5, "MQTT-4.7.1-2", "+ anywhere in a filter", b"\xa2\x07\0\x01\0\0\x02a+"),
    (V5, "MQTT-4.7.3-1", "empty filters in UNSUBSCRIBE", b"\xa2\x05\0\x01\0\0\0"),
    (V5, "MQTT-4.7.3-2", "U+0000 in topics and filters", b"\x30\x04\0\x01\0\0"),
    (V5, "MQTT-4.8.2-2", "an empty filter behind a share name", b"\x82\x0f\0\x01\0\0\x09$share/g/\0"),
    (V5, "MQTT-3.1.2-11", "a will QoS without a will", b"\x10\x0e\0\x04MQTT\x05\x0a\0\0\0\0\x01c"),
    (V5, "MQTT-3.1.2-13", "will retain without a will", b"\x10\x0e\0\x04MQTT\x05\x22\0\0\0\0\x01c"),
];

#[test]
fn each_exception_is_one() {
    for (version, clause, why, frame) in TOO_LENIENT {
        assert_eq!(
            ours(version, &Bytes::from_static(frame)),
            Err(clause),
            "{why}"
        );
        assert!(
            theirs(version, frame).is_some(),
            "{version} {clause}: {why}"
        );
    }
}

/// What it reads from a frame, written by it again; `None` if it refuses the frame.
fn theirs(version: Version, frame: &[u8]) -> Option<Vec<u8>> {
    macro_rules! through {
        ($packet:ty, $body:expr) => {{
            let (packet, consumed) = <$packet>::parse($body).ok()?;
            (consumed == $body.len()).then(|| packet.to_continuous_buffer())
        }};
    }
    let header = 1 + frame[1..].iter().position(|byte| *byte < 0x80)? + 1;
    let (first, body) = (frame[0], &frame[header..]);
    match version {
        Version::V311 => match first >> 4 {
            1 => through!(v3_1_1::Connect, body),
            2 => through!(v3_1_1::Connack, body),
            3 => {
                let (packet, _) = v3_1_1::Publish::parse(first & 0x0f, Arc::from(body)).ok()?;
                Some(packet.to_continuous_buffer())
            }
            4 => through!(v3_1_1::Puback, body),
            5 => through!(v3_1_1::Pubrec, body),
            6 => through!(v3_1_1::Pubrel, body),
            7 => through!(v3_1_1::Pubcomp, body),
            8 => through!(v3_1_1::Subscribe, body),
            9 => through!(v3_1_1::Suback, body),
            10 => through!(v3_1_1::Unsubscribe, body),
            11 => through!(v3_1_1::Unsuback, body),
            12 => through!(v3_1_1::Pingreq, body),
            13 => through!(v3_1_1::Pingresp, body),
            14 => through!(v3_1_1::Disconnect, body),
            _ => None,
        },
        Version::V5 => match first >> 4 {
            1 => through!(v5_0::Connect, body),
            2 => through!(v5_0::Connack, body),
            3 => {
                let (packet, _) = v5_0::Publish::parse(first & 0x0f, Arc::from(body)).ok()?;
                Some(packet.to_continuous_buffer())
            }
            4 => through!(v5_0::Puback, body),
            5 => through!(v5_0::Pubrec, body),
            6 => through!(v5_0::Pubrel, body),
            7 => through!(v5_0::Pubcomp, body),
            8 => through!(v5_0::Subscribe, body),
            9 => through!(v5_0::Suback, body),
            10 => through!(v5_0::Unsubscribe, body),
            11 => through!(v5_0::Unsuback, body),
            12 => through!(v5_0::Pingreq, body),
            13 => through!(v5_0::Pingresp, body),
            14 => through!(v5_0::Disconnect, body),
            15 => through!(v5_0::Auth, body),
            _ => None,
        },
    }
}

fn ours(version: Version, frame: &Bytes) -> Result<Packet, &'static str> {
    let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
    match both_forms::decode(&mut decoder, &mut frame.clone()) {
        Ok(Decoded::Packet(packet)) => Ok(packet),
        Ok(Decoded::Incomplete { .. }) => Err("incomplete"),
        Err(error) => Err(error.clause),
    }
}
