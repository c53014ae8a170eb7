//! An AWS IoT policy, as far as it says who may connect, publish and subscribe.
//!
//! Source: "AWS IoT Core policies", "AWS IoT Core policy actions", "AWS IoT Core action resources" and "Basic AWS IoT Core
//! policy variables" in the AWS IoT Core Developer Guide.

use serde_json::{Map, Value};

use super::{Permissions, is_match};
use crate::remarks::Quoted;

/// An action that the emulator judges, and the kind of the resources that it is about.
const ACTIONS: [(&str, &str); 3] = [
    ("iot:connect", "client"),
    ("iot:publish", "topic"),
    ("iot:subscribe", "topicfilter"),
];

/// The variables of a policy that stand for the client identifier here: a thing connects under its own name.
const VARIABLES: [&str; 2] = ["${iot:ClientId}", "${iot:Connection.Thing.ThingName}"];

/// Why a text is no policy that the emulator can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is no JSON.
    #[error("it is no JSON: {0}")]
    Json(String),
    /// A part is missing or not in its form.
    #[error("{0}")]
    Form(String),
    /// It is a policy, but the emulator does not know the like.
    #[error("{0}, which the emulator does not know")]
    Unsupported(String),
}

impl Permissions {
    /// Reads an AWS IoT policy in JSON: statements that allow or deny `iot:Connect`, `iot:Publish` and `iot:Subscribe`, alone
    /// or by a pattern such as `iot:*`, for resources `client/…`, `topic/…` and `topicfilter/…` or for `*`.
    ///
    /// Region and account of an ARN are not compared. `${iot:ClientId}` and `${iot:Connection.Thing.ThingName}` both stand
    /// for the client identifier. Other actions, `iot:Receive` among them, are passed over: nothing here is judged by them.
    ///
    /// # Errors
    /// It is no policy, or has conditions, other variables, `NotAction` or `NotResource`.
    pub fn from_policy(text: &str) -> Result<Self, PolicyError> {
        let policy: Value =
            serde_json::from_str(text).map_err(|error| PolicyError::Json(error.to_string()))?;
        let statements = policy.get("Statement").map(one_or_more);
        let statements = statements.ok_or_else(|| form("the policy has no Statement"))?;
        let mut permissions = Self::none();
        let mut denied = Self::none();
        for statement in statements {
            let statement = statement
                .as_object()
                .ok_or_else(|| form("a Statement is no object"))?;
            if let Some(name) = ["Condition", "NotAction", "NotResource"]
                .into_iter()
                .find(|name| statement.contains_key(*name))
            {
                return Err(PolicyError::Unsupported(format!("a Statement has {name}")));
            }
            let granted = match statement.get("Effect").and_then(Value::as_str) {
                Some("Allow") => &mut permissions,
                Some("Deny") => &mut denied,
                _ => return Err(form("the Effect of a Statement is neither Allow nor Deny")),
            };
            granted.add(statement)?;
        }
        permissions.denied = (denied != Self::none()).then(|| Box::new(denied));
        Ok(permissions)
    }

    fn add(&mut self, statement: &Map<String, Value>) -> Result<(), PolicyError> {
        let actions = texts(statement, "Action")?;
        let resources = texts(statement, "Resource")?;
        for (name, kind) in ACTIONS {
            // The names of actions are the same in any case.
            let is_meant = |action: &&str| {
                let action = action.to_ascii_lowercase();
                is_match(&action, "", name)
            };
            if !actions.iter().any(is_meant) {
                continue;
            }
            let patterns = match kind {
                "client" => &mut self.connect,
                "topic" => &mut self.publish,
                _ => &mut self.subscribe,
            };
            for resource in &resources {
                patterns.extend(pattern(resource, kind)?);
            }
        }
        Ok(())
    }
}

/// What an ARN of a resource of this kind ends with; `None` of another kind.
fn pattern(resource: &str, kind: &str) -> Result<Option<String>, PolicyError> {
    let name = if resource == "*" {
        "*"
    } else {
        let parts: Vec<&str> = resource.splitn(6, ':').collect();
        let ["arn", _, "iot", _, _, resource] = parts[..] else {
            return Err(form(format!(
                "the Resource {} is neither * nor like arn:aws:iot:us-east-1:123456789012:topic/name",
                Quoted(resource)
            )));
        };
        match resource.split_once('/') {
            Some((found, name)) if found == kind => name,
            None if resource == "*" => "*",
            _ => return Ok(None),
        }
    };
    let mut pattern = name.to_owned();
    for variable in VARIABLES {
        pattern = pattern.replace(variable, "${clientId}");
    }
    if pattern.replace("${clientId}", "").contains("${") {
        let resource = Quoted(resource);
        let what = format!("the Resource {resource} has another variable than {VARIABLES:?}");
        return Err(PolicyError::Unsupported(what));
    }
    Ok(Some(pattern))
}

