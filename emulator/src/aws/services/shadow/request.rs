//! What a device asks of its shadow, and the refusals of what cannot be asked, in the service's order.

use super::document::Change;
use crate::aws::services::json::{Json, JsonError, Number, Object};
use crate::aws::services::settings::ShadowSettings;

/// Bytes of a client token.
const CLIENT_TOKEN_BYTES_MAX: usize = 64;

/// Why the shadow service says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

/// An update that is well-formed.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) desired: Change,
    pub(crate) reported: Change,
    /// The version that the shadow must have.
    pub(crate) version: Option<Number>,
    /// The request's own `state`, as the answer shows it.
    pub(crate) state: Json,
}

impl Update {
    pub(crate) fn parse(payload: &[u8], settings: &ShadowSettings) -> Result<Self, Refusal> {
        let bad = |message: &str| Refusal::new(400, message);
        let mut fields = match Json::parse(payload) {
            Ok(Json::Object(fields)) => fields,
            Ok(_) | Err(JsonError::Syntax) => return Err(bad("Invalid JSON")),
            Err(JsonError::Encoding) => {
                let message = "Unsupported encoding; the document must be UTF-8";
                return Err(Refusal::new(415, message));
            }
            Err(JsonError::TooDeep) => return Err(too_deep(settings)),
        };
        let state = fields.remove("state");
        let mut state = state.ok_or_else(|| bad("Missing required node: state"))?;
        let (desired, reported) = match &mut state {
            Json::Null => (Change::Clear, Change::Clear),
            Json::Object(sections) => {
                sections.remove("delta");
                let desired = change(sections, "desired", "Desired node must be an object")?;
                let reported = change(sections, "reported", "Reported node must be an object")?;
                let known = |key: &String| matches!(key.as_str(), "desired" | "reported");
                if !sections.keys().all(known) {
                    return Err(bad("State contains an invalid node"));
                }
                (desired, reported)
            }
            _ => return Err(bad("State node must be an object")),
        };
        client_token(&fields)?;
        let version = match fields.get("version") {
            None | Some(Json::Null) => None,
            Some(Json::Number(version)) if !version.is_negative() => Some(version.clone()),
            Some(_) => return Err(bad("Invalid version")),
        };
        for section in [&desired, &reported] {
            if let Change::Merge(patch) = section
                && levels(patch) > settings.nesting_levels_max
            {
                return Err(too_deep(settings));
            }
        }
        if has_null_in_array(&state, false) {
            return Err(bad("Invalid JSON: null is not allowed inside an array"));
        }
        Ok(Self {
            desired,
            reported,
            version,
            state,
        })
    }
}

/// The token in a request, to be echoed; a payload without one, or that is no JSON object, has none.
///
/// # Errors
/// A token that is not a text of at most 64 bytes.
pub(crate) fn client_token_of(payload: &[u8]) -> Result<Option<String>, Refusal> {
    match Json::parse(payload) {
        Ok(Json::Object(fields)) => client_token(&fields),
        _ => Ok(None),
    }
}

fn client_token(fields: &Object) -> Result<Option<String>, Refusal> {
    match fields.get("clientToken") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(token)) if token.len() <= CLIENT_TOKEN_BYTES_MAX => {
            Ok(Some(token.clone()))
        }
        Some(_) => Err(Refusal::new(400, "Invalid clientToken")),
    }
}

fn change(sections: &Object, key: &str, message: &str) -> Result<Change, Refusal> {
    match sections.get(key) {
        None => Ok(Change::Keep),
        Some(Json::Null) => Ok(Change::Clear),
        Some(Json::Object(patch)) => Ok(Change::Merge(patch.clone())),
        Some(_) => Err(Refusal::new(400, message)),
    }
}

fn too_deep(settings: &ShadowSettings) -> Refusal {
    let maximum = settings.nesting_levels_max;
    let message = format!("JSON contains too many levels of nesting; maximum is {maximum}");
    Refusal::new(400, message)
}

/// Levels below a section: 1 for `{"a":1}`, and 0 for `{}`.
fn levels(section: &Object) -> usize {
    let below = |value: &Json| match value {
        Json::Object(fields) => levels(fields),
        Json::Array(items) => items.iter().map(levels_of_item).max().unwrap_or(0),
        _ => 0,
    };
    section
        .values()
        .map(|value| 1 + below(value))
        .max()
        .unwrap_or(0)
}

