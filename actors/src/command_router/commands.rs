//! Commands that were handed out, and their deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{AsyncContext as _, Context, Handler};
use paquebot_protocols::model::{Command, CommandReply, CommandStatus};

use super::CommandRouter;
use super::memory::{Familiar, ROOM_RETRY};
use crate::inbound::{Acknowledgement, Delivery, OpenCommand};
use crate::message::{CommandAnswered, CommandRecorded};

/// The latest deadline of a command.
const FAR_AWAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Commands handed out and not yet answered.
const OPEN_COMMANDS_MAX: usize = 1_000;

/// Refusals of more commands, and answers to repeated ones, that wait for room in the queue; those beyond are not sent.
const REFUSALS_MAX: usize = 1_000;

impl CommandRouter {
    /// `None` when the command is not to be started: it came before, or too many are open.
    pub(super) fn open_command(
        &mut self,
        command: &Command,
        dup: bool,
        acknowledgement: Option<Acknowledgement>,
        ctx: &mut Context<Self>,
    ) -> Option<OpenCommand> {
        let record = match self.memory.meet(command, dup, &self.link) {
            Familiar::Repeated(answer) => {
                self.link.metrics.commands_duplicate.inc();
                if let Some(answer) = answer {
                    self.answer_again(command, answer, acknowledgement, ctx);
                }
                return None;
            }
            Familiar::New(record) => Some(record),
            Familiar::Nameless => None,
        };
        let now = Instant::now();
        let link = Arc::clone(&self.link);
        let remembered = record.map(|record| (record, ctx.address().downgrade()));
        let open = OpenCommand::new(command.clone(), now, link, acknowledgement, remembered);
        self.open.retain(|_, (command, _)| command.is_open());
        if self.open.len() >= OPEN_COMMANDS_MAX {
            self.link.metrics.commands_refused.inc();
            self.memory.forget(command);
            let refusal = CommandReply::failed(&b"too many open commands"[..]);
            if !open.try_answer(&refusal) {
                self.answer_soon(open, refusal, ctx);
            }
            return None;
        }
        let timeout = command
            .time_to_answer
            .unwrap_or(self.link.profile.command_timeout);
        self.opened += 1;
        // A deadline past the end of time is a century away.
        let deadline = now.checked_add(timeout).unwrap_or(now + FAR_AWAY);
        let expired = CommandReply::with_status(CommandStatus::Expired);
        self.open
            .insert((deadline, self.opened), (open.clone(), expired));
        self.arm_deadline(ctx);
        Some(open)
    }

    /// The sender of a command asks again: the answer did not reach it.
    fn answer_again(
        &mut self,
        command: &Command,
        answer: CommandReply,
        acknowledgement: Option<Acknowledgement>,
        ctx: &mut Context<Self>,
    ) {
        let (command, link) = (command.clone(), Arc::clone(&self.link));
        let again = OpenCommand::answered_before(command, link, acknowledgement);
        if !again.try_answer(&answer) {
            self.answer_soon(again, answer, ctx);
        }
    }

    /// The queue has no room for this answer now.
    fn answer_soon(&mut self, command: OpenCommand, answer: CommandReply, ctx: &mut Context<Self>) {
        if self.open.len() >= OPEN_COMMANDS_MAX + REFUSALS_MAX {
            tracing::warn!(link = %self.link.identity.id, "a command gets no answer: too many wait for room in the queue");
            return;
        }
        self.opened += 1;
        let at = Instant::now() + ROOM_RETRY;
        self.open.insert((at, self.opened), (command, answer));
        self.arm_deadline(ctx);
    }

    /// Hands a command to its consumer; on a link with a durable queue once it is recorded, so that a process that
    /// is killed meanwhile does not start it twice.
    pub(super) fn start_command(
        &mut self,
        outlet: usize,
        delivery: Box<Delivery>,
        ctx: &mut Context<Self>,
    ) {
        let record = delivery.command.as_ref().and_then(OpenCommand::record);
        let (Some(record), Some(durable)) = (record, self.link.durable.as_deref()) else {
            return self.hand_over(outlet, delivery, ctx);
        };
        let Some(command) = &delivery.command else {
            return;
        };
        let router = ctx.address();
        let id = record.id;
        durable.record_start(record, command.command(), move |result| {
            router.do_send(CommandRecorded { id, result });
        });
        let consumer = self.outlets[outlet].consumer.id;
        self.recording.insert(id, (consumer, delivery));
    }

    fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        let Some((&(deadline, _), _)) = self.open.first_key_value() else {
            return;
        };
        match self.deadline_timer {
            Some((armed, _)) if armed <= deadline => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = deadline.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |router, ctx| {
            router.deadline_timer = None;
            router.expire_commands();
            router.arm_deadline(ctx);
        });
        self.deadline_timer = Some((deadline, handle));
    }

    fn expire_commands(&mut self) {
        let now = Instant::now();
        let mut retry = Vec::new();
        while let Some(entry) = self.open.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (_, sequence) = *entry.key();
            let (command, answer) = entry.remove();
            if command.try_answer(&answer) {
                command.release_message();
            } else {
                if command.is_claimed() {
                    command.release_message();
                }
                retry.push((sequence, (command, answer)));
            }
        }
        // The queue had no room for these answers, or those who wait for it may give up: try again soon.
        for (sequence, waiting) in retry {
            self.open.insert((now + ROOM_RETRY, sequence), waiting);
        }
    }
}

impl Handler<CommandAnswered> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: CommandAnswered, _: &mut Self::Context) {
        let CommandAnswered {
            command,
            record,
            reply,
        } = message;
        self.memory.answered(&command, record, &reply);
    }
}

impl Handler<CommandRecorded> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: CommandRecorded, ctx: &mut Self::Context) {
        let CommandRecorded { id, result } = message;
        let Some((consumer, delivery)) = self.recording.remove(&id) else {
            return;
        };
        let Some(command) = delivery.command.as_ref() else {
            return;
        };
        if let Err(error) = result {
            tracing::warn!(link = %self.link.identity.id, %error, "a command is not started: it cannot be recorded");
            self.memory.forget(command.command());
            command.try_answer(&CommandReply::failed(
                &b"the command cannot be recorded"[..],
            ));
            command.release_message();
            return;
        }
        let is_consumer = |outlet: &super::Outlet| outlet.consumer.id == consumer;
        match self.outlets.iter().position(is_consumer) {
            Some(outlet) if command.is_open() => self.hand_over(outlet, delivery, ctx),
            // Its consumer is gone, or its deadline has answered.
            _ => {
                self.memory.forget(command.command());
                command.try_answer(&CommandReply::failed(
                    &b"nobody takes commands any more"[..],
                ));
                command.release_message();
            }
        }
    }
}
