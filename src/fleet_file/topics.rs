//! Topic templates of the plain dialect.

use paquebot_protocols::dialect::aws::TOPIC_LEVELS_MAX;

use super::plan::TopicTemplates;
use super::problem::ProblemKind as Kind;
use super::reader::{Field, Section};
use crate::template::nearest;

/// A topic template that was checked. The device, the command and the request are left to the dialect; the
/// names of group and fleet are filled in here.
#[derive(Debug, PartialEq)]
pub(super) struct TopicTemplate(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Device,
    Command,
    Request,
    Group,
    Fleet,
}

/// The topics of a platform.
#[derive(Default)]
pub(super) struct Topics {
    telemetry: Option<TopicTemplate>,
    commands: Option<TopicTemplate>,
    replies: Option<TopicTemplate>,
    state: Option<TopicTemplate>,
    status: Option<TopicTemplate>,
}

impl Topics {
    /// The topics of one group's devices.
    pub(super) fn of_group(&self, fleet: &str, group: &str) -> TopicTemplates {
        let resolve =
            |topic: &Option<TopicTemplate>| topic.as_ref().map(|t| t.resolve(fleet, group));
        TopicTemplates {
            telemetry: resolve(&self.telemetry),
            commands: resolve(&self.commands),
            replies: resolve(&self.replies),
            state: resolve(&self.state),
            status: resolve(&self.status),
        }
    }
}

/// Reads the `topics` table.
pub(super) fn read_topics(section: Section<'_>) -> Topics {
    let plain = |key| read_topic(&section.field(key)?, false);
    let with_command = |key| read_topic(&section.field(key)?, true);
    let topics = Topics {
        telemetry: plain("telemetry"),
        commands: section.field("commands").and_then(|field| {
            let topic = read_topic(&field, true)?;
            if !topic.0.contains(&Part::Device) {
                field.fail(
                    Kind::BadValue,
                    "without {device} every device would get the commands of all",
                    "put {device} into the topic, as in \"devices/{device}/commands/{command}\"",
                );
                return None;
            }
            Some(topic)
        }),
        replies: with_command("replies"),
        state: plain("state"),
        status: plain("status"),
    };
    section.finish();
    topics
}

/// Reads the `topics` table of AWS IoT, where only telemetry's topic can be chosen.
pub(super) fn read_telemetry_topic(section: Section<'_>) -> Topics {
    let telemetry = section.field("telemetry").and_then(|field| {
        let topic = read_topic(&field, false)?;
        if !topic.0.contains(&Part::Device) {
            field.fail(
                Kind::BadValue,
                "without {device} nobody could tell whose telemetry it is",
                "put {device} into the topic, as in \"dt/site/{device}\"",
            );
            return None;
        }
        // No placeholder holds a slash, and neither does what takes its place.
        let text = field.text("a topic")?;
        if let Some((offset, _)) = text.match_indices('/').nth(TOPIC_LEVELS_MAX - 1) {
            let message = format!("the topic has more than {TOPIC_LEVELS_MAX} levels");
            field.fail_inside(Kind::BadTemplate, offset, &message, "take a level out");
            return None;
        }
        Some(topic)
    });
    section.finish();
    Topics {
        telemetry,
        ..Topics::default()
    }
}

fn read_topic(field: &Field<'_>, has_command: bool) -> Option<TopicTemplate> {
    let text = field.text("a topic such as \"devices/{device}/telemetry\"")?;
    match TopicTemplate::parse(text, has_command) {
        Ok(topic) => Some(topic),
        Err((offset, message, remedy)) => {
            field.fail_inside(Kind::BadTemplate, offset, &message, remedy);
            None
        }
    }
}

type Mistake = (usize, String, &'static str);

const PLAIN: &str = "there is {device}, {{id}}, {{group}} and {{fleet}}";
const WITH_COMMAND: &str =
    "there is {device}, {command}, {request}, {{id}}, {{group}} and {{fleet}}";

/// Longest topic template in bytes; the topic itself may be 65,535 long `[MQTT-4.7.3-3]`.
const LENGTH_MAX: usize = 4_096;

impl TopicTemplate {
    fn parse(text: &str, has_command: bool) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Err((
                0,
                "the topic is empty".to_owned(),
                "write a topic, or leave the key out",
            ));
        }
        if text.len() > LENGTH_MAX {
            return Err((
                LENGTH_MAX,
                "the topic is too long".to_owned(),
                "write at most 4,096 bytes",
            ));
        }
        if text.starts_with('$') {
            return Err((
                0,
                "topics that begin with $ belong to the broker".to_owned(),
                "begin with another letter",
            ));
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let (part, taken) = take_part(rest, at, has_command)?;
            match (part, parts.last_mut()) {
                (Part::Text(more), Some(Part::Text(text))) => text.push_str(&more),
                (part, _) => parts.push(part),
            }
            at += taken;
        }
        Ok(Self(parts))
    }

    fn resolve(&self, fleet: &str, group: &str) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Device => "{device}",
                Part::Command => "{command}",
                Part::Request => "{request}",
                Part::Group => group,
                Part::Fleet => fleet,
            })
            .collect()
    }
}

