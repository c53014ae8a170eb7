//! `paquebot pub` and `paquebot sub` as a script uses them.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Endpoint;
use super::program::{Ended, Program};

/// How long a command may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How a program ended, with its output as bytes.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

impl From<(Output, Duration)> for Ran {
    fn from((output, took): (Output, Duration)) -> Self {
        Self {
            code: output.status.code(),
            output: output.stdout,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }
}

/// The arguments of a command for a broker.
pub(crate) fn arguments(command: &str, endpoint: &Endpoint, more: &[&str]) -> Vec<OsString> {
    let mut arguments = vec![OsString::from(command)];
    arguments.extend(endpoint.arguments());
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

/// Runs `paquebot` with `input` as standard input, to its end. Its own limits end it: give a command that may
/// wait for ever a `-W`.
#[track_caller]
pub(crate) fn run(arguments: &[OsString], input: &[u8]) -> Ran {
    run_with(arguments, input, &[])
}

/// The same with variables of the environment.
#[track_caller]
pub(crate) fn run_with(arguments: &[OsString], input: &[u8], variables: &[(&str, &str)]) -> Ran {
    let started = Instant::now();
    let child = Command::new(option_env!("CARGO_BIN_EXE_paquebot").unwrap_or("paquebot"))
        .args(arguments)
        .env_remove("PAQUEBOT_USERNAME")
        .env_remove("PAQUEBOT_PASSWORD")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("paquebot did not start: {error}"));
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        // A command that does not read its input closes it.
        stdin.map(|mut stdin| stdin.write_all(&input))
    });
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("paquebot did not end: {error}"));
    let _ = feeder.join();
    Ran::from((output, started.elapsed()))
}

/// `paquebot pub`, which has to succeed and to say nothing.
#[track_caller]
pub(crate) fn publish(endpoint: &Endpoint, more: &[&str]) {
    publish_from(endpoint, more, b"");
}

/// The same with standard input.
#[track_caller]
pub(crate) fn publish_from(endpoint: &Endpoint, more: &[&str], input: &[u8]) {
    let ran = run(&arguments("pub", endpoint, more), input);
    assert_eq!(
        (ran.code, &*ran.errors),
        (Some(0), ""),
        "pub {more:?}: {ran:?}"
    );
    assert!(ran.output.is_empty(), "pub {more:?}: {ran:?}");
}

/// `paquebot sub` that runs and is subscribed.
#[derive(Debug)]
pub(crate) struct Subscriber(Program);

impl Subscriber {
    #[track_caller]
    pub(crate) fn start(endpoint: &Endpoint, more: &[&str]) -> Self {
        let mut all = vec!["-d"];
        all.extend_from_slice(more);
        let program = Program::start(arguments("sub", endpoint, &all));
        program.told("paquebot: subscribed to", LIMIT);
        Self(program)
    }

    pub(crate) fn program(&self) -> &Program {
        &self.0
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn finish(self) -> Ended {
        self.0.finish(LIMIT)
    }

    /// Waits for its end, which has to be a good one; gives what it printed.
    #[track_caller]
    pub(crate) fn printed(self) -> String {
        let ended = self.finish();
        assert_eq!(ended.code(), 0, "{ended:#?}");
        ended.output
    }
}
