//! What desired has and reported lacks.

use crate::aws::services::json::{Json, Object};

/// The keys of `desired` that `reported` lacks or has otherwise, with their full paths. Objects recurse;
/// arrays and values of different types are taken whole. What only `reported` has never appears.
pub(crate) fn delta(desired: &Object, reported: &Object) -> Object {
    let mut out = Object::new();
    for (key, wanted) in desired {
        match (wanted, reported.get(key)) {
            (Json::Object(wanted), Some(Json::Object(actual))) => {
                let inner = delta(wanted, actual);
                if !inner.is_empty() {
                    out.insert(key.clone(), Json::Object(inner));
                }
            }
            (wanted, Some(actual)) if wanted == actual => {}
            (wanted, _) => {
                out.insert(key.clone(), wanted.clone());
            }
        }
    }
    out
}

/// The timestamps of the leaves of a delta, out of those of desired.
pub(crate) fn stamps_below(delta: &Object, desired: &Object) -> Object {
    let mut out = Object::new();
    for (key, value) in delta {
        let stamps = match (value, desired.get(key)) {
            (Json::Object(inner), Some(Json::Object(stamps))) => stamps_below(inner, stamps).into(),
            (_, Some(stamps)) => stamps.clone(),
            (_, None) => continue,
        };
        out.insert(key.clone(), stamps);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::services::json::object_text;

    fn fields(text: &str) -> Object {
        match Json::parse(text.as_bytes()).unwrap() {
            Json::Object(fields) => fields,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn a_delta_holds_what_is_missing_or_different_and_nothing_else() {
        for (desired, reported, expected) in [
            (r#"{"a":1}"#, r#"{}"#, r#"{"a":1}"#),
            (r#"{"a":1}"#, r#"{"a":1}"#, r#"{}"#),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, r#"{}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"{}"#, r#"{"a":1}"#, r#"{}"#),
            (
                r#"{"a":{"b":1,"c":{"d":2,"e":3}}}"#,
                r#"{"a":{"b":1,"c":{"d":2,"e":4}}}"#,
                r#"{"a":{"c":{"e":3}}}"#,
            ),
            (r#"{"a":[1,2]}"#, r#"{"a":[1,3]}"#, r#"{"a":[1,2]}"#),
            (r#"{"a":[1,{"b":2.0}]}"#, r#"{"a":[1.0,{"b":2}]}"#, r#"{}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#),
            (r#"{"a":{}}"#, r#"{"a":{"b":1}}"#, r#"{}"#),
            (r#"{"a":{}}"#, r#"{}"#, r#"{"a":{}}"#),
            (
                r#"{"n":9007199254740993}"#,
                r#"{"n":9007199254740992}"#,
                r#"{"n":9007199254740993}"#,
            ),
        ] {
            let found = delta(&fields(desired), &fields(reported));
            assert_eq!(
                object_text(&found),
                expected,
                "{desired} against {reported}"
            );
        }
    }

    #[test]
    fn its_timestamps_are_desireds() {
        let stamps =
            fields(r#"{"a":{"b":{"timestamp":1},"c":{"timestamp":2}},"d":[{"timestamp":3}]}"#);
        let found = stamps_below(&fields(r#"{"a":{"c":5},"d":[7]}"#), &stamps);
        let expected = r#"{"a":{"c":{"timestamp":2}},"d":[{"timestamp":3}]}"#;
        assert_eq!(object_text(&found), expected);
    }
}
