//! Batches of QoS 1 before a server that acknowledges, refuses and breaks off as it likes: each message ends once, and the
//! order is kept, whether messages go and wait together or one by one.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

#[path = "support/support.rs"]
mod support;

use std::ops::Range;

use paquebot::mqtt::{QoS, ReasonCode, Version};
use paquebot::{Batch, BatchReceipt, Fleet, Link, Outcome, PreparedTopic, Publish};
use support::fleet::{BOTH, drain, fleet, group, silent, soon, start, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const WINDOW: u16 = 100;
const TOPIC: &str = "t/x";

/// A PUBLISH as the server sees it; each payload is the number of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    id: [u8; 2],
    number: usize,
    dup: bool,
}

/// The server's end of a connection.
struct Server {
    stream: TcpStream,
    version: Version,
}

impl Server {
    async fn accept(listener: &TcpListener, version: Version, session_present: bool) -> Self {
        let (stream, _) = soon("it connects", listener.accept()).await.unwrap();
        let mut server = Self { stream, version };
        let (first, _) = server.packet().await;
        assert_eq!(first, 0x10);
        let present = u8::from(session_present);
        let connack = match version {
            Version::V311 => vec![0x20, 2, present, 0],
            Version::V5 => vec![0x20, 3, present, 0, 0],
        };
        server.stream.write_all(&connack).await.unwrap();
        server
    }

    async fn packet(&mut self) -> (u8, Vec<u8>) {
        let first = self.stream.read_u8().await.unwrap();
        let length = self.stream.read_u8().await.unwrap();
        assert!(length < 0x80, "longer than anything sent here");
        let mut body = vec![0; length.into()];
        self.stream.read_exact(&mut body).await.unwrap();
        (first, body)
    }

    async fn publish(&mut self) -> Seen {
        let (first, body) = soon("a message comes", self.packet()).await;
        assert_eq!(first & !0b1000, 0x32, "not a PUBLISH of QoS 1");
        let (id, mut payload) = body[2 + TOPIC.len()..].split_first_chunk::<2>().unwrap();
        if self.version == Version::V5 {
            payload = payload.strip_prefix(&[0]).unwrap();
        }
        Seen {
            id: *id,
            number: std::str::from_utf8(payload).unwrap().parse().unwrap(),
            dup: first & 0b1000 != 0,
        }
    }

    async fn publishes(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(self.publish().await);
        }
        seen
    }

    async fn acknowledge(&mut self, seen: impl IntoIterator<Item = &Seen>) {
        let packets = seen.into_iter().flat_map(|s| [0x40, 2, s.id[0], s.id[1]]);
        let bytes: Vec<u8> = packets.collect();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn refuse(&mut self, seen: Seen, code: ReasonCode) {
        let packet = [0x40, 3, seen.id[0], seen.id[1], code.0];
        self.stream.write_all(&packet).await.unwrap();
    }
}

struct Scene {
    listener: TcpListener,
    version: Version,
    fleet: Fleet,
    link: Link,
}

impl Scene {
    async fn new(version: Version) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let fleet = fleet();
        let builder = group(&fleet, &url, version).dialect(silent());
        let link = start(builder.inflight_max(WINDOW).clean_start(false), "d1");
        Self {
            listener,
            version,
            fleet,
            link,
        }
    }

    async fn accept(&self, session_present: bool) -> Server {
        Server::accept(&self.listener, self.version, session_present).await
    }

    async fn publish(&self, numbers: Range<usize>) -> BatchReceipt {
        let topic = PreparedTopic::new(TOPIC, QoS::AtLeastOnce).unwrap();
        let batch: Batch = numbers.map(|n| topic.message(n.to_string())).collect();
        self.link.publish_batch(batch).await.unwrap()
    }
}

fn numbers(seen: &[Seen]) -> Vec<usize> {
    seen.iter().map(|seen| seen.number).collect()
}

