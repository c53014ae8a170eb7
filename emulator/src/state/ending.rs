//! How connections and sessions end, and what becomes of wills.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use paquebot_protocols::mqtt::{Disconnect, Publish, ReasonCode, Version, Will};
use tokio::time::Instant;

use super::{State, Timer};
use crate::link::LinkId;
use crate::message::Message;
use crate::outbox::Closing;
use crate::policy::{Client, Verdict};
use crate::remarks::Explanation;
use crate::service::{Departure, EventKind};
use crate::session::{Session, Violation};
use crate::sessions::SessionKey;

/// What the log says of a connection that the server ends.
const CLOSED: &str = "its connection is closed";

impl State {
    /// The connection is gone without a DISCONNECT.
    pub(crate) fn handle_lost(&mut self, link: LinkId, now: Instant) {
        if self.parts(link, now).is_some() {
            self.leave(link.session, Departure::Lost, now);
        }
    }

    /// The client said nothing for one and a half times its keep alive `[MQTT-3.1.2-22]`.
    pub(crate) fn handle_keep_alive_timeout(&mut self, link: LinkId, now: Instant) {
        if self.parts(link, now).is_some() {
            let text = "no packet came within one and a half times the keep alive";
            let why = Explanation::new("MQTT: keep alive [MQTT-3.1.2-22]", text);
            self.remark(link.session, CLOSED, &why);
            self.dismiss(
                link.session,
                ReasonCode::KEEP_ALIVE_TIMEOUT,
                Some(text),
                Departure::KeepAliveTimeout,
                now,
            );
        }
    }

    /// The connection has lasted as long as its listener allows.
    pub(super) fn end_connection(&mut self, link: LinkId, now: Instant) {
        if self.parts(link, now).is_some() {
            let text = "it has lasted as long as a connection of its kind may";
            let why = Explanation::new("lifetime of a connection", text);
            self.remark(link.session, CLOSED, &why);
            self.dismiss(
                link.session,
                ReasonCode::MAXIMUM_CONNECT_TIME,
                None,
                Departure::LifetimeOver,
                now,
            );
        }
    }

    /// The client broke the protocol or a limit.
    pub(crate) fn handle_violation(&mut self, link: LinkId, violation: Violation, now: Instant) {
        if let Some((_, turn)) = self.parts(link, now) {
            turn.stats.violations += 1;
            let Violation {
                reason_code,
                text,
                explanation,
            } = violation;
            let why = explanation.map_or_else(
                || Explanation::new("MQTT: what a client may send", text.clone()),
                |explanation| *explanation,
            );
            self.remark(link.session, CLOSED, &why);
            let why = Departure::Violation(reason_code);
            self.dismiss(link.session, reason_code, Some(&text), why, now);
        }
    }

    pub(super) fn handle_disconnect(
        &mut self,
        link: LinkId,
        disconnect: &Disconnect,
        now: Instant,
    ) -> Result<(), Violation> {
        let expiry_max = self.limits.session_expiry_max;
        let Some((session, _)) = self.parts(link, now) else {
            return Ok(());
        };
        if let Some(wanted) = disconnect.properties.session_expiry_interval {
            // A session that was to end with its connection cannot be kept after all (§3.14.2.2.2).
            if session.expiry_interval == 0 && wanted != 0 {
                return Err(Violation::new(
                    ReasonCode::PROTOCOL_ERROR,
                    "DISCONNECT sets a session expiry interval where CONNECT had none",
                ));
            }
            session.expiry_interval = wanted.min(expiry_max);
        }
        if disconnect.reason_code != ReasonCode::DISCONNECT_WITH_WILL
            && (session.version == Version::V311 || !disconnect.reason_code.is_error())
        {
            session.will = None;
        }
        if let Some(connected) = &session.link {
            connected.outbox.close(Closing::AfterWriting);
        }
        self.leave(link.session, Departure::Disconnected, now);
        Ok(())
    }

