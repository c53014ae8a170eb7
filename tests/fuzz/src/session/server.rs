//! What a server says: mostly what fits, at times what does not.

use bytes::Bytes;
use paquebot_protocols::mqtt::{
    Acknowledgement, Auth, ConnAck, Disconnect, Packet, PacketId, Properties, PropertySet, Publish,
    QoS, ReasonCode, SubAck, Topic, Version,
};

use super::ledger::{Ledger, Use};
use crate::input::Input;

/// The authentication method of both ends.
pub(super) const METHOD: &str = "SCRAM";

pub(super) fn accepting(session_present: bool) -> Packet {
    Packet::ConnAck(ConnAck {
        session_present,
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    })
}

pub(super) fn connack(input: &mut Input, version: Version) -> Packet {
    let kind = input.byte();
    let reason_code = match (kind % 16, version) {
        (0, Version::V311) => ReasonCode(input.byte() % 6),
        (0, Version::V5) => input.pick(&[
            ReasonCode::NOT_AUTHORIZED,
            ReasonCode::USE_ANOTHER_SERVER,
            ReasonCode::SERVER_BUSY,
        ]),
        _ => ReasonCode::SUCCESS,
    };
    let mut set = PropertySet::default();
    if version == Version::V5 {
        set.authentication_method = (kind & 0x60 == 0).then(|| METHOD.into());
        if input.one_in(2) {
            set.receive_maximum = input.pick(&[None, Some(1), Some(3), Some(u16::MAX)]);
            set.maximum_packet_size =
                input.pick(&[None, None, Some(1), Some(5), Some(30), Some(100)]);
            set.topic_alias_maximum = input.pick(&[None, Some(1), Some(u16::MAX)]);
        }
        if input.one_in(4) {
            set.maximum_qos = input.pick(&[None, Some(QoS::AtMostOnce), Some(QoS::AtLeastOnce)]);
            set.retain_available = input.pick(&[None, Some(false)]);
            set.server_keep_alive = input.pick(&[None, Some(0), Some(1), Some(u16::MAX)]);
            set.session_expiry_interval = input.pick(&[None, Some(0), Some(u32::MAX)]);
            set.wildcard_subscription_available = input.pick(&[None, Some(false)]);
            set.shared_subscription_available = input.pick(&[None, Some(false)]);
            set.assigned_client_identifier = input.pick(&[None, Some("named".into())]);
            set.authentication_data = input.pick(&[None, Some(Bytes::from_static(b"v"))]);
        }
    }
    Packet::ConnAck(ConnAck {
        session_present: kind & 0x80 != 0 && reason_code == ReasonCode::SUCCESS,
        reason_code,
        properties: set.into(),
    })
}

/// The answer to something that this server was sent.
pub(super) fn answer(input: &mut Input, ledger: &Ledger) -> Option<Packet> {
    let count = ledger.in_use().len();
    let which = usize::from(input.byte()) % count.max(1);
    let (id, usage) = ledger.in_use().iter().nth(which)?;
    if input.one_in(16) {
        return Some(acknowledgement(input, ledger.version(), *id));
    }
    Some(match usage {
        Use::Message { .. } if input.one_in(12) => {
            let code = input.pick(&[
                ReasonCode::NOT_AUTHORIZED,
                ReasonCode::NO_MATCHING_SUBSCRIBERS,
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            ]);
            match ledger.fitting_answer(*id, usage) {
                Packet::PubAck(_) => Packet::PubAck(Acknowledgement::with_reason(*id, code)),
                Packet::PubRec(_) => Packet::PubRec(Acknowledgement::with_reason(*id, code)),
                _ => Packet::PubComp(Acknowledgement::with_reason(*id, code)),
            }
        }
        Use::Subscribe { filters } | Use::Unsubscribe { filters } if input.one_in(4) => {
            let ack = SubAck {
                packet_id: *id,
                reason_codes: (0..*filters)
                    .map(|_| input.pick(&[ReasonCode(0), ReasonCode(0x80)]))
                    .collect(),
                properties: Properties::EMPTY,
            };
            if matches!(usage, Use::Subscribe { .. }) {
                Packet::SubAck(ack)
            } else {
                Packet::UnsubAck(ack)
            }
        }
        _ => ledger.fitting_answer(*id, usage),
    })
}

pub(super) fn publish(input: &mut Input, version: Version) -> Packet {
    let qos = input.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]);
    let mut properties = Properties::EMPTY;
    let mut topic = Topic::from_static(input.pick(&super::TOPICS)).ok();
    if version == Version::V5 && input.one_in(12) {
        properties.edit().topic_alias = Some(input.pick(&[1, 2, 3]));
        topic = topic.filter(|_| input.one_in(2));
    }
    Packet::Publish(Publish {
        dup: qos > QoS::AtMostOnce && input.one_in(4),
        qos,
        retain: input.one_in(4),
        topic,
        // A small circle, so that identifiers come back soon.
        packet_id: PacketId::new(u16::from(input.below(6)) + 1).filter(|_| qos > QoS::AtMostOnce),
        payload: Bytes::from_static(b"in"),
        properties,
    })
}

/// What comes unasked, and what no server may send.
pub(super) fn any(input: &mut Input, version: Version) -> Packet {
    match input.below(10) {
        0..=3 => Packet::PingResp,
        4..=5 => {
            let id = u16::from_be_bytes([input.pick(&[0, 0, 0, 0xff]), input.byte()]);
            match PacketId::new(id) {
                Some(id) => acknowledgement(input, version, id),
                None => Packet::PingReq,
            }
        }
        6 => auth(input),
        7 => Packet::Disconnect(Disconnect {
            reason_code: input.pick(&[ReasonCode::SUCCESS, ReasonCode::SESSION_TAKEN_OVER]),
            properties: Properties::EMPTY,
        }),
        8 => Packet::PingReq,
        _ => connack(input, version),
    }
}

pub(super) fn auth(input: &mut Input) -> Packet {
    Packet::Auth(Auth {
        reason_code: input.pick(&[ReasonCode::CONTINUE_AUTHENTICATION, ReasonCode::SUCCESS]),
        properties: PropertySet {
            authentication_method: (!input.one_in(16)).then(|| METHOD.into()),
            authentication_data: input.pick(&[None, Some(Bytes::from_static(b"data"))]),
            ..PropertySet::default()
        }
        .into(),
    })
}

/// Any packet with that identifier.
fn acknowledgement(input: &mut Input, version: Version, id: PacketId) -> Packet {
    let ack = Acknowledgement::success(id);
    let many = SubAck {
        packet_id: id,
        reason_codes: vec![ReasonCode::SUCCESS; input.below(3).into()],
        properties: Properties::EMPTY,
    };
    match input.below(6) {
        0 => Packet::PubAck(ack),
        1 => Packet::PubRec(ack),
        2 => Packet::PubRel(ack),
        3 => Packet::PubComp(ack),
        4 => Packet::SubAck(many),
        _ => Packet::UnsubAck(SubAck {
            reason_codes: match version {
                Version::V311 => Vec::new(),
                Version::V5 => many.reason_codes,
            },
            ..many
        }),
    }
}
