//! What the server says in its log about those it turns away: a line for each cause, with the client, what
//! was wrong and whose rule it is.
//!
//! A client that tries again and again is mentioned once in [`INTERVAL`] for each rule, with the number of
//! times in between.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt::{self, Display, Write as _};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::{Client, Peer};

/// How often one client is mentioned for one rule.
const INTERVAL: Duration = Duration::from_secs(10);

/// Clients and rules that are remembered. Beyond it all are forgotten, and may be mentioned again.
const REMEMBERED_MAX: usize = 4096;

/// Characters of a text of a client's choice that a line quotes.
const QUOTED_MAX: usize = 80;

/// Characters of the name of a principal that a line shows: one that AWS's policy makes quotes a name of the client's.
const PRINCIPAL_MAX: usize = 2 * QUOTED_MAX;

/// Why something was refused: for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Whose rule it is, in a few words: `AWS quota: publishes per second`.
    pub rule: &'static str,
    /// What is wrong, without a secret.
    pub text: Cow<'static, str>,
}

impl Explanation {
    /// An explanation.
    pub fn new(rule: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            rule,
            text: text.into(),
        }
    }
}

/// Whom a line is about, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Who<'a> {
    pub(crate) client_id: Option<&'a str>,
    /// As the policy names it, which may know more than the name that it was let in by.
    pub(crate) principal: Option<Cow<'a, str>>,
    pub(crate) address: Option<SocketAddr>,
}

impl<'a> Who<'a> {
    /// Somebody of whom no more than the connection is known.
    pub(crate) fn peer(peer: &'a Peer) -> Self {
        Self {
            client_id: None,
            principal: peer.principal.as_deref().map(Cow::Borrowed),
            address: peer.address,
        }
    }

    pub(crate) fn client(client: &Client<'a>, address: Option<SocketAddr>) -> Self {
        Self {
            client_id: Some(client.client_id),
            principal: client.principal.map(Cow::Borrowed),
            address,
        }
    }

    /// Under what it is remembered, which is of one size however long a name it chose. Without a client identifier that is
    /// the machine: a client that comes back has another port.
    fn key(&self, hasher: &RandomState) -> u64 {
        match self.client_id {
            Some(client_id) => hasher.hash_one(client_id),
            None => hasher.hash_one(self.address.map(|address| address.ip())),
        }
    }
}

impl Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client_id {
            Some(client_id) => write!(f, "client {}", Quoted(client_id))?,
            None => f.write_str("a client")?,
        }
        if let Some(principal) = &self.principal {
            write!(f, " with {}", OneLine(principal))?;
        }
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

/// A text of a client's choice as a line quotes it: escaped, and not at any length.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

/// A text that names a principal, which a policy may have from a certificate: in one line, and not at any length.
struct OneLine<'a>(&'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(PRINCIPAL_MAX) {
            if character.is_control() || is_line_end(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        match self.0.chars().nth(PRINCIPAL_MAX) {
            None => Ok(()),
            Some(_) => write!(f, "… ({} bytes)", self.0.len()),
        }
    }
}

/// Those that are no control characters.
fn is_line_end(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}')
}

/// How loudly a server speaks of those it turns away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Loudness {
    /// At the level `debug`: a test or a bench has them by the thousand.
    #[default]
    Debug,
    /// At the level `warn`, for whoever looks at the emulator while he writes a device.
    Warn,
}

#[derive(Debug, Default)]
pub(crate) struct Remarks {
    loudness: Loudness,
    /// By whom a line is about, and the rule.
    told: Mutex<HashMap<(u64, &'static str), Told>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How often nothing was said since.
    unsaid: u64,
}

impl Remarks {
    pub(crate) fn new(loudness: Loudness) -> Self {
        Self {
            loudness,
            ..Self::default()
        }
    }

    /// Says what was done to a client, and why.
    pub(crate) fn tell(&self, who: &Who<'_>, what: impl Display, why: &Explanation) {
        self.say(self.loudness, who, what, why);
    }

    /// Says it at the level `warn` in any case: it is a mistake in how a client was set up.
    pub(crate) fn warn(&self, who: &Who<'_>, what: impl Display, why: &Explanation) {
        self.say(Loudness::Warn, who, what, why);
    }

