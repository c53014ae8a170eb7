//! Whatever clients send, the others are served.

use paquebot_emulator::mqtt::{Packet, QoS, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

/// A small generator with a seed, so that a failure repeats (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let broker = broker().await;
    let mut bystander = Client::connect(&broker, "bystander", Version::V5).await;
    bystander.subscribe("alive", QoS::AtMostOnce).await;
    for seed in 1..=2000 {
        let mut random = Random(seed);
        let version = BOTH[(seed % 2) as usize];
        let mut stream = if seed % 3 == 0 {
            broker.connect_pipe()
        } else {
            let mut stream = broker.connect_pipe();
            let level = version.level();
            let mut connect = vec![
                0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0, 0, 1, b'g',
            ];
            if version == Version::V5 {
                connect[1] = 14;
                connect.insert(12, 0);
            }
            stream.write_all(&connect).await.unwrap();
            stream
        };
        // A legal first byte and a short length get further than noise.
        let count = random.next() % 60;
        let mut packet = random.bytes(count);
        if seed % 4 != 0 && packet.len() > 2 {
            packet[1] = (packet.len() - 2) as u8;
            packet[0] =
                [0x30, 0x32, 0x34, 0x82, 0xa2, 0x62, 0x50, 0xe0][(random.next() % 8) as usize];
        }
        // The server may have closed already.
        let _ = stream.write_all(&packet).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    connected(&broker, 1).await;
    broker.publish(topic("alive"), "yes", QoS::AtMostOnce, false);
    loop {
        // Garbage can be a legal publish to any topic, but hardly to this one.
        if bystander.receive_text().await == "yes" {
            break;
        }
    }
}

#[tokio::test]
async fn a_claimed_length_beyond_the_limit_is_refused_before_it_comes() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.send_bytes(b"\x30\xff\xff\xff\x7f").await;
    client.expect_dismissed(ReasonCode::PACKET_TOO_LARGE).await;
    let mut client = Client::new(broker.connect_pipe(), Version::V5);
    client.send_bytes(b"\x10\xff\xff\xff\x7f").await;
    client.expect_closed().await;
}

#[tokio::test]
async fn topics_and_filters_of_very_many_levels_are_survived() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let deep = "/".repeat(60_000);
    let code = client.subscribe(&deep, QoS::AtMostOnce).await;
    assert_eq!(code, ReasonCode::TOPIC_FILTER_INVALID);
    client.subscribe("#", QoS::AtMostOnce).await;
    client.subscribe("+/+/#", QoS::AtMostOnce).await;
    client.send(Packet::Publish(retained(&deep, "x"))).await;
    assert_eq!(client.receive_publish().await.topic, Some(topic(&deep)));
    let mut other = Client::connect(&broker, "b", Version::V311).await;
    other.subscribe("#", QoS::AtMostOnce).await;
    assert!(other.receive_publish().await.retain);
}

#[tokio::test]
async fn what_follows_a_disconnect_is_not_looked_at() {
    let broker = broker().await;
    let mut watch = broker.watch(filter("#"));
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    client.send_bytes(b"\xe0\0\x30\x03\0\x01t").await;
    client.expect_closed().await;
    assert_eq!(watch.try_recv(), None);
}
