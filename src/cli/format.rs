//! The output formats of `paquebot sub`: the language of `mosquitto_sub -F`.
//!
//! Three characters begin a sequence: `%` a property of the message, `@` a field of strftime for the time
//! of arrival, `\` a character that is hard to type. A format is checked whole before anything is
//! started.
//!
//! It is written as mosquitto's manual says. Where mosquitto 2.0.11 does otherwise the manual wins: a
//! width never cuts a payload short (`%3p`, `%8x`), the width and the precision of a text count characters
//! and not bytes, so that none is cut in two, the `tst` of `%j` has one zone, and a time field that is not
//! known is an error.

use std::io::{self, Write};

use jiff::Zoned;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use paquebot_protocols::mqtt::{Properties, QoS};

mod json;

/// The greatest field width and precision: more is a slip of the hand.
const WIDTH_MAX: usize = 10_000;

/// The fields of strftime that POSIX and the GNU library have and that mean one character.
const TIME_FIELDS: &str = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%";

/// What of a message is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) properties: &'a Properties,
}

/// A format that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Format(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Literal(Vec<u8>),
    Field(Field, Shape),
    /// One field of strftime, as `%X`.
    Time(String),
    Nanoseconds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    TopicAlias,
    ContentType,
    CorrelationData,
    MessageExpiry,
    PayloadFormat,
    IsoTime,
    Json,
    JsonUnquoted,
    Length,
    PacketId,
    UserProperties,
    Payload,
    QoS,
    ResponseTopic,
    Retain,
    SubscriptionIdentifier,
    Topic,
    UnixTime,
    HexLower,
    HexUpper,
}

/// Flags, width and precision of a field, as in `%-010.3t`.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    left: bool,
    zeros: bool,
    width: usize,
    longest: Option<usize>,
}

/// Why a text is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("it ends inside a sequence; write {0}{0} for the character itself")]
    Incomplete(char),
    #[error("%{0} is no field; %t is the topic and %p the payload, see `man mosquitto_sub`")]
    Field(char),
    #[error("@{0} is no field of a time; write @@ for the character @ itself")]
    Time(char),
    #[error("\\{0} is no escape; they are \\\\ \\0 \\a \\e \\n \\r \\t \\v")]
    Escape(char),
    #[error("a width or precision is greater than {WIDTH_MAX}")]
    Width,
}

impl std::str::FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let part = match c {
                '%' => parse_field(&mut rest)?,
                '@' => parse_time(&mut rest)?,
                '\\' => Part::Literal(vec![parse_escape(&mut rest)?]),
                other => Part::Literal(other.to_string().into_bytes()),
            };
            match part {
                Part::Literal(bytes) => literal.extend(bytes),
                part => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(part);
                }
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn parse_field(rest: &mut Characters<'_>) -> Result<Part, FormatError> {
    let mut shape = Shape::default();
    // One flag in mosquitto; its manual has them together (`-` makes `0` mean nothing).
    while let Some(flag) = rest.next_if(|c| matches!(c, '0' | '-')) {
        shape.left |= flag == '-';
        shape.zeros |= flag == '0';
    }
    shape.width = parse_number(rest)?.unwrap_or(0);
    if rest.next_if_eq(&'.').is_some() {
        shape.longest = Some(parse_number(rest)?.unwrap_or(0));
    }
    let field = match rest.next().ok_or(FormatError::Incomplete('%'))? {
        '%' => return Ok(Part::Literal(b"%".to_vec())),
        'A' => Field::TopicAlias,
        'C' => Field::ContentType,
        'D' => Field::CorrelationData,
        'E' => Field::MessageExpiry,
        'F' => Field::PayloadFormat,
        'I' => Field::IsoTime,
        'j' => Field::Json,
        'J' => Field::JsonUnquoted,
        'l' => Field::Length,
        'm' => Field::PacketId,
        'P' => Field::UserProperties,
        'p' => Field::Payload,
        'q' => Field::QoS,
        'R' => Field::ResponseTopic,
        'r' => Field::Retain,
        'S' => Field::SubscriptionIdentifier,
        't' => Field::Topic,
        'U' => Field::UnixTime,
        'x' => Field::HexLower,
        'X' => Field::HexUpper,
        other => return Err(FormatError::Field(other)),
    };
    Ok(Part::Field(field, shape))
}

fn parse_number(rest: &mut Characters<'_>) -> Result<Option<usize>, FormatError> {
    let mut number = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        rest.next();
        let value = number.unwrap_or(0) * 10 + digit as usize;
        if value > WIDTH_MAX {
            return Err(FormatError::Width);
        }
        number = Some(value);
    }
    Ok(number)
}

fn parse_time(rest: &mut Characters<'_>) -> Result<Part, FormatError> {
    match rest.next().ok_or(FormatError::Incomplete('@'))? {
        '@' => Ok(Part::Literal(b"@".to_vec())),
        'N' => Ok(Part::Nanoseconds),
        field if TIME_FIELDS.contains(field) => Ok(Part::Time(format!("%{field}"))),
        other => Err(FormatError::Time(other)),
    }
}

