//! The HTTP request that opens a WebSocket (RFC 6455, section 4), and the answer to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use secrecy::zeroize::Zeroize as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::stream::random;
use super::{UpgradeError, UpgradeRequest, WebSocket, WebSocketError, WebSocketTarget, printable};
use crate::transport::{ConnectError, Endpoint, Stream, tls};

/// The protocol that is spoken inside [MQTT-6.0.0-3].
const SUBPROTOCOL: &str = "mqtt";

/// Most bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;

/// Most headers in it.
const HEADERS_MAX: usize = 64;

/// Most bytes of a refusal's body that are looked at for its first line, and for how long.
const BODY_MAX: usize = 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// What RFC 6455 has appended to the key before it is hashed.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Opens a WebSocket over `stream`.
pub(super) async fn open(
    mut stream: Stream,
    target: &WebSocketTarget,
    request: &UpgradeRequest,
) -> Result<WebSocket, ConnectError> {
    let endpoint = &target.endpoint;
    let lost = |source: io::Error| {
        // With TLS 1.3 a server looks at the client's certificate only now.
        tls::refusal(endpoint, target.tls.as_ref(), &source).unwrap_or_else(|| {
            ConnectError::WebSocket {
                host: endpoint.to_string(),
                source: WebSocketError::Lost(Arc::new(source)),
            }
        })
    };
    let broken = |source| ConnectError::WebSocket {
        host: endpoint.to_string(),
        source,
    };
    let key = STANDARD.encode(random::<16>().map_err(lost)?);
    let mut text = request_text(endpoint, target.default_port(), request, &key);
    let sent = stream.write_all(text.as_bytes()).await;
    text.zeroize();
    sent.map_err(lost)?;
    stream.flush().await.map_err(lost)?;

    let mut bytes = BytesMut::with_capacity(1024);
    let answer = loop {
        let count = stream.read_buf(&mut bytes).await.map_err(lost)?;
        let answer = read_head(&bytes, &key).map_err(broken)?;
        if let Some(answer) = answer {
            break answer;
        }
        if count == 0 {
            return Err(broken(WebSocketError::Unanswered));
        }
        if bytes.len() > HEAD_MAX {
            return Err(broken(WebSocketError::Answer("is longer than 16 KiB")));
        }
    };
    match answer {
        Answer::Accepted { head_length } => {
            let early = bytes.split_off(head_length);
            Ok(WebSocket::new(stream, early))
        }
        Answer::Refused {
            head_length,
            status,
            reason,
            is_chunked,
            body_length,
        } => {
            let mut body = bytes.split_off(head_length);
            let wanted = body_length.unwrap_or(BODY_MAX).min(BODY_MAX);
            let rest = read_body(&mut stream, &mut body, wanted);
            // A server that says no more in time has refused all the same.
            let _ = timeout(BODY_TIMEOUT, rest).await;
            Err(ConnectError::HttpRefused {
                host: endpoint.to_string(),
                status,
                message: refusal_text(&reason, &body, is_chunked),
            })
        }
    }
}

/// The request, secrets and all. `default_port` is the one that a `Host` header leaves out.
fn request_text(
    endpoint: &Endpoint,
    default_port: u16,
    request: &UpgradeRequest,
    key: &str,
) -> String {
    let host = match &request.host {
        Some(host) => host.clone(),
        None if endpoint.port() == default_port => {
            let text = endpoint.to_string();
            let without_port = text.rsplit_once(':').map(|(host, _)| host.to_owned());
            without_port.unwrap_or(text)
        }
        None => endpoint.to_string(),
    };
    let mut text = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
        request.path_and_query.expose_secret()
    );
    for (name, value) in &request.headers {
        for part in [name.as_str(), ": ", value.expose_secret(), "\r\n"] {
            text.push_str(part);
        }
    }
    text.push_str("\r\n");
    text
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Accepted {
        head_length: usize,
    },
    Refused {
        head_length: usize,
        status: u16,
        reason: String,
        is_chunked: bool,
        body_length: Option<usize>,
    },
}

