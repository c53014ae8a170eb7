//! What the fleet file promises: every mistake at once, each with its place; overrides; a complete plan.
#![cfg(feature = "cli")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "the functions that tests share are outside of the test functions that the lints spare"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use paquebot::fleet_file::{
    AuthPlan, FleetFileError, FleetPlan, Jitter, Overflow, Overrides, Place, Problem, ProblemKind,
};
use paquebot_protocols::mqtt::{QoS, Version};
use proptest::prelude::*;

/// The smallest file that is a fleet; tests append to it or change it.
const GOOD: &str = r#"
[platforms.local]
kind = "mqtt"
endpoint = "mqtt://127.0.0.1:1883"
[models.meter]
interval = "30s"
payload = '{"i":{{index}}}'
[[groups]]
name = "lab"
platform = "local"
model = "meter"
count = 10
id = "lab-{{index:06}}"
"#;

fn parse_in(dir: &Path, text: &str, overrides: &Overrides) -> Result<FleetPlan, Vec<Problem>> {
    match FleetPlan::parse("fleet.toml", text.as_bytes(), dir, overrides) {
        Ok(plan) => Ok(plan),
        Err(FleetFileError::Invalid(problems)) => {
            assert!(!problems.is_empty());
            Err(problems)
        }
        Err(other) => panic!("{other}"),
    }
}

fn parse(text: &str) -> Result<FleetPlan, Vec<Problem>> {
    parse_in(Path::new(""), text, &Overrides::none())
}

fn plan(text: &str) -> FleetPlan {
    parse(text).unwrap_or_else(|problems| panic!("{}", shown(&problems).join("\n")))
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// All mistakes of a text, as printed.
fn mistakes(text: &str) -> Vec<String> {
    shown(&parse(text).expect_err("the text has mistakes"))
}

/// The only mistake of a text: its kind, its printed form, and the letters of the text at its place.
fn mistake(text: &str) -> (ProblemKind, String, &str) {
    let problems = parse(text).expect_err("the text has a mistake");
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems));
    let Place::Text { line, column, .. } = problems[0].place() else {
        panic!("{}", problems[0]);
    };
    let line = text.lines().nth(line - 1).unwrap_or("");
    let at = line
        .char_indices()
        .nth(column - 1)
        .map_or("", |(at, _)| &line[at..]);
    (problems[0].kind(), problems[0].to_string(), at)
}

/// `GOOD` with one piece of text replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

/// `GOOD` with lines put into one of its tables.
fn with_line(table: &str, line: &str) -> String {
    with(table, &format!("{table}\n{line}"))
}