fn all(numbers: Range<usize>) -> Vec<usize> {
    numbers.collect()
}

/// The same in another order, each by itself far from its neighbours.
fn scattered(seen: &[Seen]) -> Vec<Seen> {
    let places = (0..seen.len()).map(|place| place * 37 % seen.len());
    places.map(|place| seen[place]).collect()
}

#[tokio::test]
async fn acknowledgements_in_any_order_end_each_message_once() {
    for version in BOTH {
        let scene = Scene::new(version).await;
        let mut server = scene.accept(false).await;
        let receipts = [
            scene.publish(0..150).await,
            scene.publish(150..153).await,
            scene.publish(153..300).await,
        ];
        let mut arrived = Vec::new();
        for round in 0..3 {
            let mut seen = server.publishes(WINDOW.into()).await;
            arrived.extend(numbers(&seen));
            match round {
                0 => seen = scattered(&seen),
                1 => seen.reverse(),
                _ => {}
            }
            server.acknowledge(&seen).await;
        }
        assert_eq!(arrived, all(0..300));
        for receipt in receipts {
            assert!(soon("the batch ends", receipt).await.is_delivered());
        }
        let totals = drain(&scene.fleet).await;
        assert_eq!((totals.accepted, totals.delivered), (300, 300));
    }
}

#[tokio::test]
async fn a_message_that_is_never_acknowledged_holds_up_none_of_the_others() {
    let scene = Scene::new(Version::V311).await;
    let mut server = scene.accept(false).await;
    let first = scene.publish(0..50).await;
    let stuck = server.publish().await;
    let rest = server.publishes(49).await;
    server.acknowledge(&rest).await;
    for round in 1..60 {
        let receipt = scene.publish(round * 50..(round + 1) * 50).await;
        let seen = server.publishes(50).await;
        assert_eq!(numbers(&seen), all(round * 50..(round + 1) * 50));
        server.acknowledge(&seen).await;
        assert!(soon("the batch ends", receipt).await.is_delivered());
    }
    assert_eq!(scene.fleet.totals().held, 1);
    server.acknowledge([&stuck]).await;
    assert!(soon("the first batch ends", first).await.is_delivered());
    let totals = drain(&scene.fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (3_000, 3_000));
}

#[tokio::test]
async fn a_message_refused_amid_a_batch_is_named_and_the_others_are_delivered() {
    let scene = Scene::new(Version::V5).await;
    let mut server = scene.accept(false).await;
    let receipt = scene.publish(0..80).await;
    let seen = server.publishes(80).await;
    server.acknowledge(&seen[..30]).await;
    server.refuse(seen[57], ReasonCode::NOT_AUTHORIZED).await;
    server.acknowledge(&seen[30..57]).await;
    server.acknowledge(&seen[58..]).await;
    let outcome = soon("the batch ends", receipt).await;
    assert_eq!(outcome.delivered, 79);
    let [(57, Outcome::Rejected { code, .. })] = outcome.undelivered.as_slice() else {
        panic!("{outcome:?}");
    };
    assert_eq!(*code, ReasonCode::NOT_AUTHORIZED);
    let totals = drain(&scene.fleet).await;
    assert_eq!((totals.delivered, totals.rejected), (79, 1));
}

#[tokio::test]
async fn after_a_break_what_was_not_acknowledged_goes_again_first_and_in_order() {
    for version in BOTH {
        let scene = Scene::new(version).await;
        let mut server = scene.accept(false).await;
        let receipt = scene.publish(0..250).await;
        let seen = server.publishes(WINDOW.into()).await;
        server.acknowledge(&seen[..10]).await;
        server.acknowledge(&seen[20..30]).await;
        until("they are counted", || scene.fleet.totals().delivered == 20).await;
        drop(server);
        let mut server = scene.accept(true).await;
        let again = server.publishes(80).await;
        let unacknowledged: Vec<_> = (10..20).chain(30..100).collect();
        // What followed the first acknowledgements may have gone before the break or not.
        assert_eq!(numbers(&again), unacknowledged);
        assert!(again.iter().all(|seen| seen.dup));
        for seen in &again {
            server.acknowledge([seen]).await;
        }
        let mut expected = 100;
        while expected < 250 {
            let seen = server.publish().await;
            assert_eq!(seen.number, expected);
            server.acknowledge([&seen]).await;
            expected += 1;
        }
        assert!(soon("the batch ends", receipt).await.is_delivered());
        let totals = drain(&scene.fleet).await;
        assert_eq!((totals.accepted, totals.delivered), (250, 250));
    }
}

