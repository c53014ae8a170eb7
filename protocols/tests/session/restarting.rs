//! What a session says must be recorded, and what the session of the next process makes of it.

use paquebot_protocols::mqtt::session::{
    CloseReason, ConnectOptions, Event, OnSessionLost, Progress, Record, Restored, SessionConfig,
};
use paquebot_protocols::mqtt::{
    Acknowledgement, Packet, PacketId, PropertySet, QoS, ReasonCode, Version,
};

use crate::link::{BOTH, Link, accepted, ack, brief, config, id, inbound, options, outgoing};

fn journaled(version: Version) -> SessionConfig {
    SessionConfig {
        journal: true,
        ..config(version)
    }
}

fn published(token: u64, packet_id: u16) -> Record {
    Record::Published {
        token,
        packet_id: id(packet_id),
    }
}

fn released(token: u64, packet_id: u16) -> Record {
    Record::Released {
        token,
        packet_id: id(packet_id),
    }
}

fn inbound_received(packet_id: u16) -> Record {
    Record::InboundReceived {
        packet_id: id(packet_id),
    }
}

fn inbound_released(packet_id: u16) -> Record {
    Record::InboundReleased {
        packet_id: id(packet_id),
    }
}

fn delivered(token: u64, session_lost: bool) -> Event {
    Event::Delivered {
        token,
        code: ReasonCode::SUCCESS,
        session_lost,
    }
}

fn refused(token: u64) -> Event {
    Event::Rejected {
        token,
        code: ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        reason_string: None,
    }
}

/// The session of the next process. A message's payload is its token, so one that comes back has to have it.
fn restarted(
    config: SessionConfig,
    outbound: &[(u64, QoS, Progress)],
    inbound: &[PacketId],
) -> Link {
    let mut link = Link::new(config);
    let outbound = outbound.iter().map(|(token, qos, progress)| Restored {
        message: outgoing(*token, *qos),
        progress: *progress,
    });
    let refused = link
        .session
        .restore(outbound.collect(), inbound.iter().copied());
    assert!(refused.is_empty(), "{refused:?}");
    link
}

/// Takes the message of the server and is done with it at once.
fn take_over(link: &mut Link, packet: Packet) -> usize {
    link.receive(packet);
    let messages = link.messages();
    for message in &messages {
        link.session.acknowledge(link.now, message.id.unwrap());
    }
    messages.len()
}

#[test]
fn publish_and_pubrel_of_qos_2_are_recorded_with_the_bytes_that_depend_on_them() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.publish(7, QoS::ExactlyOnce);
        assert_eq!(link.records(), []);
        assert_eq!(brief(&link.sent()), ["PUBLISH 7 id 1"]);
        assert_eq!(link.records(), [published(7, 1)]);
        link.receive(Packet::PubRec(ack(id(1))));
        assert_eq!(brief(&link.sent()), ["PUBREL 1"]);
        assert_eq!(link.records(), [released(7, 1)]);
        link.receive(Packet::PubComp(ack(id(1))));
        assert_eq!(link.events(), [delivered(7, false)]);
        assert_eq!(link.records(), []);
    }
}

#[test]
fn a_message_that_is_written_at_once_is_recorded_at_once() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        let mut output = bytes::BytesMut::new();
        for (token, qos) in [
            (1, QoS::AtMostOnce),
            (2, QoS::AtLeastOnce),
            (3, QoS::ExactlyOnce),
        ] {
            let message = outgoing(token, qos);
            link.session
                .publish_into(link.now, message, &mut output)
                .unwrap();
        }
        assert_eq!(link.records(), [published(3, 2)]);
    }
}

#[test]
fn sending_again_records_nothing_new() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.publish(1, QoS::ExactlyOnce);
        link.publish(2, QoS::ExactlyOnce);
        link.sent();
        link.receive(Packet::PubRec(ack(id(1))));
        link.sent();
        assert_eq!(link.records().len(), 3);
        link.drop_transport();
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBREL 1", "PUBLISH 2 id 2 dup"]);
        link.receive(Packet::PubRec(ack(id(1))));
        assert_eq!(link.records(), []);
    }
}

#[test]
fn qos_0_and_1_record_nothing_in_either_direction() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.publish(1, QoS::AtMostOnce);
        link.publish(2, QoS::AtLeastOnce);
        take_over(
            &mut link,
            Packet::Publish(inbound(QoS::AtLeastOnce, 1, "a")),
        );
        link.sent();
        link.drop_transport();
        link.reconnect(false);
        assert_eq!(brief(&link.sent()), ["PUBLISH 2 id 2"]);
        assert_eq!(link.records(), []);
    }
}

