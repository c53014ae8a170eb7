//! QoS 0, 1 and 2 from the server, and acknowledging it.

use paquebot_protocols::mqtt::session::{InboundId, SessionConfig};
use paquebot_protocols::mqtt::{Packet, PropertySet, Publish, QoS, ReasonCode, Version};

use crate::link::{
    BOTH, Link, accepted, ack, assert_left_with, brief, config, id, inbound, options,
};

/// Hands one message over and gives its identifier.
#[track_caller]
fn deliver(link: &mut Link, publish: Publish) -> InboundId {
    link.receive(Packet::Publish(publish));
    let messages = link.messages();
    assert_eq!(messages.len(), 1, "handed over once");
    messages[0].id.unwrap()
}

fn acknowledge(link: &mut Link, id: InboundId) -> Vec<String> {
    link.session.acknowledge(link.now, id);
    brief(&link.sent())
}

#[test]
fn qos_0_is_handed_over_and_not_acknowledged() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(Packet::Publish(inbound(QoS::AtMostOnce, 0, "hello")));
        let messages = link.messages();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].id, None);
        assert_eq!(messages[0].payload, "hello");
        assert_eq!(messages[0].topic.as_str(), "harbour/in");
        assert_eq!(link.sent(), []);
    }
}

#[test]
fn puback_is_sent_only_after_the_message_was_acknowledged() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let name = deliver(&mut link, inbound(QoS::AtLeastOnce, 9, "a"));
        assert_eq!(link.sent(), []);
        assert_eq!(acknowledge(&mut link, name), ["PUBACK 9"]);
        assert_eq!(acknowledge(&mut link, name), [""; 0], "once");
    }
}

#[test]
fn a_qos_2_exchange_goes_through_pubrec_pubrel_pubcomp() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let name = deliver(&mut link, inbound(QoS::ExactlyOnce, 9, "a"));
        assert_eq!(link.sent(), []);
        assert_eq!(acknowledge(&mut link, name), ["PUBREC 9"]);
        link.receive(Packet::PubRel(ack(id(9))));
        assert_eq!(brief(&link.sent()), ["PUBCOMP 9"]);
        // The identifier is free for another message.
        deliver(&mut link, inbound(QoS::ExactlyOnce, 9, "b"));
    }
}

#[test]
fn acknowledgements_keep_the_order_of_arrival_per_qos() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let a = deliver(&mut link, inbound(QoS::AtLeastOnce, 1, "a"));
        let b = deliver(&mut link, inbound(QoS::ExactlyOnce, 2, "b"));
        let c = deliver(&mut link, inbound(QoS::AtLeastOnce, 3, "c"));
        let d = deliver(&mut link, inbound(QoS::ExactlyOnce, 4, "d"));
        assert_eq!(acknowledge(&mut link, d), [""; 0]);
        assert_eq!(acknowledge(&mut link, c), [""; 0]);
        assert_eq!(acknowledge(&mut link, b), ["PUBREC 2", "PUBREC 4"]);
        assert_eq!(acknowledge(&mut link, a), ["PUBACK 1", "PUBACK 3"]);
    }
}

#[test]
fn a_stale_qos_1_identifier_is_ignored_and_the_redelivery_is_handed_over() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let old = deliver(&mut link, inbound(QoS::AtLeastOnce, 9, "a"));
        link.drop_transport();
        assert_eq!(acknowledge(&mut link, old), [""; 0]);
        link.reconnect(true);
        link.events();
        assert_eq!(acknowledge(&mut link, old), [""; 0]);
        let new = deliver(
            &mut link,
            Publish {
                dup: true,
                ..inbound(QoS::AtLeastOnce, 9, "a")
            },
        );
        assert_eq!(acknowledge(&mut link, old), [""; 0]);
        assert_eq!(acknowledge(&mut link, new), ["PUBACK 9"]);
    }
}

