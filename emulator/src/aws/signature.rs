//! Signature Version 4 as the IoT endpoints check it: in the query of a WebSocket upgrade, or in the
//! `Authorization` header of a request.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, digest, hmac};

use crate::remarks::Quoted;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The names that the two generations of Amazon's SDKs sign for.
const SERVICES: [&str; 2] = ["iotdata", "iotdevicegateway"];

/// How far a request's clock may be off, and how long a signature without an expiry holds.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// The longest expiry that a query may ask for.
const EXPIRY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// An access key of IAM that the server accepts.
#[derive(Clone)]
pub(crate) struct AccessKey {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// A temporary key comes with a session token.
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A request as far as it is signed.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// As it was sent, without `?`.
    pub(crate) query: &'a str,
    /// Finds a header by its lower-case name.
    pub(crate) header: &'a dyn Fn(&str) -> Option<&'a str>,
    pub(crate) body: &'a [u8],
}

/// Why a signature is refused, in the words of AWS's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the request carries no signature")]
    Missing,
    #[error("a part of the signature is missing or not in its form")]
    Malformed,
    #[error("the security token included in the request is invalid")]
    UnknownKey,
    #[error("credential should be scoped to a valid service")]
    WrongService,
    #[error("credential should be scoped to a valid region")]
    WrongRegion,
    #[error("signature expired or not yet current")]
    Expired,
    #[error("the request signature we calculated does not match the signature you provided")]
    Mismatch,
}

impl SignatureError {
    /// Whose rule it is.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::Missing | Self::Malformed => "Signature Version 4: its parts",
            Self::UnknownKey => "Signature Version 4: access key and session token",
            Self::WrongService => "Signature Version 4: service of the credential scope",
            Self::WrongRegion => "Signature Version 4: region of the credential scope",
            Self::Expired => "Signature Version 4: time of signing",
            Self::Mismatch => "Signature Version 4: signature",
        }
    }
}

/// A refusal with what is wrong in particular: for the log, and without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) error: SignatureError,
    /// The identifier of the access key, when one is named.
    pub(crate) key_id: Option<String>,
    pub(crate) detail: Cow<'static, str>,
}

impl Mistake {
    fn new(error: SignatureError, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error,
            key_id: None,
            detail: detail.into(),
        }
    }
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Mistake {
    Mistake::new(SignatureError::Malformed, detail)
}

/// Checks a request for a region; returns the identifier of the key that signed it.
///
/// # Errors
/// What is wrong with its signature.
pub(crate) fn verify<'k>(
    request: &Signed<'_>,
    keys: &'k [AccessKey],
    region: &str,
    now: SystemTime,
) -> Result<&'k str, Mistake> {
    let claim = Claim::read(request)?;
    let scope: Vec<&str> = claim.credential.split('/').collect();
    let [key_id, date, scope_region, service, "aws4_request"] = scope.as_slice() else {
        return Err(malformed(
            "its credential is not <key>/<date>/<region>/<service>/aws4_request",
        ));
    };
    let of_key = |mistake: Mistake| Mistake {
        key_id: Some((*key_id).to_owned()),
        ..mistake
    };
    claim
        .check_scope(date, (scope_region, region), service)
        .map_err(of_key)?;
    claim.check_time(now).map_err(of_key)?;
    let key = find_key(keys, key_id, claim.token.as_deref()).map_err(of_key)?;
    let scope = [*date, *scope_region, *service];
    // Some clients sign the host with the port they connect to, most without.
    for reading in [Reading::default(), Reading::with_port()] {
        if claim.is_signed_by(key, &scope, request, &reading)? {
            return Ok(&key.id);
        }
    }
    Err(of_key(claim.mismatch(key, &scope, request)?))
}

fn find_key<'k>(
    keys: &'k [AccessKey],
    key_id: &str,
    token: Option<&str>,
) -> Result<&'k AccessKey, Mistake> {
    let unknown = |detail: &'static str| Mistake::new(SignatureError::UnknownKey, detail);
    let key = keys
        .iter()
        .find(|key| key.id == key_id)
        .ok_or_else(|| unknown("the emulator has no access key of this identifier"))?;
    match (&key.token, token) {
        (Some(_), None) => Err(unknown(
            "the access key is temporary, and the request has no session token",
        )),
        (None, Some(_)) => Err(unknown(
            "the access key is not temporary, and the request has a session token",
        )),
        (Some(known), Some(given)) if known != given => {
            Err(unknown("the session token is not the access key's"))
        }
        _ => Ok(key),
    }
}

