//! The Codec actor: owns the MQTT session and its timer, turns bytes into packets and back.
//!
//! It is the only actor that knows MQTT: the connection moves bytes, the queue moves messages, the
//! router moves what came in. All protocol rules live in [`paquebot_protocols::mqtt::session`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::{Actor, Addr, AsyncContext, Handler, SpawnHandle};
use bytes::{Bytes, BytesMut};
use paquebot_protocols::backoff::FailureClass;
use paquebot_protocols::dialect::{DialectError, Outbound};
use paquebot_protocols::mqtt::session::{CloseReason, ConnectOptions, Event, Session};
use paquebot_protocols::mqtt::{Decoder, QoS, ReasonCode, Sender, Version};

use crate::buffers;
use crate::command_router::CommandRouter;
use crate::event::{LinkEvent, LinkState};
use crate::inbound::Block;
use crate::link::{Context, LinkContext, Resident, time_of_turn};
use crate::message::{
    AfterClose, CloseTransport, FilterAnswered, Leave, LinkOffline, LinkOnline, Outcomes,
    Reconnect, SessionOnline, Shutdown, TimeCame, Transmit, TransportLost, TransportOpened,
};
use crate::offline_queue::RestoredSession;
use crate::receipt::{DropReason, Outcome};
use crate::timers;
use crate::transport::ConnectError;

mod closing;
mod inbound;
mod journal;
mod leaving;
mod outbound;
mod reasons;
mod requests;
mod shadows;
mod wanted;

use closing::Suspect;
use journal::Journal;
pub(crate) use reasons::DISCONNECT_REASONS;
pub(crate) use reasons::{reason_name, refusal_name};
use requests::REQUESTS_FROM;
use wanted::Wanted;

/// The shortest life of a connection before its credentials are renewed, so that credentials which are
/// already stale lead to no storm of connections.
const RENEWAL_MIN: Duration = Duration::from_secs(5);

/// The actor. In the order written here: what every message needs lies together.
#[repr(C)]
pub(crate) struct Codec {
    link: Arc<LinkContext>,
    /// Bytes given to the connection since it opened.
    transmitted: u64,
    /// How many of them are in the socket.
    written: u64,
    /// How many bytes the next packets will have, roughly.
    expected_bytes: usize,
    /// QoS 0 messages, by token, that are delivered once so many bytes are in the socket.
    unwritten: VecDeque<(u64, Range<u64>)>,
    /// `None` on a link whose queue is in memory only.
    journal: Option<Box<Journal>>,
    /// `None` on a link that nobody listens to.
    wanted: Option<Box<Wanted>>,
    session: Session,
    /// When [`TimeCame`] will come at the latest.
    timer: Option<Instant>,
    /// What this turn's acknowledgements ended.
    acknowledged: Option<Box<Outcomes>>,
    decoder: Decoder,
    /// The front of a packet whose rest has not come yet.
    carry: BytesMut,
    /// No packet can be complete before `carry` has so many bytes.
    carry_needed: usize,
    router: Option<Addr<CommandRouter>>,
    connected_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// `None` unless the server closed a connection without a word at a message that can be named.
    suspect: Option<Box<Suspect>>,
    /// What the server said when it refused this end's certificate.
    refusal: Option<Box<ConnectError>>,
    /// When the credentials of this connection stop being valid, and the timer that renews them before.
    credentials_expire: Option<SystemTime>,
    renewal: Option<SpawnHandle>,
    /// Connections in a row on which something was sent and nothing of it answered.
    fruitless: u32,
    /// Connections in a row that ended soon and without a word while nothing was under way.
    brief: u32,
    /// This connection is not one of them.
    has_answers: bool,
    /// The queue waits for room for a message of this quality of service, which the session did not take.
    owes_room: Option<QoS>,
    /// What the queue was given back and has not seen yet: what it handed on before that is behind it.
    returned_unseen: u16,
    leaving: bool,
    reconnecting: bool,
    /// The consumers hold as much as they may.
    reading_paused: bool,
}

