//! The server's side of a WebSocket handshake (RFC 6455 §4.2), as Amazon's SDKs want it.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::http::Refusal;

/// What is hashed together with the client's key (RFC 6455 §1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The subprotocols that stand for MQTT; the second is the first generation of the SDK's.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Checks that a request asks for MQTT over WebSocket; returns the subprotocol to agree to, if the client
/// names one at all.
///
/// # Errors
/// The refusal to answer with.
pub(crate) fn check<B>(request: &Request<B>) -> Result<Option<&'static str>, Refusal> {
    let bad = |message| Refusal::new(StatusCode::BAD_REQUEST, message);
    let headers = request.headers();
    if request.method() != Method::GET
        || !has_token(headers, "connection", "upgrade")
        || !has_token(headers, "upgrade", "websocket")
    {
        return Err(bad("Not a WebSocket upgrade"));
    }
    if text_of(headers, "sec-websocket-version") != Some("13") {
        return Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version is not 13",
        ));
    }
    if !headers.contains_key("sec-websocket-protocol") {
        return Ok(None);
    }
    SUBPROTOCOLS
        .into_iter()
        .find(|protocol| has_token(headers, "sec-websocket-protocol", protocol))
        .map(Some)
        .ok_or_else(|| bad("No MQTT subprotocol"))
}

/// The response that switches protocols. It agrees to no extension: the first generation of the SDK asks
/// for compression and cannot read it. hyper writes header names in lower case, which that SDK needs too.
///
/// # Errors
/// The refusal to answer with.
pub(crate) fn response(
    headers: &HeaderMap,
    protocol: Option<&'static str>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    // Its length is not looked at: the same SDK sends 128 random bytes where 16 are asked for.
    let accept = text_of(headers, "sec-websocket-key")
        .filter(|key| !key.is_empty())
        .and_then(|key| HeaderValue::from_str(&accept_key(key)).ok())
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "No WebSocket key"))?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let set = response.headers_mut();
    set.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    set.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    set.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        set.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
    }
    Ok(response)
}

/// Whether a header that lists tokens has one, in whatever case.
fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

fn accept_key(key: &str) -> String {
    let text = format!("{key}{ACCEPT_SUFFIX}");
    // RFC 6455 wants SHA-1 and no security from it.
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64_STANDARD.encode(hash.as_ref())
}

/// A header as text, if it is text.
pub(crate) fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_specification() {
        // RFC 6455 §1.3.
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
