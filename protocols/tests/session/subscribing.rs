//! Subscriptions as desired state.

use std::time::Duration;

use paquebot_protocols::mqtt::session::{CloseReason, Event, SessionConfig};
use paquebot_protocols::mqtt::{
    Packet, PacketId, QoS, ReasonCode, RetainHandling, Subscription, TopicFilter, Version,
};

use crate::link::{
    BOTH, Link, assert_left_with, brief, config, id, options, suback, subscription, unsuback,
};

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

fn subscribed(text: &str, code: ReasonCode) -> Event {
    Event::Subscribed {
        filter: filter(text),
        code,
        reason_string: None,
    }
}

fn one_subscribe(link: &mut Link) -> (PacketId, Vec<Subscription>) {
    let sent = link.sent();
    match sent.as_slice() {
        [Packet::Subscribe(subscribe)] => (subscribe.packet_id, subscribe.filters.clone()),
        _ => panic!("not one SUBSCRIBE: {sent:?}"),
    }
}

/// Codes of an UNSUBACK: MQTT 3.1.1 has none.
fn removed(version: Version, count: usize) -> Vec<ReasonCode> {
    match version {
        Version::V311 => Vec::new(),
        Version::V5 => vec![ReasonCode::SUCCESS; count],
    }
}

#[test]
fn every_filter_gets_its_code() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        for text in ["a", "b", "c"] {
            link.subscribe(text);
        }
        let (packet_id, filters) = one_subscribe(&mut link);
        assert_eq!(filters.len(), 3, "one packet for one burst");
        let codes = [
            ReasonCode::GRANTED_QOS_1,
            ReasonCode::UNSPECIFIED_ERROR,
            ReasonCode::SUCCESS,
        ];
        link.receive(suback(packet_id, &codes));
        assert_eq!(
            link.events(),
            [
                subscribed("a", codes[0]),
                subscribed("b", codes[1]),
                subscribed("c", codes[2])
            ]
        );
        // A refused filter is not desired any more.
        link.drop_transport();
        link.reconnect(false);
        assert_eq!(brief(&link.sent()), ["SUBSCRIBE a,c"]);
    }
}

#[test]
fn subscriptions_of_an_unconnected_session_are_in_force_before_online() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.subscribe("b");
        link.subscribe("a");
        link.reconnect(false);
        assert!(matches!(
            link.events().as_slice(),
            [Event::Connected { .. }]
        ));
        let (packet_id, filters) = one_subscribe(&mut link);
        let order: Vec<_> = filters.iter().map(|s| s.filter.as_str()).collect();
        assert_eq!(order, ["b", "a"], "in the order they were asked for");
        assert_eq!(link.session.publish_credit(), 0);
        assert_eq!(link.events(), []);
        link.receive(suback(packet_id, &[ReasonCode::SUCCESS; 2]));
        assert_eq!(link.events().last(), Some(&Event::Online));
        assert_eq!(link.session.publish_credit(), 1_000);
    }
}

#[test]
fn a_refused_filter_does_not_keep_the_link_offline() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.subscribe("a");
        link.reconnect(false);
        link.events();
        let (packet_id, _) = one_subscribe(&mut link);
        link.receive(suback(packet_id, &[ReasonCode::UNSPECIFIED_ERROR]));
        assert_eq!(
            link.events(),
            [
                subscribed("a", ReasonCode::UNSPECIFIED_ERROR),
                Event::Online
            ]
        );
    }
}

#[test]
fn many_filters_go_out_in_batches() {
    for version in BOTH {
        let mut link = Link::new(SessionConfig {
            filters_per_subscribe_max: 8,
            ..config(version)
        });
        let mut texts = Vec::new();
        for number in 0..20 {
            let text = format!("filter/{number}");
            link.session
                .subscribe(link.now, subscription(&text))
                .unwrap();
            texts.push(text);
        }
        link.reconnect(false);
        let sent = link.sent();
        assert_eq!(
            brief(&sent),
            [
                format!("SUBSCRIBE {}", texts[..8].join(",")),
                format!("SUBSCRIBE {}", texts[8..16].join(",")),
                format!("SUBSCRIBE {}", texts[16..].join(",")),
            ]
        );
        for packet in &sent {
            assert!(!link.session.is_online());
            let Packet::Subscribe(subscribe) = packet else {
                panic!("{packet:?}");
            };
            let codes = vec![ReasonCode::SUCCESS; subscribe.filters.len()];
            link.receive(suback(subscribe.packet_id, &codes));
        }
        assert!(link.session.is_online());
    }
}

#[test]
fn a_resumed_session_is_asked_only_for_what_it_did_not_confirm() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("in force");
        link.subscribe("unanswered");
        link.sent();
        link.drop_transport();
        link.subscribe("while offline");
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["SUBSCRIBE unanswered,while offline"]);
        link.drop_transport();
        link.reconnect(false);
        assert_eq!(
            brief(&link.sent()),
            ["SUBSCRIBE in force,unanswered,while offline"]
        );
    }
}

