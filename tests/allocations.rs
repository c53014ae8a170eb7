//! What a message costs the allocator: nothing in the codec, and on the whole path no more than is written here.
//!
//! Every allocation of the process is counted, the caller's included; this file's server makes its own before the
//! count starts. How many messages share a batch depends on how the threads meet, so of many bursts the one counts
//! that came through with the fewest.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::alloc::System;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use paquebot::mqtt::session::CloseReason;
use paquebot::mqtt::{
    self, Acknowledgement, Decoded, Decoder, Packet, PacketId, Properties, PublishRef, QoS,
    ReasonCode, Sender, Topic, TopicFilter, Version, encode, encode_publish,
};
use paquebot::{Fleet, Link, Publish};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, disconnected, fleet, group, online, silent, soon, start, start_in};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Most allocations for one of many messages, from [`Link::publish`] to the socket, receipt included.
const PUBLISH_QOS0_MAX: f64 = 1.5;
/// The same until its PUBACK has resolved the receipt.
const PUBLISH_QOS1_MAX: f64 = 1.5;
/// Most allocations for a message that is alone on its way, with nobody to share lists with.
const LONE_QOS0_MAX: f64 = 3.0;
/// Most allocations for one of many messages, from the socket to a stream: the box that it crosses threads in.
const RECEIVE_QOS0_MAX: f64 = 1.5;
/// The same until its PUBACK is in the socket.
const RECEIVE_QOS1_MAX: f64 = 2.0;

/// Most allocations for a link from its start until it is online, those of its handle included.
const CONNECT_MAX: f64 = 40.0;
/// Most bytes that it holds then, on the allocator's side of it: without what the allocator adds.
const IDLE_BYTES_MAX: f64 = 3800.0;

/// Most bytes for a packet of which only the length has come, everything that the link does meanwhile included.
const CLAIM_BYTES_MAX: usize = 256 * 1024;

/// Messages under way at once: fewer than a link's window and a consumer's inbox have room for.
const BURST: u16 = 50;
/// Links that connect while it is counted, and how many of them at once.
const LINKS: usize = 200;
const AT_ONCE: usize = 4;
/// How often that many are counted.
const BURSTS: usize = 100;
const TOPIC: &str = "devices/dev-000123/telemetry";
const PAYLOAD: &[u8] = &[b'x'; 64];

/// The tests of this file count what the whole process allocates, so they do not run at once.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// Allocations since a region began; one that grows or moves is one too.
fn allocations(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.allocations + change.reallocations
}

/// Bytes allocated since a region began, whether or not they were freed.
fn bytes(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated + change.bytes_reallocated.max(0).unsigned_abs()
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test)
}

fn write(packets: u16, qos: QoS, version: Version, output: &mut BytesMut) {
    let topic = Topic::from_static(TOPIC).unwrap();
    for number in 1..=packets {
        let publish = PublishRef {
            dup: false,
            qos,
            retain: false,
            topic: Some(&topic),
            packet_id: PacketId::new(number).filter(|_| qos != QoS::AtMostOnce),
            payload: PAYLOAD,
            properties: &Properties::EMPTY,
        };
        encode_publish(&publish, version, output).unwrap();
    }
}

fn puback(number: u16) -> Packet {
    Packet::PubAck(Acknowledgement {
        packet_id: PacketId::new(number).unwrap(),
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    })
}

/// The fewest allocations of ten tries: the test harness has threads of its own.
fn fewest(mut work: impl FnMut()) -> usize {
    let tries = (0..10).map(|_| {
        let region = Region::new(ALLOCATOR);
        work();
        allocations(&region)
    });
    tries.min().unwrap()
}

