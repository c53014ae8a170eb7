//! Scripted faults.

use std::time::Duration;

use paquebot_emulator::mqtt::{Acknowledgement, Packet, QoS, ReasonCode, Version};
use paquebot_emulator::{Ack, Target};
use tokio::time::Instant;

use crate::support::*;

#[tokio::test]
async fn the_next_connects_of_a_target_are_refused() {
    let broker = broker().await;
    let faults = broker.faults();
    faults.refuse_next_connects(Target::client("a"), 2, ReasonCode::SERVER_BUSY);
    for (version, code) in [
        (Version::V5, ReasonCode::SERVER_BUSY),
        (Version::V311, ReasonCode(3)),
    ] {
        let (mut client, connack) = Client::answered(&broker, connect_packet("a", version)).await;
        assert_eq!(connack.reason_code, code);
        client.expect_closed().await;
    }
    let _other = Client::connect(&broker, "other", Version::V5).await;
    let _third = Client::connect(&broker, "a", Version::V5).await;
}

#[tokio::test]
async fn connects_are_refused_until_the_fault_is_lifted() {
    let broker = broker().await;
    let chosen = Target::matching(|client_id| client_id.ends_with("-x"));
    let fault = broker.faults().refuse_connects(chosen, ReasonCode(5));
    for (version, code) in [
        (Version::V311, ReasonCode(5)),
        (Version::V5, ReasonCode::NOT_AUTHORIZED),
    ] {
        for _ in 0..3 {
            let (_, connack) = Client::answered(&broker, connect_packet("d-x", version)).await;
            assert_eq!(connack.reason_code, code);
        }
    }
    let _other = Client::connect(&broker, "x-d", Version::V5).await;
    fault.lift();
    let _client = Client::connect(&broker, "d-x", Version::V5).await;
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes_read() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    let mut watch = broker.watch(filter("#"));
    assert_eq!(broker.faults().cut_after_read(Target::client("a"), 7), 1);
    // Five bytes each: one arrives, the second is cut.
    client.publish("t", "1").await;
    client.publish("t", "2").await;
    client.expect_closed().await;
    connected(&broker, 0).await;
    assert_eq!(watch.recv().await.unwrap().payload, "1");
    assert_eq!(watch.try_recv(), None);
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes_written() {
    let broker = broker().await;
    assert_eq!(
        broker.faults().cut_after_written(Target::prefix("dev"), 6),
        0
    );
    // CONNACK is four bytes, the SUBACK five.
    let mut client = Client::connect(&broker, "dev-1", Version::V311).await;
    client.send_bytes(b"\x82\x06\0\x01\0\x01t\0").await;
    assert_eq!(client.poll().await, None);
    // It was for one connection.
    let mut client = Client::connect(&broker, "dev-1", Version::V311).await;
    client.subscribe("t", QoS::AtMostOnce).await;
}

#[tokio::test]
async fn what_a_dropped_connection_had_left_to_write_reaches_no_other() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    broker.publish(topic("t"), "late", QoS::AtMostOnce, false);
    broker.faults().disconnect(&Target::All, None);
    client.expect_closed().await;
    let mut other = Client::connect(&broker, "b", Version::V311).await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn clients_are_disconnected_with_and_without_a_word() {
    let broker = broker().await;
    let faults = broker.faults();
    let mut told = Client::connect(&broker, "a-1", Version::V5).await;
    let mut untold = Client::connect(&broker, "b-1", Version::V5).await;
    let code = ReasonCode::ADMINISTRATIVE_ACTION;
    assert_eq!(faults.disconnect(&Target::prefix("a-"), Some(code)), 1);
    told.expect_dismissed(code).await;
    assert_eq!(faults.disconnect(&Target::All, None), 1);
    untold.expect_closed().await;
    assert_eq!(faults.disconnect(&Target::All, None), 0);
}

#[tokio::test]
async fn withheld_acknowledgements_come_in_order_when_released() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    let kinds = [Ack::PubAck, Ack::PubRec];
    let fault = broker.faults().withhold(Target::client("a"), &kinds);
    for (packet_id, qos) in [
        (1, QoS::AtLeastOnce),
        (2, QoS::ExactlyOnce),
        (3, QoS::AtLeastOnce),
    ] {
        client
            .send(Packet::Publish(publish("t", "x", qos, packet_id)))
            .await;
    }
    client.expect_nothing().await;
    assert_eq!(broker.stats().received_total(), 3);
    fault.lift();
    let ack = |packet_id| Acknowledgement::success(id(packet_id));
    assert_eq!(client.receive().await, Packet::PubAck(ack(1)));
    assert_eq!(client.receive().await, Packet::PubRec(ack(2)));
    assert_eq!(client.receive().await, Packet::PubAck(ack(3)));
    client
        .send(Packet::Publish(publish("t", "x", QoS::AtLeastOnce, 4)))
        .await;
    assert_eq!(client.receive().await, Packet::PubAck(ack(4)));
}

#[tokio::test]
async fn withheld_pubacks_count_against_the_receive_maximum() {
    let broker = broker_with(|limits| limits.receive_maximum = 2).await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    broker.faults().withhold(Target::All, &[Ack::PubAck]);
    for packet_id in 1..=3 {
        let message = publish("t", "x", QoS::AtLeastOnce, packet_id);
        client.send(Packet::Publish(message)).await;
    }
    client
        .expect_dismissed(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED)
        .await;
}

