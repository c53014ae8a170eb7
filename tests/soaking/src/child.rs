//! The process that is killed, stopped and misled: one link that publishes numbers and says which were accepted.
//!
//! It writes `s` once its link runs, with all that the store held. It writes `a QOS NUMBER` for each accepted message, once `publish` has returned and not before; when its standard
//! input ends it drains and writes `t` with the terms of the equation.

use std::io::Read as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use paquebot::mqtt::{QoS, Version};
use paquebot::{Durability, Fleet, Publish};
use serde_json::json;

use crate::arguments::Arguments;
use crate::course::group;
use crate::support::fleet::start;

/// How long the last one may take to deliver everything.
const DRAIN: Duration = Duration::from_secs(60);

/// Bursts of messages are so far apart.
const STEP: Duration = Duration::from_millis(5);

pub(crate) async fn run(arguments: &Arguments) -> ExitCode {
    match publish(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the publishing process: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The durability that `--durability` asks for.
pub(crate) fn durability(name: &str) -> Result<Durability, String> {
    match name {
        "memory" => Ok(Durability::Memory),
        "process" => Ok(Durability::Process),
        "disk" => Ok(Durability::Disk),
        other => Err(format!(
            "--durability {other}: take memory, process or disk"
        )),
    }
}

async fn publish(arguments: &Arguments) -> Result<(), String> {
    let port = u16::try_from(arguments.number("port", 0)?).map_err(|error| error.to_string())?;
    let version = match arguments.versions()?[..] {
        [Version::V311] => Version::V311,
        _ => Version::V5,
    };
    let mut number = arguments.number("first", 0)?;
    let rate = arguments.number("rate", 2_000)?.max(1);
    let keep_alive = arguments.seconds("keep-alive", 60)?;
    let durability = durability(arguments.text("durability").unwrap_or("memory"))?;
    let mut fleet = Fleet::builder().workers(1);
    if durability != Durability::Memory {
        fleet = fleet.store(arguments.text("folder").ok_or("--folder is missing")?);
    }
    let fleet = fleet.start().map_err(|error| error.to_string())?;
    let builder = group(&fleet, port, version)
        .keep_alive(keep_alive)
        .durability(durability);
    let link = start(builder, "child");
    println!("s");
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    std::thread::spawn(move || {
        // Nothing is written to it: it ends.
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let mut due = tokio::time::Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..(rate / 200).max(1) {
            let qos =
                [QoS::AtLeastOnce, QoS::ExactlyOnce][usize::try_from(number % 2).unwrap_or(0)];
            let topic = format!("course/child/{}", qos as u8);
            let message =
                Publish::new(topic, number.to_string()).map_err(|error| error.to_string())?;
            let accepted = link.publish(message.with_qos(qos)).await;
            drop(accepted.map_err(|error| error.to_string())?);
            println!("a {} {number}", qos as u8);
            number += 1;
        }
        due += STEP;
        tokio::time::sleep_until(due).await;
        // After a long sleep of the process there is nothing to be caught up on.
        due = due.max(tokio::time::Instant::now() - STEP);
    }
    let totals = fleet.drain(DRAIN).await;
    let line = json!({
        "accepted": totals.accepted,
        "delivered": totals.delivered,
        "rejected": totals.rejected,
        "expired": totals.expired,
        "dropped": totals.dropped,
        "held": totals.held,
        "recovered": totals.recovered,
        "merged": totals.merged,
        "kept": totals.kept,
        "connects": totals.connects,
        "disconnects": totals.disconnects,
    });
    println!("t {line}");
    Ok(())
}
