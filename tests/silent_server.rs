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
use paquebot::{Events, Fleet, GroupBuilder, Link, LinkEvent, Outcome, Publish, ShadowError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/support.rs"]
mod support;

use support::fleet::{disconnected, drain, event, fleet, online, quick, retrying, soon};

/// At which packet the server closes, by the high half of its first byte, and what it says to CONNECT.
#[derive(Debug, Clone, Copy)]
struct Manner {
    closes_at: u8,
    return_code: u8,
    /// At a PUBLISH to a topic with this in it alone.
    topic: &'static str,
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
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let is_apart = first >> 4 == PUBLISH && !topic_of(&body).contains(manner.topic);
        if first >> 4 == manner.closes_at && !is_apart {
            return;
        }
        let answer = match first >> 4 {
            CONNECT => vec![0x20, 2, 0, manner.return_code],
            SUBSCRIBE => suback(&body),
            PUBLISH if first & 0b110 != 0 => {
                let id = 2 + topic_of(&body).len();
                vec![0x40, 2, body[id], body[id + 1]]
            }
            _ => continue,
        };
        let _ = stream.write_all(&answer).await;
    }
}

fn topic_of(publish: &[u8]) -> &str {
    let length = usize::from(u16::from_be_bytes([publish[0], publish[1]]));
    std::str::from_utf8(&publish[2..2 + length]).unwrap()
}

/// Grants QoS 1 for each filter.
fn suback(subscribe: &[u8]) -> Vec<u8> {
    let mut answer = vec![0x90, 2, subscribe[0], subscribe[1]];
    let mut rest = &subscribe[2..];
    while let [high, low, ..] = rest {
        rest = &rest[usize::from(u16::from_be_bytes([*high, *low])) + 3..];
        answer.push(1);
        answer[1] += 1;
    }
    answer
}

fn things(fleet: &Fleet, port: u16) -> GroupBuilder {
    fleet
        .group("things")
        .aws(Connection::mutual_tls("localhost"))
        .endpoint(format!("mqtt://127.0.0.1:{port}"))
        .version(Version::V311)
        .backoff(quick())
}

fn start(fleet: &Fleet, port: u16) -> (Link, Events) {
    let group = things(fleet, port);
    let link = group.build().unwrap().device("pump-1").unwrap();
    link.start_with_events().unwrap()
}

async fn likely_cause(events: &mut Events) -> LikelyCause {
    event(events, "LikelyCause", |event| match event {
        LinkEvent::LikelyCause { cause, .. } => Some(*cause),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_client_that_is_not_let_in_is_told_so_and_backs_off_to_minutes() {
    let manner = Manner {
        closes_at: NEVER,
        return_code: 7,
        topic: "",
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
        topic: "",
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
        topic: "",
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
async fn a_message_at_which_the_server_closes_again_and_again_is_the_likely_cause_and_is_kept_if_so_set()
 {
    let manner = Manner {
        closes_at: PUBLISH,
        return_code: 0,
        topic: "",
    };
    let fleet = fleet();
    let group = things(&fleet, server(manner).await).sets_aside(false);
    let link = group.build().unwrap().device("pump-1").unwrap();
    let (link, mut events) = link.start_with_events().unwrap();
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
        LinkEvent::LikelyCause { cause, topic } => {
            let topic = topic.as_ref().unwrap();
            assert_eq!(topic.as_str(), "not/mine");
            Some(*cause)
        }
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

#[tokio::test]
async fn a_reading_of_a_document_at_which_the_server_closes_twice_is_told_and_not_made_any_more() {
    let manner = Manner {
        closes_at: PUBLISH,
        return_code: 0,
        topic: "",
    };
    let fleet = fleet();
    let (link, mut events) = start(&fleet, server(manner).await);
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    let deltas = shadow.deltas().await.unwrap();
    let mut ends = 0;
    let cause = event(&mut events, "LikelyCause", |event| match event {
        LinkEvent::Disconnected { .. } => {
            ends += 1;
            None
        }
        LinkEvent::LikelyCause { cause, topic } => Some((*cause, topic.clone())),
        _ => None,
    })
    .await;
    let (cause, topic) = cause;
    assert_eq!((cause, ends), (LikelyCause::PublishNotAllowed, 2));
    assert_eq!(topic.unwrap().as_str(), "$aws/things/pump-1/shadow/get");
    let document = event(&mut events, "ReadingGivenUp", |event| match event {
        LinkEvent::ReadingGivenUp { document } => Some(document.clone()),
        _ => None,
    })
    .await;
    assert_eq!(&document, shadow.document());
    let failures = fleet.metrics().failures().remove(0).1;
    let is_told = |class| failures.iter().any(|failure| failure.class == class);
    assert!(is_told("reading_given_up") && is_told("likely_publish_not_allowed"));
    // The next connection stays: what the link says on it is answered, and nothing was read meanwhile.
    online(&link).await;
    assert_eq!(deltas.ready().await, Ok(QoS::AtLeastOnce));
    let feed = link.subscribe("a/b", QoS::AtLeastOnce).await.unwrap();
    soon("it is granted", feed.ready()).await.unwrap();
    // Somebody who asks has it tried.
    let error = soon("it ends", shadow.get()).await.unwrap_err();
    assert_eq!(error, ShadowError::Disconnected { was_sent: true });
    disconnected(&mut events).await;
    online(&link).await;
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_message_that_may_not_be_published_is_set_aside_and_the_others_arrive() {
    let manner = Manner {
        closes_at: PUBLISH,
        return_code: 0,
        topic: "not/mine",
    };
    let fleet = fleet();
    let (link, _events) = start(&fleet, server(manner).await);
    online(&link).await;
    let mut receipts = Vec::new();
    for n in 0..20 {
        let topic = if n == 3 || n == 11 {
            "not/mine"
        } else {
            "mine"
        };
        let publish = Publish::new(topic, n.to_string()).unwrap();
        let publish = publish.with_qos(QoS::AtLeastOnce);
        receipts.push(link.publish(publish).await.unwrap());
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        let outcome = soon("it ends", receipt).await;
        if n == 3 || n == 11 {
            let Outcome::Rejected { reason, .. } = outcome else {
                panic!("{outcome:?}");
            };
            let reason = reason.unwrap();
            assert!(
                reason.contains("closed the connection at this message"),
                "{reason}"
            );
        } else {
            assert!(outcome.is_delivered(), "{n}: {outcome:?}");
        }
    }
    let totals = fleet.totals();
    assert_eq!(
        (totals.accepted, totals.delivered, totals.rejected),
        (20, 18, 2)
    );
    assert_eq!(totals.held, 0);
    soon("the link stops", link.stop()).await;
    drain(&fleet).await;
}
