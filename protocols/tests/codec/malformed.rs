//! What the specifications forbid is refused with its kind, its clause and its reason code.

use bytes::Bytes;
use paquebot_protocols::mqtt::{Decoded, Decoder, ErrorKind, Sender, Version};

use crate::both_forms;

use ErrorKind::{Malformed, Protocol, Unsupported};
use Sender::{Client, Either, Server};
use Version::{V5, V311};

/// Bytes in hexadecimal, with spaces and `'text'` for readability.
fn bytes(text: &str) -> Bytes {
    let mut bytes = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|byte| *byte != b' ').collect();
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            bytes.push(u8::from_str_radix(pair, 16).expect("hexadecimal"));
        }
    }
    Bytes::from(bytes)
}

/// Puts the remaining length between the first byte and the rest.
fn frame(first: &str, body: &str) -> Bytes {
    let body = bytes(body);
    let mut frame = bytes(first).to_vec();
    let mut rest = body.len();
    while rest >= 0x80 {
        frame.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    frame.push(rest as u8);
    frame.extend_from_slice(&body);
    Bytes::from(frame)
}

fn decode(version: Version, sender: Sender, input: &Bytes) -> Result<Decoded, String> {
    both_forms::decode(&mut Decoder::new(version, sender, 1024 * 1024), &mut input.clone())
        .map_err(|error| {
            format!("{:?} {} {:02x}", error.kind, error.clause, error.reason_code.0)
        })
}

/// A rule and bytes that break it: what it is, version, sender, first byte, rest behind the remaining
/// length, and the expected kind, clause and code.
type Row = (
    &'static str,
    Version,
    Sender,
    &'static str,
    &'static str,
    ErrorKind,
    &'static str,
    u8,
);

fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for (rule, version, sender, first, body, kind, clause, code) in rows {
        let expected = Err(format!("{kind:?} {clause} {code:02x}"));
        let answer = decode(*version, *sender, &frame(first, body));
        if answer != expected {
            wrong.push(format!("{rule} ({version}): {answer:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The legal neighbour of the refused bytes: shows that the rule is not drawn too wide.
fn accept(rows: &[(&str, Version, Sender, &str, &str)]) {
    for (what, version, sender, first, body) in rows {
        let answer = decode(*version, *sender, &frame(first, body));
        assert!(matches!(answer, Ok(Decoded::Packet(_))), "{what} ({version}): {answer:?}");
    }
}

#[test]
fn packet_types_and_flags() {
    check(&[
        ("type 0", V311, Either, "00", "", Malformed, "§2.2.1", 0x81),
        ("type 0", V5, Either, "00", "", Malformed, "§2.1.2", 0x81),
        ("type 15", V311, Either, "f0", "", Malformed, "§2.2.1", 0x81),
        ("AUTH flags", V5, Either, "f1", "", Malformed, "MQTT-3.15.1-1", 0x81),
        ("CONNECT flags", V311, Either, "11", "", Malformed, "MQTT-2.2.2-2", 0x81),
        ("CONNECT flags", V5, Either, "18", "", Malformed, "MQTT-2.1.3-1", 0x81),
        ("CONNACK flags", V5, Either, "21", "0000 00", Malformed, "MQTT-2.1.3-1", 0x81),
        ("PUBACK flags", V311, Either, "42", "0001", Malformed, "MQTT-2.2.2-2", 0x81),
        ("PUBREC flags", V5, Either, "52", "0001", Malformed, "MQTT-2.1.3-1", 0x81),
        ("PUBREL flags", V311, Either, "60", "0001", Malformed, "MQTT-3.6.1-1", 0x81),
        ("PUBREL flags", V5, Either, "63", "0001", Malformed, "MQTT-3.6.1-1", 0x81),
        ("PUBCOMP flags", V5, Either, "72", "0001", Malformed, "MQTT-2.1.3-1", 0x81),
        ("SUBSCRIBE flags", V311, Either, "80", "", Malformed, "MQTT-3.8.1-1", 0x81),
        ("SUBSCRIBE flags", V5, Either, "8a", "", Malformed, "MQTT-3.8.1-1", 0x81),
        ("SUBACK flags", V5, Either, "92", "", Malformed, "MQTT-2.1.3-1", 0x81),
        ("UNSUBSCRIBE flags", V5, Either, "a0", "", Malformed, "MQTT-3.10.1-1", 0x81),
        ("UNSUBACK flags", V311, Either, "b2", "0001", Malformed, "MQTT-2.2.2-2", 0x81),
        ("PINGREQ flags", V311, Either, "c1", "", Malformed, "MQTT-2.2.2-2", 0x81),
        ("PINGRESP flags", V5, Either, "d8", "", Malformed, "MQTT-2.1.3-1", 0x81),
        ("DISCONNECT flags", V311, Either, "e1", "", Malformed, "MQTT-3.14.1-1", 0x81),
        ("DISCONNECT flags", V5, Either, "e2", "", Malformed, "MQTT-3.14.1-1", 0x81),
        ("PINGREQ with a body", V311, Either, "c0", "00", Malformed, "§2.2.3", 0x81),
        ("PINGREQ with a body", V5, Either, "c0", "00", Malformed, "§2.1.4", 0x81),
        ("PINGRESP with a body", V5, Either, "d0", "0000", Malformed, "§2.1.4", 0x81),
    ]);
}

#[test]
fn packets_of_the_wrong_direction() {
    check(&[
        ("CONNECT", V311, Server, "10", "", Protocol, "§2.2.1", 0x82),
        ("CONNECT", V5, Server, "10", "", Protocol, "§2.1.2", 0x82),
        ("CONNACK", V311, Client, "20", "0000", Protocol, "§2.2.1", 0x82),
        ("CONNACK", V5, Client, "20", "000000", Protocol, "§2.1.2", 0x82),
        ("SUBSCRIBE", V5, Server, "82", "0001000001'a'00", Protocol, "§2.1.2", 0x82),
        ("SUBACK", V5, Client, "90", "00010000", Protocol, "§2.1.2", 0x82),
        ("UNSUBSCRIBE", V311, Server, "a2", "00010001'a'", Protocol, "§2.2.1", 0x82),
        ("UNSUBACK", V311, Client, "b0", "0001", Protocol, "§2.2.1", 0x82),
        ("PINGREQ", V5, Server, "c0", "", Protocol, "§2.1.2", 0x82),
        ("PINGRESP", V311, Client, "d0", "", Protocol, "§2.2.1", 0x82),
        ("DISCONNECT", V311, Server, "e0", "", Protocol, "§2.2.1", 0x82),
    ]);
    accept(&[
        ("DISCONNECT", V5, Server, "e0", ""),
        ("DISCONNECT", V5, Client, "e0", ""),
        ("DISCONNECT", V311, Client, "e0", ""),
        ("PUBACK", V311, Client, "40", "0001"),
        ("PUBACK", V5, Server, "40", "0001"),
        ("PINGREQ", V311, Either, "c0", ""),
        ("PINGRESP", V311, Either, "d0", ""),
    ]);
}

#[test]
fn remaining_lengths() {
    let answer = |version, text| decode(version, Either, &bytes(text));
    for version in [V311, V5] {
        assert_eq!(
            answer(version, "c0 80 80 80 80"),
            Err("Malformed §2.1.4 81".to_owned()),
            "a fifth byte is announced"
        );
        assert_eq!(answer(version, "c0 80 80 80"), Ok(Decoded::Incomplete { missing: None }));
    }
    // MQTT 3.1.1 has no rule that the length takes the fewest bytes; MQTT 5 has.
    for padded in ["c0 8000", "c0 808000", "c0 80808000"] {
        assert!(matches!(answer(V311, padded), Ok(Decoded::Packet(_))), "{padded}");
        assert_eq!(answer(V5, padded), Err("Malformed MQTT-1.5.5-1 81".to_owned()));
    }
    let connect = "10 9000 0004'MQTT'05 02 003c 00 0003'dev'";
    let mut awaiting = Decoder::awaiting_connect(1_000);
    let error = both_forms::decode(&mut awaiting, &mut bytes(connect)).unwrap_err();
    assert_eq!(error.clause, "MQTT-1.5.5-1");
    let connect = "10 8f00 0004'MQTT'04 02 003c 0003'dev'";
    assert!(both_forms::decode(&mut awaiting, &mut bytes(connect)).is_ok());
}

#[test]
fn the_first_packet_of_a_connection() {
    for (text, expected) in [
        ("c000", "Protocol MQTT-3.1.0-1 82"),
        ("00", "Protocol MQTT-3.1.0-1 82"),
        ("11", "Malformed MQTT-2.1.3-1 81"),
        ("10 0c 0006'MQIsdp'03 02 003c", "Unsupported MQTT-3.1.2-1 84"),
        ("10 0a 0004'MQTT'06 02 003c", "Unsupported MQTT-3.1.2-2 84"),
    ] {
        let error = both_forms::decode(&mut Decoder::awaiting_connect(1_000), &mut bytes(text)).unwrap_err();
        let answer = format!("{:?} {} {:02x}", error.kind, error.clause, error.reason_code.0);
        assert_eq!(answer, expected, "{text}");
    }
}

#[test]
fn connect() {
    check(&[
        ("no body", V311, Client, "10", "", Malformed, "§2.2.3", 0x81),
        ("no body", V5, Client, "10", "", Malformed, "§2.1.4", 0x81),
        ("name", V311, Client, "10", "0004'mqtt'04 02 0000 0001'c'", Unsupported, "MQTT-3.1.2-1", 0x84),
        ("name", V5, Client, "10", "0004'MQTX'05 02 0000 00 0001'c'", Unsupported, "MQTT-3.1.2-1", 0x84),
        ("MQTT 3.1", V311, Client, "10", "0006'MQIsdp'03 02 0000 0001'c'", Unsupported, "MQTT-3.1.2-1", 0x84),
        ("level 3", V311, Client, "10", "0004'MQTT'03 02 0000 0001'c'", Unsupported, "MQTT-3.1.2-2", 0x84),
        ("level 5", V311, Client, "10", "0004'MQTT'05 02 0000 00 0001'c'", Unsupported, "MQTT-3.1.2-2", 0x84),
        ("level 4", V5, Client, "10", "0004'MQTT'04 02 0000 0001'c'", Unsupported, "MQTT-3.1.2-2", 0x84),
        ("bridge bit", V311, Client, "10", "0004'MQTT'84 02 0000 0001'c'", Unsupported, "MQTT-3.1.2-2", 0x84),
        ("reserved flag", V311, Client, "10", "0004'MQTT'04 03 0000 0001'c'", Malformed, "MQTT-3.1.2-3", 0x81),
        ("reserved flag", V5, Client, "10", "0004'MQTT'05 03 0000 00 0001'c'", Malformed, "MQTT-3.1.2-3", 0x81),
        ("will QoS, no will", V311, Client, "10", "0004'MQTT'04 0a 0000 0001'c'", Malformed, "MQTT-3.1.2-13", 0x81),
        ("will QoS, no will", V5, Client, "10", "0004'MQTT'05 12 0000 00 0001'c'", Malformed, "MQTT-3.1.2-11", 0x81),
        ("will retain, no will", V311, Client, "10", "0004'MQTT'04 22 0000 0001'c'", Malformed, "MQTT-3.1.2-15", 0x81),
        ("will retain, no will", V5, Client, "10", "0004'MQTT'05 22 0000 00 0001'c'", Malformed, "MQTT-3.1.2-13", 0x81),
        ("will QoS 3", V311, Client, "10", "0004'MQTT'04 1e 0000 0001'c' 0001't' 0000", Malformed, "MQTT-3.1.2-14", 0x81),
        ("will QoS 3", V5, Client, "10", "0004'MQTT'05 1e 0000 00 0001'c' 00 0001't' 0000", Malformed, "MQTT-3.1.2-12", 0x81),
        ("password, no user name", V311, Client, "10", "0004'MQTT'04 42 0000 0001'c' 0001'p'", Malformed, "MQTT-3.1.2-22", 0x81),
        ("empty id, session kept", V311, Client, "10", "0004'MQTT'04 00 0000 0000", Protocol, "MQTT-3.1.3-8", 0x85),
        ("no client id", V311, Client, "10", "0004'MQTT'04 02 0000", Malformed, "§2.2.3", 0x81),
        ("no client id", V5, Client, "10", "0004'MQTT'05 02 0000 00", Malformed, "§2.1.4", 0x81),
        ("no properties", V5, Client, "10", "0004'MQTT'05 02 0000", Malformed, "§2.1.4", 0x81),
        ("client id too long", V311, Client, "10", "0004'MQTT'04 02 0000 0002'c'", Malformed, "§2.2.3", 0x81),
        ("user name missing", V311, Client, "10", "0004'MQTT'04 82 0000 0001'c'", Malformed, "§2.2.3", 0x81),
        ("will missing", V5, Client, "10", "0004'MQTT'05 06 0000 00 0001'c'", Malformed, "§2.1.4", 0x81),
        ("will payload missing", V311, Client, "10", "0004'MQTT'04 06 0000 0001'c' 0001't'", Malformed, "§2.2.3", 0x81),
        ("trailing user name", V311, Client, "10", "0004'MQTT'04 02 0000 0001'c' 0001'u'", Malformed, "§2.2.3", 0x81),
        ("trailing byte", V5, Client, "10", "0004'MQTT'05 02 0000 00 0001'c' 00", Malformed, "§2.1.4", 0x81),
        ("ill-formed client id", V311, Client, "10", "0004'MQTT'04 02 0000 0001 ff", Malformed, "MQTT-1.5.3-1", 0x81),
        ("surrogate in client id", V5, Client, "10", "0004'MQTT'05 02 0000 00 0003 eda080", Malformed, "MQTT-1.5.4-1", 0x81),
        ("overlong NUL in client id", V5, Client, "10", "0004'MQTT'05 02 0000 00 0002 c080", Malformed, "MQTT-1.5.4-1", 0x81),
        ("NUL in client id", V311, Client, "10", "0004'MQTT'04 02 0000 0002'a'00", Malformed, "MQTT-1.5.3-2", 0x81),
        ("NUL in user name", V5, Client, "10", "0004'MQTT'05 82 0000 00 0000 0001 00", Malformed, "MQTT-1.5.4-2", 0x81),
        ("ill-formed user name", V311, Client, "10", "0004'MQTT'04 82 0000 0001'c' 0001 80", Malformed, "MQTT-1.5.3-1", 0x81),
        ("will topic empty", V311, Client, "10", "0004'MQTT'04 06 0000 0001'c' 0000 0000", Malformed, "MQTT-4.7.3-1", 0x81),
        ("will topic wildcard", V5, Client, "10", "0004'MQTT'05 06 0000 00 0001'c' 00 0001'#' 0000", Malformed, "MQTT-3.3.2-2", 0x81),
        ("will topic ill-formed", V5, Client, "10", "0004'MQTT'05 06 0000 00 0001'c' 00 0001 c3 0000", Malformed, "MQTT-1.5.4-1", 0x81),
    ]);
    accept(&[
        ("empty id, new session", V311, Client, "10", "0004'MQTT'04 02 0000 0000"),
        ("empty id, session kept", V5, Client, "10", "0004'MQTT'05 00 0000 00 0000"),
        ("password, no user name", V5, Client, "10", "0004'MQTT'05 42 0000 00 0000 0001'p'"),
        ("binary password", V311, Client, "10", "0004'MQTT'04 c2 0000 0001'c' 0001'u' 0002 00ff"),
        ("binary will payload", V311, Client, "10", "0004'MQTT'04 36 0000 0001'c' 0001't' 0002 00ff"),
        ("byte order mark", V5, Client, "10", "0004'MQTT'05 02 0000 00 0003 efbbbf"),
        ("control character", V5, Client, "10", "0004'MQTT'05 02 0000 00 0001 01"),
        ("will with delay", V5, Client, "10", "0004'MQTT'05 06 0000 00 0001'c' 05 18 00000001 0001't' 0000"),
    ]);
}

#[test]
fn connack() {
    check(&[
        ("reserved flags", V311, Server, "20", "0200", Malformed, "§3.2.2.1", 0x81),
        ("reserved flags", V5, Server, "20", "80 00 00", Malformed, "MQTT-3.2.2-1", 0x81),
        ("reserved code", V311, Server, "20", "0006", Protocol, "§3.2.2.3", 0x82),
        ("reserved code", V311, Server, "20", "0008", Protocol, "§3.2.2.3", 0x82),
        ("no such code", V5, Server, "20", "00 01 00", Protocol, "MQTT-3.2.2-8", 0x82),
        ("a code of others", V5, Server, "20", "00 8e 00", Protocol, "MQTT-3.2.2-8", 0x82),
        ("session and refusal", V311, Server, "20", "0105", Protocol, "MQTT-3.2.2-4", 0x82),
        ("session and refusal", V5, Server, "20", "01 87 00", Protocol, "MQTT-3.2.2-6", 0x82),
        ("short", V311, Server, "20", "00", Malformed, "§2.2.3", 0x81),
        ("long", V311, Server, "20", "000000", Malformed, "§2.2.3", 0x81),
        ("no properties", V5, Server, "20", "0000", Malformed, "§2.1.4", 0x81),
        ("trailing byte", V5, Server, "20", "00000000", Malformed, "§2.1.4", 0x81),
        ("data without method", V5, Server, "20", "0000 04 16 0001 00", Protocol, "MQTT-4.12.0-5", 0x82),
    ]);
    accept(&[
        ("session present", V311, Server, "20", "0100"),
        ("refused", V311, Server, "20", "0005"),
        ("refused by AWS IoT", V311, Server, "20", "0007"),
        ("refused", V5, Server, "20", "00 9f 00"),
    ]);
}

#[test]
fn publish() {
    check(&[
        ("QoS 3", V311, Either, "36", "0001'a' 0001", Malformed, "MQTT-3.3.1-4", 0x81),
        ("QoS 3", V5, Either, "3f", "0001'a' 0001 00", Malformed, "MQTT-3.3.1-4", 0x81),
        ("DUP at QoS 0", V311, Either, "38", "0001'a'", Malformed, "MQTT-3.3.1-2", 0x81),
        ("DUP at QoS 0", V5, Either, "39", "0001'a' 00", Malformed, "MQTT-3.3.1-2", 0x81),
        ("packet id 0", V311, Either, "32", "0001'a' 0000", Protocol, "MQTT-2.3.1-1", 0x82),
        ("packet id 0", V5, Client, "34", "0001'a' 0000 00", Protocol, "MQTT-2.2.1-3", 0x82),
        ("packet id 0", V5, Server, "34", "0001'a' 0000 00", Protocol, "MQTT-2.2.1-4", 0x82),
        ("no packet id", V311, Either, "32", "0001'a'", Malformed, "§2.2.3", 0x81),
        ("half a packet id", V5, Either, "32", "0001'a' 00", Malformed, "§2.1.4", 0x81),
        ("no topic", V311, Either, "30", "", Malformed, "§2.2.3", 0x81),
        ("no topic", V5, Either, "30", "00", Malformed, "§2.1.4", 0x81),
        ("topic too long", V311, Either, "30", "0005'a/b'", Malformed, "§2.2.3", 0x81),
        ("topic empty", V311, Either, "30", "0000 'x'", Malformed, "MQTT-4.7.3-1", 0x81),
        ("topic empty, no alias", V5, Either, "30", "0000 00 'x'", Protocol, "§3.3.2.1", 0x82),
        ("topic empty, no alias", V5, Either, "30", "0000 02 01 01 'x'", Protocol, "§3.3.2.1", 0x82),
        ("wildcard +", V311, Either, "30", "0003'a/+'", Malformed, "MQTT-3.3.2-2", 0x81),
        ("wildcard #", V5, Either, "30", "0001'#' 00", Malformed, "MQTT-3.3.2-2", 0x81),
        ("wildcard in a long topic", V5, Either, "30", "0014'aaaaaaaaaaaaaaaaaaa+' 00", Malformed, "MQTT-3.3.2-2", 0x81),
        ("NUL in topic", V311, Either, "30", "0003'a'00'b'", Malformed, "MQTT-4.7.3-2", 0x81),
        ("NUL in topic", V5, Either, "30", "0001 00 00", Malformed, "MQTT-4.7.3-2", 0x81),
        ("ill-formed topic", V311, Either, "30", "0002 c328", Malformed, "MQTT-1.5.3-1", 0x81),
        ("ill-formed topic", V5, Either, "30", "0004 f4908080 00", Malformed, "MQTT-1.5.4-1", 0x81),
        ("no properties", V5, Either, "30", "0001'a'", Malformed, "§2.1.4", 0x81),
        ("properties too long", V5, Either, "30", "0001'a' 05 01 01", Malformed, "§2.1.4", 0x81),
        ("padded property length", V5, Either, "30", "0001'a' 8000", Malformed, "MQTT-1.5.5-1", 0x81),
        ("property length of five bytes", V5, Either, "30", "0001'a' 8080808001", Malformed, "§1.5.5", 0x81),
        ("alias 0", V5, Either, "30", "0001'a' 03 23 0000", Protocol, "MQTT-3.3.2-8", 0x94),
        ("alias twice", V5, Either, "30", "0001'a' 06 23 0001 23 0001", Protocol, "§3.3.2.3.4", 0x82),
        ("format 2", V5, Either, "30", "0001'a' 02 01 02", Protocol, "§3.3.2.3.2", 0x82),
        ("format twice", V5, Either, "30", "0001'a' 04 01 00 01 00", Protocol, "§3.3.2.3.2", 0x82),
        ("expiry twice", V5, Either, "30", "0001'a' 0a 02 00000001 02 00000001", Protocol, "§3.3.2.3.3", 0x82),
        ("content type twice", V5, Either, "30", "0001'a' 06 03 0000 03 0000", Protocol, "§3.3.2.3.9", 0x82),
        ("NUL in content type", V5, Either, "30", "0001'a' 04 03 0001 00", Malformed, "MQTT-1.5.4-2", 0x81),
        ("response topic wildcard", V5, Either, "30", "0001'a' 06 08 0003'r/#'", Malformed, "MQTT-3.3.2-14", 0x81),
        ("response topic empty", V5, Either, "30", "0001'a' 03 08 0000", Malformed, "MQTT-4.7.3-1", 0x81),
        ("response topic twice", V5, Either, "30", "0001'a' 08 08 0001'r' 08 0001'r'", Protocol, "§3.3.2.3.5", 0x82),
        ("correlation data twice", V5, Either, "30", "0001'a' 06 09 0000 09 0000", Protocol, "§3.3.2.3.6", 0x82),
        ("subscription id 0", V5, Server, "30", "0001'a' 02 0b 00", Protocol, "§3.3.2.3.8", 0x82),
        ("subscription id from a client", V5, Client, "30", "0001'a' 02 0b 01", Protocol, "MQTT-3.3.4-6", 0x82),
        ("padded subscription id", V5, Server, "30", "0001'a' 03 0b 8100", Malformed, "MQTT-1.5.5-1", 0x81),
        ("padded property id", V5, Either, "30", "0001'a' 03 8100 01", Malformed, "MQTT-1.5.5-1", 0x81),
        ("unknown property", V5, Either, "30", "0001'a' 02 7f 00", Malformed, "§2.2.2.2", 0x81),
        ("property 0", V5, Either, "30", "0001'a' 02 00 00", Malformed, "§2.2.2.2", 0x81),
        ("property of two bytes", V5, Either, "30", "0001'a' 03 8101 00", Malformed, "§2.2.2.2", 0x81),
        ("property of CONNECT", V5, Either, "30", "0001'a' 03 21 0001", Malformed, "§2.2.2.2", 0x81),
        ("reason string", V5, Either, "30", "0001'a' 03 1f 0000", Malformed, "§2.2.2.2", 0x81),
        ("property cut short", V5, Either, "30", "0001'a' 03 02 0000 'xxxx'", Malformed, "§2.1.4", 0x81),
        ("property text cut short", V5, Either, "30", "0001'a' 04 03 0005 'xxxxxxxx'", Malformed, "§2.1.4", 0x81),
        ("half a user property", V5, Either, "30", "0001'a' 04 26 0001'k' 0001'v'", Malformed, "§2.1.4", 0x81),
        ("ill-formed user property", V5, Either, "30", "0001'a' 07 26 0001'k' 0001 ff", Malformed, "MQTT-1.5.4-1", 0x81),
    ]);
    accept(&[
        ("empty payload", V311, Either, "31", "0001'a'"),
        ("DUP at QoS 1", V311, Either, "3a", "0001'a' 0001"),
        ("topic by alias", V5, Either, "30", "0000 03 23 0001"),
        ("subscription ids", V5, Server, "30", "0001'a' 07 0b 01 0b ffffff7f"),
        ("same subscription id", V5, Server, "30", "0001'a' 04 0b 01 0b 01"),
        ("share as a topic", V5, Client, "30", "0008'$share/g' 00"),
        ("emoji", V5, Client, "30", "0004 f09f9a80 00"),
    ]);
}

#[test]
fn acknowledgements() {
    check(&[
        ("id 0", V311, Either, "40", "0000", Protocol, "MQTT-2.3.1-6", 0x82),
        ("id 0", V5, Either, "70", "0000", Protocol, "MQTT-2.2.1-5", 0x82),
        ("short", V311, Either, "50", "00", Malformed, "§2.2.3", 0x81),
        ("empty", V5, Either, "62", "", Malformed, "§2.1.4", 0x81),
        ("a code in 3.1.1", V311, Either, "40", "000100", Malformed, "§2.2.3", 0x81),
        ("PUBACK code", V5, Either, "40", "000192", Protocol, "MQTT-3.4.2-1", 0x82),
        ("PUBREC code", V5, Either, "50", "000101", Protocol, "MQTT-3.5.2-1", 0x82),
        ("PUBREL code", V5, Either, "62", "000180", Protocol, "MQTT-3.6.2-1", 0x82),
        ("PUBCOMP code", V5, Either, "70", "000110", Protocol, "MQTT-3.7.2-1", 0x82),
        ("no subscribers, from a client", V5, Client, "40", "000110", Protocol, "MQTT-3.4.2-1", 0x82),
        ("no subscribers, from a client", V5, Client, "50", "000110", Protocol, "MQTT-3.5.2-1", 0x82),
        ("reason string twice", V5, Either, "40", "000100 06 1f 0000 1f 0000", Protocol, "§3.4.2.2.2", 0x82),
        ("reason string twice", V5, Either, "50", "000100 06 1f 0000 1f 0000", Protocol, "§3.5.2.2.2", 0x82),
        ("reason string twice", V5, Either, "62", "000100 06 1f 0000 1f 0000", Protocol, "§3.6.2.2.2", 0x82),
        ("reason string twice", V5, Either, "70", "000100 06 1f 0000 1f 0000", Protocol, "§3.7.2.2.2", 0x82),
        ("property of others", V5, Either, "40", "000100 02 01 00", Malformed, "§2.2.2.2", 0x81),
        ("trailing byte", V5, Either, "40", "000100 00 00", Malformed, "§2.1.4", 0x81),
        ("property length too long", V5, Either, "40", "000100 01", Malformed, "§2.1.4", 0x81),
    ]);
    accept(&[
        ("id alone", V5, Either, "40", "0001"),
        ("id and code", V5, Either, "40", "000180"),
        ("no properties", V5, Either, "40", "000100 00"),
        ("no subscribers", V5, Server, "40", "000110"),
    ]);
}

#[test]
fn subscribe_and_unsubscribe() {
    check(&[
        ("id 0", V311, Client, "82", "0000 0001'a' 00", Protocol, "MQTT-2.3.1-1", 0x82),
        ("id 0", V5, Client, "82", "0000 00 0001'a' 00", Protocol, "MQTT-2.2.1-3", 0x82),
        ("no filter", V311, Client, "82", "0001", Protocol, "MQTT-3.8.3-3", 0x82),
        ("no filter", V5, Client, "82", "0001 00", Protocol, "MQTT-3.8.3-2", 0x82),
        ("no options", V311, Client, "82", "0001 0001'a'", Malformed, "§2.2.3", 0x81),
        ("QoS 3", V311, Client, "82", "0001 0001'a' 03", Malformed, "MQTT-3.8.3-4", 0x81),
        ("reserved bit", V311, Client, "82", "0001 0001'a' 04", Malformed, "MQTT-3.8.3-4", 0x81),
        ("QoS 3", V5, Client, "82", "0001 00 0001'a' 03", Protocol, "§3.8.3.1", 0x82),
        ("retain handling 3", V5, Client, "82", "0001 00 0001'a' 30", Protocol, "§3.8.3.1", 0x82),
        ("reserved bit 6", V5, Client, "82", "0001 00 0001'a' 40", Malformed, "MQTT-3.8.3-5", 0x81),
        ("reserved bit 7", V5, Client, "82", "0001 00 0001'a' 80", Malformed, "MQTT-3.8.3-5", 0x81),
        ("No Local, shared", V5, Client, "82", "0001 00 000a'$share/g/a' 04", Protocol, "MQTT-3.8.3-4", 0x82),
        ("second filter empty", V311, Client, "82", "0001 0001'a' 00 0000 00", Malformed, "MQTT-4.7.3-1", 0x81),
        ("filter a#", V311, Client, "82", "0001 0002'a#' 00", Malformed, "MQTT-4.7.1-2", 0x81),
        ("filter #/a", V5, Client, "82", "0001 00 0003'#/a' 00", Malformed, "MQTT-4.7.1-1", 0x81),
        ("filter a+", V311, Client, "82", "0001 0002'a+' 00", Malformed, "MQTT-4.7.1-3", 0x81),
        ("filter +a", V5, Client, "82", "0001 00 0002'+a' 00", Malformed, "MQTT-4.7.1-2", 0x81),
        ("NUL in filter", V311, Client, "82", "0001 0001 00 00", Malformed, "MQTT-4.7.3-2", 0x81),
        ("ill-formed filter", V5, Client, "82", "0001 00 0001 ff 00", Malformed, "MQTT-1.5.4-1", 0x81),
        ("share without name", V5, Client, "82", "0001 00 0009'$share//a' 00", Malformed, "MQTT-4.8.2-1", 0x81),
        ("share with wildcard", V5, Client, "82", "0001 00 000a'$share/+/a' 00", Malformed, "MQTT-4.8.2-1", 0x81),
        ("share without filter", V5, Client, "82", "0001 00 0008'$share/g' 00", Malformed, "MQTT-4.8.2-2", 0x81),
        ("share with empty filter", V5, Client, "82", "0001 00 0009'$share/g/' 00", Malformed, "MQTT-4.8.2-2", 0x81),
        ("subscription id 0", V5, Client, "82", "0001 02 0b 00 0001'a' 00", Protocol, "§3.8.2.1.2", 0x82),
        ("subscription id twice", V5, Client, "82", "0001 04 0b 01 0b 02 0001'a' 00", Protocol, "§3.8.2.1.2", 0x82),
        ("subscription id of five bytes", V5, Client, "82", "0001 06 0b 8080808001 0001'a' 00", Malformed, "§1.5.5", 0x81),
        ("property of others", V5, Client, "82", "0001 03 1f 0000 0001'a' 00", Malformed, "§2.2.2.2", 0x81),
        ("UNSUBSCRIBE id 0", V311, Client, "a2", "0000 0001'a'", Protocol, "MQTT-2.3.1-1", 0x82),
        ("UNSUBSCRIBE id 0", V5, Client, "a2", "0000 00 0001'a'", Protocol, "MQTT-2.2.1-3", 0x82),
        ("UNSUBSCRIBE no filter", V311, Client, "a2", "0001", Protocol, "MQTT-3.10.3-2", 0x82),
        ("UNSUBSCRIBE no filter", V5, Client, "a2", "0001 00", Protocol, "MQTT-3.10.3-2", 0x82),
        ("UNSUBSCRIBE empty filter", V5, Client, "a2", "0001 00 0000", Malformed, "MQTT-4.7.3-1", 0x81),
        ("UNSUBSCRIBE filter", V311, Client, "a2", "0001 0003'#/a'", Malformed, "MQTT-4.7.1-2", 0x81),
        ("UNSUBSCRIBE share", V5, Client, "a2", "0001 00 0008'$share/g'", Malformed, "MQTT-4.8.2-2", 0x81),
        ("UNSUBSCRIBE property", V5, Client, "a2", "0001 02 0b 01 0001'a'", Malformed, "§2.2.2.2", 0x81),
        ("UNSUBSCRIBE half a length", V311, Client, "a2", "0001 00", Malformed, "§2.2.3", 0x81),
    ]);
    accept(&[
        ("share is ordinary", V311, Client, "82", "0001 0008'$share/g' 00"),
        ("shared", V5, Client, "82", "0001 00 000a'$share/g/#' 2a"),
        ("No Local", V5, Client, "82", "0001 00 0001'#' 2e"),
        ("user properties", V5, Client, "82", "0001 0a 26 0000 0000 26 0000 0000 0001'a' 00"),
    ]);
}

#[test]
fn suback_and_unsuback() {
    check(&[
        ("id 0", V311, Server, "90", "0000 00", Protocol, "MQTT-2.3.1-7", 0x82),
        ("id 0", V5, Server, "90", "0000 00 00", Protocol, "MQTT-2.2.1-6", 0x82),
        ("no code", V311, Server, "90", "0001", Protocol, "MQTT-3.9.3-1", 0x82),
        ("no code", V5, Server, "90", "0001 00", Protocol, "MQTT-3.9.3-1", 0x82),
        ("code 3", V311, Server, "90", "0001 03", Protocol, "MQTT-3.9.3-2", 0x82),
        ("code 0x87", V311, Server, "90", "0001 00 87", Protocol, "MQTT-3.9.3-2", 0x82),
        ("code 3", V5, Server, "90", "0001 00 03", Protocol, "MQTT-3.9.3-2", 0x82),
        ("code of others", V5, Server, "90", "0001 00 00 11", Protocol, "MQTT-3.9.3-2", 0x82),
        ("reason string twice", V5, Server, "90", "0001 06 1f 0000 1f 0000 00", Protocol, "§3.9.2.1.2", 0x82),
        ("property of others", V5, Server, "90", "0001 02 0b 01 00", Malformed, "§2.2.2.2", 0x81),
        ("UNSUBACK id 0", V311, Server, "b0", "0000", Protocol, "MQTT-2.3.1-7", 0x82),
        ("UNSUBACK with codes", V311, Server, "b0", "0001 00", Malformed, "§2.2.3", 0x81),
        ("UNSUBACK no code", V5, Server, "b0", "0001 00", Protocol, "MQTT-3.11.3-1", 0x82),
        ("UNSUBACK code", V5, Server, "b0", "0001 00 01", Protocol, "MQTT-3.11.3-2", 0x82),
        ("UNSUBACK no properties", V5, Server, "b0", "0001", Malformed, "§2.1.4", 0x81),
        ("UNSUBACK reason string twice", V5, Server, "b0", "0001 06 1f 0000 1f 0000 00", Protocol, "§3.11.2.1.2", 0x82),
    ]);
    accept(&[
        ("all codes", V311, Server, "90", "0001 00010280"),
        ("all codes", V5, Server, "90", "0001 00 000102 8083878f91979ea1a2"),
        ("all codes", V5, Server, "b0", "0001 00 0011 8083878f91"),
    ]);
}

#[test]
fn disconnect_and_auth() {
    check(&[
        ("DISCONNECT with a body", V311, Client, "e0", "00", Malformed, "§2.2.3", 0x81),
        ("DISCONNECT code", V5, Either, "e0", "01", Protocol, "MQTT-3.14.2-1", 0x82),
        ("DISCONNECT code of CONNACK", V5, Either, "e0", "85", Protocol, "MQTT-3.14.2-1", 0x82),
        ("will, from a server", V5, Server, "e0", "04", Protocol, "MQTT-3.14.2-1", 0x82),
        ("taken over, from a client", V5, Client, "e0", "8e", Protocol, "MQTT-3.14.2-1", 0x82),
        ("keep alive, from a client", V5, Client, "e0", "8d00", Protocol, "MQTT-3.14.2-1", 0x82),
        ("expiry, from a server", V5, Server, "e0", "00 05 11 00000001", Protocol, "MQTT-3.14.2-2", 0x82),
        ("expiry twice", V5, Client, "e0", "00 0a 11 00000001 11 00000001", Protocol, "§3.14.2.2.2", 0x82),
        ("reason string twice", V5, Client, "e0", "00 06 1f 0000 1f 0000", Protocol, "§3.14.2.2.3", 0x82),
        ("server reference twice", V5, Server, "e0", "9c 06 1c 0000 1c 0000", Protocol, "§3.14.2.2.5", 0x82),
        ("property of others", V5, Client, "e0", "00 03 21 0001", Malformed, "§2.2.2.2", 0x81),
        ("trailing byte", V5, Client, "e0", "00 00 00", Malformed, "§2.1.4", 0x81),
        ("AUTH code", V5, Either, "f0", "01 00", Protocol, "MQTT-3.15.2-1", 0x82),
        ("AUTH success from a client", V5, Client, "f0", "", Protocol, "MQTT-3.15.2-1", 0x82),
        ("AUTH success from a client", V5, Client, "f0", "00 04 15 0001'x'", Protocol, "MQTT-3.15.2-1", 0x82),
        ("re-authenticate from a server", V5, Server, "f0", "19 04 15 0001'x'", Protocol, "MQTT-3.15.2-1", 0x82),
        ("AUTH no properties", V5, Either, "f0", "18", Malformed, "§2.1.4", 0x81),
        ("AUTH no method", V5, Either, "f0", "18 00", Protocol, "§3.15.2.2.2", 0x82),
        ("AUTH data without method", V5, Either, "f0", "18 04 16 0001 00", Protocol, "§3.15.2.2.2", 0x82),
        ("AUTH method twice", V5, Either, "f0", "18 08 15 0001'x' 15 0001'x'", Protocol, "§3.15.2.2.2", 0x82),
        ("AUTH data twice", V5, Either, "f0", "18 0a 15 0001'x' 16 0000 16 0000", Protocol, "§3.15.2.2.3", 0x82),
        ("AUTH reason string twice", V5, Either, "f0", "18 0a 15 0001'x' 1f 0000 1f 0000", Protocol, "§3.15.2.2.4", 0x82),
        ("AUTH property of others", V5, Either, "f0", "18 06 15 0001'x' 01 00", Malformed, "§2.2.2.2", 0x81),
        ("AUTH trailing byte", V5, Either, "f0", "18 04 15 0001'x' 00", Malformed, "§2.1.4", 0x81),
    ]);
    accept(&[
        ("code alone", V5, Server, "e0", "8e"),
        ("expiry, from a client", V5, Client, "e0", "00 05 11 00000001"),
        ("with will", V5, Client, "e0", "04"),
        ("bad authentication method", V5, Server, "e0", "8c"),
        ("AUTH success", V5, Server, "f0", ""),
        ("re-authenticate", V5, Client, "f0", "19 04 15 0001'x'"),
    ]);
}

/// Each property in each packet: allowed where Table 2-4 says so, at most once where it says so.
#[test]
fn properties_are_only_where_table_2_4_has_them() {
    // Identifier, a legal value, and the letters of the packets that may carry it: Connect, Will,
    // connAck, Publish, pubacK and kin, Subscribe, suBack and unsuBack, Unsubscribe, Disconnect, auTh.
    let table = [
        (0x01, "00", "WP"),
        (0x02, "00000000", "WP"),
        (0x03, "0000", "WP"),
        (0x08, "0001'r'", "WP"),
        (0x09, "0000", "WP"),
        (0x0b, "01", "PS"),
        (0x11, "00000000", "CAD"),
        (0x12, "0000", "A"),
        (0x13, "0000", "A"),
        (0x15, "0000", "CAT"),
        (0x16, "0000", "CAT"),
        (0x17, "00", "C"),
        (0x18, "00000000", "W"),
        (0x19, "00", "C"),
        (0x1a, "0000", "A"),
        (0x1c, "0000", "AD"),
        (0x1f, "0000", "AKBDT"),
        (0x21, "0001", "CA"),
        (0x22, "0000", "CA"),
        (0x23, "0001", "P"),
        (0x24, "00", "A"),
        (0x25, "00", "A"),
        (0x26, "00000000", "CWAPKSBUDT"),
        (0x27, "00000001", "CA"),
        (0x28, "00", "A"),
        (0x29, "00", "A"),
        (0x2a, "00", "A"),
    ];
    // First byte, what stands before and after the properties.
    let packets = [
        ('C', "10", "0004'MQTT'05 02 0000", "0000"),
        ('W', "10", "0004'MQTT'05 06 0000 00 0000", "0001't' 0000"),
        ('A', "20", "0000", ""),
        ('P', "30", "0001'a'", ""),
        ('K', "40", "0001 00", ""),
        ('K', "50", "0001 00", ""),
        ('K', "62", "0001 00", ""),
        ('K', "70", "0001 00", ""),
        ('S', "82", "0001", "0001'a' 00"),
        ('B', "90", "0001", "00"),
        ('B', "b0", "0001", "00"),
        ('U', "a2", "0001", "0001'a'"),
        ('D', "e0", "00", ""),
        ('T', "f0", "18", ""),
    ];
    for identifier in 0..=0x7f_u8 {
        let row = table.iter().find(|row| row.0 == identifier);
        let value = row.map_or("00", |row| row.1);
        for (letter, first, before, after) in packets {
            let mut property = format!("{identifier:02x} {value}");
            // Authentication data goes with the method, and AUTH always has one.
            let needs_method = identifier == 0x16 || letter == 'T' && identifier != 0x15;
            let method = if needs_method && "CAT".contains(letter) { "15 0000" } else { "" };
            let section = |property: &str| {
                let section = format!("{method} {property}");
                format!("{before} {:02x} {section} {after}", bytes(&section).len())
            };
            let answer = decode(V5, Either, &frame(first, &section(&property)));
            if !row.is_some_and(|row| row.2.contains(letter)) {
                let expected = Err("Malformed §2.2.2.2 81".to_owned());
                assert_eq!(answer, expected, "{identifier:02x} in {letter} {first}");
                continue;
            }
            assert!(answer.is_ok(), "{identifier:02x} in {letter} {first}: {answer:?}");

            property = format!("{property} {property}");
            let answer = decode(V5, Either, &frame(first, &section(&property)));
            if identifier == 0x26 || identifier == 0x0b && letter == 'P' {
                assert!(answer.is_ok(), "{identifier:02x} twice in {letter}: {answer:?}");
            } else {
                let answer = answer.unwrap_err();
                assert!(answer.starts_with("Protocol §3."), "{identifier:02x} twice: {answer}");
                assert!(answer.ends_with(" 82"), "{answer}");
            }
        }
    }
}

#[test]
fn values_that_a_property_may_not_have() {
    let connect = |property: &str| {
        let length = bytes(property).len();
        decode(V5, Client, &frame("10", &format!("0004'MQTT'05 02 0000 {length:02x} {property} 0000")))
    };
    let connack = |property: &str| {
        let length = bytes(property).len();
        decode(V5, Server, &frame("20", &format!("0000 {length:02x} {property}")))
    };
    for (property, expected) in [
        ("21 0000", "Protocol §3.1.2.11.3 82"),
        ("27 00000000", "Protocol §3.1.2.11.4 82"),
        ("19 02", "Protocol §3.1.2.11.6 82"),
        ("17 ff", "Protocol §3.1.2.11.7 82"),
        ("16 0000", "Protocol §3.1.2.11.10 82"),
        ("15 0001 00", "Malformed MQTT-1.5.4-2 81"),
        ("26 0001 00 0000", "Malformed MQTT-1.5.4-2 81"),
    ] {
        assert_eq!(connect(property), Err(expected.to_owned()), "{property}");
    }
    for (property, expected) in [
        ("21 0000", "Protocol §3.2.2.3.3 82"),
        ("24 02", "Protocol §3.2.2.3.4 82"),
        ("25 02", "Protocol §3.2.2.3.5 82"),
        ("27 00000000", "Protocol §3.2.2.3.6 82"),
        ("28 02", "Protocol §3.2.2.3.11 82"),
        ("29 02", "Protocol §3.2.2.3.12 82"),
        ("2a 02", "Protocol §3.2.2.3.13 82"),
        ("12 0001 ff", "Malformed MQTT-1.5.4-1 81"),
    ] {
        assert_eq!(connack(property), Err(expected.to_owned()), "{property}");
    }
    for property in ["21 0001", "27 00000001", "22 0000", "11 ffffffff", "15 0000 16 0000"] {
        assert!(connect(property).is_ok(), "{property}");
        assert!(connack(property).is_ok(), "{property}");
    }
}

/// All 256 codes in each packet, against the tables of the specification.
#[test]
fn reason_codes_are_only_those_of_the_packet_s_table() {
    let connack = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95,
        0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    let puback = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let suback = [0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    let unsuback = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    let from_client = [
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x8c, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ];
    let from_server = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94,
        0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
    let tables: [(&str, Sender, &str, &str, &[u8]); 14] = [
        ("20", Server, "00", "00", &connack),
        ("40", Server, "0001", "", &puback),
        ("40", Client, "0001", "", &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        ("50", Server, "0001", "", &puback),
        ("50", Client, "0001", "", &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        ("62", Client, "0001", "", &[0x00, 0x92]),
        ("62", Server, "0001", "00", &[0x00, 0x92]),
        ("70", Client, "0001", "", &[0x00, 0x92]),
        ("90", Server, "0001 00", "", &suback),
        ("b0", Server, "0001 00", "", &unsuback),
        ("e0", Client, "", "", &from_client),
        ("e0", Server, "", "", &from_server),
        ("f0", Server, "", "03 15 0000", &[0x00, 0x18]),
        ("f0", Client, "", "03 15 0000", &[0x18, 0x19]),
    ];
    for (first, sender, before, after, codes) in tables {
        for code in 0..=255_u8 {
            let input = frame(first, &format!("{before} {code:02x} {after}"));
            let answer = decode(V5, sender, &input);
            assert_eq!(
                matches!(answer, Ok(Decoded::Packet(_))),
                codes.contains(&code),
                "{first} from a {sender} with {code:02x}: {answer:?}"
            );
        }
    }
}

#[test]
fn a_refused_packet_is_left_in_the_input() {
    let mut input = bytes("c000 36 05 0001'a' 0001");
    let mut decoder = Decoder::new(V311, Client, 100);
    assert!(both_forms::decode(&mut decoder, &mut input).is_ok());
    let length = input.len();
    assert!(both_forms::decode(&mut decoder, &mut input).is_err());
    assert_eq!(input.len(), length);
}

#[test]
fn a_wrong_first_byte_is_refused_before_the_length_is_there() {
    for first in ["00", "36", "38", "61", "f1"] {
        assert!(decode(V5, Either, &bytes(first)).is_err(), "{first}");
    }
    assert!(decode(V5, Server, &bytes("c0")).is_err());
}
