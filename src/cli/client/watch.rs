//! What happens to the connection: what ends the command, what is worth a note.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use paquebot::{ConnectError, Events, FailureCause, LinkEvent};
use paquebot_protocols::backoff::FailureClass;
use paquebot_protocols::mqtt::session::CloseReason;
use paquebot_protocols::mqtt::{QoS, ReasonCode, TopicFilter, Version};

use crate::cli::CommandError;

/// How long the event after the end of a connection may take; there always is one.
const NEXT_EVENT: Duration = Duration::from_millis(500);

/// Reads a link's events. Until the first connection has come about any failure ends the command (as
/// mosquitto's clients do), unless it is to retry; later only what another attempt cannot mend.
#[derive(Debug)]
pub(in crate::cli) struct Watch {
    events: Option<Events>,
    retry: bool,
    debug: bool,
    quiet: bool,
    version: Version,
    was_online: bool,
}

/// What the caller acts on.
#[derive(Debug)]
pub(in crate::cli) enum Change {
    /// The server let the link in; it is online once its subscriptions are answered.
    Connected {
        /// It had kept the session.
        session_present: bool,
    },
    /// The link is online, for the first time or again.
    Online,
    /// The server answered for a filter.
    Answered(TopicFilter, Result<QoS, ReasonCode>),
}

impl Watch {
    pub(super) fn new(retry: bool, debug: bool, quiet: bool, version: Version) -> Self {
        Self {
            events: None,
            retry,
            debug,
            quiet,
            version,
            was_online: false,
        }
    }

    pub(super) fn on(mut self, events: Events) -> Self {
        self.events = Some(events);
        self
    }

    /// The next change.
    ///
    /// # Errors
    /// Why the link will not come online (again).
    pub(in crate::cli) async fn next(&mut self) -> Result<Change, CommandError> {
        loop {
            let event = match &mut self.events {
                Some(events) => events.next().await,
                None => None,
            };
            match event {
                None | Some(LinkEvent::Stopped) => return Err(failed("the link has stopped")),
                Some(event) => {
                    let is_end = matches!(event, LinkEvent::Disconnected { .. });
                    match self.judge(event) {
                        Ok(Some(change)) => return Ok(change),
                        Ok(None) => {}
                        Err(error) if is_end => return Err(self.with_likely_cause(error).await),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Adds what is probably behind the end of the connection, which is told right after it.
    async fn with_likely_cause(&mut self, error: CommandError) -> CommandError {
        let Some(events) = &mut self.events else {
            return error;
        };
        match tokio::time::timeout(NEXT_EVENT, events.next()).await {
            Ok(Some(LinkEvent::LikelyCause { cause, topic })) => {
                failed(format!("{error}: {}", FailureCause::Likely(cause, topic)))
            }
            _ => error,
        }
    }

    /// Waits for an end that nothing but a failure brings.
    pub(in crate::cli) async fn failure(&mut self) -> CommandError {
        loop {
            if let Err(error) = self.next().await {
                return error;
            }
        }
    }

    fn judge(&mut self, event: LinkEvent) -> Result<Option<Change>, CommandError> {
        match event {
            LinkEvent::Connecting { attempt } => {
                self.trace(|| format!("connecting (attempt {attempt})"));
            }
            LinkEvent::ConnectFailed { error } => {
                let is_final = matches!(
                    *error,
                    ConnectError::ServerCertificate { .. } | ConnectError::TlsRefused { .. }
                );
                if !self.was_online && (is_final || !self.retry) {
                    return Err(failed(error));
                }
                self.note(&format!("{error}; trying again"));
            }
            LinkEvent::Connected {
                session_present,
                assigned_client_id,
                ..
            } => {
                self.trace(|| {
                    let session = if session_present { "resumed" } else { "new" };
                    let id = assigned_client_id.map(|id| format!(", client identifier {id}"));
                    format!("connected, {session} session{}", id.unwrap_or_default())
                });
                return Ok(Some(Change::Connected { session_present }));
            }
            LinkEvent::Online => {
                if self.was_online {
                    self.note("connected again");
                } else {
                    self.trace(|| "online".into());
                }
                self.was_online = true;
                return Ok(Some(Change::Online));
            }
            LinkEvent::Disconnected { reason } => self.judge_end(&reason)?,
            LinkEvent::LikelyCause { cause, topic } => {
                self.note(&FailureCause::Likely(cause, topic).to_string());
            }
            LinkEvent::Retrying { delay } => self.trace(|| format!("next attempt in {delay:.1?}")),
            LinkEvent::Subscribed { filter, qos } => {
                self.trace(|| format!("subscribed to {filter} with QoS {}", qos as u8));
                return Ok(Some(Change::Answered(filter, Ok(qos))));
            }
            LinkEvent::SubscriptionRefused { filter, code } => {
                return Ok(Some(Change::Answered(filter, Err(code))));
            }
            _ => {}
        }
        Ok(None)
    }

    fn judge_end(&mut self, reason: &CloseReason) -> Result<(), CommandError> {
        if *reason == CloseReason::Local {
            return Ok(());
        }
        // Of two clients with one identifier the last stays: to come back would be a duel.
        let is_final = matches!(
            FailureClass::of(reason),
            FailureClass::RefusedCredentials | FailureClass::TakenOver
        ) || matches!(reason, CloseReason::Unwritable(_));
        if is_final || !(self.was_online || self.retry) {
            return Err(failed(format!("{reason}{}", self.advice(reason))));
        }
        self.note(&format!("{reason}; connecting again"));
        Ok(())
    }

    /// What to do, where the reason does not say it.
    fn advice(&self, reason: &CloseReason) -> &'static str {
        match reason {
            // The reason says what to check; these are the flags for it.
            CloseReason::Refused { code, .. } => match *code {
                ReasonCode::BAD_USER_NAME_OR_PASSWORD => " (-u, --password-file)",
                ReasonCode::NOT_AUTHORIZED => " (-u, --password-file, --cert)",
                ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => " (-i)",
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => " (-V)",
                _ => "",
            },
            CloseReason::ServerDisconnect { code, .. } => match *code {
                ReasonCode::NOT_AUTHORIZED => {
                    "; check user name, password and client certificate, and the server's access rules"
                }
                ReasonCode::SESSION_TAKEN_OVER => "; another client uses the same identifier (-i)",
                _ => "",
            },
            // A server of MQTT 3.1.1 refuses in the words of its own version, which are none in MQTT 5.
            CloseReason::ProtocolViolation { .. }
                if self.version == Version::V5 && !self.was_online =>
            {
                "; it may not speak MQTT 5: try another version (-V 3.1.1)"
            }
            _ => "",
        }
    }

    /// Says something went wrong that the command survives.
    pub(in crate::cli) fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// The command's end after a failure.
    pub(in crate::cli) fn fail(&self, error: CommandError) -> Result<ExitCode, CommandError> {
        match error {
            CommandError::Failed(_) if self.quiet => Ok(ExitCode::FAILURE),
            error => Err(error),
        }
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.debug {
            say(&text());
        }
    }
}

/// Whether anybody reads standard error is not this command's business.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "paquebot: {text}");
}

fn failed(text: impl ToString) -> CommandError {
    CommandError::Failed(text.to_string())
}
