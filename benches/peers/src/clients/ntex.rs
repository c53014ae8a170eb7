//! ntex-mqtt for MQTT 3.1.1 on ntex's tokio runtime. Its sets `TCP_NODELAY` itself and has no TLS here.

use ntex::util::{ByteString, Bytes};
use ntex::{ServiceFactory as _, SharedCfg};
use ntex_mqtt::v3::client::{Connect, MqttConnector, ProtocolMessage};
use ntex_mqtt::{MqttServiceConfig, QoS, v3};

use super::cannot;
use crate::Failure;
use crate::contestant::{Endless, handled};
use crate::links::address;
use crate::work::{Publish, TOPIC, Task, Work};

/// Messages after which the caller lets the write task run.
const TURN_MAX: usize = 128;

/// Publishes or receives.
pub(crate) fn run(work: &Work) -> Endless {
    ntex::rt::System::new("ntex", ntex::rt::DefaultRuntime).block_on(on_ntex(work.clone()))
}

async fn on_ntex(work: Work) -> Endless {
    match work.task {
        Task::Publish(task) => {
            let client = connect(&work, task.window).await?;
            let sink = client.sink();
            ntex::rt::spawn(client.start_default());
            publish(&sink, task).await
        }
        Task::Receive { qos } => {
            let client = connect(&work, 1000).await?;
            let sink = client.sink();
            ntex::rt::spawn(client.start(ntex::service::fn_service(handle)));
            let qos = match qos {
                0 => QoS::AtMostOnce,
                _ => QoS::AtLeastOnce,
            };
            let subscribed = sink.subscribe().topic_filter("#".into(), qos).send();
            subscribed.await.map_err(failure)?;
            std::future::pending().await
        }
        _ => Err(cannot(&work)),
    }
}

async fn connect(work: &Work, window: u16) -> Result<v3::client::Client, Failure> {
    let config = MqttServiceConfig::new()
        .set_max_send(window)
        .set_max_receive(1000);
    let config: SharedCfg = SharedCfg::new("peers").add(config).into();
    let connector = MqttConnector::new();
    let connector = connector.pipeline(config).await.map_err(failure)?;
    let connect = Connect::new(address(work, 0)?.to_string()).client_id("ntex");
    connector.call(connect).await.map_err(failure)
}

/// Without waiting for as long as the sink takes messages; at QoS 1 a callback takes the acknowledgements.
async fn publish(sink: &v3::MqttSink, task: Publish) -> Endless {
    let topic = ByteString::from_static(TOPIC);
    let payload = vec![b'x'; task.payload_len];
    sink.publish_ack_cb(|_, _| {});
    loop {
        for _ in 0..TURN_MAX {
            if !sink.is_ready() {
                break;
            }
            let message = sink.publish(topic.clone());
            let payload = Bytes::copy_from_slice(&payload);
            let sent = match task.qos {
                0 => message.send_at_most_once(payload),
                _ => message.send_at_least_once_no_block(payload),
            };
            sent.map_err(failure)?;
        }
        if !sink.ready().await {
            return Err("the connection is closed".into());
        }
        // The sink takes more without end until its write task has run.
        ntex::task::yield_to().await;
    }
}

async fn handle(message: ProtocolMessage) -> Result<v3::ProtocolMessageAck, ()> {
    if matches!(message, ProtocolMessage::Publish(_)) {
        handled();
    }
    Ok(message.ack())
}

fn failure(error: impl std::fmt::Debug) -> Failure {
    format!("{error:?}").into()
}
