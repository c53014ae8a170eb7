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

/// What an actor has under way besides its messages: nothing while its link is idle.
struct Futures<A> {
    list: Vec<Spawned<A>>,
    /// Cancelled while they were polled.
    cancelled: Vec<SpawnHandle>,
}

impl<A> Default for Futures<A> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            cancelled: Vec::new(),
        }
    }
}

/// What an actor can ask of the task it lives in.
pub(crate) struct Context<A: Resident> {
    link: Arc<LinkContext>,
    futures: Option<Box<Futures<A>>>,
    is_polling: bool,
    last_handle: SpawnHandle,
    is_stopping: bool,
    /// Has the actor polled.
    waker: Waker,
}

impl<A: Resident> Context<A> {
    /// Whether a future that is being polled was cancelled meanwhile.
    fn has_cancelled(&self, handle: SpawnHandle) -> bool {
        let futures = self.futures.as_deref();
        futures.is_some_and(|futures| futures.cancelled.contains(&handle))
    }
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
        let futures = self.futures.get_or_insert_default();
        futures.list.push((self.last_handle, Box::pin(future)));
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
        let is_it = |(spawned, _): &Spawned<A>| *spawned == handle;
        let futures = self.futures.as_deref_mut();
        let place = futures.and_then(|futures| {
            let place = futures.list.iter().position(is_it)?;
            Some((futures, place))
        });
        if let Some((futures, place)) = place {
            futures.list.remove(place);
        } else if self.is_polling {
            let futures = self.futures.get_or_insert_default();
            futures.cancelled.push(handle);
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
            futures: None,
            is_polling: false,
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
        let Some(mut polled) = context.futures.take() else {
            return;
        };
        let mut cx = TaskContext::from_waker(&self.waker);
        context.is_polling = true;
        polled.list.retain_mut(|(handle, future)| {
            !context.has_cancelled(*handle)
                && !context.is_stopping
                && future.as_mut().poll(actor, context, &mut cx).is_pending()
        });
        // A future may cancel another one, or itself.
        polled
            .list
            .retain(|(handle, _)| !context.has_cancelled(*handle));
        context.is_polling = false;
        if let Some(new) = context.futures.take() {
            polled.list.extend(new.list);
        }
        context.futures = (!polled.list.is_empty()).then_some(polled);
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
