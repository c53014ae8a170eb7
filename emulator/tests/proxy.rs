//! The proxy: carries what it is given, and spoils it just as it is told.

use std::io::ErrorKind;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, Instant};

use paquebot_emulator::{Admission, Conditions, Ending, Plan, Proxy, Toward};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

/// What is waited for to be sure that nothing comes.
const SILENCE: Duration = Duration::from_millis(60);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// A listener, and a proxy before it.
async fn stretch(seed: u64) -> (TcpListener, Proxy) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let proxy = Proxy::start(server, seed).await.unwrap();
    (listener, proxy)
}

/// Both ends of a connection through the proxy.
async fn ends(listener: &TcpListener, proxy: &Proxy) -> (TcpStream, TcpStream) {
    let client = soon(TcpStream::connect(proxy.address())).await.unwrap();
    let (server, _) = soon(listener.accept()).await.unwrap();
    (client, server)
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// All that comes until the end, and how it ended.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match soon(stream.read(&mut piece)).await {
            Ok(0) => return (bytes, None),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut piece = [0; 1];
    tokio::time::timeout(SILENCE, stream.read(&mut piece))
        .await
        .is_err()
}

fn letters(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn it_carries_both_ways_and_each_side_ends_when_the_other_does() {
    let (listener, proxy) = stretch(1).await;
    let (mut client, mut server) = ends(&listener, &proxy).await;
    let (up, down) = (letters(300_000), letters(200_000));
    let (sent, returned) = (up.clone(), down.clone());
    let client = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await
    });
    // The server still speaks after the client has said that it is done.
    assert_eq!(rest(&mut server).await, (up, None));
    server.write_all(&returned).await.unwrap();
    drop(server);
    assert_eq!(soon(client).await.unwrap(), (down, None));
    let counts = proxy.counts();
    assert_eq!(
        (counts.bytes_to_server, counts.bytes_to_client),
        (300_000, 200_000)
    );
    assert_eq!((counts.connections, counts.cuts, counts.flips), (1, 0, 0));
}

#[tokio::test]
async fn a_planned_cut_lets_exactly_so_many_bytes_through_either_way() {
    let (listener, proxy) = stretch(1).await;
    let sent = letters(64);
    for ending in [Ending::Fin, Ending::Rst] {
        for toward in [Toward::Server, Toward::Client] {
            for byte in [0, 1, 2, 31, 63, 64] {
                proxy.plan(Plan::new().cut_at(toward, byte as u64, ending));
                let (mut client, mut server) = ends(&listener, &proxy).await;
                let (from, to) = match toward {
                    Toward::Server => (&mut client, &mut server),
                    Toward::Client => (&mut server, &mut client),
                };
                // It may be over before all is written.
                let _ = from.write_all(&sent).await;
                let (received, end) = rest(to).await;
                assert_eq!(received, sent[..byte], "{toward:?} {ending:?}");
                let reset = (ending == Ending::Rst).then_some(ErrorKind::ConnectionReset);
                assert_eq!(end, reset, "{toward:?} at {byte}");
                assert_eq!(
                    rest(from).await,
                    (Vec::new(), reset),
                    "{toward:?} at {byte}"
                );
            }
        }
    }
    assert_eq!(proxy.counts().cuts, 24);
    assert_eq!(proxy.planned(), 0);
}

