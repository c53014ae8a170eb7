//! What becomes of an accepted message.

use std::collections::VecDeque;
use std::fmt;
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
    /// The link was stopped and the message stays in its durable queue: it goes on when a link opens that queue
    /// again.
    Kept,
    /// A later report of the same state took its values along before it was sent, and ends for both.
    Merged,
}

impl Outcome {
    /// The ordinary end.
    pub(crate) const DELIVERED: Self = Self::Delivered {
        code: ReasonCode::SUCCESS,
        session_lost: false,
    };

    /// How a message ends that a stopped link still held.
    pub(crate) const fn at_the_end(is_recorded: bool) -> Self {
        if is_recorded {
            Self::Kept
        } else {
            Self::Dropped(DropReason::Stopped)
        }
    }

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
            Self::Kept => "kept",
            Self::Merged => "merged",
        }
    }
}

/// For people. What it says may change.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered { code, session_lost } => {
                f.write_str("delivered")?;
                if *code != ReasonCode::SUCCESS {
                    write!(f, ": {code}")?;
                }
                if *session_lost {
                    f.write_str(", perhaps twice: the server lost the session meanwhile")?;
                }
                Ok(())
            }
            Self::Rejected { code, reason } => {
                write!(f, "rejected: {code}")?;
                match reason {
                    Some(reason) => write!(f, " ({reason})"),
                    None => Ok(()),
                }
            }
            Self::Expired => f.write_str("expired: its time to live ended before it could be sent"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Kept => f.write_str("kept in the durable queue of its stopped link"),
            Self::Merged => f.write_str("merged into a later report of the same state"),
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
    /// It could not be recorded in the link's durable queue, and its caller did not wait to hear that.
    Storage,
}

impl DropReason {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Oldest,
        Self::Newest,
        Self::ConnectionLost,
        Self::Stopped,
        Self::Storage,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::ConnectionLost => "connection_lost",
            Self::Stopped => "stopped",
            Self::Storage => "storage",
        }
    }
}

/// For people. What it says may change.
impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oldest => "the queue was full and gives its oldest message up",
            Self::Newest => "the queue was full and takes no newer message",
            Self::ConnectionLost => "lost with the connection, as QoS 0 allows",
            Self::Stopped => "the link was stopped",
            Self::Storage => "it could not be recorded",
        })
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

/// How the messages of a batch ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchOutcome {
    /// How many were delivered.
    pub delivered: usize,
    /// The others: their places in the batch, counted from 0 and ascending, and how each ended.
    pub undelivered: Vec<(usize, Outcome)>,
}

impl BatchOutcome {
    /// Whether every message arrived.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.undelivered.is_empty()
    }
}

/// What the queue tells of the part of a batch that it got at once.
pub(crate) type BatchPart = BatchOutcome;

/// The other end of one part of a [`BatchReceipt`].
pub(crate) type BatchSender = oneshot::Sender<BatchPart>;

/// The future of a batch; resolves on any executor once each of its messages has ended. Dropping it changes
/// nothing for the messages.
#[derive(Debug, Default)]
#[must_use = "the receipt tells whether the messages arrived; drop it on purpose with `drop`"]
pub struct BatchReceipt {
    /// In order, each with the number of its messages; the rest of a large batch is accepted later.
    parts: VecDeque<(oneshot::Receiver<BatchPart>, usize)>,
    /// Messages of the parts that have ended.
    ended: usize,
    outcome: BatchOutcome,
}

impl BatchReceipt {
    /// Adds the next `messages` of the batch.
    pub(crate) fn expect(&mut self, messages: usize) -> BatchSender {
        let (sender, receiver) = oneshot::channel();
        self.parts.push_back((receiver, messages));
        sender
    }

    /// Takes the last part back: the link did not take it.
    pub(crate) fn forget_last(&mut self) {
        self.parts.pop_back();
    }

    /// How many messages of the batch were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.ended
            + self
                .parts
                .iter()
                .map(|(_, messages)| messages)
                .sum::<usize>()
    }
}

impl Future for BatchReceipt {
    type Output = BatchOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BatchOutcome> {
        while let Some((receiver, messages)) = self.parts.front_mut() {
            let messages = *messages;
            let told = ready!(Pin::new(receiver).poll(cx));
            self.parts.pop_front();
            let first = self.ended;
            self.ended += messages;
            match told {
                Ok(mut part) => {
                    part.undelivered.sort_unstable_by_key(|(place, _)| *place);
                    self.outcome.delivered += part.delivered;
                    let undelivered = part.undelivered.into_iter();
                    let placed = undelivered.map(|(place, outcome)| (first + place, outcome));
                    self.outcome.undelivered.extend(placed);
                }
                // The link failed and took what it knew along.
                Err(_) => {
                    let stopped = Outcome::Dropped(DropReason::Stopped);
                    let lost = (first..first + messages).map(|place| (place, stopped.clone()));
                    self.outcome.undelivered.extend(lost);
                }
            }
        }
        Poll::Ready(std::mem::take(&mut self.outcome))
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
