//! The rules of AWS's message broker that are not MQTT's.

use std::time::Duration;

use paquebot_emulator::aws::{Authorizer, Aws, AwsSettings, Permissions};
use paquebot_emulator::mqtt::{
    Connect, Packet, Properties, Publish, QoS, ReasonCode, Subscribe, Subscription, Version,
};
use paquebot_emulator::{Target, Verdict};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};

use crate::support::*;

/// The principal of clients that come through a pipe.
const PRINCIPAL: &str = "everybody";

async fn aws_with(change: impl FnOnce(&mut AwsSettings)) -> Aws {
    let mut settings = AwsSettings::default();
    change(&mut settings);
    Aws::builder()
        .settings(settings)
        .authorizer(Authorizer::new(PRINCIPAL))
        .start()
        .await
        .unwrap()
}

async fn aws() -> Aws {
    aws_with(|_| {}).await
}

async fn connect(aws: &Aws, client_id: &str, version: Version) -> Client {
    Client::connect(aws.broker(), client_id, version).await
}

fn levels(count: usize) -> String {
    vec!["l"; count].join("/")
}

async fn is_closed_by(aws: &Aws, version: Version, publish: Publish) -> bool {
    let mut client = connect(aws, "publisher", version).await;
    client.send(Packet::Publish(publish)).await;
    client.send(Packet::PingReq).await;
    match client.poll().await {
        Some(Packet::PingResp) => false,
        Some(Packet::Disconnect(_)) | None => true,
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn payloads_and_topics_beyond_the_limits_close_the_connection() {
    let aws = aws().await;
    let with = |topic: &str, bytes: usize| publish(topic, vec![b'x'; bytes], QoS::AtMostOnce, 0);
    for version in BOTH {
        for (topic, bytes, is_excessive) in [
            ("t", 128 * 1024, false),
            ("t", 128 * 1024 + 1, true),
            (&*"t".repeat(256), 0, false),
            (&*"t".repeat(257), 0, true),
            (&*levels(8), 0, false),
            (&*levels(9), 0, true),
            (&*format!("$aws/rules/some_rule/{}", levels(8)), 0, false),
            ("$aws/nowhere", 0, true),
        ] {
            let closed = is_closed_by(&aws, version, with(topic, bytes)).await;
            assert_eq!(closed, is_excessive, "{topic} with {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn more_than_eight_filters_in_one_subscribe_close_the_connection() {
    let aws = aws().await;
    for version in BOTH {
        for (count, is_excessive) in [(8, false), (9, true)] {
            let mut client = connect(&aws, "subscriber", version).await;
            let filters = (0..count)
                .map(|index| Subscription::new(filter(&format!("f/{index}")), QoS::AtLeastOnce));
            client
                .send(Packet::Subscribe(Subscribe {
                    packet_id: id(1),
                    filters: filters.collect(),
                    properties: Properties::EMPTY,
                }))
                .await;
            if is_excessive {
                client
                    .expect_dismissed(ReasonCode::TOPIC_FILTER_INVALID)
                    .await;
            } else {
                assert!(matches!(client.receive().await, Packet::SubAck(_)));
            }
        }
    }
}

#[tokio::test]
async fn the_fifty_first_subscription_is_refused_or_closes_the_connection() {
    let refusing = aws().await;
    let closing = aws_with(|settings| {
        settings.on_excessive_subscription = Verdict::Close(ReasonCode::QUOTA_EXCEEDED);
    })
    .await;
    for aws in [&refusing, &closing] {
        let mut client = connect(aws, "subscriber", Version::V311).await;
        for index in 0..50 {
            let code = client
                .subscribe(&format!("f/{index}"), QoS::AtMostOnce)
                .await;
            assert_eq!(code, ReasonCode::SUCCESS);
        }
        // One that it has already is none more.
        let again = client.subscribe("f/0", QoS::AtLeastOnce).await;
        assert_eq!(again, ReasonCode(1));
    }
    let mut client = connect(&refusing, "other", Version::V311).await;
    for index in 0..50 {
        client
            .subscribe(&format!("f/{index}"), QoS::AtMostOnce)
            .await;
    }
    let code = client.subscribe("one/more", QoS::AtMostOnce).await;
    assert_eq!(code, ReasonCode::UNSPECIFIED_ERROR);
    client.expect_nothing().await;

    let mut client = connect(&closing, "other", Version::V311).await;
    for index in 0..50 {
        client
            .subscribe(&format!("f/{index}"), QoS::AtMostOnce)
            .await;
    }
    let subscription = Subscription::new(filter("one/more"), QoS::AtMostOnce);
    client
        .send(Packet::Subscribe(Subscribe {
            packet_id: id(60),
            filters: vec![subscription],
            properties: Properties::EMPTY,
        }))
        .await;
    client.expect_closed().await;
}

#[tokio::test]
async fn client_identifiers_beyond_the_rules_are_refused_with_2() {
    let aws = aws().await;
    for (client_id, code) in [
        ("c".repeat(128), 0),
        ("c".repeat(129), 2),
        ("$device".to_owned(), 2),
    ] {
        let packet = connect_packet(&client_id, Version::V311);
        let (_client, connack) = Client::answered(aws.broker(), packet).await;
        assert_eq!(connack.reason_code, ReasonCode(code), "{client_id}");
    }
}

/// What a CONNECT of MQTT 3.1.1 is answered, byte by byte: our decoder knows no return code above 5.
async fn raw_answer(aws: &Aws, connect: Connect) -> Vec<u8> {
    let mut client = Client::new(aws.broker().connect_pipe(), Version::V311);
    client.send(Packet::Connect(Box::new(connect))).await;
    let mut answer = Vec::new();
    let read = client.stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn who_may_not_connect_gets_7_on_mqtt_3_1_1() {
    let aws = aws().await;
    let only = Permissions::none().allow_connect("device-*");
    aws.set_permissions(PRINCIPAL, Some(only));
    let refused = [0x20, 2, 0, 7];
    let other = connect_packet("other", Version::V311);
    assert_eq!(raw_answer(&aws, other).await, refused);
    let other = connect_packet("other", Version::V5);
    let (mut client, connack) = Client::answered(aws.broker(), other).await;
    assert_eq!(connack.reason_code, ReasonCode::NOT_AUTHORIZED);
    client.expect_closed().await;
    for version in BOTH {
        connect(&aws, "device-1", version).await;
    }
    let mut stranger = connect_packet("device-1", Version::V311);
    stranger.username = Some("u?x-amz-customauthorizer-name=unknown".into());
    assert_eq!(raw_answer(&aws, stranger).await, refused);
}

#[tokio::test]
async fn permissions_close_a_publisher_and_refuse_a_subscription() {
    let aws = aws().await;
    let own = Permissions::none()
        .allow_connect("*")
        .allow_publish("dt/${clientId}/*")
        .allow_subscribe("cmd/${clientId}/*");
    aws.set_permissions(PRINCIPAL, Some(own));
    for (version, refused) in [
        (Version::V311, ReasonCode::UNSPECIFIED_ERROR),
        (Version::V5, ReasonCode::NOT_AUTHORIZED),
    ] {
        let mut client = connect(&aws, "a", version).await;
        assert_eq!(
            client.subscribe("cmd/a/+", QoS::AtMostOnce).await,
            ReasonCode::SUCCESS
        );
        assert_eq!(client.subscribe("cmd/+/x", QoS::AtMostOnce).await, refused);
        client.publish("dt/a/x", "").await;
        client.expect_nothing().await;
        client.publish("dt/b/x", "").await;
        client.expect_dismissed(ReasonCode::NOT_AUTHORIZED).await;
    }
}

#[tokio::test]
async fn a_publish_of_qos_2_is_not_answered() {
    let aws = aws().await;
    let mut client = connect(&aws, "a", Version::V311).await;
    client
        .send(Packet::Publish(publish("t", "x", QoS::ExactlyOnce, 1)))
        .await;
    client.expect_nothing().await;
    // MQTT 5 was told that there is no QoS 2.
    let packet = connect_packet("b", Version::V5);
    let (mut client, connack) = Client::accepted(aws.broker(), packet).await;
    assert_eq!(connack.properties.maximum_qos, Some(QoS::AtLeastOnce));
    client
        .send(Packet::Publish(publish("t", "x", QoS::ExactlyOnce, 1)))
        .await;
    client.expect_dismissed(ReasonCode::QOS_NOT_SUPPORTED).await;
    let mut client = connect(&aws, "a", Version::V311).await;
    assert_eq!(client.subscribe("t", QoS::ExactlyOnce).await, ReasonCode(1));
}

#[tokio::test]
async fn a_filter_with_a_number_sign_does_not_match_its_parent() {
    let aws = aws().await;
    let mut client = connect(&aws, "a", Version::V311).await;
    client.subscribe("a/#", QoS::AtMostOnce).await;
    client.publish("a", "parent").await;
    client.publish("a/b", "child").await;
    assert_eq!(client.receive_text().await, "child");
    client.subscribe("#", QoS::AtMostOnce).await;
    client.publish("a", "parent").await;
    assert_eq!(client.receive_text().await, "parent");
}

#[tokio::test]
async fn retained_messages_go_to_exact_filters_only() {
    let aws = aws().await;
    let mut client = connect(&aws, "a", Version::V311).await;
    client.send(Packet::Publish(retained("r/1", "kept"))).await;
    client.subscribe("r/+", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    client.subscribe("r/1", QoS::AtMostOnce).await;
    assert_eq!(client.receive_text().await, "kept");
    client.send(Packet::Publish(retained("r/1", ""))).await;
    assert_eq!(client.receive_text().await, "");
    assert_eq!(aws.broker().stats().retained, 0);
}

#[tokio::test]
async fn the_keep_alive_is_brought_into_its_range() {
    let aws = aws().await;
    for (asked, granted) in [
        (0, 1200),
        (1, 30),
        (29, 30),
        (30, 30),
        (1200, 1200),
        (1201, 1200),
    ] {
        for version in BOTH {
            let mut packet = connect_packet("a", version);
            packet.keep_alive = asked;
            let (_client, connack) = Client::accepted(aws.broker(), packet).await;
            let told = (version == Version::V5 && asked != granted).then_some(granted);
            assert_eq!(connack.properties.server_keep_alive, told, "{asked}");
            assert_eq!(
                aws.broker().client("a").unwrap().keep_alive,
                granted,
                "{asked}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_after_one_and_a_half_times_the_granted_keep_alive() {
    let aws = aws().await;
    let mut packet = connect_packet("a", Version::V311);
    packet.keep_alive = 1;
    let (client, _) = Client::accepted(aws.broker(), packet).await;
    let started = Instant::now();
    aws.broker()
        .wait_for(|stats| stats.connections == 0, Duration::from_secs(100))
        .await
        .unwrap();
    assert_eq!(started.elapsed().as_secs(), 45);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_for_an_hour() {
    let aws = aws().await;
    for version in BOTH {
        for (absence, is_present) in [(3599, true), (3601, false)] {
            let packet = lasting("a", version);
            let (mut client, _) = Client::accepted(aws.broker(), packet.clone()).await;
            client.subscribe("t", QoS::AtLeastOnce).await;
            client.disconnect().await;
            connected(aws.broker(), 0).await;
            let mut other = connect(&aws, "other", version).await;
            let sent = publish("t", "stored", QoS::AtLeastOnce, 1);
            other.publish_acknowledged(sent).await;
            other.disconnect().await;
            sleep(Duration::from_secs(absence)).await;
            let (mut client, connack) = Client::accepted(aws.broker(), packet).await;
            assert_eq!(connack.session_present, is_present, "{absence} s");
            if is_present {
                assert_eq!(client.receive_text().await, "stored");
            }
            client.disconnect().await;
            connected(aws.broker(), 0).await;
            let clean = connect(&aws, "a", version).await;
            clean.disconnect().await;
        }
    }
}

#[tokio::test]
async fn the_newest_connection_wins() {
    let aws = aws().await;
    let mut first = connect(&aws, "a", Version::V311).await;
    let mut second = connect(&aws, "a", Version::V311).await;
    first.expect_closed().await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn no_more_than_a_hundred_messages_are_without_acknowledgement() {
    let aws = aws().await;
    let mut client = connect(&aws, "a", Version::V311).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    for _ in 0..101 {
        let broker = aws.broker();
        broker.publish(topic("t"), "x", QoS::AtLeastOnce, false);
    }
    let mut first = None;
    for _ in 0..100 {
        let publish = client.receive_publish().await;
        first = first.or(publish.packet_id);
    }
    client.expect_nothing().await;
    client.acknowledge(first).await;
    client.receive_publish().await;
}

#[tokio::test]
async fn faults_of_the_network_work_here_too() {
    let aws = aws().await;
    let faults = aws.broker().faults();
    let fault = faults.refuse_connects(Target::All, ReasonCode::SERVER_UNAVAILABLE);
    let packet = connect_packet("a", Version::V311);
    let (_client, connack) = Client::answered(aws.broker(), packet).await;
    assert_eq!(connack.reason_code, ReasonCode(3));
    fault.lift();
    let mut client = connect(&aws, "a", Version::V311).await;
    assert_eq!(faults.disconnect(&Target::client("a"), None), 1);
    client.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_beyond_a_hundred_messages_a_second_is_slowed_down() {
    let aws = aws().await;
    let mut client = connect(&aws, "a", Version::V311).await;
    let started = Instant::now();
    for _ in 0..350 {
        client.publish("t", "x").await;
        client.expect_nothing().await;
    }
    // The first second's allowance is there at once.
    assert!(
        started.elapsed() >= Duration::from_millis(2_400),
        "{:?}",
        started.elapsed()
    );
    let mut large = connect(&aws, "b", Version::V311).await;
    let started = Instant::now();
    for _ in 0..12 {
        let payload = vec![b'x'; 128 * 1024];
        large
            .send(Packet::Publish(publish("t", payload, QoS::AtMostOnce, 0)))
            .await;
        large.expect_nothing().await;
    }
    assert!(
        started.elapsed() >= Duration::from_millis(1_700),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn stored_messages_come_back_ten_a_second_and_new_ones_behind_them() {
    let aws = aws().await;
    for version in BOTH {
        let packet = lasting("a", version);
        let (mut client, _) = Client::accepted(aws.broker(), packet.clone()).await;
        client.subscribe("t", QoS::AtLeastOnce).await;
        // Three are in flight when it leaves, the others wait.
        for number in 0..3 {
            let broker = aws.broker();
            broker.publish(topic("t"), number.to_string(), QoS::AtLeastOnce, false);
            client.receive_publish().await;
        }
        client.disconnect().await;
        for number in 3..25 {
            let broker = aws.broker();
            broker.publish(topic("t"), number.to_string(), QoS::AtLeastOnce, false);
        }
        let (mut client, _) = Client::accepted(aws.broker(), packet).await;
        let started = Instant::now();
        let broker = aws.broker();
        broker.publish(topic("t"), "25", QoS::AtLeastOnce, false);
        let mut second_of = Vec::new();
        for number in 0..26 {
            let publish = client.receive_publish().await;
            assert_eq!(publish.payload, number.to_string());
            client.acknowledge(publish.packet_id).await;
            second_of.push(started.elapsed().as_secs());
        }
        let in_second = |second| second_of.iter().filter(|at| **at == second).count();
        assert_eq!([in_second(0), in_second(1), in_second(2)], [10, 10, 6]);
        // The backlog is gone, and the pace with it.
        for _ in 0..30 {
            broker.publish(topic("t"), "now", QoS::AtLeastOnce, false);
        }
        for _ in 0..30 {
            client.receive_publish().await;
        }
        assert_eq!(started.elapsed().as_secs(), 2);
        client.disconnect().await;
        let clean = connect(&aws, "a", version).await;
        clean.disconnect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_connect_within_a_second_is_refused_when_that_is_asked_for() {
    let second = Duration::from_secs(1);
    let paced = aws_with(|settings| settings.connect_interval_min = Some(second)).await;
    let free = aws().await;
    for version in BOTH {
        let code = match version {
            Version::V311 => ReasonCode(3),
            Version::V5 => ReasonCode::QUOTA_EXCEEDED,
        };
        for (aws, expected) in [(&paced, code), (&free, ReasonCode::SUCCESS)] {
            sleep(second).await;
            let first = connect(aws, "a", version).await;
            let packet = connect_packet("a", version);
            let (_, connack) = Client::answered(aws.broker(), packet).await;
            assert_eq!(connack.reason_code, expected);
            drop(first);
            sleep(second).await;
            connect(aws, "a", version).await.disconnect().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_comes_again_on_the_same_connection_when_that_is_asked_for() {
    let interval = Duration::from_secs(20);
    let aws = aws_with(|settings| settings.redelivery_interval = Some(interval)).await;
    let mut client = connect(&aws, "a", Version::V311).await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    sleep(interval / 2).await;
    for text in ["0", "1"] {
        let broker = aws.broker();
        broker.publish(topic("t"), text, QoS::AtLeastOnce, false);
    }
    let first = client.receive_publish().await;
    let second = client.receive_publish().await;
    assert_eq!((first.dup, second.dup), (false, false));
    client.acknowledge(second.packet_id).await;
    let sent = Instant::now();
    for _ in 0..2 {
        // It had at least an interval for its acknowledgement, and is the only one that comes again.
        while sent.elapsed() < interval + interval / 2 {
            client.expect_nothing().await;
            sleep(Duration::from_secs(1)).await;
        }
        let again = client.receive_publish().await;
        assert_eq!((again.dup, again.packet_id), (true, first.packet_id));
        sleep(interval / 2).await;
    }
    client.acknowledge(first.packet_id).await;
    sleep(3 * interval).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_will_beyond_the_limits_is_refused_with_its_connect() {
    let aws = aws().await;
    for version in BOTH {
        for (will, fits) in [
            (will("t", "x", QoS::AtLeastOnce), true),
            (will(&levels(9), "x", QoS::AtLeastOnce), false),
        ] {
            let mut packet = connect_packet("a", version);
            packet.will = Some(will);
            let (_, connack) = Client::answered(aws.broker(), packet).await;
            assert_eq!(connack.reason_code == ReasonCode::SUCCESS, fits);
        }
    }
}
