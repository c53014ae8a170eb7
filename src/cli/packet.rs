//! `paquebot packet decode | encode`: packets as lines of JSON, so that they can be looked at, diffed
//! and scripted.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use bytes::{Bytes, BytesMut};
use clap::{Args, Subcommand, ValueEnum};
use paquebot_protocols::mqtt::{
    DecodeError, Decoded, Decoder, ErrorKind, Packet, Sender, Version, encode,
};
use serde::{Deserialize, Serialize};

use json::PacketJson;

mod hex;
mod json;

#[derive(Debug, Args)]
pub(crate) struct PacketArgs {
    #[command(subcommand)]
    command: PacketCommand,
}

#[derive(Debug, Subcommand)]
enum PacketCommand {
    /// Reads packets in hexadecimal, one or more a line, and prints a line of JSON for each line.
    ///
    /// A line is answered with {"ok":[PACKET, …]}, with {"incomplete":{"packets":[…],"missing":N}}
    /// when it ends inside a packet, or with {"error":{…},"packets":[…]}. The exit status is 1 if a
    /// line was answered with an error.
    Decode {
        /// Protocol version of the connection the packets belong to.
        #[arg(long, value_enum)]
        version: VersionArg,
        /// Who sent the packets; what that side never sends is refused.
        #[arg(long, value_enum, default_value = "either")]
        from: SenderArg,
    },
    /// Reads packets in JSON, one a line, and prints each in hexadecimal.
    ///
    /// A line that decode printed as {"ok":[…]} is taken too. A bad line is named on standard error
    /// and skipped; the exit status is 1 then.
    Encode {
        /// Protocol version of the connection the packets are for.
        #[arg(long, value_enum)]
        version: VersionArg,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VersionArg {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5")]
    V5,
}

/// A packet in the shape of this command.
pub(super) fn packet_json(packet: &Packet, version: Version) -> serde_json::Value {
    serde_json::to_value(PacketJson::new(packet, version)).unwrap_or_default()
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SenderArg {
    Client,
    Server,
    Either,
}

impl From<VersionArg> for Version {
    fn from(version: VersionArg) -> Self {
        match version {
            VersionArg::V311 => Self::V311,
            VersionArg::V5 => Self::V5,
        }
    }
}

impl From<SenderArg> for Sender {
    fn from(sender: SenderArg) -> Self {
        match sender {
            SenderArg::Client => Self::Client,
            SenderArg::Server => Self::Server,
            SenderArg::Either => Self::Either,
        }
    }
}

/// Runs the command on `input`; messages about bad lines go to standard error.
pub(crate) fn run(
    arguments: &PacketArgs,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> io::Result<ExitCode> {
    let is_good = match arguments.command {
        PacketCommand::Decode { version, from } => {
            decode_lines(version.into(), from.into(), input, output)?
        }
        PacketCommand::Encode { version } => {
            encode_lines(version.into(), input, output, &mut io::stderr().lock())?
        }
    };
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a line of bytes is answered with.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Whole {
        ok: Vec<PacketJson>,
    },
    Prefix {
        incomplete: Incomplete,
    },
    Refused {
        error: ErrorJson,
        packets: Vec<PacketJson>,
    },
}

#[derive(Serialize)]
struct Incomplete {
    packets: Vec<PacketJson>,
    missing: Option<usize>,
}

#[derive(Serialize)]
struct ErrorJson {
    kind: &'static str,
    /// Null, as the code is, when the line holds no bytes at all.
    clause: Option<&'static str>,
    reason_code: Option<u8>,
    message: String,
}

/// Whether no line was refused.
fn decode_lines(
    version: Version,
    sender: Sender,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> io::Result<bool> {
    let mut is_good = true;
    let mut line = Vec::new();
    while read_line(input, &mut line)? {
        let answer = match hex::parse(&line) {
            Ok(bytes) => decode_line(version, sender, bytes.into()),
            Err(wrong) => Answer::Refused {
                error: ErrorJson {
                    kind: "malformed",
                    clause: None,
                    reason_code: None,
                    message: wrong.to_string(),
                },
                packets: Vec::new(),
            },
        };
        is_good &= !matches!(answer, Answer::Refused { .. });
        serde_json::to_writer(&mut *output, &answer)?;
        output.write_all(b"\n")?;
    }
    Ok(is_good)
}

/// Each line is a connection of its own.
fn decode_line(version: Version, sender: Sender, mut bytes: Bytes) -> Answer {
    let mut decoder = Decoder::new(version, sender, usize::MAX);
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        match decoder.decode(&mut bytes) {
            Ok(Decoded::Packet(packet)) => packets.push(PacketJson::new(&packet, version)),
            Ok(Decoded::Incomplete { missing }) => {
                return Answer::Prefix {
                    incomplete: Incomplete { packets, missing },
                };
            }
            Err(error) => {
                return Answer::Refused {
                    error: error.into(),
                    packets,
                };
            }
        }
    }
    Answer::Whole { ok: packets }
}

impl From<DecodeError> for ErrorJson {
    fn from(error: DecodeError) -> Self {
        Self {
            kind: match error.kind {
                ErrorKind::Malformed => "malformed",
                ErrorKind::Unsupported => "unsupported",
                ErrorKind::TooLarge => "too_large",
                _ => "protocol",
            },
            clause: Some(error.clause),
            reason_code: Some(error.reason_code.0),
            message: error.message.into_owned(),
        }
    }
}

/// Whether every line was good.
fn encode_lines(
    version: Version,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<bool> {
    let mut is_good = true;
    let mut line = Vec::new();
    let mut number = 0_u64;
    while read_line(input, &mut line)? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match encode_line(version, &line) {
            Ok(bytes) => writeln!(output, "{}", hex::Lower(&bytes))?,
            Err(wrong) => {
                is_good = false;
                writeln!(errors, "line {number}: {wrong}")?;
            }
        }
    }
    Ok(is_good)
}

/// A line that `decode` printed, told from a packet by its one key.
#[derive(Deserialize)]
struct Probe {
    ok: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decoding {
    ok: Vec<PacketJson>,
}

fn encode_line(version: Version, line: &[u8]) -> Result<BytesMut, String> {
    // The line is named by the caller; serde would call it line 1.
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        let end = format!(" at line {} column {}", error.line(), error.column());
        match text.strip_suffix(&end) {
            Some(text) => format!("column {}: {text}", error.column()),
            None => text,
        }
    };
    let probe: Probe = serde_json::from_slice(line).map_err(wrong)?;
    let packets = if probe.ok.is_some() {
        serde_json::from_slice::<Decoding>(line).map_err(wrong)?.ok
    } else {
        vec![serde_json::from_slice(line).map_err(wrong)?]
    };
    let mut bytes = BytesMut::new();
    for packet in packets {
        let packet: Packet = packet.into_packet(version)?;
        encode(&packet, version, &mut bytes).map_err(|error| error.to_string())?;
    }
    Ok(bytes)
}

/// Reads a line without its end; `false` when there is none left.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if input.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
