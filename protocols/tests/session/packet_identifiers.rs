//! One set of packet identifiers for PUBLISH, SUBSCRIBE and UNSUBSCRIBE.

use std::collections::HashSet;

use paquebot_protocols::mqtt::session::{Event, SessionConfig};
use paquebot_protocols::mqtt::{Packet, PropertySet, QoS, ReasonCode};

use crate::link::{BOTH, Link, accepted, ack, assert_left_with, config, options, outgoing, suback};

fn wide(version: paquebot_protocols::mqtt::Version) -> SessionConfig {
    SessionConfig {
        inflight_max: u16::MAX,
        ..config(version)
    }
}

fn one_publish(link: &mut Link) -> paquebot_protocols::mqtt::PacketId {
    match link.sent().as_slice() {
        [Packet::Publish(publish)] => publish.packet_id.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_65541_publishes_with_the_first_unacknowledged_none_reuses_its_identifier() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(0, QoS::AtLeastOnce);
        let first = one_publish(&mut link);
        for token in 1..65_541 {
            link.publish(token, QoS::AtLeastOnce);
            let next = one_publish(&mut link);
            assert_ne!(next, first, "publish {token}");
            link.receive(Packet::PubAck(ack(next)));
            assert!(matches!(
                link.events().as_slice(),
                [Event::Delivered { token: t, .. }] if *t == token
            ));
        }
        assert_eq!(link.session.inflight_len(), 1);
        link.receive(Packet::PubAck(ack(first)));
        assert!(matches!(
            link.events().as_slice(),
            [Event::Delivered { token: 0, .. }]
        ));
    }
}

#[test]
fn running_out_of_identifiers_is_back_pressure() {
    for version in BOTH {
        let mut link = Link::online(wide(version));
        let mut seen = HashSet::new();
        for token in 0..65_535 {
            link.publish(token, QoS::AtLeastOnce);
        }
        for packet in link.sent() {
            let Packet::Publish(publish) = packet else {
                panic!("{packet:?}");
            };
            assert!(seen.insert(publish.packet_id));
        }
        assert_eq!(seen.len(), 65_535);
        assert_eq!(link.session.publish_credit(), 0);
        let back = link
            .session
            .publish(link.now, outgoing(65_535, QoS::AtLeastOnce));
        assert_eq!(back.unwrap_err().token, 65_535);

        // A SUBSCRIBE waits for an identifier, and takes the first that is given back.
        link.subscribe("a");
        assert_eq!(link.sent(), []);
        let freed = crate::link::id(30_000);
        link.receive(Packet::PubAck(ack(freed)));
        match link.sent().as_slice() {
            [Packet::Subscribe(subscribe)] => assert_eq!(subscribe.packet_id, freed),
            other => panic!("{other:?}"),
        }
        assert_eq!(link.session.publish_credit(), 0);
        link.receive(suback(freed, &[ReasonCode::SUCCESS]));
        assert_eq!(link.session.publish_credit(), 1);
    }
}

#[test]
fn subscribe_and_unsubscribe_share_the_identifiers_of_publishes() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut seen = HashSet::new();
        for token in 0..50 {
            link.publish(token, QoS::ExactlyOnce);
            link.session
                .subscribe(
                    link.now,
                    crate::link::subscription(&format!("filter/{token}")),
                )
                .unwrap();
            for packet in link.sent() {
                let id = match packet {
                    Packet::Publish(publish) => publish.packet_id.unwrap(),
                    Packet::Subscribe(subscribe) => subscribe.packet_id,
                    other => panic!("{other:?}"),
                };
                assert!(seen.insert(id), "{id} was in flight");
            }
        }
        assert_eq!(seen.len(), 100);
    }
}

/// A process that keeps nothing resumes the session of the one before it.
#[test]
fn what_the_server_still_answers_to_a_process_before_ends_without_touching_what_is_under_way() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.session.connect(link.now, options());
        link.receive(accepted(true, PropertySet::default()));
        link.sent();
        link.publish(1, QoS::AtLeastOnce);
        let id = one_publish(&mut link);
        link.events();
        // Twice, since a server repeats it on the next connection.
        for _ in 0..2 {
            link.receive(Packet::PubRec(ack(id)));
            let sent = link.sent();
            assert!(
                matches!(sent.as_slice(), [Packet::PubRel(release)] if release.packet_id == id),
                "{sent:?}"
            );
            link.receive(Packet::PubComp(ack(id)));
            assert_eq!(link.events(), []);
        }
        link.receive(Packet::PubAck(ack(id)));
        let delivered = link.events();
        assert!(
            matches!(delivered.as_slice(), [Event::Delivered { token: 1, .. }]),
            "{delivered:?}"
        );

        // In a session of its own such an answer is a violation still.
        link.drop_transport();
        link.reconnect(false);
        link.events();
        link.publish(2, QoS::AtLeastOnce);
        let id = one_publish(&mut link);
        link.receive(Packet::PubRec(ack(id)));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}
