//! `paquebot emulate`: clients connect as they would to the cloud, and the certificates outlive the program.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::program::Program;

const LIMIT: Duration = Duration::from_secs(60);

fn emulate(folder: &Path, more: &[&str]) -> Program {
    let folder = folder.to_str().unwrap();
    let fixed = ["emulate", "aws", "--dir", folder, "--port", "0"];
    let free = ["--shared-port", "0", "--https-port", "0"];
    Program::start(fixed.iter().chain(&free).chain(more))
}

/// The port that the program told behind a title.
fn port(program: &Program, title: &str) -> String {
    let told = program.told(title, LIMIT);
    let address = told.split(',').next().unwrap();
    let address = address.split(' ').next().unwrap();
    address.rsplit(':').next().unwrap().to_owned()
}

fn publish(folder: &Path, port: &str, more: &[&str]) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (
        file("ca.pem"),
        file("clients/pump.pem"),
        file("clients/pump.key"),
    );
    let fixed = [
        "pub",
        "-h",
        "localhost",
        "-p",
        port,
        "-i",
        "pump",
        "-q",
        "1",
    ];
    let tls = [
        "--cafile",
        &*authority,
        "--cert",
        &*certificate,
        "--key",
        &*key,
        "-t",
        "t",
        "-m",
        "x",
    ];
    let ended = Program::start(fixed.iter().chain(&tls).chain(more)).finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
}

#[test]
fn a_client_with_its_certificate_publishes_before_and_after_a_new_start() {
    let folder = TempDir::new().unwrap();
    let mut certificates = Vec::new();
    for _ in 0..2 {
        let program = emulate(folder.path(), &["--thing", "pump"]);
        publish(folder.path(), &port(&program, "mqtt"), &[]);
        let alpn = ["--tls-alpn", "x-amzn-mqtt-ca"];
        publish(folder.path(), &port(&program, "shared"), &alpn);
        let file = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        certificates.push((
            file("ca.pem"),
            file("clients/pump.pem"),
            file("clients/pump.key"),
        ));
        let told = program.errors();
        for line in [
            " sub --platform aws -h localhost -p ",
            "mosquitto_pub ",
            "AWSIoTMQTTClient(\"pump\")",
        ] {
            assert!(told.contains(line), "{line:?} is not in\n{told}");
        }
        program.signal("TERM");
        let ended = program.finish(LIMIT);
        assert_eq!(ended.code(), 0, "{ended:#?}");
        assert!(ended.output.contains("2 messages received"), "{ended:#?}");
    }
    assert_eq!(certificates[0], certificates[1]);
}

