//! `paquebot pub` and `paquebot sub` against the embedded broker: what is sent is printed, and every end has
//! its exit status and its words.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use paquebot::mqtt::TopicFilter;
use paquebot_emulator::{AccessTable, Ack, Broker, BrokerThread, Limits, ServerTls, Target};

use crate::support::certs::{Authority, write_file};
use crate::support::client::Endpoint;
use crate::support::exchange::{
    LIMIT, Ran, Subscriber, arguments, publish, publish_from, run, run_with,
};
use crate::support::ports::free_port;
use crate::support::program::Program;
use crate::support::wait;

fn broker() -> (BrokerThread, Endpoint) {
    let builder = Broker::builder().tcp(([127, 0, 0, 1], 0));
    let broker = builder.start_on_thread().unwrap();
    let endpoint = Endpoint::new(broker.tcp_address().unwrap().port());
    (broker, endpoint)
}

fn guarded(access: AccessTable) -> (BrokerThread, Endpoint) {
    let builder = Broker::builder().tcp(([127, 0, 0, 1], 0)).policy(access);
    let broker = builder.start_on_thread().unwrap();
    let endpoint = Endpoint::new(broker.tcp_address().unwrap().port());
    (broker, endpoint)
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

#[track_caller]
fn run_pub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    run(&arguments("pub", endpoint, more), b"")
}

#[track_caller]
fn run_sub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    run(&arguments("sub", endpoint, more), b"")
}

/// Failed at once, with these words.
#[track_caller]
fn assert_failed(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.output.is_empty(), "{ran:?}");
    for word in words {
        assert!(ran.errors.contains(word), "{word:?} is not in {ran:?}");
    }
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
}

#[test]
fn a_message_of_each_version_and_qos_is_printed() {
    let (_broker, endpoint) = broker();
    for version in ["mqttv311", "5"] {
        let subscriber = Subscriber::start(
            &endpoint,
            &[
                "-t",
                "a/+",
                "-q",
                "2",
                "-V",
                version,
                "-C",
                "3",
                "-F",
                "%t %q %r %p",
            ],
        );
        for qos in ["0", "1", "2"] {
            let topic = format!("a/{qos}");
            publish(
                &endpoint,
                &["-t", &topic, "-m", "-5 °C", "-q", qos, "-V", version],
            );
        }
        assert_eq!(
            subscriber.printed(),
            "a/0 0 0 -5 °C\na/1 1 0 -5 °C\na/2 2 0 -5 °C\n"
        );
    }
}

#[test]
fn each_source_of_a_message_is_sent_whole() {
    let (_broker, endpoint) = broker();
    let folder = tempfile::tempdir().unwrap();
    let (file, empty) = (folder.path().join("file"), folder.path().join("empty"));
    write_file(&file, "in a\nfile\n", 0o644);
    write_file(&empty, "", 0o644);
    let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-C", "11", "-F", "[%p]"]);
    publish(&endpoint, &["-t", "t", "-m", "text"]);
    publish(&endpoint, &["-t", "t", "-f", file.to_str().unwrap()]);
    publish(&endpoint, &["-t", "t", "-f", empty.to_str().unwrap()]);
    publish(&endpoint, &["-t", "t", "-n"]);
    publish_from(&endpoint, &["-t", "t", "-s"], b"all\nof it\n");
    publish_from(&endpoint, &["-t", "t", "-l"], b"one\n\ntwo\r\nlast");
    publish(
        &endpoint,
        &[
            "-t",
            "t",
            "-m",
            "r",
            "--repeat",
            "2",
            "--repeat-delay",
            "0.01",
        ],
    );
    assert_eq!(
        subscriber.printed(),
        "[text]\n[in a\nfile\n]\n[]\n[]\n[all\nof it\n]\n[one]\n[]\n[two\r]\n[last]\n[r]\n[r]\n"
    );
    let nothing = run(&arguments("pub", &endpoint, &["-t", "t", "-s"]), b"");
    assert_failed(&nothing, 2, &["paquebot: standard input is empty"]);
    let missing = run_pub(&endpoint, &["-t", "t", "-f", "/does/not/exist"]);
    assert_failed(
        &missing,
        2,
        &["paquebot: cannot read /does/not/exist: No such file"],
    );
}

