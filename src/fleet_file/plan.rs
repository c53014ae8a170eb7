//! The plan: a fleet file that was read, checked and filled in.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::{QoS, Version};

use super::aws::AwsPlan;
use super::credentials::AuthPlan;
use super::proxy::ProxyPlan;
use crate::Durability;
use crate::template::{
    DeviceState, IdTemplate, PayloadTemplate, Random, ReplyTemplate, Stream, Subject,
};

/// What a fleet file asks for, complete and checked. Nothing in it changes after it was made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FleetPlan {
    /// Name of the fleet, safe as a metric label. Default `fleet`.
    pub name: Arc<str>,
    /// Seed of everything random. Default 0.
    pub seed: u64,
    /// New connections per second, over the whole fleet; `None`: no limit, which is the default.
    pub connect_rate: Option<f64>,
    /// How long the fleet may drain its queues when it stops. Default 20 s.
    pub drain_timeout: Duration,
    /// Threads that carry links. Default: one a core.
    pub workers: NonZeroUsize,
    /// The admin server; `None` without an `[admin]` table.
    pub admin: Option<AdminPlan>,
    /// The outbox of each link.
    pub outbox: OutboxPlan,
    /// Platforms in the order of the file, unused ones included.
    pub platforms: Vec<Arc<PlatformPlan>>,
    /// Models in the order of the file, unused ones included.
    pub models: Vec<Arc<ModelPlan>>,
    /// Groups in the order of the file.
    pub groups: Vec<Arc<GroupPlan>>,
    /// What is allowed and probably not meant, each a sentence.
    pub warnings: Vec<String>,
}

/// The admin server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminPlan {
    /// Where it listens: loopback unless `allow_remote` was set. Default 127.0.0.1:9464; port 0 lets the
    /// system choose.
    pub listen: SocketAddr,
}

/// The outbox of one link.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OutboxPlan {
    /// How durable messages of QoS 1 and 2 are while they wait; a group may have its own. Default: in memory.
    pub durability: Durability,
    /// The directory of the store, for those that are more durable than that. Default `outbox`.
    pub store: PathBuf,
    /// Bytes that the queues of all devices may need in the store together: from 64 KiB; `None`: no limit but the
    /// disk's, which is the default.
    pub store_max_bytes: Option<u64>,
    /// Messages that the queues of all devices hold together, durable or not: 1 to 1,000,000,000; `None`: no limit but
    /// each device's own, which is the default.
    pub fleet_max_messages: Option<u64>,
    /// The same for bytes of topic and payload: 1 KiB to 1 TiB.
    pub fleet_max_bytes: Option<u64>,
    /// Messages that wait at the most, per link: 1 to 10,000,000. Default 1,000.
    pub max_messages: u64,
    /// Bytes of topic and payload that wait at the most, per link: 1 KiB to 1 TiB. Default 1 MiB.
    pub max_bytes: u64,
    /// What happens to a message that finds the outbox full. Default: the oldest gives way.
    pub overflow: Overflow,
    /// Messages per second and link that leave the outbox; `None`: no limit, which is the default.
    pub drain_rate: Option<f64>,
}

/// What happens to a message that finds the outbox full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest message is dropped for it.
    #[default]
    DropOldest,
    /// It is dropped itself.
    DropNewest,
    /// The sender waits.
    Block,
    /// The sender is told.
    Reject,
}

/// A platform: whom the devices connect to, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlatformPlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// What kind of platform it is.
    pub kind: PlatformKind,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Protocol version. Default 3.1.1, which every broker speaks.
    pub version: Version,
    /// How devices prove who they are.
    pub auth: AuthPlan,
    /// Trust for TLS; `None` for a plain connection.
    pub tls: Option<TlsPlan>,
    /// Keep alive in whole seconds; zero switches it off. Default 60 s.
    pub keep_alive: Duration,
    /// Whether each connection forgets the session before it. Default no.
    pub clean_start: bool,
    /// How long the broker keeps the session of a lost connection, in whole seconds. MQTT 5 only, zero
    /// otherwise. Default 1 h, with `clean_start` zero.
    pub session_expiry: Duration,
    /// Inbound QoS 1 and 2 messages that may be unacknowledged: 1 to 65,535. Default 1,000, on AWS IoT 100.
    pub receive_maximum: u16,
    /// Own QoS 1 and 2 messages that may be unacknowledged: 1 to 65,535. Default 1,000, on AWS IoT 100.
    pub inflight: u16,
    /// Pauses between attempts to connect.
    pub reconnect: ReconnectPlan,
    /// New connections per second to this platform; `None`: no limit, which is the default.
    pub connect_rate: Option<f64>,
    /// The HTTP proxy that its links go through. Default none; environment variables are not looked at.
    pub proxy: Option<ProxyPlan>,
    /// What only AWS IoT has; there for that kind of platform and no other.
    pub aws: Option<AwsPlan>,
}

