//! What a link hands to its consumers, and how they say that they are done with it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::Stream;
use paquebot_protocols::dialect::Inbound;
use paquebot_protocols::mqtt::QoS;
use paquebot_protocols::mqtt::session::Incoming;
use tokio::sync::oneshot;

use crate::link::LinkContext;
use crate::message::{SubscribeError, Unsubscribe, UnsubscribeAnswers, Unsubscribed};

mod acknowledgement;
mod block;
mod channel;
mod command;
mod grants;

pub(crate) use acknowledgement::{AckDesk, AcknowledgeOnDrop, Acknowledgement};
pub(crate) use block::Block;
pub use block::ReceivedRef;
pub(crate) use channel::{Receiver, Sender, Unsent, bounded};
pub(crate) use command::OpenCommand;
pub use command::{CommandRequest, ReplyError};
pub(crate) use grants::{Granted, Grants};

/// Takes borrowed messages on the link's thread.
pub type MessageHandler = Box<dyn FnMut(&ReceivedRef<'_>) + Send>;

/// One received message with what the dialect read in it. While it lives the server is not told that the
/// message arrived; dropping it acknowledges a QoS 1 or 2 message.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) incoming: Incoming,
    pub(crate) inbound: Inbound,
    /// Held for its drop; a command holds its own.
    pub(crate) _acknowledgement: Option<Acknowledgement>,
    pub(crate) command: Option<OpenCommand>,
}

impl Delivery {
    /// A message that nobody waits for: dropping it acknowledges nothing.
    #[must_use]
    pub fn detached(incoming: Incoming) -> Self {
        Self {
            incoming,
            inbound: Inbound::Raw,
            _acknowledgement: None,
            command: None,
        }
    }

    /// The message as it came.
    #[must_use]
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// What it means; [`Inbound::Raw`] for a consumer of raw messages, whatever the dialect would read in it.
    #[must_use]
    pub fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// The command in it, to be answered; `None` for any other message.
    #[must_use]
    pub fn into_command(self) -> Option<CommandRequest> {
        self.command.map(|open| CommandRequest { open })
    }
}

/// A consumer's end of a subscription: deliveries in order of arrival. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) receiver: Receiver<Box<Delivery>>,
    pub(crate) granted: Granted,
    pub(crate) id: u64,
    pub(crate) link: Arc<LinkContext>,
}

impl Inbox {
    /// The next delivery, if one is there.
    #[must_use]
    pub fn try_next(&self) -> Option<Delivery> {
        self.receiver.try_receive().map(|delivery| *delivery)
    }

    /// Waits until the server has answered for every filter; the lowest QoS it granted.
    ///
    /// # Errors
    /// The server refused a filter, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        self.granted.answer().await
    }

    /// Unsubscribes and waits for the server's answers, one for each filter. What is not taken yet is dropped.
    ///
    /// # Errors
    /// The link is stopped.
    pub fn unsubscribe(
        self,
    ) -> impl Future<Output = Result<Vec<Unsubscribed>, SubscribeError>> + Send + use<> {
        answers_of(&self.link, self.id)
    }
}

/// Ends once the link is stopped.
impl Stream for Inbox {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let next = self.receiver.poll_receive(cx);
        next.map(|delivery| delivery.map(|delivery| *delivery))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        unsubscribe(&self.link, self.id, None);
    }
}

/// Keeps a handler subscribed. Dropping it unsubscribes: the handler is not called any more. A call that the
/// link's thread is just making goes on to its end.
#[derive(Debug)]
#[must_use = "dropping the guard unsubscribes the handler"]
pub struct HandlerGuard {
    pub(crate) granted: Granted,
    pub(crate) id: u64,
    pub(crate) link: Arc<LinkContext>,
    pub(crate) is_gone: Arc<AtomicBool>,
}

impl HandlerGuard {
    /// Waits until the server has answered for every filter; the lowest QoS it granted.
    ///
    /// # Errors
    /// The server refused a filter, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        self.granted.answer().await
    }

    /// Unsubscribes and waits for the server's answers, one for each filter: as long as the link tries to connect. The
    /// handler is not called any more, except for a call that the link's thread is just making.
    ///
    /// # Errors
    /// The link is stopped ([`SubscribeError::Stopped`]).
    pub fn unsubscribe(
        self,
    ) -> impl Future<Output = Result<Vec<Unsubscribed>, SubscribeError>> + Send + use<> {
        self.is_gone.store(true, Ordering::Release);
        answers_of(&self.link, self.id)
    }
}

impl HandlerGuard {
    /// [`HandlerGuard::ready`] that does not hold the guard.
    pub(crate) fn granted(&self) -> impl Future<Output = Result<QoS, SubscribeError>> + use<> {
        let granted = self.granted.clone();
        async move { granted.answer().await }
    }

    /// Waits until the server refuses on a later connection what it granted before; `None` once nobody is subscribed any
    /// more. It does not hold the guard.
    pub(crate) fn refused(&self) -> impl Future<Output = Option<SubscribeError>> + use<> {
        let granted = self.granted.clone();
        async move { granted.refused().await }
    }
}

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::Release);
        unsubscribe(&self.link, self.id, None);
    }
}

fn unsubscribe(link: &LinkContext, consumer: u64, told: Option<UnsubscribeAnswers>) {
    link.codec.do_send(Unsubscribe { consumer, told });
}

/// Takes a consumer away; what is dropped after it finds it gone.
fn answers_of(
    link: &LinkContext,
    consumer: u64,
) -> impl Future<Output = Result<Vec<Unsubscribed>, SubscribeError>> + Send + use<> {
    let (told, answers) = oneshot::channel();
    unsubscribe(link, consumer, Some(told));
    async { answers.await.map_err(|_| SubscribeError::Stopped) }
}
