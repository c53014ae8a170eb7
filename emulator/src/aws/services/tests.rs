//! The services together: what a device publishes, and faults.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const GET: &str = "$aws/things/Bot/shadow/get";
const UPDATE: &str = "$aws/things/Bot/shadow/update";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(10)
}

fn ask(services: &mut Services, topic: &str, payload: &str) -> Vec<(String, String)> {
    let from = Requester::new("bot-1");
    let publications = services.handle_publish(&from, topic, payload.as_bytes(), now());
    let publications = publications.unwrap();
    assert!(publications.iter().all(|one| one.qos == QoS::AtLeastOnce));
    publications.into_iter().map(line).collect()
}

fn line(publication: Publication) -> (String, String) {
    let topic = publication.topic.as_str();
    let last = topic.rsplit('/').next().unwrap().to_owned();
    (
        last,
        String::from_utf8(publication.payload.to_vec()).unwrap(),
    )
}

fn endings(lines: &[(String, String)]) -> Vec<&str> {
    lines.iter().map(|(topic, _)| topic.as_str()).collect()
}

#[test]
fn a_topic_that_no_service_takes_is_left_to_the_server() {
    let mut services = Services::new(ServiceSettings::default());
    let from = Requester::new("bot-1");
    for topic in ["a", "$aws/things/Bot/shadow/get/accepted", "$aws/rules/r"] {
        assert_eq!(
            services.handle_publish(&from, topic, b"{}", now()),
            None,
            "{topic}"
        );
    }
}

#[test]
fn shadows_answer_all_subscribers_and_jobs_only_who_asked() {
    let mut services = Services::new(ServiceSettings::default());
    let from = Requester::new("bot-1");
    for (topic, audience) in [
        (GET, Audience::Subscribers),
        (
            "$aws/things/Bot/defender/metrics/json",
            Audience::Subscribers,
        ),
        ("$aws/things/Bot/jobs/get", Audience::Requester),
        ("$aws/certificates/create/json", Audience::Requester),
    ] {
        let found = services.handle_publish(&from, topic, b"{}", now()).unwrap();
        assert_eq!(found[0].to, audience, "{topic}");
    }
    let told = services
        .create_job("j", &Value::Null, &["Bot"], now())
        .unwrap();
    assert!(told.iter().all(|one| one.to == Audience::Subscribers));
}

#[test]
fn a_request_can_be_refused_once_without_being_carried_out() {
    let mut services = Services::new(ServiceSettings::default());
    let fault = ServiceFault::Reject {
        status: 500,
        code: "InternalError".to_owned(),
        message: "Internal service failure".to_owned(),
    };
    services.inject(Operation::ShadowUpdate, fault.clone(), 1);
    let update = r#"{"state":{"desired":{"a":1}},"clientToken":"t"}"#;
    let found = ask(&mut services, UPDATE, update);
    let body =
        r#"{"clientToken":"t","code":500,"message":"Internal service failure","timestamp":10}"#;
    assert_eq!(found, [("rejected".to_owned(), body.to_owned())]);
    assert_eq!(services.shadow("Bot", None), None);
    assert_eq!(endings(&ask(&mut services, UPDATE, update)).len(), 3);
    for (operation, topic, part) in [
        (
            Operation::JobsGetPending,
            "$aws/things/Bot/jobs/get",
            r#""code":"InternalError""#,
        ),
        (
            Operation::CreateKeysAndCertificate,
            "$aws/certificates/create/json",
            r#""errorCode":"InternalError""#,
        ),
        (
            Operation::DefenderMetrics,
            "$aws/things/Bot/defender/metrics/json",
            r#""ErrorCode":"InternalError""#,
        ),
    ] {
        services.inject(operation, fault.clone(), 1);
        let found = ask(&mut services, topic, "{}");
        assert_eq!(endings(&found), ["rejected"], "{topic}");
        assert!(found[0].1.contains(part), "{found:?}");
    }
}

