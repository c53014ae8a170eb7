//! A thermostat and the application behind it: telemetry, a command, reported and desired state.
//!
//! `cargo run --example thermostat` brings its own broker along;
//! `cargo run --example thermostat -- mqtt://127.0.0.1:1883` uses yours.

use std::time::Duration;

use anyhow::Context as _;
use paquebot::mqtt::Version;
use paquebot::{CommandReply, CommandStatus, Fleet, StatePatch, Telemetry};
use paquebot_emulator::Broker;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
    let own = broker.tcp_address().context("the broker has no address")?;
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| format!("mqtt://{own}"));

    let fleet = Fleet::builder().workers(1).start()?;
    let group = fleet
        .group("thermostats")
        .endpoint(url)
        .version(Version::V5)
        .build()?;

    // The device answers commands in a task of its own and follows its desired state in another.
    let device = group.device("thermostat-1")?.start()?.device();
    let commands = device.commands().await?;
    tokio::spawn(commands.serve(4, async |command| match &*command.name {
        "identify" => CommandReply::ok("blinking"),
        _ => CommandReply::with_status(CommandStatus::Unknown),
    }));
    let mut desired = device.desired_states().await?;
    desired.ready().await?;
    let follower = device.clone();
    tokio::spawn(async move {
        while let Some(patch) = desired.next().await {
            println!(
                "device: asked for {}",
                String::from_utf8_lossy(&patch.document)
            );
            if let Err(error) = follower.report(&patch).await {
                eprintln!("device: {error}");
            }
        }
    });

    // The application sees it all from the other side.
    let application = group.application("backend")?.start()?.as_application();
    let mut telemetry = application.telemetry().await?;
    let mut replies = application.replies().await?;
    telemetry.ready().await?;
    replies.ready().await?;

    let receipt = device.send(&Telemetry::json(&[("celsius", 21.5)])?).await?;
    println!("device: telemetry {}", receipt.await);
    if let Some((from, measured)) = telemetry.next().await {
        println!(
            "application: {from} says {}",
            String::from_utf8_lossy(&measured.payload)
        );
    }

    application
        .desire(device.id(), &StatePatch::json(&[("target", 19)])?)
        .await?
        .await;
    application
        .command(device.id(), "identify", "", "request-1")
        .await?
        .await;
    if let Some((from, to, reply)) = replies.next().await {
        let text = String::from_utf8_lossy(&reply.payload);
        println!(
            "application: {from} answers {} with {}: {text}",
            to.request,
            reply.status.name()
        );
    }

    let totals = fleet.drain(Duration::from_secs(5)).await;
    println!(
        "{} accepted, {} delivered",
        totals.accepted, totals.delivered
    );
    broker.stop().await;
    Ok(())
}