#[test]
fn qos_2_is_not_handed_over_twice_whatever_was_acknowledged_before_the_break() {
    for version in BOTH {
        for acknowledged in ["before", "offline", "after", "after redelivery"] {
            let mut link = Link::online(config(version));
            let name = deliver(&mut link, inbound(QoS::ExactlyOnce, 9, "a"));
            if acknowledged == "before" {
                assert_eq!(acknowledge(&mut link, name), ["PUBREC 9"]);
            }
            link.drop_transport();
            if acknowledged == "offline" {
                assert_eq!(acknowledge(&mut link, name), [""; 0]);
            }
            link.reconnect(true);
            if acknowledged == "after" {
                assert_eq!(
                    acknowledge(&mut link, name),
                    [""; 0],
                    "the server waits for nothing yet"
                );
            }
            link.events();
            link.receive(Packet::Publish(Publish {
                dup: true,
                ..inbound(QoS::ExactlyOnce, 9, "a")
            }));
            assert_eq!(link.messages(), [], "{acknowledged}");
            if acknowledged == "after redelivery" {
                assert_eq!(link.sent(), []);
                link.session.acknowledge(link.now, name);
            }
            assert_eq!(brief(&link.sent()), ["PUBREC 9"], "{acknowledged}");
            link.receive(Packet::PubRel(ack(id(9))));
            assert_eq!(brief(&link.sent()), ["PUBCOMP 9"]);
        }
    }
}

#[test]
fn redelivered_qos_2_messages_are_answered_in_order_too() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let a = deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
        let b = deliver(&mut link, inbound(QoS::ExactlyOnce, 2, "b"));
        assert_eq!(acknowledge(&mut link, a), ["PUBREC 1"]);
        link.drop_transport();
        link.reconnect(true);
        link.events();
        for (packet_id, payload) in [(2, "b"), (1, "a")] {
            link.receive(Packet::Publish(Publish {
                dup: true,
                ..inbound(QoS::ExactlyOnce, packet_id, payload)
            }));
        }
        assert_eq!(link.messages(), []);
        assert_eq!(link.sent(), []);
        assert_eq!(acknowledge(&mut link, b), ["PUBREC 2", "PUBREC 1"]);
    }
}

#[test]
fn a_lost_session_makes_the_same_identifier_a_new_message() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let old = deliver(&mut link, inbound(QoS::ExactlyOnce, 9, "a"));
        link.drop_transport();
        link.reconnect(false);
        link.events();
        let new = deliver(&mut link, inbound(QoS::ExactlyOnce, 9, "b"));
        assert_eq!(acknowledge(&mut link, old), [""; 0]);
        assert_eq!(acknowledge(&mut link, new), ["PUBREC 9"]);
    }
}

#[test]
fn a_pubrel_nothing_waits_for_is_completed() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(Packet::PubRel(ack(id(9))));
        let sent = link.sent();
        let [Packet::PubComp(complete)] = sent.as_slice() else {
            panic!("{sent:?}");
        };
        let code = match version {
            Version::V311 => ReasonCode::SUCCESS,
            Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        assert_eq!(complete.reason_code, code);
    }
}

#[test]
fn a_pubrel_before_pubrec_ends_the_exchange_and_unblocks_those_behind() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let a = deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
        let b = deliver(&mut link, inbound(QoS::ExactlyOnce, 2, "b"));
        assert_eq!(acknowledge(&mut link, b), [""; 0]);
        link.receive(Packet::PubRel(ack(id(1))));
        assert_eq!(brief(&link.sent()), ["PUBREC 2", "PUBCOMP 1"]);
        assert_eq!(acknowledge(&mut link, a), [""; 0]);
    }
}

#[test]
fn the_message_over_receive_maximum_is_a_violation() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut link = Link::online(SessionConfig {
            receive_maximum: 3,
            ..config(Version::V5)
        });
        deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
        let b = deliver(&mut link, inbound(QoS::AtLeastOnce, 2, "b"));
        deliver(&mut link, inbound(qos, 3, "c"));
        assert_eq!(acknowledge(&mut link, b), ["PUBACK 2"]);
        deliver(&mut link, inbound(qos, 4, "d"));
        link.receive(Packet::Publish(inbound(qos, 5, "e")));
        assert_left_with(&mut link, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
    }
}

