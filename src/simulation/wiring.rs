//! From a fleet plan to groups and links of the runtime.

use std::sync::Arc;

use paquebot::aws::{AccessKeys, Authorizer, AuthorizerToken, Connection};
use paquebot::dialect::aws::AwsSettings;
use paquebot::dialect::plain::{TemplateError, Topics};
use paquebot::dialect::{Aws, Plain};
use paquebot::fleet_file::{
    AccessKeyPlan, AuthPlan, AuthorizerPlan, AwsPlan, AwsWay, FleetPlan, GroupPlan,
    Jitter as PlannedJitter, Overflow as PlannedOverflow, PasswordSource, PlatformKind,
    PlatformPlan, TopicTemplates,
};
use paquebot::template::{NameTemplate, Subject};
use paquebot::{
    BackoffConfig, Credentials, Fleet, Group, GroupBuilder, GroupError, HttpProxy, Jitter,
    LinkBuilder, Overflow, QueueLimits, StartError,
};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::shard::Starting;

/// Commands that wait for a device's thread; more wait in the link. Few, since the places are there for every
/// device and a device is asked seldom.
const INBOX_MAX: usize = 2;

/// Why a simulation cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PrepareError {
    /// The settings of a group.
    #[error("groups.{group}: {error}")]
    Group {
        /// Its name.
        group: String,
        /// What is wrong.
        #[source]
        error: GroupError,
    },
    /// One device of a group.
    #[error("groups.{group}, device {device}: {error}")]
    Device {
        /// The group's name.
        group: String,
        /// The device's id.
        device: String,
        /// What is wrong.
        #[source]
        error: GroupError,
    },
    /// A topic template.
    #[error("groups.{group}: topics.{topic}: {problem}")]
    Topic {
        /// The group's name.
        group: String,
        /// Which template.
        topic: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The password of a device.
    #[error("groups.{group}, device {device}: cannot read the password: {error}")]
    Password {
        /// The group's name.
        group: String,
        /// The device's id.
        device: String,
        /// What is wrong.
        #[source]
        error: std::io::Error,
    },
    /// The password of a platform's proxy.
    #[error("groups.{group}: cannot read the password of the proxy: {error}")]
    ProxyPassword {
        /// The group's name.
        group: String,
        /// What is wrong.
        #[source]
        error: std::io::Error,
    },
    /// The reported state of a model.
    #[error("models.{model}: the reported state has no JSON form: {error}")]
    State {
        /// The model's name.
        model: String,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
}

/// Opens the store, if there is one, and starts the fleet's worker threads; no link yet.
///
/// # Errors
/// The store cannot be opened; the system gives no thread.
pub(crate) fn start_fleet(plan: &FleetPlan) -> Result<Fleet, StartError> {
    let count = |max: Option<u64>| max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
    let builder = Fleet::builder()
        .name(&*plan.name)
        .workers(plan.workers.get())
        .queue_limits(QueueLimits {
            messages_max: count(plan.outbox.fleet_max_messages),
            bytes_max: count(plan.outbox.fleet_max_bytes),
        });
    let builder = match plan.store_directory() {
        Some(directory) => {
            let bytes_max = plan.outbox.store_max_bytes.unwrap_or(u64::MAX);
            builder.store(directory).store_bytes_max(bytes_max)
        }
        None => builder,
    };
    match plan.connect_rate {
        Some(rate) => builder.connect_rate(rate),
        None => builder,
    }
    .start()
}

/// Makes all groups and links, so that whatever is wrong shows before the first one starts.
pub(super) fn prepare(plan: &FleetPlan, fleet: &Fleet) -> Result<Vec<Starting>, PrepareError> {
    let mut starting = Vec::new();
    for group_plan in plan.groups.iter().filter(|group| group.count > 0) {
        let group = build_group(plan, group_plan, fleet)?;
        let reported = reported_state(group_plan)?;
        for device in group_plan.devices() {
            let subject = group_plan.subject(&device);
            let link = build_link(&group, group_plan, &subject)?;
            starting.push(Starting {
                link,
                plan: Arc::clone(group_plan),
                index: device.index,
                reported: reported.clone(),
            });
        }
    }
    Ok(starting)
}

fn reported_state(group: &GroupPlan) -> Result<Option<paquebot::StatePatch>, PrepareError> {
    let reported = group.model.reported.as_ref();
    reported
        .map(paquebot::StatePatch::json)
        .transpose()
        .map_err(|error| PrepareError::State {
            model: group.model.name.to_string(),
            error,
        })
}

fn build_group(plan: &FleetPlan, group: &GroupPlan, fleet: &Fleet) -> Result<Group, PrepareError> {
    let name = group.name.to_string();
    let platform = &group.platform;
    let builder = with_dialect(fleet.group(&name), group)?;
    let builder = with_platform(builder, platform);
    let builder = with_outbox(builder, plan, platform).durability(group.durability);
    let builder = with_certificate(builder, group);
    let builder = with_proxy(builder, group)?;
    let builder = match connect_rate(plan, group) {
        Some(rate) => builder.connect_rate(rate),
        None => builder,
    };
    builder
        .build()
        .map_err(|error| PrepareError::Group { group: name, error })
}

/// The platform's language, and what is customary there.
fn with_dialect(builder: GroupBuilder, group: &GroupPlan) -> Result<GroupBuilder, PrepareError> {
    let failed = |topic, problem: TemplateError| PrepareError::Topic {
        group: group.name.to_string(),
        topic,
        problem: problem.to_string(),
    };
    let Some(aws) = &group.platform.aws else {
        let dialect = Plain::new(&topics(&group.topics));
        let dialect = dialect.map_err(|(topic, problem)| failed(topic, problem))?;
        return Ok(builder.dialect(dialect));
    };
    let builder = builder.aws(aws_connection(&group.platform, aws));
    let Some(telemetry) = group.topics.telemetry.clone() else {
        return Ok(builder);
    };
    let settings = AwsSettings { telemetry };
    let dialect = Aws::new(&settings).map_err(|problem| failed("telemetry", problem))?;
    Ok(builder.dialect(dialect))
}

fn aws_connection(platform: &PlatformPlan, aws: &AwsPlan) -> Connection {
    let host = platform.endpoint.host.as_str();
    let connection = match aws.way {
        AwsWay::MutualTlsAlpn => Connection::mutual_tls_alpn(host),
        // What each device tells it is its own.
        AwsWay::CustomAuthorizer => {
            Connection::custom_authorizer(host, Authorizer::of_the_account())
        }
        AwsWay::WebSocketCustomAuthorizer => {
            Connection::websocket_custom_authorizer(host, Authorizer::of_the_account())
        }
        AwsWay::WebSocket => {
            let keys = match &platform.auth {
                AuthPlan::AccessKey(AccessKeyPlan::Profile(profile)) => {
                    AccessKeys::profile(profile)
                }
                #[cfg(feature = "aws-default-credentials")]
                AuthPlan::AccessKey(AccessKeyPlan::DefaultChain) => AccessKeys::default_chain(),
                _ => AccessKeys::default(),
            };
            let connection = Connection::websocket(host, keys);
            match &aws.region {
                Some(region) => connection.region(region),
                None => connection,
            }
        }
        _ => Connection::mutual_tls(host),
    };
    connection
        .port(platform.endpoint.port)
        .metrics(aws.tells_metrics)
}

fn with_platform(builder: GroupBuilder, platform: &PlatformPlan) -> GroupBuilder {
    let reconnect = platform.reconnect;
    let defaults = match platform.kind {
        PlatformKind::Aws => paquebot::aws::backoff(),
        _ => BackoffConfig::default(),
    };
    let mut builder = builder
        .endpoint(platform.endpoint.to_string())
        .version(platform.version)
        .keep_alive(platform.keep_alive)
        .clean_start(platform.clean_start)
        .session_expiry(Some(platform.session_expiry).filter(|expiry| !expiry.is_zero()))
        .receive_maximum(platform.receive_maximum)
        .inflight_max(platform.inflight)
        .backoff(BackoffConfig {
            base: reconnect.base,
            max: reconnect.max,
            jitter: match reconnect.jitter {
                PlannedJitter::Full => Jitter::Full,
                PlannedJitter::None => Jitter::None,
            },
            ..defaults
        });
    if let Some(tls) = &platform.tls {
        if let Some(ca_file) = &tls.ca_file {
            builder = builder.ca_file(ca_file);
        }
        if let Some(server_name) = &tls.server_name {
            builder = builder.server_name(server_name);
        }
    }
    builder
}

/// A certificate that all devices share is loaded once for the group.
fn with_certificate(builder: GroupBuilder, group: &GroupPlan) -> GroupBuilder {
    let AuthPlan::X509 { cert, key, .. } = &group.platform.auth else {
        return builder;
    };
    let first = group.device(group.start_index);
    let subject = group.subject(&first);
    if cert.varies() || key.varies() {
        builder
    } else {
        builder.client_certificate(cert.path(&subject), key.path(&subject))
    }
}

fn with_proxy(builder: GroupBuilder, group: &GroupPlan) -> Result<GroupBuilder, PrepareError> {
    let Some(planned) = &group.platform.proxy else {
        return Ok(builder);
    };
    let name = || group.name.to_string();
    let proxy = HttpProxy::new(&planned.url).map_err(|error| PrepareError::Group {
        group: name(),
        error: error.into(),
    })?;
    let Some((user, password)) = &planned.login else {
        return Ok(builder.http_proxy(proxy));
    };
    let first = group.device(group.start_index);
    let secret = password
        .read(&group.subject(&first))
        .and_then(|secret| text(&secret));
    let secret = secret.map_err(|error| PrepareError::ProxyPassword {
        group: name(),
        error,
    })?;
    Ok(builder.http_proxy(proxy.login(user, &secret)))
}

fn text(secret: &SecretSlice<u8>) -> std::io::Result<SecretString> {
    std::str::from_utf8(secret.expose_secret())
        .map(SecretString::from)
        .map_err(|_| std::io::Error::other("it is not UTF-8"))
}

fn with_outbox(builder: GroupBuilder, plan: &FleetPlan, platform: &PlatformPlan) -> GroupBuilder {
    let outbox = &plan.outbox;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let builder = builder
        .inbox_max(INBOX_MAX)
        .queue_messages_max(size(outbox.max_messages))
        .queue_bytes_max(size(outbox.max_bytes))
        .overflow(match outbox.overflow {
            PlannedOverflow::DropOldest => Overflow::DropOldest,
            PlannedOverflow::DropNewest => Overflow::DropNewest,
            PlannedOverflow::Block => Overflow::Wait,
            PlannedOverflow::Reject => Overflow::Reject,
        });
    let aws = platform.aws.as_ref();
    let builder = match aws {
        Some(aws) => builder.offline_limit(aws.offline).send_rate(aws.send_rate),
        None => builder,
    };
    match aws.and_then(|aws| aws.drain_rate).or(outbox.drain_rate) {
        Some(rate) => builder.drain_rate(rate),
        // As is customary on the platform.
        None => builder,
    }
}

/// A platform's rate holds for all of its groups together, so each gets its share by devices.
fn connect_rate(plan: &FleetPlan, group: &GroupPlan) -> Option<f64> {
    let rate = group.platform.connect_rate?;
    let on_platform = |other: &&Arc<GroupPlan>| other.platform.name == group.platform.name;
    let all: u64 = plan
        .groups
        .iter()
        .filter(on_platform)
        .map(|group| group.count)
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "at most a million devices")]
    let share = group.count as f64 / all.max(1) as f64;
    Some(rate * share)
}

