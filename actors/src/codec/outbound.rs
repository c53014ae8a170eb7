//! The way out: messages to packets, and the delivery of those that nobody acknowledges.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use actix::Handler;

use bytes::{Bytes, BytesMut};
use paquebot_protocols::mqtt::QoS;
use paquebot_protocols::mqtt::session::{Outgoing, Written as SessionWritten};

use super::Codec;
use crate::buffers;
use crate::link::time_of_turn;
use crate::message::{
    Outcomes, PublishBatch, Returned, ReturnedSeen, RoomFreed, Transmit, Written,
};
use crate::offline_queue::keep_publish_list;
use crate::receipt::{DropReason, Outcome};
use crate::transport::Target;

/// Most bytes given to the connection and not yet in the socket before nothing more is encoded.
const OUTSTANDING_BYTES_MAX: u64 = 256 * 1024;

/// Bytes that are given to the connection at once: more in one system call gains nothing.
const PIECE: usize = 64 * 1024;

/// Payloads from this size on are written from where they lie and not copied into a buffer first. Chosen by bare sockets on
/// loopback, where a busy machine showed no gain below it; what it brings a link has not been measured.
const GATHERED_MIN: usize = 32 * 1024;

/// What a PUBLISH has besides topic and payload, when it has no properties: fixed header, topic length and
/// packet identifier.
const FRAMING: usize = 10;

/// Places for unwritten messages that are not kept: those of a link that sends now and then.
const UNWRITTEN_SMALL: usize = 4;

impl Codec {
    /// Whether the connection has room. What it has not stays in the session, which leaves a server that
    /// calls for answers and does not read them.
    pub(super) fn may_transmit(&self) -> bool {
        self.transmitted.saturating_sub(self.written) < OUTSTANDING_BYTES_MAX
    }

    /// A buffer for what the session has to send.
    pub(super) fn take_buffer(&mut self) -> BytesMut {
        match std::mem::take(&mut self.expected_bytes) {
            _ if self.session.transmit_len() == 0 => BytesMut::new(),
            // Answers, or what did not fit the piece before.
            0 => buffers::take(self.session.transmit_len() * FRAMING),
            expected => buffers::take(expected),
        }
    }

    /// Whether the connection is to tell when it has written what it is given now.
    pub(super) fn wants_report(&self) -> bool {
        !self.unwritten.is_empty()
            || self.transmitted.saturating_sub(self.written) >= OUTSTANDING_BYTES_MAX / 4
    }

    /// Gives bytes to the connection.
    pub(super) fn transmit(&mut self, bytes: BytesMut) {
        if bytes.is_empty() {
            return buffers::give_back(bytes);
        }
        self.transmit_with(bytes, Bytes::new());
    }

    /// Gives bytes to the connection and a payload that follows them.
    fn transmit_with(&mut self, bytes: BytesMut, payload: Bytes) {
        self.transmitted += (bytes.len() + payload.len()) as u64;
        let wants_report = self.wants_report();
        self.send(Transmit {
            bytes,
            payload,
            wants_report,
        });
    }

    /// Whether a message's payload is written from where it lies. TLS and WebSocket copy it anyway.
    fn gathers(&self, message: &Outgoing) -> bool {
        message.payload.len() >= GATHERED_MIN
            && matches!(*self.link.target, Target::Tcp(_) | Target::Pipe(_))
    }

    /// A QoS 0 message is delivered once the bytes that were made so far are in the socket.
    pub(super) fn note_unwritten(&mut self, token: u64) {
        self.note_written(Some(token..token + 1), 0);
    }

    /// QoS 0 messages are delivered once `more` bytes beyond those given to the connection are in the socket.
    fn note_written(&mut self, tokens: Option<Range<u64>>, more: usize) {
        let Some(tokens) = tokens else {
            return;
        };
        let until = self.transmitted + more as u64;
        match self.unwritten.back_mut() {
            Some((end, last)) if *end == until && last.end == tokens.start => {
                last.end = tokens.end;
            }
            _ => self.unwritten.push_back((until, tokens)),
        }
    }

    /// Tells the queue once the session has room again for what it did not take.
    pub(super) fn tell_room(&mut self) {
        if self.returned_unseen == 0
            && let Some(qos) = self.owes_room
            && self.session.has_room_for(qos)
        {
            self.owes_room = None;
            self.link.tell_queue(RoomFreed);
        }
    }

    /// QoS 0 messages that did not get into the socket before the connection ended. One that this end closes
    /// still writes what it has, so there they count as lost only when it is gone.
    pub(super) fn lose_unwritten(&mut self) -> impl Iterator<Item = (u64, Outcome)> + '_ {
        self.unwritten
            .drain(..)
            .flat_map(|(_, tokens)| tokens)
            .map(|token| (token, Outcome::Dropped(DropReason::ConnectionLost)))
    }
}

impl Handler<Written> for Codec {
    type Result = ();

