//! Sockets behind a bounded channel: what any client with an API pays before it has promised anything.
//!
//! One task allocates each payload, shares the topic and sends both through a bounded channel; the other
//! takes all that is queued, encodes it into one buffer, writes once, and at QoS 1 holds every message until
//! its acknowledgement. The difference to the bare sockets is the channel, the allocation and the
//! bookkeeping; this is what paquebot is held against.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::cannot;
use super::raw::Window;
use super::stream::{Stream, connect};
use crate::contestant::Endless;
use crate::work::{Publish, TOPIC, Task, Work};

/// Messages in the channel at the most.
const QUEUED_MAX: usize = 1024;

/// Messages of one write at the most.
const BATCH_MAX: usize = 512;

type Message = (Arc<str>, Vec<u8>);

/// Publishes.
pub(crate) async fn run(work: &Work) -> Endless {
    let Task::Publish(task) = work.task else {
        return Err(cannot(work));
    };
    let stream = connect(work).await?;
    let (sender, receiver) = mpsc::channel::<Message>(QUEUED_MAX);
    let connection = tokio::task::spawn_local(write(stream, task, receiver));
    let topic: Arc<str> = TOPIC.into();
    let payload = vec![b'x'; task.payload_len];
    while sender
        .send((Arc::clone(&topic), payload.clone()))
        .await
        .is_ok()
    {}
    connection.await?
}

async fn write(
    mut stream: Box<dyn Stream>,
    task: Publish,
    mut receiver: mpsc::Receiver<Message>,
) -> Endless {
    let mut window = Window::new(task);
    let mut held = VecDeque::new();
    let (mut batch, mut output) = (Vec::new(), Vec::new());
    loop {
        let taken = receiver.recv_many(&mut batch, window.room().min(BATCH_MAX));
        if taken.await == 0 {
            return Err("the caller ended".into());
        }
        output.clear();
        for message in batch.drain(..) {
            encode(&message, window.take(), &mut output);
            if task.qos > 0 {
                held.push_back(message);
            }
        }
        stream.write_all(&output).await?;
        stream.flush().await?;
        let before = window.room();
        window.acknowledge(&mut stream).await?;
        if task.qos > 0 {
            held.drain(..window.room() - before);
        }
    }
}

fn encode((topic, payload): &Message, id: Option<u16>, output: &mut Vec<u8>) {
    let mut remaining = 2 + topic.len() + payload.len() + if id.is_some() { 2 } else { 0 };
    output.reserve(5 + remaining);
    output.push(if id.is_some() { 0x32 } else { 0x30 });
    while remaining > 0x7F {
        output.push((remaining & 0x7F) as u8 | 0x80);
        remaining >>= 7;
    }
    output.push(remaining as u8);
    output.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    output.extend_from_slice(topic.as_bytes());
    if let Some(id) = id {
        output.extend_from_slice(&id.to_be_bytes());
    }
    output.extend_from_slice(payload);
}
