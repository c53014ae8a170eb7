//! Question: what does the session add to the codec for a message that is sent, and for one that arrives?
//!
//! Command: `cargo bench --bench session`
//!
//! Comparison: "codec alone" writes and reads the same packets without a session, and so is what no session
//! can be cheaper than. mqttrs has no session to compare with. Quote the ratios: absolute figures do not hold
//! between machines.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose messages do not pass measures nothing"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paquebot::mqtt::session::{ConnectOptions, Event, Outgoing, Session, SessionConfig};
use paquebot::mqtt::{
    Acknowledgement, ConnAck, Decoded, Decoder, Packet, PacketId, Properties, Publish, QoS,
    ReasonCode, Sender, Topic, Version, encode,
};

const TOPIC: &str = "devices/dev-000123/telemetry";
/// Messages under way at once.
const WINDOW: u16 = 256;
const SIZE: usize = 64;

/// QoS 1: 256 messages out, their 256 PUBACKs in.
fn send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish at QoS 1 and be acknowledged, 64 bytes");
    group.throughput(Throughput::Elements(WINDOW.into()));
    let now = Instant::now();
    let topic = Topic::from_static(TOPIC).unwrap();
    let payload = Bytes::from(vec![b'x'; SIZE]);
    group.bench_function("session and codec", |bencher| {
        let mut session = online(now);
        let mut output = BytesMut::new();
        bencher.iter(|| {
            for token in 0..WINDOW {
                let message = Outgoing {
                    token: token.into(),
                    topic: topic.clone(),
                    payload: payload.clone(),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    properties: Properties::default(),
                    expires_at: None,
                };
                session.publish(now, message).unwrap();
            }
            output.clear();
            assert!(session.poll_transmit(now, &mut output));
            let mut input = acknowledge(&output);
            let mut decoder = decoder();
            while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
                session.handle_packet(now, packet);
            }
            assert_eq!(ended(&mut session), WINDOW);
        });
    });
    group.bench_function("codec alone", |bencher| {
        let mut output = BytesMut::new();
        bencher.iter(|| {
            output.clear();
            for id in 1..=WINDOW {
                let packet = publish(&topic, &payload, id);
                encode(&packet, Version::V311, &mut output).unwrap();
            }
            let mut input = acknowledge(&output);
            let mut decoder = decoder();
            let mut count = 0;
            while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
                black_box(packet);
                count += 1;
            }
            assert_eq!(count, WINDOW);
        });
    });
    group.finish();
}

/// QoS 1: 256 messages in, their 256 PUBACKs out.
fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive at QoS 1 and acknowledge, 64 bytes");
    group.throughput(Throughput::Elements(WINDOW.into()));
    let now = Instant::now();
    let topic = Topic::from_static(TOPIC).unwrap();
    let payload = Bytes::from(vec![b'x'; SIZE]);
    let mut stream = BytesMut::new();
    for id in 1..=WINDOW {
        encode(&publish(&topic, &payload, id), Version::V311, &mut stream).unwrap();
    }
    let stream = stream.freeze();
    group.bench_function("session and codec", |bencher| {
        let mut session = online(now);
        let mut output = BytesMut::new();
        bencher.iter(|| {
            let (mut input, mut decoder) = (stream.clone(), decoder());
            while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
                session.handle_packet(now, packet);
            }
            while let Some(event) = session.poll_event() {
                if let Event::Message(message) = event {
                    session.acknowledge(now, message.id.unwrap());
                }
            }
            output.clear();
            assert!(session.poll_transmit(now, &mut output));
            assert_eq!(output.len(), usize::from(WINDOW) * 4);
        });
    });
    group.bench_function("codec alone", |bencher| {
        let mut output = BytesMut::new();
        bencher.iter(|| {
            let (mut input, mut decoder) = (stream.clone(), decoder());
            output.clear();
            while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
                if let Packet::Publish(publish) = packet {
                    let packet = acknowledgement(publish.packet_id.unwrap());
                    encode(&packet, Version::V311, &mut output).unwrap();
                }
            }
            assert_eq!(output.len(), usize::from(WINDOW) * 4);
        });
    });
    group.finish();
}

fn online(now: Instant) -> Session {
    let mut session = Session::new(SessionConfig::default());
    session.connect(
        now,
        ConnectOptions {
            client_id: "bench".into(),
            clean_start: true,
            keep_alive: Duration::ZERO,
            session_expiry: None,
            username: None,
            password: None,
            will: None,
            authentication: None,
            user_properties: Vec::new(),
        },
    );
    session.handle_packet(
        now,
        Packet::ConnAck(ConnAck {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties::default(),
        }),
    );
    session.poll_transmit(now, &mut BytesMut::new());
    while session.poll_event().is_some() {}
    assert!(session.is_online());
    session
}

fn decoder() -> Decoder {
    Decoder::new(Version::V311, Sender::Either, usize::MAX)
}

fn publish(topic: &Topic, payload: &Bytes, id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(topic.clone()),
        packet_id: PacketId::new(id),
        payload: payload.clone(),
        properties: Properties::default(),
    })
}

fn acknowledgement(packet_id: PacketId) -> Packet {
    Packet::PubAck(Acknowledgement {
        packet_id,
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::default(),
    })
}

/// The PUBACKs for a stream of publishes of one length; the identifiers stand behind the topic.
fn acknowledge(stream: &[u8]) -> Bytes {
    let frame = stream.len() / usize::from(WINDOW);
    let id_at = 2 + 2 + TOPIC.len();
    let mut answer = BytesMut::with_capacity(usize::from(WINDOW) * 4);
    for frame in stream.chunks_exact(frame) {
        answer.extend_from_slice(&[0x40, 2, frame[id_at], frame[id_at + 1]]);
    }
    answer.freeze()
}

fn ended(session: &mut Session) -> u16 {
    let mut count = 0;
    while let Some(event) = session.poll_event() {
        count += u16::from(matches!(event, Event::Delivered { .. }));
    }
    count
}

criterion_group!(benches, send, receive);
criterion_main!(benches);
