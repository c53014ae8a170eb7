//! The task that runs a link's actors, and how a link ends.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context as TaskContext, Poll};

use super::bell::Rung;
use super::context::Home;
use super::lanes::{self, OpenLanes, ToCodec, ToConnection, ToQueue};
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
/// A panic in one of them takes all three along. It is caught here, so that the queue still hears how messages ended
/// before, and what the actors hold ends as their `stopped` says.
pub(super) struct LinkTask {
    actors: Actors,
    end: EndOnDrop,
}

struct Actors {
    // In the order in which they stop: the queue ends what it holds while the others can still be told.
    queue: Home<OfflineQueue>,
    codec: Home<Codec>,
    connection: Home<Connection>,
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
        let queue = Home::new(link, queue, Rung::QUEUE, queue_actor);
        let actor = Codec::new(Arc::clone(link), restored);
        let codec = Home::new(link, codec, Rung::CODEC, actor);
        let actor = Connection::new(Arc::clone(link));
        let connection = Home::new(link, connection, Rung::CONNECTION, actor);
        let actors = Actors {
            queue,
            codec,
            connection,
        };
        Self { actors, end }
    }
}

impl Future for LinkTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Self { actors, end } = &mut *self;
        actors.call_up();
        let link = &end.link;
        let rung = link.intake.bell.answer(cx.waker());
        let lanes = lanes::open(link);
        let turn = caught(|| {
            if actors.turn(rung, &lanes) {
                link.ending.begin(LinkState::Failed);
            }
            let is_over = link.ending.last().is_some();
            if is_over {
                actors.hear_last_words(&lanes);
            }
            actors.queue.actor.end_turn();
            is_over
        });
        let is_over = turn.unwrap_or_else(|Panicked| {
            link.ending.begin(LinkState::Failed);
            actors.hear_after_panic(&lanes);
            true
        });
        // Who was woken meanwhile has told the scheduler.
        lanes.close(link);
        if is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Actors {
    /// Reads a little of each place that a message needs. A link whose turn comes seldom finds its memory cold: met one
    /// after the other, hundreds of instructions apart, the processor waits for each place by itself; asked for
    /// together they come together. Nobody waits for what is read here.
    #[inline]
    fn call_up(&self) {
        black_box((
            self.connection.actor.call_up(),
            self.queue.actor.call_up(),
            self.codec.actor.call_up(),
        ));
    }

    /// The way out and back, so that a message that is written at once ends in the turn in which it came, and that
    /// CONNECT leaves in the turn that opened the stream. The connection reads once only: what it reads on has to wait
    /// for the other links of the thread. `true` when an actor stopped.
    fn turn(&mut self, rung: Rung, lanes: &OpenLanes) -> bool {
        let mut has_stopped = false;
        if rung.is_for(Rung::QUEUE) {
            has_stopped |= self.queue.poll().is_ready();
        }
        if rung.is_for(Rung::INTAKE) || rung.is_for(Rung::QUEUE) {
            let (queue, context, mut cx) = self.queue.parts();
            queue.take_intake(context, &mut cx);
        }
        if rung.is_for(Rung::CODEC) {
            has_stopped |= self.codec.poll().is_ready();
        }
        lanes.deliver::<ToCodec>(&mut self.codec);
        if rung.is_for(Rung::CONNECTION) {
            has_stopped |= self.connection.poll().is_ready();
        }
        let was_woken = rung.is_for(Rung::CONNECTION);
        if lanes.deliver::<ToConnection>(&mut self.connection) || was_woken {
            let (connection, context, mut cx) = self.connection.parts();
            connection.move_bytes(was_woken, context, &mut cx);
        }
        lanes.deliver::<ToCodec>(&mut self.codec);
        if lanes.deliver::<ToConnection>(&mut self.connection) {
            let (connection, context, mut cx) = self.connection.parts();
            connection.answer(context, &mut cx);
            lanes.deliver::<ToCodec>(&mut self.codec);
        }
        lanes.deliver::<ToQueue>(&mut self.queue);
        has_stopped
    }

    /// What the actors told each other last still counts: the codec's last outcomes are for the queue.
    fn hear_last_words(&mut self, lanes: &OpenLanes) {
        for _ in 0..2 {
            let _ = self.codec.poll();
            lanes.deliver::<ToCodec>(&mut self.codec);
            let _ = self.queue.poll();
            lanes.deliver::<ToQueue>(&mut self.queue);
        }
    }

    /// What was told before one of them panicked: bytes that are in the socket are messages that ended. Each may panic
    /// again, with what it holds as it is; a message that does so is gone, so this comes to an end.
    fn hear_after_panic(&mut self, lanes: &OpenLanes) {
        while caught(|| lanes.deliver::<ToCodec>(&mut self.codec)).is_err() {}
        while caught(|| lanes.deliver::<ToQueue>(&mut self.queue)).is_err() {}
    }
}

/// An actor panicked, and the panic's hook has told so.
pub(super) struct Panicked;

/// Goes on behind a panic. What was under way is left as it is, and only fit to be ended.
pub(super) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet has as many of these as it has links, and a message looks at most of it.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_task_of_a_link_takes_no_more_memory_than_is_written_here() {
        let bytes = size_of::<LinkTask>();
        assert!(bytes <= 1_704, "{bytes} bytes");
    }
}
