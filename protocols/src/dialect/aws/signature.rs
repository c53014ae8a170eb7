//! Signature Version 4 for MQTT over WebSocket: the query of the URL that opens the connection.
//!
//! Pure: credentials and time are arguments. Sources: "Signature Version 4 signing process" of the AWS General
//! Reference, and "Device communication protocols" of the AWS IoT developer guide, which says that the security token
//! of temporary credentials is added after the signature was made, unlike with other services.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// The service that MQTT over WebSocket signs for. Amazon's first SDK signs for `iotdata`, which is taken too.
pub const SERVICE: &str = "iotdevicegateway";

/// How long a signed URL may be used to connect; it does not end a connection that is open. The longest time that
/// Signature Version 4 allows is seven days; Amazon's SDKs write one day. A link signs anew for every attempt, so
/// a short time is enough: this one also carries a clock that is some minutes wrong.
pub const EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// The path of MQTT over WebSocket.
pub const PATH: &str = "/mqtt";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// An access key of an AWS account. Secrets are never printed.
#[derive(Clone)]
pub struct AccessKey {
    /// Access key id. It names the key and is no secret.
    pub id: String,
    /// Secret access key.
    pub secret: SecretString,
    /// Session token of temporary credentials.
    pub session_token: Option<SecretString>,
    /// When temporary credentials end, where that is known.
    pub expires_at: Option<SystemTime>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .field("session_token", &self.session_token.is_some())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What is signed, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Presign<'a> {
    /// The endpoint's host, without a port: it has to be the request's `Host` to the letter.
    pub host: &'a str,
    /// Path, such as [`PATH`]. It must need no percent-encoding.
    pub path: &'a str,
    /// Region, such as `eu-central-1`.
    pub region: &'a str,
    /// Service; [`SERVICE`].
    pub service: &'a str,
    /// How long the URL may be used; `None` leaves it out, and the server's own limit holds.
    pub expires: Option<Duration>,
    /// Further signed headers beside `host`: names in lower case, sorted, values as they are sent.
    pub headers: &'a [(&'a str, &'a str)],
    /// The key.
    pub key: &'a AccessKey,
    /// When.
    pub now: SystemTime,
}

impl Presign<'_> {
    /// Path and query of the request, with the signature. A secret for as long as it may be used: whoever has it may
    /// connect.
    #[must_use]
    pub fn path_and_query(&self) -> SecretString {
        let timestamp = Timestamp::of(self.now);
        let date = timestamp.date();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let mut headers: Vec<(&str, &str)> = self.headers.to_vec();
        let place = headers.partition_point(|(name, _)| *name < "host");
        headers.insert(place, ("host", self.host));
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");

        // In the order that the canonical request wants.
        let mut query = format!("X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential=");
        encode(&format!("{}/{scope}", self.key.id), &mut query);
        let _ = write!(query, "&X-Amz-Date={}", timestamp.text());
        if let Some(expires) = self.expires {
            let _ = write!(query, "&X-Amz-Expires={}", expires.as_secs());
        }
        query.push_str("&X-Amz-SignedHeaders=");
        encode(&names, &mut query);

        let mut request = format!("GET\n{}\n{query}\n", self.path);
        for (name, value) in &headers {
            let _ = writeln!(request, "{name}:{}", value.trim());
        }
        let _ = write!(request, "\n{names}\n{}", hex(&Sha256::digest(b"")));
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{scope}\n{}",
            timestamp.text(),
            hex(&Sha256::digest(request.as_bytes()))
        );
        let signature = hex(&hmac(&self.signing_key(&date), to_sign.as_bytes()));
        let _ = write!(query, "&X-Amz-Signature={signature}");
        if let Some(token) = &self.key.session_token {
            query.push_str("&X-Amz-Security-Token=");
            encode(token.expose_secret(), &mut query);
        }
        SecretString::from(format!("{}?{query}", self.path))
    }

    /// A key that is good for one day, region and service.
    fn signing_key(&self, date: &str) -> [u8; 32] {
        let secret = SecretString::from(format!("AWS4{}", self.key.secret.expose_secret()));
        let mut key = hmac(secret.expose_secret().as_bytes(), date.as_bytes());
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        key
    }
}

