//! The tables `[platforms.NAME]` of the kind `aws`.

use std::fmt;
use std::sync::Arc;

use paquebot_protocols::mqtt::{QoS, Version};

use super::Context;
use super::credentials::{
    AccessKeyPlan, AuthPlan, AuthorizerPlan, PASSWORD, SecretKeys, read_x509_auth,
};
use super::endpoint::parse_endpoint;
use super::plan::{Endpoint, GroupPlan, PlatformKind, PlatformPlan};
use super::platforms::{
    Platform, read_limits, read_receive_maximum, read_reconnect, read_session_expiry, read_trust,
    read_version, read_window, seconds,
};
use super::problem::ProblemKind as Kind;
use super::proxy::read_proxy;
use super::reader::{Field, Section};
use super::topics::read_telemetry_topic;
use super::tree::Value;
use crate::template::NameTemplate;
use crate::{OfflineLimit, aws};

/// What only AWS IoT has.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AwsPlan {
    /// How devices get there: `connection`. Default `mutual-tls`.
    pub way: AwsWay,
    /// The region that URLs are signed for: `region`. Default: the one in the endpoint's name.
    pub region: Option<String>,
    /// What waits while a device is not online: `offline = { max_messages = 20, drop = "newest" }`; −1 messages: as many
    /// as the outbox takes. Default 20, and the newest is dropped.
    pub offline: OfflineLimit,
    /// Messages per second and device that leave the outbox after an outage: `drain_rate`. Default: what `[outbox]` says,
    /// or else 2.
    pub drain_rate: Option<f64>,
    /// Messages per second and device at any time: `send_rate`. Default: no limit.
    pub send_rate: Option<f64>,
    /// Whether the user name names this SDK: `metrics`. Default true.
    pub tells_metrics: bool,
}

/// How devices get to AWS IoT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AwsWay {
    /// `mutual-tls`: port 8883, client certificates.
    MutualTls,
    /// `mutual-tls-alpn`: the same over port 443.
    MutualTlsAlpn,
    /// `websocket`: port 443, URLs signed with an access key.
    WebSocket,
    /// `custom-authorizer`: port 443, let in by a function of the account's own.
    CustomAuthorizer,
    /// `websocket-custom-authorizer`: the same over WebSocket.
    WebSocketCustomAuthorizer,
}

impl AwsWay {
    const ALL: [Self; 5] = [
        Self::MutualTls,
        Self::MutualTlsAlpn,
        Self::WebSocket,
        Self::CustomAuthorizer,
        Self::WebSocketCustomAuthorizer,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual-tls",
            Self::MutualTlsAlpn => "mutual-tls-alpn",
            Self::WebSocket => "websocket",
            Self::CustomAuthorizer => "custom-authorizer",
            Self::WebSocketCustomAuthorizer => "websocket-custom-authorizer",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::MutualTls => 8_883,
            _ => 443,
        }
    }

    const fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::WebSocketCustomAuthorizer)
    }

    /// The `type` of the `auth` table that goes with it, and what to write.
    const fn auth(self) -> (&'static str, &'static str) {
        match self {
            Self::MutualTls | Self::MutualTlsAlpn => (
                "x509",
                "write auth = { type = \"x509\", cert = \"certs/{{id}}.pem\", key = \"certs/{{id}}.key\" }",
            ),
            Self::WebSocket => (
                "access_key",
                "write auth = { type = \"access_key\", profile = \"…\" }, or leave it out for the key of the environment",
            ),
            Self::CustomAuthorizer | Self::WebSocketCustomAuthorizer => (
                "custom_authorizer",
                "write auth = { type = \"custom_authorizer\", name = \"…\", token_key = \"…\", token_file = \"…\" }",
            ),
        }
    }
}

impl fmt::Display for AwsWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const TOKEN: SecretKeys = SecretKeys {
    what: "a token",
    itself: "token",
    file: "token_file",
    variable: "token_env",
};

