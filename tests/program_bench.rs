//! `paquebot bench`: its figures are consistent, its runs end by themselves, and what goes wrong is said.
//!
//! No figure is held against a time: the machine may be busy.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test whose program says nothing readable has failed"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use paquebot_emulator::Broker;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paquebot"));
    command.arg("bench").args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    bench(arguments).output().unwrap()
}

/// Runs to success; the object on the last line of standard output.
fn json(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", errors(&output));
    last_line(&output)
}

fn last_line(output: &Output) -> Value {
    let text = str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

/// Percentiles ascend, and as many latencies were recorded as there were messages.
fn check_latencies(summary: &Value, key: &str, count: u64) {
    let latencies = &summary[key];
    assert_eq!(number(latencies, "count"), count, "{key}");
    let values: Vec<f64> = ["p50_s", "p90_s", "p99_s", "p999_s", "max_s"]
        .iter()
        .map(|name| latencies[name].as_f64().unwrap())
        .collect();
    assert!(values.is_sorted(), "{key}: {values:?}");
    assert!(values[0] > 0.0, "{key}: {values:?}");
}

fn check_outcomes(summary: &Value) {
    let ended: u64 = ["delivered", "rejected", "expired", "dropped", "unanswered"]
        .iter()
        .map(|key| number(summary, key))
        .sum();
    assert_eq!(number(summary, "sent"), ended, "{summary}");
}

#[test]
fn every_published_message_has_one_outcome_and_one_latency() {
    for transport in ["tcp", "pipe"] {
        for qos in ["0", "1", "2"] {
            for version in ["3.1.1", "5"] {
                let summary = json(&[
                    "pub",
                    "--embedded",
                    transport,
                    "-q",
                    qos,
                    "-V",
                    version,
                    "--count",
                    "3",
                    "--limit",
                    "500",
                    "--inflight",
                    "10",
                ]);
                assert_eq!(number(&summary, "sent"), 500);
                assert_eq!(number(&summary, "delivered"), 500);
                assert_eq!(summary["protocol_version"], version);
                assert_eq!(summary["loop"], "closed");
                assert_eq!(summary["target_reached"], Value::Null);
                assert_eq!(summary["late"], Value::Null);
                check_outcomes(&summary);
                check_latencies(&summary, "ack", 500);
            }
        }
    }
}

#[test]
fn every_subscriber_gets_every_message_once_and_in_order() {
    let summary = json(&[
        "sub",
        "--embedded",
        "--count",
        "3",
        "--publishers",
        "2",
        "--limit",
        "400",
        "--size",
        "32",
    ]);
    assert_eq!(number(&summary, "links"), 5);
    assert_eq!(number(&summary, "sent"), 400);
    assert_eq!(number(&summary, "expected"), 1200);
    assert_eq!(number(&summary, "received"), 1200);
    for none in [
        "lost",
        "duplicates",
        "reordered",
        "foreign",
        "unsent",
        "unanswered",
    ] {
        assert_eq!(number(&summary, none), 0, "{none}");
    }
    assert_eq!(summary["loss"], 0.0);
    check_outcomes(&summary);
    check_latencies(&summary, "e2e", 1200);
    check_latencies(&summary, "ack", 400);
}

#[test]
fn a_shared_subscription_gets_each_message_once_in_all() {
    let summary = json(&[
        "sub",
        "--embedded",
        "--count",
        "3",
        "--limit",
        "300",
        "--filter",
        "$share/group/paquebot/bench/+",
    ]);
    assert_eq!(number(&summary, "expected"), 300);
    assert_eq!(number(&summary, "received"), 300);
    assert_eq!(number(&summary, "lost"), 0);
}

#[test]
fn every_round_trip_comes_back() {
    for transport in ["tcp", "pipe"] {
        let summary = json(&[
            "rtt",
            "--embedded",
            transport,
            "--count",
            "4",
            "--limit",
            "200",
        ]);
        assert_eq!(number(&summary, "sent"), 200);
        assert_eq!(number(&summary, "received"), 200);
        assert_eq!(number(&summary, "lost"), 0);
        assert_eq!(number(&summary, "inflight"), 1);
        check_outcomes(&summary);
        check_latencies(&summary, "rtt", 200);
    }
}

#[test]
fn links_are_opened_held_and_counted() {
    let summary = json(&["conn", "--embedded", "--count", "40", "--duration", "50ms"]);
    for (key, wanted) in [
        ("attempted", 40),
        ("connected", 40),
        ("failed", 0),
        ("lost_while_held", 0),
    ] {
        assert_eq!(number(&summary, key), wanted, "{key}");
    }
    assert!(summary["held_s"].as_f64().unwrap() >= 0.05);
    check_latencies(&summary, "connect", 40);
    let paced = json(&["conn", "--embedded", "--count", "10", "--rate", "200"]);
    assert_eq!(paced["loop"], "open");
    assert_eq!(number(&paced["late"], "count"), 10);
}

#[test]
fn a_low_rate_is_reached_with_the_messages_it_means() {
    for command in ["pub", "sub", "rtt"] {
        let summary = json(&[
            command,
            "--embedded",
            "--rate",
            "50",
            "--duration",
            "1s",
            "--warmup",
            "200ms",
        ]);
        assert_eq!(summary["loop"], "open");
        assert_eq!(summary["target_rate_per_s"], 50.0);
        assert_eq!(number(&summary, "sent") + number(&summary, "unsent"), 50);
        assert_eq!(number(&summary, "unsent"), 0);
        assert_eq!(summary["achieved_rate_per_s"], 50.0);
        assert_eq!(summary["target_reached"], true);
        assert_eq!(summary["warmup_s"], 0.2);
        check_outcomes(&summary);
        check_latencies(&summary, "late", 50);
        check_latencies(&summary, "ack", 50);
        check_latencies(&summary, "ack_service", 50);
    }
}

#[test]
fn an_impossible_rate_is_reported_as_not_reached() {
    let load = [
        "pub",
        "--embedded",
        "--rate",
        "1e9",
        "--duration",
        "300ms",
        "--interval",
        "0",
    ];
    let summary = json(&load);
    assert_eq!(summary["target_reached"], false);
    assert!(summary["achieved_rate_per_s"].as_f64().unwrap() < 1e9);
    // What was due and not sent is no part of any latency, so it has to be told.
    assert_eq!(
        number(&summary, "sent") + number(&summary, "unsent"),
        300_000_000
    );
    check_outcomes(&summary);
    let late = summary["late"]["max_s"].as_f64().unwrap();
    let ack = summary["ack"]["max_s"].as_f64().unwrap();
    let service = summary["ack_service"]["max_s"].as_f64().unwrap();
    assert!(late > 0.0 && ack >= service, "{late} {ack} {service}");
    let output = run(&load);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("THE TARGET RATE WAS NOT REACHED"), "{text}");
    assert!(text.contains("never sent"), "{text}");
}

