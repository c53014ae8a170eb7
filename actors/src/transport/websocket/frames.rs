//! WebSocket frames (RFC 6455, section 5), without a socket: what comes is unwrapped where it is, what goes is
//! wrapped into a buffer. No frame is ever gathered, so none is too long: MQTT's packets are a stream of bytes to
//! which frames mean nothing [MQTT-6.0.0-2], and the limit on packets is the decoder's.

use bytes::{BufMut as _, BytesMut};

use super::WebSocketError;

/// Most payload bytes of a control frame (section 5.5).
const CONTROL_MAX: usize = 125;

/// Most bytes of a frame of ours beside its payload.
pub(super) const HEADER_MAX: usize = 14;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte & 0x0F {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// Wraps `payload` into one masked frame (section 5.3) at the end of `out`.
pub(super) fn write_frame(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut BytesMut) {
    out.reserve(payload.len() + HEADER_MAX);
    out.put_u8(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => out.put_u8(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.put_u8(0x80 | 126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(0x80 | 127);
            out.put_u64(length as u64);
        }
    }
    out.put_slice(&mask);
    let start = out.len();
    out.put_slice(payload);
    apply_mask(&mut out[start..], mask);
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = [mask, mask];
    let wide = u64::from_ne_bytes(wide.concat().try_into().unwrap_or_default());
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Payload of a control frame.
#[derive(Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; CONTROL_MAX],
    length: u8,
}

impl Control {
    const EMPTY: Self = Self {
        bytes: [0; CONTROL_MAX],
        length: 0,
    };

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.length);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u8;
    }
}

/// Unwraps what a server sends, wherever reads cut it.
pub(super) struct Deframer {
    /// Of the next frame, as far as it has come: at most 10 bytes, since a server masks nothing.
    header: [u8; 10],
    header_length: u8,
    /// Payload bytes of this frame that have not come yet.
    left: u64,
    opcode: Opcode,
    /// A message of several frames has begun and not ended.
    is_in_message: bool,
    control: Control,
    /// The latest ping that is not answered yet; older ones need no answer (section 5.5.3).
    ping: Option<Control>,
    end: Option<WebSocketError>,
}

impl Deframer {
    pub(super) const fn new() -> Self {
        Self {
            header: [0; 10],
            header_length: 0,
            left: 0,
            opcode: Opcode::Binary,
            is_in_message: false,
            control: Control::EMPTY,
            ping: None,
            end: None,
        }
    }

    /// The payload of a ping that is to be answered.
    pub(super) fn take_ping(&mut self) -> Option<Control> {
        self.ping.take()
    }

    /// Why nothing more will come.
    pub(super) const fn end(&self) -> Option<&WebSocketError> {
        self.end.as_ref()
    }

