//! What has to hold for any bytes at all, as functions that panic where it does not.

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::{
    DecodeError, Decoded, Decoder, Next, Packet, Sender, Topic, TopicFilter, TopicMatcher, Version,
    encode, encoded_len,
};

// Under a fuzzer every program of the crate must hold its runtime.
#[cfg(test)]
use bolero as _;

mod input;
mod recovery;
pub mod seeds;
mod session;
// The store alone, without what else is in its crate and takes minutes to build.
#[path = "../../../actors/src"]
#[expect(dead_code, unused_imports, reason = "the target needs a part of it")]
mod actors {
    pub(crate) mod store;
}

pub use recovery::recover;
pub use session::session;

const SENDERS: [Sender; 3] = [Sender::Client, Sender::Server, Sender::Either];

/// Bytes as they may come from the network: each decoder answers, and what it takes is legal.
pub fn decode(version: Version, input: &[u8]) {
    for sender in SENDERS {
        decode_stream(version, sender, Bytes::copy_from_slice(input));
    }
    // Random bytes seldom have a fitting remaining length, so they are framed as well.
    if let Some((first, body)) = input.split_first() {
        let frame = framed(*first, body);
        for sender in SENDERS {
            whole_frame(version, sender, &frame);
        }
    }
    let mut decoder = Decoder::awaiting_connect(1_000);
    let _ = decoder.decode(&mut Bytes::copy_from_slice(input));
}

/// A legal packet with some bytes changed: what is still taken is written and read again.
pub fn round_trip(version: Version, input: &[u8]) {
    let Some((which, edits)) = input.split_first() else {
        return;
    };
    let seeds = seeds::of(version);
    let seed = seeds[usize::from(*which) % seeds.len()];
    let mut body = seed[2..].to_vec();
    for edit in edits.chunks_exact(2) {
        let place = usize::from(edit[0]);
        match body.get_mut(place) {
            Some(byte) => *byte = edit[1],
            None => body.push(edit[1]),
        }
    }
    let frame = framed(seed[0], &body);
    for sender in SENDERS {
        whole_frame(version, sender, &frame);
    }
}

/// Texts as topic names and filters: matching agrees with the definition, level by level.
pub fn topics(name: &str, filter: &str) {
    let name = Topic::new(name);
    let filter = TopicFilter::new(filter);
    if let Ok(filter) = &filter {
        let is_shared = filter.check_shared();
        assert_eq!(is_shared.ok().flatten(), filter.shared());
    }
    let (Ok(name), Ok(filter)) = (name, filter) else {
        return;
    };
    let levels: Vec<&str> = name.levels().collect();
    let pattern: Vec<&str> = filter.levels().collect();
    let expected = matches_by_definition(&pattern, &levels);
    assert_eq!(
        filter.matches_in(Version::V311, &name),
        expected,
        "{filter} {name}"
    );
    let pattern = if filter.shared().is_some() {
        &pattern[2..]
    } else {
        &pattern[..]
    };
    let expected = matches_by_definition(pattern, &levels);
    assert_eq!(
        filter.matches_in(Version::V5, &name),
        expected,
        "{filter} {name}"
    );
    let ready = TopicMatcher::new(&filter);
    let bytes = name.as_str().as_bytes();
    assert_eq!(ready.matches(bytes), expected, "{ready:?} {name}");
    assert!(TopicFilter::from(name.clone()).matches_in(Version::V311, &name));
}

fn matches_by_definition(pattern: &[&str], levels: &[&str]) -> bool {
    let is_hidden = levels[0].starts_with('$');
    if is_hidden && matches!(pattern[0], "+" | "#") {
        return false;
    }
    match pattern {
        [] => levels.is_empty(),
        ["#"] => true,
        [level, ..] => {
            let [name, ..] = levels else { return false };
            let is_same = *level == "+" || level == name;
            is_same && rest_matches(&pattern[1..], &levels[1..])
        }
    }
}

/// As [`matches_by_definition`], behind the first level.
fn rest_matches(pattern: &[&str], levels: &[&str]) -> bool {
    match (pattern, levels) {
        (["#"], _) | ([], []) => true,
        ([level, pattern @ ..], [name, levels @ ..]) => {
            (*level == "+" || level == name) && rest_matches(pattern, levels)
        }
        _ => false,
    }
}

