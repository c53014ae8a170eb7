//! Amazon's own Python SDKs against the emulator of AWS IoT Core: what they are told to do, they get done.
//!
//! `tests/run` installs the SDKs in a virtual environment below `target/`; without it these tests name what
//! they miss and pass.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use paquebot_emulator::aws::services::{
    CoreConnectivity, GreengrassCore, GreengrassGroup, JobStatus, ProvisioningTemplate,
};
use paquebot_emulator::aws::{Authorizer, Aws};
use paquebot_emulator::mqtt::{QoS, Sender, Topic, TopicFilter};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

#[path = "support/aws_traces.rs"]
mod aws_traces;

use aws_traces::{JOBS, NAMED_SHADOW, PLAIN, SHADOW_CALL_BY_CALL, SHADOW_PERSISTENTLY, lines};

/// Longer than any script takes.
const LIMIT: Duration = Duration::from_secs(90);

const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "TOK/EN+with=specials";

/// The interpreter of the virtual environment.
fn python() -> Option<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let python = target.join("aws_sdks/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(
        env::var_os("PAQUEBOT_REQUIRE_PEERS").is_none_or(|value| value != "1"),
        "{} is missing and PAQUEBOT_REQUIRE_PEERS=1: run tests/run to install Amazon's SDKs",
        python.display()
    );
    eprintln!("skipped: Amazon's SDKs are not installed; tests/run installs them");
    None
}

/// A running emulator and what it takes to run scripts against it.
struct Stage {
    python: PathBuf,
    aws: Aws,
    folder: TempDir,
}

impl Stage {
    async fn set() -> Option<Self> {
        let python = python()?;
        let folder = TempDir::new().unwrap();
        let aws = Aws::builder()
            .directory(folder.path())
            .access_key(ACCESS_KEY, SECRET_KEY, Some(SESSION_TOKEN))
            .authorizer(
                Authorizer::new("gate")
                    .token("tok", "t1")
                    .signature("c2ln+/=")
                    .username("fisher")
                    .password("s3cret"),
            )
            .start()
            .await
            .unwrap();
        Some(Self {
            python,
            aws,
            folder,
        })
    }

