//! The tables `[platforms.NAME]`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::Version;

use super::Context;
use super::credentials::{AuthPlan, NeededFile, check_trust, read_auth};
use super::endpoint::parse_endpoint;
use super::plan::{Endpoint, Jitter, PlatformKind, PlatformPlan, ReconnectPlan, TlsPlan};
use super::problem::ProblemKind as Kind;
use super::proxy::read_proxy;
use super::reader::{Field, NAME_RULE, Section, is_name};
use super::topics::{Topics, read_topics};
use super::tree::{Origin, Value};

/// A platform of the file.
pub(super) struct Platform<'a> {
    pub(super) name: &'a str,
    /// `None` when something in it is wrong.
    pub(super) plan: Option<Arc<PlatformPlan>>,
    pub(super) topics: Topics,
    pub(super) needed_files: Vec<NeededFile<'a>>,
}

/// Reads `[platforms]`.
pub(super) fn read_platforms<'a>(
    section: Option<Section<'a>>,
    context: &Context<'a>,
) -> Vec<Platform<'a>> {
    let Some(section) = section else {
        return Vec::new();
    };
    section
        .named()
        .map(|(name, field)| {
            if !is_name(name) {
                field.fail_at_key(Kind::BadValue, format!("{name:?} is no name"), NAME_RULE);
            }
            let mut platform = Platform {
                name,
                plan: None,
                topics: Topics::default(),
                needed_files: Vec::new(),
            };
            if let Some(section) = field.section("a table") {
                platform.read(section, context);
            }
            platform
        })
        .collect()
}

impl<'a> Platform<'a> {
    fn read(&mut self, section: Section<'a>, context: &Context<'a>) {
        let kind = section
            .required("kind", "write kind = \"mqtt\"")
            .map(|field| read_kind(&field));
        if let Some(Kinds::Later) = kind {
            // The keys of such a platform are not known yet, so nothing more can be said about them.
            return;
        }
        if let Some(Kinds::Now(PlatformKind::Aws)) = kind {
            self.read_aws(&section, context);
            section.finish();
            return;
        }
        let endpoint = section
            .required("endpoint", "write endpoint = \"mqtt://host:port\"")
            .and_then(|field| read_endpoint(&field));
        let tls = endpoint.as_ref().map(|endpoint| endpoint.tls);
        let version = match section.field("version") {
            Some(field) => read_version(&field),
            None => Some(Version::default()),
        };
        let auth = read_auth(section.field("auth"), tls, &mut self.needed_files, context);
        let trust = read_trust(&section, tls, context);
        let keep_alive = seconds(&section, "keep_alive", 0..=65_535, 60);
        let clean_start = section
            .field("clean_start")
            .and_then(|field| field.boolean())
            .unwrap_or(false);
        let session_expiry = read_session_expiry(&section, version, clean_start);
        let receive_maximum = read_receive_maximum(&section, version, WINDOW);
        let inflight = read_window(section.field("inflight"), WINDOW);
        let reconnect = read_reconnect(section.field("reconnect"), Duration::from_secs(120));
        let connect_rate = section
            .field("limits")
            .and_then(|field| read_limits(&field));
        if let Some(topics) = section
            .field("topics")
            .and_then(|field| field.section("a table of topics"))
        {
            self.topics = read_topics(topics);
        }
        section.not_available("faults", "take it out");
        let proxy = read_proxy(section.field("proxy"), &mut self.needed_files, context);
        section.finish();
        let (Some(Kinds::Now(kind)), Some(endpoint), Some(version), Some(auth)) =
            (kind, endpoint, version, auth)
        else {
            return;
        };
        self.plan = Some(Arc::new(PlatformPlan {
            name: self.name.into(),
            kind,
            tls: endpoint.tls.then_some(trust),
            endpoint,
            version,
            auth,
            keep_alive,
            clean_start,
            session_expiry,
            receive_maximum,
            inflight,
            reconnect,
            connect_rate,
            proxy,
            aws: None,
        }));
    }
}

/// Messages that may be unacknowledged, where the platform has no limit of its own.
const WINDOW: u16 = 1_000;

#[derive(Clone, Copy)]
enum Kinds {
    Now(PlatformKind),
    Later,
    Unknown,
}

fn read_kind(field: &Field<'_>) -> Kinds {
    let later = ["azure", "watson", "ibm", "thingsboard", "ttn"];
    if let Value::Text(text) = field.value()
        && later.contains(&text.as_str())
    {
        field.fail(
            Kind::NotAvailable,
            format!("the platform {text:?} is not available in this version"),
            "write kind = \"mqtt\", which is any MQTT broker, or \"aws\"",
        );
        return Kinds::Later;
    }
    field
        .word(&[("mqtt", PlatformKind::Mqtt), ("aws", PlatformKind::Aws)])
        .map_or(Kinds::Unknown, Kinds::Now)
}

fn read_endpoint(field: &Field<'_>) -> Option<Endpoint> {
    let text = field.text("an address such as \"mqtt://127.0.0.1:1883\"")?;
    parse_endpoint(text)
        .map_err(|error| field.fail(Kind::BadValue, error.message, error.remedy))
        .ok()
}

/// `5` may also be written as a number, since it looks like one.
pub(super) fn read_version(field: &Field<'_>) -> Option<Version> {
    match (field.value(), field.origin()) {
        (Value::Integer(Some(5)), _) => Some(Version::V5),
        (Value::Integer(_) | Value::Float(_), Origin::File(_)) => {
            field.fail(
                Kind::BadValue,
                "there is no such version here",
                "write \"3.1.1\" or \"5\"",
            );
            None
        }
        _ => field.word(&[
            ("3.1.1", Version::V311),
            ("5", Version::V5),
            ("5.0", Version::V5),
        ]),
    }
}

