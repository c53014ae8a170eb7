//! What callers have of a Shadow actor.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::Addr;
use async_channel::{Receiver, Sender};
use bytestring::ByteString;
use futures_util::Stream;
use paquebot_protocols::dialect::DialectError;
use paquebot_protocols::dialect::state::{
    DocumentId, Rejection, StateChange, StateDelta, StateDialect, StateDocument, StateRequest,
};
use paquebot_protocols::model::{DeviceId, StatePatch};
use paquebot_protocols::mqtt::{QoS, ReasonCode};
use paquebot_protocols::shadow::Failure;
use tokio::sync::oneshot;

use super::{Shadow, WATCH_MAX};
use crate::inbound::Granted;
use crate::link::{LinkHandle, SendError};
use crate::message::{
    AskState, OpenShadow, ShadowAbandoned, SubscribeError, WatchChanges, WatchDeltas,
};
use crate::receipt::Receipt;

/// How a request ended.
pub(crate) type Answer = Result<Box<StateDocument>, ShadowError>;

/// A consumer of what the document tells by itself.
#[derive(Debug)]
pub(crate) struct Watcher<T> {
    /// Boxed, since a bounded channel has its places from the start.
    pub(super) items: Sender<Box<T>>,
    /// Whether the server has taken the subscription.
    pub(super) granted: Granted,
}

impl<T> Drop for Watcher<T> {
    /// No answer comes any more.
    fn drop(&mut self) {
        self.granted.tell(Err(SubscribeError::Stopped));
    }
}

/// Why a request about a document of state failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShadowError {
    /// The platform has no such document or request.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// A deadline that a request cannot have.
    #[error("the deadline of a request is between 1 ms and 1 h, not {0:?}")]
    Deadline(Duration),
    /// The link is not online, and requests about state are never queued.
    #[error("the link is offline; ask again when it is online, or report, which is queued")]
    Offline,
    /// The connection broke before the answer.
    #[error(
        "the connection broke before the answer{}", if *was_sent { "; the request may have been carried out" } else { "" }
    )]
    Disconnected {
        /// The request had left and may have been carried out.
        was_sent: bool,
    },
    /// No answer came within the deadline.
    #[error("no answer came in time; the request may have been carried out")]
    TimedOut,
    /// No answer came within the deadline that could be read.
    #[error("the answer cannot be read: {problem}")]
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
    /// The platform refused the request.
    #[error("the platform refused: {0}")]
    Rejected(Rejection),
    /// The server refused the subscriptions to the answers.
    #[error("the server refused the subscription to the answers: {0}; check its access rules")]
    SubscriptionRefused(ReasonCode),
    /// The server reads too slowly for the request to leave; nothing was sent.
    #[error("the server does not read what is sent to it; ask again later")]
    Congested,
    /// The server does not take such a message; nothing was sent.
    #[error("the server does not take the request: {0}")]
    Refused(ReasonCode),
    /// As many requests about the document as may have not ended.
    #[error("100 requests about this document have not ended; wait for some")]
    Busy,
    /// As many documents of the link as may are in use.
    #[error("the link has 1,000 documents in use; drop some")]
    TooMany,
    /// The link is stopped.
    #[error("the link is stopped")]
    Stopped,
}

impl ShadowError {
    /// Whether the document has another version than the request asked for.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.is_conflict())
    }

    /// Whether there is no such document.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.is_not_found())
    }
}

impl From<Failure> for ShadowError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(rejection) => Self::Rejected(rejection),
            Failure::TimedOut => Self::TimedOut,
            Failure::Unreadable(problem) => Self::Unreadable { problem },
            Failure::Disconnected { was_sent } => Self::Disconnected { was_sent },
            Failure::SubscriptionRefused(code) => Self::SubscriptionRefused(code),
            Failure::Congested => Self::Congested,
            Failure::Refused(code) => Self::Refused(code),
            Failure::Stopped => Self::Stopped,
        }
    }
}

/// How requests of one handle are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShadowOptions {
    /// When a request without an answer ends, counted from the call. Default 10 s; from [`ShadowOptions::DEADLINE_MIN`]
    /// to [`ShadowOptions::DEADLINE_MAX`].
    pub deadline: Duration,
    /// The subscriptions to the answers of a kind of request stay from the first one on; otherwise each call makes them
    /// and the last answer or deadline gives them up, which costs a round trip for each call and no subscription in
    /// between. Default: they stay.
    pub keeps_subscriptions: bool,
}

impl ShadowOptions {
    /// The shortest deadline: 1 ms.
    pub const DEADLINE_MIN: Duration = Duration::from_millis(1);

    /// The longest deadline: 1 h. A request without an answer has one of the connection's few turns for as long.
    pub const DEADLINE_MAX: Duration = Duration::from_hours(1);

    /// Options with another deadline.
    ///
    /// # Errors
    /// [`ShadowError::Deadline`] when it is none that a request may have.
    pub fn with_deadline(self, deadline: Duration) -> Result<Self, ShadowError> {
        let options = Self { deadline, ..self };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), ShadowError> {
        if (Self::DEADLINE_MIN..=Self::DEADLINE_MAX).contains(&self.deadline) {
            Ok(())
        } else {
            Err(ShadowError::Deadline(self.deadline))
        }
    }
}

impl Default for ShadowOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            keeps_subscriptions: true,
        }
    }
}

/// Keeps a Shadow actor. The last one that is dropped ends it.
#[derive(Debug)]
pub(crate) struct Lease(pub(crate) Addr<Shadow>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.do_send(ShadowAbandoned { is_last: true });
    }
}

