//! Platforms of the kind `aws`.

use std::time::Duration;

use paquebot::OfflineLimit;
use paquebot::fleet_file::{
    AccessKeyPlan, AuthPlan, AwsWay, OnJob, Overrides, PlatformKind, ProblemKind,
};

use crate::{GOOD, mistake, mistakes, parse_in, plan, shown};

const HOST: &str = "abc-ats.iot.eu-central-1.amazonaws.com";

/// `GOOD` on AWS, with these lines in the platform.
fn on_aws(lines: &str) -> String {
    let platform = format!("kind = \"aws\"\nendpoint = \"{HOST}\"\n{lines}");
    GOOD.replace(
        "kind = \"mqtt\"\nendpoint = \"mqtt://127.0.0.1:1883\"",
        &platform,
    )
}

const BY_KEY: &str = "connection = \"websocket\"";

#[test]
fn what_a_platform_leaves_out_is_what_is_customary_on_aws() {
    let plan = plan(&on_aws(BY_KEY));
    let platform = &plan.platforms[0];
    assert_eq!(platform.kind, PlatformKind::Aws);
    assert_eq!(
        platform.endpoint.to_string(),
        format!("wss://{HOST}:443/mqtt")
    );
    assert_eq!((platform.inflight, platform.receive_maximum), (100, 100));
    assert_eq!(platform.keep_alive, Duration::from_secs(60));
    assert_eq!(platform.reconnect.max, Duration::from_secs(32));
    assert!(matches!(
        platform.auth,
        AuthPlan::AccessKey(AccessKeyPlan::Surroundings)
    ));
    let aws = platform.aws.as_ref().unwrap();
    assert_eq!(aws.region.as_deref(), Some("eu-central-1"));
    assert_eq!(aws.offline, OfflineLimit::DropNewest(20));
    assert_eq!(
        (aws.drain_rate, aws.send_rate, aws.tells_metrics),
        (None, None, true)
    );
    let way = platform.way().unwrap();
    assert_eq!(
        way,
        "websocket, signed for eu-central-1 with the key of the environment"
    );
}

#[test]
fn every_key_is_read() {
    let lines = r#"
connection = "websocket"
region = "us-east-1"
auth = { type = "access_key", profile = "crew" }
version = "5"
keep_alive = "1200s"
clean_start = true
inflight = 7
receive_maximum = 8
reconnect = { base = "2s", max = "9s", jitter = "none" }
limits = { connects_per_s = 5 }
topics = { telemetry = "dt/{{group}}/3/4/5/6/7/{device}" }
offline = { max_messages = 3, drop = "oldest" }
drain_rate = 4.5
send_rate = 100
metrics = false
"#;
    let plan = plan(&on_aws(lines));
    let platform = &plan.platforms[0];
    let aws = platform.aws.as_ref().unwrap();
    assert_eq!(aws.way, AwsWay::WebSocket);
    assert_eq!(aws.region.as_deref(), Some("us-east-1"));
    assert!(
        matches!(&platform.auth, AuthPlan::AccessKey(AccessKeyPlan::Profile(name)) if name == "crew")
    );
    assert_eq!(aws.offline, OfflineLimit::DropOldest(3));
    assert_eq!(
        (aws.drain_rate, aws.send_rate, aws.tells_metrics),
        (Some(4.5), Some(100.0), false)
    );
    assert_eq!((platform.inflight, platform.receive_maximum), (7, 8));
    let topics = &plan.groups[0].topics;
    assert_eq!(
        topics.telemetry.as_deref(),
        Some("dt/lab/3/4/5/6/7/{device}")
    );
    let unlimited = format!("{BY_KEY}\noffline = {{ max_messages = -1 }}");
    let plan = crate::plan(&on_aws(&unlimited));
    assert_eq!(
        plan.platforms[0].aws.as_ref().unwrap().offline,
        OfflineLimit::None
    );
}

