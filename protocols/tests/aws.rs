//! The dialect of AWS IoT Core: limits, topics, requests and what the service says.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use bytes::Bytes;
use paquebot_protocols::dialect::aws::{Aws, AwsSettings};
use paquebot_protocols::dialect::state::{
    DocumentId, Rejection, StateDialect, StateFeed, StateMessage, StateOperation, StateRequest,
    StateUpdate,
};
use paquebot_protocols::dialect::{
    Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound, Rendered,
};
use paquebot_protocols::document::merge_patches;
use paquebot_protocols::model::{DeviceId, Platform, Role, StatePatch, Telemetry};
use paquebot_protocols::mqtt::session::Incoming;
use paquebot_protocols::mqtt::{Properties, QoS, Subscription, Topic, TopicFilter, Version};
use serde_json::{Value, json};

fn thing(name: &str) -> LinkIdentity {
    LinkIdentity {
        id: DeviceId::new(name).unwrap(),
        role: Role::Device,
        version: Version::V311,
    }
}

fn document(name: Option<&str>) -> DocumentId {
    DocumentId {
        device: DeviceId::new("Bot").unwrap(),
        name: name.map(Into::into),
    }
}

fn incoming(topic: &str, payload: impl Into<Bytes>) -> Incoming {
    Incoming {
        topic: Topic::new(topic).unwrap(),
        payload: payload.into(),
        qos: QoS::AtMostOnce,
        retain: false,
        dup: false,
        properties: Properties::default(),
        id: None,
    }
}

fn request(name: Option<&str>, request: &StateRequest) -> (String, Value) {
    let aws = Aws::default();
    let rendered = aws
        .request(&thing("Bot"), &document(name), request, "t-1")
        .unwrap();
    assert_eq!((rendered.qos, rendered.merges), (QoS::AtMostOnce, false));
    let body = serde_json::from_slice(&rendered.payload).unwrap();
    (rendered.topic.as_str().to_owned(), body)
}

fn read(topic: &str, payload: &str) -> Option<StateMessage> {
    let incoming = incoming(topic, payload.to_owned());
    Aws::default()
        .read(&thing("Bot"), &document(None), &incoming)
        .unwrap()
}

fn filters(name: Option<&str>, feed: StateFeed) -> Vec<(String, QoS)> {
    Aws::default()
        .feed(&thing("Bot"), &document(name), feed)
        .unwrap()
        .into_iter()
        .map(|wanted| (wanted.filter.as_str().to_owned(), wanted.qos))
        .collect()
}

fn report(patch: &StatePatch) -> Result<Option<Rendered>, DialectError> {
    let link = thing("Bot");
    Aws::default().render(&link, &link.id, &Outbound::ReportState(patch))
}

#[test]
fn telemetry_goes_to_the_topic_of_the_template_and_its_channel() {
    let link = thing("Bot");
    let topic = |aws: &Aws, telemetry: &Telemetry| {
        let outbound = Outbound::Telemetry(telemetry);
        let rendered = aws.render(&link, &link.id, &outbound).unwrap().unwrap();
        assert_eq!(rendered.payload, telemetry.payload);
        rendered.topic.as_str().to_owned()
    };
    let plain = Telemetry::new("1");
    let power = Telemetry::new("1").with_channel("power");
    let aws = Aws::default();
    assert_eq!(topic(&aws, &plain), "dt/paquebot/Bot");
    assert_eq!(topic(&aws, &power), "dt/paquebot/Bot/power");
    let settings = AwsSettings {
        telemetry: "$aws/rules/store/dt/plant/{device}/state".into(),
    };
    let aws = Aws::new(&settings).unwrap();
    assert_eq!(topic(&aws, &plain), "$aws/rules/store/dt/plant/Bot/state");
    let settings = AwsSettings {
        telemetry: "dt/{thing}".into(),
    };
    assert!(Aws::new(&settings).is_err());
}