/// How a client may have read the rules of signing.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    keeps_port: bool,
    /// The session token is signed with the query.
    signs_token: bool,
    /// The body's hash is the text for one that is not signed.
    leaves_body_out: bool,
    /// The path, in place of the request's.
    path: Option<&'static str>,
}

impl Reading {
    fn with_port() -> Self {
        Self {
            keeps_port: true,
            ..Self::default()
        }
    }

    /// Those that clients are known to have and that are wrong.
    fn mistaken() -> [(Self, &'static str); 4] {
        let right = Self::default();
        [
            (
                Self {
                    signs_token: true,
                    ..right
                },
                "the session token was signed with the query, and it is to be added after signing",
            ),
            (
                Self {
                    leaves_body_out: true,
                    ..right
                },
                "UNSIGNED-PAYLOAD was signed in the place of the hash of the empty body",
            ),
            (
                Self {
                    path: Some("/"),
                    ..right
                },
                "the path / was signed, and /mqtt is asked for",
            ),
            (
                Self {
                    path: Some(""),
                    ..right
                },
                "an empty path was signed, and /mqtt is asked for",
            ),
        ]
    }
}

/// What a request says about its signature.
struct Claim {
    credential: String,
    timestamp: String,
    expires: Option<Duration>,
    signed_headers: String,
    signature: String,
    token: Option<String>,
    is_in_query: bool,
}

impl Claim {
    fn read(request: &Signed<'_>) -> Result<Self, Mistake> {
        match (request.header)("authorization") {
            Some(header) => Self::from_header(header, request),
            None => Self::from_query(request.query),
        }
    }

    fn from_query(query: &str) -> Result<Self, Mistake> {
        let pairs = parse_query(query);
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let need = |name: &str| find(name).ok_or_else(|| malformed(format!("{name} is missing")));
        match find("X-Amz-Algorithm") {
            None => {
                let detail = "X-Amz-Algorithm is missing";
                return Err(Mistake::new(SignatureError::Missing, detail));
            }
            Some(algorithm) if algorithm == ALGORITHM => {}
            Some(_) => return Err(malformed("X-Amz-Algorithm is not AWS4-HMAC-SHA256")),
        }
        let expires = find("X-Amz-Expires")
            .map(|text| lifetime(&text))
            .transpose()?;
        Ok(Self {
            credential: need("X-Amz-Credential")?,
            timestamp: need("X-Amz-Date")?,
            expires,
            signed_headers: need("X-Amz-SignedHeaders")?,
            signature: need("X-Amz-Signature")?,
            token: find("X-Amz-Security-Token"),
            is_in_query: true,
        })
    }

