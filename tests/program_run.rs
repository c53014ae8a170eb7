//! `paquebot run`: what a fleet file says happens, what goes wrong is told, every message is accounted for.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Topic, TopicFilter};
use paquebot_emulator::{Ack, Broker, BrokerThread, Target, Watch};
use serde_json::Value;
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::certs::{Authority, write_file};
use support::client::Subscriber;
use support::mosquitto::{Mosquitto, Persistence};
use support::ports::free_port;
use support::program::{Program, assert_accounted_for};
use support::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// A fleet of `count` devices on `endpoint`, in a folder of its own.
struct FleetFile {
    _folder: TempDir,
    path: PathBuf,
}

fn fleet_file(endpoint: &str, count: usize, more: &str) -> FleetFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.toml");
    let text = format!(
        r#"
[fleet]
name = "test"
drain_timeout = "5s"
[platforms.broker]
kind = "mqtt"
endpoint = "{endpoint}"
reconnect = {{ base = "50ms", max = "500ms" }}
[models.meter]
interval = {{ every = "100ms", jitter = "20ms" }}
qos = 1
payload = '{{"id":"{{{{id}}}}","seq":{{{{seq}}}}}}'
state = {{ reported = {{ fw = "1.4.2" }} }}
[models.meter.commands]
read = {{ reply = '{{"from":"{{{{id}}}}","asked":{{{{payload:json}}}}}}', delay = "20ms" }}
break = {{ reply = 'never', fail = 1.0 }}
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = {count}
id = "d-{{{{index:03}}}}"
{more}
"#
    );
    write_file(&path, &text, 0o644);
    FleetFile {
        _folder: folder,
        path,
    }
}

fn broker() -> BrokerThread {
    Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()
        .unwrap()
}

fn endpoint(broker: &Broker) -> String {
    format!("mqtt://{}", broker.tcp_address().unwrap())
}

fn run(file: &FleetFile, more: &[&str]) -> Program {
    let file = file.path.to_str().unwrap();
    Program::start(["run", "-f", file].into_iter().chain(more.iter().copied()))
}

/// The next message a watch has seen, as topic and payload.
#[track_caller]
fn seen(watch: &mut Watch) -> (String, String) {
    let message = wait::until_some("the broker saw a message", LIMIT, || watch.try_recv());
    let payload = String::from_utf8(message.payload.to_vec()).unwrap();
    (message.topic.to_string(), payload)
}

fn watch(broker: &Broker, filter: &str) -> Watch {
    broker.watch(TopicFilter::new(filter).unwrap())
}

/// All of `/metrics`.
fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The sum of a series over its labels, of those lines that hold `part`.
fn sum(metrics: &str, series: &str, part: &str) -> i64 {
    metrics
        .lines()
        .filter(|line| line.starts_with(series) && line.contains(part))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as i64)
        .sum()
}

#[test]
fn a_limit_sends_exactly_so_many_messages_and_all_are_accounted_for() {
    let broker = broker();
    let file = fleet_file(&endpoint(&broker), 20, "");
    for version in ["3.1.1", "5"] {
        let set = format!("platforms.broker.version={version}");
        let before = broker.stats().received_total();
        let summary = run(&file, &["--limit", "300", "--json", "--set", &set])
            .finish(LIMIT)
            .summary();
        assert_accounted_for(&summary);
        assert_eq!(summary["ended_by"], "limit");
        assert_eq!(summary["telemetry"], 300, "{summary}");
        assert_eq!(summary["online_peak"], 20, "{summary}");
        // Each device also reports its state once and says that it is online and, at the end, offline.
        assert_eq!(summary["accepted"], 300 + 3 * 20, "{summary}");
        assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
        assert_eq!(broker.stats().received_total() - before, 360);
        assert!(
            summary["latency_ms"]["p99"].as_f64() > Some(0.0),
            "{summary}"
        );
    }
}

