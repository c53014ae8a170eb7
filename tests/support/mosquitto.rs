//! A real Mosquitto on free ports, with the listeners that a test asks for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::certs::{Authority, Identity, write_file};
use super::client::Endpoint;
use super::network;
use super::ports::free_port;
use super::server::{self, Launch, Restartable};

/// Whether the broker's sessions, queued and retained messages outlive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Persistence {
    /// A restarted broker knows nothing.
    #[default]
    Off,
    /// A restarted broker knows what it knew when it was *stopped*. A killed one knows what it saved
    /// last: nothing, unless [`Setup::line`] sets `autosave_interval`.
    On,
}

/// What a broker is to be like, before it starts.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    plain: bool,
    websocket: bool,
    websocket_tls: Option<Identity>,
    users: Vec<(String, String)>,
    tls: Option<Identity>,
    mutual_tls: Option<(Identity, String)>,
    persistence: Persistence,
    lines: Vec<String>,
    is_apart: bool,
}

/// A Mosquitto, running or stopped. It is killed when dropped, and its log is shown if the test is
/// panicking; its folder goes with it.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    server: Restartable,
    ports: Ports,
    /// Holds the configuration, credentials, database and log until the broker is gone.
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ports {
    plain: Option<u16>,
    websocket: Option<u16>,
    websocket_tls: Option<u16>,
    password: Option<u16>,
    tls: Option<u16>,
    mutual_tls: Option<u16>,
}

impl Setup {
    /// A listener for anybody, without encryption.
    pub(crate) fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// A WebSocket listener for anybody, without encryption.
    pub(crate) fn websocket(mut self) -> Self {
        self.websocket = true;
        self
    }

    /// A WebSocket listener over TLS for anybody, with this server certificate.
    pub(crate) fn websocket_tls(mut self, server: &Identity) -> Self {
        self.websocket_tls = Some(server.clone());
        self
    }

    /// A listener, without encryption, for this user; call it again for more users.
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// A TLS listener for anybody, with this server certificate.
    pub(crate) fn tls(mut self, server: &Identity) -> Self {
        self.tls = Some(server.clone());
        self
    }

    /// A TLS listener for those who have a client certificate of `clients`; its common name is the
    /// user name.
    pub(crate) fn mutual_tls(mut self, server: &Identity, clients: &Authority) -> Self {
        self.mutual_tls = Some((server.clone(), clients.certificate_pem()));
        self
    }

    /// Whether what the broker knows outlives it; off by default.
    pub(crate) fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// A further line of the configuration file's general part, such as `max_queued_messages 100000`.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// In a network namespace of its own: nothing reaches it until a [`Network`](super::network::Network) joins it. It
    /// needs what [`namespaces`](super::network::namespaces) asks for.
    pub(crate) fn apart(mut self) -> Self {
        self.is_apart = true;
        self
    }

    /// Starts the broker and returns once all of its listeners are open.
    ///
    /// `None`, with a line on stderr, when Mosquitto or its clients are not installed: the test is to
    /// return.
    ///
    /// # Panics
    ///
    /// When it does not start, or is missing though `PAQUEBOT_REQUIRE_PEERS` is `1`.
    pub(crate) fn start(self) -> Option<Mosquitto> {
        let program = server::find_broker("mosquitto")?;
        let folder = server::folder("mosquitto");
        self.write_credentials(folder.path())?;
        let configuration = folder.path().join("mosquitto.conf");
        let mut arguments = vec!["-c".into(), configuration.clone().into()];
        let program = if self.is_apart {
            arguments.splice(0..0, network::apart(&program));
            server::find_peer("unshare")?
        } else {
            program
        };
        let launch = Launch {
            program,
            arguments,
            log: folder.path().join("mosquitto.log"),
            ready_line: " running",
        };
        let (server, ports) = Restartable::start(launch, || {
            let ports = self.choose_ports();
            let text = self.configuration(folder.path(), ports);
            write_file(&configuration, &text, 0o644);
            ports
        });
        Some(Mosquitto {
            server,
            ports,
            folder,
        })
    }

    fn choose_ports(&self) -> Ports {
        Ports {
            plain: self.plain.then(free_port),
            websocket: self.websocket.then(free_port),
            websocket_tls: self.websocket_tls.as_ref().map(|_| free_port()),
            password: (!self.users.is_empty()).then(free_port),
            tls: self.tls.as_ref().map(|_| free_port()),
            mutual_tls: self.mutual_tls.as_ref().map(|_| free_port()),
        }
    }

    /// Copies certificates and keys into the broker's folder, so that it can restart whatever became of
    /// the authority's, and has `mosquitto_passwd` make the password file.
    fn write_credentials(&self, folder: &Path) -> Option<()> {
        if let Some(server) = &self.tls {
            server.write_into(folder, "tls");
        }
        if let Some(server) = &self.websocket_tls {
            server.write_into(folder, "websocket");
        }
        if let Some((server, clients)) = &self.mutual_tls {
            server.write_into(folder, "mutual");
            write_file(&folder.join("clients.pem"), clients, 0o644);
        }
        if self.users.is_empty() {
            return Some(());
        }
        let program = server::find_peer("mosquitto_passwd")?;
        let file = folder.join("passwords");
        write_file(&file, "", 0o600);
        for (name, password) in &self.users {
            let output = Command::new(&program)
                .arg("-b")
                .arg(&file)
                .args([name, password])
                .output();
            match output {
                Ok(output) if output.status.success() => {}
                outcome => panic!("mosquitto_passwd for {name} failed: {outcome:?}"),
            }
        }
        Some(())
    }

