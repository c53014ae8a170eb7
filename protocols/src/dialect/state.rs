//! The words for a device's state as documents: what can be asked, what the platform answers, what it tells by itself.
//!
//! | platform | documents | requests | told by itself |
//! |---|---|---|---|
//! | AWS IoT | the classic shadow, and named ones | get, update, delete | deltas, documents |
//! | a twin | one | get, update of *reported* | patches of *desired* |
//! | attributes | one | get | patches of *desired* |
//!
//! A dialect says how each of it looks on the wire; which request an answer belongs to, deadlines and versions are
//! kept by [`shadow`](crate::shadow), which knows no platform.

use bytestring::ByteString;
use serde_json::Value;

use super::{DialectError, LinkIdentity, Rendered};
use crate::model::{DeviceId, StatePatch};
use crate::mqtt::Subscription;
use crate::mqtt::session::Incoming;

/// Names one document: a device has one without a name and, where the platform has such, others with one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DocumentId {
    /// The device.
    pub device: DeviceId,
    /// `None`: the device's own.
    pub name: Option<ByteString>,
}

impl std::fmt::Display for DocumentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.device),
            None => self.device.fmt(f),
        }
    }
}

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateOperation {
    /// Read the document.
    Get,
    /// Change it.
    Update,
    /// Delete it.
    Delete,
}

impl StateOperation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Get, Self::Update, Self::Delete];

    /// The name used in metrics and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// What a platform's messages about one document are told apart by; each has subscriptions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateFeed {
    /// Answers to requests of one kind.
    Replies(StateOperation),
    /// How *desired* differs from *reported*.
    Deltas,
    /// The document before and after each change.
    Documents,
}

/// A change: each half is merged into the document's, where null takes a key out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateUpdate {
    /// Merged into *desired*; null takes all of it out.
    pub desired: Option<Value>,
    /// Merged into *reported*; likewise.
    pub reported: Option<Value>,
    /// Refused unless the document has this version.
    pub version: Option<u64>,
}

impl StateUpdate {
    /// A change of the desired state.
    #[must_use]
    pub fn desired(state: impl Into<Value>) -> Self {
        Self {
            desired: Some(state.into()),
            ..Self::default()
        }
    }

    /// A change of the reported state.
    #[must_use]
    pub fn reported(state: impl Into<Value>) -> Self {
        Self {
            reported: Some(state.into()),
            ..Self::default()
        }
    }

    /// Adds a change of the desired state.
    #[must_use]
    pub fn with_desired(mut self, state: impl Into<Value>) -> Self {
        self.desired = Some(state.into());
        self
    }

    /// Adds a change of the reported state.
    #[must_use]
    pub fn with_reported(mut self, state: impl Into<Value>) -> Self {
        self.reported = Some(state.into());
        self
    }

    /// Has it refused unless the document has this version.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }
}

/// A request about one document.
#[derive(Debug, Clone, PartialEq)]
pub enum StateRequest {
    /// Read it.
    Get,
    /// Change it.
    Update(StateUpdate),
    /// Delete it.
    Delete,
}

impl StateRequest {
    /// What kind of request it is.
    #[must_use]
    pub const fn operation(&self) -> StateOperation {
        match self {
            Self::Get => StateOperation::Get,
            Self::Update(_) => StateOperation::Update,
            Self::Delete => StateOperation::Delete,
        }
    }
}

/// A document, or as much of one as a message has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateDocument {
    /// What somebody wants.
    pub desired: Option<Value>,
    /// What the device says.
    pub reported: Option<Value>,
    /// What is desired and not reported.
    pub delta: Option<Value>,
    /// When each value changed, as the platform writes it.
    pub metadata: Option<Value>,
    /// The document's version, where the platform counts.
    pub version: Option<u64>,
    /// When the platform wrote this, in seconds since 1970.
    pub timestamp: Option<u64>,
}

/// A difference that the platform tells.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateDelta {
    /// What is desired; on a platform that tells changes only ([`StateRules::deltas_are_whole`]) what changed of it.
    pub state: Value,
    /// When each value was asked for, as the platform writes it.
    pub metadata: Option<Value>,
    /// The document's version, where the platform counts.
    pub version: Option<u64>,
    /// When the platform wrote this, in seconds since 1970.
    pub timestamp: Option<u64>,
}

/// A document before and after a change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateChange {
    /// Before; `None` when the change made it.
    pub previous: Option<StateDocument>,
    /// After.
    pub current: StateDocument,
    /// When the platform wrote this, in seconds since 1970.
    pub timestamp: Option<u64>,
}

/// A platform's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// The platform's code, which is an HTTP status code on most.
    pub code: u32,
    /// Its words.
    pub message: ByteString,
}

impl Rejection {
    /// Whether the document has another version than the request asked for.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        self.code == 409 || self.code == 412
    }

    /// Whether the platform has too many requests just now, so that the same may go well soon.
    #[must_use]
    pub const fn is_throttled(&self) -> bool {
        self.code == 429
    }

    /// Whether there is no such document.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        self.code == 404
    }
}

/// What a platform says about a document.
#[derive(Debug, Clone, PartialEq)]
pub enum StateMessage {
    /// The answer to a request.
    Reply {
        /// The kind of request.
        operation: StateOperation,
        /// The request's token, as it was sent; `None` when the answer names none.
        token: Option<ByteString>,
        /// An update is answered with the halves that were sent, a deletion with the version alone.
        result: Result<Box<StateDocument>, Rejection>,
    },
    /// A difference.
    Delta(StateDelta),
    /// A change.
    Changed(Box<StateChange>),
}

/// What holds for all documents of a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateRules {
    /// Most requests of one connection without an answer, whatever documents they are about.
    pub requests_max: usize,
    /// A delta says all that differs, so that the latest is enough; otherwise each says what changed.
    pub deltas_are_whole: bool,
}

impl Default for StateRules {
    fn default() -> Self {
        Self {
            requests_max: 10,
            deltas_are_whole: true,
        }
    }
}

/// A platform's language for documents of state. Pure, as [`Dialect`](super::Dialect) is.
pub trait StateDialect: Send + Sync + std::fmt::Debug {
    /// What holds for all of them.
    fn rules(&self) -> StateRules;

    /// Whether the platform can have such a document.
    ///
    /// # Errors
    /// What is wrong with its name.
    fn check(&self, link: &LinkIdentity, document: &DocumentId) -> Result<(), DialectError>;

    /// What to subscribe to for a feed.
    ///
    /// # Errors
    /// The platform has no such feed, or the document's name does not fit.
    fn feed(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        feed: StateFeed,
    ) -> Result<Vec<Subscription>, DialectError>;

    /// A request on the wire; its answer carries `token`.
    ///
    /// # Errors
    /// The platform has no such request, or it is too large.
    fn request(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        request: &StateRequest,
        token: &str,
    ) -> Result<Rendered, DialectError>;

    /// A report of state on the wire that nobody waits for: it may be queued, and put together with the next one.
    ///
    /// # Errors
    /// The platform has no such document, or the patch is no JSON object.
    fn report(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        patch: &StatePatch,
    ) -> Result<Rendered, DialectError>;

    /// What a message says about this document; `None` when it is about something else.
    ///
    /// # Errors
    /// It came on one of the document's feeds and cannot be read.
    fn read(
        &self,
        link: &LinkIdentity,
        document: &DocumentId,
        incoming: &Incoming,
    ) -> Result<Option<StateMessage>, UnreadableState>;
}

/// A message on a feed that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct UnreadableState {
    /// Where it came.
    pub feed: StateFeed,
    /// What is wrong with it.
    pub problem: String,
}