fn topics(templates: &TopicTemplates) -> Topics {
    let default = Topics::default();
    let or = |template: &Option<String>, default: String| template.clone().unwrap_or(default);
    Topics {
        telemetry: or(&templates.telemetry, default.telemetry),
        commands: or(&templates.commands, default.commands),
        replies: or(&templates.replies, default.replies),
        reported: or(&templates.state, default.reported),
        desired: default.desired,
        status: templates.status.clone().or(default.status),
    }
}

fn build_link(
    group: &Group,
    plan: &Arc<GroupPlan>,
    subject: &Subject<'_>,
) -> Result<LinkBuilder, PrepareError> {
    let failed = |error| PrepareError::Device {
        group: plan.name.to_string(),
        device: subject.id.to_owned(),
        error,
    };
    let link = group.device(subject.id).map_err(failed)?;
    match &plan.platform.auth {
        AuthPlan::Password { username, password } => {
            Ok(link.credentials(password_of(plan, subject, username, password)?))
        }
        AuthPlan::X509 {
            cert,
            key,
            username,
        } => {
            let link = if cert.varies() || key.varies() {
                link.client_certificate(cert.path(subject), key.path(subject))
                    .map_err(failed)?
            } else {
                link
            };
            Ok(match username {
                Some(username) => link.credentials(Credentials::username(username.render(subject))),
                None => link,
            })
        }
        AuthPlan::CustomAuthorizer(authorizer) => {
            let authorizer = authorizer_of(plan, subject, authorizer)?;
            link.authorizer(&authorizer).map_err(failed)
        }
        _ => Ok(link),
    }
}

