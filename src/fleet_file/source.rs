//! The text of a fleet file and the places in it.

use std::ops::Range;

use super::problem::Place;

/// A named text with an index of its lines.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            name,
            text,
            line_starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    /// Line and column of a byte; the end of the text for what lies behind it.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        Place::Text {
            file: self.name.to_owned(),
            line,
            column: String::from_utf8_lossy(before).chars().count() + 1,
        }
    }

    /// Where in the file the byte at `offset` of a string's *value* stands, `span` being its literal with
    /// the quotes. Escapes and line continuations make the two differ.
    pub(super) fn inside_string(&self, span: &Range<usize>, offset: usize) -> usize {
        let literal = self.text.get(span.clone()).unwrap_or_default();
        span.start + offset_in_literal(literal, offset)
    }
}

fn offset_in_literal(literal: &str, offset: usize) -> usize {
    let quote = literal.chars().next().unwrap_or('"');
    let multiline = literal.starts_with("\"\"\"") || literal.starts_with("'''");
    let mut at = if multiline { 3 } else { 1 };
    if multiline {
        // The first line break behind the opening quotes is not part of the value.
        let inside = literal.get(at..).unwrap_or_default();
        at += match inside {
            _ if inside.starts_with("\r\n") => 2,
            _ if inside.starts_with('\n') => 1,
            _ => 0,
        };
    }
    let mut value_bytes = 0;
    while value_bytes < offset {
        let rest = literal.get(at..).unwrap_or_default();
        let Some(letter) = rest.chars().next() else {
            break;
        };
        let (taken, gives) = match letter {
            '\\' if quote == '"' => escape(rest),
            _ => (letter.len_utf8(), letter.len_utf8()),
        };
        at += taken;
        value_bytes += gives;
    }
    at.min(literal.len())
}

/// How many bytes the escape at the beginning of `rest` takes, and how many its value has.
fn escape(rest: &str) -> (usize, usize) {
    let digits = match rest.as_bytes().get(1) {
        Some(b'x') => 2,
        Some(b'u') => 4,
        Some(b'U') => 8,
        Some(b' ' | b'\t' | b'\r' | b'\n') => {
            let blanks = rest[1..].len() - rest[1..].trim_start().len();
            return (1 + blanks, 0);
        }
        _ => return (2, 1),
    };
    let value = rest
        .get(2..2 + digits)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .and_then(char::from_u32);
    (2 + digits, value.map_or(1, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, offset: usize) -> (usize, usize) {
        match Source::new("f", text).place(offset) {
            Place::Text { line, column, .. } => (line, column),
            Place::Override(label) => panic!("{label}"),
        }
    }

    #[test]
    fn columns_count_characters_from_one() {
        let text = "ab\nñö=1\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 2), (1, 3));
        assert_eq!(place(text, 3), (2, 1));
        assert_eq!(place(text, 7), (2, 3));
        assert_eq!(place(text, 10), (3, 1));
        assert_eq!(place(text, 999), (3, 1));
        assert_eq!(place("", 0), (1, 1));
    }

    #[test]
    fn a_place_in_a_string_accounts_for_quotes_and_escapes() {
        let at = |literal: &str, offset| {
            let text = format!("k={literal}");
            let found = Source::new("f", &text).inside_string(&(2..text.len()), offset);
            text[found..].chars().next().unwrap()
        };
        assert_eq!(at("'abcX'", 3), 'X');
        assert_eq!(at("\"abcX\"", 3), 'X');
        assert_eq!(at("\"\\\"\\n\\tX\"", 3), 'X');
        assert_eq!(at("\"\\u00e9\\x41X\"", 3), 'X');
        assert_eq!(at("\"\\U0001F600X\"", 4), 'X');
        assert_eq!(at("'''\nabcX'''", 3), 'X');
        assert_eq!(at("\"\"\"\r\na\\\n   bX\"\"\"", 2), 'X');
        assert_eq!(at("'\\nX'", 2), 'X');
    }
}
