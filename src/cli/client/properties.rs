//! `-D COMMAND PROPERTY VALUE`: properties of MQTT 5.

use bytes::Bytes;
use bytestring::ByteString;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use paquebot_protocols::mqtt::{self, PropertySet};

use super::{Purpose, usage};
use crate::cli::CommandError;

const ID: &str = "property";

/// The flag's values, one list for each time it was given.
#[derive(Debug, Clone, Default)]
pub(super) struct Properties(Vec<Vec<String>>);

/// The values, read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) connect: mqtt::Properties,
    pub(super) will: mqtt::Properties,
    pub(super) publish: mqtt::Properties,
}

/// The packets whose properties can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connect,
    Will,
    Publish,
}

impl Read {
    pub(super) fn is_empty(&self) -> bool {
        self.connect.is_empty() && self.will.is_empty() && self.publish.is_empty()
    }
}

// By hand, since the derived code does not tell where one occurrence of a flag ends.
impl Args for Properties {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(ID)
                .short('D')
                .long("property")
                .value_names(["COMMAND", "PROPERTY", "VALUE"])
                .num_args(3..=4)
                .allow_negative_numbers(true)
                .action(ArgAction::Append)
                .help(
                    "MQTT 5 property of connect, will or publish; user-property takes a name and a \
                     value. May be repeated",
                ),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Properties {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = matches.get_occurrences::<String>(ID);
        Ok(Self(
            given
                .into_iter()
                .flatten()
                .map(|values| values.cloned().collect())
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Properties {
    pub(super) fn read(&self, purpose: Purpose) -> Result<Read, CommandError> {
        let mut read = Read::default();
        for values in &self.0 {
            let wrong = |problem: String| usage(format!("-D {}: {problem}", values.join(" ")));
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let [command, property, value @ ..] = values.as_slice() else {
                return Err(wrong(
                    "a command, a property and a value belong to it".into(),
                ));
            };
            let (stage, properties) = match command.to_ascii_lowercase().as_str() {
                "connect" => (Stage::Connect, &mut read.connect),
                "will" => (Stage::Will, &mut read.will),
                "publish" if purpose == Purpose::Publish => (Stage::Publish, &mut read.publish),
                other => return Err(wrong(no_stage(other, purpose))),
            };
            set(stage, property, value, properties.edit()).map_err(wrong)?;
        }
        Ok(read)
    }
}

fn no_stage(command: &str, purpose: Purpose) -> String {
    let own = match purpose {
        Purpose::Publish => ", will or publish",
        Purpose::Subscribe => " or will",
    };
    match command {
        "publish" | "puback" | "pubrec" | "pubrel" | "pubcomp" | "subscribe" | "unsubscribe"
        | "disconnect" | "auth" => {
            format!("properties of {command} cannot be set here; those of connect{own} can")
        }
        _ => format!("{command:?} is no command; use connect{own}"),
    }
}

fn set(stage: Stage, property: &str, value: &[&str], to: &mut PropertySet) -> Result<(), String> {
    use Stage::{Connect, Publish, Will};
    if property == "user-property" {
        let (Will | Publish, [name, value]) = (stage, value) else {
            return Err(match stage {
                Connect => "user properties of connect cannot be set".into(),
                _ => "it takes a name and a value".into(),
            });
        };
        to.user_properties.push((text(name)?, text(value)?));
        return Ok(());
    }
    let [value] = value else {
        return Err("it takes one value".into());
    };
    match (stage, property) {
        (Connect, "session-expiry-interval") => {
            to.session_expiry_interval = Some(super::session_expiry(value)?);
        }
        (Connect, "receive-maximum") => to.receive_maximum = Some(number(value, 1, u16::MAX)?),
        (Connect, "maximum-packet-size") => {
            to.maximum_packet_size = Some(number(value, 1, u32::MAX)?);
        }
        (Will | Publish, "content-type") => to.content_type = Some(text(value)?),
        (Will | Publish, "response-topic") => {
            let topic = mqtt::Topic::new(*value).map_err(|error| error.to_string())?;
            to.response_topic = Some(topic.into_inner());
        }
        (Will | Publish, "correlation-data") => {
            to.correlation_data = Some(Bytes::copy_from_slice(value.as_bytes()));
        }
        (Will | Publish, "payload-format-indicator") => {
            to.payload_format_indicator = Some(number::<u8>(value, 0, 1)? == 1);
        }
        (Will | Publish, "message-expiry-interval") => {
            to.message_expiry_interval = Some(number(value, 0, u32::MAX)?);
        }
        (Will, "will-delay-interval") => to.will_delay_interval = Some(number(value, 0, u32::MAX)?),
        (Publish, "topic-alias") => return Err("topic aliases are the link's own business".into()),
        _ => return Err(no_property(stage)),
    }
    Ok(())
}

fn no_property(stage: Stage) -> String {
    let message = "content-type, correlation-data, message-expiry-interval, payload-format-indicator, \
                   response-topic and user-property";
    match stage {
        Stage::Connect => "the properties of connect that can be set are session-expiry-interval, \
                           receive-maximum and maximum-packet-size"
            .into(),
        Stage::Publish => format!("the properties of publish that can be set are {message}"),
        Stage::Will => {
            format!("the properties of will that can be set are {message}, and will-delay-interval")
        }
    }
}

/// A text that MQTT can carry.
fn text(value: &str) -> Result<ByteString, String> {
    if value.contains('\0') {
        return Err("a text without the character U+0000 is needed [MQTT-1.5.4-2]".into());
    }
    if value.len() > usize::from(u16::MAX) {
        return Err("the text is longer than 65,535 bytes".into());
    }
    Ok(value.into())
}

fn number<T>(value: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    value
        .parse()
        .ok()
        .filter(|number| (&least..=&most).contains(&number))
        .ok_or_else(|| format!("use a number from {least} to {most}"))
}
