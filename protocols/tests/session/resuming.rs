//! What becomes of messages in flight when the connection is replaced.

use paquebot_protocols::mqtt::session::{
    CloseReason, ConnectOptions, Event, OnSessionLost, SessionConfig,
};
use paquebot_protocols::mqtt::{Packet, PropertySet, QoS, ReasonCode, Version};

use crate::link::{BOTH, Link, accepted, ack, brief, config, id, options};

/// 1 and 3 at QoS 1, 2 past PUBREC, 4 before it; the connection is gone.
fn broken(config: SessionConfig) -> Link {
    let mut link = Link::online(config);
    link.publish(1, QoS::AtLeastOnce);
    link.publish(2, QoS::ExactlyOnce);
    link.publish(3, QoS::AtLeastOnce);
    link.publish(4, QoS::ExactlyOnce);
    link.sent();
    link.receive(Packet::PubRec(ack(id(2))));
    link.sent();
    link.drop_transport();
    assert_eq!(link.events(), [Event::Closed(CloseReason::TransportClosed)]);
    link
}

#[test]
fn a_resumed_session_sends_again_in_order_before_anything_new() {
    for version in BOTH {
        let mut link = broken(config(version));
        link.reconnect(true);
        link.publish(5, QoS::AtLeastOnce);
        assert_eq!(
            brief(&link.sent()),
            [
                "PUBREL 2",
                "PUBLISH 1 id 1 dup",
                "PUBLISH 3 id 3 dup",
                "PUBLISH 4 id 4 dup",
                "PUBLISH 5 id 5",
            ]
        );
        link.events();
        link.receive(Packet::PubComp(ack(id(2))));
        link.receive(Packet::PubAck(ack(id(1))));
        let delivered = |token| Event::Delivered {
            token,
            code: ReasonCode::SUCCESS,
            session_lost: false,
        };
        assert_eq!(link.events(), [delivered(2), delivered(1)]);
    }
}

#[test]
fn a_lost_session_publishes_everything_anew_in_order_with_fresh_identifiers() {
    for version in BOTH {
        let mut link = broken(config(version));
        link.reconnect(false);
        assert!(matches!(
            link.events().as_slice(),
            [
                Event::Connected {
                    session_present: false,
                    session_lost: true,
                    ..
                },
                Event::Online
            ]
        ));
        link.publish(5, QoS::AtLeastOnce);
        assert_eq!(
            brief(&link.sent()),
            [
                "PUBLISH 1 id 5",
                "PUBLISH 2 id 6",
                "PUBLISH 3 id 7",
                "PUBLISH 4 id 8",
                "PUBLISH 5 id 9",
            ]
        );
        link.receive(Packet::PubAck(ack(id(5))));
        link.receive(Packet::PubAck(ack(id(9))));
        let delivered = |token, session_lost| Event::Delivered {
            token,
            code: ReasonCode::SUCCESS,
            session_lost,
        };
        assert_eq!(link.events(), [delivered(1, true), delivered(5, false)]);
    }
}

#[test]
fn qos_2_can_fail_instead_when_the_session_is_lost() {
    for version in BOTH {
        let mut link = broken(SessionConfig {
            on_session_lost: OnSessionLost::Fail,
            ..config(version)
        });
        link.reconnect(false);
        let events = link.events();
        let rejected = |token| Event::Rejected {
            token,
            code: ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            reason_string: None,
        };
        assert!(events.contains(&rejected(2)) && events.contains(&rejected(4)));
        assert_eq!(brief(&link.sent()), ["PUBLISH 1 id 5", "PUBLISH 3 id 6"]);
    }
}

#[test]
fn a_clean_start_counts_as_a_lost_session() {
    for version in BOTH {
        let mut link = broken(config(version));
        link.connect(ConnectOptions {
            clean_start: true,
            ..options()
        });
        link.receive(accepted(false, PropertySet::default()));
        assert_eq!(link.sent().len(), 4);
        link.receive(Packet::PubAck(ack(id(5))));
        assert!(link.events().contains(&Event::Delivered {
            token: 1,
            code: ReasonCode::SUCCESS,
            session_lost: true,
        }));
    }
}

