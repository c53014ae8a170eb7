//! Who takes part.

use serde::{Deserialize, Serialize};

/// A contestant: a client and the way it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Client {
    /// Sockets and one 64 KiB buffer: the floor.
    #[serde(rename = "raw-64k")]
    Raw64k,
    /// The same with 16 KiB.
    #[serde(rename = "raw-16k")]
    Raw16k,
    /// One write for each message.
    RawWriteEach,
    /// One task for each of many links.
    RawTask,
    /// Sockets behind a bounded channel: the honest ceiling of a client with an API.
    RawChannel,
    /// paquebot, batches with one receipt.
    PaquebotBatch,
    /// paquebot, single calls without receipts.
    PaquebotDetached,
    /// paquebot, single calls with a receipt each; elsewhere paquebot as such, its fast way.
    Paquebot,
    /// paquebot where it gives messages that own their part of the read: a stream, a packet.
    PaquebotOwned,
    /// ntex-mqtt; at QoS 1 with its callback for acknowledgements.
    Ntex,
    /// rumqttc for MQTT 3.1.1 as it comes: Nagle's algorithm is on.
    RumqttcV4,
    /// The same with TCP_NODELAY.
    RumqttcV4Nodelay,
    /// rumqttc for MQTT 5 as it comes.
    RumqttcV5,
    /// The same with TCP_NODELAY.
    RumqttcV5Nodelay,
    /// mqtt5.
    Mqtt5,
    /// paho-mqtt, Rust over C.
    Paho,
    /// libmosquitto, C.
    Libmosquitto,
    /// mqttrs, a codec.
    Mqttrs,
}

/// The versions of everything that was compiled in.
const LOCK: &str = include_str!("../Cargo.lock");

impl Client {
    /// All of them, in the order of tables.
    pub(crate) const ALL: [Self; 18] = [
        Self::Raw64k,
        Self::Raw16k,
        Self::RawWriteEach,
        Self::RawTask,
        Self::RawChannel,
        Self::PaquebotBatch,
        Self::PaquebotDetached,
        Self::Paquebot,
        Self::PaquebotOwned,
        Self::Ntex,
        Self::RumqttcV4,
        Self::RumqttcV4Nodelay,
        Self::RumqttcV5,
        Self::RumqttcV5Nodelay,
        Self::Mqtt5,
        Self::Paho,
        Self::Libmosquitto,
        Self::Mqttrs,
    ];

    /// Its name on the command line and in the JSON.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Raw64k => "raw-64k",
            Self::Raw16k => "raw-16k",
            Self::RawWriteEach => "raw-write-each",
            Self::RawTask => "raw-task",
            Self::RawChannel => "raw-channel",
            Self::PaquebotBatch => "paquebot-batch",
            Self::PaquebotDetached => "paquebot-detached",
            Self::Paquebot => "paquebot",
            Self::PaquebotOwned => "paquebot-owned",
            Self::Ntex => "ntex",
            Self::RumqttcV4 => "rumqttc-v4",
            Self::RumqttcV4Nodelay => "rumqttc-v4-nodelay",
            Self::RumqttcV5 => "rumqttc-v5",
            Self::RumqttcV5Nodelay => "rumqttc-v5-nodelay",
            Self::Mqtt5 => "mqtt5",
            Self::Paho => "paho",
            Self::Libmosquitto => "libmosquitto",
            Self::Mqttrs => "mqttrs",
        }
    }

    /// Its name in tables and plots.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Raw64k => "raw, 64 KiB buffer",
            Self::Raw16k => "raw, 16 KiB buffer",
            Self::RawWriteEach => "raw, one write a message",
            Self::RawTask => "raw, one task a link",
            Self::RawChannel => "raw behind a bounded channel",
            Self::PaquebotBatch => "paquebot, batches",
            Self::PaquebotDetached => "paquebot, no receipts",
            Self::Paquebot => "paquebot",
            Self::PaquebotOwned => "paquebot, owned messages",
            Self::Ntex => "ntex-mqtt",
            Self::RumqttcV4 => "rumqttc v4",
            Self::RumqttcV4Nodelay => "rumqttc v4, nodelay",
            Self::RumqttcV5 => "rumqttc v5",
            Self::RumqttcV5Nodelay => "rumqttc v5, nodelay",
            Self::Mqtt5 => "mqtt5",
            Self::Paho => "paho-mqtt (C)",
            Self::Libmosquitto => "libmosquitto (C)",
            Self::Mqttrs => "mqttrs",
        }
    }

    /// Whether it is paquebot.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(
            self,
            Self::PaquebotBatch | Self::PaquebotDetached | Self::Paquebot | Self::PaquebotOwned
        )
    }

    /// Whether this program was built with it.
    pub(crate) const fn is_built(self) -> bool {
        let is_absent = (matches!(self, Self::Paho) && !cfg!(feature = "c-clients"))
            || (matches!(self, Self::Libmosquitto) && !cfg!(libmosquitto));
        !is_absent
    }

    /// The crate or library and its version; `None` for sockets.
    pub(crate) fn version(self) -> Option<String> {
        let name = match self {
            Self::Raw64k | Self::Raw16k | Self::RawWriteEach | Self::RawTask | Self::RawChannel => {
                return None;
            }
            Self::PaquebotBatch | Self::PaquebotDetached | Self::Paquebot | Self::PaquebotOwned => {
                "paquebot"
            }
            Self::Ntex => "ntex-mqtt",
            Self::RumqttcV4 | Self::RumqttcV4Nodelay | Self::RumqttcV5 | Self::RumqttcV5Nodelay => {
                "rumqttc"
            }
            Self::Mqtt5 => "mqtt5",
            Self::Paho => "paho-mqtt",
            Self::Libmosquitto => {
                return option_env!("PEERS_LIBMOSQUITTO")
                    .map(|version| format!("libmosquitto {version}"));
            }
            Self::Mqttrs => "mqttrs",
        };
        locked(name).map(|version| format!("{name} {version}"))
    }
}

/// The version of a crate in the lock file.
pub(crate) fn locked(name: &str) -> Option<&'static str> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let start = LOCK.find(&entry)? + entry.len();
    LOCK[start..].split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_the_name_that_its_json_has() {
        for client in Client::ALL {
            let json = serde_json::to_string(&client).unwrap_or_default();
            assert_eq!(json, format!("\"{}\"", client.id()));
        }
    }

    #[test]
    fn every_crate_is_in_the_lock_file() {
        for client in Client::ALL {
            let is_socket = client.id().starts_with("raw");
            assert!(is_socket || !client.is_built() || client.version().is_some());
        }
    }
}
