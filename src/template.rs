//! The template language of the fleet file: device ids, user names, paths, payloads, command replies.
//!
//! A template is compiled once and rendered many times. Rendering is pure: the time is an argument, what
//! is random comes from the device's own [`DeviceState`], and the text goes into a buffer of the caller's.
//! Nothing here reads a clock, opens a file or fails once compiled.
//!
//! | placeholder | value | where |
//! |---|---|---|
//! | `{{index}}`, `%i` | the device's number in its group; `{{index:06}}` with leading zeros, `{{index:08x}}` hexadecimal | everywhere |
//! | `{{group}}`, `%u` | the name of its group | everywhere |
//! | `{{fleet}}` | the name of the fleet | everywhere |
//! | `{{id}}`, `%c` | the device's id, which is its client id | everywhere but in the id itself |
//! | `{{now_ms}}`, `{{now_s}}` | Unix time in milliseconds, in seconds | payloads, replies |
//! | `{{now_iso}}` | UTC, `2026-11-21T08:30:00.250Z` | payloads, replies |
//! | `{{seq}}` | 1 for the first message of this device in this process, then 2, 3 …; a restart begins at 1 again, also with a durable outbox, so tell runs apart by `{{now_ms}}` | payloads, replies |
//! | `{{uuid}}` | a random version 4 UUID | payloads, replies |
//! | `{{int(a,b)}}` | a whole number from a to b, both included | payloads, replies |
//! | `{{float(a,b)}}` | a number from a to b | payloads, replies |
//! | `{{normal(mean,sd)}}` | normally distributed | payloads, replies |
//! | `{{walk(start,step)}}`, `{{walk(start,step,min,max)}}` | a random walk that each device keeps; each message moves it by at most step | payloads, replies |
//! | `{{sine(amplitude,period_s,offset)}}` | a sine over the wall clock, the same phase for all devices | payloads, replies |
//! | `{{bool(p)}}` | `true` with probability p, else `false` | payloads, replies |
//! | `{{choice(a,b,c)}}` | one of the texts, as written: `choice("on","off")` gives JSON strings | payloads, replies |
//! | `{{hex(n)}}` | n random hexadecimal digits | payloads, replies |
//! | `{{pad(n)}}` | n times the letter `x` | payloads, replies |
//! | `{{command}}`, `{{request_id}}`, `{{payload}}` | the command that is answered; with `:json` as a quoted JSON string | replies |
//!
//! `float`, `normal`, `walk` and `sine` print a fixed count of decimals: the one asked for (`{{float(0,1):3}}`),
//! or else one more than the most exact argument has, at least two. They never print an exponent, `-0` or `NaN`.
//!
//! `%i`, `%c` and `%u` are emqtt-bench's spelling. There `%u` is the user name; here it is the group,
//! because the user name is a template itself. `%%` is one percent sign; a percent sign before anything else
//! stands for itself. A single brace is plain text, so JSON needs no escaping.
//!
//! # Determinism
//! A device's values depend on the fleet's seed, the name of its group, its index and how many messages it
//! has rendered, and on nothing else: not on threads, on other devices or on the network. Two runs with one
//! seed give the same values in the same order; only the time differs.

mod nearest;
mod number;
mod parse;
mod placeholder;
mod random;
mod render;

pub use nearest::nearest;
pub use random::{DeviceState, Random, Stream};
pub use render::{Request, Subject};

use parse::Program;
use placeholder::Purpose;

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    kind: TemplateErrorKind,
    offset: usize,
    message: String,
}

/// The kinds of [`TemplateError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// A `{{` without its `}}`.
    Unclosed,
    /// No placeholder has this name.
    UnknownPlaceholder,
    /// The placeholder exists and means nothing in this kind of template.
    NotHere,
    /// Wrong count or value of the arguments.
    BadArguments,
    /// What stands behind the colon is not understood.
    BadFormat,
    /// The template, or what it would render to, is longer than 1 MiB.
    TooLong,
}

