//! Arbitrary packets that the specifications allow.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use paquebot_protocols::mqtt::{
    Acknowledgement, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, PropertySet,
    Publish, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, Topic, TopicFilter,
    Unsubscribe, Version, Will, encode,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Both versions, each with its packets.
pub(crate) fn versioned_packet() -> impl Strategy<Value = (Version, Packet)> {
    prop_oneof![
        packet(Version::V311).prop_map(|packet| (Version::V311, packet)),
        packet(Version::V5).prop_map(|packet| (Version::V5, packet)),
    ]
}

/// Any packet of a version.
pub(crate) fn packet(version: Version) -> BoxedStrategy<Packet> {
    let shared = prop_oneof![
        1 => connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        1 => connack(version).prop_map(Packet::ConnAck),
        2 => publish(version).prop_map(Packet::Publish),
        1 => acknowledgement(version, &PUBACK_CODES).prop_map(Packet::PubAck),
        1 => acknowledgement(version, &PUBACK_CODES).prop_map(Packet::PubRec),
        1 => acknowledgement(version, &PUBREL_CODES).prop_map(Packet::PubRel),
        1 => acknowledgement(version, &PUBREL_CODES).prop_map(Packet::PubComp),
        1 => subscribe(version).prop_map(Packet::Subscribe),
        1 => suback(version).prop_map(Packet::SubAck),
        1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
        1 => unsuback(version).prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::PingResp),
    ];
    match version {
        Version::V311 => {
            prop_oneof![12 => shared, 1 => Just(Packet::Disconnect(Disconnect::default()))].boxed()
        }
        Version::V5 => prop_oneof![
            12 => shared,
            1 => disconnect().prop_map(Packet::Disconnect),
            1 => auth().prop_map(Packet::Auth),
        ]
        .boxed(),
    }
}

const CONNACK_CODES: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];
const PUBACK_CODES: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_CODES: [u8; 2] = [0x00, 0x92];
const SUBACK_CODES: [u8; 12] = [
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2,
];
const UNSUBACK_CODES: [u8; 7] = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
const DISCONNECT_CODES: [u8; 30] = [
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94,
    0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

/// Text without U+0000: empty, ASCII, accents, emoji, now and then long.
fn text() -> impl Strategy<Value = ByteString> {
    prop_oneof![
        4 => "[ -~]{0,20}",
        2 => "[^\u{0}]{0,8}",
        1 => (120_usize..140).prop_map(|length| "x".repeat(length)),
    ]
    .prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 120..140),
        1 => (16_370_usize..16_400).prop_map(|length| vec![0x5a; length]),
    ]
    .prop_map(Bytes::from)
}

pub(crate) fn topic() -> impl Strategy<Value = Topic> {
    prop_oneof![
        4 => "[a-z/$]{1,30}",
        1 => "[^\u{0}+#]{1,10}",
        1 => (1_usize..300).prop_map(|length| "t".repeat(length)),
    ]
    .prop_map(|text| Topic::new(text).expect("the pattern makes topics"))
}

pub(crate) fn filter(version: Version) -> BoxedStrategy<TopicFilter> {
    let level =
        || prop_oneof![3 => Just("+".to_owned()), 5 => "[a-z$]{0,6}", 1 => "[^\u{0}+#/]{1,4}"];
    (
        vec(level(), 1..5),
        any::<bool>(),
        option::weighted(0.2, "[a-z0-9]{1,5}"),
    )
        .prop_map(move |(mut levels, ends_in_hash, share)| {
            if ends_in_hash {
                levels.push("#".to_owned());
            }
            let mut text = levels.join("/");
            if text.is_empty() {
                text.push('/');
            }
            if let Some(group) = share {
                text = format!("$share/{group}/{text}");
            }
            TopicFilter::new(text).expect("the levels make filters")
        })
        .prop_filter(
            "an ill-formed share is for MQTT 3.1.1 only",
            move |filter| version == Version::V311 || filter.check_shared().is_ok(),
        )
        .boxed()
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce),
    ]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).expect("not 0"))
}

