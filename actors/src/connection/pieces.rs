//! What waits to be written.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Pieces in the order in which they go. Mostly there is one, which needs no list: a link that sends now and then
/// allocates nothing here.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Empty only when nothing waits.
    front: BytesMut,
    rest: VecDeque<BytesMut>,
}

impl Pieces {
    pub(super) fn front_mut(&mut self) -> Option<&mut BytesMut> {
        (!self.front.is_empty()).then_some(&mut self.front)
    }

    /// Goes on to the next piece. Gives the storage of this one, whatever is left in it.
    pub(super) fn pop_front(&mut self) -> BytesMut {
        let next = self.rest.pop_front().unwrap_or_default();
        if self.rest.is_empty() {
            self.rest = VecDeque::new();
        }
        std::mem::replace(&mut self.front, next)
    }

    /// Adds a piece; a small one goes into the last one as long as that stays within `chunk`. Gives the storage
    /// back that it did not keep.
    pub(super) fn push_back(&mut self, bytes: BytesMut, chunk: usize) -> Option<BytesMut> {
        if self.front.is_empty() {
            return Some(std::mem::replace(&mut self.front, bytes));
        }
        let last = self.rest.back_mut().unwrap_or(&mut self.front);
        if last.len() + bytes.len() <= chunk {
            last.extend_from_slice(&bytes);
            return Some(bytes);
        }
        if !bytes.is_empty() {
            self.rest.push_back(bytes);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> BytesMut {
        BytesMut::from(text)
    }

    #[test]
    fn pieces_come_out_in_order_and_small_ones_together() {
        let mut pieces = Pieces::default();
        assert!(pieces.front_mut().is_none());
        for text in ["ab", "c", "", "defg", "h", "i"] {
            pieces.push_back(bytes(text), 4);
        }
        let mut seen = Vec::new();
        while pieces.front_mut().is_some() {
            seen.push(pieces.pop_front());
        }
        assert_eq!(seen, [&b"abc"[..], b"defg", b"hi"]);
        pieces.push_back(bytes("j"), 4);
        assert_eq!(pieces.pop_front(), &b"j"[..]);
        assert!(pieces.front_mut().is_none());
    }
}
