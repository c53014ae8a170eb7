//! The plain dialect: devices on any MQTT broker, with topics from templates.
//!
//! | what | default topic | sent by |
//! |---|---|---|
//! | telemetry | `devices/{device}/telemetry`, then `/{channel}` when the telemetry names one | device |
//! | command | `devices/{device}/commands/{command}/{request}` | application |
//! | reply | `devices/{device}/replies/{command}/{status}/{request}` | device |
//! | reported state | `devices/{device}/state/reported`, retained | device |
//! | desired state | `devices/{device}/state/desired` | application |
//! | status | `devices/{device}/status`, retained: `online`, or `offline` as last will | device |
//!
//! The request level is optional: a command on `devices/d1/commands/reboot` is answered on
//! `devices/d1/replies/reboot/ok`. With MQTT 5 a command that has a response topic is answered there, with
//! its correlation data and the status as user property `status`.

use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use crate::model::{
    Command, CommandReply, CommandStatus, DeviceId, Platform, ReplyAddress, Role, StatePatch,
    Telemetry,
};
use crate::mqtt::session::Incoming;
use crate::mqtt::{Properties, QoS, Subscription, Topic, TopicFilter, Version, Will};

pub use super::template::TemplateError;
use super::template::{Placeholder, TopicTemplate, Values};

/// The topic templates of a plain broker, as text. Placeholders stand alone in a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// `{device}`.
    pub telemetry: String,
    /// `{device}`, `{command}` and, where the sender names requests, `{request}`.
    pub commands: String,
    /// `{device}`, `{command}`, `{status}` and `{request}`.
    pub replies: String,
    /// `{device}`.
    pub reported: String,
    /// `{device}`.
    pub desired: String,
    /// `{device}`; `None` switches the online/offline status and the last will off.
    pub status: Option<String>,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            telemetry: "devices/{device}/telemetry".into(),
            commands: "devices/{device}/commands/{command}/{request}".into(),
            replies: "devices/{device}/replies/{command}/{status}/{request}".into(),
            reported: "devices/{device}/state/reported".into(),
            desired: "devices/{device}/state/desired".into(),
            status: Some("devices/{device}/status".into()),
        }
    }
}

/// The plain dialect.
#[derive(Debug, Clone)]
pub struct Plain {
    telemetry: TopicTemplate,
    commands: TopicTemplate,
    replies: TopicTemplate,
    reported: TopicTemplate,
    desired: TopicTemplate,
    status: Option<TopicTemplate>,
    capabilities: Capabilities,
}

/// Name of the MQTT 5 user property that carries a reply's status.
const STATUS_PROPERTY: &str = "status";

impl Plain {
    /// The dialect with these topics.
    ///
    /// # Errors
    /// A template that has an unknown placeholder, lacks one, or gives no valid topic; with the
    /// template's name.
    pub fn new(topics: &Topics) -> Result<Self, (&'static str, TemplateError)> {
        use Placeholder::{Command, Device, Request, Status};
        let parse = |name, text: &str, allowed: &[_], required: &[_]| {
            TopicTemplate::parse(text, allowed, required).map_err(|error| (name, error))
        };
        Ok(Self {
            telemetry: parse("telemetry", &topics.telemetry, &[Device], &[Device])?,
            commands: parse(
                "commands",
                &topics.commands,
                &[Device, Command, Request],
                &[Device, Command],
            )?,
            replies: parse(
                "replies",
                &topics.replies,
                &[Device, Command, Status, Request],
                &[Device],
            )?,
            reported: parse("reported", &topics.reported, &[Device], &[Device])?,
            desired: parse("desired", &topics.desired, &[Device], &[Device])?,
            status: topics
                .status
                .as_deref()
                .map(|text| parse("status", text, &[Device], &[Device]))
                .transpose()?,
            capabilities: Capabilities {
                commands: true,
                state: true,
                gateway: true,
                application: true,
                channels: true,
                ..Capabilities::default()
            },
        })
    }

    fn unsupported(operation: &'static str) -> DialectError {
        DialectError::Unsupported {
            platform: Platform::Mqtt,
            operation,
        }
    }

    fn status_topic(&self, device: &DeviceId) -> Result<Option<Topic>, DialectError> {
        self.status
            .as_ref()
            .map(|template| device_topic(template, device))
            .transpose()
    }

