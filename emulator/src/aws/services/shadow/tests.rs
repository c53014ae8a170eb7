//! The shadow service, rule by rule.

use std::time::Duration;

use super::*;
use crate::aws::services::json::object_text;
use crate::aws::services::message::Role;

const START: SystemTime = SystemTime::UNIX_EPOCH;

/// A service with the time that its requests come at.
struct Service {
    shadows: Shadows,
    settings: ShadowSettings,
    now: SystemTime,
    in_flight: usize,
    thing_is_known: bool,
}

impl Service {
    fn new() -> Self {
        let settings = ShadowSettings {
            requests_per_second_max: None,
            ..ShadowSettings::default()
        };
        Self {
            shadows: Shadows::default(),
            settings,
            now: START + Duration::from_secs(10),
            in_flight: 0,
            thing_is_known: true,
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn ask(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        operation: ShadowOperation,
        payload: &str,
    ) -> Vec<Message> {
        let request = ShadowRequest {
            key: ShadowKey::new(thing, shadow),
            operation,
            payload: payload.as_bytes(),
            in_flight: Some(self.in_flight),
            thing_is_known: self.thing_is_known,
        };
        let messages = self
            .shadows
            .handle(&request, None, &self.settings, self.now);
        let answers = messages
            .iter()
            .filter(|message| message.role != Role::Event);
        assert_eq!(answers.count(), 1, "each request has exactly one answer");
        messages
    }

    fn update(&mut self, payload: &str) -> Vec<Message> {
        self.ask("Bot", None, ShadowOperation::Update, payload)
    }

    /// What an update answers and causes, a line `topic payload` each, without the topics' common part.
    fn lines(&mut self, payload: &str) -> Vec<String> {
        lines(&self.update(payload))
    }

    fn get(&mut self) -> String {
        lines(&self.ask("Bot", None, ShadowOperation::Get, "")).join("\n")
    }

    fn delete(&mut self) -> String {
        lines(&self.ask("Bot", None, ShadowOperation::Delete, "")).join("\n")
    }

    fn version(&mut self, payload: &str) -> u64 {
        let messages = self.update(payload);
        let answer = messages.last().unwrap();
        assert_eq!(answer.role, Role::Accepted, "{}", object_text(&answer.body));
        answer.body["version"]
            .as_number()
            .unwrap()
            .as_u64()
            .unwrap()
    }

    fn refusal(&mut self, payload: &str) -> (u16, String) {
        refusal(&self.update(payload))
    }
}

fn lines(messages: &[Message]) -> Vec<String> {
    let line = |message: &Message| {
        let topic = message.topic.strip_prefix("$aws/things/Bot/shadow/");
        let topic = topic.unwrap_or(&message.topic);
        format!("{topic} {}", object_text(&message.body))
    };
    messages.iter().map(line).collect()
}

fn refusal(messages: &[Message]) -> (u16, String) {
    let [answer] = messages else {
        panic!("a refusal causes nothing else: {messages:?}");
    };
    let Role::Rejected(status) = answer.role else {
        panic!("not refused: {answer:?}");
    };
    assert!(answer.topic.ends_with("/rejected"));
    assert_eq!(answer.body["code"], u64::from(status).into());
    (status, answer.body["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_first_desired_state_is_told_as_delta_then_documents_then_accepted() {
    let found = Service::new().lines(r#"{"state":{"desired":{"p":1}},"clientToken":"t"}"#);
    let expected = [
        concat!(
            r#"update/delta {"clientToken":"t","metadata":{"p":{"timestamp":10}},"#,
            r#""state":{"p":1},"timestamp":10,"version":1}"#
        ),
        concat!(
            r#"update/documents {"clientToken":"t","current":{"#,
            r#""metadata":{"desired":{"p":{"timestamp":10}}},"state":{"desired":{"p":1}},"#,
            r#""version":1},"previous":null,"timestamp":10}"#
        ),
        concat!(
            r#"update/accepted {"clientToken":"t","#,
            r#""metadata":{"desired":{"p":{"timestamp":10}}},"state":{"desired":{"p":1}},"#,
            r#""timestamp":10,"version":1}"#
        ),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_report_of_what_is_desired_ends_the_delta() {
    let mut service = Service::new();
    service.update(r#"{"state":{"desired":{"p":1}}}"#);
    service.wait(Duration::from_secs(5));
    let found = service.lines(r#"{"state":{"reported":{"p":1}}}"#);
    let expected = [
        concat!(
            r#"update/documents {"current":{"metadata":{"desired":{"p":{"timestamp":10}},"#,
            r#""reported":{"p":{"timestamp":15}}},"#,
            r#""state":{"desired":{"p":1},"reported":{"p":1}},"version":2},"#,
            r#""previous":{"metadata":{"desired":{"p":{"timestamp":10}}},"#,
            r#""state":{"desired":{"p":1}},"version":1},"timestamp":15}"#
        ),
        concat!(
            r#"update/accepted {"metadata":{"reported":{"p":{"timestamp":15}}},"#,
            r#""state":{"reported":{"p":1}},"timestamp":15,"version":2}"#
        ),
    ];
    assert_eq!(found, expected);
    let expected = concat!(
        r#"get/accepted {"metadata":{"desired":{"p":{"timestamp":10}},"#,
        r#""reported":{"p":{"timestamp":15}}},"#,
        r#""state":{"desired":{"p":1},"reported":{"p":1}},"timestamp":15,"version":2}"#
    );
    assert_eq!(service.get(), expected);
}

#[test]
fn the_delta_comes_again_with_every_update_while_there_is_one() {
    let mut service = Service::new();
    service.update(r#"{"state":{"desired":{"p":1,"q":{"r":2}}}}"#);
    let found = service.lines(r#"{"state":{"reported":{"p":1,"x":9}}}"#);
    assert!(found[0].starts_with("update/delta "), "{found:?}");
    assert!(found[0].contains(r#""state":{"q":{"r":2}}"#), "{found:?}");
    let found = service.lines(r#"{"state":{}}"#);
    assert!(found[0].starts_with("update/delta "), "{found:?}");
    assert!(service.get().contains(r#""delta":{"q":{"r":2}}"#));
    let found = service.lines(r#"{"state":{"desired":{"q":null}}}"#);
    assert!(
        found[0].starts_with("update/documents "),
        "a removed wish is no delta"
    );
}

#[test]
fn without_desired_there_is_no_delta_and_without_reported_all_of_desired() {
    let mut service = Service::new();
    let found = service.lines(r#"{"state":{"reported":{"a":1}}}"#);
    assert!(!found.iter().any(|line| line.starts_with("update/delta")));
    let found = service.lines(r#"{"state":{"reported":null,"desired":{"a":{"b":1}}}}"#);
    assert!(found[0].contains(r#""state":{"a":{"b":1}}"#), "{found:?}");
}

#[test]
fn the_answer_to_an_update_shows_the_requests_sections_with_their_nulls() {
    let mut service = Service::new();
    service.update(r#"{"state":{"desired":{"a":1,"b":2},"reported":{"c":3}}}"#);
    let found = service.lines(r#"{"state":{"desired":{"a":null},"reported":null}}"#);
    let answer = found.last().unwrap();
    let state = r#""state":{"desired":{"a":null},"reported":null}"#;
    assert!(answer.contains(state), "{answer}");
    let shadow = service.get();
    assert!(
        shadow.contains(r#""state":{"delta":{"b":2},"desired":{"b":2}}"#),
        "{shadow}"
    );
    let metadata = r#""metadata":{"desired":{"b":{"timestamp":10}}}"#;
    assert!(shadow.contains(metadata), "{shadow}");
}

#[test]
fn a_null_state_clears_both_sections_and_an_empty_one_changes_nothing_and_both_raise_the_version() {
    let mut service = Service::new();
    assert_eq!(
        service.version(r#"{"state":{"desired":{"a":1},"reported":{"b":1}}}"#),
        1
    );
    assert_eq!(service.version(r#"{"state":{}}"#), 2);
    assert!(service.get().contains(r#""desired":{"a":1}"#));
    assert_eq!(service.version(r#"{"state":null}"#), 3);
    let empty = r#"get/accepted {"metadata":{},"state":{},"timestamp":10,"version":3}"#;
    assert_eq!(service.get(), empty);
}

#[test]
fn a_section_whose_last_key_goes_is_gone() {
    let mut service = Service::new();
    service.update(r#"{"state":{"reported":{"a":1}}}"#);
    service.update(r#"{"state":{"reported":{"a":null}}}"#);
    assert!(service.get().contains(r#""state":{}"#));
}

#[test]
fn an_update_may_name_the_version_that_it_changes() {
    let mut service = Service::new();
    let with = |version: &str| format!(r#"{{"state":{{}},"version":{version}}}"#);
    let conflict = (409, "Version conflict".to_owned());
    let invalid = (400, "Invalid version".to_owned());
    for version in ["0", "2", "1.5"] {
        assert_eq!(
            service.refusal(&with(version)),
            invalid,
            "{version}, of none"
        );
    }
    assert_eq!(service.version(&with("1")), 1, "the first version is 1");
    assert_eq!(service.version(&with("1")), 2);
    assert_eq!(
        service.version(&with("2.0")),
        3,
        "numbers are compared by value"
    );
    for version in ["0", "2", "4", "3.5", "1e400", "18446744073709551619"] {
        assert_eq!(service.refusal(&with(version)), conflict, "{version}, of 3");
    }
    assert_eq!(service.version(&with("3")), 4);
    assert_eq!(service.version(&with("null")), 5);
}

#[test]
fn the_version_that_a_missing_shadow_takes_can_be_set() {
    let mut service = Service::new();
    service.settings.version_of_a_missing_shadow = Some(0);
    assert_eq!(service.refusal(r#"{"state":{},"version":1}"#).0, 400);
    service.settings.version_of_a_missing_shadow = None;
    assert_eq!(service.version(r#"{"state":{},"version":7}"#), 1);
}

#[test]
fn a_shadow_that_is_deleted_answers_its_version_and_is_missing_then() {
    let mut service = Service::new();
    let missing = r#"{"code":404,"message":"No shadow exists with name: 'Bot'","timestamp":10}"#;
    assert_eq!(service.get(), format!("get/rejected {missing}"));
    assert_eq!(service.delete(), format!("delete/rejected {missing}"));
    service.update(r#"{"state":{}}"#);
    service.update(r#"{"state":{}}"#);
    let deleted = r#"delete/accepted {"timestamp":10,"version":2}"#;
    assert_eq!(service.delete(), deleted);
    assert_eq!(service.get(), format!("get/rejected {missing}"));
    assert_eq!(service.delete(), format!("delete/rejected {missing}"));
}

#[test]
fn a_deleted_shadow_continues_its_versions_for_48_hours() {
    let mut service = Service::new();
    service.update(r#"{"state":{"desired":{"a":1}}}"#);
    assert_eq!(service.version(r#"{"state":{}}"#), 2);
    service.delete();
    service.wait(Duration::from_hours(48) - Duration::from_secs(1));
    let found = service.lines(r#"{"state":{"reported":{"b":1}}}"#);
    assert!(
        found[0].contains(r#""previous":null"#),
        "nothing of the old one is left"
    );
    assert!(
        found[0].contains(r#""version":4"#),
        "deleted at 2, so 4: {found:?}"
    );
    service.delete();
    service.wait(Duration::from_hours(48));
    assert_eq!(service.version(r#"{"state":{}}"#), 1, "forgotten");
}

#[test]
fn a_document_of_8_kilobytes_is_accepted_and_one_byte_more_is_not() {
    let mut service = Service::new();
    let with = |bytes: usize| {
        let text = "x".repeat(bytes - r#"{"a":""}"#.len());
        format!(r#"{{"state":{{"reported":{{"a":"{text}"}}}},"clientToken":"t"}}"#)
    };
    assert_eq!(service.version(&with(8 * 1024)), 1);
    let too_large = (
        413,
        "The payload exceeds the maximum size allowed".to_owned(),
    );
    assert_eq!(service.refusal(&with(8 * 1024 + 1)), too_large);
    let both = service.refusal(r#"{"state":{"desired":{"b":1}}}"#);
    assert_eq!(both, too_large, "the sections count together");
    assert_eq!(
        service.version(r#"{"state":{}}"#),
        2,
        "a refusal changes nothing"
    );
}

#[test]
fn named_shadows_have_their_own_topics_documents_and_names_in_refusals() {
    let mut service = Service::new();
    let lamp = Some("lamp");
    let missing = service.ask("Bot", lamp, ShadowOperation::Get, "");
    let message = "No shadow exists with name: 'Bot~lamp'".to_owned();
    assert_eq!(refusal(&missing), (404, message));
    let payload = r#"{"state":{"desired":{"on":true}}}"#;
    let found = service.ask("Bot", lamp, ShadowOperation::Update, payload);
    let topics: Vec<_> = found.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "$aws/things/Bot/shadow/name/lamp/update/delta",
            "$aws/things/Bot/shadow/name/lamp/update/documents",
            "$aws/things/Bot/shadow/name/lamp/update/accepted",
        ]
    );
    assert!(
        service.get().starts_with("get/rejected"),
        "the classic one is another"
    );
}

#[test]
fn the_names_of_shadows_are_listed_without_the_classic_and_the_deleted() {
    let mut service = Service::new();
    for (thing, shadow) in [
        ("Bot", None),
        ("Bot", Some("b")),
        ("Bot", Some("a")),
        ("Bot", Some("c")),
        ("Bot2", Some("d")),
        ("Bo", Some("e")),
    ] {
        service.ask(thing, shadow, ShadowOperation::Update, r#"{"state":{}}"#);
    }
    service.ask("Bot", Some("c"), ShadowOperation::Delete, "");
    assert_eq!(service.shadows.named("Bot").collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_name_that_cannot_be_is_refused() {
    let mut service = Service::new();
    for (thing, shadow, message) in [
        ("B t", None, "Invalid thing name"),
        (&*"t".repeat(129), None, "Invalid thing name"),
        ("", Some("a"), "Invalid thing name"),
        ("Bot", Some(""), "Invalid shadow name"),
        ("Bot", Some("a.b"), "Invalid shadow name"),
        ("Bot", Some(&*"s".repeat(65)), "Invalid shadow name"),
    ] {
        let found = service.ask(thing, shadow, ShadowOperation::Update, r#"{"state":{}}"#);
        assert_eq!(
            refusal(&found),
            (400, message.to_owned()),
            "{thing} {shadow:?}"
        );
    }
}

#[test]
fn a_thing_that_the_registry_lacks_is_refused_where_that_is_asked_for() {
    let mut service = Service::new();
    service.thing_is_known = false;
    let expected = (404, "Thing not found".to_owned());
    assert_eq!(service.refusal(r#"{"state":{}}"#), expected);
}

#[test]
fn the_token_is_echoed_by_every_answer_and_event_and_refusal() {
    let mut service = Service::new();
    let token = r#""clientToken":"t-1""#;
    let update = r#"{"state":{"desired":{"a":1}},"clientToken":"t-1"}"#;
    assert!(
        service
            .lines(update)
            .iter()
            .all(|line| line.contains(token))
    );
    let only_token = r#"{"clientToken":"t-1","whatever":[1]}"#;
    for operation in [ShadowOperation::Get, ShadowOperation::Delete] {
        for _ in 0..2 {
            let found = lines(&service.ask("Bot", None, operation, only_token));
            assert!(found[0].contains(token), "{found:?}");
        }
    }
    let found = service.lines(r#"{"state":5,"clientToken":"t-1"}"#);
    assert!(found[0].contains(token), "{found:?}");
}

#[test]
fn get_and_delete_pass_over_their_body_but_for_the_token() {
    let mut service = Service::new();
    service.update(r#"{"state":{}}"#);
    for body in ["", "x", "[1]", "{", r#"{"state":1,"version":99}"#] {
        let found = service.ask("Bot", None, ShadowOperation::Get, body);
        assert_eq!(found[0].role, Role::Accepted, "{body}");
    }
    let invalid = (400, "Invalid clientToken".to_owned());
    for operation in [ShadowOperation::Get, ShadowOperation::Delete] {
        let found = service.ask("Bot", None, operation, r#"{"clientToken":7}"#);
        assert_eq!(refusal(&found), invalid);
    }
}

#[test]
fn a_token_of_64_bytes_is_the_longest() {
    let mut service = Service::new();
    let with = |bytes: usize| format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "t".repeat(bytes));
    assert_eq!(service.version(&with(64)), 1);
    let found = service.update(&with(65));
    assert_eq!(refusal(&found).0, 400);
    assert_eq!(found[0].body.get("clientToken"), None);
}

#[test]
fn a_thing_that_asks_too_often_is_told_so_and_others_are_not() {
    let mut service = Service::new();
    service.settings = ShadowSettings::default();
    for _ in 0..20 {
        service.version(r#"{"state":{}}"#);
    }
    let too_many = (429, "Too many requests".to_owned());
    assert_eq!(service.refusal(r#"{"state":{}}"#), too_many);
    let found = service.ask("Bot2", None, ShadowOperation::Update, r#"{"state":{}}"#);
    assert_eq!(found.last().unwrap().role, Role::Accepted);
    service.wait(Duration::from_secs(1));
    assert_eq!(service.version(r#"{"state":{}}"#), 21);
    service.in_flight = 10;
    assert_eq!(service.refusal(r#"{"state":{}}"#), too_many);
    service.in_flight = 9;
    assert_eq!(service.version(r#"{"state":{}}"#), 22);
}

#[test]
fn the_order_of_an_updates_messages_can_be_set() {
    let mut service = Service::new();
    service.settings.update_messages = vec![UpdateMessage::Accepted, UpdateMessage::Delta];
    let found = service.lines(r#"{"state":{"desired":{"a":1}}}"#);
    let topics: Vec<_> = found
        .iter()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let topics: Vec<_> = topics.into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["update/accepted", "update/delta"]);
}

#[test]
fn numbers_come_back_digit_by_digit() {
    let mut service = Service::new();
    let numbers = r#"{"big":123456789012345678901234567890,"one":1.0,"small":1e-400}"#;
    service.update(&format!(r#"{{"state":{{"reported":{numbers}}}}}"#));
    assert!(service.get().contains(numbers));
}
