//! QoS 2 over the end of its process: a session goes on from what the store has, and no byte leaves before that on
//! which it depends. A kill is a copy of the store's directory, taken while everything runs, on which another fleet goes
//! on.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use paquebot::mqtt::session::{CloseReason, SessionConfig};
use paquebot::mqtt::{
    Acknowledgement, ConnAck, Packet, Properties, Publish as Wire, QoS, ReasonCode, Topic,
    TopicFilter, Version, encode,
};
use paquebot::{Batch, Durability, Fleet, Link, Publish};
use paquebot_actors::store::{
    Completion, Entry, Key, LogStore, Operation, QueueId, Space, Store, StoreError, StoreOptions,
    StoreStatistics,
};
use paquebot_actors::{
    ConnectPacer, ConnectTimeouts, Credentials, DurableQueues, LinkEvent, LinkHandle, LinkProfile,
    LinkSpec, Metrics, OutboxConfig, Target as Place, Worker,
};
use paquebot_emulator::{Ack, Broker, Fault, Target, Watch};
use paquebot_protocols::dialect::{LinkIdentity, Rendered};
use paquebot_protocols::model::{DeviceId, Platform, Role};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, DuplexStream};

#[path = "support/peer.rs"]
mod peer;
#[path = "support/support.rs"]
mod support;

use peer::Peer;
use support::fleet::{BOTH, Gangway, broker, killed, online, quick, silent, soon, start, until};

const DURABLE: [Durability; 2] = [Durability::Process, Durability::Disk];

fn everything() -> TopicFilter {
    TopicFilter::new("#").unwrap()
}

/// A process with one link that the broker knows as `d1`.
struct Process {
    fleet: Fleet,
    link: Link,
    gangway: Gangway,
    store: TempDir,
    version: Version,
    durability: Durability,
}

impl Process {
    async fn start(
        broker: &Broker,
        store: TempDir,
        version: Version,
        durability: Durability,
    ) -> Self {
        let gangway = Gangway::new(broker);
        gangway.open();
        let fleet = Fleet::builder().workers(1).store(store.path()).start();
        let fleet = fleet.unwrap();
        let group = gangway
            .group(&fleet, version)
            .session_expiry(Some(Duration::from_secs(3600)))
            .durability(durability);
        let link = start(group, "d1");
        online(&link).await;
        Self {
            fleet,
            link,
            gangway,
            store,
            version,
            durability,
        }
    }

    /// Kills it at once and starts the next one, which finds the broker without its fault.
    async fn kill(self, broker: &Broker, fault: Fault) -> Self {
        let store = killed(self.store.path()).unwrap();
        self.gangway.shut();
        broker.faults().disconnect(&Target::client("d1"), None);
        fault.lift();
        let next = Self::start(broker, store, self.version, self.durability).await;
        soon("the other has stopped", self.fleet.drain(Duration::ZERO)).await;
        next
    }
}

