//! What waits to be written.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::buffers;

/// Pieces in the order in which they go. Mostly there is one, which needs no list: a link that sends now and then
/// allocates nothing here.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Empty only when nothing waits.
    front: Piece,
    rest: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// A buffer of the thread, which it goes back to.
    Buffer(BytesMut),
    /// A payload where it lies.
    Payload(Bytes),
}

impl Default for Piece {
    fn default() -> Self {
        Self::Buffer(BytesMut::new())
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Payload(payload) => payload,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Buffer(buffer) => buffer.advance(count),
            Self::Payload(payload) => payload.advance(count),
        }
    }

    fn give_back(self) {
        if let Self::Buffer(buffer) = self {
            buffers::give_back(buffer);
        }
    }
}

impl Pieces {
    /// At most `bytes_max` of the first piece; `None` when nothing waits.
    pub(super) fn front(&self, bytes_max: usize) -> Option<&[u8]> {
        let front = self.front.bytes();
        (!front.is_empty()).then(|| &front[..front.len().min(bytes_max)])
    }

    /// Whether there is more than the first.
    pub(super) fn is_several(&self) -> bool {
        !self.rest.is_empty()
    }

    /// As many of the first pieces as there are slices for, and at most `bytes_max` of them; says how many slices.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>], mut bytes_max: usize) -> usize {
        let pieces = std::iter::once(&self.front).chain(&self.rest);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            let bytes = piece.bytes();
            let taken = bytes.len().min(bytes_max);
            if taken == 0 {
                break;
            }
            *slice = IoSlice::new(&bytes[..taken]);
            bytes_max -= taken;
            count += 1;
        }
        count
    }

    /// So many bytes have gone.
    pub(super) fn advance(&mut self, mut count: usize) {
        loop {
            let front = self.front.bytes().len();
            if count < front {
                return self.front.advance(count);
            }
            count -= front;
            let next = self.rest.pop_front().unwrap_or_default();
            if self.rest.is_empty() {
                self.rest = VecDeque::new();
            }
            let is_over = next.bytes().is_empty();
            std::mem::replace(&mut self.front, next).give_back();
            if is_over {
                return;
            }
        }
    }

    /// Adds bytes; a few go into the last buffer as long as that stays within `chunk`.
    pub(super) fn push(&mut self, bytes: BytesMut, chunk: usize) {
        if let Piece::Buffer(last) = self.rest.back_mut().unwrap_or(&mut self.front)
            && !last.is_empty()
            && last.len() + bytes.len() <= chunk
        {
            last.extend_from_slice(&bytes);
            return buffers::give_back(bytes);
        }
        self.push_piece(Piece::Buffer(bytes));
    }

    /// Adds a payload.
    pub(super) fn push_payload(&mut self, payload: Bytes) {
        self.push_piece(Piece::Payload(payload));
    }

    fn push_piece(&mut self, piece: Piece) {
        if piece.bytes().is_empty() {
            piece.give_back();
        } else if self.front.bytes().is_empty() {
            std::mem::replace(&mut self.front, piece).give_back();
        } else {
            self.rest.push_back(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what waits in steps of `step` bytes.
    fn take_all(pieces: &mut Pieces, step: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while let Some(front) = pieces.front(step) {
            taken.extend_from_slice(front);
            let count = front.len();
            pieces.advance(count);
        }
        taken
    }

    #[test]
    fn pieces_come_out_in_order_and_small_ones_together() {
        let mut pieces = Pieces::default();
        assert!(pieces.front(10).is_none());
        for text in ["ab", "c", "", "defg", "h", "i"] {
            pieces.push(BytesMut::from(text), 4);
        }
        for expected in ["abc", "defg", "hi"] {
            let front = pieces.front(10).unwrap_or_default();
            assert_eq!(front, expected.as_bytes());
            pieces.advance(expected.len());
        }
        assert!(pieces.front(10).is_none());
        pieces.push(BytesMut::from("j"), 4);
        assert_eq!(take_all(&mut pieces, 10), b"j");
    }

    #[test]
    fn nothing_is_put_into_a_payload_and_what_was_gathered_may_go_in_any_part() {
        for step in 1..=9 {
            for slices in 1..=4 {
                for bytes_max in 1..=9 {
                    let mut pieces = Pieces::default();
                    pieces.push(BytesMut::from("ab"), 100);
                    pieces.push_payload(Bytes::from_static(b"cde"));
                    pieces.push(BytesMut::from("f"), 100);
                    pieces.push_payload(Bytes::new());
                    pieces.push(BytesMut::from("g"), 100);
                    pieces.push_payload(Bytes::from_static(b"hi"));
                    let mut taken = Vec::new();
                    while pieces.front(1).is_some() {
                        let mut places = [IoSlice::new(&[]); 4];
                        let count = pieces.gather(&mut places[..slices], bytes_max);
                        let gathered = places[..count].iter().flat_map(|slice| slice.to_vec());
                        let gathered: Vec<u8> = gathered.collect();
                        assert!((1..=bytes_max).contains(&gathered.len()));
                        let count = gathered.len().min(step);
                        taken.extend_from_slice(&gathered[..count]);
                        pieces.advance(count);
                    }
                    assert_eq!(taken, b"abcdefghi");
                    assert!(!pieces.is_several());
                }
            }
        }
    }
}
