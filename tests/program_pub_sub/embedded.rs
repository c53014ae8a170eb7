//! `paquebot pub` and `paquebot sub` against the embedded server: every source of a message, every way to end,
//! and what is said and what never is.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Topic, TopicFilter};
use paquebot_emulator::{AccessTable, Broker, BrokerThread, Target, Watch};

use crate::support::certs::write_file;
use crate::support::program::Program;
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// No text of the program may hold it.
const PASSWORD: &str = "canary-9f2c";

/// What a command that nobody ends by other means is given, so that a fault ends its test.
const TIME_LIMIT: [&str; 2] = ["-W", "20"];

fn broker() -> BrokerThread {
    let builder = Broker::builder().tcp((Ipv4Addr::LOCALHOST, 0));
    builder.start_on_thread().unwrap()
}

fn broker_with(access: AccessTable) -> BrokerThread {
    let builder = Broker::builder().tcp((Ipv4Addr::LOCALHOST, 0));
    builder.policy(access).start_on_thread().unwrap()
}

fn port(broker: &Broker) -> String {
    broker.tcp_address().unwrap().port().to_string()
}

/// Starts a command with piped input and outputs.
#[track_caller]
fn spawn(command: &str, port: &str, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_paquebot"))
        .args([command, "-h", "127.0.0.1", "-p", port])
        .args(more)
        .env_remove("PAQUEBOT_USERNAME")
        .env_remove("PAQUEBOT_PASSWORD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command to its end.
#[track_caller]
fn run(command: &str, port: &str, more: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let more = [&TIME_LIMIT, more].concat();
    let mut child = spawn(command, port, &more);
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it, which is no failure.
    stdin.write_all(input).ok();
    drop(stdin);
    told(child.wait_with_output().unwrap())
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A command that does what it is to do and says nothing.
#[track_caller]
fn publish(port: &str, more: &[&str], input: &[u8]) {
    let ended = run("pub", port, more, input);
    assert_eq!(ended, (Some(0), String::new(), String::new()), "{more:?}");
}

/// What a subscriber prints that ends well by itself.
#[track_caller]
fn printed(port: &str, more: &[&str]) -> String {
    let (code, output, errors) = run("sub", port, more, b"");
    assert_eq!((code, &*errors), (Some(0), ""), "{more:?}: {output:?}");
    output
}

/// A subscriber in the background, subscribed.
#[track_caller]
fn subscribed(port: &str, more: &[&str]) -> Program {
    let fixed = ["sub", "-h", "127.0.0.1", "-p", port, "-d"];
    let program = Program::start(fixed.iter().chain(&TIME_LIMIT).chain(more));
    program.told("paquebot: subscribed to", LIMIT);
    program
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

#[track_caller]
fn next_payload(watch: &mut Watch) -> Vec<u8> {
    let message = wait::until_some("the broker saw a message", LIMIT, || watch.try_recv());
    message.payload.to_vec()
}

#[test]
fn each_source_is_published_byte_for_byte() {
    let broker = broker();
    let port = &port(&broker);
    let mut watch = broker.watch(filter("s"));
    let folder = tempfile::tempdir().unwrap();
    let (file, empty) = (folder.path().join("file"), folder.path().join("empty"));
    std::fs::write(&file, [0, 0xff, b'\n']).unwrap();
    write_file(&empty, "", 0o644);
    for qos in ["0", "1", "2"] {
        let options = ["-t", "s", "-q", qos];
        let send = |more: &[&str], input: &[u8]| {
            publish(port, &[&options, more].concat(), input);
        };
        send(&["-m", "-5 °C"], b"");
        assert_eq!(next_payload(&mut watch), "-5 °C".as_bytes());
        send(&["-m", ""], b"");
        assert_eq!(next_payload(&mut watch), b"");
        send(&["-f", file.to_str().unwrap()], b"");
        assert_eq!(next_payload(&mut watch), [0, 0xff, b'\n']);
        send(&["-f", empty.to_str().unwrap()], b"");
        assert_eq!(next_payload(&mut watch), b"");
        send(&["-s"], b"all\n\xff of it\n");
        assert_eq!(next_payload(&mut watch), b"all\n\xff of it\n");
        send(&["-n"], b"unread");
        assert_eq!(next_payload(&mut watch), b"");
        send(&["-l"], b"one\n\n\xfe\r\nlast");
        for line in [&b"one"[..], b"", b"\xfe\r", b"last"] {
            assert_eq!(next_payload(&mut watch), line);
        }
        send(&["-l"], b"");
        send(&["-m", "again", "--repeat", "3"], b"");
        for _ in 0..3 {
            assert_eq!(next_payload(&mut watch), b"again");
        }
    }
    assert!(watch.try_recv().is_none());
}

#[test]
fn a_large_message_arrives_whole() {
    let broker = broker();
    let mut watch = broker.watch(filter("big"));
    let payload: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    publish(&port(&broker), &["-t", "big", "-q", "1", "-s"], &payload);
    assert!(next_payload(&mut watch) == payload);
}

#[test]
fn the_count_the_time_and_the_subscription_end_a_subscriber() {
    let broker = broker();
    let port = &port(&broker);
    broker.publish(topic("r/1"), "one", QoS::AtLeastOnce, true);
    broker.publish(topic("r/2"), "two", QoS::AtLeastOnce, true);
    assert_eq!(
        printed(port, &["-t", "r/1", "-t", "r/2", "-C", "2"]).len(),
        8
    );
    assert_eq!(printed(port, &["-t", "none", "-E"]), "");
    let began = Instant::now();
    let ended = told(
        spawn("sub", port, &["-t", "none", "-W", "0.5"])
            .wait_with_output()
            .unwrap(),
    );
    let note = "paquebot: timed out\n".to_owned();
    assert_eq!(ended, (Some(27), String::new(), note));
    assert!(began.elapsed() >= Duration::from_millis(500));
    // What came before the time was up is printed.
    let ended = told(
        spawn("sub", port, &["-t", "r/1", "-W", "1", "--quiet"])
            .wait_with_output()
            .unwrap(),
    );
    assert_eq!(ended, (Some(27), "one\n".to_owned(), String::new()));
}

#[test]
fn a_signal_ends_a_subscriber_in_order() {
    let broker = broker();
    let port = &port(&broker);
    for signal in ["INT", "TERM"] {
        let will = ["--will-topic", "gone", "--will-payload", "lost"];
        let mut watch = broker.watch(filter("gone"));
        let program = subscribed(port, &[&["-t", "t"][..], &will].concat());
        program.signal(signal);
        assert_eq!(program.finish(LIMIT).code(), 0, "{signal}");
        // A goodbye takes the will back.
        wait::until("the client is gone", LIMIT, || {
            broker.clients().iter().all(|client| !client.connected)
        });
        assert!(watch.try_recv().is_none(), "{signal}");
    }
}

#[test]
fn a_killed_client_leaves_its_will() {
    let broker = broker();
    let mut watch = broker.watch(filter("gone"));
    let will = "--will-topic gone --will-payload lost --will-qos 2 --will-retain -t t";
    let will: Vec<&str> = will.split(' ').collect();
    drop(subscribed(&port(&broker), &will));
    let message = wait::until_some("the will", LIMIT, || watch.try_recv());
    assert_eq!(
        (&message.payload[..], message.qos, message.retain),
        (&b"lost"[..], QoS::ExactlyOnce, true)
    );
}

#[test]
fn messages_are_shown_as_asked_for() {
    let broker = broker();
    let port = &port(&broker);
    publish(port, &["-t", "r/a", "-m", "one", "-r", "-q", "1"], b"");
    let shown = |more: &[&str]| {
        let options = ["-t", "r/+", "-q", "1", "-C", "1"];
        printed(port, &[&options, more].concat())
    };
    assert_eq!(shown(&[]), "one\n");
    assert_eq!(shown(&["-v"]), "r/a one\n");
    assert_eq!(shown(&["-N"]), "one");
    assert_eq!(shown(&["-v", "-N"]), "r/a one");
    assert_eq!(shown(&["-F", "%t\\t%q %r %l %x"]), "r/a\t1 1 3 6f6e65\n");
    assert_eq!(shown(&["-N", "-F", "[%8p]"]), "[     one]");
}

#[test]
fn what_is_filtered_out_is_neither_shown_nor_counted() {
    let broker = broker();
    let program = subscribed(&port(&broker), &["-t", "#", "-T", "a/+", "-v", "-C", "2"]);
    for name in ["a/1", "b", "a/2", "a/b/c"] {
        broker.publish(topic(name), "x", QoS::AtMostOnce, false);
    }
    assert_eq!(program.finish(LIMIT).output, "b x\na/b/c x\n");
}

#[test]
fn retained_only_ends_at_the_first_fresh_message_and_its_opposite_shows_that_one() {
    let broker = broker();
    let port = &port(&broker);
    broker.publish(topic("r/a"), "kept", QoS::AtMostOnce, true);
    let (only, not) = (
        subscribed(port, &["-t", "r/#", "--retained-only"]),
        subscribed(port, &["-t", "r/#", "-R", "-C", "1"]),
    );
    broker.publish(topic("r/a"), "fresh", QoS::AtMostOnce, false);
    let only = only.finish(LIMIT);
    assert_eq!((only.code(), &*only.output), (0, "kept\n"));
    let not = not.finish(LIMIT);
    assert_eq!((not.code(), &*not.output), (0, "fresh\n"));
    publish(port, &["-t", "r/a", "-n", "-r"], b"");
    let (code, output, _) = run("sub", port, &["-t", "r/#", "-W", "0.3"], b"");
    assert_eq!((code, &*output), (Some(27), ""));
}

#[test]
fn a_refused_filter_is_named_and_fails_only_if_none_is_left() {
    let access = AccessTable::new()
        .allow_anonymous()
        .deny_subscribe(filter("secret/#"));
    let broker = broker_with(access);
    let port = &port(&broker);
    broker.publish(topic("open"), "x", QoS::AtMostOnce, true);
    for version in ["3.1.1", "5"] {
        let options = ["-V", version, "-t", "secret/+"];
        let (code, output, errors) = run("sub", port, &options, b"");
        assert_eq!((code, &*output), (Some(1), ""), "{errors}");
        let start = "paquebot: the server refused the subscription to secret/+: ";
        assert!(errors.starts_with(start), "{errors}");
        let both = [&options[..], &["-t", "open", "-E"]].concat();
        let (code, _, errors) = run("sub", port, &both, b"");
        assert_eq!(code, Some(0), "{errors}");
        assert!(errors.starts_with(start), "{errors}");
    }
}

#[test]
fn a_refused_message_fails_with_its_reason_on_mqtt_5() {
    let access = AccessTable::new()
        .allow_anonymous()
        .deny_publish(filter("admin/#"));
    let broker = broker_with(access);
    for qos in ["1", "2"] {
        let options = ["-t", "admin/x", "-m", "x", "-V", "5", "-q", qos];
        let (code, output, errors) = run("pub", &port(&broker), &options, b"");
        assert_eq!((code, &*output), (Some(1), ""));
        assert!(
            errors.starts_with("paquebot: a message was rejected: not authorized"),
            "{errors}"
        );
    }
}

#[test]
fn a_closed_port_fails_quickly_and_a_silent_server_in_the_time_given() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let began = Instant::now();
    let options = ["-t", "t", "-m", "x", "-W", "0.5"];
    let (code, _, errors) = run("pub", &port, &options, b"");
    assert_eq!(code, Some(27), "{errors}");
    drop(listener);
    for (command, more) in [("pub", &["-t", "t", "-m", "x"][..]), ("sub", &["-t", "t"])] {
        let (code, output, errors) = run(command, &port, more, b"");
        assert_eq!((code, &*output), (Some(1), ""), "{errors}");
        let start = format!("paquebot: cannot connect to 127.0.0.1:{port}: ");
        assert!(errors.starts_with(&start), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_broken_connection_is_restored_with_its_subscriptions() {
    let broker = broker();
    let program = subscribed(&port(&broker), &["-t", "t", "-q", "1", "-C", "2"]);
    broker.publish(topic("t"), "before", QoS::AtLeastOnce, false);
    // It is acknowledged once it is printed.
    wait::until("the message is acknowledged", LIMIT, || {
        broker.clients().iter().all(|client| client.inflight == 0)
    });
    let everybody = Target::matching(|_| true);
    assert_eq!(broker.faults().disconnect(&everybody, None), 1);
    program.told("paquebot: connected again", LIMIT);
    wait::until("the subscription is back", LIMIT, || {
        program.errors().matches("subscribed to t").count() == 2
    });
    broker.publish(topic("t"), "after", QoS::AtLeastOnce, false);
    let ended = program.finish(LIMIT);
    assert_eq!((ended.code(), &*ended.output), (0, "before\nafter\n"));
}

#[test]
fn a_wrong_command_line_is_told_and_connects_to_nobody() {
    let broker = broker();
    let port = &port(&broker);
    for (command, line, words) in [
        ("pub", "-t a/# -m x", "-t \"a/#\""),
        ("pub", "-t a/+/b -m x", "-t \"a/+/b\""),
        ("pub", "-m x", "(-t)"),
        ("pub", "-t a", "--message"),
        ("pub", "-t a -m x -n", "--null-message"),
        ("pub", "-t a -m x -q 3", "0, 1 or 2"),
        ("pub", "-t a -m x -V 4", "3.1.1 or 5"),
        ("pub", "-t a -m x -V mqttv31", "3.1.1 or 5"),
        ("pub", "-t a -f /does/not/exist", "/does/not/exist"),
        ("pub", "-t a -s", "-n"),
        ("pub", "-t a -m x --will-topic w/#", "--will-topic"),
        ("pub", "-t a -m x --will-retain", "--will-topic"),
        ("pub", "-t a -m x --insecure", "--cafile"),
        (
            "pub",
            "-t a -m x --cafile /does/not/exist",
            "/does/not/exist",
        ),
        ("pub", "-t a -m x --cert /does/not/exist", "--key"),
        (
            "pub",
            "-t a -m x -V 3.1.1 -D publish content-type x",
            "MQTT 5",
        ),
        ("sub", "", "(-t)"),
        ("sub", "-t a/#/b", "-t \"a/#/b\""),
        ("sub", "-t a -T a+", "-T \"a+\""),
        ("sub", "-t a -q 7", "0, 1 or 2"),
        ("sub", "-t a -C 0", "-C"),
        ("sub", "-t a -W 0", "above 0"),
        ("sub", "-t a -F %i", "%i"),
        ("sub", "-t a -R --retained-only", "--retained-only"),
        ("sub", "-t a -c", "(-i)"),
        ("sub", "-t a -x 5", "-V 5"),
    ] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = spawn(command, port, &arguments).wait_with_output().unwrap();
        let (code, output, errors) = told(output);
        assert_eq!(
            (code, &*output),
            (Some(2), ""),
            "{command} {line}: {errors}"
        );
        assert!(
            errors.contains(words),
            "{command} {line}: no {words:?} in {errors}"
        );
    }
    assert_eq!(broker.stats().bytes_received, 0);
}

#[test]
fn a_reader_that_goes_away_ends_a_subscriber_quietly() {
    let broker = broker();
    let mut child = spawn("sub", &port(&broker), &["-t", "t", "-W", "20"]);
    drop(child.stdout.take());
    wait::until("the subscriber has ended", LIMIT, || {
        broker.publish(topic("t"), "x", QoS::AtMostOnce, false);
        child.try_wait().unwrap().is_some()
    });
    let ended = told(child.wait_with_output().unwrap());
    assert_eq!(ended, (Some(0), String::new(), String::new()));
}

#[test]
fn the_password_is_in_no_output_whatever_goes_wrong() {
    let broker = broker_with(AccessTable::new().user("ship", "right"));
    let port = &port(&broker);
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed_port = closed.local_addr().unwrap().port().to_string();
    drop(closed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write_file(&file, &format!("{PASSWORD}\nmore\n"), 0o600);
    let url = |host: &str| format!("mqtt://ship:{PASSWORD}@{host}/t");
    let (here, nowhere, wrong) = (url(&format!("127.0.0.1:{port}")), url("h:0"), url(""));
    let file = file.to_str().unwrap();
    let at = ["-h", "127.0.0.1", "-p", port, "-t", "t"];
    let cases: [(Vec<&str>, i32); 8] = [
        ([&at[..], &["-u", "ship", "-P", PASSWORD]].concat(), 1),
        (
            [&at[..], &["-u", "ship", "--password-file", file]].concat(),
            1,
        ),
        ([&at[..], &["-P", PASSWORD]].concat(), 2),
        (
            [&at[..], &["-u", "ship", "-P", PASSWORD, "-q", "9"]].concat(),
            2,
        ),
        (
            vec![
                "-p",
                &closed_port,
                "-t",
                "t",
                "-u",
                "ship",
                "-P",
                PASSWORD,
                "-h",
                "127.0.0.1",
            ],
            1,
        ),
        (vec!["-L", &here], 1),
        (vec!["-L", &nowhere], 2),
        (vec!["-L", &wrong], 2),
    ];
    for (arguments, code) in cases {
        for command in [&["sub", "-W", "20"][..], &["pub", "-W", "20", "-m", "x"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_paquebot"))
                .args(command)
                .args(&arguments)
                .arg("-d")
                .env("PAQUEBOT_LOG", "trace")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let (ended, output, errors) = told(output);
            assert_eq!(ended, Some(code), "{command:?} {arguments:?}: {errors}");
            assert!(
                !output.contains(PASSWORD) && !errors.contains(PASSWORD),
                "{command:?} {arguments:?}: {errors}"
            );
            assert!(!errors.is_empty());
        }
    }
}
