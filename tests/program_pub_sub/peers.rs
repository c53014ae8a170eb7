//! `paquebot pub` and `paquebot sub` against real brokers, with mosquitto's own clients on the other side
//! and as the standard of what is printed.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::certs::Authority;
use crate::support::client::{self, Endpoint};
use crate::support::exchange::{LIMIT, Ran, Subscriber, arguments, publish, publish_from, run};
use crate::support::mosquitto::{Mosquitto, Persistence};
use crate::support::nats::Nats;
use crate::support::program::Program;
use crate::support::server;

fn run_pub(endpoint: &Endpoint, more: &[&str]) -> Ran {
    run(&arguments("pub", endpoint, more), b"")
}

/// Ended soon with status 1 and these words.
#[track_caller]
fn assert_refused(ran: &Ran, words: &str) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.errors.starts_with("paquebot: "), "{ran:?}");
    assert!(ran.errors.contains(words), "{words:?} is not in {ran:?}");
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
}

/// What mosquitto_sub prints with these flags.
fn mosquitto_sub(endpoint: &Endpoint, flags: &[&str]) -> Vec<u8> {
    let output = Command::new(server::find_peer("mosquitto_sub").unwrap())
        .args(endpoint.arguments())
        .args(flags)
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.stdout
}

fn paquebot_sub(endpoint: &Endpoint, flags: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_paquebot"))
        .args(arguments("sub", endpoint, flags))
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.stdout
}

#[test]
fn mosquittos_clients_get_and_send_what_ours_send_and_get() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    for version in ["311", "5"] {
        for (number, qos) in [(0, "0"), (1, "1"), (2, "2")] {
            let flags = ["-t", "a/b", "-q", qos, "-V", version];
            let mut theirs = client::Subscriber::start(&endpoint, &flags);
            let mut more = flags.to_vec();
            more.extend(["-m", "über"]);
            publish(&endpoint, &more);
            let received = theirs.receive();
            assert_eq!((&*received.topic, received.text()), ("a/b", "über"));
            assert_eq!((received.qos, received.retain), (number, false));

            let mut listening = flags.to_vec();
            listening.extend(["-C", "1", "-F", "%t %q %r %p"]);
            let ours = Subscriber::start(&endpoint, &listening);
            client::publish(&endpoint, &more);
            assert_eq!(ours.printed(), format!("a/b {qos} 0 über\n"));
        }
    }
}

#[test]
fn formats_print_what_mosquitto_sub_prints() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    let kept = |topic: &str, more: &[&str]| {
        client::publish(&endpoint, &[&["-t", topic, "-r", "-q", "2"], more].concat());
    };
    kept("f/text", &["-m", "a \"b\" \\ \u{1} é\n\t/"]);
    kept("f/json", &["-m", "{\"b\":1.5,\"a\":[1,\"x\",null]}"]);
    let properties = [
        ["content-type", "text/plain"],
        ["correlation-data", "co\"r"],
        ["payload-format-indicator", "1"],
        ["response-topic", "r/t"],
    ];
    let mut flags = vec!["-V", "5", "-m", "hello"];
    for [name, value] in &properties {
        flags.extend(["-D", "publish", name, value]);
    }
    flags.extend(["-D", "publish", "user-property", "k", "v1"]);
    flags.extend(["-D", "publish", "user-property", "k", "v2"]);
    kept("f/all", &flags);

    let formats = [
        "%t|%12t|%-12t|%012t|%9.3t|%.2t|%.0t",
        "%p|%40p|%-40p",
        "%q|%5q|%r|%5r|%l|%5l|%05l|%-5l|%5.2l|%m|%05m",
        "%x|%X",
        "%C|%20C|%-20C|%020C|%.4C|%D|%20D",
        "%E|%5E|%05E|%F|%5F|%05F|%-5F|%A|%3A|%S|%3S",
        "%R|%12R|%-12R|%.2R|%P|%30P",
        "%%|@@|\\\\|a\\tb\\0c\\ad\\ee\\nf\\rg\\vh",
        "@Y @j @a @b @D @e|@Z @z @n@t@%",
        "plain text without a sequence",
    ];
    for topic in ["f/text", "f/json", "f/all"] {
        for version in ["311", "5"] {
            for qos in ["0", "2"] {
                let common = ["-t", topic, "-C", "1", "-W", "20", "-V", version, "-q", qos];
                for format in formats {
                    let flags = [&common[..], &["-F", format]].concat();
                    let (ours, theirs) = (
                        paquebot_sub(&endpoint, &flags),
                        mosquitto_sub(&endpoint, &flags),
                    );
                    let shown = (
                        String::from_utf8_lossy(&ours),
                        String::from_utf8_lossy(&theirs),
                    );
                    assert_eq!(shown.0, shown.1, "{topic} {version} {qos} {format}");
                }
                for more in [
                    &[][..],
                    &["-v"],
                    &["-N"],
                    &["-N", "-v"],
                    &["-N", "-F", "%t"],
                ] {
                    let flags = [&common[..], more].concat();
                    let (ours, theirs) = (
                        paquebot_sub(&endpoint, &flags),
                        mosquitto_sub(&endpoint, &flags),
                    );
                    assert_eq!(ours, theirs, "{topic} {version} {qos} {more:?}");
                }
            }
        }
    }
}

