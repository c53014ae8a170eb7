//! A right file: what it leaves out, its units, what one seed makes of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use paquebot::fleet_file::{AuthPlan, FleetFileError, FleetPlan, Jitter, Overflow, Overrides};
use paquebot_protocols::mqtt::{QoS, Version};

use crate::{GOOD, parse_in, plan, with};

#[test]
fn a_small_file_is_filled_in_with_defaults() {
    let plan = plan(GOOD);
    assert_eq!(&*plan.name, "fleet");
    assert_eq!(plan.connect_rate, None);
    assert_eq!(plan.drain_timeout, Duration::from_secs(20));
    assert!(plan.admin.is_none());
    assert_eq!(plan.outbox.max_messages, 1_000);
    assert_eq!(plan.outbox.max_bytes, 1 << 20);
    assert_eq!(plan.outbox.fleet_max_messages, None);
    assert_eq!(plan.outbox.fleet_max_bytes, None);
    assert_eq!(plan.outbox.overflow, Overflow::DropOldest);
    let group = &plan.groups[0];
    assert_eq!(group.count, 10);
    assert_eq!(group.platform.version, Version::V311);
    assert_eq!(group.platform.keep_alive, Duration::from_secs(60));
    assert_eq!(group.platform.session_expiry, Duration::ZERO);
    assert_eq!(group.platform.inflight, 1_000);
    assert_eq!(group.platform.reconnect.jitter, Jitter::Full);
    assert!(matches!(group.platform.auth, AuthPlan::None));
    assert!(group.platform.tls.is_none());
    assert_eq!(group.model.qos, QoS::AtLeastOnce);
    assert_eq!(group.topics.telemetry, None);
    let ids: Vec<String> = group.devices().map(|device| device.id).collect();
    assert_eq!(ids.first().map(String::as_str), Some("lab-000000"));
    assert_eq!(ids.last().map(String::as_str), Some("lab-000009"));
    assert!(plan.warnings.is_empty());
}

#[test]
fn a_full_file_is_read_with_its_units() {
    let text = r#"
[fleet]
name = "demo"
seed = 42
connect_rate = 200
drain_timeout = "1m30s"
workers = 3
[admin]
listen = "[::1]:0"
[outbox]
durability = "memory"
max_messages = 7
max_bytes = "64KiB"
fleet_max_messages = 1000
fleet_max_bytes = "1MiB"
overflow = "reject"
drain_rate = 0.5
[platforms.local]
kind = "mqtt"
endpoint = "mqtts://broker.example"
version = 5
keep_alive = "2m"
clean_start = true
session_expiry = "1d"
receive_maximum = 65535
inflight = 1
reconnect = { base = "500ms", max = "10s", jitter = "none" }
limits = { connects_per_s = 1.5 }
server_name = "other.example"
topics = { telemetry = "{{fleet}}/{{group}}/{{id}}", commands = "c/{device}/{command}", replies = "r/{request}" }
[models.meter]
interval = { every = "30s", jitter = "5s" }
qos = 2
retain = true
payload = "{{seq}}"
channel = "power"
content_type = "text/plain"
expiry = "5m"
commands.reboot = { reply = "{{command}}", delay = "200ms", fail = 0.25 }
commands."set point" = { reply = "ok" }
state.reported = { fw = "1.4.2", limits = [1, 2.5, true], since = 2026-11-21 }
[[groups]]
name = "lab"
platform = "local"
model = "meter"
count = 3
start_index = 5
id = "{{group}}-%i"
[cluster]
enabled = false
"#;
    let plan = plan(text);
    assert_eq!(
        (&*plan.name, plan.seed, plan.workers.get()),
        ("demo", 42, 3)
    );
    assert_eq!(plan.connect_rate, Some(200.0));
    assert_eq!(plan.drain_timeout, Duration::from_secs(90));
    assert_eq!(plan.admin.as_ref().unwrap().listen.to_string(), "[::1]:0");
    assert_eq!(
        (plan.outbox.max_messages, plan.outbox.max_bytes),
        (7, 65_536)
    );
    assert_eq!(plan.outbox.fleet_max_messages, Some(1_000));
    assert_eq!(plan.outbox.fleet_max_bytes, Some(1 << 20));
    assert_eq!(plan.outbox.drain_rate, Some(0.5));
    let group = &plan.groups[0];
    let platform = &group.platform;
    assert_eq!(platform.endpoint.to_string(), "mqtts://broker.example:8883");
    assert_eq!(
        (platform.version, platform.clean_start),
        (Version::V5, true)
    );
    assert_eq!(platform.session_expiry, Duration::from_secs(86_400));
    assert_eq!((platform.receive_maximum, platform.inflight), (65_535, 1));
    assert_eq!(platform.reconnect.base, Duration::from_millis(500));
    assert_eq!(platform.connect_rate, Some(1.5));
    let tls = platform.tls.as_ref().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("other.example"));
    assert_eq!(group.topics.telemetry.as_deref(), Some("demo/lab/{device}"));
    assert_eq!(group.topics.replies.as_deref(), Some("r/{request}"));
    let telemetry = group.model.telemetry.as_ref().unwrap();
    assert_eq!(telemetry.interval.jitter, Duration::from_secs(5));
    assert_eq!(telemetry.expiry, Some(Duration::from_secs(300)));
    assert!(telemetry.retain);
    let names: Vec<&str> = group
        .model
        .commands
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(names, ["reboot", "set point"]);
    let reboot = group.model.command("reboot").unwrap();
    assert_eq!(
        (reboot.delay, reboot.fail),
        (Duration::from_millis(200), 0.25)
    );
    let reported = serde_json::Value::Object(group.model.reported.clone().unwrap());
    assert_eq!(
        reported,
        serde_json::json!({"fw": "1.4.2", "limits": [1, 2.5, true], "since": "2026-11-21"})
    );
    let ids: Vec<String> = group.devices().map(|device| device.id).collect();
    assert_eq!(ids, ["lab-5", "lab-6", "lab-7"]);
    // 3 devices at 1.5 a second are slower than 3 at 200.
    assert_eq!(plan.connect_time(), Duration::from_secs(2));
    assert!((plan.messages_per_second() - 0.1).abs() < 1e-9);
}

