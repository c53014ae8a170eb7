//! Who may connect, publish and subscribe.

use std::collections::HashMap;

use paquebot_protocols::mqtt::{ReasonCode, Topic, TopicFilter, Version};

/// What a CONNECT says about who is connecting.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Login<'a> {
    /// The protocol version it speaks.
    pub version: Version,
    /// The client identifier; the one the server chose when the client sent none.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
}

impl std::fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("username", &self.username.map(|_| "(redacted)"))
            .field("password", &self.password.map(|_| "(redacted)"))
            .finish()
    }
}

/// The decisions a server takes about its clients. Each is asked under the server's lock, so it must
/// answer at once and never call back into the [`Broker`](crate::Broker).
pub trait Policy: Send + Sync + 'static {
    /// Whether a client may connect.
    ///
    /// # Errors
    /// The reason code of the refusing CONNACK in the words of MQTT 5; a client of MQTT 3.1.1 is sent the
    /// return code that comes nearest.
    fn connect(&self, login: &Login<'_>) -> Result<(), ReasonCode> {
        let _ = login;
        Ok(())
    }

    /// Whether a client may publish to a topic. A refused message is acknowledged with 0x87 on MQTT 5 and
    /// dropped without a word on 3.1.1 `[MQTT-3.3.5-2]`; a refused will is dropped.
    fn may_publish(&self, client_id: &str, topic: &Topic) -> bool {
        let _ = (client_id, topic);
        true
    }

    /// Whether a client may subscribe to a filter. A refused one is answered 0x87 on MQTT 5, 0x80 on 3.1.1.
    fn may_subscribe(&self, client_id: &str, filter: &TopicFilter) -> bool {
        let _ = (client_id, filter);
        true
    }
}

/// Lets every client do everything: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Policy for AllowAll {}

/// User names with passwords, and topics that nobody may use.
///
/// ```
/// use paquebot_emulator::AccessTable;
/// use paquebot_emulator::mqtt::TopicFilter;
///
/// # fn main() -> Result<(), paquebot_emulator::mqtt::TopicError> {
/// let access = AccessTable::new()
///     .user("device", "secret")
///     .deny_publish(TopicFilter::new("admin/#")?)
///     .deny_subscribe(TopicFilter::new("admin/#")?);
/// # let _ = access;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct AccessTable {
    passwords: HashMap<String, Vec<u8>>,
    anonymous: bool,
    denied_publishes: Vec<TopicFilter>,
    denied_subscriptions: Vec<TopicFilter>,
}

impl std::fmt::Debug for AccessTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessTable")
            .field("users", &self.passwords.len())
            .field("anonymous", &self.anonymous)
            .field("denied_publishes", &self.denied_publishes)
            .field("denied_subscriptions", &self.denied_subscriptions)
            .finish()
    }
}

impl AccessTable {
    /// A table that lets nobody in.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a user in who knows the password; a second call for one name replaces the password.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<Vec<u8>>) -> Self {
        self.passwords.insert(name.into(), password.into());
        self
    }

    /// Lets clients in that send no user name.
    #[must_use]
    pub const fn allow_anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Refuses publishes to topics that match `filter`.
    #[must_use]
    pub fn deny_publish(mut self, filter: TopicFilter) -> Self {
        self.denied_publishes.push(filter);
        self
    }

    /// Refuses subscriptions to every filter that matches nothing `filter` does not: denying `admin/#`
    /// denies `admin/log` and `admin/+`, not `#`.
    #[must_use]
    pub fn deny_subscribe(mut self, filter: TopicFilter) -> Self {
        self.denied_subscriptions.push(filter);
        self
    }
}

impl Policy for AccessTable {
    fn connect(&self, login: &Login<'_>) -> Result<(), ReasonCode> {
        let Some(name) = login.username else {
            return if self.anonymous {
                Ok(())
            } else {
                Err(ReasonCode::NOT_AUTHORIZED)
            };
        };
        let known = self.passwords.get(name).map(Vec::as_slice);
        if known.is_some() && known == login.password {
            Ok(())
        } else {
            Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD)
        }
    }

    fn may_publish(&self, _client_id: &str, topic: &Topic) -> bool {
        !self
            .denied_publishes
            .iter()
            .any(|filter| filter.matches(topic))
    }

    fn may_subscribe(&self, _client_id: &str, filter: &TopicFilter) -> bool {
        let wanted = filter
            .shared()
            .map_or(filter.as_str(), |shared| shared.filter);
        !self
            .denied_subscriptions
            .iter()
            .any(|denied| covers(denied.as_str(), wanted))
    }
}

/// Whether `wide` matches every topic that `narrow` does; both are filters.
fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('/');
    for level in wide.split('/') {
        let Some(covered) = narrow.next() else {
            // `a/#` matches `a` as well (§4.7.1.2).
            return level == "#";
        };
        match level {
            "#" => return true,
            "+" if covered != "#" => {}
            _ if level == covered => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_filter_covers_what_matches_nothing_else() {
        for (wide, narrow) in [
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("a/#", "a/+"),
            ("a/#", "a/#"),
            ("+", "a"),
            ("+/b", "+/b"),
        ] {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
        }
        for (wide, narrow) in [
            ("a/#", "#"),
            ("a/#", "b"),
            ("+", "#"),
            ("a", "a/b"),
            ("a/b", "a"),
        ] {
            assert!(!covers(wide, narrow), "{wide} does not cover {narrow}");
        }
    }
}
