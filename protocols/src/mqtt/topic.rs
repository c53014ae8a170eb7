//! Topic names and topic filters: their rules and their matching.

use bytestring::ByteString;

/// A topic name: 1 to 65,535 bytes of UTF-8 without U+0000, `+` or `#` `[MQTT-3.3.2-2]`, `[MQTT-4.7.3-1]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(ByteString);

/// A topic filter: 1 to 65,535 bytes of UTF-8, `+` alone in a level, `#` alone in the last (§4.7.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

/// A `$share/{group}/{filter}` taken apart (MQTT 5 §4.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// The share name.
    pub group: &'a str,
    /// The filter behind it.
    pub filter: &'a str,
}

/// Why a text is no topic name or filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It has no character.
    #[error("it is empty; a topic needs at least one character")]
    Empty,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&*self.0, f)
    }
}

impl Topic {
    /// Checks a text.
    ///
    /// # Errors
    /// What makes it no topic name.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        if text.is_empty() {
            Err(TopicError::Empty)
        } else {
            Ok(Self(text))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicFilter {
    /// Checks a text.
    ///
    /// # Errors
    /// What makes it no topic filter.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        if text.is_empty() {
            Err(TopicError::Empty)
        } else {
            Ok(Self(text))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic name matches (§4.7): a wildcard in the first level matches no `$` topic; the
    /// filter behind `$share/{group}/` counts for a shared one.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let _ = topic;
        false
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
