//! Many links over in-memory pipes, with the peer on a thread of the same process: more links than a
//! process may open sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use paquebot::Link;
use tokio::sync::oneshot;

use super::calls::Messages;
use super::links::Turns;
use super::{fleet, settings};
use crate::Failure;
use crate::measure::{Column, Sample, resident_kib};
use crate::peer::Pipes;
use crate::work::Timing;

/// Connects, sends one message on each link in turn and gives the CPU time of all threads but the peer's.
pub(crate) fn run(links: usize, outstanding: usize, timing: Timing) -> Result<Sample, Failure> {
    let peer = Pipes::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(peer, links, outstanding, timing))
}

async fn measure(
    peer: Pipes,
    count: usize,
    outstanding: usize,
    timing: Timing,
) -> Result<Sample, Failure> {
    let fleet = fleet()?;
    let connector = peer.connector();
    let connect = Arc::new(move || connector.connect());
    let group = settings(&fleet)?.pipe(connect).build()?;
    let before = resident_kib()?;
    let mut links = Vec::with_capacity(count);
    for index in 0..count {
        links.push(group.device(format!("paquebot-{index}"))?.start()?);
    }
    for link in &links {
        link.online().await?;
    }
    let memory = (resident_kib()? - before) / count as f64;
    // All links are on one thread, so the caller is beside each of them.
    let first = links.first().ok_or("no links to send on")?.clone();
    let (ended, end) = oneshot::channel();
    first.spawn(async move |_| {
        let _ = ended.send(take_turns(&peer, &links, outstanding, timing).await);
    })?;
    Ok(end.await??.with(Column::Memory, memory))
}

async fn take_turns(
    peer: &Pipes,
    links: &[Link],
    outstanding: usize,
    timing: Timing,
) -> Result<Sample, Failure> {
    let mut turns = Turns::new(outstanding);
    let mut next = 0;
    go_on(links, &mut turns, &mut next, timing.warm_up).await?;
    // A fleet larger than the span allows is visited in part; the next link is another one all the same.
    let start = peer.mark()?;
    go_on(links, &mut turns, &mut next, timing.span).await?;
    Ok(peer.mark()?.since(&start))
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
