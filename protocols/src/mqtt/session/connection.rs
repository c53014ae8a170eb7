//! The life of one connection: CONNECT and CONNACK, enhanced authentication, and the ways it ends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

use super::inbound::violation;
use super::keep_alive::KeepAlive;
use super::transmit::{Transmit, Unwritten};
use super::{CloseReason, ConnectOptions, Event, ServerLimits, Session, Stage};
use crate::mqtt::properties::table::Carrier;
use crate::mqtt::{
    Auth, ConnAck, Connect, Disconnect, EncodeError, Packet, Properties, PropertySet, ReasonCode,
    Sender, Version,
};

/// What the session remembers of a connection's CONNECT.
#[derive(Debug)]
pub(super) struct Attempt {
    clean_start: bool,
    keep_alive: Duration,
    session_expiry: Option<Duration>,
    /// The server was asked to choose a client identifier.
    is_anonymous: bool,
    authentication: Option<Authentication>,
    /// Deadline of CONNACK, later of a re-authentication.
    pub(super) deadline: Option<Instant>,
}

#[derive(Debug)]
struct Authentication {
    method: ByteString,
    turn: Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// No exchange is under way.
    None,
    Server,
    Application,
}

impl Session {
    pub(super) fn start(&mut self, now: Instant, options: ConnectOptions) {
        if self.stage != Stage::Closed {
            self.close(CloseReason::TransportClosed, None);
        }
        self.drop_unsent();
        let seconds = keep_alive_seconds(options.keep_alive);
        let keep_alive = Duration::from_secs(seconds.into());
        self.limits = ServerLimits::defaults(keep_alive, options.session_expiry);
        self.writer.begin(None, 0);
        let is_anonymous = options.client_id.is_empty();
        self.attempt = Some(Box::new(Attempt {
            clean_start: options.clean_start,
            keep_alive,
            session_expiry: options.session_expiry,
            is_anonymous,
            authentication: options
                .authentication
                .as_ref()
                .filter(|_| self.config.version == Version::V5)
                .map(|(method, _)| Authentication {
                    method: method.clone(),
                    turn: Turn::Server,
                }),
            deadline: now.checked_add(self.config.connack_timeout),
        }));
        self.stage = Stage::Connecting;
        if let Some(caution) = &mut self.caution {
            caution.start();
        }
        let connect = self.connect_packet(options, seconds);
        self.transmit
            .push_back(Transmit::Packet(Packet::Connect(Box::new(connect))));
    }

    fn connect_packet(&self, options: ConnectOptions, keep_alive: u16) -> Connect {
        let client_id = match self.assigned_client_id.as_deref() {
            Some(assigned) if options.client_id.is_empty() => assigned.clone(),
            _ => options.client_id,
        };
        let mut will = options.will;
        let properties = match self.config.version {
            Version::V311 => {
                if let Some(will) = &mut will {
                    will.properties = Properties::EMPTY;
                }
                Properties::EMPTY
            }
            Version::V5 => {
                let (method, data) = options.authentication.unzip();
                Properties::from(PropertySet {
                    session_expiry_interval: options
                        .session_expiry
                        .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
                    receive_maximum: Some(self.config.receive_maximum.max(1))
                        .filter(|maximum| *maximum != u16::MAX),
                    maximum_packet_size: Some(self.config.packet_size_max)
                        .filter(|maximum| *maximum > 0),
                    topic_alias_maximum: Some(self.config.topic_alias_maximum)
                        .filter(|maximum| *maximum > 0),
                    authentication_method: method,
                    authentication_data: data.flatten(),
                    user_properties: options.user_properties,
                    ..PropertySet::default()
                })
            }
        };
        Connect {
            version: self.config.version,
            clean_start: options.clean_start,
            keep_alive,
            client_id,
            will,
            username: options.username,
            password: options.password,
            properties,
        }
    }

