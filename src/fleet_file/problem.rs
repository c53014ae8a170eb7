//! What is wrong with a fleet file, and where.

use std::cell::RefCell;
use std::fmt;

use super::source::Source;
use super::tree::Origin;

/// One mistake: where it is, which key it is about, what it is and what to do.
///
/// Printed as `fleet.toml:12:5: groups[0].count: message; what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: ProblemKind,
    place: Place,
    key: String,
    message: String,
    remedy: String,
}

/// The kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The text is not TOML, not UTF-8, or too large.
    Syntax,
    /// No such key exists.
    UnknownKey,
    /// A key that has to be there is not.
    Missing,
    /// A text where a number belongs, and the like.
    WrongType,
    /// The value is outside of what is allowed, or does not go with another one.
    BadValue,
    /// A mistake in a template.
    BadTemplate,
    /// A group names a platform or a model that is not in the file.
    UnknownName,
    /// A name or a device id exists twice.
    Duplicate,
    /// A file or an environment variable that the fleet file names cannot be read.
    Unreadable,
    /// The key or the value is known, and this version cannot honour it.
    NotAvailable,
    /// An override that cannot be applied.
    BadOverride,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a file.
    Text {
        /// The file as it was named, or `<stdin>`.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// In an override: `--set groups.lab.count`, or the name of an environment variable.
    Override(String),
}

impl Problem {
    pub(super) fn new(
        kind: ProblemKind,
        place: Place,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            place,
            key: key.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// What kind of mistake it is.
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// Where it is.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The key it is about, such as `groups[0].count`; empty for a syntax error.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Override(label) => f.write_str(label),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Collects problems, so that all are told at once.
pub(super) struct Problems<'a> {
    source: &'a Source<'a>,
    found: RefCell<Vec<(usize, Problem)>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            found: RefCell::new(Vec::new()),
            warnings: RefCell::new(Vec::new()),
        }
    }

    pub(super) const fn source(&self) -> &'a Source<'a> {
        self.source
    }

    /// Notes a mistake at what `origin` covers.
    pub(super) fn add(
        &self,
        kind: ProblemKind,
        origin: &Origin,
        key: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (order, place) = match origin {
            Origin::File(span) => (span.start, self.source.place(span.start)),
            Origin::Override(text) => (usize::MAX, Place::Override(text.label.clone())),
        };
        self.add_problem(order, Problem::new(kind, place, key, message, remedy));
    }

    /// Notes a mistake that knows its place; `order` is where in the fleet file it is listed.
    pub(super) fn add_problem(&self, order: usize, problem: Problem) {
        self.found.borrow_mut().push((order, problem));
    }

    /// Notes what is no mistake and may surprise.
    pub(super) fn warn(&self, text: String) {
        self.warnings.borrow_mut().push(text);
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// All problems in the order of the file, those of overrides last.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, problem)| problem).collect()
    }
}
