//! Looking for forbidden characters, many bytes at a time.
//!
//! Each PUBLISH that is received passes here, so the common case (nothing found) has no branch per byte.

/// What can be told of bytes without decoding them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// ASCII, and nothing forbidden.
    Ascii,
    /// Nothing forbidden; whether it is UTF-8 is still to be found out.
    Other,
    /// U+0000, `+` or `#` is among them.
    Forbidden,
}

/// Looks for what is forbidden and for what is not ASCII in one pass.
#[inline]
pub(super) fn judge(bytes: &[u8]) -> Verdict {
    // The last block overlaps the one before it, so that no rest is left to look at byte by byte.
    let found = if let Some(last) = bytes.last_chunk::<16>() {
        let (blocks, _) = bytes.as_chunks::<16>();
        let mut found = marks(last);
        for block in blocks {
            for (found, mark) in found.iter_mut().zip(marks(block)) {
                *found |= mark;
            }
        }
        u128::from_ne_bytes(found)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let (first, last) = (marks(first), marks(last));
        u128::from(u64::from_ne_bytes(first) | u64::from_ne_bytes(last))
    } else {
        let marks = bytes.iter().fold(0, |found, byte| found | mark(*byte));
        u128::from(marks)
    };
    if found & FORBIDDEN_MARKS != 0 {
        Verdict::Forbidden
    } else if found != 0 {
        Verdict::Other
    } else {
        Verdict::Ascii
    }
}

/// Whether a byte is U+0000, `+` or `#`. All three are ASCII, so that no byte of a longer UTF-8
/// sequence is mistaken for one.
pub(super) fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    judge(bytes) == Verdict::Forbidden
}

/// The mark of a forbidden byte, and of one that is not ASCII; a byte has at most one of them.
const FORBIDDEN: u8 = 0x01;
const NOT_ASCII: u8 = 0x80;
const FORBIDDEN_MARKS: u128 = u128::from_ne_bytes([FORBIDDEN; 16]);

/// Written over whole arrays, which compiles to vector instructions.
#[inline]
fn marks<const N: usize>(block: &[u8; N]) -> [u8; N] {
    block.map(mark)
}

/// `+` is 0x2b and `#` is 0x23: with bit 3 set they are the same byte, and no other becomes it.
#[inline]
const fn mark(byte: u8) -> u8 {
    let is_forbidden = (byte == 0) | (byte | 0x08 == b'+');
    (is_forbidden as u8 * FORBIDDEN) | (byte & NOT_ASCII)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_value_is_judged_right_at_each_place() {
        for length in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50] {
            for place in 0..length {
                for value in 0..=255_u8 {
                    let mut bytes = vec![b'x'; length];
                    bytes[place] = value;
                    let expected = match value {
                        0 | b'+' | b'#' => Verdict::Forbidden,
                        0x80.. => Verdict::Other,
                        _ => Verdict::Ascii,
                    };
                    assert_eq!(judge(&bytes), expected, "{length} {place} {value}");
                }
            }
        }
    }

    #[test]
    fn what_is_forbidden_is_found_among_what_is_not_ascii() {
        for length in [2, 9, 40] {
            let mut bytes = vec![0xc3; length];
            bytes[length / 2] = b'#';
            assert_eq!(judge(&bytes), Verdict::Forbidden);
        }
    }
}
