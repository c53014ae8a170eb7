//! The way in: bytes to packets, subscriptions, acknowledgements of what was handed over.

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor as _, Addr, AsyncContext as _, Context, Handler};
use bytes::{Buf as _, Bytes, BytesMut};
use paquebot_protocols::mqtt::{Decoded, PacketId, TopicFilter};

use super::Codec;
use crate::command_router::CommandRouter;
use crate::message::{
    Acknowledge, AddConsumer, DropFilters, ReadingPaused, Received, Subscribe, SubscribeError,
    Unsubscribe,
};

impl Codec {
    /// The router, started when the first subscription or message needs it.
    pub(super) fn router(&mut self, ctx: &mut Context<Self>) -> &Addr<CommandRouter> {
        let link = &self.link;
        self.router.get_or_insert_with(|| {
            CommandRouter::new(Arc::clone(link), ctx.address(), link.guard()).start()
        })
    }

    pub(super) fn apply_reading_pause(&mut self, now: Instant) {
        // While this end does not read it cannot see PINGRESP either.
        self.session.set_reading_paused(now, self.reading_paused);
        self.connection.do_send(ReadingPaused(self.reading_paused));
    }

    /// A consumer leaves these filters; those that nobody else asked for are given up. Counted here, where
    /// requests arrive in order: a filter that is left and asked for at once stays.
    fn release(&mut self, now: Instant, filters: &[TopicFilter]) {
        for filter in filters {
            let Some(count) = self.wanted.get_mut(filter) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.wanted.remove(filter);
                self.session.unsubscribe(now, filter);
            }
        }
    }

    fn decode(&mut self, now: Instant, bytes: Bytes) {
        let mut input = if self.carry.is_empty() {
            bytes
        } else {
            self.carry.extend_from_slice(&bytes);
            if self.carry.len() < self.carry_needed {
                return;
            }
            self.carry.split().freeze()
        };
        while !input.is_empty() {
            // What most of the packets are that answer a busy sender.
            if let [0x40, 2, high, low, ..] = *input
                && let Some(id) = PacketId::new(u16::from_be_bytes([high, low]))
                && let Some(token) = self.session.handle_plain_puback(now, id)
            {
                self.acknowledged.note_delivered(token..token + 1);
                input.advance(4);
                continue;
            }
            match self.decoder.decode(&mut input) {
                Ok(Decoded::Packet(packet)) => {
                    tracing::trace!(link = %self.link.identity.id, packet = packet.name(), "received");
                    self.session.handle_packet(now, packet);
                }
                Ok(Decoded::Incomplete { missing }) => {
                    self.carry_needed = input.len() + missing.unwrap_or(1);
                    self.carry = input.try_into_mut().unwrap_or_else(|shared| {
                        // Packets already handed on share the bytes, so the rest is copied.
                        BytesMut::from(&*shared)
                    });
                    return;
                }
                Err(error) => {
                    self.session.handle_decode_error(now, &error);
                    return;
                }
            }
        }
        self.carry_needed = 0;
    }
}

impl Handler<Received> for Codec {
    type Result = ();

    fn handle(&mut self, message: Received, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.decode(now, message.0);
        self.advance(now, ctx);
    }
}

impl Handler<Acknowledge> for Codec {
    type Result = ();

    fn handle(&mut self, message: Acknowledge, ctx: &mut Self::Context) {
        let now = Instant::now();
        for id in message.0 {
            self.session.acknowledge(now, id);
        }
        self.advance(now, ctx);
    }
}

impl Handler<Subscribe> for Codec {
    type Result = Result<(), SubscribeError>;

    fn handle(&mut self, message: Subscribe, ctx: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        let filters: Vec<_> = message
            .subscriptions
            .iter()
            .map(|s| s.filter.clone())
            .collect();
        for (index, subscription) in message.subscriptions.into_iter().enumerate() {
            if self.session.subscribe(now, subscription).is_err() {
                self.release(now, &filters[..index]);
                self.advance(now, ctx);
                return Err(SubscribeError::TooMany);
            }
            *self.wanted.entry(filters[index].clone()).or_default() += 1;
        }
        self.router(ctx)
            .do_send(AddConsumer(message.consumer, filters));
        self.advance(now, ctx);
        Ok(())
    }
}

impl Handler<Unsubscribe> for Codec {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, ctx: &mut Self::Context) {
        self.router(ctx).do_send(message);
    }
}

impl Handler<DropFilters> for Codec {
    type Result = ();

    fn handle(&mut self, message: DropFilters, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.release(now, &message.0);
        self.advance(now, ctx);
    }
}

impl Handler<ReadingPaused> for Codec {
    type Result = ();

    fn handle(&mut self, message: ReadingPaused, ctx: &mut Self::Context) {
        self.reading_paused = message.0;
        let now = Instant::now();
        self.apply_reading_pause(now);
        self.advance(now, ctx);
    }
}
