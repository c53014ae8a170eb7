//! The shadow service against a model that keeps a document as a flat list of paths, where the service keeps
//! a tree.

mod model;

use std::time::{Duration, SystemTime};

use model::Model;
use paquebot_emulator::aws::services::{Requester, ServiceSettings, Services};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

const P: &str = "$aws/things/Bot/shadow";

/// What happens to a shadow.
#[derive(Debug, Clone)]
enum Step {
    /// An update with this `state`, and with a version that is off by so much.
    Update(Value, Option<i64>),
    Delete,
}

/// Numbers that are equal by value and not by text are among them, and so are the empty object and keys
/// that look like metadata.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(1.0)),
        Just(json!(-2.5)),
        Just(json!(true)),
        Just(json!("x")),
        Just(json!({})),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            3 => object(prop_oneof![4 => inner.clone(), 1 => Just(Value::Null)]),
            1 => vec(scalar(), 0..3).prop_map(Value::from),
            1 => vec(object(scalar()), 0..3).prop_map(Value::from),
        ]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![Just("a"), Just("b"), Just("c"), Just("timestamp")];
    btree_map(key, values, 0..4)
        .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn section() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        7 => object(prop_oneof![5 => value(), 1 => Just(Value::Null)]).prop_map(Some),
    ]
}

fn state() -> impl Strategy<Value = Value> {
    let sections = (section(), section()).prop_map(|(desired, reported)| {
        let fields = [("desired", desired), ("reported", reported)];
        let fields = fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(fields.collect())
    });
    prop_oneof![1 => Just(Value::Null), 20 => sections]
}

fn step() -> impl Strategy<Value = Step> {
    let version = prop_oneof![4 => Just(None), 2 => Just(Some(0)), 1 => (-1_i64..3).prop_map(Some)];
    prop_oneof![
        1 => Just(Step::Delete),
        12 => (state(), version).prop_map(|(state, version)| Step::Update(state, version)),
    ]
}

/// The service, asked as a device asks.
struct Service {
    services: Services,
    now: SystemTime,
}

impl Service {
    fn new() -> Self {
        let mut settings = ServiceSettings::default();
        settings.shadow.requests_per_second_max = None;
        settings.shadow.nesting_levels_max = 20;
        Self {
            services: Services::new(settings),
            now: SystemTime::UNIX_EPOCH,
        }
    }

    /// The messages that a request causes: the ends of their topics, and their payloads.
    fn ask(&mut self, operation: &str, payload: &Value) -> Vec<(String, Value)> {
        let topic = format!("{P}/{operation}");
        let payload = payload.to_string();
        let from = Requester::new("Bot");
        let publications =
            self.services
                .handle_publish(&from, &topic, payload.as_bytes(), self.now);
        let publications = publications.expect("a topic of the shadow service");
        let read = |topic: &str, payload: &[u8]| {
            let end = topic.rsplit('/').next().unwrap_or_default();
            (end.to_owned(), serde_json::from_slice(payload).unwrap())
        };
        publications
            .iter()
            .map(|one| read(one.topic.as_str(), &one.payload))
            .collect()
    }

    fn get(&mut self) -> Option<Value> {
        let found = self.ask("get", &json!({}));
        let [(end, body)] = found.as_slice() else {
            panic!("one answer, not {found:?}");
        };
        (end == "accepted").then(|| body.clone())
    }
}

fn without(body: &Value, key: &str) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove(key);
    body
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut service = Service::new();
    let mut model: Option<Model> = None;
    let mut last_version = 0_i64;
    let mut last_current = Value::Null;
    for (index, step) in steps.iter().enumerate() {
        service.now += Duration::from_secs(1);
        let now = u64::try_from(index).unwrap() + 1;
        let (state, off) = match step {
            Step::Delete => {
                let found = service.ask("delete", &json!({}));
                let expected = model.as_ref().map(|_| json!(last_version));
                prop_assert_eq!(found[0].1.get("version").cloned(), expected);
                prop_assert_eq!(service.get(), None);
                if model.take().is_some() {
                    last_version += 1;
                    last_current = Value::Null;
                }
                continue;
            }
            Step::Update(state, off) => (state, off),
        };
        let expected_version = model.as_ref().map_or(1, |_| last_version);
        let named = off.map(|off| expected_version + off);
        let mut request = json!({"state": state});
        if let Some(named) = named {
            request["version"] = json!(named);
        }
        let before = service.get();
        let found = service.ask("update", &request);
        if off.is_some_and(|off| off != 0) {
            let code = if named.is_some_and(|named| named < 0) || model.is_none() {
                400
            } else {
                409
            };
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].1["code"], code);
            let untouched = |body: Option<Value>| body.map(|body| without(&body, "timestamp"));
            prop_assert_eq!(untouched(service.get()), untouched(before));
            continue;
        }
        last_version += 1;
        let model = model.get_or_insert_with(Model::default);
        model.update(state, now);

        let (end, accepted) = found.last().expect("an answer");
        prop_assert_eq!(end, "accepted");
        prop_assert_eq!(&accepted["version"], last_version);
        prop_assert_eq!(&accepted["state"], state);

        let get = service.get().expect("a shadow");
        prop_assert_eq!(&get["version"], last_version);
        prop_assert_eq!(without(&get["state"], "delta"), model.state());
        prop_assert_eq!(&get["metadata"], &model.metadata());

        let documents = found.iter().find(|(end, _)| end == "documents");
        let documents = &documents.expect("the documents").1;
        prop_assert_eq!(&documents["previous"], &last_current, "the chain is whole");
        last_current = documents["current"].clone();
        prop_assert_eq!(&last_current["state"], &model.state());
        prop_assert_eq!(&last_current["metadata"], &model.metadata());
        prop_assert_eq!(&last_current["version"], last_version);

        let delta = found.iter().find(|(end, _)| end == "delta");
        let delta = delta.map(|(_, delta)| delta);
        let (expected, stamps) = (model.delta(), model.delta_metadata());
        prop_assert_eq!(delta.map(|delta| &delta["state"]), expected.as_ref());
        prop_assert_eq!(get["state"].get("delta"), expected.as_ref());
        if let Some(delta) = delta {
            prop_assert_eq!(&delta["version"], last_version);
            prop_assert_eq!(Some(&delta["metadata"]), stamps.as_ref());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_shadow_is_what_its_updates_make_it_step_by_step(steps in vec(step(), 1..16)) {
        check(&steps)?;
    }
}