impl Codec {
    pub(crate) fn new(link: Arc<LinkContext>, restored: Option<RestoredSession>) -> Self {
        let profile = &link.profile;
        let mut session = Session::new(Arc::clone(&profile.session));
        let decoder = new_decoder(&link);
        let (journal, returned_unseen) =
            Self::restore(&link, &mut session, restored.unwrap_or_default());
        Self {
            link,
            router: None,
            session,
            decoder,
            carry: BytesMut::new(),
            carry_needed: 0,
            transmitted: 0,
            written: 0,
            acknowledged: None,
            expected_bytes: 0,
            unwritten: VecDeque::new(),
            owes_room: None,
            returned_unseen,
            journal,
            wanted: None,
            timer: None,
            connected_at: None,
            opened_at: None,
            fruitless: 0,
            brief: 0,
            has_answers: false,
            suspect: None,
            refusal: None,
            leaving: false,
            reconnecting: false,
            credentials_expire: None,
            renewal: None,
            reading_paused: false,
        }
    }

    /// As [`OfflineQueue::call_up`](crate::offline_queue::OfflineQueue::call_up).
    #[inline]
    pub(crate) fn call_up(&self) -> usize {
        let lists = self.unwritten.len() ^ usize::from(self.session.is_quiet());
        lists ^ self.session.window() ^ self.session.inflight_len()
    }

    /// Takes what the session has to say: events first, since they may lead to more bytes.
    fn advance(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let acknowledged = self.acknowledged.take();
        let mut outcomes = acknowledged.map_or_else(Outcomes::default, |outcomes| *outcomes);
        let mut close = None;
        loop {
            let mut output = self.take_buffer();
            // The end of a connection is written whatever waits before it.
            let is_allowed = close.is_some() || self.may_transmit();
            let wrote = is_allowed && self.session.poll_transmit(now, &mut output);
            self.transmitted += output.len() as u64;
            while let Some(event) = self.session.poll_event() {
                self.handle_event(event, &mut outcomes, &mut close, ctx);
            }
            if wrote {
                let wants_report = self.wants_report();
                self.send(Transmit {
                    bytes: output,
                    payload: Bytes::new(),
                    wants_report,
                });
                continue;
            }
            buffers::give_back(output);
            if is_allowed || close.is_none() {
                break;
            }
        }
        self.record();
        if let Some(reason) = close {
            self.close(&reason, &mut outcomes, ctx);
        }
        if !outcomes.is_empty() {
            self.has_answers |= !outcomes.delivered.is_empty();
            self.link.tell_queue(outcomes);
        }
        self.tell_room();
        self.arm_timer();
    }

    fn handle_event(
        &mut self,
        event: Event,
        outcomes: &mut Outcomes,
        close: &mut Option<CloseReason>,
        ctx: &mut Context<Self>,
    ) {
        match event {
            Event::Transmitted { token }
            | Event::Unsent { token }
            | Event::Rejected { token, .. }
            | Event::Expired { token }
                if token >= REQUESTS_FROM =>
            {
                self.tell_request(token, &event);
            }
            Event::Transmitted { token } => self.note_unwritten(token),
            Event::Delivered {
                token,
                code,
                session_lost,
            } => {
                self.forget_stored(token);
                if code == ReasonCode::SUCCESS && !session_lost {
                    outcomes.note_delivered(token..token + 1);
                } else {
                    let outcome = Outcome::Delivered { code, session_lost };
                    outcomes.others.push((token, outcome));
                }
            }
            Event::Rejected {
                token,
                code,
                reason_string,
            } => {
                self.forget_stored(token);
                outcomes.others.push((
                    token,
                    Outcome::Rejected {
                        code,
                        reason: reason_string,
                    },
                ));
            }
            Event::Unsent { token } => {
                outcomes
                    .others
                    .push((token, Outcome::Dropped(DropReason::ConnectionLost)));
            }
            Event::Expired { token } => {
                self.forget_stored(token);
                outcomes.others.push((token, Outcome::Expired));
            }
            Event::Message(incoming) => {
                let mut block = Block::new(Bytes::new());
                block.push_apart(incoming);
                self.hand_over(block);
            }
            Event::Connected {
                session_present,
                session_lost,
                assigned_client_id,
                limits,
            } => {
                self.connected_at = Some(Instant::now());
                if let Some(opened_at) = self.opened_at.take() {
                    self.link
                        .metrics
                        .observe_stage(crate::transport::Stage::Mqtt, opened_at.elapsed());
                }
                self.link.events.emit(&LinkEvent::Connected {
                    session_present,
                    session_lost,
                    assigned_client_id,
                    limits,
                });
            }
            Event::Online => self.handle_online(ctx),
            Event::Closed(reason) => *close = Some(reason),
            Event::Subscribed { filter, code, .. } => {
                let result = match QoS::from_u8(code.0) {
                    Some(qos) => Ok(qos),
                    None => Err(code),
                };
                self.link.events.emit(&match result {
                    Ok(qos) => LinkEvent::Subscribed {
                        filter: filter.clone(),
                        qos,
                    },
                    Err(code) => LinkEvent::SubscriptionRefused {
                        filter: filter.clone(),
                        code,
                    },
                });
                if let (Err(code), Some(wanted)) = (result, &self.wanted) {
                    wanted.refuse(&filter, code);
                }
                self.router().do_send(FilterAnswered { filter, result });
            }
            Event::Unsubscribed {
                filter,
                code,
                token,
            } => {
                if let Some(wanted) = &mut self.wanted {
                    wanted.leaving.answer(token, &filter, code);
                }
            }
            // The driver starts no enhanced authentication, so the session reports a challenge only for a
            // server that breaks the protocol, which it closes itself.
            _ => {}
        }
    }

