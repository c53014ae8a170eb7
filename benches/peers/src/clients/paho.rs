//! paho-mqtt: Rust over the Paho library in C, which has threads of its own.

use std::collections::VecDeque;

use paho_mqtt::{AsyncClient, ConnectOptionsBuilder, CreateOptionsBuilder, Message, QoS};

use super::cannot;
use crate::contestant::Endless;
use crate::links::address;
use crate::work::{TOPIC, Task, Work};

/// Messages of QoS 0 between caller and network thread.
const QUEUED_MAX: usize = 1000;

/// Publishes.
pub(crate) fn run(work: &Work) -> Endless {
    let Task::Publish(task) = work.task else {
        return Err(cannot(work));
    };
    let create = CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://{}", address(work, 0)?))
        .client_id("paho")
        .persistence(None)
        .max_buffered_messages(2 * QUEUED_MAX as i32)
        .finalize();
    let client = AsyncClient::new(create)?;
    let options = ConnectOptionsBuilder::new()
        .clean_session(true)
        .max_inflight(i32::from(task.window))
        .finalize();
    client.connect(options).wait()?;
    let (qos, tokens_max) = match task.qos {
        0 => (QoS::AtMostOnce, QUEUED_MAX),
        _ => (QoS::AtLeastOnce, usize::from(task.window)),
    };
    let payload = vec![b'x'; task.payload_len];
    let mut tokens = VecDeque::with_capacity(tokens_max);
    loop {
        tokens.push_back(client.publish(Message::new(TOPIC, payload.clone(), qos)));
        if tokens.len() == tokens_max
            && let Some(token) = tokens.pop_front()
        {
            token.wait()?;
        }
    }
}
