//! Takes a placeholder apart: its name, its arguments, its format.

use super::number::DECIMALS_MAX;
use super::{TemplateError, TemplateErrorKind as Kind};

/// What a template is for, and so which placeholders exist in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Id,
    Name,
    Payload,
    Reply,
}

/// Every placeholder: its name, how to write it, and the smallest purpose that knows it.
pub(super) const PLACEHOLDERS: [(&str, &str, Purpose); 21] = [
    ("index", "{{index}}", Purpose::Id),
    ("group", "{{group}}", Purpose::Id),
    ("fleet", "{{fleet}}", Purpose::Id),
    ("id", "{{id}}", Purpose::Name),
    ("now_ms", "{{now_ms}}", Purpose::Payload),
    ("now_s", "{{now_s}}", Purpose::Payload),
    ("now_iso", "{{now_iso}}", Purpose::Payload),
    ("seq", "{{seq}}", Purpose::Payload),
    ("uuid", "{{uuid}}", Purpose::Payload),
    ("int", "{{int(min,max)}}", Purpose::Payload),
    ("float", "{{float(min,max)}}", Purpose::Payload),
    ("normal", "{{normal(mean,sd)}}", Purpose::Payload),
    ("walk", "{{walk(start,step)}}", Purpose::Payload),
    (
        "sine",
        "{{sine(amplitude,period_s,offset)}}",
        Purpose::Payload,
    ),
    ("bool", "{{bool(p)}}", Purpose::Payload),
    ("choice", "{{choice(a,b,c)}}", Purpose::Payload),
    ("hex", "{{hex(n)}}", Purpose::Payload),
    ("pad", "{{pad(n)}}", Purpose::Payload),
    ("command", "{{command}}", Purpose::Reply),
    ("request_id", "{{request_id}}", Purpose::Reply),
    ("payload", "{{payload}}", Purpose::Reply),
];

/// Largest magnitude of a number in a template, so that sums of them stay exact to the digit.
pub(super) const MAGNITUDE_MAX: f64 = 1e15;

/// A placeholder taken apart: `name(arguments):format`.
pub(super) struct Placeholder<'a> {
    /// Where its inside begins in the template.
    pub(super) offset: usize,
    pub(super) name: &'a str,
    /// `None` without parentheses.
    pub(super) arguments: Option<Vec<&'a str>>,
    pub(super) format: Option<&'a str>,
}

/// Takes the inside of a placeholder apart. Arguments are split at commas outside of double quotes.
pub(super) fn split(inside: &str, offset: usize) -> Result<Placeholder<'_>, TemplateError> {
    let lead = inside.len() - inside.trim_start().len();
    let offset = offset + lead;
    let inside = inside.trim();
    let name_length = inside
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inside.len());
    let (name, rest) = inside.split_at(name_length);
    let rest = rest.trim_start();
    let (arguments, rest) = match rest.strip_prefix('(') {
        None => (None, rest),
        Some(list) => {
            let (arguments, rest) = split_arguments(list).ok_or_else(|| {
                error(
                    Kind::BadArguments,
                    offset,
                    format!(
                        "the arguments of `{}` are never closed; add `)`",
                        shortened(name)
                    ),
                )
            })?;
            (Some(arguments), rest.trim_start())
        }
    };
    let format = match rest.strip_prefix(':') {
        Some(format) => Some(format.trim()),
        None if rest.is_empty() => None,
        None => {
            // What is in the way is part of a name that does not exist, such as `device-id`.
            let name = if arguments.is_none() { inside } else { name };
            return Err(error(
                if arguments.is_none() {
                    Kind::UnknownPlaceholder
                } else {
                    Kind::BadFormat
                },
                offset,
                format!(
                    "`{}` is no placeholder; write {{{{name}}}}, {{{{name(a,b)}}}} or {{{{name:format}}}}",
                    shortened(if arguments.is_none() { name } else { inside })
                ),
            ));
        }
    };
    Ok(Placeholder {
        offset,
        name,
        arguments,
        format,
    })
}