#[cfg(unix)]
#[test]
fn only_their_owner_may_read_the_keys() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    emulate(folder.path(), &["--thing", "pump", "--duration", "10ms"]).finish(LIMIT);
    for key in ["ca.key", "server.key", "clients/pump.key"] {
        let mode = fs::metadata(folder.path().join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn for_programs_it_tells_where_it_listens_and_sums_up_in_json() {
    let folder = TempDir::new().unwrap();
    let ended = emulate(folder.path(), &["--json", "--duration", "100ms"]).finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
    let lines: Vec<Value> = ended
        .output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [places, summary] = lines.as_slice() else {
        panic!("{ended:#?}");
    };
    assert!(
        places["mqtt"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{places}"
    );
    assert_eq!(places["things"][0]["name"], "thing-1");
    assert_eq!(summary["connects_accepted"], 0);
}

#[test]
fn what_it_cannot_use_ends_it_with_status_2() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
    fs::write(folder.path().join("ca.key"), "no key").unwrap();
    let ended = emulate(folder.path(), &[]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains("ca.pem"), "{ended:#?}");
    let elsewhere = TempDir::new().unwrap();
    let ended = emulate(elsewhere.path(), &["--listen", "0.0.0.0"]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains("loopback"), "{ended:#?}");
    let ended = emulate(elsewhere.path(), &["--thing", "../x"]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
}

/// The command that the program printed under a title.
fn command(told: &str, title: &str) -> String {
    let (_, rest) = told
        .split_once(&format!("\n# {title}\n"))
        .unwrap_or_else(|| panic!("no {title:?} in\n{told}"));
    let rest = rest.split("\n\n").next().unwrap();
    rest.trim_end().to_owned()
}

/// Runs it in a shell, in a directory of its own.
fn shell(command: &str) -> std::process::Child {
    let elsewhere = std::env::temp_dir();
    Command::new("sh")
        .args(["-c", command])
        .current_dir(elsewhere)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn output(command: &str) -> String {
    let output = shell(command).wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

#[test]
fn every_command_line_that_it_prints_works_in_another_directory() {
    let folder = TempDir::new().unwrap();
    // A relative directory with a space in its name.
    let program = Program::start_in(
        folder.path(),
        [
            "emulate",
            "aws",
            "--dir",
            "my aws",
            "--thing",
            "pump",
            "--template",
            "line=SerialNumber",
            "--port",
            "0",
            "--shared-port",
            "0",
            "--https-port",
            "0",
        ],
    );
    program.told("log ", LIMIT);
    let told = support::wait::until_some("the whole text", LIMIT, || {
        let told = program.errors();
        (told.matches("\nEND\n").count() == 2).then_some(told)
    });
    let mut listener = shell(&format!("exec {}", command(&told, "listen in")));
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let (tell, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let first = lines.next();
        let _ = tell.send(first.and_then(Result::ok).unwrap_or_default());
        lines.for_each(drop);
    });
    let report = command(&told, "report a state, as the thing does");
    // The one that listens says nothing when it is ready.
    let first = support::wait::until_some("it is heard", LIMIT, || {
        output(&report);
        heard.recv_timeout(Duration::from_millis(200)).ok()
    });
    assert!(first.starts_with("$aws/things/pump/shadow/"), "{first}");
    let claim = command(&told, "provision a thing with a template");
    let (cargo, arguments) = claim.split_once(" -- ").unwrap();
    assert!(cargo.ends_with("--example aws_provisioning"), "{cargo}");
    let programs = std::env::current_exe().unwrap();
    let programs = programs.parent().and_then(Path::parent).unwrap();
    let example = programs.join("examples/aws_provisioning");
    let provisioned = output(&format!("'{}' {arguments}", example.display()));
    assert_eq!(provisioned, "provisioned: serial-1\npublished: true\n");
    let fleet = command(
        &told,
        "run the fleet file of the examples, with the access key",
    );
    let run = output(&format!("{fleet} --no-admin --json --duration 6s"));
    let summary: Value = serde_json::from_str(run.lines().last().unwrap()).unwrap();
    assert_eq!(summary["online_peak"], 10, "{summary}");
    if is_installed("curl") {
        output(&command(&told, "desire a state, as an application does"));
        let shadow = output(&command(&told, "look at the shadow"));
        let shadow: Value = serde_json::from_str(&shadow).unwrap();
        assert_eq!(shadow["state"]["desired"]["led"], "on");
        assert_eq!(shadow["state"]["reported"]["led"], "off");
        let made = output(&command(&told, "make a job"));
        let made: Value = serde_json::from_str(&made).unwrap();
        let jobs = output(&command(&told, "look at the jobs"));
        let jobs: Value = serde_json::from_str(&jobs).unwrap();
        assert_eq!(jobs["jobs"][0]["jobId"], made["jobId"]);
        assert_eq!(jobs["jobs"][0]["status"], "IN_PROGRESS");
    }
    if is_installed("mosquitto_pub") {
        output(&command(&told, "publish with mosquitto"));
        output(&command(&told, "the same through AWS's port 443"));
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/aws_sdks/bin/python");
    if python.exists() {
        let python = python.display().to_string();
        for title in [
            "Amazon's SDK for Python (pip install AWSIoTPythonSDK)",
            "the same over WebSocket",
        ] {
            output(&command(&told, title).replacen("python3", &python, 1));
        }
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
    reader.join().unwrap();
    program.signal("TERM");
    let ended = program.finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
}

#[test]
fn whom_it_turns_away_is_said_without_being_asked() {
    let folder = TempDir::new().unwrap();
    let program = emulate(folder.path(), &["--thing", "pump"]);
    let port = port(&program, "mqtt");
    let plain = ["pub", "-h", "localhost", "-p", &port, "-t", "t", "-m", "x"];
    let ended = Program::start(plain).finish(LIMIT);
    assert_ne!(ended.code(), 0, "{ended:#?}");
    support::wait::until_some("it is said", LIMIT, || {
        let wanted = format!("it speaks plain MQTT to the TLS port {port}");
        program.errors().contains(&wanted).then_some(())
    });
}

#[test]
fn an_authorizer_wants_a_public_key_that_is_one() {
    let folder = TempDir::new().unwrap();
    let key = folder.path().join("public.pem");
    fs::write(&key, "no key").unwrap();
    let authorizer = ["--authorizer", "gate", "--authorizer-token-key", "tok"];
    let file = ["--authorizer-public-key", key.to_str().unwrap()];
    let all: Vec<&str> = authorizer.into_iter().chain(file).collect();
    let ended = emulate(folder.path(), &all).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains("public.pem"), "{ended:#?}");
    let ended = emulate(folder.path(), &authorizer).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    let program = emulate(folder.path(), &authorizer[..2]);
    assert_eq!(program.told("authorizer", LIMIT), "gate");
}

#[test]
fn under_a_policy_everybody_may_do_what_it_says_and_no_more() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("policy.json");
    let policy = ["--thing", "pump", "--policy", file.to_str().unwrap()];
    fs::write(&file, r#"{"Statement":[{"Effect":"Allow"}]}"#).unwrap();
    let ended = emulate(folder.path(), &policy).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(
        ended.errors.contains("policy.json") && ended.errors.contains("no Action"),
        "{ended:#?}"
    );
    let allowed = r#"{"Statement":[
        {"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:us-east-1:1:client/pump"},
        {"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:1:topic/a/*"}]}"#;
    fs::write(&file, allowed).unwrap();
    let program = emulate(folder.path(), &policy);
    let port = port(&program, "mqtt");
    publish(folder.path(), &port, &["-t", "a/b", "-m", "x"]);
    let client = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (
        client("ca.pem"),
        client("clients/pump.pem"),
        client("clients/pump.key"),
    );
    let other = [
        "pub",
        "-h",
        "localhost",
        "-p",
        &port,
        "-i",
        "other",
        "-t",
        "a/b",
        "-m",
        "x",
        "--cafile",
        &authority,
        "--cert",
        &certificate,
        "--key",
        &key,
    ];
    let ended = Program::start(other).finish(LIMIT);
    assert_ne!(ended.code(), 0, "{ended:#?}");
    support::wait::until_some("it is said", LIMIT, || {
        let errors = program.errors();
        (errors.contains("client \"other\"") && errors.contains("iot:Connect")).then_some(())
    });
}