/// The object without its time, which differs, as its parser gives it and as it was written.
fn without_time(line: &[u8]) -> (serde_json::Value, String) {
    let text = String::from_utf8(line.to_vec()).unwrap();
    let rest = text.split_once(",\"topic\"").unwrap().1.to_owned();
    (serde_json::from_str(&text).unwrap(), rest)
}

#[test]
fn messages_as_json_are_what_mosquitto_sub_prints() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    let kept = |topic: &str, more: &[&str]| {
        client::publish(&endpoint, &[&["-t", topic, "-r", "-q", "2"], more].concat());
    };
    kept("j/text", &["-m", "a \"b\" \\ \u{1} é\n\t/"]);
    kept(
        "j/json",
        &["-m", "{\"b\" : 1.5,\n\"a\":[ 1 , \"x y\" , null ] }"],
    );
    let all = [
        "-V",
        "5",
        "-m",
        "7",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "publish",
        "correlation-data",
        "co\"r",
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
        "v1",
        "-D",
        "publish",
        "user-property",
        "k2",
        "v2",
    ];
    kept("j/all", &all);
    for (topic, formats) in [
        ("j/text", &["%j"][..]),
        ("j/json", &["%j", "%J"]),
        ("j/all", &["%j", "%J"]),
    ] {
        for version in ["311", "5"] {
            for qos in ["0", "1"] {
                for format in formats {
                    let flags = [
                        "-t", topic, "-C", "1", "-W", "20", "-V", version, "-q", qos, "-F", format,
                    ];
                    let (ours, our_text) = without_time(&paquebot_sub(&endpoint, &flags));
                    let (_, their_text) = without_time(&mosquitto_sub(&endpoint, &flags));
                    assert_eq!(our_text, their_text, "{topic} {version} {qos} {format}");
                    let time = ours["tst"].as_str().unwrap();
                    assert!(time.len() == 31 && time.ends_with("+0000"), "{time}");
                }
            }
        }
    }
    let flags = ["-t", "j/text", "-C", "1", "-F", "[%J]"];
    let ran = run(&arguments("sub", &endpoint, &flags), b"");
    assert_eq!((ran.code, &*ran.output), (Some(0), &b"[]\n"[..]));
    assert_eq!(ran.errors, "paquebot: the payload on j/text is not JSON\n");
}

