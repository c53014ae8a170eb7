//! Consumers and what waits for them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use paquebot_protocols::dialect::Inbound;
use paquebot_protocols::model::DeviceId;
use paquebot_protocols::mqtt::{TopicFilter, TopicMatcher};

use super::CommandRouter;
use crate::inbound::{Delivery, Grants, MessageHandler, ReceivedRef, Sender, Unsent};
use crate::message::ReadingPaused;

/// Bytes that may wait for slow consumers before the link stops reading.
const PARKED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a waiting delivery counts beside its payload, so that a flood of empty ones is bounded too.
const PARKED_OVERHEAD: usize = 256;

/// Someone who takes messages.
pub(crate) struct Consumer {
    pub(crate) id: u64,
    pub(crate) takes: Takes,
    pub(crate) sink: Sink,
    pub(crate) grants: Grants,
    /// What the server has answered to others is no answer to it: it doubts that.
    pub(crate) doubts: bool,
}

/// Which messages a consumer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Every message on its filters.
    Raw,
    /// Commands for one device.
    Commands(DeviceId),
    /// Desired state of one device.
    DesiredState(DeviceId),
    /// Telemetry of all devices.
    Telemetry,
    /// Answers to commands.
    Replies,
}

impl Takes {
    /// Whether it takes what the dialect reads in a message; raw ones are chosen by their topic.
    pub(super) fn wants(&self, inbound: &Inbound) -> bool {
        match (self, inbound) {
            (Self::Commands(device), Inbound::Command(command)) => command.device == *device,
            (Self::DesiredState(wanted), Inbound::DesiredState { device, .. }) => wanted == device,
            (Self::Telemetry, Inbound::Telemetry { .. }) => true,
            (Self::Replies, Inbound::Reply { .. }) => true,
            _ => false,
        }
    }

    pub(super) fn is_commands(&self) -> bool {
        matches!(self, Self::Commands(_))
    }
}

/// Where a consumer takes them.
pub(crate) enum Sink {
    /// On any thread, at its own pace.
    Channel(Sender<Box<Delivery>>),
    /// On the link's thread, at once.
    Handler {
        handler: MessageHandler,
        is_gone: Arc<AtomicBool>,
    },
    /// Nowhere: the server sends nothing any more, and the stream has ended.
    Ended,
}

/// What came of offering a message to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handled {
    /// The consumer has none.
    NoHandler,
    /// Its guard was dropped.
    Gone,
    Done,
    Panicked,
}

pub(super) struct Outlet {
    pub(super) consumer: Consumer,
    pub(super) filters: Vec<TopicFilter>,
    /// Those of them that the server refused.
    refused: Vec<TopicFilter>,
    /// Empty unless it takes raw messages.
    matchers: Vec<TopicMatcher>,
    /// Deliveries that found the channel full, in order. While there are any, a future sends the first.
    parked: VecDeque<Box<Delivery>>,
    sending: bool,
}

impl Outlet {
    pub(super) fn new(consumer: Consumer, filters: Vec<TopicFilter>) -> Self {
        let matchers = match consumer.takes {
            Takes::Raw => filters.iter().map(TopicMatcher::new).collect(),
            _ => Vec::new(),
        };
        Self {
            consumer,
            filters,
            refused: Vec::new(),
            matchers,
            parked: VecDeque::new(),
            sending: false,
        }
    }

    /// Whether it takes every message on this topic.
    #[inline]
    pub(super) fn takes_topic(&self, topic: &[u8]) -> bool {
        self.matchers.iter().any(|matcher| matcher.matches(topic))
    }

    /// Calls the handler, if the consumer has one.
    #[inline]
    pub(super) fn handle(&mut self, message: &ReceivedRef<'_>) -> Handled {
        let Sink::Handler { handler, is_gone } = &mut self.consumer.sink else {
            return Handled::NoHandler;
        };
        if is_gone.load(Ordering::Acquire) {
            return Handled::Gone;
        }
        match catch_unwind(AssertUnwindSafe(|| handler(message))) {
            Ok(()) => Handled::Done,
            Err(_) => Handled::Panicked,
        }
    }

