//! The targets of the codec.

use bolero::check;
use paquebot_fuzz::{decode, round_trip, topics};
use paquebot_protocols::mqtt::Version;

#[test]
fn decode_v4() {
    check!().for_each(|input: &[u8]| decode(Version::V311, input));
}

#[test]
fn decode_v5() {
    check!().for_each(|input: &[u8]| decode(Version::V5, input));
}

#[test]
fn round_trip_v4() {
    check!().for_each(|input: &[u8]| round_trip(Version::V311, input));
}

#[test]
fn round_trip_v5() {
    check!().for_each(|input: &[u8]| round_trip(Version::V5, input));
}

#[test]
fn topic_filters() {
    // An alphabet in which names and filters meet often.
    const ALPHABET: [char; 8] = ['/', 'a', 'b', '+', '#', '$', '\0', 'é'];
    check!().for_each(|input: &[u8]| {
        let (name, filter) = input.split_at(input.len() / 2);
        let text = |bytes: &[u8]| -> String {
            bytes
                .iter()
                .map(|byte| ALPHABET[usize::from(byte % 8)])
                .collect()
        };
        topics(&text(name), &text(filter));
        let share = format!("$share/{}", text(filter));
        topics(&text(name), &share);
        if let (Ok(name), Ok(filter)) = (std::str::from_utf8(name), std::str::from_utf8(filter)) {
            topics(name, filter);
        }
    });
}