    fn render_reply(
        &self,
        link: &LinkIdentity,
        command: &Command,
        reply: &CommandReply,
    ) -> Result<Rendered, DialectError> {
        let mut properties = Properties::default();
        if link.version == Version::V5 {
            let set = properties.edit();
            set.correlation_data
                .clone_from(&command.reply_to.correlation);
            set.user_properties.push((
                ByteString::from_static(STATUS_PROPERTY),
                ByteString::from_static(reply.status.name()),
            ));
        }
        let asked = command
            .reply_to
            .topic
            .as_ref()
            .filter(|_| link.version == Version::V5);
        let topic = match asked {
            Some(topic) => Topic::new(topic.clone()).map_err(|error| DialectError::Invalid {
                what: "response topic",
                problem: error.to_string(),
            })?,
            None => topic_of(
                &self.replies,
                Values {
                    device: command.device.as_str(),
                    command: &command.name,
                    request: &command.reply_to.request,
                    status: reply.status.name(),
                },
            )?,
        };
        Ok(Rendered {
            properties,
            ..at_least_once(topic, reply.payload.clone())
        })
    }

    fn render_telemetry(
        &self,
        device: &DeviceId,
        telemetry: &Telemetry,
    ) -> Result<Rendered, DialectError> {
        Rendered::telemetry(device_topic(&self.telemetry, device)?, telemetry)
    }

    fn classify_for_device(&self, incoming: &Incoming) -> Result<Option<Inbound>, DialectError> {
        let topic = incoming.topic.as_str();
        if let Some(values) = self.commands.read(topic) {
            return Ok(Some(Inbound::Command(Command {
                device: read_device(values)?,
                name: values.command.into(),
                payload: incoming.payload.clone(),
                reply_to: ReplyAddress {
                    request: values.request.into(),
                    topic: incoming.properties.response_topic.clone(),
                    correlation: incoming.properties.correlation_data.clone(),
                },
                time_to_answer: None,
            })));
        }
        if let Some(values) = self.desired.read(topic) {
            let patch = StatePatch {
                document: incoming.payload.clone(),
                version: None,
            };
            return Ok(Some(Inbound::DesiredState {
                device: read_device(values)?,
                patch,
            }));
        }
        Ok(None)
    }

    fn classify_for_application(
        &self,
        incoming: &Incoming,
    ) -> Result<Option<Inbound>, DialectError> {
        let topic = incoming.topic.as_str();
        if let Some(values) = self.replies.read(topic) {
            let said = incoming
                .properties
                .user_properties
                .iter()
                .find(|(name, _)| *name == STATUS_PROPERTY)
                .map_or(values.status, |(_, value)| value);
            return Ok(Some(Inbound::Reply {
                device: read_device(values)?,
                reply_to: ReplyAddress {
                    request: values.request.into(),
                    topic: None,
                    correlation: incoming.properties.correlation_data.clone(),
                },
                reply: CommandReply {
                    status: CommandStatus::from_name(said).unwrap_or(CommandStatus::Ok),
                    payload: incoming.payload.clone(),
                },
            }));
        }
        let (values, channel) = match self.telemetry.read(topic) {
            Some(values) => (Some(values), None),
            None => topic
                .rsplit_once('/')
                .map_or((None, None), |(rest, channel)| {
                    (self.telemetry.read(rest), Some(ByteString::from(channel)))
                }),
        };
        let Some(values) = values else {
            return Ok(None);
        };
        Ok(Some(Inbound::Telemetry {
            device: read_device(values)?,
            telemetry: Telemetry {
                channel,
                payload: incoming.payload.clone(),
                content_type: incoming.properties.content_type.clone(),
                properties: incoming.properties.user_properties.clone(),
                qos: incoming.qos,
                retain: incoming.retain,
                time_to_live: None,
            },
        }))
    }
}

impl Default for Plain {
    fn default() -> Self {
        match Self::new(&Topics::default()) {
            Ok(dialect) => dialect,
            Err((name, error)) => unreachable!("the default {name} template is valid: {error}"),
        }
    }
}

impl Dialect for Plain {
    fn platform(&self) -> Platform {
        Platform::Mqtt
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&self, link: &LinkIdentity, _now: SystemTime) -> Result<ConnectSpec, DialectError> {
        let will = match link.role {
            Role::Application => None,
            Role::Device | Role::Gateway => self.status_topic(&link.id)?.map(|topic| Will {
                qos: QoS::AtLeastOnce,
                retain: true,
                topic,
                payload: Bytes::from_static(b"offline"),
                properties: Properties::default(),
            }),
        };
        Ok(ConnectSpec {
            client_id: link.id.text().clone(),
            username: None,
            password: None,
            will,
            expires_at: None,
        })
    }