#[test]
fn resent_messages_go_before_the_subscriptions() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe("a");
        link.publish(7, QoS::AtLeastOnce);
        assert_eq!(
            brief(&link.sent()),
            ["SUBSCRIBE a", "PUBLISH 7 id 1"],
            "a filter asked for first is sent first"
        );
        link.drop_transport();
        link.reconnect(true);
        assert_eq!(brief(&link.sent()), ["PUBLISH 7 id 1 dup", "SUBSCRIBE a"]);
    }
}

#[test]
fn asking_again_with_other_options_subscribes_again() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("a");
        link.session
            .subscribe(
                link.now,
                Subscription {
                    qos: QoS::ExactlyOnce,
                    retain_handling: RetainHandling::Never,
                    no_local: true,
                    ..subscription("a")
                },
            )
            .unwrap();
        let (packet_id, filters) = one_subscribe(&mut link);
        assert_eq!(filters[0].qos, QoS::ExactlyOnce);
        assert_eq!(filters[0].no_local, version == Version::V5);
        link.receive(suback(packet_id, &[ReasonCode::GRANTED_QOS_2]));
        assert_eq!(link.events(), [subscribed("a", ReasonCode::GRANTED_QOS_2)]);
    }
}

#[test]
fn only_the_last_request_for_a_filter_is_told() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe("a");
        let (first, _) = one_subscribe(&mut link);
        link.subscribe("a");
        let (second, _) = one_subscribe(&mut link);
        link.receive(suback(first, &[ReasonCode::SUCCESS]));
        assert_eq!(link.events(), []);
        link.receive(suback(second, &[ReasonCode::GRANTED_QOS_1]));
        assert_eq!(link.events(), [subscribed("a", ReasonCode::GRANTED_QOS_1)]);
    }
}

#[test]
fn unsubscribing_takes_a_filter_out_for_good() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("a");
        link.session.unsubscribe(link.now, &filter("a"), 7);
        let sent = link.sent();
        assert_eq!(brief(&sent), ["UNSUBSCRIBE a"]);
        let Packet::Unsubscribe(unsubscribe) = &sent[0] else {
            panic!("{sent:?}");
        };
        link.receive(unsuback(unsubscribe.packet_id, &removed(version, 1)));
        assert_eq!(
            link.events(),
            [Event::Unsubscribed {
                filter: filter("a"),
                code: ReasonCode::SUCCESS,
                token: 7,
            }]
        );
        link.drop_transport();
        link.reconnect(false);
        assert_eq!(link.sent(), []);
        assert!(link.session.is_online());
    }
}

#[test]
fn each_answer_names_the_request_it_is_for() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        let mut asked = Vec::new();
        for token in [7, 8] {
            link.session.unsubscribe(link.now, &filter("a"), token);
            let Some(Packet::Unsubscribe(unsubscribe)) = link.sent().pop() else {
                panic!("no UNSUBSCRIBE");
            };
            asked.push((token, unsubscribe.packet_id));
        }
        // A server that answers out of order.
        for (token, packet_id) in asked.into_iter().rev() {
            link.receive(unsuback(packet_id, &removed(version, 1)));
            assert_eq!(
                link.events(),
                [Event::Unsubscribed {
                    filter: filter("a"),
                    code: ReasonCode::SUCCESS,
                    token,
                }]
            );
        }
    }
}

#[test]
fn a_removal_made_offline_reaches_a_server_that_kept_the_session() {
    for version in BOTH {
        for session_present in [true, false] {
            let mut link = Link::online(config(version));
            link.subscribe_in_force("a");
            link.drop_transport();
            link.events();
            link.session.unsubscribe(link.now, &filter("a"), 7);
            link.reconnect(session_present);
            let answered = link.events().contains(&Event::Unsubscribed {
                filter: filter("a"),
                code: ReasonCode::SUCCESS,
                token: 7,
            });
            let sent = brief(&link.sent());
            if session_present {
                assert_eq!(sent, ["UNSUBSCRIBE a"]);
                assert!(!answered);
                // Lost on the way: asked again.
                link.drop_transport();
                link.reconnect(true);
                assert_eq!(brief(&link.sent()), ["UNSUBSCRIBE a"]);
            } else {
                assert_eq!(sent, [""; 0]);
                assert!(answered);
            }
        }
    }
}

#[test]
fn dropping_a_filter_and_wanting_it_again_ends_with_the_filter() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe_in_force("a");
        link.session.unsubscribe(link.now, &filter("a"), 7);
        link.subscribe("a");
        assert_eq!(brief(&link.sent()), ["UNSUBSCRIBE a", "SUBSCRIBE a"]);
    }
}

#[test]
fn dropping_the_filter_that_online_waits_for_brings_the_link_online() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.subscribe("a");
        link.reconnect(false);
        let (packet_id, _) = one_subscribe(&mut link);
        link.events();
        link.session.unsubscribe(link.now, &filter("a"), 7);
        assert_eq!(link.events(), [Event::Online]);
        link.receive(suback(packet_id, &[ReasonCode::SUCCESS]));
        assert_eq!(link.events(), []);
    }
}

