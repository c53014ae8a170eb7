//! Topic names and topic filters: their rules and their matching.
//!
//! A [`Topic`] or [`TopicFilter`] cannot hold a text that the specifications forbid, so nothing past
//! the place where it was made has to check it again. Matching allocates nothing.

use std::borrow::Borrow;
use std::str::FromStr;

use ascii::AsciiStr;
use bytes::Bytes;
use bytestring::ByteString;

use super::Version;

mod matching;
mod scan;

pub use matching::TopicMatcher;
use matching::matches;

/// The most bytes a topic name or filter has `[MQTT-4.7.3-3]`.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// What a shared subscription's filter starts with (MQTT 5 §4.8.2).
const SHARE_PREFIX: &str = "$share/";

/// A topic name: 1 to 65,535 bytes of UTF-8 without U+0000, `+` or `#` `[MQTT-3.3.2-2]`, `[MQTT-4.7.3-1]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(ByteString);

/// A topic filter: 1 to 65,535 bytes of UTF-8 without U+0000, `+` alone in a level, `#` alone in the
/// last (§4.7.1).
///
/// A filter that starts with `$share/` is a shared subscription in MQTT 5 and an ordinary filter in
/// MQTT 3.1.1. Since MQTT 3.1.1 puts no rule on its shape, any is accepted here;
/// [`TopicFilter::check_shared`] tells whether MQTT 5 accepts it too, and the codec asks it.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It has no character `[MQTT-4.7.3-1]`.
    #[error("it is empty; a topic needs at least one character")]
    Empty,
    /// It has too many bytes `[MQTT-4.7.3-3]`.
    #[error("it has {length} bytes; the limit is 65,535")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It holds U+0000 `[MQTT-4.7.3-2]`.
    #[error("it holds the character U+0000")]
    Nul,
    /// A topic name holds `+` or `#`.
    #[error("it holds a wildcard (+ or #); only a topic filter may")]
    Wildcard,
    /// `#` stands with other characters in its level, or not in the last level.
    #[error("# has to be alone in the last level")]
    MultiLevelWildcard,
    /// `+` stands with other characters in its level.
    #[error("+ has to be alone in its level")]
    SingleLevelWildcard,
    /// `$share/` without a share name, or with a wildcard in it `[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`.
    #[error("a shared filter needs a share name without + and #: $share/{{name}}/{{filter}}")]
    ShareName,
    /// `$share/{name}` without a filter behind it `[MQTT-4.8.2-2]`.
    #[error("a shared filter needs a filter behind its share name: $share/{{name}}/{{filter}}")]
    ShareFilter,
}

impl TopicError {
    /// The normative statement that the text breaks.
    #[must_use]
    pub const fn clause(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Empty, _) => "MQTT-4.7.3-1",
            (Self::Nul, _) => "MQTT-4.7.3-2",
            (Self::TooLong { .. }, _) => "MQTT-4.7.3-3",
            (Self::Wildcard, _) => "MQTT-3.3.2-2",
            (Self::MultiLevelWildcard, Version::V311) => "MQTT-4.7.1-2",
            (Self::MultiLevelWildcard, Version::V5) => "MQTT-4.7.1-1",
            (Self::SingleLevelWildcard, Version::V311) => "MQTT-4.7.1-3",
            (Self::SingleLevelWildcard, Version::V5) => "MQTT-4.7.1-2",
            (Self::ShareName, _) => "MQTT-4.8.2-1",
            (Self::ShareFilter, _) => "MQTT-4.8.2-2",
        }
    }
}