    /// What every script is told.
    fn endpoint(&self) -> Value {
        let certificate = self.aws.client_certificate("sdk").unwrap().paths.unwrap();
        json!({
            "mqtt_port": self.aws.mqtt_address().port(),
            "shared_port": self.aws.shared_address().port(),
            "https_port": self.aws.https_address().port(),
            "ca": self.aws.authority_path(),
            "certificate": certificate.certificate,
            "key": certificate.private_key,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            "session_token": SESSION_TOKEN,
            "folder": self.folder.path(),
        })
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Script {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws_sdks");
        let mut child = Command::new(&self.python)
            .arg("-B")
            .arg(scripts.join(script))
            .arg(self.endpoint().to_string())
            .args(arguments)
            .env_remove("PYTHONPATH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Script {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }
}

/// A running script: it says what it did, line by line, and at some places waits to be told to go on.
struct Script {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// The next thing that the script says, which has to be this step.
    async fn step(&mut self, name: &str) -> Value {
        let line = tokio::time::timeout(LIMIT, self.output.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            panic!("the script ended or hung before {name:?}: {line:?}");
        };
        let step: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(step["step"], name, "{line}");
        step
    }

    async fn go_on(&mut self) {
        self.input.write_all(b"\n").await.unwrap();
    }

    async fn end(mut self) {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        assert!(status.unwrap().unwrap().success());
    }
}

async fn the_first_generation_talks(arguments: &[&str], principal_of: impl Fn(&Stage) -> String) {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut recording = stage.aws.broker().record();
    let mut script = stage.run("v1_plain.py", arguments);
    assert_eq!(script.step("connected").await["ok"], true);
    assert_eq!(script.step("subscribed").await["ok"], true);
    let received = script.step("received").await;
    let expected = json!([["sdk/test/Python", "m0"], ["sdk/test/Python", "m1"]]);
    assert_eq!(received["messages"], expected);
    script.step("online").await;
    let client = stage.aws.broker().client("basicPubSub").unwrap();
    assert_eq!(client.principal.as_deref(), Some(&*principal_of(&stage)));
    assert_eq!(client.keep_alive, 600);
    script.go_on().await;
    script.step("done").await;
    script.end().await;
    until_gone(&stage.aws).await;
    assert_eq!(lines(&mut recording, Sender::Client), PLAIN);
}

/// Waits until nobody is connected any more.
async fn until_gone(aws: &Aws) {
    let gone = aws.broker().wait_for(|stats| stats.connections == 0, LIMIT);
    gone.await.unwrap();
}

#[tokio::test]
async fn the_first_generation_talks_with_a_certificate() {
    the_first_generation_talks(&[], |stage| {
        stage.aws.client_certificate("sdk").unwrap().certificate_id
    })
    .await;
}

#[tokio::test]
async fn the_first_generation_talks_over_a_signed_websocket() {
    the_first_generation_talks(&["websocket"], |_| ACCESS_KEY.to_owned()).await;
}

/// What arrives of seven messages that were published without a connection.
async fn the_first_generation_drains_its_queue(drops: &str, kept: [u32; 5]) {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let broker = stage.aws.broker();
    let mut recording = stage.aws.broker().record();
    let mut script = stage.run("v1_offline.py", &[drops]);
    script.step("online").await;
    let mut arrived = broker.watch(TopicFilter::new("o/#").unwrap());
    broker.faults().restart_losing_sessions(LIMIT);
    script.go_on().await;
    let queued = script.step("queued").await;
    let expected = json!([false, false, false, false, false, "full", "full"]);
    assert_eq!(queued["results"], expected);
    broker.faults().clear();
    script.go_on().await;
    script.step("back").await;
    for number in kept {
        let message = tokio::time::timeout(LIMIT, arrived.recv()).await;
        let message = message.unwrap().unwrap();
        assert_eq!(message.topic.as_str(), format!("o/{number}"));
        assert_eq!(message.qos as u32, number % 2);
        if number == kept[0] {
            // What is published while the queue drains goes behind it.
            script.go_on().await;
        }
    }
    let last = tokio::time::timeout(LIMIT, arrived.recv()).await;
    assert_eq!(last.unwrap().unwrap().topic.as_str(), "o/live");
    for topic in ["t/a", "t/b"] {
        broker.publish(Topic::new(topic).unwrap(), "y", QoS::AtLeastOnce, false);
    }
    let received = script.step("received").await;
    assert_eq!(received["messages"], json!([["t/a", "y"], ["t/b", "y"]]));
    script.step("done").await;
    script.end().await;
    until_gone(&stage.aws).await;
    let connect = "CONNECT offline 600 clean ?SDK=Python&Version=1.6.2".to_owned();
    let mut expected = vec![
        connect.clone(),
        "SUBSCRIBE 1 t/a q1".to_owned(),
        "SUBSCRIBE 2 t/b q0".to_owned(),
        connect,
        "SUBSCRIBE 3 t/a q1".to_owned(),
        "SUBSCRIBE 4 t/b q0".to_owned(),
    ];
    for (number, id) in kept.into_iter().zip(5..) {
        let qos = number % 2;
        // Messages of QoS 0 take an identifier as well, and do not show it.
        let id = if qos == 0 { 0 } else { id };
        expected.push(format!("PUBLISH {id} q{qos} o/{number} x"));
    }
    expected.push("PUBLISH 10 q1 o/live x".to_owned());
    expected.push("DISCONNECT".to_owned());
    assert_eq!(lines(&mut recording, Sender::Client), expected);
}

#[tokio::test]
async fn the_first_generation_drains_its_queue_without_the_newest() {
    the_first_generation_drains_its_queue("newest", [1, 2, 3, 4, 5]).await;
}

#[tokio::test]
async fn the_first_generation_drains_its_queue_without_the_oldest() {
    the_first_generation_drains_its_queue("oldest", [3, 4, 5, 6, 7]).await;
}

async fn the_second_generation_talks(entrance: &str, version: &str) {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut script = stage.run("v2_plain.py", &[entrance, version]);
    let connected = script.step("connected").await;
    assert_eq!(connected["session_present"], false);
    if version == "5" {
        assert_eq!(connected["maximum_qos"], 1);
        assert_eq!(connected["server_keep_alive"], 1200);
    }
    assert_eq!(script.step("subscribed").await["qos"], 1);
    let received = script.step("received").await;
    let expected = json!([["sdk/test/Python", "m0"], ["sdk/test/Python", "m1"]]);
    assert_eq!(received["messages"], expected);
    script.step("online").await;
    let client = stage.aws.broker().client("pubsub").unwrap();
    let principal = match entrance {
        "certificate" => stage.aws.client_certificate("sdk").unwrap().certificate_id,
        "websocket" => ACCESS_KEY.to_owned(),
        _ => "gate".to_owned(),
    };
    assert_eq!(client.principal.as_deref(), Some(&*principal));
    script.go_on().await;
    script.step("done").await;
    script.end().await;
}

#[tokio::test]
async fn the_second_generation_talks_with_a_certificate() {
    the_second_generation_talks("certificate", "3").await;
}

#[tokio::test]
async fn the_second_generation_talks_with_a_certificate_and_mqtt_5() {
    the_second_generation_talks("certificate", "5").await;
}

#[tokio::test]
async fn the_second_generation_talks_over_a_signed_websocket() {
    the_second_generation_talks("websocket", "3").await;
}

#[tokio::test]
async fn the_second_generation_talks_over_a_signed_websocket_and_mqtt_5() {
    the_second_generation_talks("websocket", "5").await;
}

// With MQTT 3.1.1 the SDK insists on port 443 here.
#[tokio::test]
async fn the_second_generation_talks_with_a_custom_authorizer_and_mqtt_5() {
    the_second_generation_talks("authorizer", "5").await;
}

#[tokio::test]
async fn the_second_generation_talks_over_a_websocket_with_a_custom_authorizer() {
    the_second_generation_talks("websocket_authorizer", "3").await;
}

async fn the_first_generation_keeps_a_shadow(entrance: &str, persistence: &str) {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut recording = stage.aws.broker().record();
    let mut script = stage.run("v1_shadow.py", &[entrance, persistence]);
    let nothing = script.step("get nothing").await;
    assert_eq!(nothing["status"], "rejected");
    assert_eq!(nothing["body"]["code"], 404);
    let desired = script.step("desire").await;
    assert_eq!(desired["status"], "accepted", "{desired}");
    assert_eq!(desired["is_same_token"], true);
    assert_eq!(desired["body"]["version"], 1);
    let delta = script.step("delta").await;
    assert_eq!(delta["message"][0], "delta/Bot");
    assert_eq!(delta["message"][1]["state"], json!({"p": 1}));
    assert_eq!(script.step("report").await["body"]["version"], 2);
    let document = script.step("get").await;
    let state = json!({"desired": {"p": 1}, "reported": {"p": 1}});
    assert_eq!(document["body"]["state"], state);
    assert_eq!(document["body"]["version"], 2);
    script.step("listening").await;
    let wish = json!({"q": [1, 2]});
    stage
        .aws
        .tell(|services, now| services.set_desired("Bot", None, &wish, now))
        .unwrap();
    script.go_on().await;
    let delta = script.step("delta of an application").await;
    assert_eq!(delta["message"][1]["state"], wish);
    assert_eq!(delta["message"][1]["version"], 3);
    let deleted = script.step("delete").await;
    assert_eq!(deleted["status"], "accepted");
    assert_eq!(deleted["body"]["version"], 3);
    assert_eq!(script.step("delete nothing").await["status"], "rejected");
    script.step("done").await;
    script.end().await;
    assert!(
        stage
            .aws
            .services(|services| services.shadow("Bot", None))
            .is_none()
    );
    until_gone(&stage.aws).await;
    let said = lines(&mut recording, Sender::Client);
    if persistence == "persistent" {
        assert_eq!(said, SHADOW_PERSISTENTLY);
    } else {
        assert_eq!(said, SHADOW_CALL_BY_CALL);
    }
}

#[tokio::test]
async fn the_first_generation_keeps_a_shadow_persistently() {
    the_first_generation_keeps_a_shadow("certificate", "persistent").await;
}

#[tokio::test]
async fn the_first_generation_keeps_a_shadow_call_by_call() {
    the_first_generation_keeps_a_shadow("certificate", "per call").await;
}

#[tokio::test]
async fn the_first_generation_keeps_a_shadow_over_a_websocket() {
    the_first_generation_keeps_a_shadow("websocket", "persistent").await;
}

impl Stage {
    fn create_job(&self) {
        let document = json!({"operation": "reboot"});
        self.aws
            .tell(|services, now| services.create_job("job1", &document, &["Bot"], now))
            .unwrap();
    }

    fn assert_job_succeeded(&self) {
        let executions = self.aws.services(|services| services.job_executions("Bot"));
        assert_eq!(executions.len(), 1);
        assert_eq!(executions[0].status, JobStatus::Succeeded);
    }
}

#[tokio::test]
async fn the_first_generation_does_a_job() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut recording = stage.aws.broker().record();
    let mut script = stage.run("v1_jobs.py", &[]);
    script.step("listening").await;
    stage.create_job();
    script.go_on().await;
    let notified = script.step("notified").await;
    assert_eq!(notified["topic"], "$aws/things/Bot/jobs/notify-next");
    assert_eq!(notified["body"]["execution"]["jobId"], "job1");
    let pending = script.step("pending").await;
    assert_eq!(pending["topic"], "$aws/things/Bot/jobs/get/accepted");
    assert_eq!(pending["body"]["queuedJobs"][0]["jobId"], "job1");
    assert_eq!(pending["body"]["clientToken"], "jobs-client");
    let started = script.step("started").await;
    let execution = &started["body"]["execution"];
    assert_eq!(execution["status"], "IN_PROGRESS");
    assert_eq!(execution["statusDetails"], json!({"by": "test"}));
    assert_eq!(execution["versionNumber"], 2);
    let described = script.step("described").await;
    let document = &described["body"]["execution"]["jobDocument"];
    assert_eq!(document, &json!({"operation": "reboot"}));
    let mut topics = Vec::new();
    for _ in 0..2 {
        topics.push(script.step("updated").await["topic"].clone());
    }
    assert!(
        topics.contains(&"$aws/things/Bot/jobs/job1/update/accepted".into()),
        "{topics:?}"
    );
    assert!(
        topics.contains(&"$aws/things/Bot/jobs/notify-next".into()),
        "{topics:?}"
    );
    script.step("done").await;
    script.end().await;
    stage.assert_job_succeeded();
    until_gone(&stage.aws).await;
    assert_eq!(lines(&mut recording, Sender::Client), JOBS);
}

#[tokio::test]
async fn the_first_generation_discovers_its_cores() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let group = GreengrassGroup {
        group_id: "group".to_owned(),
        cores: vec![GreengrassCore {
            thing_arn: "arn:core".to_owned(),
            connectivity: vec![CoreConnectivity {
                id: "lan".to_owned(),
                host_address: "192.0.2.7".to_owned(),
                port: 8883,
                metadata: String::new(),
            }],
        }],
        certificate_authorities: vec![stage.aws.authority_pem().to_owned()],
    };
    stage
        .aws
        .services(|services| services.set_discovery("Bot", vec![group]));
    let mut script = stage.run("v1_discovery.py", &[]);
    script.step("nothing").await;
    let found = script.step("found").await;
    assert_eq!(found["group"], "group");
    assert_eq!(found["core"], "arn:core");
    assert_eq!(found["hosts"], json!(["192.0.2.7"]));
    script.step("done").await;
    script.end().await;
}

#[tokio::test]
async fn the_second_generation_keeps_a_named_shadow() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut recording = stage.aws.broker().record();
    let mut script = stage.run("v2_shadow.py", &[]);
    let nothing = script.step("get nothing").await;
    assert_eq!(nothing["code"], 404, "{nothing}");
    assert_eq!(script.step("desire").await["version"], 1);
    assert_eq!(script.step("delta").await["state"], json!({"p": 1}));
    let wish = json!({"p": 2});
    stage
        .aws
        .tell(|services, now| services.set_desired("Bot", Some("config"), &wish, now))
        .unwrap();
    script.go_on().await;
    assert_eq!(script.step("delta of an application").await["state"], wish);
    assert_eq!(script.step("report").await["version"], 3);
    let document = script.step("get").await;
    assert_eq!(document["desired"], wish);
    assert_eq!(document["reported"], wish);
    assert_eq!(script.step("delete").await["version"], 3);
    // Else it may hang up before it gives its last subscription up, and of that there is no event.
    let settled = stage
        .aws
        .broker()
        .wait_for(|stats| stats.subscriptions == 1, LIMIT);
    settled.await.unwrap();
    script.go_on().await;
    script.step("done").await;
    script.end().await;
    until_gone(&stage.aws).await;
    assert_eq!(lines(&mut recording, Sender::Client), NAMED_SHADOW);
}

