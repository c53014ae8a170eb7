//! Question: what does one link that is flooded, or that floods, cost the quiet links of its worker?
//!
//! Command: `cargo bench --bench fairness`, or with a part of a scenario's name behind `--` for that one alone
//!
//! Comparison: the same 1,000 quiet links without the flood, in the same run. All links are on one worker. Each
//! quiet link in turn publishes one message of QoS 1, a thousand a second in all; a round trip is the time from
//! the call until its receipt says that it was acknowledged. The flooded link's server writes as fast as the link
//! reads; the flooding link's caller publishes as fast as the link takes it. The server, its threads and the callers
//! are in the same process and take their part of the machine: it wants two cores that nothing else uses.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose messages do not pass measures nothing"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use paquebot::mqtt::{QoS, Topic};
use paquebot::{Fleet, Group, Link, Publish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const QUIET_LINKS: usize = 1_000;
const ROUND_TRIPS: usize = 3_000;
/// Between two round trips of the quiet links.
const PAUSE: Duration = Duration::from_millis(1);
/// What the quiet links' 99th percentile is to stay below.
const WANTED: Duration = Duration::from_millis(5);
const PAYLOAD: &[u8] = &[b'x'; 64];

/// What the busy link of a scenario does.
#[derive(Clone, Copy)]
enum Flood {
    None,
    /// Its server sends this again and again.
    In(fn() -> Vec<u8>),
    /// Its caller publishes messages of so many bytes.
    Out(QoS, usize),
}

const SCENARIOS: [(&str, Flood); 8] = [
    ("no flood", Flood::None),
    ("in: PINGRESP, 2 bytes", Flood::In(|| vec![0xd0, 0])),
    (
        "in: PUBLISH QoS 0, empty",
        Flood::In(|| publish(QoS::AtMostOnce, 0)),
    ),
    (
        "in: PUBLISH QoS 1, empty",
        Flood::In(|| publish(QoS::AtLeastOnce, 0)),
    ),
    (
        "in: PUBLISH QoS 0, 64 KiB",
        Flood::In(|| publish(QoS::AtMostOnce, 64 * 1024)),
    ),
    ("out: QoS 0, 64 bytes", Flood::Out(QoS::AtMostOnce, 64)),
    ("out: QoS 1, 64 bytes", Flood::Out(QoS::AtLeastOnce, 64)),
    ("out: QoS 0, 64 KiB", Flood::Out(QoS::AtMostOnce, 64 * 1024)),
];

fn main() {
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench");
    println!(
        "round trips of {QUIET_LINKS} quiet links beside one busy link; p99 wanted: {WANTED:?}"
    );
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}{:>14}",
        "busy link", "p50", "p90", "p99", "max", "flood"
    );
    for (name, flood) in SCENARIOS {
        if wanted
            .as_ref()
            .is_none_or(|part| name.contains(part.as_str()))
        {
            run(name, flood);
        }
    }
}

fn run(name: &str, flood: Flood) {
    let flooded = Arc::new(AtomicU64::new(0));
    let server = Server::start(flood, Arc::clone(&flooded));
    let fleet = Fleet::builder()
        .name("fairness")
        .workers(1)
        .start()
        .unwrap();
    let group = fleet
        .group("fairness")
        .endpoint(format!("mqtt://{}", server.address))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut trips = runtime.block_on(async {
        let mut quiet = Vec::with_capacity(QUIET_LINKS);
        for number in 0..QUIET_LINKS {
            quiet.push(
                group
                    .device(format!("quiet{number}"))
                    .unwrap()
                    .start()
                    .unwrap(),
            );
        }
        for link in &quiet {
            link.online().await.unwrap();
        }
        let flooding = start_flood(&group, flood, &flooded);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (bytes, since) = (flooded.load(Ordering::Relaxed), Instant::now());
        let trips = round_trips(&quiet).await;
        let bytes = flooded.load(Ordering::Relaxed) - bytes;
        let rate = bytes as f64 / since.elapsed().as_secs_f64() / 1e6;
        drop(flooding);
        fleet.drain(Duration::from_millis(1)).await;
        (trips, rate)
    });
    trips.0.sort_unstable();
    let at = |share: f64| {
        let index = (trips.0.len() as f64 * share) as usize;
        let trip = trips.0[index.min(trips.0.len() - 1)];
        format!("{:.2} ms", trip.as_secs_f64() * 1e3)
    };
    println!(
        "{name:<28}{:>10}{:>10}{:>10}{:>10}{:>14}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        format!("{:.1} MB/s", trips.1)
    );
}

