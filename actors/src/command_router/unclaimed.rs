//! Messages without a consumer, kept for one to come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix::{AsyncContext as _, Context, SpawnHandle};
use paquebot_protocols::mqtt::session::Incoming;

use super::CommandRouter;
use super::routing::Routed;
use crate::inbound::{AcknowledgeOnDrop, ReceivedRef};

/// How many are kept.
const UNCLAIMED_MAX: usize = 64;

/// How long they are kept. A server acknowledges in order, so each holds up the acknowledgements of all
/// that came after it.
const UNCLAIMED_FOR: Duration = Duration::from_secs(5);

/// Bytes of them, topics and payloads.
const UNCLAIMED_BYTES_MAX: usize = 256 * 1024;

#[derive(Default)]
pub(super) struct Unclaimed {
    messages: VecDeque<(Instant, Incoming)>,
    bytes: usize,
    timer: Option<SpawnHandle>,
    /// Since when the message waits that is offered to a new consumer now.
    offered_since: Option<Instant>,
}

impl CommandRouter {
    /// A server that kept the session sends what it stored before the program has asked for it.
    pub(super) fn keep_unclaimed(&mut self, incoming: Incoming, ctx: &mut Context<Self>) {
        self.unclaimed.bytes += unclaimed_size(&incoming);
        let offered_since = self.unclaimed.offered_since.take();
        let since = offered_since.unwrap_or_else(Instant::now);
        self.unclaimed.messages.push_back((since, incoming));
        while self.unclaimed.messages.len() > UNCLAIMED_MAX
            || self.unclaimed.bytes > UNCLAIMED_BYTES_MAX
        {
            self.give_up_unclaimed();
        }
        self.arm_unclaimed(ctx);
    }

    fn arm_unclaimed(&mut self, ctx: &mut Context<Self>) {
        let Some((since, _)) = self.unclaimed.messages.front() else {
            return;
        };
        if self.unclaimed.timer.is_some() {
            return;
        }
        let delay = UNCLAIMED_FOR.saturating_sub(since.elapsed());
        self.unclaimed.timer = Some(ctx.run_later(delay, |router, ctx| {
            router.unclaimed.timer = None;
            let is_old = |(since, _): &(Instant, Incoming)| since.elapsed() >= UNCLAIMED_FOR;
            while router.unclaimed.messages.front().is_some_and(is_old) {
                router.give_up_unclaimed();
            }
            router.arm_unclaimed(ctx);
        }));
    }

    /// Drops and acknowledges the oldest message that nobody asked for.
    fn give_up_unclaimed(&mut self) {
        let Some((_, oldest)) = self.unclaimed.messages.pop_front() else {
            return;
        };
        self.unclaimed.bytes -= unclaimed_size(&oldest);
        self.link.metrics.inbound_dropped_unclaimed.inc();
        if let Some(id) = oldest.id {
            drop(AcknowledgeOnDrop::new(id, &self.desk));
        }
    }

    /// A new consumer may want them.
    pub(super) fn route_unclaimed(&mut self, ctx: &mut Context<Self>) {
        self.unclaimed.bytes = 0;
        for (since, incoming) in std::mem::take(&mut self.unclaimed.messages) {
            self.unclaimed.offered_since = Some(since);
            let routed = self.route(ReceivedRef::apart(&incoming), ctx);
            self.unclaimed.offered_since = None;
            if let Some(id) = incoming.id.filter(|_| routed == Routed::Settled) {
                drop(AcknowledgeOnDrop::new(id, &self.desk));
            }
        }
    }
}

fn unclaimed_size(incoming: &Incoming) -> usize {
    incoming.topic.as_str().len() + incoming.payload.len()
}
