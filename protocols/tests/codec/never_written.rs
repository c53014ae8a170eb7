//! What a decoder would refuse is never written, and the output is left as it was.

use crate::both_forms;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use paquebot_protocols::mqtt::{
    Acknowledgement, Auth, ConnAck, Connect, Decoded, Decoder, Disconnect, EncodeError, Packet,
    PacketId, Properties, PropertySet, Publish, QoS, ReasonCode, RetainHandling, Sender, SubAck,
    Subscribe, Subscription, Topic, TopicFilter, Unsubscribe, Version, Will, encode, encoded_len,
};
use proptest::prelude::*;

use Version::{V5, V311};

fn refused(packet: &Packet, version: Version) -> EncodeError {
    let mut output = BytesMut::from(&b"before"[..]);
    let error = encode(packet, version, &mut output).expect_err("the packet cannot be legal");
    assert_eq!(output, &b"before"[..], "{packet:?}");
    assert_eq!(encoded_len(packet, version), Err(error.clone()));
    error
}

fn id() -> PacketId {
    PacketId::new(1).expect("not 0")
}

fn publish() -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(Topic::new("a").expect("a topic")),
        packet_id: None,
        payload: Bytes::new(),
        properties: Properties::EMPTY,
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: ByteString::from("c"),
        will: None,
        username: None,
        password: None,
        properties: Properties::EMPTY,
    }
}

fn with(edit: impl FnOnce(&mut PropertySet)) -> Properties {
    let mut properties = Properties::default();
    edit(properties.edit());
    properties
}

fn subscribe(text: &str) -> Subscribe {
    let filter = TopicFilter::new(text).expect("a filter");
    Subscribe {
        packet_id: id(),
        filters: vec![Subscription::new(filter, QoS::AtMostOnce)],
        properties: Properties::EMPTY,
    }
}

#[test]
fn publishes() {
    let refused = |publish: Publish, version| refused(&Packet::Publish(publish), version);
    assert_eq!(
        refused(
            Publish {
                qos: QoS::AtLeastOnce,
                ..publish()
            },
            V311
        ),
        EncodeError::PacketIdMissing
    );
    assert_eq!(
        refused(
            Publish {
                packet_id: Some(id()),
                ..publish()
            },
            V5
        ),
        EncodeError::PacketIdUnexpected
    );
    let dup = refused(
        Publish {
            dup: true,
            ..publish()
        },
        V5,
    );
    assert!(matches!(
        dup,
        EncodeError::Forbidden {
            clause: "MQTT-3.3.1-2",
            ..
        }
    ));
    for version in [V311, V5] {
        let no_topic = refused(
            Publish {
                topic: None,
                ..publish()
            },
            version,
        );
        assert!(matches!(no_topic, EncodeError::Forbidden { .. }));
    }
    let alias = with(|set| set.topic_alias = Some(1));
    refused(
        Publish {
            topic: None,
            properties: alias.clone(),
            ..publish()
        },
        V311,
    );
    assert_eq!(
        refused(
            Publish {
                properties: alias,
                ..publish()
            },
            V311
        ),
        EncodeError::NotInVersion {
            what: "properties",
            version: V311
        }
    );
    for properties in [
        with(|set| set.topic_alias = Some(0)),
        with(|set| set.subscription_identifiers = vec![1, 0]),
        with(|set| set.subscription_identifiers = vec![268_435_456]),
        with(|set| set.response_topic = Some("a/#".into())),
        with(|set| set.response_topic = Some("".into())),
    ] {
        let error = refused(
            Publish {
                properties,
                ..publish()
            },
            V5,
        );
        assert!(
            matches!(error, EncodeError::PropertyValue { .. }),
            "{error}"
        );
    }
    let properties = with(|set| set.session_expiry_interval = Some(1));
    assert_eq!(
        refused(
            Publish {
                properties,
                ..publish()
            },
            V5
        ),
        EncodeError::PropertyNotAllowed {
            packet: "PUBLISH",
            property: "session expiry interval"
        }
    );
    let properties = with(|set| set.content_type = Some("a\0".into()));
    assert_eq!(
        refused(
            Publish {
                properties,
                ..publish()
            },
            V5
        ),
        EncodeError::NulCharacter {
            field: "content type"
        }
    );
    for length in [65_535, 65_536] {
        let properties = with(|set| set.correlation_data = Some(vec![0; length].into()));
        let packet = Packet::Publish(Publish {
            properties,
            ..publish()
        });
        let written = encode(&packet, V5, &mut BytesMut::new());
        assert_eq!(written.is_ok(), length == 65_535, "{written:?}");
    }
}