#[tokio::test]
async fn the_second_generation_does_a_job() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut script = stage.run("v2_jobs.py", &[]);
    script.step("listening").await;
    stage.create_job();
    script.go_on().await;
    assert_eq!(script.step("notified").await["job"], "job1");
    assert_eq!(script.step("pending").await["jobs"], json!(["job1"]));
    let started = script.step("started").await;
    assert_eq!(started["document"], json!({"operation": "reboot"}));
    assert_eq!(script.step("refused").await["code"], "VersionMismatch");
    assert_eq!(script.step("succeeded").await["is_last"], true);
    script.step("done").await;
    script.end().await;
    stage.assert_job_succeeded();
}

#[tokio::test]
async fn the_second_generation_is_provisioned_and_connects_as_itself() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let configuration = BTreeMap::from([("region".to_owned(), "north".to_owned())]);
    let template = ProvisioningTemplate::named_after("SerialNumber", "pump-", configuration);
    stage
        .aws
        .services(|services| services.add_template("fleet", template));
    let mut script = stage.run("v2_provisioning.py", &[]);
    let certificate = script.step("certificate").await;
    script.step("refused").await;
    let registered = script.step("registered").await;
    assert_eq!(registered["name"], "pump-7");
    assert_eq!(registered["configuration"], json!({"region": "north"}));
    script.step("online").await;
    let client = stage.aws.broker().client("pump-7").unwrap();
    assert_eq!(client.principal.as_deref(), certificate["id"].as_str());
    script.go_on().await;
    script.step("done").await;
    script.end().await;
}

#[tokio::test]
async fn a_request_that_the_second_generation_signed_is_a_known_one() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let mut watch = stage.aws.broker().watch(TopicFilter::new("#").unwrap());
    // Signing escapes the escapes of the path once more.
    let mut script = stage.run("v2_rest.py", &["/topics/a%2Fb%20c?qos=1"]);
    assert_eq!(script.step("accepted").await["status"], 200);
    assert_eq!(script.step("refused").await["status"], 403);
    script.step("done").await;
    script.end().await;
    let message = watch.recv().await.unwrap();
    assert_eq!(message.topic.as_str(), "a/b c");
    assert_eq!(message.payload, "hello");
    assert!(watch.try_recv().is_none());
}