pub(super) fn read_trust<'a>(
    section: &Section<'a>,
    tls: Option<bool>,
    context: &Context<'a>,
) -> TlsPlan {
    let mut trust = TlsPlan::default();
    let fields = [section.field("ca_file"), section.field("server_name")];
    for field in fields.iter().flatten().filter(|_| tls == Some(false)) {
        field.fail_at_key(
            Kind::BadValue,
            "it means nothing without TLS",
            "write the endpoint as mqtts://, or take the key out",
        );
    }
    let [ca_file, server_name] = fields;
    if let Some(field) = ca_file
        && let Some(text) = field.text("a path")
    {
        let path = context.base_dir.join(text);
        if tls != Some(false) {
            check_trust(&field, &path);
        }
        trust.ca_file = Some(path);
    }
    if let Some(field) = server_name
        && let Some(text) = field.text("a host name")
    {
        if text.is_empty() || text.len() > 253 || text.contains(['/', ':', ' ', '@']) {
            field.fail(
                Kind::BadValue,
                format!("{text:?} is no host name"),
                "write the name that is in the server's certificate",
            );
        }
        trust.server_name = Some(text.to_owned());
    }
    section.not_available(
        "insecure",
        "the server's certificate is always checked; write ca_file = \"…\" to trust your own authority",
    );
    trust
}

/// A time in whole seconds with a default.
pub(super) fn seconds(
    section: &Section<'_>,
    key: &'static str,
    limits: RangeInclusive<u64>,
    default: u64,
) -> Duration {
    let (min, max) = limits.into_inner();
    section
        .field(key)
        .and_then(|field| field.seconds(Duration::from_secs(min)..=Duration::from_secs(max)))
        .unwrap_or(Duration::from_secs(default))
}

/// Notes a key that only MQTT 5 has.
fn only_in_version_5(field: Option<&Field<'_>>, version: Option<Version>) {
    if let (Some(field), Some(Version::V311)) = (field, version) {
        field.fail_at_key(
            Kind::BadValue,
            "MQTT 3.1.1 has no such thing",
            "write version = \"5\", or take the key out",
        );
    }
}

pub(super) fn read_session_expiry(
    section: &Section<'_>,
    version: Option<Version>,
    clean_start: bool,
) -> Duration {
    // 0xFFFF_FFFF would mean for ever (MQTT 5, section 3.1.2.11.2), which litters a broker.
    const MAX: u64 = u32::MAX as u64 - 1;
    only_in_version_5(section.field("session_expiry").as_ref(), version);
    let default = match version {
        Some(Version::V5) if !clean_start => 3_600,
        _ => 0,
    };
    seconds(section, "session_expiry", 0..=MAX, default)
}

pub(super) fn read_receive_maximum(
    section: &Section<'_>,
    version: Option<Version>,
    default: u16,
) -> u16 {
    let field = section.field("receive_maximum");
    only_in_version_5(field.as_ref(), version);
    read_window(field, default)
}

pub(super) fn read_window(field: Option<Field<'_>>, default: u16) -> u16 {
    field
        .and_then(|field| field.whole(1..=65_535))
        .and_then(|count| u16::try_from(count).ok())
        .unwrap_or(default)
}

pub(super) fn read_reconnect(field: Option<Field<'_>>, max: Duration) -> ReconnectPlan {
    let mut reconnect = ReconnectPlan {
        base: Duration::from_secs(1),
        max,
        jitter: Jitter::default(),
    };
    let Some(field) = field else {
        return reconnect;
    };
    let Some(section) = field.section("a table such as { base = \"1s\", max = \"120s\" }") else {
        return reconnect;
    };
    let limits = || Duration::from_millis(10)..=Duration::from_secs(86_400);
    if let Some(base) = section.field("base").and_then(|f| f.duration(limits())) {
        reconnect.base = base;
    }
    let max = section.field("max");
    if let Some(max) = max.as_ref().and_then(|f| f.duration(limits())) {
        reconnect.max = max;
    }
    if reconnect.base > reconnect.max {
        max.as_ref().unwrap_or(&field).fail(
            Kind::BadValue,
            "the longest pause is shorter than the first one",
            "make max at least base",
        );
    }
    if let Some(jitter) = section
        .field("jitter")
        .and_then(|f| f.word(&[("full", Jitter::Full), ("none", Jitter::None)]))
    {
        reconnect.jitter = jitter;
    }
    section.finish();
    reconnect
}

pub(super) fn read_limits(field: &Field<'_>) -> Option<f64> {
    let section = field.section("a table such as { connects_per_s = 100 }")?;
    let rate = section
        .field("connects_per_s")
        .and_then(|field| field.rate());
    section.finish();
    rate
}

/// A sentence about what works and is probably not meant.
pub(super) fn warn(platform: &PlatformPlan) -> Option<String> {
    let host = platform.endpoint.host.as_str();
    let local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let has_password = matches!(platform.auth, AuthPlan::Password { .. });
    (has_password && !platform.endpoint.tls && !local).then(|| {
        format!(
            "platforms.{}: the passwords go to {} in clear text; use mqtts:// to protect them",
            platform.name, platform.endpoint
        )
    })
}