#[test]
fn empty_payloads_are_printed_as_mosquitto_sub_prints_them() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    // Sessions that wait at the broker, so that both sides get the very same messages.
    for (number, more) in [
        &["-v"][..],
        &[],
        &["-N"],
        &["-v", "-N"],
        &["-F", "[%p%x%l]%j"],
    ]
    .into_iter()
    .enumerate()
    {
        let (ours, theirs) = (format!("ours-{number}"), format!("theirs-{number}"));
        let session = |id| ["-c", "-t", "e", "-q", "1", "-i", id];
        paquebot_sub(&endpoint, &[&session(&ours)[..], &["-E"]].concat());
        mosquitto_sub(&endpoint, &[&session(&theirs)[..], &["-E"]].concat());
        for message in [&["-n"][..], &["-m", "x"], &["-n"], &["-m", "y"]] {
            publish(&endpoint, &[&["-t", "e", "-q", "1"], message].concat());
        }
        let end = ["-C", "4", "-W", "20"];
        let ours = paquebot_sub(&endpoint, &[&session(&ours)[..], more, &end].concat());
        let theirs = mosquitto_sub(&endpoint, &[&session(&theirs)[..], more, &end].concat());
        let without_times = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.split("{\"tst\":")
                .map(|part| {
                    part.split_once(",\"topic\"")
                        .map_or(part, |(_, rest)| rest)
                        .to_owned()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(without_times(ours), without_times(theirs), "{more:?}");
    }
}

#[test]
fn many_messages_of_each_qos_pass_through_mosquitto_in_order() {
    let setup = Mosquitto::setup().plain().line("max_queued_messages 0");
    let Some(broker) = setup.start() else {
        return;
    };
    let endpoint = broker.plain();
    let lines: String = (0..5_000).map(|n| format!("line {n}\n")).collect();
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let flags = ["-t", "t", "-q", qos, "-V", version, "-C", "5000"];
            let subscriber = Subscriber::start(&endpoint, &flags);
            let flags = ["-t", "t", "-q", qos, "-V", version, "-l"];
            publish_from(&endpoint, &flags, lines.as_bytes());
            assert!(
                subscriber.printed() == lines,
                "{version}, QoS {qos}: not the same lines"
            );
        }
    }
}

#[test]
fn a_restart_of_mosquitto_is_survived() {
    for persistence in [Persistence::Off, Persistence::On] {
        let setup = Mosquitto::setup().plain().persistence(persistence);
        let Some(mut broker) = setup.start() else {
            return;
        };
        let endpoint = broker.plain();
        let subscriber = Subscriber::start(&endpoint, &["-t", "t", "-q", "1", "-C", "2"]);
        publish(&endpoint, &["-t", "t", "-m", "before", "-q", "1"]);
        broker.restart();
        subscriber
            .program()
            .told("paquebot: connected again", LIMIT);
        publish(&endpoint, &["-t", "t", "-m", "after", "-q", "1"]);
        let ended = subscriber.finish();
        assert_eq!(
            (ended.code(), &*ended.output),
            (0, "before\nafter\n"),
            "{ended:?}"
        );
    }
}

#[test]
fn mosquitto_sends_our_will_when_we_are_killed() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    let mut theirs = client::Subscriber::start(&endpoint, &["-t", "will", "-q", "1"]);
    let flags = [
        "-t",
        "x",
        "--will-topic",
        "will",
        "--will-payload",
        "gone",
        "--will-qos",
        "1",
        "--will-retain",
    ];
    let killed = Subscriber::start(&endpoint, &flags);
    killed.program().signal("KILL");
    let received = theirs.receive();
    assert_eq!((received.text(), received.qos), ("gone", 1));
    let kept = run(
        &arguments("sub", &endpoint, &["-t", "will", "-C", "1", "-F", "%p %r"]),
        b"",
    );
    assert_eq!(kept.text(), "gone 1\n");
}