    fn subscriptions(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        let application = link.role == Role::Application;
        let filter = match interest {
            Interest::Commands if !application => self.commands.filter(Some(device.as_str())),
            Interest::DesiredState if !application => self.desired.filter(Some(device.as_str())),
            Interest::Telemetry if application => {
                // Telemetry on a channel is one level deeper.
                self.telemetry.filter(None).and_then(|filter| {
                    TopicFilter::new(format!("{filter}/#")).map_err(|error| error.to_string())
                })
            }
            Interest::Replies if application => self.replies.filter(None),
            Interest::Commands => return Err(Self::unsupported("commands on an application link")),
            Interest::DesiredState => {
                return Err(Self::unsupported("desired state on an application link"));
            }
            Interest::Telemetry => return Err(Self::unsupported("telemetry for a device link")),
            Interest::Replies => return Err(Self::unsupported("replies for a device link")),
        };
        let filter = filter.map_err(|problem| DialectError::Invalid {
            what: "topic filter",
            problem,
        })?;
        Ok(vec![Subscription::new(filter, QoS::AtLeastOnce)])
    }

    fn render(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        let application = link.role == Role::Application;
        match outbound {
            Outbound::Telemetry(telemetry) => self.render_telemetry(device, telemetry).map(Some),
            Outbound::Reply { command, reply } => self.render_reply(link, command, reply).map(Some),
            Outbound::ReportState(patch) => {
                let topic = device_topic(&self.reported, device)?;
                Ok(Some(Rendered {
                    retain: true,
                    merges: patch.version.is_none(),
                    ..at_least_once(topic, patch.document.clone())
                }))
            }
            Outbound::Online | Outbound::Offline if application => Ok(None),
            Outbound::Online => self.render_status(device, "online"),
            Outbound::Offline => self.render_status(device, "offline"),
            Outbound::Command {
                name,
                payload,
                request,
            } if application => {
                let values = Values {
                    device: device.as_str(),
                    command: name,
                    request,
                    status: "",
                };
                Ok(Some(at_least_once(
                    topic_of(&self.commands, values)?,
                    (*payload).clone(),
                )))
            }
            Outbound::Command { .. } => Err(Self::unsupported("sending commands on a device link")),
            Outbound::DesireState(patch) if application => {
                let topic = device_topic(&self.desired, device)?;
                Ok(Some(Rendered {
                    retain: true,
                    ..at_least_once(topic, patch.document.clone())
                }))
            }
            Outbound::DesireState(_) => Err(Self::unsupported(
                "setting the desired state on a device link",
            )),
        }
    }

    fn classify(&self, link: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        let known = match link.role {
            Role::Device | Role::Gateway => self.classify_for_device(incoming)?,
            Role::Application => self.classify_for_application(incoming)?,
        };
        Ok(known.unwrap_or(Inbound::Raw))
    }
}

impl Plain {
    fn render_status(
        &self,
        device: &DeviceId,
        status: &'static str,
    ) -> Result<Option<Rendered>, DialectError> {
        Ok(self.status_topic(device)?.map(|topic| Rendered {
            retain: true,
            ..at_least_once(topic, Bytes::from_static(status.as_bytes()))
        }))
    }
}

fn at_least_once(topic: Topic, payload: Bytes) -> Rendered {
    Rendered::new(topic, payload, QoS::AtLeastOnce)
}

fn device_topic(template: &TopicTemplate, device: &DeviceId) -> Result<Topic, DialectError> {
    topic_of(
        template,
        Values {
            device: device.as_str(),
            ..Values::default()
        },
    )
}

fn topic_of(template: &TopicTemplate, values: Values<'_>) -> Result<Topic, DialectError> {
    template
        .topic(values)
        .map_err(|problem| DialectError::Invalid {
            what: "topic",
            problem,
        })
}

fn read_device(values: Values<'_>) -> Result<DeviceId, DialectError> {
    DeviceId::new(values.device).map_err(|error| DialectError::Invalid {
        what: "device level of a topic",
        problem: error.to_string(),
    })
}
