//! Topic templates: `devices/{device}/commands/{command}/{request}`.

use std::fmt::Write as _;

use bytestring::ByteString;

use crate::mqtt::{Topic, TopicFilter};

/// What a level of a template can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placeholder {
    Device,
    Command,
    Request,
    Status,
}

impl Placeholder {
    const ALL: [Self; 4] = [Self::Device, Self::Command, Self::Request, Self::Status];

    const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Command => "command",
            Self::Request => "request",
            Self::Status => "status",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(ByteString),
    Placeholder(Placeholder),
}

/// Why a text is no topic template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A placeholder that does not exist, or not in this template.
    #[error("{{{found}}} is no placeholder here; known here: {known}")]
    UnknownPlaceholder {
        /// What was written.
        found: String,
        /// What may be written.
        known: String,
    },
    /// A placeholder that the template cannot do without.
    #[error("the template needs {{{0}}}, or two devices would share a topic")]
    MissingPlaceholder(&'static str),
    /// A brace that belongs to no placeholder, or a placeholder that shares its level with text.
    #[error(
        "the level {0:?} mixes text and braces; a placeholder stands alone between two slashes"
    )]
    MixedLevel(String),
    /// The result would be no topic.
    #[error("the template gives no valid topic: {0}")]
    NoTopic(String),
}

/// The values of the placeholders, as a topic is written or was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Values<'a> {
    pub(super) device: &'a str,
    pub(super) command: &'a str,
    pub(super) request: &'a str,
    pub(super) status: &'a str,
}

impl<'a> Values<'a> {
    fn of(&self, placeholder: Placeholder) -> &'a str {
        match placeholder {
            Placeholder::Device => self.device,
            Placeholder::Command => self.command,
            Placeholder::Request => self.request,
            Placeholder::Status => self.status,
        }
    }

    fn set(&mut self, placeholder: Placeholder, value: &'a str) {
        match placeholder {
            Placeholder::Device => self.device = value,
            Placeholder::Command => self.command = value,
            Placeholder::Request => self.request = value,
            Placeholder::Status => self.status = value,
        }
    }
}

/// A parsed template. `{request}` as the last level is optional in topics: a sender that gives no request
/// id leaves the level out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicTemplate(Vec<Level>);

impl TopicTemplate {
    /// Parses a template whose placeholders are all among `allowed` and which has all of `required`.
    pub(super) fn parse(
        text: &str,
        allowed: &[Placeholder],
        required: &[Placeholder],
    ) -> Result<Self, TemplateError> {
        let levels = text
            .split('/')
            .map(|level| parse_level(level, allowed))
            .collect::<Result<Vec<_>, _>>()?;
        for placeholder in required {
            if !levels.contains(&Level::Placeholder(*placeholder)) {
                return Err(TemplateError::MissingPlaceholder(placeholder.name()));
            }
        }
        let template = Self(levels);
        let sample = Values {
            device: "d",
            command: "c",
            request: "r",
            status: "ok",
        };
        template.topic(sample).map_err(TemplateError::NoTopic)?;
        Ok(template)
    }

    /// The topic with these values.
    pub(super) fn topic(&self, values: Values<'_>) -> Result<Topic, String> {
        let mut text = String::with_capacity(64);
        let last = self.0.len() - 1;
        for (index, level) in self.0.iter().enumerate() {
            let value = match level {
                Level::Literal(text) => &**text,
                Level::Placeholder(placeholder) => values.of(*placeholder),
            };
            let optional = *level == Level::Placeholder(Placeholder::Request) && index == last;
            if optional && value.is_empty() {
                break;
            }
            if index > 0 {
                text.push('/');
            }
            if matches!(level, Level::Placeholder(_)) && (value.is_empty() || value.contains('/')) {
                return Err(format!("{value:?} is no single topic level"));
            }
            text.push_str(value);
        }
        Topic::new(text).map_err(|error| error.to_string())
    }

    /// The filter for one device, or for all when `device` is `None`.
    pub(super) fn filter(&self, device: Option<&str>) -> Result<TopicFilter, String> {
        let mut text = String::with_capacity(64);
        let last = self.0.len() - 1;
        for (index, level) in self.0.iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            let _ = match level {
                Level::Literal(literal) => text.write_str(literal),
                Level::Placeholder(Placeholder::Device) => text.write_str(device.unwrap_or("+")),
                // `#` also matches the topic without the level.
                Level::Placeholder(Placeholder::Request) if index == last => text.write_str("#"),
                Level::Placeholder(_) => text.write_str("+"),
            };
        }
        TopicFilter::new(text).map_err(|error| error.to_string())
    }

    /// Reads the placeholders' values back from a topic; `None` when the topic is not of this template.
    pub(super) fn read<'a>(&self, topic: &'a str) -> Option<Values<'a>> {
        let mut values = Values::default();
        let mut levels = topic.split('/');
        let last = self.0.len() - 1;
        for (index, level) in self.0.iter().enumerate() {
            match (level, levels.next()) {
                (Level::Placeholder(Placeholder::Request), None) if index == last => {}
                (_, None) => return None,
                (Level::Literal(literal), Some(found)) if **literal != *found => return None,
                (Level::Literal(_), Some(_)) => {}
                (Level::Placeholder(_), Some("")) => return None,
                (Level::Placeholder(placeholder), Some(found)) => values.set(*placeholder, found),
            }
        }
        levels.next().is_none().then_some(values)
    }
}

fn parse_level(level: &str, allowed: &[Placeholder]) -> Result<Level, TemplateError> {
    let Some(name) = level
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return if level.contains(['{', '}']) {
            Err(TemplateError::MixedLevel(level.to_owned()))
        } else {
            Ok(Level::Literal(level.into()))
        };
    };
    let found = Placeholder::ALL.into_iter().find(|p| p.name() == name);
    match found.filter(|placeholder| allowed.contains(placeholder)) {
        Some(placeholder) => Ok(Level::Placeholder(placeholder)),
        None => Err(TemplateError::UnknownPlaceholder {
            found: name.to_owned(),
            known: allowed
                .iter()
                .map(|p| format!("{{{}}}", p.name()))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}
