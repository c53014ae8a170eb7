//! Bytes in hexadecimal.

use std::fmt;

/// Bytes to be shown in lower-case hexadecimal.
pub(super) struct Lower<'a>(pub(super) &'a [u8]);

impl fmt::Display for Lower<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text is not bytes in hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HexError {
    /// Something else than a digit, at this place counted from 1.
    Digit { column: usize, byte: u8 },
    /// The last byte has one digit only.
    Odd,
}

impl fmt::Display for HexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digit { column, byte } => write!(
                f,
                "not hexadecimal: '{}' at column {column}",
                byte.escape_ascii()
            ),
            Self::Odd => f.write_str("not hexadecimal: the last byte has one digit only"),
        }
    }
}

/// Reads digits of either case; white space between them does not count.
pub(super) fn parse(text: &[u8]) -> Result<Vec<u8>, HexError> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for (index, &byte) in text.iter().enumerate() {
        if byte.is_ascii_whitespace() {
            continue;
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => {
                return Err(HexError::Digit {
                    column: index + 1,
                    byte,
                });
            }
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    match high {
        None => Ok(bytes),
        Some(_) => Err(HexError::Odd),
    }
}
