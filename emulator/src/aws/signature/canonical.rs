//! What a signature is made of: the canonical form of a request, and the keys.

use aws_lc_rs::{constant_time, digest, hmac};

use super::claim::Claim;
use super::{ALGORITHM, AccessKey, Mistake, Signed, malformed};
use crate::remarks::Quoted;

/// How a client may have read the rules of signing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) keeps_port: bool,
    /// The session token is signed with the query.
    pub(super) signs_token: bool,
    /// The body's hash is the text for one that is not signed.
    pub(super) leaves_body_out: bool,
    /// The path, in place of the request's.
    pub(super) path: Option<&'static str>,
}

impl Reading {
    pub(super) fn with_port() -> Self {
        Self {
            keeps_port: true,
            ..Self::default()
        }
    }
}

impl Claim {
    pub(super) fn is_signed_by(
        &self,
        key: &AccessKey,
        scope: &[&str; 3],
        request: &Signed<'_>,
        reading: &Reading,
    ) -> Result<bool, Mistake> {
        let canonical = self.canonical_request(request, reading)?.text();
        let [date, region, service] = scope;
        let text = format!(
            "{ALGORITHM}\n{}\n{date}/{region}/{service}/aws4_request\n{}",
            self.timestamp,
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
        );
        let signing_key = signing_key(&key.secret, &[date, region, service, "aws4_request"]);
        let expected = hex(sign(signing_key.as_ref(), &text).as_ref());
        let given = self.signature.as_bytes();
        Ok(constant_time::verify_slices_are_equal(expected.as_bytes(), given).is_ok())
    }

    pub(super) fn canonical_request(
        &self,
        request: &Signed<'_>,
        reading: &Reading,
    ) -> Result<Canonical, Mistake> {
        let names: Vec<&str> = self.signed_headers.split(';').collect();
        if !names.contains(&"host") {
            return Err(malformed("its signed headers are without host"));
        }
        let mut headers = Vec::new();
        for name in names {
            let value = (request.header)(name)
                .ok_or_else(|| malformed(format!("the request has no header {}", Quoted(name))))?;
            let value = match name {
                "host" if !reading.keeps_port => without_port(value),
                _ => value,
            };
            let words: Vec<&str> = value.split_whitespace().collect();
            headers.push((name.to_owned(), words.join(" ")));
        }
        // The token is added to the query of an upgrade after it was signed.
        let is_signed = |name: &str| match name {
            _ if !self.is_in_query => true,
            "X-Amz-Signature" => false,
            "X-Amz-Security-Token" => reading.signs_token,
            _ => true,
        };
        let query = parse_query(request.query);
        let query = query.into_iter().filter(|(name, _)| is_signed(name));
        Ok(Canonical {
            method: request.method.to_owned(),
            path: escape(reading.path.unwrap_or(request.path), "/"),
            query: query.collect(),
            headers,
            signed_headers: self.signed_headers.clone(),
            body: if reading.leaves_body_out {
                "UNSIGNED-PAYLOAD".to_owned()
            } else {
                hex(digest::digest(&digest::SHA256, request.body).as_ref())
            },
        })
    }
}

/// What a signature is made of.
pub(super) struct Canonical {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    signed_headers: String,
    body: String,
}

/// The parts of a query and the headers that a log may show: anything else may be a token or a password.
const SHOWN: [&str; 12] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "connection",
    "content-type",
    "host",
    "upgrade",
    "user-agent",
    "x-amz-content-sha256",
    "x-amz-date",
];

impl Canonical {
    fn text(&self) -> String {
        self.write(|_, value| value.to_owned())
    }

    /// For the log: without what may be a secret.
    pub(super) fn shown(&self) -> String {
        self.write(|name, value| {
            if SHOWN.contains(&name) {
                value.to_owned()
            } else {
                "(not shown)".to_owned()
            }
        })
    }

    fn write(&self, value_of: impl Fn(&str, &str) -> String) -> String {
        let query = self.query.iter();
        let mut pairs: Vec<(String, String)> = query
            .map(|(name, value)| (escape(name, ""), value_of(name, &escape(value, ""))))
            .collect();
        // By name, then by value: joined with =, a name would come behind a longer one that goes on with a digit.
        pairs.sort();
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value_of(name, value)))
            .collect();
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            self.method,
            self.path,
            pairs.join("&"),
            self.signed_headers,
            self.body,
        )
    }
}

pub(super) fn signing_key(secret: &str, scope: &[&str]) -> hmac::Tag {
    let first = format!("AWS4{secret}");
    let (date, rest) = scope.split_first().unwrap_or((&"", &[]));
    rest.iter().fold(sign(first.as_bytes(), date), |key, part| {
        sign(key.as_ref(), part)
    })
}

pub(super) fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Names and values of a query, unescaped, in their order.
pub(crate) fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        })
        .collect()
}

/// Undoes percent escapes; what is none stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            // A sign is none, though it may stand before a number.
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Escapes everything but the unreserved characters of RFC 3986 and `kept`.
fn escape(text: &str, kept: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        let character = char::from(byte);
        if character.is_ascii_alphanumeric()
            || "-_.~".contains(character)
            || kept.contains(character)
        {
            escaped.push(character);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
