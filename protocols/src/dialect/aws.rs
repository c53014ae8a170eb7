//! AWS IoT Core.
//!
//! | what | topic | payload |
//! |---|---|---|
//! | telemetry | `dt/paquebot/{device}`, then `/{channel}` when the telemetry names one | as it is |
//! | reported state | `$aws/things/{device}/shadow/update` | `{"state":{"reported":…}}` |
//! | desired state | `$aws/things/{device}/shadow/update/delta` | `{"state":…,"version":…,"timestamp":…}` |
//! | the rest of a shadow | see [`state`](super::state) and the AWS IoT Developer Guide, *Device Shadow MQTT topics* | |
//!
//! A device is a *thing* and, unless the link is told otherwise, its name is the client identifier: most IoT policies
//! ask for that. The default of the telemetry topic follows AWS's whitepaper *Designing MQTT Topics for AWS IoT Core*,
//! which puts telemetry under `dt/{application}/…/{thing}`.
//!
//! # Limits
//! From the page *AWS IoT Core endpoints and quotas*; AWS answers a violation by closing the connection, so all are
//! known before sending:
//!
//! | | |
//! |---|---|
//! | payload | 128 KiB |
//! | topic, filter | 256 bytes of UTF-8, 8 levels; `$aws/rules/{rule}/` in front does not count |
//! | filters in a SUBSCRIBE | 8 |
//! | quality of service | 0 and 1 |
//! | client identifier | 1 to 128 bytes, no `$` in front; may be empty on MQTT 5 |
//! | thing | 1 to 128 of `A–Z a–z 0–9 : _ -` |
//! | named shadow | 1 to 64 of the same |

use std::time::SystemTime;

use bytes::Bytes;

use super::template::{Placeholder, TemplateError, TopicTemplate, Values};
use super::{
    Capabilities, Closing, ConnectSpec, Dialect, DialectError, Inbound, Interest, LikelyCause,
    LinkIdentity, Outbound, Rendered, StateDialect,
};
use crate::dialect::state::{DocumentId, StateFeed, StateMessage};
use crate::model::{DeviceId, Platform, Role, StatePatch, Telemetry};
use crate::mqtt::session::Incoming;
use crate::mqtt::{QoS, Subscription, Version};

mod cbor;
mod closing;
pub mod defender;
pub mod discovery;
pub mod jobs;
pub mod provisioning;
mod shadow;
pub mod signature;

/// Longest client identifier, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 128;

/// Longest name of a thing, in bytes.
pub const THING_NAME_BYTES_MAX: usize = 128;

/// Longest name of a shadow, in bytes.
pub const SHADOW_NAME_BYTES_MAX: usize = 64;

/// Longest topic or filter, in bytes.
pub const TOPIC_BYTES_MAX: usize = 256;

/// Levels of a topic or filter.
pub const TOPIC_LEVELS_MAX: usize = 8;

/// Largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 128 * 1024;

/// Settings of the dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    /// Where telemetry goes; `{device}` stands alone in a level. Default `dt/paquebot/{device}`.
    pub telemetry: String,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self {
            telemetry: "dt/paquebot/{device}".into(),
        }
    }
}

/// The dialect of AWS IoT Core.
#[derive(Debug, Clone)]
pub struct Aws {
    telemetry: TopicTemplate,
    capabilities: Capabilities,
}

impl Aws {
    /// The dialect with these settings.
    ///
    /// # Errors
    /// The telemetry template has an unknown placeholder, lacks `{device}`, or gives no valid topic, or one that AWS
    /// IoT does not take: more than 8 levels or 256 bytes, the device's name apart.
    pub fn new(settings: &AwsSettings) -> Result<Self, TemplateError> {
        let device = &[Placeholder::Device];
        let dialect = Self {
            telemetry: TopicTemplate::parse(&settings.telemetry, device, device)?,
            capabilities: Capabilities {
                qos_max: QoS::AtLeastOnce,
                payload_max: Some(PAYLOAD_BYTES_MAX),
                topic_bytes_max: TOPIC_BYTES_MAX,
                topic_levels_max: Some(TOPIC_LEVELS_MAX),
                filters_per_subscribe_max: 8,
                state: true,
                gateway: true,
                channels: true,
                ..Capabilities::default()
            },
        };
        let shortest = Values {
            device: "d",
            ..Values::default()
        };
        let topic = dialect.telemetry.topic(shortest);
        let topic = topic.map_err(TemplateError::NoTopic)?;
        match dialect.check_bounds("topic", topic.as_str()) {
            Ok(()) => Ok(dialect),
            Err(DialectError::Invalid { problem, .. }) => Err(TemplateError::NoTopic(problem)),
            Err(error) => Err(TemplateError::NoTopic(error.to_string())),
        }
    }

