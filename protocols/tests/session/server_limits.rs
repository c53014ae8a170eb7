//! What CONNACK says the server does not take is not sent to it.

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{Event, Outgoing};
use paquebot_protocols::mqtt::{Packet, PropertySet, QoS, ReasonCode, Version};

use crate::link::{Link, ack, brief, config, id, outgoing};

fn limited(connack: PropertySet) -> Link {
    let mut link = Link::new(config(Version::V5));
    link.reconnect_with(false, connack);
    link.events();
    link
}

fn outcome(link: &mut Link, message: Outgoing) -> Vec<Event> {
    link.session.publish(link.now, message).unwrap();
    let sent = link.sent();
    assert!(sent.is_empty(), "{sent:?}");
    assert_eq!(link.session.inflight_len(), 0);
    link.events()
}

fn rejected(code: ReasonCode) -> [Event; 1] {
    [Event::Rejected {
        token: 7,
        code,
        reason_string: None,
    }]
}

#[test]
fn a_qos_above_the_maximum_is_rejected() {
    let mut link = limited(PropertySet {
        maximum_qos: Some(QoS::AtLeastOnce),
        ..PropertySet::default()
    });
    assert_eq!(
        outcome(&mut link, outgoing(7, QoS::ExactlyOnce)),
        rejected(ReasonCode::QOS_NOT_SUPPORTED)
    );
    link.publish(8, QoS::AtLeastOnce);
    assert_eq!(brief(&link.sent()), ["PUBLISH 8 id 1"]);
}

#[test]
fn what_a_later_connection_does_not_take_is_rejected_and_not_sent_again() {
    let no_qos_2 = PropertySet {
        maximum_qos: Some(QoS::AtLeastOnce),
        ..PropertySet::default()
    };
    let no_retain = PropertySet {
        retain_available: Some(false),
        ..PropertySet::default()
    };
    let cases = [
        (
            no_qos_2,
            QoS::ExactlyOnce,
            false,
            ReasonCode::QOS_NOT_SUPPORTED,
        ),
        (
            no_retain,
            QoS::AtLeastOnce,
            true,
            ReasonCode::RETAIN_NOT_SUPPORTED,
        ),
    ];
    for (limits, qos, retain, refusal) in cases {
        for session_present in [true, false] {
            let mut link = Link::online(config(Version::V5));
            let refused = Outgoing {
                retain,
                ..outgoing(7, qos)
            };
            link.session.publish(link.now, refused).unwrap();
            link.publish(8, QoS::AtLeastOnce);
            link.sent();
            link.drop_transport();
            link.events();
            link.reconnect_with(session_present, limits.clone());
            let events = link.events();
            // Whoever would send it anew is told that the server may have it.
            let is_told = |event: &Event| {
                matches!(event, Event::Rejected { token: 7, code, reason_string: Some(why) }
                    if *code == refusal && why.contains("may have it"))
            };
            assert!(events.iter().any(is_told), "{events:?}");
            let again = match session_present {
                true => "PUBLISH 8 id 2 dup",
                false => "PUBLISH 8 id 3",
            };
            assert_eq!(brief(&link.sent()), [again]);
            assert_eq!(link.session.inflight_len(), 1);
        }
    }
}

#[test]
fn what_the_server_has_taken_above_its_new_maximum_is_released_all_the_same() {
    let mut link = Link::online(config(Version::V5));
    link.publish(7, QoS::ExactlyOnce);
    link.sent();
    link.receive(Packet::PubRec(ack(id(1))));
    link.sent();
    link.drop_transport();
    link.events();
    link.reconnect_with(
        true,
        PropertySet {
            maximum_qos: Some(QoS::AtLeastOnce),
            ..PropertySet::default()
        },
    );
    assert_eq!(brief(&link.sent()), ["PUBREL 1"]);
    link.events();
    link.receive(Packet::PubComp(ack(id(1))));
    let events = link.events();
    assert!(
        matches!(&events[..], [Event::Delivered { token: 7, .. }]),
        "{events:?}"
    );
}

