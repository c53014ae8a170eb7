//! The HTTP proxy: `--proxy`, and for WebSocket what the environment says, as for any other HTTP.

use paquebot::HttpProxy;
use secrecy::SecretString;

use super::{Place, usage};
use crate::cli::CommandError;

const FORM: &str = "write http://[user[:password]@]host[:port]";

/// The proxy of a URL; what is wrong is said without a word of it, since it may hold a password.
pub(super) fn parse(url: &str) -> Result<HttpProxy, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        // As curl takes it.
        None => url,
        Some(_) => return Err(format!("only proxies of http:// are supported: {FORM}")),
    };
    let (login, address) = match rest.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, rest),
    };
    let proxy = HttpProxy::new(&format!("http://{address}")).map_err(|_| FORM.to_owned())?;
    let Some(login) = login else {
        return Ok(proxy);
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let user = decoded(user).filter(|user| !user.contains(':'));
    match (user, decoded(password)) {
        (Some(user), Some(password)) => Ok(proxy.login(&user, &SecretString::from(password))),
        _ => Err("its user name or password is not percent-encoded as it should be".to_owned()),
    }
}

/// What the environment says about WebSocket to a place.
///
/// # Errors
/// The variable names no proxy.
pub(super) fn from_environment(
    place: &Place,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<HttpProxy>, CommandError> {
    // MQTT itself is not HTTP, and the variables say nothing about it.
    if place.websocket.is_none() || place.is_loopback() {
        return Ok(None);
    }
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    if ["no_proxy", "NO_PROXY"]
        .iter()
        .find_map(set)
        .is_some_and(|list| is_exempt(place, &list))
    {
        return Ok(None);
    }
    // HTTP_PROXY in capitals is left out as curl does: a server's CGI sets it from a request.
    let names: &[&str] = if place.is_secure {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    };
    let found = names.iter().find_map(|name| Some((name, set(name)?)));
    found
        .map(|(name, url)| parse(&url).map_err(|problem| usage(format!("{name}: {problem}"))))
        .transpose()
}

/// `NO_PROXY`: names with all that end with them, addresses, each perhaps with a port, or `*`.
fn is_exempt(place: &Place, list: &str) -> bool {
    let host = place.host().to_ascii_lowercase();
    list.split([',', ' ']).any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => (name, Some(port)),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let is_port = port.is_none_or(|port| port.parse().ok() == place.port());
        let is_name = match host.strip_suffix(name) {
            Some(before) => before.is_empty() || before.ends_with('.'),
            None => false,
        };
        entry == "*" || (!name.is_empty() && is_name && is_port)
    })
}

/// Takes percent encoding off.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let code = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(code).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_with_or_without_a_login() {
        for url in [
            "http://proxy:3128",
            "proxy:3128",
            "http://u:p%40q@proxy",
            "http://u@[::1]:1/",
        ] {
            assert!(parse(url).is_ok(), "{url}");
        }
        for url in [
            "https://u:canary@proxy",
            "socks5://u:canary@proxy",
            "http://u:canary@",
            "http://u:canary%zz@proxy",
            "http://u:canary@proxy:x",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
        assert_eq!(decoded("a%3Ab%20%C3%A4").as_deref(), Some("a:b ä"));
        assert_eq!(decoded("%4"), None);
    }

    #[test]
    fn the_environment_is_for_websocket_and_no_proxy_exempts_from_it() {
        let found = |url: &str, no_proxy: &str| {
            let place = Place::parse(url).unwrap();
            let proxy = from_environment(&place, |name| match name {
                "HTTPS_PROXY" | "http_proxy" => Some("http://proxy:3128".into()),
                "NO_PROXY" => Some(no_proxy.into()),
                _ => None,
            });
            proxy.unwrap().is_some()
        };
        for url in ["wss://a.example", "ws://a.example", "wss://10.0.0.1"] {
            assert!(found(url, ""), "{url}");
            assert!(found(url, "b.example, xa.example,10.0.0.2, ."), "{url}");
            assert!(!found(url, "*"), "{url}");
        }
        for url in [
            "mqtts://a.example",
            "wss://localhost",
            "wss://127.0.0.1",
            "ws://[::1]",
        ] {
            assert!(!found(url, ""), "{url}");
        }
        for list in [
            "example",
            ".example",
            "x, A.EXAMPLE",
            "a.example:443",
            "*.example",
        ] {
            assert!(!found("wss://a.example", list), "{list}");
        }
        assert!(found("wss://a.example", "a.example:444"));
        assert!(!found("wss://10.0.0.1", "10.0.0.1"));
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_named() {
        let place = Place::parse("wss://h").unwrap();
        let error = from_environment(&place, |name| {
            (name == "ALL_PROXY").then(|| "socks5://u:canary@p".to_owned())
        });
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("ALL_PROXY: only proxies"), "{error}");
    }
}
