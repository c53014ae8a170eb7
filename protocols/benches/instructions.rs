//! Question: how many instructions does the codec spend on a packet, and is that within its bound?
//!
//! Command: `cargo bench -p paquebot-protocols --bench instructions` (needs `valgrind`; `tests/run` installs it and runs this)
//!
//! Comparison: each row with its bound; one that is past it makes the program fail. Instructions are counted by
//! callgrind, so unlike times they are the same in each run on a machine, and nearly the same on all machines of an
//! architecture: only the C library's `memcpy` differs, by a few instructions.
//!
//! To add a row, write a function that handles `rounds` times [`PACKETS`] packets and name it in [`GATES`]. It is
//! run with one round and with two; the difference, divided by the packets of a round, is what a packet costs. So
//! the set-up is not counted, but the loop around the packets is.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement whose packets do not pass measures nothing"
)]

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::session::{
    ConnectOptions, Outgoing, Session, SessionConfig, Written,
};
use paquebot_protocols::mqtt::{
    Acknowledgement, ConnAck, Decoded, Decoder, Packet, PacketId, Properties, PublishRef,
    PublishSpan, QoS, ReasonCode, Sender, Topic, Version, encode, encode_publish,
};

/// Packets in a round.
const PACKETS: u16 = 4096;
/// How many packets are written before the buffer is used again: what a turn may write.
const BATCH: u16 = 256;
/// How much of a stream comes with one read; packets are cut where it ends.
const READ: usize = 64 * 1024;
const TOPIC: &str = "devices/dev-000123/telemetry";

struct Gate {
    name: &'static str,
    /// Most instructions for a packet.
    bound: u64,
    run: fn(rounds: u32),
}

/// For a PUBLISH that is found and left where it is.
const BORROWED_MAX: u64 = 300;

/// For a message that goes in a batch and whose PUBACK comes with those of its neighbours.
const SESSION_MAX: u64 = 660;

