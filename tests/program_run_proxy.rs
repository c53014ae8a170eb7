//! `paquebot run` and `paquebot check` with a platform behind an HTTP proxy.
#![cfg(feature = "cli")]

use std::time::Duration;

use paquebot_emulator::Broker;

#[path = "support/support.rs"]
mod support;

use support::certs::write_file;
use support::program::{Program, assert_accounted_for};
use support::proxy::proxy;
use support::wait;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_fleet_goes_through_the_proxy_of_its_platform_with_the_password_of_a_file() {
    let broker = Broker::builder().tcp(([127, 0, 0, 1], 0));
    let broker = broker.start_on_thread().unwrap();
    let port = broker.tcp_address().unwrap().port();
    let (gate, requests) = proxy();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    write_file(&folder.path().join("gate.password"), "canary\n", 0o600);
    // A name that only the proxy knows.
    let text = format!(
        r#"
[platforms.broker]
kind = "mqtt"
endpoint = "mqtt://far.invalid:{port}"
proxy = {{ url = "http://127.0.0.1:{gate}", username = "crew", password_file = "gate.password" }}
[models.meter]
interval = "50ms"
payload = "x"
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = 2
id = "d-{{{{index}}}}"
"#
    );
    write_file(&file, &text, 0o644);
    let file = file.to_str().unwrap();
    let checked = Program::start(["check", "-f", file]).finish(LIMIT);
    assert_eq!(checked.code(), 0, "{checked:#?}");
    let through = format!("through the proxy http://127.0.0.1:{gate}\n");
    assert!(checked.output.contains(&through), "{checked:#?}");

    let program = Program::start(["run", "--json", "-f", file]);
    wait::until("something is received", LIMIT, || {
        broker.stats().received_total() > 0
    });
    program.signal("TERM");
    let ended = program.finish(LIMIT);
    let summary = ended.summary();
    assert_accounted_for(&summary);
    assert!(summary["online_peak"].as_u64() >= Some(1), "{summary}");
    let asked = requests.recv().unwrap();
    let tunnel = format!("CONNECT far.invalid:{port} HTTP/1.1\r\n");
    assert!(asked.starts_with(&tunnel), "{asked}");
    // Basic, crew:canary.
    assert!(asked.contains("Basic Y3JldzpjYW5hcnk="), "{asked}");
    for told in [
        &checked.output,
        &checked.errors,
        &ended.output,
        &ended.errors,
    ] {
        assert!(!told.contains("canary"), "{told}");
    }
}