#[test]
fn writing_into_a_buffer_with_room_allocates_nothing() {
    let _alone = alone();
    let mut output = BytesMut::with_capacity(64 * 1024);
    for version in BOTH {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let counted = fewest(|| {
                output.clear();
                write(500, qos, version, &mut output);
            });
            assert_eq!(counted, 0, "PUBLISH {qos:?} {version}");
        }
        let counted = fewest(|| {
            output.clear();
            for number in 1..=500 {
                encode(&puback(number), version, &mut output).unwrap();
            }
        });
        assert_eq!(counted, 0, "PUBACK {version}");
    }
}

#[test]
fn reading_allocates_for_the_read_and_not_for_its_packets() {
    let _alone = alone();
    for version in BOTH {
        for packets in [10, 500] {
            let mut stream = BytesMut::new();
            write(packets, QoS::AtLeastOnce, version, &mut stream);
            for number in 1..=packets {
                encode(&puback(number), version, &mut stream).unwrap();
            }
            let mut decoder = Decoder::new(version, Sender::Server, usize::MAX);
            let counted = fewest(|| {
                let mut read = Bytes::copy_from_slice(&stream);
                let mut count = 0;
                while let Decoded::Packet(packet) = decoder.decode(&mut read).unwrap() {
                    count += 1;
                    drop(packet);
                }
                assert_eq!(count, 2 * packets);
            });
            // The bytes of the read, and what counts who shares them.
            assert_eq!(counted, 2, "{packets} packets of each kind, {version}");
        }
    }
}

/// The other end of a link, in the test's own task: it allocates nothing once the link is online.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    output: BytesMut,
}

impl Peer {
    /// A link that is online at a server that only reads and writes what the test says.
    async fn online(version: Version) -> (Self, Link, Fleet) {
        Self::online_with(version, 1024 * 1024).await
    }

    /// The same with packets of so many bytes.
    async fn online_with(version: Version, packet_size_max: u32) -> (Self, Link, Fleet) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let fleet = fleet();
        let builder = group(&fleet, &url, version).packet_size_max(packet_size_max);
        let link = start(builder.dialect(silent()), "d1");
        let (stream, _) = soon("the link connects", listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self {
            stream,
            input: vec![0; 64 * 1024],
            output: BytesMut::with_capacity(64 * 1024),
        };
        peer.some_bytes().await;
        let connack: &[u8] = match version {
            Version::V311 => &[0x20, 2, 0, 0],
            Version::V5 => &[0x20, 3, 0, 0, 0],
        };
        peer.stream.write_all(connack).await.unwrap();
        online(&link).await;
        (peer, link, fleet)
    }

    async fn some_bytes(&mut self) -> usize {
        self.stream.read(&mut self.input).await.unwrap()
    }

    async fn bytes(&mut self, count: usize) {
        self.stream
            .read_exact(&mut self.input[..count])
            .await
            .unwrap();
    }

    async fn send(&mut self) {
        self.stream.write_all(&self.output).await.unwrap();
        self.output.clear();
    }

    /// Takes the SUBSCRIBE of a filter and grants it.
    async fn grant(&mut self, version: Version) {
        self.some_bytes().await;
        let [high, low] = [self.input[2], self.input[3]];
        match version {
            Version::V311 => self.output.extend_from_slice(&[0x90, 3, high, low, 1]),
            Version::V5 => self.output.extend_from_slice(&[0x90, 4, high, low, 0, 1]),
        }
        self.send().await;
    }
}