#[test]
fn each_way_has_its_port_and_its_auth() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    std::fs::write(folder.path().join("c.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("k.pem"), key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("ticket"), "t\n").unwrap();
    let x509 = "auth = { type = \"x509\", cert = \"c.pem\", key = \"k.pem\" }";
    let custom = "auth = { type = \"custom_authorizer\", name = \"gate\", username = \"{{id}}\", token_key = \"t\", token_file = \"ticket\", signature_file = \"ticket\", password_file = \"ticket\" }";
    for (way, auth, endpoint) in [
        ("", x509, "mqtts://HOST:8883"),
        ("connection = \"mutual-tls\"", x509, "mqtts://HOST:8883"),
        ("connection = \"mutual-tls-alpn\"", x509, "mqtts://HOST:443"),
        (
            BY_KEY,
            "auth = { type = \"access_key\" }",
            "wss://HOST:443/mqtt",
        ),
        (
            "connection = \"custom-authorizer\"",
            custom,
            "mqtts://HOST:443",
        ),
        (
            "connection = \"websocket-custom-authorizer\"",
            custom,
            "wss://HOST:443/mqtt",
        ),
    ] {
        let text = on_aws(&format!("{way}\n{auth}"));
        let plan = parse_in(folder.path(), &text, &Overrides::none())
            .unwrap_or_else(|problems| panic!("{}", shown(&problems).join("\n")));
        let expected = endpoint.replace("HOST", HOST);
        assert_eq!(plan.platforms[0].endpoint.to_string(), expected, "{way}");
    }
    let text = on_aws(BY_KEY)
        .replace(HOST, "localhost:9443")
        .replace("kind", "region = \"eu-1\"\nkind");
    assert_eq!(
        plan(&text).platforms[0].endpoint.to_string(),
        "wss://localhost:9443/mqtt"
    );
}

#[test]
fn each_mistake_has_its_place_and_says_what_to_write() {
    use ProblemKind as K;
    let by_key = |line: &str| on_aws(&format!("{BY_KEY}\n{line}"));
    let authorized = |auth: &str| {
        on_aws(&format!(
            "connection = \"custom-authorizer\"\nauth = {{ type = \"custom_authorizer\", {auth} }}"
        ))
    };
    let host = |text: &str| on_aws(BY_KEY).replace(HOST, text);
    let cases = [
        (
            K::BadValue,
            on_aws("connection = \"mutual_tls\""),
            "\"mutual_tls\"",
            "did you mean \"mutual-tls\"?",
        ),
        (
            K::Missing,
            on_aws(""),
            "[platforms.local]",
            "type = \"x509\"",
        ),
        (
            K::Missing,
            on_aws("connection = \"custom-authorizer\""),
            "[platforms.local]",
            "token_key",
        ),
        (
            K::BadValue,
            by_key("auth = { type = \"x509\" }"),
            "\"x509\"",
            "goes with type = \"access_key\"",
        ),
        (
            K::BadValue,
            by_key("auth = { type = \"access_key\", credentials = \"chain\" }"),
            "\"chain\"",
            "\"default-chain\"",
        ),
        (
            K::BadValue,
            by_key(
                "auth = { type = \"access_key\", credentials = \"default-chain\", profile = \"a\" }",
            ),
            "profile",
            "keep one of the two",
        ),
        #[cfg(not(feature = "aws-default-credentials"))]
        (
            K::NotAvailable,
            by_key("auth = { type = \"access_key\", credentials = \"default-chain\" }"),
            "\"default-chain\"",
            "--features aws-default-credentials",
        ),
        (
            K::BadValue,
            by_key("keep_alive = \"20s\""),
            "\"20s\"",
            "from 30s to 20m",
        ),
        (
            K::BadValue,
            by_key("keep_alive = \"1201s\""),
            "\"1201s\"",
            "out of range",
        ),
        (
            K::BadValue,
            by_key("region = \"EU\""),
            "\"EU\"",
            "is no region",
        ),
        (
            K::BadValue,
            host("mqtt.example.com"),
            "\"mqtt.example.com\"",
            "write region",
        ),
        (
            K::BadValue,
            host("mqtts://bob:canary@h"),
            "\"mqtts://bob",
            "describe-endpoint",
        ),
        (K::BadValue, host("h:0"), "\"h:0\"", "no port"),
        (K::BadValue, host(""), "\"\"", "no host name"),
        (
            K::BadValue,
            by_key("offline = { drop = \"all\" }"),
            "\"all\"",
            "\"oldest\"",
        ),
        (
            K::BadValue,
            by_key("offline = { max_messages = -2 }"),
            "-2",
            "from 0 to 10000000",
        ),
        (K::BadValue, by_key("send_rate = 0"), "0", "out of range"),
        (K::UnknownKey, by_key("drop = 1"), "drop", "no such key"),
        (
            K::UnknownKey,
            by_key("topics = { status = \"a\" }"),
            "status",
            "known here: telemetry",
        ),
        (
            K::BadValue,
            by_key("topics = { telemetry = \"dt\" }"),
            "\"dt\"",
            "put {device} into",
        ),
        (
            K::BadTemplate,
            by_key("topics = { telemetry = \"1/2/3/4/5/6/7/8/{device}\" }"),
            "/{device}",
            "more than 8 levels",
        ),
        (
            K::BadValue,
            authorized("token = \"canary\""),
            "token = ",
            "does not belong into the fleet file",
        ),
        (
            K::Missing,
            authorized("token_key = \"t\""),
            "{ type",
            "token_file",
        ),
        (
            K::Missing,
            authorized("token_file = \"Cargo.toml\""),
            "{ type",
            "the parameter",
        ),
        (
            K::Unreadable,
            authorized("token_key = \"t\", token_env = \"NOPE\""),
            "\"NOPE\"",
            "no environment variable",
        ),
        (
            K::BadValue,
            on_aws(BY_KEY).replace("lab-{{index", "lab.{{index"),
            "\"lab.{{",
            "names of things",
        ),
        (
            K::BadValue,
            on_aws(BY_KEY).replace("[models.meter]", "[models.meter]\nqos = 2"),
            "\"lab-",
            "qos = 1",
        ),
        (
            K::BadValue,
            on_aws(BY_KEY).replace(
                "[models.meter]",
                "[models.meter]\ncommands.a = { reply = \"\" }",
            ),
            "\"lab-",
            "without commands",
        ),
    ];
    for (kind, text, at, message) in &cases {
        let found = std::panic::catch_unwind(|| mistake(text));
        let (found_kind, shown, found_at) = found.unwrap_or_else(|_| panic!("in\n{text}"));
        assert_eq!(found_kind, *kind, "{shown}");
        assert!(
            found_at.starts_with(at),
            "{shown}\nat {found_at:?}, not {at:?}"
        );
        assert!(shown.contains(message), "{shown}\nlacks {message:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn all_mistakes_of_a_platform_are_told_at_once() {
    let text = on_aws(
        "connection = \"websocket\"\nregion = \"EU\"\nkeep_alive = \"1s\"\nmetrics = 1\nx = 1",
    );
    assert_eq!(mistakes(&text).len(), 4);
}

#[test]
fn a_plain_broker_may_be_reached_over_websocket() {
    for (given, shown) in [
        ("ws://h", "ws://h:80/mqtt"),
        ("wss://h:8443/a/b", "wss://h:8443/a/b"),
        ("wss://h/", "wss://h:443/"),
    ] {
        let plan = plan(&GOOD.replace("mqtt://127.0.0.1:1883", given));
        assert_eq!(plan.platforms[0].endpoint.to_string(), shown);
        assert_eq!(plan.platforms[0].tls.is_some(), given.starts_with("wss"));
    }
    let text = GOOD.replace("mqtt://127.0.0.1:1883", "wss://h/mqtt?token=canary");
    let told = mistakes(&text);
    assert!(
        told[0].contains("query") && !told[0].contains("canary"),
        "{told:?}"
    );
}

#[test]
fn a_model_may_do_jobs_where_there_are_any() {
    let jobs = |text: &str| plan(text).models[0].jobs;
    let with = |jobs: &str| {
        on_aws(BY_KEY).replace("[models.meter]", &format!("[models.meter]\njobs = {jobs}"))
    };
    assert_eq!(jobs(&on_aws(BY_KEY)), None);
    assert_eq!(jobs(&with("{ on_job = \"ignore\" }")), None);
    let plan = jobs(&with(
        "{ on_job = \"succeed\", delay = \"2s\", fail = 0.25 }",
    ))
    .unwrap();
    assert_eq!(plan.on_job, OnJob::Succeed);
    assert_eq!((plan.delay, plan.fail), (Duration::from_secs(2), 0.25));
    for (on_job, planned) in [("fail", OnJob::Fail), ("reject", OnJob::Reject)] {
        let plan = jobs(&with(&format!("{{ on_job = {on_job:?} }}"))).unwrap();
        assert_eq!((plan.on_job, plan.delay), (planned, Duration::ZERO));
    }
    for (jobs, words) in [
        (
            "{ delay = \"2s\" }",
            "models.meter.jobs.on_job: it is missing",
        ),
        ("{ on_job = \"suceed\" }", "did you mean \"succeed\"?"),
        (
            "{ on_job = \"fail\", fail = 0.5 }",
            "the share of jobs that fail although",
        ),
        (
            "{ on_job = \"succeed\", fail = 2 }",
            "models.meter.jobs.fail: ",
        ),
        ("true", "models.meter.jobs: "),
    ] {
        let told = mistakes(&with(jobs));
        assert!(
            told.len() == 1 && told[0].contains(words),
            "{jobs}: {told:?}"
        );
    }
    let elsewhere = crate::with_line("[models.meter]", "jobs = { on_job = \"succeed\" }");
    let told = mistakes(&elsewhere);
    assert!(told[0].contains("which only AWS IoT has"), "{told:?}");
}
