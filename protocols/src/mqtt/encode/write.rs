//! Writes what was measured. Nothing here can fail: [`measure`](super::measure) has refused what cannot
//! be written.

use bytes::{BufMut, BytesMut};

use super::properties::{self, put_field};
use super::{carrier_of, put_variable};
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{Connect, Packet, Properties, ReasonCode, Subscription, Version, Will};

/// Packet type and flags of all packets but PUBLISH, whose flags vary.
pub(super) const fn first_byte(packet: &Packet) -> u8 {
    match packet {
        Packet::Connect(_) => 0x10,
        Packet::ConnAck(_) => 0x20,
        Packet::Publish(_) => 0x30,
        Packet::PubAck(_) => 0x40,
        Packet::PubRec(_) => 0x50,
        Packet::PubRel(_) => 0x62,
        Packet::PubComp(_) => 0x70,
        Packet::Subscribe(_) => 0x82,
        Packet::SubAck(_) => 0x90,
        Packet::Unsubscribe(_) => 0xa2,
        Packet::UnsubAck(_) => 0xb0,
        Packet::PingReq => 0xc0,
        Packet::PingResp => 0xd0,
        Packet::Disconnect(_) => 0xe0,
        Packet::Auth(_) => 0xf0,
    }
}

/// The whole of an acknowledgement that says no more than success: the same in both versions.
pub(super) fn plain_acknowledgement(packet: &Packet) -> Option<[u8; 4]> {
    let (Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)) =
        packet
    else {
        return None;
    };
    if ack.reason_code != ReasonCode::SUCCESS || ack.properties.as_set().is_some() {
        return None;
    }
    let [high, low] = ack.packet_id.value().to_be_bytes();
    Some([first_byte(packet), 2, high, low])
}

/// Appends what follows the fixed header. PUBLISH has its own way.
pub(super) fn body(packet: &Packet, version: Version, output: &mut BytesMut) {
    match packet {
        Packet::Connect(packet) => connect(packet, output),
        Packet::ConnAck(packet) => {
            output.put_slice(&[packet.session_present.into(), packet.reason_code.0]);
            section(&packet.properties, Carrier::ConnAck, version, output);
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            output.put_u16(ack.packet_id.value());
            let carrier = carrier_of(packet);
            reason_and_properties(ack.reason_code, &ack.properties, carrier, output);
        }
        Packet::Subscribe(packet) => {
            output.put_u16(packet.packet_id.value());
            section(&packet.properties, Carrier::Subscribe, version, output);
            for subscription in &packet.filters {
                put_field(output, subscription.filter.as_str().as_bytes());
                output.put_u8(options(subscription));
            }
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
            output.put_u16(ack.packet_id.value());
            section(&ack.properties, carrier_of(packet), version, output);
            for code in &ack.reason_codes {
                output.put_u8(code.0);
            }
        }
        Packet::Unsubscribe(packet) => {
            output.put_u16(packet.packet_id.value());
            section(&packet.properties, Carrier::Unsubscribe, version, output);
            for filter in &packet.filters {
                put_field(output, filter.as_str().as_bytes());
            }
        }
        Packet::Disconnect(packet) => {
            let carrier = Carrier::Disconnect;
            reason_and_properties(packet.reason_code, &packet.properties, carrier, output);
        }
        Packet::Auth(packet) => {
            if packet.reason_code != ReasonCode::SUCCESS || !packet.properties.is_empty() {
                output.put_u8(packet.reason_code.0);
                section(&packet.properties, Carrier::Auth, version, output);
            }
        }
        Packet::Publish(_) | Packet::PingReq | Packet::PingResp => {}
    }
}

fn connect(connect: &Connect, output: &mut BytesMut) {
    let version = connect.version;
    output.put_slice(b"\0\x04MQTT");
    output.put_slice(&[version.level(), connect_flags(connect)]);
    output.put_u16(connect.keep_alive);
    section(&connect.properties, Carrier::Connect, version, output);
    put_field(output, connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        section(&will.properties, Carrier::Will, version, output);
        put_field(output, will.topic.as_str().as_bytes());
        put_field(output, &will.payload);
    }
    if let Some(username) = &connect.username {
        put_field(output, username.as_bytes());
    }
    if let Some(password) = &connect.password {
        put_field(output, password);
    }
}

fn connect_flags(connect: &Connect) -> u8 {
    let will = connect.will.as_ref().map_or(0, |will: &Will| {
        0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5
    });
    u8::from(connect.clean_start) << 1
        | will
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7
}

fn options(subscription: &Subscription) -> u8 {
    subscription.qos as u8
        | u8::from(subscription.no_local) << 2
        | u8::from(subscription.retain_as_published) << 3
        | (subscription.retain_handling as u8) << 4
}

/// Property length and properties; nothing on MQTT 3.1.1.
fn section(properties: &Properties, carrier: Carrier, version: Version, output: &mut BytesMut) {
    if version == Version::V5 {
        put_variable(output, length_of(properties, carrier));
        properties::write(properties, output);
    }
}

/// The end of the packets whose reason code may be left out; the version does not matter, since on
/// MQTT 3.1.1 there is neither code nor property.
fn reason_and_properties(
    code: ReasonCode,
    properties: &Properties,
    carrier: Carrier,
    output: &mut BytesMut,
) {
    if !properties.is_empty() {
        output.put_u8(code.0);
        section(properties, carrier, Version::V5, output);
    } else if code != ReasonCode::SUCCESS {
        output.put_u8(code.0);
    }
}

/// The bytes of the properties, which were found to be writable.
fn length_of(properties: &Properties, carrier: Carrier) -> usize {
    properties::measure(properties, carrier).unwrap_or_default()
}
