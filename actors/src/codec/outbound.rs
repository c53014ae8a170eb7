//! The way out: messages to packets, and the delivery of those that nobody acknowledges.

use std::time::Instant;

use actix::Handler;

use super::Codec;
use crate::message::{Outcomes, PublishBatch, Returned, Written};
use crate::receipt::{DropReason, Outcome};
use paquebot_protocols::mqtt::ReasonCode;

/// Most bytes given to the connection and not yet in the socket before nothing more is encoded.
const OUTSTANDING_BYTES_MAX: u64 = 256 * 1024;

impl Codec {
    /// Whether the connection has room. What it has not stays in the session, which leaves a server that
    /// calls for answers and does not read them.
    pub(super) fn may_transmit(&self) -> bool {
        self.transmitted.saturating_sub(self.written) < OUTSTANDING_BYTES_MAX
    }

    /// QoS 0 messages that did not get into the socket before the connection ended. One that this end closes
    /// still writes what it has, so there they count as lost only when it is gone.
    pub(super) fn lose_unwritten(&mut self) -> impl Iterator<Item = (u64, Outcome)> + '_ {
        self.unwritten
            .drain(..)
            .map(|(_, token)| (token, Outcome::Dropped(DropReason::ConnectionLost)))
    }
}

impl Handler<Written> for Codec {
    type Result = ();

    fn handle(&mut self, message: Written, ctx: &mut Self::Context) {
        let was_full = !self.may_transmit();
        self.written = message.0;
        let mut outcomes = Vec::new();
        while let Some(&(end, token)) = self.unwritten.front() {
            if end > message.0 {
                break;
            }
            self.unwritten.pop_front();
            let delivered = Outcome::Delivered {
                code: ReasonCode::SUCCESS,
                session_lost: false,
            };
            outcomes.push((token, delivered));
        }
        if !outcomes.is_empty() {
            self.link.queue.do_send(Outcomes(outcomes));
        }
        if was_full && self.may_transmit() {
            self.advance(Instant::now(), ctx);
        }
    }
}

impl Handler<PublishBatch> for Codec {
    type Result = ();

    fn handle(&mut self, message: PublishBatch, ctx: &mut Self::Context) {
        let now = Instant::now();
        let mut returned = Vec::new();
        for outgoing in message.0 {
            // Once one message is refused the later ones are too, so that they keep their order.
            if !returned.is_empty() {
                returned.push(outgoing);
            } else if let Err(outgoing) = self.session.publish(now, outgoing) {
                returned.push(outgoing);
            }
        }
        self.advance(now, ctx);
        if !returned.is_empty() {
            self.link.queue.do_send(Returned(returned));
        }
    }
}