/// The kinds of platform that this version runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformKind {
    /// Any MQTT broker.
    Mqtt,
    /// AWS IoT Core.
    Aws,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whether the connection is TLS: `mqtts://` or `wss://`.
    pub tls: bool,
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port: 1 to 65,535.
    pub port: u16,
    /// The path of a WebSocket, from its `/` on; `None`: it is none.
    pub path: Option<String>,
}

/// Whom to trust on a TLS connection. The server's name is always checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TlsPlan {
    /// PEM file with the authorities to trust; `None`: those of the system.
    pub ca_file: Option<std::path::PathBuf>,
    /// Name to ask for and to check; `None`: the endpoint's host.
    pub server_name: Option<String>,
}

/// Pauses between attempts to connect: `min(2^n · base, max)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectPlan {
    /// The first pause. Default 1 s.
    pub base: Duration,
    /// The longest pause. Default 120 s, on AWS IoT 32 s.
    pub max: Duration,
    /// Whether a pause is shortened at random. Default full.
    pub jitter: Jitter,
}

/// How a pause is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// Any time from zero to the pause, each equally likely: a fleet does not come back as one.
    #[default]
    Full,
    /// Exactly the pause.
    None,
}

/// Topics of a group's devices, in the plain dialect's words: `{device}`, `{command}` and `{request}` are still
/// to be filled in. `None` where the dialect's default holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TopicTemplates {
    /// Where telemetry goes; may hold `{device}`.
    pub telemetry: Option<String>,
    /// Where commands come from; holds `{device}`, may hold `{command}` and `{request}`.
    pub commands: Option<String>,
    /// Where replies go; may hold all three.
    pub replies: Option<String>,
    /// Where reported state goes; may hold `{device}`.
    pub state: Option<String>,
    /// Where online and offline go; may hold `{device}`.
    pub status: Option<String>,
}

/// A model: what a device of this kind does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelPlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Quality of service of telemetry and replies. Default 1.
    pub qos: QoS,
    /// What it sends by itself; `None` for a device that only answers.
    pub telemetry: Option<TelemetryPlan>,
    /// The commands it answers, in the order of the file.
    pub commands: Vec<CommandPlan>,
    /// The state that it reports when it first comes online; the broker retains it.
    pub reported: Option<serde_json::Map<String, serde_json::Value>>,
    /// What it does with a state that is desired. Default: nothing.
    pub on_desired: OnDesired,
    /// How it does jobs, on AWS IoT; `None`: it does not ask for any, which is the default.
    pub jobs: Option<JobsPlan>,
}

impl ModelPlan {
    /// In the place of one that is wrong, so that what goes with it can be looked at.
    pub(super) fn nothing() -> Self {
        Self {
            name: Arc::from(""),
            qos: QoS::AtMostOnce,
            telemetry: None,
            commands: Vec::new(),
            reported: None,
            on_desired: OnDesired::default(),
            jobs: None,
        }
    }
}

/// How a device does the jobs of AWS IoT: one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct JobsPlan {
    /// How they end.
    pub on_job: OnJob,
    /// How long the device takes for each. Default zero.
    pub delay: Duration,
    /// Probability that one fails that would succeed. Default 0.
    pub fail: f64,
}

/// How a device ends a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnJob {
    /// As `SUCCEEDED`.
    Succeed,
    /// As `FAILED`.
    Fail,
    /// As `REJECTED`.
    Reject,
}

impl OnJob {
    /// The word of the fleet file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeed => "succeed",
            Self::Fail => "fail",
            Self::Reject => "reject",
        }
    }
}