#[test]
fn lines_are_streamed_and_keep_their_order() {
    // Beyond its limits a broker drops what has QoS 0 and belongs to a slow subscriber.
    let mut limits = Limits::default();
    limits.outbound_packets_max = 100_000;
    let builder = Broker::builder().tcp(([127, 0, 0, 1], 0)).limits(limits);
    let broker = builder.start_on_thread().unwrap();
    let endpoint = Endpoint::new(broker.tcp_address().unwrap().port());
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    for qos in ["0", "1", "2"] {
        let flags = ["-t", "t", "-q", qos, "-C", "20000"];
        let subscriber = Subscriber::start(&endpoint, &flags);
        publish_from(&endpoint, &["-t", "t", "-q", qos, "-l"], lines.as_bytes());
        assert!(
            subscriber.printed() == lines,
            "QoS {qos}: not the same lines"
        );
    }
}

#[test]
fn a_line_goes_out_while_the_next_is_not_yet_there() {
    let (_broker, endpoint) = broker();
    let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-C", "1"]);
    let mut publisher = Command::new(env!("CARGO_BIN_EXE_paquebot"))
        .args(arguments("pub", &endpoint, &["-t", "t", "-l"]))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = publisher.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"first\n").unwrap();
    assert_eq!(subscriber.printed(), "first\n");
    drop(input);
    assert!(publisher.wait().unwrap().success());
}

