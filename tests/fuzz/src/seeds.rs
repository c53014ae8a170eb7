//! Inputs to start from: one legal frame or two of each packet type, whose remaining length is one byte
//! each, and courses of a session.

use paquebot_protocols::mqtt::Version;

/// The packets of a version.
pub fn of(version: Version) -> &'static [&'static [u8]] {
    match version {
        Version::V311 => &V311,
        Version::V5 => &V5,
    }
}

static V311: [&[u8]; 15] = [
    b"\x10\x26\0\x04MQTT\x04\xee\0\x3c\0\x03dev\0\x06status\0\x03\x01\xff\0\0\x04user\0\x02hi",
    b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c",
    b"\x20\x02\x01\0",
    b"\x30\x06\0\x03a/bx",
    b"\x3b\x08\0\x03a/b\0\x0ax",
    b"\x40\x02\0\x01",
    b"\x50\x02\0\x01",
    b"\x62\x02\0\x01",
    b"\x70\x02\0\x01",
    b"\x82\x0a\0\x01\0\x01#\x01\0\x01a\x02",
    b"\x90\x04\0\x01\x02\x80",
    b"\xa2\x08\0\x01\0\x01a\0\x01+",
    b"\xb0\x02\0\x01",
    b"\xc0\0",
    b"\xe0\0",
];

static V5: [&[u8]; 19] = [
    b"\x10\x3f\0\x04MQTT\x05\x04\0\x3c\x1a\x11\0\0\x0e\x10\x15\0\x01m\x16\0\x02\x0a\xff\x19\0\x21\0\x0a\
      \x26\0\x01a\0\x01b\0\x03dev\x0e\x01\x01\x03\0\x04text\x18\0\0\0\x05\0\x01t\0\x01\x01",
    b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\x10\0\x22\0\x05\0\x01c",
    b"\x20\x0a\x01\0\x07\x22\x13\x88\x24\x01\x2a\0",
    b"\x20\x16\0\x9c\x13\x12\0\x01c\x13\0\x3c\x1a\0\x01r\x1c\0\x01s\x1f\0\x01w",
    b"\x30\x0c\0\0\x07\x23\0\x01\x0b\x02\x0b\x05xy",
    b"\x32\x1f\0\x01a\0\x07\x14\x01\x01\x02\0\0\0\x3c\x03\0\x01t\x08\0\x01r\x09\0\x02\0\x01payl\x0a",
    b"\x40\x02\0\x01",
    b"\x40\x03\0\x01\x10",
    b"\x50\x0f\0\x01\x87\x0b\x1f\0\x02no\x26\0\0\0\x01x",
    b"\x62\x04\0\x01\x92\0",
    b"\x70\x02\0\x01",
    b"\x82\x0a\0\x01\x03\x0b\x80\x01\0\x01a\x2d",
    b"\x82\x10\0\x01\0\0\x0a$share/g/a\x01",
    b"\x90\x05\0\x01\0\x02\x97",
    b"\xa2\x06\0\x01\0\0\x01a",
    b"\xb0\x05\0\x01\0\0\x11",
    b"\xd0\0",
    b"\xe0\x07\0\x05\x11\0\0\0\0",
    b"\xf0\x0a\x18\x08\x15\0\x01m\x16\0\x01\0",
];

/// Courses of a session without end, the same each time: bytes of a small generator (xorshift).
pub fn courses() -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        let length = 200 + (state % 2_000) as usize;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(length)
        .collect()
    })
}
