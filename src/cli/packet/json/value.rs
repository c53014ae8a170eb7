//! How single values are shown.

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde::ser::{Serialize, Serializer};

use crate::cli::packet::hex;

/// A flag: 0 or 1.
#[derive(Clone, Copy, Default)]
pub(super) struct Bit(pub(super) bool);

impl Bit {
    pub(super) const fn one() -> Self {
        Self(true)
    }
}

impl Serialize for Bit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0.into())
    }
}

impl<'de> Deserialize<'de> for Bit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Self(false)),
            1 => Ok(Self(true)),
            value => Err(D::Error::invalid_value(
                Unexpected::Unsigned(value.into()),
                &"0 or 1",
            )),
        }
    }
}

/// Binary data: lower-case hexadecimal.
#[derive(Clone, Default)]
pub(super) struct Hex(pub(super) Bytes);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&hex::Lower(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::parse(text.as_bytes())
            .map(|bytes| Self(bytes.into()))
            .map_err(D::Error::custom)
    }
}
