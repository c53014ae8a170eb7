//! How a connection ends: on request, by the server, or because the server broke the protocol.

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{CloseReason, ConnectOptions, Event};
use paquebot_protocols::mqtt::{
    Decoder, Disconnect, Packet, PropertySet, QoS, ReasonCode, Sender, Version,
};

use crate::link::{
    BOTH, Link, accepted, ack, assert_left_with, brief, config, id, inbound, options,
};

fn disconnect(code: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect {
        reason_code: code,
        properties: PropertySet::default().into(),
    })
}

#[test]
fn leaving_sends_what_was_accepted_and_then_disconnect() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(1, QoS::AtMostOnce);
        link.publish(2, QoS::AtLeastOnce);
        link.session.disconnect(link.now, ReasonCode::SUCCESS);
        assert_eq!(
            brief(&link.sent()),
            ["PUBLISH 1", "PUBLISH 2 id 1", "DISCONNECT"]
        );
        let events = link.events();
        assert!(events.contains(&Event::Closed(CloseReason::Local)));
        assert!(events.contains(&Event::Transmitted { token: 1 }));
        assert_eq!(link.session.poll_timeout(), None);
        link.drop_transport();
        link.session.disconnect(link.now, ReasonCode::SUCCESS);
        assert_eq!(link.events(), [], "closed once");
        // The next connection finds the message that was not acknowledged.
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBLISH 2 id 1 dup"]);
    }
}

#[test]
fn the_will_can_be_asked_for() {
    let code = ReasonCode::DISCONNECT_WITH_WILL;
    let mut link = Link::online(config(Version::V5));
    link.session.disconnect(link.now, code);
    assert_eq!(link.sent(), [disconnect(code)]);
    let mut link = Link::online(config(Version::V311));
    link.session.disconnect(link.now, code);
    assert_eq!(link.sent(), [], "closing without DISCONNECT publishes it");
    assert_eq!(link.events(), [Event::Closed(CloseReason::Local)]);
}

#[test]
fn a_disconnect_of_mqtt_3_1_1_has_no_code() {
    let mut link = Link::online(config(Version::V311));
    link.session
        .disconnect(link.now, ReasonCode::ADMINISTRATIVE_ACTION);
    assert_eq!(link.sent(), [disconnect(ReasonCode::SUCCESS)]);
}

#[test]
fn a_code_that_is_not_a_clients_to_say_is_not_sent() {
    let mut link = Link::online(config(Version::V5));
    link.session
        .disconnect(link.now, ReasonCode::SESSION_TAKEN_OVER);
    assert_eq!(link.sent(), [disconnect(ReasonCode::UNSPECIFIED_ERROR)]);
}

#[test]
fn a_servers_disconnect_is_told_with_its_words() {
    let mut link = Link::online(config(Version::V5));
    link.publish(1, QoS::AtMostOnce);
    link.receive(Packet::Disconnect(Disconnect {
        reason_code: ReasonCode::SERVER_MOVED,
        properties: PropertySet {
            reason_string: Some("gone west".into()),
            server_reference: Some("west.example".into()),
            ..PropertySet::default()
        }
        .into(),
    }));
    assert_eq!(
        link.events(),
        [
            Event::Unsent { token: 1 },
            Event::Closed(CloseReason::ServerDisconnect {
                code: ReasonCode::SERVER_MOVED,
                reason_string: Some("gone west".into()),
                server_reference: Some("west.example".into()),
            })
        ]
    );
    assert_eq!(link.sent(), []);
}

#[test]
fn a_disconnect_before_connack_or_on_mqtt_3_1_1_is_a_violation() {
    let mut link = Link::new(config(Version::V5));
    link.connect(options());
    link.receive(disconnect(ReasonCode::SERVER_BUSY));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    let mut link = Link::online(config(Version::V311));
    link.receive(disconnect(ReasonCode::SUCCESS));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn bytes_that_do_not_decode_end_the_connection_with_the_decoders_code() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut decoder = Decoder::new(version, Sender::Server, 1_000);
        // QoS 3.
        let mut input = bytes::Bytes::from_static(&[0x36, 0x02, 0x00, 0x00]);
        let error = decoder.decode(&mut input).unwrap_err();
        link.session.handle_decode_error(link.now, &error);
        assert_left_with(&mut link, error.reason_code);
    }
}

#[test]
fn a_violation_sends_nothing_that_was_queued() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(1, QoS::AtMostOnce);
        link.publish(2, QoS::AtLeastOnce);
        link.receive(Packet::PingReq);
        assert!(link.events().contains(&Event::Unsent { token: 1 }));
        let expected: &[&str] = match version {
            Version::V311 => &[],
            Version::V5 => &["DISCONNECT"],
        };
        assert_eq!(brief(&link.sent()), expected);
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBLISH 2 id 1"]);
        link.receive(Packet::PubAck(ack(id(1))));
    }
}

#[test]
fn a_server_that_spoke_before_connect_went_out_was_sent_disconnect_as_the_first_packet() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.session.connect(link.now, options());
        link.receive(Packet::PingResp);
        let events = link.events();
        assert!(
            matches!(
                events.as_slice(),
                [Event::Closed(CloseReason::ProtocolViolation { .. })]
            ),
            "{events:?}"
        );
        assert_eq!(link.sent(), []);
    }
}

#[test]
fn what_a_server_sent_before_connect_went_out_was_answered_after_disconnect() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.session.connect(link.now, options());
        link.receive(accepted(false, PropertySet::default()));
        link.receive(Packet::Publish(inbound(QoS::AtLeastOnce, 1, "early")));
        for message in link.messages() {
            let message = message.id.expect("QoS 1 has an identifier");
            link.session.acknowledge(link.now, message);
        }
        link.session.disconnect(link.now, ReasonCode::SUCCESS);
        assert_eq!(brief(&link.sent()), ["CONNECT", "PUBACK 1", "DISCONNECT"]);
    }
}

#[test]
fn leaving_while_connect_could_not_be_written_sent_disconnect_alone() {
    let mut link = Link::new(config(Version::V311));
    link.session.connect(
        link.now,
        ConnectOptions {
            password: Some(Bytes::from_static(b"secret")),
            ..options()
        },
    );
    link.session.disconnect(link.now, ReasonCode::SUCCESS);
    assert_eq!(link.sent(), []);
    assert_eq!(link.events(), [Event::Closed(CloseReason::Local)]);
}

#[test]
fn answers_left_unsent_do_not_reach_the_next_connection() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(Packet::PubRel(ack(id(9))));
        link.session.disconnect(link.now, ReasonCode::SUCCESS);
        // Never written.
        link.connect(options());
    }
}

#[test]
fn a_server_that_causes_endless_answers_is_left() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut count = 0;
        while link.session.is_online() {
            link.receive(Packet::PubRel(ack(id(9))));
            count += 1;
            assert!(count <= 300_000, "unbounded");
        }
        assert_left_with(&mut link, ReasonCode::QUOTA_EXCEEDED);
    }
}
