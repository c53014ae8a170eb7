//! Question: what does a message cost on its way from the socket to a user's handler, and how much of it is
//! reading and decoding alone?
//!
//! Command: `cargo bench --bench receive`
//!
//! Comparison: a server thread writes the same packets, 64-byte payloads, as fast as they are taken over loopback TCP.
//! "read and decode" takes them with one blocking `read` after the other and the decoder alone, and so is what no
//! client can be cheaper than; "handler" is a link with `subscribe_with`; "stream" is a link with a `Subscription`
//! whose messages another thread takes. At QoS 1 the server waits for acknowledgements with 30,000 messages under
//! way; the decoder alone sends none. Quote the ratios: absolute figures do not hold between machines.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose messages do not pass measures nothing"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paquebot::mqtt::{
    self, Decoded, Decoder, PacketId, Properties, PublishRef, QoS, Topic, TopicFilter, Version,
    encode_publish,
};
use paquebot::{Fleet, Link};

const TOPIC: &str = "devices/dev-000123/telemetry";
const FILTER: &str = "devices/+/telemetry";
/// Messages of one unit of work: about 58 KiB.
const UNIT: u64 = 600;
/// Messages that are not acknowledged before the server waits.
const WINDOW: u64 = 30_000;
/// Units that are asked for together.
const UNITS_AT_ONCE: u64 = 200;

fn receive(criterion: &mut Criterion) {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let name = format!("receive 600 messages, QoS {}, 64 bytes", qos as u8);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(UNIT));
        group.bench_function("read and decode", |bencher| {
            let (server, address) = Server::listen(qos, 0);
            let count = Arc::<AtomicU64>::default();
            let reader = read_and_decode(TcpStream::connect(address).unwrap(), &count);
            bencher.iter_custom(|units| server.run(units, &count));
            drop(server);
            reader.join().unwrap();
        });
        group.bench_function("handler", |bencher| {
            let (server, address) = Server::listen(qos, WINDOW);
            let (fleet, link) = link(&address);
            let count = Arc::<AtomicU64>::default();
            let counted = Arc::clone(&count);
            let guard = wait(link.subscribe_with(FILTER, qos, move |message| {
                std::hint::black_box((message.topic(), message.payload()));
                counted.fetch_add(1, Ordering::Release);
            }))
            .unwrap();
            wait(guard.ready()).unwrap();
            bencher.iter_custom(|units| server.run(units, &count));
            wait(fleet.drain(Duration::ZERO));
        });
        group.bench_function("stream", |bencher| {
            let (server, address) = Server::listen(qos, WINDOW);
            let (fleet, link) = link(&address);
            let count = Arc::<AtomicU64>::default();
            let counted = Arc::clone(&count);
            let filter = TopicFilter::new(FILTER).unwrap();
            let wanted = vec![mqtt::Subscription::new(filter, qos)];
            // Nothing is dropped: there is room for all that is asked for at once.
            let room = usize::try_from(UNIT * UNITS_AT_ONCE).unwrap();
            let mut messages = wait(link.subscribe_all(wanted, Some(room))).unwrap();
            wait(messages.ready()).unwrap();
            let consumer = thread::spawn(move || {
                while let Some(message) = wait(messages.next()) {
                    std::hint::black_box((message.topic(), message.payload()));
                    counted.fetch_add(1, Ordering::Release);
                }
            });
            bencher.iter_custom(|units| server.run(units, &count));
            wait(fleet.drain(Duration::ZERO));
            consumer.join().unwrap();
        });
        group.finish();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

fn link(address: &str) -> (Fleet, Link) {
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let group = fleet
        .group("bench")
        .endpoint(format!("mqtt://{address}"))
        .build()
        .unwrap();
    let link = group.device("dev-000123").unwrap().start().unwrap();
    (fleet, link)
}

/// Takes one client and sends it as many units as it is told to.
struct Server {
    orders: Sender<u64>,
    asked: AtomicU64,
}

