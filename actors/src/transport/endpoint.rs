//! Host and port of a server.

use std::net::{IpAddr, SocketAddr};

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `mqtt://`: plain TCP, default port 1883.
    Mqtt,
    /// `mqtts://`: TLS, default port 8883.
    Mqtts,
    /// `ws://`: WebSocket, default port 80.
    Ws,
    /// `wss://`: WebSocket over TLS, default port 443.
    Wss,
}

impl Scheme {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Mqtt, "mqtt://"),
        (Self::Mqtts, "mqtts://"),
        (Self::Ws, "ws://"),
        (Self::Wss, "wss://"),
    ];

    /// The port that an endpoint has when it names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// Whether it is WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// Whether it is encrypted.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }
}

/// The path of a WebSocket whose endpoint names none: what AWS wants and most brokers take.
pub const WEBSOCKET_PATH: &str = "/mqtt";

/// A host, as name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// The host as an address, if it is one.
    address: Option<IpAddr>,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The text does not begin with a known scheme.
    #[error("{0:?} does not begin with mqtt://, mqtts://, ws:// or wss://; write mqtt://host:port")]
    Scheme(String),
    /// User name or password in the text.
    #[error("an endpoint holds no user name or password; set the link's credentials instead")]
    Credentials,
    /// There is a path, query or fragment.
    #[error("{0:?} follows the port; an MQTT endpoint ends there")]
    Path(String),
    /// No host.
    #[error("the host is missing; write mqtt://host:port")]
    MissingHost,
    /// A host that is neither a name nor an address.
    #[error("{0:?} is no host name or IP address (an IPv6 address stands in brackets)")]
    Host(String),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is no port; a port is a number from 1 to 65535")]
    Port(String),
}

impl Endpoint {
    /// A host and a port.
    ///
    /// # Errors
    /// The host is neither a name nor an IP address, or the port is 0.
    pub fn new(host: impl Into<String>, port: u16) -> Result<Self, EndpointError> {
        let host = host.into();
        if host.is_empty() {
            return Err(EndpointError::MissingHost);
        }
        if port == 0 {
            return Err(EndpointError::Port("0".into()));
        }
        let is_name = host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        let address = host.parse().ok();
        if !is_name && address.is_none() {
            return Err(EndpointError::Host(host));
        }
        Ok(Self {
            host,
            port,
            address,
        })
    }

    /// Parses `mqtt://host[:port]`, `mqtts://host[:port]`, or `ws://host[:port][/path]` and `wss://…`; what follows
    /// the host of a WebSocket is [`Endpoint::parse_with_path`]'s.
    ///
    /// # Errors
    /// What makes it no endpoint.
    pub fn parse(url: &str) -> Result<(Scheme, Self), EndpointError> {
        Self::parse_with_path(url).map(|(scheme, endpoint, _)| (scheme, endpoint))
    }