const SIGNATURE: SecretKeys = SecretKeys {
    what: "a signature",
    itself: "signature",
    file: "signature_file",
    variable: "signature_env",
};

impl<'a> Platform<'a> {
    /// Reads the table of a platform whose kind is `aws`.
    pub(super) fn read_aws(&mut self, section: &Section<'a>, context: &Context<'a>) {
        let way = match section.field("connection") {
            Some(field) => field.word(&AwsWay::ALL.map(|way| (way.name(), way))),
            None => Some(AwsWay::MutualTls),
        };
        let endpoint_field = section.required(
            "endpoint",
            "write the account's endpoint, such as \"abc123-ats.iot.eu-central-1.amazonaws.com\"",
        );
        let endpoint = endpoint_field
            .as_ref()
            .and_then(|field| read_endpoint(field, way));
        let region = read_region(section, way, endpoint.as_ref().zip(endpoint_field.as_ref()));
        let version = match section.field("version") {
            Some(field) => read_version(&field),
            None => Some(Version::default()),
        };
        let auth = self.read_aws_auth(section, way, context);
        let trust = read_trust(section, Some(true), context);
        let limits = aws::KEEP_ALIVE;
        let limits = limits.start().as_secs()..=limits.end().as_secs();
        let keep_alive = seconds(section, "keep_alive", limits, 60);
        let clean_start = section
            .field("clean_start")
            .and_then(|field| field.boolean())
            .unwrap_or(false);
        let session_expiry = read_session_expiry(section, version, clean_start);
        let receive_maximum = read_receive_maximum(section, version, aws::INFLIGHT_MAX);
        let inflight = read_window(section.field("inflight"), aws::INFLIGHT_MAX);
        let reconnect = read_reconnect(section.field("reconnect"), aws::backoff().max);
        let connect_rate = section
            .field("limits")
            .and_then(|field| read_limits(&field));
        let proxy = read_proxy(section.field("proxy"), &mut self.needed_files, context);
        if let Some(topics) = section
            .field("topics")
            .and_then(|field| field.section("a table such as { telemetry = \"dt/site/{device}\" }"))
        {
            self.topics = read_telemetry_topic(topics);
        }
        let aws = AwsPlan {
            way: way.unwrap_or(AwsWay::MutualTls),
            region,
            offline: read_offline(section.field("offline")),
            drain_rate: section.field("drain_rate").and_then(|field| field.rate()),
            send_rate: section.field("send_rate").and_then(|field| field.rate()),
            tells_metrics: section
                .field("metrics")
                .and_then(|field| field.boolean())
                .unwrap_or(true),
        };
        let (Some(_), Some(endpoint), Some(version), Some(auth)) = (way, endpoint, version, auth)
        else {
            return;
        };
        self.plan = Some(Arc::new(PlatformPlan {
            name: self.name.into(),
            kind: PlatformKind::Aws,
            endpoint,
            version,
            auth,
            tls: Some(trust),
            keep_alive,
            clean_start,
            session_expiry,
            receive_maximum,
            inflight,
            reconnect,
            connect_rate,
            proxy,
            aws: Some(aws),
        }));
    }

    fn read_aws_auth(
        &mut self,
        section: &Section<'a>,
        way: Option<AwsWay>,
        context: &Context<'a>,
    ) -> Option<AuthPlan> {
        let field = section.field("auth");
        let way = way?;
        let (wanted, remedy) = way.auth();
        let Some(field) = field else {
            if way == AwsWay::WebSocket {
                return Some(AuthPlan::AccessKey(AccessKeyPlan::Surroundings));
            }
            section.missing("auth", remedy);
            return None;
        };
        let section = field.section(&format!("a table such as {{ type = {wanted:?} }}"))?;
        let kind = section.required("type", &format!("write type = {wanted:?}"))?;
        if kind.text("a text")? != wanted {
            let message = format!("connection = \"{way}\" goes with type = {wanted:?}");
            kind.fail(Kind::BadValue, message, remedy);
            return None;
        }
        let auth = match way {
            AwsWay::MutualTls | AwsWay::MutualTlsAlpn => {
                read_x509_auth(&section, &mut self.needed_files, context)
            }
            AwsWay::WebSocket => read_access_key(&section).map(AuthPlan::AccessKey),
            AwsWay::CustomAuthorizer | AwsWay::WebSocketCustomAuthorizer => {
                self.read_authorizer(&section, context)
            }
        };
        section.finish();
        auth
    }

