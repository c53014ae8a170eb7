//! Reads the fields of one packet out of the received bytes.

use bytes::Bytes;
use bytestring::ByteString;

use super::error::{ill_formed_topic, malformed, protocol};
use super::{DecodeError, Sender};
use crate::mqtt::{PacketId, Topic, TopicFilter, Version};

/// A cursor over one packet's bytes, which never leaves them. Texts and payloads it gives are slices
/// of `input`.
pub(super) struct Reader<'a> {
    input: &'a Bytes,
    at: usize,
    end: usize,
    pub(super) version: Version,
    pub(super) sender: Sender,
}

impl<'a> Reader<'a> {
    /// A cursor over `input[at..end]`, which is all there.
    pub(super) fn new(
        input: &'a Bytes,
        at: usize,
        end: usize,
        version: Version,
        sender: Sender,
    ) -> Self {
        Self {
            input,
            at,
            end,
            version,
            sender,
        }
    }

    /// The statement of the version in force.
    pub(super) const fn clause(&self, v311: &'static str, v5: &'static str) -> &'static str {
        match self.version {
            Version::V311 => v311,
            Version::V5 => v5,
        }
    }

    /// How many bytes are left.
    pub(super) const fn len(&self) -> usize {
        self.end - self.at
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.at == self.end
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let [value] = self.array(what)?;
        Ok(value)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A variable byte integer of MQTT 5 (§1.5.5), in its shortest form.
    pub(super) fn variable(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8(what)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(malformed(
                        "MQTT-1.5.5-1",
                        format!("{what} is not written in the fewest bytes"),
                    ));
                }
                return Ok(value);
            }
        }
        Err(malformed(
            "§1.5.5",
            format!("{what} is a variable byte integer of more than four bytes"),
        ))
    }

    /// Binary data with its length in front.
    pub(super) fn binary(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u16(what)?);
        self.take(length, what)
    }

    /// UTF-8 text with its length in front.
    pub(super) fn text(&mut self, what: &'static str) -> Result<ByteString, DecodeError> {
        let bytes = self.binary(what)?;
        if bytes.contains(&0) {
            return Err(malformed(
                self.clause("MQTT-1.5.3-2", "MQTT-1.5.4-2"),
                format!("{what} holds the character U+0000"),
            ));
        }
        self.utf8(bytes, what)
    }

    /// A topic name with its length in front.
    pub(super) fn topic(&mut self, what: &'static str) -> Result<Topic, DecodeError> {
        let bytes = self.binary(what)?;
        let text = self.utf8(bytes, what)?;
        Topic::new(text).map_err(|wrong| ill_formed_topic(what, wrong, self.version))
    }

    /// A topic filter with its length in front; a `$share/` one is checked by the version's rules.
    pub(super) fn filter(&mut self, what: &'static str) -> Result<TopicFilter, DecodeError> {
        let bytes = self.binary(what)?;
        let text = self.utf8(bytes, what)?;
        let filter =
            TopicFilter::new(text).map_err(|wrong| ill_formed_topic(what, wrong, self.version))?;
        if self.version == Version::V5
            && let Err(wrong) = filter.check_shared()
        {
            return Err(ill_formed_topic(what, wrong, self.version));
        }
        Ok(filter)
    }

    /// A packet identifier, of which 0 is none; the clauses say so for the packet at hand.
    pub(super) fn packet_id(
        &mut self,
        v311: &'static str,
        v5: &'static str,
    ) -> Result<PacketId, DecodeError> {
        let value = self.u16("the packet identifier")?;
        PacketId::new(value)
            .ok_or_else(|| protocol(self.clause(v311, v5), "the packet identifier is 0"))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        let rest = self.input.slice(self.at..self.end);
        self.at = self.end;
        rest
    }

    /// A cursor over the next `length` bytes, which this one skips.
    pub(super) fn part(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<Reader<'a>, DecodeError> {
        if length > self.len() {
            return Err(self.truncated(what));
        }
        let at = self.at;
        self.at += length;
        Ok(Reader {
            at,
            end: self.at,
            ..*self
        })
    }

    /// Nothing may follow the last field.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.trailing())
        }
    }

    /// The next two bytes as a number, which are not taken.
    pub(super) fn peek_u16(&self) -> Option<u16> {
        self.remaining()
            .first_chunk()
            .map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn remaining(&self) -> &'a [u8] {
        self.input.get(self.at..self.end).unwrap_or_default()
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let Some(bytes) = self.remaining().first_chunk() else {
            return Err(self.truncated(what));
        };
        self.at += N;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.len() {
            return Err(self.truncated(what));
        }
        let taken = self.input.slice(self.at..self.at + length);
        self.at += length;
        Ok(taken)
    }

    fn utf8(&self, bytes: Bytes, what: &'static str) -> Result<ByteString, DecodeError> {
        ByteString::try_from(bytes).map_err(|_| {
            malformed(
                self.clause("MQTT-1.5.3-1", "MQTT-1.5.4-1"),
                format!("{what} is not well-formed UTF-8"),
            )
        })
    }

    #[cold]
    fn truncated(&self, what: &'static str) -> DecodeError {
        malformed(
            self.clause("§2.2.3", "§2.1.4"),
            format!("{what} does not fit into the packet's remaining length"),
        )
    }

    #[cold]
    fn trailing(&self) -> DecodeError {
        malformed(
            self.clause("§2.2.3", "§2.1.4"),
            format!("{} bytes follow the packet's last field", self.len()),
        )
    }
}
