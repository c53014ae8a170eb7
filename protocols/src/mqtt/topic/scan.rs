//! Looking for forbidden characters, many bytes at a time.
//!
//! Each PUBLISH that is received passes here, so the common case (nothing found) has no branch per byte.

use std::ops::RangeInclusive;

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

/// Looks for what is forbidden and for what is not ASCII.
#[inline]
pub(super) fn judge(bytes: &[u8]) -> Verdict {
    // A server's own topics start with `$`, which is among what is looked at more closely.
    if is_plain(bytes.strip_prefix(b"$").unwrap_or(bytes)) {
        Verdict::Ascii
    } else {
        judge_each(bytes)
    }
}

/// Whether every byte is one of [`PLAIN`], as of nearly all topics.
///
/// In numbers, which stay in registers. Arrays would be fewer instructions where the compiler makes vectors of them; but
/// where it keeps them in memory it may write them in other parts than it reads them in, and the processor then
/// waits for longer than all the rest of a packet takes.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    // The last word overlaps the one before it, so that no rest is left to look at byte by byte.
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().all(|byte| PLAIN.contains(byte));
    };
    let (words, _) = bytes.as_chunks();
    let marks = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        // Sets the high bit of a plain byte. One that is not ASCII may carry into the next, but has no mark itself.
        word.wrapping_add(each(0x80 - PLAIN.start())) & !word
    };
    let all = words
        .iter()
        .fold(marks(last), |all, word| all & marks(word));
    all & each(0x80) == each(0x80)
}

/// ASCII behind all that is forbidden: letters, digits, and of the signs those that separate words and levels.
const PLAIN: RangeInclusive<u8> = b'+' + 1..=0x7f;

/// A word of this byte.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

#[inline(never)]
fn judge_each(bytes: &[u8]) -> Verdict {
    let is_forbidden = |byte: u8| matches!(byte, 0 | b'+' | b'#');
    // Without a branch for each byte, so that it compiles to vector instructions.
    if bytes
        .iter()
        .fold(false, |found, byte| found | is_forbidden(*byte))
    {
        Verdict::Forbidden
    } else if bytes.is_ascii() {
        Verdict::Ascii
    } else {
        Verdict::Other
    }
}

/// Whether a byte is U+0000, `+` or `#`. All three are ASCII, so that no byte of a longer UTF-8
/// sequence is mistaken for one.
pub(super) fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    judge(bytes) == Verdict::Forbidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_value_is_judged_right_at_each_place() {
        for length in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50] {
            for (first, place) in (0..length).flat_map(|place| [(b'x', place), (b'$', place)]) {
                for value in 0..=255_u8 {
                    let mut bytes = vec![b'x'; length];
                    bytes[0] = first;
                    bytes[place] = value;
                    let expected = match value {
                        0 | b'+' | b'#' => Verdict::Forbidden,
                        0x80.. => Verdict::Other,
                        _ => Verdict::Ascii,
                    };
                    assert_eq!(judge(&bytes), expected, "{first} {length} {place} {value}");
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