#[test]
fn a_session_that_was_not_to_be_kept_is_not_called_lost() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        for _ in 0..2 {
            link.connect(ConnectOptions {
                clean_start: true,
                session_expiry: None,
                ..options()
            });
            link.receive(accepted(false, PropertySet::default()));
            assert!(matches!(
                link.events()[0],
                Event::Connected {
                    session_lost: false,
                    ..
                }
            ));
            link.drop_transport();
            link.events();
        }
    }
}

#[test]
fn what_was_never_written_is_sent_without_dup() {
    for version in BOTH {
        for session_present in [true, false] {
            let mut link = Link::online(config(version));
            link.publish(1, QoS::AtLeastOnce);
            link.drop_transport();
            link.reconnect(session_present);
            let id = if session_present { 1 } else { 2 };
            assert_eq!(brief(&link.sent()), [format!("PUBLISH 1 id {id}")]);
            link.receive(Packet::PubAck(ack(crate::link::id(id))));
            assert_eq!(
                link.events().last(),
                Some(&Event::Delivered {
                    token: 1,
                    code: ReasonCode::SUCCESS,
                    session_lost: false
                }),
                "it cannot have been doubled"
            );
        }
    }
}

#[test]
fn a_qos_0_publish_that_was_not_written_is_told_to_be_unsent() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(1, QoS::AtMostOnce);
        link.sent();
        link.publish(2, QoS::AtMostOnce);
        link.drop_transport();
        assert_eq!(
            link.events(),
            [
                Event::Transmitted { token: 1 },
                Event::Unsent { token: 2 },
                Event::Closed(CloseReason::TransportClosed)
            ]
        );
        link.reconnect(true);
        assert_eq!(link.sent(), []);
    }
}

#[test]
fn nothing_is_sent_again_without_a_new_connection() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(1, QoS::AtLeastOnce);
        link.sent();
        for _ in 0..20 {
            link.advance(std::time::Duration::from_secs(29));
            link.receive(Packet::PingResp);
            let sent = link.sent();
            assert!(
                !sent.iter().any(|p| matches!(p, Packet::Publish(_))),
                "{sent:?}"
            );
        }
    }
}

#[test]
fn sending_again_respects_a_receive_maximum_that_became_smaller() {
    let mut link = Link::online(config(Version::V5));
    for token in 1..=5 {
        link.publish(token, QoS::AtLeastOnce);
    }
    link.sent();
    for session_present in [true, false] {
        link.drop_transport();
        link.reconnect_with(
            session_present,
            PropertySet {
                receive_maximum: Some(2),
                ..PropertySet::default()
            },
        );
        assert_eq!(link.session.publish_credit(), 0);
        let sent = link.sent();
        assert_eq!(sent.len(), 2, "{sent:?}");
        let Packet::Publish(first) = &sent[0] else {
            panic!("{sent:?}");
        };
        link.receive(Packet::PubAck(ack(first.packet_id.unwrap())));
        assert_eq!(link.sent().len(), 1);
    }
    assert_eq!(link.session.inflight_len(), 3);
}

#[test]
fn a_released_message_counts_for_the_receive_maximum_of_the_next_connection() {
    let mut link = Link::online(config(Version::V5));
    link.publish(1, QoS::ExactlyOnce);
    link.publish(2, QoS::ExactlyOnce);
    link.sent();
    link.receive(Packet::PubRec(ack(id(1))));
    link.drop_transport();
    link.reconnect_with(
        true,
        PropertySet {
            receive_maximum: Some(1),
            ..PropertySet::default()
        },
    );
    assert_eq!(brief(&link.sent()), ["PUBREL 1"]);
    link.receive(Packet::PubComp(ack(id(1))));
    assert_eq!(brief(&link.sent()), ["PUBLISH 2 id 2 dup"]);
}

