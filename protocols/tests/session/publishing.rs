//! QoS 0, 1 and 2 towards the server.

use paquebot_protocols::mqtt::session::Event;
use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, Properties, PropertySet, QoS, ReasonCode, Version,
};

use crate::link::{BOTH, Link, ack, assert_left_with, brief, config, id, outgoing};

fn delivered(token: u64) -> Event {
    Event::Delivered {
        token,
        code: ReasonCode::SUCCESS,
        session_lost: false,
    }
}

#[test]
fn a_publish_before_online_comes_back() {
    for version in BOTH {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut link = Link::new(config(version));
            let back = link.session.publish(link.now, outgoing(7, qos));
            assert_eq!(back.unwrap_err().token, 7);
        }
    }
}

#[test]
fn qos_0_publishes_are_transmitted_in_order_when_their_bytes_are_taken() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for token in 0..300 {
            link.publish(token, QoS::AtMostOnce);
        }
        assert_eq!(link.events(), []);
        let sent = link.sent();
        let expected: Vec<_> = (0..300).map(|token| format!("PUBLISH {token}")).collect();
        assert_eq!(brief(&sent), expected);
        let expected: Vec<_> = (0..300).map(|token| Event::Transmitted { token }).collect();
        assert_eq!(link.events(), expected);
    }
}

#[test]
fn qos_1_is_delivered_by_puback() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(7, QoS::AtLeastOnce);
        assert_eq!(brief(&link.sent()), ["PUBLISH 7 id 1"]);
        assert_eq!(link.session.inflight_len(), 1);
        assert_eq!(link.events(), []);
        link.receive(Packet::PubAck(ack(id(1))));
        assert_eq!(link.events(), [delivered(7)]);
        assert_eq!(link.session.inflight_len(), 0);
    }
}

#[test]
fn pubacks_that_come_together_end_their_messages_up_to_the_first_that_is_not_ordinary() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for token in 0..6 {
            let qos = match token {
                4 => QoS::ExactlyOnce,
                _ => QoS::AtLeastOnce,
            };
            link.publish(token, qos);
        }
        link.sent();
        let mut ended = Vec::new();
        // Out of order; then one that was acknowledged before, one of QoS 2, one that nothing was sent under.
        for (ids, taken) in [
            (&[3, 1, 2][..], 3),
            (&[4, 1, 6][..], 1),
            (&[5, 6][..], 0),
            (&[6, 9][..], 1),
        ] {
            let ids = ids.iter().map(|number| id(*number));
            let note = |token| ended.push(token);
            let count = link.session.handle_plain_pubacks(link.now, ids, note);
            assert_eq!(count, taken);
        }
        assert_eq!(ended, [2, 0, 1, 3, 5]);
        assert_eq!(link.events(), []);
        assert_eq!(link.session.inflight_len(), 1);
        link.drop_transport();
        let none = link
            .session
            .handle_plain_pubacks(link.now, [id(5)], |token| panic!("{token}"));
        assert_eq!(none, 0);
    }
}

#[test]
fn qos_2_is_delivered_by_pubcomp_after_pubrel() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(7, QoS::ExactlyOnce);
        assert_eq!(brief(&link.sent()), ["PUBLISH 7 id 1"]);
        link.receive(Packet::PubRec(ack(id(1))));
        assert_eq!(brief(&link.sent()), ["PUBREL 1"]);
        assert_eq!(link.events(), []);
        link.receive(Packet::PubComp(ack(id(1))));
        assert_eq!(link.events(), [delivered(7)]);
        assert_eq!(link.session.inflight_len(), 0);
    }
}

#[test]
fn acknowledgements_may_come_in_any_order() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for token in 1..=5 {
            link.publish(token, QoS::AtLeastOnce);
        }
        link.sent();
        for token in [3, 1, 5, 2, 4] {
            link.receive(Packet::PubAck(ack(id(token as u16))));
            assert_eq!(link.events(), [delivered(token)]);
        }
    }
}

#[test]
fn an_error_code_rejects_with_the_servers_words() {
    for (qos, packet) in [
        (QoS::AtLeastOnce, Packet::PubAck as fn(_) -> _),
        (QoS::ExactlyOnce, Packet::PubRec as fn(_) -> _),
    ] {
        let mut link = Link::online(config(Version::V5));
        link.publish(7, qos);
        link.sent();
        link.receive(packet(Acknowledgement {
            packet_id: id(1),
            reason_code: ReasonCode::QUOTA_EXCEEDED,
            properties: Properties::from(PropertySet {
                reason_string: Some("too much".into()),
                ..PropertySet::default()
            }),
        }));
        assert_eq!(
            link.events(),
            [Event::Rejected {
                token: 7,
                code: ReasonCode::QUOTA_EXCEEDED,
                reason_string: Some("too much".into()),
            }]
        );
        assert_eq!(link.sent(), [], "no PUBREL for a refused message");
        assert_eq!(link.session.inflight_len(), 0);
    }
}

#[test]
fn no_matching_subscribers_is_a_success_that_is_told() {
    let code = ReasonCode::NO_MATCHING_SUBSCRIBERS;
    let mut link = Link::online(config(Version::V5));
    link.publish(7, QoS::AtLeastOnce);
    link.publish(8, QoS::ExactlyOnce);
    link.sent();
    link.receive(Packet::PubAck(Acknowledgement::with_reason(id(1), code)));
    link.receive(Packet::PubRec(Acknowledgement::with_reason(id(2), code)));
    link.receive(Packet::PubComp(ack(id(2))));
    let told = |token| Event::Delivered {
        token,
        code,
        session_lost: false,
    };
    assert_eq!(link.events(), [told(7), told(8)]);
}

