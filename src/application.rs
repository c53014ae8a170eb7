//! The application's side of a platform.

use bytes::Bytes;
use paquebot_actors::{LinkHandle, Receipt, SendError, SubscribeError};
use paquebot_protocols::dialect::{Interest, Outbound};
use paquebot_protocols::model::{DeviceId, StatePatch};

use crate::streams::{Replies, TelemetryFeed};

/// What an application link sees of the devices and says to them. On a link of another role every call
/// gives the dialect's `Unsupported` error.
#[derive(Debug, Clone)]
pub struct Application(LinkHandle);

impl Application {
    pub(crate) fn new(link: LinkHandle) -> Self {
        Self(link)
    }

    /// Telemetry of all devices.
    ///
    /// # Errors
    /// The platform has no such view, or the link is stopped.
    pub async fn telemetry(&self) -> Result<TelemetryFeed, SubscribeError> {
        let interest = Interest::Telemetry;
        self.0
            .listen(&self.0.identity().id, interest)
            .await
            .map(TelemetryFeed::new)
    }

    /// Answers to commands.
    ///
    /// # Errors
    /// The platform has no such view, or the link is stopped.
    pub async fn replies(&self) -> Result<Replies, SubscribeError> {
        self.0
            .listen(&self.0.identity().id, Interest::Replies)
            .await
            .map(Replies::new)
    }

    /// Sends a command. `request` names it and comes back in the answer: use each name once while its answer is
    /// awaited. The receipt tells that the server has the command, not that the device answered.
    ///
    /// # Errors
    /// It does not fit the platform, the queue is full or the link is stopped.
    pub async fn command(
        &self,
        device: &DeviceId,
        name: &str,
        payload: impl Into<Bytes>,
        request: &str,
    ) -> Result<Receipt, SendError> {
        let payload = payload.into();
        self.0
            .send(
                device,
                &Outbound::Command {
                    name,
                    payload: &payload,
                    request,
                },
            )
            .await
    }

    /// Changes the desired state of a device.
    ///
    /// # Errors
    /// As [`Application::command`].
    pub async fn desire(
        &self,
        device: &DeviceId,
        patch: &StatePatch,
    ) -> Result<Receipt, SendError> {
        self.0.send(device, &Outbound::DesireState(patch)).await
    }
}
