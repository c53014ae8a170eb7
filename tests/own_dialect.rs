//! A dialect of one's own: it works as a built-in one does, and a bug in it ends its own link.

use std::collections::BTreeMap;
use std::time::SystemTime;

use paquebot::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use paquebot::mqtt::session::Incoming;
use paquebot::mqtt::{Properties, QoS, Subscription, Topic, TopicFilter, Version};
use paquebot::{
    Command, CommandReply, CommandStatus, DeviceId, DropReason, LinkState, Outcome, Platform,
    Publish, ReplyAddress, SendError, StatePatch, SubscribeError, Telemetry,
};

#[path = "support/support.rs"]
mod support;

use support::fleet::{drain, fleet, group, online, soon, start_in, url};

/// A platform of one's own: `acme/<device>/<what>`, commands as `name:request:payload`.
#[derive(Debug)]
struct Acme(Capabilities);

impl Acme {
    const PLATFORM: Platform = Platform::Custom("acme");

    fn new() -> Self {
        let mut capabilities = Capabilities::default();
        capabilities.commands = true;
        capabilities.application = true;
        capabilities.qos_max = QoS::AtLeastOnce;
        capabilities.payload_max = Some(64);
        Self(capabilities)
    }

    fn rendered(
        topic: String,
        payload: impl Into<bytes::Bytes>,
    ) -> Result<Option<Rendered>, DialectError> {
        let topic = Topic::new(topic).map_err(|error| DialectError::Invalid {
            what: "topic",
            problem: error.to_string(),
        })?;
        Ok(Some(Rendered {
            topic,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            time_to_live: None,
            merges: false,
        }))
    }

    fn unsupported<T>(operation: &'static str) -> Result<T, DialectError> {
        Err(DialectError::Unsupported {
            platform: Self::PLATFORM,
            operation,
        })
    }
}

impl Dialect for Acme {
    fn platform(&self) -> Platform {
        Self::PLATFORM
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0
    }

    fn connect(&self, link: &LinkIdentity, _: SystemTime) -> Result<ConnectSpec, DialectError> {
        Ok(ConnectSpec {
            client_id: format!("acme-{}", link.id).into(),
            username: Some(link.id.text().clone()),
            password: Some("token".into()),
            will: None,
            expires_at: None,
        })
    }

    fn subscriptions(
        &self,
        _: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        let filter = match interest {
            Interest::Commands => format!("acme/{device}/do"),
            Interest::Replies => "acme/+/done".to_owned(),
            Interest::Telemetry => "acme/+/up".to_owned(),
            _ => return Self::unsupported("desired state"),
        };
        let filter = TopicFilter::new(filter).map_err(|error| DialectError::Invalid {
            what: "filter",
            problem: error.to_string(),
        })?;
        Ok(vec![Subscription::new(filter, QoS::AtLeastOnce)])
    }

    fn render(
        &self,
        _: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        match outbound {
            Outbound::Telemetry(telemetry) => {
                Self::rendered(format!("acme/{device}/up"), telemetry.payload.clone())
            }
            Outbound::Reply { command, reply } => {
                let request = &command.reply_to.request;
                let text = String::from_utf8_lossy(&reply.payload);
                let payload = format!("{}:{request}:{text}", reply.status.name());
                Self::rendered(format!("acme/{device}/done"), payload)
            }
            Outbound::Command {
                name,
                payload,
                request,
            } => {
                let text = String::from_utf8_lossy(payload);
                let payload = format!("{name}:{request}:{text}");
                Self::rendered(format!("acme/{device}/do"), payload)
            }
            Outbound::Online | Outbound::Offline => Ok(None),
            _ => Self::unsupported("state"),
        }
    }

