//! Bytes of the log's files; `docs/store-format.md` says the same in words.
//!
//! A segment is a header and frames. A frame is one commit: lengths and checks, then records. Checks of a frame
//! cover the segment's number and the frame's offset, so that what looks like a frame somewhere inside a value, or
//! was written to the wrong place, is none.

use std::ops::Range;

use super::{Key, Operation, QUEUE_NAME_BYTES_MAX, QueueId, Space};

/// What every segment starts with.
const MAGIC: &[u8; 8] = b"paqueLOG";

/// The version that this program writes and reads.
pub(super) const VERSION: u32 = 1;

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 32;

/// Bytes in front of a frame's records: their length, their check, and the check of these two.
pub(super) const FRAME_BYTES: usize = 12;

const DEFINE: u8 = 0;
const PUT: u8 = 0x10;
const REMOVE: u8 = 0x20;
const SPACE: u8 = 0x0f;

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) number: u32,
    /// Where the frames of the segment before end. What is behind is not to be trusted: a write or sync failed, and
    /// what counts of it is repeated in this segment.
    pub(super) previous_end: u32,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.previous_end.to_le_bytes());
        let check = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// None if the bytes are no header or are damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let is_whole = bytes.starts_with(MAGIC) && word(bytes, 28)? == crc32c::crc32c(&bytes[..28]);
        is_whole.then_some(())?;
        Some(Self {
            version: word(bytes, 8)?,
            number: word(bytes, 12)?,
            previous_end: word(bytes, 16)?,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The check of a frame's first words.
fn head_check(segment: u32, offset: u32, length: u32, body_check: u32) -> u32 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&segment.to_le_bytes());
    bytes[4..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..].copy_from_slice(&body_check.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// Begins a frame at the end of `buffer`. Records follow, then [`end_frame`].
pub(super) fn begin_frame(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_BYTES]);
    start
}

/// Fills in the head of the frame that began at `start`; the file holds `buffer` from `base` on.
pub(super) fn end_frame(buffer: &mut [u8], start: usize, segment: u32, base: u32) {
    let (head, body) = buffer[start..].split_at_mut(FRAME_BYTES);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let check = crc32c::crc32c(body);
    let offset = base + u32::try_from(start).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&check.to_le_bytes());
    let head_check = head_check(segment, offset, length, check);
    head[8..].copy_from_slice(&head_check.to_le_bytes());
}

/// The records of the frame at `offset`, if one is there and whole.
pub(super) fn frame(segment: u32, bytes: &[u8], offset: usize) -> Option<Range<usize>> {
    let (length, check) = (word(bytes, offset)?, word(bytes, offset + 4)?);
    let start = offset + FRAME_BYTES;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    // The cheapest question first: this is asked of every byte of what is damaged.
    if length == 0 || end > bytes.len() {
        return None;
    }
    let expected = head_check(segment, u32::try_from(offset).ok()?, length, check);
    let is_frame =
        word(bytes, offset + 8)? == expected && crc32c::crc32c(&bytes[start..end]) == check;
    is_frame.then_some(start..end)
}

/// Says that a queue of this number has this name, as far as this segment goes.
pub(super) fn put_definition(buffer: &mut Vec<u8>, queue: QueueId, name: &str) {
    buffer.push(DEFINE);
    buffer.extend_from_slice(&queue.get().to_le_bytes());
    put_number(buffer, name.len() as u64);
    buffer.extend_from_slice(name.as_bytes());
}

/// Records a value. Returns where in the buffer the value is.
pub(super) fn put_entry(buffer: &mut Vec<u8>, queue: QueueId, key: Key, value: &[u8]) -> usize {
    put_key(buffer, PUT, queue, key);
    put_number(buffer, value.len() as u64);
    let at = buffer.len();
    buffer.extend_from_slice(value);
    at
}

/// Records that a key is gone.
pub(super) fn put_removal(buffer: &mut Vec<u8>, queue: QueueId, key: Key) {
    put_key(buffer, REMOVE, queue, key);
}

fn put_key(buffer: &mut Vec<u8>, kind: u8, queue: QueueId, key: Key) {
    buffer.push(kind | key.space as u8);
    buffer.extend_from_slice(&queue.get().to_le_bytes());
    put_number(buffer, key.id);
}

/// Bytes that an operation needs in the log if it is a commit by itself, at most a few more than it does.
pub(super) fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put { value, .. } => entry_bytes(value.len()),
        Operation::Remove { .. } => entry_bytes(0),
    }
}

/// The same for an entry whose value has so many bytes.
pub(super) const fn entry_bytes(value: usize) -> usize {
    FRAME_BYTES + 13 + value
}

/// Bytes of a queue's definition without its name, at most.
pub(super) const DEFINITION_BYTES: usize = 7;

/// Seven bits a byte, the lowest first.
fn put_number(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// A record of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Define {
        queue: QueueId,
        name: &'a str,
    },
    /// With the range of the value in the bytes that were read.
    Put {
        queue: QueueId,
        key: Key,
        value: Range<usize>,
    },
    Remove {
        queue: QueueId,
        key: Key,
    },
}

impl Record<'_> {
    pub(super) fn queue(&self) -> QueueId {
        match self {
            Self::Define { queue, .. } | Self::Put { queue, .. } | Self::Remove { queue, .. } => {
                *queue
            }
        }
    }
}

/// Takes the records of a frame one after the other.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// The records that are in `body` of `bytes`.
    pub(super) fn new(bytes: &'a [u8], body: Range<usize>) -> Self {
        Self {
            bytes: bytes.get(..body.end).unwrap_or_default(),
            at: body.start,
        }
    }

    /// Whether all that is left can be understood. A frame with something that cannot is used in no part.
    pub(super) fn are_sound(mut self) -> bool {
        while self.at < self.bytes.len() {
            if self.next().is_none() {
                return false;
            }
        }
        true
    }

    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(bytes)?;
        let taken = self.at..end;
        (end <= self.bytes.len()).then_some(())?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes[self.take(1)?][0];
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            (shift < 63 || bits <= 1).then_some(())?;
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn length(&mut self) -> Option<Range<usize>> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let kind = self.bytes[self.take(1)?][0];
        let queue = self.take(4)?;
        let queue = QueueId::new(word(self.bytes, queue.start)?);
        if kind == DEFINE {
            let range = self.length()?;
            let name = std::str::from_utf8(&self.bytes[range]).ok()?;
            let is_name = (1..=QUEUE_NAME_BYTES_MAX).contains(&name.len());
            return is_name.then_some(Record::Define { queue, name });
        }
        let space = Space::from_number(kind & SPACE)?;
        let key = Key {
            space,
            id: self.number()?,
        };
        match kind & !SPACE {
            PUT => {
                let value = self.length()?;
                Some(Record::Put { queue, key, value })
            }
            REMOVE => Some(Record::Remove { queue, key }),
            _ => None,
        }
    }
}
