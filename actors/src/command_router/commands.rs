//! Commands that were handed out: their deadlines, and which came before.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{AsyncContext as _, Context};
use bytes::Bytes;
use bytestring::ByteString;
use paquebot_protocols::model::{Command, CommandReply, CommandStatus, DeviceId};

use super::CommandRouter;
use crate::inbound::{Acknowledgement, OpenCommand};

/// The latest deadline of a command.
const FAR_AWAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Commands handed out and not yet answered.
const OPEN_COMMANDS_MAX: usize = 1_000;

/// Request ids remembered, to recognise a redelivered command.
const RECENT_REQUESTS_MAX: usize = 1_024;

impl CommandRouter {
    /// `None` when the command is not to be started: it is a redelivery, or too many are open.
    pub(super) fn open_command(
        &mut self,
        command: &Command,
        dup: bool,
        acknowledgement: Option<Acknowledgement>,
        ctx: &mut Context<Self>,
    ) -> Option<OpenCommand> {
        if self.recent.is_repeated(command, dup) {
            self.link.metrics.commands_duplicate.inc();
            return None;
        }
        let now = Instant::now();
        let link = Arc::clone(&self.link);
        let open = OpenCommand::new(command.clone(), now, link, acknowledgement);
        self.open.retain(|_, command| command.is_open());
        if self.open.len() >= OPEN_COMMANDS_MAX {
            self.link.metrics.commands_refused.inc();
            open.try_answer(&CommandReply::failed(&b"too many open commands"[..]));
            return None;
        }
        let timeout = command
            .time_to_answer
            .unwrap_or(self.link.profile.command_timeout);
        self.opened += 1;
        // A deadline past the end of time is a century away.
        let deadline = now.checked_add(timeout).unwrap_or(now + FAR_AWAY);
        self.open.insert((deadline, self.opened), open.clone());
        self.arm_deadline(ctx);
        Some(open)
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
        let expired = CommandReply::with_status(CommandStatus::Expired);
        let mut retry = Vec::new();
        while let Some(entry) = self.open.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (_, sequence) = *entry.key();
            let command = entry.remove();
            if command.try_answer(&expired) {
                command.release_message();
            } else {
                retry.push((sequence, command));
            }
        }
        // The queue had no room for these answers: try again soon.
        for (sequence, command) in retry {
            self.open
                .insert((now + Duration::from_millis(100), sequence), command);
        }
    }
}

/// Request ids of commands that came in, so that one the server delivers again is not started again.
#[derive(Default)]
pub(super) struct RecentRequests {
    known: HashSet<RequestKey>,
    order: VecDeque<RequestKey>,
}

type RequestKey = (DeviceId, ByteString, Option<Bytes>);

impl RecentRequests {
    fn is_repeated(&mut self, command: &Command, dup: bool) -> bool {
        let reply_to = &command.reply_to;
        if reply_to.request.is_empty() && reply_to.correlation.is_none() {
            return false;
        }
        let key = (
            command.device.clone(),
            reply_to.request.clone(),
            reply_to.correlation.clone(),
        );
        if self.known.contains(&key) {
            // Without DUP it is a new command of a sender that uses the id again.
            return dup;
        }
        self.known.insert(key.clone());
        self.order.push_back(key);
        if self.order.len() > RECENT_REQUESTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}
