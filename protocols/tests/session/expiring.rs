//! Messages whose worth ends at a time.

use std::time::Duration;

use paquebot_protocols::mqtt::session::{Event, Outgoing};
use paquebot_protocols::mqtt::{Packet, PropertySet, Publish, QoS, Version};

use crate::link::{BOTH, Link, ack, brief, config, id, outgoing};

const SECOND: Duration = Duration::from_secs(1);
const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn publish(link: &mut Link, qos: QoS, life: Duration) {
    let message = Outgoing {
        expires_at: Some(link.now + life),
        ..outgoing(7, qos)
    };
    link.session.publish(link.now, message).unwrap();
}

fn one_publish(link: &mut Link) -> Publish {
    match link.sent().pop() {
        Some(Packet::Publish(publish)) => publish,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_is_over_when_it_comes_expires() {
    for version in BOTH {
        for qos in ALL {
            let mut link = Link::online(config(version));
            publish(&mut link, qos, Duration::ZERO);
            assert_eq!(link.sent(), []);
            assert_eq!(link.events(), [Event::Expired { token: 7 }]);
        }
    }
}

#[test]
fn a_message_that_is_over_before_it_is_written_expires() {
    for version in BOTH {
        for qos in ALL {
            let mut link = Link::online(config(version));
            publish(&mut link, qos, SECOND);
            link.now += SECOND;
            assert_eq!(link.sent(), []);
            assert_eq!(link.events(), [Event::Expired { token: 7 }]);
            assert_eq!(link.session.inflight_len(), 0);
            assert_eq!(link.session.publish_credit(), 1_000);
        }
    }
}

#[test]
fn mqtt_5_carries_the_rest_of_the_life_in_seconds_rounded_up() {
    for qos in ALL {
        for (life, expected) in [
            (SECOND * 10, 10),
            (Duration::from_millis(9_001), 10),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(1 << 40), u32::MAX),
        ] {
            let mut link = Link::online(config(Version::V5));
            publish(&mut link, qos, life);
            let sent = one_publish(&mut link);
            assert_eq!(sent.properties.message_expiry_interval, Some(expected));
        }
    }
    let mut link = Link::online(config(Version::V311));
    publish(&mut link, QoS::AtLeastOnce, SECOND);
    assert!(one_publish(&mut link).properties.is_empty());
}

#[test]
fn a_message_without_an_end_has_no_expiry_even_after_one_that_had() {
    let mut link = Link::online(config(Version::V5));
    publish(&mut link, QoS::AtMostOnce, SECOND);
    link.publish(8, QoS::AtMostOnce);
    assert!(one_publish(&mut link).properties.is_empty());
}

#[test]
fn an_exchange_that_began_is_completed_after_its_end_when_the_session_lives() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        publish(&mut link, QoS::AtLeastOnce, SECOND * 10);
        link.sent();
        link.drop_transport();
        link.now += SECOND * 60;
        link.reconnect(true);
        let sent = one_publish(&mut link);
        assert!(sent.dup);
        let expected = (version == Version::V5).then_some(1);
        assert_eq!(sent.properties.message_expiry_interval, expected);
        link.receive(Packet::PubAck(ack(id(1))));
        assert!(matches!(
            link.events().last(),
            Some(Event::Delivered { token: 7, .. })
        ));
    }
}

#[test]
fn the_rest_of_the_life_shrinks_when_a_message_is_sent_again() {
    let mut link = Link::online(config(Version::V5));
    publish(&mut link, QoS::AtLeastOnce, SECOND * 10);
    link.sent();
    link.drop_transport();
    link.now += SECOND * 4;
    link.reconnect(true);
    let sent = one_publish(&mut link);
    assert_eq!(sent.properties.message_expiry_interval, Some(6));
}

#[test]
fn a_message_that_is_over_is_not_published_anew_when_the_session_is_lost() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut link = Link::online(config(version));
            publish(&mut link, qos, SECOND * 10);
            link.sent();
            link.drop_transport();
            link.now += SECOND * 10;
            link.reconnect(false);
            assert_eq!(link.sent(), []);
            assert!(link.events().contains(&Event::Expired { token: 7 }));
            assert_eq!(link.session.inflight_len(), 0);
        }
    }
}

#[test]
fn one_that_expires_behind_the_quota_lets_the_next_go() {
    let mut link = Link::online(config(Version::V5));
    link.publish(1, QoS::AtLeastOnce);
    publish(&mut link, QoS::AtLeastOnce, SECOND * 10);
    link.publish(3, QoS::AtLeastOnce);
    link.sent();
    link.drop_transport();
    link.reconnect_with(
        false,
        PropertySet {
            receive_maximum: Some(1),
            ..PropertySet::default()
        },
    );
    assert_eq!(brief(&link.sent()), ["PUBLISH 1 id 4"]);
    link.now += SECOND * 11;
    link.receive(Packet::PubAck(ack(id(4))));
    assert_eq!(brief(&link.sent()), ["PUBLISH 3 id 6"]);
    assert!(link.events().contains(&Event::Expired { token: 7 }));
}
