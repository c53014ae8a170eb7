//! `paquebot pub` and `paquebot sub` against real servers: Mosquitto and its own clients at the other end, and
//! nats-server.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::certs::{Authority, Identity, write_file};
use crate::support::client::{self, Endpoint, Subscriber};
use crate::support::mosquitto::Mosquitto;
use crate::support::nats::Nats;
use crate::support::program::Program;

const LIMIT: Duration = Duration::from_secs(30);

/// No text of the program may hold it.
const PASSWORD: &str = "canary-9f2c";

/// How a client ended, with its output as bytes.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    output: Vec<u8>,
    errors: String,
    took: Duration,
}

impl Ran {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// It did what it was to do and said nothing else.
    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!((self.code, &*self.errors), (Some(0), ""), "{self:#?}");
        self
    }

    /// It failed on the way, soon, with one line that holds each of these words once and not the password.
    #[track_caller]
    fn failed(self, words: &[&str]) {
        assert_eq!((self.code, &*self.output), (Some(1), &b""[..]), "{self:#?}");
        assert_eq!(self.errors.lines().count(), 1, "{self:#?}");
        assert!(self.errors.starts_with("paquebot: "), "{self:#?}");
        for word in words {
            let times = self.errors.matches(word).count();
            assert_eq!(times, 1, "{word:?} in {self:#?}");
        }
        assert!(!self.errors.contains(PASSWORD), "{self:#?}");
        assert!(self.took < Duration::from_secs(10), "{self:#?}");
    }
}

/// Runs a client to its end, which a `-W` in its arguments ensures, in a fixed time zone.
#[track_caller]
fn run(program: &str, arguments: &[OsString], input: &[u8]) -> Ran {
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .env_remove("PAQUEBOT_USERNAME")
        .env_remove("PAQUEBOT_PASSWORD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A client that does not read its input closes it, which is no failure.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Ran {
        code: output.status.code(),
        output: output.stdout,
        errors: String::from_utf8(output.stderr).unwrap(),
        took: started.elapsed(),
    }
}

fn arguments(command: &str, endpoint: &Endpoint, more: &[&str]) -> Vec<OsString> {
    let mut arguments = vec![OsString::from(command)];
    arguments.extend(endpoint.arguments());
    arguments.extend(["-W", "20"].map(OsString::from));
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

#[track_caller]
fn paquebot_pub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    let arguments = arguments("pub", endpoint, more);
    run(env!("CARGO_BIN_EXE_paquebot"), &arguments, b"")
}

#[track_caller]
fn paquebot_sub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    let arguments = arguments("sub", endpoint, more);
    run(env!("CARGO_BIN_EXE_paquebot"), &arguments, b"")
}

#[track_caller]
fn mosquitto_sub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    let arguments = arguments("sub", endpoint, more);
    run("mosquitto_sub", &arguments[1..], b"")
}

/// `paquebot sub` in the background, subscribed.
#[track_caller]
fn subscribed(endpoint: &Endpoint, more: &[&str]) -> Program {
    let mut arguments = arguments("sub", endpoint, more);
    arguments.push("-d".into());
    let program = Program::start(arguments);
    program.told("paquebot: subscribed to", LIMIT);
    program
}

#[test]
fn mosquitto_sub_reads_what_is_published_at_each_qos_and_version() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    for reader in ["mqttv311", "mqttv5"] {
        let options = ["-V", reader, "-q", "2", "-t", "a/#"];
        let mut subscriber = Subscriber::start(&endpoint, &options);
        for version in ["mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                let text = format!("{version} at {qos}, 5 °C");
                let sent = ["-V", version, "-q", qos, "-t", "a/b", "-m", &text];
                paquebot_pub(&endpoint, &sent).succeeded();
                let received = subscriber.receive();
                assert_eq!(received.topic, "a/b");
                assert_eq!(received.text(), text);
                assert_eq!(received.qos.to_string(), qos);
                assert!(!received.retain);
            }
        }
    }
}

