//! A link that speaks no platform's language: topics and payloads are what the user types.

use std::time::SystemTime;

use paquebot_protocols::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use paquebot_protocols::model::{DeviceId, Platform};
use paquebot_protocols::mqtt::Subscription;
use paquebot_protocols::mqtt::session::Incoming;

#[derive(Debug, Default)]
pub(super) struct Raw(Capabilities);

impl Dialect for Raw {
    fn platform(&self) -> Platform {
        Platform::Mqtt
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0
    }

    fn connect(&self, link: &LinkIdentity, _now: SystemTime) -> Result<ConnectSpec, DialectError> {
        Ok(ConnectSpec {
            client_id: link.id.text().clone(),
            username: None,
            password: None,
            will: None,
            expires_at: None,
        })
    }

    fn subscriptions(
        &self,
        _link: &LinkIdentity,
        _device: &DeviceId,
        _interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        Err(DialectError::Unsupported {
            platform: Platform::Mqtt,
            operation: "devices on a raw link",
        })
    }

    /// Says nothing, so that neither arrival nor departure is announced.
    fn render(
        &self,
        _link: &LinkIdentity,
        _device: &DeviceId,
        _outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        Ok(None)
    }

    fn classify(
        &self,
        _link: &LinkIdentity,
        _incoming: &Incoming,
    ) -> Result<Inbound, DialectError> {
        Ok(Inbound::Raw)
    }
}