    /// The server sends nothing for this filter any more. A consumer without another one gets to the end of its stream,
    /// behind what it was sent before.
    pub(super) fn refuse(&mut self, filter: &TopicFilter) {
        if !self.refused.contains(filter) {
            self.refused.push(filter.clone());
        }
        self.end_refused();
    }

    /// The server takes the filter again, which somebody else asked for; a stream that has ended stays so.
    pub(super) fn grant(&mut self, filter: &TopicFilter) {
        self.refused.retain(|refused| refused != filter);
    }

    fn end_refused(&mut self) {
        let is_over = self.filters.iter().all(|own| self.refused.contains(own));
        let is_channel = matches!(self.consumer.sink, Sink::Channel(_));
        if is_channel && is_over && self.parked.is_empty() && !self.sending {
            self.consumer.sink = Sink::Ended;
        }
    }

    /// What its waiting deliveries count.
    fn parked_bytes(&self) -> usize {
        self.parked
            .iter()
            .map(|delivery| parked_size(delivery))
            .sum()
    }
}

impl CommandRouter {
    pub(super) fn hand_over(
        &mut self,
        index: usize,
        delivery: Box<Delivery>,
        ctx: &mut Context<Self>,
    ) {
        let outlet = &mut self.outlets[index];
        let Sink::Channel(sender) = &outlet.consumer.sink else {
            return;
        };
        let rejected = if outlet.parked.is_empty() && !outlet.sending {
            match sender.try_send(delivery) {
                Ok(()) | Err(Unsent::Closed) => return,
                Err(Unsent::Full(delivery)) => delivery,
            }
        } else {
            delivery
        };
        if rejected.incoming.id.is_none() && !self.link.profile.holds_qos0 {
            self.link.metrics.inbound_dropped_slow.inc();
            return;
        }
        self.parked_bytes += parked_size(&rejected);
        outlet.parked.push_back(rejected);
        let id = outlet.consumer.id;
        self.send_parked(id, ctx);
        self.update_reading();
    }

    /// Sends the first parked delivery of a consumer as soon as its channel has room.
    fn send_parked(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(outlet) = self.outlets.iter_mut().find(|o| o.consumer.id == id) else {
            return;
        };
        let Sink::Channel(sender) = &outlet.consumer.sink else {
            return;
        };
        if outlet.sending {
            return;
        }
        let Some(delivery) = outlet.parked.pop_front() else {
            return;
        };
        outlet.sending = true;
        let size = parked_size(&delivery);
        let sender = sender.clone();
        let sending = Box::pin(async move { sender.send(delivery).await });
        ctx.spawn(sending.into_actor(self).map(move |_, router, ctx| {
            router.parked_bytes -= size;
            if let Some(outlet) = router.outlets.iter_mut().find(|o| o.consumer.id == id) {
                outlet.sending = false;
                if !outlet.refused.is_empty() {
                    outlet.end_refused();
                }
            }
            router.send_parked(id, ctx);
            router.update_reading();
        }));
    }

    /// Takes a consumer out, with what waits for it.
    pub(super) fn remove_outlet(&mut self, consumer: u64) -> Option<Vec<TopicFilter>> {
        let index = self
            .outlets
            .iter()
            .position(|o| o.consumer.id == consumer)?;
        let removed = self.outlets.swap_remove(index);
        self.parked_bytes -= removed.parked_bytes();
        self.typed -= usize::from(removed.consumer.takes != Takes::Raw);
        for filter in &removed.filters {
            if !self.outlets.iter().any(|o| o.filters.contains(filter)) {
                self.answers.remove(filter);
            }
        }
        self.update_reading();
        Some(removed.filters)
    }

    fn update_reading(&mut self) {
        let pause = if self.reading_paused {
            self.parked_bytes > PARKED_BYTES_MAX / 2
        } else {
            self.parked_bytes > PARKED_BYTES_MAX
        };
        if pause != self.reading_paused {
            self.reading_paused = pause;
            self.link.codec.do_send(ReadingPaused(pause));
        }
    }
}

fn parked_size(delivery: &Delivery) -> usize {
    delivery.incoming.payload.len() + PARKED_OVERHEAD
}
