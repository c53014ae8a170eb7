//! The ways to AWS IoT: ports and names aside, what a server sees of each: ALPN, SNI, certificate, request, user name.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paquebot::aws::{
    self, AccessKey, AccessKeyError, AccessKeys, Authorizer, AuthorizerToken, Connection,
    ConnectionError,
};
use paquebot::mqtt::ReasonCode;
use paquebot::{
    ConnectError, Credentials, GroupBuilder, GroupError, LinkEvent, StartError, Telemetry,
};
use paquebot_emulator::{Broker, Login, Policy};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

#[path = "support/support.rs"]
mod support;
#[path = "support/websocket.rs"]
mod websocket;

use support::certs::Authority;
use support::fleet::{connect_failed, drain, event, fleet, online, quick, retrying, soon};
use websocket::{accept, carry, header, read_request};

/// What a server sees of a connection.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    server_name: Option<String>,
    alpn: Option<String>,
    has_certificate: bool,
    /// Of a WebSocket: the whole request.
    request: String,
}

/// User name and password of each CONNECT.
type Logins = Arc<Mutex<Vec<(Option<String>, Option<Vec<u8>>)>>>;

struct Gatekeeper(Logins);

impl Policy for Gatekeeper {
    fn connect(&self, login: &Login<'_>) -> Result<(), ReasonCode> {
        let username = login.username.map(str::to_owned);
        let password = login.password.map(<[u8]>::to_vec);
        self.0.lock().unwrap().push((username, password));
        Ok(())
    }
}

/// A server as AWS's: TLS, client certificates as they come, ALPN, WebSocket where one is asked for.
struct Gate {
    port: u16,
    authority: Authority,
    seen: Arc<Mutex<Vec<Seen>>>,
    logins: Logins,
}

impl Gate {
    /// `refusals` WebSockets are refused with 403 before the first is let in.
    async fn open(refusals: usize) -> Self {
        let authority = Authority::new("paquebot test CA");
        let acceptor = acceptor(&authority);
        let logins = Logins::default();
        let broker = Broker::builder().policy(Gatekeeper(Arc::clone(&logins)));
        let broker = broker.start().await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let refused = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, broker, all) = (acceptor.clone(), broker.clone(), Arc::clone(&all));
                let refused = Arc::clone(&refused);
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let connection = stream.get_ref().1;
                    let mut seen = Seen {
                        server_name: connection.server_name().map(str::to_owned),
                        alpn: connection
                            .alpn_protocol()
                            .map(|name| String::from_utf8(name.to_vec()).unwrap()),
                        has_certificate: connection.peer_certificates().is_some(),
                        request: String::new(),
                    };
                    if seen.alpn.as_deref() != Some("http/1.1") {
                        all.lock().unwrap().push(seen);
                        let mut pipe = broker.connect_pipe();
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut pipe).await;
                        return;
                    }
                    seen.request = read_request(&mut stream).await.unwrap_or_default();
                    all.lock().unwrap().push(seen.clone());
                    if refused.fetch_add(1, Ordering::Relaxed) < refusals {
                        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno key";
                        let _ = stream.write_all(answer.as_bytes()).await;
                        return;
                    }
                    carry(accept(stream, &seen.request).await, &broker).await;
                });
            }
        });
        Self {
            port,
            authority,
            seen,
            logins,
        }
    }

    fn group(&self, fleet: &paquebot::Fleet, connection: Connection) -> GroupBuilder {
        let group = fleet.group("things").aws(connection.port(self.port));
        group.ca_file(self.authority.certificate()).backoff(quick())
    }

    fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    fn last_login(&self) -> (Option<String>, Option<Vec<u8>>) {
        self.logins.lock().unwrap().last().cloned().unwrap()
    }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let server = authority.server();
    let mut roots = RootCertStore::empty();
    let authority = authority.certificate_pem();
    roots
        .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
        .unwrap();
    let clients = WebPkiClientVerifier::builder(Arc::new(roots));
    let clients = clients.allow_unauthenticated().build().unwrap();
    let chain = CertificateDer::pem_slice_iter(server.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = ["x-amzn-mqtt-ca", "mqtt", "http/1.1"]
        .map(|name| name.into())
        .to_vec();
    TlsAcceptor::from(Arc::new(config))
}