#[test]
fn a_length_that_is_only_claimed_takes_no_memory() {
    // 200 MiB, which the link would take.
    let taken = [0x30, 0x80, 0x80, 0x80, 0x64];
    // 256 MiB less one byte, which is over the limit.
    let refused = [0x30, 0xff, 0xff, 0xff, 0x7f];
    let _alone = alone();
    for version in BOTH {
        run(async {
            let (mut peer, link, fleet) = Peer::online(version).await;
            let mut events = link.events();
            let region = Region::new(ALLOCATOR);
            peer.output.extend_from_slice(&refused);
            peer.send().await;
            let reason = disconnected(&mut events).await;
            let code = ReasonCode::PACKET_TOO_LARGE;
            assert!(
                matches!(&reason, CloseReason::ProtocolViolation { code: said, .. } if *said == code),
                "{reason:?}"
            );
            assert!(bytes(&region) < CLAIM_BYTES_MAX, "{}", bytes(&region));
            if version == Version::V5 {
                peer.bytes(3).await;
                assert_eq!(peer.input[..3], [0xe0, 1, 0x95]);
            }
            soon("the link stops", link.stop()).await;
            drop(fleet);

            let (mut peer, link, fleet) = Peer::online_with(version, 256 * 1024 * 1024).await;
            let mut events = link.events();
            let region = Region::new(ALLOCATOR);
            peer.output.extend_from_slice(&taken);
            peer.send().await;
            // The end of the stream comes after the claim, so the link has read that when it sees it.
            peer.stream.shutdown().await.unwrap();
            let reason = disconnected(&mut events).await;
            assert_eq!(reason, CloseReason::TransportClosed);
            assert!(bytes(&region) < CLAIM_BYTES_MAX, "{}", bytes(&region));
            soon("the link stops", link.stop()).await;
            drop(fleet);
        });
    }
}

/// How many bytes a PUBLISH of this file has.
fn packet_len(qos: QoS, version: Version) -> usize {
    let mut packet = BytesMut::new();
    write(1, qos, version, &mut packet);
    packet.len()
}

/// Allocations for each message, from the caller to the socket and back.
async fn publishing(qos: QoS, version: Version, burst: u16) -> f64 {
    let (mut peer, link, fleet) = Peer::online(version).await;
    let message = Publish::on(
        Topic::from_static(TOPIC).unwrap(),
        Bytes::from_static(PAYLOAD),
    )
    .with_qos(qos);
    let packet_len = packet_len(qos, version);
    let mut receipts = Vec::with_capacity(burst.into());
    let mut fewest = usize::MAX;
    for _ in 0..BURSTS {
        let region = Region::new(ALLOCATOR);
        for _ in 0..burst {
            receipts.push(link.publish(message.clone()).await.unwrap());
        }
        peer.bytes(packet_len * usize::from(burst)).await;
        if qos == QoS::AtLeastOnce {
            // The packet identifier is behind header, topic length and topic.
            for packet in peer.input[..packet_len * usize::from(burst)].chunks(packet_len) {
                let id = &packet[4 + TOPIC.len()..][..2];
                peer.output.extend_from_slice(&[0x40, 2, id[0], id[1]]);
            }
            peer.send().await;
        }
        for receipt in receipts.drain(..) {
            assert!(receipt.await.is_delivered());
        }
        fewest = fewest.min(allocations(&region));
    }
    soon("the link stops", link.stop()).await;
    drop(fleet);
    fewest as f64 / f64::from(burst)
}

/// Allocations for each message, from the socket to the consumer and back.
async fn receiving(qos: QoS, version: Version) -> f64 {
    let (mut peer, link, fleet) = Peer::online(version).await;
    let filter = mqtt::Subscription::new(TopicFilter::from_static("#").unwrap(), qos);
    let room = usize::from(BURST) * 2;
    let mut messages = link.subscribe_all(vec![filter], Some(room)).await.unwrap();
    peer.grant(version).await;
    soon("it is subscribed", messages.ready()).await.unwrap();
    let mut fewest = usize::MAX;
    for _ in 0..BURSTS {
        let region = Region::new(ALLOCATOR);
        write(BURST, qos, version, &mut peer.output);
        peer.send().await;
        for _ in 0..BURST {
            let message = messages.next().await.unwrap();
            assert_eq!(&message.payload()[..], PAYLOAD);
        }
        if qos == QoS::AtLeastOnce {
            peer.bytes(4 * usize::from(BURST)).await;
        }
        fewest = fewest.min(allocations(&region));
    }
    soon("the link stops", link.stop()).await;
    drop(fleet);
    fewest as f64 / f64::from(BURST)
}

