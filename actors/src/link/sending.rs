//! What callers send over a link: rendered, checked and given room in the caller's task.

use std::fmt;

use paquebot_protocols::dialect::{Capabilities, DialectError, Outbound, Rendered};
use paquebot_protocols::model::{Command, CommandReply, DeviceId};
use paquebot_protocols::mqtt::QoS;

use super::hand_over::HandOver;
use super::{LinkContext, LinkHandle};
use crate::command_router::CommandRecord;
use crate::offline_queue::{
    Durable, Overflow, RecordError, Recording, Refused, Room, Single, Submission, Unrecorded,
    size_of,
};
use crate::receipt::{BatchReceipt, BatchSender, Receipt, ReceiptSender};
use crate::store::{Operation, StoreError};

/// Most messages of a batch that are handed over at once; those behind them wait for room on their own.
const PART_MAX: usize = 512;

/// The same where each part waits until the store has it.
const RECORDED_PART_MAX: usize = 4_096;

/// Why a message was not accepted. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full; the message comes back.
    #[error("the link's queue is full; wait, or raise its limits")]
    Full(Box<Rendered>),
    /// The queues of all links of the fleet together hold as much as they may; the message comes back.
    #[error("the fleet's queues are full; wait, or raise its limits")]
    FleetFull(Box<Rendered>),
    /// The link is stopped; the message comes back.
    #[error("the link is stopped")]
    Stopped(Box<Rendered>),
    /// The platform does not take such a message.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The message could not be recorded in the link's durable queue; it comes back.
    #[error("the message cannot be recorded: {error}")]
    Storage {
        /// It.
        message: Box<Rendered>,
        /// Why.
        error: RecordError,
    },
    /// The store took the message and never answered, which is a bug: it may be recorded or not.
    #[error("the store does not answer")]
    Unanswered,
}

/// Why a batch was not accepted, or not all of it. Its `Debug` is its sentence, for a `main` that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The queue is full.
    #[error(
        "the link's queue is full: {} messages of the batch were not accepted; wait, or raise its limits",
        unsent.len()
    )]
    Full {
        /// The messages that were not accepted.
        unsent: Vec<Rendered>,
        /// The receipt of those before them.
        accepted: BatchReceipt,
    },
    /// The queues of all links of the fleet together hold as much as they may.
    #[error(
        "the fleet's queues are full: {} messages of the batch were not accepted; wait, or raise its limits",
        unsent.len()
    )]
    FleetFull {
        /// The messages that were not accepted.
        unsent: Vec<Rendered>,
        /// The receipt of those before them.
        accepted: BatchReceipt,
    },
    /// The link is stopped.
    #[error("the link is stopped: {} messages of the batch were not accepted", unsent.len())]
    Stopped {
        /// The messages that were not accepted.
        unsent: Vec<Rendered>,
        /// The receipt of those before them.
        accepted: BatchReceipt,
    },
    /// The messages could not be recorded in the link's durable queue.
    #[error("{} messages of the batch cannot be recorded: {error}", unsent.len())]
    Storage {
        /// The messages that were not accepted.
        unsent: Vec<Rendered>,
        /// The receipt of those before them.
        accepted: BatchReceipt,
        /// Why.
        error: RecordError,
    },
    /// The platform does not take one of the messages; none was accepted.
    #[error("message {place} of the batch: {error}")]
    Dialect {
        /// Its place in the batch, counted from 0.
        place: usize,
        /// Why.
        error: DialectError,
        /// All of them.
        unsent: Vec<Rendered>,
    },
}

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `fn main() -> Result<…>` prints.
impl fmt::Debug for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LinkContext {
    fn render(&self, device: &DeviceId, outbound: &Outbound<'_>) -> Result<Rendered, DialectError> {
        let dialect = &self.profile.dialect;
        dialect
            .render(&self.identity, device, outbound)?
            .ok_or(DialectError::Unsupported {
                platform: dialect.platform(),
                operation: "such a message",
            })
    }

