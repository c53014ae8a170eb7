//! What is written is read back equal, and takes the length that was told.

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::{
    Decoded, Decoder, Packet, PublishRef, Sender, Version, encode, encode_publish, encoded_len,
};
use proptest::prelude::*;

use crate::arbitrary::{packet, publish, versioned_packet};
use crate::both_forms;

fn written(packet: &Packet, version: Version) -> Bytes {
    let mut output = BytesMut::new();
    encode(packet, version, &mut output).expect("a legal packet is written");
    output.freeze()
}

fn decoder(version: Version) -> Decoder {
    Decoder::new(version, Sender::Either, usize::MAX)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_packet_survives_encoding_and_decoding((version, packet) in versioned_packet()) {
        let bytes = written(&packet, version);
        prop_assert_eq!(encoded_len(&packet, version), Ok(bytes.len()));
        let mut input = bytes.clone();
        let decoded = both_forms::decode(&mut decoder(version), &mut input);
        prop_assert_eq!(decoded, Ok(Decoded::Packet(packet.clone())));
        prop_assert!(input.is_empty());

        // What is read is written again to the same bytes.
        prop_assert_eq!(written(&packet, version), bytes);
    }

    #[test]
    fn a_connect_is_read_without_knowing_the_version((version, packet) in versioned_packet()) {
        let bytes = written(&packet, version);
        let mut decoder = Decoder::awaiting_connect(usize::MAX);
        let decoded = both_forms::decode(&mut decoder, &mut bytes.clone());
        if matches!(packet, Packet::Connect(_)) {
            prop_assert_eq!(decoded, Ok(Decoded::Packet(packet)));
            prop_assert_eq!(decoder.version(), Some(version));
        } else {
            prop_assert_eq!(decoded.unwrap_err().clause, "MQTT-3.1.0-1");
            prop_assert_eq!(decoder.version(), None);
        }
    }

    #[test]
    fn a_publish_in_parts_is_the_same_as_the_packet(publish in publish(Version::V5)) {
        let mut output = BytesMut::from(&b"before"[..]);
        encode_publish(&PublishRef::from(&publish), Version::V5, &mut output).unwrap();
        prop_assert_eq!(&output[6..], &written(&Packet::Publish(publish), Version::V5)[..]);
    }

    #[test]
    fn packets_follow_each_other_in_one_buffer(packets in prop::collection::vec(packet(Version::V5), 0..6)) {
        let mut output = BytesMut::new();
        for packet in &packets {
            encode(packet, Version::V5, &mut output).unwrap();
        }
        let mut input = output.freeze();
        let mut decoder = decoder(Version::V5);
        for packet in packets {
            prop_assert_eq!(both_forms::decode(&mut decoder, &mut input), Ok(Decoded::Packet(packet)));
        }
        prop_assert_eq!(both_forms::decode(&mut decoder, &mut input), Ok(Decoded::Incomplete { missing: None }));
    }

    #[test]
    fn any_bytes_are_answered_and_what_is_accepted_is_written_again(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        version in prop_oneof![Just(Version::V311), Just(Version::V5)],
    ) {
        let mut input = Bytes::from(bytes);
        if let Ok(Decoded::Packet(packet)) = both_forms::decode(&mut decoder(version), &mut input) {
            let again = written(&packet, version);
            let decoded = both_forms::decode(&mut decoder(version), &mut again.clone());
            prop_assert_eq!(decoded, Ok(Decoded::Packet(packet)));
        }
    }
}

#[test]
fn the_text_and_payload_of_a_packet_are_slices_of_the_input() {
    let input = Bytes::from_static(b"\x32\x0b\0\x03a/b\x12\x34word");
    let range = input.as_ptr_range();
    let Ok(Decoded::Packet(Packet::Publish(publish))) =
        both_forms::decode(&mut decoder(Version::V311), &mut input.clone())
    else {
        panic!("a PUBLISH is there");
    };
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.expect("a topic").as_str().as_ptr()));
    assert_eq!(publish.payload, "word");
}
