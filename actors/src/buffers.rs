//! Write buffers that the links of a thread take in turns: a busy link writes large pieces, an idle one owns
//! nothing.

use std::cell::RefCell;

use bytes::BytesMut;

/// Size of a shared buffer: what one write takes. Larger ones gain nothing, smaller ones cost more system
/// calls.
const SHARED: usize = 64 * 1024;

/// Below it a buffer of its own is cheaper to make than a shared one to keep apart.
const SHARED_FROM: usize = 4 * 1024;

/// Shared buffers that a thread keeps when nobody uses them.
const KEPT_MAX: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for about `expected` bytes.
pub(crate) fn take(expected: usize) -> BytesMut {
    if expected < SHARED_FROM {
        return BytesMut::with_capacity(expected);
    }
    let kept = KEPT.with_borrow_mut(Vec::pop);
    let mut buffer = kept.unwrap_or_else(|| BytesMut::with_capacity(SHARED));
    buffer.reserve(expected);
    buffer
}

/// Gives a buffer back that nothing refers to any more.
pub(crate) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    // A buffer that grew for one large message is not kept.
    if buffer.try_reclaim(SHARED) && buffer.capacity() <= 2 * SHARED {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn a_written_buffer_is_used_again_and_small_or_huge_ones_are_not_kept() {
        let mut buffer = take(10_000);
        buffer.extend_from_slice(&[1; 50_000]);
        let place = buffer.as_ptr();
        buffer.advance(50_000);
        give_back(buffer);
        let again = take(10_000);
        assert_eq!(again.as_ptr(), place);
        assert!(again.is_empty());
        give_back(take(100));
        give_back(BytesMut::with_capacity(10 * SHARED));
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
    }
}