    /// Renders in the caller's task and waits until the queue takes the message.
    pub(crate) async fn send(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Receipt, SendError> {
        self.submit(self.render(device, outbound)?).await
    }

    /// Answers a command; where the command is recorded, its answer is recorded with what is sent. It is sent whatever
    /// becomes of the future from when it calls `sent`; before, dropping it takes the answer back.
    pub(crate) async fn answer(
        &self,
        command: &Command,
        reply: &CommandReply,
        record: Option<CommandRecord>,
        sent: impl FnOnce(),
    ) -> Result<Receipt, SendError> {
        let message = self.render(&command.device, &Outbound::Reply { command, reply })?;
        let (sender, receipt) = Receipt::new();
        let also = self.record_of_answer(command, reply, record);
        let recording = self.start_hand_over(message, Some(sender), also).await?;
        sent();
        end_hand_over(recording).await?;
        Ok(receipt)
    }

    /// The same without waiting.
    pub(crate) fn try_answer(
        &self,
        command: &Command,
        reply: &CommandReply,
        record: Option<CommandRecord>,
    ) -> Result<Receipt, SendError> {
        let message = self.render(&command.device, &Outbound::Reply { command, reply })?;
        self.try_submit(message, self.record_of_answer(command, reply, record))
    }

    fn record_of_answer(
        &self,
        command: &Command,
        reply: &CommandReply,
        record: Option<CommandRecord>,
    ) -> Option<Operation> {
        let durable = self.durable.as_deref()?;
        Some(durable.command_record(record?, command, Some(reply)))
    }

    pub(crate) fn try_send(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Receipt, SendError> {
        self.try_submit(self.render(device, outbound)?, None)
    }

    #[inline]
    fn submit(&self, message: Rendered) -> HandOver<'_, Receipt> {
        let (sender, receipt) = Receipt::new();
        HandOver::new(self, message, Some(sender), receipt)
    }

    fn try_submit(&self, message: Rendered, also: Option<Operation>) -> Result<Receipt, SendError> {
        let (sender, receipt) = Receipt::new();
        self.try_hand_over(message, Some(sender), also)?;
        Ok(receipt)
    }

    /// For nearly every message: the queue has room, and nothing is recorded. `false` if something is in the way; the
    /// message is still there then.
    #[inline]
    pub(super) fn hand_over_at_once(&self, single: &mut Option<Single>) -> bool {
        let Some((message, _)) = single else {
            return false;
        };
        self.recorder(message, None).is_none()
            && self.check_capabilities(message).is_ok()
            && self.intake.try_push(single).is_ok()
    }

    /// A caller that gives up waiting gives its room back.
    pub(super) async fn hand_over_in_turn(
        &self,
        message: Rendered,
        receipt: Option<ReceiptSender>,
    ) -> Result<(), SendError> {
        end_hand_over(self.start_hand_over(message, receipt, None).await?).await
    }

    /// The same without waiting for the store. On a link with a durable queue `also` is recorded with the message.
    async fn start_hand_over(
        &self,
        message: Rendered,
        receipt: Option<ReceiptSender>,
        also: Option<Operation>,
    ) -> Result<Option<Recording>, SendError> {
        self.check_capabilities(&message)?;
        let waits = self.profile.outbox.overflow != Overflow::Reject;
        let is_recorded = self.recorder(&message, also.as_ref()).is_some();
        let mut single = Some((message, receipt));
        if !is_recorded
            && let Err(refused) = self.intake.try_push(&mut single)
            && !(waits && matches!(refused, Refused::Full | Refused::FleetFull))
            && let Some((message, _)) = single.take()
        {
            return Err(self.not_taken(&refused, message));
        }
        let Some((message, receipt)) = single else {
            return Ok(None);
        };
        let cost = self.intake.cost(size_of(&message));
        let room = match self.intake.try_take_room(1, cost) {
            Err(Refused::Full | Refused::FleetFull) if waits => {
                self.intake.take_room(1, cost).await
            }
            taken => taken,
        };
        self.push(message, receipt, room, also, true)
    }

    fn try_hand_over(
        &self,
        message: Rendered,
        receipt: Option<ReceiptSender>,
        also: Option<Operation>,
    ) -> Result<(), SendError> {
        self.check_capabilities(&message)?;
        if self.recorder(&message, also.as_ref()).is_none() {
            let mut single = Some((message, receipt));
            let pushed = self.intake.try_push(&mut single);
            return match (pushed, single) {
                (Err(refused), Some((message, _))) => Err(self.not_taken(&refused, message)),
                _ => Ok(()),
            };
        }
        let room = self
            .intake
            .try_take_room(1, self.intake.cost(size_of(&message)));
        self.push(message, receipt, room, also, false).map(drop)
    }

    /// Who records a message before it is accepted.
    fn recorder(&self, message: &Rendered, also: Option<&Operation>) -> Option<&Durable> {
        let durable = self.durable.as_deref()?;
        (message.qos != QoS::AtMostOnce || also.is_some()).then_some(durable)
    }

    fn push(
        &self,
        message: Rendered,
        receipt: Option<ReceiptSender>,
        room: Result<Room<'_>, Refused>,
        also: Option<Operation>,
        is_awaited: bool,
    ) -> Result<Option<Recording>, SendError> {
        let room = match room {
            Ok(room) => room,
            Err(refused) => return Err(self.not_taken(&refused, message)),
        };
        if let Some(durable) = self.recorder(&message, also.as_ref()) {
            let submission = Submission::One(message, receipt);
            let room = room.into_owned(&self.intake);
            return durable
                .record(submission, also, room, &self.metrics, is_awaited)
                .map_err(not_recorded);
        }
        match self.intake.push(Submission::One(message, receipt), room) {
            Err(Submission::One(message, _)) => Err(SendError::Stopped(Box::new(message))),
            _ => Ok(None),
        }
    }

    /// Hands a batch over in parts, each as large as the bounds allow.
    async fn submit_batch(&self, messages: Vec<Rendered>) -> Result<BatchReceipt, BatchError> {
        let capabilities = self.profile.dialect.capabilities();
        let checks = messages.iter().map(|message| {
            if self.is_taken(capabilities, message) {
                Ok(())
            } else {
                Err(self.explain_refusal(message))
            }
        });
        if let Some((place, Err(error))) = checks.enumerate().find(|(_, check)| check.is_err()) {
            let unsent = messages;
            return Err(BatchError::Dialect {
                place,
                error,
                unsent,
            });
        }
        let mut receipt = BatchReceipt::default();
        // What is left stays where it is: to move it with each part would take the time of its square, and each part would
        // go with the places of all.
        let mut messages = messages.into_iter();
        while !messages.as_slice().is_empty() {
            let room = match self.take_room_of_part(messages.as_slice()).await {
                Ok(room) => room,
                Err(Refused::Full) => {
                    return Err(BatchError::Full {
                        unsent: messages.collect(),
                        accepted: receipt,
                    });
                }
                Err(Refused::FleetFull) => {
                    self.count_refused(messages.len());
                    return Err(BatchError::FleetFull {
                        unsent: messages.collect(),
                        accepted: receipt,
                    });
                }
                Err(Refused::Stopped) => {
                    return Err(BatchError::Stopped {
                        unsent: messages.collect(),
                        accepted: receipt,
                    });
                }
            };
            let part: Vec<_> = if room.messages() == messages.len() {
                // The caller's list itself, mostly.
                std::mem::take(&mut messages).collect()
            } else {
                messages.by_ref().take(room.messages()).collect()
            };
            let sender = receipt.expect(part.len());
            if let Err((mut unsent, error)) = self.push_part(part, sender, room).await {
                receipt.forget_last();
                unsent.extend(messages);
                let accepted = receipt;
                return Err(match error {
                    Some(error) if !matches!(error, RecordError::Stopped) => BatchError::Storage {
                        unsent,
                        accepted,
                        error,
                    },
                    _ => BatchError::Stopped { unsent, accepted },
                });
            }
        }
        Ok(receipt)
    }

    /// Gives the messages back when they were not accepted, with the reason unless it is that the link is stopped.
    async fn push_part(
        &self,
        part: Vec<Rendered>,
        sender: BatchSender,
        room: Room<'_>,
    ) -> Result<(), (Vec<Rendered>, Option<RecordError>)> {
        let is_recorded = |message: &Rendered| message.qos != QoS::AtMostOnce;
        let durable = self.durable.as_deref();
        let durable = durable.filter(|_| part.iter().any(is_recorded));
        let submission = Submission::Batch(part, Some(sender));
        let given_back = |submission: Submission| match submission {
            Submission::Batch(messages, _) => messages,
            _ => Vec::new(),
        };
        let Some(durable) = durable else {
            let pushed = self.intake.push(submission, room);
            return pushed.map_err(|submission| (given_back(submission), None));
        };
        let room = room.into_owned(&self.intake);
        let recording = match durable.record(submission, None, room, &self.metrics, true) {
            Ok(Some(recording)) => recording,
            Ok(None) => return Ok(()),
            Err(Unrecorded { submission, error }) => {
                return Err((given_back(*submission), Some(error)));
            }
        };
        recorded(recording)
            .await
            .map_err(|Unrecorded { submission, error }| (given_back(*submission), Some(error)))
    }

    /// Room for the first of `messages`, as many as go together.
    async fn take_room_of_part(&self, messages: &[Rendered]) -> Result<Room<'_>, Refused> {
        let overflow = self.profile.outbox.overflow;
        let (mut count, mut cost) = self.measure_part(messages);
        if self.intake.fleet().is_some() && overflow.holds_room() {
            // Links with little to say wait behind this one, so it waits for a message and not for a batch.
            loop {
                match self.intake.try_take_room(count, cost) {
                    Err(Refused::FleetFull | Refused::Full) if count > 1 => {
                        (count, cost) = self.measure_part(&messages[..count as usize / 2]);
                    }
                    Err(Refused::FleetFull | Refused::Full) if overflow == Overflow::Wait => break,
                    taken => return taken,
                }
            }
        }
        if overflow == Overflow::Reject {
            self.intake.try_take_room(count, cost)
        } else {
            self.intake.take_room(count, cost).await
        }
    }