    fn handle(&mut self, message: Written, ctx: &mut Self::Context) {
        let was_full = !self.may_transmit();
        self.written = message.0;
        let mut outcomes = Outcomes::default();
        while let Some((_, tokens)) = self.unwritten.pop_front_if(|(end, _)| *end <= message.0) {
            outcomes.note_delivered(tokens);
        }
        if self.unwritten.is_empty() && self.unwritten.capacity() <= UNWRITTEN_SMALL {
            self.unwritten = VecDeque::new();
        }
        if !outcomes.is_empty() {
            self.link.tell_queue(outcomes);
        }
        if was_full && self.may_transmit() {
            self.advance(Instant::now(), ctx);
        }
    }
}

impl Handler<PublishBatch> for Codec {
    type Result = ();

    fn handle(&mut self, message: PublishBatch, ctx: &mut Self::Context) {
        let now = time_of_turn();
        self.note_stored(message.stored);
        if self.returned_unseen > 0 {
            return self.give_back(message.messages);
        }
        self.note_other_published();
        let mut returned = Vec::new();
        let expected = message.bytes + message.messages.len() * FRAMING;
        let mut output = BytesMut::new();
        let mut is_room = self.may_transmit();
        let is_gathered = message
            .messages
            .first()
            .is_some_and(|first| self.gathers(first));
        if is_room && is_gathered {
            // Takes a small one for each head.
        } else if is_room && self.session.transmit_len() == 0 {
            output = buffers::take(expected);
        } else {
            self.expected_bytes = expected;
        }
        // QoS 0 messages in the output that were written at once.
        let mut written: Option<Range<u64>> = None;
        let mut messages = message.messages;
        let mut rest = messages.drain(..);
        while let Some(next) = rest.as_slice().first() {
            let (token, qos) = (next.token, next.qos);
            if is_room && returned.is_empty() && self.gathers(next) {
                let before = output.len();
                if output.capacity() == 0 {
                    output = buffers::take(next.topic.as_str().len() + FRAMING);
                }
                if self.session.write_head_at_once(now, next, &mut output) {
                    let payload = next.payload.clone();
                    self.note_written(written.take(), before);
                    let until = output.len() + payload.len();
                    self.note_written(Some(token..token + 1), until);
                    self.transmit_with(std::mem::take(&mut output), payload);
                    drop(rest.next());
                    is_room = self.may_transmit();
                    continue;
                }
            }
            // Nobody needs one of QoS 0 any more once it is written, so it is from where it lies.
            let is_written = if is_room
                && qos == QoS::AtMostOnce
                && returned.is_empty()
                && self.session.write_at_once(now, next, &mut output)
            {
                drop(rest.next());
                true
            } else {
                let Some(outgoing) = rest.next() else {
                    break;
                };
                // Once one message is refused the later ones are too, so that they keep their order.
                if !returned.is_empty() {
                    returned.push(outgoing);
                    continue;
                }
                let result = if is_room {
                    self.session.publish_into(now, outgoing, &mut output)
                } else {
                    let result = self.session.publish(now, outgoing);
                    result.map(|()| SessionWritten::Later)
                };
                match result {
                    Ok(taken) => taken == SessionWritten::Now && qos == QoS::AtMostOnce,
                    Err(outgoing) => {
                        returned.push(outgoing);
                        false
                    }
                }
            };
            if is_written {
                match &mut written {
                    Some(tokens) if tokens.end == token => tokens.end += 1,
                    _ => {
                        let earlier = written.replace(token..token + 1);
                        self.note_written(earlier, output.len());
                    }
                }
            }
            if output.len() >= PIECE {
                self.note_written(written.take(), output.len());
                self.transmit(std::mem::take(&mut output));
                is_room = self.may_transmit();
            }
        }
        drop(rest);
        keep_publish_list(messages);
        self.note_written(written, output.len());
        self.transmit(output);
        // Messages that went at once bring no deadline nearer, so the timer stays as it is. With a journal there may be
        // something to record, and output that waits for it.
        if !self.session.is_quiet() || self.journal.is_some() {
            self.advance(now, ctx);
        }
        self.give_back(returned);
    }
}

impl Codec {
    fn give_back(&mut self, returned: Vec<Outgoing>) {
        let Some(first) = returned.first() else {
            return;
        };
        // The oldest of them is what goes first.
        let oldest = *self.owes_room.get_or_insert(first.qos);
        self.owes_room = self.session.is_online().then_some(oldest);
        for outgoing in &returned {
            self.forget_stored(outgoing.token);
        }
        self.returned_unseen += 1;
        self.link.tell_queue(Returned(returned));
    }
}

impl Handler<ReturnedSeen> for Codec {
    type Result = ();

    fn handle(&mut self, _: ReturnedSeen, _: &mut Self::Context) {
        self.returned_unseen = self.returned_unseen.saturating_sub(1);
        self.tell_room();
    }
}
