//! Commands that were handed out, and their deadlines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{AsyncContext as _, Context, Handler, SpawnHandle};
use paquebot_protocols::model::{Command, CommandReply, CommandStatus};

use super::memory::{CommandMemory, Familiar, ROOM_RETRY};
use super::{CommandId, CommandRouter};
use crate::inbound::{Acknowledgement, Delivery, OpenCommand};
use crate::link::LinkContext;
use crate::message::{CommandAnswered, CommandRecorded};

/// The latest deadline of a command.
const FAR_AWAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Commands handed out and not yet answered.
const OPEN_COMMANDS_MAX: usize = 1_000;

/// Refusals of more commands, and answers to repeated ones, that wait for room in the queue; those beyond are not sent.
const REFUSALS_MAX: usize = 1_000;

/// The commands of a link and what is known of earlier ones.
pub(super) struct Commands {
    /// By deadline, each with what it is answered then.
    open: BTreeMap<(Instant, u64), (OpenCommand, CommandReply)>,
    opened: u64,
    deadline_timer: Option<(Instant, SpawnHandle)>,
    memory: CommandMemory,
    /// Those that are being recorded, each with its consumer.
    recording: HashMap<CommandId, (u64, Box<Delivery>)>,
}

impl Commands {
    fn of(link: &LinkContext) -> Self {
        Self {
            open: BTreeMap::new(),
            opened: 0,
            deadline_timer: None,
            memory: CommandMemory::of(link),
            recording: HashMap::new(),
        }
    }

    fn open(&mut self, at: Instant, command: OpenCommand, answer: CommandReply) {
        self.opened += 1;
        self.open.insert((at, self.opened), (command, answer));
    }
}

impl CommandRouter {
    fn commands(&mut self) -> &mut Commands {
        self.commands
            .get_or_insert_with(|| Box::new(Commands::of(&self.link)))
    }

    /// `None` when the command is not to be started: it came before, or too many are open.
    pub(super) fn open_command(
        &mut self,
        command: &Command,
        dup: bool,
        acknowledgement: Option<Acknowledgement>,
        ctx: &mut Context<Self>,
    ) -> Option<OpenCommand> {
        let link = Arc::clone(&self.link);
        let record = match self.commands().memory.meet(command, dup, &link) {
            Familiar::Repeated(answer) => {
                link.metrics.commands_duplicate.inc();
                if let Some(answer) = answer {
                    self.answer_again(command, answer, acknowledgement, ctx);
                }
                return None;
            }
            Familiar::New(record) => Some(record),
            Familiar::Nameless => None,
        };
        let now = Instant::now();
        let owner = Arc::clone(&link);
        let remembered = record.map(|record| (record, ctx.address().downgrade()));
        let open = OpenCommand::new(command.clone(), now, owner, acknowledgement, remembered);
        let commands = self.commands();
        commands.open.retain(|_, (command, _)| command.is_open());
        if commands.open.len() >= OPEN_COMMANDS_MAX {
            link.metrics.commands_refused.inc();
            commands.memory.forget(command);
            let refusal = CommandReply::failed(&b"too many open commands"[..]);
            if !open.try_answer(&refusal) {
                self.answer_soon(open, refusal, ctx);
            }
            return None;
        }
        let timeout = command
            .time_to_answer
            .unwrap_or(link.profile.command_timeout);
        // A deadline past the end of time is a century away.
        let deadline = now.checked_add(timeout).unwrap_or(now + FAR_AWAY);
        let expired = CommandReply::with_status(CommandStatus::Expired);
        commands.open(deadline, open.clone(), expired);
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
        let commands = self.commands();
        if commands.open.len() >= OPEN_COMMANDS_MAX + REFUSALS_MAX {
            tracing::warn!(link = %self.link.identity.id, "a command gets no answer: too many wait for room in the queue");
            return;
        }
        commands.open(Instant::now() + ROOM_RETRY, command, answer);
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
        self.commands().recording.insert(id, (consumer, delivery));
    }

    fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        let Some(commands) = &mut self.commands else {
            return;
        };
        let Some((&(deadline, _), _)) = commands.open.first_key_value() else {
            return;
        };
        match commands.deadline_timer {
            Some((armed, _)) if armed <= deadline => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let delay = deadline.saturating_duration_since(Instant::now());
        let handle = ctx.run_later(delay, |router, ctx| {
            router.commands().deadline_timer = None;
            router.expire_commands();
            router.arm_deadline(ctx);
        });
        commands.deadline_timer = Some((deadline, handle));
    }

    fn expire_commands(&mut self) {
        let now = Instant::now();
        let mut retry = Vec::new();
        let commands = self.commands();
        while let Some(entry) = commands.open.first_entry() {
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
            commands.open.insert((now + ROOM_RETRY, sequence), waiting);
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
        self.commands().memory.answered(&command, record, &reply);
    }
}

impl Handler<CommandRecorded> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: CommandRecorded, ctx: &mut Self::Context) {
        let CommandRecorded { id, result } = message;
        let Some((consumer, delivery)) = self.commands().recording.remove(&id) else {
            return;
        };
        let Some(command) = delivery.command.as_ref() else {
            return;
        };
        if let Err(error) = result {
            tracing::warn!(link = %self.link.identity.id, %error, "a command is not started: it cannot be recorded");
            self.commands().memory.forget(command.command());
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
                self.commands().memory.forget(command.command());
                command.try_answer(&CommandReply::failed(
                    &b"nobody takes commands any more"[..],
                ));
                command.release_message();
            }
        }
    }
}
