//! The server's state: sessions, subscriptions, retained messages, timers.
//!
//! It does no input or output and reads no clock: connections hand it the packets of one read and the
//! time, and it pushes packets into outboxes. [`crate::shared`] keeps it behind one lock that is taken
//! once per read, so a publish goes from its reader to all outboxes without a hop between tasks.

mod connect;
mod ending;
mod events;
mod inbound;
mod route;
mod scripted;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::faults::FaultRules;
use crate::limits::Limits;
use crate::link::LinkId;
use crate::pace::ConnectPace;
use crate::policy::Policy;
use crate::record::{LinkRecorder, Recorder};
use crate::remarks::{Explanation, Remarks, Who};
use crate::retained::RetainedMessages;
use crate::service::Service;
use crate::session::{Session, Turn};
use crate::sessions::{SessionKey, Sessions};
use crate::stats::{ClientInfo, Stats};
use crate::subscriptions::{Match, Subscriptions};
use crate::watch::Watcher;

pub(crate) use connect::{Admission, Arrival};

pub(crate) struct State {
    limits: Limits,
    policy: Box<dyn Policy>,
    service: Option<Box<dyn Service>>,
    sessions: Sessions,
    subscriptions: Subscriptions,
    retained: RetainedMessages,
    timers: BTreeMap<TimerKey, Timer>,
    stats: Stats,
    faults: FaultRules,
    watchers: Vec<Watcher>,
    recorder: Option<Recorder>,
    remarks: Arc<Remarks>,
    connects: ConnectPace,
    /// Counts accepted connections and timers.
    serial: u64,
    /// Counts client identifiers that the server chose.
    assigned: u64,
    /// Counts scripted restarts: a connection from before one is void.
    epoch: u64,
    down_until: Option<Instant>,
    /// Reused by each publish.
    matches: Vec<Match>,
}

/// How often more of a resumed session's messages are sent.
const REPLAY_INTERVAL: Duration = Duration::from_secs(1);

/// When a timer is due; the number tells those of one instant apart.
pub(crate) type TimerKey = (Instant, u64);

/// What is to happen later to a session, as long as the connection it was set for is its last.
#[derive(Debug, Clone, Copy)]
enum Timer {
    ExpireSession(LinkId),
    PublishWill(LinkId),
    ReleaseHeld(LinkId),
    EndConnection(LinkId),
    EndPause(LinkId),
    Replay(LinkId),
    Redeliver(LinkId),
}

