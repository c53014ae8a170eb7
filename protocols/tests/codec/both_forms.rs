//! The decoder's two forms, packets that own their parts and spans of the input, are one set of rules.
//!
//! Every test of this crate decodes through [`decode`], so that each of their packets, prefixes and breaches is
//! put to both.

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::{
    DecodeError, Decoded, Decoder, Next, Packet, Sender, Version, encode,
};
use proptest::prelude::*;

use crate::arbitrary::versioned_packet;

/// What [`Decoder::decode`] says, once [`Decoder::find_publish`] and [`Decoder::decode_next`] have said the same.
#[track_caller]
pub(crate) fn decode(decoder: &mut Decoder, input: &mut Bytes) -> Result<Decoded, DecodeError> {
    // In front of the packet are bytes of one before it.
    let mut shifted = BytesMut::from(&b"\xc0\0"[..]);
    shifted.extend_from_slice(input);
    for (bytes, start) in [(input.clone(), 0), (shifted.freeze(), 2)] {
        let mut rest = input.clone();
        let expected = decoder.clone().decode(&mut rest);
        let mut at = start;
        let found = next(&mut decoder.clone(), &bytes, &mut at);
        assert_eq!(found, expected);
        assert_eq!(at - start, input.len() - rest.len());
        // A PUBLISH too goes the long way when nobody looks for it first.
        let mut at = start;
        let found = decoder.clone().decode_next(&bytes, &mut at);
        assert_eq!(as_packet(found), expected);
        assert_eq!(at - start, input.len() - rest.len());
    }
    decoder.decode(input)
}

/// What a link does: a PUBLISH as a span where there is one, all else as a packet.
fn next(decoder: &mut Decoder, input: &Bytes, at: &mut usize) -> Result<Decoded, DecodeError> {
    if let Some(span) = decoder.find_publish(input, at) {
        let publish = span.to_publish(input).expect("the span is of this input");
        assert_eq!(
            Some(span.topic(input)),
            publish.topic.as_ref().map(|topic| topic.as_str())
        );
        assert_eq!(span.payload(input), publish.payload);
        assert_eq!(span.payload_len(), publish.payload.len());
        assert_eq!(
            (span.qos(), span.packet_id()),
            (publish.qos, publish.packet_id)
        );
        assert_eq!((span.dup(), span.retain()), (publish.dup, publish.retain));
        return Ok(Decoded::Packet(Packet::Publish(publish)));
    }
    as_packet(decoder.decode_next(input, at))
}

fn as_packet(next: Result<Next, DecodeError>) -> Result<Decoded, DecodeError> {
    Ok(match next? {
        Next::Acknowledgement(kind, id) => Decoded::Packet(kind.into_packet(id)),
        Next::Packet(packet) => Decoded::Packet(packet),
        Next::Incomplete { missing } => Decoded::Incomplete { missing },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_stream_gives_the_same_packets_in_both_forms(
        packets in prop::collection::vec(versioned_packet(), 1..20)
    ) {
        for version in [Version::V311, Version::V5] {
            let mut stream = BytesMut::new();
            let mut expected = Vec::new();
            for (_, packet) in packets.iter().filter(|(of, _)| *of == version) {
                encode(packet, version, &mut stream).unwrap();
                expected.push(packet.clone());
            }
            let stream = stream.freeze();
            let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
            let mut at = 0;
            for packet in expected {
                let next = next(&mut decoder, &stream, &mut at);
                prop_assert_eq!(next, Ok(Decoded::Packet(packet)));
            }
            prop_assert_eq!(at, stream.len());
            let end = decoder.decode_next(&stream, &mut at);
            prop_assert_eq!(end, Ok(Next::Incomplete { missing: None }));
        }
    }

    #[test]
    fn a_span_read_in_other_bytes_gives_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        let input = Bytes::from_static(b"\x32\x0c\0\x05topic\0\x01bye");
        let decoder = Decoder::new(Version::V311, Sender::Server, 100);
        let span = decoder.find_publish(&input, &mut 0).expect("a span");
        let bytes = Bytes::from(bytes);
        let (topic, payload) = (span.topic(&bytes), span.payload(&bytes));
        prop_assert!(topic.len() <= 5 && payload.len() <= 3);
        let _ = span.to_publish(&bytes);
    }
}

#[test]
fn a_plain_publish_takes_no_share_of_the_input() {
    let input = Bytes::from(b"\x30\x06\0\x01tbye\x40\x02\0\x07".to_vec());
    let mut decoder = Decoder::new(Version::V311, Sender::Server, 100);
    let mut at = 0;
    let publish = decoder.find_publish(&input, &mut at);
    let acknowledgement = decoder.decode_next(&input, &mut at);
    assert!(publish.is_some());
    assert!(
        matches!(acknowledgement, Ok(Next::Acknowledgement(..))),
        "{acknowledgement:?}"
    );
    assert!(input.is_unique(), "somebody shares the input");
}