#[test]
fn a_url_says_where_and_on_what_topic() {
    let (_broker, endpoint) = broker();
    let [_, host, _, port] = &endpoint.arguments()[..] else {
        panic!("-h and -p are missing");
    };
    let (host, port) = (host.to_str().unwrap(), port.to_str().unwrap());
    let subscriber = Subscriber::start(&endpoint, &["-t", "u/#", "-v", "-C", "1"]);
    let url = format!("mqtt://{host}:{port}/u/r/l");
    let ran = run(
        &[
            "pub".into(),
            "-L".into(),
            url.into(),
            "-m".into(),
            "x".into(),
        ],
        b"",
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(subscriber.printed(), "u/r/l x\n");
}

#[test]
fn retained_messages_are_shown_hidden_awaited_and_removed() {
    let (_broker, endpoint) = broker();
    publish(&endpoint, &["-t", "r/old", "-m", "old", "-r", "-q", "1"]);
    publish(&endpoint, &["-t", "r/kept", "-m", "kept", "-r", "-q", "1"]);

    let fresh = Subscriber::start(&endpoint, &["-t", "r/#", "-R", "-C", "1", "-v"]);
    publish(&endpoint, &["-t", "r/new", "-m", "new"]);
    assert_eq!(fresh.printed(), "r/new new\n");

    let stale = ["-t", "r/#", "--retained-only", "-v", "-T", "r/kept"];
    let stale = Subscriber::start(&endpoint, &stale);
    publish(&endpoint, &["-t", "r/new", "-m", "new"]);
    assert_eq!(stale.printed(), "r/old old\n");

    let flags = [
        "-t",
        "r/#",
        "--remove-retained",
        "-T",
        "r/kept",
        "-C",
        "1",
        "-F",
        "%t %r",
    ];
    let removing = run_sub(&endpoint, &flags);
    assert_eq!((removing.code, &*removing.text()), (Some(0), "r/old 1\n"));
    let left = run_sub(&endpoint, &["-t", "r/#", "-v", "-W", "0.5"]);
    assert_eq!((left.code, &*left.text()), (Some(27), "r/kept kept\n"));
}

#[test]
fn the_retain_flag_of_a_fresh_message_is_shown_as_published_if_asked_for() {
    let (_broker, endpoint) = broker();
    for (flags, expected) in [
        (&["-V", "5"][..], "0\n"),
        (&["-V", "5", "--retain-as-published"], "1\n"),
    ] {
        let mut all = vec!["-t", "t", "-T", "none", "-C", "1", "-F", "%r", "-R"];
        if expected == "1\n" {
            all.retain(|flag| *flag != "-R");
        }
        all.extend(flags);
        publish(&endpoint, &["-t", "t", "-n", "-r"]);
        let subscriber = Subscriber::start(&endpoint, &all);
        publish(&endpoint, &["-t", "t", "-m", "x", "-r"]);
        assert_eq!(subscriber.printed(), expected);
    }
}

#[test]
fn properties_of_mqtt_5_go_out_and_are_shown() {
    let (_broker, endpoint) = broker();
    let format = "%C|%D|%F|%P|%R|%l|%x|%E";
    let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-V", "5", "-C", "1", "-F", format]);
    let publication = [
        "-t",
        "t",
        "-m",
        "hé",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "PUBLISH",
        "correlation-data",
        "c1",
        "-D",
        "publish",
        "payload-format-indicator",
        "1",
        "-D",
        "publish",
        "response-topic",
        "r/t",
        "-D",
        "publish",
        "user-property",
        "k",
        "1",
        "-D",
        "publish",
        "user-property",
        "k",
        "-2",
        "-D",
        "publish",
        "message-expiry-interval",
        "1000",
    ];
    publish(&endpoint, &publication);
    let printed = subscriber.printed();
    let (shown, expiry) = printed.trim_end().rsplit_once('|').unwrap();
    assert_eq!(shown, "text/plain|c1|1|k:1 k:-2|r/t|3|68c3a9");
    let expiry: u32 = expiry.parse().unwrap();
    assert!((900..=1000).contains(&expiry), "{expiry}");
}

#[test]
fn a_kept_session_holds_messages_until_the_subscriber_is_back() {
    let (_broker, endpoint) = broker();
    for version in ["311", "5"] {
        let id = format!("keeper-{version}");
        let session = ["-c", "-i", &id, "-t", "k", "-q", "1", "-V", version];
        let subscribed = run_sub(&endpoint, &[&session[..], &["-E"]].concat());
        assert_eq!((subscribed.code, &*subscribed.errors), (Some(0), ""));
        for n in ["1", "2", "3"] {
            publish(&endpoint, &["-t", "k", "-m", n, "-q", "1"]);
        }
        // What is not printed is not acknowledged either.
        for expected in ["1\n", "2\n", "3\n"] {
            let ran = run_sub(
                &endpoint,
                &[&session[..], &["-C", "1", "-W", "20"]].concat(),
            );
            assert_eq!(
                (ran.code, &*ran.text()),
                (Some(0), expected),
                "{version}: {ran:?}"
            );
        }
    }
}

#[test]
fn a_subscriber_ends_by_count_by_time_and_by_signal() {
    let (_broker, endpoint) = broker();
    let timed_out = run_sub(&endpoint, &["-t", "t", "-W", "0.3"]);
    assert_failed(&timed_out, 27, &["paquebot: timed out"]);
    let quiet = run_sub(&endpoint, &["-t", "t", "-W", "0.3", "--quiet"]);
    assert_eq!((quiet.code, &*quiet.errors), (Some(27), ""));
    for signal in ["INT", "TERM"] {
        let subscriber = Subscriber::start(&endpoint, &["-t", "t"]);
        subscriber.program().signal(signal);
        let ended = subscriber.finish();
        assert_eq!(ended.code(), 0, "{ended:?}");
    }
}

#[test]
fn a_will_is_sent_when_a_client_is_killed_and_not_when_it_leaves() {
    let (_broker, endpoint) = broker();
    let mourner = Subscriber::start(
        &endpoint,
        &["-t", "will/#", "-C", "1", "-q", "1", "-F", "%t %q %p"],
    );
    let will = |name: &'static str| {
        [
            "-t",
            "x",
            "--will-topic",
            name,
            "--will-payload",
            "-gone-",
            "--will-qos",
            "1",
        ]
    };
    let leaving = Subscriber::start(&endpoint, &will("will/leaving"));
    leaving.program().signal("TERM");
    leaving.printed();
    let killed = Subscriber::start(&endpoint, &will("will/killed"));
    killed.program().signal("KILL");
    assert_eq!(mourner.printed(), "will/killed 1 -gone-\n");
}