#[test]
fn a_packet_beyond_the_remaining_length() {
    // Topic and its length take three bytes.
    for (payload, fits) in [(268_435_452, true), (268_435_453, false)] {
        let packet = Packet::Publish(Publish {
            payload: vec![0; payload].into(),
            ..publish()
        });
        assert_eq!(encoded_len(&packet, V311).is_ok(), fits);
        if !fits {
            assert_eq!(
                refused(&packet, V311),
                EncodeError::TooLong {
                    length: 268_435_456
                }
            );
        }
    }
}

#[test]
fn connects_and_their_answers() {
    let refused_connect =
        |connect: Connect, version| refused(&Packet::Connect(Box::new(connect)), version);
    for (other, version) in [(V5, V311), (V311, V5)] {
        let error = refused_connect(connect(other), version);
        assert!(matches!(error, EncodeError::NotInVersion { .. }));
    }
    refused_connect(
        Connect {
            password: Some(Bytes::new()),
            ..connect(V311)
        },
        V311,
    );
    refused_connect(
        Connect {
            client_id: "".into(),
            clean_start: false,
            ..connect(V311)
        },
        V311,
    );
    refused_connect(
        Connect {
            client_id: "a\0".into(),
            ..connect(V5)
        },
        V5,
    );
    refused_connect(
        Connect {
            username: Some("\0".into()),
            ..connect(V5)
        },
        V5,
    );
    assert_eq!(
        refused_connect(
            Connect {
                client_id: "x".repeat(65_536).into(),
                ..connect(V5)
            },
            V5
        ),
        EncodeError::FieldTooLong {
            field: "the client identifier",
            length: 65_536
        }
    );
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Topic::new("t").expect("a topic"),
        payload: vec![0; 65_536].into(),
        properties: Properties::EMPTY,
    };
    let long_will = Connect {
        will: Some(will.clone()),
        ..connect(V5)
    };
    assert!(matches!(
        refused_connect(long_will, V5),
        EncodeError::FieldTooLong { .. }
    ));
    for properties in [
        with(|set| set.topic_alias = Some(1)),
        with(|set| set.session_expiry_interval = Some(1)),
    ] {
        let will = Will {
            payload: Bytes::new(),
            properties,
            ..will.clone()
        };
        let connect = Connect {
            will: Some(will),
            ..connect(V5)
        };
        let error = refused_connect(connect, V5);
        assert!(matches!(
            error,
            EncodeError::PropertyNotAllowed {
                packet: "the will",
                ..
            }
        ));
    }
    for properties in [
        with(|set| set.receive_maximum = Some(0)),
        with(|set| set.maximum_packet_size = Some(0)),
        with(|set| set.authentication_data = Some(Bytes::new())),
    ] {
        refused_connect(
            Connect {
                properties: properties.clone(),
                ..connect(V5)
            },
            V5,
        );
        let connack = ConnAck {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties,
        };
        refused(&Packet::ConnAck(connack), V5);
    }
    for (session_present, code, version) in [
        (true, 5, V311),
        (true, 0x87, V5),
        (false, 6, V311),
        (false, 0x87, V311),
        (false, 5, V5),
    ] {
        let connack = ConnAck {
            session_present,
            reason_code: ReasonCode(code),
            properties: Properties::EMPTY,
        };
        refused(&Packet::ConnAck(connack), version);
    }
    let properties = with(|set| set.maximum_qos = Some(QoS::ExactlyOnce));
    let connack = ConnAck {
        session_present: false,
        reason_code: ReasonCode::SUCCESS,
        properties,
    };
    refused(&Packet::ConnAck(connack), V5);
}

