//! A message as a line of JSON (`%j`, `%J`), with mosquitto's keys in mosquitto's order.

use std::io::{self, Write};

use jiff::Zoned;
use paquebot_protocols::mqtt::Properties;
use serde::de::IgnoredAny;

use super::{Shown, strftime};

/// Writes the message. With `unquoted` its payload is JSON and stands in the object as it is; gives
/// `false`, and writes nothing, if it is none.
pub(super) fn write(
    message: &Shown<'_>,
    time: &Zoned,
    unquoted: bool,
    output: &mut dyn Write,
) -> io::Result<bool> {
    let is_empty = message.payload.is_empty();
    if unquoted && !is_empty && serde_json::from_slice::<IgnoredAny>(message.payload).is_err() {
        return Ok(false);
    }
    let zone = strftime(time, "%z")?;
    let micros = time.subsec_nanosecond() / 1_000;
    let seconds = strftime(time, "%Y-%m-%dT%H:%M:%S")?;
    write!(
        output,
        "{{\"tst\":\"{seconds}.{micros:06}{zone}\",\"topic\":"
    )?;
    string(message.topic, output)?;
    write!(
        output,
        ",\"qos\":{},\"retain\":{},\"payloadlen\":{}",
        message.qos as u8,
        u8::from(message.retain),
        message.payload.len()
    )?;
    if message.packet_id != 0 {
        write!(output, ",\"mid\":{}", message.packet_id)?;
    }
    if !message.properties.is_empty() {
        output.write_all(b",\"properties\":{")?;
        properties(message.properties, output)?;
        output.write_all(b"}")?;
    }
    output.write_all(b",\"payload\":")?;
    if is_empty {
        output.write_all(b"null")?;
    } else if unquoted {
        compact(message.payload, output)?;
    } else {
        string(&String::from_utf8_lossy(message.payload), output)?;
    }
    output.write_all(b"}")?;
    Ok(true)
}

/// The members of the object: those a PUBLISH to a client can have, always in this order; mosquitto's is that
/// of the packet.
fn properties(properties: &Properties, output: &mut dyn Write) -> io::Result<()> {
    let mut separator = "";
    let mut key = |name: &str, output: &mut dyn Write| {
        write!(output, "{separator}\"{name}\":")?;
        separator = ",";
        io::Result::Ok(())
    };
    if let Some(text) = &properties.content_type {
        key("content-type", output)?;
        string(text, output)?;
    }
    if let Some(data) = &properties.correlation_data {
        key("correlation-data", output)?;
        string(&String::from_utf8_lossy(data), output)?;
    }
    if let Some(indicator) = properties.payload_format_indicator {
        key("payload-format-indicator", output)?;
        write!(output, "{}", u8::from(indicator))?;
    }
    if let Some(topic) = &properties.response_topic {
        key("response-topic", output)?;
        string(topic, output)?;
    }
    if !properties.user_properties.is_empty() {
        key("user-properties", output)?;
        // A name that comes twice is there twice, as it is in the packet.
        let mut opening = "{";
        for (name, value) in &properties.user_properties {
            output.write_all(opening.as_bytes())?;
            opening = ",";
            string(name, output)?;
            output.write_all(b":")?;
            string(value, output)?;
        }
        output.write_all(b"}")?;
    }
    for identifier in &properties.subscription_identifiers {
        key("subscription-identifier", output)?;
        write!(output, "{identifier}")?;
    }
    if let Some(seconds) = properties.message_expiry_interval {
        key("message-expiry-interval", output)?;
        write!(output, "{seconds}")?;
    }
    Ok(())
}

fn string(text: &str, output: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(output, text).map_err(io::Error::from)
}

/// Writes JSON that was checked without the blanks between its tokens, so that it stays on one line.
/// Numbers keep their digits.
fn compact(json: &[u8], output: &mut dyn Write) -> io::Result<()> {
    let mut in_string = false;
    let mut escaped = false;
    let mut kept = Vec::with_capacity(json.len());
    for &byte in json {
        if in_string {
            in_string = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        kept.push(byte);
    }
    output.write_all(&kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_go_and_strings_stay() {
        for (json, expected) in [
            (
                " { \"a b\" : [ 1.50 ,\n\t\"x \\\" y\\\\\" ] } ",
                "{\"a b\":[1.50,\"x \\\" y\\\\\"]}",
            ),
            ("\"\"", "\"\""),
            ("  -1e5 ", "-1e5"),
        ] {
            let mut output = Vec::new();
            compact(json.as_bytes(), &mut output).unwrap();
            assert_eq!(String::from_utf8(output).unwrap(), expected);
        }
    }
}