/// One document of a device's state. Cheap to clone; usable from any thread and any executor.
#[derive(Debug, Clone)]
pub struct ShadowHandle {
    link: LinkHandle,
    document: DocumentId,
    /// What handles and their clones share; empty until one of them asks for something.
    lease: Arc<RwLock<Option<Arc<Lease>>>>,
}

impl LinkHandle {
    /// A document of a device's state; `None` names the device's own. Nothing is started or sent for it yet.
    ///
    /// # Errors
    /// The platform has no such documents, or the name does not fit it.
    pub fn shadow(
        &self,
        device: &DeviceId,
        name: Option<ByteString>,
    ) -> Result<ShadowHandle, DialectError> {
        let document = DocumentId {
            device: device.clone(),
            name,
        };
        self.state_dialect()?.check(self.identity(), &document)?;
        Ok(ShadowHandle {
            link: self.clone(),
            document,
            lease: Arc::default(),
        })
    }

    fn state_dialect(&self) -> Result<&dyn StateDialect, DialectError> {
        let dialect = &self.profile().dialect;
        dialect.state().ok_or_else(|| DialectError::Unsupported {
            platform: dialect.platform(),
            operation: "documents of state",
        })
    }
}

impl ShadowHandle {
    /// Which document it is.
    #[must_use]
    pub fn document(&self) -> &DocumentId {
        &self.document
    }

    /// Asks for something and waits for the answer. Dropping the future takes nothing back.
    ///
    /// # Errors
    /// See [`ShadowError`].
    pub async fn request(
        &self,
        request: StateRequest,
        options: ShadowOptions,
    ) -> Result<StateDocument, ShadowError> {
        options.check()?;
        // Whatever is wrong with it is known before it is sent; the token is as long as any.
        let dialect = self.link.state_dialect()?;
        let token = [b'0'; 40];
        let token = str::from_utf8(&token).unwrap_or_default();
        let rendered = dialect.request(self.link.identity(), &self.document, &request, token)?;
        self.link.check(&rendered)?;
        let lease = self.lease().await?;
        let (answer, answered) = oneshot::channel();
        lease.0.do_send(AskState {
            request,
            options,
            answer,
        });
        let answered = answered.await.unwrap_or(Err(ShadowError::Stopped));
        answered.map(|document| *document)
    }

    /// What is desired and not reported, from what the document says now on.
    ///
    /// # Errors
    /// The link is stopped or uses too many documents.
    pub async fn deltas(&self) -> Result<Watch<StateDelta>, ShadowError> {
        self.watch(|lease, watcher| lease.0.do_send(WatchDeltas(watcher)))
            .await
    }

    /// The document before and after each change.
    ///
    /// # Errors
    /// The link is stopped or uses too many documents.
    pub async fn documents(&self) -> Result<Watch<StateChange>, ShadowError> {
        self.watch(|lease, watcher| lease.0.do_send(WatchChanges(watcher)))
            .await
    }

    /// Reports a change of the state through the link's queue; waits while that has no room.
    ///
    /// # Errors
    /// As [`LinkHandle::publish`]; also when the patch does not fit the platform.
    pub async fn report(&self, patch: &StatePatch) -> Result<Receipt, SendError> {
        let dialect = self.link.state_dialect()?;
        let report = dialect.report(self.link.identity(), &self.document, patch)?;
        self.link.publish(report).await
    }

    async fn watch<T>(
        &self,
        start: impl FnOnce(&Lease, Watcher<T>),
    ) -> Result<Watch<T>, ShadowError> {
        let lease = self.lease().await?;
        let (sender, receiver) = async_channel::bounded(WATCH_MAX);
        let granted = Granted::default();
        let watcher = Watcher {
            items: sender,
            granted: granted.clone(),
        };
        start(&lease, watcher);
        Ok(Watch {
            granted,
            receiver: Some(Box::pin(receiver)),
            lease,
        })
    }

    async fn lease(&self) -> Result<Arc<Lease>, ShadowError> {
        if let Some(lease) = self.held() {
            return Ok(lease);
        }
        let lease = self.link.open_shadow(self.document.clone()).await?;
        // Who opens it at the same time gets the same one.
        *self.lease.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&lease));
        Ok(lease)
    }

    fn held(&self) -> Option<Arc<Lease>> {
        let held = self.lease.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }
}

impl LinkHandle {
    async fn open_shadow(&self, document: DocumentId) -> Result<Arc<Lease>, ShadowError> {
        let opened = self.codec().send(OpenShadow(document)).await;
        opened.unwrap_or(Err(ShadowError::Stopped))
    }
}

/// What a document tells by itself, in order. At most 64 wait; past them the oldest is dropped and counted as
/// `slow_consumer`. It ends with its link, or when the server refuses the subscription, be it on a later connection:
/// [`Watch::ready`] says then which of them it was.
#[derive(Debug)]
pub struct Watch<T> {
    /// Boxed, since a receiver is not `Unpin`; `None` while it is dropped.
    receiver: Option<Pin<Box<Receiver<Box<T>>>>>,
    granted: Granted,
    lease: Arc<Lease>,
}

impl<T> Watch<T> {
    /// Waits until the server has taken the subscription; the QoS it granted. After the end of the stream it says why that
    /// came.
    ///
    /// # Errors
    /// The server refused it, at first or on a later connection, or the link stopped first.
    pub async fn ready(&self) -> Result<QoS, SubscribeError> {
        self.granted.answer().await
    }
}

impl<T> Stream for Watch<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut self.receiver {
            Some(receiver) => {
                let next = receiver.as_mut().poll_next(cx);
                next.map(|item| item.map(|item| *item))
            }
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        // The actor is to find it closed.
        self.receiver = None;
        self.lease.0.do_send(ShadowAbandoned { is_last: false });
    }
}
