//! rumqttc for MQTT 3.1.1: `AsyncClient` and `EventLoop` on tokio's current-thread runtime.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, QoS,
    TlsConfiguration, Transport,
};
use tokio::sync::Semaphore;

use super::cannot;
use super::stream::tls_config;
use crate::Failure;
use crate::client::Client;
use crate::contestant::{Endless, handled};
use crate::links::{CONNECTS_MAX, Connecting, address};
use crate::work::{Publish, TOPIC, Task, Work};

/// Requests between client and event loop of the one busy link.
const REQUESTS_MAX: usize = 1000;

/// The same and the messages in flight of each of many links.
const LINK_REQUESTS_MAX: usize = 10;
const LINK_INFLIGHT_MAX: u16 = 100;

/// Publishes, receives or connects.
pub(crate) async fn run(work: &Work) -> Endless {
    match work.task {
        Task::Publish(task) => {
            let (client, mut events) = connection(work, REQUESTS_MAX, task.window)?;
            tokio::task::spawn_local(publish(client, task));
            loop {
                events.poll().await?;
            }
        }
        Task::Receive { qos } => {
            let (client, mut events) = connection(work, REQUESTS_MAX, 1000)?;
            client.subscribe("#", level(qos)).await?;
            loop {
                if let Event::Incoming(Packet::Publish(_)) = events.poll().await? {
                    handled();
                }
            }
        }
        Task::Idle { links } => idle(work, links).await,
        Task::Turns { links, outstanding } => turns(work, links, outstanding).await,
        _ => Err(cannot(work)),
    }
}

async fn publish(client: AsyncClient, task: Publish) -> Result<(), Failure> {
    let payload = vec![b'x'; task.payload_len];
    loop {
        client
            .publish(TOPIC, level(task.qos), false, payload.clone())
            .await?;
    }
}

async fn idle(work: &Work, links: usize) -> Endless {
    let connecting = Connecting::start()?;
    connect_all(work, links, &Rc::new(Semaphore::new(0))).await?;
    connecting.report(links).await?;
    std::future::pending().await
}

/// A message has to be written before its link gets the next one. Without that each channel fills, and a link
/// writes ten messages in a row to a socket that is still in the caches: another question than the row's.
async fn turns(work: &Work, links: usize, outstanding: usize) -> Endless {
    let room = Rc::new(Semaphore::new(0));
    let clients = connect_all(work, links, &room).await?;
    let payload = vec![b'x'; 64];
    room.add_permits(outstanding);
    loop {
        for client in &clients {
            room.acquire().await?.forget();
            client
                .publish(TOPIC, QoS::AtMostOnce, false, payload.clone())
                .await?;
        }
    }
}

/// One task a link; returns once all have their CONNACK. `room` gets a permit for each message that was written.
async fn connect_all(
    work: &Work,
    links: usize,
    room: &Rc<Semaphore>,
) -> Result<Vec<AsyncClient>, Failure> {
    let limit = Arc::new(Semaphore::new(CONNECTS_MAX));
    let connected = Rc::new(Semaphore::new(0));
    let tls = work.ca_file.as_deref().map(transport).transpose()?;
    let mut clients = Vec::with_capacity(links);
    for index in 0..links {
        let options = options(address(work, index)?, tls.clone(), LINK_INFLIGHT_MAX, index);
        let permit = Arc::clone(&limit).acquire_owned().await?;
        let (client, mut events) = AsyncClient::new(options, LINK_REQUESTS_MAX);
        events.set_network_options(network(work));
        clients.push(client);
        let (connected, room) = (Rc::clone(&connected), Rc::clone(room));
        tokio::task::spawn_local(async move {
            let mut permit = Some(permit);
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::ConnAck(_)) => {
                        permit = None;
                        connected.add_permits(1);
                    }
                    // Told once it is in the socket.
                    Event::Outgoing(Outgoing::Publish(_)) => room.add_permits(1),
                    _ => {}
                }
            }
            drop(permit);
        });
    }
    let all = connected.acquire_many(u32::try_from(links)?).await?;
    all.forget();
    Ok(clients)
}

fn connection(
    work: &Work,
    requests_max: usize,
    inflight_max: u16,
) -> Result<(AsyncClient, EventLoop), Failure> {
    let tls = work.ca_file.as_deref().map(transport).transpose()?;
    let options = options(address(work, 0)?, tls, inflight_max, 0);
    let (client, mut events) = AsyncClient::new(options, requests_max);
    events.set_network_options(network(work));
    Ok((client, events))
}

fn options(
    address: SocketAddr,
    tls: Option<Transport>,
    inflight_max: u16,
    index: usize,
) -> MqttOptions {
    let (host, port) = (address.ip().to_string(), address.port());
    let mut options = MqttOptions::new(format!("rumqttc-{index}"), host, port);
    options
        .set_keep_alive(Duration::from_secs(60))
        .set_inflight(inflight_max);
    if let Some(tls) = tls {
        options.set_transport(tls);
    }
    options
}

fn transport(ca_file: &Path) -> Result<Transport, Failure> {
    let config = TlsConfiguration::Rustls(tls_config(ca_file)?);
    Ok(Transport::tls_with_config(config))
}

fn network(work: &Work) -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(matches!(work.client, Client::RumqttcV4Nodelay));
    network
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}