#[test]
fn a_retained_message_is_rejected_where_there_is_no_retain() {
    let mut link = limited(PropertySet {
        retain_available: Some(false),
        ..PropertySet::default()
    });
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let message = Outgoing {
            retain: true,
            ..outgoing(7, qos)
        };
        assert_eq!(
            outcome(&mut link, message),
            rejected(ReasonCode::RETAIN_NOT_SUPPORTED)
        );
    }
}

#[test]
fn a_packet_one_byte_over_the_maximum_is_rejected_and_one_at_it_is_sent() {
    // Fixed header 2, topic 2 + 11, properties 1, and at QoS 1 and 2 the identifier 2.
    for (qos, overhead) in [
        (QoS::AtMostOnce, 16),
        (QoS::AtLeastOnce, 18),
        (QoS::ExactlyOnce, 18),
    ] {
        let mut link = limited(PropertySet {
            maximum_packet_size: Some(64),
            ..PropertySet::default()
        });
        let sized = |length| Outgoing {
            payload: Bytes::from(vec![0; length]),
            ..outgoing(7, qos)
        };
        for length in [64 - overhead + 1, 64, 65, 1_000] {
            assert_eq!(
                outcome(&mut link, sized(length)),
                rejected(ReasonCode::PACKET_TOO_LARGE),
                "{length}"
            );
        }
        link.session
            .publish(link.now, sized(64 - overhead))
            .unwrap();
        assert_eq!(link.sent().len(), 1);
    }
}

#[test]
fn the_lower_of_both_receive_maxima_is_the_window() {
    for (server, expected) in [(1, 1), (10, 10), (65_535, 1_000)] {
        let link = limited(PropertySet {
            receive_maximum: Some(server),
            ..PropertySet::default()
        });
        assert_eq!(link.session.publish_credit(), expected);
    }
}

#[test]
fn a_message_counts_for_receive_maximum_until_its_last_acknowledgement() {
    let mut link = limited(PropertySet {
        receive_maximum: Some(2),
        ..PropertySet::default()
    });
    link.publish(1, QoS::ExactlyOnce);
    link.publish(2, QoS::AtLeastOnce);
    link.sent();
    link.receive(Packet::PubRec(ack(id(1))));
    assert_eq!(link.session.publish_credit(), 0);
    link.receive(Packet::PubComp(ack(id(1))));
    assert_eq!(link.session.publish_credit(), 1);
    link.receive(Packet::PubAck(ack(id(2))));
    assert_eq!(link.session.publish_credit(), 2);
}

#[test]
fn subscriptions_the_server_has_not_are_answered_with_its_code() {
    let mut link = limited(PropertySet {
        wildcard_subscription_available: Some(false),
        shared_subscription_available: Some(false),
        ..PropertySet::default()
    });
    for filter in ["a/+", "#", "$share/group/a", "plain"] {
        link.subscribe(filter);
    }
    assert_eq!(brief(&link.sent()), ["SUBSCRIBE plain"]);
    let answers: Vec<_> = link
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Subscribed { filter, code, .. } => (filter.as_str().to_owned(), code),
            other => panic!("{other:?}"),
        })
        .collect();
    let wildcard = ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED;
    assert_eq!(
        answers,
        [
            ("a/+".to_owned(), wildcard),
            ("#".to_owned(), wildcard),
            (
                "$share/group/a".to_owned(),
                ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
            ),
        ]
    );
}

#[test]
fn subscribe_packets_stay_under_the_maximum_packet_size() {
    let mut link = limited(PropertySet {
        maximum_packet_size: Some(58),
        ..PropertySet::default()
    });
    let long = Box::leak("x".repeat(50).into_boxed_str());
    for filter in ["one/two/three/four", "five/six/seven/eight", "nine", long] {
        link.subscribe(filter);
    }
    assert_eq!(
        brief(&link.sent()),
        [
            "SUBSCRIBE one/two/three/four,five/six/seven/eight",
            "SUBSCRIBE nine"
        ]
    );
    assert!(matches!(
        link.events().as_slice(),
        [Event::Subscribed { filter, code: ReasonCode::PACKET_TOO_LARGE, .. }]
            if filter.as_str() == long
    ));
}