#[test]
fn what_mosquitto_pub_sends_is_printed_at_each_qos_and_version() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    for reader in ["mqttv311", "mqttv5"] {
        let options = ["-V", reader, "-q", "2", "-t", "a/#", "-C", "6"];
        let format = ["-F", "%t %q %r %p"];
        let program = subscribed(&endpoint, &[&options[..], &format].concat());
        let mut expected = String::new();
        for version in ["mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                let text = format!("{version}, 5 °C");
                let sent = ["-V", version, "-q", qos, "-t", "a/b", "-m", &text];
                client::publish(&endpoint, &sent);
                expected += &format!("a/b {qos} 0 {text}\n");
            }
        }
        let ended = program.finish(LIMIT);
        assert_eq!((ended.code(), ended.output), (0, expected));
    }
}

#[test]
fn a_thousand_lines_arrive_in_order_and_once() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    let lines: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    for (version, qos) in [
        ("mqttv311", "1"),
        ("mqttv311", "2"),
        ("mqttv5", "1"),
        ("mqttv5", "2"),
    ] {
        let options = ["-V", version, "-q", qos, "-t", "lines"];
        let program = subscribed(&endpoint, &[&options[..], &["-C", "1000"]].concat());
        let sent = arguments("pub", &endpoint, &[&options[..], &["-l"]].concat());
        run(env!("CARGO_BIN_EXE_paquebot"), &sent, lines.as_bytes()).succeeded();
        let ended = program.finish(LIMIT);
        assert_eq!(
            (ended.code(), &ended.output),
            (0, &lines),
            "{version} {qos}"
        );
    }
}

#[test]
fn retained_messages_are_kept_and_an_empty_one_removes_them() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    paquebot_pub(&endpoint, &["-t", "r/a", "-m", "kept", "-r"]).succeeded();
    let ours = paquebot_sub(&endpoint, &["-t", "r/#", "-C", "1", "-F", "%r %p"]);
    assert_eq!(ours.succeeded().text(), "1 kept\n");
    let theirs = mosquitto_sub(&endpoint, &["-t", "r/#", "-C", "1", "-F", "%r %p"]);
    assert_eq!(theirs.succeeded().text(), "1 kept\n");
    paquebot_pub(&endpoint, &["-t", "r/a", "-n", "-r"]).succeeded();
    // The fresh message comes first only if there is no retained one any more.
    let program = subscribed(&endpoint, &["-t", "r/#", "-C", "1", "-F", "%r %p"]);
    client::publish(&endpoint, &["-t", "r/a", "-m", "fresh"]);
    let ended = program.finish(LIMIT);
    assert_eq!((ended.code(), &*ended.output), (0, "0 fresh\n"));
}

#[test]
fn a_killed_client_leaves_its_will() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    let mut reader = Subscriber::start(&endpoint, &["-t", "gone/#", "-q", "2"]);
    for version in ["mqttv311", "mqttv5"] {
        let will = ["--will-topic", "gone/x", "--will-payload", "lost"];
        let more = ["--will-qos", "1", "-V", version, "-t", "any"];
        let program = subscribed(&endpoint, &[&will[..], &more].concat());
        drop(program);
        let received = reader.receive();
        assert_eq!((received.text(), received.qos), ("lost", 1));
    }
}

/// Lines of JSON without the time of arrival.
fn without_time(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        match (
            line.split_once("{\"tst\":\""),
            line.split_once("\"topic\":"),
        ) {
            (Some((before, _)), Some((_, rest))) => {
                kept += &format!("{before}{{\"topic\":{rest}\n")
            }
            _ => kept += &format!("{line}\n"),
        }
    }
    kept
}