#[test]
fn a_qos_2_message_counts_for_receive_maximum_until_pubcomp() {
    let mut link = Link::online(SessionConfig {
        receive_maximum: 1,
        ..config(Version::V5)
    });
    for _ in 0..3 {
        let name = deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
        acknowledge(&mut link, name);
        link.receive(Packet::PubRel(ack(id(1))));
        link.sent();
    }
    let name = deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
    acknowledge(&mut link, name);
    link.receive(Packet::Publish(inbound(QoS::ExactlyOnce, 2, "b")));
    link.events();
    assert!(!link.session.is_online());
}

#[test]
fn an_exchange_of_an_earlier_connection_takes_no_part_in_receive_maximum() {
    let mut link = Link::online(SessionConfig {
        receive_maximum: 1,
        ..config(Version::V5)
    });
    let name = deliver(&mut link, inbound(QoS::ExactlyOnce, 1, "a"));
    acknowledge(&mut link, name);
    link.drop_transport();
    link.reconnect(true);
    link.events();
    deliver(&mut link, inbound(QoS::AtLeastOnce, 2, "b"));
    link.receive(Packet::PubRel(ack(id(1))));
    assert_eq!(brief(&link.sent()), ["PUBCOMP 1"]);
}

#[test]
fn a_server_may_send_more_again_than_a_receive_maximum_that_became_smaller() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut link = Link::online(SessionConfig {
            receive_maximum: 2,
            ..config(Version::V5)
        });
        link.drop_transport();
        link.reconnect(true);
        link.events();
        let again: Vec<_> = (1..=3)
            .map(|packet_id| {
                let message = inbound(qos, packet_id, "a");
                deliver(
                    &mut link,
                    Publish {
                        dup: true,
                        ..message
                    },
                )
            })
            .collect();
        // What such a server counts is not to be relied upon.
        let new = deliver(&mut link, inbound(qos, 4, "b"));
        let mut answers = Vec::new();
        for name in again.into_iter().chain([new]) {
            answers.extend(acknowledge(&mut link, name));
        }
        assert_eq!(answers.len(), 4, "{answers:?}");

        // The next connection has nothing left over.
        link.drop_transport();
        link.reconnect(true);
        link.events();
        for packet_id in 5..=6 {
            deliver(&mut link, inbound(qos, packet_id, "c"));
        }
        link.receive(Packet::Publish(inbound(qos, 7, "d")));
        assert_left_with(&mut link, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
    }
}

#[test]
fn what_is_sent_again_counts_for_receive_maximum() {
    let mut link = Link::online(SessionConfig {
        receive_maximum: 2,
        ..config(Version::V5)
    });
    for packet_id in 1..=2 {
        let message = inbound(QoS::AtLeastOnce, packet_id, "a");
        deliver(
            &mut link,
            Publish {
                dup: true,
                ..message
            },
        );
    }
    link.receive(Packet::Publish(inbound(QoS::AtLeastOnce, 3, "b")));
    assert_left_with(&mut link, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn on_mqtt_3_1_1_the_window_is_the_number_of_identifiers() {
    let mut link = Link::online(SessionConfig {
        receive_maximum: 1,
        ..config(Version::V311)
    });
    for packet_id in 1..=65_535 {
        link.receive(Packet::Publish(inbound(QoS::AtLeastOnce, packet_id, "a")));
    }
    assert_eq!(link.messages().len(), 65_535);
    link.receive(Packet::Publish(inbound(QoS::AtLeastOnce, 1, "a")));
    assert_left_with(&mut link, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn packets_only_a_client_sends_are_a_violation() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(Packet::PingReq);
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn no_acknowledgement_overtakes_a_connect_that_a_server_did_not_wait_for() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.session.connect(link.now, options());
        link.receive(accepted(false, PropertySet::default()));
        let name = deliver(&mut link, inbound(QoS::AtLeastOnce, 9, "a"));
        link.session.acknowledge(link.now, name);
        let sent = link.sent();
        assert!(matches!(sent[0], Packet::Connect(_)), "{sent:?}");
        assert_eq!(brief(&sent[1..]), ["PUBACK 9"]);
    }
}
