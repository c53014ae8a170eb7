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

use support::cloud::Cloud;
use support::program::{Program, assert_accounted_for};
use support::wait;

const LIMIT: Duration = Duration::from_secs(90);
const THINGS: usize = 1_000;

fn name(index: usize) -> String {
    format!("pump-{index:04}")
}

/// Whether all things have a shadow that `is_so`. The emulator answers nobody meanwhile, so that a look at all of them
/// again and again would be most of what it does: it ends at the first that is not.
fn all(cloud: &Aws, is_so: impl Fn(&Value) -> bool) -> bool {
    cloud.services(|services| {
        let mut shadows = (0..THINGS).map(|index| services.shadow(&name(index), None));
        shadows.all(|shadow| shadow.is_some_and(|shadow| is_so(&shadow)))
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
fn check_warns_of_things_that_will_find_no_access_key() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let check = |variables: &[(&str, &str)]| {
        let mut all = vec![
            ("HOME", home),
            ("AWS_SHARED_CREDENTIALS_FILE", ""),
            ("AWS_PROFILE", ""),
        ];
        all.extend_from_slice(variables);
        let ended = Program::start_with(&all, ["check", "-f", "examples/aws.toml"]).finish(LIMIT);
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended.errors
    };
    let keys = |secret| {
        [
            ("AWS_ACCESS_KEY_ID", "ID"),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ]
    };
    assert_eq!(check(&keys("canary")), "");
    let warning = check(&keys(""));
    for part in [
        "warning: platforms.cloud: there are no AWS credentials",
        "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY",
        ".aws/credentials",
    ] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    std::fs::create_dir(folder.path().join(".aws")).unwrap();
    let file = folder.path().join(".aws/credentials");
    let text = "[default]\naws_access_key_id = ID\naws_secret_access_key = canary\n";
    std::fs::write(file, text).unwrap();
    assert_eq!(check(&keys("")), "");
}

#[test]
fn a_thousand_things_keep_their_shadows_in_step_over_a_cut() {
    let cloud = Cloud::start();
    let models = format!(
        r#"
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
"#
    );
    let program = cloud.run(&(cloud.by_certificate() + &models), &[]);
    let fw = |shadow: &Value| shadow["state"]["reported"]["fw"] == "1.4.2";
    wait::until("all things reported", LIMIT, || all(&cloud.aws, fw));

    // Half of it is desired while everybody is there, half while nobody is.
    desire(&cloud.aws, (0..THINGS).step_by(2), &json!({"mode": "eco"}));
    let first = name(0);
    wait::until("the first is in step", LIMIT, || {
        let shadow = cloud.aws.services(|services| services.shadow(&first, None));
        shadow.is_some_and(|shadow| shadow["state"]["reported"]["mode"] == "eco")
    });
    cloud
        .aws
        .broker()
        .faults()
        .restart_keeping_sessions(Duration::from_secs(2));
    desire(
        &cloud.aws,
        (1..THINGS).step_by(2),
        &json!({"mode": "eco", "limits": {"low": 1}}),
    );
    wait::until("all shadows are in step", LIMIT, || {
        all(&cloud.aws, |shadow| {
            let state = &shadow["state"];
            let mut wanted = state["desired"].clone();
            wanted["fw"] = json!("1.4.2");
            state["reported"] == wanted && state.get("delta").is_none()
        })
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
    cloud.stop();
}
