//! How commands were answered, for senders that ask again because the answer did not reach them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use paquebot_protocols::model::CommandReply;

use super::CommandId;

/// Bytes of the largest payload of an answer that is remembered. With a store it is recorded too, for as long as the
/// command is.
const ANSWER_BYTES_MAX: usize = 1024;

/// Bytes of all answers that a link remembers.
const ANSWERS_BYTES_MAX: usize = 1024 * 1024;

/// What an answer takes beside its payload, about.
const ANSWER_OVERHEAD_BYTES: usize = 64;

/// The answer as it is remembered: a copy, so that it does not keep alive the buffer that its payload is in. `None` when
/// it is too large.
pub(super) fn to_remember(reply: &CommandReply) -> Option<CommandReply> {
    (reply.payload.len() <= ANSWER_BYTES_MAX).then(|| CommandReply {
        status: reply.status,
        payload: Bytes::copy_from_slice(&reply.payload),
    })
}

/// Answers by the command's record, the oldest forgotten first.
#[derive(Default)]
pub(super) struct Answers {
    known: HashMap<CommandId, CommandReply>,
    /// With the bytes that each takes; some may be forgotten already.
    order: VecDeque<(CommandId, usize)>,
    bytes: usize,
}

impl Answers {
    /// Remembers an answer that [`to_remember`] made.
    pub(super) fn remember(&mut self, id: CommandId, reply: CommandReply) {
        let bytes = reply.payload.len() + ANSWER_OVERHEAD_BYTES;
        self.known.insert(id, reply);
        self.order.push_back((id, bytes));
        self.bytes += bytes;
        while self.bytes > ANSWERS_BYTES_MAX
            && let Some((oldest, bytes)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.bytes -= bytes;
        }
    }

    pub(super) fn forget(&mut self, id: CommandId) {
        self.known.remove(&id);
    }

    pub(super) fn of(&self, id: CommandId) -> Option<&CommandReply> {
        self.known.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_remembered_up_to_a_size_and_a_sum_of_sizes() {
        let fits = CommandReply::ok(vec![7; ANSWER_BYTES_MAX]);
        assert!(to_remember(&fits).is_some_and(|kept| kept == fits));
        assert!(to_remember(&CommandReply::ok(vec![7; ANSWER_BYTES_MAX + 1])).is_none());

        let mut answers = Answers::default();
        for id in 1..10_000 {
            answers.remember(id, fits.clone());
            answers.forget(id - 1);
            assert!(answers.bytes <= ANSWERS_BYTES_MAX);
            assert!(answers.of(id).is_some());
        }
        assert_eq!(answers.known.len(), 1);
        let kept = ANSWERS_BYTES_MAX / (ANSWER_BYTES_MAX + ANSWER_OVERHEAD_BYTES);
        assert_eq!(answers.order.len(), kept);
        for id in 10_000..20_000 {
            answers.remember(id, fits.clone());
        }
        assert_eq!(answers.known.len(), kept);
        assert!(answers.of(19_999).is_some() && answers.of(10_000).is_none());
    }
}