/// What a device does with a change of its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDesired {
    /// Nothing: it does not even ask for it.
    #[default]
    Ignore,
    /// Takes it over into its state, and reports the state that comes of it.
    Apply,
}

/// What a device sends by itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TelemetryPlan {
    /// When it sends.
    pub interval: Interval,
    /// What it sends.
    pub payload: PayloadTemplate,
    /// Whether the broker keeps the last message. Default no.
    pub retain: bool,
    /// Name of the channel, on platforms that have channels.
    pub channel: Option<String>,
    /// Content type, sent on MQTT 5.
    pub content_type: Option<String>,
    /// How long a message that waits is worth sending; `None`: for ever.
    pub expiry: Option<Duration>,
}

/// When a device sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Time from one message to the next: 1 ms to 30 days.
    pub every: Duration,
    /// How much shorter or longer it may be, at most `every`. Default zero.
    pub jitter: Duration,
}

/// A command that a model answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommandPlan {
    /// Its name.
    pub name: String,
    /// The answer.
    pub reply: ReplyTemplate,
    /// How long the device takes. Default zero.
    pub delay: Duration,
    /// Probability that it reports failure instead. Default 0.
    pub fail: f64,
}

/// A group: devices of one model on one platform.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupPlan {
    /// Its name in the file, safe as a metric label.
    pub name: Arc<str>,
    /// Whom its devices connect to.
    pub platform: Arc<PlatformPlan>,
    /// What its devices do.
    pub model: Arc<ModelPlan>,
    /// How many devices there are; 0 switches the group off.
    pub count: u64,
    /// Index of the first one. Default 0.
    pub start_index: u64,
    /// Template of their ids.
    pub id: IdTemplate,
    /// Their topics.
    pub topics: TopicTemplates,
    /// Name of the fleet.
    pub fleet: Arc<str>,
    /// Seed of the fleet.
    pub seed: u64,
    /// How durable what its devices send is while it waits. Default: as `[outbox]` says.
    pub durability: Durability,
}

/// One device of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceName {
    /// Its index in the group, `start_index` being the first.
    pub index: u64,
    /// Its id, which is its client id.
    pub id: String,
}

impl FleetPlan {
    /// How many devices there are in all groups.
    #[must_use]
    pub fn device_count(&self) -> u64 {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// The directory of the store; `None` when no group with devices needs one.
    #[must_use]
    pub fn store_directory(&self) -> Option<&Path> {
        let is_durable =
            |group: &Arc<GroupPlan>| group.count > 0 && group.durability != Durability::Memory;
        let needs_store = self.groups.iter().any(is_durable);
        needs_store.then_some(self.outbox.store.as_path())
    }

    /// Telemetry messages per second when all devices are connected.
    #[must_use]
    pub fn messages_per_second(&self) -> f64 {
        self.groups
            .iter()
            .map(|group| group.messages_per_second())
            .sum()
    }

    /// How long the rates make the first connecting take; zero without a rate.
    #[must_use]
    pub fn connect_time(&self) -> Duration {
        let at = |count: u64, rate: Option<f64>| {
            #[expect(clippy::cast_precision_loss, reason = "at most a million devices")]
            rate.map_or(0.0, |rate| count as f64 / rate)
        };
        let per_platform = self.platforms.iter().map(|platform| {
            let on_it = |group: &&Arc<GroupPlan>| group.platform.name == platform.name;
            let count = self.groups.iter().filter(on_it).map(|group| group.count);
            at(count.sum(), platform.connect_rate)
        });
        let seconds = per_platform.fold(at(self.device_count(), self.connect_rate), f64::max);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl GroupPlan {
    /// The indexes of its devices.
    #[must_use]
    pub const fn indexes(&self) -> Range<u64> {
        self.start_index..self.start_index.saturating_add(self.count)
    }

    /// Its devices, one after the other.
    pub fn devices(&self) -> impl Iterator<Item = DeviceName> + '_ {
        self.indexes().map(|index| self.device(index))
    }

    /// The device with an index.
    #[must_use]
    pub fn device(&self, index: u64) -> DeviceName {
        DeviceName {
            index,
            id: self.id.render(&self.fleet, &self.name, index),
        }
    }

    /// A device as templates want it.
    #[must_use]
    pub fn subject<'a>(&'a self, device: &'a DeviceName) -> Subject<'a> {
        Subject {
            fleet: &self.fleet,
            group: &self.name,
            index: device.index,
            id: &device.id,
        }
    }

    /// The state of a device's telemetry before its first message; `None` when its model sends none.
    #[must_use]
    pub fn telemetry_state(&self, index: u64) -> Option<DeviceState> {
        let telemetry = self.model.telemetry.as_ref()?;
        Some(telemetry.payload.state(self.seed, &self.name, index))
    }

    /// The state of a device's answers to one command before the first of them.
    #[must_use]
    pub fn reply_state(&self, command: &CommandPlan, index: u64) -> DeviceState {
        command.reply.state(self.seed, &self.name, index)
    }

    /// The random numbers that decide when a device sends and whether a command fails.
    #[must_use]
    pub fn schedule(&self, index: u64) -> Random {
        Random::for_device(self.seed, &self.name, index, Stream::Schedule)
    }

    /// The random numbers that decide whether a job of a device fails.
    #[must_use]
    pub fn job_chances(&self, index: u64) -> Random {
        Random::for_device(self.seed, &self.name, index, Stream::Jobs)
    }

    /// Telemetry messages per second of all its devices together.
    #[must_use]
    pub fn messages_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most a million devices")]
        let count = self.count as f64;
        self.model.telemetry.as_ref().map_or(0.0, |telemetry| {
            count / telemetry.interval.every.as_secs_f64()
        })
    }
}

impl ModelPlan {
    /// The command with a name.
    #[must_use]
    pub fn command(&self, name: &str) -> Option<&CommandPlan> {
        self.commands.iter().find(|command| command.name == name)
    }
}

impl Interval {
    /// How long a device waits before its first message: any part of the interval, so that a fleet that
    /// connects at once does not send at once.
    #[must_use]
    pub fn first(&self, random: &mut Random) -> Duration {
        self.every.mul_f64(random.unit())
    }

