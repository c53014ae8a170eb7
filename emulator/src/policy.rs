//! Who may connect, publish and subscribe.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::{
    Publish, ReasonCode, Subscribe, Subscription, Topic, TopicFilter, Version, Will,
};

use crate::remarks::Explanation;

/// Who is at the other end of a connection, as its listener knows before the first packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Where it comes from; `None` for a pipe.
    pub address: Option<SocketAddr>,
    /// By what name the listener knows it: of a TLS client the SHA-256 of its certificate in lower-case
    /// hexadecimal digits. `None` where nobody was authenticated.
    pub principal: Option<Arc<str>>,
    /// How long the connection may last. Default without end.
    pub lifetime: Option<Duration>,
}

/// A connected client.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Client<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// By what name it was let in, see [`Grant::principal`].
    pub principal: Option<&'a str>,
    /// The protocol version it speaks.
    pub version: Version,
}

/// The terms of an accepted CONNECT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// By what name the client is let in. Default the one its listener knows it by.
    pub principal: Option<Arc<str>>,
    /// The keep alive to hold the client to, in seconds. MQTT 5 is told where it is not what the client
    /// asked for; MQTT 3.1.1 has no way to say it. Default none: the limits decide.
    pub keep_alive: Option<u16>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is done.
    Allow,
    /// It is not done, and the client is told as far as its version has words for it.
    Refuse,
    /// It is not done, and nothing is said: no acknowledgement comes.
    Ignore,
    /// The connection ends; a client of MQTT 5 is sent this reason code first.
    Close(ReasonCode),
}

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
    /// The keep alive it asks for, in seconds; 0 for none.
    pub keep_alive: u16,
    /// The will.
    pub will: Option<&'a Will>,
    /// What the listener knows of it.
    pub peer: &'a Peer,
}

impl std::fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("username", &self.username.map(|_| "(redacted)"))
            .field("password", &self.password.map(|_| "(redacted)"))
            .field("keep_alive", &self.keep_alive)
            .field("will", &self.will.map(|will| &will.topic))
            .field("peer", &self.peer)
            .finish()
    }
}

/// What was decided, for [`Policy::explain`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Decision<'a> {
    /// A CONNECT was refused.
    Connect(&'a Login<'a>),
    /// A PUBLISH was not done; its topic, through an alias where it has none of its own.
    Publish(&'a Client<'a>, &'a Topic, &'a Publish),
    /// A SUBSCRIBE was not looked at.
    Subscribe(&'a Client<'a>, &'a Subscribe),
    /// A filter of a SUBSCRIBE was refused, by the policy or the server's own limit; with how many other
    /// filters the session has.
    Filter(&'a Client<'a>, &'a Subscription, usize),
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

    /// The same, with the terms. Default: [`connect`](Self::connect) decides.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect). A code below 0x80 is sent to a client of MQTT 3.1.1 as it is.
    fn admit(&self, login: &Login<'_>) -> Result<Grant, ReasonCode> {
        self.connect(login)?;
        Ok(Grant {
            principal: login.peer.principal.clone(),
            keep_alive: None,
        })
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

    /// What becomes of a PUBLISH; `topic` is its topic, through an alias where it has none of its own.
    /// Default: [`may_publish`](Self::may_publish) decides.
    fn judge_publish(&self, client: &Client<'_>, topic: &Topic, publish: &Publish) -> Verdict {
        let _ = publish;
        if self.may_publish(client.client_id, topic) {
            Verdict::Allow
        } else {
            Verdict::Refuse
        }
    }

    /// What becomes of a SUBSCRIBE as a whole, before its filters are looked at. [`Verdict::Refuse`]
    /// refuses each of them. Default: allowed.
    fn judge_subscribe(&self, client: &Client<'_>, subscribe: &Subscribe) -> Verdict {
        let _ = (client, subscribe);
        Verdict::Allow
    }

    /// What becomes of one filter of a SUBSCRIBE; `present` is how many other filters the session has.
    /// [`Verdict::Ignore`] is the same as [`Verdict::Refuse`]. Default:
    /// [`may_subscribe`](Self::may_subscribe) decides.
    fn judge_filter(&self, client: &Client<'_>, wanted: &Subscription, present: usize) -> Verdict {
        let _ = present;
        if self.may_subscribe(client.client_id, &wanted.filter) {
            Verdict::Allow
        } else {
            Verdict::Refuse
        }
    }

    /// Why a decision fell as it did, for the log. It is asked after a decision against a client, about
    /// that one. Default: nothing is known.
    fn explain(&self, decision: &Decision<'_>) -> Option<Explanation> {
        let _ = decision;
        None
    }

    /// How the log names who a client was let in as. Default: `principal` itself.
    fn describe<'a>(&self, principal: &'a str) -> Cow<'a, str> {
        principal.into()
    }
}

/// A policy that others look into as well.
impl<P: Policy> Policy for Arc<P> {
    fn connect(&self, login: &Login<'_>) -> Result<(), ReasonCode> {
        (**self).connect(login)
    }

    fn admit(&self, login: &Login<'_>) -> Result<Grant, ReasonCode> {
        (**self).admit(login)
    }

    fn may_publish(&self, client_id: &str, topic: &Topic) -> bool {
        (**self).may_publish(client_id, topic)
    }

    fn may_subscribe(&self, client_id: &str, filter: &TopicFilter) -> bool {
        (**self).may_subscribe(client_id, filter)
    }

    fn judge_publish(&self, client: &Client<'_>, topic: &Topic, publish: &Publish) -> Verdict {
        (**self).judge_publish(client, topic, publish)
    }

    fn judge_subscribe(&self, client: &Client<'_>, subscribe: &Subscribe) -> Verdict {
        (**self).judge_subscribe(client, subscribe)
    }

    fn judge_filter(&self, client: &Client<'_>, wanted: &Subscription, present: usize) -> Verdict {
        (**self).judge_filter(client, wanted, present)
    }

    fn explain(&self, decision: &Decision<'_>) -> Option<Explanation> {
        (**self).explain(decision)
    }

    fn describe<'a>(&self, principal: &'a str) -> Cow<'a, str> {
        (**self).describe(principal)
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