#[test]
fn a_retained_message_looks_as_in_mosquitto_sub_in_every_format() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    client::publish(&endpoint, &["-t", "f/plain", "-m", "hello", "-r"]);
    let unicode = ["-q", "1", "-t", "f/ü/größe", "-m", "5 °C \"q\" \\ /", "-r"];
    client::publish(&endpoint, &unicode);
    let control = ["-q", "2", "-t", "f/control", "-m", "a\tb\u{1}\u{7f}c", "-r"];
    client::publish(&endpoint, &control);
    let json = "{\"b\":[1,2.5,\"x y\"],\"a\":{\"t\":true,\"n\":null}}";
    client::publish(&endpoint, &["-q", "2", "-t", "f/json", "-m", json, "-r"]);
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary");
    std::fs::write(&binary, [0, 1, 0x7f, 0x80, 0xff, b'\n', b'a', 0]).unwrap();
    let binary = binary.to_str().unwrap();
    client::publish(
        &endpoint,
        &["-q", "1", "-t", "f/binary", "-f", binary, "-r"],
    );
    // In this order, since mosquitto's %j shows them in the order of the packet.
    let properties: Vec<&str> = "-V mqttv5 -q 1 -t f/properties -m p -r -D publish content-type text/plain \
        -D publish correlation-data co-1 -D publish payload-format-indicator 1 \
        -D publish response-topic answers/here -D publish user-property k v1 -D publish user-property l v2"
        .split_whitespace()
        .collect();
    client::publish(&endpoint, &properties);

    let formats = [
        // Widths of ASCII only: there, mosquitto_sub counts bytes and cuts characters in two.
        "%t|%.2t|%9.2t|%-9.2t|%02t|",
        "%p|%60p|%-60p|",
        "%l|%5l|%-5l|%05l|",
        "%q %r %m|%5m|%-5m|%05m|",
        "%x|%X|",
        "%C|%20C|%-20C|%.4C|%R|%20R|%-20R|%.4R|",
        "%D|%P|%F|%A|%S|%E|",
        "100%% @@ \\\\ \\a\\e\\n\\r\\t\\v\\0 end",
        "@@@%%%",
        "plain text only",
        "",
    ];
    let topics = [
        "f/plain",
        "f/ü/größe",
        "f/control",
        "f/json",
        "f/binary",
        "f/properties",
    ];
    for version in ["mqttv311", "mqttv5"] {
        for topic in topics {
            let options = ["-V", version, "-q", "2", "-t", topic, "-C", "1"];
            let both = |more: &[&str]| {
                let options = [&options[..], more].concat();
                let ours = paquebot_sub(&endpoint, &options).succeeded();
                let theirs = mosquitto_sub(&endpoint, &options).succeeded();
                (ours, theirs)
            };
            for mode in [&[][..], &["-v"], &["-N"], &["-v", "-N"]] {
                let (ours, theirs) = both(mode);
                assert_eq!(ours.text(), theirs.text(), "{options:?} {mode:?}");
                assert_eq!(ours.output, theirs.output, "{options:?} {mode:?}");
            }
            for format in formats {
                let (ours, theirs) = both(&["-F", format]);
                assert_eq!(ours.text(), theirs.text(), "{options:?} {format:?}");
                assert_eq!(ours.output, theirs.output, "{options:?} {format:?}");
            }
            // What is no text is shown as it can be; the bytes are then no JSON in mosquitto_sub.
            if topic != "f/binary" {
                let (ours, theirs) = both(&["-F", "before %j"]);
                let (ours, theirs) = (ours.text(), theirs.text());
                assert_eq!(without_time(&ours), without_time(&theirs), "{options:?}");
                let json = ours.strip_prefix("before ").unwrap();
                serde_json::from_str::<serde_json::Value>(json).unwrap();
            }
            if topic.is_ascii() {
                let (ours, theirs) = both(&["-F", "%40t|%-40t|%040t|%.5t|%9.5t|%-9.5t|"]);
                assert_eq!(ours.text(), theirs.text(), "{options:?}");
            }
            if topic == "f/json" {
                let (ours, theirs) = both(&["-F", "%J"]);
                let (ours, theirs) = (ours.text(), theirs.text());
                assert_eq!(without_time(&ours), without_time(&theirs), "{options:?}");
            }
        }
    }
}