#[test]
fn a_restart_of_the_broker_is_survived_by_both() {
    let (broker, endpoint) = broker();
    let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-q", "1", "-C", "2"]);
    publish(&endpoint, &["-t", "t", "-q", "1", "-m", "before"]);
    broker
        .faults()
        .restart_losing_sessions(Duration::from_millis(100));
    subscriber
        .program()
        .told("paquebot: connected again", LIMIT);
    publish(&endpoint, &["-t", "t", "-q", "1", "-m", "after"]);
    let ended = subscriber.finish();
    assert_eq!((ended.code(), &*ended.output), (0, "before\nafter\n"));
    assert!(ended.errors.contains("connecting again"), "{ended:?}");

    let mut watch = broker.watch(filter("t"));
    // Acknowledgements are withheld until the restart has taken the connection away.
    let withheld = broker
        .faults()
        .withhold(Target::prefix("paquebot-"), &[Ack::PubAck]);
    let publisher = Program::start(arguments(
        "pub",
        &endpoint,
        &["-t", "t", "-q", "1", "-m", "x", "-d"],
    ));
    publisher.told("paquebot: online", LIMIT);
    wait::until("the broker has it", LIMIT, || watch.try_recv().is_some());
    broker
        .faults()
        .restart_losing_sessions(Duration::from_millis(100));
    withheld.lift();
    let ended = publisher.finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:?}");
}

#[test]
fn what_is_not_delivered_in_time_is_told() {
    let (broker, endpoint) = broker();
    let _withheld = broker.faults().withhold(Target::All, &[Ack::PubAck]);
    let late = run_pub(&endpoint, &["-t", "t", "-m", "x", "-q", "1", "-W", "0.5"]);
    assert_failed(
        &late,
        27,
        &[
            "not delivered (dropped)",
            "timed out; messages delivered: 0",
        ],
    );
}

#[test]
fn a_refused_message_is_told_with_its_reason() {
    let access = AccessTable::new()
        .allow_anonymous()
        .deny_publish(filter("secret/#"));
    let (_broker, endpoint) = guarded(access);
    let flags = ["-t", "secret/x", "-l", "-q", "1", "-V", "5"];
    let ran = run(&arguments("pub", &endpoint, &flags), b"a\nb\n");
    assert_failed(
        &ran,
        1,
        &["paquebot: 2 messages were rejected: not authorized (0x87)"],
    );
}

#[test]
fn refused_subscriptions_are_named_and_the_others_go_on() {
    let access = AccessTable::new()
        .allow_anonymous()
        .deny_subscribe(filter("secret/#"));
    let (_broker, endpoint) = guarded(access);
    for (version, code) in [("3.1.1", "0x80"), ("5", "0x87")] {
        let all = run_sub(&endpoint, &["-t", "secret/x", "-V", version]);
        let words = "paquebot: the server refused the subscription to secret/x: ";
        assert_failed(&all, 1, &[words, code]);
        let one = ["-t", "secret/x", "-t", "open", "-V", version, "-C", "1"];
        let one = Subscriber::start(&endpoint, &one);
        publish(&endpoint, &["-t", "open", "-m", "x"]);
        let ended = one.finish();
        assert_eq!((ended.code(), &*ended.output), (0, "x\n"), "{ended:?}");
        assert!(ended.errors.contains(words), "{ended:?}");
    }
}

