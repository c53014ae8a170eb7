//! One link that is flooded, and the others of its thread: they get on.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use paquebot::mqtt::Version;
use paquebot::{LinkState, PipeConnector, Telemetry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    broker, drain, fleet, group, online, quick, silent, soon, start, start_in, until, url,
};

const QUIET_LINKS: usize = 10;
const ROUND_TRIPS: usize = 20;

/// What may be read of the flood while every quiet link makes a round trip. One takes a handful of turns of the event
/// loop, in each of which the flooded link reads 16 KiB; the rest is for a machine that is slow to wake the broker.
const FLOOD_BYTES_MAX: u64 = 64 * 16 * 1024;

/// The server's end of the next connection.
fn pipe() -> (PipeConnector, mpsc::Receiver<DuplexStream>) {
    let (sender, receiver) = mpsc::channel();
    let connector = Arc::new(move || {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        sender.send(theirs).unwrap();
        Ok(ours)
    });
    (connector, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quiet_links_get_on_beside_one_that_is_flooded() {
    let empty_publish: &[u8] = &[0x30, 3, 0, 1, b't'];
    for (what, unit) in [("PINGRESP", &[0xd0, 0][..]), ("PUBLISH", empty_publish)] {
        let broker = broker().await;
        let fleet = fleet();
        let quiet = group(&fleet, &url(&broker), Version::V5).dialect(silent());
        let quiet = quiet.build().unwrap();
        let quiet: Vec<_> = (0..QUIET_LINKS)
            .map(|number| start_in(&quiet, &format!("quiet{number}")))
            .collect();
        for link in &quiet {
            online(link).await;
        }

        let (connector, servers) = pipe();
        let flooded = fleet.group("flooded").pipe(connector);
        let flooded = start(flooded.backoff(quick()).dialect(silent()), "flooded");
        let mut server = tokio::task::spawn_blocking(move || servers.recv().unwrap());
        let mut server = soon("the link connects", &mut server).await.unwrap();
        let mut connect = [0; 256];
        assert_ne!(server.read(&mut connect).await.unwrap(), 0);
        server.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        online(&flooded).await;
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let flood = tokio::spawn(async move {
            let chunk = unit.repeat(4096);
            while server.write_all(&chunk).await.is_ok() {
                counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        });
        until("the flood is there", || {
            taken.load(Ordering::Relaxed) > 512 * 1024
        })
        .await;

        let before = taken.load(Ordering::Relaxed);
        let trips: Vec<_> = quiet
            .iter()
            .map(|link| {
                let device = link.device();
                tokio::spawn(async move {
                    for _ in 0..ROUND_TRIPS {
                        let receipt = device.send(&Telemetry::new("x")).await.unwrap();
                        assert!(receipt.await.is_delivered());
                    }
                })
            })
            .collect();
        for trip in trips {
            soon("a quiet link makes its round trips", trip)
                .await
                .unwrap();
        }
        let flood_bytes = taken.load(Ordering::Relaxed) - before;
        let bound = FLOOD_BYTES_MAX * ROUND_TRIPS as u64;
        assert!(
            flood_bytes < bound,
            "{what}: {flood_bytes} bytes were read meanwhile"
        );
        assert_ne!(flood_bytes, 0, "{what}: the flood had dried up");
        assert_eq!(flooded.state(), LinkState::Online, "{what}");
        soon("the link stops", flooded.stop()).await;
        soon("the flood ends", flood).await.unwrap();
        drain(&fleet).await;
    }
}
