//! What a server does besides passing messages on.

use std::sync::Arc;

use bytes::Bytes;
use paquebot_protocols::mqtt::{QoS, ReasonCode, Topic, TopicFilter};
use tokio::time::Instant;

use crate::policy::{Client, Peer};

/// A cloud's own services behind the server: it is shown what clients publish and how they come and go, and
/// answers with messages of its own. Each call is made under the server's lock, so it must answer at once.
pub(crate) trait Service: Send {
    /// A message that a client published, with leave of the policy; subscribers get it all the same.
    fn handle_publish(&mut self, from: &Client<'_>, topic: &Topic, payload: &Bytes) -> Vec<Reply>;

    /// Something happened to a connection.
    fn handle_event(&mut self, event: &Event<'_>) -> Vec<Reply>;

    /// When [`Service::handle_timeout`] is due next.
    fn poll_timeout(&self) -> Option<Instant>;

    fn handle_timeout(&mut self, now: Instant) -> Vec<Reply>;
}

/// A message of a service.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) to: Recipient,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// Everybody who subscribed to the topic.
    Subscribers,
    /// The client whose message it answers, whether or not it subscribed. Of an event or a timeout there is
    /// no such client, and nobody gets it.
    Requester,
}

/// Something happened to a connection.
pub(crate) struct Event<'a> {
    pub(crate) client: Client<'a>,
    pub(crate) peer: &'a Arc<Peer>,
    pub(crate) kind: EventKind<'a>,
}

pub(crate) enum EventKind<'a> {
    Connected,
    Disconnected(Departure),
    /// The filters that were granted, in the order of the SUBSCRIBE.
    Subscribed(&'a [&'a TopicFilter]),
    Unsubscribed(&'a [TopicFilter]),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// The client said goodbye.
    Disconnected,
    /// The socket was gone, or a fault cut it.
    Lost,
    /// Another connection came with its client identifier.
    TakenOver,
    KeepAliveTimeout,
    /// It had lasted as long as its listener allows.
    LifetimeOver,
    /// The client broke the protocol or a rule.
    Violation(ReasonCode),
    /// The server ended it.
    Dismissed,
}
