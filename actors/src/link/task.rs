//! The task that runs a link's actors, and how a link ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::ContextFut;
use actix::dev::channel::AddressReceiver;
use actix::{Actor, Context};

use super::{LinkContext, PreparedLink};
use crate::codec::Codec;
use crate::command_router::answer_interrupted;
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
    queue: Woken<OfflineQueue>,
    codec: Woken<Codec>,
    connection: Woken<Connection>,
    end: EndOnDrop,
}

impl LinkTask {
    pub(super) fn new(prepared: PreparedLink) -> Self {
        let PreparedLink {
            end,
            codec,
            queue,
            connection,
            recovered,
        } = prepared;
        let link = &end.link;
        let mut queue_actor = OfflineQueue::new(Arc::clone(link));
        let restored = recovered.map(|mut recovered| {
            let mut interrupted = std::mem::take(&mut recovered.commands);
            interrupted.retain(|command| !command.is_answered);
            if !interrupted.is_empty() {
                actix::spawn(answer_interrupted(Arc::clone(link), interrupted));
            }
            queue_actor.recover(*recovered)
        });
        Self {
            queue: Woken::new(queue, queue_actor),
            codec: Woken::new(codec, Codec::new(Arc::clone(link), restored)),
            connection: Woken::new(connection, Connection::new(Arc::clone(link))),
            end,
        }
    }
}

impl Future for LinkTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        // The way out and back, so that a message that is written at once ends in the turn in which it came. The
        // connection has one turn only: what it reads on has to wait for the other links of the thread.
        let has_stopped = this.queue.poll_if_woken(cx).is_ready()
            | this.codec.poll_if_woken(cx).is_ready()
            | this.connection.poll_if_woken(cx).is_ready()
            | this.codec.poll_if_woken(cx).is_ready()
            | this.queue.poll_if_woken(cx).is_ready();
        if has_stopped {
            this.end.link.ending.begin(LinkState::Failed);
        }
        if this.end.link.ending.last().is_some() {
            this.hear_last_words(cx);
            return Poll::Ready(());
        }
        // Who was woken meanwhile has told the scheduler.
        Poll::Pending
    }
}

impl LinkTask {
    /// What the actors told each other last still counts: the codec's last outcomes are for the queue.
    fn hear_last_words(&mut self, cx: &mut TaskContext<'_>) {
        for _ in 0..2 {
            let _ = self.codec.poll_if_woken(cx);
            let _ = self.queue.poll_if_woken(cx);
        }
    }
}

/// An actor that is polled only when something has happened to it: looking into an empty mailbox costs as much as
/// taking a message out.
struct Woken<A: Actor<Context = Context<A>>> {
    actor: Option<ContextFut<A, Context<A>>>,
    wake: Option<Arc<Wake>>,
}

struct Wake {
    is_woken: AtomicBool,
    task: Waker,
}

impl std::task::Wake for Wake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.task.wake_by_ref();
        }
    }
}

impl<A: Actor<Context = Context<A>>> Woken<A> {
    fn new(mailbox: AddressReceiver<A>, actor: A) -> Self {
        Self {
            actor: Some(Context::with_receiver(mailbox).into_future(actor)),
            wake: None,
        }
    }

    /// `Ready` once, when the actor stops.
    fn poll_if_woken(&mut self, cx: &TaskContext<'_>) -> Poll<()> {
        let Some(actor) = &mut self.actor else {
            return Poll::Pending;
        };
        let wake = self.wake.get_or_insert_with(|| {
            Arc::new(Wake {
                is_woken: AtomicBool::new(true),
                task: cx.waker().clone(),
            })
        });
        if !wake.is_woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(wake));
        let poll = Pin::new(actor).poll(&mut TaskContext::from_waker(&waker));
        if poll.is_ready() {
            self.actor = None;
        }
        poll
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
        link.drop_intake();
        link.events.end(last);
    }
}