    /// The same with path and query, from the `/` on. A WebSocket without any has [`WEBSOCKET_PATH`], the others have
    /// none.
    ///
    /// # Errors
    /// What makes it no endpoint.
    pub fn parse_with_path(url: &str) -> Result<(Scheme, Self, &str), EndpointError> {
        let known = Scheme::ALL.iter().find_map(|(scheme, prefix)| {
            let rest = url.strip_prefix(prefix)?;
            Some((*scheme, rest))
        });
        let Some((scheme, rest)) = known else {
            // What precedes an @ may be a password, so it is not repeated.
            let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
            return Err(EndpointError::Scheme(shown.to_owned()));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A password may hold any character, and a path of MQTT's none.
        if authority.contains('@') || (!scheme.is_websocket() && rest.contains('@')) {
            return Err(EndpointError::Credentials);
        }
        let path = match path {
            "" if scheme.is_websocket() => WEBSOCKET_PATH,
            "" | "/" if !scheme.is_websocket() => "",
            path if scheme.is_websocket() && path.starts_with('/') => path,
            path => {
                // A query may be a secret, so it is not repeated.
                let shown = path.split('?').next().unwrap_or_default();
                return Err(EndpointError::Path(shown.to_owned()));
            }
        };
        let endpoint = Self::parse_authority(authority, scheme.default_port())?;
        Ok((scheme, endpoint, path))
    }

    /// `host[:port]`.
    pub(super) fn parse_authority(
        authority: &str,
        default_port: u16,
    ) -> Result<Self, EndpointError> {
        if authority.contains('@') {
            return Err(EndpointError::Credentials);
        }
        if authority.contains(['/', '?', '#']) {
            return Err(EndpointError::Path(String::new()));
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => default_port,
            Some(text) => text
                .parse()
                .map_err(|_| EndpointError::Port(text.to_owned()))?,
        };
        Self::new(host, port)
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, when the host is an IP address.
    #[must_use]
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let address = self.address?;
        Some(SocketAddr::new(address, self.port))
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((host, tail)) = rest.split_once(']') else {
            return Err(EndpointError::Host(authority.to_owned()));
        };
        return match tail.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if tail.is_empty() => Ok((host, None)),
            None => Err(EndpointError::Host(authority.to_owned())),
        };
    }
    match authority.split_once(':') {
        Some((_, tail)) if tail.contains(':') => Err(EndpointError::Host(authority.to_owned())),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_scheme_a_host_and_a_default_port() {
        let parsed = |url: &str| Endpoint::parse(url).map(|(s, e)| (s, e.to_string()));
        assert_eq!(
            parsed("mqtt://broker"),
            Ok((Scheme::Mqtt, "broker:1883".into()))
        );
        assert_eq!(
            parsed("mqtts://broker/"),
            Ok((Scheme::Mqtts, "broker:8883".into()))
        );
        assert_eq!(
            parsed("mqtt://[::1]:99"),
            Ok((Scheme::Mqtt, "[::1]:99".into()))
        );
        assert_eq!(
            parsed("mqtt://127.0.0.1:1"),
            Ok((Scheme::Mqtt, "127.0.0.1:1".into()))
        );
    }

    #[test]
    fn a_websocket_has_a_path_and_a_default_one() {
        let parsed =
            |url| Endpoint::parse_with_path(url).map(|(s, e, path)| (s, e.to_string(), path));
        for (url, scheme, place, path) in [
            ("ws://h", Scheme::Ws, "h:80", "/mqtt"),
            ("wss://h/", Scheme::Wss, "h:443", "/"),
            (
                "wss://h:8443/a/b?c=d@e",
                Scheme::Wss,
                "h:8443",
                "/a/b?c=d@e",
            ),
            ("ws://[::1]:9/x", Scheme::Ws, "[::1]:9", "/x"),
            ("mqtts://h/", Scheme::Mqtts, "h:8883", ""),
        ] {
            assert_eq!(parsed(url), Ok((scheme, place.to_owned(), path)), "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_named() {
        for (url, error) in [
            ("tcp://a", EndpointError::Scheme("tcp://a".into())),
            ("x://u:secret@a", EndpointError::Scheme("a".into())),
            ("mqtt://u:secret@a", EndpointError::Credentials),
            ("mqtt://", EndpointError::MissingHost),
            ("mqtt://a:0", EndpointError::Port("0".into())),
            ("mqtt://a:65536", EndpointError::Port("65536".into())),
            ("mqtt://a:", EndpointError::Port(String::new())),
            ("mqtt://::1:1883", EndpointError::Host("::1:1883".into())),
            ("mqtt://a b", EndpointError::Host("a b".into())),
            ("mqtt://a/mqtt", EndpointError::Path("/mqtt".into())),
            ("mqtt://a/mqtt?secret", EndpointError::Path("/mqtt".into())),
            ("wss://a?secret", EndpointError::Path(String::new())),
            ("wss://u:secret@a/mqtt", EndpointError::Credentials),
            ("ws:///mqtt", EndpointError::MissingHost),
        ] {
            assert_eq!(Endpoint::parse(url).map(|_| ()), Err(error), "{url}");
        }
    }
}
