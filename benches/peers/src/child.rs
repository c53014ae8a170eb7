//! A contestant's process, seen from the parent. It dies with its handle.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::measure::{ProcessClock, Sample};
use crate::work::Work;

/// How often a spinning peer asks whether its client still lives.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// How long a client may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a contestant may take to end after its connection has.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// The hidden subcommand that makes this program a contestant.
pub(crate) const SUBCOMMAND: &str = "contestant";

/// A running contestant.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    input: ChildStdin,
    lines: Receiver<String>,
    clock: ProcessClock,
    checked: Instant,
}

impl Child {
    /// Starts this program again, as the contestant that `work` names.
    pub(crate) fn start(work: &Work) -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .arg(serde_json::to_string(work)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("the child has no input")?;
        let output = process.stdout.take().ok_or("the child has no output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            clock: ProcessClock::of(process.id())?,
            process,
            input,
            lines,
            checked: Instant::now(),
        })
    }

    /// The CPU time of the contestant.
    pub(crate) fn clock(&self) -> ProcessClock {
        self.clock
    }

    /// Fails once the deadline is over or the contestant has ended. Cheap enough to call in a spin.
    pub(crate) fn check(&mut self, deadline: Instant) -> Result<(), Failure> {
        let now = Instant::now();
        if now > deadline {
            return Err("it took too long and was stopped".into());
        }
        if now - self.checked >= CHECK_EVERY {
            self.checked = now;
            if let Some(status) = self.process.try_wait()? {
                return Err(self.last_words(status).into());
            }
        }
        Ok(())
    }

    /// The figures the contestant reports of itself, if it has.
    pub(crate) fn try_report(&mut self) -> Result<Option<Sample>, Failure> {
        match self.lines.try_recv() {
            Ok(line) => Ok(Some(serde_json::from_str(&line)?)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
        }
    }

    /// The same, waiting for it.
    pub(crate) fn report(&mut self, within: Duration) -> Result<Sample, Failure> {
        let line = self.answer(within)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// How many messages the user's handler has seen.
    pub(crate) fn tally(&mut self) -> Result<u64, Failure> {
        self.input.write_all(b"tally\n")?;
        Ok(self.answer(ANSWER_MAX)?.parse()?)
    }

    /// What went wrong, in the contestant's words if it ended: a connection it dropped says less.
    pub(crate) fn explain(&mut self, error: Failure) -> Failure {
        let deadline = Instant::now() + LAST_WORDS_MAX;
        while Instant::now() < deadline {
            match self.process.try_wait() {
                Ok(Some(status)) => return self.last_words(status).into(),
                _ => std::thread::sleep(CHECK_EVERY),
            }
        }
        error
    }

    fn answer(&mut self, within: Duration) -> Result<String, Failure> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => Err("it took too long and was stopped".into()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait()?;
                Err(self.last_words(status).into())
            }
        }
    }

    fn last_words(&mut self, status: std::process::ExitStatus) -> String {
        let mut text = String::new();
        if let Some(errors) = &mut self.process.stderr {
            // Whatever can be read helps; the status says the rest.
            let _ = errors.take(4096).read_to_string(&mut text);
        }
        let last = text.lines().last().unwrap_or("without a word");
        format!("it ended with {status}: {last}")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it is left.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
