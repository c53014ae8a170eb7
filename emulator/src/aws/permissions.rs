//! What a principal may do: the part of an IoT policy that this emulator knows.

mod policy;

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

pub use policy::PolicyError;

/// What one principal may do. Every entry is a pattern of client identifiers, topics or topic filters, in
/// which `*` stands for any characters and `?` for any one; `${clientId}` stands for the client's own
/// identifier. What no entry allows is refused, and what a policy denies ([`Permissions::from_policy`]) is refused whatever
/// allows it.
///
/// A subscription is compared as text, as AWS does: `a/+` is allowed by `a/+` and by `a/*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permissions {
    /// Client identifiers that it may connect with.
    pub connect: Vec<String>,
    /// Topics that it may publish to.
    pub publish: Vec<String>,
    /// Topic filters that it may subscribe to.
    pub subscribe: Vec<String>,
    /// What is refused all the same; with nothing denied in turn.
    denied: Option<Box<Self>>,
}

impl Permissions {
    /// Nothing is allowed.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Allows connecting with client identifiers of this pattern.
    #[must_use]
    pub fn allow_connect(mut self, pattern: impl Into<String>) -> Self {
        self.connect.push(pattern.into());
        self
    }

    /// Allows publishing to topics of this pattern.
    #[must_use]
    pub fn allow_publish(mut self, pattern: impl Into<String>) -> Self {
        self.publish.push(pattern.into());
        self
    }

