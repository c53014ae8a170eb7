//! A drain: what is held goes out, then the farewell, then the link leaves.

use actix::{AsyncContext, Handler};
use paquebot_protocols::dialect::Rendered;
use paquebot_protocols::mqtt::ReasonCode;

use super::OfflineQueue;
use crate::link::Context;
use crate::message::{Drain, Leave};

/// What is left to do before the link leaves.
pub(super) struct DrainState {
    farewell: Option<Rendered>,
    farewell_sent: bool,
    /// A link that announced itself and could not say goodbye leaves that to its will.
    needs_will: bool,
}

impl OfflineQueue {
    /// Once nothing is held and nothing more comes: says the farewell, or leaves.
    pub(super) fn advance_drain(&mut self, ctx: &mut Context<Self>) {
        let idle = self.is_nothing_waiting() && self.inflight.len() == 0;
        let intake_done = self.arrived.is_empty() && self.link.intake.is_done();
        let Some(drain) = &mut self.draining else {
            return;
        };
        if !idle || !intake_done {
            return;
        }
        match drain.farewell.take() {
            Some(farewell) if self.window.is_some() && !drain.farewell_sent => {
                drain.farewell_sent = true;
                self.admit_own(farewell, false);
                self.pump(ctx);
            }
            _ => {
                drain.needs_will &= !drain.farewell_sent;
                self.end_drain();
            }
        }
    }

    fn end_drain(&mut self) {
        let drain = self.draining.take();
        let code = if drain.is_some_and(|drain| drain.needs_will) {
            ReasonCode::DISCONNECT_WITH_WILL
        } else {
            ReasonCode::SUCCESS
        };
        self.link.tell_codec(Leave(code));
    }
}

impl Handler<Drain> for OfflineQueue {
    type Result = ();

    fn handle(&mut self, message: Drain, ctx: &mut Self::Context) {
        self.link.intake.close();
        if self.draining.is_none() {
            self.draining = Some(Box::new(DrainState {
                needs_will: message.farewell.is_some(),
                farewell: message.farewell,
                farewell_sent: false,
            }));
        }
        // Of two drains the shorter deadline holds.
        ctx.run_later(message.deadline, |queue, _| queue.end_drain());
        self.pump(ctx);
    }
}
