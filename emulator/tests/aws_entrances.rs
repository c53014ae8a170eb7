//! The ways into AWS's endpoints: certificates, application protocols, WebSocket, HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use paquebot_emulator::aws::{
    Authorizer, Aws, AwsSettings, ClientCertificate, Permissions, PublicKeyError,
};
use paquebot_emulator::mqtt::{Packet, QoS, ReasonCode, Version, encode};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::*;

pub(crate) type Tls = TlsStream<TcpStream>;

async fn aws() -> Aws {
    let gate = Authorizer::new("gate")
        .token("tok", "t1")
        .password("s3cret");
    Aws::builder()
        .access_key("AKIDEXAMPLE", "secret", None)
        .authorizer(gate)
        .start()
        .await
        .unwrap()
}

/// Connects to an IP address, of which TLS tells the server no name.
pub(crate) async fn dial(
    aws: &Aws,
    address: SocketAddr,
    protocol: Option<&str>,
    identity: Option<&ClientCertificate>,
) -> std::io::Result<Tls> {
    dial_trusting(aws.authority_pem(), address, protocol, identity).await
}

pub(crate) async fn dial_trusting(
    authority_pem: &str,
    address: SocketAddr,
    protocol: Option<&str>,
    identity: Option<&ClientCertificate>,
) -> std::io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes());
    roots.add(authority.unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(certificate) => {
            let identity = &certificate.identity;
            let chain = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(identity.private_key_pem.as_bytes());
            config
                .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = protocol
        .into_iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::from(address.ip()), stream)
        .await
}

