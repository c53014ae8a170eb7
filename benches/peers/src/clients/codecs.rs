//! Codecs without sockets: PUBLISH into a buffer and out of a stream that is cut every 64 KiB.

use std::hint::black_box;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ntex::codec::{Decoder as _, Encoder as _};
use ntex::util::{BytePages, ByteString};
use paquebot::mqtt as ours;

use crate::Failure;
use crate::client::Client;
use crate::measure::{Column, Sample};
use crate::work::{Codec, TOPIC, Timing, publish_frame};

/// Packets that are encoded into one buffer before it is used again.
const ENCODED: u16 = 256;

/// How often the buffer is filled in one pass, so that making it does not count.
const PASSES: usize = 16;

/// What one read of a socket would bring.
const CHUNK_LEN: usize = 64 << 10;

/// The stream that is decoded again and again.
const STREAM_LEN: usize = 1 << 20;

/// Nanoseconds a packet to encode and to decode.
pub(crate) fn run(client: Client, codec: Codec, timing: Timing) -> Result<Sample, Failure> {
    let frame = publish_frame(codec.qos, codec.payload_len).bytes;
    let stream = frame.repeat(STREAM_LEN / frame.len());
    let payload = vec![b'x'; codec.payload_len];
    let (encode, decode) = match client {
        Client::Paquebot => (
            time(timing, || encode_ours(codec.qos, &payload))?,
            time(timing, || decode_ours(&stream))?,
        ),
        Client::PaquebotOwned => (
            time(timing, || encode_ours(codec.qos, &payload))?,
            time(timing, || decode_ours_owned(&stream))?,
        ),
        Client::RumqttcV4 => (
            time(timing, || encode_rumqttc(codec.qos, &payload))?,
            time(timing, || decode_rumqttc(&stream))?,
        ),
        Client::Mqttrs => (
            time(timing, || encode_mqttrs(codec.qos, &payload))?,
            time(timing, || decode_mqttrs(&stream))?,
        ),
        Client::Ntex => (
            time(timing, || encode_ntex(codec.qos, &payload))?,
            time(timing, || decode_ntex(&stream))?,
        ),
        _ => return Err(format!("{} has no codec of its own", client.id()).into()),
    };
    Ok(Sample::default()
        .with(Column::Encode, encode)
        .with(Column::Decode, decode))
}

/// Runs a pass again and again for the span and gives nanoseconds a packet.
fn time(timing: Timing, mut pass: impl FnMut() -> Result<usize, Failure>) -> Result<f64, Failure> {
    let run = |span: Duration, pass: &mut dyn FnMut() -> Result<usize, Failure>| {
        let (start, mut packets) = (Instant::now(), 0);
        while start.elapsed() < span {
            packets += pass()?;
        }
        Ok::<_, Failure>(start.elapsed().as_nanos() as f64 / packets as f64)
    };
    run(timing.warm_up / 10, &mut pass)?;
    run(timing.span / 10, &mut pass)
}

fn encode_ours(qos: u8, payload: &[u8]) -> Result<usize, Failure> {
    let topic = ours::Topic::from_static(TOPIC)?;
    let properties = ours::Properties::default();
    let mut output = BytesMut::with_capacity(CHUNK_LEN);
    for _ in 0..PASSES {
        output.clear();
        for id in 1..=ENCODED {
            let publish = ours::PublishRef {
                dup: false,
                qos: match qos {
                    0 => ours::QoS::AtMostOnce,
                    _ => ours::QoS::AtLeastOnce,
                },
                retain: false,
                topic: Some(&topic),
                packet_id: (qos > 0).then(|| ours::PacketId::new(id)).flatten(),
                payload: black_box(payload),
                properties: &properties,
            };
            ours::encode_publish(&publish, ours::Version::V311, &mut output)?;
        }
        black_box(&output);
    }
    Ok(PASSES * usize::from(ENCODED))
}

/// As a link decodes: where the parts of each message are in the read.
fn decode_ours(stream: &[u8]) -> Result<usize, Failure> {
    let decoder = ours::Decoder::new(ours::Version::V311, ours::Sender::Server, 1 << 20);
    let mut packets = 0;
    in_reads(stream, |input| {
        let mut at = 0;
        while let Some(span) = decoder.find_publish(input, &mut at) {
            black_box((span.topic(input), span.payload(input)));
            packets += 1;
        }
        Ok(at)
    })?;
    Ok(packets)
}

/// Packets that may outlive the read.
fn decode_ours_owned(stream: &[u8]) -> Result<usize, Failure> {
    let mut decoder = ours::Decoder::new(ours::Version::V311, ours::Sender::Server, 1 << 20);
    let mut packets = 0;
    in_reads(stream, |input| {
        let mut rest = input.clone();
        while let ours::Decoded::Packet(packet) = decoder.decode(&mut rest)? {
            black_box(packet);
            packets += 1;
        }
        Ok(input.len() - rest.len())
    })?;
    Ok(packets)
}

