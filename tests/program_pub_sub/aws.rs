//! `paquebot pub` and `paquebot sub` on the ways to AWS IoT, over WebSocket and through proxies: what the platform is
//! known not to have is refused before anything is sent, and what a server never answers is told.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use paquebot::mqtt::{QoS, Topic, Will};
use paquebot::{Fleet, Publish, SendError, StartError, aws, dialect};
use paquebot_emulator::aws::Aws;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::cloud::Cloud;
use crate::support::exchange::{LIMIT, Ran, run_with};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::Program;
use crate::support::proxy::proxy;

const ENDPOINT: &str = "abc123-ats.iot.eu-central-1.amazonaws.com";
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "canary/wJalrXUtnFEMI";

/// An emulator with one access key and the files of one thing.
struct Stage(Cloud);

impl Stage {
    fn start() -> Self {
        let cloud = Cloud::start_with(|builder| builder.access_key(KEY, SECRET, None));
        cloud.aws.client_certificate("pump").unwrap();
        Self(cloud)
    }

    fn aws(&self) -> &Aws {
        &self.0.aws
    }

    fn file(&self, name: &str) -> String {
        let file: PathBuf = self.0.folder().join(name);
        file.to_str().unwrap().to_owned()
    }

    /// Where and as whom: with the certificate of the thing.
    fn by_certificate(&self, port: u16) -> Vec<String> {
        let mut arguments = self.by_nobody(port);
        let files = [
            "--cert".to_owned(),
            self.file("clients/pump.pem"),
            "--key".to_owned(),
            self.file("clients/pump.key"),
        ];
        arguments.extend(files);
        arguments
    }

    fn by_nobody(&self, port: u16) -> Vec<String> {
        let (port, ca_file) = (port.to_string(), self.file("ca.pem"));
        let arguments = [
            "--platform",
            "aws",
            "-h",
            "localhost",
            "-p",
            &port,
            "--cafile",
            &ca_file,
        ];
        arguments.map(str::to_owned).to_vec()
    }

    fn stop(self) {
        self.0.stop();
    }
}

/// Without access keys of whoever runs the test.
fn variables(key: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", key),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
    ]
}

#[track_caller]
fn run(command: &str, place: &[String], more: &[&str]) -> Ran {
    run_from(command, place, more, &[])
}

#[track_caller]
fn run_from(command: &str, place: &[String], more: &[&str], variables: &[(&str, &str)]) -> Ran {
    let arguments: Vec<OsString> = [command]
        .iter()
        .map(OsString::from)
        .chain(place.iter().map(OsString::from))
        .chain(more.iter().map(OsString::from))
        .collect();
    run_with(&arguments, b"", variables)
}

#[test]
fn qos_2_is_a_mistake_where_the_platform_is_known_not_to_have_it() {
    let known = ["-h", ENDPOINT].map(str::to_owned);
    let said = ["-h", "127.0.0.1", "-p", "1", "--platform", "aws"].map(str::to_owned);
    for place in [&known[..], &said[..]] {
        for (command, more) in [
            ("pub", &["-t", "t", "-m", "x", "-q", "2"][..]),
            ("sub", &["-t", "t", "-q", "2"]),
            ("sub", &["-t", "t", "--will-topic", "w", "--will-qos", "2"]),
        ] {
            let ran = run(command, place, more);
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert!(ran.errors.contains("AWS IoT has no QoS 2"), "{ran:?}");
        }
    }
    let ran = run("bench", &[], &["pub", "-h", ENDPOINT, "-q", "2", "-t", "t"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.errors.contains("AWS IoT has no QoS 2"), "{ran:?}");
}

#[test]
fn a_link_to_aws_refuses_qos_2_before_it_sends_anything() {
    let runtime = Runtime::new().unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let keys = aws::AccessKeys::fixed(aws::AccessKey {
        id: KEY.into(),
        secret: SECRET.into(),
        session_token: None,
        expires_at: None,
    });
    let way = aws::Connection::websocket("127.0.0.1", keys).port(1);
    let group = fleet.group("things").aws(way.region("eu-central-1"));
    let group = group.build().unwrap();
    let link = group.device("pump").unwrap().start().unwrap();
    let message = Publish::new("t", "x").unwrap().with_qos(QoS::ExactlyOnce);
    assert!(matches!(
        link.try_publish(message),
        Err(SendError::Dialect(
            dialect::DialectError::Unsupported { .. }
        ))
    ));
    assert!(
        runtime
            .block_on(link.subscribe("t", QoS::ExactlyOnce))
            .is_err()
    );
    let will = Will {
        topic: Topic::new("w").unwrap(),
        payload: "x".into(),
        qos: QoS::ExactlyOnce,
        retain: false,
        properties: Default::default(),
    };
    let with_will = group.device("valve").unwrap().will(will).start();
    assert!(matches!(with_will, Err(StartError::Dialect(_))));
    runtime.block_on(fleet.drain(std::time::Duration::ZERO));
}

#[test]
fn what_a_server_never_acknowledges_is_said_to_be_waited_for() {
    let cloud = Stage::start();
    let mut place = cloud.by_certificate(cloud.aws().mqtt_address().port());
    // As if nobody knew that it is AWS.
    "mqtt".clone_into(&mut place[1]);
    let fixed = ["pub", "-t", "t", "-m", "x", "-q", "2", "-i", "pump"];
    let arguments = fixed.iter().map(OsString::from);
    let program = Program::start(arguments.chain(place.iter().map(OsString::from)));
    let told = program.told("paquebot: still waiting for", LIMIT);
    assert!(told.contains("1 message at QoS 2"), "{told}");
    assert!(told.contains("-q 1") && told.contains("-W"), "{told}");
    program.signal("TERM");
    assert_eq!(program.finish(LIMIT).code(), 1);
    cloud.stop();
}

#[test]
fn a_subscription_that_is_never_answered_is_told_and_ends_with_its_time() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // A server that lets everybody in and then says nothing.
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut packet = [0; 512];
            assert!(stream.read(&mut packet).unwrap() > 0);
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            while stream.read(&mut packet).unwrap_or(0) > 0 {}
        }
    });
    let fixed = [
        "sub",
        "-h",
        "127.0.0.1",
        "-t",
        "a/#",
        "-q",
        "1",
        "-p",
        &port,
    ];
    let program = Program::start(fixed);
    let told = program.told("paquebot: still waiting for", LIMIT);
    assert!(told.contains("the subscription to a/#"), "{told}");
    program.signal("TERM");
    assert_eq!(program.finish(LIMIT).code(), 0);
    let limited = Program::start(fixed.iter().chain(&["-W", "0.3"]));
    assert_eq!(limited.finish(LIMIT).code(), 27);
    server.join().unwrap();
}

