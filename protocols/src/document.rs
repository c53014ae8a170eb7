//! Documents of a device's state: how one change is put together with the next.
//!
//! A change is a JSON merge patch (RFC 7396): an object whose members replace those of the document, where null takes
//! a member out.

use serde_json::{Map, Value};

/// The patch that does what `older` and then `newer` do, as text. `None` when one of them is no JSON object, or when
/// no single patch does the same: where `older` puts something other than an object and `newer` changes its members,
/// a merge patch cannot say that what was there before is gone.
#[must_use]
pub fn merge_patches(older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
    let mut older: Map<String, Value> = serde_json::from_slice(older).ok()?;
    let newer: Map<String, Value> = serde_json::from_slice(newer).ok()?;
    merge_into(&mut older, newer)?;
    serde_json::to_vec(&older).ok()
}

fn merge_into(older: &mut Map<String, Value>, newer: Map<String, Value>) -> Option<()> {
    for (key, value) in newer {
        match (older.get_mut(&key), value) {
            (Some(Value::Object(before)), Value::Object(after)) => merge_into(before, after)?,
            (Some(_), Value::Object(_)) => return None,
            (_, value) => {
                older.insert(key, value);
            }
        }
    }
    Some(())
}

/// Changes a document as a merge patch says.
pub fn apply_patch(document: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                document.remove(&key);
            }
            Value::Object(members) => {
                let inner = document.entry(key).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    apply_patch(inner, members);
                }
            }
            value => {
                document.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_applied_as_the_examples_of_its_standard_say() {
        // RFC 7396, appendix A: those whose document and patch are objects.
        for (document, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            let mut changed = document.as_object().unwrap().clone();
            apply_patch(&mut changed, patch.as_object().unwrap().clone());
            assert_eq!(Value::Object(changed), result, "{document} and {patch}");
        }
    }

    fn merged(older: &str, newer: &str) -> Option<String> {
        merge_patches(older.as_bytes(), newer.as_bytes())
            .map(|patch| String::from_utf8(patch).unwrap())
    }

    #[test]
    fn the_latest_value_of_each_key_wins() {
        let both = merged(r#"{"a":1,"b":{"x":1,"y":2}}"#, r#"{"b":{"y":3},"c":null}"#);
        assert_eq!(both.unwrap(), r#"{"a":1,"b":{"x":1,"y":3},"c":null}"#);
    }

    #[test]
    fn what_one_patch_cannot_say_stays_two() {
        assert_eq!(merged(r#"{"a":null}"#, r#"{"a":{"x":1}}"#), None);
        assert_eq!(merged(r#"{"a":1}"#, "[]"), None);
        assert_eq!(merged("", "{}"), None);
    }
}
