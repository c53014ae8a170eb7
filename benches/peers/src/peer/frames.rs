//! Finds packets in a stream of bytes by their fixed headers.

/// A stream cut anywhere, put together again packet by packet. Copies only what was cut.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    carry: Vec<u8>,
}

/// A remaining length of more than four bytes `[MQTT-1.5.5-1]`.
#[derive(Debug, thiserror::Error)]
#[error("no MQTT stream: a packet's length has more than four bytes")]
pub(crate) struct Malformed;

impl Frames {
    /// Gives every packet that `bytes` completes to `take`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Malformed> {
        while !self.carry.is_empty() && !bytes.is_empty() {
            // Until its length is known a cut header grows byte by byte.
            let wanted = match frame_len(&self.carry)? {
                Some(len) => len - self.carry.len(),
                None => 1,
            };
            let (more, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.carry.extend_from_slice(more);
            bytes = rest;
            if frame_len(&self.carry)? == Some(self.carry.len()) {
                take(&self.carry);
                self.carry.clear();
            }
        }
        while let Some(len) = frame_len(bytes)? {
            let Some((frame, rest)) = bytes.split_at_checked(len) else {
                break;
            };
            take(frame);
            bytes = rest;
        }
        self.carry.extend_from_slice(bytes);
        Ok(())
    }
}

/// The length of the packet that `bytes` begins with, header included; `None` while its header is cut.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut len = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(len + index + 2));
        }
    }
    if bytes.len() > 4 {
        Err(Malformed)
    } else {
        Ok(None)
    }
}

/// What follows the fixed header.
pub(crate) fn body(frame: &[u8]) -> &[u8] {
    let header = 1
        + frame[1..]
            .iter()
            .take_while(|byte| *byte & 0x80 != 0)
            .count()
        + 1;
    frame.get(header..).unwrap_or_default()
}

/// The parts of a PUBLISH, where they lie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) topic: &'a [u8],
    /// The packet identifier, above QoS 0.
    pub(crate) id: Option<[u8; 2]>,
    /// In MQTT 5 with the properties before it.
    pub(crate) payload: &'a [u8],
}

/// Reads a PUBLISH; `None` if it is cut short.
pub(crate) fn publish(frame: &[u8]) -> Option<Message<'_>> {
    let (len, rest) = body(frame).split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let (id, payload) = if frame[0] & 0b0110 == 0 {
        (None, rest)
    } else {
        let (id, rest) = rest.split_first_chunk::<2>()?;
        (Some(*id), rest)
    };
    Some(Message { topic, id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_cut_at_every_byte_gives_the_same_packets() {
        let mut stream = vec![0x30, 0x05, 0, 1, b't', b'h', b'i', 0xC0, 0x00];
        let payload = vec![b'x'; 300];
        let long = 2 + 1 + 2 + payload.len();
        stream.extend([0x32, (long & 0x7F) as u8 | 0x80, (long >> 7) as u8]);
        stream.extend([0, 1, b't', 0, 7]);
        stream.extend(&payload);
        for cut in 0..=stream.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                let fed = frames.feed(part, |frame| seen.push(frame.to_vec()));
                assert!(fed.is_ok());
            }
            assert_eq!(seen.len(), 3, "cut at {cut}");
            assert_eq!(seen.concat(), stream);
            let short = Message {
                topic: b"t",
                id: None,
                payload: b"hi",
            };
            assert_eq!(publish(&seen[0]), Some(short));
            let long = Message {
                topic: b"t",
                id: Some([0, 7]),
                payload: &payload,
            };
            assert_eq!(publish(&seen[2]), Some(long));
        }
    }

    #[test]
    fn a_length_without_end_is_an_error() {
        let fed = Frames::default().feed(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], |_| {});
        assert!(fed.is_err());
    }
}