#[test]
fn each_way_to_aws_needs_no_flag_that_follows_from_the_others() {
    let cloud = Stage::start();
    let (mqtt, shared) = (
        cloud.aws().mqtt_address().port(),
        cloud.aws().shared_address().port(),
    );
    let watcher = cloud.by_certificate(mqtt);
    let fixed = [
        "sub", "-d", "-v", "-C", "2", "-q", "1", "-t", "dt/#", "-i", "watcher",
    ];
    let arguments = fixed.iter().map(OsString::from);
    let program = Program::start(arguments.chain(watcher.iter().map(OsString::from)));
    program.told("paquebot: subscribed to dt/#", LIMIT);

    let by_certificate = cloud.by_certificate(mqtt);
    let ran = run(
        "pub",
        &by_certificate,
        &["-i", "pump", "-q", "1", "-t", "dt/one", "-m", "x"],
    );
    assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
    let over_websocket = [
        "--ws",
        "--aws-region",
        "us-east-1",
        "-q",
        "1",
        "-t",
        "dt/two",
        "-m",
        "y",
    ];
    let place = cloud.by_nobody(shared);
    let ran = run_from("pub", &place, &over_websocket, &variables(KEY));
    assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
    let ended = program.finish(LIMIT);
    assert_eq!(ended.output, "dt/one x\ndt/two y\n");

    // Another key, and none of the ways.
    let ran = run_from("pub", &place, &over_websocket, &variables("AKIDOTHER"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.errors.contains("HTTP 403"), "{ran:?}");
    assert!(!ran.errors.contains("canary"), "{ran:?}");
    let ran = run("pub", &place, &["-t", "t", "-m", "x"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for way in ["--cert", "--ws", "--aws-profile", "-u"] {
        assert!(ran.errors.contains(way), "{ran:?}");
    }
    // A limit that is known.
    let deep = ["-i", "pump", "-t", "1/2/3/4/5/6/7/8/9", "-m", "x"];
    let ran = run("pub", &by_certificate, &deep);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.errors.contains("has 9 levels; aws takes 8"), "{ran:?}");
    cloud.stop();
}

#[test]
fn what_the_platform_is_known_not_to_take_is_refused_before_anybody_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let place = [
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "--platform",
        "aws",
        "-u",
        "x",
    ]
    .map(str::to_owned);
    let folder = TempDir::new().unwrap();
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'x'; 128 * 1024 + 1]).unwrap();
    let (large, long) = (large.to_str().unwrap(), "x".repeat(129));
    for (command, more, words) in [
        (
            "pub",
            &["-t", "1/2/3/4/5/6/7/8/9", "-m", "x"][..],
            "9 levels",
        ),
        ("pub", &["-t", "1/2/3/4/5/6/7/8/9", "-l"], "9 levels"),
        ("pub", &["-t", "t", "-f", large], "131073"),
        ("pub", &["-t", "t", "-m", "x", "-i", &long], "129 bytes"),
        ("sub", &["-t", "t", "-i", &long], "129 bytes"),
        ("sub", &["-t", "1/2/3/4/5/6/7/8/9"], "9 levels"),
        (
            "sub",
            &["-c", "-i", "k", "-U", "1/2/3/4/5/6/7/8/9"],
            "9 levels",
        ),
    ] {
        let ran = run(command, &place, more);
        assert_eq!(ran.code, Some(2), "{more:?}: {ran:?}");
        assert!(ran.errors.contains(words), "{more:?}: {ran:?}");
        assert!(listener.accept().is_err(), "{more:?}");
    }
}