    pub(super) fn handle_connack(
        &mut self,
        now: Instant,
        connack: ConnAck,
    ) -> Result<(), CloseReason> {
        let Some(attempt) = self
            .attempt
            .as_deref_mut()
            .filter(|_| self.stage == Stage::Connecting)
        else {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-3.2.0-2",
                "a second CONNACK",
            ));
        };
        let version = self.config.version;
        let properties = connack.properties;
        if connack.reason_code != ReasonCode::SUCCESS {
            let wire_code = connack.reason_code.0;
            let code = match version {
                Version::V311 => ReasonCode::from_connect_return_code(wire_code),
                Version::V5 => connack.reason_code,
            };
            let in_doubt = self.in_doubt;
            self.close(
                CloseReason::Refused {
                    code,
                    wire_code,
                    reason_string: properties.reason_string.clone(),
                    server_reference: properties.server_reference.clone(),
                },
                None,
            );
            // Whoever is refused leaves no session behind.
            self.in_doubt = in_doubt;
            return Ok(());
        }
        // A session this end knows nothing of is taken as it is when clean start was not asked for:
        // a process that was started anew resumes what its predecessor left, and has nothing that
        // could contradict it.
        if connack.session_present && attempt.clean_start {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                match version {
                    Version::V311 => "MQTT-3.2.2-1",
                    Version::V5 => "MQTT-3.2.2-2",
                },
                "CONNACK with session present although a clean start was asked for",
            ));
        }
        if let Some(authentication) = &mut attempt.authentication {
            check_method(&authentication.method, &properties)?;
            authentication.turn = Turn::None;
        }
        attempt.deadline = None;
        let assigned = properties
            .assigned_client_identifier
            .as_deref()
            .filter(|_| attempt.is_anonymous)
            .map(ByteString::from);
        self.limits =
            ServerLimits::announced(&properties, attempt.keep_alive, attempt.session_expiry);
        let keeps_session = match version {
            Version::V311 => !attempt.clean_start,
            Version::V5 => self.limits.session_expiry.is_some_and(|e| !e.is_zero()),
        };
        let session_lost = self.server_has_session && !connack.session_present;
        self.is_inherited =
            connack.session_present && (self.is_inherited || !self.server_has_session);
        self.server_has_session = keeps_session;
        if assigned.is_some() {
            self.assigned_client_id = assigned.clone().map(Box::new);
        }
        let alias_maximum = self
            .config
            .topic_alias_send_max
            .min(self.limits.topic_alias_maximum);
        self.writer
            .begin(self.limits.maximum_packet_size, alias_maximum);
        self.keep_alive = KeepAlive::new(now, self.limits.keep_alive, self.config.ping_timeout);
        // Past CONNACK only enhanced authentication looks back at what was asked for.
        self.attempt
            .take_if(|attempt| attempt.authentication.is_none());
        self.stage = Stage::Restoring;

        if let Some(data) = &properties.authentication_data {
            self.events
                .push_back(Event::AuthenticationData(data.clone()));
        }
        self.events.push_back(Event::Connected {
            session_present: connack.session_present,
            session_lost,
            assigned_client_id: assigned,
            limits: self.limits.clone(),
        });
        let in_doubt = std::mem::take(&mut self.in_doubt);
        if let Some(caution) = &mut self.caution {
            caution.begin(now, self.exchanges.oldest_sent().is_some());
        }
        if connack.session_present {
            if let Some(inbound) = &mut self.inbound {
                inbound.resume(in_doubt);
            }
            self.resume_deliveries(in_doubt);
        } else {
            if let Some(inbound) = &mut self.inbound {
                inbound.begin_session();
            }
            if let Some(journal) = &mut self.journal {
                journal.forget_all_inbound();
            }
            self.republish_deliveries(now);
        }
        self.restore_subscriptions(connack.session_present, in_doubt);
        self.check_online();
        Ok(())
    }

    /// AUTH: a step of the exchange that CONNECT or a re-authentication began (MQTT 5 §4.12).
    pub(super) fn handle_auth(&mut self, auth: Auth) -> Result<(), CloseReason> {
        let is_connected = self.stage.is_connected();
        let Some((attempt, authentication)) = self.attempt.as_deref_mut().and_then(|attempt| {
            let authentication = attempt.authentication.as_mut()?;
            Some((&mut attempt.deadline, authentication))
        }) else {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-4.12.0-6",
                "AUTH although CONNECT named no authentication method",
            ));
        };
        check_method(&authentication.method, &auth.properties)?;
        if authentication.turn != Turn::Server {
            return Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "§4.12",
                "AUTH out of turn",
            ));
        }
        let data = auth.properties.authentication_data.clone();
        match auth.reason_code {
            ReasonCode::CONTINUE_AUTHENTICATION => {
                authentication.turn = Turn::Application;
                let method = authentication.method.clone();
                self.events.push_back(Event::AuthChallenge { method, data });
                Ok(())
            }
            ReasonCode::SUCCESS if is_connected => {
                authentication.turn = Turn::None;
                *attempt = None;
                self.events.extend(data.map(Event::AuthenticationData));
                self.events.push_back(Event::Reauthenticated);
                Ok(())
            }
            code => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "MQTT-3.15.2-1",
                format!("AUTH with {code} from a server at this point"),
            )),
        }
    }

    pub(super) fn send_auth(&mut self, now: Instant, data: Option<Bytes>) {
        let is_connected = self.stage.is_connected();
        let Some(attempt) = self.attempt.as_deref_mut() else {
            return;
        };
        let Some(authentication) = &mut attempt.authentication else {
            return;
        };
        let reason_code = match authentication.turn {
            Turn::Application => ReasonCode::CONTINUE_AUTHENTICATION,
            Turn::None if is_connected => {
                attempt.deadline = now.checked_add(self.config.connack_timeout);
                ReasonCode::REAUTHENTICATE
            }
            Turn::None | Turn::Server => return,
        };
        authentication.turn = Turn::Server;
        let properties = Properties::from(PropertySet {
            authentication_method: Some(authentication.method.clone()),
            authentication_data: data,
            ..PropertySet::default()
        });
        self.transmit.push_back(Transmit::Packet(Packet::Auth(Auth {
            reason_code,
            properties,
        })));
    }

    /// The deadline of [`Attempt`] has passed.
    pub(super) fn handle_attempt_timeout(&mut self) {
        if self.stage == Stage::Connecting {
            self.close(CloseReason::ConnackTimeout, None);
        } else {
            self.close(
                CloseReason::AuthenticationTimeout,
                Some(ReasonCode::UNSPECIFIED_ERROR),
            );
        }
    }

    /// Leaves on request. What was accepted before goes out first.
    pub(super) fn leave(&mut self, code: ReasonCode) {
        if self.stage == Stage::Closed {
            return;
        }
        // MQTT 3.1.1 has no code that asks for the will; closing without DISCONNECT does.
        if self.config.version == Version::V5 || code != ReasonCode::DISCONNECT_WITH_WILL {
            self.push_disconnect(code);
        }
        self.end(CloseReason::Local);
    }

    /// Ends the connection at once: of what was queued only a DISCONNECT with `code` is sent, and
    /// only on MQTT 5 `[MQTT-4.13.1-1]`; in MQTT 3.1.1 it would tell the server that all is well
    /// `[MQTT-3.14.4-3]`.
    pub(super) fn close(&mut self, reason: CloseReason, code: Option<ReasonCode>) {
        if self.stage == Stage::Closed {
            return;
        }
        // Nothing may precede CONNECT, so without it there is nothing to say [MQTT-3.1.0-1].
        let is_connect_unsent = matches!(
            self.transmit.front(),
            Some(Transmit::Packet(Packet::Connect(_)))
        );
        self.drop_unsent();
        if let Some(code) = code
            && self.config.version == Version::V5
            && !is_connect_unsent
        {
            self.push_disconnect(code);
        }
        self.end(reason);
    }

    /// A packet of this end cannot be sent, and the connection makes no sense without it.
    pub(super) fn give_up_writing(&mut self, why: Unwritten) {
        let error = match why {
            Unwritten::Invalid(error) => error,
            Unwritten::TooLarge => EncodeError::TooLong {
                length: self
                    .limits
                    .maximum_packet_size
                    .and_then(|size| usize::try_from(size).ok())
                    .unwrap_or(usize::MAX),
            },
        };
        // Of a session that is leaving already too: DISCONNECT must not stand in for CONNECT.
        self.drop_unsent();
        self.close(CloseReason::Unwritable(error), None);
    }

    fn push_disconnect(&mut self, code: ReasonCode) {
        let reason_code = match (self.config.version, code.sender_in(Carrier::Disconnect)) {
            (Version::V311, _) => ReasonCode::SUCCESS,
            (Version::V5, Some(Sender::Client | Sender::Either)) => code,
            // Not a client's to say [MQTT-3.14.2-1].
            (Version::V5, _) => ReasonCode::UNSPECIFIED_ERROR,
        };
        self.transmit
            .push_back(Transmit::Packet(Packet::Disconnect(Disconnect {
                reason_code,
                properties: Properties::EMPTY,
            })));
    }

    fn end(&mut self, reason: CloseReason) {
        self.in_doubt |= self.stage == Stage::Connecting;
        self.stage = Stage::Closed;
        self.attempt = None;
        self.keep_alive = None;
        self.resend.clear();
        if let Some(inbound) = &mut self.inbound {
            inbound.end_connection();
        }
        self.abandon_requests();
        self.events.push_back(Event::Closed(reason));
    }
}

/// Every AUTH and a successful CONNACK carry the method of CONNECT `[MQTT-4.12.0-5]`.
fn check_method(method: &ByteString, properties: &Properties) -> Result<(), CloseReason> {
    match &properties.authentication_method {
        Some(named) if named == method => Ok(()),
        named => Err(violation(
            ReasonCode::PROTOCOL_ERROR,
            "MQTT-4.12.0-5",
            format!(
                "authentication method {:?} instead of {:?}",
                named.as_deref().unwrap_or_default(),
                &**method
            ),
        )),
    }
}

/// Whole seconds; a part of a second must not turn into 0, which means off.
fn keep_alive_seconds(keep_alive: Duration) -> u16 {
    let seconds = if keep_alive.is_zero() {
        0
    } else {
        keep_alive.as_secs().max(1)
    };
    u16::try_from(seconds).unwrap_or(u16::MAX)
}