#[test]
fn an_assertion_that_fails_is_named_and_ends_with_status_1() {
    let load = ["pub", "--embedded", "--limit", "20", "--assert"];
    let good = run(&[
        &load[..],
        &["loss<=0", "--assert", "ack_p99<1m", "--assert", "rate>0"],
    ]
    .concat());
    assert_eq!(good.status.code(), Some(0), "{}", errors(&good));
    let bad = run(&[&load[..], &["ack_p50<0ms", "--assert", "loss<=0", "--json"]].concat());
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        errors(&bad).contains("assertion failed: ack_p50<0ms"),
        "{}",
        errors(&bad)
    );
    assert!(!errors(&bad).contains("loss"), "{}", errors(&bad));
    let verdicts = last_line(&bad)["assertions"].clone();
    assert_eq!(verdicts[0]["assertion"], "ack_p50<0ms");
    assert_eq!(verdicts[0]["holds"], false);
    assert_eq!(verdicts[1]["holds"], true);
    assert_eq!(verdicts[1]["found"], 0.0);
}

#[test]
fn a_server_that_is_not_there_ends_with_status_1_and_the_reason() {
    // Bound and not listening: nobody else can have the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    for command in ["conn", "pub", "sub", "rtt"] {
        let output = run(&[command, "-h", "127.0.0.1", "-p", &port, "--count", "3"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = errors(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("cannot connect to 127.0.0.1"),
            "{command}: {said}"
        );
    }
}

/// What AWS IoT does not take.
const DEEP: &str = "1/2/3/4/5/6/7/8/9";
const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef-%i";

/// For a server with the rules of AWS IoT that nobody connects to.
fn aws<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let place = ["--platform", "aws", "-h", "127.0.0.1", "-p", "1", "-u", "x"];
    [arguments, &place[..]].concat()
}