#[test]
fn a_session_that_keeps_no_journal_says_nothing() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(1, QoS::ExactlyOnce);
        take_over(
            &mut link,
            Packet::Publish(inbound(QoS::ExactlyOnce, 1, "a")),
        );
        link.sent();
        link.receive(Packet::PubRec(ack(id(1))));
        link.receive(Packet::PubRel(ack(id(1))));
        link.sent();
        assert_eq!(link.records(), []);
    }
}

#[test]
fn a_received_message_is_recorded_when_the_application_is_done_with_it_and_until_pubrel() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.receive(Packet::Publish(inbound(QoS::ExactlyOnce, 5, "a")));
        let message = link.messages().remove(0);
        assert_eq!((link.sent().len(), link.records().len()), (0, 0));
        link.session.acknowledge(link.now, message.id.unwrap());
        assert_eq!(brief(&link.sent()), ["PUBREC 5"]);
        assert_eq!(link.records(), [inbound_received(5)]);
        link.receive(Packet::PubRel(ack(id(5))));
        assert_eq!(brief(&link.sent()), ["PUBCOMP 5"]);
        assert_eq!(link.records(), [inbound_released(5)]);
    }
}

#[test]
fn pubrec_and_pubcomp_that_are_sent_again_record_nothing_new() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        take_over(
            &mut link,
            Packet::Publish(inbound(QoS::ExactlyOnce, 5, "a")),
        );
        link.sent();
        assert_eq!(link.records(), [inbound_received(5)]);
        link.drop_transport();
        link.reconnect(true);
        let mut again = inbound(QoS::ExactlyOnce, 5, "a");
        again.dup = true;
        assert_eq!(take_over(&mut link, Packet::Publish(again)), 0);
        assert_eq!(brief(&link.sent()), ["PUBREC 5"]);
        assert_eq!(link.records(), []);
        for expected in [&[inbound_released(5)][..], &[]] {
            link.receive(Packet::PubRel(ack(id(5))));
            assert_eq!(brief(&link.sent()), ["PUBCOMP 5"]);
            assert_eq!(link.records(), expected);
        }
    }
}

#[test]
fn pubrel_for_a_message_that_was_never_acknowledged_releases_nothing() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.receive(Packet::Publish(inbound(QoS::ExactlyOnce, 5, "a")));
        link.receive(Packet::PubRel(ack(id(5))));
        link.sent();
        assert_eq!(link.records(), []);
    }
}

#[test]
fn a_lost_session_withdraws_what_was_recorded_before_anything_is_published_anew() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.publish(1, QoS::ExactlyOnce);
        link.publish(2, QoS::AtLeastOnce);
        link.publish(3, QoS::ExactlyOnce);
        take_over(
            &mut link,
            Packet::Publish(inbound(QoS::ExactlyOnce, 5, "a")),
        );
        link.sent();
        link.receive(Packet::PubRec(ack(id(1))));
        link.sent();
        link.records();
        link.drop_transport();
        link.reconnect(false);
        let withdrawn = |token| Record::Withdrawn { token };
        assert_eq!(
            link.records(),
            [inbound_released(5), withdrawn(1), withdrawn(3)]
        );
        assert_eq!(
            brief(&link.sent()),
            ["PUBLISH 1 id 4", "PUBLISH 2 id 5", "PUBLISH 3 id 6"]
        );
        assert_eq!(link.records(), [published(1, 4), published(3, 6)]);
    }
}

#[test]
fn a_restored_session_goes_on_where_the_records_end() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[
                (1, QoS::ExactlyOnce, Progress::Published(id(9))),
                (2, QoS::ExactlyOnce, Progress::Released(id(4))),
            ],
            &[id(5), id(6)],
        );
        assert_eq!(link.session.inflight_len(), 2);
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBREL 4", "PUBLISH 1 id 9 dup"]);
        link.receive(Packet::PubComp(ack(id(4))));
        let mut again = inbound(QoS::ExactlyOnce, 5, "a");
        again.dup = true;
        assert_eq!(take_over(&mut link, Packet::Publish(again)), 0);
        link.receive(Packet::PubRel(ack(id(6))));
        assert_eq!(brief(&link.sent()), ["PUBREC 5", "PUBCOMP 6"]);
        assert_eq!(link.records(), [inbound_released(6)]);
    }
}