/// What the head of an answer says, once it is whole.
fn read_head(bytes: &[u8], key: &str) -> Result<Option<Answer>, WebSocketError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WebSocketError::NotHttp),
    };
    let values = |name: &'static str| {
        let headers = response.headers.iter();
        headers
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .filter_map(|header| std::str::from_utf8(header.value).ok())
            .map(str::trim)
    };
    let has_token = |name, token: &str| {
        values(name)
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return Ok(Some(Answer::Refused {
            head_length,
            status,
            reason: printable(response.reason.unwrap_or_default().as_bytes()),
            is_chunked: has_token("transfer-encoding", "chunked"),
            body_length: values("content-length")
                .next()
                .and_then(|length| length.parse().ok()),
        }));
    }
    if !has_token("upgrade", "websocket") || !has_token("connection", "upgrade") {
        return Err(WebSocketError::Answer("switches to something else"));
    }
    if values("sec-websocket-accept").next() != Some(accept_value(key).as_str()) {
        return Err(WebSocketError::Answer("belongs to another request"));
    }
    if values("sec-websocket-extensions").any(|value| !value.is_empty()) {
        return Err(WebSocketError::Answer(
            "uses an extension that was not offered",
        ));
    }
    match values("sec-websocket-protocol").next() {
        Some(SUBPROTOCOL) => Ok(Some(Answer::Accepted { head_length })),
        other => Err(WebSocketError::Subprotocol(printable(
            other.unwrap_or_default().as_bytes(),
        ))),
    }
}

fn accept_value(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(ACCEPT_SUFFIX.as_bytes());
    STANDARD.encode(hash.finalize())
}

