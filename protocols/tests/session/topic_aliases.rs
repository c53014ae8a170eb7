//! Topic aliases in both directions (MQTT 5).

use paquebot_protocols::mqtt::session::{Outgoing, SessionConfig};
use paquebot_protocols::mqtt::{
    Packet, Properties, PropertySet, Publish, QoS, ReasonCode, Topic, Version,
};

use crate::link::{Link, ack, assert_left_with, config, id, inbound, outgoing};

fn aliased(topic: Option<&str>, alias: u16) -> Packet {
    Packet::Publish(Publish {
        topic: topic.map(|topic| Topic::new(topic.to_owned()).unwrap()),
        properties: Properties::from(PropertySet {
            topic_alias: Some(alias),
            ..PropertySet::default()
        }),
        ..inbound(QoS::AtMostOnce, 0, "a")
    })
}

fn topics(link: &mut Link) -> Vec<String> {
    link.messages()
        .into_iter()
        .map(|message| {
            assert_eq!(message.properties.topic_alias, None, "resolved");
            message.topic.as_str().to_owned()
        })
        .collect()
}

#[test]
fn an_inbound_alias_stands_for_the_topic_it_came_with_last() {
    let mut link = Link::online(config(Version::V5));
    for (topic, alias) in [
        (Some("one"), 1),
        (Some("sixteen"), 16),
        (None, 16),
        (None, 1),
        (Some("two"), 1),
        (None, 1),
    ] {
        link.receive(aliased(topic, alias));
    }
    assert_eq!(
        topics(&mut link),
        ["one", "sixteen", "sixteen", "one", "two", "two"]
    );
}

#[test]
fn an_alias_over_the_maximum_is_a_violation() {
    for alias in [0, 17, u16::MAX] {
        let mut link = Link::online(config(Version::V5));
        link.receive(aliased(Some("a"), alias));
        assert_left_with(&mut link, ReasonCode::TOPIC_ALIAS_INVALID);
    }
}

#[test]
fn an_alias_that_was_never_set_is_a_protocol_error() {
    let mut link = Link::online(config(Version::V5));
    link.receive(aliased(Some("a"), 2));
    link.receive(aliased(None, 1));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn inbound_aliases_end_with_the_connection() {
    let mut link = Link::online(config(Version::V5));
    link.receive(aliased(Some("a"), 1));
    link.drop_transport();
    link.reconnect(true);
    link.receive(aliased(None, 1));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn a_publish_without_topic_and_alias_is_a_violation() {
    let mut link = Link::online(config(Version::V5));
    link.receive(Packet::Publish(Publish {
        topic: None,
        ..inbound(QoS::AtMostOnce, 0, "a")
    }));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

fn using_aliases(config_max: u16, server_max: Option<u16>) -> Link {
    let mut link = Link::new(SessionConfig {
        topic_alias_send_max: config_max,
        ..config(Version::V5)
    });
    reconnect(&mut link, server_max);
    link
}

fn reconnect(link: &mut Link, server_max: Option<u16>) {
    link.reconnect_with(
        true,
        PropertySet {
            topic_alias_maximum: server_max,
            ..PropertySet::default()
        },
    );
    link.events();
}

fn on(topic: &'static str, qos: QoS) -> Outgoing {
    Outgoing {
        topic: Topic::new(topic).unwrap(),
        ..outgoing(0, qos)
    }
}

/// Topic and alias of each PUBLISH that is sent.
fn sent(link: &mut Link) -> Vec<(Option<String>, Option<u16>)> {
    link.sent()
        .into_iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => (
                publish.topic.map(|topic| topic.as_str().to_owned()),
                publish.properties.topic_alias,
            ),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_first_topics_get_aliases_and_are_left_out_afterwards() {
    for (config_max, server_max) in [(2, Some(100)), (100, Some(2))] {
        let mut link = using_aliases(config_max, server_max);
        for topic in ["a", "b", "c", "a", "b", "c"] {
            link.session
                .publish(link.now, on(topic, QoS::AtMostOnce))
                .unwrap();
        }
        let named = |topic: &str| Some(topic.to_owned());
        assert_eq!(
            sent(&mut link),
            [
                (named("a"), Some(1)),
                (named("b"), Some(2)),
                (named("c"), None),
                (None, Some(1)),
                (None, Some(2)),
                (named("c"), None),
            ]
        );
    }
}

#[test]
fn no_alias_is_sent_when_either_side_wants_none() {
    for (config_max, server_max) in [(0, Some(10)), (10, None), (10, Some(0))] {
        let mut link = using_aliases(config_max, server_max);
        for _ in 0..2 {
            link.session
                .publish(link.now, on("a", QoS::AtMostOnce))
                .unwrap();
        }
        let plain = (Some("a".to_owned()), None);
        assert_eq!(sent(&mut link), [plain.clone(), plain]);
    }
}

#[test]
fn what_is_sent_again_carries_its_topic_and_aliases_start_anew() {
    let mut link = using_aliases(10, Some(10));
    link.session
        .publish(link.now, on("a", QoS::AtLeastOnce))
        .unwrap();
    link.session
        .publish(link.now, on("a", QoS::AtLeastOnce))
        .unwrap();
    sent(&mut link);
    link.drop_transport();
    reconnect(&mut link, Some(10));
    let named = || Some("a".to_owned());
    assert_eq!(sent(&mut link), [(named(), None), (named(), None)]);
    link.session
        .publish(link.now, on("a", QoS::AtLeastOnce))
        .unwrap();
    assert_eq!(sent(&mut link), [(named(), Some(1))]);
}

#[test]
fn a_message_that_was_too_large_leaves_no_alias_behind() {
    let mut link = Link::new(SessionConfig {
        topic_alias_send_max: 10,
        ..config(Version::V5)
    });
    link.reconnect_with(
        false,
        PropertySet {
            topic_alias_maximum: Some(10),
            maximum_packet_size: Some(32),
            ..PropertySet::default()
        },
    );
    let mut large = on("a", QoS::AtLeastOnce);
    large.payload = vec![0; 30].into();
    link.session.publish(link.now, large).unwrap();
    assert_eq!(sent(&mut link), []);
    link.session
        .publish(link.now, on("a", QoS::AtLeastOnce))
        .unwrap();
    assert_eq!(sent(&mut link), [(Some("a".to_owned()), Some(1))]);
    link.receive(Packet::PubAck(ack(id(2))));
}
