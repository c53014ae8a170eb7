//! A command as the store has it.

use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;
use paquebot_protocols::model::{Command, CommandReply, CommandStatus, DeviceId, ReplyAddress};

/// Format of the records in this version.
const FORMAT: u8 = 3;

/// The format before, which knows no answers.
const FORMAT_WITHOUT_ANSWERS: u8 = 2;

/// How far a recorded command is: started; answered; answered as the record says.
const OPEN: u8 = 0;
const ANSWERED: u8 = 1;
const ANSWERED_SO: u8 = 2;

/// The name of a command's record.
pub(crate) type CommandId = u64;

/// What a command is recorded under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandRecord {
    pub(crate) id: CommandId,
    /// Of what it asks for.
    pub(super) digest: u64,
}

/// A command that an earlier process recorded.
#[derive(Debug, Clone)]
pub(crate) struct RecordedCommand {
    pub(crate) record: CommandRecord,
    pub(crate) started_at: SystemTime,
    pub(crate) is_answered: bool,
    /// How, unless that is too large to be remembered.
    pub(super) answer: Option<CommandReply>,
    /// Without its payload, which no answer needs.
    pub(crate) command: Command,
}

impl RecordedCommand {
    pub(super) fn encode(&self) -> Bytes {
        let since = self.started_at.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let reply_to = &self.command.reply_to;
        let mut value = BytesMut::with_capacity(128);
        value.put_u8(FORMAT);
        value.put_u8(match (self.is_answered, &self.answer) {
            (false, _) => OPEN,
            (true, None) => ANSWERED,
            (true, Some(_)) => ANSWERED_SO,
        });
        value.put_u64(millis);
        value.put_u64(self.record.digest);
        put_text(&mut value, Some(self.command.device.as_str().as_bytes()));
        put_text(&mut value, Some(self.command.name.as_bytes()));
        put_text(&mut value, Some(reply_to.request.as_bytes()));
        put_text(
            &mut value,
            reply_to
                .topic
                .as_ref()
                .map(|topic| topic.as_bytes().as_ref()),
        );
        put_text(&mut value, reply_to.correlation.as_deref());
        if let Some(answer) = self.answer.as_ref().filter(|_| self.is_answered) {
            put_text(&mut value, Some(answer.status.name().as_bytes()));
            put_text(&mut value, Some(&*answer.payload));
        }
        value.freeze()
    }

    /// The record that [`RecordedCommand::encode`] made `value` of; `None` when it is none.
    pub(crate) fn decode(id: CommandId, mut value: Bytes) -> Option<Self> {
        let format = value.try_get_u8().ok()?;
        let progress = value.try_get_u8().ok()?;
        match (format, progress) {
            (FORMAT, OPEN | ANSWERED | ANSWERED_SO) => {}
            (FORMAT_WITHOUT_ANSWERS, OPEN | ANSWERED) => {}
            _ => return None,
        }
        let millis = Duration::from_millis(value.try_get_u64().ok()?);
        let digest = value.try_get_u64().ok()?;
        let text = |bytes: Bytes| ByteString::try_from(bytes).ok();
        let device = DeviceId::new(text(take_text(&mut value)??)?).ok()?;
        let name = text(take_text(&mut value)??)?;
        let request = text(take_text(&mut value)??)?;
        let topic = match take_text(&mut value)? {
            Some(topic) => Some(text(topic)?),
            None => None,
        };
        let correlation = take_text(&mut value)?;
        let answer = if progress == ANSWERED_SO {
            let status = take_text(&mut value)??;
            let all = CommandStatus::ALL.into_iter();
            Some(CommandReply {
                status: { all }.find(|known| known.name().as_bytes() == status)?,
                payload: take_text(&mut value)??,
            })
        } else {
            None
        };
        // A time beyond what the clock can tell is none.
        let started_at = SystemTime::UNIX_EPOCH.checked_add(millis)?;
        value.is_empty().then(|| Self {
            record: CommandRecord { id, digest },
            started_at,
            is_answered: progress != OPEN,
            answer,
            command: Command {
                device,
                name,
                payload: Bytes::new(),
                reply_to: ReplyAddress {
                    request,
                    topic,
                    correlation,
                },
                time_to_answer: None,
            },
        })
    }
}

/// A length and so many bytes; the largest length says that there is none.
pub(super) fn put_text(value: &mut BytesMut, text: Option<&[u8]>) {
    let Some(text) = text else {
        return value.put_u32(u32::MAX);
    };
    value.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
    value.put_slice(text);
}

fn take_text(value: &mut Bytes) -> Option<Option<Bytes>> {
    let length = value.try_get_u32().ok()?;
    if length == u32::MAX {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    (length <= value.len()).then(|| Some(value.split_to(length)))
}

#[cfg(test)]
pub(super) fn recorded() -> RecordedCommand {
    RecordedCommand {
        record: CommandRecord { id: 7, digest: 9 },
        started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234),
        is_answered: true,
        answer: Some(CommandReply::failed("no")),
        command: Command {
            device: DeviceId::new("d1").unwrap(),
            name: "reboot".into(),
            payload: Bytes::new(),
            reply_to: ReplyAddress {
                request: "r/1".into(),
                topic: Some("answers".into()),
                correlation: None,
            },
            time_to_answer: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_and_other_bytes_are_none() {
        let before = recorded();
        let value = before.encode();
        let after = RecordedCommand::decode(7, value.clone()).unwrap();
        assert_eq!(
            (after.command, after.record),
            (before.command, before.record)
        );
        assert_eq!(
            (after.started_at, after.is_answered),
            (before.started_at, true)
        );
        assert_eq!(after.answer, before.answer);
        for length in 0..value.len() {
            assert!(RecordedCommand::decode(7, value.slice(..length)).is_none());
        }
        for (is_answered, answer) in [(true, None), (false, None)] {
            let mut before = recorded();
            (before.is_answered, before.answer) = (is_answered, answer);
            let value = before.encode();
            let after = RecordedCommand::decode(7, value.clone()).unwrap();
            assert_eq!((after.is_answered, after.answer), (is_answered, None));
            // As the version before wrote it.
            let mut old = value.to_vec();
            old[0] = FORMAT_WITHOUT_ANSWERS;
            let after = RecordedCommand::decode(7, old.into()).unwrap();
            assert_eq!((after.is_answered, after.answer), (is_answered, None));
        }
    }
}