async fn read_body(stream: &mut (impl AsyncRead + Unpin), body: &mut BytesMut, wanted: usize) {
    while body.len() < wanted {
        match stream.read_buf(body).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The status line's words and the first line of the body.
fn refusal_text(reason: &str, body: &[u8], is_chunked: bool) -> String {
    let body = &body[..body.len().min(BODY_MAX)];
    let mut lines = body
        .split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii());
    // The first line of a body in chunks is the length of the first one.
    let line = lines.nth(usize::from(is_chunked)).unwrap_or_default();
    match (reason, printable(line)) {
        ("", line) => line,
        (reason, line) if line.is_empty() => reason.to_owned(),
        (reason, line) => format!("{reason}: {line}"),
    }
}

impl UpgradeRequest {
    /// A request for `path_and_query`, which begins with `/`. It is kept as a secret: a query may hold a signature or
    /// a token.
    ///
    /// # Errors
    /// It does not begin with `/`, or has characters that a request line cannot hold (spaces, control characters,
    /// `#`, anything beyond ASCII).
    pub fn new(path_and_query: impl Into<SecretString>) -> Result<Self, UpgradeError> {
        let path_and_query = path_and_query.into();
        let text = path_and_query.expose_secret();
        if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(UpgradeError::Path);
        }
        Ok(Self {
            path_and_query,
            headers: Vec::new(),
            host: None,
        })
    }

    /// A further header; its value is kept as a secret.
    ///
    /// # Errors
    /// The name is no header name or one that belongs to the WebSocket; the value has control characters or
    /// anything beyond ASCII.
    pub fn header(
        mut self,
        name: impl Into<String>,
        value: impl Into<SecretString>,
    ) -> Result<Self, UpgradeError> {
        let (name, value) = (name.into(), value.into());
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let lower = name.to_ascii_lowercase();
        let is_ours = [
            "host",
            "upgrade",
            "connection",
            "content-length",
            "transfer-encoding",
        ]
        .contains(&lower.as_str())
            || lower.starts_with("sec-websocket-");
        if name.is_empty() || !name.bytes().all(is_token) || is_ours {
            return Err(UpgradeError::HeaderName);
        }
        let is_text = |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic();
        if !value.expose_secret().bytes().all(is_text) {
            return Err(UpgradeError::HeaderValue(name));
        }
        self.headers.push((name, value));
        Ok(self)
    }

    /// Whether a header of this name was added, in upper case or lower.
    #[must_use]
    pub fn has_header(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// What the `Host` header says. Default: the endpoint's host, and its port unless it is the scheme's own.
    ///
    /// # Errors
    /// It has characters that a host name or a port cannot have.
    pub fn host(mut self, host: impl Into<String>) -> Result<Self, UpgradeError> {
        let host = host.into();
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_fit) {
            return Err(UpgradeError::HeaderValue("Host".to_owned()));
        }
        self.host = Some(host);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

    #[test]
    fn the_answer_of_the_rfcs_example_is_taken_wherever_it_is_cut() {
        for cut in 0..GOOD.len() {
            assert_eq!(read_head(&GOOD.as_bytes()[..cut], KEY), Ok(None), "{cut}");
        }
        let head_length = GOOD.len();
        let bytes = format!("{GOOD}more");
        let answer = read_head(bytes.as_bytes(), KEY);
        assert_eq!(answer, Ok(Some(Answer::Accepted { head_length })));
    }

    #[test]
    fn an_answer_that_promises_something_else_is_none() {
        use WebSocketError::{Answer, NotHttp, Subprotocol};
        for (from, to, problem) in [
            ("HTTP/1.1", "SSH-2.0", NotHttp),
            ("WebSocket", "h2c", Answer("switches to something else")),
            (
                "keep-alive, Upgrade",
                "close",
                Answer("switches to something else"),
            ),
            ("s3pP", "S3pP", Answer("belongs to another request")),
            (
                "Protocol: mqtt",
                "Protocol: chat",
                Subprotocol("chat".into()),
            ),
            (
                "Sec-WebSocket-Protocol: mqtt\r\n",
                "",
                Subprotocol(String::new()),
            ),
            (
                "mqtt\r\n",
                "mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
                Answer("uses an extension that was not offered"),
            ),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            assert_eq!(read_head(text.as_bytes(), KEY), Err(problem), "{to}");
        }
    }

    #[test]
    fn a_refusal_says_its_words_and_the_first_line_of_its_body() {
        for (body, is_chunked, text) in [
            ("", false, "Forbidden"),
            (
                "{\"message\":null}\r\nmore",
                false,
                "Forbidden: {\"message\":null}",
            ),
            ("9\r\nno access\r\n0\r\n\r\n", true, "Forbidden: no access"),
            ("a\u{1b}[31mb", false, "Forbidden: a [31mb"),
        ] {
            assert_eq!(refusal_text("Forbidden", body.as_bytes(), is_chunked), text);
        }
        assert_eq!(refusal_text("", b"why", false), "why");
        assert!(refusal_text("", &[b'x'; 5000], false).len() < 300);
    }

    #[test]
    fn no_request_holds_what_would_end_a_line() {
        for path in ["", "mqtt", "/a b", "/a\r\nX: y", "/ü", "/a#b", "/\u{0}"] {
            assert!(UpgradeRequest::new(path.to_owned()).is_err(), "{path:?}");
        }
        let request = || UpgradeRequest::new("/mqtt?a=b".to_owned()).unwrap();
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("Host", "x"),
            ("sec-WebSocket-Key", "x"),
            ("Content-Length", "1"),
            ("X", "a\r\nb"),
            ("X", "ü"),
        ] {
            assert!(
                request().header(name, value.to_owned()).is_err(),
                "{name:?} {value:?}"
            );
        }
        assert!(request().host("a\r\nb").is_err());
        let ours = request().header("X-Token", "canary".to_owned()).unwrap();
        assert!(!format!("{ours:?}").contains("canary"));
        assert!(!format!("{ours:?}").contains("a=b"));
    }

    #[test]
    fn the_host_header_has_the_port_only_where_it_is_not_the_schemes_own() {
        let endpoint = |port| Endpoint::new("h.example", port).unwrap();
        let request = UpgradeRequest::new("/mqtt".to_owned()).unwrap();
        let text =
            |port, request: &UpgradeRequest| request_text(&endpoint(port), 443, request, KEY);
        assert!(text(443, &request).contains("\r\nHost: h.example\r\n"));
        assert!(text(8443, &request).contains("\r\nHost: h.example:8443\r\n"));
        let request = request.host("other").unwrap();
        assert!(text(8443, &request).contains("\r\nHost: other\r\n"));
        let ipv6 = Endpoint::new("::1", 443).unwrap();
        let request = UpgradeRequest::new("/".to_owned()).unwrap();
        assert!(request_text(&ipv6, 443, &request, KEY).contains("\r\nHost: [::1]\r\n"));
    }
}