/// The round trips of the quiet links, one after the other started, whether or not the one before is back.
async fn round_trips(quiet: &[Link]) -> Vec<Duration> {
    let topic = Topic::from_static("devices/quiet/telemetry").unwrap();
    let mut under_way = Vec::with_capacity(ROUND_TRIPS);
    let mut ticks = tokio::time::interval(PAUSE);
    for link in quiet.iter().cycle().take(ROUND_TRIPS) {
        ticks.tick().await;
        let message = Publish::on(topic.clone(), Bytes::from_static(PAYLOAD));
        let link = link.clone();
        under_way.push(tokio::spawn(async move {
            let began = Instant::now();
            let receipt = link.publish(message).await.unwrap();
            assert!(receipt.await.is_delivered());
            began.elapsed()
        }));
    }
    let mut trips = Vec::with_capacity(ROUND_TRIPS);
    for trip in under_way {
        trips.push(trip.await.unwrap());
    }
    trips
}

/// Starts the busy link, and its caller on a thread of its own.
fn start_flood(group: &Group, flood: Flood, flooded: &Arc<AtomicU64>) -> Option<Link> {
    if matches!(flood, Flood::None) {
        return None;
    }
    let link = group.device("busy").unwrap().start().unwrap();
    let busy = link.clone();
    let flooded = Arc::clone(flooded);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            match flood {
                Flood::None => {}
                Flood::In(_) => {
                    let mut messages = busy.subscribe("#", QoS::AtLeastOnce).await.unwrap();
                    while messages.next().await.is_some() {}
                }
                Flood::Out(qos, size) => {
                    let topic = Topic::from_static("devices/busy/telemetry").unwrap();
                    let message = Publish::on(topic, vec![b'x'; size]).with_qos(qos);
                    while busy.publish(message.clone()).await.is_ok() {
                        flooded.fetch_add(size as u64, Ordering::Relaxed);
                    }
                }
            }
        });
    });
    Some(link)
}

fn publish(qos: QoS, size: usize) -> Vec<u8> {
    let mut packet = vec![0x30 | (qos as u8) << 1];
    let mut length = 3 + size + 2 * usize::from(qos != QoS::AtMostOnce);
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.extend_from_slice(&[length as u8, 0, 1, b't']);
    if qos != QoS::AtMostOnce {
        packet.extend_from_slice(&[0, 1]);
    }
    packet.resize(packet.len() + size, b'x');
    packet
}

/// A server that acknowledges what it gets and floods the link called "busy".
struct Server {
    address: SocketAddr,
}

impl Server {
    fn start(flood: Flood, flooded: Arc<AtomicU64>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, flood, Arc::clone(&flooded)));
                }
            });
        });
        Self { address }
    }
}

async fn serve(mut stream: tokio::net::TcpStream, flood: Flood, flooded: Arc<AtomicU64>) {
    stream.set_nodelay(true).unwrap();
    let (mut input, mut output) = (Vec::new(), Vec::new());
    loop {
        input.reserve(256);
        match stream.read_buf(&mut input).await {
            Ok(1..) => {}
            _ => return,
        }
        let mut taken = 0;
        while let Some(length) = answer(&input[taken..], &mut output) {
            taken += length;
        }
        let subscribed = input[..taken].first().is_some_and(|first| *first == 0x82);
        input.drain(..taken);
        if stream.write_all(&output).await.is_err() {
            return;
        }
        output.clear();
        if let (true, Flood::In(unit)) = (subscribed, flood) {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            thread::spawn(move || pour(stream, &unit(), &flooded));
            return;
        }
    }
}

/// Writes the same packet for as long as the link reads.
fn pour(mut stream: TcpStream, unit: &[u8], flooded: &AtomicU64) {
    let chunk = unit.repeat((64 * 1024 / unit.len()).max(1));
    let mut reader = stream.try_clone().unwrap();
    // What the link answers is taken and thrown away.
    thread::spawn(move || {
        let mut answers = vec![0; 64 * 1024];
        while matches!(reader.read(&mut answers), Ok(1..)) {}
    });
    while stream.write_all(&chunk).is_ok() {
        flooded.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
}

/// Appends the answer to the packet at the front, if it is whole; its length.
fn answer(input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
    let (mut length, mut shift, mut start) = (0, 0, 1);
    loop {
        let byte = *input.get(start)?;
        length |= usize::from(byte & 0x7f) << shift;
        (shift, start) = (shift + 7, start + 1);
        if byte < 0x80 {
            break;
        }
    }
    let body = input.get(start..start + length)?;
    match input[0] {
        0x10 => output.extend_from_slice(&[0x20, 2, 0, 0]),
        0x82 => output.extend_from_slice(&[0x90, 3, body[0], body[1], 1]),
        0xc0 => output.extend_from_slice(&[0xd0, 0]),
        first if first & 0xf6 == 0x32 => {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            output.extend_from_slice(&[0x40, 2, body[2 + topic], body[3 + topic]]);
        }
        _ => {}
    }
    Some(start + length)
}