    fn handle_online(&mut self, ctx: &mut Context<Self>) {
        if self.reading_paused {
            // A new connection reads; the consumers may be as slow as before it.
            self.apply_reading_pause(Instant::now());
        }
        let link = &self.link;
        link.metrics.count_connected();
        let announcement = link.render_own(&Outbound::Online);
        self.link.tell_connection(SessionOnline);
        let window = self.session.window();
        self.link.tell_queue(LinkOnline {
            window,
            qos2_window: match self.link.identity.version {
                Version::V311 => window.min(self.link.profile.outbox.untold_qos2_max),
                // The server's Receive Maximum is part of the window.
                Version::V5 => window,
            },
            announcement: announcement.map(Box::new),
        });
        self.schedule_renewal(ctx);
        self.tell_shadows_online();
        // Last, so that whoever hears of it finds all of the link online.
        self.link.events.enter(LinkState::Online);
        self.link.events.emit(&LinkEvent::Online);
    }

    /// Connects anew once four fifths of the credentials' remaining life are over.
    fn schedule_renewal(&mut self, ctx: &mut Context<Self>) {
        let Some(expires) = self.credentials_expire else {
            return;
        };
        let left = expires
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let delay = (left - left / 5).max(RENEWAL_MIN);
        self.renewal = Some(ctx.run_later(delay, |_, ctx| ctx.notify(Reconnect)));
    }

    /// The session is done with the connection.
    fn close(&mut self, reason: &CloseReason, outcomes: &mut Outcomes, ctx: &mut Context<Self>) {
        tracing::debug!(link = %self.link.identity.id, %reason, "connection ended");
        let mut class = FailureClass::of(reason);
        let explanation = self.explain(reason);
        if let Some(error) = self.refusal.take() {
            class = error.failure();
            self.link.metrics.count_connect(error.class());
            let error = Arc::from(error);
            self.link.events.emit(&LinkEvent::ConnectFailed { error });
        } else {
            if self.connected_at.is_some() {
                self.link.metrics.count_disconnect(reason_name(reason));
            } else {
                self.link.metrics.count_connect(refusal_name(reason));
            }
            self.link.events.emit(&LinkEvent::Disconnected {
                reason: reason.clone(),
            });
            if let Some(cause) = explanation.cause {
                let topic = explanation.topic;
                self.link
                    .events
                    .emit(&LinkEvent::LikelyCause { cause, topic });
            }
        }
        self.connected_at = None;
        self.opened_at = None;
        if *reason != CloseReason::Local {
            outcomes.others.extend(self.lose_unwritten());
            self.drop_held();
        }
        self.carry = BytesMut::new();
        self.carry_needed = 0;
        if let Some(renewal) = self.renewal.take() {
            ctx.cancel_future(renewal);
        }
        let reconnecting = std::mem::take(&mut self.reconnecting);
        let after = if self.leaving {
            AfterClose::Stop
        } else if reconnecting {
            AfterClose::Reconnect
        } else {
            AfterClose::Retry(class)
        };
        self.link.tell_queue(LinkOffline);
        self.owes_room = None;
        self.tell_shadows_offline(explanation.blames_requests);
        if *reason == CloseReason::Local {
            self.close_behind_held(after);
        } else {
            self.link.tell_connection(CloseTransport(after));
        }
    }