    /// Takes the connection off a session and starts what its end starts.
    pub(super) fn leave(&mut self, key: SessionKey, why: Departure, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.link.is_none() {
            return;
        }
        session.detach();
        self.stats.connections -= 1;
        self.stats.disconnects += 1;
        tracing::debug!(client_id = %session.client_id, "client disconnected");
        let (expiry, serial) = (session.expiry_interval, session.serial);
        self.tell(key, EventKind::Disconnected(why), now);
        if expiry == 0 {
            self.end_session(key, now);
            return;
        }
        let link = LinkId {
            session: key,
            serial,
        };
        let delay = self
            .sessions
            .get(key)
            .and_then(|session| session.will.as_ref())
            .map(|will| will.properties.will_delay_interval.unwrap_or(0));
        let mut timers = Vec::new();
        if expiry != u32::MAX {
            timers.push(self.schedule(after(now, expiry), Timer::ExpireSession(link)));
        }
        match delay {
            Some(0) => self.publish_due_will(link, now),
            Some(seconds) => {
                timers.push(self.schedule(after(now, seconds), Timer::PublishWill(link)));
            }
            None => {}
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.timers = timers;
        }
    }

    /// Ends a session for good; a will that still waited is published now `[MQTT-3.1.3-9]`.
    pub(super) fn end_session(&mut self, key: SessionKey, now: Instant) {
        let Some(mut session) = self.sessions.remove(key) else {
            return;
        };
        for timer in &session.timers {
            self.timers.remove(timer);
        }
        for filter in session.subscriptions.keys() {
            self.subscriptions.remove(filter, key);
        }
        if let Some(will) = session.will.take() {
            let sender = WillSender::of(&session, key);
            self.publish_will(&sender, *will, now);
        }
    }

    pub(super) fn expire_session(&mut self, link: LinkId, now: Instant) {
        if self.is_absent_since(link) {
            self.end_session(link.session, now);
        }
    }

    pub(super) fn publish_due_will(&mut self, link: LinkId, now: Instant) {
        if !self.is_absent_since(link) {
            return;
        }
        let Some(session) = self.sessions.get_mut(link.session) else {
            return;
        };
        if let Some(will) = session.will.take() {
            let sender = WillSender::of(session, link.session);
            self.publish_will(&sender, *will, now);
        }
    }

    /// Whether `link` was the session's last connection and has ended.
    fn is_absent_since(&self, link: LinkId) -> bool {
        self.sessions
            .get(link.session)
            .is_some_and(|session| session.link.is_none() && session.serial == link.serial)
    }

    fn publish_will(&mut self, sender: &WillSender, will: Will, now: Instant) {
        let publish = Publish {
            dup: false,
            qos: will.qos,
            retain: will.retain,
            topic: None,
            packet_id: None,
            payload: will.payload.clone(),
            properties: will.properties.clone(),
        };
        let client = Client {
            client_id: &sender.client_id,
            principal: sender.principal.as_deref(),
            version: sender.version,
        };
        if self.policy.judge_publish(&client, &will.topic, &publish) != Verdict::Allow {
            self.stats.denied += 1;
            return;
        }
        let mut properties = will.properties;
        if properties.will_delay_interval.is_some() {
            properties.edit().will_delay_interval = None;
        }
        let message = Message {
            topic: will.topic,
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            properties,
            publisher: Some(sender.session),
            taken: now,
        };
        self.route(message, Some(&sender.client_id), now);
    }
}

/// Whose will it is; its session may have ended.
struct WillSender {
    client_id: ByteString,
    principal: Option<Arc<str>>,
    version: Version,
    session: SessionKey,
}

impl WillSender {
    fn of(session: &Session, key: SessionKey) -> Self {
        Self {
            client_id: session.client_id.clone(),
            principal: session.principal.clone(),
            version: session.version,
            session: key,
        }
    }
}

fn after(now: Instant, seconds: u32) -> Instant {
    now + Duration::from_secs(u64::from(seconds))
}