#[test]
fn the_time_of_arrival_is_written_as_in_mosquitto_sub() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    client::publish(&endpoint, &["-t", "t", "-m", "x", "-r"]);
    // Each sorts as the time does, so that one that is run between two others stands between them.
    for format in ["%I", "%U", "@Y-@m-@dT@H:@M:@S", "@s.@N", "@F @T", "@Y @j"] {
        let options = ["-t", "t", "-C", "1", "-F", format];
        let before = mosquitto_sub(&endpoint, &options).succeeded().text();
        let ours = paquebot_sub(&endpoint, &options).succeeded().text();
        let after = mosquitto_sub(&endpoint, &options).succeeded().text();
        assert_eq!(ours.len(), before.len(), "{format}: {ours:?} {before:?}");
        assert!(
            before <= ours && ours <= after,
            "{format}: {before:?} {ours:?} {after:?}"
        );
    }
}

#[test]
fn tls_with_authority_password_and_client_certificate_works_both_ways() {
    let authority = Authority::new("Harbour CA");
    let server = authority.server();
    let setup = Mosquitto::setup().tls(&server).user("ship", PASSWORD);
    let Some(broker) = setup.mutual_tls(&server, &authority).start() else {
        return;
    };
    let ship = authority.client("ship");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write_file(&file, &format!("{PASSWORD}\n"), 0o600);
    let file = ["-u", "ship", "--password-file", file.to_str().unwrap()];
    let mutual = broker.mutual_tls().trusting(&authority);
    let cases = [
        (broker.tls().trusting(&authority), &[][..]),
        (broker.tls().trusting(&authority).host("localhost"), &[]),
        (mutual.identity(&ship), &[]),
        (broker.password().user("ship", PASSWORD), &[]),
        (broker.password(), &file),
    ];
    for (endpoint, more) in cases {
        for version in ["mqttv311", "mqttv5"] {
            let sent = ["-V", version, "-q", "1", "-t", "s", "-m", version, "-r"];
            paquebot_pub(&endpoint, &[&sent, more].concat()).succeeded();
            let options = ["-V", version, "-q", "1", "-t", "s", "-C", "1"];
            let printed = paquebot_sub(&endpoint, &[&options, more].concat()).succeeded();
            assert_eq!(printed.text(), format!("{version}\n"));
        }
    }
}

#[test]
fn a_refused_login_says_what_to_check_and_not_the_password() {
    let setup = Mosquitto::setup().user("ship", "right");
    let Some(broker) = setup.start() else {
        return;
    };
    for version in ["mqttv311", "mqttv5"] {
        let more = ["-V", version, "-t", "s", "-q", "1"];
        for endpoint in [
            broker.password().user("ship", PASSWORD),
            broker.password().user("nobody", PASSWORD),
            broker.password(),
        ] {
            let words = ["; check the ", "-u, --password-file"];
            paquebot_pub(&endpoint, &[&more[..], &["-m", "x"]].concat()).failed(&words);
            paquebot_sub(&endpoint, &more).failed(&words);
        }
    }
}

