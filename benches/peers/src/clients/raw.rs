//! Bare sockets on one link: what the machine can do without any client.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hint::black_box;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::cannot;
use super::stream::{Stream, connect};
use crate::Failure;
use crate::client::Client;
use crate::contestant::{Endless, handled};
use crate::peer::{Frames, publish};
use crate::work::{Publish, Task, Work, publish_frame};

/// SUBSCRIBE to `#` at QoS 1 with packet identifier 1.
const SUBSCRIBE: &[u8] = b"\x82\x06\x00\x01\x00\x01#\x01";

/// What one read asks for when messages come in; a larger one does not pay.
const READ_LEN: usize = 16 << 10;

/// Publishes or receives.
pub(crate) async fn run(work: &Work) -> Endless {
    let mut stream = connect(work).await?;
    match (work.task, work.client) {
        (Task::Publish(task), Client::Raw64k) => send(&mut stream, task, 64 << 10).await,
        (Task::Publish(task), Client::Raw16k) => send(&mut stream, task, 16 << 10).await,
        (Task::Publish(task), Client::RawWriteEach) => send(&mut stream, task, 1).await,
        (Task::Receive { .. }, _) => receive(&mut stream).await,
        _ => Err(cannot(work)),
    }
}

/// Fills a buffer, writes it, looks for acknowledgements; waits for them only when the window is full.
async fn send(stream: &mut Box<dyn Stream>, task: Publish, buffer_len: usize) -> Endless {
    let frame = publish_frame(task.qos, task.payload_len);
    let mut window = Window::new(task);
    let mut output = Vec::with_capacity(buffer_len.max(frame.bytes.len()));
    loop {
        output.clear();
        while window.room() > 0 {
            let start = output.len();
            output.extend_from_slice(&frame.bytes);
            if let Some(id) = window.take() {
                output[start + frame.id_at..][..2].copy_from_slice(&id.to_be_bytes());
            }
            if output.len() + frame.bytes.len() > buffer_len {
                break;
            }
        }
        stream.write_all(&output).await?;
        // Over TLS a record may be left in the session otherwise.
        stream.flush().await?;
        window.acknowledge(stream).await?;
    }
}

/// Reads, walks over the messages where they lie, answers all of a read in one write.
async fn receive(stream: &mut Box<dyn Stream>) -> Endless {
    stream.write_all(SUBSCRIBE).await?;
    stream.flush().await?;
    let mut frames = Frames::default();
    let mut buffer = vec![0; READ_LEN];
    let mut acknowledgements = Vec::new();
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err("the peer closed the connection".into());
        }
        frames.feed(&buffer[..read], |frame| {
            if frame[0] >> 4 != 3 {
                return;
            }
            if let Some(message) = publish(frame) {
                let is_text = std::str::from_utf8(message.topic).is_ok();
                black_box((is_text, message.payload));
                handled();
                if let Some([high, low]) = message.id {
                    acknowledgements.extend_from_slice(&[0x40, 2, high, low]);
                }
            }
        })?;
        if !acknowledgements.is_empty() {
            stream.write_all(&acknowledgements).await?;
            stream.flush().await?;
            acknowledgements.clear();
        }
    }
}

/// The messages of QoS 1 that are not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Window {
    qos: u8,
    max: usize,
    next_id: u16,
    unacknowledged: VecDeque<u16>,
    frames: Frames,
    buffer: Vec<u8>,
}

impl Window {
    /// Empty.
    pub(crate) fn new(task: Publish) -> Self {
        Self {
            qos: task.qos,
            max: usize::from(task.window),
            next_id: 1,
            unacknowledged: VecDeque::new(),
            frames: Frames::default(),
            buffer: vec![0; 16 << 10],
        }
    }

    /// How many messages may be sent; at QoS 0 always some.
    pub(crate) fn room(&self) -> usize {
        match self.qos {
            0 => usize::MAX,
            _ => self.max - self.unacknowledged.len(),
        }
    }

    /// The packet identifier of the next message; `None` at QoS 0.
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.qos == 0 {
            return None;
        }
        let id = self.next_id;
        self.next_id = id.checked_add(1).unwrap_or(1);
        self.unacknowledged.push_back(id);
        Some(id)
    }

    /// Takes the acknowledgements that are there, and waits for some when the window is full.
    pub(crate) async fn acknowledge(
        &mut self,
        stream: &mut Box<dyn Stream>,
    ) -> Result<(), Failure> {
        while self.qos > 0 {
            let must_wait = self.room() == 0;
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let read =
                poll_fn(
                    |context| match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                        Poll::Pending if !must_wait => Poll::Ready(Ok(false)),
                        poll => poll.map_ok(|()| true),
                    },
                )
                .await?;
            if !read {
                break;
            }
            if buffer.filled().is_empty() {
                return Err("the peer closed the connection".into());
            }
            let unacknowledged = &mut self.unacknowledged;
            self.frames.feed(buffer.filled(), |_| {
                unacknowledged.pop_front();
            })?;
        }
        Ok(())
    }
}
