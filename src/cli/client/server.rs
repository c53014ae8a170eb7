//! The flags that say where the server is, as whom to connect and over which transport. `bench` has them too.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use paquebot::dialect::Dialect;
use paquebot::{Credentials, GroupBuilder, HttpProxy};
use paquebot_protocols::mqtt::Version;
use secrecy::{ExposeSecret as _, SecretString};

use super::place::WEBSOCKET_PATH;
use super::{Place, PlatformFlag, headers, proxy, usage};
use crate::cli::CommandError;

/// Where to connect to, as whom and over which transport.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServerArgs {
    /// Host of the server [default: localhost]
    #[arg(short = 'h', long, value_name = "HOST", conflicts_with = "url")]
    pub(super) host: Option<String>,
    /// Port of the server [default: 1883, over TLS 8883]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    #[arg(conflicts_with = "url")]
    pub(super) port: Option<u16>,
    /// All in one: mqtt(s)://[user[:password]@]host[:port]/topic, or ws(s)://[user[:password]@]host[:port][/path]
    #[arg(short = 'L', long, value_name = "URL", value_parser = secret)]
    pub(super) url: Option<SecretString>,
    /// User name [env: PAQUEBOT_USERNAME]
    #[arg(short, long, value_name = "NAME", allow_hyphen_values = true)]
    pub(super) username: Option<String>,
    /// Password; everybody on this machine can read it, so better use --password-file
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", value_parser = secret)]
    #[arg(allow_hyphen_values = true)]
    pub(super) password: Option<SecretString>,
    /// File with the password as its first line [env: PAQUEBOT_PASSWORD is the password itself]
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// Version of MQTT: 3.1.1 (or mqttv311, 311) or 5 (or mqttv5) [default: 3.1.1, 5 with -D]
    #[arg(short = 'V', long = "protocol-version", value_name = "VERSION")]
    #[arg(value_parser = version)]
    pub(in crate::cli) version: Option<Version>,
    /// Keep alive in seconds; 0 switches it off
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    keepalive: u16,
    /// Whose server it is [default: aws if the host is an endpoint of AWS IoT, else mqtt]
    #[arg(long, value_name = "PLATFORM", value_enum)]
    pub(super) platform: Option<PlatformFlag>,
    /// Connect over WebSocket [default path: /mqtt; default port: 80, over TLS 443]
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Way there",
        conflicts_with = "url"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = WEBSOCKET_PATH)]
    pub(super) ws: Option<String>,
    /// WebSocket: a header of the request that opens it, 'Name: value'; may be repeated. Its value is kept as a secret, but
    /// everybody on this machine can read a command line: @FILE reads headers from a file, one a line
    #[arg(long, value_name = "HEADER", help_heading = "Way there", value_parser = secret)]
    #[arg(allow_hyphen_values = true)]
    ws_header: Vec<SecretString>,
    /// Go through an HTTP proxy: http://[user[:password]@]host[:port] [env for WebSocket: HTTPS_PROXY, http_proxy,
    /// ALL_PROXY, NO_PROXY]
    #[arg(long, value_name = "URL", help_heading = "Way there", value_parser = secret)]
    proxy: Option<SecretString>,
    /// AWS IoT over WebSocket: section of ~/.aws/credentials [default: the environment, then default]
    #[arg(long, value_name = "NAME", help_heading = "Way there")]
    pub(super) aws_profile: Option<String>,
    /// AWS IoT over WebSocket: region to sign for [default: that of the host's name]
    #[arg(long, value_name = "REGION", help_heading = "Way there")]
    pub(super) aws_region: Option<String>,
    /// PEM file with the certificate authorities to trust; connects over TLS
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(super) cafile: Option<PathBuf>,
    /// PEM file with this client's certificate
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// PEM file with this client's private key
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "cert")]
    key: Option<PathBuf>,
    /// Application protocol to offer, such as mqtt
    #[arg(long, value_name = "PROTOCOL", help_heading = "TLS")]
    pub(super) tls_alpn: Option<String>,
    /// Connect over TLS and trust the authorities of the system (as for port 8883 and mqtts://)
    #[arg(long, help_heading = "TLS")]
    pub(super) tls_use_os_certs: bool,
    #[arg(long, hide = true)]
    capath: Option<PathBuf>,
    #[arg(long, hide = true)]
    insecure: bool,
}