#[tokio::test]
async fn a_half_open_connection_says_nothing_to_the_client_and_is_gone_for_the_server() {
    let (listener, proxy) = stretch(1).await;
    let (mut client, mut server) = ends(&listener, &proxy).await;
    client.write_all(b"before").await.unwrap();
    assert_eq!(receive(&mut server, 6).await, b"before");
    assert_eq!(proxy.cut(Ending::HalfOpen), 1);
    assert_eq!(
        rest(&mut server).await,
        (Vec::new(), Some(ErrorKind::ConnectionReset))
    );
    client.write_all(b"to nobody").await.unwrap();
    assert!(is_silent(&mut client).await);
    proxy.cut(Ending::Rst);
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_cut_on_command_ends_all_connections_and_none_to_come() {
    for ending in [Ending::Fin, Ending::Rst] {
        let (listener, proxy) = stretch(1).await;
        let mut all = Vec::new();
        for _ in 0..3 {
            let (mut client, mut server) = ends(&listener, &proxy).await;
            client.write_all(b"x").await.unwrap();
            receive(&mut server, 1).await;
            all.extend([client, server]);
        }
        assert_eq!(proxy.cut(ending), 3);
        let reset = (ending == Ending::Rst).then_some(ErrorKind::ConnectionReset);
        for stream in &mut all {
            assert_eq!(rest(stream).await, (Vec::new(), reset));
        }
        let (mut client, mut server) = ends(&listener, &proxy).await;
        client.write_all(b"new").await.unwrap();
        assert_eq!(receive(&mut server, 3).await, b"new");
    }
}

#[tokio::test]
async fn stalled_bytes_wait_and_their_sender_feels_it() {
    let (listener, proxy) = stretch(1).await;
    let (mut client, mut server) = ends(&listener, &proxy).await;
    client.write_all(b"a").await.unwrap();
    receive(&mut server, 1).await;
    proxy.stall();
    client.write_all(b"b").await.unwrap();
    server.write_all(b"c").await.unwrap();
    assert!(is_silent(&mut server).await);
    assert!(is_silent(&mut client).await);
    // The other way alone goes on.
    proxy.set(Toward::Client, Conditions::default());
    assert_eq!(receive(&mut client, 1).await, b"c");
    assert!(is_silent(&mut server).await);
    let flood = letters(64 * 1024 * 1024);
    let (client, length) = (
        tokio::spawn(async move {
            client.write_all(&flood).await.unwrap();
            client
        }),
        64 * 1024 * 1024,
    );
    assert!(is_silent(&mut server).await);
    assert!(!client.is_finished(), "64 MiB were taken by nobody");
    proxy.heal();
    assert_eq!(receive(&mut server, 1).await, b"b");
    assert_eq!(receive(&mut server, length).await, letters(length));
    soon(client).await.unwrap();
}

#[tokio::test]
async fn latency_and_a_limited_rate_take_their_time_and_lose_nothing() {
    let (listener, proxy) = stretch(1).await;
    let latency = Duration::from_millis(80);
    proxy.set(
        Toward::Server,
        Conditions {
            latency,
            ..Conditions::default()
        },
    );
    let (mut client, mut server) = ends(&listener, &proxy).await;
    let since = Instant::now();
    client.write_all(b"late").await.unwrap();
    assert_eq!(receive(&mut server, 4).await, b"late");
    assert!(since.elapsed() >= latency, "{:?}", since.elapsed());

    proxy.set(
        Toward::Server,
        Conditions {
            bytes_per_second: NonZeroU64::new(100_000),
            ..Conditions::default()
        },
    );
    let sent = letters(20_000);
    let since = Instant::now();
    client.write_all(&sent).await.unwrap();
    assert_eq!(receive(&mut server, sent.len()).await, sent);
    // The first and the last piece may count for nothing.
    let least = Duration::from_millis(150);
    assert!(since.elapsed() >= least, "{:?}", since.elapsed());
}

#[tokio::test]
async fn slices_change_nothing_but_how_often_is_written() {
    for max in [1, 7] {
        let (listener, proxy) = stretch(3).await;
        for toward in [Toward::Server, Toward::Client] {
            proxy.set(
                toward,
                Conditions {
                    slice_bytes_max: NonZeroUsize::new(max),
                    ..Conditions::default()
                },
            );
        }
        let (mut client, mut server) = ends(&listener, &proxy).await;
        let sent = letters(3_000);
        client.write_all(&sent).await.unwrap();
        server.write_all(&sent).await.unwrap();
        assert_eq!(receive(&mut server, sent.len()).await, sent);
        assert_eq!(receive(&mut client, sent.len()).await, sent);
    }
}

#[tokio::test]
async fn a_planned_flip_changes_one_bit_of_that_byte_and_the_seed_says_which() {
    let sent = [0; 100];
    let mut seen = Vec::new();
    for seed in [5, 5, 6, 7, 8] {
        let (listener, proxy) = stretch(seed).await;
        for toward in [Toward::Server, Toward::Client] {
            proxy.plan(Plan::new().flip_at(toward, 41));
            let (mut client, mut server) = ends(&listener, &proxy).await;
            let (from, to) = match toward {
                Toward::Server => (&mut client, &mut server),
                Toward::Client => (&mut server, &mut client),
            };
            // In pieces, so that the byte is counted across reads.
            for piece in sent.chunks(30) {
                from.write_all(piece).await.unwrap();
            }
            let received = receive(to, sent.len()).await;
            let changed: Vec<_> = (0..sent.len()).filter(|&n| received[n] != 0).collect();
            assert_eq!(changed, [41]);
            assert_eq!(received[41].count_ones(), 1);
            seen.push(received[41]);
        }
        assert_eq!(proxy.counts().flips, 2);
    }
    assert_eq!(seen[..2], seen[2..4], "one seed, one course");
    assert!(seen.iter().any(|bit| *bit != seen[0]), "{seen:?}");
}

#[tokio::test]
async fn flips_by_chance_are_as_many_as_asked_for_and_counted() {
    let (listener, proxy) = stretch(11).await;
    let flips = |flips_per_byte| Conditions {
        flips_per_byte,
        ..Conditions::default()
    };
    proxy.set(Toward::Server, flips(1.0));
    let (mut client, mut server) = ends(&listener, &proxy).await;
    client.write_all(&[0; 500]).await.unwrap();
    let received = receive(&mut server, 500).await;
    assert!(received.iter().all(|byte| byte.count_ones() == 1));
    proxy.set(Toward::Server, flips(0.01));
    client.write_all(&[0; 50_000]).await.unwrap();
    let received = receive(&mut server, 50_000).await;
    let changed = received.iter().filter(|byte| **byte != 0).count();
    // 500 are expected, with a standard deviation of 22.
    assert!((300..700).contains(&changed), "{changed}");
    assert_eq!(proxy.counts().flips, 500 + changed as u64);
}

#[tokio::test]
async fn new_connections_are_refused_or_held_when_told_and_open_ones_go_on() {
    let (listener, proxy) = stretch(1).await;
    let (mut client, mut server) = ends(&listener, &proxy).await;
    proxy.admit(Admission::Refuse);
    // The reset may come before the connect is seen to have succeeded.
    match soon(TcpStream::connect(proxy.address())).await {
        Ok(mut refused) => {
            let (bytes, end) = rest(&mut refused).await;
            assert_eq!((bytes.len(), end), (0, Some(ErrorKind::ConnectionReset)));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    proxy.admit(Admission::Hold);
    let mut held = soon(TcpStream::connect(proxy.address())).await.unwrap();
    held.write_all(b"is anybody there?").await.unwrap();
    assert!(is_silent(&mut held).await);
    client.write_all(b"still").await.unwrap();
    assert_eq!(receive(&mut server, 5).await, b"still");
    proxy.heal();
    assert!(is_silent(&mut held).await);
    let counts = proxy.counts();
    assert_eq!((counts.refused, counts.held, counts.open), (1, 1, 1));
    proxy.cut(Ending::Fin);
    assert_eq!(rest(&mut held).await, (Vec::new(), None));
    assert_eq!(rest(&mut client).await, (Vec::new(), None));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset_for_the_client() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::start(nowhere, 1).await.unwrap();
    let end = match soon(TcpStream::connect(proxy.address())).await {
        Ok(mut client) => rest(&mut client).await.1,
        Err(error) => Some(error.kind()),
    };
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn what_it_carries_ends_with_it() {
    let (listener, proxy) = stretch(1).await;
    let (mut client, mut server) = ends(&listener, &proxy).await;
    client.write_all(b"x").await.unwrap();
    receive(&mut server, 1).await;
    let address = proxy.address();
    drop(proxy);
    let reset = (Vec::new(), Some(ErrorKind::ConnectionReset));
    assert_eq!(rest(&mut client).await, reset);
    assert_eq!(rest(&mut server).await, reset);
    let refused = async {
        // The listener goes when its task is next polled.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
}
