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

    /// What of the kind of `action` is allowed, as patterns that know the client identifier.
    pub(crate) fn allowed(
        &self,
        principal: Option<&str>,
        client_id: &str,
        action: Action<'_>,
    ) -> Vec<String> {
        let table = self
            .by_principal
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let own = principal.and_then(|principal| table.get(principal));
        let Some(permissions) = own.or(self.others.as_ref()) else {
            return vec!["*".to_owned()];
        };
        let (patterns, _) = permissions.patterns(client_id, action);
        patterns
            .iter()
            .map(|pattern| pattern.replace("${clientId}", client_id))
            .collect()
    }
}

impl Permissions {
    fn allow(&self, client_id: &str, action: Action<'_>) -> bool {
        let names = |permissions: &Self| {
            let (patterns, text) = permissions.patterns(client_id, action);
            patterns
                .iter()
                .map(|pattern| pattern.replace("${clientId}", client_id))
                .any(|pattern| is_match(pattern.as_bytes(), text.as_bytes()))
        };
        names(self) && !self.denied.as_deref().is_some_and(names)
    }

    /// The patterns of one kind, and what is compared with them.
    fn patterns<'a>(&'a self, client_id: &'a str, action: Action<'a>) -> (&'a [String], &'a str) {
        match action {
            Action::Connect => (&self.connect, client_id),
            Action::Publish(topic) => (&self.publish, topic),
            Action::Subscribe(filter) => (&self.subscribe, filter),
        }
    }
}

/// Matches greedily and goes back to the last `*` only, so the time is bounded by the product of the
/// lengths.
fn is_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut last_star = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                last_star = Some((at, position));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[position] => {
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
    pattern[at..].iter().all(|byte| *byte == b'*')
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
            assert!(
                is_match(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [("", "a"), ("a/*", "b/a"), ("a?c", "ac"), ("*b", "bc")] {
            assert!(
                !is_match(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
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
}
