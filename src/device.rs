//! A device: what it sends, what it is asked.

use bytestring::ByteString;
use paquebot_actors::{
    BatchError, BatchReceipt, LinkHandle, Receipt, SendError, ShadowError, SubscribeError,
};
use paquebot_protocols::dialect::{DialectError, Interest, Outbound};
use paquebot_protocols::model::{DeviceId, StatePatch, Telemetry};

use crate::link::Link;
use crate::publish::PreparedTopic;
use crate::shadow::Shadow;
use crate::streams::{Commands, DesiredStates};

/// One device of a link. Cheap to clone; usable from any thread and any executor.
#[derive(Debug, Clone)]
pub struct Device {
    link: LinkHandle,
    id: DeviceId,
}

impl Device {
    pub(crate) fn new(link: LinkHandle, id: DeviceId) -> Self {
        Self { link, id }
    }

    pub(crate) fn link(&self) -> Link {
        Link::new(self.link.clone())
    }

    /// The device's name.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// Sends telemetry; resolves once the link has accepted it: with a durable queue, once it is recorded.
    ///
    /// # Errors
    /// It does not fit the platform, the queue is full (under [`Overflow::Reject`](crate::Overflow::Reject)),
    /// the link is stopped, or its durable queue cannot record the message ([`SendError::Storage`]).
    pub async fn send(&self, telemetry: &Telemetry) -> Result<Receipt, SendError> {
        self.link
            .send(&self.id, &Outbound::Telemetry(telemetry))
            .await
    }

    /// The same without waiting, not even for the store: see [`Link::try_publish`](crate::Link::try_publish).
    ///
    /// # Errors
    /// As [`Device::send`]; [`SendError::Full`] and [`SendError::FleetFull`] also when a caller would have
    /// to wait.
    pub fn try_send(&self, telemetry: &Telemetry) -> Result<Receipt, SendError> {
        self.link
            .try_send(&self.id, &Outbound::Telemetry(telemetry))
    }

    /// Sends telemetry whose outcome nobody asks for: it is accepted, sent and counted like any other, and costs
    /// less.
    ///
    /// # Errors
    /// As [`Device::send`].
    pub async fn send_detached(&self, telemetry: &Telemetry) -> Result<(), SendError> {
        self.link
            .send_detached(&self.id, &Outbound::Telemetry(telemetry))
            .await
    }

    /// Sends telemetry in order, with one receipt for all of it. Resolves once the link has accepted all.
    ///
    /// # Errors
    /// As [`Link::publish_batch`](crate::Link::publish_batch).
    pub async fn send_batch(&self, telemetry: &[Telemetry]) -> Result<BatchReceipt, BatchError> {
        let outbounds = telemetry.iter().map(Outbound::Telemetry);
        self.link.send_batch(&self.id, outbounds).await
    }

    /// Where telemetry like this goes, asked once for many messages: its payload does not matter. Publish what
    /// [`PreparedTopic::message`] makes with the device's [`Link`](crate::Link).
    ///
    /// # Errors
    /// The telemetry does not fit the platform, or the platform changes payloads on their way, so that each
    /// message has to be sent with [`Device::send`].
    pub fn prepare(&self, telemetry: &Telemetry) -> Result<PreparedTopic, DialectError> {
        let rendered = self
            .link
            .render(&self.id, &Outbound::Telemetry(telemetry))?;
        if rendered.payload == telemetry.payload {
            return Ok(PreparedTopic::rendered(rendered));
        }
        Err(DialectError::Unsupported {
            platform: self.link.profile().dialect.platform(),
            operation: "telemetry with the payload as it is",
        })
    }

    /// Reports a change of the device's state.
    ///
    /// # Errors
    /// As [`Device::send`]; also when the platform has no state.
    pub async fn report(&self, patch: &StatePatch) -> Result<Receipt, SendError> {
        self.link
            .send(&self.id, &Outbound::ReportState(patch))
            .await
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`Device::report`]; [`SendError::Full`] and [`SendError::FleetFull`] also when a caller would have
    /// to wait.
    pub fn try_report(&self, patch: &StatePatch) -> Result<Receipt, SendError> {
        self.link.try_send(&self.id, &Outbound::ReportState(patch))
    }

    /// The commands for this device, to be answered one by one or with [`Commands::serve`].
    ///
    /// A command that comes again is not started again, whether the server repeats it or its sender, and counted as
    /// `duplicate`. When its sender repeats it, it is answered as before: at once if it was answered (with answers of up
    /// to 1 KiB, of which a link remembers 1 MiB, also over the end of the process with a durable queue), else once it is.
    ///
    /// It is the same command when its request id (or, on MQTT 5, its correlation data), its name and its payload are
    /// the same; one that differs in any of them is a new one, and so is each without request id and correlation data.
    /// One that was refused before it was started may come again.
    ///
    /// A link remembers at most 8 MiB of such names: without a durable queue of its last 1,024 commands, with one of
    /// its last 100,000 of the last 24 hours, also over the end of the process. Without a durable queue a command that
    /// its sender repeats after 10 minutes is a new one, so that senders may count their requests from 1 again; with
    /// one a sender has to use other ids for 24 hours.
    ///
    /// # Errors
    /// The platform has no commands, or the link is stopped.
    pub async fn commands(&self) -> Result<Commands, SubscribeError> {
        self.link
            .listen(&self.id, Interest::Commands)
            .await
            .map(Commands::new)
    }

    /// The device's own document of state: on AWS IoT its classic shadow.
    ///
    /// # Errors
    /// The platform has no documents that can be asked for, or the device's name does not fit it.
    pub fn shadow(&self) -> Result<Shadow, DialectError> {
        self.link.shadow(&self.id, None).map(Shadow::new)
    }

    /// One of the device's documents of state that have a name: on AWS IoT a named shadow.
    ///
    /// # Errors
    /// As [`Device::shadow`]; also when the document's name does not fit the platform.
    pub fn shadow_named(&self, name: impl Into<ByteString>) -> Result<Shadow, DialectError> {
        self.link
            .shadow(&self.id, Some(name.into()))
            .map(Shadow::new)
    }

    /// Changes of the desired state of this device. Where the platform has documents that can be asked for, these are the
    /// deltas of [`Device::shadow`].
    ///
    /// # Errors
    /// The platform has no state, or the link is stopped.
    pub async fn desired_states(&self) -> Result<DesiredStates, SubscribeError> {
        if self.link.profile().dialect.state().is_some() {
            let shadow = self.link.shadow(&self.id, None)?;
            return match shadow.deltas().await {
                Ok(deltas) => Ok(DesiredStates::of_shadow(deltas)),
                Err(ShadowError::Dialect(error)) => Err(error.into()),
                Err(ShadowError::TooMany) => Err(SubscribeError::TooMany),
                Err(_) => Err(SubscribeError::Stopped),
            };
        }
        self.link
            .listen(&self.id, Interest::DesiredState)
            .await
            .map(DesiredStates::new)
    }
}