#[test]
fn a_report_is_the_reported_half_of_an_update_and_merges_with_the_next() {
    let patch = StatePatch::json(&json!({"on": true})).unwrap();
    let first = report(&patch).unwrap().unwrap();
    assert_eq!(first.topic.as_str(), "$aws/things/Bot/shadow/update");
    assert_eq!(first.payload, r#"{"state":{"reported":{"on":true}}}"#);
    assert_eq!((first.qos, first.merges), (QoS::AtLeastOnce, true));
    let second = StatePatch::json(&json!({"on": null, "level": 3})).unwrap();
    let second = report(&second).unwrap().unwrap();
    let both = merge_patches(&first.payload, &second.payload).unwrap();
    let both: Value = serde_json::from_slice(&both).unwrap();
    assert_eq!(
        both,
        json!({"state": {"reported": {"on": null, "level": 3}}})
    );
}

#[test]
fn a_report_for_one_version_is_not_merged() {
    let patch = StatePatch {
        document: Bytes::from_static(b"{}"),
        version: Some(7),
    };
    let rendered = report(&patch).unwrap().unwrap();
    assert_eq!(rendered.payload, r#"{"state":{"reported":{}},"version":7}"#);
    assert!(!rendered.merges);
}

#[test]
fn a_report_that_is_no_object_is_refused() {
    for text in ["", "1", "[]", "{", "{} {}", "\"{}\"", "\u{0}"] {
        let patch = StatePatch {
            document: Bytes::copy_from_slice(text.as_bytes()),
            version: None,
        };
        assert!(
            matches!(report(&patch), Err(DialectError::Invalid { .. })),
            "{text:?}"
        );
    }
}

#[test]
fn requests_carry_their_token_on_the_topics_of_their_shadow() {
    let (topic, body) = request(None, &StateRequest::Get);
    assert_eq!(topic, "$aws/things/Bot/shadow/get");
    assert_eq!(body, json!({"clientToken": "t-1"}));
    let (topic, body) = request(Some("config"), &StateRequest::Delete);
    assert_eq!(topic, "$aws/things/Bot/shadow/name/config/delete");
    assert_eq!(body, json!({"clientToken": "t-1"}));
    let update = StateUpdate::desired(json!({"p": 1}))
        .with_reported(Value::Null)
        .with_version(4);
    let (topic, body) = request(None, &StateRequest::Update(update));
    assert_eq!(topic, "$aws/things/Bot/shadow/update");
    assert_eq!(
        body,
        json!({"state": {"desired": {"p": 1}, "reported": null}, "version": 4, "clientToken": "t-1"})
    );
    let (_, body) = request(None, &StateRequest::Update(StateUpdate::default()));
    assert_eq!(body, json!({"state": {}, "clientToken": "t-1"}));
}

#[test]
fn a_half_that_is_no_object_is_refused_before_it_is_sent() {
    for half in [json!(1), json!([]), json!("a"), json!(true)] {
        let wrong = StateRequest::Update(StateUpdate::desired(half));
        let result = Aws::default().request(&thing("Bot"), &document(None), &wrong, "t");
        assert!(matches!(result, Err(DialectError::Invalid { what, .. }) if what == "desired"));
    }
}

#[test]
fn each_feed_has_its_filters() {
    let p = "$aws/things/Bot/shadow";
    for operation in StateOperation::ALL {
        let name = operation.name();
        assert_eq!(
            filters(None, StateFeed::Replies(operation)),
            [
                (format!("{p}/{name}/accepted"), QoS::AtMostOnce),
                (format!("{p}/{name}/rejected"), QoS::AtMostOnce),
            ]
        );
    }
    assert_eq!(
        filters(Some("c"), StateFeed::Deltas),
        [(format!("{p}/name/c/update/delta"), QoS::AtLeastOnce)]
    );
    assert_eq!(
        filters(None, StateFeed::Documents),
        [(format!("{p}/update/documents"), QoS::AtLeastOnce)]
    );
}

#[test]
fn answers_are_read_with_token_version_and_halves() {
    let get = read(
        "$aws/things/Bot/shadow/get/accepted",
        r#"{"state":{"desired":{"a":1},"reported":{"a":2},"delta":{"a":1}},
            "metadata":{"desired":{"a":{"timestamp":3}},"delta":{}},"version":9,"timestamp":5,"clientToken":"t"}"#,
    );
    let Some(StateMessage::Reply {
        operation,
        token,
        result,
    }) = get
    else {
        panic!("{get:?}");
    };
    assert_eq!(operation, StateOperation::Get);
    assert_eq!(token.as_deref(), Some("t"));
    let document = result.unwrap();
    assert_eq!(document.version, Some(9));
    assert_eq!(document.timestamp, Some(5));
    assert_eq!(document.desired, Some(json!({"a": 1})));
    assert_eq!(document.reported, Some(json!({"a": 2})));
    assert_eq!(document.delta, Some(json!({"a": 1})));
    let deleted = read(
        "$aws/things/Bot/shadow/delete/accepted",
        r#"{"version":2,"timestamp":1}"#,
    );
    assert!(
        matches!(deleted, Some(StateMessage::Reply { operation: StateOperation::Delete, token: None, result: Ok(document) })
        if document.version == Some(2) && document.desired.is_none())
    );
}

#[test]
fn each_refusal_keeps_its_code_and_words() {
    for (code, message) in [
        (400, "Invalid JSON"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "No shadow exists with name: 'Bot'"),
        (409, "Version conflict"),
        (413, "The payload exceeds the maximum size allowed"),
        (415, "Unsupported documented encoding"),
        (429, "Too many requests"),
        (500, "Internal service failure"),
    ] {
        let body = json!({"code": code, "message": message, "clientToken": "t"}).to_string();
        for operation in StateOperation::ALL {
            let topic = format!("$aws/things/Bot/shadow/{}/rejected", operation.name());
            let expected = Rejection {
                code,
                message: message.into(),
            };
            assert_eq!(
                read(&topic, &body),
                Some(StateMessage::Reply {
                    operation,
                    token: Some("t".into()),
                    result: Err(expected),
                })
            );
        }
    }
    let as_text = read(
        "$aws/things/Bot/shadow/get/rejected",
        r#"{"code":"404","message":"gone","extra":[]}"#,
    );
    assert!(
        matches!(as_text, Some(StateMessage::Reply { result: Err(refusal), .. }) if refusal.is_not_found())
    );
}

#[test]
fn what_the_service_tells_by_itself_is_read() {
    let delta = read(
        "$aws/things/Bot/shadow/update/delta",
        r#"{"version":7,"timestamp":8,"state":{"a":{"b":1}},"metadata":{"a":{}}}"#,
    );
    assert!(matches!(delta, Some(StateMessage::Delta(delta))
        if delta.version == Some(7) && delta.state == json!({"a": {"b": 1}})));
    let changed = read(
        "$aws/things/Bot/shadow/update/documents",
        r#"{"previous":null,"current":{"state":{"desired":{"a":1}},"metadata":{},"version":1},"timestamp":8}"#,
    );
    assert!(
        matches!(changed, Some(StateMessage::Changed(change)) if change.previous.is_none()
        && change.current.version == Some(1) && change.current.desired == Some(json!({"a": 1})))
    );
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_its_feed() {
    let link = thing("Bot");
    let aws = Aws::default();
    for (end, feed, payload) in [
        ("update/delta", StateFeed::Deltas, "{"),
        ("update/delta", StateFeed::Deltas, r#"{"state":{"a":1}}"#),
        (
            "update/delta",
            StateFeed::Deltas,
            r#"{"state":"canary","version":2}"#,
        ),
        (
            "update/documents",
            StateFeed::Documents,
            r#"{"previous":{}}"#,
        ),
        (
            "get/accepted",
            StateFeed::Replies(StateOperation::Get),
            "\u{1}",
        ),
        (
            "delete/rejected",
            StateFeed::Replies(StateOperation::Delete),
            "[1]",
        ),
        (
            "update/accepted",
            StateFeed::Replies(StateOperation::Update),
            r#"{"version":-1}"#,
        ),
    ] {
        let topic = format!("$aws/things/Bot/shadow/{end}");
        let deep = "[".repeat(100_000);
        for payload in [payload.as_bytes(), b"\xff\xfe", b"", deep.as_bytes()] {
            let incoming = incoming(&topic, payload.to_vec());
            let error = aws.read(&link, &document(None), &incoming).unwrap_err();
            assert_eq!(error.feed, feed, "{topic} {payload:?}");
            // It goes into logs, where nothing of a payload belongs.
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}

#[test]
fn messages_about_other_documents_are_not_this_ones() {
    for topic in [
        "$aws/things/Bot2/shadow/update/delta",
        "$aws/things/Bot/shadow/name/config/update/delta",
        "$aws/things/Bot/shadow/update",
        "$aws/things/Bot/shadowy/update/delta",
        "a/b",
    ] {
        assert_eq!(read(topic, "{"), None, "{topic}");
    }
}

#[test]
fn a_delta_is_a_change_of_the_desired_state() {
    let link = thing("Bot");
    let aws = Aws::default();
    let subscriptions = aws
        .subscriptions(&link, &link.id, Interest::DesiredState)
        .unwrap();
    let topic = "$aws/things/Bot/shadow/update/delta";
    assert_eq!(subscriptions[0].filter.as_str(), topic);
    let delta = incoming(topic, r#"{"version":7,"state":{"a":1}}"#);
    let Inbound::DesiredState { device, patch } = aws.classify(&link, &delta).unwrap() else {
        panic!("no desired state");
    };
    assert_eq!((device.as_str(), patch.version), ("Bot", Some(7)));
    assert_eq!(patch.document, r#"{"a":1}"#);
    assert!(aws.classify(&link, &incoming(topic, "{")).is_err());
    let other = incoming("$aws/things/Bot/jobs/notify", "{}");
    assert_eq!(aws.classify(&link, &other), Ok(Inbound::Raw));
}

#[test]
fn names_past_their_bounds_are_refused() {
    let aws = Aws::default();
    let check = |device: &str, name: Option<&str>| {
        let document = DocumentId {
            device: DeviceId::new(device.to_owned()).unwrap(),
            name: name.map(Into::into),
        };
        aws.check(&thing("Bot"), &document).is_ok()
    };
    assert!(check(&"x".repeat(128), None));
    assert!(!check(&"x".repeat(129), None));
    assert!(check("a:B_9-", Some(&"n".repeat(64))));
    assert!(!check("Bot", Some(&"n".repeat(65))));
    assert!(!check("Bot", Some("")));
    assert!(!check("Bot", Some("a/b")));
    assert!(!check("Zähler", None));
    assert!(!check("a.b", None));
}

#[test]
fn a_client_identifier_has_1_to_128_bytes_and_no_dollar_in_front() {
    let aws = Aws::default();
    for (id, is_taken) in [
        (String::new(), false),
        ("a".into(), true),
        ("a$".into(), true),
        ("$a".into(), false),
        ("ü".repeat(64), true),
        ("ü".repeat(65), false),
    ] {
        let check = |version| aws.check_client_id(&id, version).is_ok();
        assert_eq!(check(Version::V311), is_taken, "{id}");
        assert_eq!(check(Version::V5), is_taken || id.is_empty(), "{id}");
    }
    let now = std::time::SystemTime::UNIX_EPOCH;
    assert_eq!(aws.connect(&thing("Bot"), now).unwrap().client_id, "Bot");
    assert!(aws.connect(&thing(&"x".repeat(129)), now).is_err());
}

#[test]
fn a_telemetry_template_that_no_topic_can_come_of_is_refused_at_once() {
    let dialect = |telemetry: String| Aws::new(&AwsSettings { telemetry });
    assert!(dialect("{device}/2/3/4/5/6/7/8".to_owned()).is_ok());
    let error = dialect("{device}/2/3/4/5/6/7/8/9".to_owned()).unwrap_err();
    assert!(error.to_string().contains("9 levels"), "{error}");
    assert!(dialect(format!("{}/{{device}}", "x".repeat(254))).is_ok());
    let error = dialect(format!("{}/{{device}}", "x".repeat(255))).unwrap_err();
    assert!(error.to_string().contains("257 bytes"), "{error}");
}

#[test]
fn topics_and_filters_are_bounded_and_a_rules_prefix_is_not_counted() {
    let aws = Aws::default();
    let levels = |count| vec!["a"; count].join("/");
    assert!(aws.check_bounds("topic", &levels(8)).is_ok());
    assert!(aws.check_bounds("topic", &levels(9)).is_err());
    assert!(aws.check_bounds("topic", &"x".repeat(256)).is_ok());
    assert!(aws.check_bounds("topic", &"x".repeat(257)).is_err());
    let rule = |rest: &str| format!("$aws/rules/my_rule/{rest}");
    assert!(aws.check_bounds("topic", &rule(&levels(8))).is_ok());
    assert!(aws.check_bounds("topic", &rule(&levels(9))).is_err());
    assert!(aws.check_bounds("topic", &rule(&"x".repeat(256))).is_ok());
    let wanted = |filter: &str, qos| Subscription::new(TopicFilter::new(filter).unwrap(), qos);
    let twice = wanted("a", QoS::ExactlyOnce);
    assert_eq!(
        aws.check_subscription(&twice),
        Err(DialectError::Unsupported {
            platform: Platform::Aws,
            operation: "quality of service this high",
        })
    );
    assert!(
        aws.check_subscription(&wanted(&levels(9), QoS::AtLeastOnce))
            .is_err()
    );
    assert!(
        aws.check_subscription(&wanted("a/#", QoS::AtLeastOnce))
            .is_ok()
    );
}

#[test]
fn what_the_platform_has_not_is_unsupported() {
    let link = thing("Bot");
    let aws = Aws::default();
    for interest in [Interest::Commands, Interest::Telemetry, Interest::Replies] {
        assert!(matches!(
            aws.subscriptions(&link, &link.id, interest),
            Err(DialectError::Unsupported { .. })
        ));
    }
    let patch = StatePatch::json(&json!({})).unwrap();
    assert!(
        aws.render(&link, &link.id, &Outbound::DesireState(&patch))
            .is_err()
    );
    assert_eq!(aws.render(&link, &link.id, &Outbound::Online), Ok(None));
}