impl Server {
    fn listen(qos: QoS, window: u64) -> (Self, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (orders, ordered) = channel();
        thread::spawn(move || serve(&listener, qos, window, &ordered));
        let asked = AtomicU64::new(0);
        (Self { orders, asked }, address)
    }

    /// How long it takes until so many more units were received. No more than fit a stream's inbox are under way.
    fn run(&self, units: u64, received: &AtomicU64) -> Duration {
        let start = Instant::now();
        let mut left = units;
        while left > 0 {
            let units = left.min(UNITS_AT_ONCE);
            let total = self.asked.fetch_add(units * UNIT, Ordering::Relaxed) + units * UNIT;
            self.orders.send(units).unwrap();
            while received.load(Ordering::Acquire) < total {
                thread::sleep(Duration::from_micros(20));
            }
            left -= units;
        }
        start.elapsed()
    }
}

fn serve(listener: &TcpListener, qos: QoS, window: u64, ordered: &Receiver<u64>) {
    let (mut stream, _) = listener.accept().unwrap();
    let acknowledged = Arc::<AtomicU64>::default();
    if window > 0 {
        answer(stream.try_clone().unwrap(), &acknowledged);
    }
    let unit = unit(qos);
    let mut sent = 0;
    while let Ok(units) = ordered.recv() {
        for _ in 0..units {
            sent += UNIT;
            while window > 0
                && qos != QoS::AtMostOnce
                && sent > acknowledged.load(Ordering::Acquire) + window
            {
                thread::yield_now();
            }
            stream.write_all(&unit).unwrap();
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Answers CONNECT and SUBSCRIBE, then counts PUBACKs.
fn answer(mut stream: TcpStream, acknowledged: &Arc<AtomicU64>) {
    let acknowledged = Arc::clone(acknowledged);
    thread::spawn(move || {
        let mut decoder = Decoder::new(Version::V311, mqtt::Sender::Client, 1024);
        let mut pending = BytesMut::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            pending.extend_from_slice(&buffer[..length]);
            let mut input = pending.split().freeze();
            while let Ok(Decoded::Packet(packet)) = decoder.decode(&mut input) {
                match packet {
                    mqtt::Packet::Connect(_) => stream.write_all(&[0x20, 2, 0, 0]).unwrap(),
                    mqtt::Packet::Subscribe(subscribe) => {
                        let [high, low] = subscribe.packet_id.value().to_be_bytes();
                        stream.write_all(&[0x90, 3, high, low, 1]).unwrap();
                    }
                    mqtt::Packet::PubAck(_) => {
                        acknowledged.fetch_add(1, Ordering::Release);
                    }
                    _ => {}
                }
            }
            pending.extend_from_slice(&input);
        }
    });
}

fn unit(qos: QoS) -> BytesMut {
    let topic = Topic::from_static(TOPIC).unwrap();
    let properties = Properties::default();
    let mut output = BytesMut::new();
    for id in 1..=UNIT {
        let publish = PublishRef {
            dup: false,
            qos,
            retain: false,
            topic: Some(&topic),
            packet_id: PacketId::new(u16::try_from(id).unwrap()).filter(|_| qos != QoS::AtMostOnce),
            payload: &[b'x'; 64],
            properties: &properties,
        };
        encode_publish(&publish, Version::V311, &mut output).unwrap();
    }
    output
}

fn read_and_decode(mut stream: TcpStream, count: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let count = Arc::clone(count);
    thread::spawn(move || {
        let decoder = Decoder::new(Version::V311, mqtt::Sender::Server, usize::MAX);
        let mut pending = BytesMut::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            pending.extend_from_slice(&buffer[..length]);
            let input: Bytes = pending.split().freeze();
            let mut at = 0;
            while let Some(span) = decoder.find_publish(&input, &mut at) {
                std::hint::black_box((span.topic(&input), span.payload(&input)));
                count.fetch_add(1, Ordering::Release);
            }
            pending.extend_from_slice(&input[at..]);
        }
    })
}

criterion_group!(benches, receive);
criterion_main!(benches);
