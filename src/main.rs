//! The `paquebot` program.

use std::process::ExitCode;

mod cli;
mod simulation;

fn main() -> ExitCode {
    cli::main()
}
