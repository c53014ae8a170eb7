//! The server's half of one MQTT session: answers what has to be answered and counts.

use super::frames::{self, Frames, Malformed};

/// What one connection has seen, and the bytes it has to answer.
#[derive(Debug, Default)]
pub(crate) struct Session {
    frames: Frames,
    /// Answers not yet written.
    pub(crate) output: Vec<u8>,
    /// PUBLISH packets received.
    pub(crate) published: u64,
    /// PUBACK packets received.
    pub(crate) acknowledged: u64,
    /// Whether CONNECT was answered.
    pub(crate) connected: bool,
    /// Whether a SUBSCRIBE was answered.
    pub(crate) subscribed: bool,
    /// Whether the client speaks MQTT 5.
    pub(crate) is_v5: bool,
}

impl Session {
    /// Takes what was read.
    pub(crate) fn handle(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(bytes, |frame| self.handle_packet(frame));
        self.frames = frames;
        fed
    }

    fn handle_packet(&mut self, frame: &[u8]) {
        let body = frames::body(frame);
        match frame[0] >> 4 {
            1 => {
                // The level follows the six bytes of the protocol's name.
                self.is_v5 = body.get(6) == Some(&5);
                self.connected = true;
                let connack: &[u8] = if self.is_v5 {
                    &[0x20, 3, 0, 0, 0]
                } else {
                    &[0x20, 2, 0, 0]
                };
                self.output.extend_from_slice(connack);
            }
            3 => {
                self.published += 1;
                let message = frames::publish(frame);
                if let Some([high, low]) = message.and_then(|message| message.id) {
                    self.output.extend_from_slice(&[0x40, 2, high, low]);
                }
            }
            4 => self.acknowledged += 1,
            8 => self.grant(body),
            10 => {
                if let [high, low, ..] = *body {
                    let unsuback: &[u8] = if self.is_v5 {
                        &[0xB0, 4, high, low, 0, 0]
                    } else {
                        &[0xB0, 2, high, low]
                    };
                    self.output.extend_from_slice(unsuback);
                }
            }
            12 => self.output.extend_from_slice(&[0xD0, 0]),
            _ => {}
        }
    }

    /// Answers a SUBSCRIBE: every filter gets the QoS it asked for.
    fn grant(&mut self, body: &[u8]) {
        let [high, low, rest @ ..] = body else {
            return;
        };
        let mut rest = rest;
        if self.is_v5 {
            // No contestant sends properties long enough for a second length byte.
            let properties = rest.first().map_or(0, |len| usize::from(*len) + 1);
            rest = rest.get(properties..).unwrap_or_default();
        }
        let mut codes = Vec::new();
        while let Some((len, more)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let Some(options) = more.get(len) else { break };
            codes.push(options & 0b11);
            rest = &more[len + 1..];
        }
        let head = if self.is_v5 { 3 } else { 2 };
        self.output.push(0x90);
        // A contestant subscribes to one filter: the length needs one byte.
        self.output.push((head + codes.len()) as u8);
        self.output.extend_from_slice(&[*high, *low]);
        if self.is_v5 {
            self.output.push(0);
        }
        self.output.extend_from_slice(&codes);
        self.subscribed = true;
    }
}
