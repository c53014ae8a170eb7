//! A raw client: it sends what a test tells it to and keeps no rules of its own.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use paquebot_emulator::mqtt::{
    Acknowledgement, ConnAck, Connect, Decoded, Decoder, Disconnect, Packet, PacketId, Properties,
    Publish, QoS, ReasonCode, Sender, SubAck, Subscribe, Subscription, Topic, TopicFilter, Version,
    Will, encode,
};
use paquebot_emulator::{Broker, Limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Far beyond what an answer takes; with paused time it costs nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    version: Version,
    decoder: Decoder,
    input: BytesMut,
    packet_ids: u16,
}

pub(crate) async fn broker() -> Broker {
    Broker::builder().start().await.unwrap()
}

pub(crate) async fn broker_with(change: impl FnOnce(&mut Limits)) -> Broker {
    let mut limits = Limits::default();
    change(&mut limits);
    Broker::builder().limits(limits).start().await.unwrap()
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

pub(crate) fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub(crate) fn connect_packet(client_id: &str, version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::EMPTY,
    }
}

/// A CONNECT whose session stays when the connection ends.
pub(crate) fn lasting(client_id: &str, version: Version) -> Connect {
    let mut connect = connect_packet(client_id, version);
    connect.clean_start = false;
    if version == Version::V5 {
        connect.properties.edit().session_expiry_interval = Some(u32::MAX);
    }
    connect
}

pub(crate) fn will(text: &str, payload: &'static str, qos: QoS) -> Will {
    Will {
        qos,
        retain: false,
        topic: topic(text),
        payload: Bytes::from_static(payload.as_bytes()),
        properties: Properties::EMPTY,
    }
}

pub(crate) fn publish(text: &str, payload: impl Into<Bytes>, qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic(text)),
        packet_id: PacketId::new(packet_id),
        payload: payload.into(),
        properties: Properties::EMPTY,
    }
}

pub(crate) fn retained(text: &str, payload: impl Into<Bytes>) -> Publish {
    Publish {
        retain: true,
        ..publish(text, payload, QoS::AtMostOnce, 0)
    }
}

impl Client {
    pub(crate) fn new(stream: impl Stream + 'static, version: Version) -> Self {
        Self {
            stream: Box::new(stream),
            version,
            decoder: Decoder::new(version, Sender::Server, 64 * 1024 * 1024),
            input: BytesMut::new(),
            packet_ids: 0,
        }
    }

    /// A clean session over a pipe.
    pub(crate) async fn connect(broker: &Broker, client_id: &str, version: Version) -> Self {
        Self::accepted(broker, connect_packet(client_id, version))
            .await
            .0
    }

    pub(crate) async fn accepted(broker: &Broker, connect: Connect) -> (Self, ConnAck) {
        let (client, connack) = Self::answered(broker, connect).await;
        assert_eq!(connack.reason_code, ReasonCode::SUCCESS, "{connack:?}");
        (client, connack)
    }

    pub(crate) async fn answered(broker: &Broker, connect: Connect) -> (Self, ConnAck) {
        Self::new(broker.connect_pipe(), connect.version)
            .introduce(connect)
            .await
    }

    pub(crate) async fn introduce(mut self, connect: Connect) -> (Self, ConnAck) {
        self.send(Packet::Connect(Box::new(connect))).await;
        match self.receive().await {
            Packet::ConnAck(connack) => (self, connack),
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) async fn poll(&mut self) -> Option<Packet> {
        let next = async {
            loop {
                let mut bytes = self.input.split().freeze();
                let decoded = self.decoder.decode(&mut bytes).unwrap();
                self.input = BytesMut::from(&*bytes);
                match decoded {
                    Decoded::Packet(packet) => return Some(packet),
                    Decoded::Incomplete { .. } => {}
                }
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("nothing came in time")
    }

    pub(crate) async fn receive(&mut self) -> Packet {
        self.poll().await.expect("the connection is closed")
    }

    pub(crate) async fn receive_publish(&mut self) -> Publish {
        match self.receive().await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }

    /// The payload of the next message, as text.
    pub(crate) async fn receive_text(&mut self) -> String {
        String::from_utf8(self.receive_publish().await.payload.to_vec()).unwrap()
    }

    /// The server has nothing else to say: a ping's answer is the next packet.
    pub(crate) async fn expect_nothing(&mut self) {
        self.send(Packet::PingReq).await;
        assert_eq!(self.receive().await, Packet::PingResp);
    }

    pub(crate) async fn expect_closed(&mut self) {
        assert_eq!(self.poll().await, None);
    }

    /// MQTT 5: a DISCONNECT with this code, then the end. MQTT 3.1.1: the end.
    pub(crate) async fn expect_dismissed(&mut self, code: ReasonCode) {
        if self.version == Version::V5 {
            match self.receive().await {
                Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason_code, code),
                other => panic!("{other:?} instead of DISCONNECT"),
            }
        }
        self.expect_closed().await;
    }

    pub(crate) fn next_id(&mut self) -> PacketId {
        self.packet_ids += 1;
        id(self.packet_ids)
    }

    pub(crate) async fn subscribe(&mut self, text: &str, qos: QoS) -> ReasonCode {
        self.subscribe_with(Subscription::new(filter(text), qos), None)
            .await
    }

    pub(crate) async fn subscribe_with(
        &mut self,
        subscription: Subscription,
        identifier: Option<u32>,
    ) -> ReasonCode {
        let mut properties = Properties::EMPTY;
        if let Some(identifier) = identifier {
            properties.edit().subscription_identifiers = vec![identifier];
        }
        let packet_id = self.next_id();
        self.send(Packet::Subscribe(Subscribe {
            packet_id,
            filters: vec![subscription],
            properties,
        }))
        .await;
        match self.receive().await {
            Packet::SubAck(SubAck {
                packet_id: answered,
                reason_codes,
                ..
            }) => {
                assert_eq!(answered, packet_id);
                assert_eq!(reason_codes.len(), 1);
                reason_codes[0]
            }
            other => panic!("{other:?} instead of SUBACK"),
        }
    }

    pub(crate) async fn publish(&mut self, text: &str, payload: &'static str) {
        let publish = publish(text, payload, QoS::AtMostOnce, 0);
        self.send(Packet::Publish(publish)).await;
    }

    /// Publishes with QoS 1 and returns the reason of its PUBACK.
    pub(crate) async fn publish_acknowledged(&mut self, publish: Publish) -> ReasonCode {
        let packet_id = publish.packet_id;
        self.send(Packet::Publish(publish)).await;
        match self.receive().await {
            Packet::PubAck(ack) => {
                assert_eq!(Some(ack.packet_id), packet_id);
                ack.reason_code
            }
            other => panic!("{other:?} instead of PUBACK"),
        }
    }

    pub(crate) async fn acknowledge(&mut self, packet_id: Option<PacketId>) {
        let ack = Acknowledgement::success(packet_id.unwrap());
        self.send(Packet::PubAck(ack)).await;
    }

    pub(crate) async fn disconnect(mut self) {
        self.send(Packet::Disconnect(Disconnect::default())).await;
        self.expect_closed().await;
    }
}

/// Waits until the server has noticed that connections ended.
pub(crate) async fn connected(broker: &Broker, count: usize) {
    broker
        .wait_for(|stats| stats.connections == count, PATIENCE)
        .await
        .unwrap();
}