#[test]
fn a_repeated_pubrec_is_answered_with_pubrel_again() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(7, QoS::ExactlyOnce);
        link.sent();
        link.receive(Packet::PubRec(ack(id(1))));
        link.receive(Packet::PubRec(ack(id(1))));
        assert_eq!(brief(&link.sent()), ["PUBREL 1", "PUBREL 1"]);
        link.receive(Packet::PubComp(ack(id(1))));
        link.receive(Packet::PubComp(ack(id(1))));
        assert_eq!(link.events(), [delivered(7)]);
    }
}

#[test]
fn a_pubcomp_that_no_longer_finds_the_identifier_delivers_all_the_same() {
    let mut link = Link::online(config(Version::V5));
    link.publish(7, QoS::ExactlyOnce);
    link.sent();
    link.receive(Packet::PubRec(ack(id(1))));
    link.receive(Packet::PubComp(Acknowledgement::with_reason(
        id(1),
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
    )));
    assert_eq!(link.events(), [delivered(7)]);
}

#[test]
fn acknowledgements_nothing_waits_for_are_ignored() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(7, QoS::AtLeastOnce);
        link.receive(Packet::PubAck(ack(id(9))));
        link.receive(Packet::PubComp(ack(id(9))));
        // Never sent, so it cannot have been received.
        link.receive(Packet::PubAck(ack(id(1))));
        assert_eq!(link.events(), []);
        assert_eq!(link.session.inflight_len(), 1);
    }
}

#[test]
fn a_pubrec_nothing_waits_for_is_released() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(Packet::PubRec(ack(id(9))));
        let sent = link.sent();
        let [Packet::PubRel(release)] = sent.as_slice() else {
            panic!("{sent:?}");
        };
        let code = match version {
            Version::V311 => ReasonCode::SUCCESS,
            Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        assert_eq!(release.reason_code, code);
        assert_eq!(link.events(), []);
    }
}

#[test]
fn an_acknowledgement_that_contradicts_its_exchange_is_a_violation() {
    for version in BOTH {
        for (qos, packet) in [
            (QoS::ExactlyOnce, Packet::PubAck as fn(_) -> _),
            (QoS::ExactlyOnce, Packet::PubComp as fn(_) -> _),
            (QoS::AtLeastOnce, Packet::PubRec as fn(_) -> _),
            (QoS::AtLeastOnce, Packet::PubComp as fn(_) -> _),
        ] {
            let mut link = Link::online(config(version));
            link.publish(7, qos);
            link.sent();
            link.receive(packet(ack(id(1))));
            assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
            assert_eq!(link.session.inflight_len(), 1, "the message is kept");
        }
    }
}

#[test]
fn an_acknowledgement_of_a_subscribe_as_a_publish_is_a_violation() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe("a");
        link.sent();
        link.receive(Packet::PubAck(ack(id(1))));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn credit_is_what_is_left_of_the_window() {
    for version in BOTH {
        let mut config = config(version);
        config.inflight_max = 3;
        let mut link = Link::online(config);
        for token in 1..=3 {
            assert_eq!(link.session.publish_credit(), 4 - token as usize);
            link.publish(token, QoS::AtLeastOnce);
        }
        assert_eq!(link.session.publish_credit(), 0);
        let back = link
            .session
            .publish(link.now, outgoing(4, QoS::ExactlyOnce));
        assert_eq!(back.unwrap_err().token, 4);
        // QoS 0 needs no credit.
        link.publish(5, QoS::AtMostOnce);
        link.sent();
        link.receive(Packet::PubAck(ack(id(2))));
        assert_eq!(link.session.publish_credit(), 1);
    }
}

#[test]
fn properties_go_out_on_mqtt_5_only() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut message = outgoing(7, QoS::AtLeastOnce);
        let set = message.properties.edit();
        set.content_type = Some("text/plain".into());
        set.topic_alias = Some(3);
        set.message_expiry_interval = Some(9);
        link.session.publish(link.now, message).unwrap();
        let sent = link.sent();
        let [Packet::Publish(publish)] = sent.as_slice() else {
            panic!("{sent:?}");
        };
        let is_5 = version == Version::V5;
        assert_eq!(publish.properties.content_type.is_some(), is_5);
        assert_eq!(publish.properties.topic_alias, None);
        assert_eq!(publish.properties.message_expiry_interval, None);
    }
}

#[test]
fn draining_names_every_message_once_and_in_order() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for token in 1..=4 {
            link.publish(token, QoS::AtLeastOnce);
        }
        link.sent();
        link.publish(5, QoS::ExactlyOnce);
        link.publish(6, QoS::AtMostOnce);
        link.receive(Packet::PubAck(ack(id(2))));
        link.events();
        assert_eq!(link.session.drain(), [1, 3, 4, 5, 6]);
        assert!(link.session.drain().is_empty());
        assert_eq!(link.session.inflight_len(), 0);
        link.drop_transport();
        assert_eq!(link.events().len(), 1, "only Closed");
    }
}
