//! A foreign server as a child process: found, started until it is ready, stopped or killed by its
//! process id, its log kept.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::wait;

/// How long a server may take until it says that it is ready, or until it has ended.
const DEADLINE: Duration = Duration::from_secs(20);

/// How often a start is tried with other ports when somebody was quicker to take one.
const PORT_ATTEMPTS: u32 = 10;

/// How much of a log a failing test shows, counted from its end.
const LOG_SHOWN_BYTES: usize = 64 * 1024;

/// Finds a program of a foreign peer, in `PATH` or in the folders of system programs that an ordinary
/// user's `PATH` may lack.
///
/// `None`, with the program's name on stderr, when it is not installed: the test is to return.
///
/// # Panics
///
/// When it is not installed and `PAQUEBOT_REQUIRE_PEERS` is `1`.
pub(crate) fn find_peer(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        assert!(
            env::var_os("PAQUEBOT_REQUIRE_PEERS").is_none_or(|value| value != "1"),
            "{program} is not installed and PAQUEBOT_REQUIRE_PEERS=1: run tests/run to install it"
        );
        let test = thread::current();
        let line = format!(
            "skipped {}: {program} is not installed (tests/run installs it)\n",
            test.name().unwrap_or("a test")
        );
        // Written past the capture of passing tests' output, which would hide it, and in one piece.
        io::stderr().write_all(line.as_bytes()).ok();
    }
    found
}

/// As [`find_peer`] for a broker that is tested with mosquitto's clients, which are wanted too.
pub(crate) fn find_broker(program: &str) -> Option<PathBuf> {
    let broker = find_peer(program)?;
    find_peer("mosquitto_pub")?;
    find_peer("mosquitto_sub")?;
    Some(broker)
}

/// A folder for what a server reads and writes.
pub(crate) fn folder(program: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("paquebot-{program}-"))
        .tempdir()
        .unwrap_or_else(|error| panic!("making a temporary folder failed: {error}"))
}

/// How to start a server, as often as wanted.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Where its output goes; a further start appends.
    pub(crate) log: PathBuf,
    /// What it logs once all of its listeners are open. A connection that succeeds would say less: it
    /// may have reached another process's server on the same port.
    pub(crate) ready_line: &'static str,
}

/// Why a server did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another process has one of the ports: try others, or try again.
    AddressInUse,
    /// Anything else, in words.
    Failed(String),
}

/// A running server. It is killed when dropped, and its log is shown if the test is panicking.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Launch {
    /// Starts the server and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Server, StartError> {
        let failed = |action: &str, error: io::Error| {
            StartError::Failed(format!("{action} {}: {error}", self.program.display()))
        };
        let output = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| failed("opening the log of", error))?;
        let log_start = output
            .metadata()
            .map_err(|error| failed("looking at the log of", error))?
            .len();
        let errors = output
            .try_clone()
            .map_err(|error| failed("opening the log of", error))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed("starting", error))?;
        let mut server = Server {
            child,
            log: self.log.clone(),
            name: program_name(&self.program),
        };

        let outcome = wait::until_some(
            &format!("{} said {:?}", server.name, self.ready_line),
            DEADLINE,
            || {
                // Asked before the log is read: what an ended server wrote is then all there.
                let ended = server.child.try_wait().ok().flatten();
                let log = read_from(&self.log, log_start);
                match ended {
                    Some(status) => Some(Err(start_error(&server.name, status, &log))),
                    None => log.contains(self.ready_line).then_some(Ok(())),
                }
            },
        );
        outcome.map(|()| server)
    }

    /// Starts it again on the same ports, for as long as they are held by what is just ending.
    pub(crate) fn start_again(&self) -> Server {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.start() {
                Ok(server) => return server,
                Err(StartError::AddressInUse) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    panic!("{} did not start again: {error:?}", self.program.display())
                }
            }
        }
    }
}

impl Server {
    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// When it takes longer than 20 seconds; it is killed then.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let name = self.name.clone();
        wait::until(&format!("{name} ended after SIGTERM"), DEADLINE, || {
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
    }

    /// Ends it at once (SIGKILL): it saves nothing and says no goodbye.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Freezes it (SIGSTOP): its connections stay open and nothing is read or answered, like a peer
    /// behind a network that swallows everything.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on (SIGCONT) after [`Server::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// The standard library sends SIGKILL only; the shell's own `kill` knows the others and is
    /// everywhere. The process has not been waited for, so the id cannot be another's by now.
    fn signal(&self, signal: &str) {
        let script = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("sh").arg("-c").arg(&script).status();
        match status {
            Ok(status) if status.success() => {}
            outcome => panic!("{script} for {} failed: {outcome:?}", self.name),
        }
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            show_log(&self.name, &self.log);
        }
    }
}

/// A server that may be stopped and started again on the same ports. It is killed when dropped, and its log is shown
/// if the test is panicking.
#[derive(Debug)]
pub(crate) struct Restartable {
    running: Option<Server>,
    launch: Launch,
}

impl Restartable {
    /// Starts a server with the ports that `configure` chose and wrote down; with others if somebody was quicker to
    /// take one.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub(crate) fn start<P>(launch: Launch, mut configure: impl FnMut() -> P) -> (Self, P) {
        for _ in 0..PORT_ATTEMPTS {
            let ports = configure();
            match launch.start() {
                Ok(server) => {
                    let running = Some(server);
                    return (Self { running, launch }, ports);
                }
                Err(StartError::AddressInUse) => {}
                Err(StartError::Failed(reason)) => panic!("{reason}"),
            }
        }
        let name = program_name(&launch.program);
        panic!("{name} found its ports taken {PORT_ATTEMPTS} times");
    }

    /// Stops it in order. Nothing to do when it is down.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.running.take() {
            server.stop();
        }
    }

    /// Kills it. Nothing to do when it is down.
    pub(crate) fn kill(&mut self) {
        if let Some(server) = self.running.take() {
            server.kill();
        }
    }

    /// Starts it again, after [`Restartable::stop`] or [`Restartable::kill`].
    pub(crate) fn start_again(&mut self) {
        self.running = Some(self.launch.start_again());
    }

    /// The server, which has to be up.
    pub(crate) fn running(&self) -> &Server {
        match &self.running {
            Some(server) => server,
            None => panic!("{} is down", program_name(&self.launch.program)),
        }
    }

    /// All that it has logged, over all of its starts.
    pub(crate) fn log(&self) -> String {
        read_from(&self.launch.log, 0)
    }
}

impl Drop for Restartable {
    fn drop(&mut self) {
        // A running server shows its log itself.
        if self.running.is_none() && thread::panicking() {
            let name = program_name(&self.launch.program);
            show_log(&format!("{name} (stopped)"), &self.launch.log);
        }
    }
}

/// Shows the end of a log in the output of a test that fails.
fn show_log(name: &str, log: &Path) {
    let text = read_from(log, 0);
    let mut start = text.len().saturating_sub(LOG_SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    eprintln!(
        "--- log of {name} ---\n{}--- end of the log of {name} ---",
        &text[start..]
    );
}

/// What a log says from byte `start` on; empty when it cannot be read.
fn read_from(log: &Path, start: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = usize::try_from(start)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

fn start_error(name: &str, status: ExitStatus, log: &str) -> StartError {
    if log.to_ascii_lowercase().contains("address already in use") {
        StartError::AddressInUse
    } else {
        StartError::Failed(format!(
            "{name} ended at once with {status}; its log:\n{log}"
        ))
    }
}

fn program_name(program: &Path) -> String {
    program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
