//! Reads typed values out of the tree and notes every mistake on the way.
//!
//! A [`Section`] is a table that remembers which keys it was asked for, so that [`Section::finish`] can name
//! the keys nobody knows. A [`Field`] is a value with its path. Every reading function returns `None` after
//! it has noted a problem; the caller goes on, so that one run finds all mistakes.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{ProblemKind as Kind, Problems};
use super::tree::{Entry, Node, Origin, Table, Value, join};
use super::units;
use crate::template::{TemplateError, nearest};

/// A table on its way to being read.
pub(super) struct Section<'a> {
    table: &'a Table,
    origin: &'a Origin,
    path: String,
    problems: &'a Problems<'a>,
    known: RefCell<Vec<&'static str>>,
}

/// A value and the path to it.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: &'a Node,
    key_origin: &'a Origin,
    path: String,
    problems: &'a Problems<'a>,
}

impl<'a> Section<'a> {
    pub(super) const fn new(
        table: &'a Table,
        origin: &'a Origin,
        path: String,
        problems: &'a Problems<'a>,
    ) -> Self {
        Self {
            table,
            origin,
            path,
            problems,
            known: RefCell::new(Vec::new()),
        }
    }

    /// The value of a key, which is known from now on.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        drop(known);
        self.table.entry(key).map(|entry| self.of(entry))
    }

    /// The value of a key that has to be there.
    pub(super) fn required(&self, key: &'static str, what: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            self.missing(key, what);
        }
        field
    }

    /// Notes that a key is missing; `what` says what to write.
    pub(super) fn missing(&self, key: &str, what: &str) {
        self.problems.add(
            Kind::Missing,
            self.origin,
            &join(&self.path, key),
            "it is missing",
            what,
        );
    }

    /// Refuses a key that a later version will know.
    pub(super) fn not_available(&self, key: &'static str, instead: &str) {
        if let Some(field) = self.field(key) {
            field.fail_at_key(
                Kind::NotAvailable,
                "it is not available in this version",
                instead,
            );
        }
    }

    /// All entries, for a table whose keys are names of the user's.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        self.table
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), self.of(entry)))
    }

    fn of(&self, entry: &'a Entry) -> Field<'a> {
        Field {
            node: &entry.node,
            key_origin: &entry.key_origin,
            path: join(&self.path, &entry.key),
            problems: self.problems,
        }
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.into_inner();
        let unknown = self
            .table
            .entries
            .iter()
            .filter(|entry| !known.contains(&entry.key.as_str()));
        for entry in unknown {
            let remedy = match nearest(&entry.key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.problems.add(
                Kind::UnknownKey,
                &entry.key_origin,
                &join(&self.path, &entry.key),
                "there is no such key",
                remedy,
            );
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Notes what is no mistake and may surprise.
    pub(super) fn warn(&self, text: impl std::fmt::Display) {
        self.problems.warn(format!("{}: {text}", self.path));
    }

    pub(super) const fn origin(&self) -> &'a Origin {
        &self.node.origin
    }

    pub(super) const fn value(&self) -> &'a Value {
        &self.node.value
    }

    /// Notes a problem with the value.
    pub(super) fn fail(&self, kind: Kind, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems
            .add(kind, &self.node.origin, &self.path, message, remedy);
    }

    /// Notes a problem with the key itself.
    pub(super) fn fail_at_key(
        &self,
        kind: Kind,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems
            .add(kind, self.key_origin, &self.path, message, remedy);
    }

    /// Notes a problem with one place inside of a text; `offset` counts bytes of the value.
    pub(super) fn fail_inside(&self, kind: Kind, offset: usize, message: &str, remedy: &str) {
        match &self.node.origin {
            Origin::File(span) => {
                let at = self.problems.source().inside_string(span, offset);
                self.problems
                    .add(kind, &Origin::File(at..at), &self.path, message, remedy);
            }
            Origin::Override(text) => {
                let value = match &self.node.value {
                    Value::Text(value) => value,
                    _ => &text.raw,
                };
                let before = value.get(..offset).unwrap_or(value);
                let message = format!("character {}: {message}", before.chars().count() + 1);
                self.fail(kind, message, remedy);
            }
        }
    }

    fn wrong_type(&self, wanted: &str) {
        let message = format!("this is {}, not {wanted}", self.node.value.type_name());
        self.fail(Kind::WrongType, message, format!("write {wanted}"));
    }

    /// A text. What came from an override is a text whatever it looks like.
    pub(super) fn text(&self, wanted: &str) -> Option<&'a str> {
        match (&self.node.value, &self.node.origin) {
            (Value::Text(text), _) => Some(text),
            (Value::Table(_) | Value::List(_), _) | (_, Origin::File(_)) => {
                self.wrong_type(wanted);
                None
            }
            (_, Origin::Override(given)) => Some(&given.raw),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let all = all.join(" or ");
        let text = self.text(&all)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let hint = match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("write {all}"),
            };
            self.fail(Kind::BadValue, format!("{text:?} is none of {all}"), hint);
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Boolean(truth) => Some(truth),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }

    /// A whole number within limits.
    pub(super) fn whole(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.node.value {
            Value::Integer(number) => number.and_then(|number| u64::try_from(number).ok()),
            _ => {
                self.wrong_type("a whole number");
                return None;
            }
        };
        let within = number.filter(|number| limits.contains(number));
        if within.is_none() {
            let (min, max) = limits.into_inner();
            self.fail(
                Kind::BadValue,
                "the number is out of range",
                format!("write a whole number from {min} to {max}"),
            );
        }
        within
    }

    fn number(&self) -> Option<f64> {
        match self.node.value {
            #[expect(
                clippy::cast_precision_loss,
                reason = "rates and probabilities are far below 2^53; larger ones are refused"
            )]
            Value::Integer(number) => Some(number.map_or(f64::NAN, |number| number as f64)),
            Value::Float(number) => Some(number),
            _ => {
                self.wrong_type("a number");
                None
            }
        }
    }

    /// A count per second, above 0.
    pub(super) fn rate(&self) -> Option<f64> {
        let number = self.number()?;
        if (0.001..=10_000_000.0).contains(&number) {
            return Some(number);
        }
        self.fail(
            Kind::BadValue,
            "the rate is out of range",
            "write how many per second, from 0.001 to 10000000; leave the key out for no limit",
        );
        None
    }

    /// A probability.
    pub(super) fn probability(&self) -> Option<f64> {
        let number = self.number()?;
        if (0.0..=1.0).contains(&number) {
            return Some(number);
        }
        self.fail(
            Kind::BadValue,
            "this is no probability",
            "write a number from 0 (never) to 1 (always)",
        );
        None
    }

    /// A time with its unit, within limits.
    pub(super) fn duration(&self, limits: RangeInclusive<Duration>) -> Option<Duration> {
        const FORM: &str = "a time with its unit such as \"30s\", \"500ms\" or \"1m30s\"";
        if let (Value::Integer(Some(number)), Origin::File(_)) = (self.value(), self.origin()) {
            let remedy =
                format!("write \"{number}s\" for seconds or \"{number}ms\" for milliseconds");
            self.fail(Kind::WrongType, "a time needs a unit", remedy);
            return None;
        }
        let text = self.text(FORM)?;
        let Some(duration) = units::parse_duration(text) else {
            self.fail(
                Kind::BadValue,
                format!("{text:?} is no time"),
                format!("write {FORM}; units are ms, s, m, h, d"),
            );
            return None;
        };
        if limits.contains(&duration) {
            return Some(duration);
        }
        let (min, max) = limits.into_inner();
        self.fail(
            Kind::BadValue,
            "the time is out of range",
            format!(
                "write a time from {} to {}",
                units::show_duration(min),
                units::show_duration(max)
            ),
        );
        None
    }

    /// A time in whole seconds, as MQTT carries it.
    pub(super) fn seconds(&self, limits: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration(limits)?;
        if duration.subsec_nanos() == 0 {
            return Some(duration);
        }
        self.fail(
            Kind::BadValue,
            "MQTT carries this time in whole seconds",
            "write whole seconds",
        );
        None
    }

    /// A size in bytes, as a number or with a unit.
    pub(super) fn size(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        const FORM: &str = "a size such as \"64KiB\", \"2GiB\" or a count of bytes";
        let size = match self.value() {
            Value::Integer(number) => number.and_then(|number| u64::try_from(number).ok()),
            _ => units::parse_size(self.text(FORM)?),
        };
        let Some(size) = size else {
            self.fail(
                Kind::BadValue,
                "this is no size",
                format!("write {FORM}; units are B, KiB, MiB, GiB, kB, MB, GB"),
            );
            return None;
        };
        if limits.contains(&size) {
            return Some(size);
        }
        let (min, max) = limits.into_inner();
        self.fail(
            Kind::BadValue,
            "the size is out of range",
            format!(
                "write a size from {} to {}",
                units::show_size(min),
                units::show_size(max)
            ),
        );
        None
    }

    /// A template; a mistake is placed inside of it.
    pub(super) fn template<T>(
        &self,
        wanted: &str,
        compile: impl FnOnce(&str) -> Result<T, TemplateError>,
    ) -> Option<T> {
        let text = self.text(wanted)?;
        match compile(text) {
            Ok(template) => Some(template),
            Err(error) => {
                self.fail_inside(Kind::BadTemplate, error.offset(), &error.to_string(), "");
                None
            }
        }
    }

    /// A table with known keys.
    pub(super) fn section(&self, wanted: &str) -> Option<Section<'a>> {
        if let Value::Table(table) = &self.node.value {
            return Some(Section::new(
                table,
                &self.node.origin,
                self.path.clone(),
                self.problems,
            ));
        }
        self.wrong_type(wanted);
        None
    }

    /// The elements of a list.
    pub(super) fn list(&self, wanted: &str) -> Vec<Self> {
        if let Value::List(nodes) = &self.node.value {
            return nodes
                .iter()
                .enumerate()
                .map(|(at, node)| Self {
                    node,
                    key_origin: &node.origin,
                    path: format!("{}[{at}]", self.path),
                    problems: self.problems,
                })
                .collect();
        }
        self.wrong_type(wanted);
        Vec::new()
    }

    /// A name of the user's: it becomes part of ids, topics and metric labels.
    pub(super) fn name(&self) -> Option<&'a str> {
        let text = self.text("a name")?;
        if is_name(text) {
            return Some(text);
        }
        self.fail(Kind::BadValue, format!("{text:?} is no name"), NAME_RULE);
        None
    }
}

/// What [`is_name`] asks for.
pub(super) const NAME_RULE: &str = "write 1 to 64 of the characters a-z A-Z 0-9 _ - .";

/// Whether a text is safe in ids, topics, metric labels and paths.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}