impl TemplateError {
    /// What kind of mistake it is.
    #[must_use]
    pub const fn kind(&self) -> TemplateErrorKind {
        self.kind
    }

    /// Where it is: bytes from the beginning of the template.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }
}

/// The template of a device id: `meter-{{index:06}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct IdTemplate(Program);

/// A template of text that belongs to a device for good: a user name, the path of its certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct NameTemplate(Program);

/// The template of a telemetry payload.
#[derive(Debug, Clone, PartialEq)]
pub struct PayloadTemplate(Program);

/// The template of the answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyTemplate(Program);

impl IdTemplate {
    /// Compiles an id template; only `{{index}}`, `{{group}}` and `{{fleet}}` exist in it.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        Program::parse(text, Purpose::Id).map(Self)
    }

    /// Whether different indexes give different ids at all.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.0.has_index()
    }

    /// The id of one device.
    #[must_use]
    pub fn render(&self, fleet: &str, group: &str, index: u64) -> String {
        let mut out = Vec::with_capacity(32);
        self.render_into(fleet, group, index, &mut out);
        into_text(out)
    }

    /// Appends the id of one device, in UTF-8, to `out`.
    pub fn render_into(&self, fleet: &str, group: &str, index: u64, out: &mut Vec<u8>) {
        let subject = Subject {
            fleet,
            group,
            index,
            id: "",
        };
        self.0.render_fixed(&subject, out);
    }
}

impl NameTemplate {
    /// Compiles a template that knows `{{index}}`, `{{group}}`, `{{fleet}}` and `{{id}}`.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        Program::parse(text, Purpose::Name).map(Self)
    }

    /// Whether the text differs between the devices of one group.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.0.has_index() || self.0.has_id()
    }

    /// The text for one device.
    #[must_use]
    pub fn render(&self, subject: &Subject<'_>) -> String {
        let mut out = Vec::with_capacity(48);
        self.0.render_fixed(subject, &mut out);
        into_text(out)
    }

    /// The text as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        self.0.source()
    }
}

impl PayloadTemplate {
    /// Compiles a payload template: everything but what belongs to command replies.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        Program::parse(text, Purpose::Payload).map(Self)
    }

    /// Appends the next payload of one device to `out` and advances its state. Allocates nothing once `out`
    /// has grown to its size.
    ///
    /// `state` has to come from [`PayloadTemplate::state`]; with another template's state the walks that it
    /// lacks print their start.
    pub fn render(
        &self,
        subject: &Subject<'_>,
        now_unix_ms: u64,
        state: &mut DeviceState,
        out: &mut Vec<u8>,
    ) {
        self.0.render(subject, now_unix_ms, None, state, out);
    }

    /// The state of a device that has sent nothing yet.
    #[must_use]
    pub fn state(&self, seed: u64, group: &str, index: u64) -> DeviceState {
        self.0.state(seed, group, index, Stream::Telemetry)
    }
}

impl ReplyTemplate {
    /// Compiles a reply template: every placeholder exists in it.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        Program::parse(text, Purpose::Reply).map(Self)
    }

    /// Appends the answer to one command to `out` and advances the state.
    ///
    /// `{{payload}}`, `{{command}}` and `{{request_id}}` are put in as they came: they are the cloud's words,
    /// so a reply that has to be JSON says `{{payload:json}}`, which quotes and escapes.
    pub fn render(
        &self,
        subject: &Subject<'_>,
        now_unix_ms: u64,
        request: &Request<'_>,
        state: &mut DeviceState,
        out: &mut Vec<u8>,
    ) {
        self.0
            .render(subject, now_unix_ms, Some(request), state, out);
    }

    /// The state of a device that has answered nothing yet. It is apart from the telemetry's, so that a
    /// command that arrives sooner or later changes no telemetry.
    #[must_use]
    pub fn state(&self, seed: u64, group: &str, index: u64) -> DeviceState {
        self.0.state(seed, group, index, Stream::Replies)
    }
}

/// The pieces of a name are all text, so nothing is ever replaced here.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