#[test]
fn telemetry_repeats_with_its_seed_and_the_state_is_reported_once_and_retained() {
    let broker = broker();
    let mut telemetry = watch(&broker, "devices/d-000/telemetry");
    let mut states = watch(&broker, "devices/+/state/reported");
    let file = fleet_file(&endpoint(&broker), 1, "");
    let ended = run(&file, &["--limit", "3"]).finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
    for seq in 1..=3 {
        let payload = format!(r#"{{"id":"d-000","seq":{seq}}}"#);
        assert_eq!(
            seen(&mut telemetry),
            ("devices/d-000/telemetry".to_owned(), payload)
        );
    }
    let state = (
        "devices/d-000/state/reported".to_owned(),
        r#"{"fw":"1.4.2"}"#.to_owned(),
    );
    assert_eq!(seen(&mut states), state);
    assert!(states.try_recv().is_none());
    // The state and the status.
    assert_eq!(broker.stats().retained, 2);
}

#[test]
fn what_is_desired_becomes_part_of_the_state_that_is_reported() {
    let broker = broker();
    let mut states = watch(&broker, "devices/+/state/reported");
    let file = fleet_file(
        &endpoint(&broker),
        2,
        r#"[models.meter.state]
on_desired = "apply"
reported = { fw = "1.4.2", limits = { low = 1, high = 9 } }"#,
    );
    let text = std::fs::read_to_string(&file.path).unwrap();
    let inline = "state = { reported = { fw = \"1.4.2\" } }\n";
    write_file(&file.path, &text.replace(inline, ""), 0o644);
    let program = run(&file, &["--json"]);
    for _ in 0..2 {
        seen(&mut states);
    }
    wait::until("all ask for commands and state", LIMIT, || {
        broker.stats().subscriptions == 4
    });
    let mut desire = |device: &str, patch: &str| {
        let topic = Topic::new(format!("devices/{device}/state/desired")).unwrap();
        let payload = patch.to_owned();
        broker.publish(topic, payload, QoS::AtLeastOnce, false);
        let (topic, state) = seen(&mut states);
        assert_eq!(topic, format!("devices/{device}/state/reported"));
        serde_json::from_str::<Value>(&state).unwrap()
    };
    assert_eq!(
        desire("d-001", r#"{"limits":{"high":5},"fw":null}"#),
        serde_json::json!({"limits": {"low": 1, "high": 5}})
    );
    assert_eq!(
        desire("d-001", r#"{"mode":"eco"}"#),
        serde_json::json!({"limits": {"low": 1, "high": 5}, "mode": "eco"})
    );
    // What is no object changes nothing, and the next change is taken.
    let topic = Topic::new("devices/d-000/state/desired").unwrap();
    broker.publish(topic, "[]", QoS::AtLeastOnce, false);
    assert_eq!(
        desire("d-000", r#"{"fw":"2"}"#),
        serde_json::json!({"fw": "2", "limits": {"low": 1, "high": 9}})
    );
    program.signal("TERM");
    assert_accounted_for(&program.finish(LIMIT).summary());
}

#[test]
fn commands_are_answered_as_the_model_says_and_others_as_unknown() {
    let broker = broker();
    let mut replies = watch(&broker, "devices/+/replies/#");
    let file = fleet_file(&endpoint(&broker), 3, "");
    let program = run(&file, &["--json"]);
    wait::until("all devices take commands", LIMIT, || {
        broker.stats().subscriptions == 3
    });
    for (command, request, topic, payload) in [
        (
            "read",
            "r1",
            "devices/d-001/replies/read/ok/r1",
            r#"{"from":"d-001","asked":"now"}"#,
        ),
        (
            "break",
            "r2",
            "devices/d-001/replies/break/failed/r2",
            r#"{"error":"simulated failure"}"#,
        ),
        ("fly", "r3", "devices/d-001/replies/fly/unknown/r3", ""),
    ] {
        let to = format!("devices/d-001/commands/{command}/{request}");
        broker.publish(Topic::new(to).unwrap(), "now", QoS::AtLeastOnce, false);
        assert_eq!(seen(&mut replies), (topic.to_owned(), payload.to_owned()));
    }
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["commands_answered"], 3, "{summary}");
    assert_eq!(summary["received"], 3, "{summary}");
    assert_eq!(summary["ended_by"], "signal");
}

#[test]
fn a_device_whose_outbox_is_full_skips_samples_and_holds_up_nobody() {
    let broker = broker();
    let withheld = broker
        .faults()
        .withhold(Target::client("d-000"), &[Ack::PubAck]);
    let mut others = watch(&broker, "devices/d-001/telemetry");
    let file = fleet_file(
        &endpoint(&broker),
        2,
        "[outbox]\nmax_messages = 2\noverflow = \"block\"",
    );
    // Waiting and refusing look the same to a device that never waits.
    for overflow in ["block", "reject"] {
        let set = format!("outbox.overflow={overflow}");
        let arguments = ["--duration", "6s", "--json", "--set", &set];
        let more = [
            "--set",
            "models.meter.interval.every=20ms",
            "--set",
            "models.meter.interval.jitter=0s",
            "--set",
            "fleet.drain_timeout=500ms",
        ];
        let summary = run(&file, &[&arguments[..], &more[..]].concat())
            .finish(LIMIT)
            .summary();
        assert_accounted_for(&summary);
        // 300 are due; at most two are held, and 8 more wait between the device and its queue.
        assert!(summary["skipped"].as_u64() > Some(200), "{summary}");
        let mut count = 0;
        while others.try_recv().is_some() {
            count += 1;
        }
        assert!(count > 200, "{overflow}: {count} from the other device");
        assert!(
            summary["dropped_by_reason"]["stopped"].as_u64() > Some(0),
            "{summary}"
        );
    }
    withheld.lift();
}

#[test]
fn nobody_listening_ends_with_status_one_and_one_line_that_says_why() {
    let address = format!("127.0.0.1:{}", free_port());
    let file = fleet_file(&format!("mqtt://{address}"), 30, "");
    let ended = run(&file, &["--duration", "4s", "--json"]).finish(LIMIT);
    assert_eq!(ended.code(), 1, "{ended:#?}");
    let summary: Value = serde_json::from_str(&ended.output).unwrap();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], 0);
    assert_eq!(summary["delivered"], 0);
    assert!(
        summary["errors"]["tcp"]["count"].as_u64() >= Some(30),
        "{summary}"
    );
    let last = ended.errors.lines().last().unwrap();
    assert!(last.contains("not one device came online"), "{last}");
    assert!(
        last.contains(&format!("× cannot connect to {address}")),
        "{last}"
    );
    // Aggregated: a few lines for 30 devices and hundreds of attempts.
    assert!(ended.errors.lines().count() < 10, "{ended:#?}");
}

#[test]
fn a_bad_file_is_refused_with_all_its_mistakes_and_nothing_is_started() {
    let broker = broker();
    let file = fleet_file(
        &endpoint(&broker),
        2,
        "[outbox]\noverflow = \"burn\"\nsize = 3",
    );
    let ended = run(&file, &["--json"]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert_eq!(ended.output, "");
    for mistake in [
        "outbox.overflow",
        "outbox.size",
        "2 mistakes; nothing was started",
    ] {
        assert!(ended.errors.contains(mistake), "{mistake} in {ended:#?}");
    }
    let ended = Program::start(["run", "-f", "no/such.toml"]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert_eq!(broker.stats().connects_accepted, 0);
}

#[test]
fn a_bad_certificate_or_key_is_named_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("paquebot test");
    let port = free_port();
    let (one, other) = (authority.client("one"), authority.client("other"));
    let path = |path: &Path| path.display().to_string();
    let not_pem = folder.path().join("ca.pem");
    write_file(&not_pem, "no certificate", 0o644);
    for (more, named) in [
        (format!("ca_file = \"{}\"", path(&not_pem)), path(&not_pem)),
        (
            format!(
                "auth = {{ type = \"x509\", cert = \"{}\", key = \"{}\" }}",
                path(&one.certificate),
                path(&other.key)
            ),
            path(&other.key),
        ),
    ] {
        let file = fleet_file(&format!("mqtts://localhost:{port}"), 2, "");
        let text = std::fs::read_to_string(&file.path).unwrap();
        let text = text.replace("[models.meter]", &format!("{more}\n[models.meter]"));
        write_file(&file.path, &text, 0o644);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ended = run(&file, &["--duration", "2s"]).finish(LIMIT);
        assert_eq!(ended.code(), 2, "{ended:#?}");
        assert!(ended.errors.contains(&named), "{named} in {ended:#?}");
        assert!(listener.accept().is_err(), "somebody connected");
    }
}

#[test]
fn a_taken_admin_port_is_named_and_nothing_is_started() {
    let broker = broker();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = fleet_file(
        &endpoint(&broker),
        2,
        &format!("[admin]\nlisten = \"{address}\""),
    );
    let ended = run(&file, &[]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains(&address), "{ended:#?}");
    assert!(ended.errors.contains("nothing was started"), "{ended:#?}");
    assert_eq!(broker.stats().connects_accepted, 0);
    let ended = run(&file, &["--no-admin", "--limit", "1"]).finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
}

#[test]
fn sigterm_and_ctrl_c_end_a_run_with_its_summary() {
    let broker = broker();
    let file = fleet_file(&endpoint(&broker), 5, "");
    for signal in ["TERM", "INT"] {
        let program = run(&file, &[]);
        wait::until("all are connected", LIMIT, || {
            broker.stats().connections == 5
        });
        program.signal(signal);
        let ended = program.finish(LIMIT);
        assert_eq!(ended.code(), 0, "{ended:#?}");
        assert!(ended.output.contains("test: 5 devices"), "{ended:#?}");
        assert!(
            ended.output.contains("every message is accounted for"),
            "{ended:#?}"
        );
        wait::until("all have left", LIMIT, || broker.stats().connections == 0);
    }
}

#[test]
fn a_second_signal_leaves_at_once() {
    let broker = broker();
    broker.faults().withhold(Target::All, &[Ack::PubAck]);
    let file = fleet_file(&endpoint(&broker), 2, "");
    let program = run(&file, &["--set", "fleet.drain_timeout=60s"]);
    wait::until("messages are in flight", LIMIT, || {
        broker.stats().received_total() >= 10
    });
    program.signal("TERM");
    program.told("draining", LIMIT);
    let asked = Instant::now();
    program.signal("TERM");
    let ended = program.finish(Duration::from_secs(10));
    assert_eq!(ended.code(), 130, "{ended:#?}");
    assert!(asked.elapsed() < Duration::from_secs(5));
}

/// The addresses of the admin listener that a program told.
fn admin_address(program: &Program) -> String {
    let url = program.told("metrics", LIMIT);
    let address = url.strip_prefix("http://").unwrap();
    address.strip_suffix("/metrics").unwrap().to_owned()
}

/// Waits until every device is online by the program's own metrics.
#[track_caller]
fn wait_online(program: &Program, admin: &str, devices: i64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = metrics(admin);
        let online = sum(&page, "paquebot_devices{", "state=\"connected\"");
        if online == devices {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{online} of {devices} online; the program said\n{}",
            program.errors()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// The equation on a page of metrics. The terms are read one after the other while messages flow, so they
/// may differ by what moved meanwhile.
#[track_caller]
fn assert_metrics_add_up(page: &str, slack: i64) {
    let accepted = sum(page, "paquebot_messages_accepted_total{", "");
    let ended = sum(page, "paquebot_message_outcomes_total{", "");
    let held = sum(page, "paquebot_messages_held{", "");
    assert!(accepted > 0);
    assert!(
        (accepted - ended - held).abs() <= slack,
        "accepted {accepted}, ended {ended}, held {held}"
    );
}

fn a_thousand_devices_survive_the_kill_of_mosquitto(persistence: Persistence) {
    let setup = Mosquitto::setup().plain().persistence(persistence);
    let Some(mut broker) = setup.line("max_queued_messages 100000").start() else {
        return;
    };
    let endpoint = format!("platforms.local.endpoint=mqtt://{}", broker.plain_address());
    let program = Program::start([
        "run",
        "-f",
        "examples/mosquitto.toml",
        "--json",
        "--set",
        &endpoint,
        "--set",
        "admin.listen=127.0.0.1:0",
        "--set",
        "models.meter.interval.every=1s",
        "--set",
        "models.meter.interval.jitter=200ms",
        "--set",
        "platforms.local.reconnect.base=200ms",
        "--set",
        "platforms.local.reconnect.max=2s",
    ]);
    let admin = admin_address(&program);
    wait_online(&program, &admin, 1_000);
    thread::sleep(Duration::from_secs(1));
    broker.kill();
    wait::until("all devices noticed", LIMIT, || {
        sum(&metrics(&admin), "paquebot_devices{", "state=\"connected\"") == 0
    });
    let page = metrics(&admin);
    assert!(
        sum(&page, "paquebot_messages_held{", "") > 0,
        "nothing waits"
    );
    assert_metrics_add_up(&page, 100);
    broker.restart();
    wait_online(&program, &admin, 1_000);
    wait::until("what waited is delivered", LIMIT, || {
        sum(&metrics(&admin), "paquebot_queue_messages{", "") == 0
    });
    assert_metrics_add_up(&metrics(&admin), 100);
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["devices"], 1_000);
    assert_eq!(summary["online_peak"], 1_000, "{summary}");
    assert_eq!(summary["online_at_end"], 1_000, "{summary}");
    assert!(summary["reconnects"].as_u64() >= Some(1_000), "{summary}");
    assert_eq!(summary["held"], 0, "{summary}");
    // QoS 1 loses nothing; of QoS 0 only what was being written when the connection broke.
    assert_eq!(summary["rejected"], 0, "{summary}");
    assert_eq!(
        summary["dropped"], summary["dropped_by_reason"]["connection_lost"],
        "{summary}"
    );
    assert!(summary["dropped"].as_u64() < Some(200), "{summary}");
}

#[test]
fn a_thousand_devices_survive_the_kill_of_a_mosquitto_that_forgets() {
    a_thousand_devices_survive_the_kill_of_mosquitto(Persistence::Off);
}

#[test]
fn a_thousand_devices_survive_the_kill_of_a_mosquitto_that_remembers() {
    a_thousand_devices_survive_the_kill_of_mosquitto(Persistence::On);
}

/// Lays certificates and keys of four devices beside the fleet file.
fn give_certificates(authority: &Authority, file: &FleetFile) {
    let folder = file.path.parent().unwrap();
    for index in 0..4 {
        let id = format!("d-00{index}");
        authority.client(&id).write_into(folder, &id);
    }
}

#[test]
fn devices_with_certificates_of_their_own_run_over_tls_on_mosquitto() {
    let authority = Authority::new("paquebot test");
    let setup = Mosquitto::setup().mutual_tls(&authority.server(), &authority);
    let Some(broker) = setup.start() else {
        return;
    };
    let port = broker.mutual_tls_port();
    let file = fleet_file(&format!("mqtts://localhost:{port}"), 4, "");
    give_certificates(&authority, &file);
    let ca_file = format!(
        "platforms.broker.ca_file={}",
        authority.certificate().display()
    );
    let text = std::fs::read_to_string(&file.path).unwrap();
    let auth = "auth = { type = \"x509\", cert = \"{{id}}.pem\", key = \"{{id}}.key.pem\" }";
    let text = text.replace("[models.meter]", &format!("{auth}\n[models.meter]"));
    write_file(&file.path, &text, 0o644);
    let summary = run(&file, &["--limit", "40", "--json", "--set", &ca_file])
        .finish(LIMIT)
        .summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], 4, "{summary}");
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
    assert!(broker.log().contains("d-003"), "{}", broker.log());
}

#[test]
fn things_of_a_platform_of_kind_aws_run_over_tls_with_their_certificates() {
    let authority = Authority::new("paquebot test");
    let setup = Mosquitto::setup().mutual_tls(&authority.server(), &authority);
    let Some(broker) = setup.start() else {
        return;
    };
    let port = broker.mutual_tls_port();
    let file = fleet_file("mqtts://localhost", 4, "");
    give_certificates(&authority, &file);
    let text = format!(
        r#"
[platforms.cloud]
kind = "aws"
endpoint = "localhost:{port}"
ca_file = "{}"
auth = {{ type = "x509", cert = "{{{{id}}}}.pem", key = "{{{{id}}}}.key.pem" }}
topics = {{ telemetry = "dt/{{{{group}}}}/{{device}}" }}
[models.meter]
interval = "100ms"
payload = '{{"i":{{{{index}}}}}}'
qos = 1
state = {{ reported = {{ fw = "1" }} }}
[[groups]]
name = "lab"
platform = "cloud"
model = "meter"
count = 4
id = "d-{{{{index:03}}}}"
"#,
        authority.certificate().display()
    );
    write_file(&file.path, &text, 0o644);
    let referee = broker.mutual_tls().trusting(&authority);
    let referee = referee
        .identity(&authority.client("referee"))
        .host("localhost");
    let mut referee = Subscriber::start(
        &referee,
        &["-t", "dt/lab/+", "-t", "$aws/things/+/shadow/update"],
    );
    let summary = run(&file, &["--limit", "40", "--json"])
        .finish(LIMIT)
        .summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], 4, "{summary}");
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
    let mut topics = std::collections::HashSet::new();
    while topics.len() < 8 {
        topics.insert(referee.receive().topic);
    }
    assert!(topics.contains("dt/lab/d-003") && topics.contains("$aws/things/d-000/shadow/update"));
}

