//! A real nats-server with JetStream and its MQTT 3.1.1 listener, so that no behaviour is Mosquitto's
//! alone. It has one MQTT listener, which serves QoS 0 and 1.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::certs::{Identity, write_file};
use super::client::Endpoint;
use super::mosquitto::Persistence;
use super::ports::free_port;
use super::server::{self, Launch, Restartable};

/// What a server is to be like, before it starts.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    user: Option<(String, String)>,
    tls: Option<Identity>,
    persistence: Persistence,
}

/// A nats-server, running or stopped. It is killed when dropped, and its log is shown if the test is
/// panicking; its folder goes with it.
#[derive(Debug)]
pub(crate) struct Nats {
    server: Restartable,
    mqtt_port: u16,
    persistence: Persistence,
    folder: TempDir,
}

impl Setup {
    /// Asks MQTT clients for this user name and password.
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Serves TLS, and nothing else, with this certificate.
    pub(crate) fn tls(mut self, server: &Identity) -> Self {
        self.tls = Some(server.clone());
        self
    }

    /// Whether sessions, queued and retained messages outlive the server; off by default.
    pub(crate) fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Starts the server and returns once its listeners are open.
    ///
    /// `None`, with a line on stderr, when nats-server or mosquitto's clients are not installed: the
    /// test is to return.
    ///
    /// # Panics
    ///
    /// When it does not start, or is missing though `PAQUEBOT_REQUIRE_PEERS` is `1`.
    pub(crate) fn start(self) -> Option<Nats> {
        let program = server::find_broker("nats-server")?;
        let folder = server::folder("nats");
        if let Some(identity) = &self.tls {
            identity.write_into(folder.path(), "tls");
        }
        let configuration = folder.path().join("nats.conf");
        let launch = Launch {
            program,
            arguments: vec!["-c".into(), configuration.clone().into()],
            log: folder.path().join("nats.log"),
            ready_line: "Server is ready",
        };
        let (server, mqtt_port) = Restartable::start(launch, || {
            let (mqtt_port, nats_port) = (free_port(), free_port());
            let text = self.configuration(folder.path(), mqtt_port, nats_port);
            write_file(&configuration, &text, 0o600);
            mqtt_port
        });
        Some(Nats {
            server,
            mqtt_port,
            persistence: self.persistence,
            folder,
        })
    }

    fn configuration(&self, folder: &Path, mqtt_port: u16, nats_port: u16) -> String {
        let at = |name: &str| format!("{:?}", folder.join(name).display().to_string());
        let mut mqtt = vec![format!("listen: \"{}:{mqtt_port}\"", Ipv4Addr::LOCALHOST)];
        if let Some((name, password)) = &self.user {
            mqtt.push(format!(
                "authorization {{ username: {name:?}, password: {password:?} }}"
            ));
        }
        if self.tls.is_some() {
            let (certificate, key) = (at("tls.pem"), at("tls.key.pem"));
            mqtt.push(format!(
                "tls {{ cert_file: {certificate}, key_file: {key} }}"
            ));
        }
        format!(
            "server_name: paquebot_test\nlisten: \"{}:{nats_port}\"\n\
             jetstream {{ store_dir: {} }}\nmqtt {{\n{}\n}}\n",
            Ipv4Addr::LOCALHOST,
            at(STORE),
            mqtt.join("\n")
        )
    }
}

/// The folder of JetStream's files, which hold all that MQTT sessions need.
const STORE: &str = "store";

impl Nats {
    /// A server for anybody, without encryption or memory, unless told otherwise.
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// The MQTT listener, for mosquitto's clients.
    pub(crate) fn mqtt(&self) -> Endpoint {
        Endpoint::new(self.mqtt_port)
    }

    /// The MQTT listener's port.
    pub(crate) fn mqtt_port(&self) -> u16 {
        self.mqtt_port
    }

    /// The MQTT listener's address.
    pub(crate) fn mqtt_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.mqtt_port).into()
    }

    /// Stops it in order. Nothing to do when it is down.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }

    /// Kills it. Its files are written as messages come, so that it knows nearly all afterwards.
    /// Nothing to do when it is down.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, after stopping it in order if it is running, on the same ports; with
    /// [`Persistence::Off`] it has forgotten everything.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.stop();
        if self.persistence == Persistence::Off {
            self.forget();
        }
        self.server.start_again();
    }

    /// Freezes the running server: connections stay open and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.server.running().freeze();
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.server.running().thaw();
    }

    /// All that it has logged, over all of its starts.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    fn forget(&self) {
        let store: PathBuf = self.folder.path().join(STORE);
        match fs::remove_dir_all(&store) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                panic!("deleting {} failed: {error}", store.display())
            }
            _ => {}
        }
    }
}
