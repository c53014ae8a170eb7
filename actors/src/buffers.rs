//! Write buffers that the links of a thread take in turns: a busy link writes large pieces, an idle one owns
//! nothing.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytes::BytesMut;

/// Size of a shared buffer: what one write takes. Larger ones gain nothing, smaller ones cost more system
/// calls.
const SHARED: usize = 64 * 1024;

/// Below it a buffer is made as large as it has to be, or a small one is used again.
const SHARED_FROM: usize = 4 * 1024;

/// Size of a buffer for a packet or two: what a link writes that sends now and then.
const SMALL: usize = 512;

/// Buffers of each size that a thread keeps when nobody uses them.
const KEPT_MAX: usize = 16;

thread_local! {
    static KEPT_SMALL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for about `expected` bytes.
pub(crate) fn take(expected: usize) -> BytesMut {
    if expected <= SMALL {
        let kept = KEPT_SMALL.with_borrow_mut(Vec::pop);
        return kept.unwrap_or_else(|| BytesMut::with_capacity(SMALL));
    }
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
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    // A buffer that grew for one large message is not kept.
    if buffer.try_reclaim(SHARED) {
        if buffer.capacity() <= 2 * SHARED {
            keep(&KEPT, buffer);
        }
    } else if buffer.try_reclaim(SMALL) && buffer.capacity() <= SHARED_FROM {
        keep(&KEPT_SMALL, buffer);
    }
}

fn keep(list: &'static LocalKey<RefCell<Vec<BytesMut>>>, buffer: BytesMut) {
    list.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn a_written_buffer_is_used_again_and_huge_ones_are_not_kept() {
        let mut buffer = take(10_000);
        buffer.extend_from_slice(&[1; 50_000]);
        let place = buffer.as_ptr();
        buffer.advance(50_000);
        give_back(buffer);
        let again = take(10_000);
        assert_eq!(again.as_ptr(), place);
        assert!(again.is_empty());
        give_back(BytesMut::with_capacity(10 * SHARED));
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
        let mut small = take(100);
        small.extend_from_slice(&[1; 100]);
        let place = small.as_ptr();
        small.advance(100);
        give_back(small);
        let again = take(200);
        assert_eq!((again.as_ptr(), again.capacity()), (place, SMALL));
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
    }
}