fn parse_escape(rest: &mut Characters<'_>) -> Result<u8, FormatError> {
    Ok(match rest.next().ok_or(FormatError::Incomplete('\\'))? {
        '\\' => b'\\',
        '0' => 0,
        'a' => 0x07,
        'e' => 0x1b,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        other => return Err(FormatError::Escape(other)),
    })
}

impl Format {
    /// Writes a message that arrived at `time`. Gives `false` if the payload was to be shown as JSON and
    /// is none; nothing stands in its place then.
    pub(crate) fn write(
        &self,
        message: &Shown<'_>,
        time: &Zoned,
        output: &mut dyn Write,
    ) -> io::Result<bool> {
        let mut is_complete = true;
        for part in &self.0 {
            match part {
                Part::Literal(bytes) => output.write_all(bytes)?,
                Part::Field(field, shape) => {
                    is_complete &= write_field(*field, *shape, message, time, output)?;
                }
                Part::Time(field) => output.write_all(strftime(time, field)?.as_bytes())?,
                Part::Nanoseconds => write!(output, "{:09}", time.subsec_nanosecond())?,
            }
        }
        Ok(is_complete)
    }
}

fn write_field(
    field: Field,
    shape: Shape,
    message: &Shown<'_>,
    time: &Zoned,
    output: &mut dyn Write,
) -> io::Result<bool> {
    let properties = message.properties;
    match field {
        // The link resolves aliases, so that a message has none.
        Field::TopicAlias => shape.number(None, output)?,
        Field::ContentType => {
            let text = properties.content_type.as_deref().unwrap_or_default();
            shape.text(text, output)?;
        }
        Field::CorrelationData => {
            output.write_all(properties.correlation_data.as_deref().unwrap_or_default())?;
        }
        Field::MessageExpiry => {
            shape.number(properties.message_expiry_interval.map(u64::from), output)?;
        }
        Field::PayloadFormat => {
            shape.number(properties.payload_format_indicator.map(u64::from), output)?;
        }
        Field::IsoTime => shape.text(&strftime(time, "%Y-%m-%dT%H:%M:%S%z")?, output)?,
        Field::Json => return json::write(message, time, false, output),
        Field::JsonUnquoted => return json::write(message, time, true, output),
        Field::Length => shape.number(Some(message.payload.len() as u64), output)?,
        Field::PacketId => shape.number(Some(message.packet_id.into()), output)?,
        Field::UserProperties => {
            for (index, (name, value)) in properties.user_properties.iter().enumerate() {
                let space = if index == 0 { "" } else { " " };
                write!(output, "{space}{name}:{value}")?;
            }
        }
        Field::Payload => shape.bytes(message.payload, output)?,
        Field::QoS => write!(output, "{}", message.qos as u8)?,
        // Without one, mosquitto does not fill the field.
        Field::ResponseTopic => {
            if let Some(topic) = &properties.response_topic {
                shape.text(topic, output)?;
            }
        }
        Field::Retain => write!(output, "{}", u8::from(message.retain))?,
        Field::SubscriptionIdentifier => {
            let first = properties.subscription_identifiers.first();
            shape.number(first.map(|id| u64::from(*id)), output)?;
        }
        Field::Topic => shape.text(message.topic, output)?,
        Field::UnixTime => {
            let timestamp = time.timestamp();
            let nanoseconds = timestamp.subsec_nanosecond();
            write!(output, "{}.{nanoseconds:09}", timestamp.as_second())?;
        }
        Field::HexLower => shape.bytes(&hex(message.payload, b"0123456789abcdef"), output)?,
        Field::HexUpper => shape.bytes(&hex(message.payload, b"0123456789ABCDEF"), output)?,
    }
    Ok(true)
}

impl Shape {
    /// Text is never padded with zeros; its precision is the most it may take.
    fn text(self, text: &str, output: &mut dyn Write) -> io::Result<()> {
        let longest = self.longest.unwrap_or(usize::MAX);
        let end = text
            .char_indices()
            .nth(longest)
            .map_or(text.len(), |(at, _)| at);
        let shown = &text[..end];
        let blanks = Self {
            zeros: false,
            ..self
        };
        blanks.pad(shown.chars().count(), shown.as_bytes(), output)
    }

    fn bytes(self, bytes: &[u8], output: &mut dyn Write) -> io::Result<()> {
        self.pad(bytes.len(), bytes, output)
    }

    /// A number that is not there fills its field like an empty one.
    fn number(self, number: Option<u64>, output: &mut dyn Write) -> io::Result<()> {
        let digits = number.map(|number| number.to_string()).unwrap_or_default();
        self.bytes(digits.as_bytes(), output)
    }

    fn pad(self, length: usize, bytes: &[u8], output: &mut dyn Write) -> io::Result<()> {
        let filler = if self.zeros && !self.left { "0" } else { " " };
        let padding = filler.repeat(self.width.saturating_sub(length));
        let (before, after) = if self.left {
            ("", &*padding)
        } else {
            (&*padding, "")
        };
        output.write_all(before.as_bytes())?;
        output.write_all(bytes)?;
        output.write_all(after.as_bytes())
    }
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| digits[usize::from(nibble)])
        .collect()
}

