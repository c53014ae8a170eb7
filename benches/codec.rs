//! Question: what does it cost to write and to read a PUBLISH, and how does that compare with mqttrs?
//!
//! Command: `cargo bench --bench codec`
//!
//! Comparison: `mqttrs`, a small codec for MQTT 3.1.1 without async. Both write the same 256 messages into one
//! buffer that is used again, and both read the same stream of 256 messages. mqttrs lends slices of the
//! buffer; paquebot gives messages that own a share of it and may leave the thread, so its reading does
//! more. The same over MQTT 5, which mqttrs does not speak, stands beside it. Quote the ratios: absolute figures do
//! not hold between machines. Instructions, which do, are counted by `protocols/benches/instructions.rs`.
#![expect(
    clippy::unwrap_used,
    reason = "a bench whose messages do not pass measures nothing"
)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paquebot::mqtt::{
    Decoded, Decoder, PacketId, Properties, PublishRef, QoS, Sender, Topic, Version, encode_publish,
};

const TOPIC: &str = "devices/dev-000123/telemetry";
const MESSAGES: u16 = 256;
const SIZES: [usize; 3] = [64, 256, 4096];
const OURS: [(&str, Version); 2] = [
    ("paquebot", Version::V311),
    ("paquebot, MQTT 5", Version::V5),
];

fn encode(criterion: &mut Criterion) {
    for size in SIZES {
        let mut group = criterion.benchmark_group(format!("encode PUBLISH QoS 1, {size} bytes"));
        group.throughput(Throughput::Elements(MESSAGES.into()));
        let payload = vec![b'x'; size];
        for (name, version) in OURS {
            group.bench_function(name, |bencher| {
                let mut output = BytesMut::new();
                bencher.iter(|| {
                    output.clear();
                    write_ours(black_box(&payload), version, &mut output);
                });
            });
        }
        group.bench_function("mqttrs", |bencher| {
            let mut output = vec![0; stream(&payload, Version::V311).len()];
            bencher.iter(|| write_mqttrs(black_box(&payload), &mut output));
        });
        group.finish();
    }
}

fn decode(criterion: &mut Criterion) {
    for size in SIZES {
        let mut group = criterion.benchmark_group(format!("decode PUBLISH QoS 1, {size} bytes"));
        group.throughput(Throughput::Elements(MESSAGES.into()));
        let payload = vec![b'x'; size];
        for (name, version) in OURS {
            let stream = stream(&payload, version);
            group.bench_function(name, |bencher| {
                bencher.iter(|| read_ours(&stream, version));
            });
        }
        let stream = stream(&payload, Version::V311);
        group.bench_function("mqttrs", |bencher| bencher.iter(|| read_mqttrs(&stream)));
        group.finish();
    }
}

fn write_ours(payload: &[u8], version: Version, output: &mut BytesMut) {
    let topic = Topic::from_static(TOPIC).unwrap();
    let properties = Properties::default();
    for id in 1..=MESSAGES {
        let publish = PublishRef {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Some(&topic),
            packet_id: PacketId::new(id),
            payload,
            properties: &properties,
        };
        encode_publish(&publish, version, output).unwrap();
    }
}

fn write_mqttrs(payload: &[u8], output: &mut [u8]) -> usize {
    let mut written = 0;
    for id in 1..=MESSAGES {
        let packet = mqttrs::Packet::Publish(mqttrs::Publish {
            dup: false,
            qospid: mqttrs::QosPid::AtLeastOnce(mqttrs::Pid::try_from(id).unwrap()),
            retain: false,
            topic_name: TOPIC,
            payload,
        });
        written += mqttrs::encode_slice(&packet, &mut output[written..]).unwrap();
    }
    written
}

fn stream(payload: &[u8], version: Version) -> Bytes {
    let mut output = BytesMut::new();
    write_ours(payload, version, &mut output);
    output.freeze()
}

fn read_ours(stream: &Bytes, version: Version) -> usize {
    let mut decoder = Decoder::new(version, Sender::Server, usize::MAX);
    let mut input = stream.clone();
    let mut packets = 0;
    while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
        black_box(packet);
        packets += 1;
    }
    assert_eq!(packets, usize::from(MESSAGES));
    packets
}

fn read_mqttrs(stream: &Bytes) -> usize {
    // Its decoder does not tell how long a packet is, so its reader finds the frames itself.
    let (mut offset, mut packets) = (0, 0);
    while let Ok(Some(packet)) = mqttrs::decode_slice(&stream[offset..]) {
        black_box(&packet);
        offset += frame_length(&stream[offset..]);
        packets += 1;
    }
    assert_eq!(packets, usize::from(MESSAGES));
    packets
}

/// The length of the packet that `bytes` begins with, from its remaining length `[MQTT-2.2.3]`.
fn frame_length(bytes: &[u8]) -> usize {
    let (mut length, mut shift) = (0, 0);
    for (index, byte) in bytes[1..].iter().enumerate() {
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return length + index + 2;
        }
    }
    bytes.len()
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
