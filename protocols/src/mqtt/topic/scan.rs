//! Looking for forbidden characters, eight bytes at a time.
//!
//! Each PUBLISH that is received passes here, so the common case (nothing found) has no branch per byte.

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Whether a byte is U+0000, `+` or `#`. All three are ASCII, so that no byte of a longer UTF-8
/// sequence is mistaken for one.
pub(super) fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|byte| matches!(byte, 0 | b'+' | b'#'));
    };
    let (words, _) = bytes.as_chunks::<8>();
    let mut found = hits(*last);
    for word in words {
        found |= hits(*word);
    }
    found != 0
}

/// Not 0 if one of the eight bytes is forbidden.
fn hits(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    // `+` is 0x2b and `#` is 0x23: with bit 3 set they are the same byte, and no other becomes it.
    let wildcard = (word | (LOW_BITS * 0x08)) ^ (LOW_BITS * 0x2b);
    zero_bytes(word) | zero_bytes(wildcard)
}

/// Not 0 if one of the eight bytes is 0.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_value_is_judged_right_at_each_place() {
        for length in [1, 7, 8, 9, 16, 19] {
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
