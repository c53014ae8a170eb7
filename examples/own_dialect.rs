//! Teaching paquebot a platform of your own: devices publish on `up/{id}` and take commands on `down/{id}`.
//!
//! `cargo run --example own_dialect` brings its own broker along.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use paquebot::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use paquebot::mqtt::session::Incoming;
use paquebot::mqtt::{Properties, QoS, Subscription, Topic, TopicFilter};
use paquebot::{Command, CommandReply, DeviceId, Fleet, Platform, Telemetry};
use paquebot_emulator::Broker;

/// The platform. It holds settings and no state: one value serves every link.
#[derive(Debug)]
struct UpDown(Capabilities);

const PLATFORM: Platform = Platform::Custom("updown");

impl UpDown {
    fn new() -> Self {
        let mut capabilities = Capabilities::default();
        capabilities.commands = true;
        capabilities.qos_max = QoS::AtLeastOnce;
        Self(capabilities)
    }
}

fn invalid(what: &'static str, problem: impl ToString) -> DialectError {
    DialectError::Invalid {
        what,
        problem: problem.to_string(),
    }
}

impl Dialect for UpDown {
    fn platform(&self) -> Platform {
        PLATFORM
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0
    }

    fn connect(&self, link: &LinkIdentity, _: SystemTime) -> Result<ConnectSpec, DialectError> {
        let client_id = format!("updown-{}", link.id).into();
        Ok(ConnectSpec {
            client_id,
            username: None,
            password: None,
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
        if interest != Interest::Commands {
            return Err(DialectError::Unsupported {
                platform: PLATFORM,
                operation: "state",
            });
        }
        let filter =
            TopicFilter::new(format!("down/{device}")).map_err(|e| invalid("filter", e))?;
        Ok(vec![Subscription::new(filter, QoS::AtLeastOnce)])
    }

    fn render(
        &self,
        _: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        let payload = match outbound {
            Outbound::Telemetry(telemetry) => telemetry.payload.clone(),
            Outbound::Reply { reply, .. } => reply.payload.clone(),
            // The platform has no announcements.
            Outbound::Online | Outbound::Offline => return Ok(None),
            _ => {
                return Err(DialectError::Unsupported {
                    platform: PLATFORM,
                    operation: "state",
                });
            }
        };
        Ok(Some(Rendered {
            topic: Topic::new(format!("up/{device}")).map_err(|e| invalid("topic", e))?,
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            time_to_live: None,
            merges: false,
        }))
    }

    fn classify(&self, _: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        let Some(device) = incoming.topic.as_str().strip_prefix("down/") else {
            return Ok(Inbound::Raw);
        };
        Ok(Inbound::Command(Command {
            device: DeviceId::new(device).map_err(|e| invalid("device", e))?,
            name: "down".into(),
            payload: incoming.payload.clone(),
            reply_to: Default::default(),
            time_to_answer: None,
        }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
    let address = broker.tcp_address().context("the broker has no address")?;
    let mut uplinks = broker.watch(TopicFilter::new("up/#")?);

    let fleet = Fleet::builder().workers(1).start()?;
    let group = fleet
        .group("lab")
        .endpoint(format!("mqtt://{address}"))
        .dialect(UpDown::new())
        .build()?;
    let device = group.device("d1")?.start()?.device();
    let commands = device.commands().await?;
    commands.ready().await?;
    tokio::spawn(commands.serve(1, async |command| {
        CommandReply::ok([b"did ", &*command.payload].concat())
    }));

    println!(
        "telemetry: {}",
        device.send(&Telemetry::new("23.5")).await?.await
    );
    broker.publish(
        Topic::new("down/d1")?,
        "open the valve",
        QoS::AtLeastOnce,
        false,
    );
    for _ in 0..2 {
        if let Some(message) = uplinks.recv().await {
            println!(
                "{}: {}",
                message.topic,
                String::from_utf8_lossy(&message.payload)
            );
        }
    }
    fleet.drain(Duration::from_secs(5)).await;
    broker.stop().await;
    Ok(())
}