#[test]
fn headers_of_the_websocket_request_come_from_flags_and_files_and_are_not_printed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "Authorization: Bearer canary-file\n").unwrap();
    let file = format!("@{}", file.display());
    let place = ["-h", "127.0.0.1", "-p", &port, "--ws=/there"].map(str::to_owned);
    let message = ["-t", "t", "-m", "x", "-d"];
    let headers = ["--ws-header", "X-Token: canary-flag", "--ws-header", &file];
    let ran = run("pub", &place, &[&message[..], &headers].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /there HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("X-Token: canary-flag\r\n"), "{request}");
    assert!(
        request.contains("Authorization: Bearer canary-file\r\n"),
        "{request}"
    );
    let signed = ["--platform", "aws", "-h", ENDPOINT, "--ws"].map(str::to_owned);
    for (more, place) in [
        (["--ws-header", "canary"], &place[..]),
        (["--ws-header", "canary(: x"], &place),
        (["--ws-header", "Host: canary"], &signed),
        (["--ws-header", "X-Amz-Date: canary"], &signed),
        (["--ws-header", "Host: canary"], &place),
        (["--ws-header", "X: canary"], &place[..4]),
    ] {
        let wrong = run("pub", place, &[&message[..], &more].concat());
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(!wrong.errors.contains("canary"), "{wrong:?}");
    }
    assert!(!ran.errors.contains("canary"), "{ran:?}");
}

#[test]
fn websocket_has_flags_and_urls_and_goes_through_the_proxy_of_the_environment() {
    let Some(broker) = Mosquitto::setup().plain().websocket().start() else {
        return;
    };
    let websocket = broker.websocket_port().to_string();
    let message = ["-q", "1", "-t", "t", "-m", "x"];
    for place in [
        vec![
            "-h".to_owned(),
            "127.0.0.1".into(),
            "-p".into(),
            websocket.clone(),
            "--ws".into(),
        ],
        vec!["-L".to_owned(), format!("ws://127.0.0.1:{websocket}/mqtt")],
    ] {
        let ran = run("pub", &place, &message);
        assert_eq!(
            (ran.code, &*ran.errors),
            (Some(0), ""),
            "{place:?}: {ran:?}"
        );
    }
    let (port, requests) = proxy();
    // A name that only the proxy knows.
    let url =
        |scheme: &str, port: &str| vec!["-L".to_owned(), format!("{scheme}://far.invalid:{port}")];
    let plain = broker.plain_port().to_string();
    let by_flag = format!("http://crew:can%61ry@127.0.0.1:{port}");
    let with_proxy = [&["--proxy", &by_flag], &message[..]].concat();
    let ran = run("pub", &url("mqtt", &plain), &with_proxy);
    assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
    let asked = requests.recv().unwrap();
    assert!(
        asked.starts_with(&format!("CONNECT far.invalid:{plain} HTTP/1.1\r\n")),
        "{asked}"
    );
    assert!(
        asked.contains("Proxy-Authorization: Basic Y3JldzpjYW5hcnk="),
        "{asked}"
    );

    let environment = [
        ("http_proxy", &*format!("http://127.0.0.1:{port}")),
        ("no_proxy", "x"),
    ];
    let ran = run_from("pub", &url("ws", &websocket), &message, &environment);
    assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
    assert!(requests.recv().unwrap().contains(&websocket));
    // MQTT itself is not HTTP, so the variables are not about it.
    let ran = run_from("pub", &url("mqtt", &plain), &message, &environment);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.errors.contains("cannot resolve far.invalid"), "{ran:?}");
    let exempt = [environment[0], ("no_proxy", ".invalid")];
    let ran = run_from("pub", &url("ws", &websocket), &message, &exempt);
    assert!(ran.errors.contains("cannot resolve far.invalid"), "{ran:?}");

    let bad = ["--proxy", "socks5://u:canary@p", "-t", "t", "-m", "x"];
    let ran = run("pub", &[], &bad);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(!ran.errors.contains("canary"), "{ran:?}");
}

#[test]
fn a_message_at_which_the_service_closes_is_named_and_ends() {
    let cloud = Stage::start();
    let port = cloud.aws().mqtt_address().port();
    let message = [
        "-i",
        "writer",
        "-q",
        "1",
        "-t",
        "$aws/nonsense/x",
        "-m",
        "x",
    ];
    let ran = run("pub", &cloud.by_certificate(port), &message);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.errors.contains("$aws/nonsense/x"), "{ran:#?}");
    assert!(ran.errors.contains("rejected"), "{ran:#?}");
    cloud.stop();
}