    fn say(&self, loudness: Loudness, who: &Who<'_>, what: impl Display, why: &Explanation) {
        let is_heard = match loudness {
            Loudness::Warn => tracing::enabled!(tracing::Level::WARN),
            Loudness::Debug => tracing::enabled!(tracing::Level::DEBUG),
        };
        if !is_heard {
            return;
        }
        let Some(unsaid) = self.admit(who, why.rule, Instant::now()) else {
            return;
        };
        let mut line = format!("{who}: {what}: {} [{}]", why.text, why.rule);
        if unsaid > 0 {
            // Writing to a string does not fail.
            let _ = write!(line, " ({unsaid} more since the last line of this kind)");
        }
        match loudness {
            Loudness::Warn => tracing::warn!("{line}"),
            Loudness::Debug => tracing::debug!("{line}"),
        }
    }

    /// Whether a line is due, and how many were left out before it.
    fn admit(&self, who: &Who<'_>, rule: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.key(&self.hasher), rule);
        if let Some(last) = told.get_mut(&key) {
            if now.saturating_duration_since(last.at) < INTERVAL {
                last.unsaid += 1;
                return None;
            }
            last.at = now;
            return Some(std::mem::take(&mut last.unsaid));
        }
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        told.insert(key, Told { at: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(client_id: &str) -> Who<'_> {
        Who {
            client_id: Some(client_id),
            ..Who::default()
        }
    }

    #[test]
    fn a_loop_is_told_once_in_a_while_with_how_often_it_went_around() {
        let remarks = Remarks::default();
        let start = Instant::now();
        assert_eq!(remarks.admit(&client("a"), "rule", start), Some(0));
        for _ in 0..41 {
            assert_eq!(remarks.admit(&client("a"), "rule", start), None);
        }
        assert_eq!(remarks.admit(&client("a"), "other rule", start), Some(0));
        assert_eq!(remarks.admit(&client("b"), "rule", start), Some(0));
        let before = start + INTERVAL - Duration::from_millis(1);
        assert_eq!(remarks.admit(&client("a"), "rule", before), None);
        let later = start + INTERVAL;
        assert_eq!(remarks.admit(&client("a"), "rule", later), Some(42));
        assert_eq!(remarks.admit(&client("a"), "rule", later), None);
    }

    #[test]
    fn clients_without_a_name_are_told_apart_by_their_machine_and_not_their_port() {
        let remarks = Remarks::default();
        let now = Instant::now();
        let at = |address: &str| Who {
            address: Some(address.parse().unwrap()),
            ..Who::default()
        };
        assert_eq!(remarks.admit(&at("127.0.0.1:1"), "rule", now), Some(0));
        assert_eq!(remarks.admit(&at("127.0.0.1:2"), "rule", now), None);
        assert_eq!(remarks.admit(&at("127.0.0.2:1"), "rule", now), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let remarks = Remarks::default();
        let now = Instant::now();
        for number in 0..REMEMBERED_MAX + 1 {
            remarks.admit(&client(&number.to_string()), "rule", now);
        }
        assert_eq!(remarks.told.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_principal_cannot_forge_a_line_either() {
        let mut who = client("a");
        who.principal = Some("the certificate of \"x\"\nERROR all\u{2028}is lost\x1b[2J".into());
        let shown = who.to_string();
        assert!(
            !shown.contains(['\n', '\u{2028}', '\x1b']) && shown.contains("of \"x\"\\nERROR"),
            "{shown}"
        );
        who.principal = Some("ä".repeat(200).into());
        let shown = who.to_string();
        assert!(shown.ends_with("ä… (400 bytes)"), "{shown}");
    }

    #[test]
    fn a_name_of_a_clients_choice_cannot_forge_a_line() {
        let forged = client("a\nERROR all is lost").to_string();
        assert!(!forged.contains('\n'), "{forged}");
        let long = "ä".repeat(200);
        let shown = Quoted(&long).to_string();
        assert!(shown.ends_with("… (400 bytes)"), "{shown}");
    }
}