    /// The time from one message to the next, jitter included.
    #[must_use]
    pub fn next(&self, random: &mut Random) -> Duration {
        if self.jitter.is_zero() {
            return self.every;
        }
        let earliest = self.every.saturating_sub(self.jitter);
        earliest + self.jitter.mul_f64(2.0 * random.unit())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.tls, self.path.is_some()) {
            (false, false) => "mqtt",
            (true, false) => "mqtts",
            (false, true) => "ws",
            (true, true) => "wss",
        };
        let path = self.path.as_deref().unwrap_or_default();
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Block => "block",
            Self::Reject => "reject",
        })
    }
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mqtt => "mqtt",
            Self::Aws => "aws",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_keeps_the_interval_around_its_mean() {
        let interval = Interval {
            every: Duration::from_secs(30),
            jitter: Duration::from_secs(5),
        };
        let mut random = Random::new(1);
        let waits: Vec<f64> = (0..2_000)
            .map(|_| interval.next(&mut random).as_secs_f64())
            .collect();
        assert!(waits.iter().all(|wait| (25.0..=35.0).contains(wait)));
        let mean = waits.iter().sum::<f64>() / 2_000.0;
        assert!((mean - 30.0).abs() < 0.3, "{mean}");
        assert!(waits.iter().any(|wait| *wait < 26.0) && waits.iter().any(|wait| *wait > 34.0));
    }

    #[test]
    fn the_first_message_falls_anywhere_into_the_interval() {
        let interval = Interval {
            every: Duration::from_secs(10),
            jitter: Duration::ZERO,
        };
        let mut random = Random::new(1);
        let firsts: Vec<Duration> = (0..500).map(|_| interval.first(&mut random)).collect();
        assert!(firsts.iter().all(|first| *first < interval.every));
        assert!(firsts.iter().any(|first| first.as_secs() < 1));
        assert!(firsts.iter().any(|first| first.as_secs() >= 9));
        assert_eq!(interval.next(&mut random), interval.every);
    }

    #[test]
    fn an_endpoint_reads_as_its_url() {
        let endpoint = Endpoint {
            tls: true,
            host: "::1".to_owned(),
            port: 8883,
            path: None,
        };
        assert_eq!(endpoint.to_string(), "mqtts://[::1]:8883");
    }
}