#[test]
fn a_small_file_is_filled_in_with_defaults() {
    let plan = plan(GOOD);
    assert_eq!(&*plan.name, "fleet");
    assert_eq!(plan.connect_rate, None);
    assert_eq!(plan.drain_timeout, Duration::from_secs(20));
    assert!(plan.admin.is_none());
    assert_eq!(plan.outbox.max_messages, 1_000);
    assert_eq!(plan.outbox.max_bytes, 1 << 20);
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
engine = "memory"
max_messages = 7
max_bytes = "64KiB"
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
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = r#"[fleet]
seed = "x"
drain_timeout = 20
[outbox]
overflow = "drop-oldest"
[platforms.local]
kind = "mqtt"
endpoint = "localhost"
[models.meter]
interval = "30 parsecs"
payload = "{{idx}}"
[[groups]]
name = "lab"
platform = "lokal"
model = "meter"
cuont = 3
id = "a"
"#;
    let expected = [
        "fleet.toml:2:8: fleet.seed: this is a text, not a whole number; ",
        "fleet.toml:3:17: fleet.drain_timeout: a time needs a unit; write \"20s\"",
        "fleet.toml:5:12: outbox.overflow: \"drop-oldest\" is none of ",
        "fleet.toml:8:12: platforms.local.endpoint: \"localhost\" has no scheme; ",
        "fleet.toml:10:12: models.meter.interval: \"30 parsecs\" is no time; ",
        "fleet.toml:11:14: models.meter.payload: there is no placeholder {{idx}}; ",
        "fleet.toml:12:1: groups[0].count: it is missing; ",
        "fleet.toml:14:12: groups[0].platform: there is no platform \"lokal\"; did you mean \"local\"?",
        "fleet.toml:16:1: groups[0].cuont: there is no such key; did you mean `count`?",
    ];
    let found = mistakes(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    assert!(
        found[2].contains("did you mean \"drop_oldest\"?"),
        "{}",
        found[2]
    );
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    let (kind, text, _) = mistake("[fleet]\nname = \n");
    assert_eq!(kind, ProblemKind::Syntax);
    assert!(
        text.starts_with("fleet.toml:2:8: this is not TOML: "),
        "{text}"
    );
    let (kind, text, _) = mistake("a = 1\nb = 2\na = 3\n");
    assert_eq!(kind, ProblemKind::Syntax);
    assert!(text.starts_with("fleet.toml:3:1: "), "{text}");
    let (.., at) = mistake("[fleet\nseed = 1\n");
    assert_eq!(at, "");
}

#[test]
fn bytes_that_are_no_text_have_a_place_too() {
    let bytes = b"[fleet]\nname = \"a\xff\"\n";
    let error = FleetPlan::parse("f.toml", bytes, Path::new(""), &Overrides::none()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "f.toml:2:10: this byte is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let bytes = vec![b'#'; 8 * 1024 * 1024 + 1];
    let parse = |bytes| FleetPlan::parse("f", bytes, Path::new(""), &Overrides::none());
    let too_large = parse(&bytes).unwrap_err().to_string();
    assert!(too_large.contains("larger than 8 MiB"), "{too_large}");
    let just_fits = parse(&bytes[1..]).unwrap_err().to_string();
    assert!(just_fits.contains("groups: it is missing"), "{just_fits}");
}

#[test]
fn unknown_keys_are_refused_in_every_table() {
    let full = format!(
        "{GOOD}{}",
        r#"
[fleet]
x1 = 1
[admin]
x2 = 1
[outbox]
x3 = 1
[x4]
[platforms.p]
kind = "mqtt"
endpoint = "mqtt://h"
x5 = 1
auth = { type = "none", x6 = 1 }
reconnect = { x7 = 1 }
limits = { x8 = 1 }
topics = { x9 = "a" }
[models.m]
x10 = 1
interval = { every = "1s", x11 = 1 }
payload = "a"
commands.c = { reply = "a", x12 = 1 }
state = { x13 = 1 }
[[groups]]
name = "g"
platform = "p"
model = "m"
count = 1
id = "g"
x14 = 1
"#
    );
    let problems = parse(&full).unwrap_err();
    let keys: Vec<&str> = problems
        .iter()
        .map(|problem| {
            assert_eq!(problem.kind(), ProblemKind::UnknownKey, "{problem}");
            problem.key()
        })
        .collect();
    assert_eq!(
        keys,
        [
            "fleet.x1",
            "admin.x2",
            "outbox.x3",
            "x4",
            "platforms.p.x5",
            "platforms.p.auth.x6",
            "platforms.p.reconnect.x7",
            "platforms.p.limits.x8",
            "platforms.p.topics.x9",
            "models.m.x10",
            "models.m.interval.x11",
            "models.m.commands.c.x12",
            "models.m.state.x13",
            "groups[1].x14",
        ]
    );
}

#[test]
fn each_single_mistake_is_found_at_its_place() {
    use ProblemKind as K;
    let platform = "[platforms.local]";
    // One case a line, so that the table can be read down.
    #[rustfmt::skip]
    let cases: &[(K, &str, &str, &str)] = &[
        // kind, text, letters at the place, part of the message
        (K::BadValue, &with("\"lab\"", "\"la b\""), "\"la b\"", "is no name"),
        (K::BadValue, &with("count = 10", "count = -1"), "-1", "from 0 to 1000000"),
        (K::BadValue, &with("count = 10", "count = 1000001"), "1000001", "from 0 to 1000000"),
        (K::WrongType, &with("count = 10", "count = 1.5"), "1.5", "a whole number"),
        (K::BadValue, &with("count = 10", "count = 99999999999999999999"), "9999", "out of range"),
        (K::BadValue, &with("count = 10", "count = 0"), "groups]]", "no device"),
        (K::BadValue, &with("\"lab-{{index:06}}\"", "\"lab/{{index}}\""), "\"lab/", "cannot hold '/'"),
        (K::BadTemplate, &with("\"lab-{{index:06}}\"", "\"lab-{{id}}\""), "id}}\"", "cannot be in an id"),
        (K::Duplicate, &with("\"lab-{{index:06}}\"", "\"lab\""), "\"lab\"", "put {{index}} into it"),
        (K::UnknownName, &with("model = \"meter\"", "model = \"metre\""), "\"metre\"", "did you mean \"meter\"?"),
        (K::UnknownName, &with("model = \"meter\"", "model = \"pump\""), "\"pump\"", "there is meter"),
        (K::Missing, &with("interval = \"30s\"\n", ""), "[models.meter]", "write interval"),
        (K::Missing, &with("payload = '{\"i\":{{index}}}'\n", ""), "[models.meter]", "write payload"),
        (K::WrongType, &with("\"30s\"", "30"), "30", "write \"30s\" for seconds"),
        (K::BadValue, &with("\"30s\"", "\"0s\""), "\"0s\"", "from 1ms to 30d"),
        (K::BadValue, &with("\"30s\"", "{ every = \"1s\", jitter = \"2s\" }"), "\"2s\"", "longer than the interval"),
        (K::BadTemplate, &with("'{\"i\":{{index}}}'", "\"\\\"\\u00e9{{x}}\""), "x}}\"", "no placeholder {{x}}"),
        (K::BadTemplate, &with("'{\"i\":{{index}}}'", "'''\nab\n  {{int(2,1)}}'''"), "int(2,1)", "larger than the second"),
        (K::BadValue, &with_line("[models.meter]", "qos = 3"), "3", "from 0 to 2"),
        (K::NotAvailable, &with_line("[models.meter]", "state = { on_desired = \"apply\" }"), "on_desired", "not available in this version"),
        (K::BadValue, &with_line("[models.meter]", "state = { reported = { a = nan } }"), "{ a = nan }", "JSON"),
        (K::BadValue, &with_line("[models.meter]", "commands.\"a/b\" = { reply = \"\" }"), "\"a/b\"", "no name of a command"),
        (K::Missing, &with_line("[models.meter]", "commands.a = { delay = \"1s\" }"), "{ delay", "write reply"),
        (K::BadValue, &with_line("[models.meter]", "commands.a = { reply = \"\", fail = 1.1 }"), "1.1", "no probability"),
        (K::BadValue, &with_line("[models.meter]", "content_type = \"application/json\"").replace("'{\"i\"", "'{i"), "'{i:{{index", "the payload is none"),
        (K::BadValue, &with_line("[models.meter]", "channel = \"a/b\""), "\"a/b\"", "no name of a channel"),
        (K::Unreadable, &with_line("[models.meter]", "payload_file = \"no.json\"").replace("payload = '{\"i\":{{index}}}'\n", ""), "\"no.json\"", "no.json cannot be read"),
        (K::BadValue, &with_line("[models.meter]", "payload_file = \"no.json\""), "payload_file", "keep one of the two"),
        (K::Missing, &with("kind = \"mqtt\"\n", ""), platform, "write kind"),
        (K::NotAvailable, &with("\"mqtt\"", "\"aws\""), "\"aws\"", "not available in this version"),
        (K::BadValue, &with("\"mqtt\"", "\"mqqt\""), "\"mqqt\"", "did you mean \"mqtt\"?"),
        (K::BadValue, &with("mqtt://127", "mqtt://bob:pw@127"), "\"mqtt://bob", "password_file"),
        (K::BadValue, &with_line(platform, "version = \"4\""), "\"4\"", "\"3.1.1\" or \"5\""),
        (K::BadValue, &with_line(platform, "version = 3.1"), "3.1", "\"3.1.1\" or \"5\""),
        (K::BadValue, &with_line(platform, "keep_alive = \"65536s\""), "\"65536s\"", "out of range"),
        (K::BadValue, &with_line(platform, "keep_alive = \"1500ms\""), "\"1500ms\"", "whole seconds"),
        (K::BadValue, &with_line(platform, "session_expiry = \"1h\""), "session_expiry", "MQTT 3.1.1 has no such thing"),
        (K::BadValue, &with_line(platform, "receive_maximum = 5"), "receive_maximum", "MQTT 3.1.1 has no such thing"),
        (K::BadValue, &with_line(platform, "inflight = 0"), "0", "from 1 to 65535"),
        (K::BadValue, &with_line(platform, "reconnect = { base = \"2s\", max = \"1s\" }"), "\"1s\"", "shorter than the first"),
        (K::BadValue, &with_line(platform, "limits = { connects_per_s = 0 }"), "0", "out of range"),
        (K::BadTemplate, &with_line(platform, "topics = { telemetry = \"a/{dev}\" }"), "dev}", "no placeholder `dev`"),
        (K::BadTemplate, &with_line(platform, "topics = { state = \"a/+/b\" }"), "+/b", "wildcard"),
        (K::BadValue, &with_line(platform, "topics = { commands = \"a/{command}\" }"), "\"a/{command}\"", "put {device} into"),
        (K::BadValue, &with_line(platform, "ca_file = \"Cargo.toml\""), "ca_file", "nothing without TLS"),
        (K::NotAvailable, &with_line(platform, "insecure = true"), "insecure", "always checked"),
        (K::BadValue, &with_line(platform, "auth = { type = \"password\", username = \"u\", password = \"p\" }"), "password = \"p\"", "does not belong into the fleet file"),
        (K::Missing, &with_line(platform, "auth = { type = \"password\", username = \"u\" }"), "{ type", "password_env"),
        (K::Unreadable, &with_line(platform, "auth = { type = \"password\", username = \"u\", password_env = \"NOPE\" }"), "\"NOPE\"", "no environment variable"),
        (K::NotAvailable, &with_line(platform, "auth = { type = \"sas\", keys = \"k.csv\" }"), "\"sas\"", "not available in this version"),
        (K::BadValue, &format!("{GOOD}[admin]\nlisten = \"0.0.0.0:9464\"\n"), "\"0.0.0.0:9464\"", "allow_remote = true"),
        (K::BadValue, &format!("{GOOD}[admin]\nlisten = \"localhost:9464\"\n"), "\"localhost:9464\"", "\"127.0.0.1:9464\""),
        (K::NotAvailable, &format!("{GOOD}[outbox]\nengine = \"redb\"\n"), "\"redb\"", "not available in this version"),
        (K::BadValue, &format!("{GOOD}[outbox]\nmax_bytes = \"2 gigs\"\n"), "\"2 gigs\"", "\"2GiB\""),
        (K::BadValue, &format!("{GOOD}[outbox]\nmax_bytes = 1023\n"), "1023", "from 1 KiB"),
        (K::NotAvailable, &format!("{GOOD}[cluster]\nenabled = true\n"), "cluster]", "not available in this version"),
        (K::NotAvailable, &with_line("[[groups]]", "faults = {}"), "faults", "not available in this version"),
        (K::WrongType, &with("[platforms.local]", "[fleet]\nname = 5\n[platforms.local]"), "5", "not a name"),
        (K::Missing, "", "", "[[groups]]"),
    ];
    for (kind, text, at, message) in cases {
        let found = std::panic::catch_unwind(|| mistake(text));
        let (found_kind, shown, found_at) = found.unwrap_or_else(|_| panic!("in\n{text}"));
        assert_eq!(found_kind, *kind, "{shown}");
        assert!(
            found_at.starts_with(at),
            "{shown}\nat {found_at:?}, not {at:?}"
        );
        assert!(shown.contains(message), "{shown}\nlacks {message:?}");
    }
}

#[test]
fn a_bad_platform_or_model_is_not_called_unknown_as_well() {
    let text = with("\"mqtt\"", "\"aws\"").replace("\"30s\"", "\"x\"");
    let found = mistakes(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn a_client_id_exists_once_on_a_broker_whatever_the_platform_is_called() {
    let other = |platform: &str| {
        format!(
            "{GOOD}[[groups]]\nname = \"twin\"\nplatform = \"{platform}\"\nmodel = \"meter\"\ncount = 5\nstart_index = 7\nid = \"lab-{{{{index:06}}}}\"\n"
        )
    };
    let (kind, text, at) = {
        let (kind, text, at) = mistake(Box::leak(other("local").into_boxed_str()));
        (kind, text, at.to_owned())
    };
    assert_eq!(kind, ProblemKind::Duplicate);
    assert_eq!(at, "\"lab-{{index:06}}\"");
    assert!(
        text.contains("groups[1].id: the groups \"lab\" and \"twin\" both have a device \"lab-000007\" (and 2 more) on mqtt://127.0.0.1:1883"),
        "{text}"
    );
    let second = "[platforms.again]\nkind = \"mqtt\"\nendpoint = \"mqtt://127.0.0.1\"\n";
    let same_broker = format!("{second}{}", other("again"));
    assert!(mistakes(&same_broker)[0].contains("lab-000007"));
    let other_broker = same_broker.replace("mqtt://127.0.0.1\"", "mqtt://127.0.0.1:1884\"");
    assert_eq!(plan(&other_broker).device_count(), 15);
}

#[test]
fn a_group_name_is_given_once() {
    let text = format!(
        "{GOOD}[[groups]]\nname = \"lab\"\nplatform = \"local\"\nmodel = \"meter\"\ncount = 1\nid = \"x\"\n"
    );
    let (kind, shown, _) = mistake(&text);
    assert_eq!(kind, ProblemKind::Duplicate);
    assert!(
        shown.contains("groups[1].name: groups[0].name is \"lab\" already"),
        "{shown}"
    );
}

#[test]
fn a_hundred_thousand_devices_are_checked_one_by_one() {
    let text = with("count = 10", "count = 100000");
    let plan = plan(&text);
    assert_eq!(plan.device_count(), 100_000);
    assert_eq!(plan.groups[0].device(99_999).id, "lab-099999");
    // The last id of the first group is the only one that the second has too.
    let twin = format!(
        "{text}[[groups]]\nname = \"twin\"\nplatform = \"local\"\nmodel = \"meter\"\ncount = 100000\nstart_index = 99999\nid = \"lab-{{{{index:06}}}}\"\n"
    );
    let (_, shown, _) = mistake(&twin);
    assert!(
        shown.contains("both have a device \"lab-099999\" on"),
        "{shown}"
    );
}

#[test]
fn the_fleet_has_a_largest_size() {
    let group = |name: &str, count| {
        format!(
            "[[groups]]\nname = \"{name}\"\nplatform = \"local\"\nmodel = \"meter\"\ncount = {count}\nid = \"{name}-{{{{index}}}}\"\n"
        )
    };
    let more = format!("{GOOD}{}{}", group("a", 600_000), group("b", 399_991));
    let (_, shown, at) = mistake(&more);
    assert!(shown.contains("1000001 devices together"), "{shown}");
    assert_eq!(at, "groups]]");
}

#[test]
fn overrides_win_over_the_file_and_flags_over_the_environment() {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = Overrides::none().with_environment([
        variable("PAQUEBOT__FLEET__CONNECT_RATE", "50"),
        variable("PAQUEBOT__FLEET__NAME", "from-env"),
        variable("PAQUEBOT__GROUPS__LAB__COUNT", "20"),
        variable("PAQUEBOT__PLATFORMS__LOCAL__KEEP_ALIVE", "5s"),
        variable("PAQUEBOT_LOG", "debug"),
        variable("HOME", "/root"),
    ]);
    let plan = parse_in(Path::new(""), GOOD, &environment).unwrap();
    assert_eq!(plan.connect_rate, Some(50.0));
    assert_eq!(&*plan.name, "from-env");
    assert_eq!(plan.groups[0].count, 20);
    assert_eq!(plan.platforms[0].keep_alive, Duration::from_secs(5));
    let both = environment.with_sets(
        [
            "groups.lab.count=30",
            "groups.0.id = 'dev-{{index}}'",
            "fleet.name=7",
            "models.meter.interval={ every = \"2s\", jitter = \"1s\" }",
            "admin.listen=127.0.0.1:0",
        ]
        .map(String::from),
    );
    let plan = parse_in(Path::new(""), GOOD, &both).unwrap();
    assert_eq!(plan.groups[0].count, 30);
    assert_eq!(plan.groups[0].device(3).id, "dev-3");
    assert_eq!(&*plan.name, "7");
    let telemetry = plan.models[0].telemetry.as_ref().unwrap();
    assert_eq!(telemetry.interval.every, Duration::from_secs(2));
    assert_eq!(plan.admin.as_ref().unwrap().listen.port(), 0);
}

#[test]
fn a_variable_reaches_names_that_it_cannot_spell() {
    let text = GOOD
        .replace("\"lab\"", "\"Lab-1.a\"")
        .replace("local", "my-broker");
    let overrides = Overrides::none().with_environment([
        (
            "PAQUEBOT__GROUPS__LAB_1_A__COUNT".to_owned(),
            "2".to_owned(),
        ),
        (
            "PAQUEBOT__PLATFORMS__MY_BROKER__VERSION".to_owned(),
            "5".to_owned(),
        ),
    ]);
    let plan = parse_in(Path::new(""), &text, &overrides).unwrap();
    assert_eq!(plan.groups[0].count, 2);
    assert_eq!(plan.platforms[0].version, Version::V5);
}

#[test]
fn mistakes_in_overrides_name_the_override() {
    let overrides = Overrides::none()
        .with_environment([("PAQUEBOT__FLEET__CONECT_RATE".to_owned(), "50".to_owned())])
        .with_sets(
            [
                "groups.lap.count=3",
                "groups.lab.count=many",
                "groups.lab.id=a{{x}}",
                "fleet",
                "=1",
                "models.meter.interval.every=1s",
            ]
            .map(String::from),
        );
    let found = shown(&parse_in(Path::new(""), GOOD, &overrides).unwrap_err());
    let expected = [
        "--set groups.lap.count: groups: nothing here is named `lap`; did you mean `lab`?",
        "--set fleet: this is no override; ",
        "--set : this is no override; ",
        "--set models.meter.interval.every: models.meter.interval: this is a text, nothing is below it; ",
        "PAQUEBOT__FLEET__CONECT_RATE: fleet.conect_rate: there is no such key; did you mean `connect_rate`?",
        "--set groups.lab.count: groups[0].count: this is a text, not a whole number; ",
        "--set groups.lab.id: groups[0].id: character 4: there is no placeholder {{x}}; ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn an_override_repairs_what_the_file_has_wrong() {
    let text = with("count = 10", "count = -1");
    let overrides = Overrides::none().with_sets(["groups.lab.count=1".to_owned()]);
    assert_eq!(
        parse_in(Path::new(""), &text, &overrides)
            .unwrap()
            .device_count(),
        1
    );
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

fn x509_file() -> String {
    with("mqtt://127.0.0.1:1883", "mqtts://127.0.0.1").replace(
        "[models.meter]",
        "ca_file = \"ca.pem\"\nauth = { type = \"x509\", cert = \"certs/{{id}}.pem\", key = \"certs/{{id}}.key\" }\n[models.meter]",
    )
}

#[test]
fn each_device_needs_its_certificate_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("certs")).unwrap();
    fs::write(path("ca.pem"), CERTIFICATE).unwrap();
    for index in 0..10 {
        fs::write(path(&format!("certs/lab-00000{index}.pem")), CERTIFICATE).unwrap();
        fs::write(path(&format!("certs/lab-00000{index}.key")), KEY).unwrap();
    }
    let read = || parse_in(dir.path(), &x509_file(), &Overrides::none());
    let plan = read().unwrap();
    let group = &plan.groups[0];
    let AuthPlan::X509 { cert, username, .. } = &group.platform.auth else {
        panic!("{:?}", group.platform.auth);
    };
    let device = group.device(3);
    assert_eq!(
        cert.path(&group.subject(&device)),
        path("certs/lab-000003.pem")
    );
    assert!(username.is_none());
    let tls = group.platform.tls.as_ref().unwrap();
    assert_eq!(tls.ca_file.as_deref(), Some(path("ca.pem").as_path()));

    fs::remove_file(path("certs/lab-000002.pem")).unwrap();
    fs::remove_file(path("certs/lab-000009.pem")).unwrap();
    fs::write(path("certs/lab-000004.key"), CERTIFICATE).unwrap();
    fs::write(path("ca.pem"), "nothing").unwrap();
    let found = shown(&read().unwrap_err());
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].contains("ca_file: ") && found[0].contains("no PEM certificate"),
        "{}",
        found[0]
    );
    assert!(found[1].contains("auth.cert: "), "{}", found[1]);
    assert!(
        found[1].contains("lab-000002.pem of device lab-000002 cannot be used"),
        "{}",
        found[1]
    );
    assert!(found[1].contains("1 more of the 10 files"), "{}", found[1]);
    assert!(
        found[2].contains("lab-000004.key") && found[2].contains("no PEM private key"),
        "{}",
        found[2]
    );
}

#[test]
fn an_encrypted_key_is_told_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = x509_file()
        .replace("certs/{{id}}", "one")
        .replace("ca.pem", "one.pem");
    fs::write(dir.path().join("one.pem"), CERTIFICATE).unwrap();
    fs::write(
        dir.path().join("one.key"),
        KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"),
    )
    .unwrap();
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("one.key cannot be used: the key is encrypted"),
        "{}",
        found[0]
    );
}

