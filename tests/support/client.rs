//! Mosquitto's command-line clients as independent peers: `mosquitto_pub` and `mosquitto_sub`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::certs::{Authority, Identity};
use super::server;

/// How long a client may take to connect, subscribe or publish.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where a broker listens and how to get in, in the arguments that mosquitto's clients (and the
/// `paquebot pub` and `paquebot sub` commands) take.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    credentials: Vec<OsString>,
    /// A process in whose network namespace the clients run.
    beside: Option<u32>,
}

impl Endpoint {
    /// A listener of 127.0.0.1 without credentials.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            credentials: Vec::new(),
            beside: None,
        }
    }

    /// In the network namespace of a process.
    pub(crate) fn beside(mut self, process: u32) -> Self {
        self.beside = Some(process);
        self
    }

    /// With a user name and a password.
    pub(crate) fn user(self, name: &str, password: &str) -> Self {
        self.with(["-u", name, "-P", password])
    }

    /// Over TLS, trusting `authority` and nobody else.
    pub(crate) fn trusting(self, authority: &Authority) -> Self {
        self.with([OsString::from("--cafile"), authority.certificate().into()])
    }

    /// With a client certificate.
    pub(crate) fn identity(self, identity: &Identity) -> Self {
        self.with([
            OsString::from("--cert"),
            identity.certificate.clone().into(),
            OsString::from("--key"),
            identity.key.clone().into(),
        ])
    }

    /// Under another name of the same machine.
    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// `-h`, `-p` and the credentials.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "-h".into(),
            self.host.clone().into(),
            "-p".into(),
            self.port.to_string().into(),
        ];
        arguments.extend(self.credentials.iter().cloned());
        arguments
    }

    fn with(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.credentials
            .extend(arguments.into_iter().map(Into::into));
        self
    }
}

/// How many lines of what a client says are kept.
const SAID_MAX: usize = 1000;

/// How a client ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Everything on stdout that was not a message, and everything on stderr.
    pub(crate) output: String,
}

/// Runs `mosquitto_pub` with the endpoint's and these arguments until it ends, and returns how.
///
/// # Panics
///
/// When it is not installed or takes longer than 20 seconds.
#[track_caller]
pub(crate) fn try_publish(endpoint: &Endpoint, arguments: &[&str]) -> Ended {
    let mut child = spawn("mosquitto_pub", endpoint, arguments);
    let output = collect(&mut child);
    let status = wait_for(&mut child, "mosquitto_pub");
    Ended {
        status,
        output: output.join().unwrap_or_default(),
    }
}

/// Runs `mosquitto_pub`, which has to succeed: at QoS 1 and 2 it ends after the acknowledgement.
#[track_caller]
pub(crate) fn publish(endpoint: &Endpoint, arguments: &[&str]) {
    let ended = try_publish(endpoint, arguments);
    assert!(
        ended.status.success(),
        "mosquitto_pub {arguments:?} ended with {}: {}",
        ended.status,
        ended.output
    );
}

/// A message that `mosquitto_sub` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// MQTT 5's response topic; empty without.
    pub(crate) response_topic: String,
    /// MQTT 5's correlation data; empty without. Only text without tabs and line ends is shown right.
    pub(crate) correlation_data: String,
}

/// What the output format asks for, in the order of [`Received::parse`]: tab-separated, the payload in
/// hexadecimal digits so that any byte survives, the topic last.
const FORMAT: &str = "message:\t%q\t%r\t%x\t%R\t%D\t%t";

impl Received {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("message:\t")?.splitn(6, '\t');
        let qos = fields.next()?.parse().ok()?;
        let retain = fields.next()? == "1";
        let digits = fields.next()?;
        let payload = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        let response_topic = fields.next()?.to_owned();
        let correlation_data = fields.next()?.to_owned();
        let topic = fields.next()?.to_owned();
        Some(Self {
            topic,
            payload,
            qos,
            retain,
            response_topic,
            correlation_data,
        })
    }

    /// The payload as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        match std::str::from_utf8(&self.payload) {
            Ok(text) => text,
            Err(error) => panic!("the payload on {:?} is not text: {error}", self.topic),
        }
    }
}

/// A running `mosquitto_sub`. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// What it said beside messages, for the message of a failing test.
    said: VecDeque<String>,
    errors: Option<thread::JoinHandle<String>>,
}

impl Subscriber {
    /// Starts `mosquitto_sub` with the endpoint's and these arguments (`-t`, `-q`, `-V`, `-C` … but not
    /// `-F`, `-d` or `-v`) and returns once the broker has acknowledged the subscription.
    ///
    /// # Panics
    ///
    /// When it is not installed, or is not subscribed within 20 seconds.
    #[track_caller]
    pub(crate) fn start(endpoint: &Endpoint, arguments: &[&str]) -> Self {
        let mut subscriber = Self::start_unready(endpoint, arguments);
        let deadline = Instant::now() + DEADLINE;
        loop {
            match subscriber.next_line(deadline) {
                Some(line) if line.starts_with("Subscribed (mid: ") => return subscriber,
                Some(_) => {}
                None => panic!(
                    "mosquitto_sub {arguments:?} did not get to subscribe: {}",
                    subscriber.into_account()
                ),
            }
        }
    }