#[test]
fn devices_with_passwords_from_files_run_and_a_wrong_one_is_told() {
    let Some(broker) = Mosquitto::setup()
        .user("d-000", "purser's rum")
        .user("d-001", "ship's biscuit")
        .start()
    else {
        return;
    };
    let address = SocketAddr::from(([127, 0, 0, 1], broker.password_port()));
    let file = fleet_file(&format!("mqtt://{address}"), 2, "");
    let folder = file.path.parent().unwrap();
    write_file(&folder.join("d-000.secret"), "purser's rum\n", 0o600);
    write_file(&folder.join("d-001.secret"), "ship's biscuit", 0o600);
    let auth =
        "auth = { type = \"password\", username = \"{{id}}\", password_file = \"{{id}}.secret\" }";
    let text = std::fs::read_to_string(&file.path).unwrap();
    let text = text.replace("[models.meter]", &format!("{auth}\n[models.meter]"));
    write_file(&file.path, &text, 0o644);
    let summary = run(&file, &["--limit", "20", "--json"])
        .finish(LIMIT)
        .summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["online_peak"], 2, "{summary}");

    write_file(&folder.join("d-000.secret"), "wrong", 0o600);
    write_file(&folder.join("d-001.secret"), "wrong", 0o600);
    let ended = run(&file, &["--duration", "2s"]).finish(LIMIT);
    assert_eq!(ended.code(), 1, "{ended:#?}");
    assert!(
        ended.errors.contains("the server refused the connection"),
        "{ended:#?}"
    );
    assert!(
        !ended.errors.contains("wrong"),
        "a password was told: {ended:#?}"
    );
}
