//! A single message on its way into the queue.

use std::pin::Pin;
use std::task::{Context, Poll};

use paquebot_protocols::dialect::Rendered;

use super::LinkContext;
use super::sending::SendError;
use crate::offline_queue::Single;
use crate::receipt::ReceiptSender;

/// Hands a message over when it is polled, and waits while it has to; gives `R` once the link has the message.
///
/// Nearly every message finds room at once and moves once: from here into the intake. As an `async fn` it moved a few times
/// on the way, which cost more than all else that is done with it here.
#[must_use = "futures do nothing unless they are awaited"]
pub(super) struct HandOver<'a, R> {
    link: &'a LinkContext,
    single: Option<Single>,
    given: Option<R>,
    /// For the few that have to wait.
    waiting: Option<Waiting<'a>>,
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

impl<'a, R> HandOver<'a, R> {
    #[inline]
    pub(super) const fn new(
        link: &'a LinkContext,
        message: Rendered,
        receipt: Option<ReceiptSender>,
        given: R,
    ) -> Self {
        Self {
            link,
            single: Some((message, receipt)),
            given: Some(given),
            waiting: None,
        }
    }

    #[cold]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some((message, receipt)) = self.single.take() {
            self.waiting = Some(Box::pin(self.link.hand_over_in_turn(message, receipt)));
        }
        match &mut self.waiting {
            Some(waiting) => waiting.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<R: Unpin> Future for HandOver<'_, R> {
    type Output = Result<R, SendError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if !this.link.hand_over_at_once(&mut this.single) {
            match this.wait(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
        }
        match this.given.take() {
            Some(given) => Poll::Ready(Ok(given)),
            // It has ended before.
            None => Poll::Pending,
        }
    }
}
