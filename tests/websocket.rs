//! Links over WebSocket: servers that cut frames, refuse, answer nonsense or close, and requests that are made anew
//! for every attempt. What Mosquitto makes of such links is in `tests/mosquitto.rs`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use paquebot::mqtt::{QoS, Version};
use paquebot::{
    ConnectError, ConnectTimeouts, Jitter, Publish, Telemetry, Upgrade, UpgradeError,
    UpgradeRequest,
};
use paquebot_emulator::Broker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

#[path = "support/support.rs"]
mod support;
#[path = "support/websocket.rs"]
mod websocket;

use support::fleet::{
    BOTH, broker, connect_failed, drain, fleet, group, metric, online, retrying, silent, soon,
    start,
};
use websocket::{accept, carry, header, read_request};

/// A server that does as told with every connection.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A WebSocket server before an embedded broker that sends what it says in frames of `piece` bytes, four of them to a
/// message, with a ping between any two.
async fn cutting_server(broker: &Broker, piece: usize) -> (u16, Arc<AtomicUsize>) {
    let (broker, pongs) = (broker.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&pongs);
    let port = server(move |mut stream| {
        let (broker, seen) = (broker.clone(), Arc::clone(&seen));
        async move {
            let request = read_request(&mut stream).await.unwrap();
            let websocket = accept(stream, &request).await;
            let (mut out, mut incoming) = websocket.split();
            let (mut read, mut write) = tokio::io::split(broker.connect_pipe());
            let said = tokio::spawn(async move {
                let mut buffer = vec![0; piece];
                for n in 0_usize.. {
                    let count = read.read(&mut buffer).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    let opcode = if n.is_multiple_of(4) {
                        Data::Binary
                    } else {
                        Data::Continue
                    };
                    let frame =
                        Frame::message(buffer[..count].to_vec(), OpCode::Data(opcode), n % 4 == 3);
                    let _ = out.feed(Message::Frame(frame)).await;
                    if out
                        .send(Message::Ping(n.to_be_bytes().to_vec().into()))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            });
            while let Some(Ok(message)) = incoming.next().await {
                match message {
                    Message::Binary(bytes) => write.write_all(&bytes).await.unwrap(),
                    Message::Pong(_) => {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => break,
                }
            }
            said.abort();
        }
    })
    .await;
    (port, pongs)
}

#[tokio::test]
async fn messages_of_any_size_go_both_ways_however_the_server_cuts_its_frames() {
    for version in BOTH {
        for piece in [1, 100, 70_000] {
            let broker = broker().await;
            let (port, pongs) = cutting_server(&broker, piece).await;
            let fleet = fleet();
            let builder = group(&fleet, &format!("ws://127.0.0.1:{port}/mqtt"), version);
            let link = start(builder.dialect(silent()), "d1");
            let mut subscription = link.subscribe("big/+", QoS::AtLeastOnce).await.unwrap();
            soon("it is subscribed", subscription.ready())
                .await
                .unwrap();
            let sizes = match piece {
                1 => vec![0, 1, 2_000],
                _ => vec![0, 1, 125, 126, 65_535, 65_536, 300_000],
            };
            for size in sizes {
                let payload: Vec<u8> = (0..size).map(|at: usize| (at % 253) as u8).collect();
                let publish = Publish::new("big/one", payload.clone()).unwrap();
                let receipt = link
                    .publish(publish.with_qos(QoS::AtLeastOnce))
                    .await
                    .unwrap();
                let message = soon("it comes back", subscription.next()).await.unwrap();
                assert_eq!(
                    &**message.payload(),
                    payload.as_slice(),
                    "{version} {piece} {size}"
                );
                drop(message);
                assert!(soon("it is delivered", receipt).await.is_delivered());
            }
            let totals = drain(&fleet).await;
            assert_eq!(totals.disconnects, 0, "{totals:?}");
            assert!(pongs.load(Ordering::Relaxed) > 0);
        }
    }
}

#[tokio::test]
async fn refusals_say_the_status_and_the_servers_words_and_credentials_back_off_far() {
    for (answer, status, word, is_credentials) in [
        (
            "401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            401,
            "credentials",
            true,
        ),
        (
            "403 Forbidden\r\nContent-Length: 12\r\n\r\nno such key\n",
            403,
            "no such key",
            true,
        ),
        ("404 Not Found\r\n\r\n", 404, "check the path", false),
        (
            "503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
            503,
            "busy",
            false,
        ),
        (
            "301 Moved Permanently\r\nLocation: /\r\n\r\n",
            301,
            "instead",
            false,
        ),
        ("200 OK\r\n\r\n", 200, "HTTP 200", false),
    ] {
        let port = server(move |mut stream| async move {
            if read_request(&mut stream).await.is_some() {
                let text = format!("HTTP/1.1 {answer}");
                let _ = stream.write_all(text.as_bytes()).await;
            }
        })
        .await;
        let fleet = fleet();
        let backoff = paquebot::BackoffConfig {
            jitter: Jitter::None,
            ..paquebot::BackoffConfig::default()
        };
        let builder =
            group(&fleet, &format!("ws://127.0.0.1:{port}"), Version::V311).backoff(backoff);
        let (link, mut events) = start_with_events(builder);
        let error = connect_failed(&mut events).await;
        assert!(
            matches!(&*error, ConnectError::HttpRefused { status: told, .. } if *told == status),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
        let delay = retrying(&mut events).await;
        assert_eq!(
            delay >= Duration::from_secs(15),
            is_credentials,
            "{error}: {delay:?}"
        );
        let class = if is_credentials {
            "not_authorized"
        } else {
            "websocket"
        };
        assert!(metric(&fleet, "paquebot_connect_attempts_total", &[class]) >= 1.0);
        soon("the link stops", link.stop()).await;
        drain(&fleet).await;
    }
}

fn start_with_events(builder: paquebot::GroupBuilder) -> (paquebot::Link, paquebot::Events) {
    let group = builder.build().unwrap();
    group.device("d1").unwrap().start_with_events().unwrap()
}

#[tokio::test]
async fn servers_that_speak_something_else_are_named_for_what_they_do() {
    type Serve = fn(TcpStream) -> futures_util::future::BoxFuture<'static, ()>;
    let rows: [(&str, Serve); 7] = [
        ("does not speak HTTP", |mut stream| {
            Box::pin(async move {
                let _ = read_request(&mut stream).await;
                let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await;
            })
        }),
        ("closed the connection instead", |mut stream| {
            Box::pin(async move {
                let _ = read_request(&mut stream).await;
            })
        }),
        ("belongs to another request", |mut stream| {
            Box::pin(async move {
                let _ = read_request(&mut stream).await;
                accept(stream, "sec-websocket-key: other\r\n").await;
            })
        }),
        ("longer than 16 KiB", |mut stream| {
            Box::pin(async move {
                let _ = read_request(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 101 X\r\nA: ").await;
                while stream.write_all(&[b'a'; 1000]).await.is_ok() {}
            })
        }),
        (
            "closed the WebSocket with code 1008: who are you",
            |mut stream| {
                Box::pin(async move {
                    let Some(request) = read_request(&mut stream).await else {
                        return;
                    };
                    let mut websocket = accept(stream, &request).await;
                    let _ = websocket.next().await;
                    let frame = CloseFrame {
                        code: 1008.into(),
                        reason: "who are you".into(),
                    };
                    let _ = websocket.close(Some(frame)).await;
                    while let Some(Ok(_)) = websocket.next().await {}
                })
            },
        ),
        ("sent text", |mut stream| {
            Box::pin(async move {
                let Some(request) = read_request(&mut stream).await else {
                    return;
                };
                let mut websocket = accept(stream, &request).await;
                let _ = websocket.send(Message::text("hello")).await;
                while let Some(Ok(_)) = websocket.next().await {}
            })
        }),
        ("(stage websocket)", |mut stream| {
            Box::pin(async move {
                let _ = read_request(&mut stream).await;
                let _ = stream.read_u8().await;
            })
        }),
    ];
    for (words, serve) in rows {
        let port = server(serve).await;
        let fleet = fleet();
        let timeouts = ConnectTimeouts {
            websocket: Duration::from_secs(2),
            ..ConnectTimeouts::default()
        };
        let builder = group(&fleet, &format!("ws://127.0.0.1:{port}"), Version::V5);
        let (link, mut events) = start_with_events(builder.connect_timeouts(timeouts));
        let error = connect_failed(&mut events).await;
        assert!(error.to_string().contains(words), "{error}");
        soon("the link stops", link.stop()).await;
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn every_attempt_has_a_request_of_its_own_and_no_secret_is_told() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, broker) = (Arc::clone(&requests), broker().await);
    let behind = broker.clone();
    let port = server(move |mut stream| {
        let (seen, behind) = (Arc::clone(&seen), behind.clone());
        async move {
            let request = read_request(&mut stream).await.unwrap();
            let count = {
                let mut seen = seen.lock().unwrap();
                seen.push(request.clone());
                seen.len()
            };
            if count <= 2 {
                let _ = stream
                    .write_all(b"HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\n\r\n")
                    .await;
                return;
            }
            carry(accept(stream, &request).await, &behind).await;
        }
    })
    .await;
    let attempts = AtomicUsize::new(0);
    let provider = move || -> futures_util::future::BoxFuture<'static, _> {
        let n = attempts.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            UpgradeRequest::new(format!("/signed?n={n}&token=canary-query"))?
                .header("X-Token", "canary-header".to_owned())?
                .host("signed.example")
        })
    };
    let fleet = fleet();
    let builder = group(
        &fleet,
        &format!("ws://127.0.0.1:{port}/ignored"),
        Version::V5,
    )
    .upgrade(Upgrade::Provider(Arc::new(provider)));
    let mut printed = format!("{builder:?}");
    let (link, mut events) = start_with_events(builder);
    for _ in 0..2 {
        let error = connect_failed(&mut events).await;
        printed += &format!("{error} {error:?}");
    }
    online(&link).await;
    let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    printed += &format!("{link:?}");
    assert!(!printed.contains("canary"), "{printed}");
    let requests = requests.lock().unwrap().clone();
    for (n, request) in requests.iter().enumerate() {
        let line = format!("GET /signed?n={n}&token=canary-query HTTP/1.1\r\n");
        assert!(request.starts_with(&line), "{request}");
        assert_eq!(header(request, "x-token"), Some("canary-header"));
        assert_eq!(header(request, "host"), Some("signed.example"));
        assert_eq!(header(request, "sec-websocket-protocol"), Some("mqtt"));
    }
    assert_eq!(requests.len(), 3);
    drain(&fleet).await;
}

#[tokio::test]
async fn without_a_request_nobody_is_connected_to_and_the_link_backs_off_as_for_refused_credentials()
 {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let port = server(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    })
    .await;
    let provider = || -> futures_util::future::BoxFuture<'static, _> {
        let error = std::io::Error::other("no credentials in the drawer");
        Box::pin(std::future::ready(Err(UpgradeError::Unavailable(
            Arc::new(error),
        ))))
    };
    let fleet = fleet();
    let builder = group(&fleet, &format!("ws://127.0.0.1:{port}"), Version::V311)
        .upgrade(Upgrade::Provider(Arc::new(provider)));
    let (link, mut events) = start_with_events(builder);
    let error = connect_failed(&mut events).await;
    assert!(
        error.to_string().contains("no credentials in the drawer"),
        "{error}"
    );
    assert!(retrying(&mut events).await >= Duration::from_millis(7_500));
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}
