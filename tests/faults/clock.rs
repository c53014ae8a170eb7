//! Clocks that are not what they were: a machine that has run for ten years, and a process that slept.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::certs::write_file;
use crate::support::mosquitto::Mosquitto;
use crate::support::program::{Program, assert_accounted_for};
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// Ten years in seconds.
const AGE: &str = "315360000";

fn fleet_file(folder: &std::path::Path, port: u16) -> String {
    let path = folder.join("fleet.toml");
    let text = format!(
        r#"
[fleet]
name = "clock"
drain_timeout = "5s"
[platforms.broker]
kind = "mqtt"
endpoint = "mqtt://127.0.0.1:{port}"
keep_alive = "1s"
reconnect = {{ base = "50ms", max = "200ms" }}
[models.meter]
interval = "100ms"
qos = 1
payload = '{{{{seq}}}}'
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = 5
id = "d-{{{{index:03}}}}"
"#
    );
    write_file(&path, &text, 0o644);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_machine_that_has_run_for_ten_years_is_like_any_other() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let aged = ["--time", "--fork", "--monotonic", AGE, "--boottime", AGE];
    let uptime = Command::new("unshare")
        .args(aged)
        .args(["cat", "/proc/uptime"])
        .output();
    if !uptime.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("3153")) {
        eprintln!("skipped: time namespaces need root, unshare and a kernel that has them");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = fleet_file(folder.path(), broker.plain_port());
    let output = Command::new("unshare")
        .args(aged)
        .arg(env!("CARGO_BIN_EXE_paquebot"))
        .args(["run", "-f", &file, "--duration", "3s", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], 5, "{summary}");
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
    // Ten a second and device, and more than a keep alive long.
    let telemetry = summary["telemetry"].as_u64().unwrap();
    assert!((50..=160).contains(&telemetry), "{summary}");
}

#[test]
fn a_process_that_slept_for_many_keep_alives_comes_back_without_a_storm() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = fleet_file(folder.path(), broker.plain_port());
    let program = Program::start(["run", "-f", &file, "--json", "--no-admin"]);
    let connected = || broker.log().matches("New client connected").count();
    wait::until("all are connected", LIMIT, || connected() == 5);
    program.signal("STOP");
    wait::until("the broker has given them up", LIMIT, || {
        broker.log().matches("exceeded timeout").count() >= 5
    });
    program.signal("CONT");
    wait::until("all are back", LIMIT, || connected() >= 10);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(connected(), 10, "{}", broker.log());
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
}