#[test]
fn a_wrong_command_line_ends_with_status_2() {
    for (arguments, part) in [
        (&["pub", "--size", "31"][..], "--size"),
        (&["pub", "--rate", "0"], "--rate"),
        (&["pub", "--qos", "3"], "--qos"),
        (&["pub", "--count", "0"], "--count"),
        (&["pub", "--duration", "soon"], "--duration"),
        (&["pub", "--assert", "ack_p99"], "compares nothing"),
        (&["pub", "--assert", "e2e_p99<1s"], "no such figure"),
        (&["conn", "--assert", "ack_p99<1s"], "no such figure"),
        (&["pub", "--embedded", "--topic", "a/%x"], "%x"),
        (&["pub", "--embedded", "--topic", "a/#"], "a/#"),
        (
            &["pub", "--embedded", "--count", "2", "--id", "same"],
            "--id",
        ),
        (
            &["rtt", "--embedded", "--count", "2", "--topic", "same"],
            "--topic",
        ),
        (&["sub", "--embedded", "--filter", "elsewhere"], "elsewhere"),
        (&["sub", "--embedded", "--filter", "a/#/b"], "a/#/b"),
        (&["sub", "--no-publish"], "--filter"),
        (&["pub", "--embedded", "-h", "localhost"], "--embedded"),
        (&["pub", "-L", "http://localhost"], "mqtt://"),
        (&["pub", "--cafile", "/does/not/exist"], "/does/not/exist"),
        (&["pub", "-P", "secret"], "-u"),
        (&["pub", "--embedded", "--ws-header", "X: x"], "--ws-header"),
        (&["pub", "--payload", "/dev/zero"], "128 MiB"),
        (&["storm", "--embedded", "--duration", "0s"], "--duration"),
        (&aws(&["pub", "--size", "200KiB"]), "131072"),
        (&aws(&["pub", "-t", DEEP]), "9 levels"),
        (&aws(&["rtt", "-t", DEEP]), "9 levels"),
        (&aws(&["sub", "--no-publish", "--filter", DEEP]), "9 levels"),
        (&aws(&["conn", "-i", LONG]), "bytes"),
        (&aws(&["storm", "-i", LONG]), "bytes"),
    ] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(
            errors(&output).contains(part),
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    let output = run(&["pub", "-L", "mqtt://me:s3cret@[::1", "--limit", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!errors(&output).contains("s3cret"), "{}", errors(&output));
}

#[test]
fn a_subscriber_counts_what_another_process_publishes() {
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()
        .unwrap();
    let port = broker.tcp_address().unwrap().port().to_string();
    let there = ["-h", "127.0.0.1", "-p", &port, "--json", "--limit", "200"];
    let listen = ["sub", "--no-publish", "--filter", "paquebot/bench/#"];
    let subscriber = bench(&[&listen[..], &there].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    broker
        .wait_for_blocking(|stats| stats.subscriptions == 1, LIMIT)
        .unwrap();
    let published = run(&[&["pub"][..], &there].concat());
    assert!(published.status.success(), "{}", errors(&published));
    let output = subscriber.wait_with_output().unwrap();
    assert!(output.status.success());
    let summary = last_line(&output);
    assert_eq!(summary["loop"], "none");
    assert_eq!(number(&summary, "received"), 200);
    assert_eq!(number(&summary, "lost"), 0);
    check_latencies(&summary, "e2e", 200);
    broker.stop();
}

#[test]
#[cfg(unix)]
fn a_run_that_is_told_to_end_still_gives_its_figures() {
    let mut child = bench(&[
        "pub",
        "--embedded",
        "--rate",
        "100",
        "--duration",
        "10m",
        "--interval",
        "50ms",
        "--json",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    // The first line of progress: messages are under way and the signal is handled.
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("sent"), "{line}");
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(child.wait().unwrap().success());
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["interrupted"], true);
    assert!(number(&summary, "sent") > 0);
    assert!(summary["elapsed_s"].as_f64().unwrap() < 600.0);
    check_outcomes(&summary);
}

/// A server that lets clients in and answers nothing more.
#[test]
#[cfg(unix)]
fn a_signal_ends_a_run_whose_subscription_is_never_answered() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (asked, is_asked) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 1024];
        let _ = stream.read(&mut bytes).unwrap();
        std::io::Write::write_all(&mut stream, &[0x20, 2, 0, 0]).unwrap();
        // SUBSCRIBE.
        let _ = stream.read(&mut bytes).unwrap();
        asked.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut child = bench(&["rtt", "-h", "127.0.0.1", "-p", &port, "-t", "a"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    is_asked.recv().unwrap();
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut errors = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    assert!(errors.contains("interrupted"), "{errors}");
    server.join().unwrap();
}

#[test]
fn a_storm_that_not_every_link_survives_ends_with_status_1() {
    // Few come back in so short a time, if any.
    let output = run(&[
        "storm",
        "--embedded",
        "--count",
        "3",
        "--duration",
        "1ms",
        "--json",
    ]);
    let summary = last_line(&output);
    let failed = number(&summary, "failed");
    assert_eq!(
        output.status.code(),
        Some(i32::from(failed > 0)),
        "{summary}"
    );
    assert_eq!(number(&summary, "connected") + failed, 3, "{summary}");
    assert_eq!(errors(&output).contains("did not come back"), failed > 0);
}

#[test]
fn all_links_of_a_storm_come_back_and_are_counted() {
    for version in ["3.1.1", "5"] {
        let summary = json(&["storm", "--embedded", "tcp", "--count", "20", "-V", version]);
        assert_eq!(number(&summary, "attempted"), 20, "{summary}");
        assert_eq!(number(&summary, "connected"), 20, "{summary}");
        assert_eq!(number(&summary, "failed"), 0, "{summary}");
        check_latencies(&summary, "connect", 20);
        assert!(summary["elapsed_s"].as_f64().unwrap() > 0.0, "{summary}");
    }
}

#[test]
fn a_payload_of_the_users_own_is_published_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload");
    std::fs::write(&file, "{\"v\":1}").unwrap();
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()
        .unwrap();
    let mut watch = broker.watch(paquebot::mqtt::TopicFilter::new("own/#").unwrap());
    let port = broker.tcp_address().unwrap().port().to_string();
    let (file, size) = (file.to_str().unwrap(), "7");
    let place = [
        "pub",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-t",
        "own/%i",
        "--limit",
        "3",
    ];
    let summary = json(&[&place[..], &["--payload", file]].concat());
    assert_eq!(number(&summary, "delivered"), 3, "{summary}");
    assert_eq!(summary["size_bytes"].to_string(), size, "{summary}");
    for _ in 0..3 {
        let message = watch.try_recv().unwrap();
        assert_eq!(&message.payload[..], b"{\"v\":1}");
    }
    let missing = run(&[&place[..], &["--payload", "/does/not/exist"]].concat());
    assert_eq!(missing.status.code(), Some(2), "{}", errors(&missing));
}