#[test]
fn credentials_come_from_flags_file_url_or_environment() {
    let (_broker, endpoint) = guarded(AccessTable::new().user("ada", "s3cret"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write_file(&file, "s3cret\nnot this\n", 0o600);
    let file = file.to_str().unwrap();
    publish(
        &endpoint,
        &["-t", "t", "-m", "x", "-u", "ada", "-P", "s3cret"],
    );
    publish(
        &endpoint,
        &["-t", "t", "-m", "x", "-u", "ada", "--password-file", file],
    );
    let message = arguments("pub", &endpoint, &["-t", "t", "-m", "x"]);
    let environment = [
        ("PAQUEBOT_USERNAME", "ada"),
        ("PAQUEBOT_PASSWORD", "s3cret"),
    ];
    assert_eq!(run_with(&message, b"", &environment).code, Some(0));
    let port = endpoint.arguments()[3].to_str().unwrap().to_owned();
    let url = |password: &str| OsString::from(format!("mqtt://ada:{password}@127.0.0.1:{port}/t"));
    let by_url = run(
        &["pub".into(), "-L".into(), url("s3cret"), "-n".into()],
        b"",
    );
    assert_eq!(by_url.code, Some(0), "{by_url:?}");

    for version in ["3.1.1", "5"] {
        let wrong = [
            "-t",
            "t",
            "-m",
            "x",
            "-u",
            "ada",
            "-P",
            "tops3cret",
            "-V",
            version,
        ];
        let wrong = run_pub(&endpoint, &wrong);
        let words = "paquebot: the server refused the connection: bad user name or password (0x86)";
        assert_failed(&wrong, 1, &[words]);
        assert!(!wrong.errors.contains("s3cret"), "{wrong:?}");
        let nobody = run_sub(&endpoint, &["-t", "t", "-V", version]);
        assert_failed(
            &nobody,
            1,
            &["paquebot: the server refused the connection: not authorized"],
        );
    }
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_or_waited_for() {
    let port = free_port();
    let endpoint = Endpoint::new(port);
    for command in ["pub", "sub"] {
        let message: &[&str] = if command == "pub" { &["-m", "x"] } else { &[] };
        let flags = [&["-t", "t"], message].concat();
        let ran = run(&arguments(command, &endpoint, &flags), b"");
        assert_failed(
            &ran,
            1,
            &[&format!("paquebot: cannot connect to 127.0.0.1:{port}: ")],
        );
        let quiet = run(
            &arguments(command, &endpoint, &[&flags[..], &["--quiet"]].concat()),
            b"",
        );
        assert_eq!((quiet.code, &*quiet.errors), (Some(1), ""));
    }
    let patient = Program::start(arguments(
        "pub",
        &endpoint,
        &["-t", "t", "-m", "x", "--retry"],
    ));
    patient.told("paquebot: cannot connect to", LIMIT);
    let builder = Broker::builder().tcp(([127, 0, 0, 1], port));
    let _broker = builder.start_on_thread().unwrap();
    let ended = patient.finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:?}");
}

#[test]
fn a_session_that_is_taken_over_is_not_fought_for() {
    let (_broker, endpoint) = broker();
    let session = ["-t", "t", "-i", "one", "-V", "5"];
    let first = Subscriber::start(&endpoint, &session);
    let _second = Subscriber::start(&endpoint, &session);
    let ended = first.finish();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(
        ended
            .errors
            .contains("session taken over (0x8e); another client"),
        "{ended:?}"
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_subscriber_quietly() {
    let (_broker, endpoint) = broker();
    let mut child = Command::new(env!("CARGO_BIN_EXE_paquebot"))
        .args(arguments("sub", &endpoint, &["-t", "t"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    wait::until("it has ended", LIMIT, || {
        publish(&endpoint, &["-t", "t", "-m", "x"]);
        matches!(child.try_wait(), Ok(Some(_)))
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn tls_checks_the_server_and_shows_the_client() {
    let (authority, stranger) = (Authority::new("test CA"), Authority::new("another CA"));
    let server = authority.server();
    let tls = ServerTls::from_pem(&server.certificate_pem, &server.key_pem)
        .and_then(|tls| tls.require_client_certificate(&authority.certificate_pem()))
        .unwrap();
    let builder = Broker::builder().tls(([127, 0, 0, 1], 0), tls);
    let broker = builder.start_on_thread().unwrap();
    let endpoint = Endpoint::new(broker.tls_address().unwrap().port());
    let message = ["-t", "t", "-m", "x", "-q", "1"];
    let client = authority.client("ada");
    publish(
        &endpoint.clone().trusting(&authority).identity(&client),
        &message,
    );
    let untrusted = run_pub(
        &endpoint.clone().trusting(&stranger).identity(&client),
        &message,
    );
    assert_failed(
        &untrusted,
        1,
        &["paquebot: the certificate of 127.0.0.1 was refused: "],
    );
    let unnamed = run_pub(&endpoint.clone().trusting(&authority), &message);
    assert_failed(&unnamed, 1, &["certificate"]);
    // Plain text to a TLS port.
    let plain = run_pub(&endpoint, &message);
    assert_failed(&plain, 1, &["paquebot: "]);
}

#[test]
fn a_wrong_command_line_is_named_and_starts_nothing() {
    let endpoint = Endpoint::new(free_port());
    let folder = tempfile::tempdir().unwrap();
    let junk = folder.path().join("junk.pem");
    write_file(&junk, "no certificate", 0o644);
    let junk = junk.to_str().unwrap();
    for (command, flags, words) in [
        ("pub", &["-m", "x"][..], "topic to publish to (-t)"),
        ("pub", &["-t", "a/#", "-m", "x"], "wildcard"),
        ("pub", &["-t", "t"], "--message"),
        ("pub", &["-t", "t", "-m", "x", "-n"], "cannot be used with"),
        ("pub", &["-t", "t", "-m", "x", "-q", "3"], "use 0, 1 or 2"),
        (
            "pub",
            &["-t", "t", "-l", "--repeat", "2"],
            "cannot be used with",
        ),
        ("pub", &["-t", "t", "-m", "x", "-V", "31"], "3.1.1 or 5"),
        (
            "pub",
            &["-t", "t", "-m", "x", "--insecure"],
            "--insecure is not supported",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "--capath", "/etc"],
            "--capath is not supported",
        ),
        ("pub", &["-t", "t", "-m", "x", "--cafile", "/nope"], "/nope"),
        ("pub", &["-t", "t", "-m", "x", "--cafile", junk], "junk.pem"),
        ("pub", &["-t", "t", "-m", "x", "--cert", junk], "--key"),
        (
            "pub",
            &["-t", "t", "-m", "x", "-P", "s3cret"],
            "needs a user name",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "-u", "u", "--password-file", "/nope"],
            "/nope",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "--will-payload", "x"],
            "--will-topic",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "--will-topic", "a/+"],
            "wildcard",
        ),
        ("pub", &["-t", "t", "-m", "x", "-x", "5"], "-x needs MQTT 5"),
        (
            "pub",
            &["-t", "t", "-m", "x", "-V", "5", "-x", "-2"],
            "-1 for ever",
        ),
        (
            "pub",
            &[
                "-t",
                "t",
                "-m",
                "x",
                "-V",
                "311",
                "-D",
                "publish",
                "content-type",
                "x",
            ],
            "-V 5",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "-D", "publish", "topic-alias", "1"],
            "topic alias",
        ),
        (
            "pub",
            &["-t", "t", "-m", "x", "-D", "publish", "user-property", "k"],
            "a name and a value",
        ),
        (
            "pub",
            &[
                "-t",
                "t",
                "-m",
                "x",
                "-D",
                "disconnect",
                "user-property",
                "k",
                "v",
            ],
            "disconnect",
        ),
        (
            "pub",
            &[
                "-t",
                "t",
                "-m",
                "x",
                "-D",
                "connect",
                "receive-maximum",
                "0",
            ],
            "1 to 65535",
        ),
        ("sub", &[], "topic to subscribe to (-t)"),
        ("sub", &["-t", "a/#/b"], "-t \"a/#/b\""),
        ("sub", &["-t", "t", "-T", "a/#/b"], "-T \"a/#/b\""),
        ("sub", &["-t", "t", "-C", "0"], "-C"),
        ("sub", &["-t", "t", "-W", "0"], "above 0"),
        ("sub", &["-t", "t", "-c"], "client identifier (-i)"),
        ("sub", &["-t", "t", "-F", "%i"], "%i is no field"),
        (
            "sub",
            &["-t", "t", "-R", "--retained-only"],
            "cannot be used with",
        ),
        ("sub", &["-t", "t", "--retain-as-published"], "-V 5"),
        (
            "sub",
            &["-t", "t", "-D", "publish", "content-type", "x"],
            "publish",
        ),
    ] {
        let ran = run(&arguments(command, &endpoint, flags), b"");
        assert_failed(&ran, 2, &[words]);
        assert!(!ran.errors.contains("s3cret"), "{ran:?}");
    }
    let url = ["pub", "-L", "mqtt://u:s3cret@h:0/t", "-n"].map(OsString::from);
    let ran = run(&url, b"");
    assert_failed(&ran, 2, &["paquebot: -L: the port"]);
    assert!(!ran.errors.contains("s3cret"), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_a_message_and_no_topic() {
    use std::os::unix::ffi::OsStringExt as _;
    let (_broker, endpoint) = broker();
    let bytes = OsString::from_vec(b"\xff\xfe".to_vec());
    let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-C", "1", "-F", "%x"]);
    let mut flags = arguments("pub", &endpoint, &["-t", "t", "-m"]);
    flags.push(bytes.clone());
    assert_eq!(run(&flags, b"").code, Some(0));
    assert_eq!(subscriber.printed(), "fffe\n");
    let mut flags = arguments("pub", &endpoint, &["-n", "-t"]);
    flags.push(bytes);
    assert_failed(&run(&flags, b""), 2, &["UTF-8"]);
}
