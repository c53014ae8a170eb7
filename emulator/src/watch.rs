//! In-process subscriptions.

use bytes::Bytes;
use bytestring::ByteString;
use paquebot_protocols::mqtt::{Properties, QoS, Topic, TopicFilter};
use tokio::sync::mpsc;

use crate::message::Message;

/// Messages that one watcher may be behind. Beyond it they are lost to it and counted in
/// [`Stats::watch_lost`](crate::Stats::watch_lost).
pub const WATCH_BACKLOG_MAX: usize = 65_536;

/// A message as the server took it in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchedMessage {
    /// Who published it; `None` for [`Broker::publish`](crate::Broker::publish). A will has the client
    /// identifier of its session.
    pub client_id: Option<ByteString>,
    /// Its topic; an alias is already resolved.
    pub topic: Topic,
    /// Its payload.
    pub payload: Bytes,
    /// The QoS it was published with.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// Its MQTT 5 properties, without the topic alias.
    pub properties: Properties,
}

/// The receiving end of [`Broker::watch`](crate::Broker::watch): every message published from that call
/// on whose topic matches. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    receiver: mpsc::Receiver<WatchedMessage>,
}

impl Watch {
    /// The next message; `None` once the server is gone. Works on any executor and is cancel safe.
    pub async fn recv(&mut self) -> Option<WatchedMessage> {
        self.receiver.recv().await
    }

    /// The next message if one is there.
    pub fn try_recv(&mut self) -> Option<WatchedMessage> {
        self.receiver.try_recv().ok()
    }
}

/// The server's end of a [`Watch`].
#[derive(Debug)]
pub(crate) struct Watcher {
    filter: TopicFilter,
    sender: mpsc::Sender<WatchedMessage>,
}

impl Watcher {
    pub(crate) fn new(filter: TopicFilter) -> (Self, Watch) {
        let (sender, receiver) = mpsc::channel(WATCH_BACKLOG_MAX);
        (Self { filter, sender }, Watch { receiver })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns whether the message was lost to this watcher.
    pub(crate) fn offer(&self, message: &Message, client_id: Option<&ByteString>) -> bool {
        if !self.filter.matches(&message.topic) {
            return false;
        }
        let watched = WatchedMessage {
            client_id: client_id.cloned(),
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            qos: message.qos,
            retain: message.retain,
            properties: message.properties.clone(),
        };
        matches!(
            self.sender.try_send(watched),
            Err(mpsc::error::TrySendError::Full(_))
        )
    }
}
