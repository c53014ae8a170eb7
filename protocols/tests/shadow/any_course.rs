//! Whatever happens, in whatever order: each request ends once, nothing is asked that cannot be answered, and in the end
//! the device knows what differs.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use paquebot_protocols::dialect::state::{
    Rejection, StateDelta, StateDocument, StateFeed, StateMessage, StateOperation, StateRequest,
    StateRules, StateUpdate,
};
use paquebot_protocols::mqtt::ReasonCode;
use paquebot_protocols::shadow::{Action, Event, Loss, Shadow};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Debug, Clone)]
enum Step {
    Connect,
    Break(u8),
    Pass(u16),
    Ask {
        operation: u8,
        value: u8,
        keeps: bool,
        deadline: u16,
    },
    Grant(u8),
    Refuse(u8),
    Turn,
    Throttle(u8),
    Serve(u8),
    Deliver(u8),
    Repeat(u8),
    Lose(u8),
    Desire(u8),
    Delete,
    DeleteLongAgo,
    SayForeign,
    Want(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Connect),
        1 => any::<u8>().prop_map(Step::Break),
        2 => (0..20_000_u16).prop_map(Step::Pass),
        4 => (0..3_u8, any::<u8>(), any::<bool>(), 1..15_000_u16)
            .prop_map(|(operation, value, keeps, deadline)| Step::Ask { operation, value, keeps, deadline }),
        6 => any::<u8>().prop_map(Step::Grant),
        1 => any::<u8>().prop_map(Step::Refuse),
        6 => Just(Step::Turn),
        1 => any::<u8>().prop_map(Step::Throttle),
        6 => any::<u8>().prop_map(Step::Serve),
        6 => any::<u8>().prop_map(Step::Deliver),
        1 => any::<u8>().prop_map(Step::Repeat),
        1 => any::<u8>().prop_map(Step::Lose),
        3 => any::<u8>().prop_map(Step::Desire),
        1 => Just(Step::Delete),
        1 => Just(Step::DeleteLongAgo),
        1 => Just(Step::SayForeign),
        2 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Want),
    ]
}

/// The service, with one key in its document.
#[derive(Debug, Default)]
struct Service {
    document: Option<(u8, u8, u64)>,
    deleted: u64,
}

impl Service {
    fn difference(&self) -> Option<Value> {
        let (desired, reported, _) = self.document?;
        (desired != reported).then(|| json!({"k": desired}))
    }

    fn update(&mut self, desired: Option<u8>, reported: Option<u8>) -> Vec<StateMessage> {
        let (mut now, version) = match self.document {
            Some((desired, reported, version)) => ((desired, reported), version + 1),
            None => ((0, 0), self.deleted + 1),
        };
        now = (desired.unwrap_or(now.0), reported.unwrap_or(now.1));
        self.document = Some((now.0, now.1, version));
        let told = self.difference().map(|state| {
            StateMessage::Delta(StateDelta {
                state,
                version: Some(version),
                ..StateDelta::default()
            })
        });
        told.into_iter().collect()
    }

    fn delete(&mut self) {
        if let Some((_, _, version)) = self.document.take() {
            self.deleted = version + 1;
        }
    }

    fn serve(&mut self, token: &str, request: &StateRequest) -> Vec<StateMessage> {
        let mut said = Vec::new();
        let result = match request {
            StateRequest::Update(update) => {
                let value = |half: &Option<Value>| {
                    let value = half.as_ref()?["k"].as_u64()?;
                    Some(u8::try_from(value).unwrap())
                };
                said = self.update(value(&update.desired), value(&update.reported));
                Ok(StateDocument::default())
            }
            _ if self.document.is_none() => Err(Rejection {
                code: 404,
                message: "none".into(),
            }),
            StateRequest::Get => Ok(StateDocument {
                delta: self.difference(),
                ..StateDocument::default()
            }),
            StateRequest::Delete => Ok(StateDocument::default()),
        };
        let version = self.document.map(|(_, _, version)| version);
        if *request == StateRequest::Delete {
            self.delete();
        }
        said.push(StateMessage::Reply {
            operation: request.operation(),
            token: Some(token.into()),
            result: result.map(|document| {
                Box::new(StateDocument {
                    version,
                    ..document
                })
            }),
        });
        said
    }
}

