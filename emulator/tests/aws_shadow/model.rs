//! A shadow as a list of paths with a leaf each.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

type Path = Vec<String>;

/// A section: its leaves, each with the time that it was set. Scalars, arrays and objects without a key are
/// leaves.
#[derive(Debug, Clone, Default)]
struct Section(BTreeMap<Path, (Value, u64)>);

#[derive(Debug, Default)]
pub(crate) struct Model {
    desired: Section,
    reported: Section,
}

impl Model {
    pub(crate) fn update(&mut self, state: &Value, now: u64) {
        let sections = [
            ("desired", &mut self.desired),
            ("reported", &mut self.reported),
        ];
        for (name, section) in sections {
            match (state, state.get(name)) {
                (Value::Null, _) | (_, Some(Value::Null)) => section.0.clear(),
                (_, None) => {}
                (_, Some(patch)) => {
                    for (path, leaf) in leaves(patch) {
                        section.set(&path, &leaf, now);
                    }
                }
            }
        }
    }

    pub(crate) fn state(&self) -> Value {
        self.sections(|(value, _)| value.clone())
    }

    pub(crate) fn metadata(&self) -> Value {
        self.sections(|(value, time)| stamp(value, *time))
    }

    /// The leaves of desired that reported does not satisfy.
    pub(crate) fn delta(&self) -> Option<Value> {
        self.lacking().tree(|(value, _)| value.clone())
    }

    pub(crate) fn delta_metadata(&self) -> Option<Value> {
        self.lacking().tree(|(value, time)| stamp(value, *time))
    }

    fn lacking(&self) -> Section {
        let desired = self.desired.0.iter();
        let lacking = desired.filter(|(path, (value, _))| !self.reported.satisfies(path, value));
        let lacking = lacking.map(|(path, leaf)| (path.clone(), leaf.clone()));
        Section(lacking.collect())
    }

    fn sections(&self, show: impl Fn(&(Value, u64)) -> Value) -> Value {
        let mut out = Map::new();
        for (name, section) in [("desired", &self.desired), ("reported", &self.reported)] {
            if let Some(tree) = section.tree(&show) {
                out.insert(name.to_owned(), tree);
            }
        }
        Value::Object(out)
    }
}

impl Section {
    fn set(&mut self, path: &Path, leaf: &Value, now: u64) {
        if *leaf == json!({}) && self.is_object(path) {
            return;
        }
        // A leaf above that is no object gives way to the object that the patch has in its place.
        for length in 1..path.len() {
            let above = path[..length].to_vec();
            if self
                .0
                .get(&above)
                .is_some_and(|(value, _)| *value != json!({}))
            {
                self.remove(&above);
            }
        }
        if leaf.is_null() {
            self.remove(path);
            return;
        }
        self.0.retain(|other, _| !other.starts_with(path));
        for length in 1..path.len() {
            self.0.remove(&path[..length]);
        }
        self.0.insert(path.clone(), (leaf.clone(), now));
    }

    /// Takes away a key with all below it. An object that loses its last key is an object still.
    fn remove(&mut self, path: &[String]) {
        let before = self.0.len();
        self.0.retain(|other, _| !other.starts_with(path));
        let parent = &path[..path.len() - 1];
        let is_empty = !self.0.keys().any(|other| other.starts_with(parent));
        if self.0.len() < before && is_empty && !parent.is_empty() {
            self.0.insert(parent.to_vec(), (json!({}), 0));
        }
    }

    fn is_object(&self, path: &Path) -> bool {
        let is_below = |other: &Path| other.len() > path.len() && other.starts_with(path);
        let is_empty_one = self
            .0
            .get(path)
            .is_some_and(|(value, _)| *value == json!({}));
        is_empty_one || self.0.keys().any(is_below)
    }

    fn satisfies(&self, path: &Path, wanted: &Value) -> bool {
        if *wanted == json!({}) {
            return self.is_object(path);
        }
        self.0
            .get(path)
            .is_some_and(|(value, _)| is_equal(value, wanted))
    }

    fn tree(&self, show: impl Fn(&(Value, u64)) -> Value) -> Option<Value> {
        let mut root = Value::Object(Map::new());
        for (path, leaf) in &self.0 {
            let mut at = &mut root;
            for key in path {
                if at.is_null() {
                    *at = Value::Object(Map::new());
                }
                at = at
                    .as_object_mut()
                    .expect("no leaf is above another")
                    .entry(key.clone())
                    .or_insert(Value::Null);
            }
            *at = show(leaf);
        }
        (!self.0.is_empty()).then_some(root)
    }
}

fn leaves(value: &Value) -> Vec<(Path, Value)> {
    let Some(fields) = value.as_object() else {
        return vec![(Path::new(), value.clone())];
    };
    let mut out = Vec::new();
    for (key, value) in fields {
        if *value == json!({}) {
            out.push((vec![key.clone()], value.clone()));
        }
        for (mut path, leaf) in leaves(value) {
            path.insert(0, key.clone());
            out.push((path, leaf));
        }
    }
    out
}

fn stamp(value: &Value, time: u64) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| stamp(item, time)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), stamp(value, time)))
            .collect(),
        _ => json!({"timestamp": time}),
    }
}

/// The generated numbers are small, so a double tells them apart.
fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            let mut pairs = left.iter().zip(right);
            left.len() == right.len() && pairs.all(|(left, right)| is_equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let mut fields = left.iter();
            left.len() == right.len()
                && fields
                    .all(|(key, value)| right.get(key).is_some_and(|other| is_equal(value, other)))
        }
        _ => left == right,
    }
}