    /// Like [`Subscriber::start`], but waits for nothing: for a client that is to be refused.
    #[track_caller]
    pub(crate) fn start_unready(endpoint: &Endpoint, arguments: &[&str]) -> Self {
        let mut all = vec!["-d", "-F", FORMAT];
        all.extend_from_slice(arguments);
        let mut child = spawn("mosquitto_sub", endpoint, &all);
        let errors = child.stderr.take().map(collect_from);
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            // Ends with the client's output, or when the test no longer listens.
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n') {
                    let Ok(line) = line else { break };
                    if sender
                        .send(String::from_utf8_lossy(&line).into_owned())
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        Self {
            child,
            lines,
            said: VecDeque::new(),
            errors,
        }
    }

    /// The next message.
    ///
    /// # Panics
    ///
    /// When none comes within 20 seconds or the client ends.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Received {
        match self.receive_within(DEADLINE) {
            Some(message) => message,
            None => panic!(
                "no message within {DEADLINE:?}; mosquitto_sub said: {:?}",
                self.said
            ),
        }
    }

    /// The next message, or `None` when none comes in time or the client has ended.
    pub(crate) fn receive_within(&mut self, limit: Duration) -> Option<Received> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.next_line(deadline)?;
            if let Some(message) = Received::parse(&line) {
                return Some(message);
            }
            // The last words tell most, and a judge of millions of messages is told a lot.
            if self.said.len() == SAID_MAX {
                self.said.pop_front();
            }
            self.said.push_back(line);
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the client ends by itself (`-C`, `-W`, a refusal).
    ///
    /// # Panics
    ///
    /// When it has not ended within 20 seconds.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let status = wait_for(&mut self.child, "mosquitto_sub");
        Ended {
            status,
            output: self.into_account(),
        }
    }

    fn next_line(&mut self, deadline: Instant) -> Option<String> {
        self.lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    /// Ends it and tells all that it said.
    fn into_account(mut self) -> String {
        self.child.kill().ok();
        let mut account: Vec<String> = std::mem::take(&mut self.said).into();
        account.extend(self.lines.iter());
        account.extend(self.errors.take().and_then(|errors| errors.join().ok()));
        account.join("\n")
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[track_caller]
fn spawn(program: &str, endpoint: &Endpoint, arguments: &[&str]) -> Child {
    let find = |name: &str| -> PathBuf {
        server::find_peer(name)
            .unwrap_or_else(|| panic!("{name} is not installed, though a test got as far as this"))
    };
    let path = find(program);
    // Into a pipe, the clients would keep what they say until they end: `stdbuf` has them say each line
    // at once, and becomes the client, so that the process id is the client's.
    let mut command = match endpoint.beside {
        Some(process) => {
            let mut command = Command::new(find("nsenter"));
            command.args(["-t", &process.to_string(), "-n"]);
            command.arg(find("stdbuf"));
            command
        }
        None => Command::new(find("stdbuf")),
    };
    command
        .arg("-oL")
        .arg(&path)
        .args(endpoint.arguments())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {} failed: {error}", path.display()))
}

#[track_caller]
fn wait_for(child: &mut Child, name: &str) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            outcome => {
                child.kill().ok();
                child.wait().ok();
                panic!("{name} did not end within {DEADLINE:?} ({outcome:?})");
            }
        }
    }
}

/// Reads both outputs of a client to their ends, in threads so that neither fills up.
fn collect(child: &mut Child) -> thread::JoinHandle<String> {
    let readers: Vec<_> = [
        child.stdout.take().map(collect_from),
        child.stderr.take().map(collect_from),
    ]
    .into_iter()
    .flatten()
    .collect();
    thread::spawn(move || {
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .collect()
    })
}

fn collect_from(mut output: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to tell.
        output.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A [`Subscriber`] for asynchronous tests: its waiting is done on other threads.
#[derive(Debug)]
pub(crate) struct Referee(Option<Subscriber>);

impl Referee {
    /// [`Subscriber::start`].
    pub(crate) async fn start(endpoint: &Endpoint, arguments: &[&str]) -> Self {
        let endpoint = endpoint.clone();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let subscriber = off_the_runtime(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Subscriber::start(&endpoint, &arguments)
        });
        Self(Some(subscriber.await))
    }

    /// [`Subscriber::receive`].
    pub(crate) async fn receive(&mut self) -> Received {
        self.with(Subscriber::receive).await
    }

    /// Receives until `is_enough` says so, then whatever still comes at once and should not.
    pub(crate) async fn collect(
        mut self,
        mut is_enough: impl FnMut(&[Received]) -> bool + Send + 'static,
    ) -> Vec<Received> {
        self.with(move |subscriber| {
            let mut all = Vec::new();
            while !is_enough(&all) {
                all.push(subscriber.receive());
            }
            while let Some(late) = subscriber.receive_within(Duration::from_millis(200)) {
                all.push(late);
            }
            all
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &mut self,
        action: impl FnOnce(&mut Subscriber) -> T + Send + 'static,
    ) -> T {
        let Some(mut subscriber) = self.0.take() else {
            panic!("an earlier wait of this subscriber was given up");
        };
        let (result, subscriber) = off_the_runtime(move || {
            let result = action(&mut subscriber);
            (result, subscriber)
        })
        .await;
        self.0 = Some(subscriber);
        result
    }
}

/// [`publish`] for asynchronous tests.
pub(crate) async fn publish_soon(endpoint: &Endpoint, arguments: &[&str]) {
    let endpoint = endpoint.clone();
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    off_the_runtime(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        publish(&endpoint, &arguments);
    })
    .await;
}

/// Runs what blocks where it may; a panic there is one here.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    action: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
