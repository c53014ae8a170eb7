//! The program with marked passwords and keys in every place that takes one: none of them is in anything it says,
//! whatever goes wrong, in no spelling.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::certs::{Authority, write_file};
use crate::support::mosquitto::Mosquitto;
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// Long enough to be found by no accident, with bytes that each spelling writes differently.
const CANARY: &str = "k4n4r13nv0g3l/+?~geheim-\u{e4}-zwitschert";

const WRONG_CANARY: &str = "f4lsch3r-k4n4r13nv0g3l/+?~\u{e4}-pfeift";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            let six = bits >> (18 - 6 * place) & 63;
            text.push(char::from(BASE64[six as usize]));
        }
    }
    text
}

fn percent(bytes: &[u8]) -> String {
    let write = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(*byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(write).collect()
}

/// How a secret may be written down.
fn spellings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex = bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let mut all = vec![
        secret.to_owned(),
        secret.escape_debug().to_string(),
        bytes.escape_ascii().to_string(),
        percent(bytes),
        percent(bytes).to_lowercase(),
        hex.to_uppercase(),
        hex,
        format!("{bytes:?}").trim_matches(['[', ']']).to_owned(),
    ];
    // In the middle of something longer its base64 begins at any of three bits; the ends depend on what is around it.
    for skipped in 0..3 {
        let inner = &bytes[skipped..];
        let whole = base64(&inner[..inner.len() / 3 * 3]);
        all.push(whole.replace('+', "-").replace('/', "_"));
        all.push(whole);
    }
    all
}

/// A fleet file with these lines in its platform.
fn fleet_file(folder: &Path, name: &str, endpoint: &str, platform: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!(
        r#"
outbox = "disk"
[fleet]
name = "marked"
drain_timeout = "2s"
[admin]
listen = "127.0.0.1:0"
[platforms.broker]
kind = "mqtt"
endpoint = "{endpoint}"
reconnect = {{ base = "50ms", max = "200ms" }}
{platform}
[models.meter]
interval = "50ms"
qos = 1
payload = '{{{{seq}}}}'
state = {{ reported = {{ fw = "1" }} }}
[[groups]]
name = "lab"
platform = "broker"
model = "meter"
count = 3
id = "d-{{{{index:03}}}}"
"#
    );
    write_file(&path, &text, 0o644);
    path
}

/// Runs the program to its end; gives all that it said, and what its admin page answered.
fn everything_said(arguments: &[&str], has_admin: bool) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_paquebot"))
        .args(arguments)
        .env("PAQUEBOT_LOG", "trace")
        .env("RUST_BACKTRACE", "full")
        .env("MARKED_PASSWORD", WRONG_CANARY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut streams: Vec<Box<dyn std::io::Read + Send>> = vec![
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let readers: Vec<_> = streams
        .drain(..)
        .map(|mut stream| {
            let heard = std::sync::Arc::clone(&heard);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    let text = String::from_utf8_lossy(&piece[..count]);
                    heard.lock().unwrap().push_str(&text);
                }
            })
        })
        .collect();
    let mut answers = String::new();
    if has_admin {
        let address = wait::until_some("the admin page is told", LIMIT, || {
            let heard = heard.lock().unwrap();
            let (_, rest) = heard.split_once("http://")?;
            rest.split_once('/').map(|(address, _)| address.to_owned())
        });
        for page in ["metrics", "livez", "readyz", "nothing"] {
            answers.push_str(&page_of(&address, page));
        }
        assert!(answers.contains("paquebot_"), "{answers}");
    }
    let status = wait::until_some("the program ended", LIMIT, || child.try_wait().unwrap());
    for reader in readers {
        reader.join().unwrap();
    }
    let heard = heard.lock().unwrap();
    format!("{heard}{answers}{status}")
}

