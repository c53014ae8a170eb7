//! The services by HTTPS.

use std::time::Duration;

use super::*;
use crate::aws::services::{
    CoreConnectivity, GreengrassCore, GreengrassGroup, ServiceFault, ServiceSettings,
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(10)
}

fn ask(services: &mut Services, method: &str, target: &str, body: &str) -> (u16, String) {
    let response = respond(services, method, target, body);
    (response.status, text(&response.body))
}

fn respond(services: &mut Services, method: &str, target: &str, body: &str) -> HttpResponse {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: body.to_owned().into(),
        principal: None,
    };
    let response = services.handle_http(&request, now());
    assert_eq!(response.content_type, "application/json");
    response
}

fn text(body: &Bytes) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

fn topics(response: &HttpResponse) -> Vec<&str> {
    let publications = response.publications.iter();
    publications
        .map(|publication| publication.topic.as_str())
        .collect()
}

#[test]
fn a_shadow_is_updated_read_and_deleted_and_devices_are_told() {
    let mut services = Services::new(ServiceSettings::default());
    let document = r#"{"state":{"desired":{"a":1}}}"#;
    let response = respond(&mut services, "POST", "/things/Bot/shadow", document);
    assert_eq!(response.status, 200);
    assert_eq!(
        text(&response.body),
        concat!(
            r#"{"metadata":{"desired":{"a":{"timestamp":10}}},"state":{"desired":{"a":1}},"#,
            r#""timestamp":10,"version":1}"#
        )
    );
    assert_eq!(
        topics(&response),
        [
            "$aws/things/Bot/shadow/update/delta",
            "$aws/things/Bot/shadow/update/documents",
            "$aws/things/Bot/shadow/update/accepted",
        ]
    );
    let response = respond(&mut services, "GET", "/things/Bot/shadow", "");
    assert_eq!(response.status, 200);
    assert!(text(&response.body).contains(r#""delta":{"a":1}"#));
    assert_eq!(topics(&response), Vec::<&str>::new());
    let response = respond(&mut services, "DELETE", "/things/Bot/shadow", "");
    assert_eq!(text(&response.body), r#"{"timestamp":10,"version":1}"#);
    assert_eq!(
        topics(&response),
        ["$aws/things/Bot/shadow/delete/accepted"]
    );
    let missing = r#"{"code":404,"message":"No shadow exists with name: 'Bot'","timestamp":10}"#;
    let found = ask(&mut services, "GET", "/things/Bot/shadow", "");
    assert_eq!(found, (404, missing.to_owned()));
}

#[test]
fn a_named_shadow_is_named_in_the_query_and_names_are_percent_decoded() {
    let mut services = Services::new(ServiceSettings::default());
    let target = "/things/a%3Ab/shadow?name=lamp%2D1";
    assert_eq!(ask(&mut services, "POST", target, r#"{"state":{}}"#).0, 200);
    assert_eq!(
        services.named_shadows("a:b").collect::<Vec<_>>(),
        ["lamp-1"]
    );
    let found = ask(&mut services, "GET", "/things/a%2Fb/shadow", "");
    assert_eq!(found.0, 400, "a slash is in no name");
    let found = ask(&mut services, "GET", "/things/a%zz/shadow", "");
    assert_eq!(found.0, 400);
}

#[test]
fn a_refusal_has_the_status_that_is_its_code() {
    let mut services = Services::new(ServiceSettings::default());
    let shadow = "/things/Bot/shadow";
    for (body, status) in [
        ("{", 400),
        (r#"{"state":{},"version":9}"#, 400),
        (r#"{"state":{}}"#, 200),
        (r#"{"state":{},"version":9}"#, 409),
    ] {
        assert_eq!(ask(&mut services, "POST", shadow, body).0, status, "{body}");
    }
    let large = format!(
        r#"{{"state":{{"desired":{{"a":"{}"}}}}}}"#,
        "x".repeat(9000)
    );
    assert_eq!(ask(&mut services, "POST", shadow, &large).0, 413);
    assert_eq!(ask(&mut services, "PATCH", shadow, "").0, 405);
    assert_eq!(ask(&mut services, "GET", "/things/Bot", "").0, 404);
}

#[test]
fn the_named_shadows_of_a_thing_are_listed_page_by_page() {
    let mut services = Services::new(ServiceSettings::default());
    for name in ["b", "a", "c"] {
        let target = format!("/things/Bot/shadow?name={name}");
        ask(&mut services, "POST", &target, r#"{"state":{}}"#);
    }
    let list = "/api/things/shadow/ListNamedShadowsForThing/Bot";
    let first = ask(&mut services, "GET", &format!("{list}?pageSize=2"), "");
    let expected = r#"{"nextToken":"62","results":["a","b"],"timestamp":10}"#;
    assert_eq!(first, (200, expected.to_owned()));
    let next = ask(
        &mut services,
        "GET",
        &format!("{list}?pageSize=2&nextToken=62"),
        "",
    );
    assert_eq!(
        next,
        (200, r#"{"results":["c"],"timestamp":10}"#.to_owned())
    );
    assert_eq!(
        ask(&mut services, "GET", &format!("{list}?pageSize=0"), "").0,
        400
    );
}

#[test]
fn a_job_is_done_by_https() {
    let mut services = Services::new(ServiceSettings::default());
    let document = serde_json::json!({"do": "it"});
    services
        .create_job("j", &document, &["Bot"], now())
        .unwrap();
    let found = ask(&mut services, "GET", "/things/Bot/jobs", "");
    assert!(found.1.contains(r#""queuedJobs":[{"#), "{found:?}");
    let found = ask(&mut services, "PUT", "/things/Bot/jobs/$next", "{}");
    assert!(found.1.contains(r#""status":"IN_PROGRESS""#), "{found:?}");
    let target = "/things/Bot/jobs/j?includeJobDocument=false&executionNumber=1";
    let found = ask(&mut services, "GET", target, "");
    assert!(
        found.0 == 200 && !found.1.contains("jobDocument"),
        "{found:?}"
    );
    let stale = r#"{"status":"FAILED","expectedVersion":"9"}"#;
    assert_eq!(
        ask(&mut services, "POST", "/things/Bot/jobs/j", stale).0,
        409
    );
    let done = r#"{"status":"SUCCEEDED"}"#;
    let response = respond(&mut services, "POST", "/things/Bot/jobs/j", done);
    assert_eq!(response.status, 200);
    let notified = [
        "$aws/things/Bot/jobs/notify",
        "$aws/things/Bot/jobs/notify-next",
    ];
    assert_eq!(topics(&response), notified);
    assert_eq!(ask(&mut services, "GET", "/things/Bot/jobs/x", "").0, 404);
}

#[test]
fn discovery_answers_the_groups_that_were_set() {
    let mut services = Services::new(ServiceSettings::default());
    let target = "/greengrass/discover/thing/Bot";
    assert_eq!(ask(&mut services, "GET", target, "").0, 404);
    let group = GreengrassGroup {
        group_id: "g".to_owned(),
        cores: vec![GreengrassCore {
            thing_arn: "arn:aws:iot:core".to_owned(),
            connectivity: vec![CoreConnectivity {
                id: "1".to_owned(),
                host_address: "127.0.0.1".to_owned(),
                port: 8883,
                metadata: String::new(),
            }],
        }],
        certificate_authorities: vec!["pem".to_owned()],
    };
    services.set_discovery("Bot", vec![group]);
    let expected = concat!(
        r#"{"GGGroups":[{"CAs":["pem"],"Cores":[{"Connectivity":[{"HostAddress":"127.0.0.1","#,
        r#""Id":"1","Metadata":"","PortNumber":8883}],"thingArn":"arn:aws:iot:core"}],"#,
        r#""GGGroupId":"g"}]}"#
    );
    assert_eq!(
        ask(&mut services, "GET", target, ""),
        (200, expected.to_owned())
    );
    for status in [400, 401, 429] {
        let fault = ServiceFault::Reject {
            status,
            code: String::new(),
            message: "no".to_owned(),
        };
        services.inject(Operation::Discovery, fault, 1);
        assert_eq!(ask(&mut services, "GET", target, "").0, status);
    }
}
