//! What is likely behind the end of a connection that the server did not explain.
//!
//! Some platforms answer what they do not allow by closing the connection without a word. Their dialects know what
//! that usually means; it stays a guess, since a network that breaks looks the same.

use std::time::Duration;

use crate::mqtt::session::CloseReason;

/// The end of a connection, and what had gone before it.
#[derive(Debug, Clone, Copy)]
pub struct Closing<'a> {
    /// Why it ended, as far as the server said.
    pub reason: &'a CloseReason,
    /// How far it had come.
    pub stage: ClosingStage,
    /// Time since CONNACK.
    pub lasted: Duration,
    /// QoS 1 and 2 messages, and requests about documents of state, that were sent and not answered.
    pub unanswered: usize,
    /// Connections in a row, with this one, on which some of these were sent and not one was answered, or at whose ends
    /// the first without an answer had the same topic.
    pub fruitless: u32,
    /// Connections in a row, with this one, that came online, had nothing under way, and ended without a word sooner than
    /// [`Closing::BRIEF`].
    pub brief: u32,
}

impl Closing<'_> {
    /// A connection that ends sooner with nothing under way was hardly ended by the network.
    pub const BRIEF: Duration = Duration::from_secs(5);
}

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosingStage {
    /// CONNECT was sent and not answered, or refused.
    Connecting,
    /// CONNACK was there, and not the answer to every SUBSCRIBE.
    Subscribing,
    /// Messages could flow.
    Online,
}

/// What is likely behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LikelyCause {
    /// The server does not let this client in.
    #[error(
        "the server probably does not let this client in: check that its certificate or key is active, and that it may \
         connect with this client identifier"
    )]
    ConnectNotAllowed,
    /// The server does not allow one of the subscriptions.
    #[error(
        "the server probably does not allow one of the link's subscriptions: check that it may subscribe to each, and \
         to so many"
    )]
    SubscribeNotAllowed,
    /// The server does not allow one of the messages.
    #[error(
        "the server probably does not allow a message of the link, and closes the connection at it again and again: \
         check that it may publish on its topic"
    )]
    PublishNotAllowed,
    /// Another client connects with the same identifier.
    #[error(
        "another client has probably connected with the same identifier, which the server lets only one have: give \
         each client one of its own"
    )]
    TakenOver,
    /// The server ends connections of this age.
    #[error("the server ends connections of this age; the link connects anew")]
    AgeLimit,
}