async fn count(watch: &mut Watch, last: &str) -> BTreeMap<Bytes, usize> {
    let mut seen = BTreeMap::new();
    loop {
        let message = soon("the broker has it", watch.recv()).await.unwrap();
        *seen.entry(message.payload.clone()).or_default() += 1;
        if message.payload == last {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_message_that_was_under_way_when_the_process_was_killed_arrives_once() {
    for version in BOTH {
        for durability in DURABLE {
            for withheld in [Ack::PubRec, Ack::PubComp] {
                let broker = broker().await;
                let mut watch = broker.watch(everything());
                let fault = broker.faults().withhold(Target::client("d1"), &[withheld]);
                let store = tempfile::tempdir().unwrap();
                let process = Process::start(&broker, store, version, durability).await;
                let before = broker.stats().bytes_received;
                let message = |text| Publish::new("t", text).unwrap().with_qos(QoS::ExactlyOnce);
                for text in ["a", "b", "c"] {
                    let accepted = process.link.publish(message(text));
                    drop(soon("it is accepted", accepted).await.unwrap());
                }
                let seen = count(&mut watch, "c").await;
                assert!(seen.values().all(|count| *count == 1));
                if withheld == Ack::PubComp {
                    // Past PUBREL the broker has forgotten them.
                    let publish = if version == Version::V5 { 9 } else { 8 };
                    let expected = before + 3 * (publish + 4);
                    until("PUBREL has come", || {
                        broker.stats().bytes_received == expected
                    })
                    .await;
                }

                let process = process.kill(&broker, fault).await;
                let receipt = soon("it is accepted", process.link.publish(message("z")));
                let receipt = receipt.await.unwrap();
                assert!(soon("it ends", receipt).await.is_delivered());
                let seen = count(&mut watch, "z").await;
                assert_eq!(seen.len(), 1, "{version:?} {durability:?} {withheld:?}");
                let totals = soon("all ends", process.fleet.drain(Duration::from_secs(9))).await;
                assert_eq!((totals.recovered, totals.delivered, totals.held), (3, 4, 0));
            }
        }
    }
}

#[tokio::test]
async fn more_than_may_be_outstanding_passes_through_a_store_that_takes_its_time() {
    for durability in DURABLE {
        let broker = broker().await;
        let store = tempfile::tempdir().unwrap();
        let process = Process::start(&broker, store, Version::V5, durability).await;
        let payload = Bytes::from(vec![7; 4096]);
        let message = |_| {
            let publish = Publish::new("t", payload.clone()).unwrap();
            publish.with_qos(QoS::ExactlyOnce)
        };
        let batch = Batch::from_iter((0..1_000).map(message));
        let receipt = soon("it is accepted", process.link.publish_batch(batch)).await;
        let outcome = soon("it ends", receipt.unwrap()).await;
        assert_eq!(outcome.delivered, 1_000, "{durability:?} {outcome:?}");
        assert_eq!(broker.stats().received[2], 1_000);
        soon("all ends", process.fleet.drain(Duration::from_secs(9))).await;
    }
}

#[tokio::test]
async fn a_message_that_was_handed_over_before_the_process_was_killed_is_not_handed_over_again() {
    for version in BOTH {
        let broker = broker().await;
        let store = tempfile::tempdir().unwrap();
        let process = Process::start(&broker, store, version, Durability::Process).await;
        let subscribing = process.link.subscribe("in", QoS::ExactlyOnce);
        let mut inbox = soon("it subscribes", subscribing).await.unwrap();
        soon("it is subscribed", inbox.ready()).await.unwrap();
        let send = |text: &'static str| {
            let topic = Topic::new("in").unwrap();
            broker.publish(topic, text, QoS::ExactlyOnce, false)
        };
        // PUBREC leaves, and the broker never reads it.
        let fault = broker.faults().stall_reading(Target::client("d1"));
        send("a");
        drop(soon("it comes", inbox.next()).await.unwrap());
        until("PUBREC is recorded", || {
            inbound_of(process.store.path()) == 1
        })
        .await;

        let process = process.kill(&broker, fault).await;
        let subscribing = process.link.subscribe("in", QoS::ExactlyOnce);
        let mut inbox = soon("it subscribes", subscribing).await.unwrap();
        soon("it is subscribed", inbox.ready()).await.unwrap();
        send("b");
        let delivery = soon("it comes", inbox.next()).await.unwrap();
        assert_eq!(&delivery.payload()[..], b"b", "{version:?}");
        drop(delivery);
        until("both exchanges are over", || {
            inbound_of(process.store.path()) == 0 && broker.client("d1").unwrap().inflight == 0
        })
        .await;
        soon("all ends", process.fleet.drain(Duration::from_secs(9))).await;
    }
}

/// How many inbound exchanges the next process would find.
fn inbound_of(store: &Path) -> usize {
    let copy = killed(store).unwrap();
    let store = LogStore::open(copy.path(), StoreOptions::default()).unwrap();
    let (_, entries) = store.open_queue("test/d1").unwrap();
    let spaces = entries.iter().map(|entry| entry.key.space);
    spaces.filter(|space| *space == Space::Inbound).count()
}

/// A store in memory that does not record the state of sessions until it is told to.
#[derive(Debug, Default)]
struct Gated(Mutex<Gate>);

#[derive(Default)]
struct Gate {
    entries: BTreeMap<Key, Bytes>,
    waiting: Vec<(Vec<Operation>, Completion)>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    fn apply(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            match operation {
                Operation::Put { key, value, .. } => drop(self.entries.insert(key, value)),
                Operation::Remove { key, .. } => drop(self.entries.remove(&key)),
            }
        }
    }
}

impl Gated {
    /// The oldest commit that waits ends.
    fn end(&self, result: Result<(), StoreError>) {
        let mut gate = self.0.lock().unwrap();
        let (operations, done) = gate.waiting.remove(0);
        if result.is_ok() {
            gate.apply(operations);
        }
        drop(gate);
        done(result);
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().waiting.len()
    }

    fn outbound(&self) -> Vec<Bytes> {
        let gate = self.0.lock().unwrap();
        let outbound = gate.entries.iter();
        let outbound = outbound.filter(|(key, _)| key.space == Space::Outbound);
        outbound.map(|(_, value)| value.clone()).collect()
    }
}

impl Store for Gated {
    fn open_queue(&self, _: &str) -> Result<(QueueId, Vec<Entry>), StoreError> {
        Ok((QueueId::new(1), Vec::new()))
    }

    fn commit(&self, _: Durability, operations: Vec<Operation>, done: Completion) {
        let is_of_session = operations.iter().any(|operation| {
            matches!(operation, Operation::Put { key, .. } if key.space != Space::Message)
        });
        let mut gate = self.0.lock().unwrap();
        if is_of_session {
            gate.waiting.push((operations, done));
        } else {
            gate.apply(operations);
            drop(gate);
            done(Ok(()));
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    fn statistics(&self) -> StoreStatistics {
        StoreStatistics::default()
    }
}

impl Peer {
    async fn send(&mut self, packet: Packet) {
        let mut output = BytesMut::new();
        encode(&packet, Version::V311, &mut output).unwrap();
        self.write(&output).await;
    }

    async fn accept(&mut self, session_present: bool) {
        assert!(matches!(self.next().await, Packet::Connect(_)));
        self.send(Packet::ConnAck(ConnAck {
            session_present,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties::EMPTY,
        }))
        .await;
    }

    async fn publish_of(&mut self) -> Wire {
        match self.next().await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing has come. Whoever asks knows that the link has had its turn.
    fn assert_silent(&mut self) {
        let read = self.stream.read_buf(&mut self.input).now_or_never();
        assert!(read.is_none(), "{:?}", self.input);
    }
}

/// A link on a gated store, and the connections it makes.
struct Rig {
    store: Arc<Gated>,
    link: LinkHandle,
    events: async_channel::Receiver<LinkEvent>,
    peers: async_channel::Receiver<DuplexStream>,
    _worker: Worker,
}

impl Rig {
    fn start() -> Self {
        let store = Arc::new(Gated::default());
        let queues = Arc::new(DurableQueues::new(Arc::clone(&store) as Arc<dyn Store>));
        let metrics = Metrics::new().unwrap();
        let worker = Worker::start("worker".into(), metrics.worker_lag(0)).unwrap();
        let (connect, peers) = async_channel::unbounded();
        let profile = LinkProfile {
            dialect: Arc::new(silent()),
            session: Arc::new(SessionConfig {
                journal: true,
                ..SessionConfig::default()
            }),
            clean_start: false,
            keep_alive: Duration::ZERO,
            session_expiry: None,
            timeouts: ConnectTimeouts::default(),
            proxy: None,
            backoff: Arc::new(quick()),
            outbox: Arc::new(OutboxConfig::default()),
            inbox_max: 10,
            holds_qos0: false,
            command_timeout: Duration::from_secs(10),
            pacer: ConnectPacer::default(),
        };
        let spec = LinkSpec {
            identity: LinkIdentity {
                id: DeviceId::new("d1").unwrap(),
                role: Role::Device,
                version: Version::V311,
            },
            profile: Arc::new(profile),
            target: Arc::new(Place::Pipe(Arc::new(move || {
                let (near, far) = tokio::io::duplex(1 << 20);
                let sent = connect.try_send(far);
                sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok(near)
            }))),
            credentials: Credentials::default(),
            client_id: None,
            will: None,
            pacer: ConnectPacer::default(),
            metrics: metrics.group(Platform::Mqtt, "test"),
            durable: Some(Box::new(queues.open("d1", Durability::Process).unwrap())),
            fleet_room: None,
        };
        let (link, events) = worker.start_link_with_events(spec);
        Self {
            store,
            link,
            events,
            peers,
            _worker: worker,
        }
    }

    async fn peer(&self) -> Peer {
        Peer::new(soon("it connects", self.peers.recv()).await.unwrap())
    }

    async fn publish(&self, text: &'static str) {
        let message = Rendered {
            topic: Topic::new("t").unwrap(),
            payload: Bytes::from_static(text.as_bytes()),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: Properties::EMPTY,
            time_to_live: None,
            merges: false,
        };
        drop(
            soon("it is accepted", self.link.publish(message))
                .await
                .unwrap(),
        );
    }

    async fn commits_wait(&self, count: usize) {
        until("the session is being recorded", || {
            self.store.waiting() == count
        })
        .await;
    }

    async fn close_reason(&self) -> CloseReason {
        loop {
            let event = soon("the connection ends", self.events.recv()).await;
            if let LinkEvent::Disconnected { reason } = event.unwrap() {
                return reason;
            }
        }
    }
}

fn ack(publish: &Wire) -> Acknowledgement {
    Acknowledgement::success(publish.packet_id.unwrap())
}

#[tokio::test]
async fn publish_and_pubrel_leave_when_the_store_has_what_they_depend_on() {
    let rig = Rig::start();
    let mut peer = rig.peer().await;
    peer.accept(false).await;
    rig.publish("a").await;
    rig.commits_wait(1).await;
    // When the second commit begins, the connection has had what came before it.
    rig.publish("b").await;
    rig.commits_wait(2).await;
    peer.assert_silent();
    rig.store.end(Ok(()));
    let publish = peer.publish_of().await;
    assert_eq!(publish.payload, "a");
    assert_eq!(rig.store.outbound(), [&[0, 1, 0][..]]);
    peer.send(Packet::PubRec(ack(&publish))).await;
    rig.commits_wait(2).await;
    peer.assert_silent();
    rig.store.end(Ok(()));
    assert_eq!(peer.publish_of().await.payload, "b");
    peer.assert_silent();
    rig.store.end(Ok(()));
    assert!(matches!(peer.next().await, Packet::PubRel(_)));
    assert_eq!(rig.store.outbound(), [&[0, 1, 1][..], &[0, 2, 0]]);
    peer.send(Packet::PubComp(ack(&publish))).await;
    until("the message is forgotten", || {
        rig.store.outbound().len() == 1
    })
    .await;
}

#[tokio::test]
async fn what_the_store_failed_to_record_is_recorded_before_the_next_connect_leaves() {
    let rig = Rig::start();
    let mut peer = rig.peer().await;
    peer.accept(false).await;
    rig.publish("a").await;
    rig.commits_wait(1).await;
    rig.store.end(Err(StoreError::Closed));
    assert_eq!(rig.close_reason().await, CloseReason::Storage);
    // Nothing of it has left.
    let mut rest = Vec::new();
    soon("the stream ends", peer.stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, [0_u8; 0]);

    let mut peer = rig.peer().await;
    rig.commits_wait(1).await;
    peer.assert_silent();
    rig.store.end(Ok(()));
    peer.accept(true).await;
    let publish = peer.publish_of().await;
    assert_eq!((&publish.payload[..], publish.dup), (&b"a"[..], true));
    assert_eq!(rig.store.outbound(), [&[0, 1, 0][..]]);
}

#[tokio::test]
async fn output_that_was_held_goes_with_its_connection_and_comes_again_on_the_next() {
    let rig = Rig::start();
    let mut peer = rig.peer().await;
    peer.accept(false).await;
    rig.publish("a").await;
    rig.commits_wait(1).await;
    drop(peer);
    let mut peer = rig.peer().await;
    rig.store.end(Ok(()));
    peer.accept(true).await;
    assert_eq!(peer.publish_of().await.payload, "a");
}

#[tokio::test]
async fn a_link_that_is_stopped_leaves_behind_what_it_holds() {
    let rig = Rig::start();
    let mut peer = rig.peer().await;
    peer.accept(false).await;
    rig.publish("a").await;
    rig.commits_wait(1).await;
    rig.link.stop();
    // The order reaches the codec before this one does.
    soon("it is recorded", async { rig.store.end(Ok(())) }).await;
    assert_eq!(peer.publish_of().await.payload, "a");
    assert!(matches!(peer.next().await, Packet::Disconnect(_)));
    soon("it stops", rig.link.stopped()).await;
}

#[tokio::test]
async fn a_link_whose_store_never_answers_stops_all_the_same() {
    let rig = Rig::start();
    let mut peer = rig.peer().await;
    peer.accept(false).await;
    rig.publish("a").await;
    rig.commits_wait(1).await;
    rig.link.stop();
    soon("it stops", rig.link.stopped()).await;
    let mut rest = Vec::new();
    soon("the stream ends", peer.stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, [0_u8; 0]);
}
