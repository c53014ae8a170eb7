//! The translator between the common model and one platform's topics and payloads.
//!
//! A dialect is pure: it is told who the link is and what happened, and says which bytes mean that on its
//! platform. One dialect value serves every link of its platform, so it holds settings and no state; what
//! a link must remember (open requests, versions) is kept by the link's actors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::{
    Command, CommandReply, DeviceId, Platform, ReplyAddress, Role, StatePatch, Telemetry,
};
use crate::mqtt::session::Incoming;
use crate::mqtt::{Properties, QoS, Subscription, Topic, Version, Will};

pub mod aws;
mod closing;
pub mod plain;
pub mod state;
mod template;

pub use aws::Aws;
pub use closing::{Closing, ClosingStage, LikelyCause};
pub use plain::Plain;
pub use state::StateDialect;

/// Who a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkIdentity {
    /// The device, gateway or application the session belongs to.
    pub id: DeviceId,
    /// Which side of the platform it stands on.
    pub role: Role,
    /// The protocol version it speaks.
    pub version: Version,
}

/// What a platform can do, known before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Highest QoS it takes.
    pub qos_max: QoS,
    /// Whether it keeps retained messages.
    pub retain: bool,
    /// Largest payload, in bytes.
    pub payload_max: Option<usize>,
    /// Longest topic, in bytes.
    pub topic_bytes_max: usize,
    /// Most levels in a topic.
    pub topic_levels_max: Option<usize>,
    /// Most filters in one SUBSCRIBE.
    pub filters_per_subscribe_max: usize,
    /// Whether devices get commands.
    pub commands: bool,
    /// Whether devices have a desired and a reported state.
    pub state: bool,
    /// Whether one link may speak for many devices.
    pub gateway: bool,
    /// Whether links may stand on the application's side.
    pub application: bool,
    /// Whether telemetry may name a channel.
    pub channels: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            qos_max: QoS::ExactlyOnce,
            retain: true,
            payload_max: None,
            topic_bytes_max: usize::from(u16::MAX),
            topic_levels_max: None,
            filters_per_subscribe_max: 100,
            commands: false,
            state: false,
            gateway: false,
            application: false,
            channels: false,
        }
    }
}

/// What one CONNECT of a link says beyond what the link's own settings say.
#[derive(Clone)]
pub struct ConnectSpec {
    /// Client identifier.
    pub client_id: ByteString,
    /// User name, where the platform derives it; the link's own credentials otherwise.
    pub username: Option<ByteString>,
    /// Password or token, where the platform derives it.
    pub password: Option<Bytes>,
    /// Will, where the platform has one of its own.
    pub will: Option<Will>,
    /// When the credentials stop being valid: the link connects anew before.
    pub expires_at: Option<SystemTime>,
}

/// What a link wants to hear; its subscriptions follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interest {
    /// Commands for the link's device.
    Commands,
    /// Changes of the desired state of the link's device.
    DesiredState,
    /// Telemetry of all devices (application).
    Telemetry,
    /// Answers to commands this link sent (application).
    Replies,
}

/// What a link wants to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outbound<'a> {
    /// A measurement.
    Telemetry(&'a Telemetry),
    /// The answer to a command.
    Reply {
        /// The command.
        command: &'a Command,
        /// Its answer.
        reply: &'a CommandReply,
    },
    /// A change of the reported state.
    ReportState(&'a StatePatch),
    /// The link came online; `None` from a dialect that does not announce it.
    Online,
    /// The link leaves on purpose; `None` from a dialect that does not announce it.
    Offline,
    /// A command to a device (application).
    Command {
        /// What to do.
        name: &'a str,
        /// Its arguments.
        payload: &'a Bytes,
        /// Names the request; comes back in the answer.
        request: &'a str,
    },
    /// A change of the desired state of a device (application).
    DesireState(&'a StatePatch),
}

/// What [`Outbound`] is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Topic.
    pub topic: Topic,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// MQTT 5 properties.
    pub properties: Properties,
    /// How long the message is worth sending.
    pub time_to_live: Option<Duration>,
    /// The payload is a JSON merge patch, and while it waits a later one on its topic may be put together with it.
    pub merges: bool,
}

impl Rendered {
    /// A message as most are: not retained, with no properties and no end of its life, and apart from others.
    #[must_use]
    pub fn new(topic: Topic, payload: impl Into<Bytes>, qos: QoS) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos,
            retain: false,
            properties: Properties::default(),
            time_to_live: None,
            merges: false,
        }
    }

    /// Telemetry on this topic, or on one below it when it names a channel. Content type and properties are MQTT 5's.
    ///
    /// # Errors
    /// The channel makes no topic.
    pub fn telemetry(topic: Topic, telemetry: &Telemetry) -> Result<Self, DialectError> {
        let topic = match &telemetry.channel {
            None => topic,
            Some(channel) => {
                Topic::new(format!("{topic}/{channel}")).map_err(|error| DialectError::Invalid {
                    what: "telemetry channel",
                    problem: error.to_string(),
                })?
            }
        };
        let mut properties = Properties::default();
        if telemetry.content_type.is_some() || !telemetry.properties.is_empty() {
            let set = properties.edit();
            set.content_type.clone_from(&telemetry.content_type);
            set.user_properties.clone_from(&telemetry.properties);
        }
        Ok(Self {
            retain: telemetry.retain,
            properties,
            time_to_live: telemetry.time_to_live,
            ..Self::new(topic, telemetry.payload.clone(), telemetry.qos)
        })
    }
}

