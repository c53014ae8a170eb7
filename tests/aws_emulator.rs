//! The five ways to AWS IoT against the emulator of it, which checks certificates, signatures and tokens by itself.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use paquebot::aws::{AccessKey, AccessKeys, Authorizer, AuthorizerToken, Connection};
use paquebot::mqtt::{QoS, Version};
use paquebot::{ConnectError, Publish, Telemetry};
use paquebot_emulator::aws::{self as emulated, Aws};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, connect_failed, drain, fleet, quick, retrying, soon};

fn key(secret: &str, token: Option<&str>) -> AccessKey {
    AccessKey {
        id: "AKIDEXAMPLE".to_owned(),
        secret: secret.into(),
        session_token: token.map(Into::into),
        expires_at: None,
    }
}

#[tokio::test]
async fn each_way_is_let_in_and_carries_messages_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let gate = emulated::Authorizer::new("gate").token("ticket", "admit one");
    let aws = Aws::builder()
        .directory(folder.path())
        .access_key("AKIDEXAMPLE", "s3cr3t/+", Some("t0k3n/+="))
        .authorizer(gate)
        .start()
        .await
        .unwrap();
    let thing = aws.client_certificate("pump-1").unwrap();
    let files = thing.paths.unwrap();
    let authorizer = || {
        let token = AuthorizerToken {
            token: "admit one".into(),
            signature: None,
        };
        Authorizer::named("gate").token("ticket", token)
    };
    let keys = || AccessKeys::fixed(key("s3cr3t/+", Some("t0k3n/+=")));
    let (own, shared) = (aws.mqtt_address().port(), aws.shared_address().port());
    for version in BOTH {
        for (connection, needs_certificate) in [
            (Connection::mutual_tls("localhost").port(own), true),
            (Connection::mutual_tls_alpn("localhost").port(shared), true),
            (
                Connection::custom_authorizer("localhost", authorizer()).port(shared),
                false,
            ),
            (
                Connection::websocket_custom_authorizer("localhost", authorizer()).port(shared),
                false,
            ),
            (
                Connection::websocket("localhost", keys())
                    .region("us-east-1")
                    .port(shared),
                false,
            ),
        ] {
            let shown = format!("{version} {connection:?}");
            let fleet = fleet();
            let mut group = fleet
                .group("things")
                .aws(connection)
                .version(version)
                .ca_file(aws.authority_path().unwrap())
                .backoff(quick());
            if needs_certificate {
                group = group.client_certificate(&files.certificate, &files.private_key);
            }
            let link = group
                .build()
                .unwrap()
                .device("pump-1")
                .unwrap()
                .start()
                .unwrap();
            soon(&shown, link.online()).await.unwrap();
            let mut feed = link
                .subscribe("echo/pump-1", QoS::AtLeastOnce)
                .await
                .unwrap();
            soon("it is subscribed", feed.ready()).await.unwrap();
            let echo = Publish::new("echo/pump-1", vec![7; 100_000]).unwrap();
            let receipt = link.publish(echo.with_qos(QoS::AtLeastOnce)).await.unwrap();
            let message = soon("it comes back", feed.next()).await.unwrap();
            assert_eq!(message.payload().len(), 100_000, "{shown}");
            drop(message);
            assert!(soon("it is delivered", receipt).await.is_delivered());
            let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
            assert!(soon("it is delivered", receipt).await.is_delivered());
            assert_eq!(drain(&fleet).await.disconnects, 0, "{shown}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_signed_lets_in_over_mqtt_and_over_websocket() {
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
        BASE64_STANDARD.encode(signature)
    };
    let folder = tempfile::tempdir().unwrap();
    let gate = emulated::Authorizer::new("gate").signed_token("ticket", &public_key);
    let aws = Aws::builder()
        .directory(folder.path())
        .authorizer(gate.unwrap())
        .start()
        .await
        .unwrap();
    let port = aws.shared_address().port();
    let ways = [
        Connection::custom_authorizer,
        Connection::websocket_custom_authorizer,
    ];
    for (way, is_right) in ways.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let signed = if is_right { "admit one" } else { "another" };
        let token = AuthorizerToken {
            token: "admit one".into(),
            signature: Some(sign(signed).into()),
        };
        let authorizer = Authorizer::named("gate").token("ticket", token);
        let fleet = fleet();
        let group = fleet
            .group("things")
            .aws(way("localhost", authorizer).port(port))
            .ca_file(aws.authority_path().unwrap());
        let device = group.build().unwrap().device("pump-1").unwrap();
        let (link, mut events) = device.start_with_events().unwrap();
        let accepted = aws.broker().stats().connects_accepted;
        if is_right {
            soon("it is let in", link.online()).await.unwrap();
        } else {
            retrying(&mut events).await;
            assert_eq!(aws.broker().stats().connects_accepted, accepted);
        }
        soon("the link stops", link.stop()).await;
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_with_403() {
    let folder = tempfile::tempdir().unwrap();
    let aws = Aws::builder()
        .directory(folder.path())
        .access_key("AKIDEXAMPLE", "right", None)
        .start()
        .await
        .unwrap();
    let fleet = fleet();
    let keys = AccessKeys::fixed(key("wrong", None));
    let connection = Connection::websocket("localhost", keys).region("us-east-1");
    let group = fleet
        .group("things")
        .aws(connection.port(aws.shared_address().port()))
        .version(Version::V311)
        .ca_file(aws.authority_path().unwrap());
    let group = group.build().unwrap();
    let (link, mut events) = group.device("pump-1").unwrap().start_with_events().unwrap();
    let error = connect_failed(&mut events).await;
    assert!(
        matches!(&*error, ConnectError::HttpRefused { status: 403, .. }),
        "{error}"
    );
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}