fn levels_of_item(item: &Json) -> usize {
    match item {
        Json::Object(fields) => 1 + levels(fields),
        Json::Array(items) => 1 + items.iter().map(levels_of_item).max().unwrap_or(0),
        _ => 1,
    }
}

fn has_null_in_array(value: &Json, in_array: bool) -> bool {
    match value {
        Json::Null => in_array,
        Json::Array(items) => items.iter().any(|item| has_null_in_array(item, true)),
        Json::Object(fields) => fields
            .values()
            .any(|value| has_null_in_array(value, in_array)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(payload: &str) -> (u16, String) {
        let refusal = Update::parse(payload.as_bytes(), &ShadowSettings::default()).unwrap_err();
        (refusal.status, refusal.message)
    }

    #[test]
    fn each_malformed_update_is_refused_with_its_code_and_message() {
        for (payload, message) in [
            ("", "Invalid JSON"),
            ("{", "Invalid JSON"),
            ("[]", "Invalid JSON"),
            ("null", "Invalid JSON"),
            ("{}", "Missing required node: state"),
            (r#"{"state":1}"#, "State node must be an object"),
            (r#"{"state":[]}"#, "State node must be an object"),
            (
                r#"{"state":{"desired":1}}"#,
                "Desired node must be an object",
            ),
            (
                r#"{"state":{"reported":"x"}}"#,
                "Reported node must be an object",
            ),
            (
                r#"{"state":{"wanted":{}}}"#,
                "State contains an invalid node",
            ),
            (r#"{"state":{},"clientToken":1}"#, "Invalid clientToken"),
            (r#"{"state":{},"version":-1}"#, "Invalid version"),
            (r#"{"state":{},"version":"1"}"#, "Invalid version"),
            (
                r#"{"state":{"desired":{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}}}"#,
                "JSON contains too many levels of nesting; maximum is 6",
            ),
            (
                r#"{"state":{"desired":{"a":[1,null]}}}"#,
                "Invalid JSON: null is not allowed inside an array",
            ),
        ] {
            assert_eq!(refusal(payload), (400, message.to_owned()), "{payload}");
        }
        let token = format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "t".repeat(65));
        assert_eq!(refusal(&token), (400, "Invalid clientToken".to_owned()));
        let settings = ShadowSettings::default();
        assert_eq!(Update::parse(b"\xff", &settings).unwrap_err().status, 415);
    }

    #[test]
    fn of_two_faults_the_earlier_rule_answers() {
        for (payload, message) in [
            (r#"{"version":-1}"#, "Missing required node: state"),
            (
                r#"{"state":{"desired":1,"reported":1,"x":1}}"#,
                "Desired node must be an object",
            ),
            (
                r#"{"state":{"reported":1,"x":1}}"#,
                "Reported node must be an object",
            ),
            (
                r#"{"state":{"x":1},"clientToken":1}"#,
                "State contains an invalid node",
            ),
            (
                r#"{"state":{},"clientToken":1,"version":-1}"#,
                "Invalid clientToken",
            ),
            (
                r#"{"state":{"desired":{"a":[[[[[[[null]]]]]]]}},"version":-1}"#,
                "Invalid version",
            ),
            (
                r#"{"state":{"desired":{"a":[[[[[[[null]]]]]]]}}}"#,
                "JSON contains too many levels of nesting; maximum is 6",
            ),
        ] {
            assert_eq!(refusal(payload), (400, message.to_owned()), "{payload}");
        }
    }

    #[test]
    fn the_deepest_document_that_is_allowed_is_accepted() {
        let settings = ShadowSettings::default();
        for section in [
            r#"{"a":{"b":{"c":{"d":{"e":{"f":1}}}}}}"#,
            r#"{"a":{"b":{"c":{"d":{"e":{"f":{}}}}}}}"#,
            r#"{"a":[[[[[1]]]]]}"#,
        ] {
            let payload = format!(r#"{{"state":{{"reported":{section}}}}}"#);
            assert!(
                Update::parse(payload.as_bytes(), &settings).is_ok(),
                "{section}"
            );
        }
    }

    #[test]
    fn what_is_not_known_at_the_top_and_an_incoming_delta_are_passed_over() {
        let payload = br#"{"state":{"delta":{"a":1},"desired":null},"x":1,"version":null}"#;
        let update = Update::parse(payload, &ShadowSettings::default()).unwrap();
        assert_eq!(update.state.to_string(), r#"{"desired":null}"#);
        assert_eq!(update.desired, Change::Clear);
        assert_eq!(update.reported, Change::Keep);
    }
}
