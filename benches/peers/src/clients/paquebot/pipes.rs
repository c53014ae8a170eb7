//! Many links over in-memory pipes, with the peer on a thread of the same process: more links than a
//! process may open sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::gettid;
use paquebot::{Link, PipeConnector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::calls::Messages;
use super::links::Turns;
use super::{fleet, settings};
use crate::measure::{Column, ProcessClock, Sample, resident_kib};
use crate::peer::Session;
use crate::work::Timing;
use crate::{Failure, machine};

/// Bytes that a pipe holds in each direction.
const PIPE_LEN: usize = 4096;

/// Connects, sends one message on each link in turn and gives the CPU time of all threads but the peer's.
pub(crate) fn run(links: usize, outstanding: usize, timing: Timing) -> Result<Sample, Failure> {
    let peer = Peer::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&peer, links, outstanding, timing))
}

async fn measure(
    peer: &Peer,
    count: usize,
    outstanding: usize,
    timing: Timing,
) -> Result<Sample, Failure> {
    let fleet = fleet()?;
    let group = settings(&fleet)?.pipe(peer.connector()).build()?;
    let before = resident_kib()?;
    let mut links = Vec::with_capacity(count);
    for index in 0..count {
        links.push(group.device(format!("paquebot-{index}"))?.start()?);
    }
    for link in &links {
        link.online().await?;
    }
    let memory = (resident_kib()? - before) / count as f64;
    let mut turns = Turns::new(outstanding);
    let mut next = 0;
    go_on(&links, &mut turns, &mut next, timing.warm_up).await?;
    // A fleet larger than the span allows is visited in part; the next link is another one all the same.
    let start = peer.mark()?;
    go_on(&links, &mut turns, &mut next, timing.span).await?;
    let end = peer.mark()?;
    let messages = (end.messages - start.messages) as f64;
    let seconds = (end.at - start.at).as_secs_f64();
    let client = (end.process - start.process).saturating_sub(end.peer - start.peer);
    Ok(Sample::default()
        .with(Column::Rate, messages / seconds / 1e3)
        .with(Column::Cpu, client.as_nanos() as f64 / messages)
        .with(Column::Memory, memory))
}

async fn go_on(
    links: &[Link],
    turns: &mut Turns,
    next: &mut usize,
    span: Duration,
) -> Result<(), Failure> {
    let messages = Messages::new(0, 64)?;
    let start = Instant::now();
    while start.elapsed() < span {
        // The clock is looked at now and then.
        for _ in 0..64 {
            turns.take(&links[*next % links.len()], &messages).await?;
            *next += 1;
        }
    }
    Ok(())
}

/// The server's side of all pipes.
#[derive(Debug)]
struct Peer {
    pipes: mpsc::UnboundedSender<DuplexStream>,
    published: Arc<AtomicU64>,
    thread: i32,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    messages: u64,
    process: Duration,
    peer: Duration,
}

impl Peer {
    fn start() -> Result<Self, Failure> {
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
                while let Some(pipe) = incoming.recv().await {
                    tokio::spawn(serve(pipe, Arc::clone(&count)));
                }
            });
        });
        Ok(Self {
            pipes,
            published,
            thread: thread.recv()?,
        })
    }

    fn connector(&self) -> PipeConnector {
        let pipes = self.pipes.clone();
        Arc::new(move || {
            let (near, far) = tokio::io::duplex(PIPE_LEN);
            let sent = pipes.send(far);
            sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(near)
        })
    }

    fn mark(&self) -> Result<Mark, Failure> {
        // The first figure is the time on a core in nanoseconds.
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let statistics = std::fs::read_to_string(path)?;
        let peer = statistics.split(' ').next().unwrap_or_default();
        Ok(Mark {
            at: Instant::now(),
            messages: self.published.load(Ordering::Relaxed),
            process: ProcessClock::own().now()?,
            peer: Duration::from_nanos(peer.parse()?),
        })
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