    /// Allows subscribing to topic filters of this pattern.
    #[must_use]
    pub fn allow_subscribe(mut self, pattern: impl Into<String>) -> Self {
        self.subscribe.push(pattern.into());
        self
    }
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action<'a> {
    Connect,
    Publish(&'a str),
    Subscribe(&'a str),
}

/// The permissions of every principal; one that has none may do everything.
#[derive(Debug, Default)]
pub(crate) struct PermissionTable {
    by_principal: RwLock<HashMap<String, Permissions>>,
    /// Those of a principal that has none of its own.
    others: Option<Permissions>,
}

impl PermissionTable {
    /// With the permissions of those that have none of their own; `None` lets them do everything.
    pub(crate) fn new(others: Option<Permissions>) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    pub(crate) fn set(&self, principal: String, permissions: Option<Permissions>) {
        let mut table = self
            .by_principal
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match permissions {
            Some(permissions) => table.insert(principal, permissions),
            None => table.remove(&principal),
        };
    }

    pub(crate) fn allows(
        &self,
        principal: Option<&str>,
        client_id: &str,
        action: Action<'_>,
    ) -> bool {
        let table = self
            .by_principal
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let own = principal.and_then(|principal| table.get(principal));
        own.or(self.others.as_ref())
            .is_none_or(|permissions| permissions.allow(client_id, action))
    }

    /// Why `action`, which is not allowed, is not; in patterns that know the client identifier.
    pub(crate) fn refusal(
        &self,
        principal: Option<&str>,
        client_id: &str,
        action: Action<'_>,
    ) -> Refusal {
        let table = self
            .by_principal
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let own = principal.and_then(|principal| table.get(principal));
        let Some(permissions) = own.or(self.others.as_ref()) else {
            return Refusal::Unnamed(vec!["*".to_owned()]);
        };
        let shown = |pattern: &String| pattern.replace(CLIENT_ID, client_id);
        let denied = permissions.denied.as_deref();
        match denied.and_then(|denied| denied.naming(client_id, action)) {
            Some(pattern) => Refusal::Denied(shown(pattern)),
            None => {
                let (patterns, _) = permissions.patterns(client_id, action);
                Refusal::Unnamed(patterns.iter().map(shown).collect())
            }
        }
    }
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This pattern denies it.
    Denied(String),
    /// None of these, which are allowed, names it.
    Unnamed(Vec<String>),
}

impl Permissions {
    fn allow(&self, client_id: &str, action: Action<'_>) -> bool {
        let names = |permissions: &Self| permissions.naming(client_id, action).is_some();
        names(self) && !self.denied.as_deref().is_some_and(names)
    }

    /// The first pattern that names it.
    fn naming<'s>(&'s self, client_id: &str, action: Action<'_>) -> Option<&'s String> {
        let (patterns, text) = self.patterns(client_id, action);
        patterns
            .iter()
            .find(|pattern| is_match(pattern, client_id, text))
    }

    /// The patterns of one kind, and what is compared with them.
    fn patterns<'s, 'a>(
        &'s self,
        client_id: &'a str,
        action: Action<'a>,
    ) -> (&'s [String], &'a str) {
        match action {
            Action::Connect => (&self.connect, client_id),
            Action::Publish(topic) => (&self.publish, topic),
            Action::Subscribe(filter) => (&self.subscribe, filter),
        }
    }
}

/// What stands for the client's own identifier in a pattern.
const CLIENT_ID: &str = "${clientId}";

/// A part of a pattern that stands for one byte, or for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    One,
    Any,
}

/// The parts of a pattern. A client identifier stands for itself, whatever characters it has.
fn parts(pattern: &str, client_id: &str) -> Vec<Part> {
    let mut parts = Vec::with_capacity(pattern.len());
    for (at, piece) in pattern.split(CLIENT_ID).enumerate() {
        if at > 0 {
            parts.extend(client_id.bytes().map(Part::Byte));
        }
        parts.extend(piece.bytes().map(|byte| match byte {
            b'*' => Part::Any,
            b'?' => Part::One,
            byte => Part::Byte(byte),
        }));
    }
    parts
}

/// Matches greedily and goes back to the last `*` only, so the time is bounded by the product of the
/// lengths.
fn is_match(pattern: &str, client_id: &str, text: &str) -> bool {
    let (pattern, text) = (parts(pattern, client_id), text.as_bytes());
    let (mut at, mut position) = (0, 0);
    let mut last_star = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(Part::Any) => {
                last_star = Some((at, position));
                at += 1;
            }
            Some(part) if *part == Part::One || *part == Part::Byte(text[position]) => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((star, from)) = last_star else {
                    return false;
                };
                last_star = Some((star, from + 1));
                at = star + 1;
                position = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|part| *part == Part::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_policy() {
        for (pattern, text) in [
            ("*", ""),
            ("a/*", "a/b/c"),
            ("a/+/c", "a/+/c"),
            ("*b*d", "abcbd"),
            ("a?c", "abc"),
        ] {
            assert!(is_match(pattern, "", text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a/*", "b/a"), ("a?c", "ac"), ("*b", "bc")] {
            assert!(!is_match(pattern, "", text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_principal_with_permissions_may_do_only_those() {
        let table = PermissionTable::default();
        let own = Permissions::none().allow_publish("dt/${clientId}/*");
        table.set("cert".to_owned(), Some(own));
        let publish =
            |client_id, topic| table.allows(Some("cert"), client_id, Action::Publish(topic));
        assert!(publish("a", "dt/a/x"));
        assert!(!publish("a", "dt/b/x"));
        assert!(!table.allows(Some("cert"), "a", Action::Connect));
        assert!(table.allows(Some("other"), "a", Action::Connect));
        table.set("cert".to_owned(), None);
        assert!(table.allows(Some("cert"), "a", Action::Connect));
    }

    #[test]
    fn a_client_identifier_stands_for_itself_also_with_characters_of_a_pattern() {
        let own = Permissions::none().allow_publish("dt/${clientId}/*");
        for client_id in ["*", "?", "a*"] {
            let topic = format!("dt/{client_id}/x");
            assert!(own.allow(client_id, Action::Publish(&topic)));
            assert!(!own.allow(client_id, Action::Publish("dt/b/x")));
            assert!(!own.allow(client_id, Action::Publish("dt/ab/x")));
        }
    }
}
