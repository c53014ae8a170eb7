//! The buffers that the links of a thread read into.
//!
//! A read that fills a good part of its buffer is handed on with it, and the buffer comes back when the last
//! message in it is dropped: such a read is not copied, and memory is not asked for again and again. A small read
//! is copied, so that a message that is kept for long pins little more than itself.

use std::cell::RefCell;

use bytes::Bytes;

/// Size of a buffer, and most bytes that one link reads in a turn of the event loop. What they hold is dealt with in
/// the same turn, at worst thousands of packets, and no other link of the thread gets on meanwhile; a larger one is
/// hardly faster.
pub(super) const READ_BUFFER: usize = 16 * 1024;

/// A read of so many bytes takes its buffer along: what a message may pin is at most twice what was read.
const TAKEN_ALONG_MIN: usize = READ_BUFFER / 2;

/// Buffers that a thread keeps for its next reads, 256 KiB.
const SPARE_MAX: usize = 16;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { buffers: Vec::new(), reads: false }) };
}

struct Spare {
    buffers: Vec<Box<[u8]>>,
    /// Links live on this thread. Others only drop messages and have no use for buffers.
    reads: bool,
}

/// A buffer; back to its thread's spare ones when it is dropped.
pub(super) struct ReadBuffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl ReadBuffer {
    pub(super) fn take() -> Self {
        let spare = SPARE.with_borrow_mut(|spare| {
            spare.reads = true;
            spare.buffers.pop()
        });
        Self {
            bytes: spare.unwrap_or_else(|| vec![0; READ_BUFFER].into_boxed_slice()),
            filled: 0,
        }
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `filled` bytes, as what was read; the buffer is ready for the next read.
    pub(super) fn split(&mut self, filled: usize) -> Bytes {
        if filled < TAKEN_ALONG_MIN {
            return Bytes::copy_from_slice(&self.bytes[..filled]);
        }
        let mut taken = std::mem::replace(self, Self::take());
        taken.filled = filled;
        Bytes::from_owner(taken)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // While a thread ends it has no spares any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.reads && spare.buffers.len() < SPARE_MAX {
                spare.buffers.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        SPARE.with_borrow(|spare| spare.buffers.len())
    }

    #[test]
    fn a_large_read_takes_its_buffer_along_and_gives_it_back() {
        let mut buffer = ReadBuffer::take();
        for length in [TAKEN_ALONG_MIN, READ_BUFFER] {
            let address = buffer.space().as_ptr();
            buffer.space()[..3].copy_from_slice(b"abc");
            let bytes = buffer.split(length);
            assert_eq!((bytes.as_ptr(), bytes.len()), (address, length));
            assert_ne!(buffer.space().as_ptr(), address);
            let kept = bytes.slice(..3);
            drop(bytes);
            assert_eq!(spare(), 0);
            assert_eq!(&kept[..], b"abc");
            drop(kept);
            assert_eq!(spare(), 1);
            buffer = ReadBuffer::take();
        }
    }

    #[test]
    fn a_small_read_is_copied() {
        let mut buffer = ReadBuffer::take();
        let address = buffer.space().as_ptr();
        let bytes = buffer.split(TAKEN_ALONG_MIN - 1);
        assert_ne!(bytes.as_ptr(), address);
        assert_eq!(buffer.space().as_ptr(), address);
    }

    #[test]
    fn a_thread_that_never_reads_keeps_no_buffer() {
        let mut buffer = ReadBuffer::take();
        let bytes = buffer.split(READ_BUFFER);
        let spare_there = std::thread::spawn(move || {
            drop(bytes);
            spare()
        });
        assert_eq!(spare_there.join().ok(), Some(0));
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let many: Vec<_> = (0..SPARE_MAX + 3).map(|_| ReadBuffer::take()).collect();
        drop(many);
        assert_eq!(spare(), SPARE_MAX);
    }
}