    fn read_authorizer(
        &mut self,
        section: &Section<'a>,
        context: &Context<'a>,
    ) -> Option<AuthPlan> {
        let name = section
            .field("name")
            .and_then(|field| field.name())
            .map(str::to_owned);
        let username = match section.field("username") {
            Some(field) => Some(field.template("a user name", NameTemplate::new)?),
            None => None,
        };
        let token_key = section.field("token_key");
        let needed = &mut self.needed_files;
        let mut secret = |keys: &SecretKeys| keys.read(section, needed, context).ok();
        let (password, token, signature) = (secret(&PASSWORD), secret(&TOKEN), secret(&SIGNATURE));
        let (password, token, signature) = (password?, token?, signature?);
        let token = match (token_key, token) {
            (Some(key), Some(token)) => Some((key.name()?.to_owned(), token)),
            (None, None) => None,
            (Some(_), None) => {
                section.missing(
                    "token_file",
                    "write token_file = \"…\" or token_env = \"…\"",
                );
                return None;
            }
            (None, Some(_)) => {
                let remedy =
                    "write the name of the parameter that the authorizer takes the token from";
                section.missing("token_key", remedy);
                return None;
            }
        };
        Some(AuthPlan::CustomAuthorizer(AuthorizerPlan {
            name,
            username,
            password,
            token,
            signature,
        }))
    }
}

fn read_access_key(section: &Section<'_>) -> Option<AccessKeyPlan> {
    let credentials = section.field("credentials");
    let profile = section.field("profile");
    let Some(field) = credentials else {
        return match profile {
            Some(field) => Some(AccessKeyPlan::Profile(field.name()?.to_owned())),
            None => Some(AccessKeyPlan::Surroundings),
        };
    };
    if let Some(profile) = profile {
        let message = "the default chain takes the profile that AWS_PROFILE names";
        profile.fail_at_key(Kind::BadValue, message, "keep one of the two");
        return None;
    }
    field.word(&[("default-chain", ())])?;
    #[cfg(feature = "aws-default-credentials")]
    return Some(AccessKeyPlan::DefaultChain);
    #[cfg(not(feature = "aws-default-credentials"))]
    {
        let message = "the AWS SDK's default chain is not in this build: it lacks the feature aws-default-credentials";
        let remedy = "build paquebot with --features aws-default-credentials, or leave the key out for the key of the environment";
        field.fail(Kind::NotAvailable, message, remedy);
        None
    }
}

fn read_endpoint(field: &Field<'_>, way: Option<AwsWay>) -> Option<Endpoint> {
    const NAME: &str = "write the endpoint's name alone, as `aws iot describe-endpoint --endpoint-type iot:Data-ATS` \
                        shows it, with :port behind it if it is another one";
    let text = field.text("the account's endpoint")?;
    if text.contains(['/', '@']) {
        // What precedes an @ may be a password, so nothing of it is repeated.
        field.fail(Kind::BadValue, "this is no host name", NAME);
        return None;
    }
    let parsed = parse_endpoint(&format!("mqtts://{text}"));
    let mut endpoint = parsed
        .map_err(|error| field.fail(Kind::BadValue, error.message, NAME))
        .ok()?;
    if endpoint.host.contains(':') {
        field.fail(Kind::BadValue, "this is an address and no host name", NAME);
        return None;
    }
    let way = way?;
    if !text.contains(':') {
        endpoint.port = way.port();
    }
    endpoint.path = way.is_websocket().then(|| "/mqtt".to_owned());
    Some(endpoint)
}

