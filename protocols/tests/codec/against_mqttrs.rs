//! MQTT 3.1.1 against `mqttrs`, an independent codec: what one writes the other reads to equal fields,
//! and the two judge damaged packets alike but for the written exceptions.

use std::panic::catch_unwind;

use bytes::{Bytes, BytesMut};
use mqttrs::{
    Connack, ConnectReturnCode, LastWill, Pid, Protocol, QosPid, Suback, SubscribeReturnCodes,
    SubscribeTopic,
};
use paquebot_protocols::mqtt::{
    Decoded, Decoder, Packet, PacketId, QoS, ReasonCode, Sender, Version, encode,
};
use proptest::prelude::*;

use crate::arbitrary::{damaged, packet};
use crate::both_forms;

const VERSION: Version = Version::V311;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn mqttrs_reads_what_is_written_here(packet in packet(VERSION)) {
        let mut output = BytesMut::new();
        encode(&packet, VERSION, &mut output).unwrap();
        prop_assert_eq!(mqttrs::decode_slice(&output), Ok(Some(theirs(&packet))));
    }

    #[test]
    fn what_mqttrs_writes_is_read_here(packet in packet(VERSION)) {
        let mut output = vec![0; 64 * 1024];
        let length = mqttrs::encode_slice(&theirs(&packet), &mut output).unwrap();
        output.truncate(length);
        let decoded = ours(&Bytes::from(output));
        prop_assert_eq!(decoded, Ok(packet));
    }

    #[test]
    fn damaged_packets_are_judged_alike_but_for_the_exceptions(frame in damaged(VERSION)) {
        let mine = ours(&frame);
        // It indexes past the end of some short packets.
        let other = catch_unwind(|| mqttrs::decode_slice(&frame).map(|packet| packet.is_some()));
        let is_taken = matches!(other, Ok(Ok(true)));
        match mine {
            // It does not know the code with which AWS IoT lets nobody in.
            Ok(Packet::ConnAck(connack)) if connack.reason_code.0 == 7 => {
                prop_assert!(!is_taken);
            }
            Ok(packet) => {
                prop_assert!(is_taken, "only taken here: {:?}, {:?}", packet, other);
                prop_assert_eq!(mqttrs::decode_slice(&frame), Ok(Some(theirs(&packet))));
            }
            Err(clause) => prop_assert!(
                !is_taken || TOO_LENIENT.iter().any(|known| clause == known.0),
                "only taken there: {}, {:02x?}", clause, frame
            ),
        }
    }
}

/// What `mqttrs` takes though MQTT 3.1.1 forbids it: the statement that is broken, why it is taken,
/// and a frame that shows it.
const TOO_LENIENT: [(&str, &str, &[u8]); 18] = [
    ("§2.2.3", "bytes behind the last field", b"\xc0\x01\0"),
    (
        "§3.2.2.1",
        "reserved connect acknowledge flags",
        b"\x20\x02\x80\0",
    ),
    (
        "MQTT-1.5.3-2",
        "U+0000 in texts",
        b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01\0",
    ),
    (
        "MQTT-3.1.2-3",
        "the reserved connect flag",
        b"\x10\x0d\0\x04MQTT\x04\x03\0\0\0\x01c",
    ),
    (
        "MQTT-3.1.2-13",
        "a will QoS without a will",
        b"\x10\x0d\0\x04MQTT\x04\x0a\0\0\0\x01c",
    ),
    (
        "MQTT-3.1.2-15",
        "will retain without a will",
        b"\x10\x0d\0\x04MQTT\x04\x22\0\0\0\x01c",
    ),
    (
        "MQTT-3.1.2-22",
        "a password without a user name",
        b"\x10\x0f\0\x04MQTT\x04\x42\0\0\0\x01c\0\0",
    ),
    (
        "MQTT-3.1.3-8",
        "an empty client identifier with Clean Session 0",
        b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0",
    ),
    (
        "MQTT-3.2.2-4",
        "a refusal with a session",
        b"\x20\x02\x01\x05",
    ),
    ("MQTT-3.3.1-2", "DUP at QoS 0", b"\x38\x03\0\x01a"),
    (
        "MQTT-3.3.2-2",
        "wildcards in topic names",
        b"\x30\x03\0\x01#",
    ),
    (
        "MQTT-3.8.3-3",
        "SUBSCRIBE without filters",
        b"\x82\x02\0\x01",
    ),
    (
        "MQTT-3.9.3-1",
        "SUBACK without return codes",
        b"\x90\x02\0\x01",
    ),
    (
        "MQTT-3.10.3-2",
        "UNSUBSCRIBE without filters",
        b"\xa2\x02\0\x01",
    ),
    (
        "MQTT-4.7.1-2",
        "# anywhere in a filter",
        b"\xa2\x06\0\x01\0\x02a#",
    ),
    (
        "MQTT-4.7.1-3",
        "+ anywhere in a filter",
        b"\xa2\x06\0\x01\0\x02a+",
    ),
    ("MQTT-4.7.3-1", "empty topics and filters", b"\x30\x02\0\0"),
    (
        "MQTT-4.7.3-2",
        "U+0000 in topics and filters",
        b"\x30\x03\0\x01\0",
    ),
];

