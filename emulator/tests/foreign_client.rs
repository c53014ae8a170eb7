//! The same behaviours with a client that shares no code with the server.

use std::time::Duration;

use paquebot_emulator::Broker;
use paquebot_emulator::mqtt::QoS;

use crate::support::*;

async fn listening() -> (Broker, u16) {
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start()
        .await
        .unwrap();
    let port = broker.tcp_address().unwrap().port();
    (broker, port)
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("nothing came in time")
}

mod version_311 {
    use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS};

    pub(super) fn client(client_id: &str, port: u16, clean: bool) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options.set_clean_session(clean);
        options.set_keep_alive(std::time::Duration::from_secs(30));
        options
    }

    pub(super) fn with_will(mut options: MqttOptions) -> MqttOptions {
        options.set_last_will(LastWill::new("will", "gone", QoS::AtLeastOnce, true));
        options
    }

    pub(super) fn open(options: MqttOptions) -> (AsyncClient, EventLoop) {
        AsyncClient::new(options, 100)
    }

    pub(super) async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && wanted(&packet)
            {
                return packet;
            }
        }
    }

    pub(super) async fn message(events: &mut EventLoop) -> Publish {
        match until(events, |packet| matches!(packet, Packet::Publish(_))).await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }
}

mod version_5 {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish};
    use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

    pub(super) fn client(client_id: &str, port: u16, clean: bool) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options.set_clean_start(clean);
        options.set_session_expiry_interval((!clean).then_some(3600));
        options.set_keep_alive(std::time::Duration::from_secs(30));
        options
    }

    pub(super) fn with_will(mut options: MqttOptions) -> MqttOptions {
        let will = LastWill::new("will", "gone", QoS::AtLeastOnce, true, None);
        options.set_last_will(will);
        options
    }

    pub(super) fn open(options: MqttOptions) -> (AsyncClient, EventLoop) {
        AsyncClient::new(options, 100)
    }

    pub(super) async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && wanted(&packet)
            {
                return packet;
            }
        }
    }

    pub(super) async fn message(events: &mut EventLoop) -> Publish {
        match until(events, |packet| matches!(packet, Packet::Publish(_))).await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }
}

/// The two trees of the foreign client have the same names, so one text serves both.
macro_rules! behaviours {
    ($version:ident, $packet:path, $qos:path) => {
        mod $version {
            use super::super::$version::{client, message, open, until, with_will};
            use super::*;
            use $packet as Packet;
            use $qos as ForeignQoS;

            #[tokio::test]
            async fn publishes_and_receives_every_qos() {
                let (broker, port) = listening().await;
                let (client, mut events) = open(client("a", port, true));
                client
                    .subscribe("t/#", ForeignQoS::ExactlyOnce)
                    .await
                    .unwrap();
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::SubAck(_))
                }))
                .await;
                let qos = [
                    ForeignQoS::AtMostOnce,
                    ForeignQoS::AtLeastOnce,
                    ForeignQoS::ExactlyOnce,
                ];
                for (number, qos) in qos.into_iter().enumerate() {
                    let payload = vec![number as u8; 1000];
                    client
                        .publish("t/x", qos, false, payload.clone())
                        .await
                        .unwrap();
                    let received = in_time(message(&mut events)).await;
                    assert_eq!(received.qos, qos);
                    assert_eq!(received.payload, payload);
                }
                // The exchange of QoS 2 ends on both sides.
                let settled = async {
                    while broker.client("a").unwrap().inflight > 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let working = async {
                    loop {
                        events.poll().await.unwrap();
                    }
                };
                in_time(async {
                    tokio::select! {
                        () = settled => {}
                        () = working => {}
                    }
                })
                .await;
                assert_eq!(broker.stats().received, [1, 1, 1]);
                assert_eq!(broker.stats().violations, 0);
            }

            #[tokio::test]
            async fn gets_retained_messages_and_unsubscribes() {
                let (broker, port) = listening().await;
                let (client, mut events) = open(client("a", port, true));
                client
                    .publish("r", ForeignQoS::AtLeastOnce, true, "kept")
                    .await
                    .unwrap();
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::PubAck(_))
                }))
                .await;
                client
                    .subscribe("r", ForeignQoS::AtLeastOnce)
                    .await
                    .unwrap();
                let received = in_time(message(&mut events)).await;
                assert!(received.retain);
                assert_eq!(received.payload, "kept");
                client.unsubscribe("r").await.unwrap();
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::UnsubAck(_))
                }))
                .await;
                assert_eq!(broker.stats().subscriptions, 0);
            }

            #[tokio::test]
            async fn its_will_is_published() {
                let (broker, port) = listening().await;
                let (_client, mut events) = open(with_will(client("a", port, true)));
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::ConnAck(_))
                }))
                .await;
                let mut watch = broker.watch(filter("will"));
                drop(events);
                let seen = in_time(watch.recv()).await.unwrap();
                assert_eq!(seen.payload, "gone");
                assert_eq!((seen.qos, seen.retain), (QoS::AtLeastOnce, true));
                assert_eq!(broker.stats().retained, 1);
            }

            #[tokio::test]
            async fn finds_its_session_again() {
                let (broker, port) = listening().await;
                let (first, mut events) = open(client("a", port, false));
                first.subscribe("t", ForeignQoS::AtLeastOnce).await.unwrap();
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::SubAck(_))
                }))
                .await;
                drop(events);
                connected(&broker, 0).await;
                for payload in ["1", "2"] {
                    broker.publish(topic("t"), payload, QoS::AtLeastOnce, false);
                }
                let (_client, mut events) = open(client("a", port, false));
                let is_connack = |packet: &Packet| matches!(packet, Packet::ConnAck(_));
                match in_time(until(&mut events, is_connack)).await {
                    Packet::ConnAck(connack) => assert!(connack.session_present),
                    other => panic!("{other:?}"),
                }
                for payload in ["1", "2"] {
                    assert_eq!(in_time(message(&mut events)).await.payload, payload);
                }
            }

            #[tokio::test]
            async fn survives_a_restart_of_the_server() {
                let (broker, port) = listening().await;
                let (client, mut events) = open(client("a", port, false));
                client
                    .subscribe("t", ForeignQoS::AtLeastOnce)
                    .await
                    .unwrap();
                in_time(until(&mut events, |packet| {
                    matches!(packet, Packet::SubAck(_))
                }))
                .await;
                broker.faults().restart_keeping_sessions(Duration::ZERO);
                in_time(events.poll()).await.unwrap_err();
                broker.publish(topic("t"), "meanwhile", QoS::AtLeastOnce, false);
                assert_eq!(in_time(message(&mut events)).await.payload, "meanwhile");
            }
        }
    };
}

mod behaves {
    use super::*;

    behaviours!(version_311, rumqttc::Packet, rumqttc::QoS);
    behaviours!(
        version_5,
        rumqttc::v5::mqttbytes::v5::Packet,
        rumqttc::v5::mqttbytes::QoS
    );
}
