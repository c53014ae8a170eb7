//! The values of a fleet file, each with where it came from.

use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

/// Where a value came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// These bytes of the file.
    File(Range<usize>),
    /// An override.
    Override(Rc<OverrideText>),
}

/// An override as it was given.
#[derive(Debug)]
pub(super) struct OverrideText {
    /// What messages call it: `--set fleet.seed`, or the name of the environment variable.
    pub(super) label: String,
    /// The text behind the equals sign.
    pub(super) raw: String,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// `None` for a number that no 64 bits hold.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Moment(String),
    List(Vec<Node>),
    Table(Table),
}

/// A table; its entries are in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The document as a tree of owned values.
    pub(super) fn from_document(document: &DeTable<'_>) -> Self {
        let mut entries: Vec<_> = document.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Self {
            entries: entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key: key.get_ref().to_string(),
                    key_origin: Origin::File(key.span()),
                    node: Node::from_spanned(value),
                })
                .collect(),
        }
    }
}

impl Node {
    fn from_spanned(value: &Spanned<DeValue<'_>>) -> Self {
        Self {
            value: Value::from_parsed(value.get_ref()),
            origin: Origin::File(value.span()),
        }
    }

    /// The same value as if it had come from an override, all the way down.
    pub(super) fn from_override(value: &DeValue<'_>, text: &Rc<OverrideText>) -> Self {
        let mut node = Self {
            value: Value::from_parsed(value),
            origin: Origin::Override(Rc::clone(text)),
        };
        node.mark(text);
        node
    }

    fn mark(&mut self, text: &Rc<OverrideText>) {
        self.origin = Origin::Override(Rc::clone(text));
        match &mut self.value {
            Value::List(nodes) => nodes.iter_mut().for_each(|node| node.mark(text)),
            Value::Table(table) => {
                for entry in &mut table.entries {
                    entry.key_origin = Origin::Override(Rc::clone(text));
                    entry.node.mark(text);
                }
            }
            _ => {}
        }
    }
}

impl Value {
    fn from_parsed(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                Self::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok())
            }
            DeValue::Float(number) => Self::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(truth) => Self::Boolean(*truth),
            DeValue::Datetime(moment) => Self::Moment(moment.to_string()),
            DeValue::Array(list) => Self::List(list.iter().map(Node::from_spanned).collect()),
            DeValue::Table(table) => Self::Table(Table::from_document(table)),
        }
    }

    /// What a message calls a value of this type.
    pub(super) const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Moment(_) => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Most brackets inside of each other, and most dots in one key.
const NESTING_MAX: u32 = 16;

/// Where a text is nested deeper than any fleet file has to be.
///
/// The tree is built, walked and dropped by recursion. The parser bounds brackets and dots, each at 80; the two
/// multiply, and that is more than a small stack holds.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let (mut brackets, mut dots) = (0_u32, 0_u32);
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                (brackets, dots) = (brackets + 1, 0);
            }
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                (brackets, dots) = (brackets.saturating_sub(1), 0);
            }
            TokenKind::Dot => dots += 1,
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => dots = 0,
            _ => {}
        }
        if brackets > NESTING_MAX || dots > NESTING_MAX {
            return Some(token.span().start());
        }
    }
    None
}

/// Appends a key to a path, quoted where TOML would need it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