/// The region in the name of an endpoint: `NAME[-ats].iot.REGION.amazonaws.com`, and the same in AWS's partitions of
/// other countries. `None` for a domain of one's own, and for anything else.
#[must_use]
pub fn region_of(host: &str) -> Option<&str> {
    let mut labels = host.split('.');
    let _account = labels.next().filter(|label| !label.is_empty())?;
    let mut label = labels.next()?;
    // An endpoint of the old kind may be written NAME.ats.iot.REGION.
    if label == "ats" {
        label = labels.next()?;
    }
    if label != "iot" && label != "iot-fips" {
        return None;
    }
    let region = labels.next().filter(|region| region.contains('-'))?;
    matches!(labels.next()?, "amazonaws").then_some(region)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length, so there is no other case.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Percent-encodes all but RFC 3986's unreserved characters, as `UriEncode` of the signing process does. Custom
/// authorizers want their signature and token in the same form.
pub fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(byte.into());
        } else {
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// A time as signatures write it.
struct Timestamp {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

impl Timestamp {
    /// A time before 1970 counts as 1970: the server refuses either.
    fn of(time: SystemTime) -> Self {
        let seconds = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut day = seconds / 86_400;
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        // 400 years are always so many days; what is left is counted year by year.
        let mut year = 1970 + day / 146_097 * 400;
        day %= 146_097;
        loop {
            let length = if is_leap(year) { 366 } else { 365 };
            if day < length {
                break;
            }
            day -= length;
            year += 1;
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            second_of_day: seconds % 86_400,
        }
    }

    fn date(&self) -> String {
        format!("{:04}{:02}{:02}", self.year, self.month, self.day)
    }

    fn text(&self) -> String {
        let second = self.second_of_day;
        format!(
            "{}T{:02}{:02}{:02}Z",
            self.date(),
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        SessionTokenMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn key(session_token: Option<&str>) -> AccessKey {
        AccessKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: SECRET.into(),
            session_token: session_token.map(SecretString::from),
            expires_at: None,
        }
    }

    /// 2026-11-20, at `second` of the day.
    fn on_that_day(hour: u64, minute: u64, second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(20_777 * 86_400 + hour * 3600 + minute * 60 + second)
    }

    fn signature_in(url: &SecretString) -> String {
        let url = url.expose_secret();
        let (_, rest) = url.split_once("X-Amz-Signature=").unwrap();
        rest.split('&').next().unwrap().to_owned()
    }

    #[test]
    fn amazons_first_sdk_signs_the_same() {
        for (service, token, expected) in [
            (
                "iotdata",
                Some("TOK/EN+with=specials"),
                "34d89d4c5314420c48f4765f563c3653f6cd7d00f366abab08fe5a17e0354061",
            ),
            (
                "iotdata",
                None,
                "34d89d4c5314420c48f4765f563c3653f6cd7d00f366abab08fe5a17e0354061",
            ),
            (
                SERVICE,
                None,
                "b13f6471eea80cfce36fae68cdf96c63874f3eedee775621793a4b33dd01733f",
            ),
        ] {
            let url = Presign {
                host: "abc123.iot.us-east-1.amazonaws.com",
                path: PATH,
                region: "us-east-1",
                service,
                expires: Some(EXPIRES),
                headers: &[],
                key: &key(token),
                now: on_that_day(23, 26, 24),
            }
            .path_and_query();
            assert_eq!(signature_in(&url), expected, "{service} {token:?}");
        }
    }

    #[test]
    fn amazons_second_sdk_signs_the_same() {
        let url = Presign {
            host: "localhost",
            path: PATH,
            region: "us-east-1",
            service: SERVICE,
            expires: None,
            headers: &[("connection", "Upgrade")],
            key: &key(None),
            now: on_that_day(23, 29, 14),
        }
        .path_and_query();
        assert_eq!(
            signature_in(&url),
            "03a15c1b4a3da01ad47d621f807ebf869b548602378db74f2d05708521be88f8"
        );
    }

    #[test]
    fn the_url_says_all_that_the_server_needs_and_no_secret_key() {
        let url = Presign {
            host: "h",
            path: PATH,
            region: "eu-central-1",
            service: SERVICE,
            expires: Some(EXPIRES),
            headers: &[],
            key: &key(Some("t/+=")),
            now: on_that_day(0, 0, 0),
        }
        .path_and_query();
        let text = url.expose_secret();
        let front = "/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Feu-central-1\
                     %2Fiotdevicegateway%2Faws4_request&X-Amz-Date=20261120T000000Z&X-Amz-Expires=86400\
                     &X-Amz-SignedHeaders=host&X-Amz-Signature=";
        assert!(text.starts_with(front), "{text}");
        assert!(text.ends_with("&X-Amz-Security-Token=t%2F%2B%3D"), "{text}");
        assert!(!text.contains(SECRET));
    }

    #[test]
    fn no_secret_is_printed() {
        let key = key(Some("session-canary"));
        let presign = Presign {
            host: "h",
            path: PATH,
            region: "r",
            service: SERVICE,
            expires: None,
            headers: &[],
            key: &key,
            now: UNIX_EPOCH,
        };
        let printed = format!("{key:?} {presign:?} {:?}", presign.path_and_query());
        for secret in [SECRET, "session-canary", "Signature"] {
            assert!(!printed.contains(secret), "{printed}");
        }
        assert!(printed.contains("AKIDEXAMPLE"));
    }

    #[test]
    fn a_region_is_found_in_the_names_that_aws_gives() {
        for (host, region) in [
            ("abc123.iot.us-east-1.amazonaws.com", Some("us-east-1")),
            (
                "abc123-ats.iot.eu-central-1.amazonaws.com",
                Some("eu-central-1"),
            ),
            (
                "abc123.ats.iot.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            (
                "a.iot-fips.us-gov-west-1.amazonaws.com",
                Some("us-gov-west-1"),
            ),
            ("mqtt.example.com", None),
            ("iot.us-east-1.amazonaws.com", None),
            ("abc.iot.amazonaws.com", None),
            ("a.iot.us-east-1.example.com", None),
            ("localhost", None),
            ("127.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_799, "20000229T235959Z"),
            (951_868_800, "20000301T000000Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
            (1_735_689_599, "20241231T235959Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(Timestamp::of(time).text(), text);
        }
        assert_eq!(
            Timestamp::of(UNIX_EPOCH - Duration::from_secs(1)).text(),
            "19700101T000000Z"
        );
    }

    proptest! {
        #[test]
        fn signatures_are_those_of_amazons_own_crate(
            id in "[A-Z0-9]{1,20}",
            secret in "[A-Za-z0-9+/]{1,60}",
            token in proptest::option::of("[A-Za-z0-9+/=]{1,80}"),
            host in "[a-z0-9]{1,12}(-ats)?\\.iot\\.[a-z]{2}-[a-z]{4}-[1-9]\\.amazonaws\\.com",
            region in "[a-z]{2}-[a-z]{4,9}-[1-9]",
            service in "iotdata|iotdevicegateway",
            expires in 1_u64..604_800,
            seconds in 0_u64..4_102_444_800,
            connection in proptest::option::of("Upgrade|keep-alive, Upgrade"),
        ) {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let headers: Vec<(&str, &str)> =
                connection.iter().map(|value| ("connection", value.as_str())).collect();
            let key = AccessKey {
                id: id.clone(),
                secret: secret.as_str().into(),
                session_token: token.as_deref().map(SecretString::from),
                expires_at: None,
            };
            let ours = Presign {
                host: &host,
                path: PATH,
                region: &region,
                service: &service,
                expires: Some(Duration::from_secs(expires)),
                headers: &headers,
                key: &key,
                now,
            }
            .path_and_query();

            let mut settings = SigningSettings::default();
            settings.signature_location = SignatureLocation::QueryParams;
            settings.session_token_mode = SessionTokenMode::Exclude;
            settings.expires_in = Some(Duration::from_secs(expires));
            settings.excluded_headers = None;
            let identity = Credentials::new(id, secret, token, None, "test").into();
            let parameters = v4::SigningParams::builder()
                .identity(&identity)
                .region(&region)
                .name(&service)
                .time(now)
                .settings(settings)
                .build()
                .unwrap()
                .into();
            let url = format!("wss://{host}{PATH}");
            let request =
                SignableRequest::new("GET", url, headers.iter().copied(), SignableBody::Bytes(b""))
                    .unwrap();
            let output = sign(request, &parameters).unwrap();
            prop_assert_eq!(signature_in(&ours), output.signature());
            for (name, value) in output.output().params() {
                let mut pair = format!("{name}=");
                encode(value, &mut pair);
                prop_assert!(ours.expose_secret().contains(&pair), "{}", pair);
            }
        }
    }
}