#[test]
fn messages_without_a_record_keep_their_place_among_those_that_have_one() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[
                (1, QoS::AtLeastOnce, Progress::Unrecorded),
                (2, QoS::ExactlyOnce, Progress::Published(id(1))),
                (3, QoS::ExactlyOnce, Progress::Unrecorded),
                (4, QoS::ExactlyOnce, Progress::Published(id(2))),
            ],
            &[],
        );
        link.reconnect(true);
        link.publish(5, QoS::AtLeastOnce);
        assert_eq!(
            brief(&link.sent()),
            [
                "PUBLISH 1 id 3",
                "PUBLISH 2 id 1 dup",
                "PUBLISH 3 id 4",
                "PUBLISH 4 id 2 dup",
                "PUBLISH 5 id 5",
            ]
        );
        assert_eq!(link.records(), [published(3, 4)]);
    }
}

#[test]
fn what_comes_of_restored_messages_is_flagged_for_the_session_is_in_doubt() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[
                (1, QoS::ExactlyOnce, Progress::Released(id(1))),
                (2, QoS::ExactlyOnce, Progress::Unrecorded),
            ],
            &[],
        );
        link.reconnect(true);
        link.sent();
        link.events();
        link.receive(Packet::PubComp(ack(id(1))));
        link.receive(Packet::PubRec(ack(id(2))));
        link.sent();
        link.receive(Packet::PubComp(ack(id(2))));
        assert_eq!(link.events(), [delivered(1, true), delivered(2, false)]);
    }
}

#[test]
fn a_restored_session_that_the_server_has_lost_is_published_anew_in_order() {
    for version in BOTH {
        for clean_start in [false, true] {
            let mut link = restarted(
                journaled(version),
                &[
                    (1, QoS::ExactlyOnce, Progress::Released(id(8))),
                    (2, QoS::AtLeastOnce, Progress::Unrecorded),
                    (3, QoS::ExactlyOnce, Progress::Published(id(9))),
                ],
                &[id(5)],
            );
            link.connect(ConnectOptions {
                clean_start,
                ..options()
            });
            link.receive(accepted(false, PropertySet::default()));
            assert!(matches!(
                link.events().first(),
                Some(Event::Connected {
                    session_lost: true,
                    ..
                })
            ));
            let withdrawn = |token| Record::Withdrawn { token };
            assert_eq!(
                link.records(),
                [inbound_released(5), withdrawn(1), withdrawn(3)]
            );
            assert_eq!(
                brief(&link.sent()),
                ["PUBLISH 1 id 11", "PUBLISH 2 id 12", "PUBLISH 3 id 13"]
            );
            assert_eq!(link.records(), [published(1, 11), published(3, 13)]);
            // The identifier means another message now.
            let message = Packet::Publish(inbound(QoS::ExactlyOnce, 5, "a"));
            assert_eq!(take_over(&mut link, message), 1);
        }
    }
}

#[test]
fn restored_messages_of_a_lost_session_can_fail_instead() {
    for version in BOTH {
        let mut link = restarted(
            SessionConfig {
                on_session_lost: OnSessionLost::Fail,
                ..journaled(version)
            },
            &[
                (1, QoS::ExactlyOnce, Progress::Released(id(8))),
                (2, QoS::ExactlyOnce, Progress::Unrecorded),
                (3, QoS::ExactlyOnce, Progress::Withdrawn),
            ],
            &[],
        );
        assert_eq!(link.events(), [refused(3)]);
        link.reconnect(false);
        assert!(link.events().contains(&refused(1)));
        assert_eq!(brief(&link.sent()), ["PUBLISH 2 id 10"]);
    }
}

#[test]
fn a_message_that_was_withdrawn_and_not_published_again_is_and_stays_flagged() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[(1, QoS::ExactlyOnce, Progress::Withdrawn)],
            &[],
        );
        link.reconnect(true);
        link.events();
        assert_eq!(brief(&link.sent()), ["PUBLISH 1 id 1"]);
        assert_eq!(link.records(), [published(1, 1)]);
        link.receive(Packet::PubRec(ack(id(1))));
        link.sent();
        link.receive(Packet::PubComp(ack(id(1))));
        assert_eq!(link.events(), [delivered(1, true)]);
    }
}

