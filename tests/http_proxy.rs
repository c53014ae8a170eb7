//! Links through an HTTP proxy: the tunnel for every scheme, its refusals, its password.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use paquebot::mqtt::Version;
use paquebot::{ConnectError, ConnectTimeouts, HttpProxy, ProxyError, Telemetry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::client::off_the_runtime;
use support::fleet::{connect_failed, drain, fleet, group, online, retrying, soon};
use support::mosquitto::Mosquitto;

/// A proxy that gives `answer`, and with one of 200 connects to the port that was asked for. Says what it was asked.
async fn proxy(answer: &'static str) -> (HttpProxy, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    request.push(byte);
                }
                let request = String::from_utf8(request).unwrap();
                seen.lock().unwrap().push(request.clone());
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.contains(" 200 ") {
                    let line = request.lines().next().unwrap();
                    let port = line.split([':', ' ']).nth(2).unwrap().parse().unwrap();
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                } else if answer.is_empty() {
                    let _ = stream.read_u8().await;
                }
            });
        }
    });
    (HttpProxy::new(&format!("http://{address}")).unwrap(), asked)
}

#[tokio::test]
async fn every_scheme_goes_through_the_tunnel_and_the_proxy_looks_the_name_up() {
    let authority = Authority::new("paquebot test CA");
    let setup = Mosquitto::setup()
        .plain()
        .tls(&authority.server())
        .websocket()
        .websocket_tls(&authority.server());
    let Some(broker) = off_the_runtime(|| setup.start()).await else {
        return;
    };
    for (scheme, port) in [
        ("mqtt", broker.plain_port()),
        ("mqtts", broker.tls_port()),
        ("ws", broker.websocket_port()),
        ("wss", broker.websocket_tls_port()),
    ] {
        let (proxy, asked) = proxy("HTTP/1.1 200 Connection established\r\n\r\n").await;
        let fleet = fleet();
        // A name that only the proxy knows, where no certificate has to have it.
        let name = if scheme.ends_with('s') && scheme != "ws" {
            "localhost"
        } else {
            "far.invalid"
        };
        let mut builder = group(&fleet, &format!("{scheme}://{name}:{port}"), Version::V5);
        if name == "localhost" {
            builder = builder.ca_file(authority.certificate());
        }
        let proxy = proxy.login("crew", &"canary".into());
        let builder = builder.http_proxy(proxy);
        let printed = format!("{builder:?}");
        let link = support::fleet::start(builder, "d1");
        online(&link).await;
        let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(
            soon("it is delivered", receipt).await.is_delivered(),
            "{scheme}"
        );
        let asked = asked.lock().unwrap().join("");
        assert!(
            asked.starts_with(&format!("CONNECT {name}:{port} HTTP/1.1\r\n")),
            "{asked}"
        );
        assert!(
            asked.contains("\r\nProxy-Authorization: Basic Y3JldzpjYW5hcnk=\r\n"),
            "{asked}"
        );
        assert!(!printed.contains("canary"), "{printed}");
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_or_stalls_is_named_and_its_password_is_not() {
    for (answer, words, is_refusal) in [
        (
            "HTTP/1.1 407 Authentication Required\r\n\r\n",
            "HTTP 407",
            true,
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP 403", true),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP 502", false),
        ("220 smtp.example\r\n\r\n", "does not speak HTTP", false),
        ("", "(stage tcp)", false),
    ] {
        let (proxy, _) = proxy(answer).await;
        let fleet = fleet();
        let timeouts = ConnectTimeouts {
            tcp: Duration::from_secs(1),
            ..ConnectTimeouts::default()
        };
        let builder = group(&fleet, "mqtts://far.invalid:8883", Version::V311)
            .http_proxy(proxy.login("crew", &"canary".into()))
            .connect_timeouts(timeouts);
        let group = builder.build().unwrap();
        let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
        let error = connect_failed(&mut events).await;
        assert!(error.to_string().contains(words), "{error}");
        let refused = matches!(
            &*error,
            ConnectError::Proxy {
                source: ProxyError::Refused {
                    status: 403 | 407,
                    ..
                },
                ..
            }
        );
        assert_eq!(refused, is_refusal);
        assert_eq!(
            retrying(&mut events).await >= Duration::from_secs(7),
            is_refusal
        );
        assert!(
            !format!("{error} {error:?}").contains("canary"),
            "{error:?}"
        );
        soon("the link stops", link.stop()).await;
        drain(&fleet).await;
    }
}