#[test]
fn subscriptions_and_their_answers() {
    for version in [V311, V5] {
        let empty = Subscribe {
            filters: Vec::new(),
            ..subscribe("a")
        };
        refused(&Packet::Subscribe(empty), version);
        let empty = Unsubscribe {
            packet_id: id(),
            filters: Vec::new(),
            properties: Properties::EMPTY,
        };
        refused(&Packet::Unsubscribe(empty), version);
        let empty = SubAck {
            packet_id: id(),
            reason_codes: Vec::new(),
            properties: Properties::EMPTY,
        };
        refused(&Packet::SubAck(empty.clone()), version);
        if version == V5 {
            refused(&Packet::UnsubAck(empty), version);
        }
    }
    let no_local = |text, handling| {
        let mut subscribe = subscribe(text);
        subscribe.filters[0].no_local = true;
        subscribe.filters[0].retain_handling = handling;
        Packet::Subscribe(subscribe)
    };
    refused(&no_local("$share/g/a", RetainHandling::OnSubscribe), V5);
    refused(&no_local("a", RetainHandling::OnSubscribe), V311);
    refused(&no_local("a", RetainHandling::Never), V311);
    refused(&Packet::Subscribe(subscribe("$share/g")), V5);
    assert!(
        encode(
            &Packet::Subscribe(subscribe("$share/g")),
            V311,
            &mut BytesMut::new()
        )
        .is_ok()
    );
    let properties = with(|set| set.subscription_identifiers = vec![1, 2]);
    refused(
        &Packet::Subscribe(Subscribe {
            properties,
            ..subscribe("a")
        }),
        V5,
    );

    let suback = |code| SubAck {
        packet_id: id(),
        reason_codes: vec![ReasonCode(code)],
        properties: Properties::EMPTY,
    };
    refused(&Packet::SubAck(suback(0x87)), V311);
    refused(&Packet::SubAck(suback(0x11)), V5);
    refused(&Packet::UnsubAck(suback(0x00)), V311);
    refused(&Packet::UnsubAck(suback(0x01)), V5);
}

#[test]
fn acknowledgements_and_ends() {
    let ack = |code| Acknowledgement::with_reason(id(), ReasonCode(code));
    refused(&Packet::PubAck(ack(0x87)), V311);
    refused(&Packet::PubAck(ack(0x92)), V5);
    refused(&Packet::PubRel(ack(0x80)), V5);
    let with_property = Acknowledgement {
        properties: with(|set| set.reason_string = Some("x".into())),
        ..ack(0)
    };
    refused(&Packet::PubComp(with_property), V311);
    let disconnect = |code| {
        Packet::Disconnect(Disconnect {
            reason_code: ReasonCode(code),
            properties: Properties::EMPTY,
        })
    };
    refused(&disconnect(0x8e), V311);
    refused(&disconnect(0x85), V5);
    refused(&Packet::Auth(Auth::default()), V311);
    let auth = |code, properties| {
        Packet::Auth(Auth {
            reason_code: ReasonCode(code),
            properties,
        })
    };
    refused(&auth(0x18, Properties::EMPTY), V5);
    refused(
        &auth(0x00, with(|set| set.reason_string = Some("x".into()))),
        V5,
    );
    refused(
        &auth(
            0x01,
            with(|set| set.authentication_method = Some("x".into())),
        ),
        V5,
    );
}

#[test]
fn the_shortest_form_is_written() {
    let written = |packet: &Packet, version| {
        let mut output = BytesMut::new();
        encode(packet, version, &mut output).expect("a legal packet");
        output
    };
    let ack = Acknowledgement::success(id());
    for version in [V311, V5] {
        assert_eq!(
            written(&Packet::PubAck(ack.clone()), version),
            &b"\x40\x02\0\x01"[..]
        );
        assert_eq!(
            written(&Packet::PubRel(ack.clone()), version),
            &b"\x62\x02\0\x01"[..]
        );
        let disconnect = Packet::Disconnect(Disconnect::default());
        assert_eq!(written(&disconnect, version), &b"\xe0\0"[..]);
        assert_eq!(written(&Packet::PingReq, version), &b"\xc0\0"[..]);
    }
    let refusal = Acknowledgement::with_reason(id(), ReasonCode(0x87));
    assert_eq!(
        written(&Packet::PubRec(refusal), V5),
        &b"\x50\x03\0\x01\x87"[..]
    );
    let taken_over = Packet::Disconnect(Disconnect {
        reason_code: ReasonCode::SESSION_TAKEN_OVER,
        properties: Properties::EMPTY,
    });
    assert_eq!(written(&taken_over, V5), &b"\xe0\x01\x8e"[..]);
    assert_eq!(written(&Packet::Auth(Auth::default()), V5), &b"\xf0\0"[..]);
    // Properties that were touched and are empty again count as none.
    let mut properties = Properties::default();
    properties.edit().reason_string = None;
    let touched = Acknowledgement { properties, ..ack };
    assert_eq!(
        written(&Packet::PubAck(touched.clone()), V5),
        &b"\x40\x02\0\x01"[..]
    );
    assert_eq!(
        written(&Packet::PubAck(touched), V311),
        &b"\x40\x02\0\x01"[..]
    );
}

