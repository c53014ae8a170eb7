//! Where to connect to: `-h` and `-p`, or `-L`.

use std::net::Ipv6Addr;

use secrecy::{ExposeSecret as _, SecretString};

use super::{ServerArgs, usage};
use crate::cli::CommandError;

/// The port that is TLS by custom.
const TLS_PORT: u16 = 8883;

/// What the flags say about the server.
#[derive(Debug)]
pub(in crate::cli) struct Place {
    host: String,
    port: Option<u16>,
    pub(super) is_secure: bool,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) topic: Option<String>,
}

impl Place {
    pub(super) fn of(arguments: &ServerArgs) -> Result<Self, CommandError> {
        let mut place = match &arguments.url {
            Some(url) => Self::parse(url.expose_secret()).map_err(usage)?,
            None => Self {
                host: arguments.host.clone().unwrap_or_else(|| "localhost".into()),
                port: arguments.port,
                is_secure: false,
                username: None,
                password: None,
                topic: None,
            },
        };
        place.is_secure |= place.port == Some(TLS_PORT)
            || arguments.cafile.is_some()
            || arguments.cert.is_some()
            || arguments.tls_alpn.is_some()
            || arguments.tls_use_os_certs;
        Ok(place)
    }

    /// As mosquitto's clients do, without percent encoding. What is wrong is said without a word of the
    /// URL, which may hold a password.
    fn parse(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "-L: write mqtt://[user[:password]@]host[:port]/topic (or mqtts://)";
        let (is_secure, rest) = if let Some(rest) = url.strip_prefix("mqtt://") {
            (false, rest)
        } else if let Some(rest) = url.strip_prefix("mqtts://") {
            (true, rest)
        } else {
            return Err(FORM);
        };
        let (authority, topic) = match rest.split_once('/') {
            Some((authority, topic)) => (authority, Some(topic).filter(|topic| !topic.is_empty())),
            None => (rest, None),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let (username, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            Some(Ok((username, password))) => (Some(username), Some(password)),
            Some(Err(username)) => (Some(username), None),
            None => (None, None),
        };
        // The colons of an IPv6 address stand in brackets.
        let split = address
            .rfind(':')
            .filter(|at| !address[*at..].contains(']'));
        let (host, port) = match split {
            Some(at) => (&address[..at], Some(&address[at + 1..])),
            None => (address, None),
        };
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(0) | Err(_)) => return Err("-L: the port is a number from 1 to 65535"),
            Some(Ok(port)) => Some(port),
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() {
            return Err(FORM);
        }
        Ok(Self {
            host: host.to_owned(),
            // mqtt:// and mqtts:// name the port, whatever the TLS flags say.
            port: port.or(Some(if is_secure { TLS_PORT } else { 1883 })),
            is_secure,
            username: username.map(str::to_owned),
            password: password.map(SecretString::from),
            topic: topic.map(str::to_owned),
        })
    }

    pub(in crate::cli) fn endpoint(&self) -> String {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        let scheme = if self.is_secure { "mqtts" } else { "mqtt" };
        match self.port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_login_and_topic() {
        for (url, endpoint, username, password, topic) in [
            ("mqtt://h/a/b", "mqtt://h:1883", None, None, Some("a/b")),
            ("mqtts://h/#", "mqtts://h:8883", None, None, Some("#")),
            (
                "mqtt://u@h:99//a",
                "mqtt://h:99",
                Some("u"),
                None,
                Some("/a"),
            ),
            (
                "mqtt://u:p:q@h",
                "mqtt://h:1883",
                Some("u"),
                Some("p:q"),
                None,
            ),
            (
                "mqtt://u:p@q@h/",
                "mqtt://h:1883",
                Some("u"),
                Some("p@q"),
                None,
            ),
            (
                "mqtt://u:@[::1]:7/t",
                "mqtt://[::1]:7",
                Some("u"),
                Some(""),
                Some("t"),
            ),
            ("mqtt://[::1]/t", "mqtt://[::1]:1883", None, None, Some("t")),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.endpoint(), endpoint, "{url}");
            assert_eq!(place.username.as_deref(), username, "{url}");
            let shown = place.password.as_ref().map(|p| p.expose_secret());
            assert_eq!(shown, password, "{url}");
            assert_eq!(place.topic.as_deref(), topic, "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        for url in [
            "",
            "secret",
            "http://u:secret@h/t",
            "mqtt://u:secret@/t",
            "mqtt://u:secret@h:0/t",
            "mqtt://u:secret@h:x/t",
            "mqtt://u:secret@:1/t",
        ] {
            let error = Place::parse(url).map(|_| ()).unwrap_err();
            assert!(
                error.starts_with("-L: ") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
