//! Servers that break the protocol: the link closes with the reason, comes back with back-off, and keeps
//! neither memory nor the other links of its thread busy.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paquebot::mqtt::session::CloseReason;
use paquebot::mqtt::{QoS, ReasonCode, Version};
use paquebot::{Fleet, GroupBuilder, Link, LinkEvent, LinkState, Telemetry};
use paquebot_emulator::{Broker, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, disconnected, drain, event, fleet, group, metric, online, quick, retrying,
    silent, soon, start, url,
};

/// A server that answers CONNECT with what the test says and keeps no rule.
struct Rogue {
    listener: TcpListener,
    address: SocketAddr,
}

impl Rogue {
    async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Links that say nothing of their own: the server acknowledges nothing.
    fn group(&self, fleet: &Fleet, version: Version) -> GroupBuilder {
        group(fleet, &self.url(), version).dialect(silent())
    }

    /// Takes the next client and reads its CONNECT.
    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = soon("the link connects", self.listener.accept())
            .await
            .unwrap();
        let mut connect = [0; 1024];
        let read = soon("CONNECT comes", stream.read(&mut connect))
            .await
            .unwrap();
        assert_eq!(connect[0], 0x10, "{read} bytes");
        stream
    }

    /// The same with an answer that accepts it.
    async fn accept_session(&self, version: Version) -> TcpStream {
        let mut stream = self.accept().await;
        stream.write_all(connack(version)).await.unwrap();
        stream
    }
}

fn connack(version: Version) -> &'static [u8] {
    match version {
        Version::V311 => &[0x20, 2, 0, 0],
        Version::V5 => &[0x20, 3, 0, 0, 0],
    }
}

/// A link that nothing of this is about, on the same thread.
struct Neighbour {
    link: Link,
    broker: Broker,
}

impl Neighbour {
    async fn start(fleet: &Fleet) -> Self {
        let broker = broker().await;
        let link = start(group(fleet, &url(&broker), Version::V5), "neighbour");
        online(&link).await;
        Self { link, broker }
    }

    async fn is_untouched(&self) {
        let receipt = self.link.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
        assert_eq!(self.link.state(), LinkState::Online);
        let stats = self.broker.stats();
        assert_eq!((stats.connects_accepted, stats.disconnects), (1, 0));
    }
}

#[derive(Clone, Copy)]
enum When {
    InsteadOfConnack,
    AfterConnack,
}

use When::{AfterConnack, InsteadOfConnack};

