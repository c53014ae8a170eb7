//! JSON as the services keep it: every number stays the text it came as, so that no digit is lost between
//! what a device reports and what it reads back. Numbers still compare by value.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object; the keys are sorted, so equal documents are equal texts.
pub(crate) type Object = BTreeMap<String, Json>;

/// How many objects and arrays may stand inside each other before a text is refused unread.
const LEVELS_MAX: usize = 100;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

/// Why bytes are no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// They are not UTF-8.
    Encoding,
    /// They are text, and not JSON.
    Syntax,
    /// More than [`LEVELS_MAX`] levels.
    TooDeep,
}

impl Json {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Encoding)?;
        if has_more_levels(text, LEVELS_MAX) {
            return Err(JsonError::TooDeep);
        }
        parse_value(text)
    }

    pub(crate) fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_number(&self) -> Option<&Number> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The public form, for tests: integers of 64 bits are exact, everything else is as near as an `f64`.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(number) => serde_json::from_str(&number.0).unwrap_or_default(),
            Self::String(text) => text.as_str().into(),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), value.to_value()))
                .collect(),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(&number.0),
            Self::String(text) => write_text(text, out),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(fields) => write_object(fields, out),
        }
    }
}

/// The compact text of an object.
pub(crate) fn object_text(fields: &Object) -> String {
    let mut out = String::new();
    write_object(fields, &mut out);
    out
}

/// An object of the fields that have a value.
pub(crate) fn object<const N: usize>(fields: [(&str, Option<Json>); N]) -> Object {
    fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

fn write_object(fields: &Object, out: &mut String) {
    out.push('{');
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_text(key, out);
        out.push(':');
        value.write(out);
    }
    out.push('}');
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                // Writing into a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(Number::from(number))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Object> for Json {
    fn from(fields: Object) -> Self {
        Self::Object(fields)
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(Number(number.to_string().into())),
            Value::String(text) => Self::String(text.clone()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            Value::Object(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::from(value)))
                    .collect(),
            ),
        }
    }
}

/// A number as JSON writes it.
#[derive(Debug, Clone)]
pub(crate) struct Number(Box<str>);

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl Number {
    /// From a text; `None` when it is not a JSON number.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        match Json::parse(text.as_bytes()).ok()? {
            Json::Number(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.decimal().is_some_and(|decimal| decimal.negative)
    }

    /// The number, when it is whole and fits: `2`, `2.0` and `20e-1` are all 2.
    pub(crate) fn as_i128(&self) -> Option<i128> {
        let decimal = self.decimal()?;
        let zeros = usize::try_from(decimal.exponent).ok()?;
        if zeros > 30 || decimal.digits.len() > 30 {
            return None;
        }
        let mut text = decimal.digits;
        if text.is_empty() {
            return Some(0);
        }
        text.extend(std::iter::repeat_n('0', zeros));
        let magnitude: i128 = text.parse().ok()?;
        Some(if decimal.negative {
            -magnitude
        } else {
            magnitude
        })
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        u64::try_from(self.as_i128()?).ok()
    }

    fn decimal(&self) -> Option<Decimal> {
        let (negative, text) = match self.0.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, &*self.0),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        let shift = i64::try_from(fraction.len()).ok()?;
        let trailing = i64::try_from(digits.len() - significant.len()).ok()?;
        let exponent = exponent.checked_sub(shift)?.checked_add(trailing)?;
        let digits = significant.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Decimal::default());
        }
        Some(Decimal {
            negative,
            digits,
            exponent,
        })
    }
}

/// ± digits × 10^exponent, with no zero at either end of the digits: equal values have equal forms.
#[derive(Debug, Default, PartialEq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self.decimal(), other.decimal()) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.0 == other.0,
        }
    }
}

/// Whether brackets stand deeper in each other than a maximum, in a text that need not be JSON.
fn has_more_levels(text: &str, levels_max: usize) -> bool {
    let (mut level, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => level += 1,
            b'}' | b']' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
        if level > levels_max {
            return true;
        }
    }
    false
}