/// The arguments up to the closing parenthesis, and what follows it.
fn split_arguments(list: &str) -> Option<(Vec<&str>, &str)> {
    let mut arguments = Vec::new();
    let (mut begin, mut depth, mut quoted) = (0, 0_u32, false);
    for (at, letter) in list.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(list[begin..at].trim());
                begin = at + 1;
            }
            ')' => {
                arguments.push(list[begin..at].trim());
                return Some((arguments, &list[at + 1..]));
            }
            _ => {}
        }
    }
    None
}

impl Placeholder<'_> {
    pub(super) fn exactly<const N: usize>(&self, what: &str) -> Result<[&str; N], TemplateError> {
        self.arguments
            .as_deref()
            .and_then(|arguments| <[&str; N]>::try_from(arguments).ok())
            .ok_or_else(|| self.wants(what))
    }

    pub(super) fn no_arguments(&self) -> Result<(), TemplateError> {
        self.require(self.arguments.is_none(), "it takes no arguments")
    }

    pub(super) fn no_format(&self) -> Result<(), TemplateError> {
        match self.format {
            None => Ok(()),
            Some(_) => Err(self.bad_format("nothing")),
        }
    }

    pub(super) fn whole(&self, text: &str) -> Result<i64, TemplateError> {
        text.parse().map_err(|_| {
            error(
                Kind::BadArguments,
                self.offset,
                format!("{}: `{}` is no whole number", self.name, shortened(text)),
            )
        })
    }

    pub(super) fn number(&self, text: &str) -> Result<f64, TemplateError> {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.abs() <= MAGNITUDE_MAX)
            .ok_or_else(|| {
                error(
                    Kind::BadArguments,
                    self.offset,
                    format!(
                        "{}: `{}` is no number from -1e15 to 1e15",
                        self.name,
                        shortened(text)
                    ),
                )
            })
    }

    /// The decimals asked for, or one more than the most exact argument has, from 2 to 9.
    pub(super) fn decimals(&self) -> Result<u8, TemplateError> {
        if let Some(format) = self.format {
            return format
                .parse::<u8>()
                .ok()
                .filter(|decimals| *decimals <= DECIMALS_MAX)
                .ok_or_else(|| self.bad_format("a count of decimals from 0 to 9"));
        }
        let written = |text: &&str| text.split_once('.').map_or(0, |(_, digits)| digits.len());
        let most = self.arguments.iter().flatten().map(written).max();
        let wanted = u8::try_from(most.unwrap_or(0)).unwrap_or(DECIMALS_MAX);
        Ok(wanted.saturating_add(1).clamp(2, DECIMALS_MAX))
    }

    pub(super) fn require(&self, holds: bool, otherwise: &str) -> Result<(), TemplateError> {
        if holds {
            Ok(())
        } else {
            Err(error(
                Kind::BadArguments,
                self.offset,
                format!("{}: {otherwise}", self.name),
            ))
        }
    }

    pub(super) fn wants(&self, what: &str) -> TemplateError {
        let form = PLACEHOLDERS
            .iter()
            .find(|(name, ..)| *name == self.name)
            .map_or("", |(_, form, _)| form);
        error(
            Kind::BadArguments,
            self.offset,
            format!("{} wants {what}, as in {form}", self.name),
        )
    }

    pub(super) fn bad_format(&self, what: &str) -> TemplateError {
        error(
            Kind::BadFormat,
            self.offset,
            format!(
                "{}: behind the colon stands {what}, not `{}`",
                self.name,
                shortened(self.format.unwrap_or_default())
            ),
        )
    }
}

pub(super) fn error(kind: Kind, offset: usize, message: impl Into<String>) -> TemplateError {
    TemplateError {
        kind,
        offset,
        message: message.into(),
    }
}

/// What the user wrote, short enough for a message.
pub(super) fn shortened(text: &str) -> String {
    const LETTERS_MAX: usize = 40;
    if text.chars().count() <= LETTERS_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LETTERS_MAX).collect();
    short.push('…');
    short
}
