//! A shadow's document: two sections of state, and when each leaf was last set.

use super::delta::{delta, stamps_below};
use crate::aws::services::json::{Json, Object, object, object_text};

/// `desired` or `reported`. One without a key is as good as none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Section {
    state: Object,
    /// The shape of `state` with `{"timestamp": …}` in the place of each leaf.
    stamps: Object,
}

/// What an update asks of a section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Keep,
    Clear,
    Merge(Object),
}

impl Section {
    fn apply(&mut self, change: &Change, now: u64) {
        match change {
            Change::Keep => {}
            Change::Clear => *self = Self::default(),
            Change::Merge(patch) => merge(&mut self.state, &mut self.stamps, patch, now),
        }
    }

    fn state_json(&self) -> Option<Json> {
        (!self.state.is_empty()).then(|| Json::Object(self.state.clone()))
    }

    fn stamps_json(&self) -> Option<Json> {
        (!self.state.is_empty()).then(|| Json::Object(self.stamps.clone()))
    }

    fn bytes(&self) -> usize {
        if self.state.is_empty() {
            0
        } else {
            object_text(&self.state).len()
        }
    }
}

/// A shadow as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) desired: Section,
    pub(crate) reported: Section,
    pub(crate) version: u64,
}

impl Document {
    pub(crate) fn apply(&mut self, desired: &Change, reported: &Change, now: u64) {
        self.desired.apply(desired, now);
        self.reported.apply(reported, now);
    }

    /// Bytes that count towards the quota.
    pub(crate) fn bytes(&self) -> usize {
        self.desired.bytes() + self.reported.bytes()
    }

    /// What desired has and reported lacks, with desired's timestamps; `None` when that is nothing.
    pub(crate) fn delta(&self) -> Option<(Object, Object)> {
        let delta = delta(&self.desired.state, &self.reported.state);
        if delta.is_empty() {
            return None;
        }
        let stamps = stamps_below(&delta, &self.desired.stamps);
        Some((delta, stamps))
    }

    /// As a device reads it with `get`.
    pub(crate) fn with_delta(&self) -> Object {
        let mut state = self.state();
        if let Some((delta, _)) = self.delta() {
            state.insert("delta".to_owned(), Json::Object(delta));
        }
        self.around(state)
    }

    /// As `update/documents` shows it.
    pub(crate) fn plain(&self) -> Object {
        self.around(self.state())
    }

    fn state(&self) -> Object {
        object([
            ("desired", self.desired.state_json()),
            ("reported", self.reported.state_json()),
        ])
    }

    fn around(&self, state: Object) -> Object {
        let metadata = object([
            ("desired", self.desired.stamps_json()),
            ("reported", self.reported.stamps_json()),
        ]);
        object([
            ("state", Some(state.into())),
            ("metadata", Some(metadata.into())),
            ("version", Some(self.version.into())),
        ])
    }
}

fn merge(state: &mut Object, stamps: &mut Object, patch: &Object, now: u64) {
    for (key, value) in patch {
        let inserted = match (value, state.get_mut(key)) {
            (Json::Object(patch), Some(Json::Object(state))) => {
                let stamps = stamps
                    .entry(key.clone())
                    .or_insert_with(|| Object::new().into());
                if let Json::Object(stamps) = stamps {
                    merge(state, stamps, patch, now);
                }
                continue;
            }
            (Json::Null, _) => None,
            (Json::Object(patch), _) => without_nulls(patch).map(Json::Object),
            (value, _) => Some(value.clone()),
        };
        if let Some(value) = inserted {
            stamps.insert(key.clone(), stamp(&value, now));
            state.insert(key.clone(), value);
        } else {
            stamps.remove(key);
            state.remove(key);
        }
    }
}

/// A new object as it is inserted: without its nulls, and `None` when it had nothing else. One that was
/// empty from the start is kept.
fn without_nulls(patch: &Object) -> Option<Object> {
    let mut kept = Object::new();
    for (key, value) in patch {
        match value {
            Json::Null => {}
            Json::Object(inner) => {
                if let Some(inner) = without_nulls(inner) {
                    kept.insert(key.clone(), Json::Object(inner));
                }
            }
            other => {
                kept.insert(key.clone(), other.clone());
            }
        }
    }
    (patch.is_empty() || !kept.is_empty()).then_some(kept)
}

