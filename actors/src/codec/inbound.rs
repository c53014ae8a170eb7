//! The way in: bytes to packets, subscriptions, acknowledgements of what was handed over.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor as _, Addr, Handler};
use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::session::{Arrival, Incoming};
use paquebot_protocols::mqtt::{AckKind, Decoder, Next, Packet, PacketId, TopicFilter};

use super::Codec;
use super::leaving::NOBODY;
use super::wanted::Wanted;
use crate::command_router::{CommandRouter, Takes};
use crate::inbound::Block;
use crate::message::{
    AcknowledgeGathered, AddConsumer, Deliver, DropFilters, GiveUp, Outcomes, ReadingPaused,
    Received, Settled, Subscribe, SubscribeError, Unsubscribe, UnsubscribeAnswers,
};

impl Codec {
    /// The router, started when the first subscription or message needs it.
    pub(super) fn router(&mut self) -> &Addr<CommandRouter> {
        let link = &self.link;
        self.router
            .get_or_insert_with(|| CommandRouter::new(Arc::clone(link), link.guard()).start())
    }

    pub(super) fn apply_reading_pause(&mut self, now: Instant) {
        // While this end does not read it cannot see PINGRESP either.
        self.session.set_reading_paused(now, self.reading_paused);
        self.link
            .tell_connection(ReadingPaused(self.reading_paused));
    }

    /// A consumer leaves these filters; those that nobody else asked for are given up. Counted here, where
    /// requests arrive in order: a filter that is left and asked for at once stays.
    fn release(
        &mut self,
        now: Instant,
        consumer: u64,
        mut filters: Vec<TopicFilter>,
        told: Option<UnsubscribeAnswers>,
    ) {
        let all = told.is_some().then(|| filters.clone());
        let wanted = self.wanted();
        filters.retain(|filter| wanted.remove(consumer, filter));
        let token = match (all, told) {
            (Some(all), Some(told)) => wanted.leaving.expect(all, &filters, told),
            _ => NOBODY,
        };
        for filter in &filters {
            self.session.unsubscribe(now, filter, token);
        }
    }

    /// Gives messages to the router, counted.
    pub(super) fn hand_over(&mut self, block: Block) {
        if block.entries.is_empty() {
            return;
        }
        self.link
            .metrics
            .count_received(block.counts, block.payload_bytes);
        self.router().do_send(Deliver(block));
    }

    /// Takes what was read apart: the rest of a packet that was cut, then whole ones where they are.
    fn decode(&mut self, now: Instant, bytes: Bytes) -> Block {
        let mut block = Block::new(bytes);
        let mut at = 0;
        if !self.carry.is_empty() {
            at = self.complete_carry(now, &mut block);
        }
        while at < block.bytes.len() {
            if let Some(span) = self.decoder.find_publish(&block.bytes, &mut at) {
                if let Arrival::HandOver(id) = self.session.handle_publish_span(now, &span) {
                    block.push(span, id);
                }
                continue;
            }
            if self.handle_plain_pubacks(now, &block.bytes, &mut at) {
                continue;
            }
            match self.decoder.decode_next(&block.bytes, &mut at) {
                Ok(Next::Acknowledgement(kind, id)) => self.handle_acknowledgement(now, kind, id),
                Ok(Next::Packet(packet)) => self.handle_packet(now, packet, &mut block),
                Ok(Next::Incomplete { missing }) => {
                    let rest = &block.bytes[at..];
                    self.carry_needed = rest.len() + missing.unwrap_or(1);
                    self.carry = BytesMut::from(rest);
                    break;
                }
                Err(error) => {
                    self.session.handle_decode_error(now, &error);
                    break;
                }
            }
        }
        tracing::trace!(
            link = %self.link.identity.id,
            bytes = block.bytes.len(),
            messages = block.entries.len(),
            "received"
        );
        block
    }

    /// Gives the packet that was cut what it misses and no more, so that those behind it stay where they are.
    /// Says where they begin.
    fn complete_carry(&mut self, now: Instant, block: &mut Block) -> usize {
        let mut at = 0;
        loop {
            let missing = self.carry_needed.saturating_sub(self.carry.len());
            let end = (at + missing).min(block.bytes.len());
            self.carry.extend_from_slice(&block.bytes[at..end]);
            at = end;
            if self.carry.len() < self.carry_needed {
                return at;
            }
            let front = std::mem::take(&mut self.carry).freeze();
            match self.decoder.decode_next(&front, &mut 0) {
                Ok(Next::Incomplete { missing }) => {
                    self.carry_needed = front.len() + missing.unwrap_or(1);
                    self.carry = BytesMut::from(front);
                }
                Ok(Next::Acknowledgement(kind, id)) => {
                    self.handle_acknowledgement(now, kind, id);
                    return at;
                }
                Ok(Next::Packet(packet)) => {
                    self.handle_packet(now, packet, block);
                    return at;
                }
                Err(error) => {
                    self.session.handle_decode_error(now, &error);
                    return block.bytes.len();
                }
            }
        }
    }

