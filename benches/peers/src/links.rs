//! What contestants with many links have in common.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Failure;
use crate::contestant::report;
use crate::measure::{Column, ProcessClock, Sample, resident_kib};
use crate::work::Work;

/// Connects under way at once.
pub(crate) const CONNECTS_MAX: usize = 64;

/// How long links are left alone before their memory is looked at.
const IDLE_FOR: Duration = Duration::from_millis(300);

/// Memory and CPU from before the first connect.
#[derive(Debug)]
pub(crate) struct Connecting {
    resident_kib: f64,
    cpu: Duration,
}

impl Connecting {
    /// To be called before anything of a link exists.
    pub(crate) fn start() -> Result<Self, Failure> {
        Ok(Self {
            resident_kib: resident_kib()?,
            cpu: ProcessClock::own().now()?,
        })
    }

    /// Reports what `links` links cost, a moment after the last one has connected.
    pub(crate) async fn report(self, links: usize) -> Result<(), Failure> {
        let cpu = ProcessClock::own().now()? - self.cpu;
        tokio::time::sleep(IDLE_FOR).await;
        let resident_kib = resident_kib()? - self.resident_kib;
        let links = links as f64;
        report(
            &Sample::default()
                .with(Column::ConnectCpu, cpu.as_secs_f64() * 1e6 / links)
                .with(Column::Memory, resident_kib / links),
        )
    }
}

/// Where a link connects to: the peer's addresses in turn.
pub(crate) fn address(work: &Work, index: usize) -> Result<SocketAddr, Failure> {
    let addresses = &work.addresses;
    let address = addresses.get(index % addresses.len().max(1));
    Ok(*address.ok_or("no address")?)
}
