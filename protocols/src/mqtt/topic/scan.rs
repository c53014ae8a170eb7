//! Looking for forbidden characters, many bytes at a time.
//!
//! Each PUBLISH that is received passes here, so the common case (nothing found) has no branch per byte.

/// Whether a byte is U+0000, `+` or `#`. All three are ASCII, so that no byte of a longer UTF-8
/// sequence is mistaken for one.
pub(super) fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    // The last block overlaps the one before it, so that no rest is left to look at byte by byte.
    if let Some(last) = bytes.last_chunk::<16>() {
        let (blocks, _) = bytes.as_chunks::<16>();
        let mut found = hits(last);
        for block in blocks {
            for (found, hit) in found.iter_mut().zip(hits(block)) {
                *found |= hit;
            }
        }
        found != [0; 16]
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        hits(first) != [0; 8] || hits(last) != [0; 8]
    } else {
        bytes.iter().any(|byte| is_forbidden(*byte))
    }
}

/// Not 0 where a byte is forbidden: written over whole arrays, which compiles to vector instructions.
fn hits<const N: usize>(block: &[u8; N]) -> [u8; N] {
    block.map(|byte| u8::from(is_forbidden(byte)))
}

/// `+` is 0x2b and `#` is 0x23: with bit 3 set they are the same byte, and no other becomes it.
const fn is_forbidden(byte: u8) -> bool {
    (byte == 0) | (byte | 0x08 == b'+')
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
                    let expected = matches!(value, 0 | b'+' | b'#');
                    assert_eq!(
                        has_nul_or_wildcard(&bytes),
                        expected,
                        "{length} {place} {value}"
                    );
                }
            }
        }
    }
}