/// Lets `links` links in, one after the other, and keeps them; allocates nothing meanwhile.
fn let_in(listener: &std::net::TcpListener, version: Version, kept: &mut Vec<std::net::TcpStream>) {
    let connack: &[u8] = match version {
        Version::V311 => &[0x20, 2, 0, 0],
        Version::V5 => &[0x20, 3, 0, 0, 0],
    };
    while kept.len() < kept.capacity() {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connect = [0; 256];
        assert!(stream.read(&mut connect).unwrap() > 0);
        stream.write_all(connack).unwrap();
        kept.push(stream);
    }
}

#[test]
fn a_link_connects_with_few_allocations_and_keeps_little_of_them() {
    let _alone = alone();
    for version in BOTH {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let fleet = Fleet::builder().workers(1).connects_max(AT_ONCE);
        let fleet = fleet.start().unwrap();
        let group = group(&fleet, &url, version).dialect(silent()).build();
        let group = group.unwrap();
        // The first ones make what all share.
        let mut kept = Vec::with_capacity(AT_ONCE);
        let first: Vec<_> = (0..AT_ONCE).map(|_| start_in(&group, "first")).collect();
        let_in(&listener, version, &mut kept);
        let mut more_kept = Vec::with_capacity(LINKS);
        let mut links = Vec::with_capacity(LINKS);
        run(soon("all are online", async {
            for link in &first {
                online(link).await;
            }
            let region = Region::new(ALLOCATOR);
            links.extend((0..LINKS).map(|_| start_in(&group, "device")));
            let_in(&listener, version, &mut more_kept);
            for link in &links {
                online(link).await;
            }
            let change = region.change();
            let counted = allocations(&region) as f64 / LINKS as f64;
            let held = change
                .bytes_allocated
                .saturating_sub(change.bytes_deallocated);
            let held = held as f64 / LINKS as f64;
            println!("connect, MQTT {version}: {counted:.1} allocations, {held:.0} bytes held");
            assert!(
                counted <= CONNECT_MAX,
                "{counted:.1}; the bound is {CONNECT_MAX}"
            );
            assert!(
                held <= IDLE_BYTES_MAX,
                "{held:.0}; the bound is {IDLE_BYTES_MAX}"
            );
        }));
    }
}

#[track_caller]
fn assert_within(what: &str, bound: f64, measure: impl AsyncFn(Version) -> f64) {
    let _alone = alone();
    for version in BOTH {
        let counted = run(soon(what, measure(version)));
        println!("{what}, MQTT {version}: {counted:.2} allocations a message");
        assert!(
            counted <= bound,
            "{what}, MQTT {version}: {counted:.2} allocations a message; the bound is {bound}"
        );
    }
}

#[test]
fn a_message_of_qos_0_is_published_with_few_allocations() {
    assert_within("publish QoS 0", PUBLISH_QOS0_MAX, |version| {
        publishing(QoS::AtMostOnce, version, BURST)
    });
}

#[test]
fn a_message_of_qos_1_is_published_and_acknowledged_with_few_allocations() {
    assert_within("publish QoS 1", PUBLISH_QOS1_MAX, |version| {
        publishing(QoS::AtLeastOnce, version, BURST)
    });
}

#[test]
fn a_message_that_is_alone_is_published_with_few_allocations() {
    assert_within("publish one", LONE_QOS0_MAX, |version| {
        publishing(QoS::AtMostOnce, version, 1)
    });
}

#[test]
fn a_message_of_qos_0_is_received_with_few_allocations() {
    assert_within("receive QoS 0", RECEIVE_QOS0_MAX, |version| {
        receiving(QoS::AtMostOnce, version)
    });
}

#[test]
fn a_message_of_qos_1_is_received_and_acknowledged_with_few_allocations() {
    assert_within("receive QoS 1", RECEIVE_QOS1_MAX, |version| {
        receiving(QoS::AtLeastOnce, version)
    });
}
