//! `paquebot emulate`: clients connect as they would to the cloud, and the certificates outlive the program.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::program::Program;
use support::wait;

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
            "paquebot sub -h localhost -p ",
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

#[test]
fn the_fleet_file_of_the_examples_runs_with_the_line_that_is_printed() {
    let folder = TempDir::new().unwrap();
    let cloud = emulate(folder.path(), &[]);
    let line = cloud.told("fleet ", LIMIT);
    let (variables, arguments) = line.split_once(" paquebot ").unwrap();
    let variables: Vec<_> = variables
        .split(' ')
        .map(|variable| variable.split_once('=').unwrap())
        .collect();
    // The folder has no letter that a shell would need quotes for.
    let arguments = arguments.split(' ').chain(["--no-admin"]);
    let program = Program::start_with(&variables, arguments);
    wait::until("all are online", LIMIT, || {
        program.errors().contains("10 of 10 online")
    });
    program.signal("TERM");
    let ended = program.finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
    cloud.signal("TERM");
    assert_eq!(cloud.finish(LIMIT).code(), 0);
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
