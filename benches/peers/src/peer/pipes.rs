//! The peer of links over in-memory pipes: a thread of the contestant's own process, on the peer's core. It never sleeps, so
//! that no client pays for waking it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::gettid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::session::Session;
use crate::measure::{Column, ProcessClock, Sample};
use crate::{Failure, machine};

/// Bytes that a pipe holds in each direction.
const PIPE_LEN: usize = 4096;

/// The server's side of all pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    connector: Connector,
    published: Arc<AtomicU64>,
    thread: i32,
}

/// Opens pipes to the peer.
#[derive(Debug, Clone)]
pub(crate) struct Connector(mpsc::UnboundedSender<DuplexStream>);

/// A moment of a measurement.
#[derive(Debug)]
pub(crate) struct PipesMark {
    at: Instant,
    messages: u64,
    process: Duration,
    peer: Duration,
}

impl Connector {
    pub(crate) fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(PIPE_LEN);
        let sent = self.0.send(far);
        sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }
}

impl Pipes {
    pub(crate) fn start() -> Result<Self, Failure> {
        let (pipes, mut incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let (started, thread) = std::sync::mpsc::channel();
        let published = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&published);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::spawn(move || {
            machine::pin(machine::PEER_CORE);
            if started.send(gettid().as_raw()).is_err() {
                return;
            }
            runtime.block_on(async {
                tokio::spawn(spin());
                while let Some(pipe) = incoming.recv().await {
                    tokio::spawn(serve(pipe, Arc::clone(&count)));
                }
            });
        });
        Ok(Self {
            connector: Connector(pipes),
            published,
            thread: thread.recv()?,
        })
    }

    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Messages received.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    pub(crate) fn mark(&self) -> Result<PipesMark, Failure> {
        // The first figure is the time on a core in nanoseconds.
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let statistics = std::fs::read_to_string(path)?;
        let peer = statistics.split(' ').next().unwrap_or_default();
        Ok(PipesMark {
            at: Instant::now(),
            messages: self.published(),
            process: ProcessClock::own().now()?,
            peer: Duration::from_nanos(peer.parse()?),
        })
    }
}

impl PipesMark {
    /// The rate since `start`, and the CPU time of all threads of the process but the peer's.
    pub(crate) fn since(&self, start: &Self) -> Sample {
        let messages = (self.messages - start.messages) as f64;
        let seconds = (self.at - start.at).as_secs_f64();
        let client = (self.process - start.process).saturating_sub(self.peer - start.peer);
        Sample::default()
            .with(Column::Rate, messages / seconds / 1e3)
            .with(Column::Cpu, client.as_nanos() as f64 / messages)
    }
}

/// Keeps the thread from parking.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}

async fn serve(mut pipe: DuplexStream, published: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut session = Session::default();
    loop {
        // The buffer is not part of the task between two reads.
        let mut buffer = Vec::new();
        if pipe.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let before = session.published;
        session.handle(&buffer)?;
        published.fetch_add(session.published - before, Ordering::Relaxed);
        pipe.write_all(&session.output).await?;
        session.output.clear();
    }
}
