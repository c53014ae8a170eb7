//! A message at which the server closes the connection without a word.

use std::time::Duration;

use paquebot_protocols::mqtt::session::{Event, SessionConfig};
use paquebot_protocols::mqtt::{Packet, QoS, ReasonCode, Version};

use crate::link::{BOTH, Link, ack, brief, config, token_of};

/// Online, with these messages sent and nothing acknowledged.
fn loaded(version: Version, tokens: std::ops::Range<u64>) -> Link {
    let mut link = Link::online(SessionConfig {
        sets_aside: true,
        ..config(version)
    });
    for token in tokens {
        link.publish(token, QoS::AtLeastOnce);
    }
    link.sent();
    link
}

/// The server closes the connection, and another one begins. What is sent on it, and which messages were rejected.
fn close_and_reconnect(link: &mut Link, session_present: bool) -> (Vec<String>, Vec<u64>) {
    link.drop_transport();
    link.reconnect(session_present);
    let rejected = link.events().into_iter().filter_map(|event| match event {
        Event::Rejected {
            token,
            code: ReasonCode::NOT_AUTHORIZED,
            reason_string,
        } => {
            assert!(reason_string.unwrap().contains("closed the connection"));
            Some(token)
        }
        _ => None,
    });
    let rejected = rejected.collect();
    let mut sent = brief(&link.sent());
    for line in &mut sent {
        // Identifiers are of no interest here.
        let words: Vec<_> = line.split(' ').take(2).collect();
        *line = words.join(" ");
    }
    (sent, rejected)
}

fn lines(tokens: std::ops::RangeInclusive<u64>) -> Vec<String> {
    tokens.map(|token| format!("PUBLISH {token}")).collect()
}

#[test]
fn the_message_at_which_the_server_closes_again_and_again_is_set_aside_and_the_rest_goes_on() {
    for version in BOTH {
        for session_present in [true, false] {
            let mut link = loaded(version, 1..4);
            let next = |link: &mut Link| close_and_reconnect(link, session_present);
            assert_eq!(next(&mut link), (lines(1..=3), vec![]));
            assert_eq!(next(&mut link), (lines(1..=3), vec![]));
            // The probe.
            assert_eq!(next(&mut link), (lines(1..=1), vec![]));
            assert_eq!(link.session.publish_credit(), 0);
            assert_eq!(next(&mut link), (lines(2..=3), vec![1]));
            assert_eq!(link.session.inflight_len(), 2);
            assert_eq!(link.session.publish_credit(), link.session.window() - 2);
        }
    }
}

#[test]
fn a_probe_that_is_acknowledged_ends_and_what_waits_behind_it_goes() {
    let mut link = loaded(Version::V311, 1..4);
    for _ in 0..2 {
        close_and_reconnect(&mut link, true);
    }
    link.drop_transport();
    link.reconnect(true);
    link.events();
    let sent = link.sent();
    let [Packet::Publish(probe)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(token_of(probe), 1);
    let probe = probe.packet_id.unwrap();
    link.receive(Packet::PubAck(ack(probe)));
    assert_eq!(
        brief(&link.sent()),
        ["PUBLISH 2 id 2 dup", "PUBLISH 3 id 3 dup"]
    );
    // From here on it counts from the beginning.
    for _ in 0..2 {
        let (sent, rejected) = close_and_reconnect(&mut link, true);
        assert_eq!((sent, rejected), (lines(2..=3), vec![]));
    }
    assert_eq!(close_and_reconnect(&mut link, true).0, lines(2..=2));
}

#[test]
fn a_second_one_behind_it_is_found_in_the_same_way() {
    let mut link = loaded(Version::V311, 1..3);
    let mut rejected = Vec::new();
    for _ in 0..8 {
        rejected.extend(close_and_reconnect(&mut link, true).1);
    }
    assert_eq!(rejected, [1, 2]);
    assert_eq!(link.session.inflight_len(), 0);
}

#[test]
fn connections_that_end_for_other_reasons_set_nothing_aside() {
    // One that lasts, one that this end leaves, one on which something was acknowledged, and a server that never gets so far.
    for course in 0..4 {
        let mut link = loaded(Version::V311, 1..30);
        for _ in 0..12_u16 {
            match course {
                0 => link.advance(Duration::from_secs(6)),
                1 => {
                    link.session.disconnect(link.now, ReasonCode::SUCCESS);
                    link.sent();
                }
                2 => {
                    let oldest = 30 - u16::try_from(link.session.inflight_len()).unwrap();
                    let id = crate::link::id(oldest);
                    link.receive(Packet::PubAck(ack(id)));
                }
                _ => {
                    link.drop_transport();
                    link.connect(crate::link::options());
                }
            }
            let (sent, rejected) = close_and_reconnect(&mut link, true);
            assert!(rejected.is_empty(), "{course}");
            if course < 3 {
                assert_eq!(sent.len(), link.session.inflight_len(), "{course}");
            }
        }
    }
}

#[test]
fn a_message_is_kept_while_something_else_may_be_behind_the_end_of_the_connection() {
    for version in BOTH {
        // Messages that nobody acknowledges go out on each connection.
        let mut link = loaded(version, 1..2);
        for round in 0..10 {
            let (_, rejected) = close_and_reconnect(&mut link, true);
            assert!(rejected.is_empty(), "{round}");
            link.publish(100 + round, QoS::AtMostOnce);
            link.sent();
        }
        // The server answers no SUBSCRIBE.
        let mut link = loaded(version, 1..2);
        link.subscribe("denied/#");
        link.sent();
        for round in 0..10 {
            let (sent, rejected) = close_and_reconnect(&mut link, false);
            assert!(rejected.is_empty(), "{round}");
            assert!(
                sent.iter().any(|line| line.starts_with("SUBSCRIBE")),
                "{sent:?}"
            );
        }
    }
}

#[test]
fn nothing_is_set_aside_unless_it_is_asked_for() {
    let mut link = Link::online(config(Version::V311));
    link.publish(1, QoS::AtLeastOnce);
    link.sent();
    for _ in 0..10 {
        let next = close_and_reconnect(&mut link, true);
        assert_eq!(next, (lines(1..=1), vec![]));
    }
}

#[test]
fn a_message_of_qos_2_is_never_set_aside() {
    let mut link = loaded(Version::V311, 1..1);
    link.publish(1, QoS::ExactlyOnce);
    link.sent();
    for _ in 0..10 {
        let next = close_and_reconnect(&mut link, true);
        assert_eq!(next, (lines(1..=1), vec![]));
    }
}

#[test]
fn what_waits_behind_a_probe_goes_before_anything_new_once_the_server_answers_with_pubrec() {
    for version in BOTH {
        let mut link = loaded(version, 0..0);
        link.publish(1, QoS::ExactlyOnce);
        link.publish(2, QoS::AtLeastOnce);
        link.sent();
        let probe = loop {
            link.drop_transport();
            link.reconnect(true);
            let sent = link.sent();
            if let [Packet::Publish(probe)] = &sent[..] {
                break probe.clone();
            }
        };
        // The other one waits.
        assert_eq!(token_of(&probe), 1);
        link.events();
        link.receive(Packet::PubRec(ack(probe.packet_id.unwrap())));
        link.publish(3, QoS::AtLeastOnce);
        let tokens = link.sent().into_iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(token_of(&publish)),
            _ => None,
        });
        assert_eq!(tokens.collect::<Vec<_>>(), [2, 3]);
    }
}