#[tokio::test]
async fn a_server_that_lost_the_session_gets_what_it_did_not_acknowledge_as_new() {
    for version in BOTH {
        let scene = Scene::new(version).await;
        let mut server = scene.accept(false).await;
        let receipt = scene.publish(0..60).await;
        let seen = server.publishes(60).await;
        server.acknowledge(scattered(&seen[..40]).iter()).await;
        until("they are counted", || scene.fleet.totals().delivered == 40).await;
        drop(server);
        let mut server = scene.accept(false).await;
        let again = server.publishes(20).await;
        assert_eq!(numbers(&again), all(40..60));
        assert!(!again.iter().any(|seen| seen.dup));
        server.acknowledge(scattered(&again).iter()).await;
        let outcome = soon("the batch ends", receipt).await;
        assert_eq!(outcome.delivered, 60);
        drain(&scene.fleet).await;
    }
}

#[tokio::test]
async fn what_comes_one_by_one_behind_a_batch_that_waits_goes_behind_it() {
    let scene = Scene::new(Version::V5).await;
    let mut server = scene.accept(false).await;
    let batches = [scene.publish(0..120).await, scene.publish(120..200).await];
    let first = server.publishes(WINDOW.into()).await;
    let single = Publish::new(TOPIC, "200").unwrap();
    let single = scene.link.publish(single.with_qos(QoS::AtLeastOnce)).await;
    let last = scene.publish(201..240).await;
    let mut seen = first;
    let mut arrived = Vec::new();
    loop {
        arrived.extend(numbers(&seen));
        server.acknowledge(&seen).await;
        let left = 240 - arrived.len();
        if left == 0 {
            break;
        }
        seen = server.publishes(left.min(WINDOW.into())).await;
    }
    assert_eq!(arrived, all(0..240));
    for receipt in batches.into_iter().chain([last]) {
        assert!(soon("the batch ends", receipt).await.is_delivered());
    }
    assert!(
        soon("the single one ends", single.unwrap())
            .await
            .is_delivered()
    );
    let totals = drain(&scene.fleet).await;
    assert_eq!((totals.accepted, totals.delivered), (240, 240));
}

#[tokio::test]
async fn a_stop_ends_what_is_in_flight_and_what_waits_of_a_batch() {
    let scene = Scene::new(Version::V311).await;
    let mut server = scene.accept(false).await;
    let receipt = scene.publish(0..250).await;
    let seen = server.publishes(WINDOW.into()).await;
    server.acknowledge(&seen[5..15]).await;
    until("they are counted", || scene.fleet.totals().delivered == 10).await;
    assert_eq!(scene.fleet.totals().held, 240);
    scene.link.stop().await;
    let outcome = soon("the batch ends", receipt).await;
    assert_eq!((outcome.delivered, outcome.undelivered.len()), (10, 240));
    let places: Vec<_> = outcome
        .undelivered
        .iter()
        .map(|(place, _)| *place)
        .collect();
    let mut sorted = places;
    sorted.sort_unstable();
    let left: Vec<_> = (0..5).chain(15..250).collect();
    assert_eq!(sorted, left);
    let totals = drain(&scene.fleet).await;
    assert_eq!((totals.accepted, totals.dropped), (250, 240));
}