/// The metadata of a value that is set now; a removal's null gets a stamp as well, which only the answer to
/// the update shows.
pub(crate) fn stamp(value: &Json, now: u64) -> Json {
    match value {
        Json::Array(items) => Json::Array(items.iter().map(|item| stamp(item, now)).collect()),
        Json::Object(fields) => Json::Object(
            fields
                .iter()
                .map(|(key, value)| (key.clone(), stamp(value, now)))
                .collect(),
        ),
        _ => Json::Object(object([("timestamp", Some(now.into()))])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Object {
        match Json::parse(text.as_bytes()).unwrap() {
            Json::Object(fields) => fields,
            other => panic!("{other} is no object"),
        }
    }

    fn merged(state: &str, patch: &str) -> (String, String) {
        let mut section = Section::default();
        section.apply(&Change::Merge(fields(state)), 1);
        section.apply(&Change::Merge(fields(patch)), 2);
        (object_text(&section.state), object_text(&section.stamps))
    }

    #[test]
    fn a_patch_is_merged_by_the_rules_of_the_shadow_service() {
        for (state, patch, expected, why) in [
            (r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":1,"b":2}"#, "a new key"),
            (
                r#"{"a":1}"#,
                r#"{"a":2}"#,
                r#"{"a":2}"#,
                "a scalar replaces",
            ),
            (
                r#"{"a":{"b":1,"c":2}}"#,
                r#"{"a":{"b":3}}"#,
                r#"{"a":{"b":3,"c":2}}"#,
                "objects recurse",
            ),
            (
                r#"{"a":[1,2]}"#,
                r#"{"a":[3]}"#,
                r#"{"a":[3]}"#,
                "arrays replace",
            ),
            (
                r#"{"a":1}"#,
                r#"{"a":{"b":1,"c":null}}"#,
                r#"{"a":{"b":1}}"#,
                "a type changes",
            ),
            (r#"{"a":{"b":1}}"#, r#"{"a":1}"#, r#"{"a":1}"#, "and back"),
            (
                r#"{"a":1,"b":2}"#,
                r#"{"a":null}"#,
                r#"{"b":2}"#,
                "null removes",
            ),
            (
                r#"{"a":1}"#,
                r#"{"b":null}"#,
                r#"{"a":1}"#,
                "null on an absent key",
            ),
            (
                r#"{"a":1}"#,
                r#"{"b":{"c":{"d":null},"e":null}}"#,
                r#"{"a":1}"#,
                "an object emptied only by nulls is not inserted",
            ),
            (
                r#"{"a":1}"#,
                r#"{"b":{"c":{},"d":null}}"#,
                r#"{"a":1,"b":{"c":{}}}"#,
                "an explicit empty object is",
            ),
            (
                r#"{"a":{"b":1}}"#,
                r#"{"a":{"b":null}}"#,
                r#"{"a":{}}"#,
                "an object that loses its last key stays",
            ),
            (
                r#"{"a":{"b":1}}"#,
                r#"{"a":{}}"#,
                r#"{"a":{"b":1}}"#,
                "{} adds nothing",
            ),
        ] {
            assert_eq!(merged(state, patch).0, expected, "{why}");
        }
    }

    #[test]
    fn every_leaf_that_a_request_names_is_stamped_even_when_its_value_stays() {
        let (_, stamps) = merged(
            r#"{"a":1,"b":{"c":1,"d":2},"e":[1,{"f":2}],"g":1}"#,
            r#"{"a":1,"b":{"d":3},"e":[5,{"f":6}],"g":null}"#,
        );
        assert_eq!(
            stamps,
            concat!(
                r#"{"a":{"timestamp":2},"#,
                r#""b":{"c":{"timestamp":1},"d":{"timestamp":2}},"#,
                r#""e":[{"timestamp":2},{"f":{"timestamp":2}}]}"#
            )
        );
    }

    #[test]
    fn a_key_called_timestamp_is_a_key_like_any_other() {
        let (state, stamps) = merged(r#"{"a":{"timestamp":5}}"#, r#"{"a":{"b":1}}"#);
        assert_eq!(state, r#"{"a":{"b":1,"timestamp":5}}"#);
        assert_eq!(
            stamps,
            r#"{"a":{"b":{"timestamp":2},"timestamp":{"timestamp":1}}}"#
        );
    }

    #[test]
    fn the_size_is_that_of_both_sections_without_metadata() {
        let mut document = Document::default();
        assert_eq!(document.bytes(), 0);
        let patch = Change::Merge(fields(r#"{"a":"ü"}"#));
        document.apply(&patch, &Change::Keep, 1);
        assert_eq!(document.bytes(), r#"{"a":"ü"}"#.len());
        document.apply(&Change::Keep, &patch, 1);
        assert_eq!(document.bytes(), 2 * r#"{"a":"ü"}"#.len());
    }
}