fn key(id: &str) -> AccessKey {
    AccessKey {
        id: id.to_owned(),
        secret: "canary-secret".into(),
        session_token: Some("canary/token".into()),
        expires_at: None,
    }
}

fn authorizer() -> Authorizer {
    let token = AuthorizerToken {
        token: "canary-token".into(),
        signature: Some("canary+signature=".into()),
    };
    Authorizer::named("gate")
        .user("crew")
        .password("canary-password")
        .token("ticket", token)
}

const METRICS: &str = concat!("SDK=paquebot&Version=", env!("CARGO_PKG_VERSION"));

#[tokio::test]
async fn each_way_shows_what_aws_wants_to_see() {
    let gate = Gate::open(0).await;
    let identity = gate.authority.client("pump-1");
    let query = "x-amz-customauthorizer-name=gate&x-amz-customauthorizer-signature=canary%2Bsignature%3D&ticket=canary-token";
    let rows = [
        (
            Connection::mutual_tls("localhost"),
            None,
            true,
            format!("?{METRICS}"),
            None,
        ),
        (
            Connection::mutual_tls_alpn("localhost"),
            Some("x-amzn-mqtt-ca"),
            true,
            format!("?{METRICS}"),
            None,
        ),
        (
            Connection::custom_authorizer("localhost", authorizer()),
            Some("mqtt"),
            false,
            format!("crew?{query}&{METRICS}"),
            Some(b"canary-password".to_vec()),
        ),
        (
            Connection::websocket_custom_authorizer("localhost", authorizer()),
            Some("http/1.1"),
            false,
            format!("crew?{METRICS}"),
            Some(b"canary-password".to_vec()),
        ),
        (
            Connection::websocket("localhost", AccessKeys::fixed(key("AKID")))
                .region("eu-central-1"),
            Some("http/1.1"),
            false,
            format!("?{METRICS}"),
            None,
        ),
    ];
    for (connection, alpn, has_certificate, username, password) in rows {
        let fleet = fleet();
        let mut printed = format!("{connection:?}");
        let mut group = gate.group(&fleet, connection);
        if has_certificate {
            group = group.client_certificate(&identity.certificate, &identity.key);
        }
        printed += &format!("{group:?}");
        let link = group.build().unwrap().device("pump-1").unwrap();
        printed += &format!("{link:?}");
        let link = link.start().unwrap();
        online(&link).await;
        let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
        let seen = gate.last();
        assert_eq!(seen.server_name.as_deref(), Some("localhost"));
        assert_eq!(seen.alpn.as_deref(), alpn);
        assert_eq!(seen.has_certificate, has_certificate);
        assert_eq!(gate.last_login(), (Some(username), password));
        printed += &format!("{link:?}");
        assert!(!printed.contains("canary"), "{printed}");
        drain(&fleet).await;
    }
    let requests: Vec<Seen> = gate.seen.lock().unwrap().clone();
    let [.., authorized, signed] = requests.as_slice() else {
        unreachable!("five links connected");
    };
    assert!(authorized.request.starts_with("GET /mqtt HTTP/1.1\r\n"));
    for (name, value) in [
        ("x-amz-customauthorizer-name", "gate"),
        ("x-amz-customauthorizer-signature", "canary+signature="),
        ("ticket", "canary-token"),
    ] {
        assert_eq!(header(&authorized.request, name), Some(value));
    }
    let line = signed.request.lines().next().unwrap();
    assert!(
        line.starts_with("GET /mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F"),
        "{line}"
    );
    assert!(
        line.contains("%2Feu-central-1%2Fiotdevicegateway%2Faws4_request&"),
        "{line}"
    );
    assert!(
        line.ends_with("&X-Amz-Security-Token=canary%2Ftoken HTTP/1.1"),
        "{line}"
    );
    // The signature is over this header, and without a port.
    assert_eq!(header(&signed.request, "host"), Some("localhost"));
}