/// As strftime in the C locale.
fn strftime(time: &Zoned, format: &str) -> io::Result<String> {
    let config = Config::new().custom(PosixCustom::new());
    BrokenDownTime::from(time)
        .to_string_with_config(&config, format)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(payload: &'a [u8], properties: &'a Properties) -> Shown<'a> {
        Shown {
            topic: "r/a",
            payload,
            qos: QoS::AtLeastOnce,
            retain: true,
            packet_id: 7,
            properties,
        }
    }

    fn time() -> Zoned {
        "2026-03-09T04:05:06.000012345+01:00[+01:00]"
            .parse()
            .unwrap()
    }

    fn written(format: &str, message: &Shown<'_>) -> String {
        let format: Format = format.parse().unwrap();
        let mut output = Vec::new();
        assert!(format.write(message, &time(), &mut output).unwrap());
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn every_field_has_its_width_flags_and_precision() {
        let mut properties = Properties::default();
        let set = properties.edit();
        set.content_type = Some("text/plain".into());
        set.response_topic = Some("r/r".into());
        set.correlation_data = Some(b"co".as_slice().into());
        set.message_expiry_interval = Some(99);
        set.payload_format_indicator = Some(true);
        set.subscription_identifiers = vec![5, 6];
        set.user_properties = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
        let message = shown(b"hello", &properties);
        for (format, text) in [
            (
                "%t|%5t|%-5t|%05t|%5.2t|%.0t",
                "r/a|  r/a|r/a  |  r/a|   r/|",
            ),
            (
                "%p|%7p|%-7p|%07p|%.2p|%3p",
                "hello|  hello|hello  |00hello|hello|hello",
            ),
            ("%q%r|%5q", "11|1"),
            ("%l|%4l|%04l|%-4l|%-04l", "5|   5|0005|5   |5   "),
            ("%m|%03m", "7|007"),
            ("%x|%X|%12x", "68656c6c6f|68656C6C6F|  68656c6c6f"),
            (
                "%C|%12C|%-12C|%.4C",
                "text/plain|  text/plain|text/plain  |text",
            ),
            ("%R|%5R|%.1R", "r/r|  r/r|r"),
            ("%D|%5D|%P|%9P", "co|co|k:1 k:2|k:1 k:2"),
            ("%E|%05E|%F|%3F|%S|%02S|%A|%2A", "99|00099|1|  1|5|05||  "),
            (
                "%I|%.4I|%26I",
                "2026-03-09T04:05:06+0100|2026|  2026-03-09T04:05:06+0100",
            ),
            ("%U|@s.@N", "1773025506.000012345|1773025506.000012345"),
            (
                "@Y-@m-@d @H:@M:@S @z @@ %% @%",
                "2026-03-09 04:05:06 +0100 @ % %",
            ),
            (
                "@c|@x|@X|@D",
                "Mon Mar  9 04:05:06 2026|03/09/26|04:05:06|03/09/26",
            ),
            ("\\\\a\\0\\a\\e\\n\\r\\t\\v", "\\a\0\x07\x1b\n\r\t\x0b"),
            ("über %t", "über r/a"),
            ("", ""),
        ] {
            assert_eq!(written(format, &message), text, "{format}");
        }
    }

    #[test]
    fn what_a_message_has_not_is_empty_or_blank() {
        let properties = Properties::default();
        let message = shown(b"", &properties);
        assert_eq!(written("%C%D%E%F%P%R%S%A%p%x", &message), "");
        assert_eq!(written("[%3C%3R%3D%3E%03E]", &message), "[      000]");
    }

    #[test]
    fn every_time_field_can_be_written() {
        let properties = Properties::default();
        for field in TIME_FIELDS.chars() {
            assert!(!written(&format!("@{field}"), &shown(b"", &properties)).is_empty());
        }
    }

    #[test]
    fn what_is_no_format_is_named() {
        for (text, error) in [
            ("%", FormatError::Incomplete('%')),
            ("%5", FormatError::Incomplete('%')),
            ("%5.", FormatError::Incomplete('%')),
            ("a@", FormatError::Incomplete('@')),
            ("a\\", FormatError::Incomplete('\\')),
            ("%i", FormatError::Field('i')),
            ("%5é", FormatError::Field('é')),
            ("@Q", FormatError::Time('Q')),
            ("\\z", FormatError::Escape('z')),
            ("%10001t", FormatError::Width),
            ("%99999999999999999999999t", FormatError::Width),
        ] {
            assert_eq!(text.parse::<Format>().map(|_| ()), Err(error), "{text}");
        }
        assert!("%10000t".parse::<Format>().is_ok());
    }

    #[test]
    fn a_payload_that_is_no_json_leaves_nothing_in_its_place() {
        let properties = Properties::default();
        let format: Format = "[%J]".parse().unwrap();
        let mut output = Vec::new();
        let complete = format.write(&shown(b"nope", &properties), &time(), &mut output);
        assert_eq!(
            (complete.unwrap(), output.as_slice()),
            (false, b"[]".as_slice())
        );
    }
}
