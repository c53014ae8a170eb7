//! The common device model: what a device sends and receives, whatever the platform.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::mqtt::QoS;

/// The name of a device: 1 to 256 bytes of UTF-8 without control characters, `/`, `+` or `#`.
///
/// A dialect may allow less ([`crate::dialect::DialectError`]); no platform allows more.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(ByteString);

/// Why a text is no device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceIdError {
    /// It is empty.
    #[error("a device id needs at least one character")]
    Empty,
    /// It is longer than [`DeviceId::LENGTH_MAX`] bytes.
    #[error("the device id has {0} bytes; the limit is {max}", max = DeviceId::LENGTH_MAX)]
    TooLong(usize),
    /// It has a character that would change the topics it is put into.
    #[error(
        "the device id has the character {0:?}, which a topic level cannot hold; choose an id without it"
    )]
    Forbidden(char),
}

impl DeviceId {
    /// The longest device id, in bytes.
    pub const LENGTH_MAX: usize = 256;

    /// Checks a text.
    ///
    /// # Errors
    /// What makes it no device id.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, DeviceIdError> {
        let text = text.into();
        if text.is_empty() {
            return Err(DeviceIdError::Empty);
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(DeviceIdError::TooLong(text.len()));
        }
        match text
            .chars()
            .find(|c| c.is_control() || matches!(c, '/' | '+' | '#'))
        {
            Some(c) => Err(DeviceIdError::Forbidden(c)),
            None => Ok(Self(text)),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn text(&self) -> &ByteString {
        &self.0
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::str::FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        Self::new(text)
    }
}

/// Which side of the platform a link stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// One device.
    #[default]
    Device,
    /// A gateway that speaks for many devices over one session.
    Gateway,
    /// An application: sees many devices from the other side.
    Application,
}

/// Whose cloud a link talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// A plain MQTT broker.
    Mqtt,
    /// AWS IoT Core.
    Aws,
    /// A dialect from outside this crate; the name is used in metrics and errors.
    Custom(&'static str),
}

impl Platform {
    /// The name used in the fleet file, in metrics and in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Aws => "aws",
            Self::Custom(name) => name,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a device measures: an event, a device-to-cloud message, an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// The kind of measurement, where the platform has several streams; one topic level.
    pub channel: Option<ByteString>,
    /// The payload as it goes over the wire.
    pub payload: Bytes,
    /// MIME type of the payload; sent where the platform or MQTT 5 has a place for it.
    pub content_type: Option<ByteString>,
    /// Named values beside the payload; sent where the platform or MQTT 5 has a place for them.
    pub properties: Vec<(ByteString, ByteString)>,
    /// Quality of service. Default: at least once.
    pub qos: QoS,
    /// Whether a broker keeps it for later subscribers. Default: no.
    pub retain: bool,
    /// How long the message is worth sending. Default: without end.
    pub time_to_live: Option<Duration>,
}

impl Telemetry {
    /// Telemetry of raw bytes at QoS 1.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            channel: None,
            payload: payload.into(),
            content_type: None,
            properties: Vec::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            time_to_live: None,
        }
    }

    /// Telemetry of any serialisable value as JSON at QoS 1, with `application/json` as content type.
    ///
    /// # Errors
    /// The value has no JSON form (a map with keys that are no text, for one).
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let mut telemetry = Self::new(serde_json::to_vec(value)?);
        telemetry.content_type = Some(ByteString::from_static("application/json"));
        Ok(telemetry)
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn with_qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Sets the channel.
    #[must_use]
    pub fn with_channel(mut self, channel: impl Into<ByteString>) -> Self {
        self.channel = Some(channel.into());
        self
    }

    /// Asks the broker to keep the message for later subscribers.
    #[must_use]
    pub fn with_retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Sets how long the message is worth sending.
    #[must_use]
    pub fn with_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = Some(time_to_live);
        self
    }
}

/// A request to a device that expects an answer: a method, a remote procedure call, a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The device it is for.
    pub device: DeviceId,
    /// What to do.
    pub name: ByteString,
    /// Its arguments.
    pub payload: Bytes,
    /// Where the answer goes.
    pub reply_to: ReplyAddress,
    /// How long the sender waits for an answer, where it said so.
    pub time_to_answer: Option<Duration>,
}

/// Where the answer to a command goes. Made by the dialect that read the command, read by the same
/// dialect when it writes the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyAddress {
    /// The request's id, unique among the requests to one device that are open at a time. Empty: the
    /// sender gave none.
    pub request: ByteString,
    /// MQTT 5: the response topic the sender asked for.
    pub topic: Option<ByteString>,
    /// MQTT 5: correlation data to send back.
    pub correlation: Option<Bytes>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CommandStatus {
    /// Done.
    Ok,
    /// Tried and failed.
    Failed,
    /// Not done in time.
    Expired,
    /// The device has no such command.
    Unknown,
    /// The process of the device ended while the command was carried out: nobody knows how far it came, and it is
    /// not started again.
    Interrupted,
}

impl CommandStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::Failed,
        Self::Expired,
        Self::Unknown,
        Self::Interrupted,
    ];

    /// The name on the wire of the plain dialect and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
        }
    }

    /// The status of a name; `None` for a name that is none of these.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandReply {
    /// How it ended.
    pub status: CommandStatus,
    /// The result, or what went wrong.
    pub payload: Bytes,
}

impl CommandReply {
    /// The command was done.
    #[must_use]
    pub fn ok(payload: impl Into<Bytes>) -> Self {
        Self {
            status: CommandStatus::Ok,
            payload: payload.into(),
        }
    }

    /// The command was tried and failed.
    #[must_use]
    pub fn failed(payload: impl Into<Bytes>) -> Self {
        Self {
            status: CommandStatus::Failed,
            payload: payload.into(),
        }
    }

    /// The command ended otherwise, with an empty payload.
    #[must_use]
    pub fn with_status(status: CommandStatus) -> Self {
        Self {
            status,
            payload: Bytes::new(),
        }
    }
}

/// One half of a state change: JSON that is merged into the reported state by the platform, or into the
/// desired state by the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePatch {
    /// A JSON object, as text. Keys with null are removed by the receiver.
    pub document: Bytes,
    /// The version of the document the patch leads to, where the platform counts versions.
    pub version: Option<u64>,
}

impl StatePatch {
    /// A patch of any serialisable value.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self {
            document: serde_json::to_vec(value)?.into(),
            version: None,
        })
    }

    /// Changes a document as the patch says: members replace those of the document, null takes a member out.
    ///
    /// # Errors
    /// The patch is no JSON object; the document is as it was.
    pub fn apply_to(
        &self,
        document: &mut serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), serde_json::Error> {
        crate::document::apply_patch(document, serde_json::from_slice(&self.document)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_holds_no_character_that_would_change_a_topic() {
        for (text, error) in [
            ("", DeviceIdError::Empty),
            ("a/b", DeviceIdError::Forbidden('/')),
            ("a+", DeviceIdError::Forbidden('+')),
            ("#", DeviceIdError::Forbidden('#')),
            ("a\0", DeviceIdError::Forbidden('\0')),
        ] {
            assert_eq!(DeviceId::new(text), Err(error), "{text:?}");
        }
        assert_eq!(
            DeviceId::new("x".repeat(257)),
            Err(DeviceIdError::TooLong(257))
        );
        assert!(DeviceId::new("x".repeat(256)).is_ok());
        assert_eq!(
            DeviceId::new("Zähler 1").map(|id| id.to_string()),
            Ok("Zähler 1".into())
        );
    }
}
