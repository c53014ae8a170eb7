//! rumqttc for MQTT 5, whose types are its own.

use std::time::Duration;

use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

use super::cannot;
use crate::Failure;
use crate::client::Client;
use crate::contestant::{Endless, handled};
use crate::links::address;
use crate::work::{Publish, TOPIC, Task, Work};

/// Requests between client and event loop.
const REQUESTS_MAX: usize = 1000;

/// Publishes or receives.
pub(crate) async fn run(work: &Work) -> Endless {
    match work.task {
        Task::Publish(task) => {
            let (client, mut events) = connection(work, task.window)?;
            tokio::task::spawn_local(publish(client, task));
            loop {
                events.poll().await?;
            }
        }
        Task::Receive { qos } => {
            let (client, mut events) = connection(work, 1000)?;
            client.subscribe("#", level(qos)).await?;
            loop {
                if let Event::Incoming(Packet::Publish(_)) = events.poll().await? {
                    handled();
                }
            }
        }
        _ => Err(cannot(work)),
    }
}

async fn publish(client: AsyncClient, task: Publish) -> Result<(), Failure> {
    let payload = vec![b'x'; task.payload_len];
    loop {
        client
            .publish(TOPIC, level(task.qos), false, payload.clone())
            .await?;
    }
}

fn connection(work: &Work, inflight_max: u16) -> Result<(AsyncClient, EventLoop), Failure> {
    let address = address(work, 0)?;
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(matches!(work.client, Client::RumqttcV5Nodelay));
    let mut options = MqttOptions::new("rumqttc", address.ip().to_string(), address.port());
    options
        .set_keep_alive(Duration::from_secs(60))
        .set_outgoing_inflight_upper_limit(inflight_max)
        .set_network_options(network);
    Ok(AsyncClient::new(options, REQUESTS_MAX))
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}
