//! mqtt5: its client speaks MQTT 5 and keeps tasks of its own on tokio's current-thread runtime.

use mqtt5::{MqttClient, QoS, SubscribeOptions};

use super::cannot;
use crate::Failure;
use crate::contestant::{Endless, handled};
use crate::links::address;
use crate::work::{Publish, TOPIC, Task, Work};

/// Publishes or receives.
pub(crate) async fn run(work: &Work) -> Endless {
    let client = MqttClient::new("mqtt5");
    client
        .connect(&format!("mqtt://{}", address(work, 0)?))
        .await?;
    match work.task {
        Task::Publish(task) => publish(&client, task).await,
        Task::Receive { qos } => {
            let options = SubscribeOptions {
                qos: level(qos),
                ..SubscribeOptions::default()
            };
            client
                .subscribe_with_options("#", options, |_| handled())
                .await?;
            std::future::pending().await
        }
        _ => Err(cannot(work)),
    }
}

/// A call returns with the acknowledgement, so a window needs as many callers.
async fn publish(client: &MqttClient, task: Publish) -> Endless {
    let callers = match task.qos {
        0 => 1,
        _ => task.window,
    };
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let client = client.clone();
        running.spawn_local(async move {
            let payload = vec![b'x'; task.payload_len];
            loop {
                if let Err(error) = client
                    .publish_qos(TOPIC, payload.clone(), level(task.qos))
                    .await
                {
                    break Failure::from(error.to_string());
                }
            }
        });
    }
    match running.join_next().await {
        Some(Ok(failure)) => Err(failure),
        _ => Err("a caller ended".into()),
    }
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}
