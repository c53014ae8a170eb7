//! TLS with a real server: who is trusted connects; everybody else is refused with an error that says what
//! is wrong and what to do, in time.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot::{
    ConnectError, ConnectTimeouts, Fleet, GroupBuilder, GroupError, LinkEvent, Telemetry, TlsError,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

#[path = "support/support.rs"]
mod support;

use support::certs::{Authority, Identity, write_file};
use support::fleet::{
    connect_failed, disconnected, drain, event, fleet, group, online, retrying, soon, start,
};
use support::mosquitto::{Mosquitto, Setup};

/// Off the runtime: starting a broker waits for it.
async fn mosquitto(setup: Setup) -> Option<Mosquitto> {
    tokio::task::spawn_blocking(move || setup.start())
        .await
        .unwrap()
}

fn mqtts(host: &str, port: u16) -> String {
    format!("mqtts://{host}:{port}")
}

async fn connects_and_delivers(builder: GroupBuilder, fleet: &Fleet) {
    let link = start(builder, "d1");
    online(&link).await;
    let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    drain(fleet).await;
}

/// The first failure of a link, and the delay that follows it.
async fn fails(builder: GroupBuilder) -> (Arc<ConnectError>, Duration) {
    let group = builder.build().unwrap();
    let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
    let error = connect_failed(&mut events).await;
    (error, retrying(&mut events).await)
}

#[tokio::test]
async fn a_trusted_server_is_taken_by_name_and_by_address() {
    let authority = Authority::new("paquebot test CA");
    let Some(broker) = mosquitto(Mosquitto::setup().tls(&authority.server())).await else {
        return;
    };
    for version in support::fleet::BOTH {
        for host in ["127.0.0.1", "localhost"] {
            let fleet = fleet();
            let builder = group(&fleet, &mqtts(host, broker.tls_port()), version);
            let builder = builder.ca_file(authority.certificate());
            connects_and_delivers(builder, &fleet).await;
        }
    }
}

#[tokio::test]
async fn the_name_to_check_may_be_another_than_the_host() {
    let authority = Authority::new("paquebot test CA");
    let server = authority.server_for_wrong_host();
    let Some(broker) = mosquitto(Mosquitto::setup().tls(&server)).await else {
        return;
    };
    let fleet = fleet();
    let builder = group(&fleet, &mqtts("127.0.0.1", broker.tls_port()), Version::V5)
        .ca_file(authority.certificate())
        .server_name("elsewhere.example");
    connects_and_delivers(builder, &fleet).await;
}

