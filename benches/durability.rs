//! Question: what does it cost that a queue outlives its process?
//!
//! Command: `cargo bench --bench durability`
//!
//! Comparison: QoS 1 through the public API with queues in memory, handed to the operating system, and synced, in turn
//! in one run, as ratios to memory. A message counts when its receipt says that the server acknowledged it. The server
//! is a thread of this process that answers each PUBLISH; the store is in the system's folder for temporary files, so
//! set TMPDIR to a folder on the disk that matters.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose messages do not pass measures nothing"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use paquebot::mqtt::QoS;
use paquebot::{Batch, Durability, Fleet, Link, PreparedTopic};

const ROUNDS: usize = 5;
const PAYLOAD: &[u8] = &[b'x'; 256];
const DURABILITIES: [Durability; 3] = [Durability::Memory, Durability::Process, Durability::Disk];

/// How callers publish.
#[derive(Clone, Copy)]
enum Way {
    /// Four callers, each with one batch of so many under way.
    Batches(usize),
    /// So many callers, each with one message under way until it is accepted.
    Callers(usize),
}

const ROWS: [(&str, Way, usize); 4] = [
    ("4 callers, batches of 1,000", Way::Batches(1_000), 200_000),
    ("4 callers, batches of 100", Way::Batches(100), 100_000),
    (
        "1,000 callers, one message each",
        Way::Callers(1_000),
        50_000,
    ),
    ("1 caller, one message", Way::Callers(1), 2_000),
];

fn main() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!(
        "QoS 1, {} bytes; messages a second, medians of {ROUNDS}",
        PAYLOAD.len()
    );
    println!(
        "{:<34}{:>12}{:>12}{:>7}{:>12}{:>7}",
        "", "memory", "process", "", "disk", ""
    );
    for (name, way, messages) in ROWS {
        let mut rates = [const { Vec::new() }; DURABILITIES.len()];
        for _ in 0..ROUNDS {
            for (rates, durability) in rates.iter_mut().zip(DURABILITIES) {
                rates.push(runtime.block_on(measure(&server, durability, way, messages)));
            }
        }
        let [memory, process, disk] = rates.map(median);
        println!(
            "{name:<34}{memory:>12.0}{process:>12.0}{:>6.2}x{disk:>12.0}{:>6.2}x",
            process / memory,
            disk / memory
        );
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

async fn measure(server: &Server, durability: Durability, way: Way, messages: usize) -> f64 {
    let store = tempfile::tempdir().unwrap();
    let fleet = Fleet::builder()
        .workers(1)
        .store(store.path())
        .start()
        .unwrap();
    let group = fleet
        .group("durability")
        .endpoint(format!("mqtt://{}", server.address))
        .durability(durability)
        .build()
        .unwrap();
    let link = group.device("d1").unwrap().start().unwrap();
    link.online().await.unwrap();
    let topic = PreparedTopic::new("meters/1/power", QoS::AtLeastOnce).unwrap();
    let since = Instant::now();
    match way {
        Way::Batches(size) => {
            let caller = || batches(&link, &topic, size, messages / 4 / size);
            join_all([caller(), caller(), caller(), caller()]).await;
        }
        Way::Callers(count) => {
            let caller = |_| singles(&link, &topic, messages / count);
            join_all((0..count).map(caller)).await;
        }
    }
    let rate = messages as f64 / since.elapsed().as_secs_f64();
    fleet.drain(std::time::Duration::from_secs(10)).await;
    rate
}

async fn batches(link: &Link, topic: &PreparedTopic, size: usize, count: usize) {
    let payload = Bytes::from_static(PAYLOAD);
    for _ in 0..count {
        let batch: Batch = (0..size).map(|_| topic.message(payload.clone())).collect();
        let outcome = link.publish_batch(batch).await.unwrap().await;
        assert!(outcome.is_delivered());
    }
}

async fn singles(link: &Link, topic: &PreparedTopic, count: usize) {
    let mut receipts = Vec::with_capacity(count);
    for _ in 0..count {
        let message = topic.message(Bytes::from_static(PAYLOAD));
        receipts.push(link.publish(message).await.unwrap());
    }
    for receipt in receipts {
        assert!(receipt.await.is_delivered());
    }
}

/// Accepts every client and acknowledges all it publishes.
struct Server {
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Self { address }
    }
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut input = vec![0; 256 * 1024];
    let (mut held, mut answers) = (0, Vec::new());
    loop {
        match stream.read(&mut input[held..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => held += count,
        }
        let mut at = 0;
        while let Some(length) = answer(&input[at..held], &mut answers) {
            at += length;
        }
        input.copy_within(at..held, 0);
        held -= at;
        if stream.write_all(&answers).is_err() {
            return;
        }
        answers.clear();
    }
}

/// Answers the packet at the front of `input`; gives its length, `None` for the front of one.
fn answer(input: &[u8], answers: &mut Vec<u8>) -> Option<usize> {
    let (mut remaining, mut head) = (0, 1);
    for place in 0..4 {
        let byte = *input.get(head)?;
        head += 1;
        remaining |= usize::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    let body = input.get(head..head + remaining)?;
    match input[0] >> 4 {
        1 => answers.extend([0x20, 2, 0, 0]),
        3 if input[0] & 6 != 0 => {
            let id = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            answers.extend([0x40, 2, body[id], body[id + 1]]);
        }
        12 => answers.extend([0xd0, 0]),
        _ => {}
    }
    Some(head + remaining)
}