struct World {
    shadow: Shadow,
    service: Service,
    now: Instant,
    is_online: bool,
    /// Subscriptions that the server has not answered for, and those in force.
    asked: Vec<StateFeed>,
    in_force: HashSet<StateFeed>,
    to_service: Vec<(u64, String, StateRequest)>,
    to_device: Vec<StateMessage>,
    /// Whether each request of the test's has ended.
    ended: BTreeMap<u64, bool>,
    /// Requests that wait for a turn, and those that have one.
    queued: VecDeque<(u64, bool)>,
    turns: HashSet<u64>,
    without_answer: HashSet<u64>,
    told: Option<Value>,
    is_wanted: bool,
    /// A delta was lost, which a connection only does when it breaks.
    has_lost: bool,
}

impl World {
    fn new() -> Self {
        Self {
            shadow: Shadow::new("me".into(), false),
            service: Service::default(),
            now: Instant::now(),
            is_online: false,
            asked: Vec::new(),
            in_force: HashSet::new(),
            to_service: Vec::new(),
            to_device: Vec::new(),
            ended: BTreeMap::new(),
            queued: VecDeque::new(),
            turns: HashSet::new(),
            without_answer: HashSet::new(),
            told: None,
            is_wanted: false,
            has_lost: false,
        }
    }

