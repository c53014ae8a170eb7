//! What a link's actors tell each other in their own task.
//!
//! A mailbox costs two allocations for each message, a waker, and memory that each link has for itself. The links of
//! a thread have their turns one after the other, so they share these lists, which a turn begins and ends
//! empty. Only the link whose turn it is finds them open; whatever is told at another time, or is left at the end of
//! a turn, goes through the mailbox. An actor gets what is in its mailbox before what is in its lane, so messages
//! from one actor to another keep their order.

use std::cell::RefCell;
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
    Received, Returned, RoomFreed, SessionOnline, Transmit, TransportLost, TransportOpened,
    Written,
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

            fn of(lanes: &mut Lanes) -> &mut VecDeque<Self> {
                &mut lanes.$field
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
    ToCodec to Codec in codec: PublishBatch, TransportOpened, Received, Written, TransportLost, Leave
);
lane!(
    /// For the connection.
    ToConnection to Connection in connection: Transmit, SessionOnline, CloseTransport, ReadingPaused
);

/// What one actor can be told.
pub(super) trait Lane: Sized + 'static {
    type Actor: Resident;

    fn of(lanes: &mut Lanes) -> &mut VecDeque<Self>;

    fn give(self, actor: &mut Self::Actor, context: &mut Context<Self::Actor>);

    fn post(self, address: &Addr<Self::Actor>);
}

/// The lists of a thread.
pub(super) struct Lanes {
    /// Where the link is whose turn it is.
    open_for: Option<*const LinkContext>,
    /// When somebody first asked for the time in this turn.
    now: Option<Instant>,
    queue: VecDeque<ToQueue>,
    codec: VecDeque<ToCodec>,
    connection: VecDeque<ToConnection>,
}

thread_local! {
    static LANES: RefCell<Lanes> = const {
        RefCell::new(Lanes {
            open_for: None,
            now: None,
            queue: VecDeque::new(),
            codec: VecDeque::new(),
            connection: VecDeque::new(),
        })
    };
}

/// The lanes are open until this is dropped.
pub(super) struct OpenLanes;

/// Opens the lanes for a link's turn.
pub(super) fn open(link: &Arc<LinkContext>) -> OpenLanes {
    LANES.with_borrow_mut(|lanes| {
        lanes.open_for = Some(Arc::as_ptr(link));
        lanes.now = None;
    });
    OpenLanes
}

impl OpenLanes {
    /// Gives an actor what the others told it. `true` if there was something.
    pub(super) fn deliver<L: Lane>(&self, home: &mut Home<L::Actor>) -> bool {
        let mut is_any = false;
        while let Some(message) = LANES.with_borrow_mut(|lanes| L::of(lanes).pop_front()) {
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
            while let Some(message) = LANES.with_borrow_mut(|lanes| L::of(lanes).pop_front()) {
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
        // While a thread ends it has no lanes any more.
        let left = LANES.try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            lanes.open_for = None;
            lanes.now = None;
            if std::thread::panicking() {
                let Lanes {
                    queue,
                    codec,
                    connection,
                    ..
                } = &mut *lanes;
                return Some((
                    std::mem::take(queue),
                    std::mem::take(codec),
                    std::mem::take(connection),
                ));
            }
            None
        });
        drop(left);
    }
}

/// The time of the link's turn, which is read once: what a message passes in a turn it passes at once. To be called
/// by an actor of the link's own task.
pub(crate) fn time_of_turn() -> Instant {
    let time = LANES.try_with(|lanes| {
        let mut lanes = lanes.borrow_mut();
        if lanes.open_for.is_none() {
            return Instant::now();
        }
        *lanes.now.get_or_insert_with(Instant::now)
    });
    time.unwrap_or_else(|_| Instant::now())
}

impl LinkContext {
    /// Tells one of the link's actors. To be called by an actor of the link's own task.
    fn tell<L: Lane>(&self, message: L) {
        let mut message = Some(message);
        let _ = LANES.try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            if lanes.open_for == Some(std::ptr::from_ref(self)) {
                L::of(&mut lanes).extend(message.take());
            }
        });
        if let Some(message) = message {
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