    fn unsupported(operation: &'static str) -> DialectError {
        DialectError::Unsupported {
            platform: Platform::Aws,
            operation,
        }
    }

    fn render_telemetry(
        &self,
        device: &DeviceId,
        telemetry: &Telemetry,
    ) -> Result<Rendered, DialectError> {
        let values = Values {
            device: device.as_str(),
            ..Values::default()
        };
        let invalid = |what| move |problem| DialectError::Invalid { what, problem };
        let topic = self.telemetry.topic(values).map_err(invalid("topic"))?;
        Rendered::telemetry(topic, telemetry)
    }
}

impl Default for Aws {
    fn default() -> Self {
        match Self::new(&AwsSettings::default()) {
            Ok(dialect) => dialect,
            Err(error) => unreachable!("the default template is valid: {error}"),
        }
    }
}

impl Dialect for Aws {
    fn platform(&self) -> Platform {
        Platform::Aws
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&self, link: &LinkIdentity, _now: SystemTime) -> Result<ConnectSpec, DialectError> {
        if link.role == Role::Application {
            return Err(Self::unsupported("application links"));
        }
        self.check_client_id(link.id.as_str(), link.version)?;
        Ok(ConnectSpec {
            client_id: link.id.text().clone(),
            username: None,
            password: None,
            will: None,
            expires_at: None,
        })
    }

    fn subscriptions(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        match interest {
            Interest::DesiredState => self.feed(link, &own(device), StateFeed::Deltas),
            Interest::Commands => Err(Self::unsupported(
                "commands without a job; take jobs, or a raw subscription to a topic of your own",
            )),
            Interest::Telemetry => Err(Self::unsupported("telemetry for a device link")),
            Interest::Replies => Err(Self::unsupported("replies for a device link")),
        }
    }

    fn render(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        match outbound {
            Outbound::Telemetry(telemetry) => self.render_telemetry(device, telemetry).map(Some),
            Outbound::ReportState(patch) => self.report(link, &own(device), patch).map(Some),
            // The service announces links itself, under `$aws/events/presence/`.
            Outbound::Online | Outbound::Offline => Ok(None),
            Outbound::Reply { .. } => Err(Self::unsupported("answers to commands")),
            Outbound::Command { .. } => Err(Self::unsupported("sending commands on a device link")),
            Outbound::DesireState(_) => Err(Self::unsupported(
                "desired state on an application link; update the shadow on a device link",
            )),
        }
    }

    fn classify(&self, link: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        let Some(device) = shadow::thing_of_delta(incoming.topic.as_str()) else {
            return Ok(Inbound::Raw);
        };
        let invalid = |problem| DialectError::Invalid {
            what: "delta",
            problem,
        };
        let device = DeviceId::new(device).map_err(|error| invalid(error.to_string()))?;
        let read = self.read(link, &own(&device), incoming);
        match read.map_err(|error| invalid(error.problem))? {
            Some(StateMessage::Delta(delta)) => Ok(Inbound::DesiredState {
                device,
                patch: StatePatch {
                    document: Bytes::from(delta.state.to_string()),
                    version: delta.version,
                },
            }),
            _ => Ok(Inbound::Raw),
        }
    }

    fn state(&self) -> Option<&dyn StateDialect> {
        Some(self)
    }

    fn closes_silently(&self) -> bool {
        true
    }

    fn explain_closing(&self, closing: &Closing<'_>) -> Option<LikelyCause> {
        closing::explain(closing)
    }

    /// `$aws/rules/{rule}/` in front is not counted (*Basic Ingest*).
    fn bounded_part<'a>(&self, topic: &'a str) -> &'a str {
        topic
            .strip_prefix("$aws/rules/")
            .and_then(|rest| rest.split_once('/'))
            .map_or(topic, |(_, rest)| rest)
    }

    fn check_client_id(&self, client_id: &str, version: Version) -> Result<(), DialectError> {
        let problem = if client_id.is_empty() && version == Version::V311 {
            "AWS IoT makes one up on MQTT 5 alone".into()
        } else if client_id.len() > CLIENT_ID_BYTES_MAX {
            let length = client_id.len();
            format!("it has {length} bytes; AWS IoT takes {CLIENT_ID_BYTES_MAX}")
        } else if client_id.starts_with('$') {
            format!("{client_id:?} starts with $, which AWS IoT keeps for itself")
        } else {
            return Ok(());
        };
        Err(DialectError::Invalid {
            what: "client identifier",
            problem,
        })
    }
}

fn own(device: &DeviceId) -> DocumentId {
    DocumentId {
        device: device.clone(),
        name: None,
    }
}
