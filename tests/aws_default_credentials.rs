//! Access keys from the AWS SDK's default chain: those of a container, renewed with its connections.
#![cfg(all(feature = "cli", feature = "aws-default-credentials"))]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use paquebot_emulator::Target;
use serde_json::json;

#[path = "support/support.rs"]
mod support;

use support::cloud::Cloud;
use support::program::assert_accounted_for;
use support::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// What the container's agent lets only the container have.
const TICKET: &str = "canary-ticket";

/// A key that the agent hands out.
#[derive(Clone)]
struct Key {
    id: &'static str,
    secret: &'static str,
    token: &'static str,
    ends_in: Duration,
}

/// The agent of a container service, which hands out its role's keys over HTTP.
struct Agent {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    key: Key,
    asked: usize,
}

impl Agent {
    fn start(key: Key) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { key, asked: 0 }));
        let served = Arc::clone(&state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&stream, &served);
            }
        });
        Self { address, state }
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    fn rotate(&self, key: Key) {
        self.state.lock().unwrap().key = key;
    }
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let lines: Vec<String> = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let ticket = |line: &String| line.eq_ignore_ascii_case(&format!("authorization: {TICKET}"));
    if !lines.iter().any(ticket) {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n");
        return;
    }
    let mut state = state.lock().unwrap();
    state.asked += 1;
    let end = Timestamp::try_from(SystemTime::now() + state.key.ends_in).unwrap();
    let body = json!({
        "AccessKeyId": state.key.id,
        "SecretAccessKey": state.key.secret,
        "Token": state.key.token,
        "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

#[test]
fn a_link_is_let_in_with_its_containers_key_and_asks_for_another_before_that_ends() {
    let first = Key {
        id: "ASIAFIRST",
        secret: "canary/first+",
        token: "canary-token-1",
        ends_in: Duration::from_secs(240),
    };
    let second = Key {
        id: "ASIASECOND",
        secret: "canary/second+",
        token: "canary-token-2",
        ends_in: Duration::from_secs(3600),
    };
    let cloud =
        Cloud::start_with(|builder| builder.access_key(first.id, first.secret, Some(first.token)));
    let agent = Agent::start(first.clone());
    let lines = r#"connection = "websocket"
region = "us-east-1"
auth = { type = "access_key", credentials = "default-chain" }"#;
    let models = r#"
[models.pump]
interval = "1s"
payload = "{{seq}}"
[[groups]]
name = "pumps"
platform = "cloud"
model = "pump"
count = 1
id = "pump"
"#;
    let text = cloud.platform(cloud.aws.shared_address().port(), lines) + models;
    let home = cloud.folder().to_str().unwrap();
    let uri = format!("http://{}/keys", agent.address);
    let variables = [
        ("HOME", home),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", ""),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", TICKET),
    ];
    let program = cloud.run(&text, &variables);
    let connects = || cloud.aws.broker().stats().connects_accepted;
    wait::until("it is let in with the first key", LIMIT, || connects() == 1);
    assert_eq!(agent.asked(), 1);

    cloud
        .aws
        .add_access_key(second.id, second.secret, Some(second.token));
    cloud.aws.remove_access_key(first.id);
    agent.rotate(second);
    let cut = || {
        let target = Target::client("pump");
        assert_eq!(cloud.aws.broker().faults().disconnect(&target, None), 1);
    };
    cut();
    wait::until("it is let in with the second key", LIMIT, || {
        connects() == 2
    });
    assert_eq!(agent.asked(), 2);

    // That one holds for long.
    cut();
    wait::until("it is let in again", LIMIT, || connects() == 3);
    assert_eq!(agent.asked(), 2);
    program.signal("TERM");
    let ended = program.finish(LIMIT);
    assert_accounted_for(&ended.summary());
    let shown = format!("{}{}", ended.output, ended.errors);
    assert!(!shown.contains("canary"), "{shown}");
    cloud.stop();
}
