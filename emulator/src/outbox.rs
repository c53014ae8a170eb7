//! What the server's state has for one connection: packets to write and orders to obey.
//!
//! It is the one thing a connection shares with the state. Its lock is held for a push or a take only,
//! by two parties at most; a channel would cost each idle connection a kilobyte of preallocated slots.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use paquebot_protocols::mqtt::Packet;

/// Packets that a connection takes at a time.
const TAKE_PACKETS: usize = 256;
/// Bytes after which it takes no more.
const TAKE_BYTES: usize = 64 * 1024;
/// Slots that an empty outbox keeps.
const KEPT_CAPACITY: usize = 4;
/// What a packet is accounted with besides its topic and payload.
const PACKET_OVERHEAD_BYTES: usize = 32;

#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Packet),
    /// Bytes of a scripted fault, written as they are.
    Raw(Bytes),
}

impl Outgoing {
    fn weight(&self) -> usize {
        match self {
            Self::Packet(Packet::Publish(publish)) => {
                let topic = publish
                    .topic
                    .as_ref()
                    .map_or(0, |topic| topic.as_str().len());
                PACKET_OVERHEAD_BYTES + topic + publish.payload.len()
            }
            Self::Packet(_) => PACKET_OVERHEAD_BYTES,
            Self::Raw(bytes) => PACKET_OVERHEAD_BYTES + bytes.len(),
        }
    }
}

/// How far along its end a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Closing {
    #[default]
    Open,
    /// Write what waits, then close.
    AfterWriting,
    /// Drop the socket now.
    AtOnce,
}

/// Which way a scripted cut counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Written,
}

/// What a connection is told when it looks.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) closing: Closing,
    pub(crate) reading_stalled: bool,
    /// A cut that was ordered since the last look.
    pub(crate) cut: Option<(Direction, u64)>,
    /// The state had to hold messages back and there is room again.
    pub(crate) drained: bool,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// Mirrors of what waits, readable without the lock.
    packets: AtomicUsize,
    bytes: AtomicUsize,
    packets_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    closing: Closing,
    reading_stalled: bool,
    cut: Option<(Direction, u64)>,
    drain_wanted: bool,
    waker: Option<Waker>,
}

impl Outbox {
    pub(crate) fn new(packets_max: usize, bytes_max: usize) -> Self {
        Self {
            packets: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            packets_max,
            bytes_max,
            inner: Mutex::default(),
        }
    }

    /// Whether a message may be added. Acknowledgements are not asked: a connection whose outbox is full
    /// stops reading, which bounds them.
    pub(crate) fn has_room(&self) -> bool {
        self.packets.load(Ordering::Relaxed) < self.packets_max
            && self.bytes.load(Ordering::Relaxed) < self.bytes_max
    }

    /// The same; a refusal is made good with [`Orders::drained`] once there is room.
    pub(crate) fn has_room_or_notify(&self) -> bool {
        if self.has_room() {
            return true;
        }
        // Looked at again under the lock, so that a take in between is not missed.
        let mut inner = self.lock();
        let room = inner.waiting.len() < self.packets_max && inner.bytes < self.bytes_max;
        inner.drain_wanted |= !room;
        room
    }

    pub(crate) fn push(&self, outgoing: Outgoing) {
        let waker = {
            let mut inner = self.lock();
            if inner.closing != Closing::Open {
                return;
            }
            inner.bytes += outgoing.weight();
            inner.waiting.push_back(outgoing);
            self.mirror(&inner);
            inner.waker.take()
        };
        wake(waker);
    }

    pub(crate) fn close(&self, closing: Closing) {
        self.order(|inner| inner.closing = inner.closing.max(closing));
    }

    pub(crate) fn stall_reading(&self, stalled: bool) {
        self.order(|inner| inner.reading_stalled = stalled);
    }

    pub(crate) fn cut_after(&self, direction: Direction, bytes: u64) {
        self.order(|inner| inner.cut = Some((direction, bytes)));
    }

    fn order(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.lock();
            change(&mut inner);
            inner.waker.take()
        };
        wake(waker);
    }

    /// Reads the orders, leaves the task's waker and, when `batch` is given, moves the next packets there.
    pub(crate) fn look(&self, cx: &Context<'_>, batch: Option<&mut VecDeque<Outgoing>>) -> Orders {
        let mut inner = self.lock();
        if let Some(batch) = batch {
            let mut taken_bytes = 0;
            while batch.len() < TAKE_PACKETS && taken_bytes < TAKE_BYTES {
                let Some(outgoing) = inner.waiting.pop_front() else {
                    break;
                };
                taken_bytes += outgoing.weight();
                batch.push_back(outgoing);
            }
            inner.bytes = inner.bytes.saturating_sub(taken_bytes);
            if inner.waiting.is_empty() && inner.waiting.capacity() > KEPT_CAPACITY {
                // An idle connection keeps no memory for a burst that is over.
                inner.waiting = VecDeque::new();
            }
            self.mirror(&inner);
        }
        let drained = inner.drain_wanted
            && inner.waiting.len() <= self.packets_max / 2
            && inner.bytes <= self.bytes_max / 2;
        if drained {
            inner.drain_wanted = false;
        }
        if !inner
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            inner.waker = Some(cx.waker().clone());
        }
        Orders {
            closing: inner.closing,
            reading_stalled: inner.reading_stalled,
            cut: inner.cut.take(),
            drained,
        }
    }

    fn mirror(&self, inner: &Inner) {
        self.packets.store(inner.waiting.len(), Ordering::Relaxed);
        self.bytes.store(inner.bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
