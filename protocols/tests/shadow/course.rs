//! A document with a clock, a server and turns under the test's control.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use paquebot_protocols::dialect::state::{
    Rejection, StateChange, StateDelta, StateDocument, StateFeed, StateMessage, StateOperation,
    StateRequest, StateRules, StateUpdate, UnreadableState,
};
use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::shadow::{
    Action, Event, Failure, Ignored, Loss, REQUESTS_HELD_MAX, Refusal, Shadow, Unsent,
};
use serde_json::{Value, json};

pub(crate) const GET: StateFeed = StateFeed::Replies(StateOperation::Get);
pub(crate) const UPDATE: StateFeed = StateFeed::Replies(StateOperation::Update);
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) struct Course {
    pub(crate) shadow: Shadow,
    pub(crate) now: Instant,
    told: VecDeque<Event>,
    /// Requests that wait for a turn, and those that have one.
    queued: VecDeque<(u64, bool)>,
    turns: HashSet<u64>,
}

impl Course {
    pub(crate) fn online() -> Self {
        Self {
            shadow: Shadow::new("me".into(), true),
            now: Instant::now(),
            told: VecDeque::new(),
            queued: VecDeque::new(),
            turns: HashSet::new(),
        }
    }

    /// Online, with deltas wanted and the document read: it has this version and no difference.
    pub(crate) fn in_step(version: u64) -> Self {
        let mut course = Self::online();
        course.shadow.handle_wanted(course.now, StateFeed::Deltas);
        course.grant(StateFeed::Deltas);
        course.grant(GET);
        let token = course.published();
        course.reply(StateOperation::Get, &token, Ok(document(version, None)));
        course.events();
        course
    }

    pub(crate) fn request(&mut self, request: StateRequest) -> Result<u64, Refusal> {
        let deadline = self.now + DEADLINE;
        self.shadow
            .handle_request(self.now, request, deadline, true)
    }

    /// What is to be done but for turns, which are given as they come back.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            self.listen();
            while let Some(action) = self.shadow.poll_action() {
                match action {
                    Action::AskTurn { id, is_alone } => self.queued.push_back((id, is_alone)),
                    action => actions.push(action),
                }
            }
            let Some((id, is_alone)) = self.queued.front().copied() else {
                return actions;
            };
            let most = if is_alone {
                1
            } else {
                StateRules::default().requests_max
            };
            if self.turns.len() >= most {
                return actions;
            }
            self.queued.pop_front();
            if self.shadow.handle_turn(self.now, id) {
                self.turns.insert(id);
            }
        }
    }

    pub(crate) fn listen(&mut self) {
        while let Some(event) = self.shadow.poll_event() {
            if let Event::Ended { id, .. } | Event::Throttled { id, .. } = event {
                self.turns.remove(&id);
            }
            self.told.push_back(event);
        }
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.listen();
        self.told.drain(..).collect()
    }

    pub(crate) fn lose(&mut self, loss: Loss) {
        self.shadow.handle_offline(self.now, loss);
    }

    pub(crate) fn unwant(&mut self, feed: StateFeed) {
        self.shadow.handle_unwanted(self.now, feed);
    }

    pub(crate) fn deltas(&mut self) -> Vec<Option<u64>> {
        let told = self.events().into_iter().filter_map(|event| match event {
            Event::Delta(delta) => Some(delta.version),
            _ => None,
        });
        told.collect()
    }

    /// The server is asked for a feed, and grants it.
    pub(crate) fn grant(&mut self, feed: StateFeed) {
        let actions = self.actions();
        assert!(actions.contains(&Action::Subscribe(feed)), "{actions:?}");
        self.shadow.handle_subscribed(self.now, feed, Ok(()));
    }

    /// The token of the one request that goes out.
    #[track_caller]
    pub(crate) fn published(&mut self) -> String {
        let actions = self.actions();
        let [Action::Publish { token, .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        token.clone()
    }

    pub(crate) fn reply(
        &mut self,
        operation: StateOperation,
        token: &str,
        result: Result<StateDocument, Rejection>,
    ) {
        let message = StateMessage::Reply {
            operation,
            token: Some(token.into()),
            result: result.map(Box::new),
        };
        self.shadow.handle_message(self.now, message);
    }

    pub(crate) fn delta(&mut self, version: u64) {
        let delta = StateDelta {
            state: json!({"v": version}),
            version: Some(version),
            ..StateDelta::default()
        };
        self.shadow
            .handle_message(self.now, StateMessage::Delta(delta));
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.shadow.handle_timeout(self.now);
    }
}

pub(crate) fn document(version: u64, delta: Option<Value>) -> StateDocument {
    StateDocument {
        version: Some(version),
        delta,
        ..StateDocument::default()
    }
}

pub(crate) fn update() -> StateRequest {
    StateRequest::Update(StateUpdate::default())
}

pub(crate) fn missing() -> Rejection {
    Rejection {
        code: 404,
        message: "No shadow exists".into(),
    }
}

pub(crate) fn failures(events: &[Event]) -> Vec<&Failure> {
    let failed = events.iter().filter_map(|event| match event {
        Event::Ended { result, .. } => result.as_ref().err(),
        _ => None,
    });
    failed.collect()
}
