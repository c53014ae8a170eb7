//! What becomes of an accepted message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytestring::ByteString;
use paquebot_protocols::mqtt::ReasonCode;
use tokio::sync::oneshot;

/// How an accepted message ended. Every accepted message ends in exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// QoS 1: the server acknowledged it. QoS 2: the exchange is complete. QoS 0: it was written to the
    /// socket, which is all that QoS 0 can say.
    Delivered {
        /// 0x00, or 0x10 when the server had no subscriber for it (MQTT 5).
        code: ReasonCode,
        /// The server lost its half of the session while the message was in flight: it was published again
        /// and may have reached subscribers twice, even at QoS 2.
        session_lost: bool,
    },
    /// The server, or a limit it announced, refused the message.
    Rejected {
        /// Why.
        code: ReasonCode,
        /// The server's words.
        reason: Option<ByteString>,
    },
    /// Its time to live ended before it could be sent.
    Expired,
    /// The link gave it up.
    Dropped(DropReason),
}

impl Outcome {
    /// Whether the message arrived.
    #[must_use]
    pub const fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered { .. })
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Rejected { .. } => "rejected",
            Self::Expired => "expired",
            Self::Dropped(_) => "dropped",
        }
    }
}

/// Why a link gave a message up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The queue was full and its policy is to drop the oldest message: this one.
    Oldest,
    /// The queue was full and its policy is to drop the newest message: this one.
    Newest,
    /// QoS 0: the connection broke before the message was written.
    ConnectionLost,
    /// The link was stopped before the message could be delivered.
    Stopped,
}

impl DropReason {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [
        Self::Oldest,
        Self::Newest,
        Self::ConnectionLost,
        Self::Stopped,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::ConnectionLost => "connection_lost",
            Self::Stopped => "stopped",
        }
    }
}

/// The future of an accepted message; resolves to its [`Outcome`] on any executor. Dropping it changes
/// nothing for the message.
#[derive(Debug)]
#[must_use = "the receipt tells whether the message arrived; drop it on purpose with `drop`"]
pub struct Receipt {
    receiver: oneshot::Receiver<Outcome>,
    /// Once it is known: it can be asked for again.
    outcome: Option<Outcome>,
}

/// The other end of a [`Receipt`].
pub(crate) type ReceiptSender = oneshot::Sender<Outcome>;

impl Receipt {
    pub(crate) fn new() -> (ReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        let receipt = Self {
            receiver,
            outcome: None,
        };
        (sender, receipt)
    }

    /// The outcome, if the message has ended.
    pub fn try_outcome(&mut self) -> Option<Outcome> {
        if self.outcome.is_none() {
            self.outcome = match self.receiver.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(oneshot::error::TryRecvError::Closed) => {
                    Some(Outcome::Dropped(DropReason::Stopped))
                }
            };
        }
        self.outcome.clone()
    }
}

impl Future for Receipt {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = &self.outcome {
            return Poll::Ready(outcome.clone());
        }
        let result = ready!(Pin::new(&mut self.receiver).poll(cx));
        let outcome = result.unwrap_or(Outcome::Dropped(DropReason::Stopped));
        self.outcome = Some(outcome.clone());
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn an_outcome_that_was_looked_at_can_be_looked_at_and_awaited_again() {
        let (sender, mut receipt) = Receipt::new();
        assert_eq!(receipt.try_outcome(), None);
        assert!(sender.send(Outcome::Expired).is_ok());
        assert_eq!(receipt.try_outcome(), Some(Outcome::Expired));
        assert_eq!(receipt.try_outcome(), Some(Outcome::Expired));
        assert_eq!((&mut receipt).now_or_never(), Some(Outcome::Expired));
        assert_eq!(receipt.now_or_never(), Some(Outcome::Expired));
    }
}
