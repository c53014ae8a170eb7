//! Enhanced authentication (MQTT 5 §4.12).

use std::time::Duration;

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{CloseReason, ConnectOptions, Event};
use paquebot_protocols::mqtt::{Auth, Packet, PropertySet, ReasonCode, Version};

use crate::link::{Link, accepted, assert_left_with, config, options};

fn with_method() -> ConnectOptions {
    ConnectOptions {
        authentication: Some(("SCRAM".into(), Some("first".into()))),
        ..options()
    }
}

fn properties(method: Option<&'static str>, data: Option<&'static str>) -> PropertySet {
    PropertySet {
        authentication_method: method.map(Into::into),
        authentication_data: data.map(Bytes::from),
        ..PropertySet::default()
    }
}

fn auth(code: ReasonCode, method: Option<&'static str>, data: Option<&'static str>) -> Packet {
    Packet::Auth(Auth {
        reason_code: code,
        properties: properties(method, data).into(),
    })
}

fn challenge() -> Packet {
    auth(
        ReasonCode::CONTINUE_AUTHENTICATION,
        Some("SCRAM"),
        Some("challenge"),
    )
}

fn challenged() -> Event {
    Event::AuthChallenge {
        method: "SCRAM".into(),
        data: Some("challenge".into()),
    }
}

fn online() -> Link {
    let mut link = Link::new(config(Version::V5));
    link.connect(with_method());
    link.receive(accepted(false, properties(Some("SCRAM"), None)));
    link.events();
    assert!(link.session.is_online());
    link
}

#[test]
fn connect_names_the_method_and_auth_answers_each_challenge() {
    let mut link = Link::new(config(Version::V5));
    link.session.connect(link.now, with_method());
    let sent = link.sent();
    let [Packet::Connect(connect)] = sent.as_slice() else {
        panic!("{sent:?}");
    };
    let method = connect.properties.authentication_method.as_deref();
    assert_eq!(method, Some("SCRAM"));
    for _ in 0..2 {
        link.receive(challenge());
        assert_eq!(link.events(), [challenged()]);
        link.session.authenticate(link.now, Some("proof".into()));
        assert_eq!(
            link.sent(),
            [auth(
                ReasonCode::CONTINUE_AUTHENTICATION,
                Some("SCRAM"),
                Some("proof")
            )]
        );
    }
    link.receive(accepted(false, properties(Some("SCRAM"), Some("verified"))));
    let events = link.events();
    assert_eq!(events[0], Event::AuthenticationData("verified".into()));
    assert!(matches!(
        events[1..],
        [Event::Connected { .. }, Event::Online]
    ));
}

#[test]
fn challenges_do_not_put_the_connack_deadline_off() {
    let mut link = Link::new(config(Version::V5));
    link.connect(with_method());
    for _ in 0..3 {
        link.advance(Duration::from_secs(3));
        link.receive(challenge());
        link.session.authenticate(link.now, None);
        link.sent();
    }
    link.events();
    link.advance(Duration::from_secs(1));
    assert_eq!(link.events(), [Event::Closed(CloseReason::ConnackTimeout)]);
}

#[test]
fn an_auth_nobody_asked_for_is_a_violation() {
    let mut link = Link::new(config(Version::V5));
    link.connect(options());
    link.receive(challenge());
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);

    let mut link = online();
    link.receive(challenge());
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn another_method_or_none_is_a_violation() {
    for method in [Some("PLAIN"), None] {
        let mut link = Link::new(config(Version::V5));
        link.connect(with_method());
        link.receive(auth(ReasonCode::CONTINUE_AUTHENTICATION, method, None));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);

        let mut link = Link::new(config(Version::V5));
        link.connect(with_method());
        link.receive(accepted(false, properties(method, None)));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn a_challenge_out_of_turn_is_a_violation() {
    let mut link = Link::new(config(Version::V5));
    link.connect(with_method());
    link.receive(challenge());
    link.events();
    link.receive(challenge());
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn success_comes_as_connack_first_and_as_auth_afterwards() {
    let mut link = Link::new(config(Version::V5));
    link.connect(with_method());
    link.receive(auth(ReasonCode::SUCCESS, Some("SCRAM"), None));
    assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn an_online_client_can_authenticate_again_while_it_publishes() {
    let mut link = online();
    link.session.authenticate(link.now, Some("again".into()));
    // The server's turn: nothing more to say.
    link.session
        .authenticate(link.now, Some("impatient".into()));
    assert_eq!(
        link.sent(),
        [auth(
            ReasonCode::REAUTHENTICATE,
            Some("SCRAM"),
            Some("again")
        )]
    );
    link.publish(7, paquebot_protocols::mqtt::QoS::AtMostOnce);
    assert_eq!(link.sent().len(), 1);
    link.events();
    link.receive(challenge());
    assert_eq!(link.events(), [challenged()]);
    link.session.authenticate(link.now, None);
    link.sent();
    link.receive(auth(ReasonCode::SUCCESS, Some("SCRAM"), Some("verified")));
    assert_eq!(
        link.events(),
        [
            Event::AuthenticationData("verified".into()),
            Event::Reauthenticated
        ]
    );
    assert!(link.session.is_online());
    assert_eq!(
        link.session.poll_timeout(),
        Some(link.now + Duration::from_secs(60)),
        "no deadline is left"
    );
}

#[test]
fn a_reauthentication_without_an_end_is_left() {
    let mut link = online();
    link.session.authenticate(link.now, None);
    link.sent();
    link.advance(Duration::from_secs(10));
    assert_eq!(
        link.events(),
        [Event::Closed(CloseReason::AuthenticationTimeout)]
    );
    assert!(matches!(
        link.sent().as_slice(),
        [Packet::Disconnect(disconnect)] if disconnect.reason_code == ReasonCode::UNSPECIFIED_ERROR
    ));
}

#[test]
fn a_server_cannot_begin_a_reauthentication() {
    let mut link = online();
    link.session.authenticate(link.now, None);
    link.receive(auth(ReasonCode::REAUTHENTICATE, Some("SCRAM"), None));
    link.events();
    assert!(!link.session.is_online());
}

#[test]
fn without_a_method_there_is_nothing_to_authenticate() {
    let mut link = Link::online(config(Version::V5));
    link.session.authenticate(link.now, Some("data".into()));
    assert_eq!(link.sent(), []);
    let mut link = Link::new(config(Version::V311));
    link.connect(with_method());
    link.session.authenticate(link.now, Some("data".into()));
    assert_eq!(link.sent(), []);
}