fn page_of(address: &str, page: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /{page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn no_spelling_of_a_password_or_key_is_in_anything_the_program_says() {
    let authority = Authority::new("marked");
    let device = authority.client("d-000");
    let setup = Mosquitto::setup()
        .user("marked", CANARY)
        .mutual_tls(&authority.server(), &authority);
    let Some(broker) = setup.start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder.path().join("password"), CANARY, 0o600);
    write_file(&folder.path().join("wrong"), WRONG_CANARY, 0o600);
    let plain = format!("mqtt://127.0.0.1:{}", broker.password_port());
    let tls = format!("mqtts://localhost:{}", broker.mutual_tls_port());
    let password =
        r#"auth = { type = "password", username = "marked", password_file = "password" }"#;
    let variable =
        r#"auth = { type = "password", username = "marked", password_env = "MARKED_PASSWORD" }"#;
    let certificate = format!(
        "ca_file = {:?}\nauth = {{ type = \"x509\", cert = {:?}, key = {:?} }}",
        authority.certificate(),
        device.certificate,
        device.key
    );
    // A secret where none belongs: in the endpoint, and in a misspelt key.
    let in_url = plain.replace(
        "mqtt://",
        &format!("mqtt://marked:{}@", percent(CANARY.as_bytes())),
    );
    let misplaced = format!("password = {CANARY:?}\npasswort = {CANARY:?}");
    let file = |name: &str, endpoint: &str, platform: &str| {
        let path = fleet_file(folder.path(), name, endpoint, platform);
        path.to_str().unwrap().to_owned()
    };
    let files = [
        (file("good.toml", &plain, password), true),
        (file("key.toml", &tls, &certificate), true),
        (file("refused.toml", &plain, variable), true),
        (file("url.toml", &in_url, password), false),
        (file("misplaced.toml", &plain, &misplaced), false),
    ];
    let mut said = Vec::new();
    for (file, is_valid) in &files {
        let run = ["run", "-f", file, "--duration", "2s", "--json"];
        said.push((format!("run {file}"), everything_said(&run, *is_valid)));
        let check = ["check", "-f", file];
        said.push((format!("check {file}"), everything_said(&check, false)));
    }
    let url = format!("{in_url}/t");
    let port = broker.password_port().to_string();
    let wrong = folder.path().join("wrong");
    let wrong = wrong.to_str().unwrap();
    let at = ["-h", "127.0.0.1", "-p", &port, "-t", "t", "-W", "5", "-d"];
    // The URL is taken as it stands, as by mosquitto_pub, so its encoded password is a wrong one.
    for (arguments, succeeds) in [
        (vec!["pub", "-L", &url, "-m", "x", "-q", "1", "-d"], false),
        (
            [&["pub", "-m", "x", "-u", "marked", "-P", CANARY], &at[..]].concat(),
            true,
        ),
        (
            [
                &["pub", "-m", "x", "-u", "marked", "--password-file", wrong],
                &at[..],
            ]
            .concat(),
            false,
        ),
        (
            [&["sub", "-u", "marked", "-P", WRONG_CANARY], &at[..]].concat(),
            false,
        ),
    ] {
        let heard = everything_said(&arguments, false);
        assert_eq!(heard.contains("exit status: 0"), succeeds, "{heard}");
        said.push((format!("{} {}", arguments[0], arguments[1]), heard));
    }
    // Messages of the refused fleet are in the store.
    let store = folder.path().join("outbox");
    let export = ["queue", "export", store.to_str().unwrap()];
    let export = everything_said(&export, false);
    assert!(export.contains("\"kind\":\"message\""), "{export}");
    said.push(("queue export".to_owned(), export));
    for file in std::fs::read_dir(&store).unwrap() {
        let file = file.unwrap().path();
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        said.push((file.display().to_string(), text));
    }
    let good = &said[0].1;
    assert!(
        good.contains("exit status: 0") && good.contains("TRACE"),
        "{good}"
    );
    let mut searched = spellings(CANARY);
    searched.extend(spellings(WRONG_CANARY));
    let key = std::fs::read_to_string(&device.key).unwrap();
    searched.extend(
        key.lines()
            .filter(|line| !line.starts_with("---"))
            .map(str::to_owned),
    );
    for (what, text) in &said {
        for spelling in &searched {
            assert!(
                !text.contains(spelling.as_str()),
                "{what} says {spelling:?}:\n{text}"
            );
        }
    }
    let log = broker.log();
    assert!(log.contains("not authorised"), "nobody was refused: {log}");
}

#[test]
fn the_search_finds_a_secret_in_each_spelling() {
    assert_eq!(base64(b"light work."), "bGlnaHQgd29yay4");
    assert_eq!(percent(b"a b/\xc3\xa4"), "a%20b%2F%C3%A4");
    for around in ["", "a", "ab"] {
        let text = base64(format!("{around}{CANARY}xyz").as_bytes());
        assert!(
            spellings(CANARY)
                .iter()
                .any(|spelling| text.contains(spelling)),
            "{text}"
        );
    }
    let debug = format!("{:?} {:?}", CANARY.as_bytes(), bytes::Bytes::from(CANARY));
    let found = spellings(CANARY)
        .iter()
        .filter(|spelling| debug.contains(*spelling))
        .count();
    assert!(found >= 2, "{debug}");
}
