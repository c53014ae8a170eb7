//! A server that answers what it does not allow by closing the connection, as AWS IoT does: the link says what is
//! likely behind it, and backs off as it should.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use futures_util::FutureExt as _;
use paquebot::aws::Connection;
use paquebot::dialect::LikelyCause;
use paquebot::mqtt::{QoS, Version};
use paquebot::{Events, Fleet, Link, LinkEvent, Publish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{drain, event, fleet, quick, retrying, soon};

/// At which packet the server closes, by the high half of its first byte, and what it says to CONNECT.
#[derive(Debug, Clone, Copy)]
struct Manner {
    closes_at: u8,
    return_code: u8,
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const NEVER: u8 = 0;

/// Serves every connection in the same way.
async fn server(manner: Manner) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, manner));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, manner: Manner) {
    while let Ok(first) = stream.read_u8().await {
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let Ok(byte) = stream.read_u8().await else {
                return;
            };
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() || first >> 4 == manner.closes_at {
            return;
        }
        let answer = match first >> 4 {
            CONNECT => vec![0x20, 2, 0, manner.return_code],
            SUBSCRIBE => vec![0x90, 3, body[0], body[1], 1],
            _ => continue,
        };
        let _ = stream.write_all(&answer).await;
    }
}

fn start(fleet: &Fleet, port: u16) -> (Link, Events) {
    let group = fleet
        .group("things")
        .aws(Connection::mutual_tls("localhost"))
        .endpoint(format!("mqtt://127.0.0.1:{port}"))
        .version(Version::V311)
        .backoff(quick());
    let link = group.build().unwrap().device("pump-1").unwrap();
    link.start_with_events().unwrap()
}

async fn likely_cause(events: &mut Events) -> LikelyCause {
    event(events, "LikelyCause", |event| match event {
        LinkEvent::LikelyCause { cause } => Some(*cause),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_client_that_is_not_let_in_is_told_so_and_backs_off_to_minutes() {
    let manner = Manner {
        closes_at: NEVER,
        return_code: 7,
    };
    let fleet = fleet();
    let (link, mut events) = start(&fleet, server(manner).await);
    assert_eq!(
        likely_cause(&mut events).await,
        LikelyCause::ConnectNotAllowed
    );
    assert!(retrying(&mut events).await >= Duration::from_secs(7));
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;

    let manner = Manner {
        closes_at: CONNECT,
        return_code: 0,
    };
    let other = support::fleet::fleet();
    let (link, mut events) = start(&other, server(manner).await);
    let cause = likely_cause(&mut events).await;
    assert_eq!(cause, LikelyCause::ConnectNotAllowed);
    assert!(
        cause
            .to_string()
            .contains("may connect with this client identifier"),
        "{cause}"
    );
    soon("the link stops", link.stop()).await;
    drain(&other).await;
}

#[tokio::test]
async fn a_subscription_at_which_the_server_closes_is_named_as_the_likely_cause() {
    let manner = Manner {
        closes_at: SUBSCRIBE,
        return_code: 0,
    };
    let fleet = fleet();
    let (link, mut events) = start(&fleet, server(manner).await);
    let _feed = soon("it is known", link.subscribe("a/b", QoS::AtLeastOnce))
        .await
        .unwrap();
    assert_eq!(
        likely_cause(&mut events).await,
        LikelyCause::SubscribeNotAllowed
    );
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_message_at_which_the_server_closes_again_and_again_is_the_likely_cause_and_is_kept() {
    let manner = Manner {
        closes_at: PUBLISH,
        return_code: 0,
    };
    let fleet = fleet();
    let (link, mut events) = start(&fleet, server(manner).await);
    let publish = Publish::new("not/mine", "x")
        .unwrap()
        .with_qos(QoS::AtLeastOnce);
    let mut receipt = link.publish(publish).await.unwrap();
    let mut ends = 0;
    let cause = event(&mut events, "LikelyCause", |event| match event {
        LinkEvent::Disconnected { .. } => {
            ends += 1;
            None
        }
        LinkEvent::LikelyCause { cause } => Some(*cause),
        _ => None,
    })
    .await;
    // Once may be an accident of the network.
    assert_eq!((cause, ends), (LikelyCause::PublishNotAllowed, 2));
    // Whoever reads a summary is told as well.
    let failures = fleet.metrics().failures().remove(0).1;
    let likely = failures
        .iter()
        .find(|failure| failure.class == "likely_publish_not_allowed")
        .unwrap();
    assert!(likely.count >= 1, "{likely:?}");
    assert!(
        likely.last.to_string().contains("may publish on its topic"),
        "{likely:?}"
    );
    assert!((&mut receipt).now_or_never().is_none());
    assert_eq!(fleet.totals().held, 1);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}