#[test]
fn a_certificate_that_is_not_good_is_named_with_what_to_do() {
    let authority = Authority::new("Harbour CA");
    let stranger = Authority::new("Stranger CA");
    let start = |server: Identity| Mosquitto::setup().tls(&server).start();
    let Some(good) = start(authority.server()) else {
        return;
    };
    let (Some(elsewhere), Some(expired), Some(future)) = (
        start(authority.server_for_wrong_host()),
        start(authority.expired_server()),
        start(authority.not_yet_valid_server()),
    ) else {
        return;
    };
    for (endpoint, words) in [
        (
            good.tls().trusting(&stranger),
            &["authority that is not trusted", "CA file"][..],
        ),
        (
            elsewhere.tls().trusting(&authority),
            &[
                "name \"127.0.0.1\"",
                "elsewhere.example",
                "connect by the name",
            ],
        ),
        (expired.tls().trusting(&authority), &["expired"]),
        (future.tls().trusting(&authority), &["not valid yet"]),
    ] {
        // Another attempt does not make a certificate better, so `--retry` does not help.
        paquebot_pub(&endpoint, &["-t", "s", "-m", "x"]).failed(words);
        paquebot_pub(&endpoint, &["-t", "s", "-m", "x", "--retry"]).failed(words);
        paquebot_sub(&endpoint, &["-t", "s"]).failed(words);
    }
    // Without --cafile nobody of the test is trusted.
    paquebot_sub(&good.tls(), &["-t", "s", "--tls-use-os-certs"]).failed(&["CA"]);
    // TLS to a listener without it, and the other way round.
    paquebot_sub(&good.tls(), &["-t", "s"]).failed(&["mqtts:// is TLS"]);
    let Some(plain) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = plain.plain().trusting(&authority);
    paquebot_sub(&endpoint, &["-t", "s"]).failed(&["check that the port speaks TLS"]);
}

#[test]
fn a_client_certificate_that_is_missing_or_not_good_is_what_the_error_is_about() {
    let (authority, stranger) = (Authority::new("Harbour CA"), Authority::new("Stranger CA"));
    let setup = Mosquitto::setup().mutual_tls(&authority.server(), &authority);
    let Some(broker) = setup.start() else {
        return;
    };
    let endpoint = broker.mutual_tls().trusting(&authority);
    for endpoint in [
        endpoint.clone(),
        endpoint.clone().identity(&stranger.client("ship")),
        endpoint.clone().identity(&authority.expired_client("ship")),
    ] {
        for version in ["mqttv311", "mqttv5"] {
            let more = ["-V", version, "-t", "s"];
            paquebot_pub(&endpoint, &[&more[..], &["-m", "x"]].concat()).failed(&["certificate"]);
            paquebot_sub(&endpoint, &more).failed(&["certificate"]);
        }
    }
}

#[test]
fn nats_server_takes_and_gives_messages_of_qos_0_and_1() {
    let Some(server) = Nats::setup().start() else {
        return;
    };
    let endpoint = server.mqtt();
    for qos in ["0", "1"] {
        let options = ["-t", "n/+", "-q", qos, "-C", "2", "-F", "%t %q %p"];
        let program = subscribed(&endpoint, &options);
        paquebot_pub(&endpoint, &["-t", "n/a", "-q", qos, "-m", "one"]).succeeded();
        client::publish(&endpoint, &["-t", "n/b", "-q", qos, "-m", "two"]);
        let ended = program.finish(LIMIT);
        let expected = format!("n/a {qos} one\nn/b {qos} two\n");
        assert_eq!((ended.code(), ended.output), (0, expected));
    }
    paquebot_pub(&endpoint, &["-t", "n/r", "-q", "1", "-m", "kept", "-r"]).succeeded();
    let printed = paquebot_sub(&endpoint, &["-t", "n/r", "-q", "1", "-C", "1"]).succeeded();
    assert_eq!(printed.text(), "kept\n");
}

#[test]
fn nats_server_refuses_a_wrong_password_and_mqtt_5_with_words() {
    let Some(server) = Nats::setup().user("ship", "right").start() else {
        return;
    };
    let wrong = server.mqtt().user("ship", PASSWORD);
    paquebot_pub(&wrong, &["-t", "n", "-m", "x"]).failed(&["; check the ", "--password-file"]);
    let right = server.mqtt().user("ship", "right");
    paquebot_pub(&right, &["-t", "n", "-m", "x", "-q", "1"]).succeeded();
    paquebot_pub(&right, &["-t", "n", "-m", "x", "-V", "5"]).failed(&["version"]);
}
