//! `paquebot run` with a group on AWS IoT, before the emulator of it: a thousand things whose shadows are in step.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot_emulator::aws::Aws;
use serde_json::{Value, json};

#[path = "support/support.rs"]
mod support;

use support::certs::write_file;
use support::program::{Program, assert_accounted_for};
use support::wait;

const LIMIT: Duration = Duration::from_secs(90);
const THINGS: usize = 1_000;

fn name(index: usize) -> String {
    format!("pump-{index:04}")
}

/// How many things have a shadow that `is_so`.
fn count(cloud: &Aws, is_so: impl Fn(&Value) -> bool) -> usize {
    cloud.services(|services| {
        let shadows = (0..THINGS).filter_map(|index| services.shadow(&name(index), None));
        shadows.filter(is_so).count()
    })
}

fn desire(cloud: &Aws, indexes: impl Iterator<Item = usize>, desired: &Value) {
    for index in indexes {
        cloud
            .tell(|services, now| services.set_desired(&name(index), None, desired, now))
            .unwrap();
    }
}

#[test]
fn a_thousand_things_keep_their_shadows_in_step_over_a_cut() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let cloud = Aws::builder().directory(folder.path());
    let cloud = runtime.block_on(cloud.start()).unwrap();
    let files = cloud.client_certificate("fleet").unwrap().paths.unwrap();
    let file = folder.path().join("fleet.toml");
    let text = format!(
        r#"
[platforms.cloud]
kind = "aws"
endpoint = "localhost:{port}"
auth = {{ type = "x509", cert = {certificate:?}, key = {key:?} }}
ca_file = {authority:?}
reconnect = {{ base = "200ms", max = "2s" }}
[models.pump]
interval = {{ every = "1s", jitter = "500ms" }}
payload = '{{"seq":{{{{seq}}}}}}'
state = {{ reported = {{ fw = "1.4.2" }}, on_desired = "apply" }}
[[groups]]
name = "pumps"
platform = "cloud"
model = "pump"
count = {THINGS}
id = "pump-{{{{index:04}}}}"
"#,
        port = cloud.mqtt_address().port(),
        certificate = files.certificate,
        key = files.private_key,
        authority = cloud.authority_path().unwrap(),
    );
    write_file(&file, &text, 0o644);
    let program = Program::start(["run", "--json", "--no-admin", "-f", file.to_str().unwrap()]);
    let fw = |shadow: &Value| shadow["state"]["reported"]["fw"] == "1.4.2";
    wait::until("all things reported", LIMIT, || count(&cloud, fw) == THINGS);

    // Half of it is desired while everybody is there, half while nobody is.
    desire(&cloud, (0..THINGS).step_by(2), &json!({"mode": "eco"}));
    wait::until("some are in step", LIMIT, || {
        count(&cloud, |shadow| {
            shadow["state"]["reported"]["mode"] == "eco"
        }) > 0
    });
    cloud
        .broker()
        .faults()
        .restart_keeping_sessions(Duration::from_secs(2));
    desire(
        &cloud,
        (1..THINGS).step_by(2),
        &json!({"mode": "eco", "limits": {"low": 1}}),
    );
    wait::until("all shadows are in step", LIMIT, || {
        count(&cloud, |shadow| {
            let state = &shadow["state"];
            let mut wanted = state["desired"].clone();
            wanted["fw"] = json!("1.4.2");
            state["reported"] == wanted && state.get("delta").is_none()
        }) == THINGS
    });
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], THINGS, "{summary}");
    assert_eq!(summary["rejected"], 0, "{summary}");
    assert!(
        summary["reconnects"].as_u64() >= Some(THINGS as u64),
        "{summary}"
    );
    runtime.block_on(cloud.stop());
}
