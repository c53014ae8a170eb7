//! The `paquebot` program as a child process: its output collected, ended with its test.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::wait;

/// A running program. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    output: Collected,
    errors: Collected,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Collected {
    fn from(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                let mut text = collected.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                line.clear();
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }
}

impl Program {
    /// Starts `paquebot` with these arguments, without a terminal.
    #[track_caller]
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_with(&[], arguments)
    }

    /// The same with variables of the environment.
    #[track_caller]
    pub(crate) fn start_with<S: AsRef<std::ffi::OsStr>>(
        variables: &[(&str, &str)],
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::spawn(variables, folder, arguments)
    }

    /// The same in another directory.
    #[track_caller]
    pub(crate) fn start_in<S: AsRef<std::ffi::OsStr>>(
        folder: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::spawn(&[], folder, arguments)
    }

    #[track_caller]
    fn spawn<S: AsRef<std::ffi::OsStr>>(
        variables: &[(&str, &str)],
        folder: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let child = Command::new(option_env!("CARGO_BIN_EXE_paquebot").unwrap_or("paquebot"))
            .args(arguments)
            .envs(variables.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("paquebot did not start: {error}"));
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            panic!("the program's output is not piped");
        };
        Self {
            child,
            output: Collected::from(output),
            errors: Collected::from(errors),
        }
    }

    /// What it has written to standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.text()
    }

    /// What stands behind `title` in a line of standard error, once there is one.
    #[track_caller]
    pub(crate) fn told(&self, title: &str, limit: Duration) -> String {
        wait::until_some(&format!("the program told {title:?}"), limit, || {
            let errors = self.errors();
            let line = errors.lines().find_map(|line| line.strip_prefix(title));
            line.map(|rest| rest.trim().to_owned())
        })
    }

    /// Sends it a signal by name: `TERM`, `INT`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "kill -s {name} failed"
        );
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> Ended {
        let deadline = std::time::Instant::now() + limit;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if std::time::Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                outcome => panic!(
                    "waited {limit:?} in vain for the program's end ({outcome:?}); it said\n{}",
                    self.errors()
                ),
            }
        };
        while !(self.output.reader.is_finished() && self.errors.reader.is_finished()) {
            thread::sleep(Duration::from_millis(1));
        }
        Ended {
            status,
            output: self.output.text(),
            errors: self.errors.text(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The exit status.
    #[track_caller]
    pub(crate) fn code(&self) -> i32 {
        match self.status.code() {
            Some(code) => code,
            None => panic!("ended by a signal: {self:#?}"),
        }
    }

    /// The last line of standard output as JSON, of a program that ended well.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        assert_eq!(self.code(), 0, "{self:#?}");
        let last = self.output.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Checks that the terms of a summary add up, and that it says so.
#[track_caller]
pub(crate) fn assert_accounted_for(summary: &Value) {
    let term = |name: &str| match summary[name].as_u64() {
        Some(count) => count,
        None => panic!("no count {name} in {summary}"),
    };
    let ended = term("delivered") + term("rejected") + term("expired") + term("dropped");
    let ended = ended + term("merged") + term("kept");
    let begun = term("accepted") + term("recovered");
    assert_eq!(begun, ended + term("held"), "{summary}");
    assert_eq!(summary["balanced"], true, "{summary}");
}