/// The part at the beginning of `rest`, which begins at `at`, and its length.
fn take_part(rest: &str, at: usize, has_command: bool) -> Result<(Part, usize), Mistake> {
    if let Some(inside) = rest.strip_prefix("{{") {
        let name = inside
            .split_once("}}")
            .map(|(name, _)| name)
            .ok_or_else(|| (at, "`{{` is never closed".to_owned(), "add `}}`"))?;
        return Ok((named(name.trim(), at + 2, has_command)?, name.len() + 4));
    }
    if let Some(inside) = rest.strip_prefix('{') {
        let name = inside
            .split_once('}')
            .map(|(name, _)| name)
            .ok_or_else(|| (at, "`{` is never closed".to_owned(), "add `}`"))?;
        return Ok((named(name.trim(), at + 1, has_command)?, name.len() + 2));
    }
    for (short, name) in [("%c", "id"), ("%u", "group"), ("%i", "index")] {
        if rest.starts_with(short) {
            return Ok((named(name, at, has_command)?, short.len()));
        }
    }
    if rest.starts_with("%%") {
        return Ok((Part::Text("%".to_owned()), 2));
    }
    let letter = rest.chars().next().unwrap_or('\0');
    match letter {
        '+' | '#' => Err((
            at,
            format!("a topic cannot hold the wildcard `{letter}`"),
            "write {command} where the name of a command stands; the subscription follows from it",
        )),
        '}' => Err((at, "`}` closes nothing".to_owned(), "take it out")),
        letter if letter.is_control() => Err((
            at,
            "a topic cannot hold control characters".to_owned(),
            "take it out",
        )),
        letter => Ok((Part::Text(letter.to_string()), letter.len_utf8())),
    }
}

fn named(name: &str, at: usize, has_command: bool) -> Result<Part, Mistake> {
    let there_is = if has_command { WITH_COMMAND } else { PLAIN };
    match name {
        "device" | "id" => Ok(Part::Device),
        "group" => Ok(Part::Group),
        "fleet" => Ok(Part::Fleet),
        "command" if has_command => Ok(Part::Command),
        "request" | "request_id" if has_command => Ok(Part::Request),
        "command" | "request" | "request_id" => Err((
            at,
            format!("`{name}` exists in the topics `commands` and `replies` only"),
            there_is,
        )),
        "index" => Err((
            at,
            "a topic knows its device by the id, not by the index".to_owned(),
            there_is,
        )),
        _ => {
            let known = ["device", "id", "group", "fleet", "command", "request"];
            let hint = nearest(name, known)
                .map(|meant| format!("; did you mean `{meant}`?"))
                .unwrap_or_default();
            let name: String = name.chars().take(40).collect();
            Err((
                at,
                format!("there is no placeholder `{name}`{hint}"),
                there_is,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(text: &str) -> String {
        TopicTemplate::parse(text, true)
            .unwrap()
            .resolve("demo", "lab")
    }

    #[test]
    fn both_spellings_end_in_the_words_of_the_dialect() {
        assert_eq!(resolved("devices/{device}/t"), "devices/{device}/t");
        assert_eq!(resolved("devices/{{id}}/t"), "devices/{device}/t");
        assert_eq!(resolved("%u/%c/100%%"), "lab/{device}/100%");
        assert_eq!(
            resolved("{{fleet}}/{{ group }}/{{id}}/{command}/{{request}}"),
            "demo/lab/{device}/{command}/{request}"
        );
    }

    #[test]
    fn mistakes_are_placed() {
        let at = |text, has_command| TopicTemplate::parse(text, has_command).unwrap_err().0;
        assert_eq!(at("a/{devise}", false), 3);
        assert_eq!(at("a/{{now_ms}}", false), 4);
        assert_eq!(at("a/{command}", false), 3);
        assert_eq!(at("a/+/b", true), 2);
        assert_eq!(at("a/#", true), 2);
        assert_eq!(at("a/{device", true), 2);
        assert_eq!(at("a}", true), 1);
        assert_eq!(at("%i", true), 0);
        assert_eq!(at("$SYS/a", true), 0);
        assert_eq!(at("", true), 0);
        assert_eq!(at("a\0", true), 1);
        assert_eq!(at(&"a".repeat(4_097), true), 4_096);
        assert!(TopicTemplate::parse(&"a".repeat(4_096), true).is_ok());
    }

    proptest! {
        #[test]
        fn any_topic_is_read_or_refused_inside_of_it(text in "([{}%+#/]|device|id|\\PC){0,12}") {
            match TopicTemplate::parse(&text, true) {
                Ok(topic) => prop_assert!(!topic.resolve("f", "g").contains(['+', '#', '\0'])),
                Err((at, ..)) => prop_assert!(text.is_char_boundary(at)),
            }
        }
    }
}
