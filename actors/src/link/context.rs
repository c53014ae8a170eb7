//! Where a link's actors run: each with its mailbox and its futures, all in the link's task.
//!
//! actix's own context polls an actor's mailbox and each of its futures whenever the actor is looked at. A link has
//! three actors, and most of what they tell each other goes through [`lanes`](super::lanes): here an actor is
//! within the task's reach, and its mailbox is looked into only when something is in it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::channel::AddressReceiver;
use actix::dev::{Envelope, Mailbox, ToEnvelope};
use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle};
use tokio::sync::oneshot;

use super::LinkContext;
use super::bell::{Rung, ringer};
use super::task::caught;

/// An actor of a link's task.
pub(crate) trait Resident: Actor<Context = Context<Self>> {
    /// Its address.
    fn address(link: &LinkContext) -> &Addr<Self>;
}

type Spawned<A> = (SpawnHandle, Pin<Box<dyn ActorFuture<A, Output = ()>>>);

/// What an actor can ask of the task it lives in.
pub(crate) struct Context<A: Resident> {
    link: Arc<LinkContext>,
    futures: Vec<Spawned<A>>,
    is_polling: bool,
    /// Cancelled while they were polled.
    cancelled: Vec<SpawnHandle>,
    last_handle: SpawnHandle,
    is_stopping: bool,
    /// Has the actor polled.
    waker: Waker,
}

impl<A: Resident> ActorContext for Context<A> {
    fn stop(&mut self) {
        self.is_stopping = true;
        self.waker.wake_by_ref();
    }

    fn terminate(&mut self) {
        self.stop();
    }

    fn state(&self) -> ActorState {
        if self.is_stopping {
            ActorState::Stopping
        } else {
            ActorState::Running
        }
    }
}

impl<A: Resident> AsyncContext<A> for Context<A> {
    fn address(&self) -> Addr<A> {
        A::address(&self.link).clone()
    }

    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.last_handle = self.last_handle.next();
        self.futures.push((self.last_handle, Box::pin(future)));
        // It has to be polled once to be woken, and what comes by a lane polls no futures.
        self.waker.wake_by_ref();
        self.last_handle
    }

    /// As [`AsyncContext::spawn`]: messages of the other actors do not wait.
    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.spawn(future);
    }

    fn waiting(&self) -> bool {
        self.is_stopping
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        if let Some(place) = self
            .futures
            .iter()
            .position(|(spawned, _)| *spawned == handle)
        {
            self.futures.remove(place);
        } else if self.is_polling {
            self.cancelled.push(handle);
        }
        true
    }
}

impl<A, M> ToEnvelope<A, M> for Context<A>
where
    A: Resident + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, answer: Option<oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, answer)
    }
}

/// An actor and all that is its own.
pub(super) struct Home<A: Resident> {
    pub(super) actor: A,
    pub(super) context: Context<A>,
    mailbox: Mailbox<A>,
    waker: Waker,
    is_started: bool,
    is_stopped: bool,
}

impl<A: Resident> Home<A> {
    pub(super) fn new(
        link: &Arc<LinkContext>,
        mailbox: AddressReceiver<A>,
        who: Rung,
        actor: A,
    ) -> Self {
        let waker = ringer(&link.intake, who);
        let context = Context {
            link: Arc::clone(link),
            futures: Vec::new(),
            is_polling: false,
            cancelled: Vec::new(),
            last_handle: SpawnHandle::default(),
            is_stopping: false,
            waker: waker.clone(),
        };
        Self {
            actor,
            context,
            mailbox: Mailbox::new(mailbox),
            waker,
            is_started: false,
            is_stopped: false,
        }
    }

    /// Takes what is in the mailbox, then polls the actor's futures. `Ready` once the actor has stopped.
    pub(super) fn poll(&mut self) -> Poll<()> {
        if self.is_stopped {
            return Poll::Ready(());
        }
        if !self.is_started {
            self.is_started = true;
            self.actor.started(&mut self.context);
        }
        let mut cx = TaskContext::from_waker(&self.waker);
        self.mailbox
            .poll(&mut self.actor, &mut self.context, &mut cx);
        self.poll_futures();
        if self.context.is_stopping {
            self.stop();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Polls each future once. New ones have woken the actor for another turn.
    fn poll_futures(&mut self) {
        let (actor, context) = (&mut self.actor, &mut self.context);
        if context.futures.is_empty() {
            return;
        }
        let mut cx = TaskContext::from_waker(&self.waker);
        let mut polled = std::mem::take(&mut context.futures);
        context.is_polling = true;
        polled.retain_mut(|(handle, future)| {
            !context.cancelled.contains(handle)
                && !context.is_stopping
                && future.as_mut().poll(actor, context, &mut cx).is_pending()
        });
        // A future may cancel another one, or itself.
        polled.retain(|(handle, _)| !context.cancelled.contains(handle));
        context.cancelled = Vec::new();
        context.is_polling = false;
        polled.append(&mut context.futures);
        context.futures = polled;
        if context.futures.is_empty() {
            context.futures = Vec::new();
        }
    }

    /// For what the actor does by itself; it is woken as for a message.
    pub(super) fn parts(&mut self) -> (&mut A, &mut Context<A>, TaskContext<'_>) {
        let cx = TaskContext::from_waker(&self.waker);
        (&mut self.actor, &mut self.context, cx)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    fn stop(&mut self) {
        if !self.is_stopped {
            self.is_stopped = true;
            self.actor.stopped(&mut self.context);
        }
    }
}

impl<A: Resident> Drop for Home<A> {
    fn drop(&mut self) {
        // One that panicked may do so again, and the others have to stop too.
        let _ = caught(|| self.stop());
    }
}