fn code(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    proptest::sample::select(codes).prop_map(ReasonCode)
}

fn user_properties() -> impl Strategy<Value = Vec<(ByteString, ByteString)>> {
    vec((text(), text()), 0..3)
}

/// Empty on MQTT 3.1.1, and now and then on MQTT 5.
fn only_v5(
    version: Version,
    properties: impl Strategy<Value = PropertySet> + 'static,
) -> BoxedStrategy<Properties> {
    match version {
        Version::V311 => Just(Properties::EMPTY).boxed(),
        Version::V5 => prop_oneof![
            Just(Properties::EMPTY),
            properties.prop_map(Properties::from)
        ]
        .boxed(),
    }
}

fn authentication() -> impl Strategy<Value = (Option<ByteString>, Option<Bytes>)> {
    prop_oneof![
        Just((None, None)),
        (text(), option::of(binary())).prop_map(|(method, data)| (Some(method), data)),
    ]
}

fn connect_properties() -> impl Strategy<Value = PropertySet> {
    (
        (
            option::of(any::<u32>()),
            option::of(1..=u16::MAX),
            option::of(1..=u32::MAX),
        ),
        (
            option::of(any::<u16>()),
            option::of(any::<bool>()),
            option::of(any::<bool>()),
        ),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(first, second, user_properties, authentication)| PropertySet {
                session_expiry_interval: first.0,
                receive_maximum: first.1,
                maximum_packet_size: first.2,
                topic_alias_maximum: second.0,
                request_response_information: second.1,
                request_problem_information: second.2,
                user_properties,
                authentication_method: authentication.0,
                authentication_data: authentication.1,
                ..PropertySet::default()
            },
        )
}

/// What a will and a PUBLISH share.
fn message_properties() -> impl Strategy<Value = PropertySet> {
    (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic()),
        option::of(binary()),
        user_properties(),
    )
        .prop_map(
            |(format, expiry, content_type, response, correlation, user)| PropertySet {
                payload_format_indicator: format,
                message_expiry_interval: expiry,
                content_type,
                response_topic: response.map(Topic::into_inner),
                correlation_data: correlation,
                user_properties: user,
                ..PropertySet::default()
            },
        )
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    let properties =
        (message_properties(), option::of(any::<u32>())).prop_map(|(set, delay)| PropertySet {
            will_delay_interval: delay,
            ..set
        });
    (
        qos(),
        any::<bool>(),
        topic(),
        binary(),
        only_v5(version, properties),
    )
        .prop_map(|(qos, retain, topic, payload, properties)| Will {
            qos,
            retain,
            topic,
            payload,
            properties,
        })
}

fn connect(version: Version) -> impl Strategy<Value = Connect> {
    (
        (any::<bool>(), any::<u16>(), text()),
        option::of(will(version)),
        option::of(text()),
        option::of(binary()),
        only_v5(version, connect_properties()),
    )
        .prop_map(
            move |((clean_start, keep_alive, client_id), will, username, password, properties)| {
                let is_v311 = version == Version::V311;
                Connect {
                    version,
                    clean_start: clean_start || is_v311 && client_id.is_empty(),
                    keep_alive,
                    client_id,
                    will,
                    password: password.filter(|_| !is_v311 || username.is_some()),
                    username,
                    properties,
                }
            },
        )
}

fn connack_properties() -> impl Strategy<Value = PropertySet> {
    (
        (
            option::of(any::<u32>()),
            option::of(1..=u16::MAX),
            option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
            option::of(any::<bool>()),
            option::of(1..=u32::MAX),
            option::of(text()),
            option::of(any::<u16>()),
            option::of(text()),
        ),
        (
            user_properties(),
            option::of(any::<bool>()),
            option::of(any::<bool>()),
            option::of(any::<bool>()),
            option::of(any::<u16>()),
            option::of(text()),
            option::of(text()),
            authentication(),
        ),
    )
        .prop_map(|(first, second)| PropertySet {
            session_expiry_interval: first.0,
            receive_maximum: first.1,
            maximum_qos: first.2,
            retain_available: first.3,
            maximum_packet_size: first.4,
            assigned_client_identifier: first.5,
            topic_alias_maximum: first.6,
            reason_string: first.7,
            user_properties: second.0,
            wildcard_subscription_available: second.1,
            subscription_identifier_available: second.2,
            shared_subscription_available: second.3,
            server_keep_alive: second.4,
            response_information: second.5,
            server_reference: second.6,
            authentication_method: second.7.0,
            authentication_data: second.7.1,
            ..PropertySet::default()
        })
}