/// Tokens and signatures from files are read at each connect, as passwords are.
fn authorizer_of(
    plan: &Arc<GroupPlan>,
    subject: &Subject<'_>,
    told: &AuthorizerPlan,
) -> Result<Authorizer, PrepareError> {
    let read = |source: &PasswordSource| {
        let bytes = source.read(subject).and_then(|secret| text(&secret));
        bytes.map_err(|error| PrepareError::Password {
            group: plan.name.to_string(),
            device: subject.id.to_owned(),
            error,
        })
    };
    let mut authorizer = match &told.name {
        Some(name) => Authorizer::named(name),
        None => Authorizer::of_the_account(),
    };
    if let Some(username) = &told.username {
        authorizer = authorizer.user(username.render(subject));
    }
    if let Some(password) = &told.password {
        authorizer = authorizer.password(read(password)?);
    }
    let Some((key, token)) = &told.token else {
        return Ok(authorizer);
    };
    let first = AuthorizerToken {
        token: read(token)?,
        signature: told.signature.as_ref().map(read).transpose()?,
    };
    let (plan, index) = (Arc::clone(plan), subject.index);
    let (token, signature) = (token.clone(), told.signature.clone());
    Ok(authorizer.token_provider(key, move || {
        let device = plan.device(index);
        let subject = plan.subject(&device);
        let read = |source: &PasswordSource, before: &SecretString| {
            let secret = source.read(&subject).and_then(|secret| text(&secret));
            // One that cannot be read any more may still be good.
            secret.unwrap_or_else(|_| before.clone())
        };
        let signed = signature.as_ref().zip(first.signature.as_ref());
        AuthorizerToken {
            token: read(&token, &first.token),
            signature: signed.map(|(source, before)| read(source, before)),
        }
    }))
}