/// What a message from the server means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inbound {
    /// A command for a device of this link.
    Command(Command),
    /// A change of a device's desired state.
    DesiredState {
        /// The device.
        device: DeviceId,
        /// The change.
        patch: StatePatch,
    },
    /// Telemetry of a device (application).
    Telemetry {
        /// The device.
        device: DeviceId,
        /// What it measured.
        telemetry: Telemetry,
    },
    /// The answer to a command (application).
    Reply {
        /// The device.
        device: DeviceId,
        /// Which request it answers.
        reply_to: ReplyAddress,
        /// The answer.
        reply: CommandReply,
    },
    /// Nothing of the platform's own: a message for a raw subscription.
    Raw,
}

/// Why a dialect refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialectError {
    /// The platform, or this role on it, has no such operation.
    #[error("{platform} has no {operation}")]
    Unsupported {
        /// The platform.
        platform: Platform,
        /// What was asked for.
        operation: &'static str,
    },
    /// A value does not fit the platform.
    #[error("{what}: {problem}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The payload is larger than the platform takes.
    #[error("the payload has {length} bytes; {platform} takes {max}")]
    PayloadTooLarge {
        /// The platform.
        platform: Platform,
        /// Its size in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
}

/// One platform's language.
///
/// # Own dialects
/// Implement this for a platform of your own and hand it to a link's builder. Every method must be quick
/// and must not block: [`Dialect::classify`] runs on the link's thread for each message.
pub trait Dialect: Send + Sync + std::fmt::Debug + 'static {
    /// Whose cloud it is.
    fn platform(&self) -> Platform;

    /// What the platform can do.
    fn capabilities(&self) -> &Capabilities;

    /// What CONNECT says. Asked at every attempt, since credentials expire.
    ///
    /// # Errors
    /// The identity does not fit the platform.
    fn connect(&self, link: &LinkIdentity, now: SystemTime) -> Result<ConnectSpec, DialectError>;

    /// The filters that `interest` needs for `device`.
    ///
    /// # Errors
    /// The platform, or this role on it, has no such thing.
    fn subscriptions(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError>;

    /// Topic and payload of what `device` says; `None` when there is nothing to send for it.
    ///
    /// # Errors
    /// The platform has no such operation, or a value does not fit it.
    fn render(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError>;

    /// What a message means.
    ///
    /// # Errors
    /// It is on a topic of the platform's own and cannot be read.
    fn classify(&self, link: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError>;

    /// How the platform is asked for its documents of a device's state and answers. Default: it is not.
    fn state(&self) -> Option<&dyn StateDialect> {
        None
    }

    /// Whether the server answers what it does not allow by closing the connection without a word. Default: no.
    fn closes_silently(&self) -> bool {
        false
    }

    /// What is likely behind the end of a connection, where the server does not say. Default: nothing is known.
    fn explain_closing(&self, closing: &Closing<'_>) -> Option<LikelyCause> {
        let _ = closing;
        None
    }

    /// The part of a topic or filter that the bounds of [`Capabilities`] are about. Default: all of it.
    fn bounded_part<'a>(&self, topic: &'a str) -> &'a str {
        topic
    }

    /// Whether the platform takes a client identifier. [`Dialect::connect`] gives none that it does not.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check_client_id(&self, client_id: &str, version: Version) -> Result<(), DialectError> {
        let _ = (client_id, version);
        Ok(())
    }

    /// Whether a subscription is within what the platform takes.
    ///
    /// # Errors
    /// The bound it is past.
    fn check_subscription(&self, subscription: &Subscription) -> Result<(), DialectError> {
        let filter = subscription.filter.as_str();
        if subscription.qos > self.capabilities().qos_max {
            return Err(DialectError::Unsupported {
                platform: self.platform(),
                operation: "quality of service this high",
            });
        }
        self.check_bounds("topic filter", filter)
    }

    /// Whether a topic or filter, which is what `what` says, is short and flat enough.
    ///
    /// # Errors
    /// The bound it is past.
    fn check_bounds(&self, what: &'static str, text: &str) -> Result<(), DialectError> {
        let capabilities = self.capabilities();
        let bounded = self.bounded_part(text);
        let (bytes, levels) = (bounded.len(), bounded.split('/').count());
        let problem = if bytes > capabilities.topic_bytes_max {
            let max = capabilities.topic_bytes_max;
            format!(
                "{text:?} has {bytes} bytes; {} takes {max}",
                self.platform()
            )
        } else if let Some(max) = capabilities.topic_levels_max.filter(|max| levels > *max) {
            format!(
                "{text:?} has {levels} levels; {} takes {max}",
                self.platform()
            )
        } else {
            return Ok(());
        };
        Err(DialectError::Invalid { what, problem })
    }
}