/// Gives `decode` one read after the other, each with what it left of the one before in front, in a buffer
/// that is used again.
fn in_reads(
    stream: &[u8],
    mut decode: impl FnMut(&Bytes) -> Result<usize, Failure>,
) -> Result<(), Failure> {
    let (mut buffer, mut carry) = (BytesMut::new(), Vec::new());
    for chunk in stream.chunks(CHUNK_LEN) {
        buffer.reserve(carry.len() + CHUNK_LEN);
        buffer.extend_from_slice(&carry);
        buffer.extend_from_slice(chunk);
        let input = buffer.split().freeze();
        let taken = decode(&input)?;
        carry.clear();
        carry.extend_from_slice(&input[taken..]);
    }
    Ok(())
}

fn encode_rumqttc(qos: u8, payload: &[u8]) -> Result<usize, Failure> {
    let mut publish = rumqttc::Publish::from_bytes(
        TOPIC,
        match qos {
            0 => rumqttc::QoS::AtMostOnce,
            _ => rumqttc::QoS::AtLeastOnce,
        },
        Bytes::copy_from_slice(payload),
    );
    let mut output = BytesMut::with_capacity(CHUNK_LEN);
    for _ in 0..PASSES {
        output.clear();
        for id in 1..=ENCODED {
            publish.pkid = id;
            black_box(&publish)
                .write(&mut output)
                .map_err(|error| error.to_string())?;
        }
        black_box(&output);
    }
    Ok(PASSES * usize::from(ENCODED))
}

fn decode_rumqttc(stream: &[u8]) -> Result<usize, Failure> {
    let mut buffer = BytesMut::new();
    let mut packets = 0;
    for chunk in stream.chunks(CHUNK_LEN) {
        buffer.extend_from_slice(chunk);
        loop {
            match rumqttc::mqttbytes::v4::Packet::read(&mut buffer, 1 << 20) {
                Ok(packet) => {
                    black_box(packet);
                    packets += 1;
                }
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => break,
                Err(error) => return Err(error.to_string().into()),
            }
        }
    }
    Ok(packets)
}

fn encode_mqttrs(qos: u8, payload: &[u8]) -> Result<usize, Failure> {
    let mut output = vec![0; CHUNK_LEN.max((payload.len() + 64) * usize::from(ENCODED))];
    for _ in 0..PASSES {
        let mut written = 0;
        for id in 1..=ENCODED {
            let id = mqttrs::Pid::try_from(id).map_err(|error| error.to_string())?;
            let packet = mqttrs::Packet::Publish(mqttrs::Publish {
                dup: false,
                qospid: match qos {
                    0 => mqttrs::QosPid::AtMostOnce,
                    _ => mqttrs::QosPid::AtLeastOnce(id),
                },
                retain: false,
                topic_name: TOPIC,
                payload: black_box(payload),
            });
            let encoded = mqttrs::encode_slice(&packet, &mut output[written..]);
            written += encoded.map_err(|error| error.to_string())?;
        }
        black_box(&output);
    }
    Ok(PASSES * usize::from(ENCODED))
}

/// Its decoder lends slices and does not tell how long a packet is: its caller finds the frames itself.
fn decode_mqttrs(stream: &[u8]) -> Result<usize, Failure> {
    let mut frames = crate::peer::Frames::default();
    let mut buffer = Vec::with_capacity(CHUNK_LEN);
    let (mut packets, mut broken) = (0, None);
    for chunk in stream.chunks(CHUNK_LEN) {
        buffer.clear();
        buffer.extend_from_slice(chunk);
        frames.feed(&buffer, |frame| match mqttrs::decode_slice(frame) {
            Ok(packet) => {
                packets += usize::from(black_box(packet).is_some());
            }
            Err(error) => broken = Some(error.to_string()),
        })?;
    }
    match broken {
        None => Ok(packets),
        Some(error) => Err(error.into()),
    }
}

fn encode_ntex(qos: u8, payload: &[u8]) -> Result<usize, Failure> {
    use ntex_mqtt::v3::codec::{Codec, Encoded, Publish};

    let codec = Codec::new();
    let topic = ByteString::from_static(TOPIC);
    let payload = ntex::util::Bytes::copy_from_slice(payload);
    let mut output = BytePages::default();
    for _ in 0..PASSES {
        for id in 1..=ENCODED {
            let publish = Publish {
                dup: false,
                retain: false,
                qos: match qos {
                    0 => ntex_mqtt::QoS::AtMostOnce,
                    _ => ntex_mqtt::QoS::AtLeastOnce,
                },
                topic: topic.clone(),
                packet_id: (qos > 0).then(|| NonZeroU16::new(id)).flatten(),
                payload_size: u32::try_from(payload.len())?,
            };
            codec
                .encodev(
                    Encoded::Publish(publish, Some(payload.clone())),
                    &mut output,
                )
                .map_err(|error| format!("{error:?}"))?;
        }
        while let Some(page) = output.take() {
            black_box(page);
        }
    }
    Ok(PASSES * usize::from(ENCODED))
}

fn decode_ntex(stream: &[u8]) -> Result<usize, Failure> {
    let codec = ntex_mqtt::v3::codec::Codec::new();
    codec.set_min_chunk_size(0);
    let mut buffer = ntex::util::BytesMut::new();
    let mut packets = 0;
    for chunk in stream.chunks(CHUNK_LEN) {
        buffer.extend_from_slice(chunk);
        while let Some(packet) = codec
            .decode(&mut buffer)
            .map_err(|error| format!("{error:?}"))?
        {
            black_box(packet);
            packets += 1;
        }
    }
    Ok(packets)
}
