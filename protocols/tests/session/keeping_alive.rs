//! The keep alive and the deadline of its answer.

use std::time::Duration;

use paquebot_protocols::mqtt::session::{CloseReason, ConnectOptions, Event, SessionConfig};
use paquebot_protocols::mqtt::{Packet, PropertySet, QoS, Version};

use crate::link::{BOTH, Link, accepted, ack, brief, config, inbound, options};

const KEEP_ALIVE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn closed() -> Event {
    Event::Closed(CloseReason::KeepAliveTimeout)
}

#[test]
fn pingreq_goes_out_when_nothing_was_sent_for_a_keep_alive() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        assert_eq!(link.session.poll_timeout(), Some(link.now + KEEP_ALIVE));
        link.advance(KEEP_ALIVE - Duration::from_nanos(1));
        assert_eq!(link.sent(), []);
        link.advance(Duration::from_nanos(1));
        assert_eq!(link.sent(), [Packet::PingReq]);
        assert_eq!(link.session.poll_timeout(), Some(link.now + KEEP_ALIVE / 2));
        link.receive(Packet::PingResp);
        assert_eq!(link.session.poll_timeout(), Some(link.now + KEEP_ALIVE));
        assert_eq!(link.events(), []);
    }
}

#[test]
fn a_silent_peer_is_found_dead_after_one_and_a_half_keep_alives() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.advance(KEEP_ALIVE);
        link.sent();
        link.advance(KEEP_ALIVE / 2 - SECOND);
        assert_eq!(link.events(), []);
        link.advance(SECOND);
        assert_eq!(link.events(), [closed()]);
        assert_eq!(link.sent(), []);
        assert_eq!(link.session.poll_timeout(), None);
    }
}

#[test]
fn a_stream_of_inbound_messages_does_not_stand_for_the_answer() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut has_closed = false;
        for second in 0..=90 {
            link.receive(Packet::Publish(inbound(QoS::AtMostOnce, 0, "a")));
            link.sent();
            has_closed = link.events().contains(&closed());
            assert!(!has_closed || second == 90, "closed at {second}");
            link.advance(SECOND);
        }
        assert!(has_closed || link.events().contains(&closed()));
    }
}

#[test]
fn a_stream_of_outbound_messages_does_not_hide_a_dead_peer() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut elapsed = 0;
        while link.session.is_online() {
            link.publish(0, QoS::AtMostOnce);
            link.sent();
            link.advance(SECOND);
            elapsed += 1;
            assert!(elapsed <= 90, "still taken for alive");
        }
        assert!(link.events().contains(&closed()));
        assert_eq!(elapsed, 90);
    }
}

#[test]
fn a_server_that_talks_and_is_talked_to_but_reads_nothing_is_found_dead() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut elapsed = 0;
        while link.session.is_online() {
            link.publish(0, QoS::AtMostOnce);
            link.sent();
            link.receive(Packet::Publish(inbound(QoS::AtMostOnce, 0, "a")));
            link.advance(SECOND);
            elapsed += 1;
            assert!(elapsed <= 90, "still taken for alive");
        }
        assert!(link.events().contains(&closed()));
        assert_eq!(elapsed, 90);
    }
}

#[test]
fn messages_that_are_answered_put_the_ping_off() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for token in 0..300 {
            link.publish(token, QoS::AtLeastOnce);
            let sent = link.sent();
            let [Packet::Publish(publish)] = &sent[..] else {
                panic!("{sent:?}");
            };
            link.receive(Packet::PubAck(ack(publish.packet_id.unwrap())));
            link.advance(SECOND);
        }
        assert!(link.session.is_online());
    }
}

#[test]
fn a_ping_that_cannot_be_written_is_not_waited_for_longer() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        // The driver's write is stuck: nothing is taken.
        link.advance(KEEP_ALIVE);
        link.advance(KEEP_ALIVE / 2);
        assert_eq!(link.events(), [closed()]);
    }
}

#[test]
fn a_timeout_of_its_own_overrides_the_half_keep_alive() {
    for version in BOTH {
        let mut link = Link::online(SessionConfig {
            ping_timeout: Some(SECOND * 5),
            ..config(version)
        });
        link.advance(KEEP_ALIVE);
        assert_eq!(brief(&link.sent()), ["PINGREQ"]);
        link.advance(SECOND * 5);
        assert_eq!(link.events(), [closed()]);
    }
}

#[test]
fn a_keep_alive_of_zero_is_off_unless_the_server_wants_one() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        let off = || ConnectOptions {
            keep_alive: Duration::ZERO,
            ..options()
        };
        link.connect(off());
        link.receive(accepted(false, PropertySet::default()));
        assert_eq!(link.session.poll_timeout(), None);
        link.advance(Duration::from_secs(1_000_000));
        assert_eq!(link.sent(), []);
        if version == Version::V5 {
            link.connect(off());
            link.receive(accepted(
                false,
                PropertySet {
                    server_keep_alive: Some(7),
                    ..PropertySet::default()
                },
            ));
            assert_eq!(link.session.poll_timeout(), Some(link.now + SECOND * 7));
        }
    }
}

#[test]
fn a_timeout_called_for_nothing_changes_nothing() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let deadline = link.session.poll_timeout();
        for _ in 0..10 {
            link.advance(SECOND);
            assert_eq!(link.session.poll_timeout(), deadline);
            assert_eq!(link.sent(), []);
        }
    }
}