#[test]
fn a_certificate_needs_tls() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.pem"), format!("{CERTIFICATE}{KEY}")).unwrap();
    let auth = "auth = { type = \"x509\", cert = \"c.pem\", key = \"c.pem\" }";
    let text = with_line("[platforms.local]", auth);
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("mqtts://"), "{}", found[0]);
}

#[test]
fn passwords_come_from_files_or_variables_and_are_never_shown() {
    use secrecy::ExposeSecret;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pw-lab-000000"), "hunter2\r\n").unwrap();
    let auth =
        "auth = { type = \"password\", username = \"u-{{id}}\", password_file = \"pw-{{id}}\" }";
    let text = with_line("[platforms.local]", auth).replace("count = 10", "count = 1");
    let plan = parse_in(dir.path(), &text, &Overrides::none()).unwrap();
    let group = &plan.groups[0];
    let AuthPlan::Password { username, password } = &group.platform.auth else {
        panic!("{:?}", group.platform.auth);
    };
    let device = group.device(0);
    let subject = group.subject(&device);
    assert_eq!(username.render(&subject), "u-lab-000000");
    assert_eq!(password.read(&subject).unwrap().expose_secret(), b"hunter2");

    fs::write(dir.path().join("pw-lab-000000"), "\n").unwrap();
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert!(
        found[0].contains("auth.password_file: ") && found[0].contains("it is empty"),
        "{}",
        found[0]
    );

    for misplaced in ["password_env = \"hunter2\"", "password = \"hunter2\""] {
        let text = text.replace("password_file = \"pw-{{id}}\"", misplaced);
        let problems = parse_in(dir.path(), &text, &Overrides::none()).unwrap_err();
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }

    let text = text.replace(
        "password_file = \"pw-{{id}}\"",
        "password_env = \"LAB_PASSWORD\"",
    );
    let overrides =
        Overrides::none().with_environment([("LAB_PASSWORD".to_owned(), "hunter2".to_owned())]);
    let plan = parse_in(dir.path(), &text, &overrides).unwrap();
    let shown = format!("{plan:?}{overrides:?}");
    assert!(!shown.contains("hunter2"));
    assert!(!shown.contains(&format!("{:?}", b"hunter2")));
    assert!(plan.warnings.is_empty());
    let remote = text.replace("127.0.0.1:1883", "broker.example");
    let plan = parse_in(dir.path(), &remote, &overrides).unwrap();
    assert!(
        plan.warnings[0].contains("clear text"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_mistake_in_a_payload_file_is_placed_in_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = with("payload = '{\"i\":{{index}}}'", "payload_file = \"p.json\"");
    let file = dir.path().join("p.json");
    fs::write(&file, "{\n  \"a\": {{nope}}\n}\n").unwrap();
    let problems = parse_in(dir.path(), &text, &Overrides::none()).unwrap_err();
    let start = format!("{}:2:10: models.meter.payload_file: ", file.display());
    assert!(
        problems[0].to_string().starts_with(&start),
        "{}",
        problems[0]
    );
    fs::write(&file, "{{index}}\n").unwrap();
    let plan = parse_in(dir.path(), &text, &Overrides::none()).unwrap();
    let group = &plan.groups[0];
    let device = group.device(7);
    let mut state = group.telemetry_state(7).unwrap();
    let mut out = Vec::new();
    let telemetry = group.model.telemetry.as_ref().unwrap();
    telemetry
        .payload
        .render(&group.subject(&device), 0, &mut state, &mut out);
    assert_eq!(out, b"7");
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

/// Values of every TOML type, right and wrong ones.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[{}, 1, [nan]]".to_owned()),
        Just("2026-11-21T00:00:00Z".to_owned()),
        Just("\"30s\"".to_owned()),
        Just("{ every = \"1ms\", jitter = 1 }".to_owned()),
        Just("{ type = \"x509\", cert = \"{{id}}\", key = \"\" }".to_owned()),
        any::<i128>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").replace("NaN", "nan")),
        "'[^'\\p{Cc}]{0,12}'",
        "\"(a|\\{\\{|\\}\\}|index|\\\\u00e9|:|%|/){0,8}\"",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = FleetPlan::parse("f", &bytes, Path::new(""), &Overrides::none());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([\\[\\]{}=.,\"'#\n ]|\\PC|groups|name|fleet){0,60}") {
        let _ = FleetPlan::parse("f", text.as_bytes(), Path::new(""), &Overrides::none());
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused_with_a_place(
        line in 1_usize..13, value in any_value(), set: bool,
    ) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        let Some((key, _)) = lines[line].split_once('=') else { return Ok(()); };
        let (text, overrides) = if set {
            let path = format!("groups.lab.{}={value}", key.trim());
            (GOOD.to_owned(), Overrides::none().with_sets([path]))
        } else {
            lines[line] = format!("{key}= {value}");
            (lines.join("\n"), Overrides::none())
        };
        // A count that is valid may be large; a smaller one costs less and shows as much.
        let overrides = if set { overrides } else {
            overrides.with_sets(["groups.lab.count=3".to_owned()])
        };
        if let Err(problems) = parse_in(Path::new("/nonexistent"), &text, &overrides) {
            for problem in problems {
                if let Place::Text { line, column, .. } = problem.place() {
                    prop_assert!(*line <= text.lines().count() + 1 && *column >= 1, "{}", problem);
                }
                prop_assert!(!problem.to_string().contains('\0'));
            }
        }
    }

    #[test]
    fn any_override_is_applied_or_refused(
        set in "(groups|lab|count|fleet|[a-z0-9\"'.=\\[\\]{}]|\\PC){0,20}",
        name in "PAQUEBOT__[A-Z_]{0,20}",
        value in any_value(),
    ) {
        let overrides = Overrides::none()
            .with_environment([(name, value)])
            .with_sets([set]);
        let _ = FleetPlan::parse("f", GOOD.as_bytes(), Path::new(""), &overrides);
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
    let parts = 200_000;
    let dotted = format!("{} = 1", vec!["a"; parts].join("."));
    let header = format!("[{}]", vec!["a"; parts].join("."));
    let lists = format!("a = {}{}", "[".repeat(parts), "]".repeat(parts));
    let tables = format!("a = {}1{}", "{a=".repeat(parts), "}".repeat(parts));
    // The TOML parser bounds dots and brackets apart from each other; this stays just below both bounds.
    let deep = vec!["a"; 79].join(".");
    let mixed = format!(
        "{deep} = {}1{}",
        format!("{{{deep}=").repeat(70),
        "}".repeat(70)
    );
    for text in [&dotted, &header, &lists, &tables, &mixed] {
        assert!(!mistakes(text).is_empty());
    }
    let fits = format!("x = {}{}", "[".repeat(16), "]".repeat(16));
    assert_eq!(parse(&fits).unwrap_err()[1].kind(), ProblemKind::UnknownKey);
    let (_, shown, at) = mistake("x = [[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]");
    assert!(shown.contains("deeper than 16 levels"), "{shown}");
    assert!(at.starts_with("[0]"), "{at}");
    let overrides = Overrides::none()
        .with_environment([(format!("PAQUEBOT{}", "__A".repeat(parts)), "1".to_owned())])
        .with_sets([
            dotted.replace(" = ", "="),
            format!("fleet.name={}", &lists[4..]),
            mixed,
        ]);
    assert!(parse_in(Path::new(""), GOOD, &overrides).unwrap_err().len() >= 3);
}
