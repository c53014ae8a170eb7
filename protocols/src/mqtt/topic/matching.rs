//! Topic names against topic filters (§4.7).

use bytestring::ByteString;

use super::TopicFilter;

/// A filter made ready to be matched against many topic names.
///
/// It takes a name as bytes, which have to be those of a topic name, since a received one need not be made a
/// [`Topic`](super::Topic) for it. The filter behind `$share/{group}/` counts for a shared one.
#[derive(Debug, Clone)]
pub struct TopicMatcher {
    filter: ByteString,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No wildcard.
    Exact,
    /// `#`.
    Everything,
    /// No wildcard but a `/#` at the end, which is not part of the text.
    Below,
    /// Any other.
    Levels,
}

impl TopicMatcher {
    /// Looks at the filter once.
    #[must_use]
    pub fn new(filter: &TopicFilter) -> Self {
        let text = match filter.shared() {
            Some(shared) => ByteString::from(shared.filter),
            None => filter.clone().into_inner(),
        };
        let is_literal = |text: &str| !text.contains(['+', '#']);
        if is_literal(&text) {
            return Self::of(text, Kind::Exact);
        }
        match text.strip_suffix("/#") {
            _ if text == "#" => Self::of(text, Kind::Everything),
            Some(parent) if is_literal(parent) => Self::of(parent.into(), Kind::Below),
            _ => Self::of(text, Kind::Levels),
        }
    }

    fn of(filter: ByteString, kind: Kind) -> Self {
        Self { filter, kind }
    }

    /// Whether the topic name of these bytes matches.
    #[must_use]
    #[inline]
    pub fn matches(&self, topic: &[u8]) -> bool {
        let filter: &[u8] = self.filter.as_ref();
        match self.kind {
            Kind::Exact => topic == filter,
            Kind::Everything => topic.first() != Some(&b'$'),
            Kind::Below => match topic.strip_prefix(filter) {
                Some(rest) => matches!(rest.first(), None | Some(b'/')),
                None => false,
            },
            Kind::Levels => matches(filter, topic),
        }
    }
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
