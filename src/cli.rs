//! The command line: parses it, sets up logging, runs one command, turns its end into an exit status.
//!
//! Exit status: 0 done, 1 it went wrong on the way, 2 the command line or a file is wrong and nothing was started.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod bench;
mod check;
mod client;
mod demo;
mod emulate;
mod format;
mod live;
mod packet;
mod preflight;
mod publish;
mod queue;
mod run;
mod subscribe;
mod summary;
mod voyage;

/// A fleet of MQTT devices in one process.
#[derive(Debug, Parser)]
#[command(name = "paquebot", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Run(run::RunArgs),
    Emulate(emulate::EmulateArgs),
    /// Reads a fleet file and says what it would do, without a network.
    Check(check::CheckArgs),
    /// Puts load on a server and tells how it answers.
    Bench(Box<bench::BenchArgs>),
    /// Shows MQTT packets as JSON, and makes them from it.
    Packet(packet::PacketArgs),
    Queue(queue::QueueArgs),
    Pub(publish::PublishArgs),
    Sub(subscribe::SubscribeArgs),
    /// Prints the completion script of a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The command line or a file is wrong: nothing was started.
    #[error("{0}")]
    Usage(String),
    /// It went wrong on the way.
    #[error("{0}")]
    Failed(String),
    /// Writing the output failed.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    match run(arguments.command) {
        Ok(code) => code,
        // The reader of our output has what it wanted.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("paquebot: {error}");
            match error {
                CommandError::Usage(_) => ExitCode::from(2),
                CommandError::Failed(_) | CommandError::Output(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> Result<ExitCode, CommandError> {
    let mut output = BufWriter::new(io::stdout().lock());
    let code = match command {
        Command::Demo(arguments) => demo::run(&arguments, &mut output)?,
        Command::Run(arguments) => run::run(&arguments, &mut output)?,
        Command::Emulate(arguments) => emulate::run(&arguments, &mut output)?,
        Command::Check(arguments) => check::run(&arguments, &mut output, &mut io::stderr().lock())?,
        Command::Bench(arguments) => bench::run(&arguments, &mut output)?,
        Command::Packet(arguments) => {
            packet::run(&arguments, &mut io::stdin().lock(), &mut output)?
        }
        Command::Queue(arguments) => queue::run(&arguments, &mut output)?,
        Command::Pub(arguments) => publish::run(&arguments)?,
        Command::Sub(arguments) => subscribe::run(&arguments, &mut output)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "paquebot", &mut output);
            ExitCode::SUCCESS
        }
    };
    output.flush()?;
    Ok(code)
}

/// This program as its caller named it, for command lines that are to be repeated.
fn program() -> String {
    let typed = std::env::args_os().next().unwrap_or_default();
    let typed = typed.to_string_lossy();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+:@\\".contains(letter);
    if typed.is_empty() {
        "paquebot".to_owned()
    } else if typed.chars().all(is_plain) {
        typed.into_owned()
    } else {
        format!("'{}'", typed.replace('\'', r"'\''"))
    }
}

/// Logs go to standard error, with colours only on a terminal, at `warn` unless `PAQUEBOT_LOG` says otherwise (`paquebot=debug`, …).
fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("PAQUEBOT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A log file is read by programs too; and https://no-color.org.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && !is_plain)
        .with_writer(io::stderr)
        .init();
}