#[test]
fn a_suback_with_another_number_of_codes_is_a_violation() {
    for version in BOTH {
        for count in [1, 3] {
            let mut link = Link::online(config(version));
            link.subscribe("a");
            link.subscribe("b");
            let (packet_id, _) = one_subscribe(&mut link);
            link.receive(suback(packet_id, &vec![ReasonCode::SUCCESS; count]));
            assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn an_unsuback_with_another_number_of_codes_is_a_violation_on_mqtt_5() {
    for count in [0, 2] {
        let mut link = Link::online(config(Version::V5));
        link.session.unsubscribe(link.now, &filter("a"), 7);
        link.sent();
        link.receive(unsuback(id(1), &vec![ReasonCode::SUCCESS; count]));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_violation() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.publish(7, QoS::AtLeastOnce);
        link.sent();
        link.receive(suback(id(1), &[ReasonCode::SUCCESS]));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);

        let mut link = Link::online(config(version));
        link.subscribe("a");
        let (packet_id, _) = one_subscribe(&mut link);
        link.receive(unsuback(packet_id, &removed(version, 1)));
        assert_left_with(&mut link, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn an_answer_nothing_waits_for_is_ignored() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.receive(suback(id(5), &[ReasonCode::SUCCESS]));
        link.receive(unsuback(id(5), &removed(version, 1)));
        assert_eq!(link.events(), []);
        assert!(link.session.is_online());
    }
}

#[test]
fn a_missing_answer_ends_the_connection_at_its_deadline() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe("a");
        link.sent();
        link.advance(Duration::from_secs(4));
        link.subscribe("b");
        let (second, _) = one_subscribe(&mut link);
        link.receive(suback(second, &[ReasonCode::SUCCESS]));
        link.events();
        link.advance(Duration::from_millis(5_999));
        assert_eq!(link.events(), []);
        link.advance(Duration::from_millis(1));
        assert_eq!(
            link.events(),
            [Event::Closed(CloseReason::SubscribeTimeout)]
        );
        // The filter stays desired.
        link.reconnect(false);
        assert_eq!(brief(&link.sent()), ["SUBSCRIBE a,b"]);
    }
}

#[test]
fn an_answer_takes_its_deadline_away() {
    for version in BOTH {
        let mut link = Link::online(config(version));
        link.subscribe("a");
        let (packet_id, _) = one_subscribe(&mut link);
        assert_eq!(
            link.session.poll_timeout(),
            Some(link.now + Duration::from_secs(10))
        );
        link.receive(suback(packet_id, &[ReasonCode::SUCCESS]));
        assert_eq!(
            link.session.poll_timeout(),
            Some(link.now + Duration::from_secs(60))
        );
    }
}

#[test]
fn the_limit_of_desired_filters_gives_the_next_one_back() {
    for version in BOTH {
        let mut link = Link::new(SessionConfig {
            subscriptions_max: 2,
            ..config(version)
        });
        link.subscribe("a");
        link.subscribe("b");
        link.subscribe("a");
        let back = link.session.subscribe(link.now, subscription("c"));
        assert_eq!(back.unwrap_err().filter.as_str(), "c");
        link.session.unsubscribe(link.now, &filter("a"), 7);
        link.subscribe("c");
    }
}

#[test]
fn removals_made_offline_are_bounded_too() {
    for version in BOTH {
        let mut link = Link::new(SessionConfig {
            subscriptions_max: 2,
            ..config(version)
        });
        for token in 0..3 {
            link.session.unsubscribe(link.now, &filter("a"), token);
        }
        assert_eq!(
            link.events(),
            [Event::Unsubscribed {
                filter: filter("a"),
                code: ReasonCode::QUOTA_EXCEEDED,
                token: 2,
            }]
        );
    }
}

#[test]
fn a_filter_that_cannot_be_written_does_not_take_the_others_with_it() {
    let mut link = Link::online(config(Version::V5));
    link.subscribe("good");
    for bad in ["$share/group", "$share//a"] {
        link.subscribe(bad);
    }
    link.session
        .subscribe(
            link.now,
            Subscription {
                no_local: true,
                ..subscription("$share/group/a")
            },
        )
        .unwrap();
    assert_eq!(brief(&link.sent()), ["SUBSCRIBE good"]);
    assert_eq!(
        link.events(),
        [
            subscribed("$share/group", ReasonCode::TOPIC_FILTER_INVALID),
            subscribed("$share//a", ReasonCode::TOPIC_FILTER_INVALID),
            subscribed("$share/group/a", ReasonCode::PROTOCOL_ERROR),
        ]
    );
}

#[test]
fn subscribing_while_connack_is_awaited_waits_for_it() {
    for version in BOTH {
        let mut link = Link::new(config(version));
        link.connect(options());
        link.subscribe("a");
        assert_eq!(link.sent(), []);
        link.receive(crate::link::accepted(false, Default::default()));
        assert_eq!(brief(&link.sent()), ["SUBSCRIBE a"]);
    }
}
