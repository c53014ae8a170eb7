//! The task that runs a link's actors, and how a link ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context as TaskContext, Poll};

use actix::Context;
use actix::dev::ContextFut;

use super::{LinkContext, PreparedLink};
use crate::codec::Codec;
use crate::connection::Connection;
use crate::event::LinkState;
use crate::message::Shutdown;
use crate::offline_queue::OfflineQueue;

/// A link's three actors, each with its mailbox, as one task: a link pays for one entry in the scheduler, and a
/// batch that one actor hands to the next goes on within the same turn.
///
/// A panic in one of them takes all three along; what they hold ends as their `stopped` says.
pub(super) struct LinkTask {
    // In the order in which they stop: the queue ends what it holds while the others can still be told.
    queue: ContextFut<OfflineQueue, Context<OfflineQueue>>,
    codec: ContextFut<Codec, Context<Codec>>,
    connection: ContextFut<Connection, Context<Connection>>,
    end: EndOnDrop,
}

impl LinkTask {
    pub(super) fn new(prepared: PreparedLink) -> Self {
        let PreparedLink {
            end,
            intake,
            codec,
            queue,
            connection,
        } = prepared;
        let link = &end.link;
        Self {
            queue: Context::with_receiver(queue).into_future(OfflineQueue::new(
                Arc::clone(&link.profile.outbox),
                Arc::clone(&link.occupancy),
                Arc::clone(&link.metrics),
                link.codec.clone(),
                intake,
            )),
            codec: Context::with_receiver(codec).into_future(Codec::new(Arc::clone(link))),
            connection: Context::with_receiver(connection)
                .into_future(Connection::new(Arc::clone(link))),
            end,
        }
    }

    /// Polls the actors in the order of the way out. One that stopped by itself ends the link.
    fn poll_actors(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let queue = Pin::new(&mut self.queue).poll(cx);
        let codec = Pin::new(&mut self.codec).poll(cx);
        let connection = Pin::new(&mut self.connection).poll(cx);
        if queue.is_ready() || codec.is_ready() || connection.is_ready() {
            self.end.link.ending.begin(LinkState::Failed);
        }
        if self.end.link.ending.last().is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Future for LinkTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.poll_actors(cx).is_pending() {
            return Poll::Pending;
        }
        // What the actors told each other last still counts: the codec's last outcomes are for the queue.
        for _ in 0..2 {
            if self.codec.alive() {
                let _ = Pin::new(&mut self.codec).poll(cx);
            }
            if self.queue.alive() {
                let _ = Pin::new(&mut self.queue).poll(cx);
            }
        }
        Poll::Ready(())
    }
}

/// Whether a link is over, and how; who says *failed* has the last word.
#[derive(Default)]
pub(super) struct Ending(AtomicU8);

const STOPPED: u8 = 1;
const FAILED: u8 = 2;

impl Ending {
    fn begin(&self, last: LinkState) {
        let last = if last == LinkState::Failed {
            FAILED
        } else {
            STOPPED
        };
        self.0.fetch_max(last, Ordering::AcqRel);
    }

    fn last(&self) -> Option<LinkState> {
        match self.0.load(Ordering::Acquire) {
            STOPPED => Some(LinkState::Stopped),
            FAILED => Some(LinkState::Failed),
            _ => None,
        }
    }
}

impl LinkContext {
    /// The link is over: nothing is left to wait for. To be called by an actor of the link's own task.
    pub(crate) fn end(&self) {
        self.ending.begin(LinkState::Stopped);
    }

    /// For an actor with a task of its own.
    pub(crate) fn guard(self: &Arc<Self>) -> FailureGuard {
        FailureGuard(Arc::clone(self))
    }
}

/// Part of an actor outside of the link's task: if the actor panics, the link ends as failed.
pub(crate) struct FailureGuard(Arc<LinkContext>);

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ending.begin(LinkState::Failed);
            // Wakes the link's task.
            self.0.connection.do_send(Shutdown);
        }
    }
}

/// Ends a link for its handles when it is dropped, whatever became of the actors: also when they never ran,
/// panicked, or went with their thread.
pub(super) struct EndOnDrop {
    pub(super) link: Arc<LinkContext>,
}

impl EndOnDrop {
    pub(super) fn new(link: Arc<LinkContext>) -> Self {
        Self { link }
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let link = &self.link;
        if std::thread::panicking() {
            link.ending.begin(LinkState::Failed);
        }
        let last = link.ending.last().unwrap_or(LinkState::Stopped);
        if last == LinkState::Failed {
            tracing::error!(link = %link.identity.id, "an actor of the link failed; please report this bug");
        }
        link.intake.close();
        link.events.end(last);
    }
}
