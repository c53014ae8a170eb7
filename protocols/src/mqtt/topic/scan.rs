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
    let mut found = Found::default();
    // The last block overlaps the one before it, so that no rest is left to look at byte by byte.
    if let Some(last) = bytes.last_chunk::<16>() {
        let (blocks, _) = bytes.as_chunks::<16>();
        for block in blocks {
            found.add(block);
        }
        found.add(last);
    } else {
        let mut block = [b'x'; 16];
        for (place, byte) in block.iter_mut().zip(bytes) {
            *place = *byte;
        }
        found.add(&block);
    }
    if found.forbidden != [0; 16] {
        Verdict::Forbidden
    } else if u128::from_ne_bytes(found.any) & HIGH_BITS != 0 {
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

/// What was found in the blocks so far, place by place.
#[derive(Default)]
struct Found {
    /// Not 0 where a byte was forbidden.
    forbidden: [u8; 16],
    /// All bytes together.
    any: [u8; 16],
}

impl Found {
    /// A loop over whole arrays, which compiles to vector instructions whatever is inlined where.
    #[inline]
    fn add(&mut self, block: &[u8; 16]) {
        for (place, byte) in block.iter().enumerate() {
            // `+` is 0x2b and `#` is 0x23: with bit 3 set they are the same byte, and no other becomes it.
            self.forbidden[place] |= u8::from((*byte == 0) | (*byte | 0x08 == b'+'));
            self.any[place] |= *byte;
        }
    }
}

const HIGH_BITS: u128 = u128::from_ne_bytes([0x80; 16]);

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
            let mut bytes = vec![0xc3_u8; length];
            bytes[length / 2] = b'#';
            assert_eq!(judge(&bytes), Verdict::Forbidden);
        }
    }
}
