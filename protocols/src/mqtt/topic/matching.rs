//! Topic names against topic filters (§4.7).

use bytestring::ByteString;

use super::TopicFilter;

/// A filter made ready to be matched against many topic names.
///
/// It takes a name as bytes, which have to be those of a topic name, since a received one need not be made a
/// [`Topic`](super::Topic) for it. The filter behind `$share/{group}/` counts for a shared one.
#[derive(Debug, Clone)]
pub struct TopicMatcher {
    /// The text up to the first `+`, or all of it.
    head: ByteString,
    /// The texts behind each `+`.
    tails: Vec<ByteString>,
    /// `/#` follows, which is no part of the last text.
    is_open: bool,
    /// It is `#`.
    is_everything: bool,
    /// A wildcard comes first, which matches no `$` topic `[MQTT-4.7.2-1]`.
    starts_wild: bool,
}

impl TopicMatcher {
    /// Looks at the filter once.
    #[must_use]
    pub fn new(filter: &TopicFilter) -> Self {
        let text = filter
            .shared()
            .map_or(filter.as_str(), |shared| shared.filter);
        let closed = text.strip_suffix("/#");
        let mut pieces = closed.unwrap_or(text).split('+').map(ByteString::from);
        Self {
            head: pieces.next().unwrap_or_default(),
            tails: pieces.collect(),
            is_open: closed.is_some(),
            is_everything: text == "#",
            starts_wild: text.starts_with(['+', '#']),
        }
    }

    /// Whether the topic name of these bytes matches.
    #[must_use]
    #[inline]
    pub fn matches(&self, topic: &[u8]) -> bool {
        if self.starts_wild && topic.first() == Some(&b'$') {
            return false;
        }
        if self.is_everything {
            return true;
        }
        let Some(mut rest) = behind(topic, &self.head) else {
            return false;
        };
        for tail in &self.tails {
            let level = rest.iter().position(|byte| *byte == b'/');
            let Some(next) = behind(&rest[level.unwrap_or(rest.len())..], tail) else {
                return false;
            };
            rest = next;
        }
        match rest.first() {
            None => true,
            Some(b'/') => self.is_open,
            Some(_) => false,
        }
    }
}

/// What follows `start`.
#[inline]
fn behind<'a>(bytes: &'a [u8], start: &ByteString) -> Option<&'a [u8]> {
    bytes.strip_prefix(AsRef::<[u8]>::as_ref(start))
}

/// Whether a name matches a filter, level by level.
pub(super) fn matches(filter: &[u8], topic: &[u8]) -> bool {
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let (mut filter, mut topic) = (Some(filter), Some(topic));
    while let Some(levels) = filter {
        let (level, filter_rest) = split_level(levels);
        if level == b"#" {
            // `#` stands for its parent too: `a/#` matches `a`.
            return true;
        }
        let Some(names) = topic else {
            return false;
        };
        let (name, topic_rest) = split_level(names);
        if level != b"+" && level != name {
            return false;
        }
        (filter, topic) = (filter_rest, topic_rest);
    }
    topic.is_none()
}

/// The first level and what is behind its slash.
fn split_level(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&bytes[..slash], Some(&bytes[slash + 1..])),
        None => (bytes, None),
    }
}
