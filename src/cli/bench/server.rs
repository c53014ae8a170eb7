//! The server under load: where it is and how to get in, or the embedded one.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use paquebot::dialect::plain::{Plain, Topics};
use paquebot::mqtt::Version;
use paquebot::{Credentials, Fleet, GroupBuilder};
use paquebot_emulator::{Broker, BrokerThread};
use secrecy::{ExposeSecret as _, SecretString};

use crate::cli::CommandError;

/// Connection flags, with mosquitto's letters.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerArgs {
    /// The server's name or address [default: localhost].
    #[arg(short = 'h', long, value_name = "HOST", conflicts_with_all = ["url", "embedded"])]
    host: Option<String>,
    /// Its port [default: 1883, with TLS 8883].
    #[arg(short, long, conflicts_with_all = ["url", "embedded"])]
    port: Option<u16>,
    /// The server as mqtt://[USER[:PASSWORD]@]HOST[:PORT], or mqtts:// for TLS.
    #[arg(short = 'L', long, value_name = "URL", value_parser = secret, conflicts_with = "embedded")]
    url: Option<SecretString>,
    /// Runs the embedded server on a thread of this process, over loopback TCP or in-memory pipes, and
    /// loads that.
    #[arg(long, value_name = "TRANSPORT", value_enum, num_args = 0..=1, default_missing_value = "tcp")]
    embedded: Option<Transport>,
    /// The user name of all links.
    #[arg(short = 'u', long, value_name = "NAME")]
    username: Option<String>,
    /// The password. Others can see it in the list of processes: --password-file is better.
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", value_parser = secret)]
    #[arg(requires = "username", conflicts_with = "password_file")]
    password: Option<SecretString>,
    /// A file with the password in its first line.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// The protocol version: 3.1.1 or 5.
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "3.1.1", value_parser = parse_version)]
    protocol_version: Version,
    /// TLS with the authorities in this PEM file and no others.
    #[arg(long, value_name = "FILE", conflicts_with = "embedded")]
    cafile: Option<PathBuf>,
    /// The client certificate of all links, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "key",
        conflicts_with = "embedded"
    )]
    cert: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Keep alive in seconds; 0 switches it off.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    keepalive: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    Tcp,
    Pipe,
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text {
        "3.1.1" | "311" | "mqttv311" => Ok(Version::V311),
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        _ => Err("there are 3.1.1 and 5".to_owned()),
    }
}

/// The server, found and if need be started.
pub(super) struct Server {
    endpoint: Option<String>,
    embedded: Option<BrokerThread>,
    credentials: Credentials,
}

impl ServerArgs {
    pub(super) fn version(&self) -> Version {
        self.protocol_version
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
        let (url, in_url) = self.endpoint()?;
        let password = match &self.password_file {
            Some(path) => Some(read_password(path)?),
            None => self.password.clone(),
        };
        let credentials = match (&self.username, password) {
            (Some(name), Some(password)) => {
                Credentials::password(name.clone(), password.expose_secret().as_bytes())
            }
            (Some(name), None) => Credentials::username(name.clone()),
            (None, _) => in_url,
        };
        let embedded = match self.embedded {
            None => None,
            Some(transport) => Some(start_embedded(transport)?),
        };
        let endpoint = match (&embedded, self.embedded) {
            (Some(server), Some(Transport::Tcp)) => server
                .tcp_address()
                .map(|address| format!("mqtt://{address}")),
            (Some(_), _) => None,
            (None, _) => Some(url),
        };
        Ok(Server {
            endpoint,
            embedded,
            credentials,
        })
    }

    fn endpoint(&self) -> Result<(String, Credentials), CommandError> {
        if let Some(url) = &self.url {
            return split_credentials(url.expose_secret()).map_err(CommandError::Usage);
        }
        let host = self.host.as_deref().unwrap_or("localhost");
        // An IPv6 address stands in brackets before a port.
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let has_tls = self.cafile.is_some() || self.cert.is_some() || self.port == Some(8883);
        let scheme = if has_tls { "mqtts" } else { "mqtt" };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        Ok((format!("{scheme}://{host}{port}"), Credentials::default()))
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
        let mut group = fleet
            .group(name)
            .dialect(dialect)
            .version(self.protocol_version)
            .credentials(server.credentials.clone())
            .keep_alive(Duration::from_secs(self.keepalive.into()))
            .clean_start(true)
            .session_expiry(None);
        group = match (&server.endpoint, &server.embedded) {
            (Some(url), _) => group.endpoint(url.clone()),
            (None, Some(embedded)) => {
                let embedded = Broker::clone(embedded);
                group.pipe(Arc::new(move || Ok(embedded.connect_pipe())))
            }
            (None, None) => group,
        };
        if let Some(file) = &self.cafile {
            group = group.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            group = group.client_certificate(certificate, key);
        }
        Ok(group)
    }
}

impl Server {
    /// For people: never with a password.
    pub(super) fn name(&self) -> &str {
        match &self.endpoint {
            Some(endpoint) if self.embedded.is_none() => endpoint,
            Some(_) => "the embedded server over loopback TCP",
            None => "the embedded server over pipes",
        }
    }
}

fn start_embedded(transport: Transport) -> Result<BrokerThread, CommandError> {
    let builder = match transport {
        Transport::Tcp => Broker::builder().tcp(([127, 0, 0, 1], 0)),
        Transport::Pipe => Broker::builder(),
    };
    builder
        .start_on_thread()
        .map_err(|error| CommandError::Failed(error.to_string()))
}

fn read_password(path: &PathBuf) -> Result<SecretString, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::Usage(format!(
            "cannot read the password file {}: {error}",
            path.display()
        ))
    })?;
    Ok(text.lines().next().unwrap_or_default().into())
}

/// Takes user name and password out of a URL, so that no error message can show them.
fn split_credentials(url: &str) -> Result<(String, Credentials), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok((url.to_owned(), Credentials::default()));
    };
    let Some((user, host)) = rest.rsplit_once('@') else {
        return Ok((url.to_owned(), Credentials::default()));
    };
    let credentials = match user.split_once(':') {
        Some((name, password)) => Credentials::password(decode(name)?, decode(password)?),
        None => Credentials::username(decode(user)?),
    };
    Ok((format!("{scheme}://{host}"), credentials))
}

/// Undoes the percent encoding of a URL (RFC 3986 §2.1).
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(
                "a % in the user name or password of the URL is not followed by two \
                        hexadecimal digits; write %25 for a percent sign"
                    .to_owned(),
            );
        };
        bytes.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(bytes)
        .map_err(|_| "the user name or password of the URL is no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_a_url() {
        let plain = |url: &str| split_credentials(url).unwrap().0;
        assert_eq!(plain("mqtt://broker:1"), "mqtt://broker:1");
        assert_eq!(plain("mqtts://me:p%40ss@broker"), "mqtts://broker");
        assert_eq!(plain("no url"), "no url");
        assert_eq!(decode("p%40ss%25"), Ok("p@ss%".to_owned()));
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