    fn classify(&self, _: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        let mut levels = incoming.topic.as_str().split('/');
        let (Some("acme"), Some(device), Some(what)) =
            (levels.next(), levels.next(), levels.next())
        else {
            return Ok(Inbound::Raw);
        };
        let device = DeviceId::new(device.to_owned()).map_err(|error| DialectError::Invalid {
            what: "device",
            problem: error.to_string(),
        })?;
        let text = String::from_utf8_lossy(&incoming.payload).into_owned();
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        match what {
            "up" => Ok(Inbound::Telemetry {
                device,
                telemetry: Telemetry::new(incoming.payload.clone()),
            }),
            "do" => {
                assert!(text != "boom", "as the test wants it");
                let name = part().into();
                let reply_to = ReplyAddress {
                    request: part().into(),
                    ..ReplyAddress::default()
                };
                Ok(Inbound::Command(Command {
                    device,
                    name,
                    payload: part().into(),
                    reply_to,
                    time_to_answer: None,
                }))
            }
            "done" => {
                let status = CommandStatus::from_name(&part()).unwrap_or(CommandStatus::Failed);
                let reply_to = ReplyAddress {
                    request: part().into(),
                    ..ReplyAddress::default()
                };
                Ok(Inbound::Reply {
                    device,
                    reply_to,
                    reply: CommandReply {
                        status,
                        payload: part().into(),
                    },
                })
            }
            _ => Ok(Inbound::Raw),
        }
    }
}

#[tokio::test]
async fn a_dialect_of_ones_own_works_as_a_built_in_one() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V311).dialect(Acme::new());
    let group = builder.build().unwrap();
    let link = start_in(&group, "pump");
    assert_eq!(link.capabilities().payload_max, Some(64));
    let device = link.device();
    let commands = device.commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    assert!(
        broker.client("acme-pump").is_some(),
        "the dialect names the client"
    );
    let serving = tokio::spawn(commands.serve(1, async |command| {
        CommandReply::ok(command.name.into_bytes())
    }));
    let application = group.application("app").unwrap().start().unwrap();
    let application = application.as_application();
    let mut replies = application.replies().await.unwrap();
    let mut feed = application.telemetry().await.unwrap();
    soon("replies come", replies.ready()).await.unwrap();
    soon("telemetry comes", feed.ready()).await.unwrap();

    let receipt = device.send(&Telemetry::new("3 bar")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    let (from, telemetry) = soon("it is seen", feed.next()).await.unwrap();
    assert_eq!((&from, &*telemetry.payload), (device.id(), &b"3 bar"[..]));
    drop(
        application
            .command(link.id(), "stop", "now", "r1")
            .await
            .unwrap(),
    );
    let (_, reply_to, reply) = soon("it is answered", replies.next()).await.unwrap();
    assert_eq!((&*reply_to.request, &*reply.payload), ("r1", &b"stop"[..]));

    let state = StatePatch::json(&BTreeMap::from([("rpm", 900)])).unwrap();
    let refused = device.report(&state).await;
    assert!(
        matches!(&refused, Err(SendError::Dialect(DialectError::Unsupported { platform, .. })) if *platform == Acme::PLATFORM),
        "{refused:?}"
    );
    let refused = device.desired_states().await.map(|_| ());
    assert!(
        matches!(refused, Err(SubscribeError::Dialect(_))),
        "{refused:?}"
    );
    let refused = device.send(&Telemetry::new(vec![0; 65])).await;
    assert!(
        matches!(
            &refused,
            Err(SendError::Dialect(DialectError::PayloadTooLarge {
                max: 64,
                ..
            }))
        ),
        "{refused:?}"
    );
    drain(&fleet).await;
    soon("the stream ends", serving).await.unwrap();
}

#[tokio::test]
async fn a_dialect_that_panics_ends_its_own_link_as_failed() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).dialect(Acme::new());
    let group = builder.build().unwrap();
    let (link, neighbour) = (start_in(&group, "pump"), start_in(&group, "valve"));
    let mut commands = link.device().commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    online(&neighbour).await;
    broker.faults().withhold(
        paquebot_emulator::Target::client("acme-pump"),
        &[paquebot_emulator::Ack::PubAck],
    );
    let held = link.device().send(&Telemetry::new("x")).await.unwrap();
    broker.publish(
        Topic::new("acme/pump/do").unwrap(),
        "boom",
        QoS::AtLeastOnce,
        false,
    );
    support::fleet::until("the link ends", || {
        matches!(link.state(), LinkState::Failed | LinkState::Stopped)
    })
    .await;
    assert_eq!(link.state(), LinkState::Failed);
    assert_eq!(
        soon("it ends", held).await,
        Outcome::Dropped(DropReason::Stopped)
    );
    assert!(soon("the stream ends", commands.next()).await.is_none());
    assert!(matches!(
        link.publish(Publish::new("t", "x").unwrap()).await,
        Err(SendError::Stopped(_))
    ));
    assert_eq!(fleet.totals().failed, 1);
    let receipt = neighbour.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    drain(&fleet).await;
}
