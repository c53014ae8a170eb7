//! CONNECT, CONNACK and what may go wrong between them.

use std::time::Duration;

use paquebot_protocols::mqtt::session::{CloseReason, ConnectOptions, Event, SessionConfig};
use paquebot_protocols::mqtt::{
    ConnAck, Packet, Properties, PropertySet, QoS, ReasonCode, Topic, Version, Will,
};

use crate::link::{BOTH, Link, accepted, ack, assert_left_with, config, id, inbound, options};

fn connect_packet(
    config: SessionConfig,
    options: ConnectOptions,
) -> paquebot_protocols::mqtt::Connect {
    let mut link = Link::new(config);
    link.session.connect(link.now, options);
    match link.sent().pop() {
        Some(Packet::Connect(connect)) => *connect,
        other => panic!("no CONNECT: {other:?}"),
    }
}

fn refused(version: Version, code: ReasonCode) -> Vec<Event> {
    let mut link = Link::new(config(version));
    link.connect(options());
    link.receive(Packet::ConnAck(ConnAck {
        session_present: false,
        reason_code: code,
        properties: Properties::EMPTY,
    }));
    assert_eq!(link.sent(), []);
    link.events()
}

#[test]
fn connect_says_what_the_options_say() {
    for version in BOTH {
        let connect = connect_packet(
            config(version),
            ConnectOptions {
                username: Some("user".into()),
                password: Some("secret".into()),
                will: Some(Will {
                    qos: QoS::AtLeastOnce,
                    retain: true,
                    topic: Topic::new("boat/status").unwrap(),
                    payload: "gone".into(),
                    properties: Properties::EMPTY,
                }),
                ..options()
            },
        );
        assert_eq!(connect.version, version);
        assert_eq!(connect.client_id, "boat");
        assert!(!connect.clean_start);
        assert_eq!(connect.keep_alive, 60);
        assert_eq!(connect.username.as_deref(), Some("user"));
        assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
        assert_eq!(connect.will.unwrap().topic.as_str(), "boat/status");
    }
}

#[test]
fn only_mqtt_5_tells_the_limits() {
    let connect = connect_packet(config(Version::V5), options());
    assert_eq!(connect.properties.session_expiry_interval, Some(3600));
    assert_eq!(connect.properties.receive_maximum, Some(1_000));
    assert_eq!(connect.properties.maximum_packet_size, Some(1024 * 1024));
    assert_eq!(connect.properties.topic_alias_maximum, Some(16));
    let connect = connect_packet(config(Version::V311), options());
    assert!(connect.properties.is_empty());
}

#[test]
fn a_keep_alive_below_a_second_does_not_turn_into_off() {
    for (given, expected) in [
        (Duration::ZERO, 0),
        (Duration::from_millis(1), 1),
        (Duration::from_millis(1_999), 1),
        (Duration::from_secs(65_535), 65_535),
        (Duration::from_secs(65_536), 65_535),
    ] {
        let connect = connect_packet(
            config(Version::V5),
            ConnectOptions {
                keep_alive: given,
                ..options()
            },
        );
        assert_eq!(connect.keep_alive, expected, "{given:?}");
    }
}

#[test]
fn an_endless_session_expiry_is_the_largest_value() {
    let connect = connect_packet(
        config(Version::V5),
        ConnectOptions {
            session_expiry: Some(Duration::MAX),
            ..options()
        },
    );
    assert_eq!(connect.properties.session_expiry_interval, Some(u32::MAX));
}

#[test]
fn an_accepted_connection_without_subscriptions_is_online_at_once() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        assert_eq!(link.session.publish_credit(), 0);
        link.reconnect(false);
        let events = link.events();
        assert!(
            matches!(
                events.as_slice(),
                [
                    Event::Connected {
                        session_present: false,
                        session_lost: false,
                        assigned_client_id: None,
                        ..
                    },
                    Event::Online
                ]
            ),
            "{events:?}"
        );
        assert_eq!(link.session.publish_credit(), 1_000);
    }
}

#[test]
fn a_server_that_says_nothing_has_the_defaults() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.reconnect(false);
        let Some(Event::Connected { limits, .. }) = link.events().into_iter().next() else {
            panic!("not connected");
        };
        assert_eq!(limits.receive_maximum, 65_535);
        assert_eq!(limits.maximum_qos, QoS::ExactlyOnce);
        assert!(limits.retain_available && limits.wildcard_subscriptions);
        assert!(limits.shared_subscriptions && limits.subscription_identifiers);
        assert_eq!(limits.maximum_packet_size, None);
        assert_eq!(limits.topic_alias_maximum, 0);
        assert_eq!(limits.keep_alive, Duration::from_secs(60));
        assert_eq!(limits.session_expiry, Some(Duration::from_secs(3600)));
    }
}

