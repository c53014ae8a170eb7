//! Many clients at once, on several threads.

use std::collections::HashSet;

use paquebot_emulator::mqtt::{Packet, QoS, Version};

use crate::support::*;

const CLIENTS: usize = 300;
const MESSAGES: u16 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_message_of_many_publishers_arrives_once_and_in_order() {
    let broker = broker_with(|limits| limits.outbound_packets_max = 64).await;
    let (mut listener, _) = Client::accepted(&broker, lasting("listener", Version::V5)).await;
    listener.subscribe("from/+", QoS::AtLeastOnce).await;
    let publishers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let name = format!("from/{number}");
                let mut client = Client::connect(&broker, &name, BOTH[number % 2]).await;
                for packet_id in 1..=MESSAGES {
                    let payload = packet_id.to_be_bytes().to_vec();
                    let message = publish(&name, payload, QoS::AtLeastOnce, packet_id);
                    client.send(Packet::Publish(message)).await;
                }
                for packet_id in 1..=MESSAGES {
                    match client.receive().await {
                        Packet::PubAck(ack) => assert_eq!(ack.packet_id, id(packet_id)),
                        other => panic!("{other:?} instead of PUBACK"),
                    }
                }
                client.disconnect().await;
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for _ in 0..CLIENTS * usize::from(MESSAGES) {
        let message = listener.receive_publish().await;
        let number = u16::from_be_bytes([message.payload[0], message.payload[1]]);
        let name = message.topic.unwrap();
        assert!(
            number == 1 || seen.contains(&(name.clone(), number - 1)),
            "out of order"
        );
        assert!(seen.insert((name, number)), "twice");
        listener.acknowledge(message.packet_id).await;
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    listener.expect_nothing().await;
    let stats = broker.stats();
    assert_eq!(stats.received[1], (CLIENTS * usize::from(MESSAGES)) as u64);
    assert_eq!((stats.dropped_queue_full, stats.violations), (0, 0));
    assert_eq!(stats.connections, 1);
}