#[test]
fn identifiers_of_restored_messages_are_not_handed_out() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[
                (1, QoS::ExactlyOnce, Progress::Published(id(u16::MAX))),
                (2, QoS::ExactlyOnce, Progress::Published(id(1))),
                (3, QoS::ExactlyOnce, Progress::Published(id(3))),
                (4, QoS::ExactlyOnce, Progress::Published(id(u16::MAX - 1))),
            ],
            &[],
        );
        link.reconnect(true);
        link.sent();
        link.publish(5, QoS::AtLeastOnce);
        link.publish(6, QoS::AtLeastOnce);
        assert_eq!(brief(&link.sent()), ["PUBLISH 5 id 2", "PUBLISH 6 id 4"]);
    }
}

#[test]
fn more_restored_messages_than_the_server_takes_at_once_wait_for_their_turn() {
    let restored: Vec<_> = (1..=5)
        .map(|n| {
            let packet_id = id(u16::try_from(n).unwrap());
            (n, QoS::ExactlyOnce, Progress::Published(packet_id))
        })
        .collect();
    let mut link = restarted(journaled(Version::V5), &restored, &[]);
    link.reconnect_with(
        true,
        PropertySet {
            receive_maximum: Some(2),
            ..PropertySet::default()
        },
    );
    assert_eq!(link.session.publish_credit(), 0);
    assert_eq!(
        brief(&link.sent()),
        ["PUBLISH 1 id 1 dup", "PUBLISH 2 id 2 dup"]
    );
    link.receive(Packet::PubRec(ack(id(2))));
    assert_eq!(brief(&link.sent()), ["PUBREL 2"]);
    link.receive(Packet::PubComp(ack(id(2))));
    assert_eq!(brief(&link.sent()), ["PUBLISH 3 id 3 dup"]);
    link.receive(Packet::PubRec(Acknowledgement::with_reason(
        id(1),
        ReasonCode::QUOTA_EXCEEDED,
    )));
    assert_eq!(brief(&link.sent()), ["PUBLISH 4 id 4 dup"]);
}

#[test]
fn an_identifier_in_doubt_that_brings_a_new_message_is_free_of_its_record_at_once() {
    for version in BOTH {
        let mut link = restarted(journaled(version), &[], &[id(5)]);
        link.reconnect(true);
        let message = Packet::Publish(inbound(QoS::ExactlyOnce, 5, "b"));
        assert_eq!(take_over(&mut link, message), 1);
        assert_eq!(brief(&link.sent()), ["PUBREC 5"]);
        assert_eq!(link.records(), [inbound_released(5), inbound_received(5)]);
    }
}

#[test]
fn what_cannot_be_restored_comes_back() {
    let mut link = Link::new(journaled(Version::V5));
    let restored = |token, qos, progress| Restored {
        message: outgoing(token, qos),
        progress,
    };
    let back = link.session.restore(
        vec![
            restored(1, QoS::ExactlyOnce, Progress::Published(id(1))),
            restored(2, QoS::ExactlyOnce, Progress::Released(id(1))),
            restored(3, QoS::AtLeastOnce, Progress::Published(id(2))),
            restored(4, QoS::AtLeastOnce, Progress::Withdrawn),
            restored(5, QoS::AtMostOnce, Progress::Unrecorded),
        ],
        [],
    );
    let tokens: Vec<_> = back.iter().map(|message| message.token).collect();
    assert_eq!(tokens, [2, 3, 4, 5]);
    assert_eq!(link.session.inflight_len(), 1);
}

#[test]
fn with_nothing_to_restore_no_session_counts_as_lost() {
    for version in BOTH {
        let mut link = restarted(
            journaled(version),
            &[(1, QoS::AtLeastOnce, Progress::Unrecorded)],
            &[],
        );
        link.reconnect(false);
        assert!(matches!(
            link.events().first(),
            Some(Event::Connected {
                session_lost: false,
                ..
            })
        ));
        assert_eq!(brief(&link.sent()), ["PUBLISH 1 id 2"]);
    }
}

#[test]
fn a_storage_that_fails_ends_the_connection_without_a_word_and_keeps_the_session() {
    for version in BOTH {
        let mut link = Link::online(journaled(version));
        link.publish(1, QoS::ExactlyOnce);
        link.sent();
        link.session.handle_storage_failed(link.now);
        assert_eq!(link.events(), [Event::Closed(CloseReason::Storage)]);
        assert_eq!(link.sent(), []);
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBLISH 1 id 1 dup"]);
    }
}
