//! A packet cut at any byte is incomplete, and says how much is missing; whole, it never is.

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::{Decoded, Decoder, ErrorKind, Packet, Sender, Version, encode};
use proptest::prelude::*;

use crate::arbitrary::versioned_packet;
use crate::both_forms;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_prefix_is_incomplete((version, packet) in versioned_packet()) {
        let mut output = BytesMut::new();
        encode(&packet, version, &mut output).unwrap();
        let bytes = output.freeze();
        let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
        let step = (bytes.len() / 200).max(1);
        let header = 1 + bytes[1..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
        for cut in (0..bytes.len()).filter(|cut| *cut < 200 || cut % step == 0) {
            let mut input = bytes.slice(..cut);
            let missing = (cut >= header).then(|| bytes.len() - cut);
            prop_assert_eq!(
                both_forms::decode(&mut decoder, &mut input),
                Ok(Decoded::Incomplete { missing }),
                "cut at {}", cut
            );
            prop_assert_eq!(input.len(), cut, "what is incomplete is left alone");
        }
        prop_assert_eq!(
            both_forms::decode(&mut decoder, &mut bytes.clone()),
            Ok(Decoded::Packet(packet.clone()))
        );

        // A frame whose remaining length is made shorter ends inside a field: refused, or another
        // packet, never a wait for more.
        let body = bytes.slice(header..);
        for length in 0..body.len().min(200) {
            let mut frame = BytesMut::from(&bytes[..1]);
            let mut rest = length;
            while rest >= 0x80 {
                frame.extend_from_slice(&[rest as u8 | 0x80]);
                rest >>= 7;
            }
            frame.extend_from_slice(&[rest as u8]);
            frame.extend_from_slice(&body[..length]);
            let decoded = both_forms::decode(&mut decoder, &mut frame.freeze());
            prop_assert!(!matches!(decoded, Ok(Decoded::Incomplete { .. })), "{} bytes", length);
        }
    }

    #[test]
    fn the_size_limit_counts_the_whole_packet((version, packet) in versioned_packet()) {
        let mut output = BytesMut::new();
        encode(&packet, version, &mut output).unwrap();
        let bytes = output.freeze();
        let size = bytes.len();
        let decode = |limit: usize, input: Bytes| {
            both_forms::decode(&mut Decoder::new(version, Sender::Either, limit), &mut input.clone())
        };
        for limit in [size, size + 1] {
            prop_assert_eq!(decode(limit, bytes.clone()), Ok(Decoded::Packet(packet.clone())));
        }
        prop_assert_eq!(decode(size - 1, bytes).unwrap_err().kind, ErrorKind::TooLarge);
    }
}

#[test]
fn a_packet_above_the_limit_is_refused_from_its_header() {
    let mut input = Bytes::from_static(b"\x30\xff\xff\xff\x7f");
    let mut decoder = Decoder::new(Version::V5, Sender::Client, 1024 * 1024);
    let error = both_forms::decode(&mut decoder, &mut input).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    assert_eq!(error.reason_code.0, 0x95);
    assert_eq!(error.clause, "MQTT-3.2.2-15");

    let mut input = Bytes::from_static(b"\x10\xff\xff\xff\x7f");
    let error = both_forms::decode(&mut Decoder::awaiting_connect(1_000), &mut input).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
}

#[test]
fn the_largest_packet_of_all_is_awaited_without_memory_for_it() {
    let mut input = Bytes::from_static(b"\x30\xff\xff\xff\x7f\0\x01a");
    let mut decoder = Decoder::new(Version::V311, Sender::Either, usize::MAX);
    assert_eq!(
        both_forms::decode(&mut decoder, &mut input),
        Ok(Decoded::Incomplete {
            missing: Some(268_435_452)
        })
    );
}

#[test]
fn two_pings_in_one_read_are_two_packets() {
    let mut input = Bytes::from_static(b"\xc0\0\xd0\0");
    let mut decoder = Decoder::new(Version::V311, Sender::Either, 100);
    assert_eq!(
        both_forms::decode(&mut decoder, &mut input),
        Ok(Decoded::Packet(Packet::PingReq))
    );
    assert_eq!(
        both_forms::decode(&mut decoder, &mut input),
        Ok(Decoded::Packet(Packet::PingResp))
    );
    assert!(input.is_empty());
}
