//! The contestants. Each does its task the way its documentation would have a user do it.

mod codecs;
#[cfg(libmosquitto)]
mod mosquitto;
#[cfg(libmosquitto)]
mod mosquitto_ffi;
mod mqtt5;
mod ntex;
#[cfg(feature = "c-clients")]
mod paho;
mod paquebot;
mod raw;
mod raw_channel;
mod raw_links;
mod raw_pipes;
mod rumqttc_v4;
mod rumqttc_v5;
mod stream;

use crate::Failure;
use crate::client::Client;
use crate::contestant::{Endless, report};
use crate::work::{Task, Work};

/// Does the task; most end only when the parent kills the process.
pub(crate) fn run(work: &Work) -> Result<(), Failure> {
    if let Task::Codec(codec) = work.task {
        return report(&codecs::run(work.client, codec, work.timing)?);
    }
    if matches!(work.client, Client::Ntex) {
        return ntex::run(work).map(|never| match never {});
    }
    #[cfg(feature = "c-clients")]
    if matches!(work.client, Client::Paho) {
        return paho::run(work).map(|never| match never {});
    }
    #[cfg(libmosquitto)]
    if matches!(work.client, Client::Libmosquitto) {
        return mosquitto::run(work).map(|never| match never {});
    }
    if let Task::Pipes { links, outstanding } = work.task {
        let run = match work.client {
            Client::RawWriteEach => raw_pipes::run,
            _ => paquebot::pipes::run,
        };
        return report(&run(links, outstanding, work.timing)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local
        .block_on(&runtime, on_tokio(work))
        .map(|never| match never {})
}

/// Contestants of tokio's current-thread runtime.
async fn on_tokio(work: &Work) -> Endless {
    match work.client {
        Client::RawTask => raw_links::idle(work).await,
        Client::Raw64k | Client::Raw16k | Client::RawWriteEach => match work.task {
            Task::Turns { links, .. } => raw_links::turns(work, links).await,
            _ => raw::run(work).await,
        },
        Client::RawChannel => raw_channel::run(work).await,
        Client::PaquebotBatch
        | Client::PaquebotDetached
        | Client::Paquebot
        | Client::PaquebotOwned => paquebot::run(work).await,
        Client::RumqttcV4 | Client::RumqttcV4Nodelay => rumqttc_v4::run(work).await,
        Client::RumqttcV5 | Client::RumqttcV5Nodelay => rumqttc_v5::run(work).await,
        Client::Mqtt5 => mqtt5::run(work).await,
        _ => Err(cannot(work)),
    }
}

/// What a contestant says to a task that is not its own.
fn cannot(work: &Work) -> Failure {
    format!("{} does not do {:?}", work.client.id(), work.task).into()
}