    /// How many of `messages`, one at the least, can have room together, and what they cost.
    fn measure_part(&self, messages: &[Rendered]) -> (u32, u32) {
        // A part of a batch that is recorded waits for the store, so that larger ones are better.
        let part_max = if self.durable.is_some() {
            RECORDED_PART_MAX
        } else {
            PART_MAX
        };
        let count_max = part_max.min(self.intake.count_max() as usize);
        let (mut count, mut cost) = (0, 0_u32);
        for message in &messages[..messages.len().min(count_max)] {
            let with = cost.saturating_add(self.intake.cost(size_of(message)));
            if count > 0 && with > self.intake.cost_max() {
                break;
            }
            (count, cost) = (count + 1, with);
        }
        (count, cost)
    }

    #[cold]
    fn not_taken(&self, refused: &Refused, message: Rendered) -> SendError {
        let message = Box::new(message);
        match refused {
            Refused::Full => SendError::Full(message),
            Refused::FleetFull => {
                self.count_refused(1);
                SendError::FleetFull(message)
            }
            Refused::Stopped => SendError::Stopped(message),
        }
    }

    /// Messages were refused because the fleet's queues are full.
    fn count_refused(&self, messages: usize) {
        if let Some(fleet) = self.intake.fleet() {
            fleet.count_refused(messages as u64);
        }
    }

