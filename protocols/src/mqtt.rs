//! MQTT 3.1.1 and 5: packets, codec, topics and the client session.
//!
//! One packet model serves both versions; [`Version`] is a value that the codec and the session take,
//! never a second copy of the code. The specifications are OASIS "MQTT Version 3.1.1" and OASIS "MQTT
//! Version 5.0"; where code obeys a normative statement it names it, as in `[MQTT-3.1.2-24]`.

pub mod decode;
pub mod encode;
pub mod packet;
pub mod properties;
pub mod reason;
pub mod session;
pub mod topic;

pub use decode::{AckKind, DecodeError, Decoded, Decoder, ErrorKind, Next, PublishSpan, Sender};
pub use encode::{
    EncodeError, PublishRef, encode, encode_publish, encode_publish_head, encoded_len,
};
pub use packet::*;
pub use properties::{Properties, PropertySet};
pub use reason::ReasonCode;
pub use topic::{SharedFilter, Topic, TopicError, TopicFilter, TopicMatcher};

/// The protocol version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    #[default]
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

impl Version {
    /// The protocol level byte of CONNECT: 4 or 5.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        })
    }
}