    fn connect_options(&mut self) -> Result<ConnectOptions, DialectError> {
        let link = &self.link;
        let profile = &link.profile;
        let spec = profile.dialect.connect(&link.identity, SystemTime::now())?;
        self.credentials_expire = spec.expires_at;
        let link = &self.link;
        let profile = &link.profile;
        let (username, password) = link.credentials.resolve();
        let client_id = link.client_id.clone().unwrap_or(spec.client_id);
        profile
            .dialect
            .check_client_id(&client_id, link.identity.version)?;
        Ok(ConnectOptions {
            client_id,
            clean_start: profile.clean_start,
            keep_alive: profile.keep_alive,
            session_expiry: profile.session_expiry,
            username: spec.username.or(username),
            password: spec.password.or(password),
            will: link.will.as_deref().cloned().or(spec.will),
            authentication: None,
            user_properties: Vec::new(),
        })
    }

    /// Keeps one timer at or before the session's next deadline; a timer that fires early is set again.
    fn arm_timer(&mut self) {
        let deadlines = [
            self.session.poll_timeout(),
            self.recording_deadline(),
            self.request_deadline(),
        ];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return;
        };
        if self.timer.is_none_or(|armed| armed > deadline) {
            timers::wake_at(deadline, &self.link);
            self.timer = Some(deadline);
        }
    }
}

fn new_decoder(link: &LinkContext) -> Decoder {
    let session = &link.profile.session;
    Decoder::new(
        session.version,
        Sender::Server,
        session.packet_size_max as usize,
    )
}

impl Resident for Codec {
    fn address(link: &LinkContext) -> &Addr<Self> {
        &link.codec
    }
}

impl Actor for Codec {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(router) = &self.router {
            router.do_send(Shutdown);
        }
        self.stop_shadows();
    }
}

impl Handler<TimeCame> for Codec {
    type Result = ();

    fn handle(&mut self, _: TimeCame, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.timer = self.timer.filter(|armed| *armed > now);
        let deadline = self.session.poll_timeout();
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.session.handle_timeout(now);
        }
        if self
            .recording_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            tracing::warn!(link = %self.link.identity.id, "the store does not answer in time");
            self.give_up_recording(now);
        }
        // Nothing that is written in this turn is written at an earlier time.
        self.expire_requests(time_of_turn());
        self.advance(now, ctx);
    }
}

impl Handler<TransportOpened> for Codec {
    type Result = ();

    fn handle(&mut self, _: TransportOpened, ctx: &mut Self::Context) {
        if self.leaving {
            self.link.tell_connection(CloseTransport(AfterClose::Stop));
            return;
        }
        let now = Instant::now();
        self.decoder = new_decoder(&self.link);
        // What the connection before had read on when the session left it belongs to nobody.
        self.carry = BytesMut::new();
        self.carry_needed = 0;
        self.transmitted = 0;
        self.written = 0;
        self.opened_at = Some(now);
        self.record_owed();
        match self.connect_options() {
            Ok(options) => self.session.connect(now, options),
            Err(error) => {
                let error = ConnectError::Dialect(error);
                tracing::debug!(link = %self.link.identity.id, %error, "connect failed");
                self.link.metrics.count_connect(error.class());
                let after = AfterClose::Retry(error.failure());
                let error = Arc::new(error);
                self.link.events.emit(&LinkEvent::ConnectFailed { error });
                self.link.tell_connection(CloseTransport(after));
            }
        }
        self.advance(now, ctx);
    }
}

impl Handler<TransportLost> for Codec {
    type Result = ();

    fn handle(&mut self, message: TransportLost, ctx: &mut Self::Context) {
        // Past CONNACK it is a connection that ended like others.
        self.refusal = message
            .0
            .filter(|_| self.connected_at.is_none())
            .map(Box::new);
        let now = Instant::now();
        let lost: Vec<_> = self.lose_unwritten().collect();
        if !lost.is_empty() {
            self.link.tell_queue(Outcomes {
                others: lost,
                ..Outcomes::default()
            });
        }
        self.drop_held();
        self.session.handle_transport_closed(now);
        self.advance(now, ctx);
    }
}

impl Handler<Leave> for Codec {
    type Result = ();

    fn handle(&mut self, message: Leave, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.leaving = true;
        self.session.disconnect(now, message.0);
        self.advance(now, ctx);
        // Also when there was no connection to leave.
        self.close_behind_held(AfterClose::Stop);
    }
}

impl Handler<Reconnect> for Codec {
    type Result = ();

    fn handle(&mut self, _: Reconnect, ctx: &mut Self::Context) {
        if self.connected_at.is_none() {
            return;
        }
        let now = Instant::now();
        self.reconnecting = true;
        self.session.disconnect(now, ReasonCode::SUCCESS);
        self.advance(now, ctx);
    }
}