    /// Refuses what the platform is known not to take, before it is accepted.
    #[inline]
    fn check_capabilities(&self, message: &Rendered) -> Result<(), DialectError> {
        if self.is_taken(self.profile.dialect.capabilities(), message) {
            Ok(())
        } else {
            Err(self.explain_refusal(message))
        }
    }

    #[inline]
    fn is_taken(&self, capabilities: &Capabilities, message: &Rendered) -> bool {
        capabilities.qos_max >= message.qos
            && (capabilities.retain || !message.retain)
            && capabilities
                .payload_max
                .is_none_or(|max| message.payload.len() <= max)
            && self.is_topic_short(capabilities, message.topic.as_str())
    }

    #[inline]
    fn is_topic_short(&self, capabilities: &Capabilities, topic: &str) -> bool {
        let is_short = |topic: &str| {
            topic.len() <= capabilities.topic_bytes_max
                && capabilities
                    .topic_levels_max
                    .is_none_or(|max| topic.split('/').count() <= max)
        };
        is_short(topic) || is_short(self.profile.dialect.bounded_part(topic))
    }

    #[cold]
    fn explain_refusal(&self, message: &Rendered) -> DialectError {
        let platform = self.profile.dialect.platform();
        let capabilities = self.profile.dialect.capabilities();
        let length = message.payload.len();
        let unsupported = |operation| DialectError::Unsupported {
            platform,
            operation,
        };
        if let Some(max) = capabilities.payload_max.filter(|max| length > *max) {
            DialectError::PayloadTooLarge {
                platform,
                length,
                max,
            }
        } else if message.qos > capabilities.qos_max {
            unsupported("quality of service this high")
        } else if message.retain && !capabilities.retain {
            unsupported("retained messages")
        } else {
            let dialect = &self.profile.dialect;
            match dialect.check_bounds("topic", message.topic.as_str()) {
                Err(error) => error,
                Ok(()) => unsupported("such a message"),
            }
        }
    }
}

