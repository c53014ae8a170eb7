//! A gateway: one MQTT session that speaks for many devices, from a plain `main` without a runtime.
//!
//! `cargo run --example gateway` brings its own broker along.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use paquebot::{DeviceId, Fleet, Telemetry};
use paquebot_emulator::Broker;

fn main() -> anyhow::Result<()> {
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()?;
    let address = broker.tcp_address().context("the broker has no address")?;

    let fleet = Fleet::builder().name("gateway").workers(1).start()?;
    let group = fleet
        .group("gateways")
        .endpoint(format!("mqtt://{address}"))
        .build()?;
    let gateway = group.gateway("gateway-1")?.start()?;

    // Handles and futures need no runtime: any executor will do.
    futures_executor::block_on(async {
        let mut receipts = Vec::new();
        for n in 0..100 {
            let sensor = gateway.child(DeviceId::new(format!("sensor-{n}"))?);
            receipts.push(sensor.send(&Telemetry::json(&[("n", n)])?).await?);
        }
        let delivered = join_all(receipts)
            .await
            .iter()
            .filter(|o| o.is_delivered())
            .count();
        println!("{delivered} of 100 sensors delivered over one session");
        let totals = fleet.drain(Duration::from_secs(5)).await;
        println!(
            "{} accepted, {} delivered",
            totals.accepted, totals.delivered
        );
        Ok(())
    })
}