#[tokio::test]
async fn each_bad_server_certificate_is_refused_with_what_to_do() {
    let authority = Authority::new("paquebot test CA");
    let stranger = Authority::new("somebody else's CA");
    let rows: [(&str, Identity, &[&str]); 4] = [
        (
            "wrong host",
            authority.server_for_wrong_host(),
            &["name", "connect by the name"],
        ),
        (
            "expired",
            authority.expired_server(),
            &["expired", "new certificate", "clock"],
        ),
        (
            "not yet valid",
            authority.not_yet_valid_server(),
            &["not valid yet", "clock"],
        ),
        ("wrong CA", stranger.server(), &["not trusted", "CA file"]),
    ];
    for (what, server, words) in rows {
        let Some(broker) = mosquitto(Mosquitto::setup().tls(&server)).await else {
            return;
        };
        let fleet = fleet();
        let builder = group(&fleet, &mqtts("127.0.0.1", broker.tls_port()), Version::V5);
        let (error, delay) = fails(builder.ca_file(authority.certificate())).await;
        assert!(
            matches!(*error, ConnectError::ServerCertificate { .. }),
            "{what}: {error:?}"
        );
        let text = error.to_string();
        for word in words {
            assert!(
                text.contains(word),
                "{what}: {text:?} does not say {word:?}"
            );
        }
        assert!(
            text.contains("127.0.0.1"),
            "{what}: {text:?} does not name the server"
        );
        // It does not mend itself, so it is not asked every second.
        assert!(delay >= Duration::from_secs(7), "{what}: {delay:?}");
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn without_a_ca_file_the_systems_authorities_count_and_a_private_one_does_not() {
    let authority = Authority::new("paquebot test CA");
    let Some(broker) = mosquitto(Mosquitto::setup().tls(&authority.server())).await else {
        return;
    };
    let fleet = fleet();
    let builder = group(
        &fleet,
        &mqtts("localhost", broker.tls_port()),
        Version::V311,
    );
    match builder.clone().build() {
        // A machine without any trusted authority says so when the group is built.
        Err(GroupError::Tls(TlsError::SystemTrust(_))) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => {
            let (error, _) = fails(builder).await;
            assert!(
                matches!(*error, ConnectError::ServerCertificate { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains("CA file"), "{error}");
        }
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn a_client_certificate_of_the_right_authority_is_let_in() {
    let authority = Authority::new("paquebot test CA");
    let setup = Mosquitto::setup().mutual_tls(&authority.server(), &authority);
    let Some(broker) = mosquitto(setup).await else {
        return;
    };
    let client = authority.client("pilot");
    let fleet = fleet();
    let builder = group(
        &fleet,
        &mqtts("127.0.0.1", broker.mutual_tls_port()),
        Version::V5,
    )
    .ca_file(authority.certificate());
    let whole_group = builder
        .clone()
        .client_certificate(&client.certificate, &client.key);
    let link = start(whole_group, "d1");
    online(&link).await;
    // A certificate of the link's own.
    let own = builder.build().unwrap().device("d2").unwrap();
    let own = own
        .client_certificate(&client.certificate, &client.key)
        .unwrap()
        .start()
        .unwrap();
    online(&own).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn each_bad_client_certificate_is_refused_with_what_to_do() {
    let authority = Authority::new("paquebot test CA");
    let stranger = Authority::new("somebody else's CA");
    let setup = Mosquitto::setup().mutual_tls(&authority.server(), &authority);
    let Some(broker) = mosquitto(setup).await else {
        return;
    };
    for (what, client) in [
        ("none", None),
        ("wrong CA", Some(stranger.client("pilot"))),
        ("expired", Some(authority.expired_client("pilot"))),
    ] {
        let fleet = fleet();
        let url = mqtts("127.0.0.1", broker.mutual_tls_port());
        let mut builder = group(&fleet, &url, Version::V5).ca_file(authority.certificate());
        if let Some(client) = &client {
            builder = builder.client_certificate(&client.certificate, &client.key);
        }
        // With TLS 1.3 the server's refusal comes when this end takes the handshake for done.
        let (error, delay) = fails(builder).await;
        assert!(
            matches!(*error, ConnectError::TlsRefused { .. }),
            "{what}: {error:?}"
        );
        assert!(
            error.to_string().contains("client certificate"),
            "{what}: {error}"
        );
        assert!(delay >= Duration::from_secs(7), "{what}: {delay:?}");
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_told_apart_from_a_lost_connection() {
    let authority = Authority::new("paquebot test CA");
    let Some(broker) = mosquitto(Mosquitto::setup().tls(&authority.server())).await else {
        return;
    };
    for version in support::fleet::BOTH {
        let fleet = fleet();
        let url = format!("mqtt://127.0.0.1:{}", broker.tls_port());
        let group = group(&fleet, &url, version).build().unwrap();
        let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
        let reason = disconnected(&mut events).await;
        let text = reason.to_string();
        assert!(text.contains("mqtts://"), "{reason:?}: {text}");
        assert!(retrying(&mut events).await > Duration::ZERO);
        soon("the fleet is drained", fleet.drain(Duration::ZERO)).await;
    }
}

#[tokio::test]
async fn tls_on_a_plain_port_fails_as_a_handshake_that_says_so() {
    let Some(broker) = mosquitto(Mosquitto::setup().plain()).await else {
        return;
    };
    let authority = Authority::new("paquebot test CA");
    let fleet = fleet();
    let builder = group(
        &fleet,
        &mqtts("127.0.0.1", broker.plain_port()),
        Version::V5,
    );
    let (error, _) = fails(builder.ca_file(authority.certificate())).await;
    assert!(matches!(*error, ConnectError::Tls { .. }), "{error:?}");
    assert!(
        error.to_string().contains("check that the port speaks TLS"),
        "{error}"
    );
    soon("the fleet is drained", fleet.drain(Duration::ZERO)).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up_at_its_deadline() {
    let authority = Authority::new("paquebot test CA");
    let limit = Duration::from_millis(300);
    for (timeouts, said) in [
        (
            ConnectTimeouts {
                tls: limit,
                ..ConnectTimeouts::default()
            },
            limit,
        ),
        (
            ConnectTimeouts {
                total: limit,
                ..ConnectTimeouts::default()
            },
            limit,
        ),
    ] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fleet = fleet();
        let builder = group(&fleet, &mqtts("127.0.0.1", port), Version::V311);
        let builder = builder
            .ca_file(authority.certificate())
            .connect_timeouts(timeouts);
        let began = Instant::now();
        let group = builder.build().unwrap();
        let (_link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
        // It is accepted, and its hello is read, but never answered.
        let (mut stream, _) = soon("it connects", listener.accept()).await.unwrap();
        let mut hello = [0; 4096];
        assert!(
            soon("the hello comes", stream.read(&mut hello))
                .await
                .unwrap()
                > 100
        );
        let error = connect_failed(&mut events).await;
        assert!(
            matches!(&*error, ConnectError::Timeout { limit, .. } if *limit == said),
            "{error:?}"
        );
        assert!(error.to_string().contains("tls"), "{error}");
        assert!(
            (limit..limit * 6).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
        // And again: the link does not give up.
        event(&mut events, "the next attempt", |event| {
            matches!(event, LinkEvent::Connecting { attempt: 2 }).then_some(())
        })
        .await;
        soon("the fleet is drained", fleet.drain(Duration::ZERO)).await;
    }
}

#[tokio::test]
async fn no_server_and_no_such_name_are_errors_of_their_own() {
    let fleet = fleet();
    let port = support::ports::free_port();
    let (error, _) = fails(group(
        &fleet,
        &format!("mqtt://127.0.0.1:{port}"),
        Version::V5,
    ))
    .await;
    assert!(matches!(*error, ConnectError::Tcp { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("check that a server listens there"),
        "{error}"
    );
    let (error, _) = fails(group(&fleet, "mqtt://no-such-host.invalid", Version::V5)).await;
    assert!(
        matches!(
            *error,
            ConnectError::Dns { .. } | ConnectError::Timeout { .. }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("no-such-host.invalid"),
        "{error}"
    );
    soon("the fleet is drained", fleet.drain(Duration::ZERO)).await;
}

/// Builds a group with these files; nothing is connected.
fn built(ca: &Path, client: Option<(&Path, &Path)>) -> Result<(), GroupError> {
    let fleet = fleet();
    let mut builder = group(&fleet, "mqtts://127.0.0.1:8883", Version::V5).ca_file(ca);
    if let Some((certificate, key)) = client {
        builder = builder.client_certificate(certificate, key);
    }
    builder.build().map(|_| ())
}

#[test]
fn files_that_cannot_be_used_are_named_when_the_group_is_built() {
    let authority = Authority::new("paquebot test CA");
    let (one, other) = (authority.client("one"), authority.client("other"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write_file(&path, text, 0o600);
        path
    };
    let missing = folder.path().join("missing.pem");
    let empty = file("empty.pem", "");
    let garbage = file("garbage.pem", "\u{0}\u{1}garbage");
    let cut = file("cut.pem", &one.certificate_pem[..100]);
    let bad_base64 = file(
        "base64.pem",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    let bad_der = file(
        "der.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let bad_key = file(
        "key.pem",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let ca = authority.certificate();
    let rows: [(&str, Result<(), GroupError>, &Path); 13] = [
        ("no CA file", built(&missing, None), &missing),
        ("empty CA file", built(&empty, None), &empty),
        ("garbage as CA file", built(&garbage, None), &garbage),
        ("cut CA file", built(&cut, None), &cut),
        (
            "CA file that is no base64",
            built(&bad_base64, None),
            &bad_base64,
        ),
        (
            "CA file that is no certificate",
            built(&bad_der, None),
            &bad_der,
        ),
        ("key as CA file", built(&one.key, None), &one.key),
        (
            "no certificate",
            built(ca, Some((&missing, &one.key))),
            &missing,
        ),
        (
            "no key",
            built(ca, Some((&one.certificate, &missing))),
            &missing,
        ),
        (
            "garbage as key",
            built(ca, Some((&one.certificate, &garbage))),
            &garbage,
        ),
        (
            "key that is none",
            built(ca, Some((&one.certificate, &bad_key))),
            &bad_key,
        ),
        (
            "certificate as key",
            built(ca, Some((&one.certificate, &one.certificate))),
            &one.certificate,
        ),
        (
            "another's key",
            built(ca, Some((&one.certificate, &other.key))),
            &other.key,
        ),
    ];
    for (what, result, path) in rows {
        let error = match result {
            Err(GroupError::Tls(error)) => error,
            other => panic!("{what}: {other:?}"),
        };
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()), "{what}: {text}");
        assert!(!text.contains("BEGIN"), "{what}: {text}");
        if what == "another's key" {
            assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error:?}");
        }
        if what.starts_with("no ") {
            assert!(matches!(error, TlsError::Read { .. }), "{error:?}");
        }
    }
    assert!(built(ca, Some((&one.certificate, &one.key))).is_ok());
}