#[test]
fn a_file_is_found_from_the_folder_of_the_fleet_file() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet.toml");
    fs::write(
        &fleet,
        with("payload = '{\"i\":{{index}}}'", "payload_file = \"p.txt\""),
    )
    .unwrap();
    fs::write(dir.path().join("p.txt"), "x").unwrap();
    assert_eq!(
        FleetPlan::load(&fleet, &Overrides::none())
            .unwrap()
            .device_count(),
        10
    );
    let missing = FleetPlan::load(&dir.path().join("no.toml"), &Overrides::none());
    assert!(matches!(missing, Err(FleetFileError::Unreadable { .. })));
}

#[test]
fn one_seed_gives_each_device_the_same_values_whatever_the_group_size() {
    let values = |count: u64, seed: u64| -> Vec<Vec<u8>> {
        let text = with(
            "'{\"i\":{{index}}}'",
            "'{{walk(0,1)}} {{uuid}} {{int(0,1000000)}}'",
        );
        let overrides = Overrides::none().with_sets([
            format!("groups.lab.count={count}"),
            format!("fleet.seed={seed}"),
        ]);
        let plan = parse_in(Path::new(""), &text, &overrides).unwrap();
        let group = &plan.groups[0];
        let payload = &group.model.telemetry.as_ref().unwrap().payload;
        // From the last device to the first: the order in which devices run must not matter.
        let mut all: Vec<Vec<u8>> = group
            .indexes()
            .rev()
            .map(|index| {
                let device = group.device(index);
                let mut state = group.telemetry_state(index).unwrap();
                let mut out = Vec::new();
                for _ in 0..3 {
                    payload.render(&group.subject(&device), 0, &mut state, &mut out);
                }
                out
            })
            .collect();
        all.reverse();
        all
    };
    assert_eq!(values(5, 1), values(9, 1)[..5]);
    assert_ne!(values(5, 1), values(5, 2));
    let one_run = values(9, 1);
    assert!(one_run.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn what_nobody_uses_is_a_warning() {
    let text = format!(
        "{GOOD}[models.idle]\n[platforms.idle]\nkind = \"mqtt\"\nendpoint = \"mqtt://h\"\n"
    );
    assert_eq!(
        plan(&text).warnings,
        [
            "platforms.idle: no group uses it",
            "models.idle: no group uses it"
        ]
    );
}

#[test]
fn a_model_may_only_answer() {
    let text = with(
        "interval = \"30s\"\npayload = '{\"i\":{{index}}}'",
        "commands.a = { reply = \"x\" }",
    );
    let plan = plan(&text);
    assert!(plan.models[0].telemetry.is_none());
    assert_eq!(plan.messages_per_second(), 0.0);
    assert!(plan.groups[0].telemetry_state(0).is_none());
}

#[test]
fn what_is_less_durable_than_it_looks_is_warned_of() {
    let file = |qos: u8, more: &str| {
        format!(
            "outbox = \"disk\"\n[platforms.p]\nkind = \"mqtt\"\nendpoint = \"mqtt://h\"\n{more}\n[models.m]\nqos = \
             {qos}\n[[groups]]\nname = \"g\"\nplatform = \"p\"\nmodel = \"m\"\ncount = 1\nid = \"d\"\n"
        )
    };
    let warnings = |text: String| plan(&text).warnings;
    assert!(warnings(file(1, "clean_start = true")).is_empty());
    assert!(warnings(file(2, "")).is_empty());
    assert!(warnings(file(0, ""))[0].contains("keeps nothing of QoS 0"));
    assert!(warnings(file(2, "clean_start = true"))[0].contains("forgets the session"));
}
