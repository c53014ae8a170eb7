//! Large payloads, which are written from where they lie.

use bytes::BytesMut;
use paquebot_protocols::mqtt::{PublishRef, encode_publish};

use super::*;

const MESSAGES: usize = 200;

/// Sizes of payloads, most of them near a bound.
fn any_size(random: &mut fastrand::Rng) -> usize {
    match random.u8(..6) {
        0 => random.usize(..200),
        1 => random.usize(16_300..16_400),
        2 => random.usize(32_700..32_800),
        3 => random.usize(65_000..66_000),
        4 => random.usize(..40_000),
        _ => random.usize(100_000..400_000),
    }
}

#[actix::test]
async fn payloads_of_any_size_are_written_byte_for_byte_however_little_the_transport_takes() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let pipe_bytes = [100, 4_000, 50_000, 300_000][seed as usize % 4];
        let mut rig = Rig::online(OutboxConfig::default(), pipe_bytes).await;
        let mut expected = BytesMut::new();
        let mut messages = Vec::new();
        while messages.len() < MESSAGES && expected.len() < 400 * pipe_bytes {
            let payload: Vec<u8> = (0..any_size(&mut random))
                .map(|place| (place as u8).wrapping_mul(messages.len() as u8 | 1))
                .collect();
            let message = message(QoS::AtMostOnce, payload.into());
            let publish = PublishRef {
                dup: false,
                qos: message.qos,
                retain: message.retain,
                topic: Some(&message.topic),
                packet_id: None,
                payload: &message.payload,
                properties: &Properties::EMPTY,
            };
            encode_publish(&publish, Version::V311, &mut expected).unwrap();
            messages.push(message);
        }
        let count = messages.len();
        let link = rig.link.clone();
        let receipt = actix::spawn(async move { link.publish_batch(messages).await });
        let mut read = vec![0; expected.len()];
        let mut at = 0;
        while at < read.len() {
            let end = (at + random.usize(1..=2 * pipe_bytes)).min(read.len());
            at += rig.server.read(&mut read[at..end]).await.unwrap();
        }
        assert!(read == expected, "seed {seed}: other bytes");
        let outcome = receipt.await.unwrap().unwrap().await;
        assert_eq!(outcome.delivered, count);
        rig.settle().await;
        let totals = rig.metrics.totals();
        assert!(totals.is_balanced());
        assert_eq!((totals.held, totals.delivered), (0, count as u64));
    }
}