#[test]
fn the_servers_keep_alive_and_session_expiry_are_in_force() {
    let mut link = Link::new(config(Version::V5));
    link.reconnect_with(
        false,
        PropertySet {
            server_keep_alive: Some(20),
            session_expiry_interval: Some(30),
            ..PropertySet::default()
        },
    );
    let Some(Event::Connected { limits, .. }) = link.events().into_iter().next() else {
        panic!("not connected");
    };
    assert_eq!(limits.keep_alive, Duration::from_secs(20));
    assert_eq!(limits.session_expiry, Some(Duration::from_secs(30)));
    assert_eq!(
        link.session.poll_timeout(),
        Some(link.now + Duration::from_secs(20))
    );
}

#[test]
fn an_assigned_client_identifier_is_used_for_later_connections() {
    let anonymous = || ConnectOptions {
        client_id: "".into(),
        ..options()
    };
    let mut link = Link::new(config(Version::V5));
    link.connect(anonymous());
    link.receive(accepted(
        false,
        PropertySet {
            assigned_client_identifier: Some("chosen".into()),
            ..PropertySet::default()
        },
    ));
    assert!(matches!(
        &link.events()[0],
        Event::Connected { assigned_client_id: Some(id), .. } if id == "chosen"
    ));
    link.drop_transport();
    link.session.connect(link.now, anonymous());
    let sent = link.sent();
    assert!(matches!(&sent[..], [Packet::Connect(connect)] if connect.client_id == "chosen"));
    assert_eq!(
        link.session.assigned_client_id().map(|id| &**id),
        Some("chosen")
    );
}

#[test]
fn a_refused_connection_closes_with_the_code_of_mqtt_5() {
    for (wire, code) in [
        (1, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        (2, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (3, ReasonCode::SERVER_UNAVAILABLE),
        (4, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (5, ReasonCode::NOT_AUTHORIZED),
    ] {
        assert_eq!(
            refused(Version::V311, ReasonCode(wire)),
            [Event::Closed(CloseReason::Refused {
                code,
                wire_code: wire,
                reason_string: None,
                server_reference: None,
            })]
        );
    }
    assert_eq!(
        refused(Version::V5, ReasonCode::BANNED),
        [Event::Closed(CloseReason::Refused {
            code: ReasonCode::BANNED,
            wire_code: 0x8a,
            reason_string: None,
            server_reference: None,
        })]
    );
}

#[test]
fn a_silent_server_is_given_up_at_the_connack_deadline() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.connect(options());
        assert_eq!(
            link.session.poll_timeout(),
            Some(link.now + Duration::from_secs(10))
        );
        link.advance(Duration::from_millis(9_999));
        assert_eq!(link.events(), []);
        link.advance(Duration::from_millis(1));
        assert_eq!(link.events(), [Event::Closed(CloseReason::ConnackTimeout)]);
        assert_eq!(link.session.poll_timeout(), None);
        assert_eq!(link.sent(), []);
    }
}

#[test]
fn any_packet_before_connack_is_a_violation() {
    for version in BOTH {
        for packet in [
            Packet::PingResp,
            Packet::PubAck(ack(id(1))),
            Packet::Publish(inbound(QoS::AtMostOnce, 0, "early")),
        ] {
            let mut link = Link::new(config(version));
            link.connect(options());
            link.receive(packet);
            assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn a_second_connack_is_a_violation() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(accepted(false, PropertySet::default()));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn session_present_after_a_clean_start_is_a_violation() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.connect(ConnectOptions {
            clean_start: true,
            ..options()
        });
        link.receive(accepted(true, PropertySet::default()));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn a_session_left_by_an_earlier_process_is_resumed() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.reconnect(true);
        assert!(matches!(
            link.events().as_slice(),
            [
                Event::Connected {
                    session_present: true,
                    session_lost: false,
                    ..
                },
                Event::Online
            ]
        ));
    }
}

#[test]
fn connecting_again_without_a_word_ends_the_old_connection_first() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.connect(options());
        assert_eq!(link.events(), [Event::Closed(CloseReason::TransportClosed)]);
    }
}

#[test]
fn a_connect_that_cannot_be_written_closes_without_a_byte() {
    let mut link = Link::new(config(Version::V311));
    link.session.connect(
        link.now,
        ConnectOptions {
            password: Some("a password without a user name".into()),
            ..options()
        },
    );
    assert_eq!(link.sent(), []);
    assert!(matches!(
        link.events().as_slice(),
        [Event::Closed(CloseReason::Unwritable(_))]
    ));
}

#[test]
fn credentials_are_not_printed() {
    let printed = format!(
        "{:?}",
        ConnectOptions {
            username: Some("canary-user".into()),
            password: Some("canary-password".into()),
            authentication: Some(("method".into(), Some("canary-data".into()))),
            ..options()
        }
    );
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn a_connection_that_is_lost_before_connack_says_what_to_check() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.connect(options());
        link.drop_transport();
        assert_eq!(link.events(), [Event::Closed(CloseReason::Unanswered)]);
        assert!(CloseReason::Unanswered.to_string().contains("mqtts://"));
    }
}