fn connack(version: Version) -> impl Strategy<Value = ConnAck> {
    let codes: &'static [u8] = match version {
        Version::V311 => &[0, 1, 2, 3, 4, 5],
        Version::V5 => &CONNACK_CODES,
    };
    (
        any::<bool>(),
        code(codes),
        only_v5(version, connack_properties()),
    )
        .prop_map(|(session_present, reason_code, properties)| ConnAck {
            session_present: session_present && reason_code == ReasonCode::SUCCESS,
            reason_code,
            properties,
        })
}

pub(crate) fn publish(version: Version) -> impl Strategy<Value = Publish> {
    let properties = (
        message_properties(),
        option::of(1..=u16::MAX),
        vec(1..=268_435_455_u32, 0..3),
    )
        .prop_map(|(set, alias, identifiers)| PropertySet {
            topic_alias: alias,
            subscription_identifiers: identifiers,
            ..set
        });
    (
        (any::<bool>(), qos(), any::<bool>(), any::<bool>()),
        topic(),
        packet_id(),
        binary(),
        only_v5(version, properties),
    )
        .prop_map(
            |((dup, qos, retain, by_alias), topic, packet_id, payload, properties)| {
                let has_id = qos != QoS::AtMostOnce;
                let no_topic = by_alias && properties.topic_alias.is_some();
                Publish {
                    dup: dup && has_id,
                    qos,
                    retain,
                    topic: (!no_topic).then_some(topic),
                    packet_id: has_id.then_some(packet_id),
                    payload,
                    properties,
                }
            },
        )
}

fn reason_properties() -> impl Strategy<Value = PropertySet> {
    (option::of(text()), user_properties()).prop_map(|(reason_string, user_properties)| {
        PropertySet {
            reason_string,
            user_properties,
            ..PropertySet::default()
        }
    })
}

fn acknowledgement(
    version: Version,
    codes: &'static [u8],
) -> impl Strategy<Value = Acknowledgement> {
    let codes = if version == Version::V5 { codes } else { &[0] };
    (
        packet_id(),
        code(codes),
        only_v5(version, reason_properties()),
    )
        .prop_map(|(packet_id, reason_code, properties)| Acknowledgement {
            packet_id,
            reason_code,
            properties,
        })
}

fn subscription(version: Version) -> impl Strategy<Value = Subscription> {
    let handling = prop_oneof![
        Just(RetainHandling::OnSubscribe),
        Just(RetainHandling::OnNewSubscription),
        Just(RetainHandling::Never),
    ];
    (
        filter(version),
        qos(),
        any::<bool>(),
        any::<bool>(),
        handling,
    )
        .prop_map(
            move |(filter, qos, no_local, retain_as_published, retain_handling)| match version {
                Version::V311 => Subscription::new(filter, qos),
                Version::V5 => Subscription {
                    no_local: no_local && filter.shared().is_none(),
                    filter,
                    qos,
                    retain_as_published,
                    retain_handling,
                },
            },
        )
}

fn subscribe(version: Version) -> impl Strategy<Value = Subscribe> {
    let properties = (option::of(1..=268_435_455_u32), user_properties()).prop_map(
        |(identifier, user_properties)| PropertySet {
            subscription_identifiers: identifier.into_iter().collect(),
            user_properties,
            ..PropertySet::default()
        },
    );
    (
        packet_id(),
        vec(subscription(version), 1..5),
        only_v5(version, properties),
    )
        .prop_map(|(packet_id, filters, properties)| Subscribe {
            packet_id,
            filters,
            properties,
        })
}

