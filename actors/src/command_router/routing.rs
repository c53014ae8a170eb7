//! From a message to its consumers.
//!
//! Handlers are called first and on the spot, without an allocation. A message that only they took is settled
//! when they return, and goes back to the codec with its block; one that a channel took is settled when its
//! deliveries are dropped.

use actix::Context;
use paquebot_protocols::dialect::Inbound;
use paquebot_protocols::mqtt::session::Incoming;

use super::CommandRouter;
use super::outlets::Handled;
use crate::inbound::{AcknowledgeOnDrop, Acknowledgement, Block, Delivery, ReceivedRef};
use crate::message::Settled;

/// Who acknowledges a message that was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    /// Everybody is done with it: the caller does.
    Settled,
    /// Somebody holds it: whoever that is does.
    Held,
}

impl CommandRouter {
    /// Routes the messages of a block, then sends it back for the acknowledgement of those that are settled.
    pub(super) fn route_block(&mut self, mut block: Block, ctx: &mut Context<Self>) {
        let mut is_owed = false;
        for index in 0..block.entries.len() {
            let Some(message) = block.message(index) else {
                continue;
            };
            let routed = self.route(message, ctx);
            let entry = &mut block.entries[index];
            if entry.id.is_some() {
                match routed {
                    Routed::Settled => is_owed = true,
                    Routed::Held => entry.id = None,
                }
            }
        }
        block.forget_messages();
        if is_owed {
            self.link.codec.do_send(Settled(block));
        }
    }

    #[inline]
    pub(super) fn route(&mut self, message: ReceivedRef<'_>, ctx: &mut Context<Self>) -> Routed {
        let topic = message.topic_bytes();
        let mut is_handled = false;
        self.wanted.clear();
        for (index, outlet) in self.outlets.iter_mut().enumerate() {
            if !outlet.takes_topic(topic) {
                continue;
            }
            match outlet.handle(&message) {
                Handled::NoHandler => self.wanted.push(index),
                Handled::Done => is_handled = true,
                Handled::Panicked => {
                    is_handled = true;
                    self.link.metrics.inbound_dropped_panicked.inc();
                    tracing::error!(
                        link = %self.link.identity.id,
                        "a message handler panicked; its message is given up"
                    );
                }
                Handled::Gone => {}
            }
        }
        if self.typed == 0 && self.wanted.is_empty() && is_handled {
            return Routed::Settled;
        }
        self.route_to_channels(message, is_handled, ctx)
    }

    /// Those that take the topic stand in `wanted`; who takes what the dialect reads in the message is added.
    fn route_to_channels(
        &mut self,
        message: ReceivedRef<'_>,
        is_handled: bool,
        ctx: &mut Context<Self>,
    ) -> Routed {
        let incoming = message.to_incoming();
        let mut wanted = std::mem::take(&mut self.wanted);
        let inbound = if self.typed == 0 {
            Inbound::Raw
        } else {
            self.classify(&incoming)
        };
        for (index, outlet) in self.outlets.iter().enumerate() {
            if outlet.consumer.takes.wants(&inbound) {
                wanted.push(index);
            }
        }
        let routed = if !wanted.is_empty() {
            self.deliver(&wanted, incoming, &inbound, ctx);
            Routed::Held
        } else if is_handled {
            Routed::Settled
        } else {
            self.keep_unclaimed(incoming, ctx);
            Routed::Held
        };
        self.wanted = wanted;
        routed
    }

    fn classify(&self, incoming: &Incoming) -> Inbound {
        let link = &self.link;
        link.profile.dialect.classify(&link.identity, incoming).unwrap_or_else(|error| {
            tracing::warn!(link = %link.identity.id, topic = %incoming.topic, %error, "unreadable message");
            Inbound::Raw
        })
    }

    fn deliver(
        &mut self,
        wanted: &[usize],
        incoming: Incoming,
        inbound: &Inbound,
        ctx: &mut Context<Self>,
    ) {
        let takes_command =
            |router: &Self, index: usize| router.outlets[index].consumer.takes.is_commands();
        let command = wanted
            .iter()
            .copied()
            .find(|index| takes_command(self, *index));
        let mut part = incoming.id.map(|id| {
            let whole = AcknowledgeOnDrop::new(id, &self.desk);
            Acknowledgement::divide(whole, wanted.len())
        });
        let mut part = || part.as_mut().and_then(|part| part());
        // A consumer of raw messages looks on: only one that takes commands owes an answer. It keeps its part
        // of the acknowledgement in the command, so that a deadline can let go of it.
        let open = match (command, inbound) {
            (Some(_), Inbound::Command(command)) => {
                self.open_command(command, incoming.dup, part(), ctx)
            }
            _ => None,
        };
        for &index in wanted {
            if takes_command(self, index) {
                if let Some(open) = &open {
                    let delivery = Delivery {
                        incoming: incoming.clone(),
                        inbound: inbound.clone(),
                        _acknowledgement: None,
                        command: Some(open.clone()),
                    };
                    self.start_command(index, Box::new(delivery), ctx);
                }
                continue;
            }
            let inbound = match self.outlets[index].consumer.takes {
                super::Takes::Raw => Inbound::Raw,
                _ => inbound.clone(),
            };
            let delivery = Delivery {
                incoming: incoming.clone(),
                inbound,
                _acknowledgement: part(),
                command: None,
            };
            self.hand_over(index, Box::new(delivery), ctx);
        }
    }
}
