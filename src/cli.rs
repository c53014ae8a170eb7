//! The command line.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod packet;

/// A fleet of MQTT devices in one process.
#[derive(Debug, Parser)]
#[command(name = "paquebot", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows MQTT packets as JSON, and makes them from it.
    Packet(packet::PacketArgs),
}

pub(crate) fn main() -> ExitCode {
    let Arguments {
        command: Command::Packet(arguments),
    } = Arguments::parse();
    let mut output = BufWriter::new(io::stdout().lock());
    let outcome = packet::run(&arguments, &mut io::stdin().lock(), &mut output)
        .and_then(|code| output.flush().map(|()| code));
    match outcome {
        Ok(code) => code,
        // The reader of our output has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paquebot: {error}");
            ExitCode::FAILURE
        }
    }
}
