//! A link that connects anew because it was told to: one connection ends before the next begins.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::{Arc, mpsc};

use paquebot::PipeConnector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{drain, fleet, online, quick, silent, soon, start};

const PUBLISH: &[u8] = &[0x30, 3, 0, 1, b't'];

/// The server's end of the next connection, once CONNECT was answered.
async fn accept(pipes: &mpsc::Receiver<DuplexStream>) -> DuplexStream {
    let mut server = tokio::task::block_in_place(|| pipes.recv().unwrap());
    let mut connect = [0; 256];
    assert_ne!(server.read(&mut connect).await.unwrap(), 0);
    server.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_connection_begins_when_the_server_has_seen_the_end_of_the_last_one() {
    let (sender, pipes) = mpsc::channel();
    let connector: PipeConnector = Arc::new(move || {
        let (ours, theirs) = tokio::io::duplex(4096);
        sender.send(theirs).unwrap();
        Ok(ours)
    });
    let fleet = fleet();
    let builder = fleet.group("test").pipe(connector);
    let link = start(builder.backoff(quick()).dialect(silent()), "d1");
    let mut server = accept(&pipes).await;
    online(&link).await;

    link.reconnect();
    // The server sends on for a while: it has not seen the end yet.
    let mut rest = Vec::new();
    let all = server.read_to_end(&mut rest);
    soon("the link ends its half", all).await.unwrap();
    assert_eq!(rest, [0xe0, 0], "DISCONNECT comes last");
    for _ in 0..100 {
        server.write_all(PUBLISH).await.unwrap();
        assert!(pipes.try_recv().is_err(), "it has connected already");
    }
    drop(server);
    let server = accept(&pipes).await;
    online(&link).await;
    drop(server);
    drain(&fleet).await;
}
