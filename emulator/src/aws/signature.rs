//! Signature Version 4 as the IoT endpoints check it: in the query of a WebSocket upgrade, or in the
//! `Authorization` header of a request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, digest, hmac};

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

/// Why a signature is refused.
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
    #[error("signature expired or not yet current")]
    Expired,
    #[error("the request signature we calculated does not match the signature you provided")]
    Mismatch,
}

/// Checks a request; returns the identifier of the key that signed it.
///
/// # Errors
/// What is wrong with its signature.
pub(crate) fn verify<'k>(
    request: &Signed<'_>,
    keys: &'k [AccessKey],
    now: SystemTime,
) -> Result<&'k str, SignatureError> {
    let claim = Claim::read(request)?;
    let scope: Vec<&str> = claim.credential.split('/').collect();
    let [key_id, date, region, service, "aws4_request"] = scope.as_slice() else {
        return Err(SignatureError::Malformed);
    };
    if !SERVICES.contains(service) {
        return Err(SignatureError::WrongService);
    }
    let signed_at = parse_timestamp(&claim.timestamp).ok_or(SignatureError::Malformed)?;
    if claim.timestamp.get(..8) != Some(*date) {
        return Err(SignatureError::Malformed);
    }
    let lifetime = claim.expires.unwrap_or(SKEW_MAX).min(EXPIRY_MAX);
    if now + SKEW_MAX < signed_at || signed_at + lifetime < now {
        return Err(SignatureError::Expired);
    }
    let key = keys
        .iter()
        .find(|key| key.id == *key_id && key.token == claim.token)
        .ok_or(SignatureError::UnknownKey)?;
    let signing_key = signing_key(&key.secret, &[date, region, service, "aws4_request"]);
    let scope = format!("{date}/{region}/{service}/aws4_request");
    // Some clients sign the host with the port they connect to, most without.
    for keeps_port in [false, true] {
        let canonical = claim.canonical_request(request, keeps_port)?;
        let text = format!(
            "{ALGORITHM}\n{}\n{scope}\n{}",
            claim.timestamp,
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
        );
        let expected = hex(sign(signing_key.as_ref(), &text).as_ref());
        let given = claim.signature.as_bytes();
        if constant_time::verify_slices_are_equal(expected.as_bytes(), given).is_ok() {
            return Ok(&key.id);
        }
    }
    Err(SignatureError::Mismatch)
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
    fn read(request: &Signed<'_>) -> Result<Self, SignatureError> {
        match (request.header)("authorization") {
            Some(header) => Self::from_header(header, request),
            None => Self::from_query(request.query),
        }
    }

    fn from_query(query: &str) -> Result<Self, SignatureError> {
        let pairs = parse_query(query);
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let need = |name: &str| find(name).ok_or(SignatureError::Malformed);
        match find("X-Amz-Algorithm") {
            None => return Err(SignatureError::Missing),
            Some(algorithm) if algorithm == ALGORITHM => {}
            Some(_) => return Err(SignatureError::Malformed),
        }
        let expires = find("X-Amz-Expires")
            .map(|text| text.parse().map_err(|_| SignatureError::Malformed))
            .transpose()?;
        Ok(Self {
            credential: need("X-Amz-Credential")?,
            timestamp: need("X-Amz-Date")?,
            expires: expires.map(Duration::from_secs),
            signed_headers: need("X-Amz-SignedHeaders")?,
            signature: need("X-Amz-Signature")?,
            token: find("X-Amz-Security-Token"),
            is_in_query: true,
        })
    }

    fn from_header(header: &str, request: &Signed<'_>) -> Result<Self, SignatureError> {
        let parts = header
            .strip_prefix(ALGORITHM)
            .ok_or(SignatureError::Malformed)?;
        let need = |name: &str| {
            parts
                .split(',')
                .filter_map(|part| part.trim().split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
                .ok_or(SignatureError::Malformed)
        };
        let header = |name: &str| (request.header)(name).map(str::to_owned);
        Ok(Self {
            credential: need("Credential")?,
            timestamp: header("x-amz-date").ok_or(SignatureError::Malformed)?,
            expires: None,
            signed_headers: need("SignedHeaders")?,
            signature: need("Signature")?,
            token: header("x-amz-security-token"),
            is_in_query: false,
        })
    }

    fn canonical_request(
        &self,
        request: &Signed<'_>,
        keeps_port: bool,
    ) -> Result<String, SignatureError> {
        let mut headers = String::new();
        for name in self.signed_headers.split(';') {
            let value = (request.header)(name).ok_or(SignatureError::Malformed)?;
            let value = match name {
                "host" if !keeps_port => without_port(value),
                _ => value,
            };
            let words: Vec<&str> = value.split_whitespace().collect();
            headers.push_str(&format!("{name}:{}\n", words.join(" ")));
        }
        // The token is added to the query of an upgrade after it was signed.
        let mut pairs: Vec<String> = parse_query(request.query)
            .into_iter()
            .filter(|(name, _)| {
                !self.is_in_query || (name != "X-Amz-Signature" && name != "X-Amz-Security-Token")
            })
            .map(|(name, value)| format!("{}={}", escape(&name, ""), escape(&value, "")))
            .collect();
        pairs.sort();
        Ok(format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            request.method,
            escape(request.path, "/"),
            pairs.join("&"),
            self.signed_headers,
            hex(digest::digest(&digest::SHA256, request.body).as_ref())
        ))
    }
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
        verify(&request, &[key], now).map(str::to_owned)
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
                good.replace("SignedHeaders=host", "SignedHeaders=host%3Bx"),
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