    fn connect(&mut self) {
        if !self.is_online {
            self.is_online = true;
            // The session restores what is asked for before it says that it is online.
            self.in_force.extend(self.asked.iter().copied());
            let asked = std::mem::take(&mut self.asked);
            self.shadow.handle_online(self.now);
            for feed in asked {
                self.shadow.handle_subscribed(self.now, feed, Ok(()));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let pick = |place: u8, length: usize| usize::from(place) % length.max(1);
        match step {
            Step::Connect => self.connect(),
            Step::Break(how) if self.is_online => {
                self.is_online = false;
                let loss = match how % 4 {
                    0 => Loss::Silent { was_reading: true },
                    1 => Loss::Silent { was_reading: false },
                    _ => Loss::Plain,
                };
                self.shadow.handle_offline(self.now, loss);
            }
            Step::Turn => self.give_turn(),
            Step::Throttle(place) if !self.to_service.is_empty() => {
                let request = self.to_service.remove(pick(*place, self.to_service.len()));
                self.to_device.push(StateMessage::Reply {
                    operation: request.2.operation(),
                    token: Some(request.1.into()),
                    result: Err(Rejection {
                        code: 429,
                        message: "Too many requests".into(),
                    }),
                });
            }
            Step::Pass(milliseconds) => {
                self.now += Duration::from_millis((*milliseconds).into());
                self.shadow.handle_timeout(self.now);
            }
            Step::Ask {
                operation,
                value,
                keeps,
                deadline,
            } => {
                let half = Some(json!({"k": value}));
                let request = match operation {
                    0 => StateRequest::Get,
                    1 => StateRequest::Update(StateUpdate {
                        desired: half.clone().filter(|_| value % 2 == 0),
                        reported: half.filter(|_| value % 3 == 0),
                        version: None,
                    }),
                    _ => StateRequest::Delete,
                };
                let deadline = self.now + Duration::from_millis((*deadline).into());
                let asked = self
                    .shadow
                    .handle_request(self.now, request, deadline, *keeps);
                if let Ok(id) = asked {
                    assert!(self.is_online);
                    assert_eq!(self.ended.insert(id, false), None);
                }
            }
            Step::Grant(place) if self.is_online && !self.asked.is_empty() => {
                let feed = self.asked.remove(pick(*place, self.asked.len()));
                self.in_force.insert(feed);
                self.shadow.handle_subscribed(self.now, feed, Ok(()));
            }
            Step::Refuse(place) if self.is_online && !self.asked.is_empty() => {
                let feed = self.asked.remove(pick(*place, self.asked.len()));
                let code = ReasonCode::NOT_AUTHORIZED;
                // A refused stream is not asked for again.
                self.is_wanted &= feed != StateFeed::Deltas;
                self.shadow.handle_subscribed(self.now, feed, Err(code));
            }
            Step::Serve(place) if !self.to_service.is_empty() => {
                let request = self.to_service.remove(pick(*place, self.to_service.len()));
                let said = self.service.serve(&request.1, &request.2);
                self.to_device.extend(said);
            }
            Step::Deliver(place) if self.is_online && !self.to_device.is_empty() => {
                let message = self.to_device.remove(pick(*place, self.to_device.len()));
                self.deliver(message);
            }
            Step::Repeat(place) if self.is_online && !self.to_device.is_empty() => {
                let message = self.to_device[pick(*place, self.to_device.len())].clone();
                self.deliver(message);
            }
            Step::Lose(place) if !self.to_device.is_empty() => {
                let lost = self.to_device.remove(pick(*place, self.to_device.len()));
                self.has_lost |= matches!(lost, StateMessage::Delta(_));
            }
            Step::Desire(value) => {
                let said = self.service.update(Some(*value), None);
                self.to_device.extend(said);
            }
            Step::Delete => self.service.delete(),
            Step::DeleteLongAgo => {
                self.service.delete();
                self.service.deleted = 0;
                // Nothing is that late.
                self.to_device.clear();
                self.has_lost = true;
            }
            Step::SayForeign => {
                for operation in StateOperation::ALL {
                    self.deliver(StateMessage::Reply {
                        operation,
                        token: Some("you-0".into()),
                        result: Ok(Box::default()),
                    });
                }
            }
            Step::Want(true) => {
                self.is_wanted = true;
                self.shadow.handle_wanted(self.now, StateFeed::Deltas);
            }
            Step::Want(false) => {
                self.is_wanted = false;
                self.shadow.handle_unwanted(self.now, StateFeed::Deltas);
            }
            _ => {}
        }
        self.look();
    }

    fn give_turn(&mut self) {
        let Some((id, is_alone)) = self.queued.front().copied() else {
            return;
        };
        let most = StateRules::default().requests_max;
        if self.turns.len() < if is_alone { 1 } else { most } {
            self.queued.pop_front();
            if self.shadow.handle_turn(self.now, id) {
                assert!(self.turns.insert(id));
            }
        }
    }

    fn deliver(&mut self, message: StateMessage) {
        let feed = match &message {
            StateMessage::Reply { operation, .. } => StateFeed::Replies(*operation),
            StateMessage::Delta(_) => StateFeed::Deltas,
            StateMessage::Changed(_) => StateFeed::Documents,
        };
        if self.in_force.contains(&feed) {
            self.shadow.handle_message(self.now, message);
        }
    }

    fn look(&mut self) {
        while let Some(event) = self.shadow.poll_event() {
            match event {
                Event::Throttled { id, .. } => {
                    assert!(self.turns.remove(&id));
                    assert!(self.without_answer.remove(&id));
                }
                Event::Ended { id, .. } => {
                    self.turns.remove(&id);
                    self.without_answer.remove(&id);
                    if let Some(ended) = self.ended.get_mut(&id) {
                        assert!(!*ended, "request {id} ended twice");
                        *ended = true;
                    }
                }
                Event::Delta(delta) => self.told = Some(delta.state),
                _ => {}
            }
        }
        while let Some(action) = self.shadow.poll_action() {
            match action {
                Action::Subscribe(feed) => {
                    assert!(!self.asked.contains(&feed) && !self.in_force.contains(&feed));
                    self.asked.push(feed);
                }
                Action::Renew(feed) => {
                    assert!(!self.asked.contains(&feed) && self.in_force.contains(&feed));
                    self.asked.push(feed);
                }
                Action::AskTurn { id, is_alone } => self.queued.push_back((id, is_alone)),
                Action::Unsubscribe(feed) => {
                    self.asked.retain(|asked| *asked != feed);
                    self.in_force.remove(&feed);
                }
                Action::Publish { id, token, request } => {
                    assert!(self.is_online);
                    let feed = StateFeed::Replies(request.operation());
                    assert!(self.in_force.contains(&feed), "{feed:?} is not in force");
                    assert!(!self.asked.contains(&feed), "{feed:?} is being renewed");
                    assert!(self.without_answer.insert(id), "sent twice");
                    assert!(self.without_answer.len() <= StateRules::default().requests_max);
                    self.to_service.push((id, token, request));
                }
            }
        }
    }

    /// The network is good again for long enough.
    fn calm_down(&mut self) {
        if self.has_lost {
            self.step(&Step::Break(2));
        }
        // Also one that was given up is read when somebody wants it.
        self.step(&Step::Want(true));
        self.step(&Step::Connect);
        for _ in 0..50 {
            while !self.asked.is_empty()
                || !self.queued.is_empty()
                || !self.to_service.is_empty()
                || !self.to_device.is_empty()
            {
                self.step(&Step::Grant(0));
                self.step(&Step::Turn);
                self.step(&Step::Serve(0));
                self.step(&Step::Deliver(0));
            }
            match self.shadow.poll_timeout() {
                Some(due) => self.now = self.now.max(due),
                None => break,
            }
            self.shadow.handle_timeout(self.now);
            self.look();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_request_ends_once_and_what_differs_is_told(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.calm_down();
        prop_assert!(world.ended.values().all(|ended| *ended));
        prop_assert_eq!(world.shadow.poll_timeout(), None);
        if let Some(difference) = world.service.difference() {
            prop_assert_eq!(world.told, Some(difference));
        }
    }
}
