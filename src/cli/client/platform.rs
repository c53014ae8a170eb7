//! Whose rules hold for a link of the command line, and how it gets to AWS IoT.

use paquebot::aws::{self, AccessKeys, Connection};
use paquebot::dialect::{self, Dialect, DialectError};
use paquebot::mqtt::{Subscription, Version};
use paquebot::{GroupBuilder, OfflineLimit};

use super::raw::Raw;
use super::{Place, ServerArgs, usage};
use crate::cli::CommandError;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum PlatformFlag {
    /// Any MQTT server.
    Mqtt,
    /// AWS IoT Core: TLS always, its limits are known before anything is sent.
    Aws,
}

impl PlatformFlag {
    /// An endpoint of AWS IoT is known by its name.
    pub(super) fn of_host(host: &str) -> Self {
        if aws::region_of(host).is_some() {
            Self::Aws
        } else {
            Self::Mqtt
        }
    }

    /// What raw links say to it.
    pub(super) fn dialect(self) -> Raw {
        match self {
            Self::Mqtt => Raw::default(),
            Self::Aws => Raw::within(dialect::Aws::default()),
        }
    }

    /// Refuses a message that it is known not to take.
    pub(in crate::cli) fn check_message(
        self,
        topic: &str,
        payload_bytes: usize,
    ) -> Result<(), CommandError> {
        let dialect = self.dialect();
        let checked = match dialect.capabilities().payload_max {
            Some(max) if payload_bytes > max => Err(DialectError::PayloadTooLarge {
                platform: dialect.platform(),
                length: payload_bytes,
                max,
            }),
            _ => dialect.check_bounds("topic", topic),
        };
        refuse(checked)
    }

    /// Refuses a subscription that it is known not to take.
    pub(in crate::cli) fn check_subscription(
        self,
        wanted: &Subscription,
    ) -> Result<(), CommandError> {
        refuse(self.dialect().check_subscription(wanted))
    }

    /// Refuses a client identifier that it is known not to take.
    pub(in crate::cli) fn check_client_id(
        self,
        client_id: &str,
        version: Version,
    ) -> Result<(), CommandError> {
        refuse(self.dialect().check_client_id(client_id, version))
    }
}

fn refuse(checked: Result<(), DialectError>) -> Result<(), CommandError> {
    checked.map_err(|error| usage(error.to_string()))
}

impl ServerArgs {
    /// Sets the way to AWS IoT, and what holds on it.
    pub(super) fn set_aws(
        &self,
        group: GroupBuilder,
        place: &Place,
        dialect: impl Dialect,
    ) -> Result<GroupBuilder, CommandError> {
        let has_user = self.username(place).is_some();
        let group = if self.cert.is_none() && place.websocket.is_some() && !has_user {
            // What the library sets on this platform for devices is not for a command that waits for its messages.
            group
                .aws(self.signed(place))
                .offline_limit(OfflineLimit::None)
                .drain_rate(None)
        } else if self.cert.is_none() && !has_user {
            return Err(usage(
                "AWS IoT wants to know who connects: --cert and --key, or --ws with an access key (AWS_ACCESS_KEY_ID \
                 and AWS_SECRET_ACCESS_KEY, or --aws-profile), or -u for a custom authorizer",
            ));
        } else {
            let group = group.endpoint(place.endpoint());
            match self.aws_alpn(place) {
                Some(protocol) => group.alpn([protocol]),
                None => group,
            }
        };
        Ok(group
            .dialect(dialect)
            .inflight_max(aws::INFLIGHT_MAX)
            .receive_maximum(aws::INFLIGHT_MAX)
            .subscriptions_max(aws::SUBSCRIPTIONS_MAX))
    }

    /// WebSocket, signed with an access key.
    fn signed(&self, place: &Place) -> Connection {
        let keys = match &self.aws_profile {
            Some(profile) => AccessKeys::profile(profile),
            None => AccessKeys::default(),
        };
        let mut connection = Connection::websocket(place.host(), keys).metrics(false);
        if let Some(port) = place.port() {
            connection = connection.port(port);
        }
        match &self.aws_region {
            Some(region) => connection.region(region),
            None => connection,
        }
    }

    /// What tells MQTT from HTTPS on AWS's port 443.
    fn aws_alpn(&self, place: &Place) -> Option<&'static str> {
        if place.websocket.is_some() || place.port() != Some(443) {
            return None;
        }
        Some(if self.cert.is_some() {
            "x-amzn-mqtt-ca"
        } else {
            "mqtt"
        })
    }
}
