//! What a measuring message carries: who sent it, its number, when it was due and when it was sent.
//!
//! | bytes | what, big-endian |
//! |---|---|
//! | 0–2 | `pqb` |
//! | 3 | 1 when the message counts, 0 during the warm-up |
//! | 4–7 | the run, a random number |
//! | 8–11 | the number of the publisher |
//! | 12–15 | how late it was sent, in microseconds |
//! | 16–23 | its number among the publisher's messages that count |
//! | 24–31 | when it was due, in nanoseconds since 1970 |
//! | 32– | filler |

use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};

/// The shortest payload.
pub(super) const HEADER_BYTES: usize = 32;

const MAGIC: [u8; 3] = *b"pqb";

/// Payloads are cut from blocks of this size, so that a message costs no allocation of its own.
const BLOCK_BYTES: usize = 64 * 1024;

/// What the first bytes of a payload say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) counts: bool,
    pub(super) run: u32,
    pub(super) publisher: u32,
    pub(super) late: Duration,
    pub(super) sequence: u64,
    /// Nanoseconds since 1970.
    pub(super) due_ns: u64,
}

impl Header {
    /// Reads the header of a payload; `None` for a message that no bench sent.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = payload.first_chunk()?;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_be_bytes(bytes)
        };
        let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
        (header[..3] == MAGIC).then(|| Self {
            counts: header[3] != 0,
            run: word(4),
            publisher: word(8),
            late: Duration::from_micros(word(12).into()),
            sequence: long(16),
            due_ns: long(24),
        })
    }
}

/// Makes the payloads of one publisher.
#[derive(Debug)]
pub(super) struct Payloads {
    size: usize,
    block: BytesMut,
}

impl Payloads {
    /// Payloads of `size` bytes, at least [`HEADER_BYTES`].
    pub(super) fn new(size: usize) -> Self {
        Self {
            size: size.max(HEADER_BYTES),
            block: BytesMut::new(),
        }
    }

    pub(super) fn make(&mut self, header: &Header) -> Bytes {
        if self.block.capacity() < self.size {
            self.block = BytesMut::with_capacity(self.size.max(BLOCK_BYTES));
        }
        let late_us = u32::try_from(header.late.as_micros()).unwrap_or(u32::MAX);
        self.block.put_slice(&MAGIC);
        self.block.put_u8(u8::from(header.counts));
        self.block.put_u32(header.run);
        self.block.put_u32(header.publisher);
        self.block.put_u32(late_us);
        self.block.put_u64(header.sequence);
        self.block.put_u64(header.due_ns);
        self.block.put_bytes(b'.', self.size - HEADER_BYTES);
        self.block.split().freeze()
    }
}

/// Turns the monotonic clock into nanoseconds since 1970. The wall clock is read once, so that a step of it
/// during the run changes nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    origin_ns: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            origin: Instant::now(),
            origin_ns: nanoseconds(since_1970),
        }
    }

    pub(super) fn since_1970_ns(&self, at: Instant) -> u64 {
        match at.checked_duration_since(self.origin) {
            Some(after) => self.origin_ns.saturating_add(nanoseconds(after)),
            None => {
                let before = self.origin.saturating_duration_since(at);
                self.origin_ns.saturating_sub(nanoseconds(before))
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_at_any_size() {
        let header = Header {
            counts: true,
            run: 0xdead_beef,
            publisher: 7,
            late: Duration::from_micros(1_234),
            sequence: 1 << 40,
            due_ns: u64::MAX - 1,
        };
        for size in [
            0,
            HEADER_BYTES,
            HEADER_BYTES + 1,
            BLOCK_BYTES - 1,
            BLOCK_BYTES + 1,
        ] {
            let mut payloads = Payloads::new(size);
            for _ in 0..3 {
                let payload = payloads.make(&header);
                assert_eq!(payload.len(), size.max(HEADER_BYTES));
                assert_eq!(Header::read(&payload), Some(header));
            }
        }
    }

    #[test]
    fn other_payloads_have_no_header() {
        let payload = Payloads::new(HEADER_BYTES).make(&Header {
            counts: false,
            run: 0,
            publisher: 0,
            late: Duration::MAX,
            sequence: 0,
            due_ns: 0,
        });
        assert!(Header::read(&payload).is_some());
        assert_eq!(Header::read(&payload[..HEADER_BYTES - 1]), None);
        assert_eq!(Header::read(&[b'x'; 64]), None);
    }
}
