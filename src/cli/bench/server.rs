//! The server under load: the one the flags name, or the embedded one.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use paquebot::dialect::plain::{Plain, Topics};
use paquebot::mqtt::{QoS, Subscription, TopicFilter, Version};
use paquebot::{Fleet, GroupBuilder};
use paquebot_emulator::{Broker, BrokerThread};

use crate::cli::CommandError;
use crate::cli::client::{Place, ServerArgs};

/// Which server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct TargetArgs {
    /// Runs the embedded server on a thread of this process, over loopback TCP or in-memory pipes, and
    /// loads that.
    #[arg(long, value_name = "TRANSPORT", value_enum, num_args = 0..=1, default_missing_value = "tcp")]
    #[arg(conflicts_with_all = ["host", "port", "url", "cafile", "cert", "tls_alpn", "tls_use_os_certs", "ws", "ws_header", "proxy", "platform"])]
    embedded: Option<Transport>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    Tcp,
    Pipe,
}

/// The server, found and if need be started.
pub(super) struct Server {
    place: Place,
    version: Version,
    embedded: Option<Embedded>,
}

struct Embedded {
    transport: Transport,
    broker: BrokerThread,
}

impl TargetArgs {
    pub(super) fn version(&self) -> Version {
        self.server.version.unwrap_or_default()
    }

    /// Sockets of this process for each link.
    pub(super) fn sockets_per_link(&self) -> u64 {
        match self.embedded {
            None => 1,
            Some(Transport::Tcp) => 2,
            Some(Transport::Pipe) => 0,
        }
    }

    /// Whether links take ports of this machine.
    pub(super) fn takes_ports(&self) -> bool {
        self.embedded != Some(Transport::Pipe)
    }

    /// Finds the server, and starts the embedded one.
    pub(super) fn start(&self) -> Result<Server, CommandError> {
        Ok(Server {
            place: self.server.place()?,
            version: self.version(),
            embedded: self.embedded.map(start_embedded).transpose()?,
        })
    }

    /// Settings of a group of links to the server. Nothing is left behind on it: sessions end with their
    /// connections and no status is published.
    pub(super) fn group(
        &self,
        server: &Server,
        fleet: &Fleet,
        name: &str,
    ) -> Result<GroupBuilder, CommandError> {
        let topics = Topics {
            status: None,
            ..Topics::default()
        };
        let dialect = Plain::new(&topics)
            .map_err(|(name, error)| CommandError::Failed(format!("{name}: {error}")))?;
        let group = fleet
            .group(name)
            .version(self.version())
            .clean_start(true)
            .session_expiry(None);
        let Some(Embedded { transport, broker }) = &server.embedded else {
            return self.server.set(group, &server.place, dialect);
        };
        let group = group.dialect(dialect);
        let group = self.server.set_session(group, &server.place)?;
        let broker = Broker::clone(broker);
        Ok(match (transport, broker.tcp_address()) {
            (Transport::Tcp, Some(address)) => group.endpoint(format!("mqtt://{address}")),
            _ => group.pipe(Arc::new(move || Ok(broker.connect_pipe()))),
        })
    }
}

impl Server {
    /// Refuses what the server is known never to answer.
    pub(super) fn check_qos(&self, qos: QoS) -> Result<(), CommandError> {
        match self.embedded {
            None => self.place.check_qos("-q", qos),
            Some(_) => Ok(()),
        }
    }

    /// The same of a message. The embedded server takes all that MQTT has.
    pub(super) fn check_message(&self, topic: &str, bytes: usize) -> Result<(), CommandError> {
        match self.embedded {
            None => self.place.platform.check_message(topic, bytes),
            Some(_) => Ok(()),
        }
    }

    /// The same of a filter.
    pub(super) fn check_filter(&self, filter: &TopicFilter, qos: QoS) -> Result<(), CommandError> {
        let wanted = Subscription::new(filter.clone(), qos);
        match self.embedded {
            None => self.place.platform.check_subscription(&wanted),
            Some(_) => Ok(()),
        }
    }

    /// The same of a client identifier.
    pub(super) fn check_client_id(&self, client_id: &str) -> Result<(), CommandError> {
        let platform = self.place.platform;
        match self.embedded {
            None => platform.check_client_id(client_id, self.version),
            Some(_) => Ok(()),
        }
    }

    /// For people: never with a password.
    pub(super) fn name(&self) -> String {
        match self.embedded.as_ref().map(|embedded| embedded.transport) {
            None => self.place.server(),
            Some(Transport::Tcp) => "the embedded server over loopback TCP".to_owned(),
            Some(Transport::Pipe) => "the embedded server over pipes".to_owned(),
        }
    }
}

fn start_embedded(transport: Transport) -> Result<Embedded, CommandError> {
    let builder = match transport {
        Transport::Tcp => Broker::builder().tcp(([127, 0, 0, 1], 0)),
        Transport::Pipe => Broker::builder(),
    };
    let broker = builder
        .start_on_thread()
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(Embedded { transport, broker })
}