    /// Moves the payload that is in `bytes` to its front and says how much that is. What follows an end is dropped.
    pub(super) fn deframe(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut kept) = (0, 0);
        while self.end.is_none() {
            if self.left == 0 && self.header_length == 0 && read == bytes.len() {
                break;
            }
            if self.left == 0 && !self.take_header(bytes, &mut read) {
                break;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX);
            let here = here.min(bytes.len() - read);
            let payload = read..read + here;
            if self.opcode.is_control() {
                self.control.push(&bytes[payload]);
            } else {
                bytes.copy_within(payload, kept);
                kept += here;
            }
            read += here;
            self.left -= here as u64;
            if self.left > 0 {
                break;
            }
            self.end_frame();
        }
        kept
    }

    /// Takes bytes of a header, and `true` once it is whole.
    fn take_header(&mut self, bytes: &[u8], read: &mut usize) -> bool {
        loop {
            let have = usize::from(self.header_length);
            let wanted = match self.header[1] & 0x7F {
                _ if have < 2 => 2,
                126 => 4,
                127 => 10,
                _ => 2,
            };
            if have == wanted {
                break;
            }
            let Some(byte) = bytes.get(*read) else {
                return false;
            };
            *read += 1;
            self.header[have] = *byte;
            self.header_length += 1;
        }
        self.header_length = 0;
        let started = self.begin_frame();
        if let Err(problem) = started {
            self.end = Some(problem);
        }
        self.end.is_none()
    }

    fn begin_frame(&mut self) -> Result<(), WebSocketError> {
        let [first, second, ..] = self.header;
        let is_last = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(WebSocketError::Frame(
                "reserved bits that no extension asked for",
            ));
        }
        if second & 0x80 != 0 {
            return Err(WebSocketError::Frame("a masked frame"));
        }
        let opcode =
            Opcode::of(first).ok_or(WebSocketError::Frame("an opcode that there is not"))?;
        self.left = match second {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => {
                let [_, _, length @ ..] = self.header;
                u64::from_be_bytes(length)
            }
            short => short.into(),
        };
        match opcode {
            // [MQTT-6.0.0-1]
            Opcode::Text => return Err(WebSocketError::Text),
            Opcode::Continuation if !self.is_in_message => {
                return Err(WebSocketError::Frame("the rest of no message"));
            }
            Opcode::Binary if self.is_in_message => {
                return Err(WebSocketError::Frame("a message inside of another one"));
            }
            Opcode::Binary | Opcode::Continuation => self.is_in_message = !is_last,
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                if !is_last || self.left > CONTROL_MAX as u64 {
                    return Err(WebSocketError::Frame(
                        "a control frame in parts or too long",
                    ));
                }
                self.control = Control::EMPTY;
            }
        }
        if self.left > i64::MAX as u64 {
            return Err(WebSocketError::Frame("a length that there is not"));
        }
        self.opcode = opcode;
        Ok(())
    }

    fn end_frame(&mut self) {
        match self.opcode {
            Opcode::Ping => self.ping = Some(self.control),
            Opcode::Close => {
                let (code, reason) = match self.control.bytes() {
                    [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
                    _ => (None, &[][..]),
                };
                self.end = Some(WebSocketError::Closed {
                    code,
                    reason: super::printable(reason),
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a server sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(length as u8),
            length @ 126..=0xFFFF => {
                bytes.push(126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    fn all(deframer: &mut Deframer, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let kept = deframer.deframe(&mut bytes);
        bytes.truncate(kept);
        bytes
    }

    #[test]
    fn payloads_of_every_length_of_length_come_out() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload = vec![7; length];
            let mut deframer = Deframer::new();
            assert_eq!(
                all(&mut deframer, &frame(0x82, &payload)),
                payload,
                "{length}"
            );
            assert!(deframer.end().is_none());
        }
    }

    #[test]
    fn what_no_server_may_send_ends_the_stream_and_what_came_before_is_kept() {
        for (bad, problem) in [
            (frame(0x81, b"x"), WebSocketError::Text),
            (frame(0x01, b"x"), WebSocketError::Text),
            (
                frame(0xC2, b"x"),
                WebSocketError::Frame("reserved bits that no extension asked for"),
            ),
            (
                vec![0x82, 0x81, 0, 0, 0, 0, 1],
                WebSocketError::Frame("a masked frame"),
            ),
            (
                frame(0x83, b"x"),
                WebSocketError::Frame("an opcode that there is not"),
            ),
            (
                frame(0x80, b"x"),
                WebSocketError::Frame("the rest of no message"),
            ),
            (
                frame(0x09, b"x"),
                WebSocketError::Frame("a control frame in parts or too long"),
            ),
            (
                frame(0x89, &[0; 126]),
                WebSocketError::Frame("a control frame in parts or too long"),
            ),
            (
                [vec![0x82, 127], vec![0xFF; 8]].concat(),
                WebSocketError::Frame("a length that there is not"),
            ),
            (
                [frame(0x02, b""), frame(0x82, b"")].concat(),
                WebSocketError::Frame("a message inside of another one"),
            ),
            (
                frame(0x88, b"\x03\xE8bye"),
                WebSocketError::Closed {
                    code: Some(1000),
                    reason: "bye".into(),
                },
            ),
            (
                frame(0x88, b""),
                WebSocketError::Closed {
                    code: None,
                    reason: String::new(),
                },
            ),
        ] {
            let bytes = [frame(0x82, b"kept"), bad.clone(), frame(0x82, b"lost")].concat();
            let mut deframer = Deframer::new();
            assert_eq!(all(&mut deframer, &bytes), b"kept", "{bad:x?}");
            assert_eq!(deframer.end(), Some(&problem), "{bad:x?}");
            assert_eq!(all(&mut deframer, &frame(0x82, b"late")), b"");
        }
    }

    #[test]
    fn our_frames_unmask_to_what_went_in() {
        for length in [0, 1, 7, 8, 9, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
            let mut out = BytesMut::new();
            write_frame(Opcode::Binary, &payload, [1, 2, 3, 4], &mut out);
            assert_eq!(out[0], 0x82);
            let header = out.len() - payload.len();
            assert!(header <= HEADER_MAX);
            assert_eq!(out[header - 4..header], [1, 2, 3, 4]);
            let unmasked: Vec<u8> = out[header..]
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(unmasked, payload);
        }
    }

    /// Frames of a server that breaks no rule, the payload in them and the last ping.
    fn course() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Option<Vec<u8>>)> {
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
        let message =
            proptest::collection::vec((bytes(300), proptest::option::of(bytes(126))), 1..4);
        proptest::collection::vec(message, 0..6).prop_map(|messages| {
            let (mut wire, mut payload, mut last_ping) = (Vec::new(), Vec::new(), None);
            for parts in messages {
                let last = parts.len() - 1;
                for (at, (part, ping)) in parts.into_iter().enumerate() {
                    let opcode = if at == 0 { 0x02 } else { 0x00 };
                    let end = if at == last { 0x80 } else { 0x00 };
                    wire.extend(frame(opcode | end, &part));
                    payload.extend(part);
                    if let Some(ping) = ping {
                        wire.extend(frame(0x89, &ping));
                        last_ping = Some(ping);
                    }
                }
            }
            (wire, payload, last_ping)
        })
    }

    proptest! {
        #[test]
        fn cuts_change_nothing((wire, payload, ping) in course(), cuts in proptest::collection::vec(1_usize..40, 1..50)) {
            let mut deframer = Deframer::new();
            let (mut rest, mut out) = (wire.as_slice(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, next) = rest.split_at((*cut).min(rest.len()));
                out.extend(all(&mut deframer, piece));
                rest = next;
            }
            prop_assert_eq!(out, payload);
            prop_assert_eq!(deframer.end(), None);
            prop_assert_eq!(deframer.take_ping().map(|ping| ping.bytes().to_vec()), ping);
        }

        #[test]
        fn no_bytes_are_too_strange(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut deframer = Deframer::new();
            for piece in pieces {
                let length = piece.len();
                prop_assert!(all(&mut deframer, &piece).len() <= length);
            }
        }
    }
}