#[test]
fn an_answer_can_be_lost_or_come_twice_though_the_request_is_carried_out() {
    let mut services = Services::new(ServiceSettings::default());
    services.inject(Operation::ShadowUpdate, ServiceFault::Drop, 1);
    let found = ask(&mut services, UPDATE, r#"{"state":{"desired":{"a":1}}}"#);
    assert_eq!(endings(&found), ["delta", "documents"]);
    services.inject(Operation::ShadowGet, ServiceFault::Duplicate, 1);
    assert_eq!(
        endings(&ask(&mut services, GET, "")),
        ["accepted", "accepted"]
    );
    assert_eq!(endings(&ask(&mut services, GET, "")), ["accepted"]);
}

#[test]
fn an_event_has_faults_of_its_own() {
    let mut services = Services::new(ServiceSettings::default());
    services.inject(Operation::ShadowDelta, ServiceFault::Drop, 1);
    services.inject(
        Operation::ShadowDelta,
        ServiceFault::VersionBackwards { by: 1 },
        1,
    );
    let desired = json!({"a": 1});
    let told = services.set_desired("Bot", None, &desired, now()).unwrap();
    let told: Vec<_> = told.into_iter().map(line).collect();
    assert_eq!(endings(&told), ["documents", "accepted"]);
    let told = services.set_desired("Bot", None, &desired, now()).unwrap();
    let told: Vec<_> = told.into_iter().map(line).collect();
    assert!(told[0].1.contains(r#""version":1"#), "{told:?}");
    assert!(told[2].1.contains(r#""version":2"#), "{told:?}");
    let fault = ServiceFault::Reject {
        status: 400,
        code: String::new(),
        message: String::new(),
    };
    services.inject(Operation::ShadowDelta, fault, 1);
    let told = services.set_desired("Bot", None, &desired, now()).unwrap();
    assert_eq!(told.len(), 2, "an event that is refused is not sent");
}

#[test]
fn an_answer_can_have_a_wrong_token_an_old_version_or_no_end() {
    let mut services = Services::new(ServiceSettings::default());
    for _ in 0..3 {
        services
            .set_desired("Bot", None, &json!({"a": 1}), now())
            .unwrap();
    }
    let token = r#"{"clientToken":"mine"}"#;
    services.inject(Operation::ShadowGet, ServiceFault::WrongToken, 1);
    services.inject(
        Operation::ShadowGet,
        ServiceFault::VersionBackwards { by: 2 },
        1,
    );
    services.inject(Operation::ShadowGet, ServiceFault::Malformed, 1);
    let found = ask(&mut services, GET, token);
    assert!(found[0].1.contains("clientToken") && !found[0].1.contains("mine"));
    let found = ask(&mut services, GET, token);
    assert!(found[0].1.contains(r#""version":1"#), "{found:?}");
    let found = ask(&mut services, GET, token);
    assert!(serde_json::from_str::<Value>(&found[0].1).is_err());
    let found = ask(&mut services, GET, token);
    assert!(
        found[0].1.contains(r#""version":3"#),
        "the shadow itself is whole"
    );
}

#[test]
fn a_jobs_version_can_go_backwards_too() {
    let mut services = Services::new(ServiceSettings::default());
    services
        .create_job("j", &Value::Null, &["Bot"], now())
        .unwrap();
    let fault = ServiceFault::VersionBackwards { by: 1 };
    services.inject(Operation::JobsStartNext, fault, 1);
    let found = ask(&mut services, "$aws/things/Bot/jobs/start-next", "{}");
    assert!(found[0].1.contains(r#""versionNumber":1"#), "{found:?}");
    assert_eq!(services.job_executions("Bot")[0].version_number, 2);
}

#[test]
fn faults_that_are_cleared_are_not_met() {
    let mut services = Services::new(ServiceSettings::default());
    services.inject(Operation::ShadowGet, ServiceFault::Drop, 100);
    services.clear_faults();
    assert_eq!(endings(&ask(&mut services, GET, "")), ["rejected"]);
}

#[test]
fn the_next_deadline_is_the_earliest_of_all_services() {
    let mut services = Services::new(ServiceSettings::default());
    assert_eq!(services.deadline(), None);
    ask(&mut services, "$aws/certificates/create/json", "");
    assert_eq!(services.deadline(), Some(now() + Duration::from_hours(1)));
    services
        .create_job("j", &Value::Null, &["Bot"], now())
        .unwrap();
    let start = "$aws/things/Bot/jobs/start-next";
    ask(&mut services, start, r#"{"stepTimeoutInMinutes":5}"#);
    let step_ends = now() + Duration::from_mins(5);
    assert_eq!(services.deadline(), Some(step_ends));
    assert_eq!(services.handle_deadline(now()), []);
    let told = services.handle_deadline(step_ends);
    let told: Vec<_> = told.iter().map(|one| one.topic.as_str()).collect();
    let expected = [
        "$aws/things/Bot/jobs/notify",
        "$aws/things/Bot/jobs/notify-next",
    ];
    assert_eq!(told, expected);
    assert_eq!(services.deadline(), Some(now() + Duration::from_hours(1)));
    services.handle_deadline(now() + Duration::from_hours(1));
    assert_eq!(services.deadline(), None);
}

#[test]
fn shadows_outlive_their_thing_and_jobs_do_not() {
    let settings = ServiceSettings {
        things_must_exist: true,
        ..ServiceSettings::default()
    };
    let mut services = Services::new(settings);
    let unknown = ask(&mut services, GET, "");
    assert!(unknown[0].1.contains("Thing not found"), "{unknown:?}");
    let unknown = ask(&mut services, "$aws/things/Bot/jobs/get", "");
    assert!(unknown[0].1.contains("ResourceNotFound"), "{unknown:?}");
    services.add_thing("Bot");
    services
        .set_desired("Bot", None, &json!({"a": 1}), now())
        .unwrap();
    services
        .create_job("j", &Value::Null, &["Bot"], now())
        .unwrap();
    assert_eq!(services.delete_thing("Bot", now()).len(), 2);
    assert_eq!(services.job_executions("Bot")[0].status, JobStatus::Removed);
    let unknown = ask(&mut services, GET, "");
    assert!(unknown[0].1.contains("Thing not found"), "{unknown:?}");
    services.add_thing("Bot");
    assert_eq!(endings(&ask(&mut services, GET, "")), ["accepted"]);
}

#[test]
fn what_fleet_provisioning_makes_is_a_thing() {
    let mut services = Services::new(ServiceSettings::default());
    let template = ProvisioningTemplate::named_after("Serial", "bot-", BTreeMap::new());
    services.add_template("fleet", template);
    let found = ask(&mut services, "$aws/certificates/create/json", "");
    let found: Value = serde_json::from_str(&found[0].1).unwrap();
    let request = json!({
        "certificateOwnershipToken": found["certificateOwnershipToken"],
        "parameters": {"Serial": "1"},
    });
    let topic = "$aws/provisioning-templates/fleet/provision/json";
    let found = ask(&mut services, topic, &request.to_string());
    assert!(found[0].1.contains(r#""thingName":"bot-1""#), "{found:?}");
    assert_eq!(services.things().collect::<Vec<_>>(), ["bot-1"]);
}

#[test]
fn the_console_changes_shadows_under_the_services_own_rules() {
    let mut services = Services::new(ServiceSettings::default());
    let update = json!({"state": {"reported": {"a": 1}}, "version": 5});
    let error = services
        .update_shadow("Bot", None, &update, now())
        .unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "Invalid version")
    );
    let error = services
        .update_shadow("Bot", None, &json!(1), now())
        .unwrap_err();
    assert_eq!(error.message, "Missing required node: state");
    for _ in 0..30 {
        services
            .set_desired("Bot", Some("x"), &json!({"b": 2}), now())
            .unwrap();
    }
    assert_eq!(services.shadow("Bot", Some("x")).unwrap()["version"], 30);
    assert_eq!(
        services
            .delete_shadow("Bot", Some("x"), now())
            .unwrap()
            .len(),
        1
    );
    assert_eq!(services.shadow_text("Bot", Some("x")), None);
    assert_eq!(
        services.delete_shadow("Bot", None, now()).unwrap_err().code,
        404
    );
}

#[test]
fn what_amazons_python_sdk_does_to_a_shadow_is_answered_as_it_was_traced() {
    let mut services = Services::new(ServiceSettings::default());
    let delete = "$aws/things/Bot/shadow/delete";
    let token = r#"{"clientToken":"4f1a"}"#;
    let desired = r#"{"state":{"desired":{"p":1}},"clientToken":"4f1a"}"#;
    let reported = r#"{"state":{"reported":{"p":1}},"clientToken":"4f1a"}"#;
    let mut trace = Vec::new();
    for (topic, payload) in [
        (GET, token),
        (UPDATE, desired),
        (UPDATE, reported),
        (GET, token),
        (delete, token),
        (delete, token),
    ] {
        for (end, body) in ask(&mut services, topic, payload) {
            let body: Value = serde_json::from_str(&body).unwrap();
            let number = body.get("version").or(body.get("code"));
            // The traced client did not subscribe to the documents.
            trace.extend(number.map(|number| format!("{end} {number}")));
            assert_eq!(body["clientToken"], "4f1a");
        }
    }
    let expected = [
        "rejected 404",
        "delta 1",
        "accepted 1",
        "accepted 2",
        "accepted 2",
        "accepted 2",
        "rejected 404",
    ];
    assert_eq!(trace, expected);
}

#[test]
fn what_amazons_python_sdk_asks_of_jobs_is_accepted_as_it_writes_it() {
    let mut services = Services::new(ServiceSettings::default());
    let document = json!({"do": "it"});
    services
        .create_job("job1", &document, &["Bot"], now())
        .unwrap();
    for (topic, payload) in [
        ("get", r#"{"clientToken":"jobsCli"}"#),
        (
            "start-next",
            r#"{"clientToken":"jobsCli","statusDetails":{"a":"b"},"stepTimeoutInMinutes":5}"#,
        ),
        (
            "$next/get",
            r#"{"includeJobDocument":true,"clientToken":"jobsCli"}"#,
        ),
        (
            "job1/update",
            concat!(
                r#"{"status":"SUCCEEDED","statusDetails":{"a":"c"},"expectedVersion":"2","#,
                r#""executionNumber":"1","clientToken":"jobsCli"}"#
            ),
        ),
    ] {
        let found = ask(
            &mut services,
            &format!("$aws/things/Bot/jobs/{topic}"),
            payload,
        );
        assert_eq!(found[0].0, "accepted", "{topic}: {found:?}");
        assert!(
            found[0].1.contains(r#""clientToken":"jobsCli""#),
            "{found:?}"
        );
    }
    let execution = &services.job_executions("Bot")[0];
    assert_eq!(execution.status, JobStatus::Succeeded);
    assert_eq!(execution.status_details["a"], "c");
}

#[test]
fn each_code_that_only_the_cloud_has_reasons_for_can_be_asked_for() {
    let mut services = Services::new(ServiceSettings::default());
    for (status, text) in [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (429, "Too many requests"),
        (500, "Internal service failure"),
    ] {
        let fault = ServiceFault::Reject {
            status,
            code: text.to_owned(),
            message: text.to_owned(),
        };
        services.inject(Operation::ShadowGet, fault, 1);
        let found = ask(&mut services, GET, "");
        let body = format!(r#"{{"code":{status},"message":"{text}","timestamp":10}}"#);
        assert_eq!(found, [("rejected".to_owned(), body)]);
    }
    for code in ["RequestThrottled", "InternalError"] {
        let fault = ServiceFault::Reject {
            status: 500,
            code: code.to_owned(),
            message: String::new(),
        };
        services.inject(Operation::JobUpdate, fault, 1);
        let found = ask(&mut services, "$aws/things/Bot/jobs/j/update", "{}");
        assert!(
            found[0].1.contains(&format!(r#""code":"{code}""#)),
            "{found:?}"
        );
    }
}

#[test]
fn a_job_for_a_thing_that_is_not_there_is_refused_where_things_must_exist() {
    let settings = ServiceSettings {
        things_must_exist: true,
        ..ServiceSettings::default()
    };
    let mut services = Services::new(settings);
    services.add_thing("Bot");
    let unknown = services.create_job("j", &Value::Null, &["Bot", "Bat"], now());
    assert_eq!(unknown, Err(JobError::UnknownThing("Bat".to_owned())));
    assert_eq!(services.job_executions("Bot"), []);
    services
        .create_job("j", &Value::Null, &["Bot"], now())
        .unwrap();
}
