//! Names that lead to the wrong place: another address of the same name is tried, and a name is asked for again at each
//! attempt.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::certs::write_file;
use crate::support::mosquitto::Mosquitto;
use crate::support::program::assert_accounted_for;

/// A loopback address at which no server is.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 77, 3, 9);

/// The program with a hosts file of its own. `None`, with the reason on stderr, where that cannot be had.
fn program_with_hosts(hosts: &Path) -> Option<Command> {
    let apart = |program: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"")
            .args(["sh".as_ref(), hosts.as_os_str(), program.as_ref()])
            .stdin(Stdio::null());
        command
    };
    let shown = apart("getent").args(["ahostsv4", "ship.test"]).output();
    if !shown.is_ok_and(|shown| shown.status.success()) {
        eprintln!(
            "skipped: a hosts file of one's own needs root, unshare and a writable mount namespace"
        );
        return None;
    }
    Some(apart(env!("CARGO_BIN_EXE_paquebot")))
}

fn hosts(addresses: &[Ipv4Addr]) -> String {
    let lines = addresses
        .iter()
        .map(|address| format!("{address} ship.test\n"));
    lines.collect()
}

#[test]
fn when_the_first_address_of_a_name_is_dead_the_next_one_is_tried_at_once() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    write_file(&file, &hosts(&[ELSEWHERE, Ipv4Addr::LOCALHOST]), 0o644);
    let Some(mut program) = program_with_hosts(&file) else {
        return;
    };
    let port = broker.plain_port().to_string();
    let output = program
        .args([
            "pub",
            "-h",
            "ship.test",
            "-p",
            &port,
            "-t",
            "t",
            "-m",
            "x",
            "-q",
            "1",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_name_that_moves_is_followed_at_the_next_attempt() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    write_file(&file, &hosts(&[ELSEWHERE]), 0o644);
    let Some(mut program) = program_with_hosts(&file) else {
        return;
    };
    let port = broker.plain_port();
    let fleet = folder.path().join("fleet.toml");
    let text = format!(
        r#"
[platforms.broker]
kind = "mqtt"
endpoint = "mqtt://ship.test:{port}"
reconnect = {{ base = "20ms", max = "100ms" }}
[models.meter]
interval = "50ms"
qos = 1
payload = '{{{{seq}}}}'
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = 1
id = "d-{{{{index:03}}}}"
"#
    );
    write_file(&fleet, &text, 0o644);
    // Where the name leads at first somebody answers the call and hangs up.
    let elsewhere = TcpListener::bind((ELSEWHERE, port)).unwrap();
    let mut child = program
        .args([
            "run",
            "-f",
            fleet.to_str().unwrap(),
            "--limit",
            "5",
            "--json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(elsewhere.accept().unwrap());
    write_file(&file, &hosts(&[Ipv4Addr::LOCALHOST]), 0o644);
    let mut summary = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut summary)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{summary}");
    let summary: Value = serde_json::from_str(summary.trim()).unwrap();
    assert_accounted_for(&summary);
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
}
