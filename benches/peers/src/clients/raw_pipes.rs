//! Bare in-memory pipes: what the memory of the pipes themselves costs as they become more.

use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::stream::handshake;
use crate::Failure;
use crate::measure::{Column, ProcessClock, Sample, resident_kib};
use crate::peer::Pipes;
use crate::work::{Timing, publish_frame};

/// Connects, writes one message to each pipe in turn and gives the CPU time of the writes, two looks at that clock
/// included. The peer is slower than they, so it is waited for after every `outstanding` messages: nothing gathers in
/// a pipe, and no write waits for room. That time does not count.
pub(crate) fn run(links: usize, outstanding: usize, timing: Timing) -> Result<Sample, Failure> {
    let peer = Pipes::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&peer, links, outstanding, timing))
}

async fn measure(
    peer: &Pipes,
    count: usize,
    outstanding: usize,
    timing: Timing,
) -> Result<Sample, Failure> {
    let before = resident_kib()?;
    let mut pipes = Vec::with_capacity(count);
    for _ in 0..count {
        let mut pipe = peer.connector().connect()?;
        handshake(&mut pipe).await?;
        pipes.push(pipe);
    }
    let memory = (resident_kib()? - before) / count as f64;
    let frame = publish_frame(0, 64).bytes;
    let mut turns = Turns {
        pipes,
        frame,
        next: 0,
        clock: ProcessClock::of_thread(),
        wrote: Duration::ZERO,
    };
    turns.go_on(peer, outstanding, timing.warm_up).await?;
    let (start, before) = (Instant::now(), turns.written());
    turns.wrote = Duration::ZERO;
    turns.go_on(peer, outstanding, timing.span).await?;
    let messages = (turns.written() - before) as f64;
    Ok(Sample::default()
        .with(Column::Rate, messages / start.elapsed().as_secs_f64() / 1e3)
        .with(Column::Cpu, turns.wrote.as_nanos() as f64 / messages)
        .with(Column::Memory, memory))
}

struct Turns {
    pipes: Vec<DuplexStream>,
    frame: Vec<u8>,
    next: usize,
    clock: ProcessClock,
    wrote: Duration,
}

impl Turns {
    fn written(&self) -> u64 {
        self.next as u64
    }

    async fn go_on(
        &mut self,
        peer: &Pipes,
        outstanding: usize,
        span: Duration,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let count = self.pipes.len();
        while start.elapsed() < span {
            let began = self.clock.now()?;
            for _ in 0..outstanding {
                self.pipes[self.next % count].write_all(&self.frame).await?;
                self.next += 1;
            }
            self.wrote += self.clock.now()? - began;
            while peer.published() < self.written() {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }
}
