//! A link that speaks no platform's language: topics and payloads are what the user types.

use std::time::SystemTime;

use paquebot_protocols::dialect::{
    Capabilities, Closing, ConnectSpec, Dialect, DialectError, Inbound, Interest, LikelyCause,
    LinkIdentity, Outbound, Rendered,
};
use paquebot_protocols::model::{DeviceId, Platform};
use paquebot_protocols::mqtt::session::Incoming;
use paquebot_protocols::mqtt::{Subscription, Version};

#[derive(Debug, Default)]
pub(super) struct Raw {
    capabilities: Capabilities,
    /// Whose limits hold.
    platform: Option<Box<dyn Dialect>>,
}

impl Raw {
    /// Within the limits of a platform.
    pub(super) fn within(platform: impl Dialect) -> Self {
        Self {
            capabilities: platform.capabilities().clone(),
            platform: Some(Box::new(platform)),
        }
    }
}

impl Dialect for Raw {
    fn platform(&self) -> Platform {
        let platform = self.platform.as_ref();
        platform.map_or(Platform::Mqtt, |platform| platform.platform())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn closes_silently(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| platform.closes_silently())
    }

    fn explain_closing(&self, closing: &Closing<'_>) -> Option<LikelyCause> {
        self.platform.as_ref()?.explain_closing(closing)
    }

    fn bounded_part<'a>(&self, topic: &'a str) -> &'a str {
        match &self.platform {
            Some(platform) => platform.bounded_part(topic),
            None => topic,
        }
    }

    fn check_client_id(&self, client_id: &str, version: Version) -> Result<(), DialectError> {
        match &self.platform {
            Some(platform) => platform.check_client_id(client_id, version),
            None => Ok(()),
        }
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
            platform: self.platform(),
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
