//! Scripted faults, as they act on the state.

use std::time::Duration;

use bytes::Bytes;
use paquebot_protocols::mqtt::ReasonCode;
use tokio::time::Instant;

use super::State;
use crate::faults::{Effect, Target};
use crate::holds::Holds;
use crate::link::LinkId;
use crate::outbox::{Closing, Direction, Outgoing};
use crate::service::Departure;

impl State {
    pub(crate) fn add_fault(&mut self, target: Target, effect: Effect, now: Instant) -> u64 {
        let id = self.faults.add(target, effect);
        self.apply_faults(now);
        id
    }

    pub(crate) fn lift_fault(&mut self, id: u64, now: Instant) {
        self.faults.remove(id);
        self.apply_faults(now);
    }

    pub(crate) fn lift_all_faults(&mut self, now: Instant) {
        self.faults.clear();
        self.down_until = None;
        self.apply_faults(now);
    }

    /// Brings every connection in line with the rules as they are now.
    fn apply_faults(&mut self, now: Instant) {
        for link in self.links(&Target::All) {
            let Some(session) = self.sessions.get_mut(link.session) else {
                continue;
            };
            let orders = self.faults.orders_for(&session.client_id);
            let Some(connected) = &mut session.link else {
                continue;
            };
            connected
                .outbox
                .stall_reading(orders.reading_stalled || connected.is_paced);
            match &mut connected.holds {
                Some(holds) => holds.set_rules(orders.holds, now),
                None if orders.holds.is_empty() => {}
                None => connected.holds = Some(Box::new(Holds::new(orders.holds))),
            }
            connected.release_due(now);
            self.settle(link, now);
        }
    }

    /// Cuts the clients connected now, or the next one to connect where there is none. Returns how many
    /// are connected now.
    pub(crate) fn cut(&mut self, target: Target, direction: Direction, bytes: u64) -> usize {
        let links = self.links(&target);
        for link in &links {
            if let Some(session) = self.sessions.get(link.session)
                && let Some(connected) = &session.link
            {
                connected.outbox.cut_after(direction, bytes);
            }
        }
        if links.is_empty() {
            self.faults.add_cut(target, direction, bytes);
        }
        links.len()
    }

    /// Ends connections with a DISCONNECT, or with none where there is no reason to give.
    pub(crate) fn disconnect(
        &mut self,
        target: &Target,
        reason_code: Option<ReasonCode>,
        now: Instant,
    ) -> usize {
        let links = self.links(target);
        for link in &links {
            match reason_code {
                Some(code) => self.dismiss(link.session, code, None, Departure::Dismissed, now),
                None => self.drop_link(*link, now),
            }
        }
        links.len()
    }

    fn drop_link(&mut self, link: LinkId, now: Instant) {
        if let Some(session) = self.sessions.get(link.session)
            && let Some(connected) = &session.link
        {
            connected.outbox.close(Closing::AtOnce);
        }
        self.leave(link.session, Departure::Dismissed, now);
    }

    pub(crate) fn send_raw(&mut self, target: &Target, bytes: &Bytes) -> usize {
        let links = self.links(target);
        for link in &links {
            if let Some(session) = self.sessions.get(link.session)
                && let Some(connected) = &session.link
            {
                connected.outbox.push(Outgoing::Raw(bytes.clone()));
            }
        }
        links.len()
    }

    /// Drops every connection the way a killed process does: without DISCONNECT and without wills.
    pub(crate) fn restart(&mut self, keeps_sessions: bool, down_time: Duration, now: Instant) {
        self.epoch += 1;
        self.down_until = Some(now + down_time);
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(key) else {
                continue;
            };
            session.will = None;
            if let Some(connected) = &session.link {
                connected.outbox.close(Closing::AtOnce);
                self.leave(key, Departure::Lost, now);
            }
            if !keeps_sessions {
                self.end_session(key, now);
            }
        }
        if !keeps_sessions {
            self.retained = Default::default();
        }
    }

    /// Ends every connection for good, with a DISCONNECT where the version has one.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        for link in self.links(&Target::All) {
            if let Some(session) = self.sessions.get_mut(link.session) {
                session.will = None;
            }
            let code = ReasonCode::SERVER_SHUTTING_DOWN;
            self.dismiss(link.session, code, None, Departure::Dismissed, now);
        }
        self.watchers.clear();
    }

    fn links(&self, target: &Target) -> Vec<LinkId> {
        let link = |session: &crate::session::Session| {
            let serial = session.link.as_ref()?.serial;
            let session = self.sessions.find(&session.client_id)?;
            Some(LinkId { session, serial })
        };
        self.sessions
            .iter()
            .filter(|session| target.includes(&session.client_id))
            .filter_map(link)
            .collect()
    }
}