/// A value that is no deeper than the stack bears.
fn parse_value(text: &str) -> Result<Json, JsonError> {
    let syntax = |_| JsonError::Syntax;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let first = text.as_bytes().first().ok_or(JsonError::Syntax)?;
    match first {
        b'{' => {
            let Fields(fields) = serde_json::from_str(text).map_err(syntax)?;
            let fields: Result<_, _> = fields
                .into_iter()
                .map(|(key, raw)| Ok((key, parse_value(raw.get())?)))
                .collect();
            fields.map(Json::Object)
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(syntax)?;
            let items: Result<_, _> = items
                .into_iter()
                .map(|raw| parse_value(raw.get()))
                .collect();
            items.map(Json::Array)
        }
        b'-' | b'0'..=b'9' => {
            // `RawValue` checks the grammar and leaves the digits alone.
            let raw: &RawValue = serde_json::from_str(text).map_err(syntax)?;
            Ok(Json::Number(Number(raw.get().into())))
        }
        b'"' => serde_json::from_str(text).map(Json::String).map_err(syntax),
        b't' | b'f' => serde_json::from_str(text).map(Json::Bool).map_err(syntax),
        _ if text == "null" => Ok(Json::Null),
        _ => Err(JsonError::Syntax),
    }
}

/// The fields of an object with their values unread; of a key that comes twice the last counts.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_number_keeps_every_digit() {
        for text in [
            "18446744073709551616",
            "-123456789012345678901234567890",
            "0.10000000000000000000001",
            "1.0",
            "1e400",
            "-0",
        ] {
            let document = format!("{{\"n\":[{text}]}}");
            assert_eq!(parse(&document).to_string(), document);
        }
    }

    #[test]
    fn numbers_compare_by_value() {
        for (left, right) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("1E+2", "100.00"),
            ("0", "-0.0"),
            ("0.5", "5e-1"),
        ] {
            assert_eq!(parse(left), parse(right), "{left} and {right}");
        }
        for (left, right) in [
            ("1", "-1"),
            ("10", "1"),
            ("9007199254740993", "9007199254740992"),
            ("0.1", "0.10000000000000000001"),
            ("1", "\"1\""),
        ] {
            assert_ne!(parse(left), parse(right), "{left} and {right}");
        }
    }

    #[test]
    fn a_whole_number_is_read_however_it_is_written() {
        for (text, number) in [
            ("2", Some(2)),
            ("2.0", Some(2)),
            ("20e-1", Some(2)),
            ("0.0", Some(0)),
            ("2.5", None),
            ("-1", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1e400", None),
        ] {
            assert_eq!(Number::from_text(text).unwrap().as_u64(), number, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_by_kind() {
        for text in [
            "",
            " ",
            "{",
            "{]",
            "nul",
            "01",
            "1.",
            "+1",
            "{\"a\":}",
            "[1,]",
            "1 2",
            "\"\\ud800\"",
            "{\"a\":01}",
            "tru",
            "'a'",
        ] {
            assert_eq!(
                Json::parse(text.as_bytes()),
                Err(JsonError::Syntax),
                "{text}"
            );
        }
        assert_eq!(Json::parse(b"\"\xff\""), Err(JsonError::Encoding));
    }

    #[test]
    fn a_text_of_endless_brackets_is_refused_without_being_followed() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Json::parse(deep(LEVELS_MAX).as_bytes()).is_ok());
        let error = Json::parse(deep(LEVELS_MAX + 1).as_bytes());
        assert_eq!(error, Err(JsonError::TooDeep));
        let error = Json::parse("[".repeat(100_000).as_bytes());
        assert_eq!(error, Err(JsonError::TooDeep));
        let brackets = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1000));
        assert!(Json::parse(brackets.as_bytes()).is_ok(), "in a string");
    }

    #[test]
    fn texts_are_escaped_and_read_back() {
        let json = Json::String("a\"\\\n\r\t\u{1}ü\u{1f600}".to_owned());
        let text = json.to_string();
        assert_eq!(text, "\"a\\\"\\\\\\n\\r\\t\\u0001ü\u{1f600}\"");
        assert_eq!(parse(&text), json);
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_counts() {
        assert_eq!(parse(r#"{"a":1,"a":2}"#), parse(r#"{"a":2}"#));
    }
}
