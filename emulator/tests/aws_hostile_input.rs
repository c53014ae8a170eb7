//! What the services of AWS IoT Core make of bytes that nobody meant.

use std::time::SystemTime;

use paquebot_emulator::aws::services::{HttpRequest, Requester, ServiceSettings, Services};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

const TOPICS: [&str; 14] = [
    "$aws/things/Bot/shadow/get",
    "$aws/things/Bot/shadow/update",
    "$aws/things/Bot/shadow/name/lamp/update",
    "$aws/things/Bot/shadow/delete",
    "$aws/things/Bot/jobs/get",
    "$aws/things/Bot/jobs/start-next",
    "$aws/things/Bot/jobs/$next/get",
    "$aws/things/Bot/jobs/job/get",
    "$aws/things/Bot/jobs/job/update",
    "$aws/things/Bot/jobs/job/else",
    "$aws/certificates/create-from-csr/json",
    "$aws/provisioning-templates/fleet/provision/cbor",
    "$aws/things/Bot/defender/metrics/json",
    "$aws/things/Bot/defender/metrics/cbor",
];

/// Random bytes, random text, and the words of the services in random order.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let words = concat!(
        r#"(\{|\}|\[|\]|,|:|"state":|"desired":|"reported":|"version":|"clientToken":|"status":|"#,
        r#""expectedVersion":|"stepTimeoutInMinutes":|"header":|"report_id":|"parameters":|"#,
        r#"null|1|-1|1e99|"x"|"IN_PROGRESS"){0,24}"#
    );
    prop_oneof![
        vec(any::<u8>(), 0..64),
        "\\PC{0,64}".prop_map(String::into_bytes),
        words.prop_map(String::into_bytes),
    ]
}

fn services() -> Services {
    let mut services = Services::new(ServiceSettings::default());
    let now = SystemTime::UNIX_EPOCH;
    services
        .create_job("job", &json!({}), &["Bot"], now)
        .unwrap();
    services
        .set_desired("Bot", None, &json!({"a": 1}), now)
        .unwrap();
    services
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whatever_bytes_a_device_publishes_are_answered_once(
        payload in payload(),
        topic in proptest::sample::select(&TOPICS[..]),
    ) {
        let mut services = services();
        let from = Requester::new("Bot");
        let now = SystemTime::UNIX_EPOCH;
        let found = services.handle_publish(&from, topic, &payload, now);
        let found = found.expect("a topic of a service");
        let is_answer = |topic: &str| topic.ends_with("/accepted") || topic.ends_with("/rejected");
        let answers = found.iter().filter(|one| is_answer(one.topic.as_str()));
        prop_assert_eq!(answers.count(), 1);
    }

    #[test]
    fn whatever_topic_a_device_publishes_to_is_a_services_or_nobodys(
        topic in "\\$aws/(things/|Bot/|shadow/|jobs/|name/|get|update|accepted|json|[/+#$]|.){0,8}",
        payload in payload(),
    ) {
        let from = Requester::new("Bot");
        let now = SystemTime::UNIX_EPOCH;
        let found = services().handle_publish(&from, &topic, &payload, now);
        for publication in found.into_iter().flatten() {
            prop_assert!(publication.topic.as_str().starts_with("$aws/"));
        }
    }

    #[test]
    fn whatever_is_asked_by_http_is_answered_in_json(
        method in proptest::sample::select(&["GET", "POST", "PUT", "DELETE", "x"][..]),
        path in "(/|/things|/Bot|/shadow|/jobs|/job|/\\$next|%|%4|%41|%ff|[a-z ä]){0,8}",
        query in "(name|=|&|%|pageSize|nextToken|1|zz|includeJobDocument|true){0,8}",
        body in payload(),
    ) {
        let request = HttpRequest {
            method: method.to_owned(),
            path,
            query,
            body: body.into(),
            principal: None,
        };
        let response = services().handle_http(&request, SystemTime::UNIX_EPOCH);
        prop_assert!((200..600).contains(&response.status));
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
    }
}
