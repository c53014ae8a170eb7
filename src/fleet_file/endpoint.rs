//! The address of a broker.

use std::net::Ipv6Addr;

use paquebot_actors::WEBSOCKET_PATH;

use super::plan::Endpoint;

/// What is wrong with an address, and what to do.
#[derive(Debug)]
pub(super) struct EndpointError {
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

const FORM: &str =
    "write mqtt://host:port, or mqtts://host:port for TLS, or ws:// and wss:// for WebSocket";

/// Reads `mqtt://host:port`, `mqtts://host:port`, or `ws://host:port/path` and `wss://host:port/path`; the ports default
/// to 1883, 8883, 80 and 443, the path to `/mqtt`.
pub(super) fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    // The text may hold a password, so the message repeats nothing of it.
    if text.contains('@') {
        return Err(refuse(
            "user name and password do not belong into the address",
            "write auth = { type = \"password\", username = \"…\", password_file = \"…\" }",
        ));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(refuse(format!("{text:?} has no scheme"), FORM));
    };
    let (tls, is_websocket) = match scheme {
        "mqtt" => (false, false),
        "mqtts" => (true, false),
        "ws" => (false, true),
        "wss" => (true, true),
        "tcp" => return Err(refuse("the scheme tcp:// is called mqtt:// here", FORM)),
        "ssl" | "tls" => {
            return Err(refuse(
                format!("the scheme {scheme}:// is called mqtts:// here"),
                FORM,
            ));
        }
        _ => return Err(refuse(format!("{scheme:?} is no scheme"), FORM)),
    };
    let (rest, path) = if is_websocket {
        let (rest, path) = split_path(rest)?;
        (rest, Some(path))
    } else {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(refuse("there is something behind the port", FORM));
        }
        (rest, None)
    };
    let (host, port) = split_port(rest)?;
    let port = match port {
        None => match (tls, is_websocket) {
            (false, false) => 1_883,
            (true, false) => 8_883,
            (false, true) => 80,
            (true, true) => 443,
        },
        Some(port) => port
            .parse::<u16>()
            .ok()
            .filter(|parsed| *parsed > 0 && port.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| {
                refuse(
                    format!("{port:?} is no port"),
                    "write a port from 1 to 65535",
                )
            })?,
    };
    Ok(Endpoint {
        tls,
        host,
        port,
        path,
    })
}

/// A query is not allowed: it may be a secret, which does not belong into the file.
fn split_path(text: &str) -> Result<(&str, String), EndpointError> {
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let (rest, path) = text.split_at(end);
    if path.contains(['?', '#']) {
        return Err(refuse(
            "there is a query or a fragment behind the path",
            "end the address with the path, such as wss://host:port/mqtt",
        ));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse(
            "the path has spaces or letters beyond ASCII",
            "percent-encode them",
        ));
    }
    let path = if path.is_empty() {
        WEBSOCKET_PATH
    } else {
        path
    };
    Ok((rest, path.to_owned()))
}

fn split_port(text: &str) -> Result<(String, Option<&str>), EndpointError> {
    if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) = inside
            .split_once(']')
            .filter(|(host, rest)| {
                host.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || rest.starts_with(':'))
            })
            .ok_or_else(|| {
                refuse(
                    "there is no IPv6 address in the brackets",
                    "write one as in mqtt://[::1]:1883",
                )
            })?;
        return Ok((host.to_owned(), rest.strip_prefix(':')));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(refuse(
            "an IPv6 address needs brackets",
            "write it as in mqtt://[::1]:1883",
        ));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let host_letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(host_letter) {
        return Err(refuse(format!("{host:?} is no host name"), FORM));
    }
    Ok((host.to_owned(), port))
}

fn refuse(message: impl Into<String>, remedy: &'static str) -> EndpointError {
    EndpointError {
        message: message.into(),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(bool, String, u16)> {
        parse_endpoint(text).ok().map(|e| (e.tls, e.host, e.port))
    }

    #[test]
    fn ports_follow_the_scheme() {
        let host = || "broker.example".to_owned();
        assert_eq!(read("mqtt://broker.example"), Some((false, host(), 1883)));
        assert_eq!(read("mqtts://broker.example/"), Some((true, host(), 8883)));
        assert_eq!(read("mqtt://broker.example:1"), Some((false, host(), 1)));
        assert_eq!(
            read("mqtt://broker.example:65535"),
            Some((false, host(), 65535))
        );
        assert_eq!(read("mqtts://[::1]:7"), Some((true, "::1".to_owned(), 7)));
        assert_eq!(
            read("mqtt://[fe80::1]"),
            Some((false, "fe80::1".to_owned(), 1883))
        );
        assert_eq!(
            read("mqtt://127.0.0.1"),
            Some((false, "127.0.0.1".to_owned(), 1883))
        );
    }

    #[test]
    fn other_addresses_are_refused() {
        for bad in [
            "",
            "host",
            "host:1883",
            "://",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://h:",
            "mqtt://h:0",
            "mqtt://h:65536",
            "mqtt://h:+1",
            "mqtt://h:1:2",
            "mqtt://h/path",
            "mqtt://h?x",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[::1]x",
            "mqtt://[h]",
            "tcp://h",
            "mqtt://a b",
            "mqtt://ä",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = parse_endpoint("mqtt://bob:hunter2@host").unwrap_err();
        assert!(!error.message.contains("hunter2"));
        assert!(error.remedy.contains("password_file"));
        for text in [
            "bob:hunter2@host",
            "hunter2://bob@host",
            "mqtt://h/hunter2@",
        ] {
            let error = parse_endpoint(text).unwrap_err();
            assert!(!error.message.contains("hunter2"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_back(text in "(mqtt|mqtts|ws|wss)://[a-z0-9.:@/\\[\\]-]{0,20}|\\PC{0,20}") {
            if let Ok(endpoint) = parse_endpoint(&text) {
                let again = parse_endpoint(&endpoint.to_string());
                prop_assert_eq!(again.ok(), Some(endpoint));
            }
        }
    }
}