fn texts<'a>(statement: &'a Map<String, Value>, name: &str) -> Result<Vec<&'a str>, PolicyError> {
    let values = statement
        .get(name)
        .ok_or_else(|| form(format!("a Statement has no {name}")))?;
    let texts: Option<Vec<&str>> = one_or_more(values).iter().map(Value::as_str).collect();
    texts.ok_or_else(|| {
        form(format!(
            "the {name} of a Statement is no text or list of texts"
        ))
    })
}

fn one_or_more(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        value => std::slice::from_ref(value),
    }
}

fn form(what: impl Into<String>) -> PolicyError {
    PolicyError::Form(what.into())
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::*;

    fn statement(statement: &str) -> Result<Permissions, PolicyError> {
        Permissions::from_policy(&format!(
            r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#
        ))
    }

    #[test]
    fn a_policy_allows_what_its_statements_name() {
        let policy = r#"{
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "iot:Connect",
                    "Resource": "arn:aws:iot:us-east-1:123456789012:client/${iot:Connection.Thing.ThingName}"
                },
                {
                    "Effect": "Allow",
                    "Action": ["iot:Publish", "iot:Subscribe", "iot:Receive"],
                    "Resource": [
                        "arn:aws:iot:us-east-1:123456789012:topic/dt/${iot:ClientId}/*",
                        "arn:aws:iot:us-east-1:123456789012:topicfilter/cmd/${iot:ClientId}/+"
                    ]
                }
            ]
        }"#;
        let permissions = Permissions::from_policy(policy).unwrap();
        assert_eq!(permissions.connect, ["${clientId}"]);
        assert_eq!(permissions.publish, ["dt/${clientId}/*"]);
        assert_eq!(permissions.subscribe, ["cmd/${clientId}/+"]);
        assert!(permissions.allow("a", Action::Publish("dt/a/b")));
        assert!(!permissions.allow("a", Action::Publish("dt/b/b")));
        assert!(!permissions.allow("a", Action::Publish("cmd/a/+")));
        assert!(permissions.allow("a", Action::Subscribe("cmd/a/+")));
    }

    #[test]
    fn what_is_denied_is_refused_whatever_allows_it() {
        let permissions = statement(
            r#"{"Effect":"Allow","Action":"iot:*","Resource":"*"},
               {"Effect":"Deny","Action":"IOT:Pub*","Resource":"arn:aws:iot:::topic/secret/*"}"#,
        )
        .unwrap();
        assert!(permissions.allow("a", Action::Connect));
        assert!(permissions.allow("a", Action::Publish("open")));
        assert!(!permissions.allow("a", Action::Publish("secret/a")));
        assert!(permissions.allow("a", Action::Subscribe("secret/a")));
    }

    #[test]
    fn a_policy_that_cannot_be_followed_is_refused_with_the_reason() {
        for (text, says) in [
            (r#"{"Effect":"Allow","Action":"*"}"#, "no Resource"),
            (r#"{"Effect":"Allow","Resource":"*"}"#, "no Action"),
            (
                r#"{"Effect":"allow","Action":"*","Resource":"*"}"#,
                "neither Allow nor Deny",
            ),
            (
                r#"{"Effect":"Allow","Action":[1],"Resource":"*"}"#,
                "no text",
            ),
            (
                r#"{"Effect":"Allow","Action":"*","Resource":"topic/a"}"#,
                "like arn:",
            ),
            (
                r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}"#,
                "Condition",
            ),
            (
                r#"{"Effect":"Allow","Action":"*","Resource":"arn:aws:iot:r:1:topic/${iot:Certificate.Issuer}"}"#,
                "another variable",
            ),
            ("1", "no object"),
        ] {
            let refused = statement(text).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused} for {text}");
        }
        assert!(matches!(
            Permissions::from_policy("{"),
            Err(PolicyError::Json(_))
        ));
        assert!(Permissions::from_policy("[]").is_err());
    }
}