async fn end_hand_over(recording: Option<Recording>) -> Result<(), SendError> {
    match recording {
        Some(recording) => recorded(recording).await.map_err(not_recorded),
        None => Ok(()),
    }
}

/// Waits until a message is recorded.
async fn recorded(recording: Recording) -> Result<(), Unrecorded> {
    // The store answers each entry, unless its thread has failed.
    let unanswered = Err(Unrecorded {
        submission: Box::new(Submission::Batch(Vec::new(), None)),
        error: RecordError::Store(StoreError::Closed),
    });
    recording.await.unwrap_or(unanswered)
}

fn not_recorded(unrecorded: Unrecorded) -> SendError {
    let Unrecorded { submission, error } = unrecorded;
    match (*submission, error) {
        (Submission::One(message, _), RecordError::Stopped) => {
            SendError::Stopped(Box::new(message))
        }
        (Submission::One(message, _), error) => SendError::Storage {
            message: Box::new(message),
            error,
        },
        _ => SendError::Unanswered,
    }
}

impl LinkHandle {
    /// Refuses what the platform is known not to take.
    pub(crate) fn check(&self, message: &Rendered) -> Result<(), DialectError> {
        self.context.check_capabilities(message)
    }

    /// What `outbound` is on the wire.
    ///
    /// # Errors
    /// The platform does not take it.
    pub fn render(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Rendered, DialectError> {
        self.context.render(device, outbound)
    }

    /// Says something for `device`; waits while the queue has no room.
    ///
    /// # Errors
    /// The platform does not take it, the queue or the fleet is full (under [`Overflow::Reject`]) or the link is
    /// stopped.
    pub async fn send(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Receipt, SendError> {
        self.context.send(device, outbound).await
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`LinkHandle::send`]; [`SendError::Full`] and [`SendError::FleetFull`] also when callers would have to wait.
    pub fn try_send(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Receipt, SendError> {
        self.context.try_send(device, outbound)
    }

    /// As [`LinkHandle::send`] for a caller who does not ask how the message ends.
    ///
    /// # Errors
    /// As [`LinkHandle::send`].
    pub async fn send_detached(
        &self,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<(), SendError> {
        let message = self.context.render(device, outbound)?;
        HandOver::new(&self.context, message, None, ()).await
    }

    /// Says several things for `device` as one batch.
    ///
    /// # Errors
    /// As [`LinkHandle::publish_batch`]; also when one of them cannot be rendered, and then none is accepted.
    pub async fn send_batch<'a>(
        &self,
        device: &DeviceId,
        outbounds: impl IntoIterator<Item = Outbound<'a>>,
    ) -> Result<BatchReceipt, BatchError> {
        let mut messages = Vec::new();
        for outbound in outbounds {
            match self.context.render(device, &outbound) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    return Err(BatchError::Dialect {
                        place: messages.len(),
                        error,
                        unsent: messages,
                    });
                }
            }
        }
        self.context.submit_batch(messages).await
    }

    /// Publishes a message as it is; waits while the queue has no room.
    ///
    /// # Errors
    /// As [`LinkHandle::send`].
    #[inline]
    pub fn publish(
        &self,
        message: Rendered,
    ) -> impl Future<Output = Result<Receipt, SendError>> + Send {
        self.context.submit(message)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`LinkHandle::try_send`].
    pub fn try_publish(&self, message: Rendered) -> Result<Receipt, SendError> {
        self.context.try_submit(message, None)
    }

    /// As [`LinkHandle::publish`] for a caller who does not ask how the message ends.
    ///
    /// # Errors
    /// As [`LinkHandle::send`].
    #[inline]
    pub fn publish_detached(
        &self,
        message: Rendered,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        HandOver::new(&self.context, message, None, ())
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`LinkHandle::try_send`].
    pub fn try_publish_detached(&self, message: Rendered) -> Result<(), SendError> {
        self.context.try_hand_over(message, None, None)
    }

    /// Publishes messages in order; waits while the queue has no room for the next part of them.
    ///
    /// # Errors
    /// The platform does not take one of them, the queue or the fleet is full (under [`Overflow::Reject`]) or the link
    /// is stopped.
    pub async fn publish_batch(&self, messages: Vec<Rendered>) -> Result<BatchReceipt, BatchError> {
        self.context.submit_batch(messages).await
    }
}