#[test]
fn a_full_window_flows_again_after_the_session_was_lost() {
    for version in BOTH {
        let mut config = config(version);
        config.inflight_max = 10;
        let mut link = Link::online(config);
        for token in 0..10 {
            link.publish(token, QoS::AtLeastOnce);
        }
        link.sent();
        link.drop_transport();
        link.reconnect(false);
        assert_eq!(link.session.publish_credit(), 0);
        for packet in link.sent() {
            let Packet::Publish(publish) = packet else {
                panic!("{packet:?}");
            };
            link.receive(Packet::PubAck(ack(publish.packet_id.unwrap())));
        }
        assert_eq!(link.session.inflight_len(), 0);
        assert_eq!(link.session.publish_credit(), 10);
    }
}

#[test]
fn breaking_again_while_sending_again_loses_nothing() {
    for version in BOTH {
        let mut link = broken(config(version));
        link.reconnect(true);
        link.drop_transport();
        link.connect(options());
        link.drop_transport();
        link.reconnect(true);
        assert_eq!(
            brief(&link.sent()),
            [
                "PUBREL 2",
                "PUBLISH 1 id 1 dup",
                "PUBLISH 3 id 3 dup",
                "PUBLISH 4 id 4 dup",
            ]
        );
    }
}

/// The connection breaks, and so does the next one between CONNECT and CONNACK.
fn break_with_an_unanswered_connect(link: &mut Link) {
    link.drop_transport();
    link.connect(options());
    link.drop_transport();
    link.events();
}

#[test]
fn session_present_after_an_unanswered_connect_is_not_trusted_with_the_subscriptions() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("a");
        break_with_an_unanswered_connect(&mut link);
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["SUBSCRIBE a"]);
    }
}

#[test]
fn a_refused_connect_leaves_no_doubt() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("a");
        link.drop_transport();
        link.connect(options());
        link.receive(Packet::ConnAck(paquebot_protocols::mqtt::ConnAck {
            session_present: false,
            reason_code: match version {
                Version::V311 => ReasonCode(3),
                Version::V5 => ReasonCode::SERVER_BUSY,
            },
            properties: PropertySet::default().into(),
        }));
        link.reconnect(true);
        assert_eq!(link.sent(), []);
        assert!(link.session.is_online());
    }
}

#[test]
fn a_message_past_pubrec_belongs_to_the_server_even_when_its_session_is_in_doubt() {
    for on_session_lost in [OnSessionLost::Republish, OnSessionLost::Fail] {
        let mut link = Link::online(SessionConfig {
            on_session_lost,
            ..config(Version::V5)
        });
        link.publish(1, QoS::ExactlyOnce);
        link.sent();
        link.receive(Packet::PubRec(ack(id(1))));
        link.sent();
        break_with_an_unanswered_connect(&mut link);
        link.reconnect(true);
        link.events();
        assert_eq!(brief(&link.sent()), ["PUBREL 1"]);
        link.receive(Packet::PubComp(
            paquebot_protocols::mqtt::Acknowledgement::with_reason(
                id(1),
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            ),
        ));
        assert_eq!(
            link.events(),
            [Event::Delivered {
                token: 1,
                code: ReasonCode::SUCCESS,
                session_lost: true
            }]
        );
        assert_eq!(link.sent(), []);
        assert_eq!(link.session.inflight_len(), 0);
    }
}

#[test]
fn an_inbound_identifier_of_a_doubtful_session_means_a_new_message_when_the_server_says_so() {
    for version in BOTH {
        for dup in [false, true] {
            let mut link = Link::online(config(version));
            let message = crate::link::inbound(QoS::ExactlyOnce, 9, "a");
            link.receive(Packet::Publish(message.clone()));
            assert_eq!(link.messages().len(), 1);
            break_with_an_unanswered_connect(&mut link);
            link.reconnect(true);
            link.events();
            link.receive(Packet::Publish(paquebot_protocols::mqtt::Publish {
                dup,
                ..message
            }));
            assert_eq!(link.messages().len(), usize::from(!dup), "{version} {dup}");
        }
    }
}
