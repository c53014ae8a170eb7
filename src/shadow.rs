//! Documents of a device's state, asked for and answered.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use paquebot_actors::{
    Receipt, SendError, ShadowError, ShadowHandle, ShadowOptions, SubscribeError, Watch,
};
use paquebot_protocols::dialect::state::{
    DocumentId, StateChange, StateDelta, StateDocument, StateRequest, StateUpdate,
};
use paquebot_protocols::model::StatePatch;
use paquebot_protocols::mqtt::QoS;

/// How often [`Shadow::modify`] tries.
pub const MODIFY_ATTEMPTS_MAX: usize = 8;

/// One document of a device's state: on AWS IoT the thing's shadow, classic or named.
///
/// # What is promised
/// - A request is never queued: without a connection it fails at once with [`ShadowError::Offline`], and one whose
///   connection breaks before the answer with [`ShadowError::Disconnected`]. What may wait is a [`Shadow::report`].
/// - It goes out as soon as the server has confirmed the subscriptions to its answers, ahead of what the link's queue
///   holds, and ends within its deadline.
/// - While there is a stream of deltas, the document is read after each connect, and what it says differs comes as a
///   delta if it is news. A stream of documents tells nothing of changes that were made meanwhile.
///
/// - A request that the platform refuses for too many (429) is made again after a pause left to chance, within its deadline.
///
/// Nothing is started for a document before the first request or stream. At most 1,000 documents of one link are in use, at
/// most 100 requests about one have not ended, and at most 10 of all documents of the link are without an answer, which is
/// what AWS IoT takes; the others wait for their turn.
///
/// ```no_run
/// # use paquebot::{Link, ShadowError, StateUpdate};
/// # async fn example(link: &Link) -> Result<(), ShadowError> {
/// let shadow = link.device().shadow()?;
/// shadow.update(StateUpdate::reported(serde_json::json!({"power": "on"}))).await?;
/// let document = shadow.get().await?;
/// println!("version {:?}: {:?}", document.version, document.desired);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Shadow {
    handle: ShadowHandle,
    options: ShadowOptions,
}

impl Shadow {
    pub(crate) fn new(handle: ShadowHandle) -> Self {
        Self {
            handle,
            options: ShadowOptions::default(),
        }
    }

    /// Which document it is.
    #[must_use]
    pub fn document(&self) -> &DocumentId {
        self.handle.document()
    }

    /// When a request of this handle without an answer ends, the time that it waits for its turn included. Default: 10 s;
    /// from 1 ms to 1 h.
    ///
    /// # Errors
    /// [`ShadowError::Deadline`] when it is less or more.
    pub fn with_deadline(mut self, deadline: Duration) -> Result<Self, ShadowError> {
        self.options = self.options.with_deadline(deadline)?;
        Ok(self)
    }

    /// Makes the subscriptions to the answers anew for each request of this handle and gives them up with the last answer:
    /// for devices that rarely ask, and servers that count subscriptions. Default: they stay.
    #[must_use]
    pub fn with_subscriptions_per_call(mut self) -> Self {
        self.options.keeps_subscriptions = false;
        self
    }

    /// Reads the document.
    ///
    /// # Errors
    /// See [`ShadowError`]; [`ShadowError::is_not_found`] when there is none.
    pub async fn get(&self) -> Result<StateDocument, ShadowError> {
        self.request(StateRequest::Get).await
    }

    /// Changes the document; gives the halves that were sent and the new version.
    ///
    /// # Errors
    /// See [`ShadowError`].
    pub async fn update(&self, update: StateUpdate) -> Result<StateDocument, ShadowError> {
        self.request(StateRequest::Update(update)).await
    }

    /// Changes the document if it has this version.
    ///
    /// # Errors
    /// See [`ShadowError`]; [`ShadowError::is_conflict`] when it has another.
    pub async fn update_if_version(
        &self,
        update: StateUpdate,
        version: u64,
    ) -> Result<StateDocument, ShadowError> {
        self.update(update.with_version(version)).await
    }

    /// Reads the document and changes it to what `change` says; again when somebody else has changed it in between, at
    /// most [`MODIFY_ATTEMPTS_MAX`] times. `change` is given an empty document when there is none, and ends it all with
    /// `None`, on which this gives the document as it was read.
    ///
    /// # Errors
    /// See [`ShadowError`]; [`ShadowError::is_conflict`] when others changed it each time.
    pub async fn modify(
        &self,
        mut change: impl FnMut(&StateDocument) -> Option<StateUpdate>,
    ) -> Result<StateDocument, ShadowError> {
        let mut attempt = 1;
        loop {
            let document = match self.get().await {
                Ok(document) => document,
                Err(error) if error.is_not_found() => StateDocument::default(),
                Err(error) => return Err(error),
            };
            let Some(mut update) = change(&document) else {
                return Ok(document);
            };
            update.version = document.version;
            match self.update(update).await {
                Err(error) if error.is_conflict() && attempt < MODIFY_ATTEMPTS_MAX => attempt += 1,
                result => return result,
            }
        }
    }

    /// Deletes the document; gives the version that was deleted.
    ///
    /// # Errors
    /// See [`ShadowError`]; [`ShadowError::is_not_found`] when there is none.
    pub async fn delete(&self) -> Result<StateDocument, ShadowError> {
        self.request(StateRequest::Delete).await
    }

    /// What is desired and not reported: what the document says now and after each connect, and each difference that the
    /// platform tells. None comes twice but when another stream of the document is opened. At most 64 wait; past them
    /// the oldest is dropped, since a later one says all that differs.
    ///
    /// # Errors
    /// The link is stopped or uses too many documents.
    pub async fn deltas(&self) -> Result<Deltas, ShadowError> {
        self.handle.deltas().await.map(Deltas)
    }

    /// The document before and after each change. At most 64 wait; past them the oldest is dropped and counted as
    /// `slow_consumer`.
    ///
    /// # Errors
    /// The link is stopped or uses too many documents.
    pub async fn documents(&self) -> Result<Documents, ShadowError> {
        self.handle.documents().await.map(Documents)
    }

    /// Reports a change of the state through the link's queue: it waits there while the link is offline, and a later
    /// report that finds it waiting is merged into it, so that the latest value of each key is delivered. How it ended
    /// the receipt tells: *delivered* says that the server has it, not that the document took it.
    ///
    /// # Errors
    /// As [`Device::report`](crate::Device::report).
    pub async fn report(&self, patch: &StatePatch) -> Result<Receipt, SendError> {
        self.handle.report(patch).await
    }

    async fn request(&self, request: StateRequest) -> Result<StateDocument, ShadowError> {
        self.handle.request(request, self.options).await
    }
}

macro_rules! watch {
    ($(#[$doc:meta])* $name:ident, $item:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Watch<$item>);

        impl $name {
            /// Waits until the server has taken the subscription; the QoS it granted. After the end of the stream it says
            /// why that came.
            ///
            /// # Errors
            /// The server refused it, at first or on a later connection, or the link stopped first.
            pub async fn ready(&self) -> Result<QoS, SubscribeError> {
                self.0.ready().await
            }

            /// The next one; `None` once the link is stopped or the server has refused the subscription, which it may do
            /// on a later connection too: `ready` tells the two apart.
            pub async fn next(&mut self) -> Option<$item> {
                StreamExt::next(self).await
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                Pin::new(&mut self.0).poll_next(cx)
            }
        }
    };
}

watch!(
    /// Differences of a document, from [`Shadow::deltas`].
    Deltas,
    StateDelta
);

watch!(
    /// Changes of a document, from [`Shadow::documents`].
    Documents,
    StateChange
);
