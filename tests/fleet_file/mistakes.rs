//! A wrong file: every mistake at once, each with its place.

use std::fs;
use std::path::Path;

use paquebot::fleet_file::{FleetPlan, Overrides, ProblemKind};

use crate::{GOOD, mistake, mistakes, parse, parse_in, plan, with, with_line};

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
        (K::BadValue, &with_line("[models.meter]", "state = { on_desired = \"aply\" }"), "\"aply\"", "did you mean \"apply\"?"),
        (K::BadValue, &with_line("[models.meter]", "state = { reported = { a = nan } }"), "{ a = nan }", "JSON"),
        (K::BadValue, &with_line("[models.meter]", "commands.\"a/b\" = { reply = \"\" }"), "\"a/b\"", "no name of a command"),
        (K::Missing, &with_line("[models.meter]", "commands.a = { delay = \"1s\" }"), "{ delay", "write reply"),
        (K::BadValue, &with_line("[models.meter]", "commands.a = { reply = \"\", fail = 1.1 }"), "1.1", "no probability"),
        (K::BadValue, &with_line("[models.meter]", "content_type = \"application/json\"").replace("'{\"i\"", "'{i"), "'{i:{{index", "the payload is none"),
        (K::BadValue, &with_line("[models.meter]", "channel = \"a/b\""), "\"a/b\"", "no name of a channel"),
        (K::Unreadable, &with_line("[models.meter]", "payload_file = \"no.json\"").replace("payload = '{\"i\":{{index}}}'\n", ""), "\"no.json\"", "no.json cannot be read"),
        (K::BadValue, &with_line("[models.meter]", "payload_file = \"no.json\""), "payload_file", "keep one of the two"),
        (K::Missing, &with("kind = \"mqtt\"\n", ""), platform, "write kind"),
        (K::NotAvailable, &with("\"mqtt\"", "\"azure\""), "\"azure\"", "not available in this version"),
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
        (K::BadValue, &format!("{GOOD}\n[outbox]\nfleet_max_messages = 0"), "0", "from 1 to 1000000000"),
        (K::BadValue, &format!("{GOOD}\n[outbox]\nfleet_max_bytes = 0"), "0", "from 1 KiB to 1 TiB"),
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
        (K::BadValue, &format!("{GOOD}[outbox]\ndurability = \"tape\"\n"), "\"tape\"", "\"disk\""),
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
    let text = with("\"mqtt\"", "\"azure\"").replace("\"30s\"", "\"x\"");
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