impl State {
    pub(crate) fn new(
        limits: Limits,
        policy: Box<dyn Policy>,
        service: Option<Box<dyn Service>>,
        remarks: Arc<Remarks>,
    ) -> Self {
        Self {
            subscriptions: Subscriptions::new(limits.multi_level_matches_parent),
            connects: ConnectPace::new(limits.connect_interval_min),
            limits,
            policy,
            service,
            sessions: Sessions::default(),
            retained: RetainedMessages::default(),
            timers: BTreeMap::new(),
            stats: Stats::default(),
            faults: FaultRules::default(),
            watchers: Vec::new(),
            recorder: None,
            remarks,
            serial: 0,
            assigned: 0,
            epoch: 0,
            down_until: None,
            matches: Vec::new(),
        }
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a scripted restart's down time is on.
    pub(crate) fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            retained: self.retained.len(),
            ..self.stats
        }
    }

    pub(crate) fn clients(&self) -> Vec<ClientInfo> {
        self.sessions.iter().map(describe).collect()
    }

    pub(crate) fn client(&self, client_id: &str) -> Option<ClientInfo> {
        let key = self.sessions.find(client_id)?;
        self.sessions.get(key).map(describe)
    }

    pub(crate) fn add_watcher(&mut self, watcher: Watcher) {
        self.watchers.retain(|watcher| !watcher.is_closed());
        self.watchers.push(watcher);
    }

    /// Puts what goes over the connections from now on on record.
    pub(crate) fn record(&mut self, recorder: Recorder) {
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key)
                && let Some(link) = &mut session.link
            {
                link.recorder = Some(Box::new(LinkRecorder {
                    recorder: recorder.clone(),
                    client_id: session.client_id.clone(),
                }));
            }
        }
        self.recorder = Some(recorder);
    }

    /// When [`State::handle_timeout`] is due next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let service = self
            .service
            .as_ref()
            .and_then(|service| service.poll_timeout());
        match (timer, service) {
            (Some(timer), Some(service)) => Some(timer.min(service)),
            (timer, service) => timer.or(service),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Timer::ExpireSession(link) => self.expire_session(link, now),
                Timer::PublishWill(link) => self.publish_due_will(link, now),
                Timer::ReleaseHeld(link) => self.release_held(link, now),
                Timer::EndConnection(link) => self.end_connection(link, now),
                Timer::Replay(link) => self.replay(link, now),
                Timer::Redeliver(link) => self.redeliver(link, now),
                Timer::EndPause(link) => self.end_pause(link, now),
            }
        }
        self.handle_service_timeout(now);
    }

    /// Says in the log what was done to a session's client, and why.
    fn remark(&self, key: SessionKey, what: impl Display, why: &Explanation) {
        if let Some(session) = self.sessions.get(key) {
            let mut who = Who::client(&session.client(), session.peer.address);
            who.principal = session
                .principal
                .as_deref()
                .map(|principal| self.policy.describe(principal));
            self.remarks.tell(&who, what, why);
        }
    }

    fn schedule(&mut self, at: Instant, timer: Timer) -> TimerKey {
        self.serial += 1;
        let key = (at, self.serial);
        self.timers.insert(key, timer);
        key
    }

    /// The session of a connection that is still its present one, with what its steps need.
    fn parts(&mut self, link: LinkId, now: Instant) -> Option<(&mut Session, Turn<'_>)> {
        let session = self.sessions.get_mut(link.session)?;
        if session.link.as_ref()?.serial != link.serial {
            return None;
        }
        let turn = Turn {
            limits: &self.limits,
            policy: &*self.policy,
            stats: &mut self.stats,
            now,
        };
        Some((session, turn))
    }

    /// Sends more of what a resumed session had stored.
    fn replay(&mut self, link: LinkId, now: Instant) {
        let Some(allowed) = self.limits.replayed_per_second_max else {
            return;
        };
        let Some((session, mut turn)) = self.parts(link, now) else {
            return;
        };
        if session.replay(allowed, &mut turn) {
            self.schedule(now + REPLAY_INTERVAL, Timer::Replay(link));
        }
    }

    /// Sends again what its client leaves without acknowledgement.
    fn redeliver(&mut self, link: LinkId, now: Instant) {
        let Some(interval) = self.limits.redelivery_interval else {
            return;
        };
        if let Some((session, mut turn)) = self.parts(link, now) {
            session.redeliver(&mut turn);
            self.schedule(now + interval, Timer::Redeliver(link));
        }
    }

    /// The connection's outbox has room again.
    pub(crate) fn handle_drained(&mut self, link: LinkId, now: Instant) {
        if let Some((session, mut turn)) = self.parts(link, now) {
            session.pump(&mut turn);
        }
    }

    /// Sees to it that held packets are released in time.
    fn settle(&mut self, link: LinkId, now: Instant) {
        let Some((session, _)) = self.parts(link, now) else {
            return;
        };
        let Some(connected) = &mut session.link else {
            return;
        };
        let Some(due) = connected.holds.as_ref().and_then(|holds| holds.next_due()) else {
            return;
        };
        if connected.release_at.is_none_or(|at| due < at) {
            connected.release_at = Some(due);
            self.schedule(due, Timer::ReleaseHeld(link));
        }
    }

    fn release_held(&mut self, link: LinkId, now: Instant) {
        let Some((session, _)) = self.parts(link, now) else {
            return;
        };
        if let Some(connected) = &mut session.link {
            connected.release_at = None;
            connected.release_due(now);
        }
        self.settle(link, now);
    }
}

fn describe(session: &Session) -> ClientInfo {
    let subscriptions = session.subscriptions.iter();
    ClientInfo {
        client_id: session.client_id.clone(),
        connected: session.link.is_some(),
        principal: session.principal.clone(),
        version: session.version,
        keep_alive: session.keep_alive,
        session_expiry_interval: session.expiry_interval,
        subscriptions: subscriptions
            .map(|(filter, options)| (filter.as_str().to_owned(), options.qos))
            .collect(),
        inflight: session.inflight_len(),
        queued: session.queue_len(),
    }
}