#[test]
fn mosquitto_is_reached_over_tls_with_certificates_and_passwords_that_are_right() {
    let (authority, stranger) = (Authority::new("test CA"), Authority::new("another CA"));
    let setup = Mosquitto::setup()
        .tls(&authority.server())
        .mutual_tls(&authority.server(), &authority)
        .user("ada", "s3cret");
    let Some(broker) = setup.start() else {
        return;
    };
    let message = ["-t", "t", "-m", "x", "-q", "1"];
    publish(&broker.tls().trusting(&authority), &message);
    publish(
        &broker.tls().trusting(&authority).host("localhost"),
        &message,
    );
    let client = authority.client("ada");
    let mutual = broker.mutual_tls().trusting(&authority);
    publish(&mutual.clone().identity(&client), &message);
    publish(&broker.password().user("ada", "s3cret"), &message);

    let subscriber = Subscriber::start(&broker.tls().trusting(&authority), &["-t", "t", "-C", "1"]);
    client::publish(&broker.tls().trusting(&authority), &message);
    assert_eq!(subscriber.printed(), "x\n");

    assert_refused(
        &run_pub(&broker.tls().trusting(&stranger), &message),
        "the certificate of 127.0.0.1 was refused",
    );
    assert_refused(&run_pub(&mutual, &message), "certificate");
    assert_refused(
        &run_pub(&mutual.clone().identity(&stranger.client("ada")), &message),
        "certificate",
    );
    assert_refused(
        &run_pub(&mutual.identity(&authority.expired_client("ada")), &message),
        "certificate",
    );
    assert_refused(
        &run_pub(&broker.password().user("ada", "wrong"), &message),
        "the server refused the connection: ",
    );
    // A port that speaks TLS, addressed without.
    assert_refused(
        &run_pub(&broker.tls(), &message),
        "before the server answered CONNECT",
    );
}

#[test]
fn a_mosquitto_with_the_wrong_certificate_is_not_talked_to() {
    let authority = Authority::new("test CA");
    for (server, words) in [
        (authority.server_for_wrong_host(), "elsewhere.example"),
        (authority.expired_server(), "expired"),
        (authority.not_yet_valid_server(), "not valid yet"),
    ] {
        let Some(broker) = Mosquitto::setup().tls(&server).start() else {
            return;
        };
        let endpoint = broker.tls().trusting(&authority);
        let ran = run_pub(&endpoint, &["-t", "t", "-m", "x"]);
        assert_refused(&ran, "the certificate of 127.0.0.1 was refused");
        assert!(ran.errors.contains(words), "{words:?} is not in {ran:?}");
        let ran = run(&arguments("sub", &endpoint, &["-t", "t"]), b"");
        assert_refused(&ran, words);
    }
}

#[test]
fn nats_takes_and_gives_messages_too() {
    let Some(broker) = Nats::setup().user("ada", "s3cret").start() else {
        return;
    };
    let endpoint = broker.mqtt().user("ada", "s3cret");
    for qos in ["0", "1"] {
        let flags = ["-t", "n/+", "-q", qos, "-C", "3", "-F", "%t %p"];
        let ours = Subscriber::start(&endpoint, &flags);
        let mut theirs = client::Subscriber::start(&endpoint, &["-t", "n/a", "-q", qos]);
        publish_from(&endpoint, &["-t", "n/a", "-q", qos, "-l"], b"1\n2\n");
        assert_eq!(theirs.receive().text(), "1");
        assert_eq!(theirs.receive().text(), "2");
        client::publish(&endpoint, &["-t", "n/b", "-q", qos, "-m", "3"]);
        assert_eq!(ours.printed(), "n/a 1\nn/a 2\nn/b 3\n");
    }
    let wrong = run_pub(&broker.mqtt().user("ada", "wrong"), &["-t", "t", "-m", "x"]);
    assert_refused(&wrong, "the server refused the connection: ");
    let patient = Program::start(arguments("sub", &endpoint, &["-t", "n", "-E"]));
    assert_eq!(patient.finish(LIMIT).code(), 0);
}