    fn wanted(&mut self) -> &mut Wanted {
        self.wanted.get_or_insert_default()
    }

    /// What most of the packets are that answer a busy sender: PUBACKs of success, in the order of the messages. `false`:
    /// there was none.
    #[inline]
    fn handle_plain_pubacks(&mut self, now: Instant, bytes: &[u8], at: &mut usize) -> bool {
        let ids = self.decoder.find_pubacks(bytes, *at);
        let ended = &mut self.acknowledged;
        let mut tokens = 0..0;
        let taken = self.session.handle_plain_pubacks(now, ids, |token| {
            if token == tokens.end {
                tokens.end += 1;
            } else {
                note_delivered(ended, std::mem::replace(&mut tokens, token..token + 1));
            }
        });
        note_delivered(ended, tokens);
        *at += taken * Decoder::PUBACK_LEN;
        taken > 0
    }

    fn handle_acknowledgement(&mut self, now: Instant, kind: AckKind, id: PacketId) {
        let is_plain = kind == AckKind::PubAck && {
            let ended = &mut self.acknowledged;
            let note = |token| note_delivered(ended, token..token + 1);
            self.session.handle_plain_pubacks(now, [id], note) > 0
        };
        if !is_plain {
            self.session.handle_acknowledgement(now, kind, id);
        }
    }

    fn handle_packet(&mut self, now: Instant, packet: Packet, block: &mut Block) {
        tracing::trace!(link = %self.link.identity.id, packet = packet.name(), "received");
        match packet {
            Packet::Publish(publish) => {
                let incoming: Option<Incoming> = self.session.handle_publish(now, publish);
                if let Some(incoming) = incoming {
                    block.push_apart(incoming);
                }
            }
            packet => self.session.handle_packet(now, packet),
        }
    }

    fn subscribe(&mut self, now: Instant, message: &Subscribe) -> Result<(), SubscribeError> {
        let consumer = message.consumer.id;
        if let Takes::Commands(device) = &message.consumer.takes
            && !self.wanted().claim_commands(consumer, device)
        {
            let device = device.clone();
            return Err(SubscribeError::CommandsTaken { device });
        }
        for (index, subscription) in message.subscriptions.iter().enumerate() {
            let merged = self.wanted().merged(subscription);
            if self.session.subscribe(now, merged).is_err() {
                for taken in &message.subscriptions[..index] {
                    self.release(now, consumer, vec![taken.filter.clone()], None);
                }
                self.wanted().release_commands(consumer);
                return Err(SubscribeError::TooMany);
            }
            let granted = message.consumer.grants.granted();
            self.wanted().add(consumer, subscription.clone(), granted);
        }
        Ok(())
    }
}

fn note_delivered(outcomes: &mut Option<Box<Outcomes>>, tokens: Range<u64>) {
    if !tokens.is_empty() {
        outcomes.get_or_insert_default().note_delivered(tokens);
    }
}

impl Handler<Received> for Codec {
    type Result = ();

    fn handle(&mut self, message: Received, ctx: &mut Self::Context) {
        let now = Instant::now();
        let block = self.decode(now, message.0);
        self.advance(now, ctx);
        self.hand_over(block);
    }
}

impl Handler<Settled> for Codec {
    type Result = ();

    fn handle(&mut self, message: Settled, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.session.acknowledge_all(now, message.0.ids());
        self.advance(now, ctx);
    }
}

impl Handler<AcknowledgeGathered> for Codec {
    type Result = ();

    fn handle(&mut self, message: AcknowledgeGathered, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.session.acknowledge_all(now, message.0.take());
        self.advance(now, ctx);
    }
}

impl Handler<Subscribe> for Codec {
    type Result = Result<(), SubscribeError>;

    fn handle(&mut self, message: Subscribe, ctx: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        let result = self.subscribe(now, &message);
        if result.is_ok() {
            let subscriptions = message.subscriptions.into_iter();
            let filters = subscriptions.map(|wanted| wanted.filter).collect();
            self.router()
                .do_send(AddConsumer(message.consumer, filters));
        }
        self.advance(now, ctx);
        result
    }
}

impl Handler<Unsubscribe> for Codec {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Self::Context) {
        // Who asks for the commands next is not to find them taken.
        self.wanted().release_commands(message.consumer);
        self.router().do_send(message);
    }
}

impl Handler<DropFilters> for Codec {
    type Result = ();

    fn handle(&mut self, message: DropFilters, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.release(now, message.consumer, message.filters, message.told);
        self.advance(now, ctx);
    }
}

impl Handler<GiveUp> for Codec {
    type Result = ();

    fn handle(&mut self, message: GiveUp, ctx: &mut Self::Context) {
        let now = Instant::now();
        let GiveUp { filters, told } = message;
        let wanted = self.wanted();
        let mut gone = filters.clone();
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|filter| !wanted.has(filter));
        let token = wanted.leaving.expect(filters, &gone, told);
        for filter in &gone {
            self.session.unsubscribe(now, filter, token);
        }
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