#[test]
fn each_exception_is_one() {
    for (clause, why, frame) in TOO_LENIENT {
        assert_eq!(ours(&Bytes::from_static(frame)), Err(clause), "{why}");
        let taken = mqttrs::decode_slice(frame);
        assert!(matches!(taken, Ok(Some(_))), "{why}: {taken:?}");
    }
}

/// The packet, or the statement it breaks.
fn ours(frame: &Bytes) -> Result<Packet, &'static str> {
    let mut decoder = Decoder::new(VERSION, Sender::Either, usize::MAX);
    match both_forms::decode(&mut decoder, &mut frame.clone()) {
        Ok(Decoded::Packet(packet)) => Ok(packet),
        Ok(Decoded::Incomplete { .. }) => Err("incomplete"),
        Err(error) => Err(error.clause),
    }
}

fn theirs(packet: &Packet) -> mqttrs::Packet<'_> {
    match packet {
        Packet::Connect(connect) => mqttrs::Packet::Connect(mqttrs::Connect {
            protocol: Protocol::MQTT311,
            keep_alive: connect.keep_alive,
            client_id: &connect.client_id,
            clean_session: connect.clean_start,
            last_will: connect.will.as_ref().map(|will| LastWill {
                topic: will.topic.as_str(),
                message: &will.payload,
                qos: qos(will.qos),
                retain: will.retain,
            }),
            username: connect.username.as_deref(),
            password: connect.password.as_deref(),
        }),
        Packet::ConnAck(connack) => mqttrs::Packet::Connack(Connack {
            session_present: connack.session_present,
            code: match connack.reason_code.0 {
                0 => ConnectReturnCode::Accepted,
                1 => ConnectReturnCode::RefusedProtocolVersion,
                2 => ConnectReturnCode::RefusedIdentifierRejected,
                3 => ConnectReturnCode::ServerUnavailable,
                4 => ConnectReturnCode::BadUsernamePassword,
                _ => ConnectReturnCode::NotAuthorized,
            },
        }),
        Packet::Publish(publish) => mqttrs::Packet::Publish(mqttrs::Publish {
            dup: publish.dup,
            qospid: match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => QosPid::AtLeastOnce(pid(id)),
                (QoS::ExactlyOnce, Some(id)) => QosPid::ExactlyOnce(pid(id)),
                _ => QosPid::AtMostOnce,
            },
            retain: publish.retain,
            topic_name: publish
                .topic
                .as_ref()
                .expect("MQTT 3.1.1 has no alias")
                .as_str(),
            payload: &publish.payload,
        }),
        Packet::PubAck(ack) => mqttrs::Packet::Puback(pid(ack.packet_id)),
        Packet::PubRec(ack) => mqttrs::Packet::Pubrec(pid(ack.packet_id)),
        Packet::PubRel(ack) => mqttrs::Packet::Pubrel(pid(ack.packet_id)),
        Packet::PubComp(ack) => mqttrs::Packet::Pubcomp(pid(ack.packet_id)),
        Packet::Subscribe(subscribe) => mqttrs::Packet::Subscribe(mqttrs::Subscribe {
            pid: pid(subscribe.packet_id),
            topics: subscribe
                .filters
                .iter()
                .map(|subscription| SubscribeTopic {
                    topic_path: subscription.filter.to_string(),
                    qos: qos(subscription.qos),
                })
                .collect(),
        }),
        Packet::SubAck(suback) => mqttrs::Packet::Suback(Suback {
            pid: pid(suback.packet_id),
            return_codes: suback
                .reason_codes
                .iter()
                .map(|code| return_code(*code))
                .collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => mqttrs::Packet::Unsubscribe(mqttrs::Unsubscribe {
            pid: pid(unsubscribe.packet_id),
            topics: unsubscribe
                .filters
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
        Packet::UnsubAck(ack) => mqttrs::Packet::Unsuback(pid(ack.packet_id)),
        Packet::PingReq => mqttrs::Packet::Pingreq,
        Packet::PingResp => mqttrs::Packet::Pingresp,
        // MQTT 3.1.1 has no AUTH.
        Packet::Disconnect(_) | Packet::Auth(_) => mqttrs::Packet::Disconnect,
    }
}

fn pid(id: PacketId) -> Pid {
    Pid::try_from(id.value()).expect("not 0")
}

fn qos(qos: QoS) -> mqttrs::QoS {
    match qos {
        QoS::AtMostOnce => mqttrs::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttrs::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttrs::QoS::ExactlyOnce,
    }
}

fn return_code(code: ReasonCode) -> SubscribeReturnCodes {
    match code.0 {
        0 => SubscribeReturnCodes::Success(mqttrs::QoS::AtMostOnce),
        1 => SubscribeReturnCodes::Success(mqttrs::QoS::AtLeastOnce),
        2 => SubscribeReturnCodes::Success(mqttrs::QoS::ExactlyOnce),
        _ => SubscribeReturnCodes::Failure,
    }
}