#[tokio::test]
async fn user_names_of_ones_own_keep_their_place_and_metrics_can_be_off() {
    let gate = Gate::open(0).await;
    let identity = gate.authority.client("pump-1");
    for (tells, own, username) in [
        (true, Some("u"), Some(format!("u?{METRICS}"))),
        (true, Some("u?x=y"), Some(format!("u?x=y&{METRICS}"))),
        (false, Some("u"), Some("u".to_owned())),
        (false, None, None),
    ] {
        let fleet = fleet();
        let group = gate.group(&fleet, Connection::mutual_tls("localhost").metrics(tells));
        let mut link = group.build().unwrap().device("pump-1").unwrap();
        link = link
            .client_certificate(&identity.certificate, &identity.key)
            .unwrap();
        if let Some(own) = own {
            link = link.credentials(Credentials::username(own));
        }
        let link = link.start().unwrap();
        online(&link).await;
        assert_eq!(gate.last_login(), (username, None));
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn every_attempt_signs_with_the_key_that_holds_then_and_a_refusal_backs_off_far() {
    let gate = Gate::open(1).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let keys = AccessKeys::provider(move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Ok(key(&format!("AKID{n}"))) })
    });
    let fleet = fleet();
    let connection = Connection::websocket("localhost", keys).region("eu-central-1");
    let backoff = paquebot::BackoffConfig {
        refused_base: Duration::from_millis(40),
        refused_max: Duration::from_millis(40),
        ..quick()
    };
    let group = gate
        .group(&fleet, connection)
        .backoff(backoff)
        .build()
        .unwrap();
    let (link, mut events) = group.device("pump-1").unwrap().start_with_events().unwrap();
    let error = connect_failed(&mut events).await;
    assert!(
        matches!(&*error, ConnectError::HttpRefused { status: 403, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no key"), "{error}");
    assert!(
        !format!("{error} {error:?}").contains("canary"),
        "{error:?}"
    );
    let delay = retrying(&mut events).await;
    assert!(delay >= Duration::from_millis(20), "{delay:?}");
    online(&link).await;
    link.reconnect();
    event(&mut events, "Online", |event| {
        matches!(event, LinkEvent::Online).then_some(())
    })
    .await;
    event(&mut events, "Online again", |event| {
        matches!(event, LinkEvent::Online).then_some(())
    })
    .await;
    let requests: Vec<String> = gate
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.request.clone())
        .collect();
    for (n, request) in requests.iter().enumerate() {
        assert!(
            request.contains(&format!("Credential=AKID{n}%2F")),
            "{request}"
        );
    }
    assert_eq!(requests.len(), 3);
    drain(&fleet).await;
}

#[tokio::test]
async fn without_a_key_the_link_says_where_it_looked_and_connects_to_nobody() {
    let gate = Gate::open(0).await;
    let expired = AccessKey {
        expires_at: Some(std::time::SystemTime::now()),
        ..key("OLD")
    };
    let missing = AccessKeyError::NotFound {
        looked: vec![
            "environment: nothing".to_owned(),
            "/drawer: empty".to_owned(),
        ],
    };
    let failed = AccessKeyError::Provider(std::sync::Arc::new(std::io::Error::other("no network")));
    // What is missing is asked for again after a while; what a provider failed at may pass by itself.
    let (long, short) = (
        Duration::from_millis(7_500)..Duration::MAX,
        Duration::ZERO..Duration::from_secs(2),
    );
    for (keys, words, pause) in [
        (AccessKeys::fixed(expired), "OLD have expired", &long),
        (
            AccessKeys::provider(move || Box::pin(std::future::ready(Err(failed.clone())))),
            "no network",
            &short,
        ),
        (
            AccessKeys::provider(move || Box::pin(std::future::ready(Err(missing.clone())))),
            "environment: nothing; /drawer: empty",
            &long,
        ),
        (AccessKeys::profile("no such profile"), "credentials", &long),
    ] {
        let fleet = fleet();
        let connection = Connection::websocket("localhost", keys).region("eu-central-1");
        let group = gate.group(&fleet, connection).build().unwrap();
        let (link, mut events) = group.device("pump-1").unwrap().start_with_events().unwrap();
        let error = connect_failed(&mut events).await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(
            !format!("{error} {error:?}").contains("canary"),
            "{error:?}"
        );
        assert!(pause.contains(&retrying(&mut events).await), "{words}");
        soon("the link stops", link.stop()).await;
        drain(&fleet).await;
    }
    assert!(gate.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_work_shows_before_anything_is_sent() {
    const HOST: &str = "abc-ats.iot.eu-central-1.amazonaws.com";
    let fleet = fleet();
    let refused = |connection: Connection, keep_alive: u64| {
        let group = fleet.group("g").aws(connection);
        match group.keep_alive(Duration::from_secs(keep_alive)).build() {
            Err(GroupError::Aws(error)) => Some(error),
            Err(other) => unreachable!("{other}"),
            Ok(_) => None,
        }
    };
    let keys = AccessKeys::default;
    assert_eq!(refused(Connection::mutual_tls(HOST), 30), None);
    assert_eq!(refused(Connection::websocket(HOST, keys()), 1200), None);
    for keep_alive in [0, 29, 1201] {
        let error = refused(Connection::mutual_tls(HOST), keep_alive);
        let expected = ConnectionError::KeepAlive(Duration::from_secs(keep_alive));
        assert_eq!(error, Some(expected));
    }
    for host in ["", "mqtts://h", "h:8883", "h/mqtt", "::1"] {
        let error = refused(Connection::mutual_tls(host), 60);
        assert_eq!(error, Some(ConnectionError::Host(host.to_owned())));
    }
    let own = Connection::websocket("mqtt.example.com", keys());
    let error = refused(own.clone(), 60);
    assert_eq!(
        error,
        Some(ConnectionError::Region("mqtt.example.com".to_owned()))
    );
    assert_eq!(refused(own.clone().region("eu-central-1"), 60), None);
    let error = refused(own.region("EU/1"), 60);
    assert_eq!(error, Some(ConnectionError::BadRegion("EU/1".to_owned())));
    let broken = AuthorizerToken {
        token: "canary\r\n".into(),
        signature: None,
    };
    let authorizer = Authorizer::of_the_account().token("t", broken);
    let error = refused(
        Connection::websocket_custom_authorizer(HOST, authorizer),
        60,
    )
    .unwrap();
    assert!(
        matches!(&error, ConnectionError::Authorizer(text) if !text.contains("canary")),
        "{error}"
    );

    let group = fleet
        .group("g")
        .aws(Connection::mutual_tls(HOST))
        .build()
        .unwrap();
    let started = group.device("pump-1").unwrap().start();
    assert!(matches!(
        started,
        Err(StartError::Aws(ConnectionError::Certificate))
    ));
    let long = "x".repeat(129);
    let group = fleet
        .group("g")
        .aws(Connection::websocket(HOST, keys()))
        .build()
        .unwrap();
    for id in [long.as_str(), "$x"] {
        let started = group
            .device("pump-1")
            .unwrap()
            .client_id(id.to_owned())
            .start();
        assert!(matches!(started, Err(StartError::Dialect(_))), "{id}");
    }
    drain(&fleet).await;
}

#[test]
fn the_customs_of_the_platform_are_those_of_amazons_first_sdk() {
    let backoff = aws::backoff();
    assert_eq!(
        (
            backoff.base.as_secs(),
            backoff.max.as_secs(),
            backoff.stable_after.as_secs()
        ),
        (1, 32, 20)
    );
    assert_eq!(aws::OFFLINE, paquebot::OfflineLimit::DropNewest(20));
    assert!((aws::DRAIN_RATE - 2.0).abs() < f64::EPSILON);
}