/// Only signatures need a region, and the endpoint has to name it or the file.
fn read_region(
    section: &Section<'_>,
    way: Option<AwsWay>,
    endpoint: Option<(&Endpoint, &Field<'_>)>,
) -> Option<String> {
    let field = section.field("region");
    if let Some(field) = field {
        let text = field.text("a region such as \"eu-central-1\"")?;
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || !text.bytes().all(is_fit) {
            let message = format!("{text:?} is no region");
            field.fail(
                Kind::BadValue,
                message,
                "write one such as \"eu-central-1\"",
            );
            return None;
        }
        return Some(text.to_owned());
    }
    let (endpoint, field) = endpoint.filter(|_| way == Some(AwsWay::WebSocket))?;
    let region = aws::region_of(&endpoint.host);
    if region.is_none() {
        field.fail(
            Kind::BadValue,
            "the endpoint does not say which region it is in, which a signature needs",
            "write region = \"…\" beside it",
        );
    }
    region.map(str::to_owned)
}

fn read_offline(field: Option<Field<'_>>) -> OfflineLimit {
    const FORM: &str = "a table such as { max_messages = 20, drop = \"newest\" }";
    let Some(section) = field.and_then(|field| field.section(FORM)) else {
        return aws::OFFLINE;
    };
    let count = section.field("max_messages");
    let is_unlimited = count
        .as_ref()
        .is_some_and(|field| matches!(field.value(), Value::Integer(Some(-1))));
    let count = match count.filter(|_| !is_unlimited) {
        Some(field) => field.whole(0..=10_000_000).unwrap_or(20),
        None => 20,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let limits = [
        ("newest", OfflineLimit::DropNewest(count)),
        ("oldest", OfflineLimit::DropOldest(count)),
    ];
    let limit = section
        .field("drop")
        .and_then(|field| field.word(&limits))
        .unwrap_or(OfflineLimit::DropNewest(count));
    section.finish();
    if is_unlimited {
        OfflineLimit::None
    } else {
        limit
    }
}

/// What a group asks for and its platform has not: the message and what to do.
pub(super) fn problem_of(group: &GroupPlan) -> Option<(&'static str, &'static str)> {
    if group.platform.kind != PlatformKind::Aws {
        return group.model.jobs.is_some().then_some((
            "the model does jobs, which only AWS IoT has",
            "take jobs out of the model, or use a platform of kind = \"aws\"",
        ));
    }
    let last = group.indexes().end.saturating_sub(1);
    let id = group.device(last.max(group.start_index)).id;
    let is_thing = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    if id.len() > 128 || !id.bytes().all(is_thing) {
        Some((
            "the ids are the names of things, which AWS IoT wants to have 1 to 128 of the characters a-z A-Z 0-9 : _ -",
            "write another id",
        ))
    } else if group.model.qos == QoS::ExactlyOnce {
        Some((
            "the model sends at QoS 2, which AWS IoT has not",
            "write qos = 1 in the model",
        ))
    } else if !group.model.commands.is_empty() {
        Some((
            "the model answers commands, and AWS IoT has jobs instead",
            "use a model without commands; jobs = { on_job = \"succeed\" } in it does jobs",
        ))
    } else {
        None
    }
}

impl PlatformPlan {
    /// How devices get there, where an address does not say all; for people.
    #[must_use]
    pub fn way(&self) -> Option<String> {
        let aws = self.aws.as_ref()?;
        let mut text = aws.way.to_string();
        let region = aws.region.as_deref().unwrap_or_default();
        match &self.auth {
            AuthPlan::AccessKey(source) => {
                text += &format!(", signed for {region} with the key of {source}");
            }
            AuthPlan::CustomAuthorizer(authorizer) => {
                let name = authorizer.name.as_deref().unwrap_or("of the account");
                text += &format!(", authorizer {name}");
            }
            _ => {}
        }
        Some(text)
    }
}
