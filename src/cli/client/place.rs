//! Where to connect to: `-h` and `-p`, or `-L`.

use std::net::{IpAddr, Ipv6Addr};

use paquebot::mqtt::QoS;
use secrecy::{ExposeSecret as _, SecretString};

use super::{PlatformFlag, ServerArgs, usage};
use crate::cli::CommandError;

/// The port that is TLS by custom, and the one of WebSocket over TLS.
const TLS_PORT: u16 = 8883;
const HTTPS_PORT: u16 = 443;

/// The path of a WebSocket that was given none.
pub(super) const WEBSOCKET_PATH: &str = "/mqtt";

/// What the flags say about the server.
#[derive(Debug)]
pub(in crate::cli) struct Place {
    host: String,
    port: Option<u16>,
    pub(super) is_secure: bool,
    /// Path and query of a WebSocket; a query may be a secret.
    pub(super) websocket: Option<SecretString>,
    pub(in crate::cli) platform: PlatformFlag,
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
                websocket: arguments.ws.as_deref().map(SecretString::from),
                platform: PlatformFlag::Mqtt,
                username: None,
                password: None,
                topic: None,
            },
        };
        place.platform = arguments
            .platform
            .unwrap_or_else(|| PlatformFlag::of_host(&place.host));
        let is_websocket = place.websocket.is_some();
        place.is_secure |= place.port == Some(TLS_PORT)
            || (is_websocket && place.port == Some(HTTPS_PORT))
            || place.platform == PlatformFlag::Aws
            || arguments.cafile.is_some()
            || arguments.cert.is_some()
            || arguments.tls_alpn.is_some()
            || arguments.tls_use_os_certs;
        if place.platform == PlatformFlag::Aws && arguments.cert.is_none() && !is_websocket {
            // Without a certificate it is a custom authorizer, which AWS IoT has on this port only.
            place.port = place.port.or(Some(HTTPS_PORT));
        }
        Ok(place)
    }

    /// Refuses a quality of service that the platform is known not to have: nobody would ever answer.
    pub(in crate::cli) fn check_qos(&self, flag: &str, qos: QoS) -> Result<(), CommandError> {
        if self.platform == PlatformFlag::Aws && qos == QoS::ExactlyOnce {
            return Err(usage(format!(
                "{flag} 2: AWS IoT has no QoS 2 and never answers it; use {flag} 1"
            )));
        }
        Ok(())
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// As mosquitto's clients do, without percent encoding. What is wrong is said without a word of the
    /// URL, which may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "-L: write mqtt://[user[:password]@]host[:port]/topic (or mqtts://), or over WebSocket \
                            ws://[user[:password]@]host[:port][/path] (or wss://) and the topic with -t";
        let (scheme, rest) = url.split_once("://").ok_or(FORM)?;
        let (is_secure, is_websocket) = match scheme {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return Err(FORM),
        };
        let (authority, behind) = match rest.split_once('/') {
            Some((authority, behind)) => (authority, Some(behind)),
            None => (rest, None),
        };
        let (websocket, topic) = if is_websocket {
            let path = behind.map_or_else(|| WEBSOCKET_PATH.to_owned(), |path| format!("/{path}"));
            (Some(SecretString::from(path)), None)
        } else {
            (None, behind.filter(|topic| !topic.is_empty()))
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
            // The scheme names the port, whatever the TLS flags say.
            port: port.or(Some(match (is_secure, is_websocket) {
                (false, false) => 1883,
                (true, false) => TLS_PORT,
                (false, true) => 80,
                (true, true) => HTTPS_PORT,
            })),
            is_secure,
            websocket,
            platform: PlatformFlag::Mqtt,
            username: username.map(str::to_owned),
            password: password.map(SecretString::from),
            topic: topic.map(str::to_owned),
        })
    }

    /// With the path of a WebSocket, which may hold a secret.
    pub(super) fn endpoint(&self) -> String {
        let path = self.websocket.as_ref().map(|path| path.expose_secret());
        format!("{}{}", self.server(), path.unwrap_or_default())
    }

    /// For people: without path and login.
    pub(in crate::cli) fn server(&self) -> String {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        let scheme = match (self.is_secure, self.websocket.is_some()) {
            (false, false) => "mqtt",
            (true, false) => "mqtts",
            (false, true) => "ws",
            (true, true) => "wss",
        };
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
            ("ws://h", "ws://h:80/mqtt", None, None, None),
            (
                "wss://u:p@h/a/b?c=d",
                "wss://h:443/a/b?c=d",
                Some("u"),
                Some("p"),
                None,
            ),
            ("wss://h:8443/", "wss://h:8443/", None, None, None),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.endpoint(), endpoint, "{url}");
            assert!(endpoint.starts_with(&place.server()), "{url}");
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
