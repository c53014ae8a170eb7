//! A command that was handed out: who answers it, and that somebody does.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actix::WeakAddr;
use paquebot_protocols::model::{Command, CommandReply};

use super::acknowledgement::Acknowledgement;
use crate::command_router::{CommandRecord, CommandRouter};
use crate::link::{LinkContext, SendError};
use crate::message::CommandAnswered;
use crate::receipt::Receipt;

const OPEN: u8 = 0;
/// Somebody has the right to answer it, and may give it back.
const CLAIMED: u8 = 1;
const ANSWERED: u8 = 2;

/// A command that was handed out. Whoever claims it first, its handler or its deadline, answers it.
#[derive(Debug, Clone)]
pub(crate) struct OpenCommand(Arc<OpenCommandState>);

#[derive(Debug)]
struct OpenCommandState {
    command: Command,
    arrived: Instant,
    state: AtomicU8,
    link: Arc<LinkContext>,
    /// What it is remembered under, and by whom. The router ends when it is told to, not when the last command does.
    remembered: Option<(CommandRecord, WeakAddr<CommandRouter>)>,
    /// The answer is an earlier one once more, which was counted.
    is_counted: bool,
    /// Held until the handler is done or the deadline has answered: a handler that hangs must not keep the
    /// server from sending.
    message: Mutex<Option<Acknowledgement>>,
}

impl OpenCommand {
    pub(crate) fn new(
        command: Command,
        arrived: Instant,
        link: Arc<LinkContext>,
        message: Option<Acknowledgement>,
        remembered: Option<(CommandRecord, WeakAddr<CommandRouter>)>,
    ) -> Self {
        Self(Arc::new(OpenCommandState {
            command,
            arrived,
            state: AtomicU8::new(OPEN),
            link,
            remembered,
            is_counted: false,
            message: Mutex::new(message),
        }))
    }

    /// A command that came before and gets its answer once more.
    pub(crate) fn answered_before(
        command: Command,
        link: Arc<LinkContext>,
        message: Option<Acknowledgement>,
    ) -> Self {
        Self(Arc::new(OpenCommandState {
            command,
            arrived: Instant::now(),
            state: AtomicU8::new(OPEN),
            link,
            remembered: None,
            is_counted: true,
            message: Mutex::new(message),
        }))
    }

    /// The command needs its message no more: it may be acknowledged.
    pub(crate) fn release_message(&self) {
        let message = self
            .0
            .message
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(message);
    }

    pub(crate) fn command(&self) -> &Command {
        &self.0.command
    }

    pub(crate) fn record(&self) -> Option<CommandRecord> {
        self.0.remembered.as_ref().map(|(record, _)| *record)
    }

    /// Nobody has answered it; somebody may be about to.
    pub(crate) fn is_open(&self) -> bool {
        self.state() != ANSWERED
    }

    /// Somebody waits for room in the queue to answer it.
    pub(crate) fn is_claimed(&self) -> bool {
        self.state() == CLAIMED
    }

    fn state(&self) -> u8 {
        self.0.state.load(Ordering::Acquire)
    }

    fn claim(&self) -> bool {
        self.0
            .state
            .compare_exchange(OPEN, CLAIMED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn release(&self) {
        self.0.state.store(OPEN, Ordering::Release);
    }

    /// Claims the command for an answer that may not come about; given back unless it is kept.
    fn claim_for_now(&self) -> Option<Claim<'_>> {
        self.claim().then_some(Claim(Some(self)))
    }

    /// Answers without waiting, if nobody has. With no room in the queue, or while somebody waits for it, the command
    /// stays open and `false` comes back.
    pub(crate) fn try_answer(&self, reply: &CommandReply) -> bool {
        if !self.claim() {
            return !self.is_open();
        }
        let state = &self.0;
        match state.link.try_answer(&state.command, reply, self.record()) {
            Ok(receipt) => {
                drop(receipt);
                self.conclude(reply);
                true
            }
            Err(SendError::Full(_) | SendError::FleetFull(_)) => {
                self.release();
                false
            }
            Err(error) => {
                tracing::debug!(link = %self.0.link.identity.id, %error, "cannot answer a command");
                self.close();
                true
            }
        }
    }

    fn close(&self) {
        self.0.state.store(ANSWERED, Ordering::Release);
    }

    /// The command was answered.
    fn conclude(&self, reply: &CommandReply) {
        self.close();
        if self.0.is_counted {
            return;
        }
        if let Some((record, router)) = &self.0.remembered
            && let Some(router) = router.upgrade()
        {
            router.do_send(CommandAnswered {
                command: self.0.command.clone(),
                record: *record,
                reply: reply.clone(),
            });
        }
        let metrics = &self.0.link.metrics;
        metrics.count_command(reply.status);
        metrics
            .command_duration
            .observe(self.0.arrived.elapsed().as_secs_f64());
    }
}

/// The right to answer a command, given back on drop: also when the future that was to answer is dropped.
struct Claim<'a>(Option<&'a OpenCommand>);

impl Claim<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(command) = self.0 {
            command.release();
        }
    }
}

/// A command to carry out and answer. Dropped without an answer it is answered as failed.
#[derive(Debug)]
pub struct CommandRequest {
    pub(super) open: OpenCommand,
}

/// Why an answer was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The deadline passed first and the command was answered as expired.
    #[error(
        "the command was answered as expired before; answer faster or raise the command timeout"
    )]
    Expired,
    /// The link did not take the answer.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl CommandRequest {
    /// What to do, for whom, and where the answer goes.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.open.0.command
    }

    /// When the command arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.open.0.arrived
    }

    /// Sends the answer. Waits while the link's queue has no room. When it fails, or its future is dropped
    /// meanwhile, the command is answered as failed. On a link with a durable queue it then waits for the store, and a
    /// future that is dropped meanwhile takes nothing back; an answer that the store refuses is sent from memory.
    ///
    /// # Errors
    /// The deadline answered first, the queue is full (under [`Overflow::Reject`](crate::Overflow::Reject)),
    /// the answer does not fit the platform, or the link is stopped.
    pub async fn reply(self, reply: CommandReply) -> Result<Receipt, ReplyError> {
        let claim = self.open.claim_for_now().ok_or(ReplyError::Expired)?;
        let state = &self.open.0;
        let sent = || {
            claim.keep();
            self.open.conclude(&reply);
        };
        let answered = state
            .link
            .answer(&state.command, &reply, self.open.record(), sent);
        Ok(answered.await?)
    }
}

impl Drop for CommandRequest {
    fn drop(&mut self) {
        // If the queue has no room now, the deadline answers later.
        self.open
            .try_answer(&CommandReply::failed(&b"the handler gave no answer"[..]));
        self.open.release_message();
    }
}