#[tokio::test]
async fn a_withheld_connack_holds_everything_behind_it() {
    let broker = broker().await;
    let (mut client, _) = Client::accepted(&broker, lasting("a", Version::V311)).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    client.disconnect().await;
    broker.publish(topic("t"), "queued", QoS::AtLeastOnce, false);
    let fault = broker.faults().withhold(Target::All, &[Ack::ConnAck]);
    let mut client = Client::new(broker.connect_pipe(), Version::V311);
    let connect = lasting("a", Version::V311);
    client.send(Packet::Connect(Box::new(connect))).await;
    client.send(Packet::PingReq).await;
    connected(&broker, 1).await;
    broker.publish(topic("t"), "live", QoS::AtMostOnce, false);
    fault.lift();
    assert!(matches!(client.receive().await, Packet::ConnAck(_)));
    assert_eq!(client.receive_text().await, "queued");
    let mut rest = [client.receive().await.name(), client.receive().await.name()];
    rest.sort_unstable();
    assert_eq!(rest, ["PINGRESP", "PUBLISH"]);
}

#[tokio::test]
async fn ping_and_subscribe_answers_can_be_withheld() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    let kinds = [Ack::PingResp, Ack::SubAck];
    let fault = broker.faults().withhold(Target::All, &kinds);
    client.send(Packet::PingReq).await;
    client.send_bytes(b"\x82\x06\0\x01\0\x01t\0").await;
    broker
        .wait_for(|stats| stats.subscriptions == 1, PATIENCE)
        .await
        .unwrap();
    broker.publish(topic("t"), "through", QoS::AtMostOnce, false);
    assert_eq!(client.receive_text().await, "through");
    fault.lift();
    assert_eq!(client.receive().await, Packet::PingResp);
    assert!(matches!(client.receive().await, Packet::SubAck(_)));
}

#[tokio::test(start_paused = true)]
async fn delayed_acknowledgements_come_late() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V311).await;
    let delay = Duration::from_secs(3);
    let fault = broker.faults().delay(Target::All, &[Ack::PubAck], delay);
    let started = Instant::now();
    for packet_id in 1..=2 {
        let message = publish("t", "x", QoS::AtLeastOnce, packet_id);
        client.send(Packet::Publish(message)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (packet_id, seconds) in [(1, 3), (2, 4)] {
        let ack = Acknowledgement::success(id(packet_id));
        assert_eq!(client.receive().await, Packet::PubAck(ack));
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
    fault.lift();
    let message = publish("t", "x", QoS::AtLeastOnce, 3);
    client.publish_acknowledged(message).await;
    assert_eq!(started.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_server_reads_nothing_until_released() {
    let broker = broker().await;
    let mut connect = connect_packet("a", Version::V311);
    connect.keep_alive = 1;
    let (mut client, _) = Client::accepted(&broker, connect).await;
    let fault = broker.faults().stall_reading(Target::client("a"));
    client.send(Packet::PingReq).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = broker.stats().bytes_received;
    // It keeps writing meanwhile.
    broker.faults().send_raw(&Target::All, b"\xd0\0".as_slice());
    assert_eq!(client.receive().await, Packet::PingResp);
    fault.lift();
    assert_eq!(client.receive().await, Packet::PingResp);
    assert_eq!(broker.stats().bytes_received, before + 2);
}

#[tokio::test]
async fn raw_bytes_go_out_as_they_are() {
    let broker = broker().await;
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    let garbage = b"\xff\xff\xff\xff\xff".as_slice();
    assert_eq!(broker.faults().send_raw(&Target::client("a"), garbage), 1);
    let mut bytes = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut bytes)
        .await
        .unwrap();
    assert_eq!(bytes, garbage);
}

#[tokio::test]
async fn a_restart_keeps_or_loses_sessions() {
    let broker = broker().await;
    for keeps in [true, false] {
        broker.publish(topic("r"), "retained", QoS::AtMostOnce, true);
        let mut connect = lasting("a", Version::V5);
        connect.will = Some(will("r", "will", QoS::AtMostOnce));
        let (mut client, _) = Client::accepted(&broker, connect).await;
        client.subscribe("t", QoS::AtLeastOnce).await;
        let mut passing = Client::connect(&broker, "passing", Version::V311).await;
        let mut watch = broker.watch(filter("r"));
        if keeps {
            broker.faults().restart_keeping_sessions(Duration::ZERO);
        } else {
            broker.faults().restart_losing_sessions(Duration::ZERO);
        }
        client.expect_closed().await;
        passing.expect_closed().await;
        assert_eq!(watch.try_recv(), None);
        let stats = broker.stats();
        let kept = usize::from(keeps);
        assert_eq!((stats.connections, stats.sessions), (0, kept));
        assert_eq!((stats.subscriptions, stats.retained), (kept, kept));
        let (_client, connack) = Client::accepted(&broker, lasting("a", Version::V5)).await;
        assert_eq!(connack.session_present, keeps);
        broker.faults().disconnect(&Target::All, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_closes_connections_at_once() {
    let broker = broker().await;
    let early = broker.connect_pipe();
    broker
        .faults()
        .restart_keeping_sessions(Duration::from_secs(5));
    let mut refused = Client::new(broker.connect_pipe(), Version::V5);
    refused.expect_closed().await;
    // A connection from before the restart does not outlive it either.
    let mut early = Client::new(early, Version::V5);
    let connect = connect_packet("early", Version::V5);
    early.send(Packet::Connect(Box::new(connect))).await;
    early.expect_closed().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _client = Client::connect(&broker, "a", Version::V5).await;
}

#[tokio::test]
async fn clear_lifts_every_fault() {
    let broker = broker().await;
    let faults = broker.faults();
    faults.refuse_connects(Target::All, ReasonCode::BANNED);
    faults.withhold(Target::All, &Ack::ALL);
    faults.stall_reading(Target::All);
    faults.cut_after_read(Target::All, 0);
    faults.restart_keeping_sessions(Duration::from_secs(3600));
    faults.clear();
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    client.expect_nothing().await;
}
