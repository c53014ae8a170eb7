//! What a link's actors tell each other in their own task.
//!
//! A mailbox costs two allocations for each message, a waker, and memory that each link has for itself. The links of
//! a thread have their turns one after the other, so they share these lists, which a turn begins and ends
//! empty. Only the link whose turn it is finds them open; whatever is told at another time, or is left at the end of
//! a turn, goes through the mailbox. An actor gets what is in its mailbox before what is in its lane, so messages
//! from one actor to another keep their order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::{Addr, Handler};

use super::LinkContext;
use super::context::{Context, Home, Resident};
use crate::codec::Codec;
use crate::connection::Connection;
use crate::message::{
    CloseTransport, Leave, LinkOffline, LinkOnline, Outcomes, PublishBatch, ReadingPaused,
    Received, Returned, ReturnedSeen, RoomFreed, SessionOnline, Transmit, TransportLost,
    TransportOpened, Written,
};
use crate::offline_queue::OfflineQueue;

/// Declares what one actor can be told by the others of its link.
macro_rules! lane {
    ($(#[$doc:meta])* $lane:ident to $actor:ident in $field:ident: $($message:ident),+) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) enum $lane { $($message($message)),+ }

        $(impl From<$message> for $lane {
            fn from(message: $message) -> Self {
                Self::$message(message)
            }
        })+

        impl Lane for $lane {
            type Actor = $actor;

            fn of(lanes: &Lanes) -> &RefCell<VecDeque<Self>> {
                &lanes.$field
            }

            fn give(self, actor: &mut $actor, context: &mut Context<$actor>) {
                match self {
                    $(Self::$message(message) => Handler::handle(actor, message, context)),+
                }
            }

            fn post(self, address: &Addr<$actor>) {
                match self {
                    $(Self::$message(message) => address.do_send(message)),+
                }
            }
        }
    };
}

lane!(
    /// For the queue.
    ToQueue to OfflineQueue in queue: LinkOnline, LinkOffline, Outcomes, Returned, RoomFreed
);
lane!(
    /// For the codec.
    ToCodec to Codec in codec: PublishBatch, TransportOpened, Received, Written, TransportLost, Leave, ReturnedSeen
);
lane!(
    /// For the connection.
    ToConnection to Connection in connection: Transmit, SessionOnline, CloseTransport, ReadingPaused
);

/// What one actor can be told.
pub(super) trait Lane: Sized + 'static {
    type Actor: Resident;

    fn of(lanes: &Lanes) -> &RefCell<VecDeque<Self>>;

    fn give(self, actor: &mut Self::Actor, context: &mut Context<Self::Actor>);

    fn post(self, address: &Addr<Self::Actor>);
}

/// The lists of a thread.
pub(super) struct Lanes {
    queue: RefCell<VecDeque<ToQueue>>,
    codec: RefCell<VecDeque<ToCodec>>,
    connection: RefCell<VecDeque<ToConnection>>,
}

/// The turn under way on a thread. Apart from the lists, since it is asked for several times a message, and what has
/// nothing to drop is found without asking whether the thread ends.
struct CurrentTurn {
    /// Where the link is whose turn it is; null between turns.
    link: Cell<*const LinkContext>,
    /// When somebody first asked for the time in this turn.
    now: Cell<Option<Instant>>,
}

thread_local! {
    static LANES: Lanes = const {
        Lanes {
            queue: RefCell::new(VecDeque::new()),
            codec: RefCell::new(VecDeque::new()),
            connection: RefCell::new(VecDeque::new()),
        }
    };

    static TURN: CurrentTurn = const {
        CurrentTurn {
            link: Cell::new(std::ptr::null()),
            now: Cell::new(None),
        }
    };
}

/// The lanes are open until this is dropped.
pub(super) struct OpenLanes;

/// Opens the lanes for a link's turn.
pub(super) fn open(link: &Arc<LinkContext>) -> OpenLanes {
    TURN.with(|turn| {
        turn.link.set(Arc::as_ptr(link));
        turn.now.set(None);
    });
    OpenLanes
}

/// What one of the lists begins with, taken off it.
#[inline]
fn next<L: Lane>() -> Option<L> {
    LANES.with(|lanes| L::of(lanes).borrow_mut().pop_front())
}

impl OpenLanes {
    /// Gives an actor what the others told it. `true` if there was something.
    #[inline]
    pub(super) fn deliver<L: Lane>(&self, home: &mut Home<L::Actor>) -> bool {
        let mut is_any = false;
        while let Some(message) = next::<L>() {
            is_any = true;
            if !home.is_stopped() {
                message.give(&mut home.actor, &mut home.context);
            }
        }
        is_any
    }

    /// The turn is over: what is left goes through the mailboxes.
    pub(super) fn close(self, link: &LinkContext) {
        fn post<L: Lane>(link: &LinkContext) {
            while let Some(message) = next::<L>() {
                message.post(L::Actor::address(link));
            }
        }
        post::<ToQueue>(link);
        post::<ToCodec>(link);
        post::<ToConnection>(link);
    }
}

impl Drop for OpenLanes {
    /// Nothing of a turn that panicked gets into the next link's.
    fn drop(&mut self) {
        TURN.with(|turn| {
            turn.link.set(std::ptr::null());
            turn.now.set(None);
        });
        if std::thread::panicking() {
            // While a thread ends it has no lanes any more.
            let left = LANES.try_with(|lanes| {
                (
                    lanes.queue.take(),
                    lanes.codec.take(),
                    lanes.connection.take(),
                )
            });
            drop(left);
        }
    }
}

/// The time of the link's turn, which is read once: what a message passes in a turn it passes at once. To be called
/// by an actor of the link's own task.
pub(crate) fn time_of_turn() -> Instant {
    TURN.with(|turn| {
        if turn.link.get().is_null() {
            return Instant::now();
        }
        turn.now.get().unwrap_or_else(|| {
            let now = Instant::now();
            turn.now.set(Some(now));
            now
        })
    })
}

impl LinkContext {
    /// Tells one of the link's actors. To be called by an actor of the link's own task.
    #[inline]
    fn tell<L: Lane>(&self, message: L) {
        if TURN.with(|turn| turn.link.get()) == std::ptr::from_ref(self) {
            LANES.with(|lanes| L::of(lanes).borrow_mut().push_back(message));
        } else {
            message.post(L::Actor::address(self));
        }
    }

    /// Tells the queue.
    pub(crate) fn tell_queue(&self, message: impl Into<ToQueue>) {
        self.tell(message.into());
    }

    /// Tells the codec.
    pub(crate) fn tell_codec(&self, message: impl Into<ToCodec>) {
        self.tell(message.into());
    }

    /// Tells the connection.
    pub(crate) fn tell_connection(&self, message: impl Into<ToConnection>) {
        self.tell(message.into());
    }
}
