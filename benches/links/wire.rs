//! The few packets that the measuring ends need, by hand: what is measured must not measure itself.

/// One PUBLISH's topic and the size of its payload.
pub(crate) const TOPIC: &str = "devices/dev-000123/telemetry";
pub(crate) const PAYLOAD: [u8; 64] = [b'x'; 64];

/// CONNECT of MQTT 3.1.1, clean session, keep alive 60 s.
pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    let id = client_id.as_bytes();
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap()];
    packet.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x3c");
    packet.extend_from_slice(&u16::try_from(id.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(id);
    packet
}

/// PUBLISH with QoS 0.
pub(crate) fn publish() -> Vec<u8> {
    let topic = TOPIC.as_bytes();
    let length = 2 + topic.len() + PAYLOAD.len();
    let mut packet = vec![0x30, u8::try_from(length).unwrap()];
    packet.extend_from_slice(&u16::try_from(topic.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(topic);
    packet.extend_from_slice(&PAYLOAD);
    packet
}

/// What a server owes to a client for the bytes that came; `rest` keeps the front of a packet that was cut.
pub(crate) fn answer(rest: &mut Vec<u8>, input: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    if rest.is_empty() {
        let used = answer_whole(input, &mut answers);
        rest.extend_from_slice(&input[used..]);
    } else {
        rest.extend_from_slice(input);
        let used = answer_whole(rest, &mut answers);
        rest.drain(..used);
    }
    answers
}

fn answer_whole(input: &[u8], answers: &mut Vec<u8>) -> usize {
    let mut used = 0;
    while let Some((header, length)) = fixed_header(&input[used..]) {
        let end = used + header + length;
        let Some(body) = input.get(used + header..end) else {
            break;
        };
        match input[used] {
            0x10 => answers.extend_from_slice(&[0x20, 2, 0, 0]),
            0x82 => {
                // One SUBSCRIBE carries a few filters here: a code for each.
                let mut filters = 0;
                let mut at = 2;
                while at + 2 <= body.len() {
                    at += 3 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
                    filters += 1;
                }
                answers.extend_from_slice(&[0x90, 2 + filters, body[0], body[1]]);
                answers.extend((0..filters).map(|_| 1));
            }
            first if first & 0xf6 == 0x32 => {
                let id = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                answers.extend_from_slice(&[0x40, 2, body[id], body[id + 1]]);
            }
            0xc0 => answers.extend_from_slice(&[0xd0, 0]),
            _ => {}
        }
        used = end;
    }
    used
}

fn fixed_header(input: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((2 + index, length));
        }
    }
    None
}