impl ServerArgs {
    /// The server. Nothing is looked up yet.
    pub(in crate::cli) fn place(&self) -> Result<Place, CommandError> {
        self.refuse_unsupported()?;
        Place::of(self)
    }

    /// Sets all that these flags say but the version, which the command may choose, and the dialect.
    pub(in crate::cli) fn set(
        &self,
        group: GroupBuilder,
        place: &Place,
        dialect: impl Dialect,
    ) -> Result<GroupBuilder, CommandError> {
        let mut group = match place.platform {
            PlatformFlag::Mqtt => group.dialect(dialect).endpoint(place.endpoint()),
            PlatformFlag::Aws => self.set_aws(group, place, dialect)?,
        };
        group = self.set_session(group, place)?;
        if let Some(proxy) = self.proxy(place)? {
            group = group.http_proxy(proxy);
        }
        for (name, value) in headers::read(&self.ws_header, place.websocket.is_some())? {
            group = group.websocket_header(name, value);
        }
        if let Some(file) = &self.cafile {
            group = group.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            group = group.client_certificate(certificate, key);
        }
        if let Some(protocol) = &self.tls_alpn {
            group = group.alpn([protocol]);
        }
        Ok(group)
    }

    /// The same for a server that is reached in another way: no endpoint and no TLS.
    pub(in crate::cli) fn set_session(
        &self,
        group: GroupBuilder,
        place: &Place,
    ) -> Result<GroupBuilder, CommandError> {
        Ok(group
            .keep_alive(Duration::from_secs(self.keepalive.into()))
            .credentials(self.credentials(place)?))
    }

    fn refuse_unsupported(&self) -> Result<(), CommandError> {
        if self.insecure {
            return Err(usage(
                "--insecure is not supported: a server whose certificate is not checked may be anybody. Name \
                 the server as its certificate does (-h), and trust the certificate's authority with --cafile",
            ));
        }
        if self.capath.is_some() {
            return Err(usage(
                "--capath is not supported: put the certificates into one file (cat DIR/*.crt > ca.pem) for \
                 --cafile",
            ));
        }
        Ok(())
    }

    fn proxy(&self, place: &Place) -> Result<Option<HttpProxy>, CommandError> {
        match &self.proxy {
            Some(url) => proxy::parse(url.expose_secret())
                .map(Some)
                .map_err(|problem| usage(format!("--proxy: {problem}"))),
            None => proxy::from_environment(place, environment),
        }
    }

    pub(super) fn username(&self, place: &Place) -> Option<String> {
        let username = self.username.clone().or_else(|| place.username.clone());
        username.or_else(|| environment("PAQUEBOT_USERNAME"))
    }

    fn credentials(&self, place: &Place) -> Result<Credentials, CommandError> {
        let username = self.username(place);
        let password = match (&self.password, &self.password_file, &place.password) {
            (Some(password), ..) | (None, None, Some(password)) => Some(password.clone()),
            (None, Some(file), _) => Some(read_password(file)?),
            (None, None, None) => None,
        };
        match (username, password) {
            (Some(username), password) => {
                let password =
                    password.or_else(|| environment("PAQUEBOT_PASSWORD").map(SecretString::from));
                Ok(match password {
                    Some(password) => {
                        Credentials::password(username, password.expose_secret().as_bytes())
                    }
                    None => Credentials::username(username),
                })
            }
            // MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22].
            (None, Some(_)) => Err(usage("a password needs a user name (-u)")),
            (None, None) => Ok(Credentials::default()),
        }
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn read_password(file: &PathBuf) -> Result<SecretString, CommandError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage(format!("cannot read {}: {error}", file.display())))?;
    let text = SecretString::from(text);
    let line = text.expose_secret().lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(usage(format!(
            "{} has no password on its first line",
            file.display()
        )));
    }
    Ok(SecretString::from(line))
}

/// Never fails, so that no error can repeat what was given.
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

fn version(text: &str) -> Result<Version, &'static str> {
    match text {
        "mqttv311" | "311" | "3.1.1" => Ok(Version::V311),
        "mqttv5" | "5" | "5.0" => Ok(Version::V5),
        "mqttv31" | "31" | "3.1" => Err("MQTT 3.1 is not spoken here; use 3.1.1 or 5"),
        _ => Err("use 3.1.1 or 5"),
    }
}