const GATES: [Gate; 15] = [
    Gate {
        name: "encode PUBLISH QoS 0, 64 bytes, MQTT 3.1.1",
        bound: 150,
        run: |rounds| write_publishes(rounds, QoS::AtMostOnce, &[b'x'; 64], Version::V311),
    },
    Gate {
        name: "encode PUBLISH QoS 1, 64 bytes, MQTT 3.1.1",
        bound: 160,
        run: |rounds| write_publishes(rounds, QoS::AtLeastOnce, &[b'x'; 64], Version::V311),
    },
    Gate {
        name: "encode PUBLISH QoS 1, 64 bytes, MQTT 5",
        bound: 160,
        run: |rounds| write_publishes(rounds, QoS::AtLeastOnce, &[b'x'; 64], Version::V5),
    },
    Gate {
        name: "encode PUBLISH QoS 1, 256 bytes, MQTT 3.1.1",
        bound: 180,
        run: |rounds| write_publishes(rounds, QoS::AtLeastOnce, &[b'x'; 256], Version::V311),
    },
    Gate {
        name: "encode PUBLISH QoS 1, 256 bytes, MQTT 5",
        bound: 180,
        run: |rounds| write_publishes(rounds, QoS::AtLeastOnce, &[b'x'; 256], Version::V5),
    },
    Gate {
        name: "encode PUBACK",
        bound: 70,
        run: write_acknowledgements,
    },
    // What a link does: a PUBLISH stays where it was read, and the whole read has one reference count.
    Gate {
        name: "decode PUBLISH in place QoS 0, MQTT 3.1.1",
        bound: BORROWED_MAX,
        run: |rounds| find_publishes(rounds, QoS::AtMostOnce, Version::V311),
    },
    Gate {
        name: "decode PUBLISH in place QoS 1, MQTT 3.1.1",
        bound: BORROWED_MAX,
        run: |rounds| find_publishes(rounds, QoS::AtLeastOnce, Version::V311),
    },
    Gate {
        name: "decode PUBLISH in place QoS 1, MQTT 5",
        bound: BORROWED_MAX,
        run: |rounds| find_publishes(rounds, QoS::AtLeastOnce, Version::V5),
    },
    Gate {
        // The topic is checked to be text once more when it is asked for.
        name: "decode PUBLISH in place, topic looked at",
        bound: 360,
        run: |rounds| look_at_publishes(rounds, Version::V311),
    },
    // Packets that own a share of the read: two reference counts each. No link reads this way.
    Gate {
        name: "decode owned PUBLISH QoS 0, 64 bytes, MQTT 3.1.1",
        bound: 580,
        run: |rounds| read_publishes(rounds, QoS::AtMostOnce, Version::V311),
    },
    Gate {
        name: "decode owned PUBLISH QoS 1, 64 bytes, MQTT 3.1.1",
        bound: 580,
        run: |rounds| read_publishes(rounds, QoS::AtLeastOnce, Version::V311),
    },
    Gate {
        name: "decode owned PUBLISH QoS 1, 64 bytes, MQTT 5",
        bound: 590,
        run: |rounds| read_publishes(rounds, QoS::AtLeastOnce, Version::V5),
    },
    Gate {
        name: "decode PUBACK",
        bound: 170,
        run: read_acknowledgements,
    },
    // With the counts of its topic and payload, the table of what is in flight and the identifiers.
    Gate {
        name: "publish QoS 1 in a session until PUBACK",
        bound: SESSION_MAX,
        run: publish_until_acknowledged,
    },
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        // What this program calls itself with, under valgrind.
        (Some("run"), Some(name)) => {
            let gate = GATES.iter().find(|gate| gate.name == name).unwrap();
            (gate.run)(arguments.next().unwrap().parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => check_all(),
    }
}

fn check_all() -> ExitCode {
    println!("instructions per packet{:>31}{:>10}", "bound", "counted");
    let mut are_kept = true;
    for gate in &GATES {
        let counted = per_packet(gate.name);
        let is_kept = counted <= gate.bound;
        are_kept &= is_kept;
        println!(
            "{:<49}{:>5}{counted:>10}{}",
            gate.name,
            gate.bound,
            if is_kept { "" } else { "   PAST ITS BOUND" }
        );
    }
    if are_kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn per_packet(name: &str) -> u64 {
    let packets = u64::from(PACKETS);
    (instructions(name, 2) - instructions(name, 1) + packets / 2) / packets
}

/// How many instructions a process executes that does nothing but `rounds` of this row.
fn instructions(name: &str, rounds: u32) -> u64 {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["run", name, &rounds.to_string()])
        .output();
    let output = match valgrind {
        Ok(output) => output,
        Err(error) => panic!("valgrind does not start ({error}): install the package valgrind"),
    };
    let log = String::from_utf8_lossy(&output.stderr);
    let counted = log
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match counted {
        Some(counted) if output.status.success() => counted,
        _ => panic!("{name} did not run to its end under valgrind:\n{log}"),
    }
}

fn write_publishes(rounds: u32, qos: QoS, payload: &[u8], version: Version) {
    let topic = Topic::from_static(TOPIC).unwrap();
    let properties = Properties::default();
    let mut output = BytesMut::with_capacity(usize::from(BATCH) * (payload.len() + 64));
    for _ in 0..rounds {
        for number in 0..PACKETS {
            if number % BATCH == 0 {
                black_box(&output);
                output.clear();
            }
            let publish = publish(&topic, &properties, number, qos, payload);
            encode_publish(black_box(&publish), version, &mut output).unwrap();
        }
    }
}

fn write_acknowledgements(rounds: u32) {
    let mut output = BytesMut::with_capacity(usize::from(BATCH) * 4);
    let packet = acknowledgement(1);
    for _ in 0..rounds {
        for number in 0..PACKETS {
            if number % BATCH == 0 {
                black_box(&output);
                output.clear();
            }
            encode(black_box(&packet), Version::V311, &mut output).unwrap();
        }
    }
}

fn read_publishes(rounds: u32, qos: QoS, version: Version) {
    read(rounds, &publishes(qos, version), version);
}

fn publishes(qos: QoS, version: Version) -> BytesMut {
    let topic = Topic::from_static(TOPIC).unwrap();
    let properties = Properties::default();
    let mut stream = BytesMut::new();
    for number in 0..PACKETS {
        let publish = publish(&topic, &properties, number, qos, &[b'x'; 64]);
        encode_publish(&publish, version, &mut stream).unwrap();
    }
    stream
}

fn find_publishes(rounds: u32, qos: QoS, version: Version) {
    find(rounds, &publishes(qos, version), version, |_, span| {
        black_box(span);
    });
}

fn look_at_publishes(rounds: u32, version: Version) {
    let stream = publishes(QoS::AtLeastOnce, version);
    find(rounds, &stream, version, |read, span| {
        black_box((span.topic(read), span.payload(read)));
    });
}

/// As [`read`], with the decoder that a link uses.
fn find(rounds: u32, stream: &[u8], version: Version, look: impl Fn(&[u8], &PublishSpan)) {
    let decoder = Decoder::new(version, Sender::Server, usize::MAX);
    let mut rest = BytesMut::new();
    let mut packets = 0;
    for _ in 0..rounds {
        for chunk in stream.chunks(READ) {
            rest.extend_from_slice(chunk);
            let read = rest.split().freeze();
            let mut at = 0;
            while let Some(span) = decoder.find_publish(&read, &mut at) {
                look(&read, &span);
                packets += 1;
            }
            rest.extend_from_slice(&read[at..]);
        }
    }
    assert_eq!(packets, rounds * u32::from(PACKETS));
}

fn read_acknowledgements(rounds: u32) {
    let mut stream = BytesMut::new();
    for number in 0..PACKETS {
        encode(&acknowledgement(number), Version::V311, &mut stream).unwrap();
    }
    read(rounds, &stream, Version::V311);
}

/// What a link does with a batch: writes it, and settles the PUBACKs of a read at once.
fn publish_until_acknowledged(rounds: u32) {
    let now = Instant::now();
    let mut session = online(now);
    let decoder = Decoder::new(Version::V311, Sender::Server, usize::MAX);
    let mut output = BytesMut::new();
    let mut input = Vec::new();
    let topic = Topic::from_static(TOPIC).unwrap();
    let payload = Bytes::from_static(&[b'x'; 64]);
    let mut ended = 0;
    for number in 0..rounds * u32::from(PACKETS) {
        let message = Outgoing {
            token: number.into(),
            topic: topic.clone(),
            payload: payload.clone(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
            expires_at: None,
        };
        let written = session.publish_into(now, black_box(message), &mut output);
        assert!(written.is_ok_and(|written| written == Written::Now));
        if (number + 1) % u32::from(BATCH) != 0 {
            continue;
        }
        let packet_len = output.len() / usize::from(BATCH);
        for packet in output.chunks(packet_len) {
            let id = &packet[packet_len - 66..packet_len - 64];
            input.extend_from_slice(&[0x40, 2, id[0], id[1]]);
        }
        let ids = decoder.find_pubacks(black_box(&input), 0);
        ended += session.handle_plain_pubacks(now, ids, |token| {
            black_box(token);
        });
        output.clear();
        input.clear();
    }
    assert_eq!(ended, rounds as usize * usize::from(PACKETS));
}

/// A session with a server that takes everything.
fn online(now: Instant) -> Session {
    let mut session = Session::new(SessionConfig {
        version: Version::V311,
        inflight_max: BATCH,
        ..SessionConfig::default()
    });
    let options = ConnectOptions {
        client_id: "boat".into(),
        clean_start: true,
        keep_alive: Duration::from_secs(60),
        session_expiry: None,
        username: None,
        password: None,
        will: None,
        authentication: None,
        user_properties: Vec::new(),
    };
    session.connect(now, options);
    session.poll_transmit(now, &mut BytesMut::new());
    let connack = ConnAck {
        session_present: false,
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    };
    session.handle_packet(now, Packet::ConnAck(connack));
    while session.poll_event().is_some() {}
    assert!(session.is_online());
    session
}

/// Reads the stream again and again as a link does: each read becomes one `Bytes`, and what is left of a packet
/// that is cut goes before the next.
fn read(rounds: u32, stream: &[u8], version: Version) {
    let mut decoder = Decoder::new(version, Sender::Server, usize::MAX);
    let mut rest = BytesMut::new();
    let mut packets = 0;
    for _ in 0..rounds {
        for chunk in stream.chunks(READ) {
            let mut input = if rest.is_empty() {
                Bytes::copy_from_slice(chunk)
            } else {
                rest.extend_from_slice(chunk);
                rest.split().freeze()
            };
            while let Decoded::Packet(packet) = decoder.decode(&mut input).unwrap() {
                black_box(&packet);
                packets += 1;
            }
            rest = BytesMut::from(&*input);
        }
    }
    assert_eq!(packets, rounds * u32::from(PACKETS));
}

fn publish<'a>(
    topic: &'a Topic,
    properties: &'a Properties,
    number: u16,
    qos: QoS,
    payload: &'a [u8],
) -> PublishRef<'a> {
    PublishRef {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic),
        packet_id: PacketId::new(number + 1).filter(|_| qos != QoS::AtMostOnce),
        payload,
        properties,
    }
}

fn acknowledgement(number: u16) -> Packet {
    Packet::PubAck(Acknowledgement {
        packet_id: PacketId::new(number + 1).unwrap(),
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    })
}