impl Topic {
    /// Checks a text.
    ///
    /// # Errors
    /// What makes it no topic name.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_length(&text)?;
        if scan::has_nul_or_wildcard(text.as_bytes()) {
            return Err(if text.contains('\0') {
                TopicError::Nul
            } else {
                TopicError::Wildcard
            });
        }
        Ok(Self(text))
    }

    /// Checks a text of the program itself; no allocation.
    ///
    /// # Errors
    /// What makes it no topic name.
    pub fn from_static(text: &'static str) -> Result<Self, TopicError> {
        Self::new(ByteString::from_static(text))
    }

    /// A topic name as it was received, at most [`TOPIC_BYTES_MAX`] bytes by its length prefix; `None` if it is none, or no UTF-8.
    #[inline]
    pub(crate) fn from_wire(bytes: Bytes) -> Option<Self> {
        if bytes.is_empty() || scan::has_nul_or_wildcard(&bytes) {
            return None;
        }
        ByteString::try_from(bytes).ok().map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels between the slashes, from the first; an empty level is one too.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The text, without a copy.
    #[must_use]
    pub fn into_inner(self) -> ByteString {
        self.0
    }
}

impl TopicFilter {
    /// Checks a text.
    ///
    /// # Errors
    /// What makes it no topic filter.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_length(&text)?;
        if scan::has_nul_or_wildcard(text.as_bytes()) {
            check_wildcards(&text)?;
        }
        Ok(Self(text))
    }

    /// Checks a text of the program itself; no allocation.
    ///
    /// # Errors
    /// What makes it no topic filter.
    pub fn from_static(text: &'static str) -> Result<Self, TopicError> {
        Self::new(ByteString::from_static(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, without a copy.
    #[must_use]
    pub fn into_inner(self) -> ByteString {
        self.0
    }

    /// The levels between the slashes, from the first; an empty level is one too. `$share` and the
    /// share name of a shared filter count.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether a level is `+` or `#`.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.0.bytes().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// The parts of a well-formed `$share/{group}/{filter}`; `None` for every other filter.
    #[must_use]
    pub fn shared(&self) -> Option<SharedFilter<'_>> {
        self.check_shared().ok().flatten()
    }

    /// What MQTT 5 adds to the rules: a filter that starts with `$share/` has a share name and a
    /// filter behind it `[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`. `Ok(None)` for one that does not start so.
    ///
    /// # Errors
    /// [`TopicError::ShareName`] or [`TopicError::ShareFilter`].
    pub fn check_shared(&self) -> Result<Option<SharedFilter<'_>>, TopicError> {
        let Some(rest) = self.0.strip_prefix(SHARE_PREFIX) else {
            return Ok(None);
        };
        let (group, filter) = match rest.split_once('/') {
            Some((group, filter)) => (group, Some(filter)),
            None => (rest, None),
        };
        if group.is_empty() || group.contains(['+', '#']) {
            return Err(TopicError::ShareName);
        }
        match filter {
            Some(filter) if !filter.is_empty() => Ok(Some(SharedFilter { group, filter })),
            _ => Err(TopicError::ShareFilter),
        }
    }

    /// Whether a topic name matches (§4.7): a wildcard in the first level matches no `$` topic
    /// `[MQTT-4.7.2-1]`; the filter behind `$share/{group}/` counts for a shared one.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let filter = self.shared().map_or(self.as_str(), |shared| shared.filter);
        matches(filter.as_bytes(), topic.as_str().as_bytes())
    }

    /// As [`TopicFilter::matches`], with the meaning that `$share/` has in `version`: in MQTT 3.1.1
    /// none, so that such a filter matches topic names that start with `$share/`.
    #[must_use]
    pub fn matches_in(&self, version: Version, topic: &Topic) -> bool {
        match version {
            Version::V311 => matches(self.as_str().as_bytes(), topic.as_str().as_bytes()),
            Version::V5 => self.matches(topic),
        }
    }
}

impl SharedFilter<'_> {
    /// Whether a topic name matches the filter behind the share name.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        matches(self.filter.as_bytes(), topic.as_str().as_bytes())
    }
}