/// Introduces a client; false when the connection closes instead of an answer.
async fn is_let_in(stream: Tls, username: Option<&str>, password: Option<&'static [u8]>) -> bool {
    let mut client = Client::new(stream, Version::V5);
    let mut connect = connect_packet("a", Version::V5);
    connect.username = username.map(Into::into);
    connect.password = password.map(Into::into);
    client.send(Packet::Connect(Box::new(connect))).await;
    match client.poll().await {
        Some(Packet::ConnAck(connack)) => connack.reason_code == ReasonCode::SUCCESS,
        None => false,
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_of_the_authority_lets_in_as_itself() {
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    for (address, protocol) in [
        (aws.mqtt_address(), None),
        (aws.shared_address(), Some("x-amzn-mqtt-ca")),
    ] {
        let stream = dial(&aws, address, protocol, Some(&certificate)).await;
        let client = Client::new(stream.unwrap(), Version::V311);
        let (client, _) = client.introduce(connect_packet("a", Version::V311)).await;
        let known = aws.broker().client("a").unwrap();
        assert_eq!(
            known.principal.as_deref(),
            Some(&*certificate.certificate_id)
        );
        drop(client);
    }
}

#[tokio::test]
async fn without_a_certificate_or_with_a_strangers_there_is_no_mqtt() {
    let aws = aws().await;
    let stranger = Aws::builder().start().await.unwrap();
    let stranger = stranger.client_certificate("pump").unwrap();
    for (address, protocol) in [
        (aws.mqtt_address(), None),
        (aws.shared_address(), Some("x-amzn-mqtt-ca")),
    ] {
        for identity in [None, Some(&stranger)] {
            // In TLS 1.3 the client is ready before the server has looked at its certificate.
            if let Ok(stream) = dial(&aws, address, protocol, identity).await {
                let mut client = Client::new(stream, Version::V311);
                client.expect_closed().await;
            }
        }
    }
    let unknown = dial(&aws, aws.shared_address(), Some("h2"), None).await;
    assert!(unknown.is_err());
}

#[tokio::test]
async fn a_client_that_trusts_another_authority_does_not_know_the_issuer() {
    let aws = aws().await;
    let earlier = Aws::builder().start().await.unwrap();
    let authority = earlier.authority_pem();
    let refused = dial_trusting(authority, aws.shared_address(), None, None).await;
    // Were the names of the two the same, it would be a bad signature.
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_signed_token_lets_in_whatever_it_says() {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public_key: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let public_key = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        BASE64_STANDARD.encode(public_key.as_ref())
    );
    let sign = |token: &str| {
        let mut signature = vec![0; pair.public_modulus_len()];
        let (encoding, random) = (&RSA_PKCS1_SHA256, SystemRandom::new());
        pair.sign(encoding, &random, token.as_bytes(), &mut signature)
            .unwrap();
        let text = BASE64_STANDARD.encode(signature);
        text.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let gate = Authorizer::new("gate").signed_token("tok", &public_key);
    let aws = Aws::builder().authorizer(gate.unwrap()).start();
    let aws = aws.await.unwrap();
    let username = |token: &str, signature: &str| {
        format!(
            "u?x-amz-customauthorizer-name=gate\
             &x-amz-customauthorizer-signature={signature}&tok={token}"
        )
    };
    for (username, expected) in [
        (username("one", &sign("one")), true),
        (username("another", &sign("another")), true),
        (username("one", &sign("another")), false),
        (username("one", "bm9uZQ=="), false),
        (username("one", "*"), false),
        (
            "u?x-amz-customauthorizer-name=gate&tok=one".to_owned(),
            false,
        ),
    ] {
        let stream = dial(&aws, aws.shared_address(), Some("mqtt"), None).await;
        let let_in = is_let_in(stream.unwrap(), Some(&username), None).await;
        assert_eq!(let_in, expected, "{username}");
    }
    let refused = Authorizer::new("gate").signed_token("tok", "no key");
    assert!(matches!(refused, Err(PublicKeyError::BadPem(_))));
}

#[tokio::test]
async fn a_custom_authorizer_lets_in_who_knows_its_token_and_password() {
    let aws = aws().await;
    let good = "u?x-amz-customauthorizer-name=gate&tok=t1";
    for (username, password, expected) in [
        (Some(good), Some(&b"s3cret"[..]), true),
        (Some(good), Some(&b"guess"[..]), false),
        (Some(good), None, false),
        (
            Some("u?x-amz-customauthorizer-name=gate"),
            Some(&b"s3cret"[..]),
            false,
        ),
        (None, None, false),
    ] {
        let stream = dial(&aws, aws.shared_address(), Some("mqtt"), None).await;
        let let_in = is_let_in(stream.unwrap(), username, password).await;
        assert_eq!(let_in, expected, "{username:?}");
    }
}

/// Sends a request and reads the whole answer: its head and its body.
pub(crate) async fn exchange(stream: &mut Tls, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // The server need not say goodbye in TLS.
    let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn request(
    aws: &Aws,
    identity: Option<&ClientCertificate>,
    start: &str,
    body: &str,
) -> (u16, Value) {
    let stream = dial(aws, aws.https_address(), None, identity).await;
    let length = body.len();
    let text = format!(
        "{start} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let (head, body) = exchange(&mut stream.unwrap(), &text).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_message_is_published_by_https() {
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    let mut watch = aws.broker().watch(filter("#"));
    let (status, body) = request(
        &aws,
        Some(&certificate),
        "POST /topics/a%2Fb?qos=1",
        "hello",
    )
    .await;
    assert_eq!((status, &body["message"]), (200, &json!("OK")));
    let message = watch.recv().await.unwrap();
    assert_eq!(message.topic.as_str(), "a/b");
    assert_eq!(message.payload, "hello");
    assert_eq!(message.qos, QoS::AtLeastOnce);

    let identity = Some(&certificate);
    assert_eq!(request(&aws, identity, "GET /topics/a", "").await.0, 405);
    assert_eq!(
        request(&aws, identity, "POST /topics/a?qos=2", "").await.0,
        400
    );
    assert_eq!(
        request(&aws, identity, "POST /topics/a%2F%23", "").await.0,
        400
    );
    let deep = format!("POST /topics/{}", "a/".repeat(8) + "a");
    assert_eq!(request(&aws, identity, &deep, "").await.0, 400);
    let large = "x".repeat(128 * 1024 + 1);
    assert_eq!(
        request(&aws, identity, "POST /topics/a", &large).await.0,
        413
    );
    assert_eq!(request(&aws, None, "POST /topics/a", "").await.0, 403);
    let nothing = Permissions::none();
    aws.set_permissions(&*certificate.certificate_id, Some(nothing));
    assert_eq!(request(&aws, identity, "POST /topics/a", "").await.0, 403);
}

#[tokio::test]
async fn a_shadow_is_changed_by_https_and_its_device_is_told() {
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    let identity = Some(&certificate);
    let mut watch = aws
        .broker()
        .watch(filter("$aws/things/pump/shadow/update/delta"));
    assert_eq!(
        request(&aws, identity, "GET /things/pump/shadow", "")
            .await
            .0,
        404
    );
    let wish = r#"{"state":{"desired":{"led":"on"}}}"#;
    let (status, body) = request(&aws, identity, "POST /things/pump/shadow", wish).await;
    assert_eq!((status, &body["version"]), (200, &json!(1)));
    let delta = watch.recv().await.unwrap();
    let delta: Value = serde_json::from_slice(&delta.payload).unwrap();
    assert_eq!(delta["state"], json!({"led": "on"}));
    let (status, body) = request(&aws, identity, "GET /things/pump/shadow", "").await;
    assert_eq!(
        (status, &body["state"]["desired"]),
        (200, &json!({"led": "on"}))
    );
    assert_eq!(
        request(&aws, identity, "DELETE /things/pump/shadow", "")
            .await
            .0,
        200
    );
    assert_eq!(request(&aws, identity, "GET /nowhere", "").await.0, 404);
}

#[tokio::test]
async fn a_job_is_made_by_https() {
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    let identity = Some(&certificate);
    let mut watch = aws.broker().watch(filter("$aws/things/+/jobs/notify-next"));
    let body = r#"{"targets":["arn:aws:iot:us-east-1:1:thing/pump"],"document":"{\"do\":1}"}"#;
    // A thing that has a certificate need not be in the registry.
    let (status, answer) = request(&aws, identity, "PUT /jobs/job-1", body).await;
    assert_eq!(
        (status, &answer["message"]),
        (404, &json!("there is no thing \"pump\""))
    );
    // With its shadow it is not, and making it twice is no fault.
    let shadow = r#"{"state":{"reported":{}}}"#;
    let reported = request(&aws, identity, "POST /things/pump/shadow", shadow).await;
    assert_eq!(reported.0, 200);
    let jobless = request(&aws, identity, "PUT /jobs/job-1", body).await;
    assert_eq!(jobless.0, 404);
    for _ in 0..2 {
        let (status, answer) = request(&aws, identity, "POST /things/pump", "").await;
        assert_eq!((status, &answer["thingName"]), (200, &json!("pump")));
        let arn = "arn:aws:iot:us-east-1:000000000000:thing/pump";
        assert_eq!(answer["thingArn"], arn);
    }
    for (nobody, bad) in [
        (false, "POST /things/a%2Fb"),
        (false, "POST /things/"),
        (true, "POST /things/fan"),
    ] {
        let identity = identity.filter(|_| !nobody);
        let expected = if nobody { 403 } else { 400 };
        assert_eq!(request(&aws, identity, bad, "").await.0, expected, "{bad}");
    }
    let (status, answer) = request(&aws, identity, "PUT /jobs/job-1", body).await;
    assert_eq!((status, &answer["jobId"]), (200, &json!("job-1")));
    let told = watch.recv().await.unwrap();
    assert_eq!(told.topic.as_str(), "$aws/things/pump/jobs/notify-next");
    let told: Value = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(told["execution"]["jobDocument"], json!({"do": 1}));
    let plain = r#"{"targets":["pump"],"document":{"do":2}}"#;
    assert_eq!(
        request(&aws, identity, "PUT /jobs/job-2", plain).await.0,
        200
    );
    assert_eq!(
        request(&aws, identity, "PUT /jobs/job-1", plain).await.0,
        409
    );
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"targets":[],"document":{}}"#,
        r#"{"targets":[1],"document":{}}"#,
        r#"{"targets":["pump"]}"#,
        r#"{"targets":["pump"],"document":"{"}"#,
    ] {
        assert_eq!(
            request(&aws, identity, "PUT /jobs/job-3", bad).await.0,
            400,
            "{bad}"
        );
    }
    let nobody = r#"{"targets":["pump","a/b"],"document":{}}"#;
    assert_eq!(
        request(&aws, identity, "PUT /jobs/job-3", nobody).await.0,
        404
    );
    assert_eq!(request(&aws, None, "PUT /jobs/job-3", plain).await.0, 403);
}

#[tokio::test]
async fn what_there_is_can_be_looked_at_by_https() {
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    let identity = Some(&certificate);
    aws.services(|services| {
        services.add_thing("pump");
        services.add_thing("fan");
    });
    let job = r#"{"targets":["pump","fan"],"document":{"do":1}}"#;
    assert_eq!(request(&aws, identity, "PUT /jobs/job-1", job).await.0, 200);
    let start = "PUT /things/pump/jobs/$next";
    assert_eq!(request(&aws, identity, start, "{}").await.0, 200);
    let done = r#"{"status":"SUCCEEDED"}"#;
    let report = "POST /things/pump/jobs/job-1";
    assert_eq!(request(&aws, identity, report, done).await.0, 200);

    let look = async |path: &str| {
        let (status, answer) = request(&aws, identity, &format!("GET {path}"), "").await;
        assert_eq!(status, 200, "{path}");
        answer
    };
    let things = look("/things").await;
    for (place, name) in ["fan", "pump"].into_iter().enumerate() {
        assert_eq!(things["things"][place]["thingName"], name);
    }
    let certificates = look("/certificates").await;
    let first = &certificates["certificates"][0];
    assert_eq!(first["certificateId"], *certificate.certificate_id);
    assert_eq!(first["thingName"], "pump");
    let jobs = look("/jobs").await;
    assert_eq!(jobs["jobs"][0]["jobId"], "job-1");
    assert_eq!(jobs["jobs"][0]["status"], "IN_PROGRESS");
    let details = &look("/jobs/job-1").await["job"]["jobProcessDetails"];
    assert_eq!(details["numberOfSucceededThings"], 1);
    assert_eq!(details["numberOfQueuedThings"], 1);
    let executions = look("/jobs/job-1/things").await;
    let summaries = executions["executionSummaries"].as_array().unwrap();
    let found = |thing: &str| {
        let of_thing = |one: &&Value| one["thingArn"].as_str().unwrap().ends_with(thing);
        let one = summaries.iter().find(of_thing).unwrap();
        one["jobExecutionSummary"]["status"].clone()
    };
    assert_eq!(
        (found("pump"), found("fan")),
        (json!("SUCCEEDED"), json!("QUEUED"))
    );
    for unknown in ["GET /jobs/other", "GET /jobs/other/things"] {
        assert_eq!(request(&aws, identity, unknown, "").await.0, 404);
    }
    assert_eq!(request(&aws, None, "GET /jobs", "").await.0, 403);
}

#[tokio::test]
async fn the_region_is_that_of_signatures_names_and_arns() {
    let aws = Aws::builder()
        .access_key("AKIDEXAMPLE", "secret", None)
        .region("eu-west-1");
    let aws = aws.start().await.unwrap();
    let certificate = aws.client_certificate("pump").unwrap();
    aws.services(|services| services.add_thing("pump"));
    let body = r#"{"targets":["pump"],"document":{}}"#;
    let (_, answer) = request(&aws, Some(&certificate), "PUT /jobs/job-1", body).await;
    assert_eq!(
        answer["jobArn"],
        "arn:aws:iot:eu-west-1:000000000000:job/job-1"
    );
    let query = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260101%2Feu-west-1\
         %2Fiotdata%2Faws4_request&X-Amz-Date=20260101T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    for (query, message) in [
        (query.to_owned(), "Signature expired"),
        (query.replace("eu-west-1", "us-east-1"), "valid region"),
    ] {
        let stream = dial(&aws, aws.shared_address(), Some("http/1.1"), None).await;
        let request = upgrade(&query, "connection: close\r\n");
        let (_, body) = exchange(&mut stream.unwrap(), &request).await;
        assert!(body.contains(message), "{body}");
    }
}

const AUTHORIZED: &str = "x-amz-customauthorizer-name: gate\r\ntok: t1\r\n";

/// An upgrade as the first generation of the SDK writes it, with a key of 128 bytes and compression.
pub(crate) fn upgrade(query: &str, headers: &str) -> String {
    let key = "A".repeat(171) + "=";
    format!(
        "GET /mqtt{query} HTTP/1.1\r\nHost: abc123.iot.us-east-1.amazonaws.com\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqttv3.1\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         sec-websocket-key: {key}\r\n{headers}\r\n"
    )
}

/// The client's end of a WebSocket, frame by frame.
struct Frames(Tls);

impl Frames {
    async fn open(aws: &Aws) -> Self {
        let stream = dial(aws, aws.shared_address(), None, None).await;
        let mut stream = stream.unwrap();
        let request = upgrade("", AUTHORIZED);
        stream.write_all(request.as_bytes()).await.unwrap();
        // That SDK reads once, and takes what it gets for the whole answer.
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).await.unwrap();
        let answer = std::str::from_utf8(&answer[..count]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("\r\nsec-websocket-accept: "), "{answer}");
        assert!(
            answer.contains("\r\nsec-websocket-protocol: mqttv3.1\r\n"),
            "{answer}"
        );
        assert!(!answer.to_lowercase().contains("extensions"), "{answer}");
        Self(stream)
    }

    /// Sends a masked frame; the mask of zeros leaves the bytes as they are.
    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        assert!(length < 126);
        let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next frame: its first byte and its payload. `None` at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let next = async {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await.ok()?;
            assert!(head[1] < 126, "short and unmasked");
            let mut payload = vec![0; usize::from(head[1])];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((head[0], payload))
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap()
    }
}

fn bytes_of(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(packet, Version::V311, &mut bytes).unwrap();
    bytes
}

fn connect_bytes() -> BytesMut {
    let mut connect = connect_packet("a", Version::V311);
    connect.password = Some("s3cret".into());
    connect.username = Some("u".into());
    bytes_of(&Packet::Connect(Box::new(connect)))
}

#[tokio::test]
async fn mqtt_over_a_websocket_minds_no_borders_of_messages_and_keeps_its_own() {
    let aws = aws().await;
    let mut frames = Frames::open(&aws).await;
    // One packet in many messages.
    for byte in connect_bytes() {
        frames.send(2, &[byte]).await;
    }
    assert_eq!(frames.next().await.unwrap(), (0x82, vec![0x20, 2, 0, 0]));
    // Many packets in one message; each answer has a message of its own.
    let ping = bytes_of(&Packet::PingReq);
    frames.send(2, &[&ping[..], &ping[..]].concat()).await;
    for _ in 0..2 {
        assert_eq!(frames.next().await.unwrap(), (0x82, vec![0xd0, 0]));
    }
    // A ping of the WebSocket's own.
    frames.send(9, b"there?").await;
    assert_eq!(frames.next().await.unwrap(), (0x8a, b"there?".to_vec()));
    let known = aws.broker().client("a").unwrap();
    assert_eq!(known.principal.as_deref(), Some("gate"));
    // Text is no MQTT.
    frames.send(1, b"text").await;
    connected(aws.broker(), 0).await;
}

#[tokio::test]
async fn a_websocket_ends_with_its_lifetime() {
    let mut settings = AwsSettings::default();
    settings.websocket_lifetime = Duration::from_millis(200);
    let aws = Aws::builder()
        .settings(settings)
        .authorizer(Authorizer::new("gate"))
        .start()
        .await
        .unwrap();
    let mut watch = aws
        .broker()
        .watch(filter("$aws/events/presence/disconnected/+"));
    let mut frames = Frames::open(&aws).await;
    frames.send(2, &connect_bytes()).await;
    assert!(frames.next().await.is_some());
    let event = watch.recv().await.unwrap();
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(event["disconnectReason"], "WEBSOCKET_TTL_EXPIRATION");
    while frames.next().await.is_some() {}
}

#[tokio::test]
async fn an_upgrade_without_the_right_credentials_is_refused_with_403() {
    let aws = aws().await;
    let scope = "AKIDEXAMPLE%2F20260101%2Fus-east-1%2Fiotdata%2Faws4_request";
    let signed = format!(
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date=20260101T000000Z\
         &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
    );
    for (query, headers, message) in [
        (&*signed, "", "Signature expired"),
        (
            &signed.replace("us-east-1", "eu-west-1"),
            "",
            "Credential should be scoped to a valid region",
        ),
        (
            "?X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "",
            "A part of the signature",
        ),
        (
            "",
            "x-amz-customauthorizer-name: gate\r\ntok: t2\r\n",
            "Forbidden",
        ),
        (
            "",
            "x-amz-customauthorizer-name: other\r\ntok: t1\r\n",
            "Forbidden",
        ),
    ] {
        let stream = dial(&aws, aws.shared_address(), Some("http/1.1"), None).await;
        let headers = format!("{headers}connection: close\r\n");
        let (head, body) = exchange(&mut stream.unwrap(), &upgrade(query, &headers)).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(body.contains(message), "{body}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_of_mqtt_is_refused() {
    let aws = aws().await;
    let good = upgrade("", AUTHORIZED);
    for (bad, status) in [
        (good.replace("mqttv3.1", "chat"), "400"),
        (good.replace("Upgrade: websocket\r\n", ""), "400"),
        (good.replace("Version: 13", "Version: 8"), "426"),
        (good.replace("sec-websocket-key", "x-key"), "400"),
        (good.replace("GET /mqtt", "POST /mqtt"), "400"),
        (good.replace("GET ", "\u{1}"), "400"),
    ] {
        let stream = dial(&aws, aws.shared_address(), None, None).await;
        let bad = bad.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let (head, _) = exchange(&mut stream.unwrap(), &bad).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}