/// Values without any care for the rules: most are illegal in some way.
fn careless_properties() -> impl Strategy<Value = Properties> {
    let text = || prop::option::weighted(0.1, "[a#+/\u{0}]{0,3}".prop_map(ByteString::from));
    let flag = || prop::option::weighted(0.1, any::<bool>());
    (
        (text(), text(), text(), text(), text()),
        (flag(), flag(), flag()),
        (
            prop::option::weighted(0.1, 0..3_u16),
            prop::option::weighted(0.1, 0..3_u32),
        ),
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(268_435_456)], 0..2),
        prop::option::weighted(0.1, any::<u8>()),
    )
        .prop_map(|(texts, flags, numbers, identifiers, data)| {
            Properties::from(PropertySet {
                content_type: texts.0,
                response_topic: texts.1,
                authentication_method: texts.2,
                reason_string: texts.3,
                server_reference: texts.4,
                payload_format_indicator: flags.0,
                request_problem_information: flags.1,
                retain_available: flags.2,
                topic_alias: numbers.0,
                receive_maximum: numbers.0,
                session_expiry_interval: numbers.1,
                subscription_identifiers: identifiers,
                authentication_data: data.map(|byte| Bytes::from(vec![byte])),
                ..PropertySet::default()
            })
        })
}

fn careless_packet() -> impl Strategy<Value = Packet> {
    let qos = || prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)];
    let code = || {
        prop_oneof![
            Just(0_u8),
            Just(0x10),
            Just(0x18),
            Just(0x87),
            Just(0x92),
            any::<u8>()
        ]
        .prop_map(ReasonCode)
    };
    let codes = move || prop::collection::vec(code(), 0..3);
    let ack = move || {
        (code(), careless_properties()).prop_map(|(reason_code, properties)| Acknowledgement {
            packet_id: id(),
            reason_code,
            properties,
        })
    };
    let suback = move || {
        (codes(), careless_properties()).prop_map(|(reason_codes, properties)| SubAck {
            packet_id: id(),
            reason_codes,
            properties,
        })
    };
    const FILTERS: [&str; 5] = ["a", "$share/g", "$share/g/a", "$share/+/a", "#"];
    let subscription = (prop::sample::select(&FILTERS[..]), any::<bool>(), qos()).prop_map(
        |(text, no_local, qos)| {
            let filter = TopicFilter::new(text).expect("a filter");
            Subscription {
                no_local,
                ..Subscription::new(filter, qos)
            }
        },
    );
    prop_oneof![
        (
            (any::<bool>(), any::<bool>(), any::<bool>()),
            qos(),
            careless_properties()
        )
            .prop_map(
                |((dup, has_topic, has_id), qos, properties)| Packet::Publish(Publish {
                    dup,
                    qos,
                    topic: publish().topic.filter(|_| has_topic),
                    packet_id: has_id.then(id),
                    properties,
                    ..publish()
                })
            ),
        (
            (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
            "[c\u{0}]{0,1}",
            careless_properties(),
        )
            .prop_map(
                |((is_v5, clean_start, username, password), client_id, properties)| {
                    Packet::Connect(Box::new(Connect {
                        clean_start,
                        client_id: client_id.into(),
                        username: username.then(ByteString::new),
                        password: password.then(Bytes::new),
                        properties,
                        ..connect(if is_v5 { V5 } else { V311 })
                    }))
                }
            ),
        (any::<bool>(), code(), careless_properties()).prop_map(
            |(session_present, reason_code, properties)| Packet::ConnAck(ConnAck {
                session_present,
                reason_code,
                properties,
            })
        ),
        ack().prop_map(Packet::PubAck),
        ack().prop_map(Packet::PubRec),
        ack().prop_map(Packet::PubRel),
        ack().prop_map(Packet::PubComp),
        (
            prop::collection::vec(subscription, 0..3),
            careless_properties()
        )
            .prop_map(|(filters, properties)| Packet::Subscribe(Subscribe {
                packet_id: id(),
                filters,
                properties,
            })),
        suback().prop_map(Packet::SubAck),
        suback().prop_map(Packet::UnsubAck),
        (code(), careless_properties()).prop_map(|(reason_code, properties)| Packet::Disconnect(
            Disconnect {
                reason_code,
                properties
            }
        )),
        (code(), careless_properties()).prop_map(|(reason_code, properties)| Packet::Auth(Auth {
            reason_code,
            properties
        })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn what_is_written_is_read_back_and_what_is_not_leaves_no_trace(
        packet in careless_packet(),
        version in prop_oneof![Just(V311), Just(V5)],
    ) {
        let mut output = BytesMut::new();
        match encode(&packet, version, &mut output) {
            Ok(()) => {
                let mut decoder = Decoder::new(version, Sender::Either, usize::MAX);
                let decoded = both_forms::decode(&mut decoder, &mut output.freeze());
                prop_assert_eq!(decoded, Ok(Decoded::Packet(packet)));
            }
            Err(_) => prop_assert!(output.is_empty()),
        }
    }
}
