//! The feeds of a document: which are wanted, which the server has confirmed.

use crate::dialect::state::{StateFeed, StateOperation};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Idle,
    Asked,
    Ready,
}

#[derive(Debug, Clone, Copy, Default)]
struct Feed {
    stage: Stage,
    /// It stays when nobody waits for it.
    is_kept: bool,
    /// How often the server has confirmed it.
    grants: u32,
}

#[derive(Debug, Default)]
pub(super) struct Feeds([Feed; 5]);

impl Feeds {
    /// Whether a feed has to be asked for; from now on it is.
    pub(super) fn ask(&mut self, feed: StateFeed) -> bool {
        let feed = self.of(feed);
        let is_idle = feed.stage == Stage::Idle;
        if is_idle {
            feed.stage = Stage::Asked;
        }
        is_idle
    }

    pub(super) fn is_asked(&self, feed: StateFeed) -> bool {
        self.0[place(feed)].stage == Stage::Asked
    }

    pub(super) fn is_ready(&self, feed: StateFeed) -> bool {
        self.0[place(feed)].stage == Stage::Ready
    }

    pub(super) fn is_kept(&self, feed: StateFeed) -> bool {
        self.0[place(feed)].is_kept
    }

    pub(super) fn set_ready(&mut self, feed: StateFeed) {
        let feed = self.of(feed);
        feed.stage = Stage::Ready;
        feed.grants = feed.grants.wrapping_add(1);
    }

    /// How often the server has confirmed it.
    pub(super) fn grants(&self, feed: StateFeed) -> u32 {
        self.0[place(feed)].grants
    }

    /// It has to be asked for once more, without being given up in between.
    pub(super) fn ask_again(&mut self, feed: StateFeed) {
        self.of(feed).stage = Stage::Asked;
    }

    /// `false` when it was not asked for anyway.
    pub(super) fn set_idle(&mut self, feed: StateFeed) -> bool {
        let feed = self.of(feed);
        std::mem::take(&mut feed.stage) != Stage::Idle
    }

    pub(super) fn keep(&mut self, feed: StateFeed) {
        self.of(feed).is_kept = true;
    }

    pub(super) fn forget(&mut self, feed: StateFeed) {
        self.of(feed).is_kept = false;
    }

    fn of(&mut self, feed: StateFeed) -> &mut Feed {
        &mut self.0[place(feed)]
    }
}

fn place(feed: StateFeed) -> usize {
    match feed {
        StateFeed::Replies(StateOperation::Get) => 0,
        StateFeed::Replies(StateOperation::Update) => 1,
        StateFeed::Replies(StateOperation::Delete) => 2,
        StateFeed::Deltas => 3,
        StateFeed::Documents => 4,
    }
}