    fn configuration(&self, folder: &Path, ports: Ports) -> String {
        let at = |name: &str| folder.join(name).display().to_string();
        let certificate = |name: &str| {
            [
                format!("certfile {}", at(&format!("{name}.pem"))),
                format!("keyfile {}", at(&format!("{name}.key.pem"))),
            ]
        };
        let mut lines = vec![
            "per_listener_settings true".to_owned(),
            // Started by root it would become the user `mosquitto`, who may not read the keys.
            "user root".to_owned(),
            "log_dest stderr".to_owned(),
            "log_timestamp true".to_owned(),
            "log_timestamp_format %H:%M:%S".to_owned(),
            "connection_messages true".to_owned(),
            format!("persistence {}", self.persistence == Persistence::On),
            format!("persistence_location {}/", folder.display()),
        ];
        lines.extend(self.lines.iter().cloned());
        if let Some(port) = ports.plain {
            lines.push(if self.is_apart {
                // Its addresses are given to it later.
                format!("listener {port} {}", Ipv4Addr::UNSPECIFIED)
            } else {
                listener(port)
            });
            lines.push("allow_anonymous true".to_owned());
        }
        if let Some(port) = ports.websocket {
            lines.push(listener(port));
            lines.push("protocol websockets".to_owned());
            lines.push("allow_anonymous true".to_owned());
        }
        if let Some(port) = ports.websocket_tls {
            lines.push(listener(port));
            lines.push("protocol websockets".to_owned());
            lines.push("allow_anonymous true".to_owned());
            lines.extend(certificate("websocket"));
        }
        if let Some(port) = ports.password {
            lines.push(listener(port));
            lines.push("allow_anonymous false".to_owned());
            lines.push(format!("password_file {}", at("passwords")));
        }
        if let Some(port) = ports.tls {
            lines.push(listener(port));
            lines.push("allow_anonymous true".to_owned());
            lines.extend(certificate("tls"));
        }
        if let Some(port) = ports.mutual_tls {
            lines.push(listener(port));
            lines.push("allow_anonymous false".to_owned());
            lines.extend(certificate("mutual"));
            lines.push(format!("cafile {}", at("clients.pem")));
            lines.push("require_certificate true".to_owned());
            lines.push("use_identity_as_username true".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn listener(port: u16) -> String {
    format!("listener {port} {}", Ipv4Addr::LOCALHOST)
}

impl Mosquitto {
    /// A broker without listeners; ask for at least one.
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// The listener for anybody, for mosquitto's clients.
    #[track_caller]
    pub(crate) fn plain(&self) -> Endpoint {
        Endpoint::new(wanted(self.ports.plain, "plain"))
    }

    /// The listener that asks for a password; give it one with [`Endpoint::user`].
    #[track_caller]
    pub(crate) fn password(&self) -> Endpoint {
        Endpoint::new(wanted(self.ports.password, "user"))
    }

    /// The TLS listener; say whom to trust with [`Endpoint::trusting`].
    #[track_caller]
    pub(crate) fn tls(&self) -> Endpoint {
        Endpoint::new(wanted(self.ports.tls, "tls"))
    }

    /// The TLS listener that asks for a certificate; give it one with [`Endpoint::identity`].
    #[track_caller]
    pub(crate) fn mutual_tls(&self) -> Endpoint {
        Endpoint::new(wanted(self.ports.mutual_tls, "mutual_tls"))
    }

    /// The port of the listener for anybody.
    #[track_caller]
    pub(crate) fn plain_port(&self) -> u16 {
        wanted(self.ports.plain, "plain")
    }

    /// The address of the listener for anybody.
    #[track_caller]
    pub(crate) fn plain_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain_port()).into()
    }

    /// The port of the WebSocket listener.
    #[track_caller]
    pub(crate) fn websocket_port(&self) -> u16 {
        wanted(self.ports.websocket, "websocket")
    }

    /// The port of the WebSocket listener over TLS.
    #[track_caller]
    pub(crate) fn websocket_tls_port(&self) -> u16 {
        wanted(self.ports.websocket_tls, "websocket_tls")
    }

    /// The port of the listener that asks for a password.
    #[track_caller]
    pub(crate) fn password_port(&self) -> u16 {
        wanted(self.ports.password, "user")
    }

    /// The port of the TLS listener.
    #[track_caller]
    pub(crate) fn tls_port(&self) -> u16 {
        wanted(self.ports.tls, "tls")
    }

    /// The port of the TLS listener that asks for a certificate.
    #[track_caller]
    pub(crate) fn mutual_tls_port(&self) -> u16 {
        wanted(self.ports.mutual_tls, "mutual_tls")
    }

    /// Stops it in order: it saves what it knows if [`Persistence::On`]. Nothing to do when it is down.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }

    /// Kills it: what it has not saved is lost. Nothing to do when it is down.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, after stopping it in order if it is running, on the same ports and with the
    /// folder of before.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.server.start_again();
    }

    /// Gives the TLS listener another certificate, from its next start on.
    pub(crate) fn replace_tls(&self, server: &Identity) {
        server.write_into(self.folder.path(), "tls");
    }

    /// Freezes the running broker: connections stay open and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.server.running().freeze();
    }

    /// Lets a frozen broker go on.
    pub(crate) fn thaw(&self) {
        self.server.running().thaw();
    }

    /// The running broker's process id.
    pub(crate) fn id(&self) -> u32 {
        self.server.running().id()
    }

    /// All that it has logged, over all of its starts.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }
}

#[track_caller]
fn wanted(port: Option<u16>, verb: &str) -> u16 {
    match port {
        Some(port) => port,
        None => panic!("this broker was set up without `{verb}`"),
    }
}