/// Whether received bytes, at most [`TOPIC_BYTES_MAX`] by their length prefix, are a topic name.
#[inline]
pub(crate) fn is_wire_topic(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && match scan::judge(bytes) {
            scan::Verdict::Ascii => true,
            scan::Verdict::Other => str::from_utf8(bytes).is_ok(),
            scan::Verdict::Forbidden => false,
        }
}

/// Received bytes as text, if they are. Nearly every topic is ASCII and short, and then this is cheaper than the
/// standard library's check, which goes byte by byte up to the first aligned word and behind the last.
#[inline]
pub(crate) fn wire_text(bytes: &[u8]) -> Option<&str> {
    match AsciiStr::from_ascii(bytes) {
        Ok(text) => Some(text.as_str()),
        Err(_) => str::from_utf8(bytes).ok(),
    }
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong { length: text.len() });
    }
    Ok(())
}

fn check_wildcards(text: &str) -> Result<(), TopicError> {
    if text.contains('\0') {
        return Err(TopicError::Nul);
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
            return Err(TopicError::MultiLevelWildcard);
        }
        if level.contains('+') && level.len() > 1 {
            return Err(TopicError::SingleLevelWildcard);
        }
    }
    Ok(())
}

macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl FromStr for $name {
            type Err = TopicError;

            fn from_str(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = TopicError;

            fn try_from(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = TopicError;

            fn try_from(text: String) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl TryFrom<ByteString> for $name {
            type Error = TopicError;

            fn try_from(text: ByteString) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl From<$name> for ByteString {
            fn from(text: $name) -> ByteString {
                text.0
            }
        }
    )*};
}

text_conversions!(Topic, TopicFilter);

impl From<Topic> for TopicFilter {
    /// The filter that matches just this topic name.
    fn from(topic: Topic) -> Self {
        Self(topic.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn a_topic_name_has_no_wildcard_no_nul_and_1_to_65_535_bytes() {
        assert_eq!(Topic::new(""), Err(TopicError::Empty));
        assert_eq!(Topic::new("a/+/b"), Err(TopicError::Wildcard));
        assert_eq!(Topic::new("a#"), Err(TopicError::Wildcard));
        assert_eq!(Topic::new("a\0b"), Err(TopicError::Nul));
        assert_eq!(Topic::new("+\0"), Err(TopicError::Nul));
        assert!(Topic::new("/").is_ok());
        assert!(Topic::new("$SYS/uptime").is_ok());
        assert!(Topic::new("température/été").is_ok());
        assert!(Topic::new("a".repeat(65_535)).is_ok());
        assert_eq!(
            Topic::new("a".repeat(65_536)),
            Err(TopicError::TooLong { length: 65_536 })
        );
    }

    #[test]
    fn a_forbidden_character_is_found_at_each_place() {
        for length in 1..40 {
            for place in 0..length {
                for forbidden in ["\0", "+", "#"] {
                    let mut text = "a".repeat(length);
                    text.replace_range(place..=place, forbidden);
                    assert!(Topic::new(text).is_err(), "{length} {place} {forbidden:?}");
                }
                let mut text = "a".repeat(length);
                text.replace_range(place..=place, "\u{0b}");
                assert!(Topic::new(text).is_ok());
            }
        }
    }

    #[test]
    fn wildcards_of_a_filter_stand_alone_in_their_level() {
        for text in ["#", "+", "a/#", "+/+/#", "/+", "+/", "a/+/b", "/#", "//"] {
            assert!(TopicFilter::new(text).is_ok(), "{text}");
        }
        for text in ["a#", "#/a", "#a", "a/#/b", "##", "a/b#", "+#", "#+"] {
            let wrong = TopicFilter::new(text).unwrap_err();
            assert_eq!(wrong, TopicError::MultiLevelWildcard, "{text}");
        }
        for text in ["a+", "+a", "++", "a/b+/c"] {
            let wrong = TopicFilter::new(text).unwrap_err();
            assert_eq!(wrong, TopicError::SingleLevelWildcard, "{text}");
        }
        assert_eq!(TopicFilter::new(""), Err(TopicError::Empty));
        assert_eq!(TopicFilter::new("a/\0"), Err(TopicError::Nul));
        assert_eq!(TopicFilter::new("#\0"), Err(TopicError::Nul));
        assert!(TopicFilter::new("+/".repeat(32_767) + "+").is_ok());
        assert!(TopicFilter::new("+/".repeat(32_768)).is_err());
    }

    #[test]
    fn matching_follows_the_examples_of_section_4_7() {
        for (text, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/tennis/player1/#", "sport/tennis/player10", false),
            ("sport/#", "sport", true),
            ("#", "a", true),
            ("#", "/", true),
            ("#", "$SYS", false),
            ("+", "$SYS", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+", "a/$b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/b", "a/b", true),
            ("a/b", "A/b", false),
            ("a/b", "a/b/", false),
            ("a/b/", "a/b", false),
            ("a//b", "a//b", true),
            ("a/+/b", "a//b", true),
            ("+/+/+", "//", true),
            ("a/+/#", "a/b", true),
            ("a/+/#", "a", false),
        ] {
            let (text, name) = (filter(text), topic(name));
            assert_eq!(text.matches(&name), expected, "{text} {name}");
            let ready = TopicMatcher::new(&text);
            let bytes = name.as_str().as_bytes();
            assert_eq!(ready.matches(bytes), expected, "{ready:?} {name}");
            assert_eq!(
                TopicMatcher::new(&filter(&format!("$share/g/{text}"))).matches(bytes),
                expected,
                "shared {text} {name}"
            );
        }
    }

    #[test]
    fn a_shared_filter_is_taken_apart() {
        let shared = filter("$share/consumer1//finance");
        let parts = shared.shared().unwrap();
        assert_eq!((parts.group, parts.filter), ("consumer1", "/finance"));
        assert!(shared.matches(&topic("/finance")));
        assert!(!shared.matches(&topic("finance")));
        assert!(filter("$share/g/#").matches(&topic("a/b")));
        assert!(!filter("$share/g/#").matches(&topic("$SYS/a")));
        assert!(filter("$share/g/$SYS/#").matches(&topic("$SYS/a")));
        assert!(parts.matches(&topic("/finance")));
    }

    #[test]
    fn in_3_1_1_share_is_an_ordinary_level() {
        let shared = filter("$share/g/a");
        assert!(shared.matches_in(Version::V311, &topic("$share/g/a")));
        assert!(!shared.matches_in(Version::V311, &topic("a")));
        assert!(shared.matches_in(Version::V5, &topic("a")));
        assert!(!shared.matches_in(Version::V5, &topic("$share/g/a")));
    }

    #[test]
    fn an_ill_formed_share_is_told_from_an_ordinary_filter() {
        for (text, expected) in [
            ("$share/", TopicError::ShareName),
            ("$share//a", TopicError::ShareName),
            ("$share/+/a", TopicError::ShareName),
            ("$share/#", TopicError::ShareName),
            ("$share/g", TopicError::ShareFilter),
            ("$share/g/", TopicError::ShareFilter),
        ] {
            let text = filter(text);
            assert_eq!(text.check_shared(), Err(expected), "{text}");
            assert_eq!(text.shared(), None);
        }
        for text in ["$share", "$shared/g/a", "share/g/a", "/$share/g/a"] {
            assert_eq!(filter(text).check_shared(), Ok(None), "{text}");
        }
    }

    #[test]
    fn levels_and_wildcards_are_told() {
        assert_eq!(topic("/a//b").levels().count(), 4);
        assert_eq!(
            filter("a/+/#").levels().collect::<Vec<_>>(),
            ["a", "+", "#"]
        );
        assert!(filter("a/+").has_wildcards());
        assert!(filter("#").has_wildcards());
        assert!(!filter("a/b").has_wildcards());
        assert_eq!(TopicFilter::from(topic("a/b")), filter("a/b"));
    }
}