/// A password from a file is read at each connect, so that a new one needs no restart. That is done on the
/// link's thread: the files are a few bytes and are expected on a local disk.
fn password_of(
    plan: &Arc<GroupPlan>,
    subject: &Subject<'_>,
    username: &NameTemplate,
    password: &PasswordSource,
) -> Result<Credentials, PrepareError> {
    let name = username.render(subject);
    let secret = password
        .read(subject)
        .map_err(|error| PrepareError::Password {
            group: plan.name.to_string(),
            device: subject.id.to_owned(),
            error,
        })?;
    if let PasswordSource::Environment(_) = password {
        return Ok(Credentials::password(name, secret.expose_secret()));
    }
    let (plan, index, source) = (Arc::clone(plan), subject.index, password.clone());
    Ok(Credentials::provider(move || {
        let device = plan.device(index);
        match source.read(&plan.subject(&device)) {
            Ok(secret) => Credentials::password(name.clone(), secret.expose_secret()),
            Err(error) => {
                tracing::warn!(device = device.id, %error, "cannot read the password; connecting without");
                Credentials::username(name.clone())
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use paquebot::fleet_file::Overrides;

    use super::*;

    #[test]
    fn the_groups_of_a_platform_share_its_connect_rate_by_their_devices() {
        let text = br#"
            [platforms.a]
            kind = "mqtt"
            endpoint = "mqtt://127.0.0.1:1883"
            limits = { connects_per_s = 100 }
            [platforms.b]
            kind = "mqtt"
            endpoint = "mqtt://127.0.0.1:1884"
            [models.m]
            interval = { every = "1s" }
            payload = "x"
            [[groups]]
            name = "most"
            platform = "a"
            model = "m"
            count = 30
            id = "most-{{index}}"
            [[groups]]
            name = "few"
            platform = "a"
            model = "m"
            count = 10
            id = "few-{{index}}"
            [[groups]]
            name = "elsewhere"
            platform = "b"
            model = "m"
            count = 10
            id = "elsewhere-{{index}}"
        "#;
        let plan = FleetPlan::parse("test.toml", text, Path::new(""), &Overrides::none()).unwrap();
        let rates: Vec<_> = plan
            .groups
            .iter()
            .map(|group| connect_rate(&plan, group))
            .collect();
        assert_eq!(rates, [Some(75.0), Some(25.0), None]);
    }

    #[test]
    fn topics_that_the_file_leaves_out_are_the_dialects() {
        let default = Topics::default();
        assert_eq!(topics(&TopicTemplates::default()), default);
        let mut templates = TopicTemplates::default();
        templates.state = Some("s/{device}".to_owned());
        let expected = Topics {
            reported: "s/{device}".to_owned(),
            ..default
        };
        assert_eq!(topics(&templates), expected);
    }
}