/// What it is, when it is sent, to whom, the bytes.
type Row = (&'static str, When, &'static [Version], &'static [u8]);

const V311: &[Version] = &[Version::V311];
const V5: &[Version] = &[Version::V5];

const VIOLATIONS: &[Row] = &[
    (
        "text",
        InsteadOfConnack,
        &BOTH,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ),
    (
        "a TLS alert",
        InsteadOfConnack,
        &BOTH,
        &[0x15, 3, 3, 0, 2, 2, 40],
    ),
    ("zeroes", InsteadOfConnack, &BOTH, &[0; 16]),
    ("all ones", InsteadOfConnack, &BOTH, &[0xff; 16]),
    ("PINGRESP first", InsteadOfConnack, &BOTH, &[0xd0, 0]),
    ("SUBACK first", InsteadOfConnack, V311, &[0x90, 3, 0, 1, 0]),
    (
        "PUBLISH first",
        InsteadOfConnack,
        V311,
        &[0x30, 4, 0, 1, b't', b'x'],
    ),
    (
        "CONNECT back",
        InsteadOfConnack,
        V311,
        &[
            0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'x',
        ],
    ),
    (
        "CONNACK with flags",
        InsteadOfConnack,
        &BOTH,
        &[0x21, 2, 0, 0],
    ),
    (
        "CONNACK with reserved bits",
        InsteadOfConnack,
        V311,
        &[0x20, 2, 2, 0],
    ),
    ("CONNACK too short", InsteadOfConnack, &BOTH, &[0x20, 1, 0]),
    (
        "CONNACK too long",
        InsteadOfConnack,
        V311,
        &[0x20, 3, 0, 0, 0],
    ),
    (
        "session present and refused",
        InsteadOfConnack,
        V311,
        &[0x20, 2, 1, 5],
    ),
    (
        "an unknown property",
        InsteadOfConnack,
        V5,
        &[0x20, 5, 0, 0, 2, 0x7f, 0],
    ),
    (
        "a property twice",
        InsteadOfConnack,
        V5,
        &[0x20, 9, 0, 0, 6, 0x21, 0, 5, 0x21, 0, 5],
    ),
    (
        "receive maximum 0",
        InsteadOfConnack,
        V5,
        &[0x20, 6, 0, 0, 3, 0x21, 0, 0],
    ),
    (
        "AUTH out of the blue",
        InsteadOfConnack,
        V5,
        &[0xf0, 2, 0x18, 0],
    ),
    ("a second CONNACK", AfterConnack, V311, &[0x20, 2, 0, 0]),
    ("a second CONNACK", AfterConnack, V5, &[0x20, 3, 0, 0, 0]),
    (
        "SUBSCRIBE from a server",
        AfterConnack,
        V311,
        &[0x82, 6, 0, 1, 0, 1, b't', 0],
    ),
    ("PINGREQ from a server", AfterConnack, &BOTH, &[0xc0, 0]),
    ("packet type 0", AfterConnack, &BOTH, &[0x00, 0]),
    ("packet type 15", AfterConnack, V311, &[0xf0, 0]),
    ("DISCONNECT from a server", AfterConnack, V311, &[0xe0, 0]),
    ("PINGRESP with a body", AfterConnack, &BOTH, &[0xd0, 1, 0]),
    (
        "QoS 3",
        AfterConnack,
        V311,
        &[0x36, 6, 0, 1, b't', 0, 1, b'x'],
    ),
    (
        "DUP on QoS 0",
        AfterConnack,
        V311,
        &[0x38, 4, 0, 1, b't', b'x'],
    ),
    (
        "a wildcard topic",
        AfterConnack,
        V311,
        &[0x30, 4, 0, 1, b'#', b'x'],
    ),
    ("an empty topic", AfterConnack, V311, &[0x30, 3, 0, 0, b'x']),
    (
        "a topic that is no UTF-8",
        AfterConnack,
        V311,
        &[0x30, 5, 0, 2, 0xc3, 0x28, b'x'],
    ),
    (
        "a topic with NUL",
        AfterConnack,
        V311,
        &[0x30, 4, 0, 1, 0, b'x'],
    ),
    (
        "a topic longer than its packet",
        AfterConnack,
        V311,
        &[0x30, 4, 0, 9, b't', b'x'],
    ),
    (
        "packet identifier 0",
        AfterConnack,
        V311,
        &[0x32, 6, 0, 1, b't', 0, 0, b'x'],
    ),
    (
        "PUBREL with wrong flags",
        AfterConnack,
        &BOTH,
        &[0x60, 2, 0, 1],
    ),
    (
        "a length of five bytes",
        AfterConnack,
        &BOTH,
        &[0x30, 0xff, 0xff, 0xff, 0xff, 1],
    ),
    (
        "SUBACK with an unknown code",
        AfterConnack,
        V311,
        &[0x90, 3, 0, 1, 3],
    ),
    (
        "an alias that stands for nothing",
        AfterConnack,
        V5,
        &[0x30, 7, 0, 0, 3, 0x23, 0, 1, b'x'],
    ),
    (
        "alias 0",
        AfterConnack,
        V5,
        &[0x30, 8, 0, 1, b't', 3, 0x23, 0, 0, b'x'],
    ),
    (
        "an alias above the limit",
        AfterConnack,
        V5,
        &[0x30, 8, 0, 1, b't', 3, 0x23, 0x7f, 0xff, b'x'],
    ),
    (
        "subscription identifier 0",
        AfterConnack,
        V5,
        &[0x30, 7, 0, 1, b't', 2, 0x0b, 0, b'x'],
    ),
    (
        "a property of another packet",
        AfterConnack,
        V5,
        &[0x30, 8, 0, 1, b't', 3, 0x21, 0, 1, b'x'],
    ),
    (
        "properties longer than their packet",
        AfterConnack,
        V5,
        &[0x30, 5, 0, 1, b't', 9, b'x'],
    ),
    (
        "a reason code of another packet",
        AfterConnack,
        V5,
        &[0x40, 3, 0, 1, 0x8e],
    ),
];

#[tokio::test]
async fn each_broken_rule_closes_the_link_with_the_reason_and_it_comes_back() {
    let fleet = fleet();
    let neighbour = Neighbour::start(&fleet).await;
    let mut count = 0;
    for (what, when, versions, bytes) in VIOLATIONS {
        for &version in *versions {
            let rogue = Rogue::listen().await;
            let group = rogue.group(&fleet, version).build().unwrap();
            let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
            let mut stream = match when {
                InsteadOfConnack => rogue.accept().await,
                AfterConnack => rogue.accept_session(version).await,
            };
            stream.write_all(bytes).await.unwrap();
            let reason = disconnected(&mut events).await;
            let CloseReason::ProtocolViolation {
                clause, message, ..
            } = &reason
            else {
                panic!("{what} ({version}): {reason:?}");
            };
            assert!(
                !clause.is_empty() && !message.is_empty(),
                "{what}: {reason:?}"
            );
            assert!(retrying(&mut events).await > Duration::ZERO);
            // On MQTT 5 the server is told why, once there is a session to leave.
            let mut rest = Vec::new();
            // A reset is as good an end as any.
            let _ = soon("the link closes the socket", stream.read_to_end(&mut rest)).await;
            let farewell = rest.windows(2).any(|pair| pair[0] == 0xe0 && pair[1] > 0);
            let told = version == Version::V5 && matches!(when, AfterConnack);
            assert!(farewell || !told, "{what}: {rest:02x?}");
            drop(stream);
            // It comes back, and a server that mended its ways has it online.
            let stream = rogue.accept_session(version).await;
            online(&link).await;
            soon("the link stops", link.stop()).await;
            drop(stream);
            count += 1;
        }
    }
    assert_eq!(
        metric(
            &fleet,
            "paquebot_connect_attempts_total",
            &["protocol_error"]
        ) + metric(&fleet, "paquebot_disconnects_total", &["protocol_error"]),
        f64::from(count)
    );
    neighbour.is_untouched().await;
    drain(&fleet).await;
}

#[tokio::test]
async fn failures_in_a_row_are_further_and_further_apart() {
    let fleet = fleet();
    let rogue = Rogue::listen().await;
    let group = rogue.group(&fleet, Version::V5).build().unwrap();
    let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
    // Online each time: a server that accepts and misbehaves at once does not reset the delay.
    for expected in [20, 40, 80, 160, 200, 200] {
        let mut stream = rogue.accept_session(Version::V5).await;
        stream.write_all(&[0xff, 0xff]).await.unwrap();
        assert_eq!(retrying(&mut events).await, Duration::from_millis(expected));
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn a_server_may_leave_with_a_reason_and_it_is_told_on() {
    let fleet = fleet();
    let rogue = Rogue::listen().await;
    let group = rogue.group(&fleet, Version::V5).build().unwrap();
    let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
    let mut stream = rogue.accept_session(Version::V5).await;
    // Server shutting down, "tea".
    stream
        .write_all(&[0xe0, 8, 0x8b, 6, 0x1f, 0, 3, b't', b'e', b'a'])
        .await
        .unwrap();
    let reason = disconnected(&mut events).await;
    let CloseReason::ServerDisconnect {
        code,
        reason_string,
        ..
    } = &reason
    else {
        panic!("{reason:?}");
    };
    assert_eq!(
        (*code, reason_string.as_deref()),
        (ReasonCode::SERVER_SHUTTING_DOWN, Some("tea"))
    );
    drain(&fleet).await;
}

#[tokio::test]
async fn a_packet_over_the_limit_is_refused_by_its_claim_before_its_bytes() {
    for version in BOTH {
        for (claim, limit) in [
            // 256 MiB less one byte; 1 MiB, whose fixed header puts the packet over the limit.
            (&[0x30, 0xff, 0xff, 0xff, 0x7f][..], 1024 * 1024),
            (&[0x30, 0x80, 0x80, 0x40][..], 1024 * 1024),
            (&[0x30, 0x80, 0x01][..], 130),
        ] {
            let fleet = fleet();
            let rogue = Rogue::listen().await;
            let builder = rogue.group(&fleet, version).packet_size_max(limit);
            let group = builder.build().unwrap();
            let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
            let mut stream = rogue.accept_session(version).await;
            stream.write_all(claim).await.unwrap();
            let reason = disconnected(&mut events).await;
            assert!(
                matches!(&reason, CloseReason::ProtocolViolation { code, .. } if *code == ReasonCode::PACKET_TOO_LARGE),
                "{reason:?}"
            );
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn a_packet_of_just_the_limit_is_taken_in_whatever_pieces_it_comes() {
    for version in BOTH {
        let fleet = fleet();
        let rogue = Rogue::listen().await;
        let builder = rogue.group(&fleet, version).packet_size_max(131);
        let group = builder.build().unwrap();
        let link = support::fleet::start_in(&group, "d1");
        let mut stream = rogue.accept_session(version).await;
        online(&link).await;
        let mut subscription = link.subscribe("t", QoS::AtMostOnce).await.unwrap();
        let mut packet = vec![0x30, 0x80, 0x01, 0, 1, b't'];
        if version == Version::V5 {
            packet.push(0);
        }
        packet.resize(131, b'x');
        for byte in packet {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let message = soon("it comes", subscription.next()).await.unwrap();
        assert!(message.payload().iter().all(|byte| *byte == b'x'));
        drain(&fleet).await;
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// What the tests of this file that run beside this one may take meanwhile.
const GROWTH_MAX: u64 = 96 * 1024 * 1024;

/// Sends `unit` again and again, reading nothing, until `bytes` are gone, the time is over or the link
/// closes. Tells how many bytes the link took.
async fn flood(stream: &mut TcpStream, unit: &[u8], bytes: usize, time: Duration) -> usize {
    let chunk: Vec<u8> = unit
        .iter()
        .copied()
        .cycle()
        .take(unit.len() * 16_384)
        .collect();
    let mut sent = 0;
    let sending = async {
        while sent < bytes {
            match stream.write(&chunk[sent % unit.len()..]).await {
                Ok(count) if count > 0 => sent += count,
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(time, sending).await;
    sent
}

#[tokio::test]
async fn endless_tiny_packets_take_no_memory_and_leave_the_thread_to_others() {
    for (what, version, unit) in [
        ("PINGRESP", Version::V311, &[0xd0, 0][..]),
        ("PUBACK for nothing", Version::V311, &[0x40, 2, 0, 9]),
        (
            "PUBLISH QoS 0",
            Version::V5,
            &[0x30, 5, 0, 1, b't', 0, b'x'],
        ),
    ] {
        let fleet = fleet();
        let neighbour = Neighbour::start(&fleet).await;
        let rogue = Rogue::listen().await;
        let link = start(rogue.group(&fleet, version), "d1");
        let mut stream = rogue.accept_session(version).await;
        online(&link).await;
        let before = resident();
        let flooding = tokio::spawn(async move {
            flood(&mut stream, unit, 64 << 20, Duration::from_secs(1)).await
        });
        while !flooding.is_finished() {
            neighbour.is_untouched().await;
        }
        assert!(
            flooding.await.unwrap() > 1 << 20,
            "{what} did not get through"
        );
        let grown = resident().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{what}: {grown} bytes");
        drain(&fleet).await;
    }
}

/// Over a pipe that holds little, so that answers pile up at once.
#[tokio::test]
async fn a_server_that_calls_for_answers_and_reads_none_is_left() {
    for (what, version, unit) in [
        ("PUBREL for nothing", Version::V311, &[0x62, 2, 0, 9][..]),
        ("PUBREC for nothing", Version::V5, &[0x50, 2, 0, 9]),
    ] {
        let fleet = fleet();
        let neighbour = Neighbour::start(&fleet).await;
        let (sender, mut servers) = tokio::sync::mpsc::unbounded_channel();
        let connector = move || {
            let (client, server) = tokio::io::duplex(64 * 1024);
            sender.send(server).map_err(std::io::Error::other)?;
            Ok(client)
        };
        let builder = fleet.group("rogue").pipe(Arc::new(connector));
        let builder = builder.version(version).backoff(quick()).dialect(silent());
        let group = builder.build().unwrap();
        let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
        let mut server = soon("the link connects", servers.recv()).await.unwrap();
        server.write_all(connack(version)).await.unwrap();
        online(&link).await;
        let before = resident();
        let flooding = tokio::spawn(async move {
            let chunk: Vec<u8> = unit
                .iter()
                .copied()
                .cycle()
                .take(unit.len() * 4096)
                .collect();
            while server.write_all(&chunk).await.is_ok() {}
        });
        let reason = disconnected(&mut events).await;
        assert!(
            matches!(&reason, CloseReason::ProtocolViolation { code, .. } if *code == ReasonCode::QUOTA_EXCEEDED),
            "{what}: {reason:?}"
        );
        let grown = resident().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{what} ({version}): {grown} bytes");
        neighbour.is_untouched().await;
        soon("the flood ends", flooding).await.unwrap();
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn qos_2_identifiers_beyond_the_receive_maximum_close_the_link() {
    let fleet = fleet();
    let rogue = Rogue::listen().await;
    let builder = rogue.group(&fleet, Version::V5).receive_maximum(10);
    let group = builder.build().unwrap();
    let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
    // Nobody takes them, so none is acknowledged.
    let _subscription = link.subscribe("t", QoS::ExactlyOnce).await.unwrap();
    let mut stream = rogue.accept().await;
    stream.write_all(connack(Version::V5)).await.unwrap();
    for id in 1..=11 {
        let publish = [0x34, 7, 0, 1, b't', 0, id, 0, b'x'];
        stream.write_all(&publish).await.unwrap();
    }
    let reason = disconnected(&mut events).await;
    let code = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
    assert!(
        matches!(&reason, CloseReason::ProtocolViolation { code: said, .. } if *said == code),
        "{reason:?}"
    );
    drain(&fleet).await;
}

#[tokio::test]
async fn a_server_that_never_answers_connect_is_given_up_at_the_deadline() {
    for version in BOTH {
        let fleet = fleet();
        let rogue = Rogue::listen().await;
        let builder = rogue.group(&fleet, version);
        let builder = builder.connack_timeout(Duration::from_millis(200));
        let group = builder.build().unwrap();
        let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
        let _stream = rogue.accept().await;
        assert_eq!(disconnected(&mut events).await, CloseReason::ConnackTimeout);
        let _again = rogue.accept().await;
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_client_that_loses_its_mind_in_mid_session_is_back_with_everything() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let neighbour = Neighbour::start(&fleet).await;
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let mut subscription = link.subscribe("t", QoS::AtLeastOnce).await.unwrap();
        soon("it is subscribed", subscription.ready())
            .await
            .unwrap();
        online(&link).await;
        let mut events = link.events();
        for n in 0..5_u8 {
            let message = paquebot::Publish::new("up", vec![n]).unwrap();
            let receipt = link
                .publish(message.with_qos(QoS::ExactlyOnce))
                .await
                .unwrap();
            assert_eq!(
                broker
                    .faults()
                    .send_raw(&Target::client("d1"), &b"\xff\xff\xff"[..]),
                1
            );
            event(&mut events, "ProtocolViolation", |event| {
                matches!(
                    event,
                    LinkEvent::Disconnected {
                        reason: CloseReason::ProtocolViolation { .. }
                    }
                )
                .then_some(())
            })
            .await;
            assert!(soon("it is delivered", receipt).await.is_delivered());
            online(&link).await;
            let topic = paquebot::mqtt::Topic::new("t").unwrap();
            broker.publish(topic, vec![n], QoS::AtLeastOnce, false);
            let message = soon("it comes", subscription.next()).await.unwrap();
            assert_eq!(message.payload()[..], [n]);
        }
        neighbour.is_untouched().await;
        drain(&fleet).await;
    }
}