fn decode_stream(version: Version, sender: Sender, mut input: Bytes) {
    let mut decoder = Decoder::new(version, sender, 1024 * 1024);
    let (whole, mut at) = (input.clone(), 0);
    loop {
        let before = input.clone();
        let next = next(&mut decoder.clone(), &whole, &mut at);
        let decoded = decoder.decode(&mut input);
        assert_eq!(next, decoded, "both forms say the same");
        assert_eq!(at, whole.len() - input.len());
        match decoded {
            Ok(Decoded::Packet(packet)) => {
                assert!(input.len() < before.len(), "a packet takes bytes");
                let taken = before.slice(..before.len() - input.len());
                legal(version, &packet, &taken);
            }
            Ok(Decoded::Incomplete { missing }) => {
                assert_ne!(missing, Some(0));
                assert_eq!(input, before);
                return;
            }
            Err(error) => {
                assert!(!error.clause.is_empty());
                assert!(error.reason_code.is_error());
                assert_eq!(input, before);
                return;
            }
        }
    }
}

/// What [`Decoder::find_publish`] or else [`Decoder::decode_next`] finds, as [`Decoder::decode`] says it.
fn next(decoder: &mut Decoder, input: &Bytes, at: &mut usize) -> Result<Decoded, DecodeError> {
    if let Some(span) = decoder.find_publish(input, at) {
        let publish = span.to_publish(input).expect("the span is of this input");
        assert_eq!(
            publish.topic.as_ref().map(Topic::as_str),
            Some(span.topic(input))
        );
        return Ok(Decoded::Packet(Packet::Publish(publish)));
    }
    Ok(match decoder.decode_next(input, at)? {
        Next::Acknowledgement(kind, id) => Decoded::Packet(kind.into_packet(id)),
        Next::Packet(packet) => Decoded::Packet(packet),
        Next::Incomplete { missing } => Decoded::Incomplete { missing },
    })
}

fn whole_frame(version: Version, sender: Sender, frame: &Bytes) {
    let mut decoder = Decoder::new(version, sender, usize::MAX);
    let mut input = frame.clone();
    let next = next(&mut decoder.clone(), frame, &mut 0);
    let decoded = decoder.decode(&mut input);
    assert_eq!(next, decoded, "both forms say the same");
    match decoded {
        Ok(Decoded::Packet(packet)) => {
            assert!(input.is_empty(), "a frame is one packet");
            legal(version, &packet, frame);
            for cut in 0..frame.len() {
                let prefix = decoder.decode(&mut frame.slice(..cut));
                assert!(
                    matches!(prefix, Ok(Decoded::Incomplete { .. })),
                    "{cut}: {prefix:?}"
                );
            }
        }
        Ok(Decoded::Incomplete { .. }) => panic!("a whole frame is incomplete: {frame:02x?}"),
        Err(_) => assert_eq!(&input, frame),
    }
}

/// What was taken can be written, in no more bytes, and is read back equal.
fn legal(version: Version, packet: &Packet, taken: &Bytes) {
    let mut output = BytesMut::new();
    encode(packet, version, &mut output).expect("what is read can be written");
    assert!(
        output.len() <= taken.len(),
        "the shortest form is longer: {packet:?}"
    );
    assert_eq!(encoded_len(packet, version), Ok(output.len()));
    let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
    let again = decoder.decode(&mut output.freeze());
    assert_eq!(again.as_ref(), Ok(&Decoded::Packet(packet.clone())));
}

fn framed(first: u8, body: &[u8]) -> Bytes {
    let mut frame = vec![first];
    let mut rest = body.len();
    while rest >= 0x80 {
        frame.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    frame.push(rest as u8);
    frame.extend_from_slice(body);
    Bytes::from(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_is_a_legal_packet() {
        for version in [Version::V311, Version::V5] {
            for seed in seeds::of(version) {
                let mut input = Bytes::from_static(seed);
                let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
                let decoded = decoder.decode(&mut input);
                assert!(
                    matches!(decoded, Ok(Decoded::Packet(_))),
                    "{seed:02x?} {decoded:?}"
                );
            }
        }
    }
}