fn suback(version: Version) -> impl Strategy<Value = SubAck> {
    let codes: &'static [u8] = match version {
        Version::V311 => &[0, 1, 2, 0x80],
        Version::V5 => &SUBACK_CODES,
    };
    (
        packet_id(),
        vec(code(codes), 1..5),
        only_v5(version, reason_properties()),
    )
        .prop_map(|(packet_id, reason_codes, properties)| SubAck {
            packet_id,
            reason_codes,
            properties,
        })
}

fn unsuback(version: Version) -> impl Strategy<Value = SubAck> {
    (
        packet_id(),
        vec(code(&UNSUBACK_CODES), 1..5),
        only_v5(version, reason_properties()),
    )
        .prop_map(move |(packet_id, mut reason_codes, properties)| {
            if version == Version::V311 {
                reason_codes.clear();
            }
            SubAck {
                packet_id,
                reason_codes,
                properties,
            }
        })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Unsubscribe> {
    let properties = user_properties().prop_map(|user_properties| PropertySet {
        user_properties,
        ..PropertySet::default()
    });
    (
        packet_id(),
        vec(filter(version), 1..5),
        only_v5(version, properties),
    )
        .prop_map(|(packet_id, filters, properties)| Unsubscribe {
            packet_id,
            filters,
            properties,
        })
}

fn disconnect() -> impl Strategy<Value = Disconnect> {
    let properties = (
        reason_properties(),
        option::of(any::<u32>()),
        option::of(text()),
    )
        .prop_map(|(set, expiry, reference)| PropertySet {
            session_expiry_interval: expiry,
            server_reference: reference,
            ..set
        });
    (code(&DISCONNECT_CODES), only_v5(Version::V5, properties)).prop_map(
        |(reason_code, properties)| Disconnect {
            reason_code,
            properties,
        },
    )
}

fn auth() -> impl Strategy<Value = Auth> {
    let properties =
        (reason_properties(), text(), option::of(binary())).prop_map(|(set, method, data)| {
            PropertySet {
                authentication_method: Some(method),
                authentication_data: data,
                ..set
            }
        });
    prop_oneof![
        1 => Just(Auth::default()),
        5 => (code(&[0x00, 0x18, 0x19]), properties).prop_map(|(reason_code, set)| Auth {
            reason_code,
            properties: Properties::from(set),
        }),
    ]
}

/// The frame of a legal packet with a few bytes changed, cut off or added: most are illegal in one
/// place. The remaining length fits, so that two decoders judge the same bytes.
pub(crate) fn damaged(version: Version) -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![
        Just(0),
        Just(1),
        Just(0xff),
        Just(b'+'),
        Just(b'#'),
        Just(0x80),
        any::<u8>(),
    ];
    let edits = vec((any::<prop::sample::Index>(), byte), 0..3);
    let flags = option::weighted(0.1, any::<u8>());
    let tail = prop_oneof![
        4 => Just((0, Vec::new())),
        1 => (1_usize..6, Just(Vec::new())),
        1 => (Just(0), vec(any::<u8>(), 1..4)),
    ];
    (packet(version), edits, flags, tail).prop_map(move |(packet, edits, flags, (cut, added))| {
        let mut output = BytesMut::new();
        encode(&packet, version, &mut output).expect("a legal packet is written");
        let header = 1
            + output[1..]
                .iter()
                .position(|byte| *byte < 0x80)
                .expect("the remaining length ends")
            + 1;
        let mut body = output.split_off(header).to_vec();
        for (index, byte) in edits {
            if !body.is_empty() {
                let at = index.index(body.len());
                body[at] = byte;
            }
        }
        body.truncate(body.len().saturating_sub(cut));
        body.extend(added);
        let first = flags.map_or(output[0], |flags| output[0] & 0xf0 | flags & 0x0f);
        framed(first, &body)
    })
}

/// A frame of any first byte and body.
pub(crate) fn framed(first: u8, body: &[u8]) -> Bytes {
    let mut frame = vec![first];
    let mut rest = body.len();
    while rest >= 0x80 {
        frame.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    frame.push(rest as u8);
    frame.extend_from_slice(body);
    Bytes::from(frame)
}