    fn from_header(header: &str, request: &Signed<'_>) -> Result<Self, Mistake> {
        let parts = header
            .strip_prefix(ALGORITHM)
            .ok_or_else(|| malformed("Authorization does not begin with AWS4-HMAC-SHA256"))?;
        let need = |name: &str| {
            parts
                .split(',')
                .filter_map(|part| part.trim().split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
                .ok_or_else(|| malformed(format!("Authorization has no {name}")))
        };
        let header = |name: &str| (request.header)(name).map(str::to_owned);
        Ok(Self {
            credential: need("Credential")?,
            timestamp: header("x-amz-date")
                .ok_or_else(|| malformed("the header X-Amz-Date is missing"))?,
            expires: None,
            signed_headers: need("SignedHeaders")?,
            signature: need("Signature")?,
            token: header("x-amz-security-token"),
            is_in_query: false,
        })
    }

    fn check_scope(
        &self,
        date: &str,
        (region, expected): (&str, &str),
        service: &str,
    ) -> Result<(), Mistake> {
        if !SERVICES.contains(&service) {
            let detail = format!(
                "the service in its credential is {}, and not one of {}",
                Quoted(service),
                SERVICES.join(", ")
            );
            return Err(Mistake::new(SignatureError::WrongService, detail));
        }
        if region != expected {
            let detail = format!(
                "the region in its credential is {}, and this is {expected:?}",
                Quoted(region)
            );
            return Err(Mistake::new(SignatureError::WrongRegion, detail));
        }
        if self.timestamp.get(..8) != Some(date) {
            return Err(malformed(
                "the date in its credential is not that of X-Amz-Date",
            ));
        }
        Ok(())
    }

    fn check_time(&self, now: SystemTime) -> Result<(), Mistake> {
        let signed_at = parse_timestamp(&self.timestamp)
            .ok_or_else(|| malformed("X-Amz-Date is not like 20261120T232624Z"))?;
        let expired = |detail| Err(Mistake::new(SignatureError::Expired, detail));
        if let Ok(ahead) = signed_at.duration_since(now)
            && ahead > SKEW_MAX
        {
            return expired(format!(
                "it was signed {} s in the future, of at most {}; set the clock",
                ahead.as_secs(),
                SKEW_MAX.as_secs()
            ));
        }
        let lifetime = self.expires.unwrap_or(SKEW_MAX);
        match now.duration_since(signed_at) {
            Ok(age) if age > lifetime => expired(format!(
                "it was signed {} s ago and held {} s; sign anew for each connection, or set the clock",
                age.as_secs(),
                lifetime.as_secs()
            )),
            _ => Ok(()),
        }
    }

    fn is_signed_by(
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

    /// What is wrong with a signature that is none of the key's.
    fn mismatch(
        &self,
        key: &AccessKey,
        scope: &[&str; 3],
        request: &Signed<'_>,
    ) -> Result<Mistake, Mistake> {
        for (reading, detail) in Reading::mistaken() {
            if self.is_signed_by(key, scope, request, &reading)? {
                return Ok(Mistake::new(SignatureError::Mismatch, detail));
            }
        }
        let canonical = self.canonical_request(request, &Reading::default())?;
        let shown = canonical.shown();
        let detail = format!(
            "another secret key signed it, or something else than this canonical request: {shown:?}"
        );
        Ok(Mistake::new(SignatureError::Mismatch, detail))
    }

    fn canonical_request(
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
struct Canonical {
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
    fn shown(&self) -> String {
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
        let mut pairs: Vec<String> = query
            .map(|(name, value)| {
                let value = value_of(name, &escape(value, ""));
                format!("{}={value}", escape(name, ""))
            })
            .collect();
        pairs.sort();
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

/// Reads X-Amz-Expires.
fn lifetime(text: &str) -> Result<Duration, Mistake> {
    let seconds: Option<u64> = text.parse().ok();
    seconds
        .map(Duration::from_secs)
        .filter(|lifetime| !lifetime.is_zero() && *lifetime <= EXPIRY_MAX)
        .ok_or_else(|| {
            let max = EXPIRY_MAX.as_secs();
            malformed(format!(
                "X-Amz-Expires is no number of seconds from 1 to {max}"
            ))
        })
}

fn signing_key(secret: &str, scope: &[&str]) -> hmac::Tag {
    let first = format!("AWS4{secret}");
    let (date, rest) = scope.split_first().unwrap_or((&"", &[]));
    rest.iter().fold(sign(first.as_bytes(), date), |key, part| {
        sign(key.as_ref(), part)
    })
}

fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
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

/// Reads `20261120T232624Z`.
fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if date.len() != 8 || time.len() != 6 || !is_number(date) || !is_number(time) {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, month, day) = (
        number(&date[..4])?,
        number(&date[4..6])?,
        number(&date[6..])?,
    );
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March, so that the leap day is their last; from 1 March of year 0 on.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    let seconds = number(&time[..2])? * 3600 + number(&time[2..4])? * 60 + number(&time[4..])?;
    UNIX_EPOCH.checked_add(Duration::from_secs(
        (days - DAYS_TO_1970) * 24 * 3600 + seconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "abc123.iot.us-east-1.amazonaws.com";
    const TIMESTAMP: &str = "20261120T232624Z";
    const SIGNATURE: &str = "34d89d4c5314420c48f4765f563c3653f6cd7d00f366abab08fe5a17e0354061";

    fn key(token: Option<&str>) -> AccessKey {
        AccessKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// The query as the first generation of the SDK writes it.
    fn query_v1(service: &str, signature: &str, token: &str) -> String {
        format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Fus-east-1%2F{service}%2Faws4_request\
             &X-Amz-Date={TIMESTAMP}&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature={signature}{token}"
        )
    }

    fn check(
        query: &str,
        host: &str,
        key: AccessKey,
        after: Duration,
        timestamp: &str,
    ) -> Result<String, SignatureError> {
        let header = |name: &str| match name {
            "host" => Some(host),
            "connection" => Some("Upgrade"),
            _ => None,
        };
        let request = Signed {
            method: "GET",
            path: "/mqtt",
            query,
            header: &header,
            body: b"",
        };
        let now = parse_timestamp(timestamp).unwrap() + after;
        verify(&request, &[key], "us-east-1", now)
            .map(str::to_owned)
            .map_err(|mistake| mistake.error)
    }

    fn check_v1(query: &str, key: AccessKey, after: Duration) -> Result<String, SignatureError> {
        check(query, HOST, key, after, TIMESTAMP)
    }

    #[test]
    fn signatures_of_both_generations_of_sdks_are_accepted() {
        let second = Duration::from_secs(1);
        let token = "&X-Amz-Security-Token=TOK/EN%2Bwith%3Dspecials";
        let with_token = query_v1("iotdata", SIGNATURE, token);
        let known = key(Some("TOK/EN+with=specials"));
        assert_eq!(
            check_v1(&with_token, known, second),
            Ok("AKIDEXAMPLE".to_owned())
        );
        let without = query_v1("iotdata", SIGNATURE, "");
        assert!(check_v1(&without, key(None), second).is_ok());
        let gateway = query_v1(
            "iotdevicegateway",
            "b13f6471eea80cfce36fae68cdf96c63874f3eedee775621793a4b33dd01733f",
            "",
        );
        assert!(check_v1(&gateway, key(None), second).is_ok());
        let second_generation = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Fus-east-1%2Fiotdevicegateway%2Faws4_request\
             &X-Amz-Date=20261120T232914Z&X-Amz-SignedHeaders=connection%3Bhost\
             &X-Amz-Signature=03a15c1b4a3da01ad47d621f807ebf869b548602378db74f2d05708521be88f8";
        for host in ["localhost", "localhost:8443"] {
            let timestamp = "20261120T232914Z";
            assert!(check(second_generation, host, key(None), second, timestamp).is_ok());
        }
    }

    #[test]
    fn whatever_differs_from_what_was_signed_is_refused() {
        let second = Duration::from_secs(1);
        let good = query_v1("iotdata", SIGNATURE, "");
        for (query, expected) in [
            (good.replace("34d8", "34d9"), SignatureError::Mismatch),
            (good.replace("=86400", "=86399"), SignatureError::Mismatch),
            (
                good.replace("AKIDEXAMPLE", "AKIDOTHER"),
                SignatureError::UnknownKey,
            ),
            (good.replace("iotdata", "s3"), SignatureError::WrongService),
            (
                good.replace("us-east-1", "eu-west-1"),
                SignatureError::WrongRegion,
            ),
            (good.replace("=86400", "=604801"), SignatureError::Malformed),
            (good.replace("=86400", "=0"), SignatureError::Malformed),
            (good.replace("=86400", "=-1"), SignatureError::Malformed),
            (
                good.replace("SignedHeaders=host", "SignedHeaders=host%3Bx"),
                SignatureError::Malformed,
            ),
            (
                good.replace("SignedHeaders=host", "SignedHeaders=connection"),
                SignatureError::Malformed,
            ),
            (
                good.replace("&X-Amz-Date", "&X-Amz-Data"),
                SignatureError::Malformed,
            ),
            (
                good.replace("T232624Z", "T2326Z"),
                SignatureError::Malformed,
            ),
            (
                format!("{good}&X-Amz-Security-Token=t"),
                SignatureError::UnknownKey,
            ),
            (String::new(), SignatureError::Missing),
        ] {
            assert_eq!(
                check_v1(&query, key(None), second),
                Err(expected),
                "{query}"
            );
        }
        let other_host = check(&good, "other.example", key(None), second, TIMESTAMP);
        assert_eq!(other_host, Err(SignatureError::Mismatch));
        let mut other_secret = key(None);
        other_secret.secret.push('x');
        let refused = check_v1(&good, other_secret, second);
        assert_eq!(refused, Err(SignatureError::Mismatch));
    }

    /// What the log says of a request that was signed in a way of its own.
    fn detail_of(sign: impl FnOnce(&str) -> String) -> String {
        let unsigned = query_v1("iotdata", "00", "&X-Amz-Security-Token=s3ssion");
        let known = key(Some("s3ssion"));
        let signature = {
            let text = format!(
                "{ALGORITHM}\n{TIMESTAMP}\n20261120/us-east-1/iotdata/aws4_request\n{}",
                hex(digest::digest(&digest::SHA256, sign(&unsigned).as_bytes()).as_ref())
            );
            let scope = ["20261120", "us-east-1", "iotdata", "aws4_request"];
            hex(super::sign(signing_key(&known.secret, &scope).as_ref(), &text).as_ref())
        };
        let query = unsigned.replace("Signature=00", &format!("Signature={signature}"));
        let header = |name: &str| (name == "host").then_some(HOST);
        let request = Signed {
            method: "GET",
            path: "/mqtt",
            query: &query,
            header: &header,
            body: b"",
        };
        let now = parse_timestamp(TIMESTAMP).unwrap();
        let keys = [known];
        let mistake = verify(&request, &keys, "us-east-1", now).unwrap_err();
        assert_eq!(mistake.error, SignatureError::Mismatch);
        assert_eq!(mistake.key_id.as_deref(), Some("AKIDEXAMPLE"));
        assert!(!mistake.detail.contains("s3ssion"), "{}", mistake.detail);
        assert!(!mistake.detail.contains("wJalr"), "{}", mistake.detail);
        mistake.detail.into_owned()
    }

    #[test]
    fn what_was_signed_in_the_wrong_way_is_named() {
        const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let canonical = |path: &str, query: &str, body: &str| {
            let mut pairs: Vec<&str> = query
                .split('&')
                .filter(|pair| !pair.starts_with("X-Amz-Signature"))
                .collect();
            pairs.sort();
            let pairs = pairs.join("&");
            format!("GET\n{path}\n{pairs}\nhost:{HOST}\n\nhost\n{body}")
        };
        let without_token = |query: &str| query.replace("&X-Amz-Security-Token=s3ssion", "");
        let detail = detail_of(|query| canonical("/mqtt", query, EMPTY));
        assert!(detail.contains("session token was signed"), "{detail}");
        let detail =
            detail_of(|query| canonical("/mqtt", &without_token(query), "UNSIGNED-PAYLOAD"));
        assert!(detail.contains("UNSIGNED-PAYLOAD was signed"), "{detail}");
        let detail = detail_of(|query| canonical("/", &without_token(query), EMPTY));
        assert!(detail.contains("the path / was signed"), "{detail}");
        let detail = detail_of(|_| "something else".to_owned());
        assert!(detail.contains("another secret key"), "{detail}");
        assert!(detail.contains(&format!("host:{HOST}")), "{detail}");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown_wherever_a_request_has_it() {
        let header = |name: &str| match name {
            "authorization" => Some(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261120/us-east-1/iotdata/aws4_request, \
                 SignedHeaders=host;x-amz-date;x-amz-security-token;x-pass, Signature=00",
            ),
            "host" => Some(HOST),
            "x-amz-date" => Some(TIMESTAMP),
            "x-amz-security-token" => Some("s3ssion"),
            "x-pass" => Some("pa55word"),
            _ => None,
        };
        let request = Signed {
            method: "GET",
            path: "/mqtt",
            query: "X-Amz-Security-Token=oth%2Fer&X-Amz-Date=then&tok=t0ken",
            header: &header,
            body: b"",
        };
        let now = parse_timestamp(TIMESTAMP).unwrap();
        let keys = [key(Some("s3ssion"))];
        let detail = verify(&request, &keys, "us-east-1", now)
            .unwrap_err()
            .detail;
        for secret in ["s3ssion", "oth%2Fer", "oth/er", "pa55word", "t0ken"] {
            assert!(!detail.contains(secret), "{secret} in {detail}");
        }
        for shown in [HOST, TIMESTAMP, "X-Amz-Date=then", "tok=(not shown)"] {
            assert!(detail.contains(shown), "{shown} not in {detail}");
        }
    }

    #[test]
    fn only_two_hexadecimal_digits_are_an_escape() {
        for (text, is) in [
            ("%2B%2f", "+/"),
            ("%+F%-1", "%+F%-1"),
            ("%2", "%2"),
            ("%", "%"),
            ("%g0%0g", "%g0%0g"),
        ] {
            assert_eq!(unescape(text), is);
        }
    }

    #[test]
    fn a_signature_holds_for_as_long_as_it_says() {
        let good = query_v1("iotdata", SIGNATURE, "");
        let expiry = Duration::from_secs(86_400);
        assert!(check_v1(&good, key(None), expiry).is_ok());
        let later = expiry + Duration::from_secs(1);
        assert_eq!(
            check_v1(&good, key(None), later),
            Err(SignatureError::Expired)
        );
    }

    #[test]
    fn timestamps_are_read_over_leap_years() {
        let seconds = |text| {
            let time = parse_timestamp(text)?;
            Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20000229T235959Z"), Some(951_868_799));
        assert_eq!(seconds("20261120T232624Z"), Some(1_795_217_184));
        for bad in [
            "",
            "20261120T232624",
            "20261320T000000Z",
            "2026é120T00000Z",
            "19690101T000000Z",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
